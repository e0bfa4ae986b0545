package archive_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/wal"
)

// TestManyGapsAreNotNotedAndNothingIsMistakenForHeld archives every third entry: the note stays small, every position is answered rightly, after a restart
// too, and what is added again stands in one archive.
func TestManyGapsAreNotNotedAndNothingIsMistakenForHeld(t *testing.T) {
	t.Parallel()
	const entries, last = 6000, 3 * 6000
	dir := filepath.Join(t.TempDir(), "archive")
	s := mustOpen(t, archive.Options{Dir: dir})
	forkAt := func(index uint64) wal.Fork {
		if index > last-300 {
			return wal.Fork{9} // another reign within what is sparse
		}
		return fork
	}
	add := func(every uint64) []string {
		t.Helper()
		w, err := s.Create(meta(0, last), 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := every; i <= last; i += every {
			if err := w.AddEntry(wal.Position{Fork: forkAt(i), Index: i}, entry(i, "key", "value"), true); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 3000 {
			w.Tighten(fmt.Sprintf("secondary %d was revoked", i), fmt.Sprintf("revoke %d", i))
		}
		ids, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	id := add(3)[0]
	s = mustOpen(t, archive.Options{Dir: dir})
	m, err := s.Get(id)
	if err != nil || m.Problem != "" {
		t.Fatal(err, m.Problem)
	}
	if len(m.Spans) != 4096 || !m.Spans[4095].Sparse || m.Counts.Entries != entries {
		t.Errorf("%d spans, the last %+v, of %d entries, want 4096, a sparse one and %d", len(m.Spans), m.Spans[len(m.Spans)-1], m.Counts.Entries, entries)
	}
	if len(m.Tightenings) != 1000 || len(m.Repeat) != 1000 || m.Unnamed != 2000 {
		t.Errorf("%d are named, %d calls, %d are not; want 1000, 1000 and 2000", len(m.Tightenings), len(m.Repeat), m.Unnamed)
	}
	for _, i := range []uint64{1, 2, 3, 4, 3 * 4095, 3*4095 + 1, 3 * 4096, 3*4096 + 1, 3 * 4097, 3*4097 + 2, last - 300, last - 299, last - 297, last, last + 1, last + 3} {
		want := ""
		if i%3 == 0 && i <= last {
			want = id
		}
		if got := s.Holding(wal.Position{Fork: forkAt(i), Index: i}); got != want {
			t.Errorf("index %d is said to be in %q, want %q", i, got, want)
		}
		if got := s.Holding(wal.Position{Fork: wal.Fork{8}, Index: i}); got != "" {
			t.Errorf("index %d of another fork is said to be in %q", i, got)
		}
	}
	ids := add(2) // every sixth is held already
	if len(ids) != 2 || ids[0] != id {
		t.Fatalf("the second time it is held by %q, want by %s and one more", ids, id)
	}
	if m, err := s.Get(ids[1]); err != nil || m.Counts.Entries != last/2-last/6 {
		t.Errorf("the second archive holds %d entries, %v, want %d", m.Counts.Entries, err, last/2-last/6)
	}
}
