package vault_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/server/vault"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// part is a node that plays one part in the sets, and forwards straight into another core. The real node is tested with real
// servers; here the question is what the core asks of it and answers for it.
type part struct {
	vault.NoSets
	dr, performance replication.Mode
	primary         *vault.Core
	away, late      bool
	revoked         bool
	emptied         bool // revoked before it was filled
	behind          bool // a promotion would lose writes

	mu    sync.Mutex
	calls []string
	seen  []*replication.Forwarded
}

func (p *part) Mode(k replication.Kind) replication.Mode {
	m := p.dr
	if k == replication.Performance {
		m = p.performance
	}
	if m == "" {
		return replication.Disabled
	}
	return m
}

func (p *part) Status(k replication.Kind) map[string]any {
	m := map[string]any{"mode": string(p.Mode(k))}
	if p.Mode(k) == replication.Primary {
		m["cluster_id"], m["known_secondaries"], m["last_wal"], m["merkle_root"] = string(k)+"-set", []string{}, 7, "00"
	}
	return m
}

func (p *part) Revoked(k replication.Kind) bool {
	return p.revoked && p.Mode(k) == replication.Secondary || p.emptied && p.Mode(k) == replication.Bootstrapping
}

func (p *part) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, fmt.Sprintf(format, args...))
}

func (p *part) EnablePrimary(_ context.Context, k replication.Kind, addr string) (string, error) {
	p.note("enable primary %s %q", k, addr)
	return "role is changing", nil
}

func (p *part) SecondaryToken(_ context.Context, k replication.Kind, id string, ttl time.Duration) (*replication.Activation, error) {
	p.note("token %s %s %s", k, id, ttl)
	if id == "taken" {
		return nil, &replication.Refused{Reason: "the id taken is in use"}
	}
	return &replication.Activation{
		Token: "a.b.c", Accessor: "acc", TTL: 30 * time.Minute, CreationTime: time.Unix(1, 5).UTC(),
		CreationPath: "sys/replication/" + string(k) + "/primary/secondary-token",
	}, nil
}

func (p *part) RevokeSecondary(_ context.Context, k replication.Kind, id string) error {
	p.note("revoke %s %s", k, id)
	return nil
}

func (p *part) EnableSecondary(_ context.Context, k replication.Kind, s replication.SecondaryEnable) (string, error) {
	p.note("enable secondary %s %s %s %s", k, s.PrimaryAPIAddr, s.CAFile, s.CAPath)
	if s.Token == "away" {
		return "", fmt.Errorf("%w: connection refused", replication.ErrUnreachable)
	}
	return "filling", nil
}

func (p *part) Recover(context.Context) (string, error) { p.note("recover"); return "recovering", nil }

func (p *part) Reindex(_ context.Context, o replication.ReindexOptions) (string, error) {
	p.note("reindex %+v", o)
	return "reindexing", nil
}

func (p *part) SecondaryTokenFor(_ context.Context, k replication.Kind, id string, ttl time.Duration, key string) (string, error) {
	p.note("token %s %s %s for %s", k, id, ttl, key)
	return "opaque", nil
}

func (p *part) GeneratePublicKey(k replication.Kind) (string, error) {
	p.note("public key %s", k)
	return "a2V5", nil
}

func (p *part) PromoteSecondary(_ context.Context, k replication.Kind, o replication.Promote) (string, error) {
	p.note("promote %s %+v", k, o)
	if p.behind && !o.Force {
		return "", &replication.NotReady{Reason: "replication is catching up: try again, or pass force=true, which may lose writes"}
	}
	return "promoting", nil
}

func (p *part) RollAuthority(_ context.Context, k replication.Kind) (string, error) {
	p.note("rotate ca %s", k)
	return "another CA", nil
}

func (p *part) Promoting(replication.Kind) bool { return false }

func (p *part) HoldRole() (release func()) { return func() {} }

