package wal

import "sort"

// ring holds the newest frames in memory, so that readers near the end of the
// log touch no disk.
type ring struct {
	limit  int64
	bytes  int64
	frames []*Frame // consecutive, oldest first
}

// memoryBytes is about what a frame takes in memory.
func memoryBytes(f *Frame) int64 {
	return int64(f.Length) + int64(len(f.Totals)) + 24*int64(len(f.Entries)) + 256
}

func (r *ring) add(f *Frame) {
	r.frames = append(r.frames, f)
	r.bytes += memoryBytes(f)
	for len(r.frames) > 1 && r.bytes > r.limit {
		r.bytes -= memoryBytes(r.frames[0])
		r.frames[0] = nil // the array is shared until append moves it
		r.frames = r.frames[1:]
	}
}

// find returns the frame that holds index, or nil.
func (r *ring) find(index uint64) *Frame {
	if i := r.search(index); i >= 0 {
		return r.frames[i]
	}
	return nil
}

func (r *ring) search(index uint64) int {
	if len(r.frames) == 0 || index < r.frames[0].First {
		return -1
	}
	i := sort.Search(len(r.frames), func(i int) bool { return r.frames[i].First > index }) - 1
	if index > r.frames[i].Last() {
		return -1
	}
	return i
}

// bytesFrom returns the stored size of the frames from the one that holds
// index on; ok is false when that frame is not here.
func (r *ring) bytesFrom(index uint64) (n int64, ok bool) {
	i := r.search(index)
	if i < 0 {
		return 0, false
	}
	for _, f := range r.frames[i:] {
		n += storedBytes(f)
	}
	return n, true
}

// cut forgets the frames after index.
func (r *ring) cut(index uint64) {
	n := len(r.frames)
	for ; n > 0 && r.frames[n-1].First > index; n-- {
		r.bytes -= memoryBytes(r.frames[n-1])
		r.frames[n-1] = nil
	}
	r.frames = r.frames[:n]
}

func (r *ring) reset() { r.frames, r.bytes = nil, 0 }
