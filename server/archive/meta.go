package archive

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// MetaFormat is the newest version of an archive's note: that of one with a sparse span. Any other has version 1.
const MetaFormat = 2

// Limits of an archive's note. Beyond them its last span becomes sparse, and what took rights away is counted.
const (
	maxSpans       = 4096
	maxTightenings = 1000
)

// Sources of archives.
const (
	FromRewind = "rewind" // a log's tail
	FromRepair = "repair" // records that a sync overwrote or deleted
)

// Meta says what an archive is.
type Meta struct {
	ID      string      `json:"id"`
	Source  string      `json:"source"`
	Kind    string      `json:"kind"` // of the set: "dr" or "performance"
	Set     string      `json:"set"`  // its id
	Lineage wal.Lineage `json:"lineage"`
	// Common is the last place that this cluster and its feeder share; End is where this cluster was.
	Common      wal.Position `json:"common"`
	End         wal.Position `json:"end"`
	When        time.Time    `json:"when"`
	Reason      string       `json:"reason"`
	Feeder      string       `json:"feeder"` // cluster id
	FeederAddr  string       `json:"feeder_addr"`
	Forks       []Fork       `json:"forks,omitempty"`       // the reigns that were taken back
	Tightenings []string     `json:"tightenings,omitempty"` // revocations and redemptions that were taken back, in words
	Repeat      []string     `json:"repeat,omitempty"`      // the calls that do the same on another primary
	Unnamed     uint64       `json:"unnamed,omitempty"`     // more of the two than are listed
	Spans       []Span       `json:"spans,omitempty"`       // where its entries stood
	Rest        []Span       `json:"rest,omitempty"`        // where those stood whose shared part another archive held already
	Counts      Counts       `json:"counts"`
	Complete    bool         `json:"complete"` // false: what it was written for has not ended, or was interrupted

	Problem string `json:"-"` // why it cannot be read; then little else is known
}

// Fork is a reign of the own log that was taken back.
type Fork struct {
	Ordinal uint64   `json:"ordinal"`
	Fork    wal.Fork `json:"fork"`
	Start   uint64   `json:"start"`
	Parent  wal.Fork `json:"parent"`
	Who     string   `json:"who"`
	When    int64    `json:"when"`
}

// Span is entries that follow each other under one fork. A sparse one, the last of many, has gaps and goes over several forks: Fork is that of its first.
type Span struct {
	Fork     wal.Fork `json:"fork"`
	From, To uint64
	Sparse   bool `json:"sparse,omitempty"`
}

func (s *Span) holds(p wal.Position) bool {
	return s.Fork == p.Fork && s.From <= p.Index && p.Index <= s.To
}

// Counts says how much an archive holds.
type Counts struct {
	Entries uint64 `json:"entries"`
	Writes  uint64 `json:"writes"` // puts, deletes and drops of its entries
	Records uint64 `json:"records"`
	Keys    uint64 `json:"keys"` // different ones; at most keysCounted are told apart
	Bytes   uint64 `json:"bytes"`
	Lost    uint64 `json:"lost"`    // entries that no other cluster is known to have
	Dropped uint64 `json:"dropped"` // entries that came from a place which the set still has
}

// parts says what of an entry an archive may hold: the performance rewind keeps what is shared, that of DR keeps all, or what is not kept already.
type parts byte

const (
	sharedPart parts = 1 << iota
	otherPart
)

// partsOf are the parts that an entry has. One without a block counts as shared: it must be held somewhere, too.
func partsOf(e *storage.Entry) (p parts) {
	for i := range e.Blocks {
		if e.Blocks[i].Scope == storage.Replicated {
			p |= sharedPart
		} else {
			p |= otherPart
		}
	}
	if p == 0 {
		p = sharedPart
	}
	return p
}

// has says which parts of the entry at a position the archive holds; unsure: its items may tell of more.
func (m *Meta) has(p wal.Position) (held parts, unsure bool) {
	whole := sharedPart | otherPart
	if m.Kind == "performance" {
		whole = sharedPart
	}
	for _, of := range []struct {
		spans []Span
		parts parts
	}{{m.Spans, whole}, {m.Rest, otherPart}} {
		for i := range of.spans {
			switch s := &of.spans[i]; {
			case s.Sparse:
				unsure = unsure || s.From <= p.Index && p.Index <= s.To
			case s.holds(p):
				held |= of.parts
			}
		}
	}
	return held, unsure
}

func (m *Meta) sparse() bool {
	isSparse := func(s Span) bool { return s.Sparse }
	return slices.ContainsFunc(m.Spans, isSparse) || slices.ContainsFunc(m.Rest, isSparse)
}

type storedMeta struct {
	Format int `json:"format"`
	Meta
}

func encodeMeta(m *Meta) []byte {
	format := 1
	if m.sparse() {
		format = MetaFormat
	}
	b, err := json.Marshal(storedMeta{format, *m})
	if err != nil {
		panic("internal error: " + err.Error()) // our own type always encodes
	}
	return b
}

// decodeMeta reads an archive's note.
func decodeMeta(b []byte) (Meta, error) {
	var s storedMeta
	if err := json.Unmarshal(b, &s); err != nil {
		return Meta{}, fmt.Errorf("the archive's note: %w", err)
	}
	if s.Format < 1 || s.Format > MetaFormat {
		return Meta{}, &wal.VersionError{What: "archive", Got: uint16(min(max(s.Format, 0), 1<<16-1)), Have: MetaFormat}
	}
	return s.Meta, nil
}
