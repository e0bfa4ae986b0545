package conformance

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	vault "github.com/hashicorp/vault/api"
	bao "github.com/openbao/openbao/api/v2"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// typedCalls makes the calls that the stock client has types for: it decodes
// strictly what the tables describe by hand.
func typedCalls(t *testing.T, w *world) {
	t.Run("status", func(t *testing.T) { typedStatus(t, w) })
	t.Run("system", func(t *testing.T) { typedSystem(t, w) })
	t.Run("tokens", func(t *testing.T) { typedTokens(t, w.nodes["primary"]) })
	t.Run("kv", func(t *testing.T) { typedKV(t, w.nodes["primary"]) })
	t.Run("wrapping", func(t *testing.T) { typedWrapping(t, w.nodes["primary"]) })
	t.Run("snapshots", func(t *testing.T) { typedSnapshots(t, w.nodes["disabled"]) })
	t.Run("the other client", func(t *testing.T) { otherClient(t, w) })
}

func typedStatus(t *testing.T, w *world) {
	primary, dr := w.nodes["primary"], w.nodes["dr"]
	both, err := primary.Client().Sys().ReplicationStatus()
	if err != nil {
		t.Fatal(err)
	}
	if both.DR.Mode != "primary" || both.Performance.Mode != "primary" || both.DR.ClusterID == both.Performance.ClusterID ||
		!slices.Contains(both.DR.KnownSecondaries, "dr-1") || both.DR.LastDRWAL == 0 || both.Performance.LastPerformanceWAL == 0 {
		t.Errorf("status of the primary: %+v", both)
	}
	i := slices.IndexFunc(both.DR.Secondaries, func(c vault.ClusterInfo) bool { return c.NodeID == "dr-1" })
	if i < 0 || both.DR.Secondaries[i].ConnectionStatus != "connected" || both.DR.Secondaries[i].APIAddr != dr.API ||
		both.DR.Secondaries[i].ClockSkewMillis == "" || both.DR.Secondaries[i].LastHeartBeatDurationMillis == "" {
		t.Errorf("the DR secondary as its primary sees it: %+v", both.DR.Secondaries)
	}
	both, err = dr.Client().Sys().ReplicationStatus()
	if err != nil {
		t.Fatal(err)
	}
	if both.DR.Mode != "secondary" || both.DR.State != "stream-wals" || both.DR.SecondaryID != "dr-1" || both.Performance.Mode != "disabled" ||
		len(both.DR.Primaries) != 1 || both.DR.Primaries[0].ConnectionStatus != "connected" {
		t.Errorf("status of the DR secondary: %+v", both)
	}
}

func typedSystem(t *testing.T, w *world) {
	for name, want := range map[string]vault.HealthResponse{
		"primary":     {Initialized: true, ReplicationDRMode: "primary", ReplicationPerformanceMode: "primary"},
		"dr":          {Initialized: true, ReplicationDRMode: "secondary", ReplicationPerformanceMode: "disabled"},
		"performance": {Initialized: true, ReplicationDRMode: "disabled", ReplicationPerformanceMode: "secondary"},
		// As in Vault, what is not initialised is sealed, what is sealed is a standby, and its modes are not known.
		"empty":  {Sealed: true, Standby: true, ReplicationDRMode: "disabled", ReplicationPerformanceMode: "disabled"},
		"sealed": {Initialized: true, Sealed: true, Standby: true, ReplicationDRMode: "unknown", ReplicationPerformanceMode: "unknown"},
	} {
		sys := w.nodes[name].Client().Sys()
		h, err := sys.Health()
		if err != nil {
			t.Fatalf("health of %s: %v", name, err)
		}
		if h.Initialized != want.Initialized || h.Sealed != want.Sealed || h.Standby != want.Standby || h.ReplicationDRMode != want.ReplicationDRMode ||
			h.ReplicationPerformanceMode != want.ReplicationPerformanceMode || h.Version == "" {
			t.Errorf("health of %s: %+v", name, h)
		}
		s, err := sys.SealStatus()
		if err != nil || s.Initialized != want.Initialized || s.Sealed != want.Sealed || s.Type == "" || s.Version != h.Version {
			t.Errorf("seal status of %s: %+v, %v", name, s, err)
		}
		if ready, err := sys.InitStatus(); err != nil || ready != want.Initialized {
			t.Errorf("init status of %s: %t, %v", name, ready, err)
		}
		l, err := sys.Leader()
		if want.Sealed { // as in Vault, a sealed node knows no leader; commands look for these words
			if err == nil || !strings.Contains(err.Error(), "Vault is sealed") {
				t.Errorf("leader of %s: %+v, %v", name, l, err)
			}
			continue
		}
		if err != nil || !l.IsSelf || l.LeaderClusterAddress != "https://"+w.nodes[name].Cluster {
			t.Errorf("leader of %s: %+v, %v", name, l, err)
		}
	}
	sys := w.nodes["primary"].Client().Sys()
	mounts, err := sys.ListMounts()
	if err != nil || mounts["kv/"] == nil || mounts["secret/"] == nil || mounts["secret/"].Options["version"] != "2" {
		t.Errorf("mounts: %v, %v", mounts, err)
	}
	if err := sys.PutPolicy("typed", `path "kv/typed" { capabilities = ["read"] }`); err != nil {
		t.Fatal(err)
	}
	if names, err := sys.ListPolicies(); err != nil || !slices.Contains(names, "typed") {
		t.Errorf("policies: %v, %v", names, err)
	}
	if text, err := sys.GetPolicy("typed"); err != nil || !strings.Contains(text, "kv/typed") {
		t.Errorf("policy: %q, %v", text, err)
	}
	if caps, err := sys.CapabilitiesSelf("kv/typed"); err != nil || !slices.Equal(caps, []string{"root"}) {
		t.Errorf("capabilities of root: %v, %v", caps, err)
	}
	if err := sys.DeletePolicy("typed"); err != nil {
		t.Error(err)
	}
}

