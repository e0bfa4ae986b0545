package vault_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/server/vault"
)

// unconfirmed is a primary whose secondaries have what a test says.
type unconfirmed struct {
	*part
	set     bool // its set is synchronous and nobody confirms
	warning string
	have    int // secondaries that hold everything
	asked   []string
	lost    map[replication.Kind]bool // the write lease of a set has ended
}

func (u *unconfirmed) Leased(k replication.Kind) error {
	if u.lost[k] {
		return &replication.LeaseLost{Set: k, Lease: 10 * time.Second, Want: 1}
	}
	return nil
}

func (u *unconfirmed) AwaitConfirmed(_ context.Context, committed bool, _ *replication.Written) (string, error) {
	if u.set {
		return "", &replication.NotConfirmed{Index: 7, Want: 1, Waited: time.Second, Committed: committed}
	}
	return u.warning, nil
}

func (u *unconfirmed) AwaitLevel(_ context.Context, index uint64, l replication.Level, committed bool, _ ...replication.Kind) error {
	u.asked = append(u.asked, l.String())
	if u.have < l.Secondaries {
		return &replication.NotConfirmed{Index: index, Want: l.Secondaries, Have: u.have, Waited: l.Timeout, Committed: committed}
	}
	return nil
}

func TestAnswersThatAreNotConfirmed(t *testing.T) {
	p, _, _ := pair(t)
	node := &unconfirmed{part: &part{performance: replication.Primary}}
	vault.SetNode(p.core, node)
	p.must(204, "PUT", "kv/x", `{"a":"1"}`)
	const header, late = "X-Lockstep-Synchronous", "committed here, not confirmed"
	for _, tt := range []struct {
		name         string
		set          bool
		warning      string
		method, path string
		body         string
		header       []string
		status       int
		text         string
	}{
		{"a set that confirms", false, "", "GET", "kv/x", "", nil, 200, `"a":"1"`},
		{"a set that does not: a read", true, "", "GET", "kv/x", "", nil, 503, "what this answer depends on is not confirmed"},
		{"a read of nothing: it may have been deleted", true, "", "GET", "kv/none", "", nil, 503, "not confirmed"},
		{"a list", true, "", "LIST", "kv/", "", nil, 503, "not confirmed"},
		{"a write: clients repeat a 5xx by themselves", true, "", "PUT", "kv/x", `{"a":"2"}`, nil, 409, late},
		{"status", true, "", "GET", "sys/replication/status", "", nil, 200, ""},
		{"health", true, "", "GET", "sys/health", "", nil, 200, ""},
		{"a stranger", true, "", "GET", "kv/x", "", []string{"X-Vault-Token", "none"}, 403, ""},
		{"degraded: a read", false, "degraded since", "GET", "kv/x", "", nil, 200, "degraded since"},
		{"degraded: a write that has no answer otherwise", false, "degraded since", "PUT", "kv/x", `{"a":"2"}`, nil, 200, "degraded since"},
		{"degraded: a refusal stays one", false, "degraded since", "GET", "kv/none", "", nil, 404, ""},
		{"a request's level that is met", false, "", "PUT", "kv/x", `{"a":"3"}`, []string{header, "durable=1"}, 204, ""},
		{"one that is not", false, "", "PUT", "kv/x", `{"a":"4"}`, []string{header, "durable=2,timeout=1ms"}, 409, late},
		{"one that is not, and degrades", false, "", "PUT", "kv/x", `{"a":"4"}`, []string{header, "applied=2,timeout=1ms,on_timeout=degrade"}, 200, late},
		{"one of a read: it waits for nothing of its own", false, "", "GET", "kv/x", "", []string{header, "durable=2"}, 200, ""},
		{"one that is none", false, "", "PUT", "kv/x", `{"a":"5"}`, []string{header, "always"}, 400, "no level of replication"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			node.set, node.warning, node.have = tt.set, tt.warning, 1
			g := p.call(tt.method, tt.path, p.root, tt.body, tt.header...)
			if g.status != tt.status || !strings.Contains(string(g.raw), tt.text) {
				t.Errorf("got %v, want %d with %q", g, tt.status, tt.text)
			}
		})
	}
}

// TestAForwardedWriteThatIsNotConfirmedHereIsNotRepeated: the primary has committed it; the level of the forwarding cluster's own set is not met.
func TestAForwardedWriteThatIsNotConfirmedHereIsNotRepeated(t *testing.T) {
	p, s, link := pair(t)
	vault.SetNode(s.core, &unconfirmed{part: link, set: true})
	if g := s.call("PUT", "kv/x", s.root, `{"a":"1"}`); g.status != 409 || !strings.Contains(string(g.raw), "committed here, not confirmed") {
		t.Errorf("got %v, want 409", g)
	}
	p.must(200, "GET", "kv/x", "")
	if g := s.call("PUT", "secret/data/none", s.root, `{"data":{"a":1},"options":{"cas":7}}`); g.status != 503 {
		t.Errorf("one that the primary refused: got %v, want 503", g)
	}
}

