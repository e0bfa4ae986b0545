package chaos

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"
)

var (
	rounds = flag.Int("rounds", 1, "rounds of TestChaos")
	seed   = flag.Uint64("seed", 0, "seed of TestChaos's first round; 0 takes one from the clock and prints it")
	more   = flag.Bool("more", false, "let each round have the steps that the plans of old do not have, too")
	keep   = flag.Bool("keep", false, "keep the logs and data directories of rounds that pass, too")
)

// TestChaos carries out plans of faults and role changes under load, round after round, and judges what clients saw. Each round has the seed after that
// of the one before.
func TestChaos(t *testing.T) {
	if *seed == 0 {
		*seed = uint64(time.Now().Unix())
	}
	t.Logf("%d rounds, -seed=%d (make test-chaos ROUNDS=%d SEED=%d%s)", *rounds, *seed, *rounds, *seed, map[bool]string{true: " MORE=1"}[*more])
	total, began := newTally(), time.Now()
	passed := 0
	for i := range *rounds {
		p := newPlan(*seed + uint64(i))
		if *more {
			p.addMore()
		}
		ok := t.Run(fmt.Sprintf("seed=%d", p.seed), func(t *testing.T) {
			dir, err := os.MkdirTemp("", "lockstep-chaos-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { tidy(t, dir, *keep) })
			started := time.Now()
			sum := newTally()
			defer func() {
				t.Logf("round of seed %d, %s, %d steps, %s: %s", p.seed, p.topology, len(p.steps), time.Since(started).Round(100*time.Millisecond), sum)
				total.add(sum)
			}()
			round(t, p, dir, sum)
		})
		if ok {
			passed++
		}
	}
	t.Logf("%d of %d rounds passed in %s: %s", passed, *rounds, time.Since(began).Round(time.Second), total)
	for _, what := range sorted(total.notes) {
		t.Logf("  %d times: %s", total.notes[what], what)
	}
	for _, why := range total.failures {
		t.Logf("%.1000s", why)
	}
}
