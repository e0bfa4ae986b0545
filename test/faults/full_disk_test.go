//go:build linux

// Package faults runs real servers on file systems that fail.
package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
	"github.com/lockstepdb/lockstep/wal"
)

const inside = "TEST_INSIDE_NAMESPACE" // set in the process that owns a mount namespace

// TestFullDisk fills a real file system, a small tmpfs, until the kernel
// answers ENOSPC, in the log, in the state file and in the metadata. Each
// time the process names the file and exits with 1; after room was made, every
// acknowledged record is there.
//
// A tmpfs can be mounted without being root in a user namespace; the test runs
// itself again in one.
func TestFullDisk(t *testing.T) {
	if os.Getenv(inside) == "" {
		runInNamespace(t)
		return
	}
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatalf("keep mounts to this test: %v", err)
	}
	t.Run("the log", func(t *testing.T) { fullLog(t) })
	t.Run("the state file", func(t *testing.T) { fullState(t) })
	t.Run("a new segment", func(t *testing.T) { fullSegments(t) })
	t.Run("the metadata file", func(t *testing.T) { fullMetadata(t) })
	t.Run("below min_free writes are refused and go on when there is room", func(t *testing.T) { belowMinFree(t) })
}

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

// disk is a small file system, of which a test can take and give back room.
type disk struct {
	t    *testing.T
	path string
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{t, t.TempDir()}
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

func (d *disk) free() int64 {
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.path, &s); err != nil {
		d.t.Fatal(err)
	}
	return int64(s.Bavail) * s.Bsize
}

// leave takes room until only so many bytes are free.
func (d *disk) leave(bytes int64) {
	d.t.Helper()
	take := d.free() - bytes
	if take <= 0 {
		return
	}
	f, err := os.OpenFile(filepath.Join(d.path, "ballast"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, take)); err != nil && !errors.Is(err, syscall.ENOSPC) {
		d.t.Fatal(err)
	}
}

// giveBack frees what leave took.
func (d *disk) giveBack() {
	if err := os.Remove(filepath.Join(d.path, "ballast")); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.t.Fatal(err)
	}
}

// onDisk makes a node whose files all lie on the disk, and which does not mind how full that is.
func onDisk(t *testing.T, d *disk, replication ...string) *cluster.Node {
	t.Helper()
	n := cluster.New(t, "full", cluster.Options{
		Dir: filepath.Join(d.path, "node"), Top: []string{`min_free = 1`}, Replication: replication,
		LogFile: filepath.Join(t.TempDir(), "log"), // its words must find room
	})
	n.Start()
	n.Init()
	n.MustDo("POST", "sys/mounts/kv", `{"type":"kv","options":{"version":"1"}}`, 200, 204)
	return n
}

// write puts records until so many are acknowledged or one is not; it returns how many were.
func write(n *cluster.Node, from, count, size int) int {
	for i := range count {
		if n.Put(context.Background(), cluster.Key("kv/r", from+i), cluster.Value(from+i, 0, size)) != nil {
			return i
		}
	}
	return count
}

// demandStopped demands that the server ended by itself with code 1 and named
// a file of its own; it returns what it wrote last.
func demandStopped(t *testing.T, n *cluster.Node, from int, parts ...string) {
	t.Helper()
	err := n.WaitExit(cluster.Deadline)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("the server ended with %v, want exit code 1\n%s", err, n.LogTail(20))
	}
	said := n.Log()[from:]
	if !strings.Contains(said, "no space left on device") {
		t.Errorf("the log does not say what is wrong:\n%s", n.LogTail(20))
	}
	named := false
	for _, p := range parts {
		named = named || strings.Contains(said, p)
	}
	if !named {
		t.Errorf("the log names none of %q:\n%s", parts, n.LogTail(20))
	}
}

// demandRecords starts the server again and demands all that was acknowledged.
func demandRecords(t *testing.T, n *cluster.Node, count, size int) {
	t.Helper()
	n.Start()
	for i := range count {
		value, found, err := n.Get(context.Background(), cluster.Key("kv/r", i))
		if err != nil || !found || value != cluster.Value(i, 0, size) {
			t.Fatalf("record %d of %d acknowledged: found %t, %v", i, count, found, err)
		}
	}
	if got := write(n, count, 10, size); got != 10 {
		t.Errorf("after room was made %d of 10 writes succeed\n%s", got, n.LogTail(20))
	}
	n.Stop()
	n.MustCheck()
}

func fullLog(t *testing.T) {
	const size = 64 << 10
	d := newDisk(t)
	n := onDisk(t, d, `checkpoint_interval = "1h"`, `checkpoint_bytes = "1GiB"`)
	acked := write(n, 0, 50, size)
	if acked != 50 {
		t.Fatalf("%d of 50 writes acknowledged on an empty disk\n%s", acked, n.LogTail(20))
	}
	d.leave(2 << 20)
	from := len(n.Log())
	acked += write(n, acked, 5000, size)
	if acked == 5050 {
		t.Fatal("five thousand writes found room on a full disk")
	}
	demandStopped(t, n, from, ".wal", "/log/", "meta.db")
	d.giveBack()
	demandRecords(t, n, acked, size)
}

