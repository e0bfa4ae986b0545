package wal

import (
	"errors"
	"fmt"
)

// ErrNotAnEnd means that a place is not the end of a frame of this log.
var ErrNotAnEnd = errors.New("no frame of this log ends there")

// Cut takes back every frame after a place, which is the end of a frame held or the place before the first, in one synced change of
// the segment list together with the notes; files are unlinked after it. Readers get ErrGone. Nothing is appended to a
// segment that was cut: the frames taken back stay in its file, behind its end, until it is dropped.
func (l *Log) Cut(to Position, notes map[string][]byte) error {
	l.change.Lock()
	defer l.change.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	at, err := l.placeAt(to)
	if err != nil {
		return fmt.Errorf("cut the log after index %d: %w", to.Index, err)
	}
	kept, last, old := l.cutAt(at)
	err = l.updateMeta(func(st *metaState) error {
		st.segments = st.segments[:kept]
		if last != nil {
			st.segments[kept-1] = *last
		}
		return st.setNotes(notes)
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	if last != nil {
		*l.segments[kept-1] = *last
	}
	l.segments = l.segments[:kept:kept]
	l.end = at
	l.ring.cut(at.Index)
	l.resets++
	l.wakeLocked()
	l.mu.Unlock()
	if last != nil {
		l.handles.unpin(last.path(l.cfg.Dir))
	}
	if last != nil || len(old) > 0 {
		l.active = nil
	}
	return l.unlink(old)
}

// placeAt returns a place with its chain hash.
func (l *Log) placeAt(to Position) (place, error) {
	l.mu.Lock()
	base, end := l.base, l.end
	l.mu.Unlock()
	for _, p := range []place{base, end} {
		if p.Position == to {
			return p, nil
		}
	}
	f, err := l.Frame(to.Index)
	if err != nil {
		return place{}, err
	}
	if f.Position() != to {
		return place{}, fmt.Errorf("%w: the frame there holds %d to %d, of fork %v", ErrNotAnEnd, f.First, f.Last(), f.Fork)
	}
	return place{to, f.Chain}, nil
}

// cutAt returns how many segments stay, what the last of them becomes (nil: it ends there already), and those that go.
func (l *Log) cutAt(at place) (kept int, last *segment, old []*segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for kept < len(l.segments) && l.segments[kept].first <= at.Index {
		kept++
	}
	if at == l.end {
		kept = len(l.segments)
	}
	old = append(old, l.segments[kept:]...)
	if kept == 0 || l.segments[kept-1].end.Index <= at.Index {
		return kept, nil, old
	}
	s := *l.segments[kept-1]
	before := s.entries()
	s.end, s.sealed, s.cut = at, true, true
	s.bytes = int64(float64(s.bytes) * float64(s.entries()) / float64(before))
	return kept, &s, old
}
