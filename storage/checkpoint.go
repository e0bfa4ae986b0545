package storage

import (
	"context"
	"fmt"
	"maps"
	"unsafe"

	"github.com/tidwall/btree"

	"github.com/lockstepdb/lockstep/wal"
)

// frozenState is what a checkpoint makes durable: a table, and everything else as of its last entry.
type frozenState struct {
	table   *table
	live    *btree.Map[string, *info]
	pos     wal.Position
	chain   wal.Hash
	cursors map[string]wal.Position
	sync    *SyncState
}

// Checkpoint freezes the active table and flushes it (ENGINE section 2 and 4): sorted, coalesced, in
// bounded synced transactions, each with leaves and totals of exactly what the file then holds. On any
// failure of a commit the state is to be closed and recovered. When ctx ends between two transactions it
// returns with what is left to be written still readable, and the next call writes all of it again.
func (s *State) Checkpoint(ctx context.Context) error {
	s.work.Lock()
	defer s.work.Unlock()
	if err := s.writable(); err != nil {
		return err
	}
	if s.pending != nil {
		if err := s.flush(ctx, s.pending); err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
	}
	f := s.freeze()
	if f == nil {
		return nil
	}
	s.pending = f
	if err := s.flush(ctx, f); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// writable reports whether the file may be changed. The caller holds s.work.
func (s *State) writable() error {
	if s.opts.ReadOnly {
		return fmt.Errorf("%s: %w", s.opts.Path, ErrReadOnly)
	}
	return s.failed
}

// freeze puts a new table in place of the active one; nil when nothing waits.
func (s *State) freeze() *frozenState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.changed {
		return nil
	}
	f := &frozenState{
		table:   s.active,
		live:    s.live.Copy(),
		pos:     s.pos,
		chain:   s.chain,
		cursors: maps.Clone(s.cursors),
		sync:    s.sync,
	}
	s.frozen, s.active, s.changed = s.active, newTable(), false
	return f
}

// flush writes a frozen table and swaps the view.
func (s *State) flush(ctx context.Context, f *frozenState) error {
	mark := s.written.clone()
	mark.ConsistentAt = max(mark.ConsistentAt, f.pos.Index)
	it := f.table.recs.Iter()
	more := it.First()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		var chunk []chunkRow
		chunk, more = s.nextChunk(&it, more)
		if !more {
			mark.Applied, mark.Chain = f.pos, f.chain
			mark.Cursors, mark.Sync = f.cursors, f.sync
			if mark.ConsistentAt <= f.pos.Index {
				mark.ConsistentAt = 0
			}
		}
		err := s.update(&mark, func(t *fileTx) error {
			if err := t.write(chunk, f); err != nil {
				return err
			}
			if more {
				return nil
			}
			return t.close(f, &mark)
		})
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	return s.finishCheckpoint(f, mark)
}

// chunkRow is a change of a table with the row that it becomes, sealed before the transaction begins.
type chunkRow struct {
	key string
	rec *rec
	row []byte // nil when it is deleted
}

func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// nextChunk takes the changes of the next transaction; more is false when they are the last.
func (s *State) nextChunk(it *btree.MapIter[string, *rec], more bool) ([]chunkRow, bool) {
	var chunk []chunkRow
	var rows slab
	var size int64
	for more && len(chunk) < s.opts.ChunkRecords && size < s.opts.ChunkBytes {
		c := chunkRow{key: it.Key(), rec: it.Value()}
		if !c.rec.deleted {
			ks, key := splitTableKey(c.key)
			c.row = s.seal.appendRow(rows.take(s.seal.rowSize(len(c.rec.value))), ks, bytesOf(key), c.rec.index, &c.rec.digest, c.rec.value)
		}
		chunk = append(chunk, c)
		size += int64(len(c.key) + len(c.rec.value))
		more = it.Next()
	}
	return chunk, more
}

