package vault_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lockstepdb/lockstep/server/vault"
)

// sink is a standard output that a test reads, and can make fail.
type sink struct {
	mu   sync.Mutex
	text bytes.Buffer
	full bool // it takes nothing
	last int  // entries that it still takes when it is not negative
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full || s.last == 0 {
		return 0, os.ErrClosed
	}
	if s.last > 0 {
		s.last--
	}
	return s.text.Write(p)
}

func (s *sink) set(full bool, last int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full, s.last = full, last
}

// entries takes what was written.
func (s *sink) entries(t *testing.T) []map[string]any {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []map[string]any
	for line := range strings.Lines(s.text.String()) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		out = append(out, e)
	}
	s.text.Reset()
	return out
}

func audited(t *testing.T, mods ...func(*vault.Config)) (*cluster, *sink) {
	t.Helper()
	out := &sink{last: -1}
	c := ready(t, append(mods, func(cfg *vault.Config) { cfg.Stdout = out })...)
	c.must(204, "PUT", "sys/audit/out", `{"type":"file","options":{"file_path":"stdout"}}`)
	out.entries(t)
	return c, out
}

func at(e map[string]any, path string) any { return got{body: e}.at(path) }

func TestAuditCalls(t *testing.T) {
	data := t.TempDir()
	c := ready(t, func(cfg *vault.Config) { cfg.DataDir = data })
	file := filepath.Join(t.TempDir(), "audit.log")
	c.must(204, "PUT", "sys/policies/acl/maker", `{"policy":"path \"sys/audit\" { capabilities = [\"read\"] }"}`)
	maker := c.token(`{"policies":["maker"]}`)
	c.story(t, []step{
		{"none at first", "GET", "sys/audit", "", "", 200, map[string]string{"data": `{}`}},
		{"listing needs sudo", "GET", "sys/audit", "", maker, 403, nil},
		{"another type", "PUT", "sys/audit/s", `{"type":"syslog"}`, "", 400, nil},
		{"no path", "PUT", "sys/audit/f", `{"type":"file"}`, "", 400, nil},
		{"raw", "PUT", "sys/audit/f", `{"type":"file","options":{"file_path":"` + file + `","log_raw":"true"}}`, "", 400, nil},
		{"among the store's files", "PUT", "sys/audit/f", `{"type":"file","options":{"file_path":"` + data + `/x"}}`, "", 400, nil},
		{"the server's own memory", "PUT", "sys/audit/f", `{"type":"file","options":{"file_path":"/proc/self/mem"}}`, "", 400, nil},
		{"a beginning of one's own", "PUT", "sys/audit/f", `{"type":"file","options":{"file_path":"` + file + `","prefix":"* * * * * root "}}`, "", 400, nil},
		{"a mode for the world", "PUT", "sys/audit/f", `{"type":"file","options":{"file_path":"` + file + `","mode":"0644"}}`, "", 400, nil},
		{"nothing of that was kept", "GET", "sys/audit", "", "", 200, map[string]string{"data": `{}`}},
		{"a path that cannot be opened", "PUT", "sys/audit/f", `{"type":"file","options":{"file_path":"` + file + `/x"}}`, "", 400, nil},
		{"a file", "PUT", "sys/audit/f", `{"type":"file","description":"of the night","options":{"file_path":"` + file + `","mode":"0600"},"local":true}`, "", 204, nil},
		{"listed", "GET", "sys/audit", "", "", 200, map[string]string{
			"data.f/.type": `"file"`, "data.f/.local": `true`, "f/.description": `"of the night"`, "data.f/.options.mode": `"0600"`, "data.f/.path": `"f/"`}},
		{"twice", "POST", "sys/audit/f/", `{"type":"file","options":{"file_path":"` + file + `2"}}`, "", 400, nil},
		{"below it", "POST", "sys/audit/f/g", `{"type":"file","options":{"file_path":"` + file + `2"}}`, "", 400, nil},
		{"hash of nothing", "POST", "sys/audit-hash/f", `{}`, "", 400, nil},
		{"hash of no device", "POST", "sys/audit-hash/g", `{"input":"x"}`, "", 400, nil},
		{"disable", "DELETE", "sys/audit/f", "", "", 204, nil},
		{"disable again", "DELETE", "sys/audit/f", "", "", 204, nil},
		{"none at last", "GET", "sys/audit", "", "", 200, map[string]string{"data": `{}`}},
	})
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 || info.Size() == 0 {
		t.Errorf("the device's file: %v %v", info, err)
	}
}

func TestADeviceThatCannotRecordIsNotEnabled(t *testing.T) {
	out := &sink{full: true, last: -1}
	c := ready(t, func(cfg *vault.Config) { cfg.Stdout = out })
	const device = `{"type":"file","options":{"file_path":"stdout"}}`
	if g := c.call("PUT", "sys/audit/out", c.root, device); g.status != 400 || !strings.Contains(string(g.raw), "was not enabled") {
		t.Errorf("a device that takes nothing: %v", g)
	}
	c.must(204, "PUT", "kv/a", `{"v":1}`)
	out.set(false, -1)
	c.must(204, "PUT", "sys/audit/out", device)
	if got := out.entries(t); len(got) == 0 || at(got[0], "type") != "request" || at(got[0], "request.path") != "sys/audit/test" {
		t.Errorf("entries: %v", got)
	}
}

