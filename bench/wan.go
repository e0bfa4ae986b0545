package main

import (
	"context"
	"time"

	"github.com/lockstepdb/lockstep/bench/link"
	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/node"
	"github.com/lockstepdb/lockstep/bench/report"
)

// links are the ways between primary and secondary that are tried.
var links = []struct {
	id, what string
	quality  link.Quality
}{
	{"wan/rtt50", "round trip 50 ms", link.Quality{RoundTrip: 50 * time.Millisecond}},
	{"wan/rtt300", "round trip 300 ms", link.Quality{RoundTrip: 300 * time.Millisecond}},
	{"wan/rtt100-loss1", "round trip 100 ms, 1 % of packets lost", link.Quality{RoundTrip: 100 * time.Millisecond, Loss: 0.01}},
	{"wan/1mbit", "1 Mbit/s, round trip 50 ms", link.Quality{RoundTrip: 50 * time.Millisecond, Rate: 125e3}},
}

func wanRows() (ids []string) {
	for _, l := range links {
		ids = append(ids, l.id)
	}
	return ids
}

// wan measures what reaches a secondary over a long or narrow way, while 64 clients write as fast as they are answered,
// and what that costs the primary in memory.
func (b *bench) wan(ctx context.Context) error {
	for _, l := range links {
		r := row{id: l.id, what: "entries that reach the secondary under all that 64 clients write; " + l.what, unit: "entries/s"}
		if err := b.measure(ctx, r, func(ctx context.Context) (report.Run, error) { return b.overLink(ctx, l.quality) }); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) overLink(ctx context.Context, q link.Quality) (report.Run, error) {
	way, err := link.Listen()
	if err != nil {
		return report.Run{}, err
	}
	defer way.Close()
	pr, err := b.startLinked(ctx, "wan", way, node.Options{})
	if err != nil {
		return report.Run{}, err
	}
	defer func() { pr.remove() }()
	way.Set(q)
	before, start := b.memory(), time.Now()
	first, err := pr.secondary.Status(ctx)
	if err != nil {
		return report.Run{}, err
	}
	run, err := b.drive(ctx, load.Config{Target: pr.Target(), Clients: 64, New: pr.putV1(b)})
	if err != nil {
		return run, err
	}
	last, err := pr.secondary.Status(ctx)
	if err != nil {
		return run, err
	}
	run.Extra = map[string]float64{
		"writes/s": run.Value, "primary's memory grew by, MB": run.Servers[0].Anonymous - before[0].Anonymous,
	}
	run.Value = float64(last.LastRemoteWAL-first.LastRemoteWAL) / time.Since(start).Seconds()
	return run, nil
}