func fullState(t *testing.T) {
	const size = 16 << 10
	d := newDisk(t)
	n := onDisk(t, d, `checkpoint_interval = "1h"`, `checkpoint_bytes = "1GiB"`)
	acked := write(n, 0, 1500, size)
	if acked != 1500 {
		t.Fatalf("%d of 1500 writes acknowledged on an empty disk\n%s", acked, n.LogTail(20))
	}
	d.leave(1 << 20)
	from := len(n.Log())
	if err := n.Terminate(); err != nil { // its last checkpoint finds no room
		t.Fatal(err)
	}
	demandStopped(t, n, from, "state.db")
	d.giveBack()
	demandRecords(t, n, acked, size)
}

func fullSegments(t *testing.T) {
	const size = 100
	d := newDisk(t)
	// A segment every few entries: the next one finds no room.
	n := onDisk(t, d, `checkpoint_interval = "1h"`, `checkpoint_bytes = "1GiB"`, `segment_entries = 4`)
	acked := write(n, 0, 40, size)
	if acked != 40 {
		t.Fatalf("%d of 40 writes acknowledged on an empty disk\n%s", acked, n.LogTail(20))
	}
	d.leave(0)
	from := len(n.Log())
	acked += write(n, acked, 5000, size)
	if n.Running() && acked == 5040 {
		t.Fatal("five thousand writes found room on a full disk")
	}
	demandStopped(t, n, from, "meta.db", ".wal")
	t.Logf("named: %s", n.LogTail(3))
	d.giveBack()
	demandRecords(t, n, acked, size)
}

// fullMetadata goes through the log itself: a server's metadata file has slack
// for all that it writes there in a day.
func fullMetadata(t *testing.T) {
	d := newDisk(t)
	dir := filepath.Join(d.path, "log")
	log, _, err := wal.Open(wal.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.SetNotes(map[string][]byte{"small": []byte("kept")}); err != nil {
		t.Fatal(err)
	}
	d.leave(0)
	err = log.SetNotes(map[string][]byte{"large": make([]byte, 4<<20)})
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(fmt.Sprint(err), "meta.db") {
		t.Errorf("notes on a full disk: %v, want ENOSPC and meta.db named", err)
	}
	t.Logf("refused: %v", err)
	if err := log.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	d.giveBack()
	log, _, err = wal.Open(wal.Config{Dir: dir})
	if err != nil {
		t.Fatalf("reopen after room was made: %v", err)
	}
	defer log.Close()
	if got := string(log.Note("small")); got != "kept" {
		t.Errorf("the note from before is %q, want kept", got)
	}
	if got := log.Note("large"); got != nil {
		t.Errorf("the refused note is there with %d bytes", len(got))
	}
	if err := log.SetNotes(map[string][]byte{"large": make([]byte, 4<<20)}); err != nil {
		t.Errorf("notes after room was made: %v", err)
	}
}

func belowMinFree(t *testing.T) {
	const size = 1 << 10
	d := newDisk(t)
	n := cluster.New(t, "guarded", cluster.Options{
		Dir: filepath.Join(d.path, "node"), Top: []string{`min_free = "128MiB"`}, LogFile: filepath.Join(t.TempDir(), "log"),
	})
	n.Start()
	n.Init()
	n.MustDo("POST", "sys/mounts/kv", `{"type":"kv","options":{"version":"1"}}`, 200, 204)
	if got := write(n, 0, 20, size); got != 20 {
		t.Fatalf("%d of 20 writes acknowledged with room\n%s", got, n.LogTail(20))
	}
	d.leave(32 << 20)
	cluster.Eventually(t, cluster.Deadline, "a write is answered 503", func() (bool, string) {
		answer, err := n.Do(context.Background(), "PUT", "kv/probe", []byte(`{"value":"x"}`))
		if err != nil {
			return false, err.Error()
		}
		return answer.Status == 503, fmt.Sprintf("%d %s", answer.Status, answer.Body)
	})
	answer := n.MustDo("PUT", "kv/probe", `{"value":"x"}`, 503)
	if !strings.ContainsAny(string(answer.Body), "0123456789") {
		t.Errorf("the refusal has no figures: %s", answer.Body)
	}
	t.Logf("refused: %s", answer.Body)
	if value, found, err := n.Get(context.Background(), cluster.Key("kv/r", 7)); err != nil || !found || value != cluster.Value(7, 0, size) {
		t.Errorf("read below min_free: found %t, %v", found, err)
	}
	if s := n.MustStatus(cluster.DR); s.Mode != "disabled" {
		t.Errorf("status below min_free: %+v", s)
	}
	d.giveBack()
	began := time.Now()
	cluster.Eventually(t, cluster.Deadline, "writes resume by themselves", func() (bool, string) {
		err := n.Put(context.Background(), "kv/probe", "x")
		return err == nil, fmt.Sprint(err)
	})
	t.Logf("resumed after %s", time.Since(began).Round(time.Millisecond))
	n.Stop()
	n.MustCheck()
}
