package replication

import (
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// TestARewindOfDRKeepsWhatARewindOfPerformanceLeft takes entries that are shared and local back twice: first what is shared of them, when a performance secondary was
// promoted without them, then the rest, when a DR secondary was that never had them. Each part of each is in an archive, once, and nothing is left in the state.
func TestARewindOfDRKeepsWhatARewindOfPerformanceLeft(t *testing.T) {
	t.Parallel()
	a := newCapablePrimary(t, DR, Performance)
	a.load(shared, storage.Replicated, "base/", 50, 20)
	d, s := a.successor(DR, "d"), a.successor(Performance, "s")
	d.stop()
	s.stop()
	keys := []string{"lost 0", "lost 1", "lost 2", "lost 3", "lost 4"}
	for _, key := range keys {
		tx := &engine.Tx{Writes: []engine.Write{enginetest.Put(shared, storage.Replicated, key, "v"), enginetest.Put(local, storage.Local, key, "v")}}
		if _, err := a.e.Do(enginetest.Context(t), tx); err != nil {
			t.Fatal(err)
		}
	}
	s.e = enginetest.Reopen(t, s.e)
	s.run()
	s.promote(Performance, true)
	if _, err := a.n.DemotePrimary(enginetest.Context(t), Performance, Demote{DrainTimeout: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	a.awaitMode(Performance, Secondary)
	a.repoint(Performance, s, "a-back")
	a.stop()
	a.e = enginetest.Reopen(t, a.e)
	d.e = enginetest.Reopen(t, d.e)
	d.run()
	d.promote(DR, true)
	a.run()
	a.demote(DR)
	a.repoint(DR, d, "a-standby")

	found := map[string]int{}
	for _, m := range a.kept.List() {
		err := a.kept.Read(m.ID, 0, func(_ uint64, it *archive.Item) (bool, error) {
			if it.Kind != archive.Entry || it.Entry.Housekeeping { // by which the first rewind took them back
				return true, nil
			}
			for i := range it.Entry.Blocks {
				for j := range it.Entry.Blocks[i].Changes {
					found[string(it.Entry.Blocks[i].Keyspace[:])+string(it.Entry.Blocks[i].Changes[j].Key)]++
				}
			}
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range keys {
		for name, ks := range map[string]storage.KeyspaceID{"shared": shared, "local": local} {
			if n := found[string(ks[:])+key]; n != 1 {
				t.Errorf("the %s part of %q stands %d times in the archives, want once", name, key, n)
			}
			if _, err := a.e.Get(ks, []byte(key)); err == nil {
				t.Errorf("the %s part of %q was not taken back", name, key)
			}
		}
	}
	if _, r := a.cost(DR); r.Rewind != 1 || r.Repair+r.Bootstrap != 0 {
		t.Errorf("the former primary came back to the DR set by %+v, want one rewind", r)
	}
}
