package vault_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/vault"
	"github.com/lockstepdb/lockstep/storage"
)

func TestTokenRoles(t *testing.T) {
	t.Parallel()
	c := ready(t)
	c.policy("maker", `path "auth/token/create/*" { capabilities = ["update"] }`)
	maker := c.token(`{"policies":["maker"]}`)
	c.story(t, []step{
		{"none yet", "LIST", "auth/token/roles", ``, "", 404, nil},
		{"a role", "POST", "auth/token/roles/app", `{"allowed_policies":"A,b","disallowed_policies":["c"],"orphan":true,"period":"1h","renewable":"true","path_suffix":"x-1","token_bound_cidrs":["127.0.0.0/8","::1"]}`, "", 204, nil},
		{"as it reads", "GET", "auth/token/roles/app", ``, "", 200, map[string]string{
			"data.name": `"app"`, "data.allowed_policies": `["a","b"]`, "data.disallowed_policies": `["c"]`, "data.orphan": `true`, "data.period": `3600`, "data.token_period": `3600`,
			"data.path_suffix": `"x-1"`, "data.renewable": `true`, "data.token_type": `"default-service"`, "data.allowed_policies_glob": `[]`, "data.token_bound_cidrs": `["127.0.0.0/8","::1/128"]`}},
		{"changed in part", "POST", "auth/token/roles/app", `{"token_explicit_max_ttl":"3h","colour":"red"}`, "", 200, map[string]string{"warnings": `["these parameters are not known here and were ignored: colour"]`}},
		{"the rest stays", "GET", "auth/token/roles/app", ``, "", 200, map[string]string{"data.explicit_max_ttl": `10800`, "data.period": `3600`}},
		{"listed", "GET", "auth/token/roles?list=true", ``, "", 200, map[string]string{"data.keys": `["app"]`}},
		{"unknown role", "POST", "auth/token/create/none", `{}`, maker, 400, map[string]string{"errors": `["unknown role none"]`}},
		{"what the role allows, more than the parent has", "POST", "auth/token/create/app", `{}`, maker, 200, map[string]string{
			"auth.policies": `["a","b","default"]`, "auth.orphan": `true`, "auth.lease_duration": `3600`, "auth.renewable": `true`}},
		{"a part of it", "POST", "auth/token/create/app", `{"policies":["b"],"no_default_policy":true}`, maker, 200, map[string]string{"auth.policies": `["b"]`}},
		{"beyond it", "POST", "auth/token/create/app", `{"policies":["maker"]}`, maker, 400, nil},
		{"what it forbids", "POST", "auth/token/create/app", `{"policies":["c"]}`, "", 400, map[string]string{"errors": `["token policy \"c\" is disallowed by this role"]`}},
		{"a period needs sudo all the same", "POST", "auth/token/create/app", `{"period":"9h"}`, maker, 400, nil},
		{"root through a role", "POST", "auth/token/roles/r", `{"allowed_policies":["root"]}`, "", 204, nil},
		{"by who is not root", "POST", "auth/token/create/r", `{"policies":["root"]}`, maker, 400, nil},
		{"by who is not root, unasked", "POST", "auth/token/create/r", `{}`, maker, 400, nil},
		{"globs", "POST", "auth/token/roles/glob", `{"allowed_policies_glob":["team-*"],"disallowed_policies_glob":["*-admin","default"]}`, "", 204, nil},
		{"by glob", "POST", "auth/token/create/glob", `{"policies":["team-a"]}`, maker, 200, map[string]string{"auth.policies": `["team-a"]`, "auth.orphan": `false`}},
		{"forbidden by glob", "POST", "auth/token/create/glob", `{"policies":["team-admin"]}`, maker, 400, nil},
		{"one word among the forbidden is not all", "POST", "auth/token/roles/no", `{"disallowed_policies":["root","x"]}`, "", 204, nil},
		{"still forbidden", "POST", "auth/token/create/no", `{"policies":["x"]}`, "", 400, nil},
		{"uses", "POST", "auth/token/roles/once", `{"token_num_uses":1,"token_no_default_policy":true}`, "", 204, nil},
		{"fewest count", "POST", "auth/token/create/once", `{"policies":["default"],"num_uses":5}`, "", 200, map[string]string{"auth.num_uses": `1`}},
		{"a batch role that could renew", "POST", "auth/token/roles/b", `{"token_type":"batch","orphan":true}`, "", 400, nil},
		{"an unknown type", "POST", "auth/token/roles/b", `{"token_type":"bath"}`, "", 400, nil},
		{"no network", "POST", "auth/token/roles/b", `{"token_bound_cidrs":["here"]}`, "", 400, nil},
		{"a suffix that is a path", "POST", "auth/token/roles/b", `{"path_suffix":"a/b"}`, "", 400, nil},
		{"gone", "DELETE", "auth/token/roles/app", ``, "", 204, nil},
		{"gone for good", "GET", "auth/token/roles/app", ``, "", 404, nil},
		{"who may not", "POST", "auth/token/roles/x", `{}`, maker, 403, nil},
	})
	c.must(204, "POST", "auth/token/roles/far", `{"token_bound_cidrs":["203.0.113.0/24"]}`)
	far := c.must(200, "POST", "auth/token/create/far", `{"policies":["default"]}`).text("auth.client_token")
	if g := c.call("GET", "auth/token/lookup-self", far, ""); g.status != 403 {
		t.Errorf("a token of another network: %v", g)
	}
}

