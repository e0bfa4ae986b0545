package vault_test

import (
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/server/vault"
	"github.com/lockstepdb/lockstep/wal"
)

// reopened is a cluster whose store was opened again with another configuration.
func reopened(t *testing.T, c *cluster, mod func(*engine.Config)) *cluster {
	t.Helper()
	e := enginetest.Reopen(t, c.engine, mod)
	next := bare(t, func(cfg *vault.Config) { cfg.Engine = e })
	next.engine, next.root = e, c.root
	return next
}

func TestHealthOfAFullDiskIsAStandbys(t *testing.T) {
	c := ready(t)
	c.must(204, "PUT", "kv/a", `{"a":1}`)
	c = reopened(t, c, func(cfg *engine.Config) { cfg.MinFree = 1 << 60 })
	c.story(t, []step{
		{"like a standby", "GET", "sys/health", "", "none", 429, map[string]string{"standby": `true`, "initialized": `true`, "sealed": `false`}},
		{"with a code", "GET", "sys/health?standbycode=299", "", "none", 299, nil},
		{"when standbys are good enough", "GET", "sys/health?standbyok=true", "", "none", 200, nil},
		{"with a code for that", "GET", "sys/health?standbyok=1&activecode=298", "", "none", 298, nil},
		{"when they are not", "GET", "sys/health?standbyok=false", "", "none", 429, nil},
		{"neither", "GET", "sys/health?standbyok=maybe", "", "none", 400, map[string]string{"errors": `[]`}},
		{"of performance standbys", "GET", "sys/health?perfstandbyok=true", "", "none", 429, nil},
		{"reads go on", "GET", "kv/a", "", "", 200, map[string]string{"data.a": `1`}},
		{"writes do not", "PUT", "kv/a", `{"a":2}`, "", 503, nil},
	})
	if g := c.call("GET", "sys/health", "", ""); !strings.Contains(g.text("reason"), "free some disk") {
		t.Errorf("the reason: %v", g)
	}
	m := c.must(200, "GET", "sys/metrics", "")
	if got := metricOf(t, m, "Gauges", "lockstep.core.writable"); got != 0 {
		t.Errorf("writable: %v", got)
	}
	secondary := &part{performance: replication.Secondary}
	vault.SetNode(c.core, secondary)
	if g := c.call("GET", "sys/health", "", ""); g.status != 200 {
		t.Errorf("a secondary, whose clients' writes the primary takes: %v", g)
	}
}

func TestReadsDuringASyncCarryAWarning(t *testing.T) {
	c := ready(t)
	c.must(204, "PUT", "kv/a", `{"a":1}`)
	c.must(204, "POST", "sys/mounts/mine", `{"type":"kv","local":true}`)
	c.must(204, "PUT", "mine/a", `{"a":1}`)
	vault.SetNode(c.core, &part{performance: replication.Secondary})
	warnings := func(path string) []any {
		t.Helper()
		w, _ := c.must(200, "GET", path, "").at("warnings").([]any)
		return w
	}
	if w := warnings("kv/a"); len(w) != 0 {
		t.Errorf("without a sync: %v", w)
	}
	if _, err := c.engine.BeginSync(enginetest.Context(t), engine.Performance, wal.Position{Fork: wal.Fork{1}, Index: 5}, wal.Hash{}, wal.Lineage{1}); err != nil {
		t.Fatal(err)
	}
	if w := warnings("kv/a"); len(w) != 1 || !strings.Contains(w[0].(string), "merkle-sync") {
		t.Errorf("during a sync: %v", w)
	}
	if w := warnings("mine/a"); len(w) != 0 {
		t.Errorf("of a local mount: %v", w)
	}
	for _, tt := range []struct {
		name, method, path string
		warned             bool
	}{
		{"a key that is not there", "GET", "kv/none", true},
		{"a folder that is not there", "LIST", "kv/none", true},
		{"a mount that is not there", "GET", "none/a", true},
		{"a key that is not there, of a local mount", "GET", "mine/none", false},
		{"a path of the API that is none", "GET", "sys/none", false},
	} {
		g := c.must(404, tt.method, tt.path, "")
		w, _ := g.at("warnings").([]any)
		if (len(w) == 1 && strings.Contains(w[0].(string), "merkle-sync")) != tt.warned {
			t.Errorf("%s: warnings %v, want one %v", tt.name, w, tt.warned)
		}
		if _, ok := g.at("errors").([]any); !ok {
			t.Errorf("%s: no list of errors: %v", tt.name, g)
		}
	}
	if g := c.call("GET", "sys/health", "", ""); g.status != 200 {
		t.Errorf("health: %v", g)
	}
}

