package vault_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/vault"
	"github.com/lockstepdb/lockstep/storage"
)

// TestWhatTookRightsAwayIsFoundInTheEntriesThatDidIt makes tokens and policies by the API, takes rights away, and has the log's own entries read.
func TestWhatTookRightsAwayIsFoundInTheEntriesThatDidIt(t *testing.T) {
	t.Parallel()
	c := ready(t)
	token := func() (text, accessor string) {
		g := c.must(200, "POST", "auth/token/create", `{"policies":["wide"]}`)
		return g.text("auth.client_token"), g.text("auth.accessor")
	}
	c.policy("wide", `path "kv/*" { capabilities = ["read", "list"] }`)
	c.policy("gone", `path "kv/x" { capabilities = ["read"] }`)
	stolen, accessor := token()
	from := c.engine.Position().Index + 1

	c.must(204, "POST", "auth/token/revoke", fmt.Sprintf(`{"token":%q}`, stolen))
	brief, _ := token() // nobody but this cluster ever had it
	c.must(204, "POST", "auth/token/revoke", fmt.Sprintf(`{"token":%q}`, brief))
	c.policy("wide", `path "kv/x" { capabilities = ["read"] }`)
	c.policy("wide", `path "kv/y" { capabilities = ["read"] }`)
	c.must(204, "DELETE", "sys/policies/acl/gone", "")
	c.must(204, "PUT", "kv/x", `{"a":1}`)

	var whats, calls []string
	judge := vault.Tightens()
	for r := c.engine.LogReader(from); ; {
		f, err := r.TryNext()
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			break
		}
		for _, b := range f.Entries {
			e, err := storage.DecodeEntry(b)
			if err != nil {
				t.Fatal(err)
			}
			for i := range e.Blocks {
				for j := range e.Blocks[i].Changes {
					if what, repeat := judge(e.Blocks[i].Keyspace, &e.Blocks[i].Changes[j]); what != "" {
						whats, calls = append(whats, what), append(calls, repeat...)
					}
				}
			}
		}
	}
	want := []string{fmt.Sprintf(`POST /v1/auth/token/revoke-accessor {"accessor":%q}`, accessor), "POST /v1/sys/policies/acl/wide", "DELETE /v1/sys/policies/acl/gone"}
	if !slices.Equal(calls, want) {
		t.Errorf("got calls %q, want %q", calls, want)
	}
	for i, word := range []string{"revoked", "written", "removed"} {
		if i >= len(whats) || !strings.Contains(whats[i], word) {
			t.Errorf("got %q, want the word %q in the one of place %d", whats, word, i)
		}
	}
}
