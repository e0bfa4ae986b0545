package storage

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"slices"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/wal"
)

// fileView is the file as one finished transaction left it: a read transaction
// shared by all readers, and a copy of what the checkpointer knew then.
type fileView struct {
	state      *State
	tx         *bolt.Tx
	refs       atomic.Int64
	gen        uint64
	walked     atomic.Int64 // keys remembered in keyspaces
	rebuilding bool         // the leaves are being rebuilt, and prove nothing yet
	keyspaces  map[KeyspaceID]*viewInfo
	pos        wal.Position
	chain      wal.Hash
}

type viewInfo struct {
	info
	leaves *merkle.Leaves              // never changed
	rows   atomic.Pointer[bolt.Bucket] // found by the first reader; only Get and cursors are used
	walked []atomic.Pointer[[]uint32]  // of each leaf by its slot, once it was found whole: hashes of the keys in it
}

func newViewInfo(i info, leaves *merkle.Leaves) *viewInfo {
	return &viewInfo{info: i, leaves: leaves, walked: make([]atomic.Pointer[[]uint32], leaves.Slots())}
}

// maxWalked bounds the keys whose hashes a view remembers: 4 MiB of them.
const maxWalked = 1 << 20

var walkSeed = maphash.MakeSeed()

func walkHash(key []byte) uint32 { return uint32(maphash.Bytes(walkSeed, key)) }

// newView opens a view of the file as it is now, with one reference. What changed since the present view
// is copied anew, the rest taken from it. The caller is the checkpointer.
func (s *State) newView(mark *Mark) (*fileView, error) {
	v := &fileView{state: s, gen: s.gen + 1, pos: mark.Applied, chain: mark.Chain, rebuilding: mark.Reindexing}
	v.keyspaces = make(map[KeyspaceID]*viewInfo, len(s.disk))
	for id, d := range s.disk {
		_, changed := s.stale[id]
		if changed || s.view == nil || s.view.keyspaces[id] == nil {
			v.keyspaces[id] = newViewInfo(d.info, d.leaves.Clone())
			continue
		}
		k := s.view.keyspaces[id]
		v.keyspaces[id] = newViewInfo(k.info, k.leaves) // not its bucket, which belongs to the transaction
	}
	clear(s.stale)
	tx, err := s.file.Begin()
	if err != nil {
		return nil, err
	}
	v.tx = tx
	v.refs.Store(1)
	return v, nil
}

// ref takes a reference; the caller holds s.mu, so that there is still one.
func (v *fileView) ref() *fileView {
	v.refs.Add(1)
	return v
}

func (v *fileView) unref() {
	if v.refs.Add(-1) == 0 {
		_ = v.state.file.Guard(v.tx.Rollback) // ends a reading: nothing can be lost
	}
}

// rows returns the bucket of a keyspace's rows; nil when there is none. To be
// called under Guard.
func (v *fileView) rows(ks KeyspaceID) *bolt.Bucket {
	k := v.keyspaces[ks]
	if b := k.rows.Load(); b != nil {
		return b
	}
	b := v.tx.Bucket(bucketName(prefixRows, ks))
	if b != nil {
		k.rows.Store(b)
	}
	return b
}

// get returns a record with its value, hashed and found right.
func (v *fileView) get(ks KeyspaceID, key []byte) (Record, error) {
	var found bool
	r := Record{Key: key}
	err := v.read(func() error {
		row, ok, err := v.row(ks, key)
		if err != nil || !ok {
			return err
		}
		found = true
		r.Digest, r.Index = row.digest, row.index
		r.Value, err = v.value(ks, key, &row)
		return err
	})
	switch {
	case err != nil:
		return Record{}, err
	case !found:
		return Record{}, ErrNotFound
	case v.state.keys.key(ks).Record(key, r.Value) != r.Digest:
		return Record{}, v.state.found(ks, key, "the record does not hash to its digest")
	}
	if r.Value == nil {
		r.Value = []byte{}
	}
	return r, nil
}

// value returns a row's value in memory of its own. To be called under Guard.
func (v *fileView) value(ks KeyspaceID, key []byte, r *row) ([]byte, error) {
	value, err := v.state.seal.value(ks, key, r)
	switch {
	case err != nil && v.state.wantsKey(err):
		return nil, fmt.Errorf("%s: keyspace %s, key %q: %w", v.state.opts.Path, ks, key, err)
	case err != nil:
		return nil, v.state.found(ks, key, "the record cannot be read: %v", err)
	case r.flags&rowSealed == 0:
		value = bytes.Clone(value)
	}
	return value, nil
}