// farAway is a secondary whose link shows what health repeats as numbers.
type farAway struct{ bothSets }

func (farAway) Mode(k replication.Kind) replication.Mode {
	if k == replication.Performance {
		return replication.Secondary
	}
	return replication.Disabled
}

func (farAway) Status(replication.Kind) map[string]any {
	return map[string]any{"primaries": []map[string]any{{"clock_skew_ms": "-3", "last_heartbeat_duration_ms": "21", "replication_primary_canary_age_ms": "250"}}}
}

func TestHealthTellsOfTheLinkInNumbers(t *testing.T) {
	c := ready(t)
	vault.SetNode(c.core, farAway{})
	c.story(t, []step{
		{"health", "GET", "sys/health", "", "none", 200, map[string]string{"clock_skew_ms": `-3`, "echo_duration_ms": `21`, "replication_primary_canary_age_ms": `250`}},
		{"nodes", "GET", "sys/ha-status", "", "", 200, map[string]string{}},
	})
	node := c.must(200, "GET", "sys/ha-status", "").at("data.nodes").([]any)[0]
	if got := (got{body: node.(map[string]any)}); !same(got.at("echo_duration_ms"), `21`) || !same(got.at("active_node"), `true`) || got.text("cluster_address") == "" {
		t.Errorf("the node: %v", node)
	}
}

func TestWhatTheSystemTellsOfItself(t *testing.T) {
	c := ready(t, func(cfg *vault.Config) {
		cfg.DataDir = t.TempDir()
		cfg.Sanitized = func() map[string]any { return map[string]any{"log_level": "info"} }
	})
	c.story(t, []step{
		{"license", "GET", "sys/license/status", "", "", 200, map[string]string{"data.autoloaded.features": `["DR Replication","Performance Replication"]`}},
		{"configuration", "GET", "sys/config/state/sanitized", "", "", 200, map[string]string{"data.log_level": `"info"`}},
		{"host", "GET", "sys/host-info", "", "", 200, nil},
		{"none of it without a token", "GET", "sys/host-info", "", "none", 403, nil},
		{"nor this", "GET", "sys/config/state/sanitized", "", "none", 403, nil},
		{"versions, none noted yet", "LIST", "sys/version-history", "", "", 404, nil},
	})
	if disk, _ := c.must(200, "GET", "sys/host-info", "").at("data.disk").([]any); len(disk) != 1 {
		t.Errorf("disks: %v", disk)
	}
	for _, v := range []string{"0.1.0", "0.1.0", "0.2.0"} {
		c.clock.pass(3600e9)
		if err := vault.NoteVersion(c.core, enginetest.Context(t), v); err != nil {
			t.Fatal(err)
		}
	}
	c.story(t, []step{{"versions", "LIST", "sys/version-history", "", "", 200, map[string]string{
		"data.keys": `["0.1.0","0.2.0"]`}}})
	info := c.must(200, "LIST", "sys/version-history", "").at("data.key_info").(map[string]any)
	if before := info["0.2.0"].(map[string]any)["previous_version"]; before != "0.1.0" {
		t.Errorf("before 0.2.0 came %v", before)
	}
}
