package vault_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/server/vault"
	"github.com/lockstepdb/lockstep/wal"
)

// behind is a performance secondary that stands to every state as it is told to.
type behind struct {
	*part
	reach  replication.Reach
	waited int
}

func (b *behind) ReachedIndex(_ context.Context, texts []string, wait, _ bool) (replication.Reach, error) {
	if wait {
		b.waited++
	}
	for _, text := range texts {
		if text == "bad" {
			return replication.NotYet, fmt.Errorf("%w: it is bad", replication.ErrIndexToken)
		}
	}
	return b.reach, nil
}

func (b *behind) LostIn([]string) string { return "dr-7-0a0b0c0d" }

func (b *behind) Wrote(at wal.Position, _ *replication.Written) (*replication.Written, error) {
	return &replication.Written{Token: fmt.Sprintf("own %d", at.Index)}, nil
}

func (b *behind) ForwardedIndexToken(primary string) string { return "forwarded " + primary }

// overtaken is a synchronous primary that is demoted after a write was committed, and before that is answered.
type overtaken struct {
	part
	held, demoted bool
}

func (o *overtaken) HoldRole() (release func()) {
	o.held = true
	return func() { o.held = false }
}

func (o *overtaken) Wrote(at wal.Position, _ *replication.Written) (*replication.Written, error) {
	if !o.held || o.demoted {
		return &replication.Written{Token: "of another primary's history"}, nil
	}
	return &replication.Written{Token: fmt.Sprintf("own %d", at.Index)}, nil
}

func (o *overtaken) AwaitConfirmed(_ context.Context, committed bool, w *replication.Written) (string, error) {
	o.demoted = true
	if committed && w != nil {
		return "", &replication.NotConfirmed{Committed: true, Left: true}
	}
	return "", nil
}

func TestTheTokenOfAWriteIsMadeBeforeADemotionComesIn(t *testing.T) {
	t.Parallel()
	c := ready(t)
	vault.SetNode(c.core, &overtaken{part: part{performance: replication.Primary}})
	g := c.must(409, "PUT", "kv/x", `{"a":1}`)
	if got, want := g.header.Get("X-Vault-Index"), fmt.Sprintf("own %d", c.engine.Position().Index); got != want {
		t.Errorf("the answer names the state %q, want %q", got, want)
	}
	if !strings.Contains(string(g.raw), "ceased to be the primary") {
		t.Errorf("got %s, want a sentence that says why it is not confirmed", g.raw)
	}
}

