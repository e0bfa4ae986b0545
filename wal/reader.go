package wal

import (
	"context"
	"fmt"

	"github.com/lockstepdb/lockstep/internal/boltfile"
)

// Frame returns the frame that holds index; ErrGone below First, ErrBeyondEnd
// above End. The frame is shared: read only.
func (l *Log) Frame(index uint64) (*Frame, error) {
	f, _, err := l.frame(index, -1)
	if f == nil && err == nil {
		return nil, fmt.Errorf("index %d: %w", index, ErrBeyondEnd)
	}
	return f, err
}

// frame returns the frame that holds index. When the log does not reach it
// yet, the frame is nil and wake is closed at the next change. A reader passes
// the resets it knows of, others -1.
func (l *Log) frame(index uint64, resets int) (f *Frame, wake <-chan struct{}, err error) {
	l.mu.Lock()
	f, path, err := l.lookLocked(index, resets)
	wake = l.wake
	l.mu.Unlock()
	if f != nil || path == "" || err != nil {
		return f, wake, err
	}
	if f, err = l.readAt(path, index); err == nil {
		return f, wake, nil
	}
	if gone := l.goneSince(index, resets); gone != nil {
		return nil, wake, gone // the file was unlinked meanwhile
	}
	return nil, wake, err
}

// readAt reads and verifies the frame that holds index from the segment at
// path. With an error it returns what could be decoded.
func (l *Log) readAt(path string, index uint64) (f *Frame, err error) {
	err = l.onFile(path, func(file *boltfile.File) (err error) {
		f, err = readFrame(file, index, l.cfg.Sealer)
		return err
	})
	return f, err
}

// onFile runs fn on a segment's file, which stays open until fn returned.
func (l *Log) onFile(path string, fn func(*boltfile.File) error) error {
	l.life.RLock()
	defer l.life.RUnlock()
	if l.closed() {
		return ErrClosed
	}
	return l.handles.with(path, fn)
}

// lookLocked finds a frame in memory, or the path of the segment that holds it.
func (l *Log) lookLocked(index uint64, resets int) (f *Frame, path string, err error) {
	switch {
	case l.failed == ErrClosed:
		return nil, "", ErrClosed
	case resets >= 0 && resets != l.resets, index <= l.base.Index:
		return nil, "", fmt.Errorf("index %d: %w: it begins at %d", index, ErrGone, l.base.Index+1)
	case index > l.end.Index:
		return nil, "", l.failed
	}
	if f := l.ring.find(index); f != nil {
		return f, "", nil
	}
	return nil, l.holdingLocked(index).path(l.cfg.Dir), nil
}

func (l *Log) goneSince(index uint64, resets int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _, err := l.lookLocked(index, resets)
	return err
}

// Reader returns a cursor whose first Next gives the frame that holds from.
func (l *Log) Reader(from uint64) *Reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &Reader{log: l, next: from, resets: l.resets}
}

// Reader is a cursor over durable frames. It may outlive rotation; one
// goroutine uses it.
type Reader struct {
	log    *Log
	next   uint64
	resets int
}

// Next waits for the next durable frame. ErrGone when retention overtook the
// reader, ErrClosed when the log was closed, ErrPoisoned at the end of a log
// whose commit failed. The frame is shared: read only.
func (r *Reader) Next(ctx context.Context) (*Frame, error) {
	for {
		f, wake, err := r.step()
		if f != nil || err != nil {
			return f, err
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// TryNext is Next that returns nil, nil instead of waiting.
func (r *Reader) TryNext() (*Frame, error) {
	f, _, err := r.step()
	return f, err
}

func (r *Reader) step() (*Frame, <-chan struct{}, error) {
	f, wake, err := r.log.frame(r.next, r.resets)
	if f != nil {
		r.next = f.Last() + 1
	}
	return f, wake, err
}
