//go:build linux

package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// room is where a node's files lie; a test can take it away and give it back.
type room interface {
	dir() string
	refusal() syscall.Errno // what the kernel answers where there is none
	// take leaves a running node as little as the story says; without a node
	// it is this process that finds no room.
	take(n *cluster.Node)
	giveBack()
}

const inside = "TEST_INSIDE_NAMESPACE" // set in the process that owns a mount namespace

func runInNamespace(t *testing.T) {
	binary := cluster.Binary(t, false) // built here: the go command has its caches outside
	run := func(attr *syscall.SysProcAttr) ([]byte, error) {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$", "-test.v", "-test.timeout=5m")
		cmd.Env = append(os.Environ(), inside+"=1", "LOCKSTEP_TEST_BINARY="+binary)
		cmd.SysProcAttr = attr
		return cmd.CombinedOutput()
	}
	out, err := run(&syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	})
	var ran *exec.ExitError
	if err != nil && !errors.As(err, &ran) && os.Getuid() == 0 {
		out, err = run(&syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS})
	}
	if err != nil && !errors.As(err, &ran) {
		t.Skipf("neither a user namespace nor a mount namespace may be made here: %v", err)
	}
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

const diskBytes = 384 << 20

// disk is a small file system of its own.
type disk struct {
	t    *testing.T
	path string
	left int64 // bytes that take leaves free
}

func newDisk(t *testing.T, left int64) *disk {
	t.Helper()
	d := &disk{t, t.TempDir(), left}
	if err := syscall.Mount("tmpfs", d.path, "tmpfs", 0, fmt.Sprintf("size=%d", diskBytes)); err != nil {
		t.Fatalf("mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(d.path, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return d
}

func (d *disk) dir() string            { return d.path }
func (d *disk) refusal() syscall.Errno { return syscall.ENOSPC }

func (d *disk) free() int64 {
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.path, &s); err != nil {
		d.t.Fatal(err)
	}
	return int64(s.Bavail) * s.Bsize
}

func (d *disk) ballast() string { return filepath.Join(d.path, "ballast") }

func (d *disk) take(*cluster.Node) {
	d.t.Helper()
	bytes := d.free() - d.left
	if bytes <= 0 {
		return
	}
	f, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, bytes)); err != nil && !errors.Is(err, syscall.ENOSPC) {
		d.t.Fatal(err)
	}
}

func (d *disk) giveBack() {
	if err := os.Remove(d.ballast()); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.t.Fatal(err)
	}
}

// sizeLimit is a limit on the size of any file that a process writes. It
// holds by offset, so also for writes into room that a file has already. Only
// the soft limit is set: anyone may raise that again. The signal that comes
// with such a write (SIGXFSZ) ends no program written in Go: package os/signal
// promises that it causes no action.
type sizeLimit struct {
	t       *testing.T
	path    string
	limit   uint64
	limited int // process id; 0 when none is limited
}

func newSizeLimit(t *testing.T, limit int64) *sizeLimit {
	t.Helper()
	l := &sizeLimit{t: t, path: t.TempDir(), limit: uint64(limit)}
	t.Cleanup(l.giveBack)
	return l
}

func (l *sizeLimit) dir() string            { return l.path }
func (l *sizeLimit) refusal() syscall.Errno { return syscall.EFBIG }

func (l *sizeLimit) take(n *cluster.Node) {
	l.t.Helper()
	l.limited = os.Getpid()
	if n != nil {
		l.limited = n.Pid()
	}
	l.set(l.limit)
}

func (l *sizeLimit) giveBack() {
	if l.limited != 0 {
		l.set(unix.RLIM_INFINITY)
		l.limited = 0
	}
}

// set limits the process; one that has ended meanwhile needs no limit.
func (l *sizeLimit) set(soft uint64) {
	l.t.Helper()
	var now unix.Rlimit
	err := unix.Prlimit(l.limited, unix.RLIMIT_FSIZE, nil, &now)
	if err == nil {
		now.Cur = min(soft, now.Max)
		err = unix.Prlimit(l.limited, unix.RLIMIT_FSIZE, &now, nil)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		l.t.Fatalf("limit the size of files of process %d: %v", l.limited, err)
	}
}
