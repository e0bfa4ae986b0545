package wal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/lockstepdb/lockstep/wal"
)

// maker seals frames that follow each other.
type maker struct {
	chain wal.Hash
	next  uint64
	fork  wal.Fork
	all   []*wal.Frame
}

func newMaker() *maker { return &maker{next: 1, fork: wal.Fork{1}} }

func (m *maker) frame(entries ...string) *wal.Frame {
	f := &wal.Frame{Header: wal.Header{Lineage: wal.Lineage{7}, Ordinal: 1, Fork: m.fork, First: m.next, Time: 12345, Totals: []byte("totals")}}
	for _, e := range entries {
		f.Entries = append(f.Entries, []byte(e))
	}
	f.Seal(m.chain)
	m.chain, m.next = f.Chain, f.Last()+1
	m.all = append(m.all, f)
	return f
}

// sized returns a frame of n entries of size bytes each.
func (m *maker) sized(n, size int) *wal.Frame {
	var entries []string
	for i := range n {
		entries = append(entries, string(bytes.Repeat([]byte{byte('a' + i%26)}, size)))
	}
	return m.frame(entries...)
}

func mustOpen(t testing.TB, cfg wal.Config) (*wal.Log, wal.Report) {
	t.Helper()
	l, r, err := wal.Open(cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, r
}

func mustAppend(t testing.TB, l *wal.Log, frames ...*wal.Frame) {
	t.Helper()
	if err := l.Append(frames...); err != nil {
		t.Fatalf("append: %v", err)
	}
}

func same(a, b *wal.Frame) bool {
	if !bytes.Equal(a.EncodeHeader(), b.EncodeHeader()) || len(a.Entries) != len(b.Entries) {
		return false
	}
	for i := range a.Entries {
		if !bytes.Equal(a.Entries[i], b.Entries[i]) {
			return false
		}
	}
	return true
}

// readAll reads the log from its first index to its end.
func readAll(l *wal.Log) (frames []*wal.Frame, err error) {
	r := l.Reader(l.First())
	for {
		f, err := r.TryNext()
		if f == nil || err != nil {
			return frames, err
		}
		frames = append(frames, f)
	}
}

// holds fails the test unless the log holds exactly want.
func holds(t testing.TB, l *wal.Log, want []*wal.Frame) {
	t.Helper()
	got, err := readAll(l)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	if err := sameFrames(got, want); err != nil {
		t.Fatal(err)
	}
	if err := l.Verify(context.Background(), 0, 1<<62, func(d wal.Damage) error { return fmt.Errorf("%+v", d) }); err != nil {
		t.Fatalf("verify: %v", err)
	}
}

func sameFrames(got, want []*wal.Frame) error {
	if len(got) != len(want) {
		return fmt.Errorf("got %d frames, want %d", len(got), len(want))
	}
	for i := range got {
		if !same(got[i], want[i]) {
			return fmt.Errorf("frame %d: got %+v, want %+v", i, got[i].Header, want[i].Header)
		}
	}
	return nil
}

// crash copies a log's directory as a killed process would leave it.
func crash(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// segments lists a directory's segment files, oldest first.
func segments(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

var errBoom = errors.New("boom")
