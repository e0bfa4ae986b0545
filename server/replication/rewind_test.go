package replication

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// forget lets a secondary follow no primary any more.
func (c *cluster) forget(k Kind) {
	c.t.Helper()
	none := ""
	if _, err := c.n.UpdatePrimary(enginetest.Context(c.t), k, UpdatePrimary{Token: &none}); err != nil {
		c.t.Fatal(err)
	}
}

// archived returns the positions of all archived entries, and what was put into a keyspace by them.
func (c *cluster) archived(ks storage.KeyspaceID) (at []wal.Position, puts map[string]string) {
	c.t.Helper()
	puts = map[string]string{}
	for _, m := range c.kept.List() {
		err := c.kept.Read(m.ID, 0, func(_ uint64, it *archive.Item) (bool, error) {
			if it.Kind != archive.Entry {
				return true, nil
			}
			at = append(at, it.At)
			for _, b := range it.Entry.Blocks {
				for _, ch := range b.Changes {
					if b.Keyspace == ks && ch.Op == storage.Put {
						puts[string(ch.Key)] = string(ch.Value)
					}
				}
			}
			return true, nil
		})
		if err != nil {
			c.t.Fatalf("reading archive %s: %v", m.ID, err)
		}
	}
	return at, puts
}

// equalLogs demands that both logs have the same frames from where both hold them.
func equalLogs(t *testing.T, a, b *engine.Engine) {
	t.Helper()
	if a.Position() != b.Position() || a.Chain() != b.Chain() {
		t.Errorf("the logs end at %+v and %+v", a.Position(), b.Position())
	}
	ra := a.LogReader(max(a.FirstIndex(), b.FirstIndex()))
	for {
		f, err := ra.TryNext()
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			return
		}
		if c, err := b.ChainAt(f.Last()); err != nil || c != f.Chain {
			t.Fatalf("the logs differ at index %d (%v)", f.Last(), err)
		}
	}
}

// TestTheArchiveIsTheLostTailAndFailbackCostsNoMore lets a primary whose secondary was promoted without it come back with tails of different lengths.
func TestTheArchiveIsTheLostTailAndFailbackCostsNoMore(t *testing.T) {
	t.Parallel()
	const size = 100
	a := newCapablePrimary(t, DR)
	a.load(shared, storage.Replicated, "base", scaled(10_000), size)
	a.checkpoint()
	b := a.successor(DR, "b")
	var before uint64
	for round, k := range []int{1, 20, 400} {
		b.forget(DR)
		from := a.e.Position()
		prefix := fmt.Sprintf("lost %d ", round)
		a.write(shared, storage.Replicated, prefix, k)
		tail := a.e.Position()
		b.promote(DR, true)
		b.write(shared, storage.Replicated, fmt.Sprintf("of the new primary %d ", round), 30)
		b.checkpoint()
		a.demote(DR)
		archives := len(a.kept.List())
		a.repoint(DR, b, fmt.Sprintf("a%d", round))

		bytes, r := a.cost(DR)
		if r.Rewind != 1 || r.Repair+r.Bootstrap != 0 {
			t.Errorf("%d lost writes: resumes %+v, want one rewind and nothing compared", k, r)
		}
		if limit := uint64(2000 + 200*k); bytes > limit || k > 10 && bytes < before {
			t.Errorf("%d lost writes: coming back cost %d bytes after %d, want it to grow with them and stay below %d", k, bytes, before, limit)
		}
		before = bytes
		list := a.kept.List()
		if len(list) != archives+1 {
			t.Fatalf("%d lost writes: archives %+v", k, list)
		}
		m := list[len(list)-1]
		if m.Common != from || m.End != tail || m.Counts.Entries != uint64(k) || m.Counts.Lost != uint64(k) || !m.Complete || m.Feeder != b.e.Identity().ClusterID {
			t.Errorf("%d lost writes from %+v to %+v: the archive is %+v", k, from, tail, m)
		}
		_, puts := a.archived(shared)
		for i := range k {
			key := fmt.Sprintf("%s%06d", prefix, i)
			if want := fmt.Sprintf("value %d of %s", i, prefix); puts[key] != want {
				t.Fatalf("%d lost writes: the archive has %q for %s, want %q", k, puts[key], key, want)
			}
		}
		equalLogs(t, a.e, b.e)
		b.write(shared, storage.Replicated, fmt.Sprintf("later %d ", round), 20)
		b.caughtUp(DR, a)
		a, b = b, a // the next round goes the other way
	}
}

