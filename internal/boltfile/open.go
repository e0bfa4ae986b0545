package boltfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

// openLocked is how bbolt gets its file: opened, locked, and looked at before
// bbolt maps it. The lock belongs to the descriptor, so bbolt's own attempt succeeds at once.
func (f *File) openLocked(path string, flag int, mode os.FileMode) (*os.File, error) {
	create := strings.HasSuffix(path, newSuffix) && path == f.path+newSuffix
	if create {
		flag |= os.O_EXCL
	} else {
		flag &^= os.O_CREATE
	}
	fd, err := os.OpenFile(path, flag, mode)
	if err != nil {
		return nil, err
	}
	if err = lock(fd, f.opts.ReadOnly); err == nil && !create {
		err = f.inspect(fd)
	}
	if err != nil {
		_ = fd.Close()
		return nil, err
	}
	f.fd = fd
	return fd, nil
}

func lock(fd *os.File, shared bool) error {
	how := syscall.LOCK_EX | syscall.LOCK_NB
	if shared {
		how = syscall.LOCK_SH | syscall.LOCK_NB
	}
	const pause = 20 * time.Millisecond
	for end := time.Now().Add(lockWait - 2*pause); ; time.Sleep(pause) {
		err := syscall.Flock(int(fd.Fd()), how)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return &fs.PathError{Op: "lock", Path: fd.Name(), Err: err}
		case time.Now().After(end):
			return fmt.Errorf("%s: %w: another process has it open", fd.Name(), ErrInUse)
		}
	}
}

func unlock(fd *os.File) error {
	raw, err := fd.SyscallConn()
	if err != nil {
		return err
	}
	var uerr error
	if err := raw.Control(func(fd uintptr) { uerr = syscall.Flock(int(fd), syscall.LOCK_UN) }); err != nil {
		return err
	}
	return uerr
}
