package vault_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/vault"
)

// TestBadInput sends what nobody should send, with root's rights: each is refused in words, and nothing is written.
func TestBadInput(t *testing.T) {
	c := ready(t, func(cfg *vault.Config) { cfg.MaxBody = 1 << 20 })
	c.must(204, "PUT", "kv/x", `{"a":1}`)
	before, totals := c.engine.Position(), fmt.Sprint(c.engine.Totals())
	deep := strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000)
	long := strings.Repeat("x", 16<<10)
	for _, call := range []struct {
		what, method, path, body string
		status                   int
	}{
		{"half an object", "PUT", "kv/y", `{"a":`, 400},
		{"two objects", "PUT", "kv/y", `{"a":1}{"b":2}`, 400},
		{"an array", "PUT", "kv/y", `[1,2]`, 400},
		{"a string", "PUT", "kv/y", `"x"`, 400},
		{"a bare word", "PUT", "kv/y", `true`, 400},
		{"a number that is none", "PUT", "kv/y", `{"a":01}`, 400},
		{"a comma too many", "PUT", "kv/y", `{"a":1,}`, 400},
		{"single quotes", "PUT", "kv/y", `{'a':1}`, 400},
		{"a control character", "PUT", "kv/y", "{\"a\":\"\n\"}", 400},
		{"deeper than anybody reads", "PUT", "kv/y", deep, 400},
		{"a body too large", "PUT", "kv/y", `{"a":"` + strings.Repeat("x", 1<<20) + `"}`, 413},
		{"a body too large, version 2", "PUT", "secret/data/y", `{"data":{"a":"` + strings.Repeat("x", 1<<20) + `"}}`, 413},
		{"half an object, version 2", "PUT", "secret/data/y", `{"data":{`, 400},
		{"deep, version 2", "PUT", "secret/data/y", `{"data":` + deep + `}`, 400},
		{"options that are none", "PUT", "secret/data/y", `{"data":{},"options":[]}`, 400},
		{"cas that is none", "PUT", "secret/data/y", `{"data":{},"options":{"cas":"x"}}`, 400},
		{"cas below zero", "PUT", "secret/data/y", `{"data":{},"options":{"cas":-1}}`, 400},
		{"cas beyond all numbers", "PUT", "secret/data/y", `{"data":{},"options":{"cas":1e400}}`, 400},
		{"half an object, token", "POST", "auth/token/create", `{"ttl":`, 400},
		{"a list for a word", "POST", "auth/token/create", `{"id":["x"]}`, 400},
		{"an object for a list", "POST", "auth/token/create", `{"policies":{"a":1}}`, 400},
		{"a list of lists", "POST", "auth/token/create", `{"policies":[["a"]]}`, 400},
		{"meta of numbers of objects", "POST", "auth/token/create", `{"meta":{"a":{}}}`, 400},
		{"a time beyond all times", "POST", "auth/token/create", `{"ttl":"999999999999999999h"}`, 400},
		{"seconds beyond all times", "POST", "auth/token/create", `{"ttl":99999999999999}`, 400},
		{"a policy like an onion", "PUT", "sys/policies/acl/x", `{"policy":"path \"a\" { capabilities = ` + strings.Repeat("[", 5000) + `"}`, 400},
		{"a policy of minus signs", "PUT", "sys/policies/acl/x", `{"policy":"a = ` + strings.Repeat("-", 5000) + `1"}`, 400},
		{"a policy of questions", "PUT", "sys/policies/acl/x", `{"policy":"a = ` + strings.Repeat("a?", 5000) + `"}`, 400},
		{"a policy like a novel", "PUT", "sys/policies/acl/x", `{"policy":"` + strings.Repeat("#", 600<<10) + `"}`, 400},
		{"a policy with a template", "PUT", "sys/policies/acl/x", `{"policy":"path \"a/${b}\" { policy = \"read\" }"}`, 400},
		{"a policy with a long name", "PUT", "sys/policies/acl/" + strings.Repeat("x", 600), `{"policy":"path \"a\" { policy = \"read\" }"}`, 400},
		{"a mount with a long path", "POST", "sys/mounts/" + strings.Repeat("x", 600), `{"type":"kv"}`, 400},
		{"a path too long", "PUT", "kv/" + long, `{"a":1}`, 400},
		{"a path with an empty part", "PUT", "kv//y", `{"a":1}`, 400},
		{"a path upwards", "PUT", "kv/a/%2e%2e/y", `{"a":1}`, 400},
		{"a path upwards in a mount", "POST", "sys/mounts/%2e%2e/y", `{"type":"kv"}`, 400},
		{"a path that is no text", "PUT", "kv/%ff%fe", `{"a":1}`, 400},
		{"a path with a zero byte", "PUT", "kv/a%00b", `{"a":1}`, 400},
		{"a verb of another world", "BREW", "kv/y", `{"a":1}`, 405},
		{"HEAD", "HEAD", "kv/y", "", 405},
		{"PATCH of a mount", "PATCH", "sys/mounts/kv", `{}`, 405},
		{"an activation token that is none", "PUT", "sys/wrapping/unwrap", `{"token":"eyJhbGciOiJub25lIn0.e30.","csr":"x"}`, 400},
	} {
		g := c.call(call.method, call.path, c.root, call.body)
		if g.status != call.status {
			t.Errorf("%s: got %.200s, want %d", call.what, g, call.status)
		}
		if len(g.raw) > 1000 || bytes.Contains(g.raw, []byte(".go:")) || bytes.Contains(g.raw, []byte("xxxxxxxx")) {
			t.Errorf("%s: the answer tells too much: %.300s", call.what, g.raw)
		}
	}
	for _, token := range []string{"", "x", "hvs." + long, "hvs.AAAAAAAAAAAAAAAAAAAAAAAA", c.root + "x", c.root[:27], strings.ToUpper(c.root)} {
		if g := c.call("PUT", "kv/y", token, `{"a":1}`); g.status != 403 {
			t.Errorf("token of %d bytes: got %v, want 403", len(token), g)
		}
	}
	if g := c.call("PUT", "sys/wrapping/unwrap", "", `{"token":"`+strings.Repeat("x", 3<<20)+`"}`); g.status != 413 {
		t.Errorf("a large body without a token: got %v, want 413", g)
	}
	g := c.call("PATCH", "secret/data/y", c.root, `{"data":{}}`, "Content-Type", "application/json")
	if g.status != 415 {
		t.Errorf("PATCH as plain JSON: got %v, want 415", g)
	}
	if g := c.call("PUT", "kv/y", c.root, `{"a":1}`, "X-Vault-Namespace", "ns1"); g.status != 400 {
		t.Errorf("a namespace: got %v, want 400", g)
	}
	if g := c.call("GET", "kv/x", c.root, "", "X-Vault-Wrap-TTL", "soon"); g.status != 400 {
		t.Errorf("wrapping of a time that is none: got %v, want 400", g)
	}
	if after := c.engine.Position(); after != before || fmt.Sprint(c.engine.Totals()) != totals {
		t.Errorf("bad input wrote: from index %d to %d", before.Index, after.Index)
	}
}