// old returns a record's digest and index, its value unread.
func (v *fileView) old(ks KeyspaceID, key []byte) (o Old, err error) {
	o.Gen = v.gen
	err = v.read(func() error {
		row, ok, err := v.row(ks, key)
		o.Digest, o.Present, o.Index = row.digest, ok, row.index
		return err
	})
	return o, err
}

// row finds a row; ok is false when the file, as far as the leaf's total can tell, never held it.
// To be called under Guard.
func (v *fileView) row(ks KeyspaceID, key []byte) (r row, ok bool, err error) {
	if len(key) == 0 || v.keyspaces[ks] == nil {
		return r, false, nil
	}
	if b := v.rows(ks); b != nil {
		if value := b.Get(key); value != nil {
			r, err = decodeRow(key, value)
			if err != nil {
				return row{}, false, v.rowError(ks, key, err)
			}
			return r, true, nil
		}
	}
	return row{}, false, v.absent(ks, key)
}

// absent returns an error when a key that a search does not find may be there: its leaf, walked, holds it or lacks something. What is in a leaf that was whole
// is remembered, since most writes of new keys come to one that was walked for another. Where a rebuild of the leaves was interrupted the search is believed: a start
// reads before that is taken up again. To be called under Guard.
func (v *fileView) absent(ks KeyspaceID, key []byte) error {
	if v.rebuilding {
		return nil
	}
	k := v.keyspaces[ks]
	walked := &k.walked[k.leaves.Slot(key)]
	if keys := walked.Load(); keys != nil && !slices.Contains(*keys, walkHash(key)) {
		return nil
	}
	there := false
	var keys []uint32
	err := v.walkLeaf(ks, key, func(k []byte, _ row) {
		there = there || bytes.Equal(k, key)
		keys = append(keys, walkHash(k))
	})
	switch {
	case err != nil:
		return err
	case there:
		return v.state.found(ks, key, "the record is there but cannot be found by its key: a page above it is damaged")
	}
	if v.walked.Add(int64(len(keys))) <= maxWalked && walked.CompareAndSwap(nil, &keys) {
		return nil
	}
	v.walked.Add(-int64(len(keys)))
	return nil
}

// leafRow is one row of a leaf; key and row alias the file's page.
type leafRow struct {
	key []byte
	row
}

// leafRows returns the rows of the leaf that key belongs to, all of them, in rows' memory. To be called
// under Guard.
func (v *fileView) leafRows(ks KeyspaceID, key []byte, rows []leafRow) ([]leafRow, error) {
	rows = rows[:0]
	err := v.walkLeaf(ks, key, func(key []byte, r row) {
		rows = append(rows, leafRow{key, r})
	})
	return rows, err
}

// walkLeaf calls fn for each row of the leaf that key belongs to, and compares check sums and the leaf's
// total: when it returns nil, there are no others. To be called under Guard.
func (v *fileView) walkLeaf(ks KeyspaceID, key []byte, fn func(key []byte, r row)) error {
	leaf, high, last := v.keyspaces[ks].leaves.Find(key)
	var have merkle.Total
	if b := v.rows(ks); b != nil {
		var before []byte
		c := b.Cursor()
		for key, value := c.Seek([]byte(leaf.Low)); key != nil && (last || string(key) < high); key, value = c.Next() {
			if have.Count == leaf.Count { // also where there is no end to them
				have.Count++
				break
			}
			if before != nil && bytes.Compare(before, key) >= 0 || string(key) < leaf.Low {
				return v.state.found(ks, key, "the record is out of order")
			}
			r, err := decodeRow(key, value)
			if err != nil {
				return v.rowError(ks, key, err)
			}
			have.Replace(nil, &r.digest)
			fn(key, r)
			before = key
		}
	}
	if have != leaf.Total {
		return v.state.found(ks, []byte(leaf.Low), "the leaf that starts here does not hold what it did: %d records of %d, or others", have.Count, leaf.Count)
	}
	return nil
}

// rowError tells a damaged row from one that a newer program wrote.
func (v *fileView) rowError(ks KeyspaceID, key []byte, err error) error {
	if _, ok := err.(*wal.VersionError); ok {
		return fmt.Errorf("%s: keyspace %s, key %q: %w", v.state.opts.Path, ks, key, err)
	}
	return v.state.found(ks, key, "the record cannot be read: %v", err)
}

// read runs fn, which reads the file's pages, and turns a fault into an error and reports it.
func (v *fileView) read(fn func() error) error {
	err := v.state.file.Guard(fn)
	if c, ok := err.(*boltfile.CorruptError); ok {
		v.state.opts.Found(Damage{File: c.File, What: c.Error()})
	}
	return err
}
