package e2e

import (
	"net/http"

	"github.com/hashicorp/vault/api"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// performanceFailover moves the part of a performance primary to one of its secondaries, under load; the other secondary, which is filtered, and the former
// primary follow it.
func performanceFailover(b *runbook) {
	p, s, other := cluster.New(b.outer, "p", cluster.Options{}), cluster.New(b.outer, "s", cluster.Options{}), cluster.New(b.outer, "other", cluster.Options{})
	nodes := []*cluster.Node{p, s, other}
	for _, n := range nodes {
		n.Launch()
	}
	for _, n := range nodes {
		n.WaitReady()
		n.Init()
	}
	for _, mount := range []string{"kv", "secret-us"} {
		if err := p.Client().Sys().Mount(mount, &api.MountInput{Type: "kv", Options: map[string]string{"version": "1"}}); err != nil {
			b.t.Fatal(err)
		}
	}
	o := &oracle{acked: map[string]string{}}
	o.fill(b.t, p, "before", 1000)
	p.MustDo("PUT", "secret-us/x", `{"value":"not for the other one"}`, 204)

	b.change(p, perfPath+"primary/enable", nil)
	filter := map[string]any{"mode": "deny", "paths": "secret-us/"}
	b.write(p, perfPath+"primary/paths-filter/other", filter)
	for _, n := range []*cluster.Node{s, other} {
		b.change(n, perfPath+"secondary/enable", map[string]any{"token": b.activation(p, cluster.Performance, n.Name)})
		enrolled(n, p, cluster.Performance)
	}
	b.account(p)
	b.follows(s, p, cluster.Performance, "s")
	s.Token = b.login(s)
	b.follows(other, p, cluster.Performance, "other")
	other.Token = b.login(other)
	o.allOn(b.t, other, other.Token)

	during := startLoad(p, "during")
	during.reaches(b.t, 300)
	b.change(p, perfPath+"primary/demote", nil)
	during.end(o)
	b.mode(p, cluster.Performance, "secondary", "idle")
	b.change(s, perfPath+"secondary/promote", nil)
	b.mode(s, cluster.Performance, "primary", "running")
	o.allOn(b.t, s, s.Token)
	foreign := s.Client()
	foreign.SetToken(p.Token)
	if _, err := foreign.Auth().Token().LookupSelf(); !answered(err, http.StatusForbidden) {
		b.t.Errorf("a token of the former primary on the new one: %v, want 403: its clients log in again", err)
	}
	s.Token = b.login(s)
	o.fill(b.t, s, "after", 50)

	before := copied(other, cluster.Performance)
	b.write(s, perfPath+"primary/paths-filter/other", filter)
	b.change(other, perfPath+"secondary/update-primary", map[string]any{"token": b.activation(s, cluster.Performance, "other")})
	b.change(p, perfPath+"secondary/update-primary", map[string]any{"token": b.activation(s, cluster.Performance, "p")})
	b.follows(p, s, cluster.Performance, "p")
	b.cost(p, cluster.Performance, 0, o.bytes)
	o.allOn(b.t, p, p.Token)
	b.follows(other, s, cluster.Performance, "other")
	b.cost(other, cluster.Performance, before, o.bytes)
	o.allOn(b.t, other, other.Token)
	b.leftOut(other, "secret-us/x")
	// Writes by way of a secondary go to the new primary.
	if err := p.Put(b.t.Context(), "kv/by-way-of-p", "forwarded"); err != nil {
		b.t.Error(err)
	}
	if got, found, err := get(s.Client(), "by-way-of-p"); err != nil || !found || got != "forwarded" {
		b.t.Errorf("a write by way of the former primary: %q, %t, %v", got, found, err)
	}
	checkAll(b.t, nodes)
}
