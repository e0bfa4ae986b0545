package main

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/node"
	"github.com/lockstepdb/lockstep/bench/report"
)

var writeRows = []string{"write/plain/1", "write/plain/64", "write/plain/256"}

// writes measures a server that nobody follows: PUT of KV version 1.
func (b *bench) writes(ctx context.Context) error {
	p, err := b.startPrimary(ctx, "write", node.Options{})
	if err != nil {
		return err
	}
	defer p.remove()
	for i, clients := range counts {
		r := row{id: writeRows[i], what: fmt.Sprintf("KV v1 PUT, no secondary, %d clients", clients), unit: "writes/s"}
		if err := b.measure(ctx, r, p.load(b, clients, p.putV1(b))); err != nil {
			return err
		}
	}
	return nil
}

// primary is a server under load, with a token for its clients.
type primary struct {
	*node.Node
	token  string
	dir    string // of the scenario
	size   int    // of the values that fill writes
	remove func()
}

// startPrimary starts an empty server with the mounts that the load needs.
func (b *bench) startPrimary(ctx context.Context, scenario string, o node.Options) (*primary, error) {
	dir, remove, err := b.scratch(scenario)
	if err != nil {
		return nil, err
	}
	o.Binary, o.Dir = b.binary, dir
	if o.Name == "" {
		o.Name = "primary"
	}
	n, err := node.New(o)
	if err != nil {
		remove()
		return nil, err
	}
	p := &primary{Node: n, dir: dir, size: b.size, remove: func() { n.Kill(); remove() }}
	if err := p.begin(ctx); err != nil {
		p.remove()
		return nil, err
	}
	b.watch(n)
	return p, nil
}

func (p *primary) begin(ctx context.Context) error {
	if err := p.Start(ctx); err != nil {
		return err
	}
	if err := p.Init(ctx); err != nil {
		return err
	}
	var err error
	p.token, err = p.Mounts(ctx)
	return err
}

// newSource makes the requests of one client.
type newSource func(client int, rng *rand.Rand) load.Source

// putV1 writes records of KV version 1.
func (p *primary) putV1(b *bench) newSource {
	return func(_ int, rng *rand.Rand) load.Source {
		return load.Put{Path: "/v1/kv/", Host: p.API, Token: p.token, Keys: b.keys, Size: valueSize}.Source(rng)
	}
}

// load is a run of so many clients.
func (p *primary) load(b *bench, clients int, source newSource) func(context.Context) (report.Run, error) {
	return func(ctx context.Context) (report.Run, error) {
		return b.drive(ctx, load.Config{Target: p.Target(), Clients: clients, New: source})
	}
}
