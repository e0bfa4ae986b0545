package replication

import (
	"errors"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

func ptr(s string) *string { return &s }

// TestRoleChangesThatAreRefused asks each cluster for what its part does not allow.
func TestRoleChangesThatAreRefused(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	none := newCluster(t, "no part", enginetest.New(t, engine.Writer), "")
	none.run()
	p := newCapablePrimary(t, DR, Performance)
	s := p.successor(Performance, "s")
	d := p.successor(DR, "d")
	fresh := p.enrol(Performance, "fresh") // never answered
	fresh.run()
	p.n.streams.cutAll(errStopping)

	other := newCapablePrimary(t, Performance)
	foreign, err := other.n.SecondaryToken(ctx, Performance, "s", 0)
	if err != nil {
		t.Fatal(err)
	}
	dr, err := p.n.SecondaryToken(ctx, DR, "another", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		call func() (string, error)
		want string
	}{
		{"promote where nothing is", func() (string, error) { return none.n.PromoteSecondary(ctx, DR, Promote{}) }, "dr/primary/enable"},
		{"promote a primary", func() (string, error) { return p.n.PromoteSecondary(ctx, DR, Promote{}) }, "nothing to promote"},
		{"promote to no address", func() (string, error) {
			return s.n.PromoteSecondary(ctx, Performance, Promote{PrimaryClusterAddr: "x"})
		}, "host:port"},
		{"demote where nothing is", demoting(none, Performance), "only a primary"},
		{"demote a secondary", demoting(s, Performance), "demote the primary"},
		{"disable a secondary as a primary", func() (string, error) { return s.n.DisablePrimary(ctx, Performance) }, "secondary/disable"},
		{"disable a primary as a secondary", func() (string, error) { return p.n.DisableSecondary(ctx, DR) }, "primary/disable"},
		{"token and addresses", func() (string, error) {
			return s.n.UpdatePrimary(ctx, Performance, UpdatePrimary{Token: ptr("x"), Addrs: []string{"a:1"}})
		}, "exclude each other"},
		{"neither token nor addresses", func() (string, error) { return s.n.UpdatePrimary(ctx, Performance, UpdatePrimary{}) }, "missing token"},
		{"re-point where nothing is", func() (string, error) { return none.n.UpdatePrimary(ctx, DR, UpdatePrimary{Token: ptr("x")}) }, "disabled here"},
		{"re-point a primary", func() (string, error) { return p.n.UpdatePrimary(ctx, DR, UpdatePrimary{Token: ptr("x")}) }, "demote it first"},
		{"a token that is none", func() (string, error) {
			return s.n.UpdatePrimary(ctx, Performance, UpdatePrimary{Token: ptr("x")})
		}, "not an activation token"},
		{"a token of another set", func() (string, error) {
			return s.n.UpdatePrimary(ctx, Performance, UpdatePrimary{Token: &foreign.Token})
		}, "of another origin"},
		{"a token of another kind", func() (string, error) {
			return s.n.UpdatePrimary(ctx, Performance, UpdatePrimary{Token: &dr.Token})
		}, "sys/replication/dr/secondary/update-primary"},
		{"addresses that are none", func() (string, error) {
			return s.n.UpdatePrimary(ctx, Performance, UpdatePrimary{Addrs: []string{"x"}})
		}, "cluster addresses"},
		{"too many addresses", func() (string, error) {
			return s.n.UpdatePrimary(ctx, Performance, UpdatePrimary{Addrs: make([]string, maxUpdateAddrs+1)})
		}, "at most"},
		{"enable a secondary again", func() (string, error) {
			return s.n.EnableSecondary(ctx, Performance, SecondaryEnable{Token: foreign.Token})
		}, "update-primary"},
		{"enable a secondary on a DR primary", func() (string, error) {
			return p.n.EnableSecondary(ctx, Performance, SecondaryEnable{Token: foreign.Token})
		}, "disable that first (dr/primary/disable)"},
		{"enable a primary on a DR secondary", func() (string, error) { return d.n.EnablePrimary(ctx, Performance, "") }, "promote it (dr/secondary/promote)"},
		{"a token for what is no key", func() (string, error) { return p.n.SecondaryTokenFor(ctx, DR, "k", 0, "x") }, "secondary_public_key is"},
		{"a token for a key that was not generated here", func() (string, error) {
			return none.n.EnableSecondary(ctx, DR, SecondaryEnable{Token: keyTokenPrefix + "AAAA"})
		}, "generate-public-key"},
		{"reindex by force and without a flush", func() (string, error) { return none.n.Reindex(ctx, ReindexOptions{Force: true, SkipFlush: true}) }, "exclude each other"},
	} {
		warning, err := tt.call()
		var refused *Refused
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.want) || warning != "" {
			t.Errorf("%s: got %q, %v, want a refusal that says %q", tt.name, warning, err, tt.want)
		}
	}
	// An address that does not answer is no mistake of the caller's.
	if _, err := s.n.UpdatePrimary(ctx, Performance, UpdatePrimary{Addrs: []string{freeAddr(t)}}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("addresses that do not answer: got %v, want ErrUnreachable", err)
	}
	if w, err := s.n.UpdatePrimary(ctx, Performance, UpdatePrimary{Addrs: []string{freeAddr(t), p.bind}}); err != nil || !strings.Contains(w, p.bind) {
		t.Errorf("addresses of which the second answers: %q, %v", w, err)
	}
	p.caughtUp(Performance, s)

	p.demote(DR) // and the performance part with it
	if p.n.Mode(Performance) != Disabled {
		t.Errorf("a demoted DR primary is a performance %s", p.n.Mode(Performance))
	}
	if _, err := p.n.UpdatePrimary(ctx, DR, UpdatePrimary{Addrs: []string{d.bind}}); err == nil || !strings.Contains(err.Error(), "give token") {
		t.Errorf("addresses on a freshly demoted cluster: got %v, want them refused", err)
	}
	for _, call := range []func() (string, error){
		demoting(p, DR),
		func() (string, error) { return p.n.UpdatePrimary(ctx, DR, UpdatePrimary{Token: ptr("")}) },
		func() (string, error) { return none.n.DisablePrimary(ctx, DR) },
		func() (string, error) { return none.n.DisableSecondary(ctx, Performance) },
	} {
		if w, err := call(); err != nil || !strings.Contains(w, "already") {
			t.Errorf("a call whose goal is reached: %q, %v, want a warning", w, err)
		}
	}
}