// recipe makes a batch token for the calls of a DR secondary, as it is documented for Vault.
func (c *cluster) recipe(ttl string) string {
	c.t.Helper()
	c.policy("dr-op", `path "sys/replication/dr/secondary/promote" { capabilities = ["read", "update"] }
		path "sys/replication/dr/secondary/recover" { capabilities = ["read"] }`)
	c.must(204, "POST", "auth/token/roles/dr", `{"allowed_policies":"dr-op","orphan":true,"renewable":false,"token_type":"batch"}`)
	return c.must(200, "POST", "auth/token/create/dr", `{"ttl":"`+ttl+`"}`).text("auth.client_token")
}

func TestBatchTokens(t *testing.T) {
	t.Parallel()
	c := ready(t)
	c.must(204, "PUT", "kv/x", `{"a":1}`)
	c.policy("reader", `path "kv/*" { capabilities = ["read"] }
		path "auth/token/*" { capabilities = ["create", "update", "read"] }`)
	before := len(records(t, c))
	g := c.must(200, "POST", "auth/token/create", `{"type":"batch","policies":["reader"],"ttl":"1h","meta":{"a":"b"}}`)
	token := g.text("auth.client_token")
	if !strings.HasPrefix(token, "hvb.") || g.text("auth.token_type") != "batch" || g.text("auth.accessor") != "" || !same(g.at("auth.renewable"), `false`) {
		t.Fatalf("a batch token: %v", g)
	}
	if after := len(records(t, c)); after != before+1 { // the key
		t.Errorf("%d records more, want only the key", after-before)
	}
	other := ready(t)
	other.must(200, "POST", "auth/token/create", `{"type":"batch","policies":["default"]}`) // so that it has a key too
	c.story(t, []step{
		{"reads", "GET", "kv/x", ``, token, 200, nil},
		{"looks at itself", "GET", "auth/token/lookup-self", ``, token, 200, map[string]string{"data.type": `"batch"`, "data.ttl": `3600`, "data.renewable": `false`, "data.orphan": `false`, "data.accessor": `""`, "data.meta": `{"a":"b"}`}},
		{"is not renewed", "PUT", "auth/token/renew", `{"token":"` + token + `"}`, "", 400, nil},
		{"is not revoked", "PUT", "auth/token/revoke", `{"token":"` + token + `"}`, "", 400, nil},
		{"does not revoke itself", "PUT", "auth/token/revoke-self", ``, token, 400, nil},
		{"has no children", "POST", "auth/token/create", `{}`, token, 400, nil},
		{"has no cubbyhole", "PUT", "cubbyhole/x", `{"a":1}`, token, 400, nil},
		{"with uses", "POST", "auth/token/create", `{"type":"batch","num_uses":1,"policies":["default"]}`, "", 400, nil},
		{"with a period", "POST", "auth/token/create", `{"type":"batch","period":"1h","policies":["default"]}`, "", 400, nil},
		{"with an id", "POST", "auth/token/create", `{"type":"batch","id":"mine","policies":["default"]}`, "", 400, nil},
		{"of root", "POST", "auth/token/create", `{"type":"batch"}`, "", 400, nil},
		{"with too much to say", "POST", "auth/token/create", `{"type":"batch","policies":["` + strings.Repeat("x", 500) + `"],"meta":{"a":"` + strings.Repeat("m", 512) + `","b":"` + strings.Repeat("m", 512) + `","c":"` + strings.Repeat("m", 512) + `","d":"` + strings.Repeat("m", 512) +
			`","e":"` + strings.Repeat("m", 512) + `","f":"` + strings.Repeat("m", 512) + `","g":"` + strings.Repeat("m", 512) + `","h":"` + strings.Repeat("m", 512) + `","i":"` + strings.Repeat("m", 512) + `","j":"` + strings.Repeat("m", 512) + `","k":"` + strings.Repeat("m", 512) + `"}}`, "", 400, nil},
	})
	body, sig, _ := strings.Cut(strings.TrimPrefix(token, "hvb."), ".")
	for what, text := range map[string]string{
		"without a signature": "hvb." + body + "." + sig[:strings.Index(sig, ".")+1], "cut": token[:len(token)-2], "longer": token + "A", "no token": "hvb.x",
		"of no algorithm": "hvb.eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0" + token[strings.Index(token[4:], ".")+4:], "too long": "hvb." + strings.Repeat("A", 9000),
	} {
		if g := c.call("GET", "kv/x", text, ""); g.status != 403 {
			t.Errorf("%s: got %v, want 403", what, g)
		}
	}
	if g := other.call("GET", "auth/token/lookup-self", token, ""); g.status != 403 {
		t.Errorf("on another cluster: got %v, want 403", g)
	}
	c.clock.pass(time.Hour)
	if g := c.call("GET", "kv/x", token, ""); g.status != 403 {
		t.Errorf("expired: got %v, want 403", g)
	}
}

