package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// TestThreeClusters is the whole of a first day: three servers, both
// secondaries enrolled, data written on both sides by the stock client, a
// secondary revoked. The servers run under the race detector.
func TestThreeClusters(t *testing.T) {
	t.Parallel()
	tr := cluster.NewTrio(t, cluster.Options{Race: true})
	primary, perf := tr.Primary.Client(), tr.Performance.Client()

	t.Run("the typed status of the client decodes on all three", func(t *testing.T) { typedStatus(t, tr) })
	t.Run("KV v1 written on the primary is read on the performance secondary", func(t *testing.T) {
		kv1(t, tr, primary, perf, "from-primary")
	})
	t.Run("KV v1 written on the performance secondary is forwarded", func(t *testing.T) {
		kv1(t, tr, perf, primary, "from-secondary")
	})
	t.Run("KV v2 written on the primary is read on the performance secondary", func(t *testing.T) {
		kv2(t, tr, primary, perf, "from-primary")
	})
	t.Run("KV v2 written on the performance secondary is forwarded", func(t *testing.T) {
		kv2(t, tr, perf, primary, "from-secondary")
	})
	t.Run("a local mount of the secondary stays there", func(t *testing.T) { localMount(t, tr) })
	t.Run("a policy replicates and a token does not", func(t *testing.T) { policiesAndTokens(t, tr) })
	t.Run("accounts replicate and clients log in on the performance secondary", func(t *testing.T) { logins(t, tr) })
	t.Run("a DR secondary serves nothing else", func(t *testing.T) { disabledOnDR(t, tr) })
	t.Run("roots differ only while the remote index does", func(t *testing.T) { rootsFollowIndexes(t, tr) })
	t.Run("a revoked secondary gets nothing more and keeps what it has", func(t *testing.T) { revoke(t, tr) })

	for _, n := range tr.Nodes() {
		n.Stop()
	}
	if err := tr.CheckAll(); err != nil {
		t.Error(err)
	}
}

