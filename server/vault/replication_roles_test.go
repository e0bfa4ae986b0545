package vault_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/server/vault"
)

// TestRoleCallsOfThePerformanceSet calls each path, of today and of old, and looks at what the node is asked.
func TestRoleCallsOfThePerformanceSet(t *testing.T) {
	c := ready(t)
	p := &part{performance: replication.Primary}
	vault.SetNode(c.core, p)
	const perf, old = "sys/replication/performance/", "sys/replication/"
	c.story(t, []step{
		{"demote", "PUT", perf + "primary/demote", "", "", 200, map[string]string{"data": `null`, "warnings": `["demoting"]`}},
		{"another CA", "PUT", perf + "primary/rotate-ca", "", "", 200, map[string]string{"data": `null`, "warnings": `["another CA"]`}},
		{"another CA without a token", "PUT", perf + "primary/rotate-ca", "", "none", 403, nil},
		{"disable", "PUT", perf + "primary/disable", "null", "", 200, map[string]string{"warnings": `["disabling"]`}},
		{"public key", "PUT", perf + "secondary/generate-public-key", "", "", 200, map[string]string{"data": `{"secondary_public_key":"a2V5"}`}},
		{"promote", "PUT", perf + "secondary/promote", `{"primary_cluster_addr":"lb:8201"}`, "", 200, map[string]string{"warnings": `["promoting"]`}},
		{"promote without the level of before", "PUT", perf + "secondary/promote", `{"synchronous":"async"}`, "", 200, map[string]string{"warnings": `["promoting"]`}},
		{"promote with another level", "PUT", perf + "secondary/promote", `{"synchronous":"durable=1"}`, "", 400, nil},
		{"disable a secondary", "PUT", perf + "secondary/disable", "", "", 200, nil},
		{"update", "PUT", perf + "secondary/update-primary", `{"token":"x","primary_api_addr":"http://p","ca_file":"f","ca_path":"d"}`, "", 200, map[string]string{"warnings": `["following another"]`}},
		{"forget", "PUT", perf + "secondary/update-primary", `{"token":""}`, "", 200, nil},
		{"addresses", "PUT", perf + "secondary/update-primary", `{"update_primary_addrs":["a:1","b:2"]}`, "", 200, nil},
		{"addresses, one text", "PUT", perf + "secondary/update-primary", `{"update_primary_addrs":"a:1,b:2"}`, "", 200, nil},
		{"the old demote", "POST", old + "primary/demote", "", "", 204, nil},
		{"the old disable", "POST", old + "primary/disable", "", "", 204, nil},
		{"the old promote", "POST", old + "secondary/promote", `{"primary_cluster_addr":"lb:8201"}`, "", 204, nil},
		{"the old disable of a secondary", "POST", old + "secondary/disable", "", "", 204, nil},
		{"the old update", "POST", old + "secondary/update-primary", `{"token":"x"}`, "", 204, nil},
		{"promote without a token", "PUT", perf + "secondary/promote", "", "none", 403, nil},
		{"demote without a token", "PUT", perf + "primary/demote", "", "none", 403, nil},
		{"promote by GET", "GET", perf + "secondary/promote", "", "", 405, nil},
		{"promote with a wrong type", "PUT", perf + "secondary/promote", `{"force":"maybe"}`, "", 400, nil},
	})
	p.behind = true
	c.story(t, []step{
		{"too early", "PUT", perf + "secondary/promote", ``, "", 503, map[string]string{"errors": `["replication is catching up: try again, or pass force=true, which may lose writes"]`}},
		{"forced", "PUT", perf + "secondary/promote", `{"force":"true"}`, "", 200, nil},
	})
	want := []string{
		"demote performance", "rotate ca performance", "disable primary performance", "public key performance", "promote performance {PrimaryClusterAddr:lb:8201 Force:false Async:false}", "promote performance {PrimaryClusterAddr: Force:false Async:true}",
		"disable secondary performance", `update primary performance "x" [] http://p f d`, `update primary performance "" []   `,
		"update primary performance none [a:1 b:2]   ", "update primary performance none [a:1 b:2]   ",
	}
	for i, w := range want {
		if i >= len(p.calls) || p.calls[i] != w {
			t.Errorf("call %d: got %q, want %q", i, p.calls[min(i, len(p.calls)-1)], w)
		}
	}
}

