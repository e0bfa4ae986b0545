package conformance

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// planted are secrets by what they are, and what was answered while they were used.
type planted struct {
	t       *testing.T
	secrets map[string]string
	refused int // answers of 400 and more that were searched
}

func (p *planted) plant(what, secret string) string {
	p.t.Helper()
	if len(secret) < 16 {
		p.t.Fatalf("%s is %q: too short to be found for certain", what, secret)
	}
	p.secrets[what] = secret
	return secret
}

// forms are how a secret could stand somewhere: as it is, encoded, or decoded.
func forms(secret string) [][]byte {
	all := [][]byte{[]byte(secret), []byte(hex.EncodeToString([]byte(secret))), []byte(base64.RawStdEncoding.EncodeToString([]byte(secret)))}
	if raw, err := hex.DecodeString(secret); err == nil {
		all = append(all, raw, []byte(base64.RawStdEncoding.EncodeToString(raw)))
	} else if raw, err := base64.StdEncoding.DecodeString(secret); err == nil {
		all = append(all, raw, []byte(hex.EncodeToString(raw)))
	}
	return all
}

// demandNone searches a text for every secret in every form. The message names the secret and does not repeat it.
func (p *planted) demandNone(where string, text []byte) {
	p.t.Helper()
	for what, secret := range p.secrets {
		for _, form := range forms(secret) {
			if bytes.Contains(text, form) {
				p.t.Errorf("%s holds the %s", where, what)
				break
			}
		}
	}
}

// ask sends a request; what a refusal says holds no secret.
func (p *planted) ask(n *cluster.Node, token, method, path, body string, want int) *answer {
	p.t.Helper()
	a, err := send(n, token, method, path, body, nil)
	if err != nil {
		p.t.Fatalf("%s %s at %s: %v", method, path, n.Name, err)
	}
	if a.status != want {
		p.t.Fatalf("%s %s at %s: %d %s, want %d", method, path, n.Name, a.status, a.body, want)
	}
	if a.status >= 400 {
		p.refused++
		p.demandNone(fmt.Sprintf("the answer to %s %s (%d)", method, path, a.status), a.body)
	}
	return a
}

func (p *planted) text(a *answer, place string) string {
	p.t.Helper()
	v, _ := find(a.json, place)
	s, ok := v.(string)
	if !ok {
		p.t.Fatalf("the answer has no text at %s: %s", place, a.body)
	}
	return s
}

// TestPlantedSecretsAreFoundNowhere uses secrets of each kind on a primary with shares and its DR secondary, rightly and
// wrongly, and then searches the refusals, the logs in both formats, the audit file, the metrics and all files of both
// data directories for them.
func TestPlantedSecretsAreFoundNowhere(t *testing.T) {
	p := &planted{t: t, secrets: map[string]string{}}
	primary := cluster.New(t, "primary", cluster.Options{Shamir: true, Top: []string{`log_format = "json"`, `log_level = "trace"`}})
	dr := cluster.New(t, "dr", cluster.Options{Top: []string{`log_level = "trace"`}})
	for _, n := range []*cluster.Node{primary, dr} {
		n.Start()
		n.Init()
		p.plant("root token of "+n.Name, n.Token)
		for i, key := range n.Keys {
			p.plant(fmt.Sprintf("share %d of %s", i+1, n.Name), key)
		}
	}
	audit := filepath.Join(primary.Dir, "audit.log")
	primary.MustDo("POST", "sys/audit/file", fmt.Sprintf(`{"type":"file","options":{"file_path":%q}}`, audit), 200, 204)
	p.useValues(primary)
	p.useLogins(primary)
	p.enrol(primary, dr)
	p.useShares(primary)
	p.useOperationToken(primary, dr)
	if p.refused < 15 {
		t.Errorf("%d refusals were searched only", p.refused)
	}
	p.searchAnswers(primary, primary.Token)
	p.searchAnswers(dr, primary.Token)
	for _, n := range []*cluster.Node{primary, dr} {
		n.Stop()
		p.searchFiles(n)
	}
	p.searchFile(audit, "hmac-sha256:")
}

