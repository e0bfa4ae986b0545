package wal

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/internal/boltfile"
)

const (
	segmentMagic  = "LSSEGMNT"
	segmentSuffix = ".wal"
	tailSize      = 8 + 8 + 8 + 8 + 8 + 16 + 32 + 4
)

var (
	bucketSegment = []byte("segment")
	keyHeader     = []byte("header")
	keyTail       = []byte("tail")
	bucketFrames  = []byte("frames")
)

// Kinds of keys in the frames bucket.
const (
	kindHeader byte = 0
	kindEntry  byte = 1
)

// segmentID tells a segment from every other that ever began at the same index.
type segmentID [8]byte

func newSegmentID() (id segmentID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// place is the end of a frame with what the next one must carry as Prev.
type place struct {
	Position
	Chain Hash
}

// segment is one file of the log and what is known of it. Its fields are
// guarded by Log.mu.
type segment struct {
	id     segmentID
	first  uint64
	prev   Hash  // chain hash of the frame before the first
	end    place // of its last frame; the place before it while it is empty
	bytes  int64 // of headers and entries
	sealed bool
	cut    bool  // the file holds, behind end, a torn tail or what Cut took back: not part of the log
	damage error // what Open found and, read-only, let pass
}

func (s *segment) name() string {
	return fmt.Sprintf("%020d-%s%s", s.first, hex.EncodeToString(s.id[:]), segmentSuffix)
}

func (s *segment) path(dir string) string { return filepath.Join(dir, s.name()) }

func (s *segment) empty() bool { return s.end.Index < s.first }

func (s *segment) entries() uint64 { return s.end.Index + 1 - s.first }

// tail is rewritten by every commit of a segment and says what the segment holds after it.
type tail struct {
	last    uint64 // index of the last entry
	txFirst uint64 // index of the first entry of the last commit
	txBytes uint64 // bytes of headers and entries of the last commit
	entries uint64
	bytes   uint64
	fork    Fork
	chain   Hash
}

func (t *tail) encode() []byte {
	b := make([]byte, 0, tailSize)
	for _, v := range []uint64{t.last, t.txFirst, t.txBytes, t.entries, t.bytes} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	b = append(b, t.fork[:]...)
	b = append(b, t.chain[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeTail(b []byte) (t tail, err error) {
	if len(b) != tailSize {
		return t, fmt.Errorf("tail record has %d bytes", len(b))
	}
	body := b[:tailSize-4]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(b[tailSize-4:]) {
		return t, errors.New("tail record does not match its checksum")
	}
	for i, v := range []*uint64{&t.last, &t.txFirst, &t.txBytes, &t.entries, &t.bytes} {
		*v = binary.BigEndian.Uint64(body[8*i:])
	}
	copy(t.fork[:], body[40:])
	copy(t.chain[:], body[56:])
	return t, nil
}

func encodeSegmentHeader(id segmentID) []byte {
	b := append([]byte(segmentMagic), 0, 0)
	binary.BigEndian.PutUint16(b[len(segmentMagic):], FormatVersion)
	return append(b, id[:]...)
}

func checkSegmentHeader(b []byte, id segmentID) error {
	const versionAt = len(segmentMagic)
	switch {
	case len(b) < versionAt+2:
		return fmt.Errorf("segment header has %d bytes", len(b))
	case string(b[:versionAt]) != segmentMagic:
		return errors.New("segment header has a wrong magic")
	}
	if v := binary.BigEndian.Uint16(b[versionAt:]); v != FormatVersion {
		return &VersionError{What: "segment", Got: v, Have: FormatVersion}
	}
	if got := b[versionAt+2:]; string(got) != string(id[:]) {
		return fmt.Errorf("segment header names segment %x", got)
	}
	return nil
}

// readTail checks a segment's header and returns its tail record; ok is false
// when nothing was ever committed to the file.
func readTail(f *boltfile.File, id segmentID, with Sealer) (t tail, ok bool, err error) {
	err = f.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketSegment)
		if b == nil && tx.ID() == 1 {
			return nil
		}
		if b == nil || tx.Bucket(bucketFrames) == nil {
			return errors.New("a bucket is missing")
		}
		if err := checkSegmentHeader(b.Get(keyHeader), id); err != nil {
			return err
		}
		ok = true
		plain, err := newSegmentSealer(with, id).open(nil, kindTail, 0, b.Get(keyTail))
		if err != nil {
			return fmt.Errorf("tail record: %w", err)
		}
		t, err = decodeTail(plain)
		return err
	})
	return t, ok, segmentError(f.Path(), 0, err)
}

// frameKey is where a frame's header or one of its entries stands: neighbours
// in the order of the log.
func frameKey(index uint64, kind byte) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, 9), index), kind)
}

func parseKey(k []byte) (index uint64, kind byte, ok bool) {
	if len(k) != 9 || k[8] > kindEntry {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(k), k[8], true
}

// writeFrames commits frames with the tail after them: all of it or nothing.
func writeFrames(f *boltfile.File, id segmentID, tail []byte, frames []storedFrame) error {
	return f.Update(func(tx *bolt.Tx) error {
		seg, err := tx.CreateBucketIfNotExists(bucketSegment)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Path(), err)
		}
		log, err := tx.CreateBucketIfNotExists(bucketFrames)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Path(), err)
		}
		log.FillPercent = 1 // keys only ever come at the end
		if err := seg.Put(keyHeader, encodeSegmentHeader(id)); err != nil {
			return fmt.Errorf("%s: %w", f.Path(), err)
		}
		if err := seg.Put(keyTail, tail); err != nil {
			return fmt.Errorf("%s: %w", f.Path(), err)
		}
		for i := range frames {
			if err := putFrame(log, &frames[i]); err != nil {
				return fmt.Errorf("%s: frame at index %d: %w", f.Path(), frames[i].first, err)
			}
		}
		return nil
	})
}

func putFrame(b *bolt.Bucket, f *storedFrame) error {
	if err := b.Put(frameKey(f.first, kindHeader), f.header); err != nil {
		return err
	}
	for i, e := range f.entries {
		if err := b.Put(frameKey(f.first+uint64(i), kindEntry), e); err != nil {
			return err
		}
	}
	return nil
}

// storedBytes is what a frame counts against a segment's size.
func storedBytes(f *Frame) int64 { return int64(headerSize(len(f.Totals))) + int64(f.Length) }

// segmentError names file and index in an error of reading a segment.
func segmentError(path string, index uint64, err error) error {
	var corrupt *boltfile.CorruptError
	var version *VersionError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &version):
		return fmt.Errorf("%s: %w", path, err)
	case errors.As(err, &corrupt):
		return err
	}
	return &boltfile.CorruptError{File: path, What: at(index), Err: err}
}

func at(index uint64) string {
	if index == 0 {
		return "segment"
	}
	return fmt.Sprintf("frame at index %d", index)
}