func TestBatchTokensDieWithTheirParent(t *testing.T) {
	t.Parallel()
	c := ready(t)
	parent := c.token(`{"policies":["root"],"ttl":"1h"}`)
	child := c.call("POST", "auth/token/create", parent, `{"type":"batch","policies":["default"]}`).text("auth.client_token")
	c.story(t, []step{
		{"while the parent lives", "GET", "auth/token/lookup-self", ``, child, 200, nil},
		{"the parent goes", "PUT", "auth/token/revoke", `{"token":"` + parent + `"}`, "", 204, nil},
		{"and the child with it", "GET", "auth/token/lookup-self", ``, child, 403, nil},
	})
}

// TestBatchTokenForADRSecondary asks what roles ask: on a DR secondary only the store counts.
func TestBatchTokenForADRSecondary(t *testing.T) {
	t.Parallel()
	c := ready(t)
	token := c.recipe("1h")
	service := c.token(`{"policies":["dr-op"]}`)
	c.must(204, "POST", "auth/token/roles/bound", `{"allowed_policies":"dr-op","orphan":true,"renewable":false,"token_type":"batch","token_bound_cidrs":"127.0.0.1"}`)
	bound := c.must(200, "POST", "auth/token/create/bound", `{}`).text("auth.client_token")
	const promote = "sys/replication/dr/secondary/promote"
	for _, q := range []struct {
		what, token, path string
		want              bool
	}{
		{"granted", token, promote, true}, {"read only", token, "sys/replication/dr/secondary/recover", false},
		{"another path", token, "sys/replication/dr/secondary/update-primary", false}, {"a service token", service, promote, false},
		{"nothing", "", promote, false}, {"a forged one", token[:len(token)-4] + "AAAA", promote, false}, {"a root token", c.root, promote, false},
		{"bound to addresses, which are not known there", bound, promote, false},
	} {
		if got, err := vault.BatchAllows(c.core, q.token, q.path); got != q.want || err != nil {
			t.Errorf("%s: got %v, %v, want %v", q.what, got, err, q.want)
		}
	}
	c.policy("dr-op", `path "sys/*" { capabilities = ["read"] }`)
	if got, err := vault.BatchAllows(c.core, token, promote); got || err != nil {
		t.Errorf("after the policy was narrowed: got %v, %v, want false", got, err)
	}
	c.recipe("1h")
	c.clock.pass(time.Hour)
	if got, err := vault.BatchAllows(c.core, token, promote); got || err != nil {
		t.Errorf("expired: got %v, %v, want false", got, err)
	}
}

