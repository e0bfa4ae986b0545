package main

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/node"
	"github.com/lockstepdb/lockstep/bench/report"
)

// Sizes at which growth is measured, up to -records.
var growthCounts = []int{10_000, 100_000, 1_000_000, 10_000_000}

func growthRows() (ids []string) {
	for _, n := range growthCounts {
		ids = append(ids, fmt.Sprintf("growth/%d", n))
	}
	return append(ids, "growth")
}

// bytesOfRecord is what a record of 100 bytes takes on the disk at most while it is written: state, index, log, and the
// state's free pages.
const bytesOfRecord = 1000

// growth measures how the cost of a write grows with the number of records.
func (b *bench) growth(ctx context.Context) error {
	need := int64(b.records) * bytesOfRecord
	fmt.Fprintf(b.words, "growth to %d records of %d bytes needs %d MB of disk below %s\n", b.records, smallValue, need/1e6, b.dir)
	if err := b.needs(need); err != nil {
		return err
	}
	p, err := b.startPrimary(ctx, "growth", node.Options{})
	if err != nil {
		return err
	}
	defer p.remove()
	p.size = smallValue
	have := 0
	for i, n := range growthCounts {
		if n > b.records {
			break
		}
		if err := p.fill(ctx, have, n); err != nil {
			return err
		}
		have = n
		r := row{id: growthRows()[i], what: fmt.Sprintf("PUT of 100 bytes at random among %d records, no secondary, 64 clients", n), unit: "writes/s"}
		if err := b.measure(ctx, r, p.load(b, 64, p.putSmall(n))); err != nil {
			return err
		}
	}
	return b.growthRatio()
}

// growthRatio relates the largest number of records to the smallest.
func (b *bench) growthRatio() error {
	first, last := b.report.Row("growth/10000"), b.report.Row(fmt.Sprintf("growth/%d", b.records))
	if first == nil || last == nil || first == last {
		return nil
	}
	ratio := &report.Row{ID: "growth", What: fmt.Sprintf("rate with %d records over that with 10,000", b.records), Unit: "ratio"}
	for _, run := range last.Runs {
		ratio.Runs = append(ratio.Runs, report.Run{Value: run.Value / first.Median(""), Steal: run.Steal, Foreign: run.Foreign})
	}
	b.report.Rows = append(b.report.Rows, ratio)
	return nil
}

func (p *primary) putSmall(keys int) newSource {
	return func(_ int, rng *rand.Rand) load.Source {
		return load.Put{Path: "/v1/kv/", Host: p.API, Token: p.token, Keys: keys, Size: smallValue}.Source(rng)
	}
}
