// Package crash kills real servers under load, round after round, and holds
// what they show against a list that only the test keeps.
package crash

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

var (
	rounds = flag.Int("rounds", 3, "rounds of TestCrash")
	seed   = flag.Uint64("seed", 0, "seed of TestCrash's first round; 0 takes one from the clock and prints it")
)

// Sizes so small that a round crosses several segments and checkpoints all the
// time. In some rounds retention is as small: it overtakes a secondary that
// stays away. In the others it holds the place of whoever is away, however slow the machine is.
const segmentEntries = 48

func retention(behind bool) string {
	if behind {
		return `retain_bytes = "256KiB"`
	}
	return `retain_bytes = "256MiB"`
}

var tiny = cluster.Options{Replication: []string{
	fmt.Sprintf("segment_entries = %d", segmentEntries),
	`checkpoint_bytes = "128KiB"`,
	`checkpoint_interval = "250ms"`,
}}

// TestCrash kills any of a primary and its two secondaries by SIGKILL, again
// and again. After each round no acknowledged write is missing anywhere, both
// secondaries show the primary's roots, and `lockstep check` finds all three
// in order, as the last SIGKILL left them.
func TestCrash(t *testing.T) {
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("%d rounds, -seed=%d (make test-crash ROUNDS=%d SEED=%d)", *rounds, *seed, *rounds, *seed)
	c := &crasher{Trio: cluster.NewTrio(t, tiny), t: t, ledger: newLedger()}
	c.load = &load{ledger: c.ledger, node: c.Primary}
	c.KillAll()
	began := time.Now()
	for i := range *rounds {
		c.round(i)
		if t.Failed() {
			t.Fatalf("round %d failed: repeat it with SEED=%d ROUNDS=1, or all up to it with SEED=%d", i, *seed+uint64(i), *seed)
		}
	}
	c.StartAll()
	c.WaitConverged()
	c.verify(c.ledger.keys())
	t.Logf("%d rounds in %s: %d writes acknowledged, %s", *rounds, time.Since(began).Round(time.Second), c.ledger.count(), c.sums)
}

// crasher is one run of rounds over one trio.
type crasher struct {
	*cluster.Trio
	t      *testing.T
	ledger *ledger
	load   *load
	sums   sums
}

// sums count what the rounds were.
type sums struct {
	killed            [3]int // primary, DR, performance
	overtaken, synced int    // secondaries that were away past retention; that needed a sync
	rotations         int
}

func (s sums) String() string {
	return fmt.Sprintf("killed primary %d, DR %d, performance %d times; %d secondaries overtaken by retention, %d synced; %d segments begun",
		s.killed[0], s.killed[1], s.killed[2], s.overtaken, s.synced, s.rotations)
}

// plan is one round, decided by its seed alone.
type plan struct {
	victims [3]bool
	before  int  // acknowledged writes before the first kill
	between int  // and between two kills
	away    int  // and while the victims stay away
	behind  bool // the secondaries among the victims stay away until retention has overtaken them
	after   int  // and after all are back
}

func draw(r *rand.Rand) plan {
	p := plan{before: 20 + r.IntN(300), between: r.IntN(60), away: r.IntN(80), after: 50 + r.IntN(200)}
	for p.victims == [3]bool{} {
		for i := range p.victims {
			p.victims[i] = r.IntN(2) == 0
		}
	}
	p.behind = r.IntN(3) == 0
	return p
}

func (c *crasher) round(i int) {
	r := rand.New(rand.NewPCG(*seed+uint64(i), 0))
	p := draw(r)
	began := time.Now()
	c.Primary.Configure(retention(p.behind))
	c.StartAll()
	first := c.Primary.MustStatus(cluster.DR).LastDRWAL

	c.load.start()
	c.wait(p.before)
	for _, n := range r.Perm(3) {
		if p.victims[n] {
			c.Nodes()[n].Kill()
			c.sums.killed[n]++
			c.wait(p.between)
		}
	}
	overtaken := c.stayAway(p)
	for _, n := range c.Nodes() {
		if !n.Running() {
			n.Start()
		}
	}
	c.wait(p.after)
	c.wait(4 * segmentEntries) // at least so many, whatever was drawn
	c.load.end()
	c.WaitConverged()
	c.judge(p, overtaken)
	c.verify(c.ledger.takeTouched())

	last := c.Primary.MustStatus(cluster.DR).LastDRWAL
	c.sums.rotations += int(last-first) / segmentEntries
	if last-first < 4*segmentEntries {
		c.t.Errorf("only %d entries in the round: it did not cross several segments", last-first)
	}
	c.KillAll()
	if err := c.CheckAll(); err != nil {
		c.t.Error(err)
	}
	c.t.Logf("round %d (seed %d): victims %v, behind %t, entries %d–%d, %s", i, *seed+uint64(i), p.victims, p.behind, first, last,
		time.Since(began).Round(time.Millisecond))
}

