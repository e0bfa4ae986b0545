package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/bench/node"
	"github.com/lockstepdb/lockstep/bench/report"
)

// external is a peer whose driver needs its own client: a program that its install script built from a module of its
// own, so that nobody else has to fetch what it needs.
type external struct{}

func (p *peer) program(ctx context.Context, args ...string) ([]byte, error) {
	var words strings.Builder
	cmd := exec.CommandContext(ctx, filepath.Join(p.cache, p.name, p.name), args...)
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", p.name, strings.Join(args, " "), err, words.String())
	}
	return out, nil
}

// ready lets the driver write for a moment: a server that listens may not serve yet.
func (external) ready(ctx context.Context, p *peer, s *service) error {
	if p.name == "nats" {
		return nil // it has no stream yet
	}
	return node.Until(ctx, p.name+" takes a write", 200*time.Millisecond, func() (bool, error) {
		_, err := p.program(ctx, "-address", s.address(), "-length", "100ms", "-warmup", "1ms")
		return err == nil, ctx.Err()
	})
}

func (external) setup(ctx context.Context, p *peer) error {
	if p.name != "nats" {
		return nil
	}
	// The leaf may take a moment to be joined.
	return node.Until(ctx, "nats has its streams", 200*time.Millisecond, func() (bool, error) {
		_, err := p.program(ctx, "streams", p.primary.address(), p.copy.address())
		return err == nil, ctx.Err()
	})
}

func (external) run(ctx context.Context, b *bench, p *peer, clients int) (report.Run, error) {
	out, err := p.program(ctx, "-address", p.primary.address(), "-clients", fmt.Sprint(clients), "-keys", fmt.Sprint(b.keys),
		"-length", b.length.String(), "-warmup", b.warmup.String())
	if err != nil {
		return report.Run{}, err
	}
	var run report.Run
	if err := json.Unmarshal(out, &run); err != nil {
		return run, fmt.Errorf("%s: %w: %.200s", p.name, err, out)
	}
	return run, nil
}

func (external) showsAll(ctx context.Context, p *peer) (time.Duration, error) {
	start := time.Now()
	_, err := p.program(ctx, "equal", p.primary.address(), p.copy.address())
	return time.Since(start), err
}

func (external) variants() map[string]func(context.Context, *peer) error { return nil }
