package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"

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
		if e.sync.spooling() == nil {
			if err := e.flushLocked(ctx); err != nil {
				return err
			}
		}
		state := &storage.SyncState{Set: set, From: from, FromChain: chain, Until: from}
		// The lineage is part of the intent: it is told by the identity before the log is of it.
		if err := e.takeLineage(lineage); err != nil {
			return err
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

// resetLog lets the log begin after a place, without notes of totals from before.
func (e *Engine) resetLog(after wal.Position, chain wal.Hash) error {
	if err := e.wal.Reset(after, chain, e.bases.clear()); err != nil {
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
			return e.abandon(context.WithoutCancel(ctx), err)
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
	return e.noteDamage(err)
}

func (e *Engine) replaceRange(r *SyncRange, state *storage.SyncState) error {
	if !r.Partial {
		if err := e.state.ReplaceRange(r.Keyspace, r.Scope, r.Low, nilIfEmpty(r.High), r.Records, state); err != nil {
			return fmt.Errorf("taking a range of keyspace %s: %w", r.Keyspace, err)
		}
		return nil
	}
	// A sync state that says "done" is stored with the last change only.
	for _, part := range r.parts() {
		if err := e.replacePart(r, part); err != nil {
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

// part is neighbouring changes of a partial range: keys in order, with the record that each is to have, nil for none.
type part struct {
	keys [][]byte
	recs []*storage.Record
}

// maxSpan bounds what lies between the first and the last key of a part and is read with it.
const maxSpan = 512

// parts orders the changes of a partial range by key.
func (r *SyncRange) parts() []part {
	type change struct {
		key []byte
		rec *storage.Record
	}
	var all []change
	for i := range r.Records {
		all = append(all, change{r.Records[i].Key, &r.Records[i]})
	}
	for _, k := range r.Gone {
		all = append(all, change{k, nil})
	}
	slices.SortFunc(all, func(a, b change) int { return strings.Compare(string(a.key), string(b.key)) })
	var out []part
	for i, c := range all {
		if i%maxSpan == 0 {
			out = append(out, part{})
		}
		p := &out[len(out)-1]
		p.keys, p.recs = append(p.keys, c.key), append(p.recs, c.rec)
	}
	return out
}

// replacePart changes single records of the state file: each is a range of one key.
func (e *Engine) replacePart(r *SyncRange, p part) error {
	for i, key := range p.keys {
		var recs []storage.Record
		if p.recs[i] != nil {
			recs = []storage.Record{*p.recs[i]}
		}
		if err := e.state.ReplaceRange(r.Keyspace, r.Scope, key, append(slices.Clone(key), 0), recs, e.sync.get()); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) emptyVerbatim(ctx context.Context, absent []storage.KeyspaceTotal) error {
	return e.alone(ctx, func(ctx context.Context) error {
		s := e.sync.spooling()
		if s == nil {
			return errNoSync
		}
		for _, t := range absent {
			if err := e.state.ReplaceRange(t.ID, t.Scope, nil, nil, nil, s); err != nil {
				return e.abandonCommit(fmt.Errorf("emptying keyspace %s: %w", t.ID, err))
			}
			e.sawSystem(t.ID)
		}
		return nil
	})
}

// endVerbatim replays the own log from S+1 through the apply. Checkpoints on the way make it resumable: a sync that is
// complete goes on after what is applied.
func (e *Engine) endVerbatim(ctx context.Context, _ *storage.SyncState, progress func(done, total uint64)) error {
	return e.alone(ctx, func(ctx context.Context) error {
		s := e.sync.spooling()
		if s == nil {
			return errNoSync
		}
		if !s.Complete {
			complete := *s
			complete.Complete = true
			if err := e.state.StartAfter(s.From, s.FromChain, &complete); err != nil {
				return e.abandon(context.WithoutCancel(ctx), fmt.Errorf("ending a sync: %w", err))
			}
			s = &complete
			e.sync.begin(s, true)
		}
		r := newReplay(e, s.Until.Index)
		if err := r.log(ctx, e.state.Applied()+1, progress); err != nil {
			return err
		}
		if err := e.flushLocked(ctx); err != nil {
			return err
		}
		// What the replayed entries say of a sync of their own (of a performance secondary whose DR secondary this is) stays.
		if err := e.state.SetSync(r.syncing); err != nil {
			return e.abandon(context.WithoutCancel(ctx), fmt.Errorf("ending a sync: %w", err))
		}
		e.sync.begin(r.syncing, false)
		e.seq.ledger.reload()
		e.seq.cursors, e.seq.syncing = e.cursors(), r.syncing
		at, chain := e.wal.End()
		e.takePlace(at, chain)
		e.system.Add(1)
		return e.bases.add(e.wal, at.Index, e.state.Totals())
	})
}