// TestAPromotionWaitsUntilItLosesNothing asks for a promotion while a sync is under way, and while entries of the primary are not here.
func TestAPromotionWaitsUntilItLosesNothing(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	p, px := newPrimary(t)
	p.load(shared, storage.Replicated, "k", 2000, 500)
	p.checkpoint()
	s := p.enrol(Performance, "s")
	px.loseAfter(300_000) // in the middle of its first sync
	s.run()
	s.until("the primary is lost", func() bool {
		return s.e.SyncState() != nil && s.n.Status(Performance)["connection_state"] == "transient_failure"
	})
	var later *NotReady
	if _, err := s.n.PromoteSecondary(ctx, Performance, Promote{}); !errors.As(err, &later) || !strings.Contains(err.Error(), "force") {
		t.Fatalf("in the middle of a sync: got %v, want not ready", err)
	}
	if _, err := s.n.PromoteSecondary(ctx, Performance, Promote{Force: true}); err != nil {
		t.Fatalf("forced: %v", err)
	}
	if s.n.Mode(Performance) != Primary || s.e.SyncState() != nil || s.e.NeedsRepair() == "" {
		t.Errorf("forced: mode %s, sync %v, repair %q, want a primary that says what it is", s.n.Mode(Performance), s.e.SyncState(), s.e.NeedsRepair())
	}
	enginetest.MustPut(t, s.e, shared, storage.Replicated, "k", "it takes writes")
	s.restart()
	if s.n.Mode(Performance) != Primary {
		t.Errorf("after a restart: mode %s", s.n.Mode(Performance))
	}
	enginetest.Check(t, s.e)

	d := p.enrol(DR, "d") // the same with a copied log
	px.loseAfter(300_000)
	d.run()
	d.until("the primary is lost", func() bool {
		return d.e.SyncState() != nil && d.n.Status(DR)["connection_state"] == "transient_failure"
	})
	if _, err := d.n.PromoteSecondary(ctx, DR, Promote{}); !errors.As(err, &later) {
		t.Fatalf("DR, in the middle of a sync: got %v, want not ready", err)
	}
	// The store cannot be opened anew at first, and the primary is there again: nobody begins anew the sync that is abandoned.
	works := d.n.cfg.Reopen
	d.n.cfg.Reopen = func(engine.Role, bool) error { return errors.New("the disk is full") }
	if _, err := d.n.PromoteSecondary(ctx, DR, Promote{Force: true}); err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Fatalf("DR, forced: got %v, want why it failed", err)
	}
	px.found()
	d.livesNoMore(DR)
	d.n.cfg.Reopen = works
	if _, err := d.n.PromoteSecondary(ctx, DR, Promote{Force: true}); err != nil {
		t.Fatalf("DR, forced and repeated: %v", err)
	}
	d.livesNoMore(DR)
	d.reopen()
	d.awaitMode(DR, Primary)
	if d.e.SyncState() != nil || d.e.NeedsRepair() == "" {
		t.Errorf("DR, forced: sync %v, repair %q, want a primary that says what it is", d.e.SyncState(), d.e.NeedsRepair())
	}
	enginetest.MustPut(t, d.e, shared, storage.Replicated, "k", "it takes writes")
	d.restart()
	enginetest.Check(t, d.e)
}