func (p *planted) useValues(n *cluster.Node) {
	value := p.plant("value", "planted-value-7f3a91c2")
	old := p.plant("overwritten value", "planted-value-of-old-55d0")
	root := n.Token
	p.ask(n, root, "POST", "sys/mounts/kv", `{"type":"kv"}`, 204)
	p.ask(n, root, "POST", "sys/mounts/secret", `{"type":"kv","options":{"version":"2"}}`, 204)
	for _, v := range []string{old, value} {
		p.ask(n, root, "PUT", "kv/a", `{"v":"`+v+`"}`, 204)
		p.ask(n, root, "PUT", "secret/data/a", `{"data":{"v":"`+v+`"}}`, 200)
	}
	p.ask(n, root, "GET", "kv/a", "", 200)
	p.ask(n, root, "PUT", "secret/data/a", `{"data":{"v":"`+value+`"},"options":{"cas":7}}`, 400)
	p.ask(n, root, "PUT", "secret/data/a", `{"data":"`+value+`"}`, 400)
	p.ask(n, root, "PUT", "kv/a", `{"v":"`+value+`"`, 400)
	p.ask(n, root, "PUT", "nowhere/a", `{"v":"`+value+`"}`, 404)
	p.ask(n, "", "PUT", "kv/a", `{"v":"`+value+`"}`, 403)
	token := p.plant("token of a chosen id", "planted-token-19b84c07")
	p.ask(n, root, "POST", "auth/token/create", `{"id":"`+token+`","policies":["default"]}`, 200)
	p.ask(n, root, "POST", "auth/token/create", `{"id":"`+token+`"}`, 400)
	p.ask(n, token, "GET", "auth/token/lookup-self", "", 200)
	p.ask(n, token, "GET", "kv/a", "", 403)
	p.ask(n, root, "POST", "auth/token/revoke", `{"token":"`+token+`"}`, 204)
	p.ask(n, root, "POST", "auth/token/lookup", `{"token":"`+token+`"}`, 403)
	a, err := send(n, root, "GET", "kv/a", "", [][2]string{{"X-Vault-Wrap-TTL", "60"}})
	if err != nil {
		p.t.Fatal(err)
	}
	wrapping := p.plant("wrapping token", p.text(a, "wrap_info.token"))
	p.ask(n, "", "PUT", "sys/wrapping/unwrap", `{"token":"`+wrapping+`"}`, 200)
	p.ask(n, "", "PUT", "sys/wrapping/unwrap", `{"token":"`+wrapping+`"}`, 400)
}

func (p *planted) useLogins(n *cluster.Node) {
	root := n.Token
	password := p.plant("password", "planted-password-e01f77")
	wrong := p.plant("wrong password", "planted-password-wrong-3c")
	p.ask(n, root, "POST", "sys/auth/userpass", `{"type":"userpass"}`, 204)
	p.ask(n, root, "POST", "auth/userpass/users/ann", `{"password":"`+password+`"}`, 204)
	p.ask(n, root, "POST", "auth/userpass/users/bob", `{"password":"`+password+`","token_ttl":"of no length"}`, 400)
	p.plant("token of a login", p.text(p.ask(n, "", "POST", "auth/userpass/login/ann", `{"password":"`+password+`"}`, 200), "auth.client_token"))
	p.ask(n, "", "POST", "auth/userpass/login/ann", `{"password":"`+wrong+`"}`, 400)
	p.ask(n, root, "POST", "sys/auth/approle", `{"type":"approle"}`, 204)
	p.ask(n, root, "POST", "auth/approle/role/app", `{"secret_id_num_uses":1}`, 204)
	id := p.text(p.ask(n, root, "GET", "auth/approle/role/app/role-id", "", 200), "data.role_id")
	secret := p.plant("secret id", p.text(p.ask(n, root, "POST", "auth/approle/role/app/secret-id", "", 200), "data.secret_id"))
	login := `{"role_id":"` + id + `","secret_id":"` + secret + `"}`
	p.ask(n, "", "POST", "auth/approle/login", login, 200)
	p.ask(n, "", "POST", "auth/approle/login", login, 400)
}