func (p *part) AwaitConfirmed(context.Context, bool, *replication.Written) (string, error) {
	return "", nil
}

func (p *part) Fenced(replication.Kind) map[string]any { return nil }

func (p *part) DemotePrimary(_ context.Context, k replication.Kind, _ replication.Demote) (*replication.Demotion, error) {
	p.note("demote %s", k)
	return &replication.Demotion{Warnings: []string{"demoting"}}, nil
}

func (p *part) Demoted(k replication.Kind) (*replication.Demotion, error) {
	return nil, fmt.Errorf("this cluster is no demoted %s primary", k)
}

func (p *part) PromotePreflight(k replication.Kind) (*replication.Preflight, error) {
	return &replication.Preflight{Verdict: "preflight of " + string(k)}, nil
}

func (p *part) DisablePrimary(_ context.Context, k replication.Kind) (string, error) {
	p.note("disable primary %s", k)
	return "disabling", nil
}

func (p *part) DisableSecondary(_ context.Context, k replication.Kind) (string, error) {
	p.note("disable secondary %s", k)
	return "disabling", nil
}

func (p *part) UpdatePrimary(_ context.Context, k replication.Kind, o replication.UpdatePrimary) (string, error) {
	text := "none"
	if o.Token != nil {
		text = fmt.Sprintf("%q", *o.Token)
	}
	p.note("update primary %s %s %v %s %s %s", k, text, o.Addrs, o.PrimaryAPIAddr, o.CAFile, o.CAPath)
	return "following another", nil
}

func (p *part) MerkleCheck(context.Context) (*replication.CorruptionReport, error) {
	p.note("merkle-check")
	return &replication.CorruptionReport{
		At:     time.Unix(10, 0).UTC(),
		Totals: []storage.KeyspaceTotal{{ID: storage.SystemReplicated, Scope: storage.Replicated}},
		Report: engine.CheckReport{
			CheckReport: storage.CheckReport{Damage: []storage.Damage{{File: "state.db", Keyspace: storage.SystemReplicated, Key: []byte("k"), What: "wrong"}}},
			Log: []engine.LogDamage{{
				Damage:  wal.Damage{File: "seg", Index: 4, What: "torn"},
				Entries: []engine.SuspectEntry{{Index: 4, Keys: []engine.SuspectKey{{Keyspace: storage.SystemReplicated, Key: []byte("k")}}}},
			}},
		},
	}, nil
}

func (p *part) Forward(ctx context.Context, f *replication.Forwarded) (*replication.ForwardedAnswer, bool, error) {
	if p.away {
		return nil, false, fmt.Errorf("%w: nobody answers", replication.ErrUnreachable)
	}
	p.mu.Lock()
	p.seen = append(p.seen, f)
	p.mu.Unlock()
	return p.primary.Handle(ctx, f), p.late, nil
}

