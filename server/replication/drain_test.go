package replication

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// TestADemotionSaysWhereEachSecondaryStands demotes a primary with one secondary that follows and one that is away: the first knows that it has everything, and is
// promoted without force; the second is refused.
func TestADemotionSaysWhereEachSecondaryStands(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			a := newCapablePrimary(t, k)
			near, away := a.successor(k, "near"), a.successor(k, "away")
			away.stop()
			a.write(shared, storage.Replicated, "while one is away", 10)
			a.caughtUp(k, near)
			if _, err := a.n.DemotePrimary(enginetest.Context(t), k, Demote{DrainTimeout: 2 * maxDrain}); err == nil || !strings.Contains(err.Error(), "drain_timeout") {
				t.Errorf("a drain of two minutes: %v, want it refused", err)
			}
			d, err := a.n.DemotePrimary(enginetest.Context(t), k, Demote{DrainTimeout: 20 * time.Second})
			if err != nil || len(d.Secondaries) != 2 {
				t.Fatalf("demoting: %+v, %v", d, err)
			}
			if s := d.Secondaries[1]; s.ID != "near" || !s.Drained || s.Lag != 0 || !s.Connected {
				t.Errorf("the one that follows: %+v, want it drained", s)
			}
			if s := d.Secondaries[0]; s.ID != "away" || s.Drained || s.Lag < 10 || s.Connected || !strings.Contains(strings.Join(d.Warnings, " "), "away lacks") {
				t.Errorf("the one that is away: %+v, warnings %q, want at least 10 entries of lag", s, d.Warnings)
			}
			if k == DR {
				a.reopen()
			}
			a.awaitMode(k, Secondary)

			near.restart() // what it knows is durable
			p, err := near.n.PromotePreflight(k)
			if err != nil || !p.Ready || !p.HandedOver || !p.Exact || p.LostEstimate != 0 {
				t.Errorf("preflight of the one that has everything: %+v, %v", p, err)
			}
			away.run()
			p, err = away.n.PromotePreflight(k)
			if err != nil || p.Ready || p.HandedOver || !strings.Contains(p.Verdict, "cannot be reached") {
				t.Errorf("preflight of the one that was away: %+v, %v", p, err)
			}
			var later *NotReady
			if _, err := away.n.PromoteSecondary(enginetest.Context(t), k, Promote{}); !errors.As(err, &later) || !strings.Contains(err.Error(), "at least") || !strings.Contains(err.Error(), "force=true") {
				t.Errorf("promoting it: %v, want 503 with figures", err)
			}
			near.promote(k, false)
			if near.e.NodeGet(noteHerald(k)) != nil {
				t.Error("it would tell a former primary that handed over itself")
			}
			// The former primary has everything that it wrote, too, and cannot know of the promotion.
			p, err = a.n.PromotePreflight(k)
			if err != nil || p.Ready || !p.Exact || p.LostKnown != 0 || !strings.Contains(p.Verdict, "another may have been promoted") || !strings.Contains(p.Verdict, "(away, near)") {
				t.Errorf("preflight of the former primary: %+v, %v, want that it asks for force and names whom to ask", p, err)
			}
			if _, err := a.n.PromoteSecondary(enginetest.Context(t), k, Promote{}); !errors.As(err, &later) || !strings.Contains(err.Error(), "pass force") {
				t.Errorf("promoting the former primary: %v, want 503", err)
			}
			if a.restart(); a.n.Mode(k) != Secondary {
				t.Fatalf("after a restart the former primary is %s", a.n.Mode(k))
			}
			if p, err := a.n.PromotePreflight(k); err != nil || p.Ready {
				t.Errorf("preflight of the former primary after a restart: %+v, %v", p, err)
			}
		})
	}
}