func TestAuditRecordsRequestAndAnswer(t *testing.T) {
	c, out := audited(t)
	hash := func(text string) string {
		h := c.must(200, "POST", "sys/audit-hash/out", `{"input":"`+text+`"}`).text("data.hash")
		out.entries(t)
		return h
	}
	token, value := hash(c.root), hash("planted-value")
	c.must(204, "PUT", "kv/a", `{"password":"planted-value","n":7}`)
	c.must(200, "GET", "kv/a", "")
	got := out.entries(t)
	if len(got) != 4 {
		t.Fatalf("two requests gave %d entries", len(got))
	}
	for i, want := range []map[string]any{
		{"type": "request", "request.operation": "update", "request.path": "kv/a", "request.data.password": value, "request.data.n": 7.0, "auth.client_token": token,
			"auth.display_name": "root", "request.client_token": token, "request.remote_address": "127.0.0.1", "request.namespace.id": "root", "response": nil},
		{"type": "response", "request.operation": "update", "request.data.password": value, "response.mount_point": "kv/", "response.mount_type": "kv"},
		{"type": "request", "request.operation": "read", "request.data": nil},
		{"type": "response", "response.data.password": value, "response.data.n": 7.0, "error": nil},
	} {
		for path, v := range want {
			if got := at(got[i], path); got != v {
				t.Errorf("entry %d: %s is %v, want %v", i, path, got, v)
			}
		}
	}
	if a, b := at(got[0], "request.id"), at(got[1], "request.id"); a != b || a == nil {
		t.Errorf("the ids of a request and its answer: %v, %v", a, b)
	}
	for _, e := range got {
		text, _ := json.Marshal(e)
		if strings.Contains(string(text), "planted") || strings.Contains(string(text), c.root) {
			t.Errorf("a secret is in %s", text)
		}
	}
}

func TestAuditRecordsRefusalsAndWhatWasGivenOut(t *testing.T) {
	c, out := audited(t)
	c.call("GET", "kv/a", "hvs.nonsense", "")
	c.call("PUT", "kv/a", "", `{"secret":"planted"}`)
	got := out.entries(t)
	if len(got) != 4 {
		t.Fatalf("two refused requests gave %d entries", len(got))
	}
	for i, e := range got {
		if at(e, "error") != "permission denied" || at(e, "request.data") != nil {
			t.Errorf("entry %d: %v", i, e)
		}
	}
	given := c.token(`{"policies":["default"]}`)
	wrapped := c.call("GET", "sys/mounts", c.root, "", "X-Vault-Wrap-TTL", "60").text("wrap_info.token")
	got = out.entries(t)
	text, _ := json.Marshal(got)
	if len(got) != 4 || strings.Contains(string(text), given) || strings.Contains(string(text), wrapped) {
		t.Fatalf("entries: %s", text)
	}
	h := func(text string) string {
		return c.must(200, "POST", "sys/audit-hash/out", `{"input":"`+text+`"}`).text("data.hash")
	}
	if at(got[1], "response.auth.client_token") != h(given) || at(got[3], "response.wrap_info.token") != h(wrapped) || at(got[3], "request.wrap_ttl") != 60.0 {
		t.Errorf("entries: %s", text)
	}
	out.entries(t)
	for _, path := range []string{"sys/health", "sys/seal-status", "sys/leader", "sys/init", "sys/replication/status", "sys/replication/dr/status"} {
		c.call("GET", path, "", "")
	}
	if got := out.entries(t); len(got) != 0 {
		t.Errorf("what needs no token and tells of the cluster was recorded: %v", got)
	}
}

// TestASmallBodyMakesNoLargeEntry sends what a stranger may: 63 KB that would have been megabytes of hashes.
func TestASmallBodyMakesNoLargeEntry(t *testing.T) {
	c, out := audited(t)
	for _, text := range []string{"", "x"} {
		body := `{"a":[` + strings.TrimSuffix(strings.Repeat(`"`+text+`",`, 15000), ",") + `]}`
		c.call("POST", "sys/wrapping/lookup", "", body)
		out.mu.Lock()
		size := out.text.Len()
		out.mu.Unlock()
		got := out.entries(t)
		if len(got) != 2 || size > 4096 {
			t.Fatalf("%d bytes gave %d entries of %d bytes", len(body), len(got), size)
		}
		hash := c.must(200, "POST", "sys/audit-hash/out", `{"input":`+quoted(body)+`}`).text("data.hash")
		out.entries(t)
		if at(got[0], "request.data.hashed") != hash {
			t.Errorf("the entry: %v, want %s", got[0], hash)
		}
	}
}

