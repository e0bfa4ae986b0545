package vault_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/vault"
	"github.com/lockstepdb/lockstep/storage"
)

func TestTokenCreate(t *testing.T) {
	c := ready(t)
	c.must(204, "PUT", "sys/policies/acl/a", `{"policy":"path \"kv/*\" { capabilities = [\"read\"] }\npath \"auth/token/create*\" { capabilities = [\"update\"] }"}`)
	c.must(204, "PUT", "sys/policies/acl/b", `{"policy":"path \"kv/*\" { capabilities = [\"update\"] }"}`)
	a := c.token(`{"policies":["a"]}`)
	limited := c.token(`{"policies":"a","num_uses":5}`)
	c.story(t, []step{
		{"all about a token", "POST", "auth/token/create", `{"policies":["b","a","A"],"ttl":"1h","meta":{"who":"me"},"display_name":"my app","num_uses":3,"renewable":false}`, "", 200, map[string]string{
			"auth.policies": `["a","b","default"]`, "auth.token_policies": `["a","b","default"]`, "auth.lease_duration": `3600`, "auth.renewable": `false`,
			"auth.metadata": `{"who":"me"}`, "auth.num_uses": `3`, "auth.orphan": `false`, "auth.token_type": `"service"`, "data": `null`}},
		{"a child of root is root", "POST", "auth/token/create", ``, "", 200, map[string]string{"auth.policies": `["root"]`, "auth.lease_duration": `0`, "auth.renewable": `false`}},
		{"a default time", "POST", "auth/token/create", `{"policies":["a"],"no_default_policy":true}`, "", 200, map[string]string{"auth.policies": `["a"]`, "auth.lease_duration": `2764800`, "auth.renewable": `true`}},
		{"too long a time", "POST", "auth/token/create", `{"policies":["a"],"ttl":"2000h"}`, "", 200, map[string]string{"auth.lease_duration": `2764800`,
			"warnings": `["TTL of \"2000h0m0s\" exceeded the effective max_ttl of \"768h0m0s\"; TTL value is capped accordingly"]`}},
		{"a chosen id", "POST", "auth/token/create", `{"id":"chosen","policies":["a"]}`, "", 200, map[string]string{"auth.client_token": `"chosen"`}},
		{"the same id", "POST", "auth/token/create", `{"id":"chosen"}`, "", 400, nil},
		{"an id with a dot", "POST", "auth/token/create", `{"id":"hvs.mine"}`, "", 400, nil},
		{"an orphan", "POST", "auth/token/create-orphan", `{"policies":["a"]}`, "", 200, map[string]string{"auth.orphan": `true`}},
		{"a batch token", "POST", "auth/token/create", `{"type":"batch"}`, "", 400, nil},
		{"an entity", "POST", "auth/token/create", `{"entity_alias":"x"}`, "", 400, nil},
		{"negative uses", "POST", "auth/token/create", `{"num_uses":-1}`, "", 400, nil},
		{"a time that is none", "POST", "auth/token/create", `{"ttl":"soon"}`, "", 400, nil},
		{"what is not known is named", "POST", "auth/token/create", `{"colour":"red"}`, "", 200, map[string]string{"warnings": `["these parameters are not known here and were ignored: colour"]`}},
		{"a child of its own rights", "POST", "auth/token/create", `{}`, a, 200, map[string]string{"auth.policies": `["a","default"]`}},
		{"a child of more rights", "POST", "auth/token/create", `{"policies":["b"]}`, a, 400, map[string]string{"errors": `["child policies must be subset of parent"]`}},
		{"a root child of another", "POST", "auth/token/create", `{"policies":["root"]}`, a, 400, nil},
		{"an orphan of who may not", "POST", "auth/token/create", `{"no_parent":true}`, a, 400, nil},
		{"an orphan by path, of who may use that", "POST", "auth/token/create-orphan", `{}`, a, 200, map[string]string{"auth.orphan": `true`, "auth.policies": `["a","default"]`}},
		{"more rights as an orphan", "POST", "auth/token/create-orphan", `{"policies":["b"]}`, a, 400, nil},
		{"a period of who may not", "POST", "auth/token/create", `{"period":"1h"}`, a, 400, nil},
		{"a child of a token of few uses", "POST", "auth/token/create", `{}`, limited, 400, map[string]string{"errors": `["restricted use token cannot generate child tokens"]`}},
		{"who may not create", "POST", "auth/token/create", `{}`, "chosen", 200, nil},
	})
}

