package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// errNoSync is given to a step of a sync that is not under way.
var errNoSync = errors.New("no sync is under way")

// SyncRange is a part of a keyspace as the feeder holds it, complete: what is here and not in Records is deleted.
type SyncRange struct {
	Keyspace  storage.KeyspaceID
	Scope     storage.Scope
	Low, High []byte           // [Low, High); High empty: to the end
	Records   []storage.Record // in key order; only Key and Value are used
	ReadAt    wal.Position     // the feeder's place at which it was read
	// Partial says that Records are only those that differ and Gone the keys to delete; what else is in the range was compared equal.
	Partial bool
	Gone    [][]byte
}

func (r *SyncRange) validate() error {
	if r.Scope != storage.Replicated && r.Scope != storage.Local {
		return fmt.Errorf("a range of keyspace %s has scope %d", r.Keyspace, r.Scope)
	}
	if len(r.High) > 0 && string(r.Low) >= string(r.High) {
		return fmt.Errorf("a range of keyspace %s ends before it begins", r.Keyspace)
	}
	for i := range r.Records {
		k := r.Records[i].Key
		switch {
		case len(k) == 0 || len(k) > storage.MaxKey || len(r.Records[i].Value) > storage.MaxValue:
			return fmt.Errorf("a record of %d and %d bytes in a range of keyspace %s: %w", len(k), len(r.Records[i].Value), r.Keyspace, ErrTooLarge)
		case !r.holds(k):
			return fmt.Errorf("a record lies outside its range of keyspace %s", r.Keyspace)
		case i > 0 && string(k) <= string(r.Records[i-1].Key):
			return fmt.Errorf("the records of a range of keyspace %s are out of order", r.Keyspace)
		}
	}
	for _, k := range r.Gone {
		if !r.Partial || !r.holds(k) {
			return fmt.Errorf("a key to delete lies outside its range of keyspace %s", r.Keyspace)
		}
	}
	return nil
}

func (r *SyncRange) holds(key []byte) bool {
	return string(key) >= string(r.Low) && (len(r.High) == 0 || string(key) < string(r.High))
}

// BeginSync (both roles) records that a sync from S has begun: the state is not consistent until EndSync. For Verbatim the log is reset to begin after S
// and frames then given to SpoolFrames are kept, not applied; lineage of the log becomes that of the feeder. For a Writer it commits a housekeeping entry.
// Calling it while a sync of the same S is under way continues that one; with another S a new one takes its place.
func (e *Engine) BeginSync(ctx context.Context, set string, s wal.Position, chain wal.Hash, lineage wal.Lineage) (storage.SyncState, error) {
	e.sync.step.Lock()
	defer e.sync.step.Unlock()
	now := e.sync.get()
	if now != nil && now.Set == set && now.From == s && (e.Role() == Writer || e.sync.spooling() != nil) {
		return *now, nil
	}
	var err error
	if e.Role() == Verbatim {
		err = e.beginVerbatim(ctx, set, s, chain, lineage)
	} else {
		err = e.beginWriter(ctx, set, s)
	}
	if err != nil {
		return storage.SyncState{}, err
	}
	return *e.sync.get(), nil
}

// ApplyRange makes a range durable here: a Verbatim store takes it straight into its state, a Writer as housekeeping entries. It advances SyncState.
func (e *Engine) ApplyRange(ctx context.Context, r *SyncRange) error {
	if err := r.validate(); err != nil {
		return err
	}
	e.sync.step.Lock()
	defer e.sync.step.Unlock()
	s := e.sync.get()
	if s == nil {
		return errNoSync
	}
	if e.Role() == Verbatim {
		return e.rangeVerbatim(ctx, r)
	}
	return e.rangeWriter(ctx, s, r)
}

// EndSync applies the spool from S+1 up to SpoolEnd, which must have reached Until; progress may be nil. Then the state is consistent.
// From Until on the digests are compared: a difference is *Diverged; the sync is then still under way, says Complete, and needs another BeginSync
// with another S.
// Killed, or ended by ctx, it is to be called again and continues.
func (e *Engine) EndSync(ctx context.Context, progress func(done, total uint64)) error {
	e.sync.step.Lock()
	defer e.sync.step.Unlock()
	s := e.sync.get()
	if s == nil {
		return errNoSync
	}
	if end := e.SpoolEnd(); end.Index < s.Until.Index {
		return fmt.Errorf("the spool ends at %d; ranges were read up to %d: more must be streamed first", end.Index, s.Until.Index)
	}
	if progress == nil {
		progress = func(uint64, uint64) {}
	}
	var err error
	if e.Role() == Verbatim {
		err = e.endVerbatim(ctx, s, progress)
	} else {
		err = e.endWriter(ctx, s, progress)
	}
	if err != nil {
		return err
	}
	if e.badLog.Swap(false) && e.Role() == Writer {
		if err := e.RenewLog(ctx); err != nil {
			return err
		}
	}
	if e.NeedsRepair() == "" && e.wal.Note(noteRewind) == nil {
		return nil
	}
	return e.setNotes(map[string][]byte{noteRepair: nil, noteRewind: nil})
}

// SpoolEnd returns up to where the feeder's entries are spooled: the stream continues after it. Without a sync it is zero.
func (e *Engine) SpoolEnd() wal.Position {
	s := e.sync.get()
	if s == nil {
		return wal.Position{}
	}
	if e.Role() == Verbatim {
		at, _ := e.wal.End()
		return at
	}
	var end wal.Position
	_ = e.withSpool(func(sp *spool) error { // an error shows at the next batch
		end = sp.end
		return nil
	})
	return end
}
