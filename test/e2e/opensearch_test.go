package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opensearch-project/opensearch-go/v4"
	"github.com/opensearch-project/opensearch-go/v4/opensearchapi"
	"github.com/opensearch-project/opensearch-go/v4/plugins/security"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// openSearchClient is the stock client; it discovers nodes as its users have it do.
func openSearchClient(t *testing.T, cfg opensearch.Config) *opensearchapi.Client {
	t.Helper()
	cfg.DisableRetry = true
	c, err := opensearchapi.NewClient(opensearchapi.Config{Client: cfg})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tokenHeader(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// freeAddress is one that nobody listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// certificateFiles makes a certificate for this machine that signs itself.
func certificateFiles(t *testing.T) (certFile, keyFile string, certPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for file, text := range map[string][]byte{certFile: certPEM, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile, certPEM
}

// life is the life of an index as the stock client has it.
func life(t *testing.T, c *opensearchapi.Client, index string) {
	ctx := context.Background()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	info, err := c.Info(ctx, nil)
	must("info", err)
	if info.Version.Distribution != "opensearch" || info.Name == "" || info.ClusterName == "" {
		t.Errorf("info: got %+v", info)
	}
	_, err = c.Ping(ctx, nil)
	must("ping", err)
	_, err = c.Indices.Create(ctx, opensearchapi.IndicesCreateReq{Index: index, Body: strings.NewReader(`{"settings":{"number_of_replicas":0},"mappings":{"properties":{"tag":{"type":"keyword"}}}}`)})
	must("create", err)
	_, err = c.Indices.Create(ctx, opensearchapi.IndicesCreateReq{Index: index})
	var said *opensearch.StructError
	if !errors.As(err, &said) || said.Err.Type != "resource_already_exists_exception" || said.Status != 400 {
		t.Errorf("creating it again: got %v", err)
	}
	doc, err := c.Index(ctx, opensearchapi.IndexReq{Index: index, DocumentID: "a/1", Body: strings.NewReader(`{"tag":"x","n":1}`), Params: opensearchapi.IndexParams{Refresh: "true"}})
	must("index", err)
	if doc.Version != 1 || doc.SeqNo != 0 || doc.Result != "created" || !doc.ForcedRefresh {
		t.Errorf("the first document: got %+v", doc)
	}
	var lines strings.Builder
	for i := range 20 {
		fmt.Fprintf(&lines, "{\"index\":{\"_id\":\"%d\"}}\n{\"tag\":\"y\",\"n\":%d}\n", i, i)
	}
	bulk, err := c.Bulk(ctx, opensearchapi.BulkReq{Index: index, Body: strings.NewReader(lines.String())})
	must("bulk", err)
	if bulk.Errors || len(bulk.Items) != 20 || bulk.Items[19]["index"].SeqNo != 20 {
		t.Errorf("bulk: got %+v", bulk)
	}
	got, err := c.Document.Get(ctx, opensearchapi.DocumentGetReq{Index: index, DocumentID: "a/1"})
	must("get", err)
	if !got.Found || string(got.Source) != `{"tag":"x","n":1}` {
		t.Errorf("get: got %+v, source %s", got, got.Source)
	}
	updated, err := c.Update(ctx, opensearchapi.UpdateReq{Index: index, DocumentID: "a/1", Body: strings.NewReader(`{"doc":{"n":2}}`)})
	must("update", err)
	if updated.Version != 2 || updated.SeqNo != 21 {
		t.Errorf("update: got %+v", updated)
	}
	seq, term := 0, 1
	_, err = c.Index(ctx, opensearchapi.IndexReq{Index: index, DocumentID: "a/1", Body: strings.NewReader(`{}`), Params: opensearchapi.IndexParams{IfSeqNo: &seq, IfPrimaryTerm: &term}})
	if !errors.As(err, &said) || said.Err.Type != "version_conflict_engine_exception" || said.Status != 409 {
		t.Errorf("a write on a stale condition: got %v", err)
	}
	many, err := c.MGet(ctx, opensearchapi.MGetReq{Index: index, Body: strings.NewReader(`{"ids":["1","none"]}`)})
	must("mget", err)
	if len(many.Docs) != 2 || !many.Docs[0].Found || many.Docs[1].Found {
		t.Errorf("mget: got %+v", many.Docs)
	}
	found, err := c.Search(ctx, &opensearchapi.SearchReq{Indices: []string{index}, Body: strings.NewReader(`{"query":{"term":{"tag":"y"}},"sort":[{"n":"desc"}],"size":3}`)})
	must("search", err)
	if found.Hits.Total.Value != 20 || len(found.Hits.Hits) != 3 || found.Hits.Hits[0].ID != "19" {
		t.Errorf("search: got %+v", found.Hits)
	}
	counted, err := c.Indices.Count(ctx, &opensearchapi.IndicesCountReq{Indices: []string{index}})
	must("count", err)
	if counted.Count != 21 {
		t.Errorf("count: got %d, want 21", counted.Count)
	}
	_, err = c.Aliases(ctx, opensearchapi.AliasesReq{Body: strings.NewReader(fmt.Sprintf(`{"actions":[{"add":{"index":%q,"alias":%q}}]}`, index, index+"-alias"))})
	must("aliases", err)
	gone, err := c.Document.Delete(ctx, opensearchapi.DocumentDeleteReq{Index: index + "-alias", DocumentID: "1"})
	must("delete through the alias", err)
	if gone.Result != "deleted" || gone.SeqNo != 22 {
		t.Errorf("delete: got %+v", gone)
	}
	clusterCalls(t, c, index)
	_, err = c.Indices.Delete(ctx, opensearchapi.IndicesDeleteReq{Indices: []string{index}})
	must("delete the index", err)
	if _, err = c.Document.Get(ctx, opensearchapi.DocumentGetReq{Index: index, DocumentID: "a/1"}); !errors.As(err, &said) || said.Err.Type != "index_not_found_exception" {
		t.Errorf("reading an index that is gone: got %v", err)
	}
}

// clusterCalls are what the client asks of the cluster itself.
func clusterCalls(t *testing.T, c *opensearchapi.Client, index string) {
	t.Helper()
	ctx := context.Background()
	health, err := c.Cluster.Health(ctx, nil)
	if err != nil || health.Status != "green" || health.NumberOfNodes != 1 {
		t.Errorf("health: got %+v, %v", health, err)
	}
	list, err := c.Cat.Indices(ctx, &opensearchapi.CatIndicesReq{Indices: []string{index}})
	if err != nil || len(list.Indices) != 1 || *list.Indices[0].DocsCount != 20 {
		t.Errorf("cat indices: got %+v, %v", list, err)
	}
	shards, err := c.Cat.Shards(ctx, nil)
	if err != nil || len(shards.Shards) == 0 {
		t.Errorf("cat shards: got %+v, %v", shards, err)
	}
	nodes, err := c.Nodes.Info(ctx, nil)
	if err != nil || nodes.NodesInfo.Successful != 1 || len(nodes.Nodes) != 1 {
		t.Errorf("nodes: got %+v, %v", nodes, err)
	}
	set, err := c.Cluster.PutSettings(ctx, opensearchapi.ClusterPutSettingsReq{Body: strings.NewReader(`{"persistent":{"plugins.replication.follower.bulk_batch_size":7}}`)})
	if err != nil || !set.Acknowledged {
		t.Errorf("settings: got %+v, %v", set, err)
	}
	if _, err := c.Indices.Refresh(ctx, &opensearchapi.IndicesRefreshReq{Index: []string{index}}); err != nil {
		t.Errorf("refresh: %v", err)
	}
	if err := c.Client.DiscoverNodes(ctx); err != nil {
		t.Errorf("the client's discovery of nodes: %v", err)
	}
	if health, err := c.Cluster.Health(ctx, nil); err != nil || health.Status != "green" {
		t.Errorf("after discovery, at the address that the server told: %+v, %v", health, err)
	}
}

func TestStockOpenSearchClient(t *testing.T) {
	t.Parallel()
	certFile, keyFile, ca := certificateFiles(t)
	secured, open := freeAddress(t), freeAddress(t)
	n := cluster.New(t, "main", cluster.Options{Top: []string{fmt.Sprintf("listener \"opensearch\" {\n  address = %q\n  tls_cert_file = %q\n  tls_key_file = %q\n}", secured, certFile, keyFile)}})
	n.Start()
	n.Init()
	other := cluster.New(t, "open", cluster.Options{Top: []string{fmt.Sprintf("listener \"opensearch\" {\n  address = %q\n  tls_disable = true\n  security = \"none\"\n}", open)}})
	other.Start()
	other.Init()
	t.Run("on the API listener, with a token", func(t *testing.T) {
		life(t, openSearchClient(t, opensearch.Config{Addresses: []string{n.API}, Header: tokenHeader(n.Token)}), "orders")
	})
	t.Run("with TLS, as an internal user", func(t *testing.T) {
		client := opensearch.Config{Addresses: []string{"https://" + secured}, CACert: ca}
		admin := client
		admin.Header = tokenHeader(n.Token)
		sec, err := security.NewClient(security.Config{Client: admin})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sec.InternalUsers.Put(context.Background(), security.InternalUsersPutReq{User: "ann", Body: security.InternalUsersPutBody{Password: "a long password", SecurityRoles: []string{"all_access"}}}); err != nil {
			t.Fatal(err)
		}
		client.Username, client.Password = "ann", "a long password"
		life(t, openSearchClient(t, client), "users")
		client.Password = "another"
		if _, err := openSearchClient(t, client).Info(context.Background(), nil); err == nil {
			t.Error("a wrong password was let in")
		}
	})
	t.Run("without security, where a listener says so", func(t *testing.T) {
		life(t, openSearchClient(t, opensearch.Config{Addresses: []string{"http://" + open}}), "orders")
		got, err := http.Get("http://" + open + "/v1/sys/health")
		if err != nil {
			t.Fatal(err)
		}
		defer got.Body.Close()
		if got.StatusCode != http.StatusBadRequest {
			t.Errorf("a path of Vault there: got %d, want 400", got.StatusCode)
		}
		if !strings.Contains(other.Log(), `security = "none"`) {
			t.Error("the log does not name the listener without security")
		}
	})
}

// face sends one request to a node's OpenSearch API.
func face(t *testing.T, n *cluster.Node, method, path, body string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequest(method, n.API+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = tokenHeader(n.Token)
	req.Header.Set("Content-Type", "application/json")
	got, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	out := map[string]any{}
	if err := json.NewDecoder(got.Body).Decode(&out); err != nil {
		t.Fatalf("%s %s at %s: %d, %v", method, path, n.Name, got.StatusCode, err)
	}
	return got.StatusCode, out
}

func TestDocumentsAreTheSameOnEveryClusterOfTheSets(t *testing.T) {
	t.Parallel()
	trio := cluster.NewTrio(t, cluster.Options{})
	must := func(want int, n *cluster.Node, method, path, body string) map[string]any {
		t.Helper()
		got, out := face(t, n, method, path, body)
		if got != want {
			t.Fatalf("%s %s at %s: got %d %v, want %d\n%s", method, path, n.Name, got, out, want, n.LogTail(5))
		}
		return out
	}
	must(200, trio.Primary, "PUT", "/orders", `{"aliases":{"all":{}},"settings":{"number_of_replicas":0}}`)
	must(201, trio.Primary, "PUT", "/orders/_doc/1", `{"n":1}`)
	trio.WaitConverged()
	must(200, trio.Performance, "PUT", "/orders/_doc/1", `{"n":2}`) // sent on
	must(201, trio.Performance, "POST", "/made/_doc/x", `{"n":1}`)
	trio.Primary.MustDo("PUT", "orders/1", `{"n":3}`, 204)
	bulk := must(200, trio.Performance, "POST", "/_bulk", "{\"update\":{\"_index\":\"all\",\"_id\":\"1\"}}\n{\"doc\":{\"m\":1}}\n{\"index\":{\"_index\":\"orders\",\"_id\":\"2\"}}\n{}\n")
	if bulk["errors"] != false {
		t.Errorf("a bulk request that is sent on: got %v", bulk)
	}
	trio.WaitConverged()
	want := fmt.Sprint(must(200, trio.Primary, "GET", "/orders/_doc/1", ""))
	if !strings.Contains(want, "_seq_no:3") || !strings.Contains(want, "_version:4") {
		t.Errorf("on the primary: got %s, want operation 3 and version 4", want)
	}
	if got := fmt.Sprint(must(200, trio.Performance, "GET", "/all/_doc/1", "")); got != want {
		t.Errorf("on the performance secondary: got %s, want %s", got, want)
	}
	if got := must(200, trio.Performance, "GET", "/orders/_count", ""); got["count"] != 2.0 {
		t.Errorf("count on the performance secondary: got %v, want 2", got)
	}
	must(201, trio.Primary, "PUT", "/hidden/_doc/1", `{}`)
	trio.Primary.MustDo("PUT", "sys/replication/performance/primary/paths-filter/perf-1", `{"mode":"deny","paths":["hidden/"]}`, 200, 204)
	cluster.Eventually(t, cluster.Deadline, "the filter is in force", func() (bool, string) {
		got, out := face(t, trio.Performance, "GET", "/hidden/_doc/1", "")
		return got == 400, fmt.Sprint(got, out)
	})
	must(403, trio.Performance, "PUT", "/hidden/_doc/1", `{"n":1}`)
	must(200, trio.Performance, "DELETE", "/hid*", "") // finds nothing there
	must(200, trio.Primary, "GET", "/hidden/_doc/1", "")
	if got, out := face(t, trio.DR, "GET", "/orders/_doc/1", ""); got != 400 {
		t.Errorf("a DR secondary: got %d %v, want 400", got, out)
	}
}
