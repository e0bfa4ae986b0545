package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// A Verbatim log is taken back to a place in three steps that may each be killed:
//
//	1 the note "rewind" says where to, and that the log is not cut yet
//	2 the state's mark says that a sync from there is under way: from here on the rewind goes on at the next Open
//	3 the log is cut, and in the same commit the note says so and the history ends there
//
// What follows is a sync whose S is that place and whose spool is the log after it.

// ErrCannotRewind means that the log does not tell how to get back to a place: ranges are to be compared instead.
var ErrCannotRewind = errors.New("the log cannot be taken back to that place")

// Rewind is a rewind under way.
type Rewind struct {
	To       wal.Position `json:"to"`
	End      wal.Position `json:"end"` // where the log ended
	Archives []string     `json:"archives,omitempty"`
	// Compare says that keys of the tail are not all that differs: a sync was under way.
	Compare bool `json:"compare,omitempty"`
	Cut     bool `json:"cut"` // the log ends at To, or goes on after it with the feeder's frames
}

// CanRewind says why the log cannot be taken back to a place, as ErrCannotRewind, and how many bytes would be taken back.
func (e *Engine) CanRewind(to wal.Position) (bytes int64, err error) {
	if e.Role() != Verbatim {
		return 0, ErrNotWritable
	}
	if e.Position().Index <= to.Index {
		return 0, fmt.Errorf("%w: it ends at index %d, which is not after %d", ErrCannotRewind, e.Position().Index, to.Index)
	}
	if err := e.endsAt(to); err != nil {
		return 0, err
	}
	if s := e.sync.spooling(); s != nil && to.Index < s.From.Index {
		return 0, fmt.Errorf("%w: a sync from index %d is under way", ErrCannotRewind, s.From.Index)
	}
	if _, err := e.cursorsAt(to.Index); err != nil {
		return 0, err
	}
	return e.wal.Bytes(to.Index + 1), nil
}

// endsAt reports whether a frame of the log ends at a place, or the log begins after it.
func (e *Engine) endsAt(to wal.Position) error {
	f, err := e.wal.Frame(to.Index + 1)
	switch {
	case errors.Is(err, wal.ErrGone), errors.Is(err, wal.ErrBeyondEnd):
		return fmt.Errorf("%w: %w", ErrCannotRewind, err)
	case err != nil:
		return fmt.Errorf("reading the log after index %d: %w", to.Index, err)
	case f.First != to.Index+1:
		return fmt.Errorf("%w: index %d is within the frame %d to %d", ErrCannotRewind, to.Index, f.First, f.Last())
	}
	at := e.wal.Base()
	if to.Index > at.Index {
		if f, err = e.wal.Frame(to.Index); err != nil {
			return fmt.Errorf("reading the log at index %d: %w", to.Index, err)
		}
		at = f.Position()
	}
	if at != to {
		return fmt.Errorf("%w: index %d is of fork %v here, not of %v", ErrCannotRewind, to.Index, at.Fork, to.Fork)
	}
	return nil
}

// cursorsAt returns the places of subscriptions as they were after an index, from the entries: what came after it is not theirs. A place that the log does
// not tell any more is left out; a sync of a performance secondary whose log this is a copy of must not have been under way.
func (e *Engine) cursorsAt(index uint64) (map[string]wal.Position, error) {
	cursors := e.cursors()
	moved, open := false, e.sync.get() != nil && e.sync.spooling() == nil
	first := true
	err := e.eachEntry(index+1, ^uint64(0), func(en *storage.Entry) {
		moved = moved || !en.Upstream.IsZero() || en.Sync != nil
		if en.Sync != nil && first {
			first, open = false, en.Sync.Kind != storage.SyncBegin && en.Sync.From != en.Sync.Until
		}
	})
	if err != nil {
		return nil, err
	}
	if open {
		return nil, fmt.Errorf("%w: a sync of the performance secondary whose copy this is was under way there", ErrCannotRewind)
	}
	if !moved {
		return cursors, nil
	}
	delete(cursors, Performance)
	var sync *storage.SyncState
	err = e.eachEntry(e.wal.First(), index, func(en *storage.Entry) {
		if eff := effectOf(en); eff != nil {
			sync = eff.apply(sync, cursors)
		}
	})
	return cursors, err
}

// eachEntry calls fn for the log's entries from one index to another, or to the end.
func (e *Engine) eachEntry(from, to uint64, fn func(*storage.Entry)) error {
	end, _ := e.wal.End()
	to = min(to, end.Index)
	rd := e.wal.Reader(from)
	for at := from - 1; at < to; {
		f, err := rd.TryNext()
		if err != nil || f == nil {
			return fmt.Errorf("reading the log after %d: %w", at, orEnd(err))
		}
		entries, err := decodeFrame(f)
		if err != nil {
			return fmt.Errorf("reading the frame %d to %d: %w", f.First, f.Last(), err)
		}
		for _, p := range entries {
			if p.entry.Index >= from && p.entry.Index <= to {
				fn(p.entry)
			}
		}
		at = f.Last()
	}
	return nil
}

