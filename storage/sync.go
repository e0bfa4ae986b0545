package storage

import (
	"bytes"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/wal"
)

// bulkFill is how full a bulk load leaves the file's pages: its records come in
// order and few will follow between them.
const bulkFill = 0.9

// tablesEmpty reports whether nothing that Apply did waits for a checkpoint. The caller holds s.work.
func (s *State) tablesEmpty() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.pending == nil && s.frozen == nil && len(s.active.touched) == 0
}

// bulk begins a bulk change of the file; the caller holds s.work.
func (s *State) bulk() error {
	if err := s.writable(); err != nil {
		return err
	}
	if !s.tablesEmpty() {
		return fmt.Errorf("%s: %w", s.opts.Path, ErrTablesNotEmpty)
	}
	return nil
}

// SetSync stores the state of a sync in the file (nil: ended), synced. Only while no table content waits
// (ErrTablesNotEmpty); callers checkpoint first. When a sync ends, Totals returns what the file holds: whether that is
// what the feeder has is the caller's to compare.
func (s *State) SetSync(sync *SyncState) error {
	s.work.Lock()
	defer s.work.Unlock()
	if err := s.bulk(); err != nil {
		return fmt.Errorf("store the state of a sync: %w", err)
	}
	mark := s.written.clone()
	mark.Sync = sync.clone()
	if err := s.update(&mark, func(*fileTx) error { return nil }); err != nil {
		return fmt.Errorf("store the state of a sync: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ended := s.sync != nil && sync == nil; ended {
		for id, d := range s.disk {
			k := d.info
			s.live.Set(string(id[:]), &k)
		}
	}
	s.mark.Sync, s.sync = mark.Sync, mark.Sync.clone()
	return nil
}

// StartAfter makes the file's applied place p, e.g. when a sync of a DR secondary has its ranges and replays its log from S+1.
// Another place than before raises every keyspace's floor to it: the own log no longer leads there. The tables must be
// empty (ErrTablesNotEmpty).
func (s *State) StartAfter(p wal.Position, chain wal.Hash, sync *SyncState) error {
	s.work.Lock()
	defer s.work.Unlock()
	if err := s.bulk(); err != nil {
		return fmt.Errorf("start after index %d: %w", p.Index, err)
	}
	mark := s.written.clone()
	moved := mark.Applied != p
	mark.Applied, mark.Chain, mark.ConsistentAt, mark.Sync = p, chain, 0, sync.clone()
	touched := map[KeyspaceID]struct{}{}
	err := s.update(&mark, func(t *fileTx) error {
		for id, d := range s.disk {
			if moved && d.floor < p.Index {
				t.keyspace(id, d.scope).floor = p.Index
				touched[id] = struct{}{}
			}
		}
		return nil
	})
	if err == nil {
		err = s.publish(mark, touched)
	}
	if err != nil {
		return fmt.Errorf("start after index %d: %w", p.Index, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pos, s.chain, s.sync = p, chain, mark.Sync.clone()
	return nil
}

// publish shows readers the file as it is after a bulk change, which the tables had no part in.
func (s *State) publish(mark Mark, touched map[KeyspaceID]struct{}) error {
	view, err := s.newView(&mark)
	if err != nil {
		s.failed = fmt.Errorf("the state cannot read what it wrote and must be opened again: %w", err)
		return err
	}
	s.swapView(view, func() {
		s.mark, s.sync = mark, mark.Sync.clone()
		for id := range touched {
			k := s.disk[id].info
			s.live.Set(string(id[:]), &k)
		}
	})
	return nil
}

// ReplaceRange makes the file's records of [low, high) of a keyspace exactly recs, sorted by key (those that differ
// are rewritten, others removed), with leaves, totals and the sync state, in bounded synced transactions; the sync state
// is in the last one. The tables must be empty (ErrTablesNotEmpty). An empty high means to the end. Of recs Key, Value and Index are used.
// A keyspace that was detached is emptied and attached again.
func (s *State) ReplaceRange(ks KeyspaceID, scope Scope, low, high []byte, recs []Record, sync *SyncState) error {
	s.work.Lock()
	defer s.work.Unlock()
	if err := s.bulk(); err != nil {
		return fmt.Errorf("replace a range: %w", err)
	}
	if err := checkRange(low, high, recs); err != nil {
		return fmt.Errorf("replace a range of keyspace %s: %w", ks, err)
	}
	if err := s.replaceRange(ks, scope, low, high, recs, sync); err != nil {
		return fmt.Errorf("replace a range of keyspace %s: %w", ks, err)
	}
	return nil
}

func (s *State) replaceRange(ks KeyspaceID, scope Scope, low, high []byte, recs []Record, sync *SyncState) error {
	mark := s.written.clone()
	attach := func(t *fileTx) {
		d := t.keyspace(ks, scope)
		d.detachedAt = 0
		if sync != nil {
			d.floor = max(d.floor, sync.From.Index)
		}
	}
	if d := s.disk[ks]; d != nil && d.detachedAt != 0 {
		old := rangeWalk{}
		for !old.done {
			if err := s.update(&mark, func(t *fileTx) error { return t.step(ks, scope, &old) }); err != nil {
				return err
			}
		}
	}
	walk := rangeWalk{next: low, high: high, recs: recs}
	for !walk.done {
		err := s.update(&mark, func(t *fileTx) error {
			attach(t)
			if err := t.step(ks, scope, &walk); err != nil {
				return err
			}
			if walk.done {
				mark.Sync = sync.clone()
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := s.publish(mark, map[KeyspaceID]struct{}{ks: {}}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.dropped[ks]; ok {
		s.dropped = without(s.dropped, ks)
	}
	return nil
}

func without(m map[KeyspaceID]uint64, ks KeyspaceID) map[KeyspaceID]uint64 {
	c := make(map[KeyspaceID]uint64, len(m))
	for id, at := range m {
		if id != ks {
			c[id] = at
		}
	}
	return c
}

// checkRange refuses records that the file cannot take, or that are not in order and in range.
func checkRange(low, high []byte, recs []Record) error {
	for i := range recs {
		key := recs[i].Key
		c := Change{Op: Put, Key: key, Value: recs[i].Value}
		switch why := c.invalid(); {
		case why != "":
			return &Malformed{What: "range", Why: fmt.Sprintf("record %d: %s", i, why)}
		case bytes.Compare(key, low) < 0 || len(high) > 0 && bytes.Compare(key, high) >= 0:
			return &Malformed{What: "range", Why: fmt.Sprintf("record %d lies outside of it", i)}
		case i > 0 && bytes.Compare(recs[i-1].Key, key) >= 0:
			return &Malformed{What: "range", Why: fmt.Sprintf("record %d is out of order", i)}
		}
	}
	return nil
}

// rangeWalk goes along a range of the file and what it is to become, a transaction at a time.
type rangeWalk struct {
	next, high []byte   // what is left: [next, high)
	recs       []Record // those of it that are left
	done       bool
	ops        []rangeOp // memory of the last plan
}

// rangeOp is one change that a walk found necessary.
type rangeOp struct {
	key    []byte
	rec    *Record // nil: remove
	digest merkle.Digest
	old    *merkle.Digest
}

// step makes the next part of a range what it is to be.
func (t *fileTx) step(ks KeyspaceID, scope Scope, walk *rangeWalk) error {
	w, err := t.writer(ks, scope)
	if err != nil {
		return err
	}
	w.rows.FillPercent = bulkFill
	for _, op := range walk.plan(w, t.s.opts.ChunkRecords, t.s.opts.ChunkBytes) {
		if op.rec == nil {
			err = w.remove(op.key, op.old)
		} else {
			err = w.put(op.key, w.row(op.key, op.rec.Index, &op.digest, op.rec.Value), &op.digest, op.old)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// plan lists the changes of one transaction, all before the first is made: a cursor does not survive a change.
func (r *rangeWalk) plan(w *ksWriter, records int, size int64) []rangeOp {
	ops := r.ops[:0]
	c := w.rows.Cursor()
	k, v := c.Seek(r.next)
	var last []byte
	for len(ops) < records && size > 0 {
		row := k != nil && (len(r.high) == 0 || bytes.Compare(k, r.high) < 0)
		if !row && len(r.recs) == 0 {
			r.done = true
			break
		}
		order := -1 // what comes first: the record (-1), the row (1), both
		if row && len(r.recs) > 0 {
			order = bytes.Compare(r.recs[0].Key, k)
		} else if row {
			order = 1
		}
		if op, differs := r.compare(w, order, k, v); differs {
			ops = append(ops, op)
			size -= int64(len(op.key))
			if op.rec != nil {
				size -= int64(len(op.rec.Value))
			}
		}
		last = k
		if order <= 0 {
			last = r.recs[0].Key
			r.recs = r.recs[1:]
		}
		if order >= 0 {
			k, v = c.Next()
		}
	}
	if last != nil {
		r.next = append(bytes.Clone(last), 0)
	}
	r.ops = ops
	return ops
}

// compare returns what is to be done about the record or row that comes first.
func (r *rangeWalk) compare(w *ksWriter, order int, k, v []byte) (op rangeOp, differs bool) {
	var have row
	var damaged error
	if order >= 0 {
		have, damaged = decodeRow(k, v)
		op.old = &have.digest
	}
	if order > 0 {
		op.key = bytes.Clone(k)
		return op, true
	}
	op.rec = &r.recs[0]
	op.key = op.rec.Key
	op.digest = w.key.Record(op.key, op.rec.Value)
	if order != 0 || damaged != nil || have.digest != op.digest {
		return op, true
	}
	value, err := w.t.s.seal.value(w.id, k, &have)
	return op, err != nil || !bytes.Equal(value, op.rec.Value)
}

// sweepStep removes some rows of a detached keyspace, and its buckets with the last of them.
func (t *fileTx) sweepStep(ks KeyspaceID, walk *rangeWalk, limit int) error {
	w, err := t.writer(ks, t.s.disk[ks].scope)
	if err != nil {
		return err
	}
	for _, op := range walk.plan(w, min(limit, t.s.opts.ChunkRecords), t.s.opts.ChunkBytes) {
		if err := w.remove(op.key, op.old); err != nil {
			return err
		}
	}
	if !walk.done {
		return nil
	}
	delete(t.writers, ks)
	w.disk.leaves, w.disk.total = merkle.NewLeaves(), merkle.Total{}
	if err := t.tx.DeleteBucket(bucketName(prefixRows, ks)); err != nil {
		return err
	}
	return t.tx.DeleteBucket(bucketName(prefixLeaves, ks))
}

// hasRows reports whether the file has a bucket of rows for a keyspace.
func (s *State) hasRows(ks KeyspaceID) (has bool, err error) {
	err = s.file.View(func(tx *bolt.Tx) error {
		has = tx.Bucket(bucketName(prefixRows, ks)) != nil
		return nil
	})
	return has, err
}
