package storage

import (
	"encoding/binary"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/wal"
)

// diskInfo is a keyspace as the file holds it. Only the checkpointer uses it.
type diskInfo struct {
	info
	leaves  *merkle.Leaves
	entry   []byte // its bytes in the bucket keyspaces; nil when it is not there yet
	suspect bool   // leaves do not add up to the total
	unread  []byte // low key of the first leaf that could not be read when the file was opened
}

// loaded is what Open reads of a file.
type loaded struct {
	mark      Mark
	keyspaces map[KeyspaceID]*diskInfo
	summary   merkle.Total
}

func loadFile(f *boltfile.File, s sealing) (*loaded, error) {
	l := &loaded{keyspaces: map[KeyspaceID]*diskInfo{}}
	corrupt := func(what string, err error) error {
		return &boltfile.CorruptError{File: f.Path(), What: what, Err: err}
	}
	err := f.View(func(tx *bolt.Tx) error {
		meta, keyspaces := tx.Bucket(bucketMeta), tx.Bucket(bucketKeyspaces)
		if meta == nil || keyspaces == nil {
			return corrupt("it is no state file: a bucket is missing", nil)
		}
		if err := checkFormat(f.Path(), meta.Get(keyFormat)); err != nil {
			return err
		}
		if err := s.check(f.Path(), meta); err != nil {
			return err
		}
		mark, err := s.openMark(meta.Get(keyMark))
		if err == nil {
			l.mark, l.summary, err = decodeMark(mark)
		}
		if err != nil {
			return corrupt("the mark of its last checkpoint cannot be read", err)
		}
		c := keyspaces.Cursor()
		var have merkle.Total
		for k, v := c.First(); k != nil; k, v = c.Next() {
			id, info, err := decodeKeyspace(k, v)
			if err != nil {
				return corrupt(fmt.Sprintf("the entry of keyspace %x cannot be read", k), err)
			}
			if l.keyspaces[id] != nil {
				return corrupt(fmt.Sprintf("keyspace %s has two entries", id), nil)
			}
			d := summaryOf(id, v)
			have.Replace(nil, &d)
			l.keyspaces[id] = &diskInfo{info: info, entry: append([]byte(nil), v...)}
		}
		if have != l.summary {
			return corrupt(fmt.Sprintf("the list of keyspaces is not complete: %d of %d, or others than were written", have.Count, l.summary.Count), nil)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for id, d := range l.keyspaces {
		var ok bool
		d.leaves, d.unread, ok = loadLeaves(f, id)
		d.suspect = !ok || d.leaves.Total() != d.total
		l.mark.ReindexNeeded = l.mark.ReindexNeeded || d.suspect
	}
	return l, nil
}

func checkFormat(path string, b []byte) error {
	if len(b) != 2 {
		return &boltfile.CorruptError{File: path, What: fmt.Sprintf("its format version has %d bytes", len(b))}
	}
	if v := binary.BigEndian.Uint16(b); v != FormatVersion {
		return fmt.Errorf("%s: %w", path, &wal.VersionError{What: "state file", Got: v, Have: FormatVersion})
	}
	return nil
}

// loadLeaves reads a keyspace's leaves; ok is false when some cannot be read (unread is
// the low key of the first) or are out of order: the index is then to be rebuilt, which needs only the rows.
func loadLeaves(f *boltfile.File, id KeyspaceID) (l *merkle.Leaves, unread []byte, ok bool) {
	ok = true
	err := f.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketName(prefixLeaves, id))
		if b == nil {
			l = merkle.NewLeaves()
			return nil
		}
		c := b.Cursor()
		k, v := c.First()
		var ordered bool
		l, ordered = merkle.LoadLeaves(func() (merkle.Leaf, bool) {
			for ; k != nil; k, v = c.Next() {
				leaf, err := decodeLeaf(k, v)
				if err == nil {
					k, v = c.Next()
					return leaf, true
				}
				if ok {
					unread = append([]byte{}, k...)
				}
				ok = false
			}
			return merkle.Leaf{}, false
		})
		ok = ok && ordered
		return nil
	})
	if err != nil || l == nil {
		return merkle.NewLeaves(), nil, false
	}
	return l, unread, ok
}

func bucketName(prefix byte, id KeyspaceID) []byte {
	return append([]byte{prefix}, id[:]...)
}

// RefuseNewer returns why this program cannot read a state file's format, before anything beside the file is changed. What else may be wrong with the
// file Open tells.
func RefuseNewer(path string) error {
	f, err := boltfile.Open(path, boltfile.Options{ReadOnly: true, Tie: true})
	if err != nil {
		return nil
	}
	err = f.View(func(tx *bolt.Tx) error {
		if meta := tx.Bucket(bucketMeta); meta != nil {
			return checkFormat(path, meta.Get(keyFormat))
		}
		return nil
	})
	var version *wal.VersionError
	if !errors.As(err, &version) {
		err = nil
	}
	return errors.Join(err, f.Close())
}
