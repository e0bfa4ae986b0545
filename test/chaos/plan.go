package chaos

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// topology is which clusters there are: sites of a serving cluster and its DR secondaries; the first site is the performance primary.
type topology struct {
	sites [][]string
}

func (t topology) String() string {
	var all []string
	for _, s := range t.sites {
		all = append(all, strings.Join(s, ">"))
	}
	return strings.Join(all, " ")
}

var topologies = []topology{
	{[][]string{{"a", "b"}, {"s"}}},
	{[][]string{{"a", "b", "c"}}},
	{[][]string{{"a", "b"}, {"s"}, {"u"}}},
	{[][]string{{"a", "b"}, {"s", "t"}}},
	{[][]string{{"a"}, {"s"}, {"u"}}},
	{[][]string{{"a", "b", "c"}, {"s"}}},
	{[][]string{{"a", "b"}, {"s", "t"}, {"u"}}},
	{[][]string{{"a", "b", "c"}, {"s"}, {"u"}}},
}

// step is one thing that happens to the clusters. Whom it strikes is said by part, not by name, so that a plan means something however its steps end.
type step struct {
	what   string
	after  int           // operations of clients that are waited for before it
	pick   int           // which of those that it could strike
	how    int           // which way
	hold   time.Duration // how long a fault lasts
	across bool          // a fault lasts on over the next step
	crash  time.Duration // from a call that changes a role to a SIGKILL; 0: none
}

func (s step) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "after %d operations: %s (pick %d, way %d)", s.after, s.what, s.pick, s.how)
	if s.hold > 0 {
		fmt.Fprintf(&b, " for %s", s.hold)
	}
	if s.across {
		b.WriteString(", over the next step")
	}
	if s.crash > 0 {
		fmt.Fprintf(&b, ", killed %s after the call", s.crash)
	}
	return b.String()
}

// plan is a round, drawn from its seed alone.
type plan struct {
	seed     uint64
	topology topology
	behind   bool // retention is small: who is away is overtaken
	steps    []step

	synchronous bool // the primary waits for all secondaries
}

func (p *plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "plan of seed %d: %s", p.seed, p.topology)
	if p.behind {
		b.WriteString(", small retention")
	}
	if p.synchronous {
		b.WriteString(", synchronous")
	}
	for i, s := range p.steps {
		fmt.Fprintf(&b, "\n  %2d %s", i+1, s)
	}
	return b.String()
}

// Names of steps.
const (
	stepKill       = "kill -9"
	stepPause      = "pause"
	stepCut        = "partition"
	stepHalf       = "half-open"
	stepDelay      = "delay"
	stepClock      = "clock jump"
	stepFull       = "full disk"
	stepRestore    = "restored copy"
	stepSwitch     = "planned switchover"
	stepFail       = "forced promotion"
	stepPerfSwitch = "planned performance switchover"
	stepPerfFail   = "forced performance promotion"
	stepRepoint    = "update-primary"
	stepRevoke     = "revoke"
	stepAnew       = "disable and enable"
	stepWrong      = "calls that its part does not allow"
)

var faults = []string{stepKill, stepKill, stepPause, stepCut, stepHalf, stepDelay, stepClock, stepFull, stepRestore}

// changes are the role changes that a topology has.
func (t topology) changes() []string {
	all := []string{stepRepoint, stepRevoke, stepAnew, stepWrong}
	for _, s := range t.sites {
		if len(s) > 1 {
			all = append(all, stepSwitch, stepFail, stepSwitch, stepFail)
		}
	}
	if len(t.sites) > 1 {
		all = append(all, stepPerfSwitch, stepPerfFail)
	}
	return all
}

const (
	minFaults, minChanges = 3, 3
	drawnSteps            = 3 // beside these
	maxCrash              = 60 * time.Millisecond
)

func newPlan(seed uint64) *plan {
	r := rand.New(rand.NewPCG(seed, 1))
	p := &plan{seed: seed, topology: topologies[r.IntN(len(topologies))], behind: r.IntN(4) == 0}
	changes := p.topology.changes()
	for i := range minFaults + minChanges + drawnSteps {
		s := step{after: 15 + r.IntN(35), pick: r.IntN(60), how: r.IntN(60)}
		if i < minFaults || i >= minFaults+minChanges && r.IntN(2) == 0 {
			s.what, s.hold, s.across = faults[r.IntN(len(faults))], time.Duration(100+r.IntN(900))*time.Millisecond, r.IntN(3) == 0
		} else {
			s.what = changes[r.IntN(len(changes))]
			if r.IntN(3) == 0 {
				s.crash = 1 + time.Duration(r.Int64N(int64(maxCrash)))
			}
		}
		p.steps = append(p.steps, s)
	}
	r.Shuffle(len(p.steps), func(i, j int) { p.steps[i], p.steps[j] = p.steps[j], p.steps[i] })
	return p
}

// isFault tells faults from role changes.
func isFault(what string) bool {
	for _, f := range faults {
		if f == what {
			return true
		}
	}
	return false
}
