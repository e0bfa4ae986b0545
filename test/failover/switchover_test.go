package failover

import (
	"flag"
	"slices"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

var rounds = flag.Int("rounds", 2, "planned switchovers of each kind in TestSwitchover")

// TestSwitchover is number 19 of the list: the primary's part goes to and fro under load. Nothing that was acknowledged is lost, and nobody receives a key that it has.
func TestSwitchover(t *testing.T) {
	for _, kind := range []cluster.Kind{cluster.DR, cluster.Performance} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			switchovers(t, kind)
		})
	}
}

func switchovers(t *testing.T, kind cluster.Kind) {
	s := newSet(t, kind, cluster.Options{}, "a", "b", "c")
	from, to, third := s.all[0], s.all[1], s.all[2]
	during := startClients(t, "during", from, to)
	var pauses []time.Duration
	for range *rounds {
		during.more(100)
		during.pause()
		r := s.switchover(from, to, third)
		during.more(100)
		pauses = append(pauses, during.pause())
		for _, m := range r.Members {
			if m.Bytes > 0 || m.Verified < r.Index {
				t.Fatalf("switchover %d: %s received %d bytes beside the stream, its digest is equal at %d; want none, and at least %d", len(pauses), m.ID, m.Bytes, m.Verified, r.Index)
			}
		}
		from, to = to, from
	}
	during.end()
	s.converged(from, to)
	s.converged(from, third)
	during.shownBy(t, from)
	slices.Sort(pauses)
	at := func(q float64) time.Duration { return pauses[int(q*float64(len(pauses)-1))].Round(time.Millisecond) }
	t.Logf("%s: %d planned switchovers, %d writes acknowledged, none lost, no byte copied", kind, len(pauses), during.count())
	t.Logf("%s: writes paused for %v (median), %v (p99), %v (maximum)", kind, at(0.5), at(0.99), at(1))
	s.end()
}
