package vault_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/server/vault"
)

// metricOf reads one metric without labels from the JSON form: a gauge's value, a counter's sum, a sample's count.
func metricOf(t *testing.T, g got, list, name string) float64 {
	t.Helper()
	rows, _ := g.at(list).([]any)
	for _, row := range rows {
		m := row.(map[string]any)
		if m["Name"] != name {
			continue
		}
		field := map[string]string{"Gauges": "Value", "Counters": "Sum", "Samples": "Count"}[list]
		v, err := m[field].(json.Number).Float64()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	t.Fatalf("no %s in %s", name, list)
	return 0
}

// bothSets is a node that shows a primary's status of one set and a secondary's of the other, with every field that metrics read.
type bothSets struct{ vault.NoSets }

func (bothSets) Status(k replication.Kind) map[string]any {
	if k == replication.DR {
		return map[string]any{
			"mode": "primary", "state": "running", "certificate_expires_in_seconds": int64(3600), "corrupted_merkle_tree": false, "write_lease_held": true,
			"secondaries": []map[string]any{{
				"node_id": `eu"1`, "connection_status": "connected", "last_heartbeat": "2031-02-03T04:05:00Z", "acked_index": uint64(5), "lag_entries": uint64(2),
				"lag_bytes": uint64(99), "lag_ms": uint64(1500), "retention_headroom_seconds": uint64(86400),
				"resumes": map[string]uint64{"continue": 3, "repair": 1, "rewind": 0, "bootstrap": 1},
			}},
		}
	}
	return map[string]any{
		"mode": "secondary", "state": "stream-wals", "connection_state": "ready", "last_remote_wal": uint64(7), "lag_entries": uint64(3), "lag_bytes": uint64(9),
		"lag_ms": uint64(250), "verified_index": uint64(7), "verified_age_ms": uint64(2000), "resumes": map[string]uint64{"continue": 1, "repair": 0, "rewind": 0, "bootstrap": 1},
		"diff_bytes": uint64(1), "sync_bytes": uint64(2), "certificate_expires_in_seconds": int64(-5), "corrupted_merkle_tree": true,
		"last_performance_wal": uint64(1), "primaries": []map[string]any{{"last_heartbeat": "2031-02-03T04:05:04Z"}},
	}
}

func (bothSets) Meters() *replication.Meters { return replication.NewMeters() }

func withMetrics(t *testing.T) *cluster {
	c := ready(t, func(cfg *vault.Config) {
		cfg.OpenMetrics = true
		cfg.Listener = func() vault.ListenerStats {
			return vault.ListenerStats{Connections: 4, Refused: 2, CertEnds: cfg.Now().Add(3600e9)}
		}
		cfg.Scrub = func() vault.ScrubStatus {
			return vault.ScrubStatus{Enabled: true, Running: true, Progress: 0.5, Found: 3, LastFound: 1, LastEnded: cfg.Now()}
		}
	})
	vault.SetNode(c.core, bothSets{})
	return c
}

// text reads sys/metrics as Prometheus does.
func (c *cluster) text(t *testing.T) string {
	t.Helper()
	resp, err := c.srv.Client().Get(c.srv.URL + "/v1/sys/metrics?format=prometheus")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b strings.Builder
	if _, err := fmt.Fprint(&b, readAll(t, resp.Body)); err != nil || resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("%d %s %v", resp.StatusCode, resp.Header.Get("Content-Type"), err)
	}
	return b.String()
}

