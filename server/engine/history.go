package engine

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/wal"
)

// Reign is one fork in a log's history: a path in the tree of forks.
type Reign struct {
	Ordinal   uint64      `json:"ordinal"`
	Lineage   wal.Lineage `json:"lineage"`
	Fork      wal.Fork    `json:"fork"`
	Start     uint64      `json:"start"` // index of its first entry
	Parent    wal.Fork    `json:"parent"`
	ParentEnd uint64      `json:"parent_end,omitempty"` // in a set's history, when the parent is of another log: the last index there that counts
	Who       string      `json:"who"`                  // cluster id
	When      int64       `json:"when"`
	Overrides []wal.Fork  `json:"overrides,omitempty"`
}

// history is the reigns of the own log.
type history struct {
	mu     sync.Mutex // guards reigns; the slice is replaced, never changed
	reigns []Reign
}

// History returns the reigns of the own log, oldest first, kept for ever. A writer's new fork is in it with its first frame.
func (e *Engine) History() []Reign {
	e.hist.mu.Lock()
	defer e.hist.mu.Unlock()
	return slices.Clone(e.hist.reigns)
}

// AdoptHistory replaces the history of a Verbatim log by its feeder's (durable before it returns).
func (e *Engine) AdoptHistory(h []Reign) error {
	if e.Role() != Verbatim {
		return ErrNotWritable
	}
	e.hist.mu.Lock()
	defer e.hist.mu.Unlock()
	if slices.EqualFunc(e.hist.reigns, h, sameReign) {
		return nil
	}
	if err := e.hist.replaceLocked(e.wal, slices.Clone(h)); err != nil {
		return e.abandonCommit(fmt.Errorf("adopting the feeder's history: %w", err))
	}
	return nil
}

func sameReign(a, b Reign) bool {
	return a.Ordinal == b.Ordinal && a.Lineage == b.Lineage && a.Fork == b.Fork && a.Start == b.Start &&
		a.Parent == b.Parent && a.ParentEnd == b.ParentEnd && a.Who == b.Who && a.When == b.When && slices.Equal(a.Overrides, b.Overrides)
}

// next returns the reign that begins with a new fork: another opening of the log under the ordinal it has.
func (h *history) next(fork wal.Fork, start uint64, id Identity, now time.Time) Reign {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := Reign{Ordinal: 1, Lineage: id.Lineage, Fork: fork, Start: start, Who: id.ClusterID, When: now.UnixNano()}
	if n := len(h.reigns); n > 0 {
		r.Ordinal, r.Parent = h.reigns[n-1].Ordinal, h.reigns[n-1].Fork
	}
	return r
}

// ordinal is that of the newest reign; 1 before there is one.
func (h *history) ordinal() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.reigns); n > 0 {
		return h.reigns[n-1].Ordinal
	}
	return 1
}

// add appends a reign, durably.
func (h *history) add(log *wal.Log, r Reign) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.replaceLocked(log, append(slices.Clone(h.reigns), r))
}

func (h *history) replaceLocked(log *wal.Log, reigns []Reign) error {
	if err := log.SetNotes(map[string][]byte{noteHistory: mustJSON(reigns)}); err != nil {
		return err
	}
	h.reigns = reigns
	return nil
}

// load reads the history and makes it fit the log: a fork that was noted but has no frame is forgotten (Writer), one that
// frames tell of and the note does not is added.
func (h *history) load(log *wal.Log, dir string, role Role, rep wal.Report, id *Identity) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	reigns, err := readHistory(log, dir)
	if err != nil {
		return err
	}
	h.reigns = reigns
	return h.fitLocked(log, role, rep.Last, rep.Forks, id)
}

// fit is load for a log that is open: it ends at last, and forks were seen in the frames that were taken since.
func (h *history) fit(log *wal.Log, role Role, last uint64, forks []wal.ForkStart, id *Identity) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fitLocked(log, role, last, forks, id)
}

func (h *history) fitLocked(log *wal.Log, role Role, last uint64, forks []wal.ForkStart, id *Identity) error {
	fit := slices.Clone(h.reigns)
	if role == Writer {
		for n := len(fit); n > 0 && fit[n-1].Start > last; n = len(fit) {
			fit = fit[:n-1]
		}
	}
	for _, f := range forks {
		if !slices.ContainsFunc(fit, func(r Reign) bool { return r.Fork == f.Fork }) {
			r := Reign{Ordinal: f.Ordinal, Lineage: id.Lineage, Fork: f.Fork, Start: f.First}
			if n := len(fit); n > 0 {
				r.Parent = fit[n-1].Fork
			}
			fit = append(fit, r)
		}
	}
	if slices.EqualFunc(fit, h.reigns, sameReign) {
		return nil
	}
	return h.replaceLocked(log, fit)
}

func readHistory(log *wal.Log, dir string) ([]Reign, error) {
	b := log.Note(noteHistory)
	if b == nil {
		return nil, nil
	}
	var reigns []Reign
	if err := json.Unmarshal(b, &reigns); err != nil {
		return nil, &boltfile.CorruptError{File: filepath.Join(dir, logDir, metaFile), What: "the note of the log's history", Err: err}
	}
	return reigns, nil
}
