package engine_test

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/wal"
)

// TestTwoStoresChangeRolesWhileTheyAreOpen hands the writer's part over and back. Nothing is flushed for it, each change ends with both equal, and the new
// writer's history has every fork of its log: also those that began after its feeder's history was taken.
func TestTwoStoresChangeRolesWhileTheyAreOpen(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	unflushed := func(c *engine.Config) { c.CheckpointInterval = time.Hour }
	w := enginetest.New(t, engine.Writer, unflushed)
	f := enginetest.NewOf(t, enginetest.Secondary(w, engine.Verbatim), engine.Verbatim, unflushed)
	rng := rand.New(rand.NewPCG(3, 5))
	for round := range 6 {
		if err := f.AdoptHistory(w.History()); err != nil {
			t.Fatal(err)
		}
		randomWrites(t, w, rng, 30)
		w.NextFork()
		randomWrites(t, w, rng, 30)
		forks := map[wal.Fork]bool{}
		for _, frame := range frames(t, w, f.Position().Index+1) {
			forks[frame.Fork] = true
			if err := f.IngestFrames(ctx, []*wal.Frame{frame}); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if err := f.AdoptHistory(append(w.History()[:len(w.History())-1:len(w.History())-1], engine.Reign{Ordinal: 99, Fork: wal.Fork{99}, Start: f.Position().Index + 1})); err != nil {
			t.Fatal(err) // the fork that has begun last is not in it yet, and one is that the feeder has announced and not written
		}
		for e, role := range map[*engine.Engine]engine.Role{w: engine.Verbatim, f: engine.Writer} {
			if err := e.SetRole(ctx, role); err != nil || e.Role() != role {
				t.Fatalf("round %d: %v, the role is %v", round, err, e.Role())
			}
		}
		w, f = f, w
		if s := w.Stats(); s.Checkpoints > 0 && round < 5 {
			t.Errorf("round %d: %d checkpoints, want none", round, s.Checkpoints)
		}
		reign, err := w.BeginEpoch(ctx, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		h := w.History()
		for fork := range forks {
			if !slices.ContainsFunc(h, func(r engine.Reign) bool { return r.Fork == fork }) {
				t.Errorf("round %d: fork %v of the log is not in the history", round, fork)
			}
		}
		if slices.ContainsFunc(h, func(r engine.Reign) bool { return r.Ordinal == 99 }) || reign.Ordinal != uint64(round+2) {
			t.Errorf("round %d: the epoch is %+v, the history %+v", round, reign, h)
		}
		if _, err := f.Do(ctx, &engine.Tx{Writes: []engine.Write{put("a", "b")}}); !errors.Is(err, engine.ErrNotWritable) {
			t.Errorf("round %d: writing where frames are taken: %v", round, err)
		}
		if err := f.IngestFrames(ctx, frames(t, w, f.Position().Index+1)); err != nil {
			t.Fatalf("round %d: the first frames of the epoch: %v", round, err)
		}
		if got, want := enginetest.Content(t, f), enginetest.Content(t, w); !reflect.DeepEqual(got, want) || f.Chain() != w.Chain() {
			t.Fatalf("round %d: the stores differ", round)
		}
	}
	want, content := w.History(), enginetest.Content(t, w)
	if w = enginetest.Reopen(t, w, func(c *engine.Config) { c.Role = engine.Writer }); !reflect.DeepEqual(w.History(), want) || !reflect.DeepEqual(enginetest.Content(t, w), content) {
		t.Errorf("after a restart the history is %+v, want %+v", w.History(), want)
	}
	enginetest.Reopen(t, f, func(c *engine.Config) { c.Role = engine.Verbatim })
}

func TestARoleIsNotChangedDuringADRSync(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	p := fill(t, rand.New(rand.NewPCG(1, 1)))
	d := enginetest.NewOf(t, enginetest.Secondary(p, engine.Verbatim), engine.Verbatim)
	v := p.Finished()
	defer v.Release()
	if _, err := d.BeginSync(ctx, "dr", v.Position(), v.Chain(), p.Identity().Lineage); err != nil {
		t.Fatal(err)
	}
	if err := d.SetRole(ctx, engine.Writer); !errors.Is(err, engine.ErrInconsistent) || d.Role() != engine.Verbatim {
		t.Errorf("got %v, role %v, want ErrInconsistent and the role as it was", err, d.Role())
	}
	if err := d.AbandonSync(ctx); err != nil {
		t.Fatal(err)
	}
	if err := d.SetRole(ctx, engine.Writer); err != nil {
		t.Errorf("after the sync was abandoned: %v", err)
	}
}

func TestHoldsThatNobodySetsAgainAreReleased(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer, small)
	randomWrites(t, e, rand.New(rand.NewPCG(1, 1)), 200)
	e.Hold("gone", 1)
	e.Hold("kept", 100)
	e.RenewHolds(func() { e.Hold("kept", 100) })
	randomWrites(t, e, rand.New(rand.NewPCG(1, 2)), 200)
	if err := e.Checkpoint(enginetest.Context(t)); err != nil {
		t.Fatal(err)
	}
	if first := e.FirstIndex(); first == 1 || first > 100 {
		t.Errorf("the log begins at %d, want it kept for one that is held from 100, and for nobody else", first)
	}
}