// TestChunkedBodyIsBounded sends a body of unknown length that never ends.
func TestChunkedBodyIsBounded(t *testing.T) {
	c := ready(t, func(cfg *vault.Config) { cfg.MaxBody = 64 << 10 })
	endless := io.MultiReader(strings.NewReader(`{"a":"`), &xs{})
	req, err := http.NewRequest("PUT", c.srv.URL+"/v1/kv/y", endless)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", c.root)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Skipf("the connection was cut before the answer: %v", err)
	}
	defer res.Body.Close()
	if res.StatusCode != 413 {
		t.Errorf("got %d, want 413", res.StatusCode)
	}
}

type xs struct{}

func (*xs) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// TestShortBodyWritesNothing ends a connection in the middle of a body that is a whole object already.
func TestShortBodyWritesNothing(t *testing.T) {
	c := ready(t)
	before := c.engine.Position()
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.srv.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "PUT /v1/kv/y HTTP/1.1\r\nHost: x\r\nX-Vault-Token: %s\r\nContent-Length: 100\r\n\r\n{\"a\":1}", c.root)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if !bytes.Contains(answer, []byte(" 400 ")) {
		t.Errorf("got %q, want 400", answer)
	}
	if after := c.engine.Position(); after != before {
		t.Errorf("half a request wrote: from index %d to %d", before.Index, after.Index)
	}
}

func TestBodiesWithoutATokenAreSmall(t *testing.T) {
	body := func(n int) string { return `{"token":"` + strings.Repeat("x", n-len(`{"token":""}`)) + `"}` }
	c := bare(t)
	if g := c.call("PUT", "sys/init", "", body(64<<10+1)); g.status != 413 {
		t.Errorf("init: got %v, want 413", g)
	}
	c = ready(t)
	for _, path := range []string{"sys/wrapping/unwrap", "sys/wrapping/lookup", "sys/wrapping/rewrap"} {
		if g := c.call("POST", path, "", body(64<<10)); g.status != 400 {
			t.Errorf("%s with 64 KiB: got %v, want 400", path, g)
		}
		if g := c.call("POST", path, "", body(64<<10+1)); g.status != 413 {
			t.Errorf("%s with a byte more: got %v, want 413", path, g)
		}
	}
}