func TestTokenLookup(t *testing.T) {
	c := ready(t)
	g := c.must(200, "POST", "auth/token/create", `{"policies":["default"],"ttl":"1h","explicit_max_ttl":"2h","meta":{"a":"b"}}`)
	token, accessor := g.text("auth.client_token"), g.text("auth.accessor")
	want := map[string]string{
		"data.accessor": `"` + accessor + `"`, "data.policies": `["default"]`, "data.ttl": `3600`, "data.creation_ttl": `3600`, "data.explicit_max_ttl": `7200`,
		"data.type": `"service"`, "data.orphan": `false`, "data.meta": `{"a":"b"}`, "data.display_name": `"token"`, "data.entity_id": `""`,
		"data.num_uses": `0`, "data.renewable": `true`, "data.path": `"auth/token/create"`, "data.expire_time": `"2031-02-03T05:05:06.000007Z"`,
	}
	c.story(t, []step{
		{"self", "GET", "auth/token/lookup-self", "", token, 200, want},
		{"by text", "POST", "auth/token/lookup", `{"token":"` + token + `"}`, "", 200, want},
		{"by accessor", "POST", "auth/token/lookup-accessor", `{"accessor":"` + accessor + `"}`, "", 200, want},
		{"by accessor no text is told", "POST", "auth/token/lookup-accessor", `{"accessor":"` + accessor + `"}`, "", 200, map[string]string{"data.id": `""`}},
		{"unknown", "POST", "auth/token/lookup", `{"token":"hvs.x"}`, "", 403, map[string]string{"errors": `["bad token"]`}},
		{"unknown accessor", "POST", "auth/token/lookup-accessor", `{"accessor":"x"}`, "", 403, nil},
		{"another's", "POST", "auth/token/lookup", `{"token":"` + c.root + `"}`, token, 403, nil},
		{"capabilities of it", "POST", "sys/capabilities", `{"token":"` + token + `","path":"kv/x"}`, "", 200, map[string]string{"data.capabilities": `["deny"]`}},
		{"capabilities by accessor", "POST", "sys/capabilities-accessor", `{"accessor":"` + accessor + `","paths":"auth/token/renew-self"}`, "", 200, map[string]string{"data.capabilities": `["update"]`}},
	})
	if g := c.must(200, "LIST", "auth/token/accessors", ""); !strings.Contains(string(g.raw), accessor) {
		t.Errorf("accessors: %v", g)
	}
}