func typedTokens(t *testing.T, n *cluster.Node) {
	made, err := n.Client().Auth().Token().Create(&vault.TokenCreateRequest{Policies: []string{"default"}, TTL: "1h", DisplayName: "typed"})
	if err != nil {
		t.Fatal(err)
	}
	c := n.Client()
	c.SetToken(made.Auth.ClientToken)
	self, err := c.Auth().Token().LookupSelf()
	if err != nil {
		t.Fatal(err)
	}
	if ttl, err := self.TokenTTL(); err != nil || ttl.Minutes() > 60 || ttl.Minutes() < 50 {
		t.Errorf("ttl of a token of an hour: %v, %v", ttl, err)
	}
	if accessor, err := self.TokenAccessor(); err != nil || accessor != made.Auth.Accessor {
		t.Errorf("accessor: %q, %v", accessor, err)
	}
	if again, err := c.Auth().Token().RenewSelf(7200); err != nil || again.Auth.LeaseDuration == 0 {
		t.Errorf("renew: %+v, %v", again, err)
	}
	if err := c.Auth().Token().RevokeSelf(""); err != nil {
		t.Fatal(err)
	}
	var answer *vault.ResponseError
	if _, err := c.Auth().Token().LookupSelf(); !errors.As(err, &answer) || answer.StatusCode != http.StatusForbidden {
		t.Errorf("lookup with a revoked token: %v, want 403", err)
	}
}

func typedKV(t *testing.T, n *cluster.Node) {
	ctx := context.Background()
	one := n.Client().KVv1("kv")
	if err := one.Put(ctx, "typed", map[string]any{"a": "b"}); err != nil {
		t.Fatal(err)
	}
	if got, err := one.Get(ctx, "typed"); err != nil || got.Data["a"] != "b" {
		t.Errorf("version 1: %+v, %v", got, err)
	}
	two := n.Client().KVv2("secret")
	for i := 1; i <= 2; i++ {
		if put, err := two.Put(ctx, "typed", map[string]any{"n": i}); err != nil || put.VersionMetadata.Version != i {
			t.Fatalf("version %d: %+v, %v", i, put, err)
		}
	}
	if _, err := two.Put(ctx, "typed", map[string]any{}, vault.WithCheckAndSet(1)); err == nil {
		t.Error("a check-and-set of an old version succeeds")
	}
	if old, err := two.GetVersion(ctx, "typed", 1); err != nil || old.VersionMetadata.Version != 1 {
		t.Errorf("the first version: %+v, %v", old, err)
	}
	if meta, err := two.GetMetadata(ctx, "typed"); err != nil || meta.CurrentVersion != 2 || len(meta.Versions) != 2 {
		t.Errorf("metadata: %+v, %v", meta, err)
	}
	if _, err := two.Get(ctx, "none"); !errors.Is(err, vault.ErrSecretNotFound) {
		t.Errorf("a secret that is not there: %v, want ErrSecretNotFound", err)
	}
}

