package wal

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strings"
	"sync"

	bolt "go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/internal/boltfile"
)

const (
	metaName  = "meta.db"
	metaMagic = "LSLOGMET"

	maxNoteKey   = 1 << 10  // bytes
	maxNoteValue = 16 << 20 // bytes
)

var (
	bucketLog      = []byte("log")
	bucketSegments = []byte("segments")
	bucketNotes    = []byte("notes")
	keyFormat      = []byte("format")
	keyBase        = []byte("base")
	keySum         = []byte("sum")
	keySealed      = []byte("sealed")
)

// metaState is everything that meta.db holds. It is replaced, never changed.
type metaState struct {
	base     place // the place before the first listed segment
	segments []segment
	notes    map[string][]byte
}

// meta keeps the segment list and the notes: one small file, each change one synced transaction.
type meta struct {
	file   *boltfile.File
	sealer Sealer

	mu    sync.Mutex // one change at a time
	state metaState  // as it is in the file; read it with load
	stMu  sync.RWMutex
}

func openMeta(path string, o boltfile.Options, sealer Sealer) (*meta, error) {
	o.Tie = true
	f, err := boltfile.Open(path, o)
	if err != nil {
		return nil, err
	}
	m := &meta{file: f, sealer: sealer}
	if err := m.read(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return m, nil
}

func (m *meta) close() error { return m.file.Close() }

func (m *meta) load() metaState {
	m.stMu.RLock()
	defer m.stMu.RUnlock()
	return m.state
}

// read fills state from the file and checks its sum.
func (m *meta) read() error {
	st := metaState{notes: map[string][]byte{}}
	err := m.file.View(func(tx *bolt.Tx) error {
		log := tx.Bucket(bucketLog)
		if log == nil && tx.ID() == 1 {
			return nil // new
		}
		segments, notes := tx.Bucket(bucketSegments), tx.Bucket(bucketNotes)
		if log == nil || segments == nil || notes == nil {
			return errors.New("a bucket is missing")
		}
		if err := checkMetaFormat(log.Get(keyFormat)); err != nil {
			return err
		}
		if err := checkSealing(log, m.sealer); err != nil {
			return err
		}
		if err := st.decode(log, segments, notes, m.sealer); err != nil {
			return err
		}
		have, err := openMetaValue(m.sealer, bucketLog, keySum, log.Get(keySum))
		if err != nil {
			return err
		}
		if sum := st.sum(); !bytes.Equal(sum[:], have) {
			return errors.New("segment list and notes do not match their checksum")
		}
		return st.check()
	})
	if err != nil {
		var corrupt *boltfile.CorruptError
		var version *VersionError
		switch {
		case errors.As(err, &version), errors.Is(err, ErrSealing):
			return fmt.Errorf("%s: %w", m.file.Path(), err)
		case errors.As(err, &corrupt):
			return err
		}
		return &boltfile.CorruptError{File: m.file.Path(), What: "log metadata", Err: err}
	}
	m.state = st
	return nil
}

func checkMetaFormat(b []byte) error {
	if len(b) != len(metaMagic)+2 || string(b[:len(metaMagic)]) != metaMagic {
		return errors.New("wrong magic")
	}
	if v := binary.BigEndian.Uint16(b[len(metaMagic):]); v != FormatVersion {
		return &VersionError{What: "log metadata", Got: v, Have: FormatVersion}
	}
	return nil
}

func (st *metaState) decode(log, segments, notes *bolt.Bucket, sealer Sealer) (err error) {
	base, err := openMetaValue(sealer, bucketLog, keyBase, log.Get(keyBase))
	if err != nil {
		return err
	}
	if st.base, err = decodePlace(base); err != nil {
		return err
	}
	err = segments.ForEach(func(k, v []byte) error {
		plain, err := openMetaValue(sealer, bucketSegments, k, v)
		if err != nil {
			return err
		}
		s, err := decodeSegment(k, plain)
		st.segments = append(st.segments, s)
		return err
	})
	if err != nil {
		return err
	}
	return notes.ForEach(func(k, v []byte) error {
		plain, err := openMetaValue(sealer, bucketNotes, k, v)
		st.notes[string(k)] = plain
		return err
	})
}

// check looks whether the listed segments follow each other without a gap.
func (st *metaState) check() error {
	at := st.base
	for i, s := range st.segments {
		switch {
		case s.first != at.Index+1 || s.prev != at.Chain:
			return fmt.Errorf("segment %s does not follow index %d", s.name(), at.Index)
		case !s.sealed && i < len(st.segments)-1:
			return fmt.Errorf("segment %s is not sealed and not the last", s.name())
		case s.sealed && s.empty():
			return fmt.Errorf("segment %s is sealed and empty", s.name())
		}
		at = s.end
	}
	return nil
}

// sum covers everything that a reader of the file relies on.
func (st *metaState) sum() [sha256.Size]byte {
	h := sha256.New()
	writeSized(h, encodePlace(st.base))
	for _, s := range st.segments {
		writeSized(h, segmentKey(&s))
		writeSized(h, encodeSegment(&s))
	}
	for _, k := range slices.Sorted(maps.Keys(st.notes)) {
		writeSized(h, []byte(k))
		writeSized(h, st.notes[k])
	}
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	return sum
}

func writeSized(h hash.Hash, b []byte) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(b)))
	h.Write(n[:])
	h.Write(b)
}

