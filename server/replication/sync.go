package replication

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

const (
	fixKeys  = 512     // keys that differ are fetched when so many have been found
	fixBytes = 1 << 20 // or so many bytes of them
	fixGone  = 4096    // or so many to delete
)

// sync begins a sync at the answer's S, or continues the one under way: what comes is spooled, and ranges are compared and received beside it.
func (sub *subscription) sync() {
	l, a := sub.l, sub.answer
	if a.Resume {
		sub.resume()
		return
	}
	l.rounds.Add(1)
	l.force = false
	state, err := sub.beginSync()
	if err != nil {
		if l.ctx.Err() == nil {
			sub.s.tell(failure(fmt.Errorf("beginning a sync: %w", err)))
		}
		return
	}
	sub.begin(a.From, true)
	sub.wg.Go(func() { sub.ranges(state) })
}

// beginSync makes S durable here. A sync of the same S goes on, unless it has ended its ranges already and roots differed nevertheless, or it began under
// another coverage.
func (sub *subscription) beginSync() (storage.SyncState, error) {
	l, a := sub.l, sub.answer
	due, err := l.resyncDue()
	if err != nil {
		return storage.SyncState{}, err
	}
	if now := l.e.SyncState(); now != nil && (now.Complete || due != "") && now.From == a.From {
		if _, err := l.e.BeginSync(l.ctx, string(l.kind), wal.Position{}, wal.Hash{}, a.Lineage); err != nil {
			return storage.SyncState{}, err
		}
	}
	state, err := l.e.BeginSync(l.ctx, string(l.kind), a.From, a.Chain, a.Lineage)
	if err != nil || due == "" {
		return state, err
	}
	return state, l.syncBegun()
}

// resume goes on with the sync under way after what is spooled.
func (sub *subscription) resume() {
	state := sub.l.e.SyncState()
	if state == nil { // it ended just before the connection was lost
		sub.begin(sub.answer.From, false)
		sub.s.tell(Event{Kind: SyncEnded})
		return
	}
	sub.begin(sub.answer.From, true)
	sub.wg.Go(func() { sub.ranges(*state) })
}

// ranges receives what differs, and says when all is here.
func (sub *subscription) ranges(state storage.SyncState) {
	l := sub.l
	y := &syncer{sub: sub, l: l, e: l.e, until: state.Until, from: state.From}
	began := time.Now()
	err := y.run(sub.ctx, state)
	if kept := y.endKeeping(err == nil); err == nil {
		err = kept
	}
	l.n.meters.Diff.Since(began)
	l.log.Info("compared with the primary", "complete", err == nil, "diff_bytes", y.diffBytes(), "sync_bytes", y.syncBytes(), "keys_fixed", y.fixed, "read_at", y.until.Index)
	if y.decided != (decided{}) {
		l.log.Warn("what differed was decided for the primary", "overwritten", y.decided.overwritten, "removed", y.decided.removed)
	}
	if sub.ctx.Err() != nil {
		return
	}
	if err != nil {
		sub.tell(failure(fmt.Errorf("comparing with the primary: %w", err)))
		return
	}
	y.differ() // the spool has still to be applied: the machine is in a sync whatever was found
	sub.until.Store(&y.until)
	sub.in.signal()
}

// endSync applies the spool once all ranges are here and the spool has reached the last place at which one was read.
func (sub *subscription) endSync() (ended bool, err error) {
	until := sub.until.Load()
	l := sub.l
	if until == nil || l.e.SpoolEnd().Index < until.Index {
		return false, nil
	}
	if err := l.e.EndSync(l.ctx, nil); err != nil {
		return false, err
	}
	if err := l.settleCoverage(); err != nil {
		return false, err
	}
	l.progress.Store(true)
	l.log.Info("the sync has ended", "index", l.place().Index)
	l.n.link[l.kind].update(func(s *linkState) { s.LastRemote, s.SyncDone, s.SyncTotal = 0, 0, 0 })
	sub.wakeAcks()
	sub.tell(Event{Kind: SyncEnded})
	return true, nil
}

