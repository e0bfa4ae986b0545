package engine_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// attaching is a performance cluster in a sync that is about to take a drop back.
type attaching struct {
	t    *testing.T
	e    *engine.Engine
	ks   storage.KeyspaceID
	hold map[string]string // what the keyspace holds, seen or not
	from wal.Position      // of the sync
}

// newAttaching drops a keyspace that has records, in the file, in the tables or in both, and writes to it afterwards.
func newAttaching(t *testing.T, seed uint64, mods ...func(*engine.Config)) *attaching {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	a := &attaching{t: t, ks: storage.KeyspaceID{0: 5, 1: byte(seed)}, hold: map[string]string{}, from: wal.Position{Fork: wal.Fork{9}, Index: 7}}
	a.e = enginetest.New(t, engine.Writer, append(mods, small)...)
	a.e.Hold("all", 1)
	write := func(n int) {
		for range n {
			key := fmt.Sprintf("key %03d", rng.IntN(90))
			if rng.IntN(4) == 0 {
				delete(a.hold, key)
				enginetest.MustDo(t, a.e, enginetest.Delete(a.ks, storage.Replicated, key))
				continue
			}
			a.hold[key] = fmt.Sprint(rng.Uint64())
			enginetest.MustPut(t, a.e, a.ks, storage.Replicated, key, a.hold[key])
		}
	}
	maybeCheckpoint := func() {
		if rng.IntN(2) == 0 {
			a.checkpoint()
		}
	}
	write(60)
	maybeCheckpoint()
	write(10)
	enginetest.MustDo(t, a.e, enginetest.Drop(a.ks, storage.Replicated))
	maybeCheckpoint()
	write(rng.IntN(12)) // shown to nobody
	maybeCheckpoint()
	enginetest.MustPut(t, a.e, shared, storage.Replicated, "other", "1")
	return a
}

func (a *attaching) checkpoint() {
	a.t.Helper()
	if err := a.e.Checkpoint(enginetest.Context(a.t)); err != nil {
		a.t.Fatal(err)
	}
}

// attach takes the steps that are left of the sync.
func (a *attaching) attach(e *engine.Engine) error {
	ctx := enginetest.Context(a.t)
	if len(enginetest.Content(a.t, e)[a.ks]) > 0 && e.SyncState() == nil {
		return nil // it has ended
	}
	if _, err := e.BeginSync(ctx, engine.Performance, a.from, wal.Hash{}, wal.Lineage{}); err != nil {
		return fmt.Errorf("beginning the sync: %w", err)
	}
	if err := e.SpoolCut(ctx, &engine.CutBatch{Subscription: engine.Performance, End: a.from}); err != nil {
		return fmt.Errorf("beginning the spool: %w", err)
	}
	if whole, err := e.Attach(ctx, []storage.KeyspaceID{a.ks, shared}); err != nil || !whole {
		return fmt.Errorf("attaching: whole %v, %w", whole, err)
	}
	r := &engine.SyncRange{Keyspace: a.ks, Scope: storage.Replicated, Partial: true, ReadAt: a.from,
		Records: []storage.Record{{Key: []byte("key 003"), Value: []byte("of the feeder")}, {Key: []byte("key 100"), Value: []byte("too")}}, Gone: [][]byte{[]byte("key 004")}}
	if err := e.ApplyRange(ctx, r); err != nil {
		return fmt.Errorf("a range of it: %w", err)
	}
	return e.EndSync(ctx, nil)
}

// after is what the keyspace holds at the end.
func (a *attaching) after() map[string]string {
	m := maps.Clone(a.hold)
	m["key 003"], m["key 100"] = "of the feeder", "too"
	delete(m, "key 004")
	return m
}

func (a *attaching) mustHold(what string, e *engine.Engine, want map[string]string) {
	a.t.Helper()
	if got := enginetest.Content(a.t, e)[a.ks]; !maps.Equal(got, want) {
		a.t.Errorf("%s: the keyspace has %d records %v, want %d: %v", what, len(got), got, len(want), want)
	}
}

func TestAnAttachedKeyspaceHasWhatWasLeftWhereverTheEntryIsApplied(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			ctx := enginetest.Context(t)
			a := newAttaching(t, seed)
			before := a.e.Position()
			if err := a.attach(a.e); err != nil {
				t.Fatal(err)
			}
			a.mustHold("attached", a.e, a.after())
			stepwise := enginetest.NewOf(t, enginetest.Secondary(a.e, engine.Verbatim), engine.Verbatim, small)
			for _, f := range frames(t, a.e, 1) {
				if err := stepwise.IngestFrames(ctx, []*wal.Frame{f}); err != nil {
					t.Fatalf("frame %d to %d: %v", f.First, f.Last(), err)
				}
			}
			a.mustHold("a DR secondary, frame by frame", stepwise, a.after())
			copied := enginetest.NewOf(t, enginetest.Secondary(a.e, engine.Verbatim), engine.Verbatim, small)
			copied.Hold("all", 1)
			if err := copied.IngestFrames(ctx, frames(t, a.e, 1)); err != nil {
				t.Fatal(err)
			}
			a.mustHold("a DR secondary, all at once", copied, a.after())

			// Back to before it, and in line again.
			if err := copied.BeginRewind(ctx, "dr", before, nil); err != nil {
				t.Fatal(err)
			}
			a.mustHold("taken back to before it", copied, nil)
			if !copied.Detached(a.ks) {
				t.Error("taken back to before it: the keyspace is not detached")
			}
			copied = enginetest.Reopen(t, copied)
			a.checkpoint()
			s := &syncing{t: t, feeder: a.e, e: copied}
			if err := s.run(); err != nil {
				t.Fatal(err)
			}
			a.mustHold("compared with the one that attached it", copied, a.after())
			a.e = enginetest.Reopen(t, a.e)
			a.mustHold("opened again", a.e, a.after())
			a.checkpoint()
			a.mustHold("after a checkpoint", a.e, a.after())
			enginetest.MustDo(t, a.e, enginetest.Drop(a.ks, storage.Replicated))
			a.mustHold("dropped again", a.e, nil)
			a.e = enginetest.Reopen(t, a.e)
			a.mustHold("dropped again and opened again", a.e, nil)
		})
	}
}

