package e2e

import (
	"context"
	"net/http"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// logins makes accounts with the stock client, some by way of the performance
// secondary, and logs in there: accounts replicate, tokens do not.
func logins(t *testing.T, tr *cluster.Trio) {
	ctx := context.Background()
	primary, perf := tr.Primary.Client(), tr.Performance.Client()
	for _, kind := range []string{"userpass", "approle"} {
		if err := primary.Sys().EnableAuthWithOptions(kind, &api.EnableAuthOptions{Type: kind}); err != nil {
			t.Fatalf("enable %s: %v", kind, err)
		}
	}
	halfAnHour := "30m"
	if err := primary.Sys().TuneMountAllowNil("auth/userpass", api.TuneMountConfigInput{DefaultLeaseTTL: &halfAnHour}); err != nil {
		t.Errorf("tune an auth method as the CLI does: %v", err)
	}
	if err := primary.Sys().PutPolicy("app", `path "kv/logins/*" { capabilities = ["create", "update", "read"] }`); err != nil {
		t.Fatal(err)
	}
	tr.WaitConverged()
	methods, err := perf.Sys().ListAuth()
	if err != nil || methods["userpass/"] == nil || methods["userpass/"].Config.DefaultLeaseTTL != 1800 {
		t.Errorf("auth methods on the secondary: %+v, %v", methods, err)
	}
	write(t, perf, "auth/userpass/users/bob", map[string]any{"password": "hunter2", "policies": "app"})
	write(t, perf, "auth/approle/role/app", map[string]any{"token_policies": "app", "secret_id_num_uses": 1, "role_id": "app"})
	secret := write(t, perf, "auth/approle/role/app/secret-id", nil)

	// Forwarded writes are answered when they show here.
	bob := tr.Performance.Client()
	bob.SetToken("")
	login := write(t, bob, "auth/userpass/login/bob", map[string]any{"password": "hunter2"})
	if login.Auth == nil || login.Auth.LeaseDuration != 1800 {
		t.Fatalf("login on the secondary: %+v", login)
	}
	bob.SetToken(login.Auth.ClientToken)
	if err := bob.KVv1("kv").Put(ctx, "logins/x", map[string]any{"by": "bob"}); err != nil {
		t.Errorf("a write that is forwarded under bob's policies: %v", err)
	}
	if err := bob.KVv1("kv").Put(ctx, "elsewhere", map[string]any{"by": "bob"}); !answered(err, http.StatusForbidden) {
		t.Errorf("a write beyond them: %v, want 403", err)
	}
	write(t, bob, "cubbyhole/note", map[string]any{"v": "mine"})
	if note, err := bob.Logical().Read("cubbyhole/note"); err != nil || note == nil || note.Data["v"] != "mine" {
		t.Errorf("cubbyhole: %+v, %v", note, err)
	}
	if _, err := bob.Auth().Token().RenewSelf(60); err != nil {
		t.Errorf("renew-self: %v", err)
	}
	wrapped(t, bob)

	machine := tr.Performance.Client()
	machine.SetToken("")
	in := map[string]any{"role_id": "app", "secret_id": secret.Data["secret_id"]}
	write(t, machine, "auth/approle/login", in)
	if _, err := machine.Logical().Write("auth/approle/login", in); !answered(err, http.StatusBadRequest) {
		t.Errorf("a secret id of one use, used twice: %v, want 400", err)
	}

	there := tr.Primary.Client()
	there.SetToken(login.Auth.ClientToken)
	if _, err := there.Auth().Token().LookupSelf(); !answered(err, http.StatusForbidden) {
		t.Errorf("bob's token on the primary: %v, want 403", err)
	}
	if err := primary.Sys().DisableAuth("userpass"); err != nil {
		t.Fatal(err)
	}
	tr.WaitConverged()
	if _, err := bob.Auth().Token().LookupSelf(); !answered(err, http.StatusForbidden) {
		t.Errorf("bob's token after the primary disabled the method: %v, want 403", err)
	}
}

// wrapped wraps an answer and unwraps it once.
func wrapped(t *testing.T, c *api.Client) {
	t.Helper()
	w, err := c.Clone()
	if err != nil {
		t.Fatal(err)
	}
	w.SetToken(c.Token())
	w.SetWrappingLookupFunc(func(string, string) string { return "60" })
	secret, err := w.Logical().Read("kv/logins/x")
	if err != nil || secret == nil || secret.WrapInfo == nil {
		t.Fatalf("a wrapped read: %+v, %v", secret, err)
	}
	inner, err := c.Logical().Unwrap(secret.WrapInfo.Token)
	if err != nil || inner == nil || inner.Data["by"] != "bob" {
		t.Errorf("unwrap: %+v, %v", inner, err)
	}
	if _, err := c.Logical().Unwrap(secret.WrapInfo.Token); err == nil {
		t.Error("unwrapped twice")
	}
}

func write(t *testing.T, c *api.Client, path string, data map[string]any) *api.Secret {
	t.Helper()
	secret, err := c.Logical().Write(path, data)
	if err != nil {
		t.Fatalf("write %s: %v", path, err)
	}
	return secret
}
