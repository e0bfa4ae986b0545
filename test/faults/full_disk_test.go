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

// stories are told in each kind of room: so many bytes are left on the small
// disk, or a file may have so many.
var stories = []struct {
	name     string
	tell     func(*testing.T, room)
	left     int64
	fileSize int64
}{
	{"the log", fullLog, 2 << 20, 6 << 20},
	{"the state file", fullState, 1 << 20, 2 << 20},
	{"a new segment", fullSegments, 0, 1 << 20},
	{"the metadata file", fullMetadata, 0, 1 << 20},
}

// TestFullDisk fills a real file system, a small tmpfs, until the kernel
// answers ENOSPC, in the log, in the state file and in the metadata. Each
// time the process names the file and exits with 1; after room was made, every
// acknowledged record is there.
//
// A tmpfs can be mounted without being root in a user namespace; the test runs
// itself again in one. Where no namespace may be made TestFileSizeLimit tells
// the same stories, but belowMinFree: its figures are those of a file system.
func TestFullDisk(t *testing.T) {
	if os.Getenv(inside) == "" {
		runInNamespace(t)
		return
	}
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatalf("keep mounts to this test: %v", err)
	}
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) { s.tell(t, newDisk(t, s.left)) })
	}
	t.Run("below min_free writes are refused and go on when there is room", belowMinFree)
}

// TestFileSizeLimit tells the same stories where the kernel refuses writes
// beyond a size of file (RLIMIT_FSIZE, EFBIG). It needs no privilege at all.
func TestFileSizeLimit(t *testing.T) {
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) { s.tell(t, newSizeLimit(t, s.fileSize)) })
	}
}

// in makes a node whose files all lie in the room, and which does not mind how full that is.
func in(t *testing.T, r room, replication ...string) *cluster.Node {
	t.Helper()
	n := cluster.New(t, "full", cluster.Options{
		Dir: filepath.Join(r.dir(), "node"), Top: []string{`min_free = 1`}, Replication: replication,
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
func demandStopped(t *testing.T, r room, n *cluster.Node, from int, parts ...string) {
	t.Helper()
	err := n.WaitExit(cluster.Deadline)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("the server ended with %v, want exit code 1\n%s", err, n.LogTail(20))
	}
	said := n.Log()[from:]
	if !strings.Contains(said, r.refusal().Error()) {
		t.Errorf("the log does not say %q:\n%s", r.refusal(), n.LogTail(20))
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

func fullLog(t *testing.T, r room) {
	const size = 64 << 10
	n := in(t, r, `checkpoint_interval = "1h"`, `checkpoint_bytes = "1GiB"`)
	acked := write(n, 0, 50, size)
	if acked != 50 {
		t.Fatalf("%d of 50 writes acknowledged with room\n%s", acked, n.LogTail(20))
	}
	r.take(n)
	from := len(n.Log())
	acked += write(n, acked, 5000, size)
	if acked == 5050 {
		t.Fatal("five thousand writes found room where there is none")
	}
	demandStopped(t, r, n, from, ".wal", "/log/", "meta.db")
	r.giveBack()
	demandRecords(t, n, acked, size)
}

func fullState(t *testing.T, r room) {
	const size = 16 << 10
	n := in(t, r, `checkpoint_interval = "1h"`, `checkpoint_bytes = "1GiB"`)
	acked := write(n, 0, 300, size)
	if acked != 300 {
		t.Fatalf("%d of 300 writes acknowledged with room\n%s", acked, n.LogTail(20))
	}
	r.take(n)
	from := len(n.Log())
	if err := n.Terminate(); err != nil { // its last checkpoint finds no room
		t.Fatal(err)
	}
	demandStopped(t, r, n, from, "state.db")
	r.giveBack()
	demandRecords(t, n, acked, size)
}

func fullSegments(t *testing.T, r room) {
	const size = 100
	// A segment every few entries: the next one finds no room.
	n := in(t, r, `checkpoint_interval = "1h"`, `checkpoint_bytes = "1GiB"`, `segment_entries = 4`)
	acked := write(n, 0, 40, size)
	if acked != 40 {
		t.Fatalf("%d of 40 writes acknowledged with room\n%s", acked, n.LogTail(20))
	}
	r.take(n)
	from := len(n.Log())
	acked += write(n, acked, 5000, size)
	if n.Running() && acked == 5040 {
		t.Fatal("five thousand writes found room where there is none")
	}
	demandStopped(t, r, n, from, "meta.db", ".wal")
	t.Logf("named: %s", n.LogTail(3))
	r.giveBack()
	demandRecords(t, n, acked, size)
}

// fullMetadata goes through the log itself: a server's metadata file has slack
// for all that it writes there in a day.
func fullMetadata(t *testing.T, r room) {
	dir := filepath.Join(r.dir(), "log")
	log, _, err := wal.Open(wal.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.SetNotes(map[string][]byte{"small": []byte("kept")}); err != nil {
		t.Fatal(err)
	}
	r.take(nil)
	err = log.SetNotes(map[string][]byte{"large": make([]byte, 4<<20)})
	if !strings.Contains(fmt.Sprint(err), r.refusal().Error()) || !strings.Contains(fmt.Sprint(err), "meta.db") {
		t.Errorf("notes without room: %v, want %q and meta.db named", err, r.refusal())
	}
	t.Logf("refused: %v", err)
	if err := log.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	r.giveBack()
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

// belowMinFree needs the small disk: min_free compares what the file system says is free.
func belowMinFree(t *testing.T) {
	const size = 1 << 10
	d := newDisk(t, 32<<20)
	n := cluster.New(t, "guarded", cluster.Options{
		Dir: filepath.Join(d.dir(), "node"), Top: []string{`min_free = "128MiB"`}, LogFile: filepath.Join(t.TempDir(), "log"),
	})
	n.Start()
	n.Init()
	n.MustDo("POST", "sys/mounts/kv", `{"type":"kv","options":{"version":"1"}}`, 200, 204)
	if got := write(n, 0, 20, size); got != 20 {
		t.Fatalf("%d of 20 writes acknowledged with room\n%s", got, n.LogTail(20))
	}
	d.take(nil)
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
