package wal

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/lockstepdb/lockstep/internal/boltfile"
)

// Errors that a caller acts on.
var (
	ErrPoisoned  = errors.New("the log refuses everything after a failed commit until it is reopened")
	ErrGone      = errors.New("the log no longer holds this index")
	ErrBeyondEnd = errors.New("the log does not hold this index yet")
	ErrClosed    = errors.New("the log is closed")
	ErrReadOnly  = errors.New("the log was opened read-only")
	ErrNotNext   = errors.New("the frame does not follow the end of the log")
)

// Config says how a log is kept. Zero fields mean the defaults named.
type Config struct {
	Dir            string // holds meta.db and the segments; created 0700 when missing
	SegmentBytes   int64  // a segment is full at this size; 64 MiB
	SegmentEntries int    // or at this many entries; 262,144
	RingBytes      int64  // newest frames kept in memory for readers; 64 MiB
	Seam           boltfile.Seam
	Sealer         Sealer // seals everything stored but keys; nil: nothing is sealed
	ReadOnly       bool   // for check and dump: changes nothing, prepares nothing, and opens a log with damaged segments
}

func (c *Config) fill() error {
	if c.Dir == "" {
		return errors.New("open log: no directory is given")
	}
	if c.SegmentBytes < 0 || c.SegmentEntries < 0 || c.RingBytes < 0 {
		return fmt.Errorf("open log %s: sizes must not be negative", c.Dir)
	}
	setDefault(&c.SegmentBytes, 64<<20)
	setDefault(&c.SegmentEntries, 262_144)
	setDefault(&c.RingBytes, 64<<20)
	return nil
}

func setDefault[T int | int64](v *T, value T) {
	if *v == 0 {
		*v = value
	}
}

// Log is a numbered, durable sequence of frames of opaque entries. One
// goroutine appends; any number read. Append returning nil means durable.
type Log struct {
	cfg     Config
	meta    *meta
	handles *handles

	change sync.Mutex     // held by whatever changes the log: Append, Rotate, Truncate, Reset, Cut, Close
	active *boltfile.File // the last segment's file while it takes frames; guarded by change
	buf    []byte         // memory of sealed frames on their way into a segment; guarded by change

	life sync.RWMutex // held for reading during each read of a file, for writing by Close

	mu       sync.Mutex // guards what is below
	base     place      // the place before the first frame held
	end      place      // durable
	segments []*segment // in order; only the last may be unsealed
	ring     ring
	resets   int           // readers of an earlier count are gone
	wake     chan struct{} // closed and replaced when anything here changes
	failed   error         // ErrPoisoned with its cause, or ErrClosed; of a read-only log: why its end is not known
}

// End returns the durable end of the log: position and chain hash of its last
// frame, or what Reset said.
func (l *Log) End() (Position, Hash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end.Position, l.end.Chain
}

// First returns the first index still held; End().Index+1 when empty.
func (l *Log) First() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.base.Index + 1
}

// Base returns the place before the first frame held.
func (l *Log) Base() Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.base.Position
}

// Bytes returns the size of the frames held from index on. Within the first
// segment concerned it is in proportion to the entries, unless those frames are still in memory.
func (l *Log) Bytes(from uint64) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n, ok := l.ring.bytesFrom(from); ok {
		return n
	}
	var n int64
	for _, s := range l.segments {
		switch {
		case s.empty() || s.end.Index < from:
		case s.first >= from:
			n += s.bytes
		default:
			n += int64(float64(s.bytes) * float64(s.end.Index-from+1) / float64(s.entries()))
		}
	}
	return n
}

// Held returns how many of the newest entries are kept in memory for readers,
// the memory that they take, and its limit.
func (l *Log) Held() (entries uint64, bytes, limit int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.ring.frames {
		entries += uint64(f.Count)
	}
	return entries, l.ring.bytes, l.ring.limit
}

// Note returns a value kept beside the segment list; nil when there is none.
// It must not be changed.
func (l *Log) Note(key string) []byte { return l.meta.note(key) }

// Notes calls fn for each note whose key has the prefix, in key order, as they
// were when it was called.
func (l *Log) Notes(prefix string, fn func(key string, value []byte) error) error {
	return l.meta.eachNote(prefix, fn)
}

// SetNotes writes notes (nil deletes) in one synced transaction. Safe for
// concurrent use, also during Append.
func (l *Log) SetNotes(notes map[string][]byte) error {
	if err := l.writable(); err != nil {
		return err
	}
	return l.updateMeta(func(st *metaState) error { return st.setNotes(notes) })
}

// updateMeta changes meta.db; a failed commit poisons the log.
func (l *Log) updateMeta(fn func(*metaState) error) error {
	var refused error
	err := l.meta.update(func(st *metaState) error {
		refused = fn(st)
		return refused
	})
	if err != nil && refused == nil {
		return l.poison(err)
	}
	return err
}

// Close ends all readers and closes all files.
func (l *Log) Close() error {
	l.fail(ErrClosed)
	l.change.Lock()
	defer l.change.Unlock()
	l.life.Lock()
	defer l.life.Unlock()
	err := l.handles.dropAll()
	l.active = nil
	if merr := l.meta.close(); err == nil {
		err = merr
	}
	return err
}

// writable returns why the log takes no change, if so.
func (l *Log) writable() error {
	if l.cfg.ReadOnly {
		return fmt.Errorf("%s: %w", l.cfg.Dir, ErrReadOnly)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// poison makes the log refuse everything from now on. It returns the error that says so.
func (l *Log) poison(cause error) error {
	return l.fail(fmt.Errorf("%w: %w", ErrPoisoned, cause))
}

func (l *Log) fail(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil || errors.Is(err, ErrClosed) {
		l.failed = err
	}
	l.wakeLocked()
	return l.failed
}

func (l *Log) closed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed == ErrClosed
}

func (l *Log) wakeLocked() {
	close(l.wake)
	l.wake = make(chan struct{})
}

// last returns the last segment, nil when there is none.
func (l *Log) lastLocked() *segment {
	if len(l.segments) == 0 {
		return nil
	}
	return l.segments[len(l.segments)-1]
}

// holdingLocked returns the segment that holds index, nil when none does.
func (l *Log) holdingLocked(index uint64) *segment {
	i, _ := slices.BinarySearchFunc(l.segments, index, func(s *segment, index uint64) int {
		if s.end.Index < index {
			return -1
		}
		return 1
	})
	if i == len(l.segments) || index < l.segments[i].first {
		return nil
	}
	return l.segments[i]
}
