package wal

import (
	"fmt"

	"github.com/lockstepdb/lockstep/internal/boltfile"
)

// segmentOptions are those of a segment that takes frames: it is written once,
// front to back, so its free list is not worth a page a commit, and its map is
// large enough that growing never waits for a reader.
func (l *Log) segmentOptions() boltfile.Options {
	const maxAlloc, minAlloc = 16 << 20, 64 << 10
	return boltfile.Options{
		NoFreelistSync: true,
		MmapSize:       int(l.cfg.SegmentBytes + l.cfg.SegmentBytes/4),
		AllocSize:      int(min(maxAlloc, max(minAlloc, l.cfg.SegmentBytes/4))),
		Tie:            true,
		Seam:           l.cfg.Seam,
	}
}

// Append writes sealed frames, in order, as one transaction with one sync.
// They must follow the last frame: index without a gap, Prev equal to Chain().
// After a failed commit the log is poisoned.
func (l *Log) Append(frames ...*Frame) error {
	l.change.Lock()
	defer l.change.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	if len(frames) == 0 {
		return nil
	}
	if err := l.checkFollows(frames); err != nil {
		return err
	}
	if err := l.ensureActive(); err != nil {
		return err
	}
	s, next, t := l.grown(frames)
	// Sealed before the transaction begins; bbolt needs the bytes until it has ended.
	sealer := newSegmentSealer(l.cfg.Sealer, s.id)
	stored, buf := sealer.sealFrames(l.buf, frames)
	if l.buf = buf; cap(l.buf) > maxKeptBuffer {
		l.buf = nil
	}
	if err := writeFrames(l.active, s.id, sealer.seal(nil, kindTail, 0, t.encode()), stored); err != nil {
		return l.poison(err)
	}
	l.publish(s, next, frames)
	return nil
}

// maxKeptBuffer is how much memory for sealing is kept from one Append to the next.
const maxKeptBuffer = 8 << 20

// checkFollows refuses frames that are out of place, or were changed after they were sealed.
func (l *Log) checkFollows(frames []*Frame) error {
	position, chain := l.End()
	index := position.Index
	for _, f := range frames {
		if f.First != index+1 {
			return fmt.Errorf("append frame at index %d: %w: it ends at index %d", f.First, ErrNotNext, index)
		}
		if f.Prev != chain {
			return fmt.Errorf("append frame at index %d: %w: it follows another frame than the last one here", f.First, ErrNotNext)
		}
		if err := f.verifySum(); err != nil {
			return fmt.Errorf("append frame at index %d: %w", f.First, err)
		}
		for i, e := range f.Entries {
			if len(e) > MaxEntryBytes {
				return fmt.Errorf("append: entry %d has %d bytes: at most %d are possible", f.First+uint64(i), len(e), MaxEntryBytes)
			}
		}
		index, chain = f.Last(), f.Chain
	}
	return nil
}

// grown returns the active segment, what it is after frames, and the tail that says so in the file.
func (l *Log) grown(frames []*Frame) (s *segment, next segment, t tail) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s = l.lastLocked()
	next = *s
	for _, f := range frames {
		t.txBytes += uint64(storedBytes(f))
	}
	end := frames[len(frames)-1]
	next.end = place{end.Position(), end.Chain}
	next.bytes += int64(t.txBytes)
	t.last, t.fork, t.chain = end.Last(), end.Fork, end.Chain
	t.txFirst = frames[0].First
	t.entries = next.entries()
	t.bytes = uint64(next.bytes)
	return s, next, t
}

// publish makes committed frames visible to readers.
func (l *Log) publish(s *segment, next segment, frames []*Frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*s = next
	l.end = next.end
	for _, f := range frames {
		l.ring.add(f)
	}
	l.wakeLocked()
}

// ensureActive makes sure that the last segment takes frames and is not full.
func (l *Log) ensureActive() error {
	if l.active != nil && !l.activeFull() {
		return nil
	}
	l.mu.Lock()
	end := l.end
	l.mu.Unlock()
	fresh := &segment{id: newSegmentID(), first: end.Index + 1, prev: end.Chain, end: end}
	// The name must be durable before the list names it; a file that the list does not name is removed by the next Open.
	f, err := boltfile.Open(fresh.path(l.cfg.Dir), l.segmentOptions())
	if err != nil {
		return l.poison(err)
	}
	if err := l.listSegment(fresh); err != nil {
		_ = f.Close()
		return err
	}
	l.handles.pin(f)
	l.active = f
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = append(l.segments, fresh)
	return nil
}

func (l *Log) activeFull() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.lastLocked()
	return s.bytes >= l.cfg.SegmentBytes || s.entries() >= uint64(l.cfg.SegmentEntries)
}

// listSegment adds a segment to the list (none when nil) and seals the one
// before it, in one synced change.
func (l *Log) listSegment(fresh *segment) error {
	l.mu.Lock()
	before := l.lastLocked()
	l.mu.Unlock()
	seal := before != nil && !before.sealed
	err := l.updateMeta(func(st *metaState) error {
		if seal {
			sealed := *before
			sealed.sealed = true
			*st.find(before.id) = sealed
		}
		if fresh != nil {
			st.segments = append(st.segments, *fresh)
		}
		return nil
	})
	if err != nil || !seal {
		return err
	}
	l.mu.Lock()
	before.sealed = true
	l.mu.Unlock()
	l.handles.unpin(before.path(l.cfg.Dir))
	l.active = nil
	return nil
}
