package wal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/lockstepdb/lockstep/internal/boltfile"
)

// Damage is one place in a segment that does not read back as written.
type Damage struct {
	File  string
	Index uint64 // first index of the frame concerned, or of the segment when it is not a single frame
	What  string // in words that name neither File nor Index
	// Frame is what could still be decoded; may be nil, and its header may hold First alone. Its checksum covers all of it, so that any part may be the wrong one.
	Frame *Frame
}

// Verify re-reads the frames with indexes in [from, to] from disk and checks every
// checksum and the chain, and tells what a read-only Open let pass. Damage is passed to found, which may return an
// error to stop; other errors are returned. Segments that are dropped meanwhile are left out.
func (l *Log) Verify(ctx context.Context, from, to uint64, found func(Damage) error) error {
	for _, s := range l.snapshot() {
		if s.empty() && s.damage == nil || max(s.end.Index, s.first) < from || s.first > to {
			continue
		}
		if err := l.verifySegment(ctx, s, from, to, found); err != nil {
			return err
		}
	}
	return nil
}

// snapshot returns the segments as they are now.
func (l *Log) snapshot() []segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]segment, 0, len(l.segments))
	for _, s := range l.segments {
		list = append(list, *s)
	}
	return list
}

func (l *Log) verifySegment(ctx context.Context, s segment, from, to uint64, found func(Damage) error) error {
	v := verifier{log: l, path: s.path(l.cfg.Dir), segment: s, found: found}
	err := l.onFile(v.path, func(*boltfile.File) error { return nil }) // one that does not open is one place, not one a frame
	if err == nil {
		err = v.run(ctx, from, to)
	}
	if err == nil && v.reports == 0 {
		err = s.damage
	}
	var stop *stopped
	var corrupt *boltfile.CorruptError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &stop):
		return stop.err
	case l.dropped(s):
		return nil
	case errors.As(err, &corrupt), errors.Is(err, fs.ErrNotExist):
		return found(Damage{File: v.path, Index: s.first, What: v.what(err)})
	}
	return err
}

// what words an error of the segment for a Damage, which names file and index itself.
func (v *verifier) what(err error) string {
	var c *boltfile.CorruptError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "the segment list names it, and it is missing"
	case !errors.As(err, &c) || c.File != v.path:
		return err.Error()
	case c.Err != nil && (c.What == at(v.next) || c.What == at(0)):
		return c.Err.Error()
	case c.Err != nil:
		return fmt.Sprintf("%s: %v", c.What, c.Err)
	}
	return c.What
}

func (l *Log) dropped(s segment) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.first <= l.base.Index
}

// stopped carries an error that ends Verify, past the handling of damage.
type stopped struct{ err error }

func (s *stopped) Error() string { return s.err.Error() }

// verifier walks one segment.
type verifier struct {
	log     *Log
	path    string
	segment segment
	found   func(Damage) error

	next    uint64 // index of the frame that is being read
	reports int
	prev    Hash // chain hash of the frame before next
	chained bool // prev is known
}

func (v *verifier) run(ctx context.Context, from, to uint64) error {
	next := v.segment.first
	v.prev, v.chained = v.segment.prev, true
	if from > next {
		next, v.chained = from, false
	}
	for next <= min(to, v.segment.end.Index) {
		if err := context.Cause(ctx); err != nil {
			return &stopped{err}
		}
		v.next = next
		f, err := v.log.readAt(v.path, next)
		if errors.Is(err, ErrClosed) || v.log.dropped(v.segment) {
			return err
		}
		if err == nil && v.chained && f.Prev != v.prev {
			err = errors.New("it does not follow the frame before it")
		}
		if err != nil {
			if next, err = v.damaged(next, f, err); err != nil {
				return err
			}
			continue
		}
		next, v.prev, v.chained = f.Last()+1, f.Chain, true
	}
	if next == v.segment.end.Index+1 && v.chained && v.prev != v.segment.end.Chain {
		return v.report(Damage{File: v.path, Index: v.segment.first, What: "its last frame is not the one that the segment list names"})
	}
	return nil
}

// damaged reports a frame and returns where the next one begins.
func (v *verifier) damaged(index uint64, f *Frame, cause error) (next uint64, err error) {
	v.chained = false
	d := Damage{File: v.path, Index: index, What: v.what(cause), Frame: f}
	if f != nil && f.First <= index && f.Last() >= index {
		d.Index = f.First
	}
	if err := v.report(d); err != nil {
		return 0, err
	}
	var ok bool
	var corrupt *boltfile.CorruptError
	err = v.log.onFile(v.path, func(f *boltfile.File) (err error) {
		next, ok, err = nextHeader(f, index)
		return err
	})
	switch {
	case errors.As(err, &corrupt):
		rest := Damage{File: v.path, Index: index + 1, What: "the frames behind it cannot be found: " + v.what(err)}
		if err := v.report(rest); err != nil {
			return 0, err
		}
		fallthrough
	case err == nil && !ok:
		return v.segment.end.Index + 1, nil
	}
	return next, err
}

func (v *verifier) report(d Damage) error {
	v.reports++
	if err := v.found(d); err != nil {
		return &stopped{err}
	}
	return nil
}
