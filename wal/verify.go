package wal

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/internal/boltfile"
)

// Damage is one place in a segment that does not read back as written.
type Damage struct {
	File  string
	Index uint64 // first index of the frame concerned; 0 when unknown
	What  string
	Frame *Frame // what could still be decoded; may be nil
}

// Verify re-reads the frames with indexes in [from, to] from disk and checks every
// checksum and the chain. Damage is passed to found, which may return an
// error to stop; other errors are returned. Segments that are dropped meanwhile are left out.
func (l *Log) Verify(ctx context.Context, from, to uint64, found func(Damage) error) error {
	for _, s := range l.snapshot() {
		if s.empty() || s.end.Index < from || s.first > to {
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
	err := v.run(ctx, from, to)
	var stop *stopped
	var corrupt *boltfile.CorruptError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &stop):
		return stop.err
	case l.dropped(s):
		return nil
	case errors.As(err, &corrupt):
		return found(Damage{File: v.path, Index: s.first, What: err.Error()})
	}
	return err
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
	d := Damage{File: v.path, Index: index, What: cause.Error(), Frame: f}
	if f != nil && f.First <= index && f.Last() >= index {
		d.Index = f.First
	}
	if err := v.report(d); err != nil {
		return 0, err
	}
	var ok bool
	err = v.log.onFile(v.path, func(f *boltfile.File) (err error) {
		next, ok, err = nextHeader(f, index)
		return err
	})
	switch {
	case err != nil:
		return 0, fmt.Errorf("after the frame at index %d: %w", index, err)
	case !ok:
		next = v.segment.end.Index + 1
	}
	return next, nil
}

func (v *verifier) report(d Damage) error {
	if err := v.found(d); err != nil {
		return &stopped{err}
	}
	return nil
}
