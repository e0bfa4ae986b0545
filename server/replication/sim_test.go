package replication

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

// sim is one run: the same steps give the same run.
type sim struct {
	clusters []*simCluster
	conns    []*simConn
	entries  map[wal.Position]*simEntry
	byFork   map[wal.Fork]*simCluster
	forks    map[string]int
	writes   []*simWrite
	archives []archived
	vague    map[string]bool // sites that were promoted in the middle of a sync: what they hold is no place of a history
	err      error
	trace    []string
	verbose  bool

	counts                            map[AnswerKind]int
	acked, rewinds, repairs           int
	copied, tails, blind, recoverings int
}

func newSim() *sim {
	s := &sim{entries: map[wal.Position]*simEntry{}, byFork: map[wal.Fork]*simCluster{}, forks: map[string]int{}, counts: map[AnswerKind]int{}, vague: map[string]bool{}}
	for i, name := range []string{"P", "D", "S", "T", "S2", "U"} {
		site := []string{"p", "p", "s", "s", "s2", "s2"}[i]
		c := &simCluster{sim: s, name: name, site: site, up: true, first: 1, shown: map[string][]engine.Reign{},
			st: &simState{recs: map[string]*simWrite{}}, role: map[Kind]*simRole{DR: {}, Performance: {}}}
		c.lineage = wal.Lineage{byte(i + 1)}
		c.chk = c.st.clone()
		s.clusters = append(s.clusters, c)
	}
	p := s.clusters[0]
	for i, c := range s.clusters {
		if i%2 == 0 {
			c.role[DR].mode = Primary
			c.role[Performance].mode = Secondary
			c.append(&simEntry{write: c.own("~change", func(*simWrite) {})}, nil)
			c.checkpoint()
		}
	}
	p.role[Performance].mode = Primary
	p.append(&simEntry{write: p.own(simSet, func(w *simWrite) { w.set = &setConfig{} })}, nil)
	p.checkpoint()
	for i, c := range s.clusters {
		if i%2 == 1 {
			c.enrol(DR, s.clusters[i-1])
		} else if i > 0 {
			c.repoint(Performance, p)
		}
	}
	return s
}

func (s *sim) cluster(name string) *simCluster {
	for _, c := range s.clusters {
		if c.name == name {
			return c
		}
	}
	panic("internal error: no cluster " + name)
}

func (s *sim) newFork(c *simCluster) (f wal.Fork) {
	s.forks[c.name]++
	copy(f[:], fmt.Sprintf("%s.%d.", c.name, s.forks[c.name]))
	s.byFork[f] = c
	return f
}

func (s *sim) newWrite(c *simCluster, key string) *simWrite {
	w := &simWrite{id: len(s.writes) + 1, key: key}
	s.writes = append(s.writes, w)
	return w
}

func (s *sim) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}

func (s *sim) note(format string, args ...any) {
	if s.verbose {
		s.trace = append(s.trace, fmt.Sprintf(format, args...))
	}
}

func (s *sim) cutFeeds(c *simCluster, k Kind) {
	for _, n := range s.conns {
		if n.fed == c && n.kind == k {
			n.lose()
		}
	}
}

// simOp is one step. Any step can be taken in any state: one that means nothing there does nothing, so that steps may be left out.
type simOp struct{ code, a, b int }

type simStep struct {
	name   string
	weight int
	do     func(s *sim, c *simCluster, o simOp)
}

var simOps = []simStep{
	{"write", 12, func(s *sim, c *simCluster, o simOp) { c.write(fmt.Sprintf("r%d", o.b%6), o.b%7 == 0); c.commit() }},
	{"write local", 4, func(s *sim, c *simCluster, o simOp) { c.write(fmt.Sprintf("l%d", o.b%3), o.b%7 == 0); c.commit() }},
	{"accept", 3, func(s *sim, c *simCluster, o simOp) { c.write(fmt.Sprintf("r%d", o.b%6), false) }},
	{"commit", 3, func(s *sim, c *simCluster, o simOp) { c.commit() }},
	{"dial", 8, func(s *sim, c *simCluster, o simOp) { c.dial(kinds[o.b%2]) }},
	{"timer", 6, func(s *sim, c *simCluster, o simOp) { c.timer(kinds[o.b%2]) }},
	{"deliver", 60, func(s *sim, c *simCluster, o simOp) { s.onConn(o, func(n *simConn) { n.deliver(o.a%2 == 0) }) }},
	{"feed", 30, func(s *sim, c *simCluster, o simOp) { s.onConn(o, func(n *simConn) { n.fed.feed(n, 1+o.a%4) }) }},
	{"pump", 12, func(s *sim, c *simCluster, o simOp) { s.pump(o.b % 12) }},
	{"round", 2, func(s *sim, c *simCluster, o simOp) { s.round() }},
	{"disconnect", 3, func(s *sim, c *simCluster, o simOp) { s.onConn(o, (*simConn).lose) }},
	{"crash", 2, func(s *sim, c *simCluster, o simOp) { c.crash(o.b % 3) }},
	{"restart", 6, func(s *sim, c *simCluster, o simOp) { c.restart() }},
	{"checkpoint", 6, func(s *sim, c *simCluster, o simOp) {
		if c.up {
			c.checkpoint()
		}
	}},
	{"retain", 2, func(s *sim, c *simCluster, o simOp) { c.retain(c.first + uint64(o.b%20)) }},
	{"member", 4, func(s *sim, c *simCluster, o simOp) { c.keepMember() }},
	{"promote", 3, func(s *sim, c *simCluster, o simOp) { c.promote(kinds[o.b%2], false) }},
	{"promote force", 3, func(s *sim, c *simCluster, o simOp) { c.forced(kinds[o.b%2]) }},
	{"demote", 2, func(s *sim, c *simCluster, o simOp) { c.demote(kinds[o.b%2]) }},
	{"planned", 2, func(s *sim, c *simCluster, o simOp) { s.planned(c, s.clusters[o.b%len(s.clusters)]) }},
	{"repoint", 7, func(s *sim, c *simCluster, o simOp) {
		for _, k := range kinds {
			c.repoint(k, s.clusters[o.b%len(s.clusters)])
		}
	}},
	{"recover", 3, func(s *sim, c *simCluster, o simOp) {
		if c.role[DR].fenced || c.role[Performance].fenced {
			c.recover()
		}
	}},
	{"backup", 2, func(s *sim, c *simCluster, o simOp) {
		if c.up {
			c.checkpoint()
			c.backup = c.clone()
		}
	}},
	{"restore", 4, func(s *sim, c *simCluster, o simOp) {
		if o.b%3 == 0 {
			c.restore()
		}
	}},
}

