package storage

import (
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/merkle"
)

// fileTx is one transaction of the checkpointer: it changes rows and, with
// them, leaves and totals, and writes at its end all that is then true of the file.
type fileTx struct {
	s       *State
	tx      *bolt.Tx
	writers map[KeyspaceID]*ksWriter
	dirty   map[KeyspaceID]struct{} // keyspaces whose entry is to be written
	bytes   int64                   // of keys and values changed
	records int
}

// update runs fn in one synced transaction, after which the file's mark is m. When it fails
// the state refuses further changes: what memory knows of the file is no longer true.
func (s *State) update(m *Mark, fn func(t *fileTx) error) error {
	if s.failed != nil {
		return s.failed
	}
	err := s.file.Update(func(tx *bolt.Tx) error {
		t := &fileTx{s: s, tx: tx, writers: map[KeyspaceID]*ksWriter{}, dirty: map[KeyspaceID]struct{}{}}
		if err := fn(t); err != nil {
			return err
		}
		return t.finish(m)
	})
	if err != nil {
		s.failed = fmt.Errorf("the state file takes no changes until it is opened again: %w", err)
		return err
	}
	s.written = m.clone()
	return nil
}

// finish writes leaves, keyspaces and mark.
func (t *fileTx) finish(m *Mark) error {
	for id, w := range t.writers {
		if err := w.writeLeaves(); err != nil {
			return fmt.Errorf("%s: leaves of keyspace %s: %w", t.s.opts.Path, id, err)
		}
		t.dirty[id] = struct{}{}
	}
	keyspaces, meta := t.tx.Bucket(bucketKeyspaces), t.tx.Bucket(bucketMeta)
	if keyspaces == nil || meta == nil {
		return fmt.Errorf("%s: a bucket is missing", t.s.opts.Path)
	}
	for id := range t.dirty {
		t.s.stale[id] = struct{}{}
		d := t.s.disk[id]
		entry := encodeKeyspace(id, &d.info)
		now := summaryOf(id, entry)
		if d.entry == nil {
			t.s.kspace.Replace(nil, &now)
		} else {
			before := summaryOf(id, d.entry)
			t.s.kspace.Replace(&before, &now)
		}
		d.entry = entry
		if err := keyspaces.Put(id[:], entry); err != nil {
			return fmt.Errorf("%s: entry of keyspace %s: %w", t.s.opts.Path, id, err)
		}
	}
	return meta.Put(keyMark, t.s.seal.sealMark(encodeMark(m, t.s.kspace)))
}

// keyspace returns what the file holds of a keyspace, made when it is new, to be written at the end.
func (t *fileTx) keyspace(id KeyspaceID, scope Scope) *diskInfo {
	d := t.s.disk[id]
	if d == nil {
		d = &diskInfo{info: info{scope: scope}, leaves: merkle.NewLeaves()}
		t.s.disk[id] = d
	}
	t.dirty[id] = struct{}{}
	return d
}

// writer returns the writer of a keyspace's rows.
func (t *fileTx) writer(id KeyspaceID, scope Scope) (*ksWriter, error) {
	if w := t.writers[id]; w != nil {
		return w, nil
	}
	w := &ksWriter{t: t, id: id, disk: t.keyspace(id, scope), key: t.s.keys.key(id), touched: map[string]struct{}{}}
	var err error
	if w.rows, err = t.tx.CreateBucketIfNotExists(bucketName(prefixRows, id)); err != nil {
		return nil, err
	}
	if w.leaves, err = t.tx.CreateBucketIfNotExists(bucketName(prefixLeaves, id)); err != nil {
		return nil, err
	}
	if w.disk.total.Count == 0 && w.leaves.Get(leafKey("")) == nil {
		w.touched[""] = struct{}{}
	}
	t.writers[id] = w
	return w, nil
}

// ksWriter changes the rows of one keyspace in one transaction.
type ksWriter struct {
	t            *fileTx
	id           KeyspaceID
	disk         *diskInfo
	key          *merkle.Key
	rows, leaves *bolt.Bucket
	touched      map[string]struct{} // low keys of leaves that changed, came or went
	slab         slab
}

// stored returns the digest that the file has beside a key; nil when it has no such row. It was found in
// a page that nobody has checked: what is wrong in it shows in the sum of the leaves.
func (w *ksWriter) stored(key []byte) *merkle.Digest {
	value := w.rows.Get(key)
	if value == nil {
		return nil
	}
	r, err := decodeRow(key, value)
	if err != nil {
		w.t.s.found(w.id, key, "the record cannot be read: %v", err)
	}
	return &r.digest
}

// put writes a row over what stood there (old; nil: nothing). bbolt keeps the row until the commit: each needs memory of
// its own.
func (w *ksWriter) put(key, row []byte, digest, old *merkle.Digest) error {
	if err := w.rows.Put(key, row); err != nil {
		return fmt.Errorf("put key %q: %w", key, err)
	}
	w.replace(key, old, digest)
	if old == nil {
		if level := w.key.Level(key); level > 0 {
			w.split(key, level)
		}
	}
	w.t.records++
	w.t.bytes += int64(len(key) + len(row))
	return nil
}

// remove takes a row away, whose stored digest is old.
func (w *ksWriter) remove(key []byte, old *merkle.Digest) error {
	if err := w.rows.Delete(key); err != nil {
		return fmt.Errorf("delete key %q: %w", key, err)
	}
	w.replace(key, old, nil)
	if leaf, ok := w.disk.leaves.At(string(key)); ok {
		w.disk.leaves.Join(leaf.Low)
		w.touched[leaf.Low] = struct{}{}
		before, _, _ := w.disk.leaves.Find(key)
		w.touched[before.Low] = struct{}{}
	}
	w.t.records++
	w.t.bytes += int64(len(key))
	return nil
}

func (w *ksWriter) replace(key []byte, old, new *merkle.Digest) {
	w.disk.total.Replace(old, new)
	w.touched[w.disk.leaves.Replace(key, old, new)] = struct{}{}
}

// split starts a leaf at a key that was just put: one scan of the rest of its leaf.
func (w *ksWriter) split(key []byte, level int) {
	_, high, last := w.disk.leaves.Find(key)
	var right merkle.Total
	c := w.rows.Cursor()
	for k, v := c.Seek(key); k != nil && (last || string(k) < high); k, v = c.Next() {
		r, _ := decodeRow(k, v) // what is wrong here shows in the leaf it is now in
		right.Replace(nil, &r.digest)
	}
	w.disk.leaves.Split(string(key), level, right)
	w.touched[string(key)] = struct{}{}
}

// writeLeaves writes the leaves that changed.
func (w *ksWriter) writeLeaves() error {
	for low := range w.touched {
		key := leafKey(low)
		leaf, ok := w.disk.leaves.At(low)
		var err error
		if ok {
			err = w.leaves.Put(key, encodeLeaf(key, &leaf))
		} else {
			err = w.leaves.Delete(key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// row makes the bytes of a row.
func (w *ksWriter) row(key []byte, index uint64, digest *merkle.Digest, value []byte) []byte {
	return w.t.s.seal.appendRow(w.slab.take(w.t.s.seal.rowSize(len(value))), w.id, key, index, digest, value)
}

// slab is memory that is handed out in pieces.
type slab []byte

// take returns an empty slice with room for n bytes that nothing else uses.
func (s *slab) take(n int) []byte {
	const size = 256 << 10
	if n > size/4 {
		return make([]byte, 0, n)
	}
	b := *s
	if n > cap(b)-len(b) {
		b = make([]byte, 0, size)
	}
	at := len(b)
	*s = b[:at+n]
	return b[at : at : at+n]
}