// TestADisabledClusterKeepsItsDataAndStandsAlone disables every part, and finds the data writable and no part left.
func TestADisabledClusterKeepsItsDataAndStandsAlone(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	p := newCapablePrimary(t, DR, Performance)
	p.write(shared, storage.Replicated, "k", 50)
	d, s := p.successor(DR, "d"), p.successor(Performance, "s")
	for k, c := range map[Kind]*cluster{DR: d, Performance: s} {
		if w, err := c.n.DisableSecondary(ctx, k); err != nil || w == "" {
			t.Fatalf("%s: %q, %v", k, w, err)
		}
		if k == DR {
			c.reopen()
		}
		c.awaitMode(k, Disabled)
		c.restart()
		if st := c.n.Status(k); len(st) != 1 || st["mode"] != "disabled" {
			t.Errorf("%s: status %v, want nothing but the mode", k, st)
		}
		if c.n.Mode(DR) != Disabled || c.n.Mode(Performance) != Disabled {
			t.Errorf("%s: modes %s and %s", k, c.n.Mode(DR), c.n.Mode(Performance))
		}
		c.write(shared, storage.Replicated, "alone", 5)
		if got := len(enginetest.Content(t, c.e)[shared]); got != 55 {
			t.Errorf("%s: %d records, want 55", k, got)
		}
		if w, err := c.n.EnablePrimary(ctx, k, c.bind); err != nil || w == "" {
			t.Errorf("%s: enabling a primary afterwards: %q, %v", k, w, err)
		}
		if c.n.set(k).Set == p.n.set(k).Set {
			t.Errorf("%s: the new set has the id of the old one", k)
		}
	}
	for _, k := range kinds {
		set := p.n.set(k).Set
		if _, err := p.n.DisablePrimary(ctx, k); err != nil {
			t.Fatal(err)
		}
		p.restart()
		if p.n.Mode(k) != Disabled {
			t.Errorf("%s primary disabled: mode %s", k, p.n.Mode(k))
		}
		if _, err := p.n.EnablePrimary(ctx, k, p.bind); err != nil {
			t.Fatal(err)
		}
		if st := p.n.Status(k); st["cluster_id"] == set || len(st["known_secondaries"].([]string)) != 0 {
			t.Errorf("%s primary enabled again: status %v", k, st)
		}
	}
}

