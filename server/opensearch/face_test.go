package opensearch_test

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

	"golang.org/x/crypto/bcrypt"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/server/opensearch"
	"github.com/lockstepdb/lockstep/server/vault"
)

const root = "dev-only-root"

// cluster is both faces over a real engine behind a real HTTP server.
type cluster struct {
	t      testing.TB
	engine *engine.Engine
	core   *vault.Core
	srv    *httptest.Server
	open   *httptest.Server // a listener without security
	token  string           // of call
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	e := enginetest.New(t, engine.Writer)
	core, err := vault.New(vault.Config{Engine: e, Version: "0.1.0", PasswordCost: bcrypt.MinCost})
	if err != nil {
		t.Fatal(err)
	}
	if err := core.DevInit(context.Background(), root); err != nil {
		t.Fatal(err)
	}
	face, err := opensearch.New(opensearch.Config{Core: core, Engine: e, Version: "0.1.0", Address: "127.0.0.1:9200"})
	if err != nil {
		t.Fatal(err)
	}
	both := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/") {
			core.ServeHTTP(w, r)
			return
		}
		face.ServeHTTP(w, r)
	})
	c := &cluster{t: t, engine: e, core: core, srv: httptest.NewServer(both), token: root}
	c.open = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { face.ServeHTTP(w, opensearch.WithoutSecurity(r)) }))
	t.Cleanup(c.srv.Close)
	t.Cleanup(c.open.Close)
	return c
}

type answer struct {
	status int
	header http.Header
	text   string
	body   any
}

// at finds a value in the body by names and numbers, "" for the whole.
func (a answer) at(path string) any {
	v := a.body
	for part := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[strings.ReplaceAll(part, "/", ".")]
		case []any:
			var i int
			if _, err := fmt.Sscan(part, &i); err != nil || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	if n, is := v.(json.Number); is {
		return n.String()
	}
	return v
}

