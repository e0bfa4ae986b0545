package replication

import (
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// TestAFormerPerformancePrimaryWhoseLogLacksTheCommonPointIsCompared: what only it wrote has pushed the place where the histories part out of its log. Ranges are
// compared, once, and it follows.
func TestAFormerPerformancePrimaryWhoseLogLacksTheCommonPointIsCompared(t *testing.T) {
	t.Parallel()
	a := newCluster(t, "the former primary", enginetest.New(t, engine.Writer, func(c *engine.Config) {
		c.RetainBytes, c.RetainAge, c.SegmentEntries, c.CheckpointInterval = 1, time.Nanosecond, 8, 20*time.Millisecond
	}), freeAddr(t)).capable()
	a.run()
	if _, err := a.n.EnablePrimary(enginetest.Context(t), Performance, a.bind); err != nil {
		t.Fatal(err)
	}
	a.write(shared, storage.Replicated, "base", 20)
	b := a.successor(Performance, "b")
	b.forget(Performance)
	common := a.e.Position().Index
	a.restart() // what follows is of a fork that its successor never hears of
	if err := a.n.RevokeSecondary(enginetest.Context(t), Performance, "b"); err != nil {
		t.Fatal(err)
	}
	a.write(shared, storage.Replicated, "lost", 60)
	a.until("its log does not reach back to the common point", func() bool {
		enginetest.MustPut(t, a.e, shared, storage.Replicated, "lost more", time.Now().String())
		return a.e.FirstIndex() > common+1
	})
	b.promote(Performance, true)
	b.write(shared, storage.Replicated, "of the new primary", 20)
	a.demote(Performance)
	a.repoint(Performance, b, "a-old")
	if _, r := a.cost(Performance); r.Repair != 1 {
		t.Errorf("it went on as %+v, want one comparison", r)
	}
}