// TestEnrolmentByPublicKey enrols without a call to the primary's API, and re-points so too.
func TestEnrolmentByPublicKey(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	p := newStation(t)
	p.run()
	p.mustEnable(DR)
	enginetest.MustPut(t, p.e, storage.KeyspaceID{9}, storage.Replicated, "k", "v")
	s := newStation(t)
	key, err := s.GeneratePublicKey(DR)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := s.GeneratePublicKey(DR); again != key {
		t.Error("the key is another at the second call")
	}
	tok, err := p.SecondaryTokenFor(ctx, DR, "eu", 0, key)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(s.logged.String()+p.logged.String(), tok) {
		t.Error("the token is in a log")
	}
	_, err = newStation(t).EnableSecondary(ctx, DR, SecondaryEnable{Token: tok})
	wantRefused(t, err, "generate-public-key")
	thief := newStation(t)
	if _, err := thief.GeneratePublicKey(DR); err != nil {
		t.Fatal(err)
	}
	_, err = thief.EnableSecondary(ctx, DR, SecondaryEnable{Token: tok})
	wantRefused(t, err, "not made for the key")

	p.api.Close() // nobody calls it
	if _, err := s.EnableSecondary(ctx, DR, SecondaryEnable{Token: tok}); err != nil {
		t.Fatal(err)
	}
	s = s.switchedTo()
	s.run()
	eventually(t, "it streams with an equal root", func() bool {
		return s.Status(DR)["state"] == "stream-wals" && s.Status(DR)["merkle_root"] == p.Status(DR)["merkle_root"]
	})
	rec, err := p.readSecondary(DR, "eu")
	if err != nil || rec.State != secondaryActive || rec.KeyUntil != 0 {
		t.Errorf("the record is %+v, %v, want an active secondary", rec, err)
	}

	late, err := p.SecondaryTokenFor(ctx, DR, "late", 0, key)
	if err != nil || late == "" {
		t.Fatal(err)
	}
	rec, err = p.readSecondary(DR, "late")
	if err != nil {
		t.Fatal(err)
	}
	who := peer{ID: "late", Kind: DR, Set: rec.Set, JTI: rec.JTI}
	if err := p.enrolled(who); err != nil {
		t.Errorf("within its time it is refused: %v", err)
	}
	p.clock.advance(2 * defaultTTL)
	if err := p.enrolled(who); err == nil {
		t.Error("after its time it is let in")
	}
}

// TestARoleChangeThatFailedOnTheWayGoesOnWhenRepeated fails the request to reopen the store once.
func TestARoleChangeThatFailedOnTheWayGoesOnWhenRepeated(t *testing.T) {
	t.Parallel()
	p := newCapablePrimary(t, DR)
	works := p.n.cfg.Reopen
	p.n.cfg.Reopen = func(engine.Role, bool) error { return errors.New("the disk is full") }
	if _, err := demoting(p, DR)(); err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Fatalf("got %v, want why it failed", err)
	}
	if p.n.Mode(DR) != Secondary {
		t.Errorf("mode %s: writes would be taken that the next start gives up", p.n.Mode(DR))
	}
	if _, err := demoting(p, DR)(); err == nil {
		t.Error("repeated while it cannot be done: got no error")
	}
	p.n.cfg.Reopen = works
	for range 2 {
		if w, err := demoting(p, DR)(); err != nil || w == "" {
			t.Fatalf("repeated: %q, %v", w, err)
		}
	}
	p.reopen()
	p.awaitMode(DR, Secondary)
}

// demoting is the call, answered by its first warning.
func demoting(c *cluster, k Kind) func() (string, error) {
	return func() (string, error) {
		d, err := c.n.DemotePrimary(enginetest.Context(c.t), k, Demote{})
		if err != nil || len(d.Warnings) == 0 {
			return "", err
		}
		return d.Warnings[0], nil
	}
}
