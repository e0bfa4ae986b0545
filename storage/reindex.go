package storage

import (
	"bytes"
	"context"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/wal"
)

// Reindex hashes every record anew, rewrites stored digests that do not match, and rebuilds leaves and totals
// from them: the digests then tell the truth about the records, so that a diff finds what is wrong. It returns how many records' stored digests were wrong.
// Totals as of the newest applied entry are computed anew too, what waits in the tables included. Interrupted by ctx or a crash it leaves
// Mark().ReindexNeeded and Mark().Reindexing. Rows out of order, which no digest can mend, are a *Damage.
func (s *State) Reindex(ctx context.Context, progress func(done, total uint64)) (uint64, error) {
	s.work.Lock()
	defer s.work.Unlock()
	if err := s.writable(); err != nil {
		return 0, fmt.Errorf("reindex: %w", err)
	}
	if s.pending != nil { // what it began to write belongs to no finished moment
		if err := s.flush(ctx, s.pending); err != nil {
			return 0, fmt.Errorf("reindex: %w", err)
		}
	}
	r := &reindexer{s: s, progress: progress}
	if err := r.run(ctx); err != nil {
		return r.wrong, fmt.Errorf("reindex: %w", err)
	}
	return r.wrong, nil
}

type reindexer struct {
	s        *State
	progress func(done, total uint64)
	done, of uint64
	wrong    uint64
}

func (r *reindexer) run(ctx context.Context) error {
	s := r.s
	mark := s.written.clone()
	mark.ReindexNeeded, mark.Reindexing = true, true
	if err := s.update(&mark, func(*fileTx) error { return nil }); err != nil {
		return err
	}
	ids := make([]KeyspaceID, 0, len(s.disk))
	for id, d := range s.disk {
		ids = append(ids, id)
		r.of += d.total.Count
	}
	for _, id := range ids {
		if err := r.keyspace(ctx, id); err != nil {
			return err
		}
	}
	mark = s.written.clone()
	mark.ReindexNeeded, mark.Reindexing = false, false
	if err := s.update(&mark, func(*fileTx) error { return nil }); err != nil {
		return err
	}
	return s.publishReindexed()
}

// keyspace hashes the rows of one keyspace and replaces its leaves.
func (r *reindexer) keyspace(ctx context.Context, id KeyspaceID) error {
	b := &leafBuilder{}
	for next, more := []byte(nil), true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		var fixes []rangeOp
		var err error
		if fixes, next, more, err = r.scan(id, next, b); err != nil {
			return err
		}
		if len(fixes) == 0 {
			continue
		}
		mark := r.s.written.clone()
		if err := r.s.update(&mark, func(t *fileTx) error { return t.fix(id, fixes) }); err != nil {
			return err
		}
	}
	leaves, _ := merkle.LoadLeaves(b.all())
	return r.s.replaceLeaves(id, leaves)
}

// scan hashes some rows from next on and lists those to rewrite.
func (r *reindexer) scan(id KeyspaceID, next []byte, b *leafBuilder) (fixes []rangeOp, rest []byte, more bool, err error) {
	key := r.s.keys.key(id)
	err = r.s.file.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(bucketName(prefixRows, id))
		if bucket == nil {
			return nil
		}
		c := bucket.Cursor()
		size := int64(0)
		for k, v := c.Seek(next); k != nil; k, v = c.Next() {
			if size > r.s.opts.ChunkBytes || len(fixes) >= r.s.opts.ChunkRecords {
				more = true
				return nil
			}
			if bytes.Compare(k, rest) <= 0 && rest != nil || bytes.Compare(k, next) < 0 {
				return r.s.found(id, k, "the record is out of order; the keyspace must be filled again from another cluster")
			}
			if len(k) > MaxKey {
				return r.s.found(id, k, "a key of %d bytes is longer than any; the keyspace must be filled again from another cluster", len(k))
			}
			rest = append(bytes.Clone(k), 0)
			size += int64(len(k) + len(v))
			r.done++
			row, err := decodeRow(k, v)
			if _, newer := err.(*wal.VersionError); newer {
				return fmt.Errorf("keyspace %s, key %q: %w", id, k, err)
			}
			if len(v) < rowHeader {
				fixes = append(fixes, rangeOp{key: bytes.Clone(k)})
				r.wrong++
				continue
			}
			value, unread := r.s.seal.value(id, k, &row)
			if r.s.wantsKey(unread) {
				return fmt.Errorf("keyspace %s, key %q: %w", id, k, unread)
			}
			if unread != nil { // its value is lost
				fixes = append(fixes, rangeOp{key: bytes.Clone(k)})
				r.wrong++
				continue
			}
			d := key.Record(k, value)
			if err != nil || d != row.digest {
				rec := &Record{Value: bytes.Clone(value), Index: row.index}
				if err != nil && row.index > r.s.pos.Index {
					rec.Index = 0
				}
				fixes = append(fixes, rangeOp{key: bytes.Clone(k), rec: rec, digest: d})
				r.wrong++
			}
			b.add(k, key.Level(k), &d)
		}
		return nil
	})
	if r.progress != nil {
		r.progress(min(r.done, r.of), r.of)
	}
	return fixes, rest, more, err
}

