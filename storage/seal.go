package storage

import (
	"encoding/binary"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/wal"
)

// Kinds of places in a state file.
const (
	placeRow  = 'r'
	placeMark = 'm'
)

var errNotSealed = errors.New("it is not sealed, and all records of this store are")

// keySealed stands in the bucket meta of a sealed file.
var keySealed = []byte("sealed")

// sealing seals rows and mark; without keys both stay plain.
type sealing struct{ with wal.Sealer }

// rowPlace is where a record's value belongs: it opens under no other key, and as no other version.
func rowPlace(b []byte, ks KeyspaceID, key []byte, index uint64) []byte {
	b = append(append(b, placeRow), ks[:]...)
	b = binary.BigEndian.AppendUint64(b, index)
	return append(b, key...)
}

// rowSize is how many bytes appendRow adds for a value of n bytes.
func (s sealing) rowSize(n int) int {
	if s.with == nil {
		return rowHeader + n
	}
	return rowHeader + s.with.Overhead() + n
}

// appendRow appends a row as the file holds it.
func (s sealing) appendRow(b []byte, ks KeyspaceID, key []byte, index uint64, digest *merkle.Digest, value []byte) []byte {
	if s.with == nil {
		return append(appendRowHeader(b, key, 0, index, digest), value...)
	}
	var place [256]byte
	return s.with.Seal(appendRowHeader(b, key, rowSealed, index, digest), rowPlace(place[:0], ks, key, index), value)
}

// value returns a row's value: a copy when it was sealed, else the file's page. A length that no value has is refused before
// anything is done with it: it is a damaged page's, and can name gigabytes that are not the file's.
func (s sealing) value(ks KeyspaceID, key []byte, r *row) ([]byte, error) {
	switch {
	case rowHeader+len(r.value) > s.rowSize(MaxValue):
		return nil, fmt.Errorf("its row of %d bytes is longer than any", rowHeader+len(r.value))
	case r.flags&rowSealed == 0 && s.with == nil:
		return r.value, nil
	case r.flags&rowSealed == 0:
		return nil, errNotSealed
	case s.with == nil:
		return nil, errors.New("it is sealed, and no keys are there")
	}
	var place [256]byte
	plain, err := s.with.Open(make([]byte, 0, len(r.value)), rowPlace(place[:0], ks, key, r.index), r.value)
	if err != nil {
		return nil, fmt.Errorf("it cannot be unsealed: %w", err)
	}
	return plain, nil
}

// wantsKey tells that a record that did not open is to be kept until its key is there. What another cluster holds need
// not wait: the bytes that name the key can be damaged too, and no key would ever fit.
func (s *State) wantsKey(err error) bool { return !s.repairable.Load() && keyMissing(err) }

// keyMissing tells that a value did not open for want of a key, not for damage.
func keyMissing(err error) bool {
	var k interface{ KeyMissing() bool }
	return errors.As(err, &k) && k.KeyMissing()
}

func (s sealing) sealMark(mark []byte) []byte {
	if s.with == nil {
		return mark
	}
	return s.with.Seal(nil, []byte{placeMark}, mark)
}

func (s sealing) openMark(b []byte) ([]byte, error) {
	if s.with == nil {
		return b, nil
	}
	return s.with.Open(nil, []byte{placeMark}, b)
}

// putFormat writes what a new file says of itself.
func (s sealing) putFormat(meta *bolt.Bucket) error {
	if s.with != nil {
		if err := meta.Put(keySealed, []byte{1}); err != nil {
			return err
		}
	}
	return meta.Put(keyFormat, []byte{FormatVersion >> 8, FormatVersion & 0xff})
}

// check compares what a file says of itself with the keys that are there.
func (s sealing) check(path string, meta *bolt.Bucket) error {
	switch sealed := meta.Get(keySealed) != nil; {
	case sealed && s.with == nil:
		return fmt.Errorf("%s: %w: the state is sealed, and is to be opened with the store's keys", path, wal.ErrSealing)
	case !sealed && s.with != nil:
		return fmt.Errorf("%s: %w: the state is not sealed, and the store's keys say that it should be", path, wal.ErrSealing)
	}
	return nil
}