func TestAMountHasALevelOfItsOwn(t *testing.T) {
	p, _, _ := pair(t)
	node := &unconfirmed{part: &part{performance: replication.Primary}, have: 1}
	vault.SetNode(p.core, node)
	p.must(400, "POST", "sys/mounts/safe", `{"type":"kv","options":{"synchronous":"twice"}}`)
	p.must(204, "POST", "sys/mounts/safe", `{"type":"kv","options":{"synchronous":"durable=1,timeout=1s"}}`)
	p.must(204, "PUT", "safe/x", `{"a":"1"}`)
	p.must(204, "PUT", "kv/x", `{"a":"1"}`)
	if len(node.asked) != 1 || node.asked[0] != "durable=1,timeout=1s,on_timeout=fail" {
		t.Errorf("waited for %q, want the mount's level once", node.asked)
	}
	p.must(400, "POST", "sys/mounts/safe/tune", `{"options":{"synchronous":"durable=x"}}`)
	p.must(204, "POST", "sys/mounts/safe/tune", `{"options":{"synchronous":"durable=2,timeout=1ms"}}`)
	p.must(409, "PUT", "safe/x", `{"a":"2"}`)
	p.must(204, "POST", "sys/mounts/safe/tune", `{"options":{"synchronous":"async"}}`)
	p.must(204, "PUT", "safe/x", `{"a":"3"}`)
}

func TestWritesWithoutALease(t *testing.T) {
	p, _, _ := pair(t)
	node := &unconfirmed{part: &part{performance: replication.Primary}}
	vault.SetNode(p.core, node)
	p.must(204, "POST", "sys/mounts/here", `{"type":"kv","local":true}`)
	p.must(204, "PUT", "kv/x", `{"a":"1"}`)
	const ended = "Nothing was written: repeat it when they are connected again"
	for _, tt := range []struct {
		name         string
		set          replication.Kind
		method, path string
		body         string
		status       int
		text         string
	}{
		{"of DR: a write", replication.DR, "PUT", "kv/x", `{"a":"2"}`, 503, ended},
		{"a write of version 2, which is decided when it is executed", replication.DR, "PUT", "secret/data/x", `{"data":{"a":"2"}}`, 503, ended},
		{"a local write", replication.DR, "PUT", "here/x", `{"a":"2"}`, 503, ended},
		{"a token", replication.DR, "POST", "auth/token/create", `{}`, 503, ended},
		{"a read", replication.DR, "GET", "kv/x", "", 200, `"a":"1"`},
		{"status", replication.DR, "GET", "sys/replication/status", "", 200, ""},
		{"of performance: a write", replication.Performance, "PUT", "kv/x", `{"a":"2"}`, 503, ended},
		{"a write of version 2", replication.Performance, "PUT", "secret/data/x", `{"data":{"a":"2"}}`, 503, ended},
		{"a policy", replication.Performance, "PUT", "sys/policies/acl/p", `{"policy":"path \"a\" { capabilities = [\"read\"] }"}`, 503, ended},
		{"what is local goes on", replication.Performance, "PUT", "here/x", `{"a":"2"}`, 204, ""},
		{"a token of this cluster", replication.Performance, "POST", "auth/token/create", `{}`, 200, ""},
		{"a read of what is shared", replication.Performance, "GET", "kv/x", "", 200, `"a":"1"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			node.lost = map[replication.Kind]bool{tt.set: true}
			before := p.engine.Position()
			g := p.call(tt.method, tt.path, p.root, tt.body)
			if g.status != tt.status || !strings.Contains(string(g.raw), tt.text) {
				t.Errorf("got %v, want %d with %q", g, tt.status, tt.text)
			}
			if after := p.engine.Position(); tt.status == 503 && after != before {
				t.Errorf("it was refused, and the log went from %v to %v", before, after)
			}
		})
	}
	node.lost, node.set = map[replication.Kind]bool{replication.DR: true}, true
	if g := p.call("PUT", "kv/x", p.root, `{"a":"2"}`); g.status != 503 || !strings.Contains(string(g.raw), ended) {
		t.Errorf("a refusal waits for confirmation: got %v", g)
	}
	p.must(400, "POST", "sys/mounts/safe", `{"type":"kv","options":{"synchronous":"durable=1,lease=10s"}}`)
	if g := p.call("PUT", "kv/x", p.root, `{"a":"2"}`, "X-Lockstep-Synchronous", "durable=1,lease=10s"); g.status != 400 || !strings.Contains(string(g.raw), "a lease is a set's") {
		t.Errorf("a write with a lease of its own: got %v", g)
	}
}
