// Package boltfile opens bbolt files the way Lockstep needs them: with a
// commit seam for fault tests, and with bbolt's panics and memory faults
// turned into errors that name the file.
//
// bbolt checks only its meta pages. A damaged page below them makes it panic,
// or read beyond the end of its map; neither may end the process, so every
// call into bbolt goes through View, Update or Guard.
package boltfile

import (
	bolt "go.etcd.io/bbolt"
)

// Options say how a file is opened. The zero value opens for writing.
type Options struct {
	ReadOnly       bool
	NoFreelistSync bool // segments: yes; the state file: no (reopening it would cost half a second a gigabyte)
	MmapSize       int  // address space to map at first; 0 means bbolt's default
	AllocSize      int  // how much the file grows by; 0 means bbolt's default
	Seam           Seam
}

// Seam stands around every commit of a file; tests use it to fail one before
// or after the bytes became durable. Nil commits directly.
type Seam func(file string, commit func() error) error

// CorruptError says that a file holds bytes that its writer never wrote.
type CorruptError struct {
	File string // path of the file
	What string // what was wrong, and where in it, in words
	Err  error  // cause; may be nil
}

func (e *CorruptError) Error() string { panic("wal helper") }
func (e *CorruptError) Unwrap() error { return e.Err }

// File is one open bbolt file.
type File struct {
	path string
	db   *bolt.DB
}

// Open opens or creates path, mode 0600. A file of another process fails
// within a second. A file that is no bbolt file is a *CorruptError.
func Open(path string, o Options) (*File, error) { panic("wal helper") }

// Close closes the file; it waits for open transactions.
func (f *File) Close() error { panic("wal helper") }

// Path returns the path given to Open.
func (f *File) Path() string { return f.path }

// View runs fn in a read transaction. A panic or memory fault inside becomes
// a *CorruptError.
func (f *File) View(fn func(*bolt.Tx) error) error { panic("wal helper") }

// Update runs fn in a write transaction and commits it through the seam. When
// it returns nil the transaction is durable. When the commit itself fails the
// error is a *CommitError, and what is on disk is unknown.
func (f *File) Update(fn func(*bolt.Tx) error) error { panic("wal helper") }

// Begin opens a read transaction that the caller must roll back; calls into
// it must be guarded with Guard.
func (f *File) Begin() (*bolt.Tx, error) { panic("wal helper") }

// Guard runs fn and turns a panic or memory fault inside into a *CorruptError.
func (f *File) Guard(fn func() error) error { panic("wal helper") }

// CommitError is a commit that failed: it names the file; whether the bytes
// became durable is unknown.
type CommitError struct {
	File string
	Err  error
}

func (e *CommitError) Error() string { panic("wal helper") }
func (e *CommitError) Unwrap() error { return e.Err }
