package vault_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/server/vault"
	"github.com/lockstepdb/lockstep/storage"
)

func TestAuthMethods(t *testing.T) {
	t.Parallel()
	c := ready(t)
	c.policy("reader", `path "sys/auth*" { capabilities = ["create", "read", "update", "delete", "list"] }`)
	reader := c.token(`{"policies":["reader"]}`)
	c.story(t, []step{
		{"enable, as the CLI does", "POST", "sys/auth/userpass/", `{"type":"userpass","description":"people","config":{"default_lease_ttl":"0s","max_lease_ttl":"0s","options":null,"token_type":"default-service"},"local":false,"seal_wrap":false,"external_entropy_access":false,"options":null}`, "", 204, nil},
		{"again", "POST", "sys/auth/userpass", `{"type":"userpass"}`, "", 400, map[string]string{"errors": `["path is already in use at auth/userpass/"]`}},
		{"below", "POST", "sys/auth/userpass/x", `{"type":"approle"}`, "", 400, nil},
		{"where tokens are", "POST", "sys/auth/token", `{"type":"userpass"}`, "", 400, nil},
		{"another type", "POST", "sys/auth/ldap", `{"type":"ldap"}`, "", 400, nil},
		{"a local one, deep", "POST", "sys/auth/team/app", `{"type":"approle","local":true}`, "", 204, nil},
		{"list", "GET", "sys/auth", ``, "", 200, map[string]string{"data.userpass/.type": `"userpass"`, "userpass/.description": `"people"`, "data.team/app/.local": `true`, "data.token/.type": `"token"`,
			"data.userpass/.config": `{"default_lease_ttl":0,"force_no_cache":false,"max_lease_ttl":0,"token_type":"default-service"}`}},
		{"not among the secrets engines", "GET", "sys/mounts", ``, "", 200, map[string]string{"data.auth/userpass/": `null`, "data.kv/.type": `"kv"`}},
		{"nor to be read as one", "GET", "sys/mounts/auth/userpass", ``, "", 400, nil},
		{"nor unmounted as one", "DELETE", "sys/mounts/auth/userpass", ``, "", 400, nil},
		{"read", "GET", "sys/auth/userpass", ``, "", 200, map[string]string{"data.type": `"userpass"`}},
		{"tune, as the CLI does", "POST", "sys/mounts/auth/userpass/tune", `{"default_lease_ttl":"10m","token_type":"batch","listing_visibility":"unauth"}`, "", 204, nil},
		{"tuned", "GET", "sys/auth/userpass/tune", ``, "", 200, map[string]string{"data.default_lease_ttl": `600`, "data.token_type": `"batch"`, "token_type": `"batch"`}},
		{"tune by the other path", "POST", "sys/auth/userpass/tune", `{"token_type":"default-service"}`, "", 204, nil},
		{"tune to nonsense", "POST", "sys/auth/userpass/tune", `{"token_type":"x"}`, "", 400, nil},
		{"a token type for a secrets engine", "POST", "sys/mounts/kv/tune", `{"token_type":"batch"}`, "", 400, nil},
		{"what the UI shows to nobody", "GET", "sys/internal/ui/mounts", ``, "none", 200, map[string]string{"data.auth.userpass/.type": `"userpass"`}},
		{"enabling needs sudo", "POST", "sys/auth/x", `{"type":"userpass"}`, reader, 403, nil},
		{"listing does not", "GET", "sys/auth", ``, reader, 200, nil},
		{"move", "POST", "sys/remount", `{"from":"auth/userpass","to":"auth/people"}`, "", 200, nil},
		{"moved", "GET", "sys/auth/people", ``, "", 200, nil},
		{"move among the secrets engines", "POST", "sys/remount", `{"from":"auth/people","to":"people"}`, "", 400, nil},
		{"move a secrets engine here", "POST", "sys/remount", `{"from":"kv","to":"auth/kv"}`, "", 400, nil},
		{"nothing is kept below it", "PUT", "auth/people/nonsense", `{"a":1}`, "", 404, nil},
		{"wrong verb", "DELETE", "auth/people/login/x", ``, "", 405, nil},
		{"disable", "DELETE", "sys/auth/people", ``, "", 204, nil},
		{"again", "DELETE", "sys/auth/people", ``, "", 204, nil},
		{"gone", "GET", "sys/auth/people", ``, "", 400, nil},
		{"rights for the UI", "GET", "sys/internal/ui/resultant-acl", ``, reader, 200, map[string]string{"data.root": `false`, "data.glob_paths.sys/auth.capabilities": `["create","delete","list","read","update"]`}},
	})
}