func typedWrapping(t *testing.T, n *cluster.Node) {
	c := n.Client()
	c.SetWrappingLookupFunc(func(string, string) string { return "1m" })
	wrapped, err := c.Logical().Read("sys/policies/acl/default")
	if err != nil || wrapped.WrapInfo == nil || wrapped.WrapInfo.TTL != 60 {
		t.Fatalf("a wrapped answer: %+v, %v", wrapped, err)
	}
	c = n.Client()
	if inner, err := c.Logical().Unwrap(wrapped.WrapInfo.Token); err != nil || inner.Data["policy"] == nil {
		t.Errorf("unwrapped: %+v, %v", inner, err)
	}
	if _, err := c.Logical().Unwrap(wrapped.WrapInfo.Token); err == nil {
		t.Error("a wrapping token is good for a second time")
	}
	activation, err := c.Logical().Write("sys/replication/performance/primary/secondary-token", map[string]any{"id": "typed", "ttl": "1m"})
	if err != nil || activation.WrapInfo == nil || activation.WrapInfo.TTL != 60 || strings.Count(activation.WrapInfo.Token, ".") != 2 {
		t.Errorf("an activation token: %+v, %v", activation, err)
	}
	if _, err := c.Logical().Write("sys/replication/performance/primary/revoke-secondary", map[string]any{"id": "typed"}); err != nil {
		t.Error(err)
	}
}

// typedSnapshots is what vault operator raft snapshot save and restore call: the client itself looks whether what it saved is whole.
func typedSnapshots(t *testing.T, n *cluster.Node) {
	c := n.Client()
	if err := c.Sys().Mount("snapped", &vault.MountInput{Type: "kv"}); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	kv := c.KVv1("snapped")
	if err := kv.Put(ctx, "app", map[string]any{"v": "before"}); err != nil {
		t.Fatal(err)
	}
	var saved bytes.Buffer
	if err := c.Sys().RaftSnapshot(&saved); err != nil {
		t.Fatalf("save: %v", err)
	}
	if err := kv.Put(ctx, "app", map[string]any{"v": "after"}); err != nil {
		t.Fatal(err)
	}
	// Unlike Vault, a restore without -force only says what it would replace.
	if err := c.Sys().RaftSnapshotRestore(bytes.NewReader(saved.Bytes()), false); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("restore without force: %v", err)
	}
	if err := c.Sys().RaftSnapshotRestore(bytes.NewReader(saved.Bytes()), true); err != nil {
		t.Fatalf("restore: %v", err)
	}
	for end := time.Now().Add(cluster.Deadline); ; time.Sleep(10 * time.Millisecond) {
		got, err := kv.Get(ctx, "app")
		if err == nil && got.Data["v"] == "before" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after a restore: %+v, %v", got, err)
		}
	}
}

// otherClient makes some of the calls with OpenBao's client, unmodified.
func otherClient(t *testing.T, w *world) {
	n := w.nodes["primary"]
	cfg := bao.DefaultConfig()
	if cfg.Error != nil {
		t.Fatal(cfg.Error)
	}
	cfg.Address, cfg.MaxRetries, cfg.Timeout = n.API, 0, cluster.Deadline
	c, err := bao.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.SetToken(n.Token)
	if h, err := c.Sys().Health(); err != nil || !h.Initialized || h.Sealed {
		t.Errorf("health: %+v, %v", h, err)
	}
	if s, err := c.Sys().SealStatus(); err != nil || !s.Initialized {
		t.Errorf("seal status: %+v, %v", s, err)
	}
	if l, err := c.Sys().Leader(); err != nil || !l.IsSelf {
		t.Errorf("leader: %+v, %v", l, err)
	}
	if mounts, err := c.Sys().ListMounts(); err != nil || mounts["secret/"] == nil {
		t.Errorf("mounts: %v, %v", mounts, err)
	}
	status, err := c.Logical().Read("sys/replication/status")
	if err != nil || status.Data["dr"] == nil || status.Data["performance"] == nil {
		t.Errorf("status: %+v, %v", status, err)
	}
	report, err := c.Logical().Write("sys/replication/merkle-check", nil)
	if err != nil || report.Data["merkle_corruption_report"] == nil {
		t.Errorf("merkle-check: %+v, %v", report, err)
	}
	ctx := context.Background()
	if _, err := c.KVv2("secret").Put(ctx, "bao", map[string]any{"a": "b"}); err != nil {
		t.Error(err)
	}
	if got, err := c.KVv2("secret").Get(ctx, "bao"); err != nil || got.Data["a"] != "b" {
		t.Errorf("kv: %+v, %v", got, err)
	}
	made, err := c.Auth().Token().Create(&bao.TokenCreateRequest{Policies: []string{"default"}, TTL: "10m"})
	if err != nil || made.Auth.ClientToken == "" {
		t.Fatalf("token create: %+v, %v", made, err)
	}
	if err := c.Auth().Token().RevokeAccessor(made.Auth.Accessor); err != nil {
		t.Errorf("revoke by accessor: %v", err)
	}
}
