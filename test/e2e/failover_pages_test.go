package e2e

import (
	"fmt"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// TestTheRunbooksOfFailover does what the pages say, in an order in which one situation leads to the next.
func TestTheRunbooksOfFailover(t *testing.T) {
	t.Parallel()
	s := newTrioOfDR(t)
	p := newRunbookPage(t, s.env)
	abc := map[string]*cluster.Node{"A": s.a, "B": s.b, "C": s.c}
	state := func(n *cluster.Node, want, cause string) {
		t.Helper()
		cluster.Eventually(t, cluster.Deadline, n.Name+" is "+want+" "+cause, func() (bool, string) {
			st, err := n.Status(cluster.DR)
			if err != nil {
				return false, err.Error()
			}
			why, _ := st.Raw["fenced"].(map[string]any)
			return st.State == want && (cause == "" || why["cause"] == cause), fmt.Sprint(st.Mode, st.State, why)
		})
	}
	p.run("planned", s.a, abc)
	p.run("failback", s.a, abc)
	s.oracle.fill(t, s.a, "later", 100)
	cluster.WaitConverged(t, cluster.Deadline, s.a, s.b, cluster.DR)
	cluster.WaitConverged(t, cluster.Deadline, s.a, s.c, cluster.DR)
	lost := &oracle{acked: map[string]string{}}
	s.aloneWrites(t, lost, 5)
	p.run("unplanned", s.b, abc)
	s.oracle.allOn(t, s.b, s.b.Token)
	s.a.Start()
	state(s.a, "fenced", "superseded")
	p.run("lost-primary", s.a, abc)
	lost.allOn(t, s.b, s.b.Token) // replayed
	cluster.WaitConverged(t, cluster.Deadline, s.b, s.a, cluster.DR)
	cluster.WaitConverged(t, cluster.Deadline, s.b, s.c, cluster.DR)

	// b is lost, and both others are promoted.
	s.b.Kill()
	for _, n := range []*cluster.Node{s.a, s.c} {
		if _, _, err := failover(t, s.env, "", "-from="+s.b.API, "-to="+n.API, "-force", "-yes"); err != nil {
			t.Fatal(err)
		}
	}
	s.b.Start()
	state(s.a, "fenced", "conflict")
	state(s.c, "fenced", "conflict")
	p.run("split-brain", s.a, map[string]*cluster.Node{"A": s.c, "B": s.a})
	cluster.WaitConverged(t, cluster.Deadline, s.a, s.c, cluster.DR)
	s.oracle.allOn(t, s.a, s.a.Token)
	t.Logf("%d commands of the pages were run", p.ran)
}

// aloneWrites lets the primary acknowledge what no secondary receives, and ends it.
func (d *trioOfDR) aloneWrites(t *testing.T, o *oracle, records int) {
	t.Helper()
	d.b.Kill()
	d.c.Kill()
	o.fill(t, d.a, "alone", records)
	d.a.Kill()
	d.b.Start()
	d.c.Start()
}
