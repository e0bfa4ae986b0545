package vault_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/vault"
)

func TestBeforeInit(t *testing.T) {
	c := bare(t)
	c.story(t, []step{
		{"health", "GET", "sys/health", "", "none", 501, map[string]string{"initialized": `false`, "sealed": `false`}},
		{"health with a code of one's own", "GET", "sys/health?uninitcode=299&nonsense=1", "", "none", 299, nil},
		{"seal status", "GET", "sys/seal-status", "", "none", 200, map[string]string{"initialized": `false`, "sealed": `false`}},
		{"init status", "GET", "sys/init", "", "none", 200, map[string]string{"initialized": `false`}},
		{"leader", "GET", "sys/leader", "", "none", 200, map[string]string{"is_self": `true`, "leader_cluster_address": `"https://127.0.0.1:8201"`}},
		{"replication status", "GET", "sys/replication/status", "", "none", 200, map[string]string{"data.dr.mode": `"disabled"`}},
		{"anything else", "GET", "sys/mounts", "", "hvs.x", 503, nil},
		{"data", "PUT", "secret/x", `{"a":1}`, "hvs.x", 503, nil},
	})
}

func TestInit(t *testing.T) {
	c := ready(t)
	if !strings.HasPrefix(c.root, "hvs.") || len(c.root) != 28 {
		t.Errorf("root token of %d bytes", len(c.root))
	}
	c.story(t, []step{
		{"twice", "PUT", "sys/init", `{}`, "none", 400, nil},
		{"status", "GET", "sys/init", "", "none", 200, map[string]string{"initialized": `true`}},
		{"health", "GET", "sys/health", "", "none", 200, map[string]string{
			"initialized": `true`, "standby": `false`, "replication_dr_mode": `"disabled"`, "replication_performance_mode": `"disabled"`, "version": `"0.1.0"`}},
		{"health, all codes 299", "GET", "sys/health?activecode=299&standbycode=299&sealedcode=299", "", "none", 299, nil},
		{"health, no number", "GET", "sys/health?activecode=x", "", "none", 400, map[string]string{"errors": `[]`}},
		{"health, the least code", "GET", "sys/health?activecode=200", "", "none", 200, nil},
		{"health, the greatest code", "GET", "sys/health?activecode=599", "", "none", 599, nil},
		{"health, an interim code", "GET", "sys/health?activecode=199", "", "none", 400, map[string]string{"errors": `[]`}},
		{"health, no code of HTTP", "GET", "sys/health?standbycode=600", "", "none", 400, map[string]string{"errors": `[]`}},
		{"health by POST", "POST", "sys/health", "", "none", 405, nil},
		{"the root token", "GET", "auth/token/lookup-self", "", "", 200, map[string]string{
			"data.policies": `["root"]`, "data.ttl": `0`, "data.expire_time": `null`, "data.orphan": `true`, "data.path": `"auth/token/root"`}},
	})
	if g := c.call("HEAD", "sys/health", "", ""); g.status != 200 || len(g.raw) != 0 {
		t.Errorf("HEAD of health: %v", g)
	}
	if g := c.call("GET", "sys/seal-status", "", ""); g.header.Get("Cache-Control") != "no-store" || g.header.Get("Content-Type") != "application/json" {
		t.Errorf("headers: %v", g.header)
	}
}

