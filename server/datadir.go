package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What a data directory holds. See doc.go.
const (
	lockName    = "lock"
	currentName = "CURRENT"
	trashName   = "trash"
	archiveName = "archive"
)

// lockWait is how long a starting process waits for another one to end: a
// restart overlaps with the end of what it replaces.
const lockWait = time.Second

// InUse says that another process has the data directory.
type InUse struct {
	Dir string
	PID int // 0 when it could not be read
}

func (e *InUse) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("data directory %s is in use by %s: stop it first", e.Dir, who)
}

// DataDir is a data directory that this process has locked.
type DataDir struct {
	Path string
	lock *os.File
	// step is called before each step that a crash could separate from the
	// next; tests end the work there.
	step func(name string)
}

func (d *DataDir) at(name string) {
	if d.step != nil {
		d.step(name)
	}
}

// OpenDataDir makes the directory when it is missing, and locks it. The lock
// ends with the process, however that ends. Another process's lock is an *InUse.
func OpenDataDir(path string) (*DataDir, error) {
	if err := makePrivate(path); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	return lockDataDir(path)
}

// OpenStopped locks an existing data directory for a command that works on a
// stopped node. It makes nothing but the lock file.
func OpenStopped(path string) (*DataDir, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("data directory %s is no directory", path)
	}
	_, missing := os.Stat(filepath.Join(path, currentName))
	if missing != nil {
		if _, err := os.Stat(filepath.Join(path, lockName)); err != nil {
			return nil, fmt.Errorf("%s is no data directory of Lockstep: it holds no file %s", path, currentName)
		}
	}
	d, err := lockDataDir(path)
	if err == nil && missing != nil {
		err = errors.Join(fmt.Errorf("%s holds no store: the cluster was never initialised; start the server and call PUT /v1/sys/init (vault operator init), which answers with a root token", path), d.Close())
		return nil, err
	}
	return d, err
}

// makePrivate makes a directory that only its owner can enter, and takes
// others' rights away from one that exists.
func makePrivate(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return fmt.Errorf("others may enter it, and that cannot be changed: %w", err)
	}
	return nil
}

func lockDataDir(path string) (*DataDir, error) {
	f, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := flockWithin(f, lockWait); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &InUse{Dir: path, PID: readPID(f)}
		}
		return nil, fmt.Errorf("lock data directory %s: %w", path, err)
	}
	if err := writePID(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock data directory %s: %w", path, err)
	}
	return &DataDir{Path: path, lock: f}, nil
}

func flockWithin(f *os.File, wait time.Duration) error {
	end := time.Now().Add(wait)
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end):
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func readPID(f *os.File) int {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

// Close gives the lock back.
func (d *DataDir) Close() error { return d.lock.Close() }

// FreeDisk returns the bytes that this process may still write on the file
// system of the directory.
func (d *DataDir) FreeDisk() (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(d.Path, &fs); err != nil {
		return 0, fmt.Errorf("free disk of %s: %w", d.Path, err)
	}
	return int64(fs.Bavail) * int64(fs.Bsize), nil
}
