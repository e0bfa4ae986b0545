package e2e

import (
	"net/http"

	"github.com/hashicorp/vault/api"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// operationToken makes what an operator must have before a disaster: a batch token that the primary's DR secondaries take. Its policy is that of the page.
func (b *runbook) operationToken(p *cluster.Node) string {
	b.t.Helper()
	b.did(p, "vault policy write dr-operation dr-operation.hcl")
	if err := operator(p).Sys().PutPolicy("dr-operation", b.policy); err != nil {
		b.t.Fatal(err)
	}
	b.write(p, "auth/token/roles/dr-operation", map[string]any{
		"allowed_policies": "dr-operation", "orphan": "true", "renewable": "false", "token_type": "batch",
	})
	b.did(p, "vault token create -role=dr-operation -ttl=768h")
	made, err := operator(p).Auth().Token().CreateWithRole(&api.TokenCreateRequest{TTL: "768h"}, "dr-operation")
	if err != nil || made.Auth.TokenPolicies == nil || made.Auth.Renewable || !made.Auth.Orphan {
		b.t.Fatalf("a batch DR operation token: %+v, %v", made, err)
	}
	return made.Auth.ClientToken
}

// dropOperationToken ends a generated operation token; used again it is refused.
func (b *runbook) dropOperationToken(n *cluster.Node, token string) {
	b.t.Helper()
	path, in := drPath+"secondary/operation-token/delete", map[string]any{opField: token}
	b.write(n, path, in)
	if _, err := n.Client().Logical().Write(path, in); err == nil {
		b.t.Errorf("%s takes an operation token that was deleted", n.Name)
	}
}

// leftOut demands that a paths filter holds on a performance secondary.
func (b *runbook) leftOut(n *cluster.Node, path string) {
	b.t.Helper()
	if _, err := n.Client().Logical().Read(path); !answered(err, http.StatusBadRequest) {
		b.t.Errorf("%s on %s: %v, want 400: its filter leaves it out", path, n.Name, err)
	}
}

const passphrase = "correct horse"

// account makes an account that replicates, for people and applications.
func (b *runbook) account(p *cluster.Node) {
	b.t.Helper()
	b.did(p, "vault auth enable userpass")
	if err := operator(p).Sys().EnableAuthWithOptions("userpass", &api.EnableAuthOptions{Type: "userpass"}); err != nil {
		b.t.Fatal(err)
	}
	b.did(p, "vault policy write operator operator.hcl")
	everything := `path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }`
	if err := operator(p).Sys().PutPolicy("operator", everything); err != nil {
		b.t.Fatal(err)
	}
	b.write(p, "auth/userpass/users/ann", map[string]any{"password": passphrase, "policies": "operator"})
}

// login returns a token of this very cluster.
func (b *runbook) login(n *cluster.Node) string {
	b.t.Helper()
	b.did(n, "vault login -method=userpass username=…")
	c := operator(n)
	c.ClearToken()
	secret, err := c.Logical().Write("auth/userpass/login/ann", map[string]any{"password": passphrase})
	if err != nil {
		b.t.Fatalf("login at %s: %v", n.Name, err)
	}
	return secret.Auth.ClientToken
}