func TestLeases(t *testing.T) {
	t.Parallel()
	c := ready(t)
	tokens := []string{c.token(`{"policies":["default"],"ttl":"1h"}`), c.token(`{"policies":["default"],"ttl":"1h"}`)}
	c.must(204, "POST", "auth/token/roles/app", `{}`)
	role := c.must(200, "POST", "auth/token/create/app", `{"policies":["default"],"ttl":"1h"}`).text("auth.client_token")
	child := c.call("POST", "auth/token/create", c.root, `{"policies":["root"],"ttl":"1h"}`).text("auth.client_token")
	grand := c.call("POST", "auth/token/create-orphan", child, `{"policies":["default"],"ttl":"1h"}`).text("auth.client_token")
	g := c.must(200, "LIST", "sys/leases/lookup/auth/token/create/app", "")
	name := g.at("data.keys").([]any)[0].(string)
	id := "auth/token/create/app/" + name
	c.story(t, []step{
		{"top", "LIST", "sys/leases/lookup", ``, "", 200, map[string]string{"data.keys": `["auth/"]`}},
		{"one level", "LIST", "sys/leases/lookup/auth/token/", ``, "", 200, map[string]string{"data.keys": `["create-orphan/","create/"]`}},
		{"nothing", "LIST", "sys/leases/lookup/kv", ``, "", 404, nil},
		{"one", "PUT", "sys/leases/lookup", `{"lease_id":"` + id + `"}`, role, 200, map[string]string{"data.id": `"` + id + `"`, "data.ttl": `3600`, "data.renewable": `true`, "data.last_renewal": `null`}},
		{"none", "PUT", "sys/leases/lookup", `{"lease_id":"auth/token/create/app/hffff"}`, "", 400, map[string]string{"errors": `["invalid lease"]`}},
		{"one by another path", "PUT", "sys/leases/lookup", `{"lease_id":"auth/token/create/` + name + `"}`, "", 400, nil},
		{"no id", "PUT", "sys/leases/lookup", `{}`, "", 400, nil},
		{"renewal is elsewhere", "PUT", "sys/leases/renew", `{"lease_id":"` + id + `"}`, role, 400, nil},
		{"the old path", "PUT", "sys/renew/" + id, ``, "", 400, nil},
		{"who may not", "PUT", "sys/leases/revoke", `{"lease_id":"` + id + `"}`, role, 403, nil},
		{"who may not list", "LIST", "sys/leases/lookup/auth", ``, role, 403, nil},
		{"revoke one", "PUT", "sys/leases/revoke/" + id, ``, "", 204, nil},
		{"again", "PUT", "sys/leases/revoke", `{"lease_id":"` + id + `"}`, "", 204, nil},
		{"it is gone", "GET", "auth/token/lookup-self", ``, role, 403, nil},
		{"revoke all of a path", "PUT", "sys/leases/revoke-prefix/auth/token/create", ``, "", 204, nil},
		{"one of them", "GET", "auth/token/lookup-self", ``, tokens[0], 403, nil},
		{"another", "GET", "auth/token/lookup-self", ``, tokens[1], 403, nil},
		{"of a path that only begins alike", "GET", "auth/token/lookup-self", ``, grand, 200, nil},
		{"root has no lease", "GET", "auth/token/lookup-self", ``, "", 200, nil},
		{"tidy", "POST", "auth/token/tidy", ``, "", 202, nil},
	})
}

