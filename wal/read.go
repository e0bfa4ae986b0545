package wal

import (
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/internal/boltfile"
)

// errMissing says that a key is not there at all, which a lost write leaves
// behind; a wrong value is another kind of damage.
var errMissing = errors.New("not there")

// readFrame reads the frame that holds index and verifies it. What it returns
// with an error is what could be decoded, perhaps the entries alone; nil when nothing could.
func readFrame(f *boltfile.File, index uint64, with Sealer) (*Frame, error) {
	var fr *Frame
	err := f.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketFrames)
		if b == nil {
			return fmt.Errorf("frames bucket: %w", errMissing)
		}
		var err error
		fr, err = decodeFrame(b.Cursor(), index, tx.Size(), sealerOf(with, f.Path()))
		return err
	})
	if err == nil {
		err = fr.Verify()
	}
	if err == nil && (index < fr.First || index > fr.Last()) {
		err = fmt.Errorf("the frame there holds %d to %d", fr.First, fr.Last())
	}
	return fr, segmentError(f.Path(), index, err)
}

// decodeFrame copies the frame that holds index out of the file, without verifying it. With an error it returns
// what it came to.
func decodeFrame(c *bolt.Cursor, index uint64, fileSize int64, s *segmentSealer) (*Frame, error) {
	value, first, err := seekHeader(c, index)
	if err != nil {
		return nil, err
	}
	var h Header
	plain, err := s.open(nil, kindHeader, first, value)
	if err == nil {
		h, err = decodeHeader(plain)
	}
	switch {
	case err != nil:
	case h.First != first:
		err = fmt.Errorf("header names index %d and stands at %d", h.First, first)
	case int64(h.Length) > fileSize:
		err = fmt.Errorf("header names %d bytes in a file of %d", h.Length, fileSize)
	}
	if err != nil {
		return entriesAlone(c, first, s), err
	}
	fr := &Frame{Header: h, Entries: make([][]byte, 0, h.Count)}
	buf := make([]byte, 0, h.Length)
	var sealed error // the first entry that does not open; the others are still worth telling
	for i := range uint64(h.Count) {
		k, v := c.Next()
		if at, kind, ok := parseKey(k); !ok || kind != kindEntry || at != h.First+i {
			return fr, missingEntry(h.First+i, k)
		}
		if n := len(v) - s.overhead(); n > cap(buf)-len(buf) {
			return fr, fmt.Errorf("entry %d has %d bytes, more than its header leaves", h.First+i, n)
		}
		start := len(buf)
		if buf, err = s.open(buf, kindEntry, h.First+i, v); err != nil && sealed == nil {
			sealed = fmt.Errorf("entry %d: %w", h.First+i, err)
		}
		fr.Entries = append(fr.Entries, buf[start:len(buf):len(buf)])
	}
	return fr, sealed
}

// entriesAlone copies the entries that follow a header that cannot be read, up to the next header. Nothing else is known of their frame.
func entriesAlone(c *bolt.Cursor, first uint64, s *segmentSealer) *Frame {
	fr := &Frame{Header: Header{First: first}}
	for size := 0; fr.Count < MaxFrameEntries && size <= MaxFrameBytes; {
		k, v := c.Next()
		at, kind, ok := parseKey(k)
		if !ok || kind != kindEntry || at != first+uint64(fr.Count) {
			break
		}
		e, _ := s.open([]byte{}, kindEntry, at, v) // one that does not open is shown as empty
		fr.Entries = append(fr.Entries, e)
		fr.Count++
		size += len(v)
	}
	return fr
}

// missingEntry tells a hole with nothing behind it, which is errMissing, from other damage.
func missingEntry(index uint64, found []byte) error {
	if found == nil {
		return fmt.Errorf("entry %d: %w", index, errMissing)
	}
	return fmt.Errorf("entry %d is not there, but key %x", index, found)
}

// seekHeader moves c to the header of the frame that holds index.
func seekHeader(c *bolt.Cursor, index uint64) (value []byte, first uint64, err error) {
	k, v := c.Seek(frameKey(index, kindHeader))
	if k == nil {
		return nil, 0, fmt.Errorf("index %d: %w", index, errMissing)
	}
	for range MaxFrameEntries + 1 {
		at, kind, ok := parseKey(k)
		switch {
		case !ok:
			return nil, 0, fmt.Errorf("key %x is of no known kind", k)
		case kind == kindHeader && at <= index:
			return v, at, nil
		}
		if k, v = c.Prev(); k == nil {
			break
		}
	}
	return nil, 0, fmt.Errorf("no header stands before index %d", index)
}

// nextHeader returns the index of the first frame that begins after index;
// ok is false when there is none.
func nextHeader(f *boltfile.File, index uint64) (first uint64, ok bool, err error) {
	err = f.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketFrames)
		if b == nil {
			return nil
		}
		c := b.Cursor()
		for k, _ := c.Seek(frameKey(index+1, kindHeader)); k != nil; k, _ = c.Next() {
			if at, kind, known := parseKey(k); known && kind == kindHeader && at > index {
				first, ok = at, true
				return nil
			}
		}
		return nil
	})
	return first, ok, segmentError(f.Path(), index, err)
}