// TestAPrimaryThatNobodyFollowedIsPromotedAgainAsItIs: nobody can have been promoted in its place.
func TestAPrimaryThatNobodyFollowedIsPromotedAgainAsItIs(t *testing.T) {
	t.Parallel()
	a := newCapablePrimary(t, Performance)
	a.demote(Performance)
	if p, err := a.n.PromotePreflight(Performance); err != nil || !p.Ready || !strings.Contains(p.Verdict, "no secondary") {
		t.Errorf("preflight: %+v, %v", p, err)
	}
	a.promote(Performance, false)
}

// TestAPromotionSaysWhatItCosts asks for the preflight in each situation in which a secondary can be.
func TestAPromotionSaysWhatItCosts(t *testing.T) {
	t.Parallel()
	a := newCapablePrimary(t, DR)
	b, c := a.successor(DR, "b"), a.successor(DR, "c")
	a.write(shared, storage.Replicated, "k", 20)
	a.caughtUp(DR, b)
	a.caughtUp(DR, c)
	preflight := func() *Preflight {
		t.Helper()
		p, err := b.n.PromotePreflight(DR)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	b.until("the primary has told where the other secondary is, and that nothing is missing", func() bool {
		p := preflight()
		return p.Ready && p.Connected && len(p.Others) == 1 && p.Others[0].ID == "c" && p.Others[0].Index == p.Index
	})
	if p := preflight(); p.Exact || p.HandedOver || !strings.Contains(p.Verdict, "fenced") || p.LastContact.IsZero() {
		t.Errorf("connected and caught up: %+v", p)
	}
	a.stop()
	b.until("it sees that the primary is away", func() bool { return !preflight().Ready })
	p := preflight()
	if p.Connected || p.LostKnown != 0 || p.Rate <= 0 || !strings.Contains(p.Verdict, "cannot be reached") {
		t.Errorf("the primary is away: %+v", p)
	}
	b.until("the estimate grows with the time since", func() bool { return preflight().LostEstimate > 0 })
	b.restart()
	if p := preflight(); p.LastContact.IsZero() || p.PrimaryIndex == 0 || p.Ready || p.Rate <= 0 {
		t.Errorf("after a restart: %+v, want what was last heard before, and how fast the primary wrote", p)
	}
	b.until("the estimate, and the lag that status tells, grow with the time since the last contact", func() bool {
		return preflight().LostEstimate > 0 && b.n.Status(DR)["lag_ms"].(uint64) > 0
	})
	if _, err := b.n.PromoteSecondary(enginetest.Context(t), DR, Promote{}); err == nil {
		t.Error("promoted without force although the primary cannot be reached")
	}
	began := time.Now()
	b.promote(DR, true)
	if err := b.try(shared, storage.Replicated, "the first of the new primary"); err != nil {
		t.Fatal(err)
	}
	t.Logf("writable %v after the call", time.Since(began))
	if _, err := a.n.PromotePreflight(DR); err == nil {
		t.Error("a preflight on a primary is answered")
	}
}

// TestADemotionThatIsRepeatedSaysWhatItSaid asks again, at once and after a restart, for the answer that was lost.
func TestADemotionThatIsRepeatedSaysWhatItSaid(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			a := newCapablePrimary(t, k)
			near, away := a.successor(k, "near"), a.successor(k, "away")
			away.stop()
			a.write(shared, storage.Replicated, "while one is away", 10)
			a.caughtUp(k, near)
			if _, err := a.n.Demoted(k); err == nil {
				t.Error("a primary says that it was demoted")
			}
			first, err := a.n.DemotePrimary(enginetest.Context(t), k, Demote{})
			if err != nil {
				t.Fatal(err)
			}
			if k == DR {
				a.reopen()
			}
			a.awaitMode(k, Secondary)
			for _, when := range []string{"at once", "after a restart"} {
				again, err := a.n.DemotePrimary(enginetest.Context(t), k, Demote{})
				if err != nil || again.Index != first.Index || !slices.Equal(again.Secondaries, first.Secondaries) {
					t.Errorf("%s: got %+v, %v, want %+v", when, again, err, first)
				} else if w := strings.Join(again.Warnings, " "); !strings.Contains(w, "nothing was changed") || !strings.Contains(w, "away lacks") {
					t.Errorf("%s: warnings %q", when, w)
				}
				a.restart()
			}
			near.promote(k, false)
			a.repoint(k, near, "a")
			if _, err := a.n.Demoted(k); err == nil {
				t.Error("a cluster that follows another says that it was demoted")
			}
		})
	}
}

