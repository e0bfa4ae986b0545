package conformance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// world holds the servers that tables share: a primary of both sets, its DR
// secondary and its performance secondary, a cluster without replication, an
// empty server and a sealed one. Rows leave their roles alone.
type world struct {
	t     testing.TB
	nodes map[string]*cluster.Node

	mu     sync.Mutex
	tokens map[string]string // by node and whose
}

func newWorld(t testing.TB) *world {
	t.Helper()
	trio := cluster.NewTrio(t, cluster.Options{})
	w := &world{t: t, tokens: map[string]string{}, nodes: map[string]*cluster.Node{
		"primary": trio.Primary, "dr": trio.DR, "performance": trio.Performance,
		"disabled": cluster.New(t, "disabled", cluster.Options{}), "empty": cluster.New(t, "empty", cluster.Options{}),
		"sealed": cluster.New(t, "sealed", cluster.Options{Shamir: true}),
	}}
	for _, name := range []string{"disabled", "empty", "sealed"} {
		w.nodes[name].Start()
	}
	w.nodes["disabled"].Init()
	w.nodes["sealed"].Init()
	w.nodes["sealed"].MustDo("PUT", "sys/seal", "", 204)
	trio.DR.Token = trio.Primary.Token // a DR secondary has its primary's tokens
	for _, name := range []string{"primary", "performance", "disabled"} {
		if err := w.makeBrief(name); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// makeBrief makes the token of "expired": good for all but sudo, for a second.
func (w *world) makeBrief(node string) error {
	n := w.nodes[node]
	if _, err := w.token(node, "plain"); err != nil { // and its policy
		return err
	}
	a, err := ask(n, n.Token, "POST", "auth/token/create", `{"policies":["plain"],"ttl":"1s"}`, 200)
	if err != nil {
		return err
	}
	token, _ := find(a.json, "auth.client_token")
	w.tokens[node+" expired"] = fmt.Sprint(token)
	return nil
}

// with returns the world of one table: the shared servers and its own.
func (w *world) with(t testing.TB, nodes []nodeOf) *world {
	t.Helper()
	own := &world{t: t, nodes: map[string]*cluster.Node{}, tokens: map[string]string{}}
	for name, n := range w.nodes {
		own.nodes[name] = n
	}
	for _, special := range nodes {
		o := cluster.Options{Shamir: special.kind == "shares"}
		if special.kind == "unauthenticated" {
			o.Top = []string{`enable_unauthenticated_access = ["generate-operation-token", "generate-root", "rekey"]`}
		}
		n := cluster.New(t, special.name, o)
		n.Start()
		n.Init()
		own.nodes[special.name] = n
	}
	return own
}

// tellSecrets says which secrets this world has.
func (w *world) tellSecrets() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for whose, token := range w.tokens {
		if !strings.HasSuffix(whose, "foreign") {
			run.secret(token)
		}
	}
	for _, n := range w.nodes {
		run.secret(n.Token)
		run.secret(n.Keys...)
	}
}

// policies of the tokens that are not root's.
var policies = map[string]string{
	"weak":  `path "kv/nothing" { capabilities = ["read"] }`,
	"plain": `path "*" { capabilities = ["create", "read", "update", "delete", "list", "patch"] }`,
}

// token returns whose token for a node, made when it is first asked for.
func (w *world) token(node, who string) (string, error) {
	n := w.nodes[node]
	switch who {
	case "nobody":
		return "", nil
	case "root":
		return n.Token, nil
	case "foreign":
		return "hvs.ABCDEFGHIJKLMNOPQRSTUVWX", nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if node == "dr" {
		token, err := w.lockedToken(w.nodes["primary"], "primary", who)
		if err == nil && w.tokens["dr "+who] == "" {
			w.tokens["dr "+who] = token
			w.arrives(n)
		}
		return token, err
	}
	return w.lockedToken(n, node, who)
}

// arrives waits until a DR secondary has what the primary has written: that it refuses a token may only mean that it has not heard of it yet.
func (w *world) arrives(n *cluster.Node) {
	want := w.nodes["primary"].MustStatus(cluster.DR).Last(cluster.DR)
	cluster.Eventually(w.t, cluster.Deadline, fmt.Sprintf("%s has index %d", n.Name, want), func() (bool, string) {
		s, err := n.Status(cluster.DR)
		if err != nil {
			return false, err.Error()
		}
		return s.LastRemoteWAL >= want, fmt.Sprintf("it has %d", s.LastRemoteWAL)
	})
}

func (w *world) lockedToken(n *cluster.Node, node, who string) (string, error) {
	if token := w.tokens[node+" "+who]; token != "" {
		return token, nil
	}
	token, err := w.make(n, node, who)
	if err == nil {
		w.tokens[node+" "+who] = token
	}
	return token, err
}

func (w *world) make(n *cluster.Node, node, who string) (string, error) {
	name := who
	if who == "revoked" {
		name = "plain"
	}
	policy, ok := policies[name]
	if !ok {
		return "", fmt.Errorf("nobody is called %q", who)
	}
	body, err := json.Marshal(map[string]string{"policy": policy})
	if err != nil {
		return "", err
	}
	if _, err := ask(n, n.Token, "PUT", "sys/policies/acl/"+name, string(body), 200, 204); err != nil {
		return "", err
	}
	answer, err := ask(n, n.Token, "POST", "auth/token/create", fmt.Sprintf(`{"policies":[%q],"no_default_policy":true}`, name), 200)
	if err != nil {
		return "", err
	}
	got, _ := find(answer.json, "auth.client_token")
	token, _ := got.(string)
	if token == "" {
		return "", fmt.Errorf("no token for %s of %s: %s", who, node, answer.body)
	}
	if who == "revoked" {
		_, err = ask(n, n.Token, "POST", "auth/token/revoke", fmt.Sprintf(`{"token":%q}`, token), 204, 200)
	}
	return token, err
}

func ask(n *cluster.Node, token, method, path, body string, want ...int) (*answer, error) {
	a, err := send(n, token, method, path, body, nil)
	if err != nil {
		return nil, err
	}
	for _, code := range want {
		if a.status == code {
			return a, nil
		}
	}
	return nil, fmt.Errorf("%s %s at %s: %d %s", method, path, n.Name, a.status, a.body)
}

// variables that every table has.
func (w *world) variable(name string) (string, bool) {
	node, what, ok := strings.Cut(name, ".")
	n := w.nodes[node]
	if !ok || n == nil {
		return "", false
	}
	switch what {
	case "api":
		return n.API, true
	case "cluster":
		return n.Cluster, true
	case "token":
		return n.Token, true
	}
	if i, err := strconv.Atoi(strings.TrimPrefix(what, "key")); err == nil && i > 0 && i <= len(n.Keys) {
		return n.Keys[i-1], true
	}
	return "", false
}

var client = &http.Client{
	Timeout:       cluster.Deadline,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}
