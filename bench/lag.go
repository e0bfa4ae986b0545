package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/report"
)

// lags measures how long after its answer a write is visible on the secondary: when nothing else happens, with 2,000
// writes a second, and with 64 clients that write as fast as they are answered.
//
// The primary's answer to a write names its state in X-Vault-Index. A read of that record on the secondary with this
// header is answered as soon as the secondary has the state; what it returns is compared with what was written. The time
// from the write's answer to the read's is the lag, the read's own time included, which is measured too.
func (b *bench) lags(ctx context.Context, pr *pair) error {
	if !b.wants("lag/idle", "lag/2000", "lag/full") {
		return nil
	}
	if err := pr.secondary.MintToken(ctx); err != nil {
		return err
	}
	if err := pr.secondary.WaitCaughtUp(ctx, pr.Node); err != nil {
		return err
	}
	for _, r := range []struct {
		row
		clients int
		rate    float64
	}{
		{row{id: "lag/idle", what: "from a write's answer until a read on the secondary shows it, nothing else happens", unit: "ms p50"}, 0, 0},
		{row{id: "lag/2000", what: "the same under 2,000 writes/s of 64 clients", unit: "ms p50"}, 64, 2000},
		{row{id: "lag/full", what: "the same under all that 64 clients can write", unit: "ms p50"}, 64, 0},
	} {
		err := b.measure(ctx, r.row, func(ctx context.Context) (report.Run, error) {
			if r.clients == 0 {
				return pr.probe(ctx, b.length)
			}
			return b.probeUnderLoad(ctx, pr, load.Config{Target: pr.Target(), Clients: r.clients, Rate: r.rate, New: pr.putV1(b)})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// probeUnderLoad probes while a load runs.
func (b *bench) probeUnderLoad(ctx context.Context, pr *pair, cfg load.Config) (report.Run, error) {
	type probed struct {
		run report.Run
		err error
	}
	done := make(chan probed, 1)
	go func() {
		run, err := pr.probe(ctx, b.warmup+b.length)
		done <- probed{run, err}
	}()
	cost, err := b.drive(ctx, cfg)
	lag := <-done
	if err == nil {
		err = lag.err
	}
	if err != nil {
		return report.Run{}, err
	}
	lag.run.Servers, lag.run.Driver = cost.Servers, cost.Driver
	lag.run.Extra["writes/s"] = cost.Value
	return lag.run, nil
}

// probePause is the time between two probes.
const probePause = 5 * time.Millisecond

// probe writes a record and waits for it on the secondary, again and again.
func (pr *pair) probe(ctx context.Context, length time.Duration) (report.Run, error) {
	writer, err := load.Dial(pr.Target())
	if err != nil {
		return report.Run{}, err
	}
	defer writer.Close()
	reader, err := load.Dial(pr.secondary.Target())
	if err != nil {
		return report.Run{}, err
	}
	defer reader.Close()
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	next := load.Put{Path: "/v1/kv/probe-", Host: pr.API, Token: pr.token, Keys: 1, Size: 64}.Source(rng)
	var lag, own load.Histogram
	for start := time.Now(); time.Since(start) < length && ctx.Err() == nil; time.Sleep(probePause) {
		request := next()
		index, err := writer.Header(request, "x-vault-index")
		answered := time.Now()
		if err != nil {
			return report.Run{}, fmt.Errorf("write a probe: %w", err)
		}
		read := fmt.Appendf(nil, "GET /v1/kv/probe-%s HTTP/1.1\r\nHost: %s\r\nX-Vault-Token: %s\r\nX-Vault-Index: %s\r\n\r\n",
			load.Key(0), pr.secondary.API, pr.secondary.Token, index)
		for _, h := range []*load.Histogram{&lag, &own} {
			body, err := reader.Get(read)
			if err != nil {
				return report.Run{}, fmt.Errorf("read a probe on the secondary: %w", err)
			}
			h.Record(time.Since(answered))
			if !bytes.Contains(body, written(request)) {
				return report.Run{}, fmt.Errorf("the secondary answered a read of index %s with another value", index)
			}
			answered = time.Now()
		}
	}
	run := latencies(&lag)
	run.Value = run.P50
	run.Extra = map[string]float64{"read's own time, ms p50": ms(own.Quantile(0.5)), "probes": float64(lag.Count())}
	return run, ctx.Err()
}

// written is the body of a probe's request without its braces.
func written(request []byte) []byte {
	_, body, _ := bytes.Cut(request, []byte("\r\n\r\n"))
	return bytes.Trim(body, "{}")
}