func TestTokenTime(t *testing.T) {
	c := ready(t)
	token := c.token(`{"policies":["default"],"ttl":"1h","explicit_max_ttl":"2h"}`)
	periodic := c.token(`{"policies":["default"],"period":"1h"}`)
	c.clock.pass(50 * time.Minute)
	c.story(t, []step{
		{"left", "GET", "auth/token/lookup-self", "", token, 200, map[string]string{"data.ttl": `600`}},
		{"renew", "POST", "auth/token/renew-self", `{"increment":1800}`, token, 200, map[string]string{"auth.lease_duration": `1800`, "auth.client_token": `"` + token + `"`}},
		{"renewed", "GET", "auth/token/lookup-self", "", token, 200, map[string]string{"data.ttl": `1800`}},
		{"by root", "POST", "auth/token/renew", `{"token":"` + periodic + `","increment":"10h"}`, "", 200, map[string]string{"auth.lease_duration": `3600`}},
		{"root itself", "POST", "auth/token/renew-self", "", "", 400, nil},
		{"unknown", "POST", "auth/token/renew", `{"token":"x"}`, "", 403, nil},
	})
	c.clock.pass(25 * time.Minute)
	c.story(t, []step{
		{"the end is near", "POST", "auth/token/renew-self", `{"increment":"1h"}`, token, 200, map[string]string{"auth.lease_duration": `2700`}},
	})
	c.clock.pass(45 * time.Minute)
	c.story(t, []step{
		{"expired", "GET", "auth/token/lookup-self", "", token, 403, nil},
		{"not for renewal", "POST", "auth/token/renew", `{"token":"` + token + `"}`, "", 403, nil},
		{"the periodic one expired too", "GET", "auth/token/lookup-self", "", periodic, 403, nil},
	})
	before := len(records(t, c))
	if err := vault.Sweep(c.core, context.Background()); err != nil {
		t.Fatalf("sweep: %v", err)
	}
	if after := len(records(t, c)); before-after != 6 {
		t.Errorf("the sweep took %d records away, want those of two tokens: 6", before-after)
	}
}

func TestChildrenDieWithTheirParent(t *testing.T) {
	c := ready(t)
	parent := c.token(`{"policies":["root"],"ttl":"1h"}`)
	child := c.call("POST", "auth/token/create", parent, `{"ttl":"10h"}`).text("auth.client_token")
	grand := c.call("POST", "auth/token/create", child, `{"ttl":"10h"}`).text("auth.client_token")
	c.clock.pass(time.Hour)
	for _, token := range []string{parent, child, grand} {
		if g := c.call("GET", "auth/token/lookup-self", token, ""); g.status != 403 {
			t.Errorf("after the parent's time: %v", g)
		}
	}
	for range 3 { // a generation a round
		if err := vault.Sweep(c.core, context.Background()); err != nil {
			t.Fatalf("sweep: %v", err)
		}
	}
	if left := records(t, c); len(left) != 3 {
		t.Errorf("records left: %q, want the salt and the root token's two", left)
	}
}

func TestTokenUses(t *testing.T) {
	c := ready(t)
	token := c.token(`{"policies":["default"],"num_uses":2}`)
	c.story(t, []step{
		{"one", "GET", "auth/token/lookup-self", "", token, 200, nil},
		{"two", "GET", "auth/token/lookup-self", "", token, 200, nil},
		{"three", "GET", "auth/token/lookup-self", "", token, 403, nil},
	})
}

func TestTokenRevocation(t *testing.T) {
	c := ready(t)
	parent := c.token(`{"id":"parent"}`)
	child := c.call("POST", "auth/token/create", parent, `{"id":"child"}`).text("auth.client_token")
	grand := c.call("POST", "auth/token/create", child, `{"id":"grandchild"}`).text("auth.client_token")
	orphan := c.call("POST", "auth/token/create-orphan", child, `{"id":"orphan"}`).text("auth.client_token")
	other := c.token(`{"id":"other"}`)
	foster := c.call("POST", "auth/token/create", other, `{"id":"foster"}`).text("auth.client_token")
	late := c.call("POST", "auth/token/create", foster, `{"id":"late"}`).text("auth.client_token")
	c.story(t, []step{
		{"revoke the parent", "PUT", "auth/token/revoke", `{"token":"` + parent + `"}`, "", 204, nil},
		{"again", "PUT", "auth/token/revoke", `{"token":"` + parent + `"}`, "", 204, nil},
		{"parent", "GET", "auth/token/lookup-self", "", parent, 403, nil},
		{"child", "GET", "auth/token/lookup-self", "", child, 403, nil},
		{"grandchild", "GET", "auth/token/lookup-self", "", grand, 403, nil},
		{"orphan", "GET", "auth/token/lookup-self", "", orphan, 200, nil},
		{"revoke and leave the children", "PUT", "auth/token/revoke-orphan", `{"token":"` + other + `"}`, "", 204, nil},
		{"the one", "GET", "auth/token/lookup-self", "", other, 403, nil},
		{"its child", "GET", "auth/token/lookup-self", "", foster, 200, map[string]string{"data.orphan": `true`}},
		{"its child's child", "GET", "auth/token/lookup-self", "", late, 200, map[string]string{"data.orphan": `false`}},
		{"oneself", "PUT", "auth/token/revoke-self", "", foster, 204, nil},
		{"with the child", "GET", "auth/token/lookup-self", "", late, 403, nil},
		{"no token named", "PUT", "auth/token/revoke", `{}`, "", 400, nil},
		{"unknown accessor", "PUT", "auth/token/revoke-accessor", `{"accessor":"x"}`, "", 403, nil},
		{"unknown for orphans", "PUT", "auth/token/revoke-orphan", `{"token":"x"}`, "", 400, nil},
	})
	accessor := c.call("GET", "auth/token/lookup-self", orphan, "").text("data.accessor")
	c.must(204, "PUT", "auth/token/revoke-accessor", `{"accessor":"`+accessor+`"}`)
	if g := c.call("GET", "auth/token/lookup-self", orphan, ""); g.status != 403 {
		t.Errorf("revoked by accessor: %v", g)
	}
	if left := records(t, c); len(left) != 3 {
		t.Errorf("records left: %q, want the salt and the root token's two", left)
	}
}