func TestMounts(t *testing.T) {
	c := ready(t)
	c.story(t, []step{
		{"list", "GET", "sys/mounts", "", "", 200, map[string]string{
			"data.kv/.type": `"kv"`, "data.kv/.options": `{"version":"1"}`, "data.secret/.options": `{"version":"2"}`,
			"secret/.type": `"kv"`, "data.kv/.local": `false`}},
		{"read one", "GET", "sys/mounts/kv", "", "", 200, map[string]string{"data.type": `"kv"`}},
		{"read none", "GET", "sys/mounts/none", "", "", 400, nil},
		{"enable, as the CLI does", "POST", "sys/mounts/team/a/", `{"type":"kv-v2","description":"of a","config":{"default_lease_ttl":"0s","max_lease_ttl":"0s","force_no_cache":false,"options":null},"local":true,"seal_wrap":false,"external_entropy_access":false,"options":null}`, "", 204, nil},
		{"is there", "GET", "sys/mounts/team/a", "", "", 200, map[string]string{"data.local": `true`, "data.options.version": `"2"`, "data.description": `"of a"`}},
		{"the same path", "POST", "sys/mounts/team/a", `{"type":"kv"}`, "", 400, map[string]string{"errors": `["path is already in use at team/a/"]`}},
		{"a path below", "POST", "sys/mounts/team/a/b", `{"type":"kv"}`, "", 400, nil},
		{"a path above", "POST", "sys/mounts/team", `{"type":"kv"}`, "", 400, nil},
		{"a sibling", "POST", "sys/mounts/team/b", `{"type":"kv-v1"}`, "", 204, nil},
		{"a reserved path", "POST", "sys/mounts/sys/x", `{"type":"kv"}`, "", 400, nil},
		{"an unknown type", "POST", "sys/mounts/x", `{"type":"pki"}`, "", 400, nil},
		{"no type", "POST", "sys/mounts/x", `{}`, "", 400, nil},
		{"an unknown version", "POST", "sys/mounts/x", `{"type":"kv","options":{"version":"3"}}`, "", 400, nil},
		{"a number as version", "POST", "sys/mounts/num", `{"type":"kv","options":{"version":2}}`, "", 204, nil},
		{"an unknown option", "POST", "sys/mounts/x", `{"type":"kv","options":{"colour":"red"}}`, "", 400, nil},
		{"seal wrap", "POST", "sys/mounts/x", `{"type":"kv","seal_wrap":true}`, "", 400, nil},
		{"a type of a wrong type", "POST", "sys/mounts/x", `{"type":["kv"]}`, "", 400, nil},
		{"tune", "POST", "sys/mounts/kv/tune", `{"default_lease_ttl":"1h","description":"tuned"}`, "", 204, nil},
		{"tuned", "GET", "sys/mounts/kv/tune", "", "", 200, map[string]string{"data.default_lease_ttl": `3600`, "data.max_lease_ttl": `2764800`, "data.description": `"tuned"`}},
		{"shows in leases", "PUT", "kv/a", `{"a":1}`, "", 204, nil},
		{"there", "GET", "kv/a", "", "", 200, map[string]string{"lease_duration": `3600`}},
		{"the version stays", "POST", "sys/mounts/kv/tune", `{"options":{"version":"2"}}`, "", 400, nil},
		{"tune none", "POST", "sys/mounts/none/tune", `{}`, "", 400, nil},
		{"preflight", "GET", "sys/internal/ui/mounts/team/a/some/key", "", "", 200, map[string]string{
			"data.path": `"team/a/"`, "data.type": `"kv"`, "data.options": `{"version":"2"}`}},
		{"preflight of nothing", "GET", "sys/internal/ui/mounts/none/x", "", "", 403, nil},
		{"what the UI lists", "GET", "sys/internal/ui/mounts", "", "", 200, map[string]string{"data.auth": `{}`, "data.secret.kv/.type": `"kv"`}},
		{"what it lists for nobody", "GET", "sys/internal/ui/mounts", "", "none", 200, map[string]string{"data.secret": `{}`}},
		{"move", "POST", "sys/remount", `{"from":"kv","to":"moved/kv/"}`, "", 200, nil},
		{"moved", "GET", "moved/kv/a", "", "", 200, map[string]string{"data": `{"a":1}`}},
		{"not there any more", "GET", "kv/a", "", "", 404, nil},
		{"move to what is taken", "POST", "sys/remount", `{"from":"secret","to":"moved/"}`, "", 400, nil},
		{"move of nothing", "POST", "sys/remount", `{"from":"none","to":"x"}`, "", 400, nil},
		{"disable", "DELETE", "sys/mounts/moved/kv", "", "", 204, nil},
		{"disabled", "GET", "moved/kv/a", "", "", 404, nil},
		{"disable nothing", "DELETE", "sys/mounts/moved/kv", "", "", 204, nil},
		{"the path is free", "POST", "sys/mounts/moved/kv", `{"type":"kv"}`, "", 204, nil},
		{"and empty", "GET", "moved/kv/a", "", "", 404, nil},
		{"auth methods", "GET", "sys/auth", "", "", 200, map[string]string{"data.token/.type": `"token"`}},
	})
	id := c.must(200, "PUT", "sys/remount", `{"from":"team/b","to":"team/c"}`).text("data.migration_id")
	c.story(t, []step{
		{"status of a move", "GET", "sys/remount/status/" + id, "", "", 200, map[string]string{"data.migration_info.status": `"success"`}},
		{"status of none", "GET", "sys/remount/status/x", "", "", 404, nil},
	})
}

// TestHiddenLocalMount puts a replicated mount where a local one is, as a secondary sees it when its primary takes the path.
func TestHiddenLocalMount(t *testing.T) {
	c := ready(t)
	c.must(204, "POST", "sys/mounts/here", `{"type":"kv","local":true}`)
	c.must(204, "PUT", "here/k", `{"whose":"local"}`)
	c.must(204, "POST", "sys/mounts/there", `{"type":"kv"}`)
	c.must(204, "PUT", "there/k", `{"whose":"replicated"}`)
	vault.MoveRecord(t, c.engine, "there/", "here/")
	if g := c.must(200, "GET", "here/k", ""); g.text("data.whose") != "replicated" {
		t.Errorf("served: %v", g)
	}
	g := c.must(200, "GET", "sys/mounts", "")
	w, _ := g.at("warnings").([]any)
	if len(w) != 1 {
		t.Fatalf("no warning of the hidden mount: %v", g)
	}
	_, accessor, _ := strings.Cut(w[0].(string), "from=")
	c.must(200, "POST", "sys/remount", `{"from":"`+accessor+`","to":"freed"}`)
	if g := c.must(200, "GET", "freed/k", ""); g.text("data.whose") != "local" {
		t.Errorf("after the move: %v", g)
	}
	if g := c.must(200, "GET", "sys/mounts", ""); g.at("warnings") != nil {
		t.Errorf("still warned: %v", g)
	}
}

