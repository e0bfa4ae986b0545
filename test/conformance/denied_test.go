package conformance

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// openToAll are the calls that need no token, or authorise by what is in their body. Everything else that a row shows
// to be served to a token is refused without one.
var openToAll = []string{
	"sys/health", "sys/seal-status", "sys/leader", "sys/init", "sys/unseal", "sys/replication/status", "sys/replication/dr/status",
	"sys/replication/performance/status", "sys/wrapping/lookup", "sys/wrapping/unwrap", "sys/wrapping/rewrap", "sys/internal/ui/mounts",
}

var mergePatch = [][2]string{{"Content-Type", "application/merge-patch+json"}} // PATCH takes no other, and no other call minds

const closedOnDR = "path disabled in replication DR secondary mode"

// call is a request without what it carries.
type call struct{ method, path string }

// callsByToken lists the calls that the tables make with a token and that are served.
func callsByToken(tables []*table) []call {
	var calls []call
	for _, tab := range tables {
		for _, r := range tab.rows {
			for _, s := range r.steps {
				path, _, _ := strings.Cut(s.path, "?")
				c := call{s.method, variableForm.ReplaceAllString(path, "x")}
				served := len(s.status) > 0 && s.status[0] < 300
				if r.pending == "" && served && s.who != "nobody" && !slices.Contains(openToAll, path) && !slices.Contains(calls, c) {
					calls = append(calls, c)
				}
			}
		}
	}
	return calls
}

// strangersAreRefused makes every call on a cluster of each role without a
// token, with one from nowhere, with one that was revoked, one that expired and
// one that may nothing there: no role forgets to ask.
func strangersAreRefused(t *testing.T, w *world, tables []*table) {
	calls := callsByToken(tables)
	if len(calls) < 50 {
		t.Fatalf("the tables make %d calls with a token only", len(calls))
	}
	for _, node := range []string{"primary", "performance", "disabled"} {
		cluster.Eventually(t, cluster.Deadline, "the brief token of "+node+" has expired", func() (bool, string) {
			a, err := send(w.nodes[node], w.tokens[node+" expired"], "GET", "auth/token/lookup-self", "", nil)
			if err != nil {
				return false, err.Error()
			}
			return a.status == http.StatusForbidden, string(a.body)
		})
	}
	for _, node := range []string{"primary", "performance", "dr", "disabled", "empty", "sealed"} {
		for _, who := range []string{"nobody", "foreign", "revoked", "expired", "weak"} {
			if (node == "empty" || node == "sealed") && who != "nobody" && who != "foreign" {
				continue // it has no tokens, or knows none
			}
			token, err := w.token(node, who)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range calls {
				if who == "weak" && strings.HasPrefix(c.path, "sys/internal/ui/mounts/") {
					continue // it sees the mounts below which it may anything
				}
				if who == "weak" && slices.Contains(anyCredential, c.path) {
					continue
				}
				a, err := send(w.nodes[node], token, c.method, c.path, "", mergePatch)
				if err != nil {
					t.Fatalf("%s %s at %s by %s: %v", c.method, c.path, node, who, err)
				}
				if err := refused(node, c, a); err != nil {
					t.Errorf("%s %s at %s by %s: %v", c.method, c.path, node, who, err)
				}
			}
		}
	}
	t.Logf("%d calls refused to five strangers on clusters of each kind", len(calls))
}

// anyCredential are calls about the cluster itself that OpenSearch's clients make before all others; lists of indices show those that a caller may reach.
var anyCredential = []string{
	"/", "/_cluster/health", "/_cluster/health/nothing", "/_cluster/settings", "/_nodes/plugins", "/_tasks", "/_cat/nodes", "/_cat/indices", "/_plugins/_security/api/account",
}

func refused(node string, c call, a *answer) error {
	if strings.HasPrefix(c.path, "/") {
		return refusedNative(node, c, a)
	}
	switch {
	case a.status == http.StatusForbidden && match(a.json, "errors", "~ permission denied") == nil:
	case a.status == http.StatusForbidden && strings.HasPrefix(c.path, "sys/internal/ui/mounts/"): // a sentence of its own
	case node == "dr" && a.status == http.StatusBadRequest && match(a.json, "errors", `= ["`+closedOnDR+`"]`) == nil:
	case strings.HasPrefix(c.path, "sys/replication/dr/secondary/") && a.status == http.StatusBadRequest: // what authorises is in the body, and there is none
	case (node == "empty" || node == "sealed") && a.status == http.StatusServiceUnavailable:
	default:
		return fmt.Errorf("%d %s, want a refusal", a.status, a.body)
	}
	return nil
}

// refusedNative is refused for a call of the OpenSearch API. Who has a token and no right is told so, or that what the call lacks is missing.
func refusedNative(node string, c call, a *answer) error {
	closed := `= "` + closedOnDR + `"`
	switch {
	case a.status == http.StatusUnauthorized && (c.method == "HEAD" || string(a.body) == "Unauthorized"):
	case a.status == http.StatusForbidden && (c.method == "HEAD" || match(a.json, "error.type", `= "security_exception"`) == nil):
	case node == "dr" && a.status == http.StatusBadRequest && (c.method == "HEAD" || match(a.json, "error.reason", closed) == nil):
	case (node == "empty" || node == "sealed") && a.status == http.StatusServiceUnavailable:
	case a.status == http.StatusBadRequest && match(a.json, "error.type", `= "parse_exception"`) == nil: // it has no body, which is looked at first
	default:
		return fmt.Errorf("%d %s, want a refusal", a.status, a.body)
	}
	return nil
}
