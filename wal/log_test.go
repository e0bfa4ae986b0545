package wal_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/lockstepdb/lockstep/wal"
)

// maker seals frames that follow each other.
type maker struct {
	chain wal.Hash
	next  uint64
	fork  wal.Fork
}

func newMaker() *maker { return &maker{next: 1, fork: wal.Fork{1}} }

func (m *maker) frame(entries ...string) *wal.Frame {
	f := &wal.Frame{Header: wal.Header{Lineage: wal.Lineage{7}, Ordinal: 1, Fork: m.fork, First: m.next, Time: 12345, Totals: []byte("totals")}}
	for _, e := range entries {
		f.Entries = append(f.Entries, []byte(e))
	}
	f.Seal(m.chain)
	m.chain, m.next = f.Chain, f.Last()+1
	return f
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

func equal(t *testing.T, got, want *wal.Frame) {
	t.Helper()
	if !bytes.Equal(got.EncodeHeader(), want.EncodeHeader()) || fmt.Sprint(got.Entries) != fmt.Sprint(want.Entries) {
		t.Fatalf("got frame %+v, want %+v", got, want)
	}
}

func TestAppendedFramesAreReadBackFromMemoryAndFromDisk(t *testing.T) {
	for _, ring := range []int64{1, 64 << 20} {
		dir := t.TempDir()
		cfg := wal.Config{Dir: dir, SegmentEntries: 7, RingBytes: ring}
		l, _ := mustOpen(t, cfg)
		m := newMaker()
		var want []*wal.Frame
		for i := range 20 {
			f := m.frame(fmt.Sprint("a", i), "", fmt.Sprint("b", i))
			want = append(want, f)
			if err := l.Append(f); err != nil {
				t.Fatal(err)
			}
		}
		check := func() {
			t.Helper()
			r := l.Reader(2)
			for _, w := range want {
				f, err := r.Next(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				equal(t, f, w)
			}
			if f, err := r.TryNext(); f != nil || err != nil {
				t.Fatalf("at the end: got %v, %v", f, err)
			}
		}
		check()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		var rep wal.Report
		l, rep = mustOpen(t, cfg)
		if rep.First != 1 || rep.Last != 60 || rep.CutBytes != 0 {
			t.Fatalf("report %+v", rep)
		}
		check()
		n, err := l.Truncate(31)
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
		if err := l.Append(m.frame("x")); err != nil {
			t.Fatal(err)
		}
		if err := l.Verify(context.Background(), 1, 1000, func(d wal.Damage) error { return fmt.Errorf("%+v", d) }); err != nil {
			t.Fatal(err)
		}
	}
}