// write brings a chunk of a table into the file.
func (t *fileTx) write(chunk []chunkRow, f *frozenState) error {
	for i := range chunk {
		ks, k := splitTableKey(chunk[i].key)
		live, ok := f.live.Get(chunk[i].key[:idSize])
		if !ok {
			return fmt.Errorf("internal error: keyspace %s has records but no entry", ks)
		}
		w, err := t.writer(ks, live.scope)
		if err != nil {
			return fmt.Errorf("%s: keyspace %s: %w", t.s.opts.Path, ks, err)
		}
		key, r := bytesOf(k), chunk[i].rec
		old := w.stored(key)
		switch {
		case !r.deleted:
			err = w.put(key, chunk[i].row, &r.digest, old)
		case old != nil:
			err = w.remove(key, old)
		}
		if err != nil {
			return fmt.Errorf("%s: keyspace %s: %w", t.s.opts.Path, ks, err)
		}
	}
	return nil
}

// close makes the entries of all keyspaces that the table's entries named what they are after the last
// of them, and compares totals: the file is one moment again.
func (t *fileTx) close(f *frozenState, mark *Mark) error {
	for id := range f.table.touched {
		live, ok := f.live.Get(string(id[:]))
		if !ok {
			return fmt.Errorf("internal error: keyspace %s was touched but has no entry", id)
		}
		d := t.keyspace(id, live.scope)
		d.detachedAt, d.floor = live.detachedAt, live.floor
		if mark.ConsistentAt != 0 || mark.Sync != nil || d.detachedAt != 0 {
			continue
		}
		if d.leaves.Total() == live.total {
			d.total, d.suspect = live.total, false
			continue
		}
		if !d.suspect {
			t.s.found(id, nil, "the leaves do not add up to the digest at index %d: they hold %d records of %d, or others; the range index must be rebuilt",
				f.pos.Index, d.leaves.Total().Count, live.total.Count)
		}
		d.total, d.suspect = live.total, true
		mark.ReindexNeeded = true
	}
	return nil
}

// finishCheckpoint lets readers see the file as it is now.
func (s *State) finishCheckpoint(f *frozenState, mark Mark) error {
	view, err := s.newView(&mark)
	if err != nil {
		s.failed = fmt.Errorf("the state cannot read what it wrote and must be opened again: %w", err)
		return err
	}
	s.swapView(view, func() { s.frozen, s.mark = nil, mark })
	s.pending = nil
	s.verifyTouched(view, f)
	return nil
}

// swapView replaces the readers' view; also is done in the same moment.
func (s *State) swapView(view *fileView, also func()) {
	s.mu.Lock()
	old := s.view
	s.view, s.gen = view, view.gen
	also()
	s.mu.Unlock()
	old.unref()
}

// verifyBytes bounds what one checkpoint hashes again.
const verifyBytes = 64 << 20

// verifyTouched hashes again the records of some of the leaves that a checkpoint touched, spread
// evenly over them, and compares them with the leaves. Damage goes to Found.
func (s *State) verifyTouched(view *fileView, f *frozenState) {
	n := f.table.recs.Len()
	if n == 0 || s.opts.VerifyLeaves < 0 {
		return
	}
	step := max(1, n/s.opts.VerifyLeaves)
	budget := int64(verifyBytes)
	var lastKs KeyspaceID
	lastLow := "\xff"
	for at := 0; at < n && budget > 0; at += step {
		key, _, _ := f.table.recs.GetAt(at)
		ks, k := splitTableKey(key)
		info := view.keyspaces[ks]
		if info == nil {
			continue
		}
		leaf, _, _ := info.leaves.Find([]byte(k))
		if ks == lastKs && leaf.Low == lastLow {
			continue
		}
		lastKs, lastLow = ks, leaf.Low
		_ = view.read(func() error { // what is wrong was passed to Found where it was met
			rows, err := view.leafRows(ks, []byte(leaf.Low), nil)
			if err != nil {
				return err
			}
			digestKey := s.keys.key(ks)
			for i := range rows {
				budget -= int64(len(rows[i].value))
				value, err := s.seal.value(ks, rows[i].key, &rows[i].row)
				switch {
				case err != nil:
					s.found(ks, rows[i].key, "the record cannot be read: %v", err)
				case digestKey.Record(rows[i].key, value) != rows[i].digest:
					s.found(ks, rows[i].key, "the record does not hash to its digest")
				}
			}
			return nil
		})
	}
}
