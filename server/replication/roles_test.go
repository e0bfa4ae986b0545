package replication

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

// TestAnUnplannedDRPromotion promotes a secondary whose primary still runs and has written more: what only the old primary has is archived and taken back
// when it comes back, and both sides hold the same in the end.
func TestAnUnplannedDRPromotion(t *testing.T) {
	t.Parallel()
	a := newCapablePrimary(t, DR)
	a.load(shared, storage.Replicated, "base", scaled(4000), 200)
	a.checkpoint()
	b := a.successor(DR, "b")
	ctx := enginetest.Context(t)
	forget := ""
	if _, err := b.n.UpdatePrimary(ctx, DR, UpdatePrimary{Token: &forget}); err != nil {
		t.Fatal(err)
	}
	if st := b.n.Status(DR); st["state"] != "idle" || st["mode"] != "secondary" || st["reason"] == nil {
		t.Errorf("without a primary: status %v", st)
	}
	a.write(shared, storage.Replicated, "only at the old primary ", 30)
	a.write(shared, storage.Replicated, "base", 3) // overwritten there
	b.promote(DR, true)
	b.write(shared, storage.Replicated, "acknowledged by the new primary ", 40)
	b.checkpoint()

	a.demote(DR)
	a.repoint(DR, b, "a-old")
	bytes, r := a.cost(DR)
	if r.Rewind != 1 || r.Repair != 0 || bytes == 0 || bytes > 20_000 {
		t.Errorf("coming back cost %d bytes, resumes %+v, want a rewind of a few records, not of %d", bytes, r, scaled(4000))
	}
	for i := range 30 {
		key := fmt.Sprintf("only at the old primary %06d", i)
		if _, err := a.e.Get(shared, []byte(key)); !errors.Is(err, storage.ErrNotFound) {
			t.Fatalf("%s: got %v, want it decided for the new primary, which never had it", key, err)
		}
	}
	if kept := a.kept.List(); len(kept) != 1 || kept[0].Counts.Entries != 33 || kept[0].Counts.Lost != 33 {
		t.Errorf("got archives %+v, want one of the 33 entries", kept)
	}
	if strings.Contains(b.logs.String(), "archived") || len(b.kept.List()) != 0 {
		t.Error("a secondary that was empty has archived something")
	}
	for i := range 40 {
		if _, err := a.e.Get(shared, []byte(fmt.Sprintf("acknowledged by the new primary %06d", i))); err != nil {
			t.Fatalf("an acknowledged write of the new primary is missing on the old one: %v", err)
		}
	}
	a.restart() // and it stays so
	b.caughtUp(DR, a)
}

// TestAPerformanceFailover moves a performance set's primary, re-points another secondary and the old primary, and moves it back.
func TestAPerformanceFailover(t *testing.T) {
	t.Parallel()
	a := newCapablePrimary(t, Performance)
	a.load(shared, storage.Replicated, "base", scaled(4000), 200)
	a.checkpoint()
	b, c := a.successor(Performance, "b"), a.successor(Performance, "c")
	b.write(local, storage.Local, "b's own ", 10)
	c.write(local, storage.Local, "c's own ", 10)
	set := a.n.set(Performance).Set
	full, _ := c.cost(Performance)

	a.demote(Performance)
	if _, err := a.e.Do(enginetest.Context(t), &engine.Tx{Writes: []engine.Write{enginetest.Put(local, storage.Local, "a", "its own")}}); err != nil {
		t.Errorf("a demoted performance primary does not serve what is local to it: %v", err)
	}
	b.promote(Performance, false)
	if st := b.n.Status(Performance); st["cluster_id"] != set || len(st["known_secondaries"].([]string)) != 0 || st["primary_cluster_addr"] != "https://"+b.bind {
		t.Errorf("promoted: status %v", st)
	}
	b.write(shared, storage.Replicated, "of b ", 50)
	b.checkpoint()
	c.repoint(Performance, b, "c2")
	a.repoint(Performance, b, "a-old")
	for name, s := range map[string]*cluster{"c": c, "a": a} {
		bytes, _ := s.cost(Performance)
		if name == "c" {
			bytes -= full
		}
		if bytes != 0 {
			t.Errorf("%s: re-pointing cost %d bytes of diff and sync, want none: its place is in b's log too (filling it cost %d)", name, bytes, full)
		}
		if _, err := s.e.Get(shared, []byte("of b 000049")); err != nil {
			t.Errorf("%s lacks a write of the new primary: %v", name, err)
		}
	}
	if _, err := c.e.Get(local, []byte("c's own 000009")); err != nil {
		t.Errorf("what is local to c did not survive: %v", err)
	}
	for _, s := range []*cluster{a, b, c} { // restarted, all know their parts
		s.restart()
	}
	b.caughtUp(Performance, a)
	b.caughtUp(Performance, c)

	b.demote(Performance)
	a.promote(Performance, false)
	a.write(shared, storage.Replicated, "of a again ", 20)
	b.repoint(Performance, a, "b3")
	c.repoint(Performance, a, "c3")
	seen, err := c.n.seen(Performance)
	if err != nil || lastOrdinal(seen) != 3 {
		t.Errorf("after failback c has seen ordinal %d, %v, want 3", lastOrdinal(seen), err)
	}
}