// partedPrimary is a former primary, demoted and not yet following its successor b, with a tail that tail wrote. mods and seam are for its store.
func partedPrimary(t *testing.T, mods func(*engine.Config), base, tail func(a *cluster)) (a, b *cluster) {
	t.Helper()
	if mods == nil {
		mods = func(*engine.Config) {}
	}
	a = newCluster(t, "the former primary", enginetest.New(t, engine.Writer, mods), freeAddr(t)).capable()
	a.run()
	if _, err := a.n.EnablePrimary(enginetest.Context(t), DR, a.bind); err != nil {
		t.Fatal(err)
	}
	base(a)
	a.checkpoint()
	b = a.successor(DR, "b")
	b.forget(DR)
	tail(a)
	b.promote(DR, true)
	b.write(shared, storage.Replicated, "of the new primary ", 20)
	b.checkpoint()
	a.demote(DR)
	return a, b
}

// TestARewindSurvivesAKillAtEachCommit kills the returning primary at each commit of archive, checkpoint, cut and fetch, before and after the bytes are on disk.
func TestARewindSurvivesAKillAtEachCommit(t *testing.T) {
	t.Parallel()
	const k = 12
	base := func(a *cluster) {
		a.load(shared, storage.Replicated, "base", 300, 50)
		a.load(second, storage.Replicated, "dropped", 50, 50)
	}
	tail := func(a *cluster) {
		a.write(shared, storage.Replicated, "lost ", k-1)
		enginetest.MustDo(t, a.e, enginetest.Drop(second, storage.Replicated))
	}
	strands, step := 4, 4 // mostly they wait
	if raceEnabled {
		step = 12 // each third kill: of two strands before, of two after the bytes are on disk
	}
	for strand := range strands {
		t.Run(fmt.Sprintf("from commit %d on", 1+strand*step/strands), func(t *testing.T) {
			t.Parallel()
			n := 1 + strand*step/strands
			for !rewoundThoughKilled(t, n, k, base, tail) {
				n += step
			}
			t.Logf("through at kill %d", n)
		})
	}
}

// rewoundThoughKilled kills a returning primary at its nth commit, odd ones before and even ones after the bytes are on disk, and checks that it comes
// in line when it is started again. It reports whether it was through before.
func rewoundThoughKilled(t *testing.T, n, k int, base, tail func(a *cluster)) (through bool) {
	t.Helper()
	a, b := partedPrimary(t, nil, base, tail)
	f := &fuse{after: n%2 == 0}
	a.archives.Seam = f.seam
	a.killed(false, f, 0)
	act, err := b.n.SecondaryToken(enginetest.Context(t), DR, "a-old", 0)
	if err != nil {
		t.Fatal(err)
	}
	goOn := a.n.pauseLife(DR)
	if _, err := a.n.UpdatePrimary(enginetest.Context(t), DR, UpdatePrimary{Token: &act.Token}); err != nil {
		t.Fatal(err)
	}
	f.left.Store(int64((n + 1) / 2))
	goOn()
	a.until("it is killed, or through", func() bool {
		link := a.n.link[DR].get()
		return f.blown.Load() || link.Machine.Name == StateStreamWALs && link.Verified == b.e.Position().Index
	})
	through = !f.blown.Load()
	a.archives.Seam = nil
	a.killed(false, &fuse{}, 0)
	b.caughtUp(DR, a)
	equalLogs(t, a.e, b.e)
	at, puts := a.archived(shared)
	if len(at) != k || len(puts) != k-1 || len(a.kept.List()) != 1 {
		t.Fatalf("killed at commit %d: the archives hold %d entries, %d of the puts: %+v", n, len(at), len(puts), a.kept.List())
	}
	if _, r := a.cost(DR); r.Repair+r.Bootstrap != 0 {
		t.Errorf("killed at commit %d: ranges were compared: %+v", n, r)
	}
	if got := len(enginetest.Content(t, a.e)[second]); got != 50 {
		t.Fatalf("killed at commit %d: the keyspace that was dropped has %d records, want 50", n, got)
	}
	a.stop()
	b.stop()
	return through
}