func TestCubbyhole(t *testing.T) {
	t.Parallel()
	c := ready(t)
	one, two := c.token(`{"policies":["default"],"ttl":"1h"}`), c.token(`{"policies":["default"],"ttl":"2h"}`)
	orphaned := c.token(`{"policies":["default"],"ttl":"1h"}`)
	c.story(t, []step{
		{"write", "PUT", "cubbyhole/a/b", `{"v":"one"}`, one, 204, nil},
		{"write another's", "PUT", "cubbyhole/a/b", `{"v":"two"}`, two, 204, nil},
		{"write a third's", "PUT", "cubbyhole/x", `{"v":"three"}`, orphaned, 204, nil},
		{"read", "GET", "cubbyhole/a/b", ``, one, 200, map[string]string{"data": `{"v":"one"}`, "lease_duration": `0`}},
		{"read another's", "GET", "cubbyhole/a/b", ``, two, 200, map[string]string{"data": `{"v":"two"}`}},
		{"root sees its own only", "GET", "cubbyhole/a/b", ``, "", 404, nil},
		{"list", "LIST", "cubbyhole", ``, one, 200, map[string]string{"data.keys": `["a/"]`}},
		{"list below", "GET", "cubbyhole/a?list=true", ``, one, 200, map[string]string{"data.keys": `["b"]`}},
		{"delete", "DELETE", "cubbyhole/a/b", ``, one, 204, nil},
		{"deleted", "GET", "cubbyhole/a/b", ``, one, 404, nil},
		{"not the other's", "GET", "cubbyhole/a/b", ``, two, 200, nil},
		{"the root of it", "PUT", "cubbyhole", `{"v":1}`, "", 405, nil},
		{"empty", "LIST", "cubbyhole", ``, one, 404, nil},
		{"a wrapped empty list", "LIST", "cubbyhole", ``, one, 404, nil},
		{"preflight", "GET", "sys/internal/ui/mounts/cubbyhole/x", ``, one, 200, map[string]string{"data.path": `"cubbyhole/"`, "data.type": `"cubbyhole"`, "data.options": `null`}},
		{"unmount", "DELETE", "sys/mounts/cubbyhole", ``, "", 400, nil},
		{"tune", "POST", "sys/mounts/cubbyhole/tune", `{"description":"x"}`, "", 400, nil},
		{"move", "POST", "sys/remount", `{"from":"cubbyhole","to":"x"}`, "", 400, nil},
		{"write before the end", "PUT", "cubbyhole/last", `{"v":1}`, one, 204, nil},
		{"revoked", "PUT", "auth/token/revoke-self", ``, one, 204, nil},
	})
	if n := c.holds(vault.CubbyholeID); n != 2 {
		t.Errorf("%d records in cubbyholes after a revocation, want 2: of the two others", n)
	}
	c.clock.pass(time.Hour)
	for range 2 { // tokens first, then what they kept
		if err := vault.Sweep(c.core, context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if n := c.holds(vault.CubbyholeID); n != 1 {
		t.Errorf("%d records in cubbyholes after one expired, want 1", n)
	}
	if g := c.call("GET", "cubbyhole/a/b", two, ""); g.status != 200 {
		t.Errorf("what a living token kept: %v", g)
	}
}

// holds counts the records of a keyspace.
func (c *cluster) holds(id storage.KeyspaceID) uint64 {
	view := c.engine.Snapshot()
	defer view.Release()
	for _, total := range view.Totals() {
		if total.ID == id {
			return total.Total.Count
		}
	}
	return 0
}