// BeginRewind takes a Verbatim log back to a place, of which CanRewind must have said that it is possible, and begins the sync that mends the state: its S is
// that place, and its ranges are the keys of what was taken back, which archives hold. Durable when it returns; killed, the next Open goes on.
func (e *Engine) BeginRewind(ctx context.Context, set string, to wal.Position, archives []string) error {
	e.sync.step.Lock()
	defer e.sync.step.Unlock()
	if _, err := e.CanRewind(to); err != nil {
		return err
	}
	return e.alone(ctx, func(ctx context.Context) error {
		cursors, err := e.cursorsAt(to.Index)
		if err != nil {
			return err
		}
		first, err := e.wal.Frame(to.Index + 1)
		if err != nil {
			return fmt.Errorf("reading the log after index %d: %w", to.Index, err)
		}
		detach, err := e.attachedAfter(to.Index)
		if err != nil {
			return err
		}
		if err := e.flushLocked(ctx); err != nil {
			return err
		}
		end, _ := e.wal.End()
		r := &Rewind{To: to, End: end, Archives: archives, Compare: e.sync.spooling() != nil}
		if err := e.setNotes(map[string][]byte{noteRewind: mustJSON(r)}); err != nil {
			return err
		}
		state := &storage.SyncState{Set: set, From: to, FromChain: first.Prev, Until: to}
		if err := e.state.Rewind(to.Index, cursors, detach, state); err != nil {
			return e.abandon(ctx, err)
		}
		e.sync.begin(state, true)
		if err := e.cutLog(r); err != nil {
			return e.abandon(ctx, err)
		}
		e.takePlace(to, first.Prev)
		e.system.Add(1)
		return nil
	})
}

// cutLog ends the log where a rewind goes to.
func (e *Engine) cutLog(r *Rewind) error {
	cut := *r
	cut.Cut = true
	e.hist.mu.Lock()
	defer e.hist.mu.Unlock()
	reigns := reignsUpTo(e.hist.reigns, r.To)
	notes := e.bases.cut(r.To.Index)
	notes[noteRewind], notes[noteHistory] = mustJSON(cut), mustJSON(reigns)
	if err := e.wal.Cut(r.To, notes); err != nil {
		return fmt.Errorf("taking the log back to %d: %w", r.To.Index, err)
	}
	e.hist.reigns = reigns
	return nil
}

// reignsUpTo returns the part of a history that leads to a place.
func reignsUpTo(h []Reign, to wal.Position) []Reign {
	if i := slices.IndexFunc(h, func(r Reign) bool { return r.Fork == to.Fork }); i >= 0 {
		return slices.Clone(h[:i+1])
	}
	return slices.DeleteFunc(slices.Clone(h), func(r Reign) bool { return r.Start > to.Index })
}

// Rewinding returns the rewind that the sync under way belongs to; nil when there is none.
func (e *Engine) Rewinding() *Rewind {
	s := e.sync.spooling()
	if s == nil {
		return nil
	}
	r, err := readRewind(e.wal, e.cfg.Dir)
	if err != nil || r == nil || r.To != s.From {
		return nil
	}
	return r
}

func readRewind(log *wal.Log, dir string) (*Rewind, error) {
	b := log.Note(noteRewind)
	if b == nil {
		return nil, nil
	}
	var r Rewind
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, &boltfile.CorruptError{File: filepath.Join(dir, logDir, metaFile), What: "the note of a rewind", Err: err}
	}
	return &r, nil
}

// resumeRewind goes on with a rewind that the state's mark tells of; false: the sync under way is none.
func (r *recovery) resumeRewind(s *storage.SyncState) (bool, error) {
	rw, err := readRewind(r.wal, r.cfg.Dir)
	if err != nil || rw == nil || rw.To != s.From {
		return false, err
	}
	if !rw.Cut {
		if r.e.hist.reigns, err = readHistory(r.wal, r.cfg.Dir); err != nil {
			return false, err
		}
		if err := r.e.cutLog(rw); err != nil {
			return false, err
		}
		r.report.WAL.Last = rw.To.Index
		r.report.WAL.Forks = slices.DeleteFunc(r.report.WAL.Forks, func(f wal.ForkStart) bool { return f.First > rw.To.Index })
	}
	_, chain := r.wal.End()
	if chain, err = r.chainAfter(rw.To.Index, chain); err != nil {
		return false, err
	}
	if chain != s.FromChain {
		return false, &boltfile.CorruptError{File: filepath.Join(r.cfg.Dir, logDir),
			What: fmt.Sprintf("the log is not the one that was taken back to index %d: the chain hash there differs", rw.To.Index)}
	}
	return true, nil
}

// cut forgets the places after an index; the notes that it returns are to be written with that.
func (b *bases) cut(index uint64) map[string][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	notes := map[string][]byte{}
	kept := b.indexes[:0:0]
	for _, at := range b.indexes {
		if at > index {
			notes[baseNote(at)] = nil
		} else {
			kept = append(kept, at)
		}
	}
	b.indexes = kept
	if b.last.index > index {
		b.last = totalsAt{}
	}
	return notes
}
