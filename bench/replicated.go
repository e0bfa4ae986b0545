package main

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/node"
)

// What clients do to a primary with one performance secondary.
var (
	replicatedRows  = []string{"replicated/plain/1", "replicated/plain/64", "replicated/plain/256"}
	otherRows       = []string{"kv2/plain/64", "read/plain/64", "mixed/plain/64", "applied/plain/64", "lag/idle", "lag/2000", "lag/full"}
	securedRows     = []string{"replicated/tls/64"}
	moreSecuredRows = []string{"replicated/tls/1", "replicated/tls/256", "read/tls/64"}
)

var counts = []int{1, 64, 256}

// replicated measures PUT over plain connections, then what else clients do.
func (b *bench) replicated(ctx context.Context) error {
	pr, err := b.startPair(ctx, "replicated", node.Options{})
	if err != nil {
		return err
	}
	defer func() { pr.remove() }()
	for i, clients := range counts {
		r := row{id: replicatedRows[i], what: fmt.Sprintf("KV v1 PUT, one secondary keeping up, %d clients", clients), unit: "writes/s"}
		if err := b.measure(ctx, r, pr.followed(pr.load(b, clients, pr.putV1(b)))); err != nil {
			return err
		}
	}
	if err := b.others(ctx, pr); err != nil {
		return err
	}
	return b.lags(ctx, pr)
}

// others measures what is not a PUT of KV version 1.
func (b *bench) others(ctx context.Context, pr *pair) error {
	if b.wants("read/plain/64", "mixed/plain/64") {
		if err := pr.fill(ctx, b.read); err != nil {
			return err
		}
	}
	for _, r := range []struct {
		row
		source newSource
	}{
		{row{id: "read/plain/64", what: "KV v1 GET, 64 clients", unit: "reads/s"}, pr.getV1(b)},
		{row{id: "mixed/plain/64", what: "9 GET to 1 PUT of KV v1, 64 clients", unit: "requests/s"}, pr.mixed(b)},
		{row{id: "kv2/plain/64", what: "KV v2 PUT, one secondary, 64 clients", unit: "writes/s"}, pr.putV2(b)},
		{row{id: "applied/plain/64", what: "KV v1 PUT, answered when applied on the secondary, 64 clients", unit: "writes/s"}, pr.putApplied(b)},
	} {
		if err := b.measure(ctx, r.row, pr.followed(pr.load(b, 64, r.source))); err != nil {
			return err
		}
	}
	return nil
}

// secured measures the same over TLS.
func (b *bench) secured(ctx context.Context) error {
	pr, err := b.startPair(ctx, "secured", node.Options{TLS: true})
	if err != nil {
		return err
	}
	defer func() { pr.remove() }()
	for _, clients := range counts {
		id := fmt.Sprintf("replicated/tls/%d", clients)
		if clients != 64 && b.set == setQuick && b.only == nil {
			continue
		}
		r := row{id: id, what: fmt.Sprintf("KV v1 PUT over TLS 1.3, one secondary keeping up, %d clients", clients), unit: "writes/s"}
		if err := b.measure(ctx, r, pr.followed(pr.load(b, clients, pr.putV1(b)))); err != nil {
			return err
		}
	}
	if b.set == setQuick || !b.wants("read/tls/64") {
		return nil
	}
	if err := pr.fill(ctx, b.read); err != nil {
		return err
	}
	return b.measure(ctx, row{id: "read/tls/64", what: "KV v1 GET over TLS 1.3, 64 clients", unit: "reads/s"}, pr.load(b, 64, pr.getV1(b)))
}

func (p *primary) getV1(b *bench) newSource {
	return func(_ int, rng *rand.Rand) load.Source {
		return load.Get{Path: "/v1/kv/", Host: p.API, Token: p.token, Keys: b.read}.Source(rng)
	}
}

func (p *primary) mixed(b *bench) newSource {
	return func(client int, rng *rand.Rand) load.Source {
		return load.Mix(rng, 0.9, p.getV1(b)(client, rng), p.putV1(b)(client, rng))
	}
}

func (p *primary) putV2(b *bench) newSource {
	return func(_ int, rng *rand.Rand) load.Source {
		return load.Put{Path: "/v1/secret/data/", Host: p.API, Token: p.token, Keys: b.keys, Size: valueSize,
			Before: `{"data":{"value":"`, After: `"}}`}.Source(rng)
	}
}

func (p *primary) putApplied(b *bench) newSource {
	return func(_ int, rng *rand.Rand) load.Source {
		return load.Put{Path: "/v1/kv/", Host: p.API, Token: p.token, Keys: b.keys, Size: valueSize,
			Header: "X-Lockstep-Synchronous: applied=1\r\n"}.Source(rng)
	}
}