// records lists the keys of tokens and wrapped answers.
func records(t *testing.T, c *cluster) []string {
	t.Helper()
	view := c.engine.Snapshot()
	defer view.Release()
	var keys []string
	err := view.Scan(storage.SystemLocal, []byte("token/"), []byte("x"), func(rec storage.Record) bool {
		keys = append(keys, string(rec.Key))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestNoTokenIsStored looks for tokens in everything that the store holds.
func TestNoTokenIsStored(t *testing.T) {
	c := ready(t)
	tokens := []string{c.root, c.token(`{}`), c.token(`{"id":"a-chosen-token"}`)}
	tokens = append(tokens, c.call("GET", "sys/mounts", c.root, "", "X-Vault-Wrap-TTL", "1m").text("wrap_info.token"))
	view := c.engine.Snapshot()
	defer view.Release()
	for _, total := range view.Totals() {
		err := view.Scan(total.ID, nil, nil, func(rec storage.Record) bool {
			for _, token := range tokens {
				if strings.Contains(string(rec.Key)+string(rec.Value), token) {
					t.Errorf("record %q holds a token", rec.Key)
				}
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAWrapTTLOfAStrangerWritesNothing(t *testing.T) {
	c := ready(t)
	before := c.engine.Position()
	for _, path := range []string{"sys/seal-status", "sys/init", "sys/replication/status", "sys/internal/ui/mounts", "sys/leader"} {
		g := c.call("GET", path, "", "", "X-Vault-Wrap-TTL", "5m")
		if g.status != 200 || g.at("wrap_info.token") != nil {
			t.Errorf("%s: got %v, want its answer unwrapped", path, g)
		}
	}
	if after := c.engine.Position(); after != before {
		t.Errorf("position %v, want %v: something was written", after, before)
	}
}

func TestOnePolicyNamedLikeTwoIsNotThose(t *testing.T) {
	c := ready(t)
	c.must(204, "PUT", "kv/x", `{"a":1}`)
	c.must(204, "PUT", "sys/policies/acl/pa", `{"policy":"path \"kv/x\" { policy = \"read\" }"}`)
	c.must(204, "PUT", "sys/policies/acl/pb", `{"policy":"path \"kv/y\" { policy = \"read\" }"}`)
	// All tokens come first: what is remembered of policies is forgotten with the next write to tokens or policies.
	two := c.token(`{"policies":["pa","pb"],"no_default_policy":true}`)
	one := map[string]string{}
	for _, name := range []string{`pa,pb`, `pa\u0000pb`, `pa\" \"pb`} {
		one[name] = c.token(`{"policies":["` + name + `"],"no_default_policy":true}`)
	}
	if g := c.call("GET", "kv/x", two, ""); g.status != 200 {
		t.Fatalf("two policies: %v", g)
	}
	for name, token := range one {
		if g := c.call("GET", "kv/x", token, ""); g.status != 403 {
			t.Errorf("one policy %s: got %v, want 403", name, g)
		}
	}
}

func TestWrapping(t *testing.T) {
	c := ready(t)
	c.must(204, "PUT", "kv/w", `{"a":"b"}`)
	wrap := func() got {
		g := c.call("GET", "kv/w", c.root, "", "X-Vault-Wrap-TTL", "5m")
		if g.status != 200 || g.at("data") != nil || g.text("request_id") != "" {
			t.Fatalf("wrapped: %v", g)
		}
		return g
	}
	g := wrap()
	if !same(g.at("wrap_info.ttl"), `300`) || g.text("wrap_info.creation_path") != "kv/w" {
		t.Errorf("wrap_info: %v", g)
	}
	token := g.text("wrap_info.token")
	c.story(t, []step{
		{"lookup", "POST", "sys/wrapping/lookup", `{"token":"` + token + `"}`, "none", 200, map[string]string{
			"data.creation_ttl": `300`, "data.creation_path": `"kv/w"`, "data.creation_time": `"2031-02-03T04:05:06.000007Z"`}},
		{"it is no token for anything else", "GET", "kv/w", "", token, 403, nil},
		{"unwrap", "PUT", "sys/wrapping/unwrap", `{"token":"` + token + `"}`, "none", 200, map[string]string{"data": `{"a":"b"}`}},
		{"unwrap twice", "PUT", "sys/wrapping/unwrap", `{"token":"` + token + `"}`, "none", 400, map[string]string{
			"errors": `["wrapping token is not valid or does not exist"]`}},
		{"lookup after that", "POST", "sys/wrapping/lookup", `{"token":"` + token + `"}`, "none", 400, nil},
		{"unwrap nothing", "PUT", "sys/wrapping/unwrap", ``, "none", 400, nil},
	})
	c.story(t, []step{{"as the client's own token", "PUT", "sys/wrapping/unwrap", `null`, wrap().text("wrap_info.token"), 200, map[string]string{"data": `{"a":"b"}`}}})
	again := c.must(200, "PUT", "sys/wrapping/rewrap", `{"token":"`+wrap().text("wrap_info.token")+`"}`).text("wrap_info.token")
	old := wrap().text("wrap_info.token")
	c.clock.pass(5 * time.Minute)
	for _, token := range []string{again, old} {
		if g := c.call("PUT", "sys/wrapping/unwrap", "", `{"token":"`+token+`"}`); g.status != 400 {
			t.Errorf("expired: %v", g)
		}
	}
	if err := vault.Sweep(c.core, context.Background()); err != nil {
		t.Fatalf("sweep: %v", err)
	}
	for _, key := range records(t, c) {
		if strings.HasPrefix(key, "wrapping/") {
			t.Errorf("the sweep left %q", key)
		}
	}
	g = c.call("POST", "sys/wrapping/wrap", c.root, `{"x":{"y":1.50}}`, "X-Vault-Wrap-TTL", "60")
	if g := c.call("PUT", "sys/wrapping/unwrap", g.text("wrap_info.token"), ""); !same(g.at("data"), `{"x":{"y":1.50}}`) {
		t.Errorf("wrapped by hand: %v", g)
	}
	c.must(400, "POST", "sys/wrapping/wrap", `{"x":1}`)
	if g := c.call("GET", "kv/w", c.root, "", "X-Vault-Wrap-TTL", "-5"); g.status != 400 {
		t.Errorf("a negative time: %v", g)
	}
	if g := c.call("LIST", "kv/none", c.root, "", "X-Vault-Wrap-TTL", "5"); g.status != 404 {
		t.Errorf("a wrapped empty list: %v", g)
	}
}