// TestADropInTheTailIsTakenBackForNothing fetches none of the records of a keyspace that only the old primary dropped.
func TestADropInTheTailIsTakenBackForNothing(t *testing.T) {
	t.Parallel()
	n := scaled(8000)
	a, b := partedPrimary(t, nil,
		func(a *cluster) { a.load(second, storage.Replicated, "many", n, 100) },
		func(a *cluster) {
			enginetest.MustPut(t, a.e, second, storage.Replicated, "many000001", "overwritten first")
			enginetest.MustDo(t, a.e, enginetest.Drop(second, storage.Replicated))
		})
	a.repoint(DR, b, "a-old")
	if bytes, r := a.cost(DR); bytes > 2000 || r.Rewind != 1 || r.Repair != 0 {
		t.Errorf("taking back the drop of %d records cost %d bytes, %+v", n, bytes, r)
	}
	if got := len(enginetest.Content(t, a.e)[second]); got != n {
		t.Errorf("got %d records, want %d", got, n)
	}
	a.restart()
	b.caughtUp(DR, a)
}

// TestThreeClustersReturnInEitherOrder lets A be succeeded by B and B by C, each with a tail of its own, and A and B return in either order.
func TestThreeClustersReturnInEitherOrder(t *testing.T) {
	t.Parallel()
	for _, aFirst := range []bool{true, false} {
		t.Run(fmt.Sprintf("A first %v", aFirst), func(t *testing.T) {
			t.Parallel()
			a := newCapablePrimary(t, DR)
			a.load(shared, storage.Replicated, "base", 500, 50)
			a.checkpoint()
			b, c := a.successor(DR, "b"), a.successor(DR, "c")
			c.forget(DR)
			a.write(shared, storage.Replicated, "A and B ", 10)
			a.caughtUp(DR, b)
			b.forget(DR)
			a.write(shared, storage.Replicated, "only A ", 7)
			b.promote(DR, true)
			c.repoint(DR, b, "c2")
			c.forget(DR)
			b.write(shared, storage.Replicated, "only B ", 9)
			c.promote(DR, true)
			c.write(shared, storage.Replicated, "of C ", 5)
			c.checkpoint()
			a.demote(DR)
			b.demote(DR)
			back := []*cluster{a, b}
			if !aFirst {
				back = []*cluster{b, a}
			}
			for i, s := range back {
				s.repoint(DR, c, fmt.Sprintf("back%d", i))
				if _, r := s.cost(DR); r.Rewind != 1 || r.Repair+r.Bootstrap != 0 {
					t.Errorf("returning as number %d: %+v, want one rewind", i, r)
				}
				equalLogs(t, s.e, c.e)
			}
			for s, want := range map[*cluster]int{a: 7, b: 9} {
				if _, puts := s.archived(shared); len(puts) != want {
					t.Errorf("an archive has %d writes, want %d", len(puts), want)
				}
			}
			if got := len(enginetest.Content(t, a.e)[shared]); got != 500+10+5 {
				t.Errorf("got %d records, want %d", got, 515)
			}
		})
	}
}