func typedStatus(t *testing.T, tr *cluster.Trio) {
	ctx := context.Background()
	for _, n := range tr.Nodes() {
		if _, err := n.Client().Sys().ReplicationStatusWithContext(ctx, ""); err != nil {
			t.Errorf("ReplicationStatus of %s: %v", n.Name, err)
		}
	}
	p, err := tr.Primary.Client().Sys().ReplicationPerformanceStatusWithContext(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if p.Mode != "primary" || len(p.KnownSecondaries) != 1 || p.KnownSecondaries[0] != "perf-1" {
		t.Errorf("performance status of the primary: mode %q, known secondaries %q; want primary, [perf-1]", p.Mode, p.KnownSecondaries)
	}
	d, err := tr.DR.Client().Sys().ReplicationDRStatusWithContext(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if d.Mode != "secondary" || d.State != "stream-wals" || d.SecondaryID != "dr-1" {
		t.Errorf("DR status of the secondary: mode %q, state %q, id %q; want secondary, stream-wals, dr-1", d.Mode, d.State, d.SecondaryID)
	}
	health, err := tr.DR.Client().Sys().Health()
	if err != nil {
		t.Fatal(err)
	}
	if health.ReplicationDRMode != "secondary" || !health.Initialized {
		t.Errorf("health of the DR secondary: %+v", health)
	}
}

// kv1 writes with one client and waits for the other to show it.
func kv1(t *testing.T, tr *cluster.Trio, writer, reader *api.Client, prefix string) {
	ctx := context.Background()
	for i := range 50 {
		path := fmt.Sprintf("%s/app-%03d", prefix, i)
		if err := writer.KVv1("kv").Put(ctx, path, map[string]any{"n": fmt.Sprint(i), "where": prefix}); err != nil {
			t.Fatalf("put %s: %v", path, err)
		}
	}
	tr.WaitConverged()
	for i := range 50 {
		path := fmt.Sprintf("%s/app-%03d", prefix, i)
		got, err := reader.KVv1("kv").Get(ctx, path)
		if err != nil {
			t.Fatalf("get %s: %v", path, err)
		}
		if got.Data["n"] != fmt.Sprint(i) || got.Data["where"] != prefix {
			t.Errorf("%s holds %v, want n %d and where %s", path, got.Data, i, prefix)
		}
	}
	list, err := reader.Logical().List("kv/" + prefix)
	if err != nil {
		t.Fatal(err)
	}
	if keys, _ := list.Data["keys"].([]any); len(keys) != 50 || keys[0] != "app-000" || keys[49] != "app-049" {
		t.Errorf("list of kv/%s: %v, want app-000 to app-049", prefix, keys)
	}
	if err := writer.KVv1("kv").Delete(ctx, prefix+"/app-007"); err != nil {
		t.Fatal(err)
	}
	tr.WaitConverged()
	if _, err := reader.KVv1("kv").Get(ctx, prefix+"/app-007"); !errors.Is(err, api.ErrSecretNotFound) {
		t.Errorf("get of a deleted record: %v, want %v", err, api.ErrSecretNotFound)
	}
}

func kv2(t *testing.T, tr *cluster.Trio, writer, reader *api.Client, prefix string) {
	ctx := context.Background()
	path := prefix + "/app"
	for v := 1; v <= 3; v++ {
		got, err := writer.KVv2("secret").Put(ctx, path, map[string]any{"v": fmt.Sprint(v)}, api.WithCheckAndSet(v-1))
		if err != nil {
			t.Fatalf("put version %d: %v", v, err)
		}
		if got.VersionMetadata.Version != v {
			t.Errorf("put answered version %d, want %d", got.VersionMetadata.Version, v)
		}
	}
	if _, err := writer.KVv2("secret").Put(ctx, path, map[string]any{"v": "x"}, api.WithCheckAndSet(1)); !answered(err, http.StatusBadRequest) {
		t.Errorf("check-and-set against an old version: %v, want 400", err)
	}
	if err := writer.KVv2("secret").DeleteVersions(ctx, path, []int{2}); err != nil {
		t.Fatal(err)
	}
	tr.WaitConverged()
	newest, err := reader.KVv2("secret").Get(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	if newest.Data["v"] != "3" || newest.VersionMetadata.Version != 3 {
		t.Errorf("newest version: %v of version %d, want 3 of 3", newest.Data, newest.VersionMetadata.Version)
	}
	first, err := reader.KVv2("secret").GetVersion(ctx, path, 1)
	if err != nil {
		t.Fatal(err)
	}
	if first.Data["v"] != "1" {
		t.Errorf("version 1 holds %v, want 1", first.Data)
	}
	versions, err := reader.KVv2("secret").GetVersionsAsList(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	if len(versions) != 3 || versions[1].DeletionTime.IsZero() {
		t.Errorf("versions: %+v, want three, the second deleted", versions)
	}
	if err := writer.KVv2("secret").Undelete(ctx, path, []int{2}); err != nil {
		t.Fatal(err)
	}
	tr.WaitConverged()
	if again, err := reader.KVv2("secret").GetVersion(ctx, path, 2); err != nil || again.Data["v"] != "2" {
		t.Errorf("version 2 after undelete: %+v, %v; want 2", again, err)
	}
}

func localMount(t *testing.T, tr *cluster.Trio) {
	ctx := context.Background()
	perf := tr.Performance.Client()
	before := tr.Primary.MustStatus(cluster.Performance).MerkleRoot
	if err := perf.Sys().Mount("here", &api.MountInput{Type: "kv", Local: true, Options: map[string]string{"version": "1"}}); err != nil {
		t.Fatalf("local mount: %v", err)
	}
	if err := perf.KVv1("here").Put(ctx, "only", map[string]any{"v": "1"}); err != nil {
		t.Fatalf("write to the local mount: %v", err)
	}
	if got, err := perf.KVv1("here").Get(ctx, "only"); err != nil || got.Data["v"] != "1" {
		t.Errorf("read of the local mount: %+v, %v", got, err)
	}
	mounts, err := tr.Primary.Client().Sys().ListMounts()
	if err != nil {
		t.Fatal(err)
	}
	if _, there := mounts["here/"]; there {
		t.Error("the primary lists the secondary's local mount")
	}
	if _, there := mounts["kv/"]; !there {
		t.Errorf("the primary does not list kv/: %v", mounts)
	}
	tr.WaitConverged()
	if after := tr.Performance.MustStatus(cluster.Performance).MerkleRoot; after != before {
		t.Errorf("a local write changed the root of the set: %s, before %s", after, before)
	}
}

func policiesAndTokens(t *testing.T, tr *cluster.Trio) {
	ctx := context.Background()
	rules := `path "kv/from-primary/*" { capabilities = ["read"] }`
	if err := tr.Primary.Client().Sys().PutPolicy("reader", rules); err != nil {
		t.Fatal(err)
	}
	tr.WaitConverged()
	perf := tr.Performance.Client()
	made, err := perf.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{"reader"}, TTL: "1h"})
	if err != nil {
		t.Fatalf("create a token on the performance secondary: %v", err)
	}
	perf.SetToken(made.Auth.ClientToken)
	if _, err := perf.KVv1("kv").Get(ctx, "from-primary/app-001"); err != nil {
		t.Errorf("read that the policy allows: %v", err)
	}
	if _, err := perf.KVv1("kv").Get(ctx, "from-secondary/app-001"); !answered(err, http.StatusForbidden) {
		t.Errorf("read that the policy does not allow: %v, want 403", err)
	}
	if err := perf.KVv1("kv").Put(ctx, "from-primary/app-001", map[string]any{"n": "x"}); !answered(err, http.StatusForbidden) {
		t.Errorf("write that the policy does not allow: %v, want 403", err)
	}
	if self, err := perf.Auth().Token().LookupSelf(); err != nil || self.Data["ttl"] == nil {
		t.Errorf("lookup-self: %+v, %v", self, err)
	}
	primary := tr.Primary.Client()
	primary.SetToken(made.Auth.ClientToken)
	if _, err := primary.Auth().Token().LookupSelf(); !answered(err, http.StatusForbidden) {
		t.Errorf("the secondary's token on the primary: %v, want 403", err)
	}
}

func disabledOnDR(t *testing.T, tr *cluster.Trio) {
	c := tr.DR.Client()
	c.SetToken(tr.Primary.Token)
	_, err := c.Logical().Read("kv/from-primary/app-001")
	if !answered(err, http.StatusBadRequest) || !strings.Contains(err.Error(), "path disabled in replication DR secondary mode") {
		t.Errorf("read on a DR secondary: %v, want 400 path disabled in replication DR secondary mode", err)
	}
	_, err = c.Logical().Write("kv/x", map[string]any{"v": "1"})
	if !answered(err, http.StatusBadRequest) || !strings.Contains(err.Error(), "path disabled in replication DR secondary mode") {
		t.Errorf("write on a DR secondary: %v, want 400", err)
	}
	for _, path := range []string{"sys/health", "sys/seal-status", "sys/leader", "sys/replication/status"} {
		if answer, err := tr.DR.Do(context.Background(), http.MethodGet, path, nil); err != nil || answer.Status == http.StatusBadRequest {
			t.Errorf("GET %s on a DR secondary: %+v, %v", path, answer, err)
		}
	}
}

// rootsFollowIndexes samples both sides under load. A sample counts when the
// primary did not move while the secondary was asked: then equal indexes must
// mean equal roots.
func rootsFollowIndexes(t *testing.T, tr *cluster.Trio) {
	ctx, cancel := context.WithCancel(context.Background())
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := tr.Primary.Put(ctx, fmt.Sprintf("kv/load/%d-%d", w, i%100), fmt.Sprint(i)); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	compared := map[cluster.Kind]int{}
	for range 60 {
		for _, kind := range []cluster.Kind{cluster.DR, cluster.Performance} {
			before := tr.Primary.MustStatus(kind)
			s := tr.Secondary(kind).MustStatus(kind)
			after := tr.Primary.MustStatus(kind)
			if s.LastRemoteWAL > after.Last(kind) {
				t.Errorf("%s: the secondary shows index %d, beyond the primary's %d", kind, s.LastRemoteWAL, after.Last(kind))
			}
			if before.Last(kind) != after.Last(kind) || s.LastRemoteWAL != before.Last(kind) {
				continue
			}
			compared[kind]++
			if s.MerkleRoot != before.MerkleRoot {
				t.Errorf("%s: both at index %d, roots differ: primary %s, secondary %s", kind, s.LastRemoteWAL, before.MerkleRoot, s.MerkleRoot)
			}
		}
	}
	cancel()
	writers.Wait()
	tr.WaitConverged()
	t.Logf("comparable samples under load: %v", compared)
}

func revoke(t *testing.T, tr *cluster.Trio) {
	ctx := context.Background()
	if _, err := tr.Primary.Client().Logical().Write("sys/replication/performance/primary/revoke-secondary", map[string]any{"id": "perf-1"}); err != nil {
		t.Fatalf("revoke: %v", err)
	}
	cluster.Eventually(t, cluster.Deadline, "the revoked secondary is cut off", func() (bool, string) {
		s := tr.Performance.MustStatus(cluster.Performance)
		cut := s.ConnectionState != "ready" || (len(s.Primaries) > 0 && s.Primaries[0].ConnectionStatus == "disconnected")
		return cut, fmt.Sprintf("connection %s, primaries %+v", s.ConnectionState, s.Primaries)
	})
	at := tr.Performance.MustStatus(cluster.Performance).LastRemoteWAL
	for i := range 20 {
		if err := tr.Primary.Put(ctx, fmt.Sprintf("kv/after-revoke/%d", i), "secret"); err != nil {
			t.Fatal(err)
		}
	}
	cluster.WaitConverged(t, cluster.Deadline, tr.Primary, tr.DR, cluster.DR)
	s := tr.Performance.MustStatus(cluster.Performance)
	if s.LastRemoteWAL != at {
		t.Errorf("the revoked secondary went on from index %d to %d", at, s.LastRemoteWAL)
	}
	if value, found, err := tr.Performance.Get(ctx, "kv/from-primary/app-001"); err != nil || !found {
		t.Errorf("what a revoked secondary has: %q, %t, %v; want it readable", value, found, err)
	}
	if _, found, _ := tr.Performance.Get(ctx, "kv/after-revoke/1"); found {
		t.Error("the revoked secondary has what was written afterwards")
	}
	if known := tr.Primary.MustStatus(cluster.Performance).KnownSecondaries; len(known) != 0 {
		t.Errorf("known secondaries after the revocation: %q, want none", known)
	}
}

// answered reports whether an error is an answer with the status code.
func answered(err error, code int) bool {
	var answer *api.ResponseError
	return errors.As(err, &answer) && answer.StatusCode == code
}
