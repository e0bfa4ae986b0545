package replication

import (
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// TestAPlannedDRFailoverAndBack hands the DR primary's part over and back: nothing is copied, nothing is lost.
func TestAPlannedDRFailoverAndBack(t *testing.T) {
	t.Parallel()
	a := newCapablePrimary(t, DR)
	a.write(shared, storage.Replicated, "a", 300)
	a.write(local, storage.Local, "token", 50)
	b := a.successor(DR, "b")
	set := a.n.set(DR).Set

	a.demote(DR)
	if got := a.n.Status(DR); got["state"] != "idle" || got["cluster_id"] != set {
		t.Errorf("demoted: status %v", got)
	}
	if _, err := a.e.Do(enginetest.Context(t), &engine.Tx{Writes: []engine.Write{enginetest.Put(shared, storage.Replicated, "x", "y")}}); err == nil {
		t.Error("a demoted DR primary takes writes")
	}
	end := a.e.Position()
	b.promote(DR, false)
	if got := b.n.Status(DR); got["cluster_id"] != set || len(got["known_secondaries"].([]string)) != 0 {
		t.Errorf("promoted: status %v", got)
	}
	h := b.e.History()
	if last := h[len(h)-1]; last.Ordinal != 2 || last.Start != end.Index+1 {
		t.Errorf("promoted: the epoch is %+v, want ordinal 2 from %d", last, end.Index+1)
	}
	b.write(shared, storage.Replicated, "b", 100)
	a.repoint(DR, b, "a-old")
	if bytes, r := a.cost(DR); bytes != 0 || r.Continue == 0 || r.Repair+r.Bootstrap != 0 {
		t.Errorf("coming back cost %d bytes of diff and sync, resumes %+v, want none and CONTINUE", bytes, r)
	}

	b.demote(DR)
	a.promote(DR, false)
	a.write(shared, storage.Replicated, "again", 20)
	b.repoint(DR, a, "b2")
	if bytes, _ := b.cost(DR); bytes != 0 {
		t.Errorf("failback cost %d bytes of diff and sync, want none", bytes)
	}
	h = a.e.History()
	if got := h[len(h)-1].Ordinal; got != 3 {
		t.Errorf("ordinal after failback: got %d, want 3", got)
	}
}