func TestConsistencyHeadersOfASecondaryThatIsBehind(t *testing.T) {
	primary, s, link := pair(t)
	vault.SetNode(primary.core, &behind{part: &part{performance: replication.Primary}})
	primary.must(204, "PUT", "kv/x", `{"from":"primary"}`)
	node := &behind{part: link}
	vault.SetNode(s.core, node)
	const index, inconsistent, always = "X-Vault-Index", "X-Vault-Inconsistent", "X-Vault-Forward"
	for _, tt := range []struct {
		name         string
		off          bool // forwarding by header
		reach        replication.Reach
		method, path string
		header       []string
		status       int
		text         string
		forwarded    int
		waited       bool
	}{
		{"a state that is here", false, replication.Reached, "GET", "kv/x", []string{index, "t"}, 404, "", 0, true},
		{"one that is not", false, replication.NotYet, "GET", "kv/x", []string{index, "t"}, 412, "required index state not present", 0, true},
		{"a write after one that is not", false, replication.NotYet, "PUT", "kv/x", []string{index, "t"}, 412, "", 0, true},
		{"one that was lost", false, replication.LostIndex, "GET", "kv/x", []string{index, "t"}, 409, "was lost: this cluster's history goes on before it, and what was lost is in archive dr-7-0a0b0c0d", 0, true},
		{"a forged one", false, replication.Reached, "GET", "kv/x", []string{index, "t", index, "bad"}, 400, "malformed or forged", 0, true},
		{"a forged one without a token", false, replication.Reached, "GET", "kv/x", []string{index, "bad", "X-Vault-Token", "none"}, 403, "permission denied", 0, false},
		{"forward what is not here", false, replication.NotYet, "GET", "kv/x", []string{index, "t", inconsistent, "forward-active-node"}, 200, `"from":"primary"`, 1, false},
		{"forward what is here", false, replication.Reached, "GET", "kv/x", []string{index, "t", inconsistent, "forward-active-node"}, 404, "", 0, false},
		{"forward a list", false, replication.NotYet, "LIST", "kv", []string{index, "t", inconsistent, "forward-active-node"}, 200, `"keys":["x"]`, 1, false},
		{"forward what was lost", false, replication.LostIndex, "GET", "kv/x", []string{index, "t", inconsistent, "forward-active-node"}, 409, "", 0, false},
		{"forward what cannot be: a local mount", false, replication.NotYet, "GET", "local/x", []string{index, "t", inconsistent, "forward-active-node"}, 412, "", 0, true},
		{"forward what cannot be: a token", false, replication.NotYet, "GET", "auth/token/lookup-self", []string{index, "t", inconsistent, "forward-active-node"}, 412, "", 0, true},
		{"forward always", false, replication.Reached, "GET", "kv/x", []string{always, "active-node"}, 200, `"from":"primary"`, 1, false},
		{"forward a local mount always", false, replication.Reached, "GET", "local/x", []string{always, "active-node"}, 404, "", 0, false},
		{"forwarding is off", true, replication.Reached, "GET", "kv/x", []string{always, "active-node"}, 400, "allow_forwarding_via_header", 0, false},
		{"forwarding of what is not here is off", true, replication.NotYet, "GET", "kv/x", []string{index, "t", inconsistent, "forward-active-node"}, 400, "", 0, false},
		{"words that Vault has not", false, replication.Reached, "GET", "kv/x", []string{inconsistent, "yes"}, 400, "forward-active-node", 0, false},
		{"a write that may not be forwarded", false, replication.Reached, "PUT", "kv/x", []string{"X-Vault-No-Request-Forwarding", "1"}, 400, "call the primary", 0, false},
		{"a read that need not be", false, replication.Reached, "GET", "kv/x", []string{"X-Vault-No-Request-Forwarding", "1"}, 404, "", 0, false},
		{"status is answered in any state", false, replication.NotYet, "GET", "sys/replication/status", []string{index, "t"}, 200, "", 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			vault.AllowForwarding(s.core, !tt.off)
			node.reach, node.waited = tt.reach, 0
			sent := len(link.seen)
			g := s.call(tt.method, tt.path, s.root, "", tt.header...)
			if g.status != tt.status || !strings.Contains(string(g.raw), tt.text) {
				t.Errorf("got %v, want %d with %q", g, tt.status, tt.text)
			}
			if n := len(link.seen) - sent; n != tt.forwarded {
				t.Errorf("forwarded %d times, want %d", n, tt.forwarded)
			}
			if (node.waited > 0) != tt.waited {
				t.Errorf("waited %d times, want it: %v", node.waited, tt.waited)
			}
		})
	}
	node.reach = replication.Reached
	if got := s.call("PUT", "kv/y", s.root, `{"a":1}`).header.Get(index); !strings.HasPrefix(got, "forwarded own ") {
		t.Errorf("after a forwarded write: %q", got)
	}
	if got := s.call("PUT", "local/y", s.root, `{"a":1}`).header.Get(index); !strings.HasPrefix(got, "own ") {
		t.Errorf("after a local write: %q", got)
	}
	for _, path := range []string{"local/y", "kv/none"} {
		if got := s.call("GET", path, s.root, "").header.Get(index); got != "" {
			t.Errorf("after a read of %s: %q", path, got)
		}
	}
}

// filtering is a primary whose paths filter leaves out kv/ for one secondary.
type filtering struct{ *part }

