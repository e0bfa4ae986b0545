package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/snapshot"
)

// raw sends bytes and returns the answer's.
func (n *shamirNode) raw(method, path string, body []byte, want int) []byte {
	n.t.Helper()
	req, err := http.NewRequest(method, n.url+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", n.token)
	req.Close = true
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		n.t.Fatalf("%s %s: %v\n%s", method, path, err, n.log)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != want {
		n.t.Fatalf("%s %s: %d %v %.500s, want %d\n%s", method, path, answer.StatusCode, err, b, want, n.log)
	}
	return b
}

// eventually waits until a path is answered with a status: a restored node is away for a moment.
func (n *shamirNode) eventually(path string, want int) map[string]any {
	n.t.Helper()
	var status int
	var out map[string]any
	waitFor(n.t, path, func() bool {
		req, err := http.NewRequest("GET", n.url+"/v1/"+path, nil)
		if err != nil {
			n.t.Fatal(err)
		}
		req.Header.Set("X-Vault-Token", n.token)
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		status, out = answer.StatusCode, nil
		_ = json.NewDecoder(answer.Body).Decode(&out)
		return status == want
	})
	return out
}

func initialised(t *testing.T) (*shamirNode, []string) {
	t.Helper()
	n := runShamir(t, shamirConfig(t))
	keys := n.init(`{"secret_shares":2,"secret_threshold":2}`, "keys_base64")
	n.unseal(keys...)
	n.call("POST", "sys/mounts/kv", `{"type":"kv"}`, 204)
	n.call("PUT", "kv/app", `{"v":"before"}`, 204)
	return n, keys
}

func TestARunningClusterIsRestoredOverHTTP(t *testing.T) {
	t.Parallel()
	n, keys := initialised(t)
	taken := n.raw("GET", "sys/storage/snapshot", nil, 200)
	n.call("PUT", "kv/app", `{"v":"after"}`, 204)
	n.call("PUT", "kv/later", `{"v":1}`, 204)

	said := string(n.raw("POST", "sys/storage/raft/snapshot", taken, 400))
	for _, part := range []string{"nothing was changed", "The snapshot is whole", "with force"} {
		if !strings.Contains(said, part) {
			t.Errorf("without force: got %s, want …%s…", said, part)
		}
	}
	if got := n.call("GET", "kv/app", "", 200); fmt.Sprint(got["data"]) != "map[v:after]" {
		t.Fatalf("a refused restore changed something: %v", got)
	}
	n.raw("POST", "sys/storage/snapshot-force", taken[:len(taken)-100], 400)
	n.raw("POST", "sys/storage/snapshot-force", []byte("{}"), 400)
	n.raw("POST", "sys/storage/snapshot?force=perhaps", taken, 400)
	if left := leftOvers(t, n.cfg.DataDir); len(left) > 0 {
		t.Errorf("refused restores left %v", left)
	}

	done := n.raw("POST", "sys/storage/raft/snapshot-force", taken, 200)
	if !strings.Contains(string(done), `"epoch":2`) {
		t.Errorf("restored: %s, want the second epoch", done)
	}
	if got := n.eventually("kv/app", 200); fmt.Sprint(got["data"]) != "map[v:before]" {
		t.Errorf("after a restore: %v", got)
	}
	n.call("GET", "kv/later", "", 404)
	n.call("PUT", "kv/new", `{"v":1}`, 204)

	n = n.restart()
	n.unseal(keys...)
	if got := n.call("GET", "kv/app", "", 200); fmt.Sprint(got["data"]) != "map[v:before]" {
		t.Errorf("after a restart: %v", got)
	}
	n.call("GET", "kv/new", "", 200)
	// The second restore of the same file is one more epoch.
	if done := n.raw("POST", "sys/storage/snapshot?force=true", taken, 200); !strings.Contains(string(done), `"epoch":3`) {
		t.Errorf("restored again: %s, want the third epoch", done)
	}
	n.eventually("kv/app", 200)
}

// leftOvers are generations that are not live.
func leftOvers(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	live, err := os.ReadFile(filepath.Join(dir, currentName))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), generationPrefix) && e.Name() != strings.TrimSpace(string(live)) {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestAForeignSnapshotIsRefusedByName(t *testing.T) {
	t.Parallel()
	n, _ := initialised(t)
	other, _ := initialised(t)
	said := string(n.raw("POST", "sys/storage/snapshot-force", other.raw("GET", "sys/storage/raft/snapshot", nil, 200), 400))
	if !strings.Contains(said, "the snapshot is of cluster") || !strings.Contains(said, "lockstep snapshot restore") {
		t.Errorf("got %s", said)
	}
	n.token = "no-token"
	n.raw("GET", "sys/storage/snapshot", nil, 403)
	n.raw("POST", "sys/storage/snapshot-force", nil, 403)
}

// open reads a snapshot for a restore.
func openTaken(t *testing.T, b []byte) *snapshot.Reader {
	t.Helper()
	r, err := snapshot.Open(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func given(keys []string) Unsealer {
	return Unsealer{Shares: func(int) ([]string, error) { return keys, nil }}
}

func TestALostClusterIsRestoredIntoAnEmptyDirectory(t *testing.T) {
	t.Parallel()
	n, keys := initialised(t)
	n.call("POST", "sys/replication/dr/primary/enable", "{}", 200)
	set := n.call("GET", "sys/replication/dr/status", "", 200)["data"].(map[string]any)["cluster_id"]
	taken := n.raw("GET", "sys/storage/snapshot", nil, 200)
	ctx := context.Background()

	cfg := shamirConfig(t)
	log := hclog.NewNullLogger()
	if _, err := RestoreStopped(ctx, cfg, openTaken(t, taken), given(keys[:1]), log, nil); err == nil {
		t.Error("one share of two opened it")
	}
	if _, err := RestoreStopped(ctx, n.cfg, openTaken(t, taken), given(keys), log, nil); err == nil {
		t.Error("the directory of a running server was taken")
	}
	done, err := RestoreStopped(ctx, cfg, openTaken(t, taken), given(keys), log, nil)
	if err != nil {
		t.Fatal(err)
	}
	if done.Ordinal != 2 {
		t.Errorf("got %+v, want the second epoch", done)
	}
	if _, err := RestoreStopped(ctx, cfg, openTaken(t, taken), given(keys), log, nil); err == nil || !strings.Contains(err.Error(), "holds a store already") {
		t.Errorf("restoring over a store: %v", err)
	}
	again := runShamir(t, cfg)
	again.token = n.token
	again.unseal(keys...)
	if got := again.call("GET", "kv/app", "", 200); fmt.Sprint(got["data"]) != "map[v:before]" {
		t.Errorf("got %v", got)
	}
	if got := again.call("GET", "sys/replication/dr/status", "", 200)["data"].(map[string]any); got["mode"] != "primary" || got["cluster_id"] != set {
		t.Errorf("got %v, want the primary of set %v", got, set)
	}
}

func TestARestoreSurvivesACrashAtEachStep(t *testing.T) {
	t.Parallel()
	n, keys := initialised(t)
	taken := n.raw("GET", "sys/storage/snapshot", nil, 200)
	all := []string{"create", "role", "rename generation", "fill", "filled", "write CURRENT", "rename CURRENT", "adopted"}
	for _, step := range all {
		t.Run(step, func(t *testing.T) {
			cfg := shamirConfig(t)
			d := openDir(t, cfg.DataDir)
			crashed, err := crashesAt(d, step, func() error {
				r := openTaken(t, taken)
				opened, err := given(keys).openSnapshot(r, "test")
				if err != nil {
					return err
				}
				gen, _, err := restoreInto(context.Background(), d, r, opened, cfg, hclog.NewNullLogger(), nil, nil)
				if err != nil {
					return err
				}
				return d.Adopt(gen)
			})
			if !crashed {
				t.Fatalf("never came to this step: %v", err)
			}
			if err := d.Tidy(); err != nil {
				t.Fatal(err)
			}
			gen, err := d.Current()
			if whole := slices.Index(all, step) > slices.Index(all, "filled"); !whole {
				if err == nil {
					t.Errorf("generation %s is live, and was not complete", gen.Name)
				}
				return
			}
			if err != nil || gen.Role != engine.Writer {
				t.Fatalf("got %+v, %v, want the restored generation", gen, err)
			}
			demandOnly(t, d, gen.Name)
		})
	}
}

// bytes makes a request with raw bytes.
func (m *member) bytes(method, path, token string, body []byte) (int, []byte) {
	m.t.Helper()
	req, err := http.NewRequest(method, m.url+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", token)
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		m.t.Fatalf("%s %s: %v\n%s", method, path, err, m.log)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		m.t.Fatalf("%s %s: %v\n%s", method, path, err, m.log)
	}
	return answer.StatusCode, b
}

// Secondaries that hold more than a restored primary go back with it, by themselves; a snapshot of either of them is a snapshot of its cluster.
func TestSecondariesGoBackWithARestoredPrimary(t *testing.T) {
	t.Parallel()
	a, d, p := runMember(t), runMember(t), runMember(t)
	for _, kind := range []string{"dr", "performance"} {
		a.must(200, "PUT", "sys/replication/"+kind+"/primary/enable", map[string]any{})
	}
	a.must(204, "POST", "sys/mounts/kv", map[string]any{"type": "kv"})
	a.must(204, "PUT", "kv/app", map[string]any{"v": "before"})
	d.must(200, "PUT", "sys/replication/dr/secondary/enable", map[string]any{"token": a.token("dr", "d")})
	p.must(200, "PUT", "sys/replication/performance/secondary/enable", map[string]any{"token": a.token("performance", "p")})
	same := func(m *member, kind string) {
		t.Helper()
		m.until("it follows", kind, func(s map[string]any) bool {
			return s["mode"] == "secondary" && s["state"] == "stream-wals" && s["merkle_root"] != nil && s["merkle_root"] == a.status(kind)["merkle_root"]
		})
	}
	same(d, "dr")
	same(p, "performance")
	root := a.cfg.Dev.RootToken
	code, taken := a.bytes("GET", "sys/storage/snapshot", root, nil)
	if code != 200 {
		t.Fatalf("taking: %d %s", code, taken)
	}
	for i := range 30 {
		a.must(204, "PUT", fmt.Sprintf("kv/later%d", i), map[string]any{"v": i})
	}
	a.must(204, "PUT", "kv/app", map[string]any{"v": "after"})
	same(d, "dr")
	same(p, "performance")

	// On the secondaries.
	if code, b := d.bytes("GET", "sys/storage/snapshot", root, nil); code != 403 {
		t.Errorf("a snapshot of a DR secondary without an operation token: %d %.200s", code, b)
	}
	if code, b := d.bytes("GET", "sys/storage/snapshot", operationToken, nil); code != 200 {
		t.Errorf("a snapshot of a DR secondary: %d %.200s", code, b)
	} else if r := openTaken(t, b); r.Header.Log != "verbatim" || !r.Header.Secondary || r.Verify(func(int64) {}) != nil {
		t.Errorf("a snapshot of a DR secondary: %+v", r.Header)
	}
	if code, b := p.bytes("GET", "sys/storage/raft/snapshot", root, nil); code != 200 {
		t.Errorf("a snapshot of a performance secondary: %d %.200s", code, b)
	}
	if code, b := p.bytes("POST", "sys/storage/snapshot-force", root, taken); code != 400 || !strings.Contains(string(b), "restore the primary") {
		t.Errorf("restoring a performance secondary: %d %.300s", code, b)
	}
	if code, b := d.bytes("POST", "sys/storage/snapshot-force", operationToken, taken); code != 400 {
		t.Errorf("restoring a DR secondary: %d %.300s", code, b)
	}

	if code, b := a.bytes("POST", "sys/storage/snapshot-force", root, taken); code != 200 {
		t.Fatalf("restoring: %d %s\n%s", code, b, a.log)
	}
	for _, m := range []*member{a, p} {
		waitFor(t, "the state before", func() bool {
			_, out := m.call("GET", "kv/app", nil)
			return fmt.Sprint(out["data"]) == "map[v:before]"
		})
		if code, _ := m.call("GET", "kv/later7", nil); code != 404 {
			t.Errorf("what came after the snapshot: got %d, want 404", code)
		}
	}
	same(d, "dr")
	same(p, "performance")
	a.must(204, "PUT", "kv/new", map[string]any{"v": 1})
	same(d, "dr")
	same(p, "performance")
}
