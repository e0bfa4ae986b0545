package storage_test

import (
	"math/rand/v2"
	"testing"

	"github.com/lockstepdb/lockstep/storage"
)

func TestStateAnswersLikeItsTwinThroughCheckpointsAndReopening(t *testing.T) {
	for seed := range uint64(fewer(4, 2)) { // every other one drops keyspaces
		path := statePath(t)
		w := newWriter(seed)
		w.dropOneIn, w.keyspaces = int(seed%2)*150, 4
		s := open(t, storage.Options{Path: path, ChunkRecords: 37})
		finished := w.twin.clone()
		for round := range 40 {
			apply(s, w.frame(1+w.rng.IntN(12)))
			if w.rng.IntN(3) == 0 {
				checkpoint(t, s)
				finished = w.twin.clone()
			}
			if round%8 != 0 {
				continue
			}
			compare(t, s, w.twin, []string{"none", "dir1", "zzzz", "dir1/"})
			v := s.Finished()
			compareRanges(t, v, finished, rand.New(rand.NewPCG(seed, 2)))
			if v.Position().Index != finished.index {
				t.Fatalf("position of the finished view: got %d, want %d", v.Position().Index, finished.index)
			}
			v.Release()
			checkWhole(t, s, finished)
		}
		checkpoint(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, storage.Options{Path: path})
		compare(t, s, w.twin, nil)
		checkWhole(t, s, w.twin)
		if m := s.Mark(); m.Applied.Index != w.twin.index || m.ConsistentAt != 0 || m.ReindexNeeded {
			t.Fatalf("mark after reopening: %+v", m)
		}
	}
}
