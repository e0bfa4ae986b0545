package server

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/internal/seal"
)

// shamirNode is a server without a development mode: shares unseal it.
type shamirNode struct {
	wrapTTL string // of the answers that are asked for
	*running
	token string
}

func runShamir(t *testing.T, cfg *Config) *shamirNode {
	t.Helper()
	return &shamirNode{running: runServer(t, cfg)}
}

// shamirConfig is a server's that nothing unseals by itself.
func shamirConfig(t *testing.T) *Config {
	cfg := testConfig(t)
	cfg.Dev = nil
	cfg.Replication.HeartbeatInterval = 100 * time.Millisecond
	return cfg
}

// call sends a request and demands its status; it returns the answer's body.
func (n *shamirNode) call(method, path, body string, want int) map[string]any {
	n.t.Helper()
	req, err := http.NewRequest(method, n.url+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", n.token)
	if n.wrapTTL != "" {
		req.Header.Set("X-Vault-Wrap-TTL", n.wrapTTL)
	}
	req.Close = true // a restarted server has the same address: no connection of the one before may be taken
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		n.t.Fatalf("%s %s: %v\n%s", method, path, err, n.log)
	}
	defer answer.Body.Close()
	var out map[string]any
	if err := json.NewDecoder(answer.Body).Decode(&out); err != nil && answer.StatusCode != http.StatusNoContent {
		n.t.Fatalf("%s %s: %v", method, path, err)
	}
	if answer.StatusCode != want {
		n.t.Fatalf("%s %s: %d %v, want %d\n%s", method, path, answer.StatusCode, out, want, n.log)
	}
	return out
}

func texts(v any) (out []string) {
	list, _ := v.([]any)
	for _, x := range list {
		out = append(out, x.(string))
	}
	return out
}

// init initialises the node and returns its shares.
func (n *shamirNode) init(body string, keys string) []string {
	n.t.Helper()
	got := n.call("PUT", "sys/init", body, 200)
	n.token = got["root_token"].(string)
	return texts(got[keys])
}

func (n *shamirNode) unseal(keys ...string) (last map[string]any) {
	n.t.Helper()
	for _, k := range keys {
		last = n.call("PUT", "sys/unseal", fmt.Sprintf(`{"key":%q}`, k), 200)
	}
	return last
}

// halt ends the server and starts another on its data.
func (n *shamirNode) restart() *shamirNode {
	n.t.Helper()
	n.stop()
	if err := n.end(); err != nil {
		n.t.Fatal(err)
	}
	cfg := *n.cfg
	again := runShamir(n.t, &cfg)
	again.token = n.token
	return again
}

func (n *shamirNode) sealed() bool {
	n.t.Helper()
	return n.call("GET", "sys/seal-status", "", 200)["sealed"].(bool)
}