// TestADemotionThatWasKilledSaysItsFarewellAtTheNextStart kills the primary once the demotion is written down. Its secondary is promoted without force. One
// that was away when the demotion began is not waited for.
func TestADemotionThatWasKilledSaysItsFarewellAtTheNextStart(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			f := &fuse{after: true}
			a := newCluster(t, "the first primary", enginetest.New(t, engine.Writer, func(c *engine.Config) { c.Seam = f.seam }), freeAddr(t)).capable()
			a.run()
			if _, err := a.n.EnablePrimary(enginetest.Context(t), k, a.bind); err != nil {
				t.Fatal(err)
			}
			b := a.successor(k, "b")
			a.write(shared, storage.Replicated, "k", 10)
			a.caughtUp(k, b)
			away := a.successor(k, "away")
			away.stop()
			a.until("it sees that one is away", func() bool { return slices.Equal(a.n.peers.connected(k), []string{"b"}) })
			f.left.Store(1)
			if _, err := a.n.DemotePrimary(enginetest.Context(t), k, Demote{}); err == nil {
				t.Fatal("the demotion was not killed")
			}
			a.killed(false, &fuse{}, 0)
			in := a.n.underWay()
			if in == nil || a.n.Mode(k) != Secondary {
				t.Fatalf("started again it is a %s, and the demotion is not under way", a.n.Mode(k))
			}
			if got := in.Connected[k]; !slices.Equal(got, []string{"b"}) {
				t.Errorf("it waits for %v, want b alone", got)
			}
			if err := a.try(shared, storage.Replicated, "after the demotion began"); err == nil {
				t.Error("it took a write")
			}
			a.settle()
			if d, err := a.n.Demoted(k); err != nil || len(d.Secondaries) != 2 || d.Secondaries[0].Drained || !d.Secondaries[1].Drained {
				t.Errorf("what it says of its demotion: %+v, %v", d, err)
			}
			if p, err := b.n.PromotePreflight(k); err != nil || !p.Ready || !p.HandedOver {
				t.Errorf("preflight of its secondary: %+v, %v", p, err)
			}
			b.promote(k, false)
			a.repoint(k, b, "a")
		})
	}
}

// TestADemotionThatWaitsMakesWayForTheNextCall demotes a primary whose secondary hangs, with a long drain: the operator gives up on that secondary and says what
// the demoted cluster is to be. The demotion waits no longer.
func TestADemotionThatWaitsMakesWayForTheNextCall(t *testing.T) {
	t.Parallel()
	a := newCapablePrimary(t, Performance)
	b := a.successor(Performance, "b")
	a.caughtUp(Performance, b)
	a.n.peers.update(Performance, "hangs", func(p *peerState) { p.Streams = 1 })
	demoted := make(chan error, 1)
	go func() {
		_, err := a.n.DemotePrimary(enginetest.Context(t), Performance, Demote{DrainTimeout: maxDrain})
		demoted <- err
	}()
	a.until("the demotion waits", func() bool {
		a.n.mu.Lock()
		defer a.n.mu.Unlock()
		return a.n.lives.drained != nil
	})
	b.promote(Performance, false)
	act, err := b.n.SecondaryToken(enginetest.Context(t), Performance, "a", 0)
	if err != nil {
		t.Fatal(err)
	}
	named := make(chan error, 1)
	go func() {
		_, err := a.n.UpdatePrimary(enginetest.Context(t), Performance, UpdatePrimary{Token: &act.Token})
		named <- err
	}()
	for what, done := range map[string]chan error{"demoting": demoted, "naming its primary": named} {
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(maxDrain / 2):
			t.Fatalf("%s goes on waiting", what)
		}
	}
	b.caughtUp(Performance, a)
}
