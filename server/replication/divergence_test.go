package replication

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// lostChanges are an archive's changes as an export gives them.
func (c *cluster) lostChanges(ks storage.KeyspaceID) *Replay {
	c.t.Helper()
	m := c.kept.List()[0]
	out := &Replay{Common: m.Common}
	err := c.kept.Read(m.ID, 0, func(_ uint64, it *archive.Item) (bool, error) {
		for _, ch := range changesOf(it) {
			if ch.Keyspace == ks && ch.Op != storage.Drop {
				out.Changes = append(out.Changes, ch)
			}
		}
		return true, nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// TestAReplayWritesWhatNothingHasTouchedSince lets the new primary, and later the old one, write what was lost again.
func TestAReplayWritesWhatNothingHasTouchedSince(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	var common uint64
	people := storage.KeyspaceID{0: 78}
	a, b := partedPrimary(t, nil,
		func(a *cluster) {
			a.load(shared, storage.Replicated, "base", 50, 20)
			a.load(second, storage.Replicated, "other", 5, 20)
			enginetest.MustDo(t, a.e, mountWrite("shared/", shared), mountWrite("second/", second), mountWrite("auth/people/", people))
			enginetest.MustPut(t, a.e, people, storage.Replicated, "user/first", "x")
		},
		func(a *cluster) {
			common = a.e.Position().Index
			enginetest.MustPut(t, a.e, shared, storage.Replicated, "new", "first")
			enginetest.MustPut(t, a.e, shared, storage.Replicated, "new", "last")
			enginetest.MustPut(t, a.e, shared, storage.Replicated, "base000001", "overwritten")
			enginetest.MustDo(t, a.e, enginetest.Delete(shared, storage.Replicated, "base000002"))
			enginetest.MustPut(t, a.e, shared, storage.Replicated, "base000003", "lost to a newer one")
			enginetest.MustPut(t, a.e, shared, storage.Replicated, "base000004", "lost to a delete")
			enginetest.MustPut(t, a.e, shared, storage.Replicated, "came and went", "lost to both")
			enginetest.MustPut(t, a.e, storage.KeyspaceID{0: 77}, storage.Replicated, "k", "of a mount that is not there")
			enginetest.MustPut(t, a.e, people, storage.Replicated, "user/evil", "who would be root")
			enginetest.MustDo(t, a.e, enginetest.Drop(second, storage.Replicated))
		})
	enginetest.MustPut(t, b.e, shared, storage.Replicated, "base000003", "newer")
	enginetest.MustDo(t, b.e, enginetest.Delete(shared, storage.Replicated, "base000004"))
	enginetest.MustPut(t, b.e, shared, storage.Replicated, "came and went", "x")
	enginetest.MustDo(t, b.e, enginetest.Delete(shared, storage.Replicated, "came and went"))
	a.repoint(DR, b, "a-old")
	if got := a.kept.List()[0].Common.Index; got != common {
		t.Fatalf("the common point is %d, want %d", got, common)
	}
	if _, err := a.n.Replay(ctx, a.lostChanges(shared)); err == nil {
		t.Error("a DR secondary replays into its own copy")
	}

	b.demote(DR)
	a.promote(DR, true)
	got := map[string]string{}
	applied := 0
	id := a.kept.List()[0].ID
	err := a.n.ReplayArchive(ctx, id, func(o *Outcome) error {
		if o.Applied {
			applied++
		} else if o.Change.Keyspace != storage.SystemLocal {
			got[fmt.Sprintf("%x %s", o.Change.Keyspace[0], o.Change.Key)] = o.Why
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"7 base000003": whyChanged, "7 base000004": whyChanged, "7 came and went": whyChanged, "4d k": whyKeyspace, "7 ": whyDrop, "4e user/evil": whySystem}
	if fmt.Sprint(got) != fmt.Sprint(want) || applied != 3 {
		t.Errorf("%d applied, refused %q, want 3 and %q", applied, got, want)
	}
	content := enginetest.Content(t, a.e)
	for key, value := range map[string]string{"new": "last", "base000001": "overwritten", "base000002": "", "base000003": "newer", "base000004": "", "came and went": ""} {
		if v := content[shared][key]; v != value {
			t.Errorf("%s: got %q, want %q", key, v, value)
		}
	}
	again := 0
	if err := a.n.ReplayArchive(ctx, id, func(o *Outcome) error {
		if o.Applied {
			again++
		}
		return nil
	}); err != nil || again != 0 {
		t.Errorf("replayed again: %d applied, %v, want none", again, err)
	}
	foreign := a.lostChanges(shared)
	foreign.Common.Fork[3]++
	out, err := a.n.Replay(ctx, foreign)
	if err != nil || out[0].Applied || out[0].Why != whyForeign {
		t.Errorf("from another history: %+v, %v", out[0], err)
	}
}

// TestALongReplayReadsTheLogOnceAndSeesWhatIsWrittenMeanwhile replays more changes than are written at once. What somebody else changes or deletes between
// two parts is not written over.
func TestALongReplayReadsTheLogOnceAndSeesWhatIsWrittenMeanwhile(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	const records, size = 60, chunkTarget / 20 // three parts
	a, b := partedPrimary(t, nil, func(a *cluster) { a.load(shared, storage.Replicated, "base", 10, 20) },
		func(a *cluster) { a.load(shared, storage.Replicated, "lost", records, size) })
	a.repoint(DR, b, "a-old")
	b.demote(DR)
	a.promote(DR, true)
	enginetest.MustDo(t, a.e, mountWrite("shared/", shared))
	key := func(i int) string { return fmt.Sprintf("lost%06d", i) }
	applied, refused := 0, map[string]string{}
	err := a.n.ReplayArchive(ctx, a.kept.List()[0].ID, func(o *Outcome) error {
		if !o.Applied {
			refused[string(o.Change.Key)] = o.Why
			return nil
		}
		if applied++; applied == 1 { // the first part is written
			enginetest.MustPut(t, a.e, shared, storage.Replicated, key(records-1), "newer")
			enginetest.MustPut(t, a.e, shared, storage.Replicated, key(records-2), "came")
			enginetest.MustDo(t, a.e, enginetest.Delete(shared, storage.Replicated, key(records-2)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{key(records - 1): whyChanged, key(records - 2): whyChanged}
	if !maps.Equal(refused, want) || applied != records-2 {
		t.Errorf("%d written and refused %v, want %d and %v", applied, refused, records-2, want)
	}
	content := enginetest.Content(t, a.e)[shared]
	if content[key(records-1)] != "newer" || content[key(records-2)] != "" {
		t.Errorf("what was written meanwhile is now %.20q and %.20q", content[key(records-1)], content[key(records-2)])
	}

	d := newReplayDecision(a.kept.List()[0].Common, map[string]uint64{string(shared[:]) + key(0): 1})
	for look, want := range []int{1, 0} {
		if err := a.n.look(d); err != nil {
			t.Fatal(err)
		}
		if len(d.touched) != want || d.upTo != a.e.Position().Index {
			t.Errorf("look %d found %d records touched up to %d, want %d up to %d", look, len(d.touched), d.upTo, want, a.e.Position().Index)
		}
		clear(d.touched)
	}
}

// TestARevocationInALostTailIsNamed and what a token that names a state of it is answered.
func TestARevocationInALostTailIsNamed(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	var token, friend string
	a, b := partedPrimary(t, nil,
		func(a *cluster) {
			a.load(shared, storage.Replicated, "base", 50, 20)
			if _, err := a.n.EnablePrimary(ctx, Performance, a.bind); err != nil {
				t.Fatal(err)
			}
			for _, id := range []string{"thief", "friend"} {
				act, err := a.n.SecondaryToken(ctx, Performance, id, 0)
				if err != nil {
					t.Fatal(err)
				}
				friend = act.Token // the last
			}
		},
		func(a *cluster) {
			if err := a.n.RevokeSecondary(ctx, Performance, "thief"); err != nil {
				t.Fatal(err)
			}
			_, request := mustRequest(t)
			if _, err := a.n.Redeem(ctx, friend, request, "a test"); err != nil {
				t.Fatal(err)
			}
			at := enginetest.MustPut(t, a.e, shared, storage.Replicated, "lost", "1")
			token = a.n.IndexToken(at.Position)
		})
	a.repoint(DR, b, "a-old")
	m := a.kept.List()[0]
	if all := strings.Join(m.Tightenings, "; "); len(m.Tightenings) != 2 || !strings.Contains(all, `"thief" was revoked`) || !strings.Contains(all, `of secondary "friend"`) {
		t.Errorf("the archive names %q, want the revocation and the redemption", m.Tightenings)
	}
	want := []string{`POST /v1/sys/replication/performance/primary/revoke-secondary {"id":"thief"}`, `POST /v1/sys/replication/performance/primary/revoke-secondary {"id":"friend"}`,
		`POST /v1/sys/replication/performance/primary/secondary-token {"id":"friend"}`}
	if !slices.Equal(m.Repeat, want) {
		t.Errorf("the calls that do the same: got %q, want %q", m.Repeat, want)
	}
	if rec, err := b.n.readSecondary(Performance, "thief"); err != nil || rec == nil || rec.State == secondaryRevoked {
		t.Errorf("the new primary knows the thief as %+v, %v, want not revoked", rec, err)
	}
	if err := b.n.RevokeSecondary(ctx, Performance, "thief"); err != nil {
		t.Errorf("the revocation repeated: %v", err)
	}
	if err := b.n.RevokeSecondary(ctx, Performance, "friend"); err != nil {
		t.Errorf("before another token: %v", err)
	}
	if _, err := b.n.SecondaryToken(ctx, Performance, "friend", 0); err != nil {
		t.Errorf("another token: %v", err)
	}
	if r, err := a.n.ReachedIndex(ctx, []string{token}, false, true); r != LostIndex || err != nil {
		t.Errorf("a token of the lost tail: got %v, %v, want LostIndex", r, err)
	}
	if got := a.n.LostIn([]string{"forged", token}); got != m.ID {
		t.Errorf("it is said to be in %q, want %q", got, m.ID)
	}
	if got := b.n.LostIn([]string{token}); got != "" {
		t.Errorf("where nothing is archived it is said to be in %q", got)
	}
	if err := a.n.DiscardArchive(m.ID); err != nil || len(a.n.Archives()) != 0 {
		t.Errorf("discarding it: %v", err)
	}
}
