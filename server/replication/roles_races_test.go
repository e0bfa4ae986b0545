package replication

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// TestAPerformanceDemotionWaitsForWritesOnTheirWay holds a write as a client's request does, between the look at the role and the commit, and demotes
// meanwhile: what the client was told is durable must be at the secondary when the streams have ended.
func TestAPerformanceDemotionWaitsForWritesOnTheirWay(t *testing.T) {
	t.Parallel()
	p := newCapablePrimary(t, Performance)
	s := p.follow(Performance, "eu")
	p.caughtUp(Performance, s)

	release := p.n.HoldRole()
	demoted := make(chan error, 1)
	go func() {
		_, err := p.n.DemotePrimary(enginetest.Context(t), Performance, Demote{})
		demoted <- err
	}()
	var early bool
	var err error
	p.until("the demotion waits for the write, or has ended without it", func() bool {
		select {
		case err = <-demoted:
			early = true
			return true
		default:
		}
		if p.n.writes.TryRLock() {
			p.n.writes.RUnlock()
			return false
		}
		return true
	})
	if p.n.Mode(Performance) == Primary {
		t.Error("a demotion that waits lets other writes in")
	}
	enginetest.MustPut(t, p.e, shared, storage.Replicated, "on its way", "v")
	release()
	if early {
		t.Fatalf("the demotion ended (%v) while a write was on its way into the log", err)
	}
	if err := <-demoted; err != nil {
		t.Fatal(err)
	}
	if r, err := s.e.Get(shared, []byte("on its way")); err != nil || string(r.Value) != "v" {
		t.Errorf("the secondary has %q, %v: the streams ended without the last acknowledged write", r.Value, err)
	}
}

// TestTheLastHeartbeatsBeforeADRDemotionLeaveTheSuccessorsKnown lets heartbeats come between the beginning of a DR demotion and the end of the streams: they
// must not make a performance secondary forget where to look next.
func TestTheLastHeartbeatsBeforeADRDemotionLeaveTheSuccessorsKnown(t *testing.T) {
	t.Parallel()
	p := newCapablePrimary(t, DR, Performance)
	d := p.enrol(DR, "standby").capable()
	d.addr = d.bind
	d.run()
	s := p.follow(Performance, "eu")
	knows := func() bool {
		set := s.n.set(Performance)
		return set.Bundle != "" && slices.Equal(set.Failover, cleanAddrs([]string{d.addr}))
	}
	s.until("the secondary knows its primary's successor", knows)

	if _, err := p.n.DemotePrimary(enginetest.Context(t), DR, Demote{}); err != nil {
		t.Fatal(err)
	}
	// The store is not opened anew yet: streams go on, as they do while a server drains them.
	for range 2 {
		last := s.n.link[Performance].get().Primary.LastHeartbeat
		s.until("another heartbeat has come", func() bool { return s.n.link[Performance].get().Primary.LastHeartbeat.After(last) })
	}
	if !knows() {
		t.Errorf("after the last heartbeats the secondary looks for its next primary at %q", s.n.set(Performance).Failover)
	}
}

// TestAPromotedPrimaryStopsTakingDamageForWhatAnotherClusterHolds promotes and demotes performance clusters, whose stores stay open.
func TestAPromotedPrimaryStopsTakingDamageForWhatAnotherClusterHolds(t *testing.T) {
	t.Parallel()
	p := newCapablePrimary(t, Performance)
	s := p.successor(Performance, "eu")
	if p.e.Repairable() || !s.e.Repairable() {
		t.Fatalf("before: the primary %v, the secondary %v", p.e.Repairable(), s.e.Repairable())
	}
	p.demote(Performance)
	s.promote(Performance, false)
	if !p.e.Repairable() || s.e.Repairable() {
		t.Errorf("after the exchange of roles: the former primary %v, the present one %v; want another cluster behind the former only", p.e.Repairable(), s.e.Repairable())
	}
	p.repoint(Performance, s, "back")
	if _, err := p.n.DisableSecondary(enginetest.Context(t), Performance); err != nil {
		t.Fatal(err)
	}
	if p.e.Repairable() {
		t.Error("disabled, it takes damage for what another cluster holds")
	}
}