func TestAnAttachmentKilledAtAnyCommitGoesOn(t *testing.T) {
	t.Parallel()
	im := newImages(t)
	a := newAttaching(t, 3, im.of)
	im.taking = true
	if err := a.attach(a.e); err != nil {
		t.Fatal(err)
	}
	a.checkpoint()
	im.taking = false
	if len(im.paths) < 12 {
		t.Fatalf("places looked at: got %d, want at least 12", len(im.paths))
	}
	for i, image := range im.paths {
		enginetest.CheckStore(t, image)
		e := enginetest.Open(t, image, engine.Writer, small)
		got := enginetest.Content(t, e)[a.ks]
		if len(got) > 0 && !maps.Equal(got, a.hold) && !maps.Equal(got, a.after()) {
			t.Errorf("killed at place %d of %d: the keyspace has %v", i, len(im.paths), got)
		}
		if err := a.attach(e); err != nil {
			t.Errorf("killed at place %d of %d: %v", i, len(im.paths), err)
		}
		a.mustHold(fmt.Sprintf("killed at place %d of %d", i, len(im.paths)), e, a.after())
		enginetest.Stop(t, e)
		enginetest.CheckStore(t, image)
	}
}

// TestWhatWasRemovedOfADroppedKeyspaceIsNotThereWhenItIsAttached lets the log go past the drop first. A DR secondary that still has the records notices.
func TestWhatWasRemovedOfADroppedKeyspaceIsNotThereWhenItIsAttached(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	a := newAttaching(t, 1)
	enginetest.MustPut(t, a.e, shared, storage.Replicated, "large", string(make([]byte, 40<<10))) // the segment is full
	enginetest.MustPut(t, a.e, shared, storage.Replicated, "more", "1")
	all := frames(t, a.e, 1)
	copied := enginetest.NewOf(t, enginetest.Secondary(a.e, engine.Verbatim), engine.Verbatim, small)
	copied.Hold("all", 1)
	if err := copied.IngestFrames(ctx, all); err != nil {
		t.Fatal(err)
	}
	a.e.Hold("all", 0)
	a.checkpoint()
	a.e.Hold("all", a.e.FirstIndex())
	if _, err := a.e.BeginSync(ctx, engine.Performance, a.from, wal.Hash{}, wal.Lineage{}); err != nil {
		t.Fatal(err)
	}
	if whole, err := a.e.Attach(ctx, []storage.KeyspaceID{a.ks}); err != nil || whole {
		t.Fatalf("attaching what is swept: whole %v, %v", whole, err)
	}
	a.mustHold("swept", a.e, nil)
	if err := a.e.EndSync(ctx, nil); err != nil {
		t.Fatal(err)
	}
	enginetest.MustPut(t, a.e, a.ks, storage.Replicated, "new", "1")
	a.mustHold("swept and written", a.e, map[string]string{"new": "1"})
	a.e = enginetest.Reopen(t, a.e)
	a.mustHold("swept, written and opened again", a.e, map[string]string{"new": "1"})

	if first := a.e.FirstIndex(); first > copied.Position().Index+1 {
		t.Fatalf("the log begins at %d, the copy ends at %d", first, copied.Position().Index)
	}
	var d *engine.Diverged
	if err := copied.IngestFrames(ctx, frames(t, a.e, copied.Position().Index+1)); !errors.As(err, &d) || d.Keyspace != a.ks {
		t.Errorf("a DR secondary with the records: got %v, want that it differs", err)
	}
}

func TestAKeyspaceIsAttachedByASyncOnly(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	a := newAttaching(t, 2)
	if _, err := a.e.Attach(ctx, []storage.KeyspaceID{a.ks}); err == nil {
		t.Error("attached without a sync")
	}
	write := engine.Write{Keyspace: a.ks, Scope: storage.Replicated, Change: storage.Change{Op: storage.Attach}}
	if _, err := a.e.Do(ctx, &engine.Tx{Writes: []engine.Write{write}}); err == nil {
		t.Error("a client's transaction attached a keyspace")
	}
	a.mustHold("refused", a.e, nil)
}