func TestPolicies(t *testing.T) {
	c := ready(t)
	c.story(t, []step{
		{"list", "LIST", "sys/policies/acl", "", "", 200, map[string]string{"data.keys": `["default","root"]`}},
		{"default", "GET", "sys/policies/acl/default", "", "", 200, map[string]string{"data.name": `"default"`}},
		{"none", "GET", "sys/policies/acl/app", "", "", 404, map[string]string{"errors": `[]`}},
		{"write", "PUT", "sys/policies/acl/App", `{"policy":"path \"kv/app/*\" { capabilities = [\"read\", \"list\"] }"}`, "", 204, nil},
		{"names have no case", "GET", "sys/policies/acl/app", "", "", 200, map[string]string{"data.policy": `"path \"kv/app/*\" { capabilities = [\"read\", \"list\"] }"`}},
		{"the old path", "GET", "sys/policy/app", "", "", 200, map[string]string{"data.rules": `"path \"kv/app/*\" { capabilities = [\"read\", \"list\"] }"`, "rules": `"path \"kv/app/*\" { capabilities = [\"read\", \"list\"] }"`}},
		{"the old list", "GET", "sys/policy", "", "", 200, map[string]string{"data.policies": `["app","default","root"]`, "policies": `["app","default","root"]`}},
		{"the old write", "PUT", "sys/policy/old", `{"rules":"path \"a\" { policy = \"write\" }"}`, "", 204, nil},
		{"JSON", "PUT", "sys/policies/acl/json", `{"policy":"{\"path\":{\"kv/*\":{\"capabilities\":[\"read\"]}}}"}`, "", 204, nil},
		{"no policy", "PUT", "sys/policies/acl/x", `{}`, "", 400, nil},
		{"bad HCL", "PUT", "sys/policies/acl/x", `{"policy":"path \"a\" {"}`, "", 400, nil},
		{"a capability that is none", "PUT", "sys/policies/acl/x", `{"policy":"path \"a\" { capabilities = [\"fly\"] }"}`, "", 400, nil},
		{"what would be ignored is refused", "PUT", "sys/policies/acl/x", `{"policy":"path \"a\" { capabilities = [\"update\"]\n denied_parameters = { \"b\" = [] } }"}`, "", 400, nil},
		{"root is not written", "PUT", "sys/policies/acl/root", `{"policy":"path \"a\" { capabilities = [\"read\"] }"}`, "", 400, nil},
		{"root is not deleted", "DELETE", "sys/policies/acl/root", "", "", 400, nil},
		{"default is not deleted", "DELETE", "sys/policies/acl/default", "", "", 400, nil},
		{"delete", "DELETE", "sys/policies/acl/app", "", "", 204, nil},
		{"deleted", "GET", "sys/policies/acl/app", "", "", 404, nil},
		{"again", "DELETE", "sys/policies/acl/app", "", "", 204, nil},
		{"capabilities of root", "POST", "sys/capabilities-self", `{"paths":["kv/a"]}`, "", 200, map[string]string{"data": `{"capabilities":["root"],"kv/a":["root"]}`, "capabilities": `["root"]`}},
	})
}