func (p *planted) enrol(primary, dr *cluster.Node) {
	primary.EnablePrimary(cluster.DR)
	token := p.plant("activation token", primary.SecondaryToken(cluster.DR, "dr"))
	body := `{"token":"` + token + `"}`
	p.ask(primary, primary.Token, "POST", "sys/replication/dr/secondary/enable", body, 400)
	p.ask(dr, dr.Token, "POST", "sys/replication/dr/secondary/enable", `{"token":"`+token+`x"}`, 400)
	p.ask(dr, dr.Token, "POST", "sys/replication/dr/secondary/enable", body, 200)
	cluster.WaitConverged(p.t, cluster.Deadline, primary, dr, cluster.DR)
	p.ask(primary, "", "PUT", "sys/wrapping/unwrap", body, 400)
}

// useShares seals the primary and unseals it, with shares and with what is none, and makes a root token and new shares.
func (p *planted) useShares(n *cluster.Node) {
	p.ask(n, n.Token, "PUT", "sys/seal", "", 204)
	p.ask(n, "", "PUT", "sys/unseal", `{"key":"`+n.Keys[0]+`?"}`, 400)
	n.Unseal(n.Keys[0], n.Keys[2])
	begun := p.ask(n, n.Token, "PUT", "sys/generate-root/attempt", "", 200)
	otp, nonce := p.plant("one-time password", p.text(begun, "otp")), p.text(begun, "nonce")
	p.ask(n, n.Token, "PUT", "sys/generate-root/update", `{"key":"`+n.Keys[0]+`","nonce":"x"}`, 400)
	p.ask(n, n.Token, "PUT", "sys/generate-root/update", `{"key":"`+n.Keys[0]+`","nonce":"`+nonce+`"}`, 200)
	p.ask(n, n.Token, "PUT", "sys/generate-root/update", `{"key":"`+n.Keys[0]+`","nonce":"`+nonce+`"}`, 400)
	p.generated("generated root token", p.ask(n, n.Token, "PUT", "sys/generate-root/update", `{"key":"`+n.Keys[1]+`","nonce":"`+nonce+`"}`, 200), otp)
	nonce = p.text(p.ask(n, n.Token, "PUT", "sys/rekey/init", `{"secret_shares":2,"secret_threshold":2}`, 200), "nonce")
	p.ask(n, n.Token, "PUT", "sys/rekey/update", `{"key":"`+n.Keys[0]+`","nonce":"`+nonce+`"}`, 200)
	made := p.ask(n, n.Token, "PUT", "sys/rekey/update", `{"key":"`+n.Keys[1]+`","nonce":"`+nonce+`"}`, 200)
	for i := range 2 {
		n.Keys[i] = p.plant(fmt.Sprintf("new share %d", i+1), p.text(made, fmt.Sprintf("keys_base64.%d", i)))
	}
}

func (p *planted) generated(what string, a *answer, otp string) string {
	p.t.Helper()
	token, err := reveal(a.json, "encoded_token", otp)
	if err != nil {
		p.t.Fatal(err)
	}
	p.plant(what+" under its password", p.text(a, "encoded_token"))
	return p.plant(what, token)
}

