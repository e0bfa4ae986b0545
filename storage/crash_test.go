package storage_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"github.com/lockstepdb/lockstep/storage"
)

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	if err := os.WriteFile(to, readUsed(t, from), 0o600); err != nil {
		t.Fatal(err)
	}
}

// readUsed returns the pages of a bbolt file that are in use: it grows by 16 MiB, and most of that is zeros.
func readUsed(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page, pagesAt, txidAt = 4096, 16 + 40, 16 + 48 // in a meta page
	n := binary.NativeEndian
	pages := n.Uint64(b[pagesAt:])
	if n.Uint64(b[page+txidAt:]) > n.Uint64(b[txidAt:]) {
		pages = n.Uint64(b[page+pagesAt:])
	}
	return b[:pages*page]
}

// TestACrashBetweenAnyTwoCommitsOfACheckpointIsMendedByReplay fails each commit of a checkpoint in turn, lost and kept,
// opens the file again and applies what came after its mark.
func TestACrashBetweenAnyTwoCommitsOfACheckpointIsMendedByReplay(t *testing.T) {
	for _, drops := range []bool{false, true} {
		for _, kept := range []bool{false, true} {
			t.Run(fmt.Sprintf("drops %v, kept %v", drops, kept), func(t *testing.T) { crashEachCommit(t, drops, kept) })
		}
	}
}

func crashEachCommit(t *testing.T, drops, kept bool) {
	w := newWriter(7)
	if drops {
		w.dropOneIn, w.keyspaces = 150, 5
	}
	base := statePath(t)
	s := open(t, storage.Options{Path: base})
	var log []*frame
	for range 20 {
		log = append(log, w.frame(8))
		apply(s, log[len(log)-1])
	}
	checkpoint(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 12 {
		log = append(log, w.frame(8))
	}
	ended := false
	for n := 1; !ended; n += fewer(1, 3) {
		path := t.TempDir() + "/state.db"
		copyFile(t, base, path)
		fail := &failAt{n: n, after: kept}
		s := open(t, storage.Options{Path: path, ChunkRecords: 50, Seam: fail.seam})
		replay(s, log)
		err := s.Checkpoint(context.Background())
		if ended = !fail.hit; ended {
			if err != nil {
				t.Fatal(err)
			}
			if n < 5 {
				t.Fatalf("a checkpoint of %d commits tests little", n-1)
			}
			continue
		}
		if err == nil {
			t.Fatalf("commit %d: got no error from a checkpoint whose commit failed", n)
		}
		if again := s.Checkpoint(context.Background()); again == nil {
			t.Fatalf("commit %d: a checkpoint after a failed commit was accepted", n)
		}
		compare(t, s, w.twin, nil) // reading goes on
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		reopenAndReplay(t, path, log, w.twin)
	}
}

func replay(s *storage.State, log []*frame) {
	from := s.Applied()
	for _, f := range log {
		if f.end.Index > from {
			apply(s, f)
		}
	}
}

func reopenAndReplay(t *testing.T, path string, log []*frame, want *twin) {
	t.Helper()
	s := open(t, storage.Options{Path: path, ChunkRecords: 50})
	if m := s.Mark(); m.ReindexNeeded || m.ConsistentAt > want.index {
		t.Fatalf("mark after a crash: %+v", m)
	}
	checkWhole(t, s, nil)
	// A checkpoint in the middle of the replay finds a file that is no single moment.
	from := s.Applied()
	for i, f := range log {
		if f.end.Index > from {
			apply(s, f)
			if i%4 == 0 {
				checkpoint(t, s)
				checkWhole(t, s, nil)
			}
		}
	}
	compare(t, s, want, nil)
	checkpoint(t, s)
	if m := s.Mark(); m.ConsistentAt != 0 || m.ReindexNeeded || m.Applied.Index != want.index {
		t.Fatalf("mark after replay: %+v", m)
	}
	compare(t, s, want, nil)
	checkWhole(t, s, want)
}
