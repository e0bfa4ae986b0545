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
}

func (u *unconfirmed) AwaitConfirmed(_ context.Context, committed bool) (string, error) {
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
