package server

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestListenerOfTheOpenSearchAPI(t *testing.T) {
	const head = "storage \"bbolt\" {\n path = \"/d\"\n}\nlistener \"tcp\" {\n tls_disable = true\n}\n"
	cfg, err := ParseConfig("c.hcl", []byte(head+"listener \"opensearch\" {\n address = \"127.0.0.1:9300\"\n tls_disable = true\n security = \"none\"\n max_connections = 5\n}"))
	if err != nil {
		t.Fatal(err)
	}
	if o := cfg.OpenSearch; o == nil || o.Address != "127.0.0.1:9300" || !o.NoSecurity || o.MaxConnections != 5 || o.IdleTimeout == 0 {
		t.Errorf("got %+v", cfg.OpenSearch)
	}
	if cfg, err := ParseConfig("c.hcl", []byte(head)); err != nil || cfg.OpenSearch != nil {
		t.Errorf("without the stanza: got %+v, %v, want no listener", cfg.OpenSearch, err)
	}
	for name, row := range map[string][2]string{
		"no certificate":  {"listener \"opensearch\" {}", "has no certificate"},
		"another word":    {"listener \"opensearch\" {\n tls_disable = true\n security = \"some\"\n}", "security"},
		"two of them":     {"listener \"opensearch\" {\n tls_disable = true\n}\nlistener \"opensearch\" {\n tls_disable = true\n}", "a second listener"},
		"a cluster port":  {"listener \"opensearch\" {\n tls_disable = true\n cluster_address = \"a:1\"\n}", "cluster_address"},
		"a wrong address": {"listener \"opensearch\" {\n tls_disable = true\n address = \"a\"\n}", "want host:port"},
	} {
		if _, err := ParseConfig("c.hcl", []byte(head+row[0])); err == nil || !strings.Contains(err.Error(), row[1]) {
			t.Errorf("%s: got %v, want a mistake with %q", name, err, row[1])
		}
	}
}

func TestAGateThatIsShutAnswersInTheFormOfThePath(t *testing.T) {
	var g gate
	g.shut(waiting{reason: "the server is starting"})
	for path, want := range map[string]string{
		"/v1/sys/mounts": `{"errors":["the server is starting"]}`,
		"/orders/_doc/1": `{"error":{"reason":"the server is starting","root_cause":[{"reason":"the server is starting","type":"status_exception"}],"type":"status_exception"},"status":503}`,
	} {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if got := strings.TrimSpace(w.Body.String()); w.Code != http.StatusServiceUnavailable || got != want || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: got %d %s, want 503 %s", path, w.Code, got, want)
		}
	}
	w := httptest.NewRecorder()
	faceOnly{gate: &g, noSecurity: true}.ServeHTTP(w, httptest.NewRequest("GET", "/v1/sys/mounts", nil))
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "no handler found") {
		t.Errorf("a path of Vault on the listener of the OpenSearch API: got %d %s", w.Code, w.Body)
	}
}