func (filtering) LeavesOut(id, path string) (bool, error) {
	return id == "eu" && strings.Trim(path, "/") == "kv", nil
}

// TestAForwardedRequestReachesSharedWritesWithinTheFilterOnly asks for every route of the API in the name of root, as a stolen secondary could.
func TestAForwardedRequestReachesSharedWritesWithinTheFilterOnly(t *testing.T) {
	primary, _, _ := pair(t)
	vault.SetNode(primary.core, filtering{&part{performance: replication.Primary}})
	shared := map[string]bool{}
	primary.must(204, "POST", "sys/auth/userpass", `{"type":"userpass"}`)
	primary.must(204, "POST", "sys/auth/approle", `{"type":"approle"}`)
	type call struct {
		vault.RouteLine
		method string
	}
	var calls []call
	for _, rt := range vault.Routes(primary.core) {
		for method := range strings.FieldsSeq(rt.Methods) {
			calls = append(calls, call{rt, method})
		}
	}
	for _, rt := range calls {
		path := strings.ReplaceAll(rt.Path, "*", "nothing")
		before := primary.engine.Position()
		if rt.Shared { // not to be executed
			shared[rt.Path] = true
			continue
		}
		a := primary.core.Handle(context.Background(), &replication.Forwarded{
			Method: rt.method, Path: path, Body: []byte(`{}`), RequestID: "id-1", Secondary: "eu", Policies: []string{"root"},
		})
		if a.Status != 400 || !strings.Contains(string(a.Body), "only writes to what a primary shares") {
			t.Errorf("%s %s: got %d %s, want a refusal", rt.method, rt.Path, a.Status, a.Body)
		}
		if primary.engine.Position() != before {
			t.Errorf("%s %s wrote", rt.method, rt.Path)
		}
	}
	for path := range shared { // whoever adds one says here that a stolen secondary may write it
		known := strings.HasPrefix(path, "sys/mounts/") || strings.HasPrefix(path, "sys/polic") || strings.HasPrefix(path, "sys/auth/") || path == "sys/remount" ||
			strings.HasPrefix(path, "auth/userpass/users/") || strings.HasPrefix(path, "auth/approle/role/") || path == "auth/token/roles/*"
		if !known {
			t.Errorf("%s can be forwarded: is it right that a stolen performance secondary can write it?", path)
		}
	}
	for _, f := range []replication.Forwarded{
		{Method: "PUT", Path: "kv/x", Body: []byte(`{"a":1}`)},
		{Method: "GET", Path: "kv/x"},
		{Method: "LIST", Path: "kv"},
		{Method: "DELETE", Path: "sys/mounts/kv"},
		{Method: "POST", Path: "sys/mounts/kv", Body: []byte(`{"type":"kv"}`)},
		{Method: "POST", Path: "sys/mounts/kv/tune", Body: []byte(`{"description":"x"}`)},
		{Method: "POST", Path: "sys/remount", Body: []byte(`{"from":"kv","to":"mine"}`)},
		{Method: "POST", Path: "sys/remount", Body: []byte(`{"from":"secret","to":"/kv/"}`)},
	} {
		f.RequestID, f.Policies = "id-1", []string{"root"}
		f.Secondary = "eu"
		before := primary.engine.Position()
		if a := primary.core.Handle(context.Background(), &f); a.Status != 403 || !strings.Contains(string(a.Body), "paths filter") {
			t.Errorf("%s %s of the filtered secondary: got %d %s", f.Method, f.Path, a.Status, a.Body)
		}
		if primary.engine.Position() != before {
			t.Errorf("%s %s of the filtered secondary wrote", f.Method, f.Path)
		}
	}
	a := primary.core.Handle(context.Background(), &replication.Forwarded{
		Method: "PUT", Path: "kv/x", Body: []byte(`{"a":1}`), RequestID: "id-1", Secondary: "us", Policies: []string{"root"},
	})
	if a.Status != 204 {
		t.Errorf("another secondary: got %d %s", a.Status, a.Body)
	}
}