// update makes one synced change. fn changes a copy; it must replace, not
// alter, the notes it changes.
func (m *meta) update(fn func(st *metaState) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.load()
	next := metaState{base: old.base, segments: slices.Clone(old.segments), notes: maps.Clone(old.notes)}
	if err := fn(&next); err != nil {
		return err
	}
	err := m.file.Update(func(tx *bolt.Tx) error { return m.write(tx, &old, &next) })
	if err != nil {
		return err
	}
	m.stMu.Lock()
	m.state = next
	m.stMu.Unlock()
	return nil
}

func (m *meta) write(tx *bolt.Tx, old, next *metaState) error {
	log, err := tx.CreateBucketIfNotExists(bucketLog)
	if err != nil {
		return err
	}
	sum := next.sum()
	format := binary.BigEndian.AppendUint16([]byte(metaMagic), FormatVersion)
	own := [][2][]byte{
		{keyFormat, format},
		{keyBase, sealMeta(m.sealer, bucketLog, keyBase, encodePlace(next.base))},
		{keySum, sealMeta(m.sealer, bucketLog, keySum, sum[:])},
	}
	if m.sealer != nil {
		own = append(own, [2][]byte{keySealed, {1}})
	}
	for _, kv := range own {
		if err := log.Put(kv[0], kv[1]); err != nil {
			return err
		}
	}
	if err := m.writeChanged(tx, bucketSegments, encodeSegments(old.segments), encodeSegments(next.segments)); err != nil {
		return err
	}
	return m.writeChanged(tx, bucketNotes, old.notes, next.notes)
}

// writeChanged makes a bucket that holds old hold next.
func (m *meta) writeChanged(tx *bolt.Tx, bucket []byte, old, next map[string][]byte) error {
	b, err := tx.CreateBucketIfNotExists(bucket)
	if err != nil {
		return err
	}
	for k := range old {
		if _, kept := next[k]; !kept {
			if err := b.Delete([]byte(k)); err != nil {
				return err
			}
		}
	}
	for k, v := range next {
		if was, had := old[k]; !had || !bytes.Equal(was, v) {
			if err := b.Put([]byte(k), sealMeta(m.sealer, bucket, []byte(k), v)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *meta) note(key string) []byte { return m.load().notes[key] }

func (m *meta) eachNote(prefix string, fn func(key string, value []byte) error) error {
	notes := m.load().notes
	for _, k := range slices.Sorted(maps.Keys(notes)) {
		if !strings.HasPrefix(k, prefix) {
			continue
		}
		if err := fn(k, notes[k]); err != nil {
			return err
		}
	}
	return nil
}

// setNotes changes notes in st; nil deletes.
func (st *metaState) setNotes(notes map[string][]byte) error {
	for k, v := range notes {
		switch {
		case k == "" || len(k) > maxNoteKey:
			return fmt.Errorf("note key of %d bytes: 1 to %d are possible", len(k), maxNoteKey)
		case len(v) > maxNoteValue:
			return fmt.Errorf("note %q of %d bytes: at most %d are possible", k, len(v), maxNoteValue)
		case v == nil:
			delete(st.notes, k)
		default:
			st.notes[k] = append([]byte{}, v...)
		}
	}
	return nil
}

const (
	placeSize   = 16 + 8 + 32
	segmentSize = 1 + 32 + placeSize + 8

	flagSealed byte = 1
	flagCut    byte = 2
)

func encodePlace(p place) []byte {
	b := append(make([]byte, 0, placeSize), p.Fork[:]...)
	b = binary.BigEndian.AppendUint64(b, p.Index)
	return append(b, p.Chain[:]...)
}

func decodePlace(b []byte) (p place, err error) {
	if len(b) != placeSize {
		return p, fmt.Errorf("a place has %d bytes", len(b))
	}
	copy(p.Fork[:], b)
	p.Index = binary.BigEndian.Uint64(b[16:])
	copy(p.Chain[:], b[24:])
	return p, nil
}

func segmentKey(s *segment) []byte {
	return append(binary.BigEndian.AppendUint64(nil, s.first), s.id[:]...)
}

func encodeSegment(s *segment) []byte {
	b := make([]byte, 1, segmentSize)
	if s.sealed {
		b[0] |= flagSealed
	}
	if s.cut {
		b[0] |= flagCut
	}
	b = append(b, s.prev[:]...)
	b = append(b, encodePlace(s.end)...)
	return binary.BigEndian.AppendUint64(b, uint64(s.bytes))
}

func encodeSegments(list []segment) map[string][]byte {
	m := make(map[string][]byte, len(list))
	for _, s := range list {
		m[string(segmentKey(&s))] = encodeSegment(&s)
	}
	return m
}

func decodeSegment(k, v []byte) (s segment, err error) {
	if len(k) != 16 || len(v) != segmentSize || v[0]&^(flagSealed|flagCut) != 0 {
		return s, fmt.Errorf("segment list: key %x with %d bytes is of no known kind", k, len(v))
	}
	s.first = binary.BigEndian.Uint64(k)
	copy(s.id[:], k[8:])
	s.sealed, s.cut = v[0]&flagSealed != 0, v[0]&flagCut != 0
	copy(s.prev[:], v[1:])
	if s.end, err = decodePlace(v[33 : 33+placeSize]); err != nil {
		return s, err
	}
	s.bytes = int64(binary.BigEndian.Uint64(v[33+placeSize:]))
	return s, nil
}

// find returns the listed segment with an id, or nil.
func (st *metaState) find(id segmentID) *segment {
	i := slices.IndexFunc(st.segments, func(s segment) bool { return cmp.Compare(string(s.id[:]), string(id[:])) == 0 })
	if i < 0 {
		return nil
	}
	return &st.segments[i]
}