func (c *cluster) send(server *httptest.Server, method, path, body string, header ...string) answer {
	c.t.Helper()
	req, err := http.NewRequest(method, server.URL+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	got, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	a := answer{status: got.StatusCode, header: got.Header, text: string(text)}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	_ = d.Decode(&a.body)
	return a
}

func (c *cluster) call(method, path, body string, header ...string) answer {
	c.t.Helper()
	return c.send(c.srv, method, path, body, append([]string{"X-Vault-Token", c.token}, header...)...)
}

func (c *cluster) must(status int, method, path, body string) answer {
	c.t.Helper()
	a := c.call(method, path, body)
	if a.status != status {
		c.t.Fatalf("%s %s: got %d %s, want %d", method, path, a.status, a.text, status)
	}
	return a
}

// want demands of an answer, path by path, what it holds: texts, numbers as texts, booleans.
func (c *cluster) want(what string, a answer, pairs ...any) {
	c.t.Helper()
	for i := 0; i+1 < len(pairs); i += 2 {
		if got := a.at(pairs[i].(string)); fmt.Sprint(got) != fmt.Sprint(pairs[i+1]) {
			c.t.Errorf("%s: %s is %v, want %v: %s", what, pairs[i], got, pairs[i+1], a.text)
		}
	}
}

func TestNothingIsAnsweredWithoutACredential(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.must(201, "PUT", "/orders/_doc/1", `{"a":1}`)
	for _, path := range []string{"/", "/orders", "/orders/_doc/1", "/nope/_doc/1", "/_cat/indices", "/no/handler", "/_plugins/_security/api/roles"} {
		for name, header := range map[string][]string{
			"nobody": nil, "an unknown token": {"X-Vault-Token", "hvs.AAAAAAAAAAAAAAAAAAAAAAAA"}, "an unknown user": {"Authorization", "Basic YTpi"}, "an empty bearer": {"Authorization", "Bearer "},
			"another scheme": {"Authorization", "Negotiate abc"},
		} {
			a := c.send(c.srv, "GET", path, "", header...)
			if a.status != 401 || a.text != "Unauthorized" || a.header.Get("WWW-Authenticate") != `Basic realm="OpenSearch Security"` {
				t.Errorf("GET %s by %s: got %d %q, want 401 Unauthorized", path, name, a.status, a.text)
			}
		}
	}
	if a := c.send(c.srv, "GET", "/orders/_doc/1", "", "Authorization", "Bearer "+root); a.status != 200 {
		t.Errorf("a bearer token: got %d %s, want 200", a.status, a.text)
	}
	if a := c.send(c.open, "GET", "/orders/_doc/1", ""); a.status != 200 {
		t.Errorf("on a listener without security: got %d %s, want 200", a.status, a.text)
	}
}

// policy makes a token with a policy.
func (c *cluster) policy(rules string) string {
	c.t.Helper()
	text, err := json.Marshal(map[string]string{"policy": rules})
	if err != nil {
		c.t.Fatal(err)
	}
	c.must(204, "PUT", "/v1/sys/policies/acl/p", string(text))
	return c.must(200, "POST", "/v1/auth/token/create", `{"policies":["p"],"no_default_policy":true}`).at("auth.client_token").(string)
}

func TestPoliciesOfAMountHoldForItsDocuments(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for _, id := range []string{"pub/1", "pub/2", "secret"} {
		c.must(201, "PUT", "/orders/_doc/"+strings.ReplaceAll(id, "/", "%2F"), `{"a":1}`)
	}
	c.must(200, "PUT", "/hidden", "")
	token := c.policy(`
path "orders/" { capabilities = ["list"] }
path "orders/pub/*" { capabilities = ["read", "list"] }
path "orders/new/*" { capabilities = ["create"] }
path "orders/old/*" { capabilities = ["update"] }
path "orders/gone/*" { capabilities = ["delete"] }
path "orders/limited" {
  capabilities = ["create", "update"]
  denied_parameters = { "b" = [] }
}`)
	c.must(201, "PUT", "/orders/_doc/old%2F1", `{"a":1}`)
	rows := []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/orders/_doc/pub%2F1", "", 200},
		{"GET", "/orders/_doc/secret", "", 403},
		{"GET", "/orders/_doc/missing", "", 403},
		{"GET", "/orders/_source/secret", "", 403},
		{"HEAD", "/orders/_doc/secret", "", 403},
		{"PUT", "/orders/_doc/new%2F1", `{"a":1}`, 201},
		{"PUT", "/orders/_doc/new%2F1", `{"a":1}`, 403},
		{"PUT", "/orders/_doc/old%2F1", `{"a":2}`, 200},
		{"PUT", "/orders/_doc/old%2F2", `{"a":2}`, 403},
		{"PUT", "/orders/_doc/secret", `{"a":2}`, 403},
		{"PUT", "/orders/_doc/limited", `{"b":2}`, 403},
		{"PUT", "/orders/_doc/limited", `{"a":2}`, 201},
		{"POST", "/orders/_update/old%2F1", `{"doc":{"a":3}}`, 403}, // it reads
		{"DELETE", "/orders/_doc/gone%2F1", "", 404},
		{"DELETE", "/orders/_doc/secret", "", 403},
		{"GET", "/orders/_count", "", 200},
		{"GET", "/orders/_search", "", 403}, // not all of it may be read
		{"POST", "/orders/_search", `{"query":{"ids":{"values":["pub/1"]}}}`, 200},
		{"POST", "/orders/_search", `{"query":{"ids":{"values":["secret"]}}}`, 403},
		{"GET", "/hidden", "", 403},
		{"GET", "/hidden/_search", "", 403},
		{"GET", "/nothere/_search", "", 403},
		{"PUT", "/nothere/_doc/1", `{}`, 403},
		{"DELETE", "/orders", "", 403},
		{"PUT", "/orders/_settings", `{"index.number_of_replicas":0}`, 403},
		{"POST", "/orders/_close", "", 403},
		{"PUT", "/another", "", 403},
		{"PUT", "/_cluster/settings", `{"persistent":{"plugins.replication.follower.bulk_batch_size":5}}`, 403},
		{"GET", "/_plugins/_security/api/roles", "", 403},
		{"PUT", "/_plugins/_security/api/internalusers/me", `{"password":"long enough"}`, 403},
	}
	c.token = token
	for _, r := range rows {
		a := c.call(r.method, r.path, r.body)
		if a.status != r.want {
			t.Errorf("%s %s: got %d %s, want %d", r.method, r.path, a.status, a.text, r.want)
		}
		if r.want == 403 && r.method != "HEAD" && (a.at("error.type") != "security_exception" || !strings.HasPrefix(fmt.Sprint(a.at("error.reason")), "no permissions for [")) {
			t.Errorf("%s %s: got %s, want a security_exception", r.method, r.path, a.text)
		}
	}
	if a := c.must(200, "GET", "/_cat/indices?format=json", ""); a.at("0.index") != "orders" || a.at("1") != nil {
		t.Errorf("indices that the caller may reach: got %s, want orders alone", a.text)
	}
	got := c.call("POST", "/orders/_mget", `{"ids":["pub/1","secret"]}`)
	c.want("mget", got, "docs.0.found", true, "docs.1.error.type", "security_exception")
	got = c.call("POST", "/orders/_bulk", `{"index":{"_id":"new/2"}}
{"a":1}
{"index":{"_id":"secret"}}
{"a":1}
{"delete":{"_id":"secret"}}
`)
	c.want("bulk", got, "errors", true, "items.0.index.status", 201, "items.1.index.status", 403, "items.2.delete.status", 403)
}