// TestAnEmptyTokenIsTakenBackByTheCallThatItsWarningNames is about an empty shell variable, which cannot be told from a token that is meant to be empty.
func TestAnEmptyTokenIsTakenBackByTheCallThatItsWarningNames(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	p := newCapablePrimary(t, Performance)
	s := p.follow(Performance, "eu")
	p.caughtUp(Performance, s)
	before := s.n.set(Performance)
	for _, blank := range []string{" ", "\t\n"} {
		_, err := s.n.UpdatePrimary(ctx, Performance, UpdatePrimary{Token: &blank})
		wantRefused(t, err, "nothing was changed")
	}
	if s.n.set(Performance) != before {
		t.Error("a refused call changed the configuration")
	}
	empty := ""
	warning, err := s.n.UpdatePrimary(ctx, Performance, UpdatePrimary{Token: &empty})
	_, addrs, ok := strings.Cut(warning, "update_primary_addrs=")
	addrs, _, _ = strings.Cut(addrs, " ")
	if err != nil || !ok || len(s.n.set(Performance).Primaries) != 0 {
		t.Fatalf("forgetting the primary: %q, %v", warning, err)
	}
	if _, err := s.n.UpdatePrimary(ctx, Performance, UpdatePrimary{Addrs: strings.Split(addrs, ",")}); err != nil {
		t.Fatal(err)
	}
	p.caughtUp(Performance, s)
}

// TestARoleChangeIsNotCompletedTwice lets the part of a start that completes role changes come too late: the call that began this one has completed it, and the cluster
// has got a primary since, which must not be forgotten.
func TestARoleChangeIsNotCompletedTwice(t *testing.T) {
	t.Parallel()
	a := newCapablePrimary(t, Performance)
	b := a.successor(Performance, "b")
	in := &intent{Call: callDemotePerf, Set: a.n.demoted(a.n.set(Performance))}
	a.demote(Performance)
	b.promote(Performance, false)
	a.repoint(Performance, b, "a2")
	before := *a.n.set(Performance)
	if reopened, err := a.n.finish(enginetest.Context(t), in); reopened || err != nil {
		t.Fatalf("completing a change that has ended: reopened %v, %v", reopened, err)
	}
	if after := a.n.set(Performance); len(after.Primaries) == 0 || after.Secondary != before.Secondary {
		t.Errorf("the cluster has forgotten its primary: %+v", after)
	}
}

// TestAWriteThatADemotionOvertakesIsNamedByItsOwnPlace commits a write that no secondary gets, changes the roles before it is answered, and lets the former primary
// come back: neither is it said to be confirmed, nor does its token name a state of the new primary.
func TestAWriteThatADemotionOvertakesIsNamedByItsOwnPlace(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	p := newCapablePrimary(t, Performance)
	s := p.successor(Performance, "eu")
	if err := p.n.SetSynchronous(ctx, Performance, Level{Secondaries: 1, Timeout: time.Minute}); err != nil {
		t.Fatal(err)
	}
	p.caughtUp(Performance, s)
	s.stop()
	release := p.n.HoldRole()
	demoted := make(chan error, 1)
	go func() {
		_, err := p.n.DemotePrimary(ctx, Performance, Demote{DrainTimeout: time.Millisecond})
		demoted <- err
	}()
	p.until("the demotion waits for the write", func() bool { return p.n.Mode(Performance) != Primary })
	lost, err := p.n.Wrote(enginetest.MustPut(t, p.e, shared, storage.Replicated, "lost", "v").Position, nil)
	release()
	if err := errors.Join(err, <-demoted); err != nil {
		t.Fatal(err)
	}
	p.awaitMode(Performance, Secondary)
	var late *NotConfirmed
	if _, err := p.n.AwaitConfirmed(ctx, true, lost); !errors.As(err, &late) || !late.Committed || !late.Left {
		t.Errorf("the write of a synchronous primary, answered after its demotion: got %v, want that it is committed and not confirmed", err)
	}
	s.e = enginetest.Reopen(t, s.e)
	s.run()
	s.promote(Performance, true)
	p.repoint(Performance, s, "back")
	for name, c := range map[string]*cluster{"the former primary": p, "the new one": s} {
		if r, err := c.n.ReachedIndex(ctx, []string{lost.Token}, false, true); r != LostIndex || err != nil {
			t.Errorf("%s on the state that the write left: got %v, %v, want that it was lost", name, r, err)
		}
	}
	if _, err := p.e.Get(shared, []byte("lost")); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the write is still here: %v", err)
	}
}