func TestUserpass(t *testing.T) {
	t.Parallel()
	c := ready(t)
	c.must(204, "POST", "sys/auth/userpass", `{"type":"userpass"}`)
	c.policy("self", `path "auth/userpass/users/bob/password" { capabilities = ["update"] }`)
	c.story(t, []step{
		{"nobody yet", "LIST", "auth/userpass/users", ``, "", 404, nil},
		{"without a password", "POST", "auth/userpass/users/bob", `{"policies":"self"}`, "", 400, nil},
		{"with too long a one", "POST", "auth/userpass/users/bob", `{"password":"` + strings.Repeat("x", 73) + `"}`, "", 400, nil},
		{"of root", "POST", "auth/userpass/users/bob", `{"password":"hunter2","policies":"root"}`, "", 400, nil},
		{"a user", "POST", "auth/userpass/users/Bob", `{"password":"hunter2","policies":"self","token_ttl":"1h","token_max_ttl":7200}`, "", 204, nil},
		{"as it reads", "GET", "auth/userpass/users/bob", ``, "", 200, map[string]string{"data.token_policies": `["self"]`, "data.token_ttl": `3600`, "data.token_max_ttl": `7200`, "data.hash": `null`, "data.password": `null`, "data.token_type": `"default"`}},
		{"listed", "LIST", "auth/userpass/users", ``, "", 200, map[string]string{"data.keys": `["bob"]`}},
		{"changed without a password", "POST", "auth/userpass/users/bob", `{"token_max_ttl":"3h"}`, "", 204, nil},
		{"with a hash of one's own", "POST", "auth/userpass/users/bob", `{"hash":"eA=="}`, "", 204, nil},
		{"login, as the CLI does", "PUT", "auth/userpass/login/bob", `{"password":"hunter2"}`, "none", 200, map[string]string{
			"auth.policies": `["default","self"]`, "auth.metadata": `{"username":"bob"}`, "auth.lease_duration": `3600`, "auth.renewable": `true`, "auth.token_type": `"service"`, "auth.orphan": `true`, "auth.entity_id": `""`, "data": `null`}},
		{"case does not matter", "POST", "auth/userpass/login/BOB", `{"password":"hunter2"}`, "none", 200, nil},
		{"wrong", "POST", "auth/userpass/login/bob", `{"password":"hunter3"}`, "none", 400, map[string]string{"errors": `["invalid username or password"]`}},
		{"right, and more than is looked at", "POST", "auth/userpass/login/bob", `{"password":"hunter2` + strings.Repeat("x", 80) + `"}`, "none", 400, nil},
		{"unknown", "POST", "auth/userpass/login/eve", `{"password":"hunter2"}`, "none", 400, map[string]string{"errors": `["invalid username or password"]`}},
		{"no password", "POST", "auth/userpass/login/bob", `{}`, "none", 400, nil},
		{"a stranger asks for users", "GET", "auth/userpass/users/bob", ``, "none", 403, nil},
		{"too long a body", "POST", "auth/userpass/login/bob", `{"password":"` + strings.Repeat("x", 65<<10) + `"}`, "none", 413, nil},
		{"policies", "POST", "auth/userpass/users/bob/policies", `{"token_policies":["self","more"]}`, "", 204, nil},
		{"policies of nobody", "POST", "auth/userpass/users/eve/policies", `{"policies":["self"]}`, "", 400, nil},
		{"password of nobody", "POST", "auth/userpass/users/eve/password", `{"password":"x"}`, "", 400, nil},
	})
	g := c.call("POST", "auth/userpass/login/bob", "", `{"password":"hunter2"}`)
	bob := g.text("auth.client_token")
	c.story(t, []step{
		{"who am I", "GET", "auth/token/lookup-self", ``, bob, 200, map[string]string{"data.display_name": `"userpass-bob"`, "data.path": `"auth/userpass/login/bob"`, "data.policies": `["default","more","self"]`, "data.meta": `{"username":"bob"}`}},
		{"a new password", "POST", "auth/userpass/users/bob/password", `{"password":"swordfish"}`, bob, 204, nil},
		{"the old one", "POST", "auth/userpass/login/bob", `{"password":"hunter2"}`, "none", 400, nil},
		{"the new one", "POST", "auth/userpass/login/bob", `{"password":"swordfish"}`, "none", 200, nil},
		{"renew", "POST", "auth/token/renew-self", `{}`, bob, 200, map[string]string{"auth.lease_duration": `3600`}},
		{"renew beyond the account's limit", "POST", "auth/token/renew-self", `{"increment":"9h"}`, bob, 200, map[string]string{"auth.lease_duration": `10800`}},
		{"delete", "DELETE", "auth/userpass/users/bob", ``, "", 204, nil},
		{"the token lives", "GET", "auth/token/lookup-self", ``, bob, 200, nil},
		{"but is not renewed", "POST", "auth/token/renew-self", `{}`, bob, 400, nil},
		{"the method goes", "DELETE", "sys/auth/userpass", ``, "", 204, nil},
		{"and its tokens", "GET", "auth/token/lookup-self", ``, bob, 403, nil},
		{"nobody logs in", "POST", "auth/userpass/login/bob", `{"password":"swordfish"}`, "none", 403, nil},
	})
	if err := vault.Sweep(c.core, context.Background()); err != nil {
		t.Fatal(err)
	}
	if left := records(t, c); len(left) != 3 {
		t.Errorf("records left: %q, want the salt and the root token's two", left)
	}
	login := c.call("POST", "auth/userpass/login/bob", "", `{"password":"x"}`, "X-Vault-Wrap-TTL", "60")
	if login.status != 403 {
		t.Errorf("login at what is gone: %v", login)
	}
}