func TestStatusAndSetCalls(t *testing.T) {
	c := ready(t)
	p := &part{performance: replication.Primary}
	vault.SetNode(c.core, p)
	c.story(t, []step{
		{"combined, for new readers and for old", "GET", "sys/replication/status", "", "none", 200, map[string]string{
			"data.dr": `{"mode":"disabled"}`, "data.performance.mode": `"primary"`, "data.mode": `"primary"`, "mode": `"primary"`,
			"known_secondaries": `[]`, "data.last_wal": `7`, "merkle_root": `"00"`}},
		{"one set", "GET", "sys/replication/performance/status", "", "none", 200, map[string]string{"data.mode": `"primary"`, "mode": `null`}},
		{"the other", "GET", "sys/replication/dr/status", "", "none", 200, map[string]string{"data": `{"mode":"disabled"}`}},
		{"enable", "PUT", "sys/replication/dr/primary/enable", `{"primary_cluster_addr":"https://lb:8201"}`, "", 200, map[string]string{"data": `null`, "warnings": `["role is changing"]`}},
		{"enable with null", "PUT", "sys/replication/performance/primary/enable", `null`, "", 200, nil},
		{"the old way", "POST", "sys/replication/primary/enable", `{}`, "", 204, nil},
		{"token", "PUT", "sys/replication/dr/primary/secondary-token", `{"id":"s1","ttl":"5m"}`, "", 200, map[string]string{
			"request_id": `""`, "data": `null`, "wrap_info": `{"token":"a.b.c","accessor":"acc","ttl":1800,"creation_time":"1970-01-01T00:00:01.000000005Z","creation_path":"sys/replication/dr/primary/secondary-token"}`}},
		{"token, the old way by GET", "GET", "sys/replication/primary/secondary-token?id=s2", "", "", 200, map[string]string{"wrap_info.token": `"a.b.c"`}},
		{"token, the old way", "POST", "sys/replication/primary/secondary-token", `{"id":"s2","ttl":60}`, "", 200, nil},
		{"token by GET on the new path", "GET", "sys/replication/dr/primary/secondary-token?id=s1", "", "", 405, nil},
		{"token without an id", "PUT", "sys/replication/dr/primary/secondary-token", `{}`, "", 400, nil},
		{"token of no life", "PUT", "sys/replication/dr/primary/secondary-token", `{"id":"s","ttl":0}`, "", 400, nil},
		{"token for a public key", "PUT", "sys/replication/dr/primary/secondary-token", `{"id":"s","secondary_public_key":"x"}`, "", 200, map[string]string{"data": `{"token":"opaque"}`, "wrap_info": `null`}},
		{"token for an id in use", "PUT", "sys/replication/dr/primary/secondary-token", `{"id":"taken"}`, "", 400, map[string]string{"errors": `["the id taken is in use"]`}},
		{"revoke", "PUT", "sys/replication/dr/primary/revoke-secondary", `{"id":"s1"}`, "", 204, nil},
		{"revoke, the old way", "PUT", "sys/replication/secondary/revoke-secondary", `{"id":"s1"}`, "", 204, nil},
		{"revoke nobody", "PUT", "sys/replication/dr/primary/revoke-secondary", `{}`, "", 400, nil},
		{"become a secondary", "PUT", "sys/replication/performance/secondary/enable", `{"token":"x","primary_api_addr":"http://p","ca_file":"f","ca_path":"d"}`, "", 200, map[string]string{"warnings": `["filling"]`}},
		{"the old way", "POST", "sys/replication/secondary/enable", `{"token":"x"}`, "", 204, nil},
		{"without a token", "PUT", "sys/replication/dr/secondary/enable", `{}`, "", 400, nil},
		{"of a primary that is away", "PUT", "sys/replication/dr/secondary/enable", `{"token":"away"}`, "", 500, map[string]string{"errors": `["the primary cannot be reached: connection refused"]`}},
		{"recover", "PUT", "sys/replication/recover", "", "", 200, map[string]string{"warnings": `["recovering"]`}},
		{"reindex", "PUT", "sys/replication/reindex", `{"diff":"true","force":false,"skip_flush":true}`, "", 200, map[string]string{"warnings": `["reindexing"]`}},
		{"check by GET", "GET", "sys/replication/merkle-check", "", "", 405, nil},
		{"check", "PUT", "sys/replication/merkle-check", "null", "", 200, map[string]string{
			"data.merkle_corruption_report.corrupted_root":                                      `true`,
			"data.merkle_corruption_report.corrupted_tree_map.1.tree_type":                      `"replicated"`,
			"data.merkle_corruption_report.corrupted_tree_map.1.corrupted_index_tuples_map.130": `{"corrupted":false,"subpages":[84]}`,
			"data.merkle_corruption_report.corrupted_tree_map.2.corrupted_index_tuples_map":     `null`,
			"data.merkle_corruption_report.damage":                                              `[{"file":"state.db","key":"k","keyspace":"` + storage.SystemReplicated.String() + `","mount":"","what":"wrong"}]`,
			"data.merkle_corruption_report.log_damage":                                          `[{"entries":[{"changes":[{"key":"k","keyspace":"00000000-0000-0000-0000-000000000001","mount":""}],"index":4,"wrong":""}],"file":"seg","index":4,"what":"torn"}]`,
		}},
		{"what nobody does", "PUT", "sys/replication/nonsense", `{}`, "", 404, nil},
		{"without a token", "PUT", "sys/replication/recover", "", "none", 403, nil},
	})
	if got, want := p.calls[0], `enable primary dr "https://lb:8201"`; got != want {
		t.Errorf("first call: got %s, want %s", got, want)
	}
	if got, want := p.calls[3], `token dr s1 5m0s`; got != want {
		t.Errorf("fourth call: got %s, want %s", got, want)
	}
}

