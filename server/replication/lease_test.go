package replication

import (
	"errors"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine/enginetest"
)

func TestAnEchoCountsFromWhenItsHeartbeatWasSent(t *testing.T) {
	var b beats
	b.sent(10)
	first := b[0].at
	b.sent(20)
	b.sent(30)
	for _, tt := range []struct {
		name  string
		clock int64
		known bool
	}{
		{"a clock that was never told", 25, false},
		{"nothing was heard yet", 0, false},
		{"the second", 20, true},
		{"the first, that came late: a newer one was echoed", 10, false},
		{"the second again, in the acknowledgement of a batch", 20, true},
		{"the third", 30, true},
	} {
		if at := b.echoed(tt.clock); at.IsZero() == tt.known || tt.known && at.Before(first) {
			t.Errorf("%s: got %v", tt.name, at)
		}
	}
	for i := range int64(1000) {
		b.sent(100 + i)
	}
	if len(b) != maxBeats || b.echoed(100+999).IsZero() || !b.echoed(100).IsZero() {
		t.Errorf("of 1000 without an echo %d are kept, want the newest %d", len(b), maxBeats)
	}
}

func TestAPrimaryTakesWritesWhileItsLeaseLasts(t *testing.T) {
	t.Parallel()
	p, between := newPrimary(t)
	s := p.follow(DR, "s")
	p.caughtUp(DR, s)
	ended := func() bool {
		var lost *LeaseLost
		err := p.n.Leased(DR)
		return errors.As(err, &lost) && lost.Have == 0 && lost.Want == 1
	}
	holds := func() bool { return p.n.Leased(DR) == nil }
	if !holds() {
		t.Fatalf("an asynchronous set has a lease: %v", p.n.Leased(DR))
	}
	l, _ := ParseLevel("durable=1,lease=149ms")
	wantRefused(t, p.n.SetSynchronous(enginetest.Context(t), DR, l), "too short for heartbeats every 50ms: give at least 150ms")

	p.level("durable=1,lease=1s")
	p.until("a secondary is heard of", holds)
	if status := p.n.Status(DR); status["write_lease_held"] != true || status["synchronous"] != "durable=1,timeout=5s,on_timeout=fail,lease=1s" {
		t.Errorf("status does not tell: %v", status)
	}
	between.freeze() // both ends are there, and hear nothing
	p.until("the lease has ended", ended)
	if status := p.n.Status(DR); status["write_lease_held"] != false {
		t.Errorf("status does not tell of the end: %v", status)
	}
	between.thaw()
	p.until("it holds again", holds)

	s.stop()
	p.until("the lease of one that left has ended", ended)
	p.level("durable=1,lease=10m")
	p.until("it was heard of within ten minutes, connected or not", holds)
	p.restart()
	if !ended() {
		t.Fatalf("after a restart: got %v, want the lease ended until a secondary is heard of", p.n.Leased(DR))
	}
	s.e = enginetest.Reopen(t, s.e)
	s.run()
	p.until("its secondary is back", holds)
}

func TestASecondaryThatCouldNotSucceedKeepsNoLease(t *testing.T) {
	t.Parallel()
	p, _ := newPrimary(t)
	p.level("durable=1,lease=1m")
	for _, tt := range []struct {
		name  string
		state StateName
		heard time.Time
		held  bool
	}{
		{"it streams", StateStreamWALs, time.Now(), true},
		{"it is being filled", StateMerkleSync, time.Now(), false},
		{"it was heard of too long ago", StateStreamWALs, time.Now().Add(-time.Minute), false},
		{"it was never heard of", StateStreamWALs, time.Time{}, false},
	} {
		p.n.peers.update(DR, "s", func(ps *peerState) { ps.State, ps.Heard = string(tt.state), tt.heard })
		if err := p.n.Leased(DR); (err == nil) != tt.held {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
}