func TestPolicyGuardsData(t *testing.T) {
	c := ready(t)
	c.must(204, "PUT", "sys/policies/acl/maker", `{"policy":"path \"kv/m/*\" { capabilities = [\"create\", \"read\", \"list\"] }\npath \"kv/m/secret\" { capabilities = [\"deny\"] }\npath \"secret/data/+/x\" { capabilities = [\"create\",\"patch\"] }"}`)
	maker := c.token(`{"policies":["maker"]}`)
	c.story(t, []step{
		{"may create", "PUT", "kv/m/new", `{"a":1}`, maker, 204, nil},
		{"may not update", "PUT", "kv/m/new", `{"a":2}`, maker, 403, map[string]string{"errors": `["permission denied"]`}},
		{"may read", "GET", "kv/m/new", "", maker, 200, map[string]string{"data.a": `1`}},
		{"may list", "LIST", "kv/m", "", maker, 200, nil},
		{"may not list above", "LIST", "kv", "", maker, 403, nil},
		{"may not delete", "DELETE", "kv/m/new", "", maker, 403, nil},
		{"deny wins", "GET", "kv/m/secret", "", maker, 403, nil},
		{"elsewhere", "GET", "kv/other", "", maker, 403, nil},
		{"version 2, create", "PUT", "secret/data/any/x", `{"data":{"a":1}}`, maker, 200, nil},
		{"version 2, update", "PUT", "secret/data/any/x", `{"data":{"a":1}}`, maker, 403, nil},
		{"version 2, patch", "PATCH", "secret/data/any/x", `{"data":{"a":2}}`, maker, 200, nil},
		{"version 2, two segments", "PUT", "secret/data/any/more/x", `{"data":{"a":1}}`, maker, 403, nil},
		{"system", "GET", "sys/mounts", "", maker, 403, nil},
		{"what does not exist is not told", "GET", "sys/nonsense", "", maker, 403, nil},
		{"to root it is", "GET", "sys/nonsense", "", "", 404, map[string]string{"errors": `["unsupported path"]`}},
		{"nor what exists for other verbs", "DELETE", "sys/mounts", "", maker, 403, nil},
		{"to root it is too", "DELETE", "sys/mounts", "", "", 405, nil},
		{"preflight where something is allowed", "GET", "sys/internal/ui/mounts/kv/m/new", "", maker, 200, nil},
		{"itself", "GET", "auth/token/lookup-self", "", maker, 200, map[string]string{"data.policies": `["default","maker"]`}},
		{"capabilities", "POST", "sys/capabilities-self", `{"paths":["kv/m/a","kv/m/secret","x"]}`, maker, 200, map[string]string{
			"data": `{"kv/m/a":["create","list","read"],"kv/m/secret":["deny"],"x":["deny"]}`}},
		{"reindex needs sudo", "POST", "sys/replication/reindex", "", maker, 403, nil},
		{"no token", "GET", "kv/m/new", "", "none", 403, map[string]string{"errors": `["permission denied"]`}},
		{"a wrong token", "GET", "kv/m/new", "", "hvs.nonsense", 403, nil},
	})
	g := c.call("GET", "kv/m/new", "", "", "Authorization", "Bearer "+maker)
	if g.status != 200 {
		t.Errorf("bearer token: %v", g)
	}
	c.must(204, "PUT", "sys/policies/acl/maker", `{"policy":"path \"kv/none\" { capabilities = [\"read\"] }"}`)
	if g := c.call("GET", "kv/m/new", maker, ""); g.status != 403 {
		t.Errorf("after the policy was narrowed: %v", g)
	}
}

func TestDevMode(t *testing.T) {
	c := bare(t, func(cfg *vault.Config) { cfg.DevRootToken = "dev-only" })
	for range 2 {
		if err := c.core.DevInit(context.Background(), "dev-only"); err != nil {
			t.Fatalf("DevInit: %v", err)
		}
	}
	c.root = "dev-only"
	c.must(200, "PUT", "secret/data/x", `{"data":{"a":1}}`)
	c.must(204, "PUT", "auth/token/revoke-self", "")
	c.must(200, "GET", "secret/data/x", "")
	if g := c.must(200, "GET", "auth/token/lookup-self", ""); !same(g.at("data.policies"), `["root"]`) {
		t.Errorf("lookup of the dev token without a record: %v", g)
	}
	c.must(400, "PUT", "auth/token/revoke-self", "")
	child := c.token(`{}`)
	if g := c.call("GET", "auth/token/lookup-self", child, ""); g.status != 200 {
		t.Errorf("child of the dev token: %v", g)
	}
	token, err := vault.MintRoot(context.Background(), c.engine, false)
	if err != nil {
		t.Fatalf("MintRoot: %v", err)
	}
	if g := c.call("GET", "secret/data/x", token, ""); g.status != 200 {
		t.Errorf("minted root token: %v", g)
	}
}

func TestMintRootNeedsAnInitialisedCluster(t *testing.T) {
	c := bare(t)
	before := c.engine.Position()
	token, err := vault.MintRoot(context.Background(), c.engine, false)
	if token != "" || err == nil || !strings.Contains(err.Error(), "not initialised: start the server and call PUT /v1/sys/init") {
		t.Errorf("got %q, %v, want a refusal that says what to do", token, err)
	}
	if c.engine.Position() != before {
		t.Error("the refused call wrote something")
	}
	if token, err := vault.MintRoot(context.Background(), c.engine, true); token == "" || err != nil {
		t.Errorf("a secondary that is being filled: got %v", err)
	}
}

func TestOutsideV1(t *testing.T) {
	c := ready(t)
	res, err := http.Get(c.srv.URL + "/ui/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 404 {
		t.Errorf("got %d, want 404", res.StatusCode)
	}
}