func TestSharesOpenANodeAndNothingElse(t *testing.T) {
	t.Parallel()
	n := runShamir(t, shamirConfig(t))
	n.call("GET", "sys/health", "", 501)
	n.call("GET", "sys/mounts", "", 503)
	n.call("PUT", "sys/unseal", `{"key":"00"}`, 400)
	for _, bad := range []string{
		`{"secret_shares":5,"secret_threshold":6}`, `{"secret_shares":5,"secret_threshold":1}`, `{"secret_shares":256,"secret_threshold":3}`,
		`{"secret_shares":0,"secret_threshold":0}`, `{"secret_shares":1,"secret_threshold":1,"recovery_shares":1}`, `{"pgp_keys":["x"]}`,
	} {
		n.call("PUT", "sys/init", bad, 400)
	}
	keys := n.init(`{}`, "keys")
	if len(keys) != 5 || len(keys[0]) != 66 {
		t.Fatalf("got %d keys, the first of %d characters, want 5 of 33 bytes in hex", len(keys), len(keys[0]))
	}
	n.call("PUT", "sys/init", `{}`, 400)
	n.call("GET", "sys/health", "", 503)
	if got := n.call("GET", "sys/mounts", "", 503); fmt.Sprint(got["errors"]) != "[Vault is sealed]" {
		t.Errorf("a request to a sealed node: %v", got)
	}
	if got := n.unseal(keys[0], keys[0]); got["progress"] != 1.0 || got["t"] != 3.0 || got["n"] != 5.0 || got["nonce"] == "" {
		t.Errorf("progress after one share, given twice: %v", got)
	}
	if got := n.call("PUT", "sys/unseal", `{"reset":true}`, 200); got["progress"] != 0.0 {
		t.Errorf("after a reset: %v", got)
	}
	n.unseal(keys[0], keys[1])
	wrong := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, 33))
	n.call("PUT", "sys/unseal", fmt.Sprintf(`{"key":%q}`, wrong), 400)
	if got := n.call("GET", "sys/seal-status", "", 200); got["progress"] != 0.0 || got["sealed"] != true {
		t.Errorf("after wrong shares: %v", got)
	}
	if got := n.unseal(keys[4], keys[2], keys[0]); got["sealed"] != false {
		t.Fatalf("after three shares: %v", got)
	}
	n.call("GET", "sys/health", "", 200)
	n.call("POST", "sys/mounts/kv", `{"type":"kv"}`, 204)
	n.call("PUT", "kv/app", `{"v":"before"}`, 204)

	n.call("PUT", "sys/seal", "", 204)
	n.call("GET", "kv/app", "", 503)
	n.unseal(keys[:3]...)
	if got := n.call("GET", "kv/app", "", 200); fmt.Sprint(got["data"]) != "map[v:before]" {
		t.Errorf("after seal and unseal: %v", got)
	}
	n = n.restart()
	if !n.sealed() {
		t.Error("a restarted node is not sealed")
	}
	n.unseal(keys[1:4]...)
	n.call("GET", "kv/app", "", 200)
}

func TestRekeyRotateAndGenerateRoot(t *testing.T) {
	t.Parallel()
	n := runShamir(t, shamirConfig(t))
	old := n.init(`{"secret_shares":3,"secret_threshold":2}`, "keys_base64")
	n.unseal(old[0], old[1])
	n.call("POST", "sys/mounts/kv", `{"type":"kv"}`, 204)
	n.call("PUT", "kv/app", `{"v":1}`, 204)
	if got := n.call("GET", "sys/key-status", "", 200); got["term"] != 1.0 {
		t.Errorf("key status: %v", got)
	}
	n.call("PUT", "sys/rotate", "", 204)
	if got := n.call("GET", "sys/key-status", "", 200); got["term"] != 2.0 {
		t.Errorf("key status after a rotation: %v", got)
	}

	begun := n.call("PUT", "sys/rekey/init", `{"secret_shares":5,"secret_threshold":3,"require_verification":true}`, 200)
	give := func(path, nonce string, keys ...string) (last map[string]any) {
		t.Helper()
		for _, k := range keys {
			last = n.call("PUT", path, fmt.Sprintf(`{"key":%q,"nonce":%q}`, k, nonce), 200)
		}
		return last
	}
	n.call("PUT", "sys/rekey/update", fmt.Sprintf(`{"key":%q,"nonce":"other"}`, old[0]), 400)
	done := give("sys/rekey/update", begun["nonce"].(string), old[0], old[2])
	next := texts(done["keys_base64"])
	if done["complete"] != true || len(next) != 5 {
		t.Fatalf("rekey: %v", done)
	}
	if got := give("sys/rekey/verify", done["verification_nonce"].(string), next[:3]...); got["complete"] != true {
		t.Fatalf("rekey verification: %v", got)
	}
	n.call("PUT", "sys/rekey-recovery-key/init", `{"secret_shares":1,"secret_threshold":1}`, 400)

	n = n.restart()
	n.call("PUT", "sys/unseal", fmt.Sprintf(`{"key":%q}`, old[0]), 200)
	n.call("PUT", "sys/unseal", fmt.Sprintf(`{"key":%q}`, old[1]), 200)
	n.call("PUT", "sys/unseal", fmt.Sprintf(`{"key":%q}`, old[2]), 400)
	n.unseal(next[2:]...)
	n.call("GET", "kv/app", "", 200)

	token := n.token
	n.token = ""
	n.call("PUT", "sys/generate-root/attempt", `{}`, 403) // closed unless the configuration opens it
	n.token = token
	a := n.call("PUT", "sys/generate-root/attempt", `{"otp":"","pgp_key":""}`, 200)
	n.call("PUT", "sys/generate-root/attempt", `{}`, 400)
	got := give("sys/generate-root/update", a["nonce"].(string), next[0], next[1], next[3])
	raw, err := base64.RawStdEncoding.DecodeString(got["encoded_token"].(string))
	if err != nil || got["complete"] != true || len(raw) != 28 || a["otp_length"] != 28.0 {
		t.Fatalf("generate-root: %v, %v", got, err)
	}
	for i, c := range []byte(a["otp"].(string)) {
		raw[i] ^= c
	}
	n.token = string(raw)
	n.call("GET", "kv/app", "", 200)
}

