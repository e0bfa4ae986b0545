package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/machine"
	"github.com/lockstepdb/lockstep/bench/node"
	"github.com/lockstepdb/lockstep/bench/report"
)

// fanouts are how many secondaries follow one primary.
var fanouts = []int{1, 10, 100}

func fanoutRows() (ids []string) {
	for _, n := range fanouts {
		ids = append(ids, fmt.Sprintf("fanout/%d", n), fmt.Sprintf("idle/%d", n))
	}
	return ids
}

// memoryEach names by how much the primary's memory grew for each secondary that was added.
const memoryEach = "primary's memory grew for each that was added by, KB"

// fanoutRate is what is written meanwhile, a second.
const fanoutRate = 2000

// fanout measures what secondaries cost their primary, idle and while it is written to, and how far they are behind.
// All are servers of their own, on the same machine: a hundred of them want more of it than there is, and how far they
// are behind then says more about the machine than about the primary.
func (b *bench) fanout(ctx context.Context) error {
	p, err := b.startPrimary(ctx, "fanout", node.Options{})
	if err != nil {
		return err
	}
	defer p.remove()
	if err := p.EnablePrimary(ctx); err != nil {
		return err
	}
	var all []*node.Node
	defer func() {
		for _, s := range all {
			s.Kill()
		}
	}()
	for _, n := range fanouts {
		if !b.wants(fmt.Sprintf("fanout/%d", n), fmt.Sprintf("idle/%d", n)) {
			continue
		}
		before, had := machine.ProcessMemory(p.Pid()).Anonymous, len(all)
		for len(all) < n {
			s, err := b.addSecondary(ctx, p, fmt.Sprintf("s%03d", len(all)), node.Options{})
			if err != nil {
				return err
			}
			all = append(all, s)
		}
		for _, s := range all {
			if err := s.WaitCaughtUp(ctx, p.Node); err != nil {
				return err
			}
		}
		if err := b.fannedOut(ctx, p, all, idleCost{before, n - had}); err != nil {
			return err
		}
	}
	return nil
}

// idleCost tells by how many secondaries the primary's memory has grown since it was so large.
type idleCost struct {
	before int64
	added  int
}

func (b *bench) fannedOut(ctx context.Context, p *primary, all []*node.Node, cost idleCost) error {
	n := len(all)
	b.watch(p.Node)
	r := row{id: fmt.Sprintf("idle/%d", n), what: fmt.Sprintf("primary's processor time for each of %d secondaries while nothing happens", n), unit: "% of a core"}
	err := b.measure(ctx, r, func(ctx context.Context) (report.Run, error) {
		before, start := machine.ProcessCPU(p.Pid()), time.Now()
		select {
		case <-ctx.Done():
			return report.Run{}, context.Cause(ctx)
		case <-time.After(b.length):
		}
		used := (machine.ProcessCPU(p.Pid()) - before) / time.Since(start).Seconds() * 100
		grown := machine.ProcessMemory(p.Pid()).Anonymous - cost.before
		return report.Run{Value: used / float64(n), Extra: map[string]float64{
			memoryEach: float64(grown) / 1e3 / float64(cost.added),
		}}, nil
	})
	if err != nil {
		return err
	}
	r = row{
		id: fmt.Sprintf("fanout/%d", n), unit: "s behind",
		what: fmt.Sprintf("how far the last of %d secondaries on this machine is behind after %d writes/s of 64 clients", n, fanoutRate),
	}
	return b.measure(ctx, r, func(ctx context.Context) (report.Run, error) {
		grown := -machine.ProcessMemory(p.Pid()).Anonymous
		run, err := b.drive(ctx, load.Config{Target: p.Target(), Clients: 64, Rate: fanoutRate, New: p.putV1(b)})
		if err != nil {
			return run, err
		}
		grown += machine.ProcessMemory(p.Pid()).Anonymous
		run.Extra = map[string]float64{"writes/s": run.Value, "primary's memory grew by, MB": float64(grown) / 1e6}
		run.Value, err = lastBehind(ctx, p, all)
		return run, err
	})
}

// lastBehind returns how long it takes until every secondary has what the primary has, in seconds.
func lastBehind(ctx context.Context, p *primary, all []*node.Node) (float64, error) {
	start := time.Now()
	want, err := p.Status(ctx)
	if err != nil {
		return 0, err
	}
	errs := make([]error, len(all))
	var waiting sync.WaitGroup
	for i, s := range all {
		waiting.Go(func() {
			errs[i] = node.Until(ctx, s.Name+" shows the primary's last index", 20*time.Millisecond, func() (bool, error) {
				status, err := s.Status(ctx)
				return err == nil && status.LastRemoteWAL >= want.Last(), err
			})
		})
	}
	waiting.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return time.Since(start).Seconds(), nil
}
