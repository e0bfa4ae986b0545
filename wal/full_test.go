package wal_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstepdb/lockstep/wal"
)

const fullEnv = "LOCKSTEP_TEST_FULL_DIR"

// TestAFullDiskPoisonsTheLogAndLosesNothing runs itself again in a process
// whose files cannot grow beyond a limit.
func TestAFullDiskPoisonsTheLogAndLosesNothing(t *testing.T) {
	if dir := os.Getenv(fullEnv); dir != "" {
		appendUntilFull(t, dir)
		return
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestAFullDiskPoisonsTheLogAndLosesNothing$", "-test.v")
	cmd.Env = append(os.Environ(), fullEnv+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var acknowledged int
	for line := range strings.Lines(string(out)) {
		if _, after, ok := strings.Cut(line, "ACKNOWLEDGED "); ok {
			fmt.Sscan(after, &acknowledged)
		}
	}
	if acknowledged == 0 {
		t.Fatalf("nothing was acknowledged:\n%s", out)
	}
	l, rep := mustOpen(t, wal.Config{Dir: dir})
	got, err := readAll(l)
	if err != nil || len(got) < acknowledged || len(got) > acknowledged+1 {
		t.Errorf("after the disk has room again: %d frames, %v; %d were acknowledged", len(got), err, acknowledged)
	}
	m := newMaker()
	for range got {
		m.sized(10, 1000)
	}
	if err := sameFrames(got, m.all); err != nil {
		t.Error(err)
	}
	mustAppend(t, l, m.frame("room again"))
	_ = rep
}

func appendUntilFull(t *testing.T, dir string) {
	signal.Ignore(syscall.SIGXFSZ)
	limit := syscall.Rlimit{Cur: 1 << 20, Max: 1 << 20}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	l, _ := mustOpen(t, wal.Config{Dir: dir, SegmentBytes: 64 << 20 / 100})
	m := newMaker()
	for i := range 1000 {
		err := l.Append(m.sized(10, 1000))
		if err == nil {
			continue
		}
		if !errors.Is(err, wal.ErrPoisoned) || !strings.Contains(err.Error(), dir) {
			t.Fatalf("got %v, want ErrPoisoned naming the file", err)
		}
		if err := l.Append(m.all[i]); !errors.Is(err, wal.ErrPoisoned) {
			t.Fatalf("again: got %v, want ErrPoisoned", err)
		}
		if err := l.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
		fmt.Println("ACKNOWLEDGED", i)
		return
	}
	t.Fatal("the disk never was full")
}