func quoted(text string) string {
	b, _ := json.Marshal(text)
	return string(b)
}

func TestAPerformanceSecondaryHasAuditDevicesOfItsOwnOnly(t *testing.T) {
	primary, s, link := pair(t)
	device := func(name string) string {
		return `{"type":"file","options":{"file_path":"` + filepath.Join(t.TempDir(), name) + `"}`
	}
	vault.SetNode(s.core, &part{})
	s.must(204, "PUT", "sys/audit/shared", device("shared")+`}`) // as the primary's, received
	vault.SetNode(s.core, link)
	before := primary.engine.Position()
	s.story(t, []step{
		{"a replicated one", "PUT", "sys/audit/f", device("f") + `}`, "", 400, map[string]string{
			"errors": `["enable replicated audit devices on the primary, or pass local=true for one of this cluster alone"]`}},
		{"its own", "PUT", "sys/audit/own", device("own") + `,"local":true}`, "", 204, nil},
		{"disabling a replicated one", "DELETE", "sys/audit/shared", "", "", 400, map[string]string{
			"errors": `["the audit device shared/ is replicated: disable it on the primary"]`}},
		{"disabling its own", "DELETE", "sys/audit/own", "", "", 204, nil},
		{"what is left", "GET", "sys/audit", "", "", 200, map[string]string{"data.own/": `null`, "data.shared/.local": `false`}},
	})
	if after := primary.engine.Position(); after != before || len(link.seen) != 0 {
		t.Errorf("the primary was asked %d times: from index %d to %d", len(link.seen), before.Index, after.Index)
	}
}

func TestWithoutARecordNothingIsDoneAndNothingIsAnswered(t *testing.T) {
	c, out := audited(t)
	c.must(204, "PUT", "kv/a", `{"v":1}`)
	out.set(true, -1)
	c.story(t, []step{
		{"a write", "PUT", "kv/a", `{"v":2}`, "", 500, nil},
		{"a read", "GET", "kv/a", "", "", 500, map[string]string{"data": `null`}},
		{"a refusal", "GET", "kv/a", "", "none", 500, nil},
		{"what is not recorded", "GET", "sys/health", "", "none", 200, nil},
	})
	out.set(false, 1) // the request, and not its answer
	if g := c.call("PUT", "kv/a", c.root, `{"v":3}`); g.status != 409 || !strings.Contains(string(g.raw), "read before you write again") {
		t.Errorf("a write whose answer was not recorded: %v", g)
	}
	out.set(false, 1)
	if g := c.call("GET", "kv/a", c.root, ""); g.status != 500 || g.at("data") != nil {
		t.Errorf("a read whose answer was not recorded: %v", g)
	}
	out.set(false, -1)
	if g := c.must(200, "GET", "kv/a", ""); !same(g.at("data"), `{"v":3}`) {
		t.Errorf("afterwards: %v", g)
	}
	m := c.must(200, "GET", "sys/metrics", "")
	if got := metricOf(t, m, "Counters", "vault.audit.log_request_failure"); got != 3 {
		t.Errorf("refused for want of a record: %v", got)
	}
	if got := metricOf(t, m, "Counters", "vault.audit.log_response_failure"); got != 2 {
		t.Errorf("withheld for want of a record: %v", got)
	}
}

func TestOneDeviceOfSeveralIsEnough(t *testing.T) {
	c, out := audited(t)
	file := filepath.Join(t.TempDir(), "audit.log")
	c.must(204, "PUT", "sys/audit/file", `{"type":"file","options":{"file_path":"`+file+`"}}`)
	out.set(true, -1)
	c.must(204, "PUT", "kv/a", `{"v":1}`)
	m := c.must(200, "GET", "sys/metrics", "")
	if a, b := metricOf(t, m, "Gauges", "lockstep.audit.devices"), metricOf(t, m, "Gauges", "lockstep.audit.devices_failing"); a != 2 || b != 1 {
		t.Errorf("%v devices, %v failing", a, b)
	}
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	c.core.ReopenAudit()
	c.must(200, "GET", "kv/a", "")
	for name, want := range map[string]string{file + ".1": `"path":"kv/a","data":{"v":1}`, file: `"operation":"read"`} {
		if text, err := os.ReadFile(name); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s after the rotation: %v, want %s in %s", name, err, want, text)
		}
	}
}

func TestAFailedDeviceCanStillBeDisabledWhenAnotherRecords(t *testing.T) {
	c, out := audited(t)
	file := filepath.Join(t.TempDir(), "audit.log")
	c.must(204, "PUT", "sys/audit/file", `{"type":"file","options":{"file_path":"`+file+`"}}`)
	out.set(true, -1)
	c.must(204, "DELETE", "sys/audit/out", "")
	c.must(204, "PUT", "kv/a", `{"v":1}`)
	if g := c.must(200, "GET", "sys/audit", ""); len(g.at("data").(map[string]any)) != 1 {
		t.Errorf("devices: %v", g)
	}
}
