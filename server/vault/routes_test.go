package vault_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/server/vault"
)

// routeList is a list made by hand of who may call what. A route that is not in it fails the test: whoever adds one says here
// what authorises it.
const routeList = "testdata/routes.txt"

// access is what authorises a route: open (nothing, or the handler itself), any (a token, whatever its policies say), token (a policy
// that grants the operation), sudo (one that grants sudo too).
func access(rt vault.RouteLine) string {
	switch {
	case rt.Open:
		return "open"
	case rt.AnyToken:
		return "any"
	case rt.Sudo:
		return "sudo"
	}
	return "token"
}

func TestEveryRouteIsListedWithWhoMayCallIt(t *testing.T) {
	raw, err := os.ReadFile(routeList)
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			listed[line] = true
		}
	}
	for _, rt := range vault.Routes(bare(t).core) {
		line := access(rt) + " " + strings.ReplaceAll(rt.Methods, " ", ",") + " " + rt.Path
		if !listed[line] {
			t.Errorf("a route is not listed; if this is who may call it, add to %s:\n%s", routeList, line)
		}
		delete(listed, line)
	}
	for line := range listed {
		t.Errorf("%s lists what is no route: %s", routeList, line)
	}
}

// verbs are what a client sends for a route's methods.
func verbs(rt vault.RouteLine) []string {
	out := strings.Fields(rt.Methods)
	if slices.Contains(out, "POST") {
		out = append(out, "PUT")
	}
	return out
}

// TestNoRouteLetsStrangersIn calls every route that is not open with every kind of token that must not do.
func TestNoRouteLetsStrangersIn(t *testing.T) {
	t.Parallel()
	c, other := ready(t), ready(t)
	for _, kind := range []string{"userpass", "approle"} {
		c.must(204, "POST", "sys/auth/"+kind, `{"type":"`+kind+`"}`)
	}
	c.policy("nothing", `path "kv/only" { capabilities = ["read"] }`)
	c.policy("almost", `path "*" { capabilities = ["create", "read", "update", "delete", "list", "patch"] }`)
	c.policy("denied", `path "*" { capabilities = ["create", "read", "update", "delete", "list", "patch", "sudo", "deny"] }`)
	expired := c.token(`{"policies":["root"],"ttl":"1m"}`)
	late := c.must(200, "POST", "auth/token/create", `{"type":"batch","policies":["almost"],"ttl":"1m"}`).text("auth.client_token")
	c.clock.pass(time.Minute)
	revoked := c.token(`{"policies":["root"]}`)
	c.must(204, "PUT", "auth/token/revoke", `{"token":"`+revoked+`"}`)
	void := map[string]string{
		"no token": "", "an expired token": expired, "an expired batch token": late, "a revoked token": revoked, "a foreign token": other.root,
		"a wrapping token":      c.call("GET", "sys/mounts", c.root, "", "X-Vault-Wrap-TTL", "60").text("wrap_info.token"),
		"a foreign batch token": other.must(200, "POST", "auth/token/create", `{"type":"batch","policies":["default"]}`).text("auth.client_token"),
	}
	weak := map[string]string{
		"a token without the capability": c.token(`{"policies":["nothing"],"no_default_policy":true}`), "a token that is denied": c.token(`{"policies":["denied"],"no_default_policy":true}`),
		"a token whose policy does not exist": c.token(`{"policies":["none"],"no_default_policy":true}`),
	}
	almost := c.token(`{"policies":["almost"]}`)
	before := c.engine.Position()
	for _, rt := range vault.Routes(c.core) {
		if rt.Open {
			continue
		}
		path := strings.ReplaceAll(rt.Path, "*", "x")
		for _, verb := range verbs(rt) {
			try := func(what, token string) {
				if g := c.call(verb, path, token, ""); g.status != 403 {
					t.Errorf("%s %s with %s: got %v, want 403", verb, path, what, g)
				}
			}
			for what, token := range void {
				try(what, token)
			}
			if !rt.AnyToken {
				for what, token := range weak {
					try(what, token)
				}
			}
			if rt.Sudo {
				try("a token without sudo", almost)
			}
		}
	}
	if after := c.engine.Position(); after != before {
		t.Errorf("strangers wrote: from index %d to %d", before.Index, after.Index)
	}
}

// TestEveryRouteLetsRootIn is the other half: what the test above is refused, it is refused for its token.
func TestEveryRouteLetsRootIn(t *testing.T) {
	t.Parallel()
	c := ready(t)
	for _, kind := range []string{"userpass", "approle"} {
		c.must(204, "POST", "sys/auth/"+kind, `{"type":"`+kind+`"}`)
	}
	for _, rt := range vault.Routes(c.core) {
		path := strings.ReplaceAll(rt.Path, "*", "x")
		for _, verb := range verbs(rt) {
			g := c.call(verb, path, c.token(`{"policies":["root"]}`), "")
			if g.status == 500 || g.status == 403 && strings.Contains(string(g.raw), `"permission denied"`) && !rt.Open {
				t.Errorf("%s %s as root: got %v", verb, path, g)
			}
		}
	}
}

// TestADRSecondaryAnswersNothingElse asks a DR secondary for every route that is not meant for one.
func TestADRSecondaryAnswersNothingElse(t *testing.T) {
	t.Parallel()
	c := ready(t)
	vault.SetNode(c.core, &part{dr: replication.Secondary})
	for _, rt := range vault.Routes(c.core) {
		if rt.OnDR {
			continue
		}
		path := strings.ReplaceAll(rt.Path, "*", "x")
		for _, token := range []string{"", c.root} {
			g := c.call(strings.Fields(rt.Methods)[0], path, token, "")
			if g.status != 400 || fmt.Sprint(g.at("errors")) != "[path disabled in replication DR secondary mode]" {
				t.Errorf("%s: got %v", path, g)
			}
		}
	}
}
