package boltfile

import (
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// tieBucket is an empty bucket: its sequence, stored in the root page, is the
// number of the transaction that wrote the page.
var tieBucket = []byte("commit")

func (f *File) tie(tx *bolt.Tx) error {
	if !f.opts.Tie {
		return nil
	}
	b, err := tx.CreateBucketIfNotExists(tieBucket)
	if err == nil {
		err = b.SetSequence(uint64(tx.ID()))
	}
	if err != nil {
		return fmt.Errorf("%s: tie the commit to its meta page: %w", f.path, err)
	}
	return nil
}

// checkTie compares the root page's transaction number with the meta page's.
func (f *File) checkTie() error {
	const unwritten = 1 // bbolt's number for a file without a commit
	return f.View(func(tx *bolt.Tx) error {
		var got uint64 = unwritten
		if b := tx.Bucket(tieBucket); b != nil {
			got = b.Sequence()
		}
		if want := uint64(tx.ID()); got != want {
			return &CorruptError{File: f.path, What: fmt.Sprintf("root page of commit %d is lost: the page there was written by commit %d", want, got)}
		}
		return nil
	})
}
