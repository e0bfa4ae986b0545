package engine

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sort"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// beginVerbatim makes the intent durable, then lets the log begin again after S. Killed between the two, Open finds a log that
// does not begin after S and does it.
func (e *Engine) beginVerbatim(ctx context.Context, set string, from wal.Position, chain wal.Hash, lineage wal.Lineage) error {
	if lineage == (wal.Lineage{}) {
		return fmt.Errorf("internal error: a sync without the feeder's lineage")
	}
	return e.alone(ctx, func(ctx context.Context) error {
		if err := e.flushLocked(ctx); err != nil { // also what a sync that ended diverged had applied
			return err
		}
		state := &storage.SyncState{Set: set, From: from, FromChain: chain, Until: from}
		// The lineage is part of the intent: it is told by the identity before the log is of it.
		if err := e.takeLineage(lineage); err != nil {
			return err
		}
		if e.wal.Note(noteRewind) != nil { // this sync is not of that rewind, whatever its S
			if err := e.setNotes(map[string][]byte{noteRewind: nil}); err != nil {
				return err
			}
		}
		if err := e.state.SetSync(state); err != nil {
			return e.abandon(ctx, fmt.Errorf("beginning a sync: %w", err))
		}
		e.sync.begin(state, true)
		if err := e.resetLog(from, chain); err != nil {
			return e.abandon(ctx, err)
		}
		e.takePlace(from, chain)
		return nil
	})
}

func (e *Engine) takeLineage(lineage wal.Lineage) error {
	id := e.Identity()
	if id.Lineage == lineage {
		return nil
	}
	id.Lineage = lineage
	if err := e.setNotes(map[string][]byte{noteIdentity: mustJSON(id)}); err != nil {
		return err
	}
	e.ident.Store(&id)
	return nil
}

// resetLog lets the log begin after a place, without notes of totals, or of a rewind, from before.
func (e *Engine) resetLog(after wal.Position, chain wal.Hash) error {
	notes := e.bases.clear()
	notes[noteRewind] = nil
	if err := e.wal.Reset(after, chain, notes); err != nil {
		return fmt.Errorf("beginning the log again after %d: %w", after.Index, err)
	}
	return nil
}

// takePlace lets sequencer and committer go on after a place of the log.
func (e *Engine) takePlace(at wal.Position, chain wal.Hash) {
	e.seq.last, e.seq.chain = at.Index, chain
	e.com.begin(at, chain)
	e.place.begin(at, chain, e.cursors())
}

// SpoolFrames makes frames durable without applying them (Verbatim, during a sync). IngestFrames continues where it ended after EndSync.
// Frames already spooled are skipped.
func (e *Engine) SpoolFrames(ctx context.Context, frames []*wal.Frame) error {
	if err := e.checkFrames(frames); err != nil {
		return err
	}
	for _, f := range frames {
		if _, err := decodeFrame(f); err != nil { // what cannot be applied is refused now
			return fmt.Errorf("frame %d to %d: %w", f.First, f.Last(), err)
		}
	}
	return e.alone(ctx, func(ctx context.Context) error {
		if e.sync.spooling() == nil {
			return errNoSync
		}
		fresh := frames
		for len(fresh) > 0 && fresh[0].Last() <= e.seq.last {
			fresh = fresh[1:]
		}
		if len(fresh) == 0 {
			return nil
		}
		if err := follows(fresh[0], e.seq.last, e.seq.chain); err != nil {
			return err
		}
		if err := e.com.keep(fresh); err != nil {
			return e.abandon(ctx, err)
		}
		end := fresh[len(fresh)-1]
		e.seq.last, e.seq.chain = end.Last(), end.Chain
		e.place.move(end.Position(), end.Chain, nil)
		return nil
	})
}

// keep appends frames without applying them.
func (c *committer) keep(frames []*wal.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.append(frames)
}

// rangeVerbatim takes a range straight into the state file.
func (e *Engine) rangeVerbatim(ctx context.Context, r *SyncRange) error {
	return e.alone(ctx, func(ctx context.Context) error {
		s := e.sync.spooling()
		if s == nil {
			return errNoSync
		}
		if s.Complete {
			return fmt.Errorf("a range of keyspace %s: the sync has all ranges and is being ended", r.Keyspace)
		}
		state := advance(s, r.Keyspace, r.High, laterOf(s.Until, r.ReadAt))
		if err := e.replaceRange(r, state); err != nil {
			return e.abandonCommit(err)
		}
		e.sync.begin(state, true)
		e.sawSystem(r.Keyspace)
		return nil
	})
}

func laterOf(a, b wal.Position) wal.Position {
	if b.Index > a.Index {
		return b
	}
	return a
}

func (e *Engine) sawSystem(ks storage.KeyspaceID) {
	if ks == storage.SystemReplicated || ks == storage.SystemLocal {
		e.system.Add(1)
	}
}

// abandonCommit ends the engine if err is a failed commit.
func (e *Engine) abandonCommit(err error) error {
	if isCommit(err) {
		return e.abandon(context.Background(), err)
	}
	return err
}

