package replication

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

func TestLevelsAreReadAndPrinted(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", "async"}, {"async", "async"},
		{"durable=1", "durable=1,timeout=5s,on_timeout=fail"},
		{"applied=2, timeout=300ms, on_timeout=degrade", "applied=2,timeout=300ms,on_timeout=degrade"},
		{"durable=16,on_timeout=fail,timeout=1m", "durable=16,timeout=1m0s,on_timeout=fail"},
		{"durable=2,lease=10s", "durable=2,timeout=5s,on_timeout=fail,lease=10s"}, {"durable=2,lease=0s", ""}, {"durable=2,lease=11m", ""}, {"async,lease=10s", ""},
		{"durable", ""}, {"durable=0", ""}, {"durable=17", ""}, {"durable=-1", ""}, {"timeout=1s", ""}, {"durable=1,durable=2", ""},
		{"durable=1,timeout=0", ""}, {"durable=1,timeout=61s", ""}, {"durable=1,on_timeout=wait", ""}, {"async,timeout=1s", ""},
		{"durable=1," + strings.Repeat(" ", 128), ""},
	} {
		l, err := ParseLevel(tt.text)
		if (err != nil) != (tt.want == "") || err == nil && l.String() != tt.want {
			t.Errorf("%q: got %v, %v, want %q", tt.text, l, err, tt.want)
		}
		if again, err := ParseLevel(l.String()); tt.want != "" && (err != nil || again != l) {
			t.Errorf("%q: printed and read again it is %v, %v", tt.text, again, err)
		}
	}
}

func FuzzParseLevel(f *testing.F) {
	f.Add("durable=2,timeout=3s,on_timeout=degrade")
	f.Add("async")
	f.Add("applied=1,lease=1500ms")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseLevel(text)
		if err != nil {
			return
		}
		if again, err := ParseLevel(l.String()); err != nil || again != l {
			t.Fatalf("%q is %v, which is read as %v, %v", text, l, again, err)
		}
	})
}

// level sets the level of the DR set.
func (c *cluster) level(text string) {
	c.t.Helper()
	l, err := ParseLevel(text)
	if err == nil {
		err = c.n.SetSynchronous(enginetest.Context(c.t), DR, l)
	}
	if err != nil {
		c.t.Fatalf("level %s: %v", text, err)
	}
}

func (c *cluster) put(key, value string) uint64 {
	c.t.Helper()
	return enginetest.MustDo(c.t, c.e, enginetest.Put(shared, storage.Replicated, key, value)).Position.Index
}

func TestASynchronousPrimaryAnswersWhenASecondaryHasWhatItShows(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	p, _ := newPrimary(t)
	s := p.follow(DR, "s")
	p.caughtUp(DR, s)
	p.level("durable=1,timeout=1m,on_timeout=fail")
	index := p.put("a", "1")
	if warning, err := p.n.AwaitConfirmed(ctx, true, nil); warning != "" || err != nil {
		t.Fatalf("with a secondary: got %q, %v", warning, err)
	}
	if at := s.e.Position().Index; at < index {
		t.Fatalf("answered at index %d while the secondary is at %d", index, at)
	}

	p.level("durable=1,timeout=1ms,on_timeout=fail")
	s.stop()
	index = p.put("a", "2")
	var late *NotConfirmed
	if _, err := p.n.AwaitConfirmed(ctx, true, nil); !errors.As(err, &late) || late.Index != index || !late.Committed || late.Have != 0 {
		t.Fatalf("a write without a secondary: got %v (%+v)", err, late)
	}
	if _, err := p.n.AwaitConfirmed(ctx, false, nil); !errors.As(err, &late) || late.Committed {
		t.Fatalf("a read of what nobody confirmed: got %v", err)
	}
	p.restart()
	if _, err := p.n.AwaitConfirmed(ctx, false, nil); !errors.As(err, &late) {
		t.Fatalf("a read after a restart: got %v, want it held back: it would show what was not confirmed", err)
	}
	s.e = enginetest.Reopen(t, s.e)
	s.run()
	p.level("durable=1,timeout=1m,on_timeout=fail")
	if _, err := p.n.AwaitConfirmed(ctx, false, nil); err != nil {
		t.Fatalf("with the secondary back: %v", err)
	}
}

