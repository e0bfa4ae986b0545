package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// TestReadYourWritesAndFilters drives a primary and a performance secondary with the stock client: what it wrote through the one it reads on the other, by the
// state that the client carries; and a paths filter is widened and narrowed under it.
func TestReadYourWritesAndFilters(t *testing.T) {
	t.Parallel()
	p, s := cluster.New(t, "primary", cluster.Options{}), cluster.New(t, "performance", cluster.Options{})
	for _, n := range []*cluster.Node{p, s} {
		n.Start()
		n.Init()
	}
	for _, mount := range []string{"kv", "hidden"} {
		p.MustDo("POST", "sys/mounts/"+mount, `{"type":"kv"}`, 204)
	}
	p.EnablePrimary(cluster.Performance)
	if _, err := p.Client().Logical().Write("sys/replication/performance/primary/paths-filter/eu", map[string]any{"mode": "deny", "paths": []string{"hidden/"}}); err != nil {
		t.Fatalf("writing a filter: %v", err)
	}
	s.Join(p, cluster.Performance, "eu")
	s.MintToken()

	t.Run("the stock client reads what it wrote elsewhere", func(t *testing.T) { readYourWrites(t, p, s) })
	t.Run("the stock client sees a filter as it is", func(t *testing.T) { filterByClient(t, p, s) })
}

func readYourWrites(t *testing.T, p, s *cluster.Node) {
	ctx := context.Background()
	for i := range 30 {
		var state string
		writer := p.Client().WithResponseCallbacks(api.RecordState(&state))
		if i%2 == 1 {
			writer = s.Client().WithResponseCallbacks(api.RecordState(&state)) // forwarded
		}
		want := fmt.Sprint(i)
		if err := writer.KVv1("kv").Put(ctx, "app", map[string]any{"n": want}); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
		if state == "" {
			t.Fatalf("write %d: the client recorded no state", i)
		}
		if _, err := api.ParseReplicationState(state, nil); err != nil {
			t.Fatalf("the client's own helper: %v", err)
		}
		for name, n := range map[string]*cluster.Node{"primary": p, "secondary": s} {
			got, err := n.Client().WithRequestCallbacks(api.RequireState(state)).KVv1("kv").Get(ctx, "app")
			if err != nil {
				t.Fatalf("read %d on the %s: %v", i, name, err)
			}
			if got.Data["n"] != want {
				t.Fatalf("read %d on the %s: %v, want %s: a stale read", i, name, got.Data["n"], want)
			}
		}
	}
	// ReadYourWrites keeps the states by itself, also when the client goes to another cluster.
	cfg := api.DefaultConfig()
	cfg.Address, cfg.ReadYourWrites, cfg.MaxRetries = p.API, true, 0
	c, err := api.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		want := fmt.Sprint("own", i)
		if err := c.SetAddress(p.API); err != nil {
			t.Fatal(err)
		}
		c.SetToken(p.Token)
		if err := c.KVv1("kv").Put(ctx, "own", map[string]any{"n": want}); err != nil {
			t.Fatal(err)
		}
		if err := c.SetAddress(s.API); err != nil {
			t.Fatal(err)
		}
		c.SetToken(s.Token)
		got, err := c.KVv1("kv").Get(ctx, "own")
		if err != nil || got.Data["n"] != want {
			t.Fatalf("read of an own write: %v, %v, want %s", got, err, want)
		}
	}
	forged := func(r *api.Request) { r.Headers.Set("X-Vault-Index", "djE6eDoxOjE6MDA=") }
	_, err = s.Client().WithRequestCallbacks(forged).Logical().Read("kv/own")
	if e, ok := err.(*api.ResponseError); !ok || e.StatusCode != http.StatusBadRequest {
		t.Errorf("a forged state: %v, want 400", err)
	}
}

func filterByClient(t *testing.T, p, s *cluster.Node) {
	const path = "sys/replication/performance/primary/paths-filter/eu"
	ctx := context.Background()
	if err := p.Client().KVv1("hidden").Put(ctx, "x", map[string]any{"n": "1"}); err != nil {
		t.Fatal(err)
	}
	_, err := s.Client().KVv1("hidden").Get(ctx, "x")
	if err == nil || !strings.Contains(err.Error(), "the mount hidden/ is left out") {
		t.Fatalf("a filtered mount: %v, want a sentence that names it", err)
	}
	mounts, err := s.Client().Sys().ListMounts()
	if err != nil || mounts["hidden/"] != nil || mounts["kv/"] == nil {
		t.Errorf("the mounts of the secondary: %v, %v", mounts, err)
	}
	if got, err := p.Client().Logical().Read(path); err != nil || got.Data["mode"] != "deny" {
		t.Errorf("the filter: %+v, %v", got, err)
	}
	if _, err := p.Client().Logical().Delete(path); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, cluster.Deadline, "the secondary serves what was added", func() (bool, string) {
		got, err := s.Client().KVv1("hidden").Get(ctx, "x")
		if err != nil {
			return false, err.Error()
		}
		return got.Data["n"] == "1", fmt.Sprint(got.Data)
	})
	if got, err := p.Client().Logical().Read(path); err != nil || got != nil {
		t.Errorf("the filter after its deletion: %+v, %v", got, err)
	}
}
