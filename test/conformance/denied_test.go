package conformance

import (
	"net/http"
	"slices"
	"strings"
	"testing"
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
// token, with one from nowhere, with one that was revoked and with one that
// may nothing there: no role forgets to ask.
func strangersAreRefused(t *testing.T, w *world, tables []*table) {
	calls := callsByToken(tables)
	if len(calls) < 50 {
		t.Fatalf("the tables make %d calls with a token only", len(calls))
	}
	for _, node := range []string{"primary", "performance", "dr", "disabled"} {
		for _, who := range []string{"nobody", "foreign", "revoked", "weak"} {
			token, err := w.token(node, who)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range calls {
				if who == "weak" && everyToken(c) {
					continue
				}
				a, err := send(w.nodes[node], token, c.method, c.path, "", mergePatch)
				if err != nil {
					t.Fatalf("%s %s at %s by %s: %v", c.method, c.path, node, who, err)
				}
				denied := a.status == http.StatusForbidden && match(a.json, "errors", "~ permission denied") == nil
				closed := node == "dr" && a.status == http.StatusBadRequest && match(a.json, "errors", `= ["`+closedOnDR+`"]`) == nil
				preflight := a.status == http.StatusForbidden && strings.HasPrefix(c.path, "sys/internal/ui/mounts/")
				// What authorises these is in the body, and there is none.
				byBody := strings.HasPrefix(c.path, "sys/replication/dr/secondary/") && a.status == http.StatusBadRequest
				if !denied && !closed && !preflight && !byBody {
					t.Errorf("%s %s at %s by %s: %d %s, want a refusal", c.method, c.path, node, who, a.status, a.body)
				}
			}
		}
	}
	t.Logf("%d calls refused to four strangers on four clusters", len(calls))
}

// everyToken lists what the default policy gives to every token.
func everyToken(c call) bool {
	return slices.Contains([]string{
		"auth/token/lookup-self", "auth/token/renew-self", "auth/token/revoke-self", "sys/capabilities-self", "sys/wrapping/wrap",
	}, c.path) || strings.HasPrefix(c.path, "sys/internal/ui/mounts/")
}