// fix rewrites rows whose digests were wrong; leaves and totals follow when all are known.
func (t *fileTx) fix(id KeyspaceID, fixes []rangeOp) error {
	rows := t.tx.Bucket(bucketName(prefixRows, id))
	if rows == nil {
		return fmt.Errorf("%s: keyspace %s: its records are missing", t.s.opts.Path, id)
	}
	for i := range fixes {
		f := &fixes[i]
		var err error
		if f.rec == nil {
			err = rows.Delete(f.key)
		} else {
			err = rows.Put(f.key, t.s.seal.appendRow(nil, id, f.key, f.rec.Index, &f.digest, f.rec.Value))
		}
		if err != nil {
			return fmt.Errorf("%s: keyspace %s, key %q: %w", t.s.opts.Path, id, f.key, err)
		}
	}
	return nil
}

// leafBuilder cuts records, given in order, into leaves.
type leafBuilder struct {
	leaves []merkle.Leaf
}

func (b *leafBuilder) add(key []byte, level int, d *merkle.Digest) {
	if len(b.leaves) == 0 {
		b.leaves = append(b.leaves, merkle.Leaf{})
	}
	if level > 0 {
		b.leaves = append(b.leaves, merkle.Leaf{Low: string(key), Level: uint8(level)})
	}
	b.leaves[len(b.leaves)-1].Replace(nil, d)
}

// all gives the leaves one by one.
func (b *leafBuilder) all() func() (merkle.Leaf, bool) {
	if len(b.leaves) == 0 {
		b.leaves = append(b.leaves, merkle.Leaf{})
	}
	i := 0
	return func() (merkle.Leaf, bool) {
		if i == len(b.leaves) {
			return merkle.Leaf{}, false
		}
		i++
		return b.leaves[i-1], true
	}
}

// replaceLeaves writes other leaves in place of a keyspace's, and its total with the last of them.
func (s *State) replaceLeaves(id KeyspaceID, leaves *merkle.Leaves) error {
	for more := true; more; {
		mark := s.written.clone()
		err := s.update(&mark, func(t *fileTx) (err error) {
			more, err = t.clearLeaves(id)
			return err
		})
		if err != nil {
			return err
		}
	}
	for from, more := "", true; more; {
		mark := s.written.clone()
		err := s.update(&mark, func(t *fileTx) (err error) {
			if from, more, err = t.storeLeaves(id, leaves, from); err != nil || more {
				return err
			}
			d := t.keyspace(id, 0)
			d.leaves, d.total, d.suspect = leaves, leaves.Total(), false
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *fileTx) clearLeaves(id KeyspaceID) (more bool, err error) {
	b := t.tx.Bucket(bucketName(prefixLeaves, id))
	if b == nil {
		return false, nil
	}
	var keys [][]byte
	c := b.Cursor()
	k, _ := c.First()
	for ; k != nil && len(keys) < t.s.opts.ChunkRecords; k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, key := range keys {
		if err := b.Delete(key); err != nil {
			return false, fmt.Errorf("%s: leaves of keyspace %s: %w", t.s.opts.Path, id, err)
		}
	}
	return k != nil, nil
}

// storeLeaves writes leaves from a low key on; it returns where the rest begins.
func (t *fileTx) storeLeaves(id KeyspaceID, leaves *merkle.Leaves, from string) (rest string, more bool, err error) {
	b, err := t.tx.CreateBucketIfNotExists(bucketName(prefixLeaves, id))
	if err != nil {
		return "", false, err
	}
	b.FillPercent = bulkFill
	n := 0
	leaves.Ascend([]byte(from), func(leaf merkle.Leaf, _ string, _ bool) bool {
		if n++; n > t.s.opts.ChunkRecords {
			rest, more = leaf.Low, true
			return false
		}
		key := leafKey(leaf.Low)
		err = b.Put(key, encodeLeaf(key, &leaf))
		return err == nil
	})
	return rest, more, err
}

// publishReindexed shows readers the file as it is, and computes the totals of the newest applied
// entry from it and the tables.
func (s *State) publishReindexed() error {
	mark := s.mark.clone()
	mark.ReindexNeeded, mark.Reindexing = false, false
	view, err := s.newView(&mark)
	if err != nil {
		s.failed = fmt.Errorf("the state cannot read what it wrote and must be opened again: %w", err)
		return err
	}
	s.swapView(view, func() {
		s.mark = mark
		err = s.recountLocked(view)
	})
	return err
}

// recountLocked sets all totals to those of the file with the tables over it.
func (s *State) recountLocked(view *fileView) error {
	fresh := map[KeyspaceID]*info{}
	s.live.Scan(func(id string, k *info) bool {
		c := *k
		c.total = merkle.Total{}
		ks := KeyspaceID([]byte(id))
		if f := view.keyspaces[ks]; f != nil && c.detachedAt == 0 {
			c.total = f.total
		}
		fresh[ks] = &c
		return true
	})
	var err error
	s.active.recs.Scan(func(key string, r *rec) bool { // nothing is frozen: no checkpoint is under way
		ks, k := splitTableKey(key)
		if fresh[ks].detachedAt != 0 {
			return true
		}
		var old Old
		if old, err = view.old(ks, []byte(k)); err != nil {
			return false
		}
		var before, after *merkle.Digest
		if old.Present {
			before = &old.Digest
		}
		if !r.deleted {
			after = &r.digest
		}
		fresh[ks].total.Replace(before, after)
		return true
	})
	if err != nil {
		return err
	}
	for id, k := range fresh {
		s.live.Set(string(id[:]), k)
	}
	return nil
}