// demandNothingReadable searches every file of a data directory.
func demandNothingReadable(t *testing.T, dir string, planted ...string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files++
		for _, p := range planted {
			if bytes.Contains(b, []byte(p)) {
				t.Errorf("%s shows %q", path, p)
			}
		}
		return err
	})
	if err != nil || files < 4 {
		t.Fatalf("looked into %d files: %v", files, err)
	}
}

func TestAutoUnsealAndASecondaryWithItsPrimarysKeys(t *testing.T) {
	t.Parallel()
	auto := func() *seal.Auto {
		a, _, err := seal.MakeKeyFile(filepath.Join(t.TempDir(), "key"))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	cfg := shamirConfig(t)
	cfg.Seal = auto()
	primary := runShamir(t, cfg)
	primary.call("PUT", "sys/init", `{"secret_shares":1,"secret_threshold":1}`, 400)
	recovery := primary.init(`{"recovery_shares":3,"recovery_threshold":2}`, "recovery_keys")
	if len(recovery) != 3 || primary.sealed() {
		t.Fatalf("%d recovery keys; the node is sealed: %v", len(recovery), primary.sealed())
	}
	primary.call("POST", "sys/mounts/kv", `{"type":"kv"}`, 204)
	primary.call("PUT", "kv/app", `{"v":"planted-in-the-first-store"}`, 204)
	primary.call("PUT", "sys/replication/dr/primary/enable", `{}`, 200)
	wrapped := primary.call("PUT", "sys/replication/dr/primary/secondary-token", `{"id":"eu"}`, 200)
	activation := wrapped["wrap_info"].(map[string]any)["token"].(string)

	second := shamirConfig(t)
	second.Unauthenticated = []string{"generate-operation-token"}
	secondary := runShamir(t, second)
	own := secondary.init(`{"secret_shares":1,"secret_threshold":1}`, "keys")
	secondary.unseal(own...)
	secondary.call("PUT", "sys/replication/dr/secondary/enable", fmt.Sprintf(`{"token":%q}`, activation), 200)
	streams := func(n *shamirNode) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for ; ; time.Sleep(20 * time.Millisecond) {
			_, text := rawGet(n.url + "/v1/sys/replication/dr/status")
			if strings.Contains(text, `"state":"stream-wals"`) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("the secondary never streams: %s\n%s", text, n.log)
			}
		}
	}
	streams(secondary)
	primary.call("PUT", "sys/rotate", "", 204)
	primary.call("PUT", "kv/app", `{"v":"planted-after-the-rotation"}`, 204)
	waitFor(t, "the new term", func() bool { return strings.Contains(secondary.log.String(), "took over the primary's new keys") })

	secondary = secondary.restart()
	if !secondary.sealed() {
		t.Fatal("the secondary of shares unsealed itself")
	}
	if got := secondary.call("GET", "sys/seal-status", "", 200); got["t"] != 2.0 || got["n"] != 3.0 {
		t.Errorf("seal status of the secondary: %v, want its primary's shares", got)
	}
	secondary.unseal(recovery[0], recovery[2])
	streams(secondary)
	secondary.token = ""
	a := secondary.call("PUT", "sys/replication/dr/secondary/generate-operation-token/attempt", `{"otp":"","pgp_key":""}`, 200)
	var got map[string]any
	for _, k := range recovery[:2] {
		got = secondary.call("PUT", "sys/replication/dr/secondary/generate-operation-token/update",
			fmt.Sprintf(`{"key":%q,"nonce":%q}`, k, a["nonce"]), 200)
	}
	if got["complete"] != true || got["encoded_token"] == "" || got["encoded_root_token"] != "" {
		t.Errorf("DR operation token: %v", got)
	}
	primary = primary.restart()
	if primary.sealed() {
		t.Error("the primary does not unseal itself")
	}
	primary.call("GET", "kv/app", "", 200)
	for _, n := range []*shamirNode{primary, secondary} {
		n.stop()
		if err := n.end(); err != nil {
			t.Fatal(err)
		}
		demandNothingReadable(t, n.cfg.DataDir, "planted-in-the-first-store", "planted-after-the-rotation", primary.token, "PRIVATE KEY", "digest_secret")
		for _, secret := range append([]string{primary.token}, recovery...) {
			if strings.Contains(n.log.String(), secret) {
				t.Error("the log shows a secret")
			}
		}
	}
}

