package main

import (
	"context"
	"time"

	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/node"
	"github.com/lockstepdb/lockstep/bench/report"
)

// bursts measures whether commits are as quick after a burst as they were before it.
func (b *bench) bursts(ctx context.Context) error {
	p, err := b.startPrimary(ctx, "burst", node.Options{})
	if err != nil {
		return err
	}
	defer p.remove()
	r := row{id: "burst", what: "p99 of 8 clients with 400 writes/s, after a burst of 256 clients three times as long, over that before it", unit: "ratio"}
	return b.measure(ctx, r, func(ctx context.Context) (report.Run, error) {
		calm := load.Config{Target: p.Target(), Clients: 8, Rate: 400, New: p.putV1(b)}
		before, err := b.drive(ctx, calm)
		if err != nil {
			return before, err
		}
		burst, err := b.drive(ctx, load.Config{Target: p.Target(), Clients: 256, Length: 3 * b.length, New: p.putV1(b)})
		if err != nil {
			return burst, err
		}
		err = node.Until(ctx, "the burst is in the state file", 50*time.Millisecond, func() (bool, error) {
			waiting, err := p.Metric(ctx, "lockstep.checkpoint.waiting_bytes")
			return waiting < 1<<20, err
		})
		if err != nil {
			return report.Run{}, err
		}
		after, err := b.drive(ctx, calm)
		if err != nil {
			return after, err
		}
		after.Value = after.P99 / before.P99
		after.Extra = map[string]float64{"p99 before, ms": before.P99, "p99 in the burst, ms": burst.P99, "writes/s in the burst": burst.Value}
		return after, nil
	})
}