// wait waits for so many more acknowledged writes, as long as a primary runs that can give them.
func (c *crasher) wait(writes int) {
	c.t.Helper()
	if !c.Primary.Running() {
		return
	}
	want := c.ledger.count() + writes
	cluster.Eventually(c.t, cluster.Deadline, fmt.Sprintf("%d more writes are acknowledged", writes), func() (bool, string) {
		got := c.ledger.count()
		return got >= want, fmt.Sprintf("%d of %d", got, want)
	})
}

// stayAway keeps the victims down for as long as the plan says. It reports
// whether retention has overtaken the secondaries among them.
func (c *crasher) stayAway(p plan) bool {
	c.returnPrimary(p)
	secondaries := p.victims[1] || p.victims[2]
	if !secondaries {
		return false
	}
	if !p.behind {
		c.wait(p.away)
		return false
	}
	last := c.Primary.MustStatus(cluster.DR).LastDRWAL
	cluster.Eventually(c.t, cluster.Deadline, "retention overtakes the secondaries that are away", func() (bool, string) {
		first := c.Primary.FirstIndex()
		return first > last+1, fmt.Sprintf("log held from %d, they are at %d at most", first, last)
	})
	c.sums.overtaken++
	return true
}

// returnPrimary starts a killed primary again. Where retention is small nothing is written until the
// secondaries that live have found it: they are not to be overtaken while they wait to connect.
func (c *crasher) returnPrimary(p plan) {
	if !p.victims[0] {
		return
	}
	if !p.behind {
		c.Primary.Start()
		return
	}
	c.load.end()
	c.Primary.Start()
	for i, kind := range []cluster.Kind{cluster.DR, cluster.Performance} {
		if !p.victims[i+1] {
			cluster.WaitConverged(c.t, cluster.Deadline, c.Primary, c.Secondary(kind), kind)
		}
	}
	c.load.start()
}

// verify demands that primary and performance secondary show, for each key, a
// value that they may show, and the same one.
func (c *crasher) verify(keys []string) {
	c.t.Helper()
	ctx := context.Background()
	var mu sync.Mutex
	var problems []error
	problem := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		problems = append(problems, err)
	}
	work := make(chan string)
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for key := range work {
				value, found, err := c.Primary.Get(ctx, key)
				if err == nil {
					err = c.ledger.settle(key, value, found)
				}
				if err != nil {
					problem(fmt.Errorf("primary: %w", err))
					continue
				}
				other, there, err := c.Performance.Get(ctx, key)
				if err == nil && (other != value || there != found) {
					err = fmt.Errorf("%s: %q (found %t), the primary has %q (found %t)", key, brief(other), there, brief(value), found)
				}
				if err != nil {
					problem(fmt.Errorf("performance secondary: %w", err))
				}
			}
		})
	}
	for _, key := range keys {
		work <- key
	}
	close(work)
	readers.Wait()
	for i, err := range problems {
		if i == 5 {
			c.t.Errorf("and %d more", len(problems)-i)
			break
		}
		c.t.Error(err)
	}
}

// Names of status fields that only Lockstep has.
const (
	fieldSyncs      = "repair" // in resumes
	fieldBootstraps = "bootstrap"
)

// judge holds what the secondaries counted since their start against the
// plan: whoever the log still held streamed, whoever it did not synced by
// diff, and nobody was filled anew.
func (c *crasher) judge(p plan, overtaken bool) {
	for i, kind := range []cluster.Kind{cluster.DR, cluster.Performance} {
		s := c.Secondary(kind).MustStatus(kind)
		syncs, known := s.Number(fieldSyncs)
		bootstraps, _ := s.Number(fieldBootstraps)
		if !known {
			c.t.Errorf("%s: the status has no field %s: %v", kind, fieldSyncs, s.Raw)
			continue
		}
		c.sums.synced += int(syncs)
		away := p.victims[i+1] && overtaken
		if bootstraps != 0 {
			c.t.Errorf("%s: filled anew %v times; a diff would have done", kind, bootstraps)
		}
		if away && syncs == 0 {
			c.t.Errorf("%s: the log no longer held its place, and yet it counts no sync", kind)
		}
		if !away && syncs != 0 {
			c.t.Errorf("%s: the log held its place, and yet it synced %v times", kind, syncs)
		}
	}
}
