package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// reserveBytes are kept in a file that is given up when the disk is too full to open the store.
	reserveBytes = 64 << 20
	// openBytes are what opening a store may need: a segment's first pages, a checkpoint.
	openBytes = 48 << 20

	diskEvery = time.Second
)

// diskGuard refuses writes while the disk is too full, and stops refusing by itself. It looks at most every second.
type diskGuard struct {
	dir     string
	minFree atomic.Int64

	mu      sync.Mutex // guards what follows
	checked time.Time
	free    int64 // the reserve included
	err     error
}

func newDiskGuard(dir string, minFree int64) *diskGuard {
	g := &diskGuard{dir: dir}
	g.minFree.Store(minFree)
	return g
}

// look returns the free bytes, as of a second ago at most.
func (g *diskGuard) look() (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := time.Now(); g.checked.IsZero() || now.Sub(g.checked) >= diskEvery {
		g.checked = now
		g.free, g.err = freeBytes(g.dir)
		if st, err := os.Stat(filepath.Join(g.dir, reserveFile)); err == nil {
			g.free += st.Size()
		}
	}
	return g.free, g.err
}

// writable says why clients' writes are refused, if so.
func (g *diskGuard) writable() error { return g.atLeast(g.minFree.Load()) }

// streamable says why a feeder's entries are refused, if so: they go on for longer than clients' writes, but not until a
// commit fails.
func (g *diskGuard) streamable() error { return g.atLeast(g.minFree.Load() / 2) }

func (g *diskGuard) atLeast(limit int64) error {
	if limit <= 0 {
		return nil
	}
	free, err := g.look()
	if err != nil {
		return fmt.Errorf("looking for free disk: %w", err)
	}
	if free < limit {
		return fmt.Errorf("%w: %s has %d MiB free, %d MiB are needed: free some disk, writes then resume by themselves",
			ErrDiskFull, g.dir, free>>20, limit>>20)
	}
	return nil
}

func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// giveUpReserve frees the reserve when the disk is too full to open the store.
func giveUpReserve(dir string) error {
	free, err := freeBytes(dir)
	if err != nil || free >= openBytes {
		return err
	}
	if err := os.Remove(filepath.Join(dir, reserveFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("giving up the reserve: %w", err)
	}
	return nil
}

// keepReserve makes the reserve when there is room for it.
func keepReserve(dir string) error {
	path := filepath.Join(dir, reserveFile)
	if st, err := os.Stat(path); err == nil && st.Size() >= reserveBytes {
		return nil
	}
	free, err := freeBytes(dir)
	if err != nil || free < reserveBytes+openBytes {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("making the reserve: %w", err)
	}
	err = errors.Join(allocate(f, reserveBytes), f.Close())
	if err != nil {
		return errors.Join(fmt.Errorf("making the reserve: %w", err), os.Remove(path))
	}
	return nil
}

// clientWritable says why a client's write is refused before it is looked at, if so.
func (e *Engine) clientWritable() error {
	if e.life.over() {
		return e.life.refusal()
	}
	if e.Role() != Writer {
		return ErrNotWritable
	}
	if err := e.fenced(); err != nil {
		return err
	}
	return e.disk.writable()
}

// Writable returns nil, or why writes are refused at present (ErrDiskFull with the figures, ErrNotWritable, ErrInconsistent, ErrPoisoned, ErrFenced).
// ErrInconsistent, and a *Fence that says so, concern keyspaces of the replicated scope only.
func (e *Engine) Writable() error {
	if err := e.clientWritable(); err != nil {
		return err
	}
	if e.SyncState() != nil {
		return ErrInconsistent
	}
	if f := e.fence.get(); f != nil {
		return f
	}
	return nil
}

func fileSize(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}
