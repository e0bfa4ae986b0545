package replication

import (
	"fmt"
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

// sameLog demands that both logs have the same frames from where both hold them.
func sameLog(t *testing.T, a, b *engine.Engine) {
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
		sameLog(t, a.e, b.e)
		b.write(shared, storage.Replicated, fmt.Sprintf("later %d ", round), 20)
		b.caughtUp(DR, a)
		a, b = b, a // the next round goes the other way
	}
}