func (e *Engine) replaceRange(r *SyncRange, state *storage.SyncState) error {
	if !r.Partial {
		if err := e.state.ReplaceRange(r.Keyspace, r.Scope, r.Low, nilIfEmpty(r.High), r.Records, state); err != nil {
			return fmt.Errorf("taking a range of keyspace %s: %w", r.Keyspace, err)
		}
		return nil
	}
	// A sync state that says "done" is stored with the last change only.
	for edits := r.edits(); len(edits) > 0; {
		var err error
		if edits, err = e.replaceSome(r, edits); err != nil {
			return fmt.Errorf("taking records of keyspace %s: %w", r.Keyspace, err)
		}
	}
	if err := e.state.SetSync(state); err != nil {
		return fmt.Errorf("recording a range of keyspace %s: %w", r.Keyspace, err)
	}
	return nil
}

func nilIfEmpty(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// edit is one change of a partial range; nil deletes.
type edit struct {
	key []byte
	rec *storage.Record
}

// edits orders the changes of a partial range by key.
func (r *SyncRange) edits() []edit {
	all := make([]edit, 0, len(r.Records)+len(r.Gone))
	for i := range r.Records {
		all = append(all, edit{r.Records[i].Key, &r.Records[i]})
	}
	for _, k := range r.Gone {
		all = append(all, edit{k, nil})
	}
	slices.SortStableFunc(all, func(a, b edit) int { return bytes.Compare(a.key, b.key) })
	return all
}

// Bounds of what is read and compared again so that neighbouring edits share a transaction.
const (
	spanRecords = 512
	spanBytes   = 4 << 20
)

// replaceSome makes the first edits, as many as one span holds, and returns the rest.
func (e *Engine) replaceSome(r *SyncRange, edits []edit) ([]edit, error) {
	n, recs := e.span(r, edits)
	low, high := edits[0].key, append(bytes.Clone(edits[n-1].key), 0)
	if err := e.state.ReplaceRange(r.Keyspace, r.Scope, low, high, recs, e.sync.get()); err != nil {
		return nil, err
	}
	return edits[n:], nil
}

// span returns how many of the edits lie close together, and what the records from the first to the last of them are to be.
func (e *Engine) span(r *SyncRange, edits []edit) (n int, recs []storage.Record) {
	v := e.state.Finished()
	defer v.Release()
	size := 0
	whole := true
	var have []storage.Record
	last := edits[len(edits)-1].key
	err := v.Scan(r.Keyspace, edits[0].key, append(bytes.Clone(last), 0), func(rec storage.Record) bool {
		size += len(rec.Key) + len(rec.Value)
		if whole = len(have) < spanRecords && size <= spanBytes; whole {
			have = append(have, storage.Record{Key: bytes.Clone(rec.Key), Value: bytes.Clone(rec.Value), Index: rec.Index})
		}
		return whole
	})
	n = len(edits)
	switch {
	case err != nil: // something there is damaged: change the first alone
		n, have = 1, nil
	case !whole && len(have) == 0:
		n = 1
	case !whole:
		end := have[len(have)-1].Key
		n = max(1, sort.Search(n, func(i int) bool { return bytes.Compare(edits[i].key, end) > 0 }))
	}
	return n, merged(have, edits[:n])
}

// merged returns the records up to the last edit, with the edits made. Both are in order of key.
func merged(have []storage.Record, edits []edit) []storage.Record {
	var out []storage.Record
	for _, ed := range edits {
		for len(have) > 0 && bytes.Compare(have[0].Key, ed.key) < 0 {
			out = append(out, have[0])
			have = have[1:]
		}
		if len(have) > 0 && bytes.Equal(have[0].Key, ed.key) {
			have = have[1:]
		}
		if ed.rec != nil {
			out = append(out, *ed.rec)
		}
	}
	return out
}

// endVerbatim replays the own log from S+1 through the apply. Checkpoints on the way make it resumable: a sync that is
// complete goes on after what is applied.
func (e *Engine) endVerbatim(ctx context.Context, _ *storage.SyncState, progress func(done, total uint64)) error {
	return e.alone(ctx, func(ctx context.Context) error {
		s := e.sync.spooling()
		if s == nil {
			return errNoSync
		}
		if err := e.completeVerbatim(ctx, s); err != nil {
			return err
		}
		r := newReplay(e, s.Until.Index)
		if err := r.log(ctx, e.state.Applied()+1, progress); err != nil {
			return err
		}
		if err := e.settleVerbatim(ctx, r); err != nil {
			return err
		}
		at, _ := e.wal.End()
		return e.bases.add(e.wal, at.Index, e.state.Totals())
	})
}

// completeVerbatim records that all ranges are here: from then on the state goes on from S by the own log.
func (e *Engine) completeVerbatim(ctx context.Context, s *storage.SyncState) error {
	if s.Complete {
		return nil
	}
	complete := *s
	complete.Complete = true
	if err := e.state.StartAfter(s.From, s.FromChain, &complete); err != nil {
		return e.abandon(ctx, fmt.Errorf("ending a sync: %w", err))
	}
	e.sync.begin(&complete, true)
	return nil
}

// settleVerbatim ends a sync whose frames have been replayed.
func (e *Engine) settleVerbatim(ctx context.Context, r *replay) error {
	if err := e.flushLocked(ctx); err != nil {
		return err
	}
	// What the replayed entries say of a sync of their own (of a performance secondary whose DR secondary this is) stays.
	if err := e.state.SetSync(r.syncing); err != nil {
		return e.abandon(ctx, fmt.Errorf("ending a sync: %w", err))
	}
	e.sync.begin(r.syncing, false)
	e.seq.ledger.reload()
	e.seq.cursors, e.seq.syncing = e.cursors(), r.syncing
	at, chain := e.wal.End()
	e.takePlace(at, chain)
	e.system.Add(1)
	return nil
}