func (s *sim) onConn(o simOp, do func(*simConn)) {
	if len(s.conns) > 0 {
		do(s.conns[o.b%len(s.conns)])
	}
}

// pump lets a connection run for a while.
func (s *sim) pump(i int) {
	if len(s.conns) == 0 {
		return
	}
	for range 12 {
		n := s.conns[i%len(s.conns)]
		n.deliver(false)
		if n.fed.up {
			n.fed.feed(n, 3)
		}
		n.deliver(true)
	}
}

// forced is a promotion with force; what is promoted in a sync is no place of a history.
func (c *simCluster) forced(k Kind) {
	if c.up && c.role[k].mode == Secondary && c.role[k].joined && !c.whole() {
		for _, o := range c.sim.clusters { // whoever follows it from here on
			c.sim.vague[o.site] = true
		}
	}
	c.promote(k, true)
}

// planned is a switchover: the secondary has all, then the roles change.
func (s *sim) planned(from, to *simCluster) {
	k := Performance
	if from.site == to.site {
		k = DR
	}
	r := to.role[k]
	if !from.up || !to.up || from.role[k].mode != Primary || r.mode != Secondary || r.feeder != from || from == to {
		return
	}
	from.demote(k)
	to.promote(k, false)
	from.repoint(k, to)
}

func (s *sim) run(ops []simOp) {
	for i, o := range ops {
		c := s.clusters[o.a%len(s.clusters)]
		if s.verbose {
			s.note("%d. %s %s %d", i, simOps[o.code].name, c, o.b)
		}
		simOps[o.code].do(s, c, o)
		if i%4 == 0 || s.verbose {
			s.checkStates()
		}
		if i%16 == 0 {
			s.checkTokens(false)
		}
		if s.err != nil {
			return
		}
	}
	s.settle(len(ops))
}

func simPlan(seed uint64) []simOp {
	rng := rand.New(rand.NewPCG(seed, 7))
	var codes []int
	quiet := rng.IntN(3) // some plans leave restores and cuts of the log out
	for i, o := range simOps {
		if quiet == 0 && (o.name == "restore" || o.name == "retain") {
			continue
		}
		for range o.weight {
			codes = append(codes, i)
		}
	}
	var ops []simOp
	if rng.IntN(5) > 0 { // all is filled first
		for range 8 {
			ops = append(ops, simOp{simOpNamed("round"), 0, 0}, simOp{simOpNamed("write"), 0, rng.IntN(1 << 16)})
		}
	}
	for range 60 + rng.IntN(260) {
		ops = append(ops, simOp{codes[rng.IntN(len(codes))], rng.IntN(1 << 16), rng.IntN(1 << 16)})
	}
	return ops
}

func simOpNamed(name string) int {
	for i, o := range simOps {
		if o.name == name {
			return i
		}
	}
	panic("internal error: no step " + name)
}

var simFirst = flag.Uint64("sim", 0, "first seed of the simulation")

// simShrink leaves out what the failure does not need.
func simShrink(ops []simOp) []simOp {
	for size := len(ops) / 2; size > 0; size /= 2 {
		for i := 0; i+size <= len(ops); {
			less := append(append([]simOp(nil), ops[:i]...), ops[i+size:]...)
			s := newSim()
			if s.run(less); s.err != nil {
				ops = less
				continue
			}
			i += size
		}
	}
	return ops
}

func TestSimulation(t *testing.T) {
	t.Parallel()
	counts := map[AnswerKind]int{}
	var acked, rewinds, repairs, copied, tails, recovered, blind int
	for i := range uint64(scaled(2500)) {
		seed := i + *simFirst
		ops := simPlan(seed)
		s := newSim()
		if s.run(ops); s.err != nil {
			ops = simShrink(ops)
			s = newSim()
			s.verbose = true
			s.run(ops)
			t.Fatalf("seed %d: %v\n%s", seed, s.err, strings.Join(s.trace, "\n"))
		}
		for k, n := range s.counts {
			counts[k] += n
		}
		acked, rewinds, repairs = acked+s.acked, rewinds+s.rewinds, repairs+s.repairs
		copied, tails, recovered, blind = copied+s.copied, tails+s.tails, recovered+s.recoverings, blind+s.blind
	}
	t.Logf("%d writes acknowledged, %d rewinds of %d keys, %d repairs, %d keys copied, %d recovered, %d places not found; answers %v", acked, rewinds, tails, repairs, copied, recovered, blind, counts)
	for k := Continue; k <= Restored; k++ {
		if counts[k] < scaled(8) {
			t.Errorf("the answer %v was given only %d times", k, counts[k])
		}
	}
}
