package main

import (
	"context"
	"fmt"
	"time"

	"github.com/lockstepdb/lockstep/bench/node"
	"github.com/lockstepdb/lockstep/bench/report"
)

// restart measures a start after SIGKILL in the middle of writing as fast as the server takes it.
func (b *bench) restart(ctx context.Context, p *primary) error {
	behind := min(b.records, 150_000)
	return b.measure(ctx, row{id: "restart", what: fmt.Sprintf("from start until serving, after SIGKILL under load, %d records", b.records), unit: seconds},
		func(ctx context.Context) (report.Run, error) {
			if err := p.fill(ctx, 0, behind); err != nil {
				return report.Run{}, err
			}
			return b.killed(ctx, p)
		})
}

// killed kills a server and measures its next start, with how much log lay behind its last checkpoint.
func (b *bench) killed(ctx context.Context, p *primary) (report.Run, error) {
	last, err := p.Metric(ctx, "vault.replication.wal.last_wal")
	if err != nil {
		return report.Run{}, err
	}
	checkpointed, err := p.Metric(ctx, "vault.replication.merkle.commit_index")
	if err != nil {
		return report.Run{}, err
	}
	p.Kill()
	start := time.Now()
	if err := p.Start(ctx); err != nil {
		return report.Run{}, err
	}
	return report.Run{Value: time.Since(start).Seconds(), Servers: b.memory(), Extra: map[string]float64{"entries of log behind the checkpoint": last - checkpointed}}, nil
}

var recoveryCounts = []int{1_000, 10_000, 100_000}

func recoveryRows() (ids []string) {
	for _, n := range recoveryCounts {
		ids = append(ids, fmt.Sprintf("recovery/%d", n))
	}
	return ids
}

// recovery measures a start after SIGKILL against the length of the log behind the last checkpoint. The server is told
// to make no checkpoint by itself, which the product's defaults would not allow.
func (b *bench) recovery(ctx context.Context) error {
	for i, n := range recoveryCounts {
		r := row{id: recoveryRows()[i], what: fmt.Sprintf("from start until serving, %d entries of 1 KiB behind the checkpoint", n), unit: seconds}
		err := b.measure(ctx, r, func(ctx context.Context) (report.Run, error) {
			p, err := b.startPrimary(ctx, "recovery", node.Options{Replication: []string{`checkpoint_interval = "1h"`, `checkpoint_bytes = "1GiB"`}})
			if err != nil {
				return report.Run{}, err
			}
			defer p.remove()
			if err := p.fill(ctx, 0, n); err != nil {
				return report.Run{}, err
			}
			return b.killed(ctx, p)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// catchUp measures how fast a secondary that was away takes the log that it missed.
func (b *bench) catchUp(ctx context.Context) error {
	pr, err := b.startPair(ctx, "catch-up", node.Options{})
	if err != nil {
		return err
	}
	defer func() { pr.remove() }()
	n := min(b.records, 200_000)
	return b.measure(ctx, row{id: "catch-up", what: fmt.Sprintf("a secondary that was away takes %d entries from the log", n), unit: "entries/s"},
		func(ctx context.Context) (report.Run, error) {
			if err := pr.secondary.Stop(); err != nil {
				return report.Run{}, err
			}
			if err := pr.primary.fill(ctx, 0, n); err != nil {
				return report.Run{}, err
			}
			start := time.Now()
			if err := pr.secondary.Start(ctx); err != nil {
				return report.Run{}, err
			}
			started := time.Now()
			if err := pr.secondary.WaitCaughtUp(ctx, pr.Node); err != nil {
				return report.Run{}, err
			}
			return report.Run{Value: float64(n) / time.Since(started).Seconds(), Extra: map[string]float64{
				"start of the secondary, s": started.Sub(start).Seconds(), "all, s": time.Since(start).Seconds(),
			}}, nil
		})
}