func TestLoginAnswersAreWrapped(t *testing.T) {
	t.Parallel()
	c := ready(t)
	c.must(204, "POST", "sys/auth/userpass", `{"type":"userpass"}`)
	c.must(204, "POST", "auth/userpass/users/bob", `{"password":"p"}`)
	g := c.call("POST", "auth/userpass/login/bob", "", `{"password":"p"}`, "X-Vault-Wrap-TTL", "60")
	if g.status != 200 || g.at("auth") != nil || g.text("wrap_info.wrapped_accessor") == "" {
		t.Fatalf("a wrapped login: %v", g)
	}
	in := c.call("PUT", "sys/wrapping/unwrap", g.text("wrap_info.token"), "")
	if in.text("auth.accessor") != g.text("wrap_info.wrapped_accessor") || c.call("GET", "auth/token/lookup-self", in.text("auth.client_token"), "").status != 200 {
		t.Errorf("unwrapped: %v", in)
	}
	before := c.engine.Position()
	if g := c.call("POST", "auth/userpass/login/bob", "", `{"password":"q"}`, "X-Vault-Wrap-TTL", "60"); g.status != 400 || c.engine.Position() != before {
		t.Errorf("a stranger's failure: %v, and it wrote something: %v", g, c.engine.Position() != before)
	}
}