// syncer compares this cluster's covered keyspaces with the feeder's, in order of id, and makes the differing ranges what the feeder has.
type syncer struct {
	sub     *subscription
	l       *life
	e       *engine.Engine
	bulk    *bulkClient
	from    wal.Position // S
	until   wal.Position // M so far
	fixed   uint64
	decided decided // of fixed
	told    bool    // the machine knows that ranges differ
	shown   [2]uint64
	ks      storage.KeyspaceTotal // being compared
	fix     difference            // found and not yet applied: neighbouring ranges that are equal or differ in single records
	fixLen  int                   // bytes of its keys
	open    bool                  // fix covers something
	kept    *archive.Writer       // of what ranges overwrite and delete; nil: nothing yet
}

func (y *syncer) diffBytes() uint64 {
	if y.bulk == nil {
		return 0
	}
	return y.bulk.diffBytes.Load()
}

func (y *syncer) syncBytes() uint64 {
	if y.bulk == nil {
		return 0
	}
	return y.bulk.syncBytes.Load()
}

// run compares from where a sync stands to the end.
func (y *syncer) run(ctx context.Context, state storage.SyncState) error {
	if state.Complete {
		return nil
	}
	conn, err := y.l.n.dial(ctx, y.l.kind, purposeBulk)
	if err != nil {
		return err
	}
	defer conn.Close()
	y.bulk = newBulkClient(y.l.kind, conn)
	defer y.publish(0)
	theirs, readAt, err := y.bulk.keyspaces(ctx)
	if err != nil {
		return err
	}
	if theirs, err = y.wanted(theirs); err != nil {
		return err
	}
	if readAt.Index < state.From.Index {
		return fmt.Errorf("the primary's newest checkpoint, at index %d, is older than where this sync begins, %d: it is asked again", readAt.Index, state.From.Index)
	}
	y.until = later(y.until, readAt)
	whole, err := y.attach(ctx, theirs)
	if err != nil {
		return err
	}
	if whole {
		if done, err := y.tail(ctx, &state, theirs, readAt); done || err != nil {
			return err
		}
	}
	if err := y.e.Checkpoint(ctx); err != nil {
		return fmt.Errorf("making a checkpoint to compare: %w", err)
	}
	ours := y.ownTotals()
	y.total(theirs, ours)
	for _, t := range y.all(theirs, ours) {
		if bytes.Compare(t.ID[:], state.Keyspace[:]) < 0 {
			continue
		}
		var low []byte
		if t.ID == state.Keyspace {
			low = state.Done
		}
		if err := y.keyspace(ctx, t, ours[t.ID], low, readAt); err != nil {
			return fmt.Errorf("keyspace %s: %w", t.ID, err)
		}
	}
	return nil
}

// attach shows keyspaces again that were dropped here and that the feeder has. A DR secondary's own log, or the range that it takes, does so. whole says that
// nothing of them has been removed since.
func (y *syncer) attach(ctx context.Context, theirs []storage.KeyspaceTotal) (whole bool, err error) {
	if y.l.kind == DR {
		return true, nil
	}
	ids := make([]storage.KeyspaceID, 0, len(theirs))
	for _, t := range theirs {
		if y.e.Detached(t.ID) {
			ids = append(ids, t.ID)
		}
	}
	if len(ids) == 0 {
		return true, nil
	}
	y.l.log.Warn("keyspaces that were dropped here and not on the primary are attached again", "keyspaces", len(ids))
	return y.e.Attach(y.l.ctx, ids)
}

