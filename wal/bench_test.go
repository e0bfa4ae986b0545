package wal_test

import (
	"fmt"
	"testing"

	"github.com/lockstepdb/lockstep/wal"
)

// BenchmarkAppend appends frames of entries of 256 bytes, each a synced commit.
func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("%d_entries", n), func(b *testing.B) {
			l, _ := mustOpen(b, wal.Config{Dir: b.TempDir()})
			next, chain := uint64(1), wal.Hash{}
			entries := make([][]byte, n)
			for i := range entries {
				entries[i] = make([]byte, 256)
			}
			for b.Loop() {
				f := &wal.Frame{Header: wal.Header{First: next}, Entries: entries}
				f.Seal(chain)
				if err := l.Append(f); err != nil {
					b.Fatal(err)
				}
				next, chain = f.Last()+1, f.Chain
			}
			b.ReportMetric(float64(next-1)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkRead reads frames of 16 entries of 256 bytes from disk, verified.
func BenchmarkRead(b *testing.B) {
	l, _ := mustOpen(b, wal.Config{Dir: b.TempDir(), RingBytes: 1, SegmentBytes: 4 << 20})
	m := newMaker()
	for range 2000 {
		mustAppend(b, l, m.sized(16, 256))
	}
	r, n := l.Reader(1), 0
	for b.Loop() {
		f, err := r.TryNext()
		if err != nil {
			b.Fatal(err)
		}
		if f == nil {
			r = l.Reader(1)
			continue
		}
		n += len(f.Entries)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkRotate appends one entry to a segment of its own each time.
func BenchmarkRotate(b *testing.B) {
	l, _ := mustOpen(b, wal.Config{Dir: b.TempDir(), SegmentEntries: 1})
	m := newMaker()
	for b.Loop() {
		mustAppend(b, l, m.frame("a"))
		if m.next%32 == 0 {
			if _, err := l.Truncate(m.next - 4); err != nil {
				b.Fatal(err)
			}
		}
	}
}