var exposition = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*\})? (\S+)$`)

// parseExposition reads the text format strictly and returns each series' value and each family's type.
func parseExposition(t *testing.T, text string) (values map[string]float64, types map[string]string) {
	t.Helper()
	values, types = map[string]float64{}, map[string]string{}
	helped, family := "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			helped, _, _ = strings.Cut(rest, " ")
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			if name != helped || types[name] != "" {
				t.Errorf("type of %s after help of %s; before: %q", name, helped, types[name])
			}
			family, types[name] = name, kind
			continue
		}
		m := exposition.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("not a line of the format: %q", line)
			continue
		}
		if base := strings.TrimSuffix(strings.TrimSuffix(m[1], "_sum"), "_count"); m[1] != family && (types[family] != "summary" || base != family) {
			t.Errorf("%s stands below %s", m[1], family)
		}
		v, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if _, twice := values[m[1]+m[2]]; twice {
			t.Errorf("%s%s stands twice", m[1], m[2])
		}
		values[m[1]+m[2]] = v
	}
	return values, types
}

func TestMetricsInBothForms(t *testing.T) {
	c := withMetrics(t)
	c.must(204, "PUT", "kv/planted-path", `{"planted-name":"planted-value"}`)
	var text string
	for before := uint64(0); before != c.engine.Stats().Commits || text == ""; { // until nothing was committed meanwhile
		before = c.engine.Stats().Commits
		text = c.text(t)
	}
	values, types := parseExposition(t, text)
	for series, want := range map[string]float64{
		`vault_core_active`:                                                         1,
		`vault_core_replication_dr_primary`:                                         1,
		`vault_core_replication_dr_secondary`:                                       0,
		`vault_core_replication_performance_primary`:                                0,
		`lockstep_core_writable`:                                                    1,
		`lockstep_core_writes_refused{reason="disk_full"}`:                          0,
		`lockstep_listener_connections`:                                             4,
		`lockstep_listener_rate_limited_total`:                                      2,
		`lockstep_listener_certificate_expires_in_seconds`:                          3600,
		`vault_logshipper_streamWALs_guard_found`:                                   3,
		`vault_logshipper_streamWALs_missing_guard`:                                 2,
		`vault_replication_fsm_last_remote_wal{set="performance"}`:                  7,
		`vault_replication_fsm_last_upstream_remote_wal{set="performance"}`:         10,
		`lockstep_replication_lag_seconds{set="performance"}`:                       0.25,
		`lockstep_replication_verified_age_seconds{set="performance"}`:              2,
		`lockstep_replication_heartbeat_age_seconds{set="performance"}`:             2.000007,
		`lockstep_replication_resumes_total{set="performance",answer="bootstrap"}`:  1,
		`lockstep_replication_certificate_expires_in_seconds{set="performance"}`:    -5,
		`lockstep_replication_certificate_expires_in_seconds{set="dr"}`:             3600,
		`lockstep_replication_corrupted{set="performance"}`:                         1,
		`lockstep_secondary_retention_headroom_seconds{set="dr",secondary="eu\"1"}`: 86400,
		`lockstep_replication_fenced{set="dr"}`:                                     0,
		`lockstep_replication_write_lease_held{set="dr"}`:                           1,
		`lockstep_secondary_connected{set="dr",secondary="eu\"1"}`:                  1,
		`lockstep_log_poisoned`:                                                     0,
		`lockstep_consistent`:                                                       1,
		`vault_replication_wal_last_wal`:                                            float64(c.engine.Position().Index),
		`lockstep_commit_entries_total`:                                             float64(c.engine.Stats().Entries),
		`vault_wal_persistWALs_count`:                                               float64(c.engine.Stats().Commits),
	} {
		if got, ok := values[series]; !ok || got != want {
			t.Errorf("%s: got %v (there: %v), want %v", series, got, ok, want)
		}
	}
	if types["vault_wal_persistWALs"] != "summary" || types["lockstep_commits_total"] != "counter" || types["lockstep_log_bytes"] != "gauge" {
		t.Errorf("types: %v", types)
	}
	if strings.Contains(text, "planted") || strings.Contains(text, c.root) {
		t.Error("a path, name, value or token is in the metrics")
	}
	g := c.call("GET", "sys/metrics", "", "")
	if got := metricOf(t, g, "Gauges", "vault.core.active"); got != 1 || g.status != 200 || g.text("Timestamp") == "" {
		t.Errorf("JSON: %v %v", got, g.status)
	}
	if got, want := metricOf(t, g, "Samples", "vault.wal.persistWALs"), float64(c.engine.Stats().Commits); got != want {
		t.Errorf("JSON: %v groups were timed, want %v", got, want)
	}
	if g := c.call("GET", "sys/metrics?format=xml", "", ""); g.status != 400 {
		t.Errorf("an unknown form: %v", g)
	}
}

func TestMetricsNeedATokenUnlessTheListenerSaysOtherwise(t *testing.T) {
	c := ready(t)
	c.must(204, "PUT", "sys/policies/acl/watch", `{"policy":"path \"sys/metrics\" { capabilities = [\"read\"] }"}`)
	c.story(t, []step{
		{"nobody", "GET", "sys/metrics", "", "none", 403, nil},
		{"who may not", "GET", "sys/metrics", "", c.token(`{"policies":["default"]}`), 403, nil},
		{"who may", "GET", "sys/metrics", "", c.token(`{"policies":["watch"]}`), 200, nil},
	})
}

func TestMetricsOfADRSecondaryAndOfAClusterThatIsNotInitialised(t *testing.T) {
	c := bare(t, func(cfg *vault.Config) { cfg.OpenMetrics = true })
	if g := c.call("GET", "sys/metrics", "", ""); metricOf(t, g, "Gauges", "lockstep.core.writable") != 1 {
		t.Errorf("not initialised: %v", g.status)
	}
	vault.SetNode(c.core, drSecondary{})
	if g := c.call("GET", "sys/metrics", "", ""); metricOf(t, g, "Gauges", "vault.core.active") != 0 || metricOf(t, g, "Gauges", "vault.core.replication.dr.secondary") != 1 {
		t.Errorf("DR secondary: %v", g.status)
	}
}

// fencedPrimary is fenced in its DR set.
type fencedPrimary struct{ bothSets }

func (f fencedPrimary) Status(k replication.Kind) map[string]any {
	status := f.bothSets.Status(k)
	if k == replication.DR {
		status["state"] = "fenced"
	}
	return status
}

func TestMetricsOfAFencedPrimary(t *testing.T) {
	c := withMetrics(t)
	vault.SetNode(c.core, fencedPrimary{})
	values, _ := parseExposition(t, c.text(t))
	if values[`lockstep_replication_fenced{set="dr"}`] != 1 {
		t.Error("the metric of the fenced set is not 1")
	}
	if v, there := values[`lockstep_replication_fenced{set="performance"}`]; there {
		t.Errorf("a secondary shows %v: only a primary can be fenced", v)
	}
}

type drSecondary struct{ vault.NoSets }

func (drSecondary) Mode(k replication.Kind) replication.Mode {
	if k == replication.DR {
		return replication.Secondary
	}
	return replication.Disabled
}

func (d drSecondary) Status(k replication.Kind) map[string]any {
	return map[string]any{"mode": string(d.Mode(k))}
}

var metricRow = regexp.MustCompile("(?m)^\\| `([a-zA-Z0-9_.]+)` \\| (gauge|counter|summary) \\| ([^|]+) \\|")

// TestTheMetricsPageIsWhatTheServerExposes compares docs/metrics.md with the table, and the table with an answer.
func TestTheMetricsPageIsWhatTheServerExposes(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, m := range metricRow.FindAllStringSubmatch(string(page), -1) {
		if documented[m[1]] != "" {
			t.Errorf("%s stands twice on the page", m[1])
		}
		documented[m[1]] = m[2] + ", " + strings.TrimSpace(m[3])
	}
	served := vault.Metrics()
	for name, want := range served {
		if documented[name] != want {
			t.Errorf("the page says of %s %q, the server exposes %q", name, documented[name], want)
		}
	}
	for name := range documented {
		if served[name] == "" {
			t.Errorf("the page has %s, the server has not", name)
		}
	}
	_, types := parseExposition(t, withMetrics(t).text(t))
	if len(types) != len(served) {
		t.Errorf("the table has %d metrics, a node with everything shows %d", len(served), len(types))
	}
}

func TestPromtoolTakesTheMetrics(t *testing.T) {
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed: the format is checked by TestMetricsInBothForms only")
	}
	text := withMetrics(t).text(t)
	cmd := exec.Command(tool, "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	// 3: it reads, and promtool dislikes the style of a name. Vault's names are what they are; ours must be liked.
	if err != nil && cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "lockstep_") {
			t.Errorf("promtool: %s", line)
		}
	}
}

func TestInFlightRequests(t *testing.T) {
	c := ready(t)
	g := c.must(200, "GET", "sys/in-flight-req", "")
	if len(g.body) != 1 {
		t.Fatalf("one request asks, and %d are in flight: %v", len(g.body), g)
	}
	for _, f := range g.body {
		if got := f.(map[string]any); got["request_path"] != "/v1/sys/in-flight-req" || got["request_method"] != "GET" {
			t.Errorf("in flight: %v", got)
		}
	}
	if g := c.call("GET", "sys/in-flight-req", "", ""); g.status != 403 {
		t.Errorf("without a token: %v", g)
	}
}
