package wal

import (
	"sync"

	"github.com/lockstepdb/lockstep/internal/boltfile"
)

// idleHandles is how many segment files that nobody reads just now stay open.
const idleHandles = 4

// handles are the open segment files: readers share them, and few stay open.
type handles struct {
	options boltfile.Options // for reading

	mu   sync.Mutex
	open map[string]*handle // by path
	tick uint64
}

type handle struct {
	file   *boltfile.File
	refs   int
	pinned bool // the active segment: never closed for being idle
	gone   bool // dropped: closed by the last reader
	used   uint64
}

func newHandles(o boltfile.Options) *handles {
	return &handles{options: o, open: map[string]*handle{}}
}

// with runs fn on the open file at path.
func (hs *handles) with(path string, fn func(*boltfile.File) error) error {
	h, err := hs.acquire(path)
	if err != nil {
		return err
	}
	defer hs.release(h)
	return fn(h.file)
}

func (hs *handles) acquire(path string) (*handle, error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.open[path]
	if h == nil {
		f, err := boltfile.Open(path, hs.options)
		if err != nil {
			return nil, err
		}
		h = &handle{file: f}
		hs.open[path] = h
	}
	h.refs++
	hs.tick++
	h.used = hs.tick
	hs.closeIdleLocked()
	return h, nil
}

func (hs *handles) release(h *handle) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h.refs--
	if h.gone && h.refs == 0 {
		_ = h.file.Close() // its file is unlinked or the log closed: nothing to lose
	}
	hs.closeIdleLocked()
}

// closeIdleLocked closes the files that were unused longest.
func (hs *handles) closeIdleLocked() {
	for {
		var oldest string
		idle := 0
		for path, h := range hs.open {
			if h.refs > 0 || h.pinned {
				continue
			}
			idle++
			if oldest == "" || h.used < hs.open[oldest].used {
				oldest = path
			}
		}
		if idle <= idleHandles {
			return
		}
		_ = hs.open[oldest].file.Close() // all its commits are durable
		delete(hs.open, oldest)
	}
}

// pin adds the active segment's file.
func (hs *handles) pin(f *boltfile.File) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.open[f.Path()] = &handle{file: f, pinned: true}
}

// unpin says that a segment is no longer active.
func (hs *handles) unpin(path string) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if h := hs.open[path]; h != nil {
		h.pinned = false
	}
	hs.closeIdleLocked()
}

// drop closes a file as soon as nobody reads it.
func (hs *handles) drop(path string) (err error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.open[path]
	if h == nil {
		return nil
	}
	delete(hs.open, path)
	h.gone = true
	if h.refs == 0 {
		err = h.file.Close()
	}
	return err
}

func (hs *handles) dropAll() (err error) {
	hs.mu.Lock()
	var paths []string
	for path := range hs.open {
		paths = append(paths, path)
	}
	hs.mu.Unlock()
	for _, path := range paths {
		if cerr := hs.drop(path); err == nil {
			err = cerr
		}
	}
	return err
}