func TestAnIndexIsAMountAndARecordADocument(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.must(200, "PUT", "/orders", "")
	if a := c.must(200, "GET", "/v1/sys/mounts/orders", ""); a.at("data.type") != "kv" {
		t.Errorf("the mount of an index: got %s", a.text)
	}
	c.must(201, "PUT", "/orders/_doc/a%2F1", `{ "x" : 1.50 }`)
	if a := c.must(200, "GET", "/v1/orders/a/1", ""); !strings.Contains(a.text, `"data":{ "x" : 1.50 }`) {
		t.Errorf("a document under /v1/: got %s, want its very bytes", a.text)
	}
	c.must(204, "PUT", "/v1/orders/a/1", `{"x":2}`)
	c.want("a document written under /v1/", c.must(200, "GET", "/orders/_doc/a%2F1", ""), "_version", 2, "_seq_no", 1, "_source.x", 2)
	c.must(204, "DELETE", "/v1/orders/a/1", "")
	c.must(404, "GET", "/orders/_doc/a%2F1", "")
	c.want("the operation after", c.must(201, "PUT", "/orders/_doc/b", `{}`), "_seq_no", 3, "_version", 1)
	if a := c.must(200, "GET", "/v1/orders?list=true", ""); fmt.Sprint(a.at("data.keys")) != "[b]" {
		t.Errorf("names under /v1/: got %s, want b alone", a.text)
	}
	c.must(204, "POST", "/v1/sys/mounts/older", `{"type":"kv"}`)
	c.must(204, "PUT", "/v1/older/x", `{"y":1}`)
	c.want("a record from before", c.must(200, "GET", "/older/_doc/x", ""), "_version", 1, "_seq_no", 0)
	c.want("its next write", c.must(200, "PUT", "/older/_doc/x", `{"y":2}`), "_version", 2, "_seq_no", 1)
	c.want("count", c.must(200, "GET", "/older/_count", ""), "count", 1)
	c.must(200, "DELETE", "/older", "")
	c.must(404, "GET", "/v1/older/x", "")
	if a := c.call("GET", "/secret/_doc/1", ""); a.status != 404 || a.at("error.type") != "index_not_found_exception" {
		t.Errorf("a mount of KV version 2: got %d %s, want no index", a.status, a.text)
	}
	if a := c.call("PUT", "/secret/_doc/1", `{}`); a.status != 400 || a.at("error.type") != "invalid_index_name_exception" {
		t.Errorf("writing where another mount stands: got %d %s, want it refused", a.status, a.text)
	}
}