// TestNoRoomForTheArchiveStopsTheRewind keeps everything as it is until there is room.
func TestNoRoomForTheArchiveStopsTheRewind(t *testing.T) {
	t.Parallel()
	a, b := partedPrimary(t, nil,
		func(a *cluster) { a.load(shared, storage.Replicated, "base", 100, 50) },
		func(a *cluster) { a.write(shared, storage.Replicated, "lost ", 10) })
	a.archives.Bytes = 10
	a.restart(func(c *engine.Config) { c.Repairable = true })
	end, ctx := a.e.Position(), enginetest.Context(t)
	act, err := b.n.SecondaryToken(ctx, DR, "a-old", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.n.UpdatePrimary(ctx, DR, UpdatePrimary{Token: &act.Token}); err != nil {
		t.Fatal(err)
	}
	a.until("it stops and says why", func() bool {
		m := a.n.link[DR].get().Machine
		return m.Name == StateIdle && strings.Contains(m.Reason, "no room for an archive") && strings.Contains(m.Reason, "discard")
	})
	if a.e.Position() != end || len(a.kept.List()) != 0 || len(enginetest.Content(t, a.e)[shared]) != 110 {
		t.Errorf("without room for it at %+v something was taken back: the log ends at %+v", end, a.e.Position())
	}
	a.archives.Bytes = 0
	a.restart(func(c *engine.Config) { c.Repairable = true })
	b.caughtUp(DR, a)
	if _, puts := a.archived(shared); len(puts) != 10 {
		t.Errorf("with room: %d writes are archived, want 10", len(puts))
	}
}

// TestALogThatDoesNotReachBackIsRepairedAndWhatIsOverwrittenKept loses the log from before the common point on.
func TestALogThatDoesNotReachBackIsRepairedAndWhatIsOverwrittenKept(t *testing.T) {
	t.Parallel()
	few := func(c *engine.Config) { c.SegmentEntries = 16 }
	a, b := partedPrimary(t, few,
		func(a *cluster) { a.load(shared, storage.Replicated, "base", 100, 50) },
		func(a *cluster) {
			a.write(shared, storage.Replicated, "lost ", 60)
			enginetest.MustPut(t, a.e, shared, storage.Replicated, "base000007", "overwritten there")
		})
	a.until("its log has gone on", func() bool { // as if past the limits of what is held
		a.e.Hold(holdOwnTail, 0)
		a.checkpoint()
		return a.e.FirstIndex() > a.e.Position().Index-30
	})
	a.repoint(DR, b, "a-old")
	if _, r := a.cost(DR); r.Rewind != 1 || r.Repair == 0 {
		t.Errorf("resumes %+v, want a rewind that is repaired by comparing", r)
	}
	kept := map[string]string{}
	for _, m := range a.kept.List() {
		err := a.kept.Read(m.ID, 0, func(_ uint64, it *archive.Item) (bool, error) {
			if it.Kind == archive.Record {
				kept[string(it.Key)] = string(it.Value)
				return true, nil
			}
			for _, b := range it.Entry.Blocks {
				for _, c := range b.Changes {
					kept[string(c.Key)] = string(c.Value)
				}
			}
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if kept["base000007"] != "overwritten there" {
		t.Errorf("what was overwritten: got %q", kept["base000007"])
	}
	for i := range 60 {
		key := fmt.Sprintf("lost %06d", i)
		if want := fmt.Sprintf("value %d of lost ", i); kept[key] != want {
			t.Fatalf("%s: archived is %q, want %q", key, kept[key], want)
		}
	}
	i := slices.IndexFunc(a.kept.List(), func(m archive.Meta) bool { return m.Source == archive.FromRepair })
	if i < 0 {
		t.Fatalf("no archive of a repair: %+v", a.kept.List())
	}
	err := a.n.ReplayArchive(enginetest.Context(t), a.kept.List()[i].ID, func(*Outcome) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "of a repair") || !strings.Contains(err.Error(), "/export") {
		t.Errorf("replaying the archive of a repair: %v, want it refused with what to do", err)
	}
}

// TestASiblingThatWasAheadOfTheSuccessorIsTakenBack promotes the secondary that had less.
func TestASiblingThatWasAheadOfTheSuccessorIsTakenBack(t *testing.T) {
	t.Parallel()
	a := newCapablePrimary(t, DR)
	a.load(shared, storage.Replicated, "base", 300, 50)
	a.checkpoint()
	b, c := a.successor(DR, "b"), a.successor(DR, "c")
	b.forget(DR)
	a.write(shared, storage.Replicated, "A and C ", 8)
	a.caughtUp(DR, c)
	a.stop()
	b.promote(DR, true)
	b.write(shared, storage.Replicated, "of B ", 5)
	b.checkpoint()
	c.repoint(DR, b, "c2")
	if _, r := c.cost(DR); r.Rewind != 1 || r.Repair != 0 {
		t.Errorf("resumes %+v, want one rewind", r)
	}
	if _, puts := c.archived(shared); len(puts) != 8 {
		t.Errorf("%d writes are archived, want 8", len(puts))
	}
	equalLogs(t, c.e, b.e)
}
