package wal

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	bolt "go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/internal/boltfile"
)

// Sealer encrypts what is stored and binds it to its place: what was changed, or stands elsewhere than where it was
// sealed, does not open. Both methods append to dst and are safe for concurrent use.
type Sealer interface {
	Seal(dst, place, plain []byte) []byte
	Open(dst, place, sealed []byte) ([]byte, error)
	Overhead() int // bytes that sealing adds
}

// ErrSealing means that a file is sealed and no keys were given, or the other way round.
var ErrSealing = errors.New("the keys do not fit the file")

// Kinds of places in a segment, beside kindHeader and kindEntry.
const kindTail byte = 2

// segmentSealer seals the values of one segment. One goroutine uses it.
type segmentSealer struct {
	with  Sealer // nil: nothing is sealed
	place [1 + 8 + 8]byte
}

func newSegmentSealer(with Sealer, id segmentID) *segmentSealer {
	c := &segmentSealer{with: with}
	copy(c.place[1:], id[:])
	return c
}

// sealerOf is newSegmentSealer for a segment's file.
func sealerOf(with Sealer, path string) *segmentSealer {
	var id segmentID
	if with != nil {
		name := strings.TrimSuffix(filepath.Base(path), segmentSuffix)
		_, text, _ := strings.Cut(name, "-")
		_, _ = hex.Decode(id[:], []byte(text)) // with a name that is none nothing opens
	}
	return newSegmentSealer(with, id)
}

func (c *segmentSealer) at(kind byte, index uint64) []byte {
	c.place[0] = kind
	binary.BigEndian.PutUint64(c.place[9:], index)
	return c.place[:]
}

func (c *segmentSealer) overhead() int {
	if c.with == nil {
		return 0
	}
	return c.with.Overhead()
}

// seal appends a value as it is stored.
func (c *segmentSealer) seal(dst []byte, kind byte, index uint64, plain []byte) []byte {
	if c.with == nil {
		return append(dst, plain...)
	}
	return c.with.Seal(dst, c.at(kind, index), plain)
}

// open appends a stored value to dst.
func (c *segmentSealer) open(dst []byte, kind byte, index uint64, stored []byte) ([]byte, error) {
	if c.with == nil {
		return append(dst, stored...), nil
	}
	out, err := c.with.Open(dst, c.at(kind, index), stored)
	if err != nil {
		return dst, fmt.Errorf("it cannot be unsealed: %w", err)
	}
	return out, nil
}

// stored is a frame as it stands in a segment.
type storedFrame struct {
	first   uint64
	header  []byte
	entries [][]byte
}

// sealFrames gives frames the form in which a segment holds them, in buf's memory as far as they are sealed.
func (c *segmentSealer) sealFrames(buf []byte, frames []*Frame) ([]storedFrame, []byte) {
	out := make([]storedFrame, len(frames))
	if c.with == nil {
		for i, f := range frames {
			out[i] = storedFrame{f.First, f.EncodeHeader(), f.Entries}
		}
		return out, buf
	}
	need := 0
	for _, f := range frames {
		need += int(storedBytes(f)) + (1+len(f.Entries))*c.overhead()
	}
	if cap(buf) < need {
		buf = make([]byte, 0, need)
	}
	buf = buf[:0]
	take := func(kind byte, index uint64, plain []byte) []byte {
		from := len(buf)
		buf = c.seal(buf, kind, index, plain)
		return buf[from:len(buf):len(buf)]
	}
	for i, f := range frames {
		s := storedFrame{first: f.First, header: take(kindHeader, f.First, f.EncodeHeader()), entries: make([][]byte, len(f.Entries))}
		for j, e := range f.Entries {
			s.entries[j] = take(kindEntry, f.First+uint64(j), e)
		}
		out[i] = s
	}
	return out, buf
}

// metaPlace is where a value of meta.db belongs.
func metaPlace(bucket, key []byte) []byte {
	b := append(make([]byte, 0, len(bucket)+1+len(key)), bucket...)
	return append(append(b, 0), key...)
}

func sealMeta(s Sealer, bucket, key, plain []byte) []byte {
	if s == nil {
		return plain
	}
	return s.Seal(nil, metaPlace(bucket, key), plain)
}

func openMetaValue(s Sealer, bucket, key, stored []byte) ([]byte, error) {
	if s == nil {
		return append([]byte{}, stored...), nil
	}
	plain, err := s.Open([]byte{}, metaPlace(bucket, key), stored)
	if err != nil {
		return nil, fmt.Errorf("%s %q cannot be unsealed: %w", bucket, key, err)
	}
	return plain, nil
}

// checkSealing compares what a meta.db says of itself with the keys that are there.
func checkSealing(log *bolt.Bucket, s Sealer) error {
	switch sealed := log.Get(keySealed) != nil; {
	case sealed && s == nil:
		return fmt.Errorf("%w: the log is sealed, and is to be opened with the store's keys", ErrSealing)
	case !sealed && s != nil:
		return fmt.Errorf("%w: the log is not sealed, and the store's keys say that it should be", ErrSealing)
	}
	return nil
}

// ReadNotes reads the notes from the metadata file of a log that perhaps does not open. Their checksum is not looked at.
func ReadNotes(dir string, s Sealer) (map[string][]byte, error) {
	path := filepath.Join(dir, metaName)
	f, err := boltfile.Open(path, boltfile.Options{ReadOnly: true, Tie: true})
	if err != nil {
		return nil, err
	}
	notes := map[string][]byte{}
	err = f.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketNotes)
		if b == nil {
			return &boltfile.CorruptError{File: path, What: "it holds no notes"}
		}
		return b.ForEach(func(k, v []byte) error {
			plain, err := openMetaValue(s, bucketNotes, k, v)
			if err != nil {
				return &boltfile.CorruptError{File: path, What: "log metadata", Err: err}
			}
			notes[string(k)] = plain
			return nil
		})
	})
	return notes, errors.Join(err, f.Close())
}