func TestDRSecondaryServesOnlyItself(t *testing.T) {
	c := ready(t)
	c.must(204, "PUT", "kv/x", `{"a":1}`)
	vault.SetNode(c.core, &part{dr: replication.Secondary})
	disabled := map[string]string{"errors": `["path disabled in replication DR secondary mode"]`}
	c.story(t, []step{
		{"health", "GET", "sys/health", "", "none", 472, map[string]string{"replication_dr_mode": `"secondary"`, "initialized": `true`}},
		{"health with a code", "GET", "sys/health?drsecondarycode=200", "", "none", 200, nil},
		{"seal status", "GET", "sys/seal-status", "", "none", 200, nil},
		{"leader", "GET", "sys/leader", "", "none", 200, nil},
		{"init status", "GET", "sys/init", "", "none", 200, nil},
		{"status", "GET", "sys/replication/status", "", "none", 200, map[string]string{"mode": `"secondary"`}},
		{"dr status", "GET", "sys/replication/dr/status", "", "hvs.stale", 200, nil},
		{"performance status", "GET", "sys/replication/performance/status", "", "none", 200, nil},
		{"recover", "PUT", "sys/replication/recover", "", "", 200, nil},
		{"reindex", "PUT", "sys/replication/reindex", "", "", 200, nil},
		{"merkle-check", "PUT", "sys/replication/merkle-check", "", "", 200, nil},
		{"recover without a token", "PUT", "sys/replication/recover", "", "none", 403, nil},
		{"a read", "GET", "kv/x", "", "", 400, disabled},
		{"a write", "PUT", "kv/x", `{"a":2}`, "", 400, disabled},
		{"init", "PUT", "sys/init", `{}`, "", 400, disabled},
		{"login", "GET", "auth/token/lookup-self", "", "", 400, disabled},
		{"mounts", "GET", "sys/mounts", "", "", 400, disabled},
		{"unwrap", "PUT", "sys/wrapping/unwrap", `{}`, "none", 400, disabled},
		{"preflight", "GET", "sys/internal/ui/mounts/kv/x", "", "", 400, disabled},
		{"other roles", "PUT", "sys/replication/performance/primary/enable", `{}`, "", 400, disabled},
		{"nonsense", "GET", "nonsense", "", "none", 400, disabled},
	})
}

func TestARevokedDRSecondaryTakesANewToken(t *testing.T) {
	c := ready(t)
	p := &part{dr: replication.Secondary}
	vault.SetNode(c.core, p)
	const enable = "sys/replication/dr/secondary/enable"
	disabled := map[string]string{"errors": `["path disabled in replication DR secondary mode"]`}
	c.story(t, []step{{"while the primary knows it", "PUT", enable, `{"token":"x"}`, "", 400, disabled}})
	p.revoked = true
	c.story(t, []step{
		{"without a Vault token", "PUT", enable, `{"token":"x"}`, "none", 403, nil},
		{"with one", "PUT", enable, `{"token":"x"}`, "", 200, map[string]string{"warnings": `["filling"]`}},
		{"another set", "PUT", "sys/replication/performance/secondary/enable", `{"token":"x"}`, "", 400, disabled},
		{"a read", "GET", "kv/x", "", "", 400, disabled},
	})
}

