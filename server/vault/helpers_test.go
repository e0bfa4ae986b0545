package vault_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/server/vault"
)

// clock is a clock that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// cluster is a core over a real engine behind a real HTTP server.
type cluster struct {
	t      testing.TB
	engine *engine.Engine
	core   *vault.Core
	srv    *httptest.Server
	clock  *clock
	root   string
}

// bare makes a cluster that is not initialised.
func bare(t testing.TB, mods ...func(*vault.Config)) *cluster {
	t.Helper()
	c := &cluster{t: t, clock: &clock{now: time.Date(2031, 2, 3, 4, 5, 6, 7000, time.UTC)}}
	cfg := vault.Config{
		Version: "0.1.0", BuildDate: "2031-01-01T00:00:00Z", APIAddr: "http://127.0.0.1:8200",
		ClusterAddr: "https://127.0.0.1:8201", Now: c.clock.Now,
	}
	for _, mod := range mods {
		mod(&cfg)
	}
	if cfg.Engine == nil {
		cfg.Engine = enginetest.New(t, engine.Writer)
	}
	c.engine = cfg.Engine
	core, err := vault.New(cfg)
	if err != nil {
		t.Fatalf("vault.New: %v", err)
	}
	vault.CheapPasswords(core)
	c.core = core
	c.srv = httptest.NewServer(core)
	t.Cleanup(c.srv.Close)
	return c
}

// ready makes an initialised cluster with a KV v1 mount at kv/ and a v2 mount at secret/.
func ready(t testing.TB, mods ...func(*vault.Config)) *cluster {
	t.Helper()
	c := bare(t, mods...)
	var err error
	if c.root, err = vault.InitStore(t.Context(), c.engine, "0.1.0", nil); err != nil {
		t.Fatal(err)
	}
	c.must(204, "POST", "sys/mounts/kv", `{"type":"kv"}`)
	c.must(204, "POST", "sys/mounts/secret", `{"type":"kv","options":{"version":"2"}}`)
	return c
}

// got is an answer.
type got struct {
	status int
	header http.Header
	raw    []byte
	body   map[string]any // nil when it was empty
}

func (g got) String() string { return fmt.Sprintf("%d %s", g.status, g.raw) }

// at follows a path of names through the answer, as in "data.keys".
func (g got) at(path string) any {
	var v any = g.body
	for _, name := range strings.Split(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

func (g got) text(path string) string {
	s, _ := g.at(path).(string)
	return s
}

// call sends a request; header pairs follow the body.
func (c *cluster) call(method, path, token, body string, header ...string) got {
	c.t.Helper()
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, c.srv.URL+"/v1/"+path, rd)
	if err != nil {
		c.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	g := got{status: res.StatusCode, header: res.Header}
	if g.raw, err = io.ReadAll(res.Body); err != nil {
		c.t.Fatal(err)
	}
	if len(g.raw) > 0 && res.Header.Get("Content-Type") == "application/json" {
		d := json.NewDecoder(bytes.NewReader(g.raw))
		d.UseNumber()
		if err := d.Decode(&g.body); err != nil {
			c.t.Fatalf("%s %s answered what is no JSON: %s", method, path, g.raw)
		}
	}
	return g
}

// must calls as root and fails the test on another status.
func (c *cluster) must(status int, method, path, body string) got {
	c.t.Helper()
	g := c.call(method, path, c.root, body)
	if g.status != status {
		c.t.Fatalf("%s %s: got %v, want %d", method, path, g, status)
	}
	return g
}

// token makes a token with the given parameters and returns its text.
func (c *cluster) token(params string) string {
	c.t.Helper()
	return c.must(200, "POST", "auth/token/create", params).text("auth.client_token")
}

// same reports whether two values are equal as JSON.
func same(a any, b string) bool {
	var want any
	d := json.NewDecoder(strings.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&want); err != nil {
		panic(err)
	}
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(want)
	return bytes.Equal(x, y)
}

// step is one call of a story, as root unless the token says otherwise.
type step struct {
	what   string
	method string
	path   string
	body   string
	token  string
	status int
	want   map[string]string // path in the answer → JSON
}

func (c *cluster) story(t *testing.T, steps []step) {
	t.Helper()
	for _, s := range steps {
		token := s.token
		switch token {
		case "":
			token = c.root
		case "none":
			token = ""
		}
		g := c.call(s.method, s.path, token, s.body)
		if g.status != s.status {
			t.Fatalf("%s: %s %s: got %v, want %d", s.what, s.method, s.path, g, s.status)
		}
		for path, want := range s.want {
			if !same(g.at(path), want) {
				t.Errorf("%s: %s %s: %s is %v, want %s in %s", s.what, s.method, s.path, path, g.at(path), want, g.raw)
			}
		}
	}
}

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