func TestConcurrentWritersOfBothFacesLeaveNoGap(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.must(200, "PUT", "/orders", "")
	const workers, rounds = 6, 25
	var mu sync.Mutex
	seqs := map[string]int{} // of writes that tell their number
	told, silent := 0, 0
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				id := fmt.Sprint("k", i%3)
				if w%2 == 0 {
					if a := c.call("PUT", "/v1/orders/"+id, `{"v":1}`); a.status != 204 {
						t.Errorf("/v1: %d %s", a.status, a.text)
					}
					mu.Lock()
					silent++
					mu.Unlock()
					continue
				}
				a := c.call("PUT", "/orders/_doc/"+id, `{"v":2}`)
				mu.Lock()
				told++
				seqs[fmt.Sprint(a.at("_seq_no"))]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seqs) != told {
		t.Errorf("%d operations have %d numbers", told, len(seqs))
	}
	total := 0
	for i := range 3 {
		a := c.must(200, "GET", fmt.Sprint("/orders/_doc/k", i), "")
		var n int
		fmt.Sscan(fmt.Sprint(a.at("_version")), &n)
		total += n
	}
	if total != told+silent {
		t.Errorf("versions add up to %d, want one for each of %d writes", total, told+silent)
	}
	c.want("the next operation", c.must(201, "PUT", "/orders/_doc/last", `{}`), "_seq_no", told+silent)
}