func TestASecondaryThatWasRevokedWhileEmptyTakesANewToken(t *testing.T) {
	for kind, p := range map[string]*part{"dr": {dr: replication.Bootstrapping}, "performance": {performance: replication.Bootstrapping}} {
		c := bare(t)
		vault.SetNode(c.core, p)
		path := "sys/replication/" + kind + "/secondary/enable"
		c.story(t, []step{{"not revoked", "PUT", path, `{"token":"x"}`, "none", 503, nil}})
		p.emptied = true
		c.story(t, []step{
			{"revoked: no token of a client exists", "PUT", path, `{"token":"x"}`, "none", 200, map[string]string{"warnings": `["filling"]`}},
			{"a read", "GET", "kv/x", "", "hvs.x", 503, nil},
		})
	}
}

func TestBootstrapping(t *testing.T) {
	for _, p := range []*part{{dr: replication.Bootstrapping}, {performance: replication.Bootstrapping}} {
		c := bare(t)
		vault.SetNode(c.core, p)
		c.story(t, []step{
			{"health", "GET", "sys/health", "", "none", 503, map[string]string{"initialized": `true`}},
			{"health, any code", "GET", "sys/health?sealedcode=299", "", "none", 299, nil},
			{"status", "GET", "sys/replication/status", "", "none", 200, map[string]string{"mode": `"bootstrapping"`}},
			{"seal status", "GET", "sys/seal-status", "", "none", 200, map[string]string{"initialized": `true`}},
			{"a read", "GET", "kv/x", "", "hvs.x", 503, nil},
			{"init", "PUT", "sys/init", `{}`, "none", 503, nil},
			{"recover", "PUT", "sys/replication/recover", ``, "hvs.x", 503, nil},
		})
	}
}

// pair is a performance primary and a secondary whose writes go straight into it. Nothing is replicated between them.
func pair(t *testing.T) (primary, secondary *cluster, link *part) {
	primary, secondary = ready(t), ready(t)
	secondary.must(204, "POST", "sys/mounts/local", `{"type":"kv","local":true}`)
	secondary.must(204, "PUT", "sys/policies/acl/writer", `{"policy":"path \"kv/*\" { capabilities = [\"create\",\"update\",\"read\"] }"}`)
	primary.must(204, "PUT", "sys/policies/acl/writer", `{"policy":"path \"kv/*\" { capabilities = [\"create\",\"update\",\"read\"] }"}`)
	link = &part{performance: replication.Secondary, primary: primary.core}
	vault.SetNode(secondary.core, link)
	vault.SetNode(primary.core, &part{performance: replication.Primary})
	return primary, secondary, link
}

