package wal

import (
	"context"
	"errors"

	"github.com/lockstepdb/lockstep/internal/boltfile"
)

// Errors that a caller acts on.
var (
	ErrPoisoned = errors.New("the log refuses everything after a failed commit until it is reopened")
	ErrGone     = errors.New("the log no longer holds this index")
	ErrClosed   = errors.New("the log is closed")
)

// Config says how a log is kept. Zero fields mean the defaults named.
type Config struct {
	Dir            string // holds meta.db and the segments; created 0700 when missing
	SegmentBytes   int64  // a segment is full at this size; 64 MiB
	SegmentEntries int    // or at this many entries; 262,144
	RingBytes      int64  // newest frames kept in memory for readers; 64 MiB
	Seam           boltfile.Seam
	ReadOnly       bool // for check and dump: changes nothing, prepares nothing
}

// Report tells what Open found.
type Report struct {
	First, Last uint64 // Last == First-1: empty
	CutBytes    int64  // torn tail of an unacknowledged frame, cut
	CutFile     string
	Forks       []ForkStart // forks seen in the frames of the active (unsealed) segments, in order
}

// ForkStart is the birth of a fork as frames tell it.
type ForkStart struct {
	Ordinal uint64
	Fork    Fork
	First   uint64
}

// Log is a numbered, durable sequence of frames of opaque entries. One
// goroutine appends; any number read. Append returning nil means durable.
type Log struct{ _ int }

// Open recovers the log of a directory. Of a torn tail it cuts what was never
// acknowledged and reports it; anything else that is damaged is a
// *boltfile.CorruptError naming file and place, and nothing is changed.
func Open(cfg Config) (*Log, Report, error) { panic("wal helper") }

// Close ends all readers and closes all files.
func (l *Log) Close() error { panic("wal helper") }

// Append writes sealed frames, in order, as one transaction with one sync.
// They must follow the last frame: index without a gap, Prev equal to Chain().
// After a failed commit the log is poisoned.
func (l *Log) Append(frames ...*Frame) error { panic("wal helper") }

// End returns the durable end of the log: position and chain hash of its last
// frame, or what Reset said.
func (l *Log) End() (Position, Hash) { panic("wal helper") }

// First returns the first index still held; End().Index+1 when empty.
func (l *Log) First() uint64 { panic("wal helper") }

// Bytes returns the size of the frames held from index on.
func (l *Log) Bytes(from uint64) int64 { panic("wal helper") }

// Frame returns the frame that holds index; ErrGone below First.
func (l *Log) Frame(index uint64) (*Frame, error) { panic("wal helper") }

// Reader returns a cursor whose first Next gives the frame that holds from.
func (l *Log) Reader(from uint64) *Reader { panic("wal helper") }

// Reader is a cursor over durable frames. It may outlive rotation; one
// goroutine uses it.
type Reader struct{ _ int }

// Next waits for the next durable frame. ErrGone when retention overtook the
// reader, ErrClosed when the log was closed. The frame is shared: read only.
func (r *Reader) Next(ctx context.Context) (*Frame, error) { panic("wal helper") }

// TryNext is Next that returns nil, nil instead of waiting.
func (r *Reader) TryNext() (*Frame, error) { panic("wal helper") }

// Truncate drops whole segments all of whose entries are below index: first
// from the segment list, synced, then the files. It returns how many.
func (l *Log) Truncate(below uint64) (int, error) { panic("wal helper") }

// Rotate seals the active segment when it holds a frame, so that the next
// Append opens a new one.
func (l *Log) Rotate() error { panic("wal helper") }

// Reset drops every frame and begins again after the given place, in one
// synced change of the segment list together with the notes; files are
// unlinked after it. Readers get ErrGone.
func (l *Log) Reset(after Position, chain Hash, notes map[string][]byte) error { panic("wal helper") }

// Note returns a value kept beside the segment list; nil when there is none.
func (l *Log) Note(key string) []byte { panic("wal helper") }

// Notes calls fn for each note whose key has the prefix, in key order.
func (l *Log) Notes(prefix string, fn func(key string, value []byte) error) error {
	panic("wal helper")
}

// SetNotes writes notes (nil deletes) in one synced transaction. Safe for
// concurrent use, also during Append.
func (l *Log) SetNotes(notes map[string][]byte) error { panic("wal helper") }

// Verify re-reads the frames with indexes in [from, to] from disk and checks every
// checksum and the chain. Damage is passed to found, which may return an
// error to stop; other errors are returned.
func (l *Log) Verify(ctx context.Context, from, to uint64, found func(Damage) error) error {
	panic("wal helper")
}

// Damage is one place in a segment that does not read back as written.
type Damage struct {
	File  string
	Index uint64 // first index of the frame concerned; 0 when unknown
	What  string
	Frame *Frame // what could still be decoded; may be nil
}