// Shares are taken from the moment that sys/seal has answered, while the core that was sealed still ends.
func TestUnsealingDirectlyAfterSealingNeedsEachShareOnce(t *testing.T) {
	t.Parallel()
	auto, _, err := seal.MakeKeyFile(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		auto       *seal.Auto
		body, keys string
	}{
		"shares":      {nil, `{"secret_shares":2,"secret_threshold":2}`, "keys"},
		"auto-unseal": {auto, `{"recovery_shares":2,"recovery_threshold":2}`, "recovery_keys"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := shamirConfig(t)
			cfg.Seal = tt.auto
			n := runShamir(t, cfg)
			keys := n.init(tt.body, tt.keys)
			if tt.auto == nil {
				n.unseal(keys...)
			}
			for range 5 {
				n.call("PUT", "sys/seal", "", 204)
				if got := n.unseal(keys[0]); got["progress"] != 1.0 || got["sealed"] != true {
					t.Fatalf("after the first share: %v", got)
				}
				if got := n.unseal(keys[1]); got["sealed"] != false {
					t.Fatalf("after the second share: %v", got)
				}
				n.call("GET", "sys/mounts", "", 200)
			}
		})
	}
}

func rawGet(url string) (int, string) {
	answer, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	var b bytes.Buffer
	_, _ = b.ReadFrom(answer.Body)
	return answer.StatusCode, b.String()
}

// waitFor waits until the answer is yes.
func waitFor(t *testing.T, what string, ask func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ask(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestAKeyFileThatOthersCanReadIsNamedBeforeAnybodyInitialises: the answer to sys/init, which needs no token, does not tell a stranger why it failed.
func TestAKeyFileThatOthersCanReadIsNamedBeforeAnybodyInitialises(t *testing.T) {
	cfg := shamirConfig(t)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(key, 0o644); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	cfg.Seal = &seal.Auto{Type: seal.File, Path: key}
	n := runShamir(t, cfg)
	waitFor(t, "the log names the file", func() bool {
		return strings.Contains(n.log.String(), "the seal's key cannot be read") && strings.Contains(n.log.String(), "chmod 600")
	})
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	n.init(`{"recovery_shares":1,"recovery_threshold":1}`, "recovery_keys")
}