func TestLockouts(t *testing.T) {
	t.Parallel()
	c := ready(t)
	c.must(204, "POST", "sys/auth/userpass", `{"type":"userpass"}`)
	accessor := c.must(200, "GET", "sys/auth/userpass", "").text("data.accessor")
	c.must(204, "POST", "auth/userpass/users/bob", `{"password":"right"}`)
	login := func(name, password string) int {
		return c.call("POST", "auth/userpass/login/"+name, "", `{"password":"`+password+`"}`).status
	}
	before := c.engine.Position()
	for _, name := range []string{"bob", "eve"} { // who exists and who does not are told apart by nothing
		for i, want := range []int{400, 400, 400, 400, 400, 403, 403} {
			if got := login(name, "wrong"); got != want {
				t.Errorf("failure %d of %s: got %d, want %d", i+1, name, got, want)
			}
		}
	}
	if c.engine.Position() != before {
		t.Error("failures of strangers wrote something")
	}
	if got := login("bob", "right"); got != 403 {
		t.Errorf("the right password while locked: got %d, want 403", got)
	}
	if err := vault.KeepLockouts(c.core, context.Background()); err != nil {
		t.Fatal(err)
	}
	again, err := vault.New(vault.Config{Engine: c.engine, Now: c.clock.Now}) // as after a restart
	if err != nil {
		t.Fatal(err)
	}
	c.srv.Config.Handler = again
	c.story(t, []step{
		{"after a restart", "POST", "auth/userpass/login/bob", `{"password":"right"}`, "none", 403, nil},
		{"listed", "GET", "sys/locked-users", ``, "", 200, map[string]string{"data.total": `1`}},
		{"by accessor", "GET", "sys/locked-users/" + accessor, ``, "", 200, map[string]string{
			"data.by_namespace": `[{"counts":1,"mount_accessors":[{"alias_identifiers":["bob"],"counts":1,"mount_accessor":"` + accessor + `"}],"namespace_id":"root","namespace_path":""}]`}},
		{"unlock elsewhere", "POST", "sys/locked-users/none/unlock/bob", ``, "", 400, nil},
		{"unlock", "POST", "sys/locked-users/" + accessor + "/unlock/bob", ``, "", 204, nil},
		{"unlocked", "POST", "auth/userpass/login/bob", `{"password":"right"}`, "none", 200, nil},
	})
	for range 4 {
		login("bob", "wrong")
	}
	c.clock.pass(15 * time.Minute)
	for i := range 5 {
		if got := login("bob", "wrong"); got != 400 {
			t.Errorf("failure %d after a while: got %d, want 400: old ones are forgotten", i+1, got)
		}
	}
	if got := login("bob", "right"); got != 403 {
		t.Errorf("locked again: got %d, want 403", got)
	}
	if err := vault.KeepLockouts(again, context.Background()); err != nil || c.holds(vault.CountersID) != 1 {
		t.Errorf("%d locks are kept, want 1: %v", c.holds(vault.CountersID), err)
	}
	c.clock.pass(15 * time.Minute)
	if err := vault.Sweep(again, context.Background()); err != nil || c.holds(vault.CountersID) != 0 {
		t.Errorf("after a sweep %d locks are kept, want none: %v", c.holds(vault.CountersID), err)
	}
	if got := login("bob", "right"); got != 200 {
		t.Errorf("after the lock's time: got %d, want 200", got)
	}
}