func TestConditionalWrites(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.must(201, "PUT", "/i/_doc/1", `{"n":0}`)
	conflict := c.must(409, "PUT", "/i/_create/1", `{}`)
	c.want("create", conflict, "error.type", "version_conflict_engine_exception", "error.reason", "[1]: version conflict, document already exists (current version [1])", "error.index", "i")
	c.must(200, "PUT", "/i/_doc/1?if_seq_no=0&if_primary_term=1", `{"n":1}`)
	conflict = c.must(409, "PUT", "/i/_doc/1?if_seq_no=0&if_primary_term=1", `{"n":2}`)
	c.want("stale", conflict, "error.reason", "[1]: version conflict, required seqNo [0], primary term [1]. current document has seqNo [1] and primary term [1]")
	c.must(409, "DELETE", "/i/_doc/1?if_seq_no=0&if_primary_term=1", "")
	c.must(409, "DELETE", "/i/_doc/1?if_seq_no=1&if_primary_term=2", "")
	c.must(409, "PUT", "/i/_doc/2?if_seq_no=0&if_primary_term=1", `{}`)
	c.must(400, "PUT", "/i/_doc/1?if_seq_no=0", `{}`)
	c.must(400, "PUT", "/i/_doc/1?if_primary_term=1", `{}`)
	var mu sync.Mutex
	won := 0
	var wg sync.WaitGroup
	for range 8 { // of those who saw the same state one wins
		wg.Go(func() {
			if a := c.call("PUT", "/i/_doc/1?if_seq_no=1&if_primary_term=1", `{"n":3}`); a.status == 200 {
				mu.Lock()
				won++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d of 8 writers on the same condition won, want 1", won)
	}
}

func TestUpdates(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.must(404, "POST", "/i/_update/1", `{"doc":{"a":1}}`)
	c.want("upsert", c.must(201, "POST", "/i/_update/1", `{"doc":{"a":1,"o":{"x":1}},"doc_as_upsert":true}`), "result", "created", "_version", 1)
	c.want("missing", c.must(404, "POST", "/i/_update/2", `{"doc":{"a":1}}`), "error.type", "document_missing_exception")
	c.want("merge", c.must(200, "POST", "/i/_update/1?_source=true", `{"doc":{"b":2,"o":{"y":2}}}`), "result", "updated", "get._source.a", 1, "get._source.o.x", 1, "get._source.o.y", 2)
	c.want("noop", c.must(200, "POST", "/i/_update/1", `{"doc":{"b":2}}`), "result", "noop", "_version", 2, "_seq_no", 1)
	c.want("not detected", c.must(200, "POST", "/i/_update/1", `{"doc":{"b":2},"detect_noop":false}`), "result", "updated", "_version", 3)
	c.want("script", c.must(400, "POST", "/i/_update/1", `{"script":"ctx._source.a++"}`), "error.type", "illegal_argument_exception")
	got := c.call("POST", "/_bulk", `{"update":{"_index":"i","_id":"1"}}
{"doc":{"c":1}}
{"update":{"_index":"i","_id":"1"}}
{"doc":{"c":2,"d":3}}
`)
	c.want("two updates of one request", got, "errors", false, "items.0.update._version", 4, "items.1.update._version", 5)
	c.want("their outcome", c.must(200, "GET", "/i/_doc/1", ""), "_source.c", 2, "_source.d", 3, "_source.a", 1)
}

func TestABulkRequestIsOneEntryAndEachItemHasItsOutcome(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.must(200, "PUT", "/i", "")
	before := c.engine.Position().Index
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, "{\"index\":{\"_id\":\"%d\"}}\n{\"n\":%d}\n", i, i)
	}
	a := c.call("POST", "/i/_bulk", b.String(), "Content-Type", "application/x-ndjson")
	c.want("a hundred", a, "errors", false, "items.99.index._seq_no", 99, "items.99.index.status", 201)
	if got := c.engine.Position().Index - before; got != 1 {
		t.Errorf("a bulk of 100 items took %d entries, want 1", got)
	}
	a = c.call("POST", "/_bulk", `{"create":{"_index":"i","_id":"1"}}
{"n":1}
{"delete":{"_index":"i","_id":"2"}}
{"delete":{"_index":"i","_id":"none"}}
{"index":{"_index":"made"}}
{"n":1}
{"index":{"_index":"i","_id":"3"}}
[1]
{"delete":{"_index":"absent","_id":"1"}}
{"index":{"_index":"i","_id":"4","if_seq_no":4,"if_primary_term":1}}
{"n":2}
{"index":{"_index":"i","_id":"4","if_seq_no":4,"if_primary_term":1}}
{"n":3}
{"index":{"_index":"UPPER","_id":"1"}}
{}
`)
	c.want("mixed", a, "errors", true,
		"items.0.create.status", 409, "items.0.create.error.type", "version_conflict_engine_exception",
		"items.1.delete.status", 200, "items.1.delete.result", "deleted", "items.1.delete._seq_no", 100,
		"items.2.delete.status", 404, "items.2.delete.result", "not_found",
		"items.3.index.status", 201, "items.3.index._seq_no", 0,
		"items.4.index.status", 400, "items.4.index.error.type", "mapper_parsing_exception",
		"items.5.delete.status", 404, "items.5.delete.error.type", "index_not_found_exception",
		"items.6.index.status", 200, "items.7.index.status", 409, "items.8.index.error.type", "invalid_index_name_exception")
	for body, want := range map[string]string{
		"":                                      "request body is required",
		`{"index":{"_id":"1"}}` + "\n{}":        `The bulk request must be terminated by a newline [\n]`,
		"[]\n":                                  "Malformed action/metadata line [1]",
		"{\"grow\":{}}\n{}\n":                   "Malformed action/metadata line [1]",
		"{\"index\":{\"routing\":\"x\"}}\n{}\n": "Malformed action/metadata line [1]",
		"{\"index\":{}}\n":                      "Malformed action/metadata line [1]",
	} {
		if a := c.call("POST", "/i/_bulk", body); a.status != 400 || !strings.Contains(a.text, strings.ReplaceAll(want, `\`, `\\`)) {
			t.Errorf("bulk of %q: got %d %s, want 400 %s", body, a.status, a.text, want)
		}
	}
}
