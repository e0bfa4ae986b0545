package replication

import (
	"errors"
	"fmt"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// apart lets two secondaries of a primary come to different places: ahead has lost more entries than behind when the primary is gone. The primary goes on alone
// with more. All of it overwrites records that there were before, deletes one and adds new ones.
func apart(t *testing.T, records, ahead, alone int) (a, b, c *cluster) {
	a = newCapablePrimary(t, Performance)
	a.load(shared, storage.Replicated, "base/", records, 100)
	a.write(shared, storage.Replicated, "old ", 20)
	a.checkpoint()
	b, c = a.successor(Performance, "b"), a.successor(Performance, "c")
	b.write(local, storage.Local, "b's own ", 5)
	b.stop()
	c.write(local, storage.Local, "c's own ", 5)
	enginetest.MustDo(t, a.e, enginetest.Delete(shared, storage.Replicated, "old 000003"))
	for i := range ahead {
		a.put(fmt.Sprintf("old %06d", 4+i), "what c has seen")
	}
	a.write(second, storage.Replicated, "a keyspace that b never heard of ", 3)
	a.caughtUp(Performance, c)
	c.stop()
	for i := range alone {
		a.put(fmt.Sprintf("alone %06d", i), "acknowledged and nowhere else")
	}
	b.e = enginetest.Reopen(t, b.e)
	a.stop()
	b.run()
	return a, b, c
}

// TestAForcedPerformancePromotionArchivesWhatTheOthersHaveBeyondIt promotes the secondary that is furthest behind. The other one and the old primary come back: what
// they have beyond the common point is in their archives, each key of it is what the new primary has, and nothing else is copied.
func TestAForcedPerformancePromotionArchivesWhatTheOthersHaveBeyondIt(t *testing.T) {
	t.Parallel()
	cost := map[int]uint64{}
	for _, records := range []int{300, 3000} {
		const ahead, alone = 4, 7
		a, b, c := apart(t, records, ahead, alone)
		b.promote(Performance, true)
		b.write(shared, storage.Replicated, "of b ", 10)
		c.e = enginetest.Reopen(t, c.e)
		c.run()
		c.repoint(Performance, b, "c2")
		a.e = enginetest.Reopen(t, a.e)
		a.run()
		a.demote(Performance)
		a.repoint(Performance, b, "a2")
		for _, s := range []struct {
			*cluster
			name string
			lost uint64
		}{{c, "the sibling", ahead + 4}, {a, "the former primary", ahead + 4 + alone}} {
			bytes, r := s.cost(Performance)
			if r.Rewind != 1 || r.Repair+r.Bootstrap != 0 {
				t.Errorf("%s came back by %+v, want one rewind", s.name, r)
			}
			cost[records] += bytes
			kept := s.kept.List()
			if len(kept) != 1 || kept[0].Counts.Lost != s.lost || kept[0].Counts.Entries != s.lost {
				t.Errorf("%s: got archives %+v, want one of %d lost entries", s.name, kept, s.lost)
			}
			if r, err := s.e.Get(shared, []byte("old 000003")); err != nil {
				t.Errorf("%s: what was deleted beyond the common point is not back: %q, %v", s.name, r.Value, err)
			}
			if _, err := s.e.Get(second, []byte("a keyspace that b never heard of 000001")); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("%s: a record of a keyspace that the new primary never heard of: %v", s.name, err)
			}
		}
		if _, puts := a.archived(shared); puts["alone 000006"] != "acknowledged and nowhere else" {
			t.Errorf("the archive of the former primary lacks its last write: %v", puts)
		}
		if r, err := c.e.Get(local, []byte("c's own 000004")); err != nil {
			t.Errorf("what is local to the sibling: %v, %v", r, err)
		}
	}
	if small, large := cost[300], cost[3000]; large > 2*small {
		t.Errorf("coming back cost %d bytes of %d records and %d of %d: want the tail's cost", small, 300, large, 3000)
	}
}

