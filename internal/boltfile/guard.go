package boltfile

import (
	"errors"
	"fmt"
	"runtime/debug"

	berrors "go.etcd.io/bbolt/errors"
)

// CorruptError says that a file holds bytes that its writer never wrote.
type CorruptError struct {
	File string // path of the file
	What string // what was wrong, and where in it, in words
	Err  error  // cause; may be nil
}

func (e *CorruptError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%s is damaged: %s", e.File, e.What)
	}
	return fmt.Sprintf("%s is damaged: %s: %v", e.File, e.What, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }

// CommitError is a commit that failed: it names the file; whether the bytes
// became durable is unknown.
type CommitError struct {
	File string
	Err  error
}

func (e *CommitError) Error() string { return fmt.Sprintf("commit of %s failed: %v", e.File, e.Err) }
func (e *CommitError) Unwrap() error { return e.Err }

// Guard runs fn and turns a panic or memory fault inside into a *CorruptError
// that carries the panic's text.
func (f *File) Guard(fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if p := recover(); p != nil {
			err = panicked(f.path, p)
		}
	}()
	return fn()
}

func panicked(path string, p any) error {
	e := &CorruptError{File: path, What: "reading it failed"}
	if cause, ok := p.(error); ok {
		e.Err = cause
	} else {
		e.What = fmt.Sprintf("reading it failed: %v", p)
	}
	return e
}

// isBoltFormat reports whether bbolt refused a file for what it holds.
func isBoltFormat(err error) bool {
	for _, known := range []error{berrors.ErrInvalid, berrors.ErrVersionMismatch, berrors.ErrChecksum} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
