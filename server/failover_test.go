package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// member is a server of a failover test; its DR operation token is there whenever a core is.
type member struct{ *running }

const operationToken = "hvs.operation-token-of-the-test"

func runMember(t *testing.T) *member {
	t.Helper()
	cfg := testConfig(t)
	cfg.built = func(c *core) {
		if err := c.vault.SetDROperationToken(operationToken); err != nil {
			t.Error(err)
		}
	}
	return &member{runServer(t, cfg)}
}

// restart ends the server and starts it again on the same directory and ports.
func (m *member) restart() {
	m.t.Helper()
	m.stop()
	if err := m.end(); err != nil {
		m.t.Fatalf("stopping: %v", err)
	}
	m.running = runServer(m.t, m.cfg)
}

func (m *member) call(method, path string, body any) (int, map[string]any) {
	m.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		m.t.Fatal(err)
	}
	code, text := m.do(method, path, string(b))
	var out map[string]any
	if text != "" && code != 0 && json.Unmarshal([]byte(text), &out) != nil {
		m.t.Fatalf("%s %s: %s", method, path, text)
	}
	return code, out
}

// must repeats a call as clients do while a role changes, and demands a status.
func (m *member) must(status int, method, path string, body any) map[string]any {
	m.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		got, out := m.call(method, path, body)
		if got == status {
			return out
		}
		if got != 0 && got < 500 || time.Now().After(end) {
			m.t.Fatalf("%s %s: got %d %v, want %d\n%s", method, path, got, out, status, m.log)
		}
	}
}

func (m *member) status(kind string) map[string]any {
	_, out := m.call("GET", "sys/replication/"+kind+"/status", nil)
	data, _ := out["data"].(map[string]any)
	return data
}

func (m *member) until(what string, kind string, ok func(status map[string]any) bool) {
	m.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if s := m.status(kind); s != nil && ok(s) {
			return
		}
	}
	m.t.Fatalf("it does not come to be that %s: %v\n%s", what, m.status(kind), m.log)
}

func (m *member) token(kind, id string) string {
	out := m.must(200, "PUT", "sys/replication/"+kind+"/primary/secondary-token", map[string]any{"id": id})
	return out["wrap_info"].(map[string]any)["token"].(string)
}

// follows waits until a secondary streams with its primary's root.
func (m *member) follows(p *member) {
	m.t.Helper()
	m.until("it follows", "dr", func(s map[string]any) bool {
		return s["mode"] == "secondary" && s["state"] == "stream-wals" && s["merkle_root"] == p.status("dr")["merkle_root"]
	})
}

// TestAFailoverThroughTheAPI is the runbook of a planned DR failover, with the calls that an operator makes: enable, demote, promote, update-primary. The
// performance primary's part moves along.
func TestAFailoverThroughTheAPI(t *testing.T) {
	t.Parallel()
	a, b := runMember(t), runMember(t)
	const dr, op = "sys/replication/dr/", "dr_operation_token"
	a.must(200, "PUT", dr+"primary/enable", map[string]any{})
	a.must(200, "PUT", "sys/replication/performance/primary/enable", map[string]any{})
	a.token("performance", "perf-1")
	for i := range 20 {
		a.must(200, "PUT", fmt.Sprintf("secret/data/k%d", i), map[string]any{"data": map[string]any{"v": i}})
	}
	b.must(200, "PUT", dr+"secondary/enable", map[string]any{"token": a.token("dr", "b")})
	b.follows(a)
	if code, out := b.call("GET", "secret/data/k1", nil); code != 400 || !strings.Contains(fmt.Sprint(out), "path disabled in replication DR secondary mode") {
		t.Errorf("a read on a DR secondary: got %d %v", code, out)
	}
	perf := a.status("performance")

	a.must(200, "PUT", dr+"primary/demote", nil)
	a.until("it is demoted", "dr", func(s map[string]any) bool { return s["mode"] == "secondary" && s["state"] == "idle" })
	if code, _ := a.call("PUT", "secret/data/k1", map[string]any{"data": map[string]any{}}); code != 400 {
		t.Errorf("a write on the demoted primary: got %d", code)
	}
	if code, out := b.call("PUT", dr+"secondary/promote", map[string]any{}); code != 400 {
		t.Errorf("promote without a token: got %d %v", code, out)
	}
	if code, out := b.call("PUT", dr+"secondary/promote", map[string]any{op: "hvs.wrong"}); code != 403 {
		t.Errorf("promote with a wrong token: got %d %v", code, out)
	}
	out := b.must(200, "PUT", dr+"secondary/promote", map[string]any{op: operationToken})
	if w, _ := out["warnings"].([]any); len(w) == 0 {
		t.Errorf("promote answers %v, want a warning", out)
	}
	b.until("it is the primary", "dr", func(s map[string]any) bool { return s["mode"] == "primary" && s["state"] == "running" })
	if got := b.status("dr")["known_secondaries"].([]any); len(got) != 0 {
		t.Errorf("promoted: known_secondaries %v, want none", got)
	}
	b.must(200, "PUT", dr+"secondary/promote", map[string]any{op: operationToken}) // clients repeat
	if got := b.status("performance"); got["mode"] != "primary" || got["cluster_id"] != perf["cluster_id"] || fmt.Sprint(got["known_secondaries"]) != "[perf-1]" {
		t.Errorf("promoted: its performance part is %v, want that of %v", got, perf)
	}
	got := b.must(200, "GET", "secret/data/k19", nil)
	if v := got["data"].(map[string]any)["data"].(map[string]any)["v"]; v != 19.0 {
		t.Errorf("a record after the failover: got %v", v)
	}
	b.must(200, "PUT", "secret/data/after", map[string]any{"data": map[string]any{"v": 1}})
	b.token("performance", "perf-2") // it signs tokens of its own

	a.must(200, "PUT", dr+"secondary/update-primary", map[string]any{op: operationToken, "token": b.token("dr", "a-old")})
	a.follows(b)
	if s := a.status("dr"); s["diff_bytes"] != 0.0 || s["sync_bytes"] != 0.0 {
		t.Errorf("coming back cost %v bytes of diff and %v of sync, want none", s["diff_bytes"], s["sync_bytes"])
	}
	if code, _ := a.call("GET", "sys/health", nil); code != 472 {
		t.Errorf("health of the new secondary: got %d, want 472", code)
	}
	for _, m := range []*member{a, b} { // each starts in the role that it has now
		m.restart()
	}
	a.follows(b)
	b.must(200, "GET", "secret/data/after", nil)

	a.must(200, "PUT", dr+"secondary/disable", map[string]any{op: operationToken})
	a.until("it stands alone", "dr", func(s map[string]any) bool { return s["mode"] == "disabled" && len(s) == 1 })
	a.must(200, "PUT", "secret/data/alone", map[string]any{"data": map[string]any{"v": 1}})
}
