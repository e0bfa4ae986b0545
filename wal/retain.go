package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/lockstepdb/lockstep/internal/boltfile"
)

// Truncate drops whole segments all of whose entries are below index: first
// from the segment list, synced, then the files. It returns how many. The
// active segment stays. An error of unlinking is returned with the count: the
// next Open removes what is left.
func (l *Log) Truncate(below uint64) (int, error) {
	l.change.Lock()
	defer l.change.Unlock()
	if err := l.writable(); err != nil {
		return 0, err
	}
	old := l.droppable(below)
	if len(old) == 0 {
		return 0, nil
	}
	base := old[len(old)-1].end
	err := l.updateMeta(func(st *metaState) error {
		st.base = base
		st.segments = st.segments[len(old):]
		return nil
	})
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	l.base = base
	l.segments = l.segments[len(old):]
	l.wakeLocked()
	l.mu.Unlock()
	return len(old), l.unlink(old)
}

func (l *Log) droppable(below uint64) []*segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for n < len(l.segments) && l.segments[n].sealed && l.segments[n].end.Index < below {
		n++
	}
	return append([]*segment(nil), l.segments[:n]...)
}

// Rotate seals the active segment when it holds a frame, so that the next
// Append opens a new one.
func (l *Log) Rotate() error {
	l.change.Lock()
	defer l.change.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	l.mu.Lock()
	s := l.lastLocked()
	idle := s == nil || s.sealed || s.empty()
	l.mu.Unlock()
	if idle {
		return nil
	}
	return l.listSegment(nil)
}

// Reset drops every frame and begins again after the given place, in one
// synced change of the segment list together with the notes; files are
// unlinked after it. Readers get ErrGone. The next frame's First must be
// after.Index+1 and its Prev chain.
func (l *Log) Reset(after Position, chain Hash, notes map[string][]byte) error {
	l.change.Lock()
	defer l.change.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	base := place{after, chain}
	err := l.updateMeta(func(st *metaState) error {
		st.base = base
		st.segments = nil
		return st.setNotes(notes)
	})
	if err != nil {
		return err
	}
	l.active = nil
	l.mu.Lock()
	old := l.segments
	l.base, l.end, l.segments = base, base, nil
	l.ring.reset()
	l.resets++
	l.wakeLocked()
	l.mu.Unlock()
	return l.unlink(old)
}

// unlink removes files that the list no longer names.
func (l *Log) unlink(old []*segment) error {
	var errs []error
	for _, s := range old {
		path := s.path(l.cfg.Dir)
		if err := l.handles.drop(path); err != nil {
			errs = append(errs, err)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove a dropped segment: %w", err))
		}
	}
	if len(old) > 0 {
		errs = append(errs, boltfile.SyncDir(l.cfg.Dir))
	}
	return errors.Join(errs...)
}