func TestPerformanceSecondary(t *testing.T) {
	primary, s, link := pair(t)
	before := s.engine.Position()
	s.story(t, []step{
		{"a shared write", "PUT", "kv/x", `{"from":"secondary"}`, "", 204, nil},
		{"a shared write of version 2", "PUT", "secret/data/x", `{"data":{"a":1}}`, "", 200, map[string]string{"data.version": `1`}},
		{"a patch", "PATCH", "secret/data/x", `{"data":{"a":2}}`, "", 200, map[string]string{"data.version": `2`}},
		{"a refusal", "PUT", "secret/data/x", `{"data":{"a":1},"options":{"cas":0}}`, "", 400, map[string]string{"errors": `["check-and-set parameter did not match the current version"]`}},
		{"a mount", "POST", "sys/mounts/new", `{"type":"kv"}`, "", 204, nil},
		{"a policy", "PUT", "sys/policies/acl/p", `{"policy":"path \"a\" { capabilities = [\"read\"] }"}`, "", 204, nil},
		{"a delete", "DELETE", "kv/y", "", "", 204, nil},
		{"reads are local", "GET", "kv/x", "", "", 404, nil},
		{"health", "GET", "sys/health", "", "none", 200, map[string]string{"replication_performance_mode": `"secondary"`}},
	})
	if after := s.engine.Position(); after != before {
		t.Errorf("shared writes wrote here: from index %d to %d", before.Index, after.Index)
	}
	if g := primary.must(200, "GET", "kv/x", ""); g.text("data.from") != "secondary" {
		t.Errorf("on the primary: %v", g)
	}
	primary.must(200, "GET", "sys/mounts/new", "")
	sent := len(link.seen)
	s.story(t, []step{
		{"a local write", "PUT", "local/x", `{"a":1}`, "", 204, nil},
		{"a local mount", "POST", "sys/mounts/mine", `{"type":"kv","local":true}`, "", 204, nil},
		{"tune it", "POST", "sys/mounts/mine/tune", `{"description":"m"}`, "", 204, nil},
		{"move it", "POST", "sys/remount", `{"from":"mine","to":"mine2"}`, "", 200, nil},
		{"disable it", "DELETE", "sys/mounts/mine2", "", "", 204, nil},
		{"a token", "POST", "auth/token/create", `{"policies":["writer"],"id":"w"}`, "", 200, nil},
		{"which may not", "DELETE", "kv/x", ``, "w", 403, nil},
		{"a bad body is seen here or there, but written nowhere", "PUT", "kv/bad", `{"a":`, "w", 400, nil},
	})
	if n := len(link.seen) - sent; n > 1 {
		t.Errorf("%d calls were forwarded that belong here", n-1)
	}
	g := s.call("PUT", "kv/by-w", "w", `{"a":1}`)
	if g.status != 204 {
		t.Fatalf("a write with the rights of a policy: %v", g)
	}
	f := link.seen[len(link.seen)-1]
	if strings.Join(f.Policies, ",") != "default,writer" || f.Path != "kv/by-w" || len(f.RequestID) != 36 {
		t.Errorf("forwarded as %+v", f)
	}
	g = s.call("PUT", "secret/data/x", s.root, `{"data":{"a":3}}`)
	if id := link.seen[len(link.seen)-1].RequestID; g.text("request_id") != id {
		t.Errorf("request_id %s, want the secondary's own %s", g.text("request_id"), id)
	}
	primary.must(204, "DELETE", "sys/policies/acl/writer", "")
	if g := s.call("PUT", "kv/by-w", "w", `{"a":2}`); g.status != 403 {
		t.Errorf("the primary has the last word about a policy: %v", g)
	}
}

func TestForwardingLateAndUnreachable(t *testing.T) {
	_, s, link := pair(t)
	link.late = true
	g := s.must(200, "PUT", "kv/x", `{"a":1}`)
	if w, _ := g.at("warnings").([]any); len(w) != 1 || g.at("data") != nil {
		t.Errorf("late and empty: %v", g)
	}
	g = s.must(200, "PUT", "secret/data/x", `{"data":{"a":1}}`)
	if w, _ := g.at("warnings").([]any); len(w) != 1 || !same(g.at("data.version"), "1") {
		t.Errorf("late with an answer: %v", g)
	}
	link.away = true
	g = s.must(503, "PUT", "kv/x", `{"a":1}`)
	if e, _ := g.at("errors").([]any); len(e) != 1 || !strings.Contains(fmt.Sprint(e), "nobody answers") {
		t.Errorf("unreachable: %v", g)
	}
	s.must(204, "PUT", "local/x", `{"a":1}`)
}