func TestApprole(t *testing.T) {
	t.Parallel()
	c := ready(t)
	c.must(204, "POST", "sys/auth/approle", `{"type":"approle"}`)
	c.story(t, []step{
		{"none yet", "LIST", "auth/approle/role", ``, "", 404, nil},
		{"a role", "POST", "auth/approle/role/app", `{"token_policies":"a","token_ttl":"20m","secret_id_num_uses":2,"secret_id_ttl":"1h","token_type":"service"}`, "", 204, nil},
		{"as it reads", "GET", "auth/approle/role/app", ``, "", 200, map[string]string{"data.bind_secret_id": `true`, "data.secret_id_num_uses": `2`, "data.secret_id_ttl": `3600`, "data.token_policies": `["a"]`, "data.token_ttl": `1200`, "data.id": `null`}},
		{"without any constraint", "POST", "auth/approle/role/open", `{"bind_secret_id":false}`, "", 400, nil},
		{"one field", "POST", "auth/approle/role/app/token-max-ttl", `{"token_max_ttl":"2h"}`, "", 204, nil},
		{"reads", "GET", "auth/approle/role/app/token-max-ttl", ``, "", 200, map[string]string{"data": `{"token_max_ttl":7200}`}},
		{"and goes", "DELETE", "auth/approle/role/app/token-max-ttl", ``, "", 204, nil},
		{"gone", "GET", "auth/approle/role/app/token-max-ttl", ``, "", 200, map[string]string{"data": `{"token_max_ttl":0}`}},
		{"a field of no role", "POST", "auth/approle/role/none/policies", `{"policies":"a"}`, "", 400, nil},
		{"an id of one's own", "POST", "auth/approle/role/app/role-id", `{"role_id":"my-app"}`, "", 204, nil},
		{"reads as given", "GET", "auth/approle/role/app/role-id", ``, "", 200, map[string]string{"data.role_id": `"my-app"`}},
		{"taken by another", "POST", "auth/approle/role/app2", `{"role_id":"my-app"}`, "", 400, nil},
		{"a secret id wider than its role", "POST", "auth/approle/role/app/secret-id", `{"num_uses":3}`, "", 400, nil},
		{"of longer life", "POST", "auth/approle/role/app/secret-id", `{"ttl":"2h"}`, "", 400, nil},
		{"of no role", "POST", "auth/approle/role/none/secret-id", `{}`, "", 400, nil},
		{"bad metadata", "POST", "auth/approle/role/app/secret-id", `{"metadata":"[1]"}`, "", 400, nil},
		{"no role id", "POST", "auth/approle/login", `{"secret_id":"x"}`, "none", 400, nil},
		{"tidy", "POST", "auth/approle/tidy/secret-id", ``, "", 202, nil},
	})
	g := c.must(200, "POST", "auth/approle/role/app/secret-id", `{"metadata":"{\"host\":\"web1\",\"role_name\":\"root\"}"}`)
	secret, accessor := g.text("data.secret_id"), g.text("data.secret_id_accessor")
	if !same(g.at("data.secret_id_ttl"), `3600`) || !same(g.at("data.secret_id_num_uses"), `2`) {
		t.Errorf("a secret id: %v", g)
	}
	in := `{"role_id":"my-app","secret_id":"` + secret + `"}`
	c.story(t, []step{
		{"accessors", "LIST", "auth/approle/role/app/secret-id", ``, "", 200, map[string]string{"data.keys": `["` + accessor + `"]`}},
		{"login", "POST", "auth/approle/login", in, "none", 200, map[string]string{
			"auth.policies": `["a","default"]`, "auth.metadata": `{"host":"web1","role_name":"app"}`, "auth.lease_duration": `1200`, "auth.orphan": `true`}},
		{"look at it", "POST", "auth/approle/role/app/secret-id/lookup", `{"secret_id":"` + secret + `"}`, "", 200, map[string]string{"data.secret_id_num_uses": `1`, "data.metadata": `{"host":"web1","role_name":"root"}`}},
		{"by accessor", "POST", "auth/approle/role/app/secret-id-accessor/lookup", `{"secret_id_accessor":"` + accessor + `"}`, "", 200, map[string]string{"data.secret_id_accessor": `"` + accessor + `"`}},
		{"wrong secret", "POST", "auth/approle/login", `{"role_id":"my-app","secret_id":"x"}`, "none", 400, map[string]string{"errors": `["invalid role or secret ID"]`}},
		{"wrong role", "POST", "auth/approle/login", `{"role_id":"app","secret_id":"` + secret + `"}`, "none", 400, map[string]string{"errors": `["invalid role or secret ID"]`}},
		{"without secret", "POST", "auth/approle/login", `{"role_id":"my-app"}`, "none", 400, nil},
		{"the last use", "POST", "auth/approle/login", in, "none", 200, nil},
		{"one more", "POST", "auth/approle/login", in, "none", 400, nil},
		{"spent", "POST", "auth/approle/role/app/secret-id/lookup", `{"secret_id":"` + secret + `"}`, "", 204, nil},
		{"and not listed", "LIST", "auth/approle/role/app/secret-id", ``, "", 404, nil},
		{"unknown accessor", "POST", "auth/approle/role/app/secret-id-accessor/lookup", `{"secret_id_accessor":"x"}`, "", 404, nil},
		{"a chosen one", "POST", "auth/approle/role/app/custom-secret-id", `{"secret_id":"mine","num_uses":1}`, "", 200, map[string]string{"data.secret_id": `"mine"`}},
		{"chosen twice", "POST", "auth/approle/role/app/custom-secret-id", `{"secret_id":"mine"}`, "", 400, nil},
		{"destroy", "POST", "auth/approle/role/app/secret-id/destroy", `{"secret_id":"mine"}`, "", 204, nil},
		{"again", "POST", "auth/approle/role/app/secret-id/destroy", `{"secret_id":"mine"}`, "", 204, nil},
		{"destroyed", "POST", "auth/approle/login", `{"role_id":"my-app","secret_id":"mine"}`, "none", 400, nil},
		{"another", "POST", "auth/approle/role/app/custom-secret-id", `{"secret_id":"old"}`, "", 200, nil},
		{"the role goes", "DELETE", "auth/approle/role/app", ``, "", 204, nil},
		{"and comes again", "POST", "auth/approle/role/app", `{"role_id":"my-app"}`, "", 204, nil},
		{"without its secret ids", "POST", "auth/approle/login", `{"role_id":"my-app","secret_id":"old"}`, "none", 400, nil},
		{"from another network", "POST", "auth/approle/role/far", `{"role_id":"far","bind_secret_id":false,"secret_id_bound_cidrs":"203.0.113.0/24"}`, "", 204, nil},
		{"refused", "POST", "auth/approle/login", `{"role_id":"far"}`, "none", 400, nil},
		{"from here", "POST", "auth/approle/role/far/secret-id-bound-cidrs", `{"secret_id_bound_cidrs":["127.0.0.1"]}`, "", 204, nil},
		{"let in", "POST", "auth/approle/login", `{"role_id":"far"}`, "none", 200, nil},
		{"a batch login", "POST", "auth/approle/role/far", `{"token_type":"batch"}`, "", 204, nil},
		{"let in with a batch token", "POST", "auth/approle/login", `{"role_id":"far"}`, "none", 200, map[string]string{"auth.token_type": `"batch"`, "auth.renewable": `false`, "auth.accessor": `""`}},
	})
	c.must(200, "POST", "auth/approle/role/app/custom-secret-id", `{"secret_id":"short","ttl":"1m","num_uses":2}`)
	c.must(200, "POST", "auth/approle/role/app/custom-secret-id", `{"secret_id":"long"}`)
	c.call("POST", "auth/approle/login", "", `{"role_id":"my-app","secret_id":"short"}`)
	c.clock.pass(time.Minute)
	if g := c.call("POST", "auth/approle/login", "", `{"role_id":"my-app","secret_id":"short"}`); g.status != 400 {
		t.Errorf("an expired secret id: %v", g)
	}
	for range 2 { // secret ids first, then how often they were used
		if err := vault.Sweep(c.core, context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.must(200, "LIST", "auth/approle/role/app/secret-id", "").at("data.keys").([]any); len(got) != 1 {
		t.Errorf("after a sweep %d secret ids, want the one that lives", len(got))
	}
	if n := c.holds(vault.CountersID); n != 0 {
		t.Errorf("after a sweep %d counters, want none", n)
	}
}

// TestASecretIDIsSpentOnce lets many use the last use of a secret id.
func TestASecretIDIsSpentOnce(t *testing.T) {
	t.Parallel()
	c := ready(t)
	c.must(204, "POST", "sys/auth/approle", `{"type":"approle"}`)
	c.must(204, "POST", "auth/approle/role/app", `{"role_id":"app","secret_id_num_uses":3}`)
	secret := c.must(200, "POST", "auth/approle/role/app/secret-id", `{}`).text("data.secret_id")
	if got := count(16, func() bool {
		return c.call("POST", "auth/approle/login", "", `{"role_id":"app","secret_id":"`+secret+`"}`).status == 200
	}); got != 3 {
		t.Errorf("%d logins with a secret id of 3 uses", got)
	}
}

// TestOneUnwrapWins lets many unwrap one answer.
func TestOneUnwrapWins(t *testing.T) {
	t.Parallel()
	c := ready(t)
	token := c.call("GET", "sys/mounts", c.root, "", "X-Vault-Wrap-TTL", "60").text("wrap_info.token")
	if got := count(16, func() bool { return c.call("PUT", "sys/wrapping/unwrap", token, "").status == 200 }); got != 1 {
		t.Errorf("%d unwrapped one answer", got)
	}
}

// count runs a call many times at once and counts those that succeed.
func count(n int, call func() bool) (won int) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			if call() {
				mu.Lock()
				defer mu.Unlock()
				won++
			}
		})
	}
	all.Wait()
	return won
}

