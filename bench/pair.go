package main

import (
	"context"
	"time"

	"github.com/lockstepdb/lockstep/bench/link"
	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/node"
	"github.com/lockstepdb/lockstep/bench/report"
)

// pair is a primary with a performance secondary that streams.
type pair struct {
	*primary
	secondary *node.Node
	remove    func()
}

// startPair starts both and waits until the secondary has what the primary has.
func (b *bench) startPair(ctx context.Context, scenario string, o node.Options) (*pair, error) {
	return b.startLinked(ctx, scenario, nil, o)
}

// startLinked is startPair with a link between both; nil for none.
func (b *bench) startLinked(ctx context.Context, scenario string, l *link.Link, o node.Options) (*pair, error) {
	if l != nil {
		o.ClusterAddr = l.Address
	}
	p, err := b.startPrimary(ctx, scenario, o)
	if err != nil {
		return nil, err
	}
	if l != nil {
		l.Serve(p.Cluster)
	}
	pr := &pair{primary: p, remove: p.remove}
	if err := p.EnablePrimary(ctx); err != nil {
		pr.remove()
		return nil, err
	}
	if pr.secondary, err = b.addSecondary(ctx, p, "secondary", node.Options{TLS: o.TLS, Set: o.Set}); err != nil {
		pr.remove()
		return nil, err
	}
	pr.remove = func() { pr.secondary.Kill(); p.remove() }
	if err := pr.secondary.WaitCaughtUp(ctx, p.Node); err != nil {
		pr.remove()
		return nil, err
	}
	b.watch(p.Node, pr.secondary)
	return pr, nil
}

// addSecondary starts an empty server beside a primary and enrols it; it is filled from then on.
func (b *bench) addSecondary(ctx context.Context, p *primary, name string, o node.Options) (*node.Node, error) {
	s, err := b.newServer(ctx, p, name, o)
	if err != nil {
		return nil, err
	}
	if err := s.Enrol(ctx, p.Node); err != nil {
		s.Remove()
		return nil, err
	}
	return s, nil
}

// fill writes n records of KV version 1, each once, and waits until the secondary has them.
func (pr *pair) fill(ctx context.Context, n int) error {
	if err := pr.primary.fill(ctx, 0, n); err != nil {
		return err
	}
	return pr.secondary.WaitCaughtUp(ctx, pr.Node)
}

// fill writes records from, …, to-1 of KV version 1.
func (p *primary) fill(ctx context.Context, from, to int) error {
	return load.Fill(ctx, p.Target(), load.Put{Path: "/v1/kv/", Host: p.API, Token: p.token, Size: p.size}, from, to)
}

// followed is a run of load at whose end it is measured how long the secondary takes to show the primary's last index.
func (pr *pair) followed(run func(context.Context) (report.Run, error)) func(context.Context) (report.Run, error) {
	return func(ctx context.Context) (report.Run, error) {
		out, err := run(ctx)
		if err != nil {
			return out, err
		}
		end := time.Now()
		want, err := pr.Status(ctx)
		if err != nil {
			return out, err
		}
		err = node.Until(ctx, "the secondary shows the primary's last index", time.Millisecond, func() (bool, error) {
			s, err := pr.secondary.Status(ctx)
			return err == nil && s.State == "stream-wals" && s.LastRemoteWAL >= want.Last(), err
		})
		out.Extra = map[string]float64{lagAtEnd: ms(time.Since(end))}
		return out, err
	}
}

// lagAtEnd names how far a secondary was behind at the end of a run: from the last answer until it showed the primary's last index.
const lagAtEnd = "lag at the end, ms"