// useOperationToken makes the DR secondary's token with its primary's new shares, which come by the stream.
func (p *planted) useOperationToken(primary, dr *cluster.Node) {
	const path = "sys/replication/dr/secondary/"
	cluster.Eventually(p.t, cluster.Deadline, "the new shares have come to the DR secondary", func() (bool, string) {
		a, err := send(dr, "", "GET", "sys/seal-status", "", nil)
		if err != nil {
			return false, err.Error()
		}
		return match(a.json, "n", "= 2") == nil, string(a.body)
	})
	begun := p.ask(dr, primary.Token, "PUT", path+"generate-operation-token/attempt", "", 200)
	otp, nonce := p.plant("one-time password of the DR secondary", p.text(begun, "otp")), p.text(begun, "nonce")
	p.ask(dr, primary.Token, "PUT", path+"generate-operation-token/update", `{"key":"`+primary.Keys[0]+`","nonce":"`+nonce+`"}`, 200)
	token := p.generated("DR operation token",
		p.ask(dr, primary.Token, "PUT", path+"generate-operation-token/update", `{"key":"`+primary.Keys[1]+`","nonce":"`+nonce+`"}`, 200), otp)
	body := `{"dr_operation_token":"` + token + `"}`
	p.ask(dr, "", "POST", path+"merkle-check", body, 200)
	p.ask(dr, "", "POST", path+"operation-token/delete", body, 204)
	p.ask(dr, "", "POST", path+"promote", body, 403)
}

func (p *planted) searchAnswers(n *cluster.Node, token string) {
	for _, path := range []string{"sys/metrics", "sys/metrics?format=prometheus", "sys/config/state/sanitized", "sys/host-info", "sys/replication/status"} {
		p.demandNone("the answer to GET "+path+" of "+n.Name, p.ask(n, token, "GET", path, "", 200).body)
	}
}

// searchFiles searches a stopped node's log and data.
func (p *planted) searchFiles(n *cluster.Node) {
	p.searchFile(n.LogFile, "store opened")
	var size int64
	err := filepath.WalkDir(n.Data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		size += int64(len(text))
		p.demandNone(path, withoutEmptyPages(text))
		return err
	})
	if err != nil || size < 32<<10 {
		p.t.Errorf("the data of %s: %d bytes searched, %v", n.Name, size, err)
	}
}

// withoutEmptyPages leaves out what files of a log keep free; no secret has a page of zeros.
func withoutEmptyPages(text []byte) []byte {
	var full []byte
	empty := make([]byte, 4096)
	for page := range slices.Chunk(text, len(empty)) {
		if !bytes.Equal(page, empty[:len(page)]) {
			full = append(full, page...)
		}
	}
	return full
}

// searchFile searches one file, which must hold what shows that it is the one.
func (p *planted) searchFile(path, sign string) {
	text, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(text, []byte(sign)) {
		p.t.Errorf("%s does not hold %q: %v", path, sign, err)
	}
	p.demandNone(path, text)
}

// heard is what the conformance run used as secrets and what it was refused with.
type heard struct {
	mu       sync.Mutex
	secrets  map[string]bool
	refusals map[string]string // body, and which request got it first
}

func (h *heard) secret(texts ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range texts {
		if len(s) >= 16 {
			h.secrets[s] = true
		}
	}
}

func (h *heard) refusal(where string, body []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refusals[string(body)] == "" {
		h.refusals[string(body)] = where
	}
}

// demandNoLeak searches every refusal of the run, and the logs of nodes, for every secret of the run.
func (h *heard) demandNoLeak(t *testing.T, nodes map[string]*cluster.Node) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.secrets {
		for body, where := range h.refusals {
			if strings.Contains(body, s) {
				t.Errorf("the answer to %s holds a secret that begins with %.6s", where, s)
			}
		}
	}
	for name, n := range nodes {
		log := n.Log()
		for s := range h.secrets {
			if strings.Contains(log, s) {
				t.Errorf("the log of %s holds a secret that begins with %.6s", name, s)
			}
		}
	}
	t.Logf("%d refusals and %d logs searched for %d secrets", len(h.refusals), len(nodes), len(h.secrets))
}
