package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// noteScrub keeps how far a scrub is, and what the last one found (opaque here, node-scope, of this store alone).
const noteScrub = "scrub"

// ScrubPlace is how far a scrub is: first the records, then the log.
type ScrubPlace struct {
	Keyspace storage.KeyspaceID `json:"keyspace"`
	Low      []byte             `json:"low,omitempty"`
	Log      bool               `json:"log,omitempty"`
	Index    uint64             `json:"index,omitempty"` // of the log: the next to read
}

// ScrubDamage is one place that does not read back as it was written.
type ScrubDamage struct {
	File      string
	Keyspace  storage.KeyspaceID
	Low, High []byte // of records: the range that it is in; an empty High: to the end
	Index     uint64 // of the log
	Log       bool
	What      string
	Entries   []SuspectEntry
}

// ScrubStep is what one step of a scrub read and found.
type ScrubStep struct {
	Next    ScrubPlace
	Done    bool
	Records uint64
	Entries uint64
	Bytes   int64
	Skipped string // why nothing was read: wait, and try again
	Damage  []ScrubDamage
}

// logStep is how many entries of the log a step begins with.
const logStep = 64

// Scrub reads about so many bytes of state file and log again, from a place on, and compares them with their digests and checksums. What it finds
// goes to Damaged as well: a secondary repairs it. During a sync and a rebuild of the index it skips.
func (e *Engine) Scrub(ctx context.Context, from ScrubPlace, size int64) (ScrubStep, error) {
	if from.Log {
		return e.scrubLog(ctx, from, size)
	}
	mark := e.state.Mark()
	if mark.Reindexing || mark.ReindexNeeded || e.sync.get() != nil {
		return ScrubStep{Next: from, Skipped: "the range index is not complete"}, nil
	}
	got, err := e.state.Scrub(storage.ScrubCursor{Keyspace: from.Keyspace, Low: from.Low}, size)
	if err != nil {
		return ScrubStep{Next: from}, fmt.Errorf("scrubbing records: %w", err)
	}
	out := ScrubStep{Next: ScrubPlace{Keyspace: got.Next.Keyspace, Low: got.Next.Low}, Records: got.Records, Bytes: got.Bytes}
	if got.Done {
		out.Next = ScrubPlace{Log: true, Index: e.wal.First()}
	}
	if e.sync.get() != nil { // it began meanwhile, and what looked wrong may be what it is changing
		return ScrubStep{Next: from, Skipped: "a sync has begun"}, nil
	}
	for _, d := range got.Damage {
		e.damaged.found(d.Damage)
		out.Damage = append(out.Damage, ScrubDamage{File: d.File, Keyspace: d.Keyspace, Low: d.Low, High: d.High, What: d.What})
	}
	return out, nil
}

func (e *Engine) scrubLog(ctx context.Context, from ScrubPlace, size int64) (ScrubStep, error) {
	end, _ := e.wal.End()
	out := ScrubStep{Next: ScrubPlace{Log: true, Index: max(from.Index, e.wal.First())}}
	for out.Bytes < size {
		first := max(out.Next.Index, e.wal.First())
		if first > end.Index {
			out.Done = true
			return out, nil
		}
		last := min(first+logStep-1, end.Index)
		if err := e.scrubEntries(ctx, first, last, &out); err != nil {
			return out, err
		}
		out.Bytes += max(e.wal.Bytes(first)-e.wal.Bytes(last+1), 1)
		out.Entries += last + 1 - first
		out.Next.Index = last + 1
	}
	return out, nil
}

// scrubEntries reads the frames of some entries, and the one before them, whose chain hash the first must follow.
func (e *Engine) scrubEntries(ctx context.Context, first, last uint64, out *ScrubStep) error {
	err := e.wal.Verify(ctx, max(first-1, e.wal.First()), last, func(d wal.Damage) error {
		if d.Frame != nil && d.Frame.First == d.Index && d.Frame.Count > 0 && d.Frame.Last() < first {
			return nil // told by the step before
		}
		named := suspects(d, e.state, e.keys)
		if n := len(out.Damage); n > 0 && out.Damage[n-1].File == d.File && out.Damage[n-1].Index == d.Index || n >= maxLogDamage {
			return nil // a frame that reaches into this step
		}
		e.damaged.found(storage.Damage{File: named.File, What: fmt.Sprintf("log, index %d: %s", named.Index, named.What)})
		e.badLog.Store(e.Repairable())
		out.Damage = append(out.Damage, ScrubDamage{File: named.File, Index: named.Index, Log: true, What: named.What, Entries: named.Entries})
		return nil
	})
	if errors.Is(err, wal.ErrGone) {
		return nil // retention overtook it
	}
	if err != nil {
		return fmt.Errorf("scrubbing the log: %w", err)
	}
	return nil
}

// Checkpointing reports whether a checkpoint is being written: who only reads in the background waits.
func (e *Engine) Checkpointing() bool {
	_, running := e.state.TableBytes()
	return running
}

// ScrubNote returns what SetScrubNote kept; nil at first.
func (e *Engine) ScrubNote() []byte { return e.wal.Note(noteScrub) }

// SetScrubNote keeps, durably, how far a scrub is.
func (e *Engine) SetScrubNote(b []byte) error { return e.setNotes(map[string][]byte{noteScrub: b}) }
