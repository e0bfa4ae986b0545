package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// tally is what a round, or all of them, did.
type tally struct {
	ops       [kinds][outcomes]int
	steps     map[string]int
	notes     map[string]int
	crashed   int // servers killed in the middle of a role change
	wrong     int // calls refused for the cluster's part
	lost      int // acknowledged writes that a forced promotion left behind
	confirmed int // acknowledged under a level, before a forced promotion that had to keep them
	archived  int // of them, those found in an archive
	reads     int // of secondaries that were held against the order of writes
	skipped   int // of those, reads while the secondary was being synced or moved
	lostTold  int // index tokens answered 409
	failures  []string
}

func (t *tally) note(what string) { t.notes[what]++ }

func newTally() *tally { return &tally{steps: map[string]int{}, notes: map[string]int{}} }

// add sums two.
func (t *tally) add(o *tally) {
	for k := range t.ops {
		for i := range t.ops[k] {
			t.ops[k][i] += o.ops[k][i]
		}
	}
	for k, n := range o.steps {
		t.steps[k] += n
	}
	for k, n := range o.notes {
		t.notes[k] += n
	}
	t.crashed, t.wrong, t.lost, t.archived = t.crashed+o.crashed, t.wrong+o.wrong, t.lost+o.lost, t.archived+o.archived
	t.reads, t.skipped, t.lostTold = t.reads+o.reads, t.skipped+o.skipped, t.lostTold+o.lostTold
	t.confirmed += o.confirmed
	t.failures = append(t.failures, o.failures...)
}

func (t *tally) count(x outcome) (n int) {
	for k := range t.ops {
		n += t.ops[k][x]
	}
	return n
}

func (t *tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d operations (%d done, %d refused, %d unknown)", t.count(done)+t.count(refused)+t.count(unknown), t.count(done), t.count(refused), t.count(unknown))
	for _, what := range []bool{true, false} {
		sep := "; faults: "
		if !what {
			sep = "; role changes: "
		}
		for _, k := range sorted(t.steps) {
			if isFault(k) == what {
				fmt.Fprintf(&b, "%s%d %s", sep, t.steps[k], k)
				sep = ", "
			}
		}
	}
	fmt.Fprintf(&b, "; %d killed in a role change, %d calls refused for the part, %d reads of secondaries judged (%d not), %d acknowledged writes left behind by force (%d found in archives), %d index tokens answered as lost",
		t.crashed, t.wrong, t.reads, t.skipped, t.lost, t.archived, t.lostTold)
	if t.confirmed > 0 {
		fmt.Fprintf(&b, ", %d writes that all secondaries had confirmed before a forced promotion", t.confirmed)
	}
	return b.String()
}

// note writes a line of what happens to the round's log.
func (w *world) note(format string, args ...any) {
	w.t.Helper()
	w.t.Logf("%6d ms  %s", w.history.now().Milliseconds(), fmt.Sprintf(format, args...))
}

// fail marks the round as failed, and keeps why for the end of the run, where it is read first.
func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	why := fmt.Sprintf("seed %d: %s", w.plan.seed, fmt.Sprintf(format, args...))
	w.t.Error(why)
	w.tally.failures = append(w.tally.failures, why)
}

// round runs one plan and judges it, and counts into sum what happened.
func round(t *testing.T, p *plan, dir string, sum *tally) {
	w := build(t, p, dir, sum)
	w.history.began = time.Now()
	w.demand(w.beginReign(w.primary.active, true))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w.observe(ctx)
	var load sync.WaitGroup
	for i := range clients {
		c := &client{id: i, w: w, r: rand.New(rand.NewPCG(p.seed, uint64(100+i))), versions: map[string]int{}}
		load.Go(func() { c.run(ctx) })
	}
	w.raise()
	err := w.carryOut()
	if err == nil {
		w.waitOps(20)
	}
	cancel()
	load.Wait()
	w.watch.Wait()
	if err == nil {
		err = w.converge()
	}
	if err != nil {
		w.fail("%v", err)
		t.Log(p)
	}
	w.judge()
}

// carryOut does the plan's steps, one after the other.
func (w *world) carryOut() error {
	for i, s := range w.plan.steps {
		w.waitOps(s.after)
		w.note("step %d: %s", i+1, s)
		w.tally.steps[s.what]++
		if err := w.step(s); err != nil {
			return fmt.Errorf("step %d (%s): %w", i+1, s.what, err)
		}
		w.raise()
	}
	return w.healAll()
}

// step does one, and ends the faults that were to last over it.
func (w *world) step(s step) error {
	if isFault(s.what) {
		h, err := w.strike(s)
		if err != nil || h == nil {
			return err
		}
		w.healing = append(w.healing, *h)
		if s.across {
			return nil
		}
		time.Sleep(s.hold)
		return w.healAll()
	}
	err := w.change(s)
	var st *stuck
	if !errors.As(err, &st) {
		return errors.Join(err, w.healAll())
	}
	w.note("does not get on: %v", err)
	w.tally.note("role changes that went on after a fault had ended")
	if err := w.healAll(); err != nil {
		return err
	}
	return w.settle()
}

// change does a role change.
func (w *world) change(s step) error {
	switch s.what {
	case stepSwitch, stepFail, stepCommand, stepCommandFail:
		var of []*site
		for _, st := range w.sites {
			if len(st.standbys) > 0 {
				of = append(of, st)
			}
		}
		st := of[s.pick%len(of)]
		to := st.standbys[s.pick/7%len(st.standbys)]
		switch s.what {
		case stepSwitch:
			return w.switchover(st, to, s.crash)
		case stepCommand:
			return w.commandSwitch(st, to)
		case stepCommandFail:
			return w.commandFail(st, to, s.how)
		}
		return w.failover(st, to, s.how, s.crash)
	case stepPerfSwitch, stepPerfFail:
		var of []*site
		for _, st := range w.sites {
			if st != w.primary {
				of = append(of, st)
			}
		}
		st := of[s.pick%len(of)]
		if s.what == stepPerfSwitch {
			return w.perfSwitch(st, s.crash)
		}
		return w.perfFail(st, s.how, s.crash)
	case stepRepoint:
		m, p, kind := w.follower(s.pick)
		return w.follow(m, p, kind)
	case stepRevoke:
		return w.revoke(s.pick)
	case stepAnew:
		return w.anew(s.pick)
	case stepSnapshot:
		return w.snapshot(s.pick, s.how)
	case stepFence:
		return w.fence(s.pick, s.how)
	case stepWrong:
		return w.wrong(w.members[s.pick%len(w.members)])
	}
	return fmt.Errorf("there is no step %q", s.what)
}

// waitOps waits until clients have ended so many more operations, a few seconds at most: with everyone away there may be none.
func (w *world) waitOps(n int) {
	want, end := w.history.count.Load()+int64(n), time.Now().Add(3*time.Second)
	for w.history.count.Load() < want && time.Now().Before(end) {
		time.Sleep(5 * time.Millisecond)
	}
}

func sorted(m map[string]int) []string { return slices.Sorted(maps.Keys(m)) }
