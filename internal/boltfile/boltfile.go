package boltfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Options say how a file is opened. The zero value opens for writing.
type Options struct {
	ReadOnly       bool
	NoFreelistSync bool // segments: yes; the state file: no (reopening it would cost half a second a gigabyte)
	MmapSize       int  // address space to map at first; 0 means bbolt's default
	AllocSize      int  // how much the file grows by; 0 means bbolt's default
	Tie            bool // tie every commit to its meta page; a file is opened with it always or never
	Seam           Seam
}

// Seam stands around every commit of a file; tests use it to fail one before
// or after the bytes became durable. Nil commits directly.
type Seam func(file string, commit func() error) error

// ErrInUse says that another process, or this one, has the file open.
var ErrInUse = errors.New("the file is in use")

// lockWait is how long Open waits for the lock of another process.
const lockWait = time.Second

// newSuffix marks a file that is not complete yet.
const newSuffix = ".new"

// File is one open bbolt file.
type File struct {
	path string
	opts Options
	db   *bolt.DB
	fd   *os.File // bbolt's own, kept to close it when bbolt cannot

	stuck  atomic.Bool // bbolt panicked while holding its locks: its Close would wait for ever
	failMu sync.Mutex
	failed error // the first failed commit: later ones are refused
}

// Open opens or creates path, mode 0600. A file of another process fails
// within a second with ErrInUse. A file that is no bbolt file, an empty one
// included, is a *CorruptError.
func Open(path string, o Options) (*File, error) {
	f := &File{path: path, opts: o}
	_, err := os.Lstat(path)
	switch {
	case err == nil || o.ReadOnly:
		err = f.open(path)
	case errors.Is(err, fs.ErrNotExist):
		err = f.create()
	default:
		err = fmt.Errorf("open %s: %w", path, err)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// create makes the file under another name and renames it when it is whole.
func (f *File) create() error {
	temp := f.path + newSuffix
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("create %s: %w", f.path, err)
	}
	if err := f.open(temp); err != nil {
		return err
	}
	err := os.Rename(temp, f.path)
	if err == nil {
		err = SyncDir(filepath.Dir(f.path))
	}
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("create %s: %w", f.path, err)
	}
	return nil
}

// open opens the file at path, which is f.path or its temporary name.
func (f *File) open(path string) error {
	o := bolt.Options{
		Timeout:         lockWait,
		NoFreelistSync:  f.opts.NoFreelistSync,
		FreelistType:    bolt.FreelistMapType,
		ReadOnly:        f.opts.ReadOnly,
		InitialMmapSize: f.opts.MmapSize,
		NoStatistics:    true,
		OpenFile:        f.openLocked,
	}
	err := f.Guard(func() (err error) {
		f.db, err = bolt.Open(path, 0o600, &o)
		return err
	})
	if err == nil && f.opts.Tie {
		err = f.checkTie()
	}
	if err != nil {
		return f.openFailed(err)
	}
	if f.opts.AllocSize > 0 {
		f.db.AllocSize = f.opts.AllocSize
	}
	return nil
}

// openFailed gives back what a failed open holds and names the file in the error.
func (f *File) openFailed(err error) error {
	if f.db != nil {
		_ = f.Close()
	} else if f.fd != nil {
		_ = f.giveBack()
	}
	var corrupt *CorruptError
	switch {
	case errors.As(err, &corrupt), errors.Is(err, ErrInUse), errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return err
	case isBoltFormat(err):
		return &CorruptError{File: f.path, What: "it is not a bbolt file", Err: err}
	}
	return fmt.Errorf("open %s: %w", f.path, err)
}

// Close closes the file; it waits for open transactions. After bbolt
// panicked with its locks held it only gives the file back.
func (f *File) Close() error {
	if f.stuck.Load() {
		return f.giveBack()
	}
	if err := f.Guard(f.db.Close); err != nil {
		return fmt.Errorf("close %s: %w", f.path, err)
	}
	return nil
}

// giveBack unlocks and closes the file behind bbolt's back. bbolt's map stays,
// and would keep the lock.
func (f *File) giveBack() error {
	err := unlock(f.fd)
	if cerr := f.fd.Close(); err == nil {
		err = cerr
	}
	if err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close %s: %w", f.path, err)
	}
	return nil
}

// Path returns the path given to Open.
func (f *File) Path() string { return f.path }

// View runs fn in a read transaction. A panic or memory fault inside becomes
// a *CorruptError.
func (f *File) View(fn func(*bolt.Tx) error) error {
	tx, err := f.Begin()
	if err != nil {
		return err
	}
	err = f.Guard(func() error { return fn(tx) })
	if rerr := f.Guard(tx.Rollback); rerr != nil && err == nil {
		err = fmt.Errorf("%s: end of a read transaction: %w", f.path, rerr)
	}
	return err
}

// Begin opens a read transaction that the caller must roll back; calls into
// it must be guarded with Guard.
func (f *File) Begin() (*bolt.Tx, error) { return f.begin(false) }

func (f *File) begin(writable bool) (tx *bolt.Tx, err error) {
	if f.stuck.Load() {
		return nil, &CorruptError{File: f.path, What: "an earlier fault left it unusable until it is opened again"}
	}
	var returned bool
	err = f.Guard(func() (err error) {
		tx, err = f.db.Begin(writable)
		returned = true
		return err
	})
	if !returned {
		f.stuck.Store(true)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: begin a transaction: %w", f.path, err)
	}
	return tx, nil
}

// Update runs fn in a write transaction and commits it through the seam. When
// it returns nil the transaction is durable. When the commit itself fails the
// error is a *CommitError, what is on disk is unknown, and every later Update
// of this File returns that error again.
func (f *File) Update(fn func(*bolt.Tx) error) error {
	if err := f.commitFailure(); err != nil {
		return err
	}
	tx, err := f.begin(true)
	if err != nil {
		return err
	}
	if err := f.commitFailure(); err != nil { // it may have failed while this one waited for its turn
		f.rollback(tx)
		return err
	}
	err = f.Guard(func() error {
		if err := fn(tx); err != nil {
			return err
		}
		return f.tie(tx)
	})
	if err != nil {
		f.rollback(tx)
		return err
	}
	if err := f.commit(tx); err != nil {
		err = f.setFailed(err) // before the rollback lets the next writer in
		f.rollback(tx)
		return err
	}
	return nil
}

func (f *File) commit(tx *bolt.Tx) error {
	commit := func() error { return f.Guard(tx.Commit) }
	if f.opts.Seam == nil {
		return commit()
	}
	return f.opts.Seam(f.path, commit)
}

// rollback ends a write transaction, also one that bbolt has closed itself.
func (f *File) rollback(tx *bolt.Tx) {
	var returned bool
	_ = f.Guard(func() error {
		_ = tx.Rollback() // only ever says that it was closed before
		returned = true
		return nil
	})
	if !returned {
		f.stuck.Store(true)
	}
}

func (f *File) commitFailure() error {
	f.failMu.Lock()
	defer f.failMu.Unlock()
	return f.failed
}

func (f *File) setFailed(cause error) error {
	f.failMu.Lock()
	defer f.failMu.Unlock()
	if f.failed == nil {
		f.failed = &CommitError{File: f.path, Err: cause}
	}
	return f.failed
}

// SyncDir makes the names in a directory durable: to be called after files
// appeared in it or left it.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