// TestCallsOfADRSecondaryAreAuthorisedByTheirBody asks each with no, a wrong, a generated and a batch token, and with a stale one in the header.
func TestCallsOfADRSecondaryAreAuthorisedByTheirBody(t *testing.T) {
	c := ready(t)
	c.policy("promoter", `path "sys/replication/dr/secondary/promote" { capabilities = ["update"] }`)
	batch := c.must(200, "POST", "auth/token/create-orphan", `{"type":"batch","policies":["promoter"]}`).text("auth.client_token")
	p := &part{dr: replication.Secondary}
	vault.SetNode(c.core, p)
	if err := c.core.SetDROperationToken("hvs.generated"); err != nil {
		t.Fatal(err)
	}
	const base = "sys/replication/dr/secondary/"
	denied := map[string]string{"errors": `["permission denied"]`}
	for _, call := range []string{"promote", "update-primary", "disable", "recover", "reindex", "merkle-check"} {
		c.story(t, []step{
			{call + " without a token", "PUT", base + call, `{}`, "none", 400, nil},
			{call + " with a client's token only", "PUT", base + call, `{}`, "", 400, nil},
			{call + " with a wrong token", "PUT", base + call, `{"dr_operation_token":"hvs.wrong"}`, "none", 403, denied},
			{call + " with a root token", "PUT", base + call, `{"dr_operation_token":"` + c.root + `"}`, "none", 403, denied},
			{call, "PUT", base + call, `{"dr_operation_token":"hvs.generated","token":""}`, "none", 200, nil},
			{call + " with a stale token beside it", "PUT", base + call, `{"dr_operation_token":"hvs.generated","token":""}`, "hvs.stale", 200, nil},
			{call + " by GET", "GET", base + call, ``, "none", 400, nil},
		})
	}
	c.story(t, []step{
		{"a batch token whose policy grants it", "PUT", base + "promote", `{"dr_operation_token":"` + batch + `","force":true}`, "none", 200, map[string]string{"warnings": `["promoting"]`}},
		{"one whose policy does not", "PUT", base + "disable", `{"dr_operation_token":"` + batch + `"}`, "none", 403, denied},
		{"revoking what is not generated", "PUT", base + "operation-token/delete", `{"dr_operation_token":"hvs.wrong"}`, "none", 403, denied},
		{"revoking it", "PUT", base + "operation-token/delete", `{"dr_operation_token":"hvs.generated"}`, "none", 204, nil},
		{"it is revoked", "PUT", base + "promote", `{"dr_operation_token":"hvs.generated"}`, "none", 403, denied},
	})
	p.dr = ""
	c.story(t, []step{{"where DR is disabled", "PUT", base + "promote", `{"dr_operation_token":"x"}`, "none", 400, nil}})
	for _, call := range p.calls {
		if strings.HasPrefix(call, "promote") && !strings.HasPrefix(call, "promote dr") {
			t.Errorf("a call of the DR set asked for %s", call)
		}
	}
}

// demotedMeanwhile is a node whose cluster ceases to be the primary of a set just before a write that was let in is committed.
type demotedMeanwhile struct {
	part
	of     replication.Kind
	ceased atomic.Bool
}

func (d *demotedMeanwhile) Mode(k replication.Kind) replication.Mode {
	if k == d.of && d.ceased.Load() {
		return replication.Secondary
	}
	return d.part.Mode(k)
}

func (d *demotedMeanwhile) HoldRole() (release func()) {
	d.ceased.Store(true)
	return func() {}
}

func TestAWriteThatADemotionOvertookIsRefusedAndNotWritten(t *testing.T) {
	for _, k := range []replication.Kind{replication.DR, replication.Performance} {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			c := ready(t)
			d := &demotedMeanwhile{part: part{dr: replication.Primary, performance: replication.Primary}, of: k}
			vault.SetNode(c.core, d)
			before := c.engine.Position()
			g := c.must(503, "PUT", "kv/x", `{"a":1}`)
			if !d.ceased.Load() || !strings.Contains(string(g.raw), "nothing was written: repeat it") {
				t.Errorf("got %v, want a sentence that says to repeat the request", g)
			}
			if after := c.engine.Position(); after != before {
				t.Errorf("the refused write was committed: from index %d to %d", before.Index, after.Index)
			}
		})
	}
}