// TestAFormerPrimaryThatReignsAgainTellsPlacesOfBetweenApart moves a set's primary away and back, and loses it with a tail. Its successor reigned before, and the common point
// lies in what it received since: exactly the tail is taken back, once.
func TestAFormerPrimaryThatReignsAgainTellsPlacesOfBetweenApart(t *testing.T) {
	t.Parallel()
	a := newCapablePrimary(t, Performance)
	a.write(shared, storage.Replicated, "first ", 20)
	b := a.successor(Performance, "b")
	for i, way := range [][2]*cluster{{a, b}, {b, a}} {
		from, to := way[0], way[1]
		from.caughtUp(Performance, to)
		from.demote(Performance)
		to.promote(Performance, false)
		from.repoint(Performance, to, fmt.Sprintf("back%d", i))
		to.write(shared, storage.Replicated, fmt.Sprintf("reign %d ", i), 20)
	}
	a.caughtUp(Performance, b)
	b.stop()
	b.e = enginetest.Reopen(t, b.e)
	a.write(shared, storage.Replicated, "alone ", 7)
	a.stop()
	a.e = enginetest.Reopen(t, a.e)
	b.run()
	b.promote(Performance, true)
	b.write(shared, storage.Replicated, "after ", 20)
	a.run()
	a.demote(Performance)
	a.repoint(Performance, b, "a2")
	b.caughtUp(Performance, a)
	if _, r := a.cost(Performance); r.Rewind != 1 || r.Repair+r.Bootstrap != 0 {
		t.Errorf("the former primary came back by %+v, want one rewind", r)
	}
	if kept := a.kept.List(); len(kept) != 1 || kept[0].Counts.Lost != 7 {
		t.Errorf("got archives %+v, want one of the 7 lost entries", kept)
	}
}

// TestAPerformanceClusterTakesBackATailInWhichAMountWasRemoved lets the common point lie before the drop of a keyspace, on a sibling, on the former primary and on the
// DR secondary of the sibling. The records are there again and none of them was fetched.
func TestAPerformanceClusterTakesBackATailInWhichAMountWasRemoved(t *testing.T) {
	t.Parallel()
	n := scaled(3000)
	a := newCapablePrimary(t, Performance)
	a.load(second, storage.Replicated, "many", n, 100)
	a.write(shared, storage.Replicated, "old ", 20)
	a.checkpoint()
	b, c := a.successor(Performance, "b"), a.successor(Performance, "c")
	if _, err := c.n.EnablePrimary(enginetest.Context(t), DR, c.bind); err != nil {
		t.Fatal(err)
	}
	d := c.successor(DR, "d")
	b.stop()
	enginetest.MustPut(t, a.e, second, storage.Replicated, "many000001", "overwritten first")
	enginetest.MustDo(t, a.e, enginetest.Drop(second, storage.Replicated))
	a.put("old 000004", "what c has seen")
	a.caughtUp(Performance, c)
	c.caughtUp(DR, d)
	a.put("old 000005", "acknowledged and nowhere else")
	b.e = enginetest.Reopen(t, b.e)
	a.stop()
	b.run()
	b.promote(Performance, true)
	b.write(second, storage.Replicated, "of b ", 10)
	b.checkpoint()

	c.restart() // what its first filling cost is forgotten
	c.repoint(Performance, b, "c2")
	a.e = enginetest.Reopen(t, a.e)
	a.run()
	a.demote(Performance)
	a.repoint(Performance, b, "a2")
	c.caughtUp(DR, d)
	for name, s := range map[string]*cluster{"the sibling": c, "the former primary": a} {
		if bytes, r := s.cost(Performance); r.Rewind != 1 || r.Repair+r.Bootstrap != 0 || bytes > 20_000 {
			t.Errorf("%s came back by %+v and %d bytes, want one rewind that fetches the tail's keys", name, r, bytes)
		}
	}
	for name, s := range map[string]*cluster{"the sibling": c, "the former primary": a, "the sibling's DR secondary": d} {
		s.restart()
		got := enginetest.Content(t, s.e)[second]
		if len(got) != n+10 || got["many000001"] == "overwritten first" {
			t.Errorf("%s: the mount that was removed in the lost tail has %d records, want %d; the first is %q", name, len(got), n+10, got["many000001"])
		}
	}
	b.put("later", "1")
	b.caughtUp(Performance, c)
	b.caughtUp(Performance, a)
	c.caughtUp(DR, d)
}