// TestPerformanceSecondariesFollowTheSuccessor promotes the DR secondary of a performance primary that is gone: the performance secondary goes on there by
// itself, with the certificate that it has, and copies nothing.
func TestPerformanceSecondariesFollowTheSuccessor(t *testing.T) {
	t.Parallel()
	p := newCapablePrimary(t, DR, Performance)
	p.load(shared, storage.Replicated, "base", 1000, 200)
	p.checkpoint()
	d := p.enrol(DR, "d").capable()
	d.addr = d.bind // it tells where it will be
	d.run()
	p.caughtUp(DR, d)
	s := p.successor(Performance, "s")
	s.until("it knows who may succeed its primary", func() bool { return len(s.n.set(Performance).Failover) == 1 && s.n.set(Performance).Bundle != "" })
	full, _ := s.cost(Performance)
	set := p.n.set(Performance).Set
	p.caughtUp(DR, d)

	p.stop() // gone for good
	d.promote(DR, true)
	if st := d.n.Status(Performance); st["mode"] != "primary" || st["cluster_id"] != set || fmt.Sprint(st["known_secondaries"]) != "[s]" {
		t.Errorf("the successor's performance part is %v", st)
	}
	d.write(shared, storage.Replicated, "of the successor ", 20)
	d.caughtUp(Performance, s)
	bytes, r := s.cost(Performance)
	if bytes != full || r.Repair != 0 {
		t.Errorf("going on at the successor cost %d bytes of diff and sync, resumes %+v, want none", bytes-full, r)
	}
	if got := s.n.Status(Performance)["primary_cluster_addr"]; got != "https://"+d.bind {
		t.Errorf("primary_cluster_addr is %v, want the successor's", got)
	}
	if err := s.n.renewOnce(enginetest.Context(t), Performance, func(ctx context.Context, request []byte) ([]byte, error) {
		rec, err := d.n.readSecondary(Performance, "s")
		if err != nil {
			return nil, err
		}
		return d.n.renew(ctx, peer{ID: "s", Kind: Performance, Set: set, JTI: rec.JTI}, request)
	}); err != nil {
		t.Errorf("a certificate of the successor: %v", err)
	}
	s.restart()
	d.caughtUp(Performance, s)
	if err := d.n.RevokeSecondary(enginetest.Context(t), Performance, "s"); err != nil {
		t.Fatal(err)
	}
	s.until("revoked there, it stops", func() bool { return s.n.Revoked(Performance) })
}

// TestTheDRSecondaryOfAPerformanceSecondaryTakesItsPlace promotes it: it is a member of the set, follows by update-primary, and keeps what was local.
func TestTheDRSecondaryOfAPerformanceSecondaryTakesItsPlace(t *testing.T) {
	t.Parallel()
	p := newCapablePrimary(t, Performance)
	p.load(shared, storage.Replicated, "base", 1000, 200)
	p.checkpoint()
	s := p.successor(Performance, "s")
	if _, err := s.n.EnablePrimary(enginetest.Context(t), DR, s.bind); err != nil {
		t.Fatal(err)
	}
	s.write(local, storage.Local, "local to s ", 10)
	s.until("it keeps what it is for its DR secondary", func() bool { _, err := s.e.Get(storage.SystemLocal, []byte(recordMember)); return err == nil })
	d := s.successor(DR, "d")
	s.stop()
	p.write(shared, storage.Replicated, "meanwhile ", 20)
	d.promote(DR, true)
	if st := d.n.Status(Performance); st["mode"] != "secondary" || st["state"] != "idle" || st["cluster_id"] != p.n.set(Performance).Set {
		t.Errorf("promoted: its performance part is %v, want a secondary without a primary", st)
	}
	d.repoint(Performance, p, "s2")
	if bytes, r := d.cost(Performance); bytes != 0 || r.Continue == 0 {
		t.Errorf("taking its place cost %d bytes of diff and sync, resumes %+v, want CONTINUE", bytes, r)
	}
	if _, err := d.e.Get(local, []byte("local to s 000009")); err != nil {
		t.Errorf("what was local to s: %v", err)
	}
}

// TestARevokedSecondaryComesBackWithItsData gives it a new token of the same primary: nothing is copied.
func TestARevokedSecondaryComesBackWithItsData(t *testing.T) {
	t.Parallel()
	p := newCapablePrimary(t, Performance)
	p.load(shared, storage.Replicated, "base", 500, 200)
	s := p.successor(Performance, "s")
	full, _ := s.cost(Performance)
	if err := p.n.RevokeSecondary(enginetest.Context(t), Performance, "s"); err != nil {
		t.Fatal(err)
	}
	s.until("it is revoked", func() bool { return s.n.Revoked(Performance) })
	p.write(shared, storage.Replicated, "meanwhile ", 20)
	s.repoint(Performance, p, "s")
	if bytes, _ := s.cost(Performance); bytes > full {
		t.Errorf("coming back cost %d bytes of diff and sync, want none", bytes-full)
	}
}

// TestADisabledSecondaryKeepsNoKeyOfTheSetThatItLeft: a DR secondary of a performance primary has a CA, to take that one's place with.
func TestADisabledSecondaryKeepsNoKeyOfTheSetThatItLeft(t *testing.T) {
	t.Parallel()
	p := newCapablePrimary(t, kinds...)
	s := p.successor(DR, "s")
	s.until("it has a CA to succeed with", func() bool { return s.e.NodeGet(noteSuccessor) != nil })
	if _, err := s.n.DisableSecondary(enginetest.Context(t), DR); err != nil {
		t.Fatal(err)
	}
	s.reopen()
	s.awaitMode(DR, Disabled)
	if s.e.NodeGet(noteSuccessor) != nil {
		t.Error("the CA's key is still there")
	}
}