func TestADegradedSetSaysSoUntilItsSecondariesAreBack(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	p, _ := newPrimary(t)
	s := p.follow(DR, "s")
	p.caughtUp(DR, s)
	p.level("applied=1,timeout=1ms,on_timeout=degrade")
	s.stop()
	p.put("a", "1")
	for range 2 { // the second does not wait
		if warning, err := p.n.AwaitConfirmed(ctx, true, nil); err != nil || !strings.Contains(warning, "degraded since") {
			t.Fatalf("without a secondary: got %q, %v", warning, err)
		}
	}
	if status := p.n.Status(DR); status["synchronous_degraded_since"] == nil || status["synchronous"] != "applied=1,timeout=1ms,on_timeout=degrade" {
		t.Errorf("status does not tell: %v", status)
	}
	s.e = enginetest.Reopen(t, s.e)
	s.run()
	p.until("it waits for confirmation again", func() bool {
		warning, err := p.n.AwaitConfirmed(ctx, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		return warning == "" && p.n.Degraded(DR).IsZero()
	})
}

func TestAPerformanceSecondaryIsShownNothingThatIsNotConfirmed(t *testing.T) {
	t.Parallel()
	p, _ := newPrimary(t)
	dr, perf := p.follow(DR, "d"), p.follow(Performance, "s")
	p.caughtUp(DR, dr)
	p.caughtUp(Performance, perf)
	p.level("durable=1,timeout=1ms,on_timeout=fail")
	p.caughtUp(DR, dr)
	dr.stop()
	p.until("the DR secondary has hung up", func() bool { ps, _ := p.n.peers.get(DR, "d"); return ps.Streams == 0 })
	index := p.put("a", "1")
	perf.until("heartbeats tell of the write", func() bool { return perf.n.link[Performance].get().RemoteEnd.Index >= index })
	if at := perf.e.Cursor(engine.Performance).Index; at >= index {
		t.Fatalf("the performance secondary is at %d: index %d is not confirmed", at, index)
	}
	if _, err := perf.e.Get(shared, []byte("a")); !errors.Is(err, storage.ErrNotFound) {
		t.Fatalf("an unconfirmed write is readable on the performance secondary (%v)", err)
	}
	dr.e = enginetest.Reopen(t, dr.e)
	dr.run()
	perf.until("it is confirmed", func() bool { return perf.e.Cursor(engine.Performance).Index >= index })
}

func TestASecondaryThatLacksWhatWasConfirmedIsPromotedByForceOnly(t *testing.T) {
	t.Parallel()
	p, _ := newPrimary(t)
	s := p.follow(DR, "s")
	p.caughtUp(DR, s)
	p.level("durable=1")
	p.caughtUp(DR, s)
	s.until("it has heard of a confirmed index", func() bool {
		c, err := s.n.confirmedHeard(DR)
		return err == nil && c.Index == p.e.Position().Index
	})
	p.stop()
	h := &heartbeat{Confirmed: s.e.Position().Index + 3}
	h.Lineage = s.e.Identity().Lineage
	if err := s.n.heardConfirmed(DR, h); err != nil {
		t.Fatal(err)
	}
	_, err := s.n.PromoteSecondary(enginetest.Context(t), DR, Promote{})
	var refused *NotReady
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "3 entries that clients were told to be safe would be lost") {
		t.Fatalf("promotion without force: got %v", err)
	}
}

func TestAwaitLevelCountsSecondariesOfBothSets(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	p, _ := newPrimary(t)
	dr, perf := p.follow(DR, "d"), p.follow(Performance, "s")
	p.caughtUp(DR, dr)
	p.caughtUp(Performance, perf)
	index := p.put("a", "1")
	if err := p.n.AwaitLevel(ctx, index, Level{Secondaries: 2, Timeout: time.Minute}, true); err != nil {
		t.Fatalf("two of two: %v", err)
	}
	var late *NotConfirmed
	if err := p.n.AwaitLevel(ctx, index, Level{Secondaries: 3, Timeout: time.Millisecond}, true); !errors.As(err, &late) || late.Have != 2 {
		t.Fatalf("three of two: got %v", err)
	}
}

// TestAPromotedClusterGoesOnWithTheLevelUnlessItsOperatorEndsIt promotes a DR secondary of a synchronous primary without any secondary of its own.
func TestAPromotedClusterGoesOnWithTheLevelUnlessItsOperatorEndsIt(t *testing.T) {
	t.Parallel()
	for _, async := range []bool{false, true} {
		ctx := enginetest.Context(t)
		p := newCapablePrimary(t, DR)
		s := p.successor(DR, "s")
		p.level("durable=1,timeout=1ms,on_timeout=fail")
		p.caughtUp(DR, s)
		p.demote(DR)
		f, err := s.n.PromotePreflight(DR)
		if err != nil || f.Levels[DR].Secondaries != 1 {
			t.Fatalf("the preflight tells of levels %v, %v, want the primary's", f, err)
		}
		warning, err := s.n.PromoteSecondary(ctx, DR, Promote{Async: async})
		if err != nil || strings.Contains(warning, "answered 409 until") == async {
			t.Errorf("async %t: got %q, %v", async, warning, err)
		}
		s.reopen()
		s.awaitMode(DR, Primary)
		s.put("a", "1")
		_, err = s.n.AwaitConfirmed(ctx, true, nil)
		var late *NotConfirmed
		if errors.As(err, &late) == async {
			t.Errorf("async %t: a write of the new primary, which has no secondaries: %v", async, err)
		}
	}
}