// TestHandleReachesOnlyWhatIsShared calls the primary as a secondary that asks for more than it should.
func TestHandleReachesOnlyWhatIsShared(t *testing.T) {
	primary, _, _ := pair(t)
	primary.must(204, "POST", "sys/mounts/own", `{"type":"kv","local":true}`)
	primary.must(204, "PUT", "own/x", `{"a":1}`)
	primary.must(204, "PUT", "sys/audit/ours", `{"type":"file","options":{"file_path":"`+filepath.Join(t.TempDir(), "audit.log")+`"}}`)
	before := primary.engine.Position()
	for _, f := range []replication.Forwarded{
		{Method: "GET", Path: "kv/x"},
		{Method: "LIST", Path: "kv"},
		{Method: "PUT", Path: "own/x", Body: []byte(`{"a":2}`)},
		{Method: "DELETE", Path: "sys/mounts/own"},
		{Method: "POST", Path: "sys/mounts/more", Body: []byte(`{"type":"kv","local":true}`)},
		{Method: "POST", Path: "auth/token/create"},
		{Method: "POST", Path: "sys/audit/theirs", Body: []byte(`{"type":"file","options":{"file_path":"stdout"}}`)},
		{Method: "POST", Path: "sys/audit/theirs", Body: []byte(`{"type":"file","options":{"file_path":"stdout"},"local":true}`)},
		{Method: "DELETE", Path: "sys/audit/ours"},
		{Method: "POST", Path: "sys/replication/dr/primary/secondary-token", Body: []byte(`{"id":"x"}`)},
		{Method: "PUT", Path: "sys/wrapping/unwrap"},
		{Method: "PUT", Path: "../kv/x", Body: []byte(`{"a":1}`)},
		{Method: "PUT", Path: "kv//x", Body: []byte(`{"a":1}`)},
		{Method: "PUT", Path: "kv/x", Body: []byte(`[1]`)},
		{Method: "PUT", Path: "kv/x", Body: []byte(`{"a":1}`), RequestID: strings.Repeat("x", 65)},
		{Method: "PUT", Path: "kv/x", Body: []byte(`{"a":1}`), RequestID: `","errors":"`},
		{Method: "PUT", Path: "kv/x", Body: []byte(`{"a":1}`), Policies: []string{"unknown"}},
		{Method: "BREW", Path: "kv/x"},
	} {
		if f.RequestID == "" {
			f.RequestID = "id-1"
		}
		if f.Policies == nil {
			f.Policies = []string{"root"}
		}
		a := primary.core.Handle(context.Background(), &f)
		if a.Status < 400 || a.Status >= 500 || a.Index != 0 {
			t.Errorf("%s %s: got %d %s, want a refusal", f.Method, f.Path, a.Status, a.Body)
		}
	}
	if after := primary.engine.Position(); after != before {
		t.Errorf("refused requests wrote: from index %d to %d", before.Index, after.Index)
	}
	a := primary.core.Handle(context.Background(), &replication.Forwarded{Method: "PUT", Path: "kv/x", Body: []byte(`{"a":1}`), RequestID: "id-2", Policies: []string{"writer"}})
	if a.Status != 204 || a.Index != primary.engine.Position().Index {
		t.Errorf("a lawful write: %d %s, index %d", a.Status, a.Body, a.Index)
	}
}

// panicking is a node that fails where it should not.
type panicking struct{ vault.NoSets }

func (panicking) Recover(context.Context) (string, error) { panic("secret detail") }
func (panicking) Reindex(context.Context, replication.ReindexOptions) (string, error) {
	return "", errors.New("secret detail")
}

func TestFailuresTellNothing(t *testing.T) {
	c := ready(t)
	vault.SetNode(c.core, panicking{})
	for _, path := range []string{"sys/replication/recover", "sys/replication/reindex"} {
		g := c.must(500, "PUT", path, "")
		if strings.Contains(string(g.raw), "secret detail") || strings.Contains(string(g.raw), ".go") {
			t.Errorf("%s tells too much: %v", path, g)
		}
	}
}