// all returns the keyspaces of either side in order of id. One that the feeder does not hold is one without records, not one to drop: it may have been
// made after the feeder's checkpoint, then the spool fills it, and what has been dropped is never shown again.
func (y *syncer) all(theirs []storage.KeyspaceTotal, ours map[storage.KeyspaceID]storage.KeyspaceTotal) []storage.KeyspaceTotal {
	out := slices.Clone(theirs)
	held := map[storage.KeyspaceID]bool{}
	for _, t := range theirs {
		held[t.ID] = true
	}
	for _, t := range ours {
		if !held[t.ID] && covers(y.l.kind, t.Scope) && !y.skips(t.ID) {
			out = append(out, storage.KeyspaceTotal{ID: t.ID, Scope: t.Scope})
		}
	}
	slices.SortFunc(out, func(a, b storage.KeyspaceTotal) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return out
}

func (y *syncer) ownTotals() map[storage.KeyspaceID]storage.KeyspaceTotal {
	v := y.e.Finished()
	defer v.Release()
	out := map[storage.KeyspaceID]storage.KeyspaceTotal{}
	for _, t := range v.Totals() {
		out[t.ID] = t
	}
	return out
}

// total tells status how many records the keyspaces that differ have.
func (y *syncer) total(theirs []storage.KeyspaceTotal, ours map[storage.KeyspaceID]storage.KeyspaceTotal) {
	var n uint64
	for _, t := range theirs {
		if ours[t.ID].Total != t.Total {
			n += t.Count
		}
	}
	y.l.n.link[y.l.kind].update(func(s *linkState) { s.SyncDone, s.SyncTotal = 0, n })
}

// keyspace makes one keyspace, from low on, what the feeder has.
func (y *syncer) keyspace(ctx context.Context, theirs, ours storage.KeyspaceTotal, low []byte, readAt wal.Position) error {
	y.ks, y.open = theirs, false
	c := &comparer{
		keyspace: theirs.ID, own: func() ownSide { return y.e.Finished() }, feeder: y.bulk,
		found: y.found,
	}
	var err error
	switch {
	case len(low) == 0 && ours.Total == theirs.Total:
		err = y.found(ctx, &difference{ReadAt: readAt})
	case theirs.Count == 0: // also one that the feeder does not hold: there is nothing to ask it for
		y.differ()
		err = y.apply(ctx, &engine.SyncRange{Low: low, ReadAt: readAt})
	case len(low) == 0 && ours.Count == 0:
		err = y.found(ctx, &difference{Whole: true, ReadAt: readAt})
	default:
		err = c.run(ctx, low)
	}
	if err != nil {
		return err
	}
	return y.flush(ctx)
}

// found takes what the comparer reports, in key order and without gaps.
func (y *syncer) found(ctx context.Context, d *difference) error {
	if d.Whole {
		y.differ()
		if err := y.flush(ctx); err != nil {
			return err
		}
		return y.copyRange(ctx, d)
	}
	if !y.open {
		y.fix, y.fixLen, y.open = difference{Low: d.Low}, 0, true
	}
	if len(d.Keys)+len(d.Gone) > 0 {
		y.differ()
	}
	y.fix.High, y.fix.ReadAt = d.High, later(y.fix.ReadAt, d.ReadAt)
	y.fix.Keys, y.fix.Gone = append(y.fix.Keys, d.Keys...), append(y.fix.Gone, d.Gone...)
	for _, k := range d.Keys {
		y.fixLen += len(k)
	}
	if len(y.fix.Keys) >= fixKeys || y.fixLen >= fixBytes || len(y.fix.Gone) >= fixGone {
		return y.flush(ctx)
	}
	y.publish(0)
	return nil
}

// differ tells the machine, once, that there is something to receive.
func (y *syncer) differ() {
	if !y.told {
		y.told = true
		y.sub.tell(Event{Kind: RangesDiffer})
	}
}

// flush applies what was found so far in neighbouring ranges, and makes durable that they have been compared.
func (y *syncer) flush(ctx context.Context) error {
	if !y.open {
		return nil
	}
	y.open = false
	d := &y.fix
	keys := d.Keys
	for len(keys) > 0 { // as many as one request takes
		n := min(len(keys), maxKeys)
		size := 0
		for i := range keys[:n] {
			if size += len(keys[i]); size > maxKeyBytes && i > 0 {
				n = i
				break
			}
		}
		part := *d
		if part.Keys = keys[:n]; n < len(keys) {
			part.High = keys[n]
		}
		if err := y.fetch(ctx, &part); err != nil {
			return err
		}
		keys, d.Low = keys[n:], part.High
		if len(keys) == 0 {
			return nil
		}
	}
	return y.apply(ctx, &engine.SyncRange{Low: d.Low, High: d.High, Gone: d.Gone, Partial: true, ReadAt: d.ReadAt})
}

// fetch receives the records of keys and applies them with what is to be deleted between. A key that the feeder has dropped meanwhile is deleted here, too.
func (y *syncer) fetch(ctx context.Context, d *difference) error {
	low, keys, gone := d.Low, d.Keys, d.Gone
	return y.bulk.records(ctx, &span{Keyspace: y.ks.ID, Low: d.Low, High: d.High}, d.Keys, func(ch *chunk) error {
		r := &engine.SyncRange{Low: low, High: d.High, Records: ch.Records, Partial: true, ReadAt: later(d.ReadAt, ch.ReadAt)}
		if ch.Next != nil {
			r.High = ch.Next
		}
		inside := span{Low: low, High: r.High}
		i := 0
		for len(keys) > 0 && inside.contains(keys[0]) {
			if i < len(ch.Records) && bytes.Equal(ch.Records[i].Key, keys[0]) {
				i++
			} else {
				r.Gone = append(r.Gone, keys[0])
			}
			keys = keys[1:]
		}
		if i != len(ch.Records) {
			return malformed("records that were not asked for")
		}
		for _, k := range gone {
			if inside.contains(k) {
				r.Gone = append(r.Gone, k)
			}
		}
		low = r.High
		return y.apply(ctx, r)
	})
}

// copyRange receives a whole range, chunk by chunk; each is durable before the next is applied.
func (y *syncer) copyRange(ctx context.Context, d *difference) error {
	low := d.Low
	return y.bulk.records(ctx, &span{Keyspace: y.ks.ID, Low: d.Low, High: d.High}, nil, func(ch *chunk) error {
		r := &engine.SyncRange{Low: low, High: d.High, Records: ch.Records, ReadAt: later(d.ReadAt, ch.ReadAt)}
		if ch.Next != nil {
			r.High = ch.Next
		}
		low = r.High
		return y.apply(ctx, r)
	})
}

func (y *syncer) apply(ctx context.Context, r *engine.SyncRange) error {
	r.Keyspace, r.Scope = y.ks.ID, y.ks.Scope
	y.until = later(y.until, r.ReadAt)
	change, err := y.decides(r)
	if err != nil {
		return err
	}
	// Not cut short by a lost connection: a range applied is a range that is not sent again.
	if err := y.e.ApplyRange(y.l.ctx, r); err != nil {
		return fmt.Errorf("applying a range: %w", err)
	}
	n := uint64(len(r.Records) + len(r.Gone))
	y.fixed += n
	y.decided.add(change)
	y.l.keysFixed.Add(n)
	y.l.progress.Store(true)
	y.publish(n)
	return ctx.Err()
}

// decides counts what a range is about to change, unless this is the first filling, and archives it when this cluster may be the only one that has it.
func (y *syncer) decides(r *engine.SyncRange) (decided, error) {
	keeping := y.l.keeping.Load()
	if !y.l.deciding.Load() && !keeping {
		return decided{}, nil
	}
	v := y.e.Finished()
	defer v.Release()
	if !keeping {
		return decides(v, r, nil)
	}
	d, err := decides(v, r, func(rec *storage.Record, removed bool) error { return y.keep(r, rec, removed) })
	if err == nil && y.kept != nil {
		err = y.kept.Flush()
	}
	return d, err
}

// publish adds to status what the sync has cost since it was last told.
func (y *syncer) publish(records uint64) {
	diff, sync := y.diffBytes(), y.syncBytes()
	y.l.n.link[y.l.kind].update(func(s *linkState) {
		s.DiffBytes += diff - y.shown[0]
		s.SyncBytes += sync - y.shown[1]
		s.SyncDone = min(s.SyncDone+records, max(s.SyncTotal, s.SyncDone))
	})
	y.shown = [2]uint64{diff, sync}
}