// TestNoSecretOfAnAccountIsStored looks for passwords and secret ids in everything that the store holds.
func TestNoSecretOfAnAccountIsStored(t *testing.T) {
	t.Parallel()
	c := ready(t)
	c.must(204, "POST", "sys/auth/approle", `{"type":"approle"}`)
	c.must(204, "POST", "sys/auth/userpass", `{"type":"userpass"}`)
	c.must(204, "POST", "auth/userpass/users/bob", `{"password":"planted-password"}`)
	c.must(204, "POST", "auth/userpass/users/bob/password", `{"password":"planted-password-2"}`)
	c.must(204, "POST", "auth/approle/role/app", `{"role_id":"app"}`)
	c.must(200, "POST", "auth/approle/role/app/custom-secret-id", `{"secret_id":"planted-secret"}`)
	batch := c.must(200, "POST", "auth/token/create", `{"type":"batch","policies":["default"]}`).text("auth.client_token")
	secrets := []string{"planted", batch, c.must(200, "POST", "auth/approle/role/app/secret-id", `{}`).text("data.secret_id")}
	view := c.engine.Snapshot()
	defer view.Release()
	for _, total := range view.Totals() {
		err := view.Scan(total.ID, nil, nil, func(rec storage.Record) bool {
			for _, secret := range secrets {
				if strings.Contains(string(rec.Key)+string(rec.Value), secret) {
					t.Errorf("record %q holds a secret", rec.Key)
				}
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestAuthOnAPerformanceSecondary has accounts on the primary and lets them log in on the secondary. Both cores have stores of
// their own: what replicates is written to both by hand.
func TestAuthOnAPerformanceSecondary(t *testing.T) {
	t.Parallel()
	primary, secondary := ready(t), ready(t)
	vault.SetNode(primary.core, &part{performance: replication.Primary})
	p := &part{performance: replication.Secondary, primary: primary.core}
	secondary.must(204, "POST", "sys/auth/approle", `{"type":"approle"}`)
	secondary.must(204, "POST", "auth/approle/role/app", `{"role_id":"app","secret_id_num_uses":2}`)
	secret := secondary.must(200, "POST", "auth/approle/role/app/secret-id", `{}`).text("data.secret_id")
	vault.SetNode(secondary.core, p)
	in := `{"role_id":"app","secret_id":"` + secret + `"}`
	secondary.story(t, []step{
		{"login is local", "POST", "auth/approle/login", in, "none", 200, nil},
		{"and counted", "POST", "auth/approle/login", in, "none", 200, nil},
		{"here", "POST", "auth/approle/login", in, "none", 400, nil},
		{"the record stays until the primary removes it", "POST", "auth/approle/role/app/secret-id/lookup", `{"secret_id":"` + secret + `"}`, "", 200, map[string]string{"data.secret_id_num_uses": `0`}},
		{"a token is local", "POST", "auth/token/create", `{"policies":["default"]}`, "", 200, nil},
		{"a cubbyhole is local", "PUT", "cubbyhole/x", `{"a":1}`, "", 204, nil},
		{"a batch token is local", "POST", "auth/token/create", `{"policies":["default"],"type":"batch"}`, "", 200, nil},
		{"a local auth method", "POST", "sys/auth/here", `{"type":"userpass","local":true}`, "", 204, nil},
		{"its users are local", "POST", "auth/here/users/bob", `{"password":"p"}`, "", 204, nil},
		{"they log in", "POST", "auth/here/login/bob", `{"password":"p"}`, "none", 200, nil},
	})
	if len(p.seen) != 0 {
		t.Fatalf("forwarded: %+v", p.seen)
	}
	secondary.story(t, []step{
		{"an auth method is the primary's", "POST", "sys/auth/there", `{"type":"userpass"}`, "", 204, nil},
		{"a token role too", "POST", "auth/token/roles/r", `{}`, "", 204, nil},
		{"a secret id of what the primary has not", "POST", "auth/approle/role/app/secret-id", `{}`, "", 404, nil},
		{"disable", "DELETE", "sys/auth/there", ``, "", 204, nil},
	})
	for _, f := range p.seen {
		if fmt.Sprint(f.Policies) != "[root]" || strings.Contains(fmt.Sprint(f.Header, f.Query), secondary.root) || f.RequestID == "" {
			t.Errorf("forwarded %s %s with %v, %v", f.Method, f.Path, f.Policies, f.Header)
		}
	}
	if len(p.seen) != 4 {
		t.Errorf("%d requests forwarded, want 4", len(p.seen))
	}
	primary.must(404, "GET", "auth/token/roles/none", "")
	primary.must(200, "GET", "auth/token/roles/r", "")
}

func TestTheNumberOfMountsIsLimited(t *testing.T) {
	t.Parallel()
	c := ready(t) // has two
	vault.LimitMounts(c.core, 4)
	c.story(t, []step{
		{"a third", "POST", "sys/mounts/three", `{"type":"kv"}`, "", 204, nil},
		{"an auth method counts too", "POST", "sys/auth/four", `{"type":"userpass"}`, "", 204, nil},
		{"one too many", "POST", "sys/mounts/five", `{"type":"kv"}`, "", 400, map[string]string{
			"errors": `["this cluster has 4 mounts and auth methods, as many as it can have: disable one that is not needed, or keep data of several in one"]`}},
		{"one too many of the others", "POST", "sys/auth/five", `{"type":"userpass"}`, "", 400, nil},
		{"make room", "DELETE", "sys/auth/four", ``, "", 204, nil},
		{"and use it", "POST", "sys/mounts/five", `{"type":"kv"}`, "", 204, nil},
	})
}
