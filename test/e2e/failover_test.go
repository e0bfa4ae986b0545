package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// failover runs the command and keeps what it said.
func failover(t *testing.T, env []string, input string, args ...string) (*cluster.Switchover, string, error) {
	t.Helper()
	r, words, err := cluster.Failover(t, env, input, args...)
	t.Logf("lockstep failover %s\n%s", strings.Join(args, " "), words)
	return r, words, err
}

// nothingCopied demands that each member is in line with the new primary by digest, and received no byte for it.
func nothingCopied(t *testing.T, s *cluster.Switchover, members int) {
	t.Helper()
	if len(s.Members) != members {
		t.Fatalf("the result tells of %d members, want %d: %+v", len(s.Members), members, s)
	}
	for _, m := range s.Members {
		if m.Bytes != 0 || m.Verified < s.Index {
			t.Errorf("%s (%s): %d bytes copied, digests equal at %d, want none and at least %d", m.Address, m.ID, m.Bytes, m.Verified, s.Index)
		}
	}
}

// newThree starts three clusters; the first holds some data.
func newThree(t *testing.T) (a, b, c *cluster.Node, o *oracle) {
	t.Helper()
	a, b, c = cluster.New(t, "a", cluster.Options{}), cluster.New(t, "b", cluster.Options{}), cluster.New(t, "c", cluster.Options{})
	for _, n := range []*cluster.Node{a, b, c} {
		n.Start()
		n.Init()
	}
	o = &oracle{acked: map[string]string{}}
	a.MustDo("POST", "sys/mounts/kv", `{"type":"kv","options":{"version":"1"}}`, 200, 204)
	o.fill(t, a, "before", 500)
	return a, b, c, o
}

// trioOfDR is a DR primary with two secondaries and some data, and the environment in which an operator runs the command.
type trioOfDR struct {
	a, b, c *cluster.Node
	oracle  *oracle
	env     []string
}

func newTrioOfDR(t *testing.T) *trioOfDR {
	t.Helper()
	a, b, c, o := newThree(t)
	a.EnablePrimary(cluster.DR)
	for _, s := range []*cluster.Node{b, c} {
		s.Join(a, cluster.DR, s.Name)
		cluster.WaitConverged(t, cluster.Deadline, a, s, cluster.DR)
		s.Token = a.Token
	}
	env := []string{"VAULT_TOKEN=" + a.Token, "LOCKSTEP_DR_OPERATION_TOKEN=" + a.OperationToken()}
	return &trioOfDR{a, b, c, o, env}
}

// TestFailoverCommandOfDR moves the part of a DR primary away and back under load, loses the primary, and takes it in again.
func TestFailoverCommandOfDR(t *testing.T) {
	t.Parallel()
	d := newTrioOfDR(t)
	a, b, c, o, env := d.a, d.b, d.c, d.oracle, d.env
	_, words, err := failover(t, env, "b, no\n", "-from="+a.API, "-to="+b.API)
	if err == nil || !strings.Contains(words, "not confirmed") || a.MustStatus(cluster.DR).Mode != "primary" {
		t.Fatalf("without a confirmation: %v", err)
	}
	if !strings.Contains(words, "secondary c is not named with -sibling") || strings.Contains(words, "secondary b is not named") {
		t.Errorf("the plan does not say which secondary was left out: %s", words)
	}
	if last := words[strings.LastIndex(strings.TrimSpace(words), "{"):]; !json.Valid([]byte(last)) {
		t.Errorf("the error is no JSON: %q", last)
	}
	_, words, err = failover(t, env[:1], "", "-from="+a.API, "-to="+b.API, "-yes")
	if err == nil || !strings.Contains(words, "LOCKSTEP_DR_OPERATION_TOKEN") {
		t.Fatalf("without an operation token: %v", err)
	}

	for i, way := range [][2]*cluster.Node{{a, b}, {b, a}} {
		from, to := way[0], way[1]
		during := startLoad(from, fmt.Sprintf("planned%d", i))
		during.reaches(t, 300)
		r, _, err := failover(t, env, to.Name+"\n", "-from="+from.API, "-to="+to.API, "-sibling="+c.API)
		if err != nil {
			t.Fatal(err)
		}
		during.end(o)
		nothingCopied(t, r, 2)
		o.allOn(t, to, to.Token)
		t.Logf("writes paused for about %d ms", r.PauseMS)
		r, _, err = failover(t, env, "", "-from="+from.API, "-to="+to.API, "-sibling="+c.API, "-yes")
		if err != nil {
			t.Fatalf("run again when all is done: %v", err)
		}
		nothingCopied(t, r, 2)
	}

	// The primary is lost, and with it that it revoked a secondary of its other set.
	a.EnablePrimary(cluster.Performance)
	a.SecondaryToken(cluster.Performance, "thief")
	for _, s := range []*cluster.Node{b, c} {
		cluster.WaitConverged(t, cluster.Deadline, a, s, cluster.DR)
		s.Kill()
	}
	a.MustDo("POST", perfPath+"primary/revoke-secondary", `{"id":"thief"}`, 204)
	a.MustDo("PUT", "sys/seal", "", 204)
	b.Start()
	c.Start()
	_, words, err = failover(t, env, "", "-from="+a.API, "-to="+b.API, "-sibling="+c.API, "-yes")
	if err == nil || !strings.Contains(words, "is sealed") || !strings.Contains(words, "-force") {
		t.Fatalf("the primary is sealed, and that or force was not named: %v", err)
	}
	r, words, err := failover(t, env, "b\n", "-from="+a.API, "-to="+b.API, "-sibling="+c.API, "-force")
	if err != nil || !r.Forced || len(r.LeftAlone) != 1 || !strings.Contains(words, "estimated loss") || !strings.Contains(words, "is sealed. Promoting") {
		t.Fatalf("forced: %+v, %v", r, err)
	}
	o.allOn(t, b, b.Token) // all of it had arrived
	a.Kill()
	a.Start()
	cluster.Eventually(t, cluster.Deadline, "the former primary is fenced", func() (bool, string) {
		s, err := a.Status(cluster.DR)
		return err == nil && s.State == "fenced", fmt.Sprintf("%+v, %v", s, err)
	})
	for _, slip := range []struct {
		env  []string
		args []string
		says string
	}{
		{nil, []string{"-from=" + b.API, "-to=" + a.API}, "is fenced"},
		{nil, []string{"-from=" + b.API, "-to=" + b.API}, "are one cluster"},
		{nil, []string{"-from=http://127.0.0.1:1", "-to=" + c.API, "-force"}, "hears its primary"},
		{[]string{"LOCKSTEP_DR_OPERATION_TOKEN=nope"}, []string{"-from=" + b.API, "-to=" + c.API}, "LOCKSTEP_DR_OPERATION_TOKEN"},
	} {
		_, words, err := failover(t, append(slices.Clone(env), slip.env...), "", append(slip.args, "-yes")...)
		if err == nil || !strings.Contains(words, slip.says) {
			t.Errorf("failover %q: %v, want that it refuses because %q", slip.args, err, slip.says)
		}
		if s := b.MustStatus(cluster.DR); s.Mode != "primary" || s.State != "running" {
			t.Fatalf("after failover %q the primary is %s, %s", slip.args, s.Mode, s.State)
		}
	}
	if r, _, err = failover(t, env, "", "-from="+a.API, "-to="+b.API, "-sibling="+c.API, "-yes"); err != nil {
		t.Fatalf("taking the former primary in again: %v", err)
	}
	if len(r.Members) != 2 {
		t.Errorf("members: %+v", r.Members)
	}
	const again = `POST /v1/sys/replication/performance/primary/revoke-secondary {"id":"thief"}`
	if len(r.Archives) != 1 || len(r.Repeat) != 1 || r.Repeat[0] != again {
		t.Errorf("archives %q and calls to repeat %q, want one and %s", r.Archives, r.Repeat, again)
	}
	b.MustDo("POST", perfPath+"primary/revoke-secondary", `{"id":"thief"}`, 204)
	cluster.WaitConverged(t, cluster.Deadline, b, a, cluster.DR)
}

// TestFailoverCommandOfPerformance moves a performance set's primary under load, and undoes the first half of a move whose second half fails. A sibling's paths
// filter stays what it is through all of it.
func TestFailoverCommandOfPerformance(t *testing.T) {
	t.Parallel()
	a, b, c, o := newThree(t)
	a.MustDo("POST", "sys/mounts/hidden", `{"type":"kv","options":{"version":"1"}}`, 200, 204)
	a.MustDo("PUT", "hidden/x", `{"value":"not for c"}`, 204)
	a.EnablePrimary(cluster.Performance)
	a.MustDo("POST", perfPath+"primary/paths-filter/c", `{"mode":"deny","paths":["hidden/"]}`, 200, 204)
	filtered := func(primary *cluster.Node) {
		t.Helper()
		var f struct {
			Data struct {
				Mode  string   `json:"mode"`
				Paths []string `json:"paths"`
			} `json:"data"`
		}
		if err := json.Unmarshal(primary.MustDo("GET", perfPath+"primary/paths-filter/c", "", 200).Body, &f); err != nil || f.Data.Mode != "deny" || len(f.Data.Paths) != 1 || f.Data.Paths[0] != "hidden/" {
			t.Errorf("the filter of c on %s: %+v, %v, want deny hidden/", primary.Name, f, err)
		}
	}
	for _, s := range []*cluster.Node{b, c} {
		s.Join(a, cluster.Performance, s.Name)
		s.WaitState(cluster.Performance, "stream-wals")
		s.MintToken()
	}
	args := []string{"-kind=performance", "-from=" + a.API, "-to=" + b.API, "-yes"}
	cluster.Eventually(t, cluster.Deadline, "b follows", func() (bool, string) {
		s := a.MustStatus(cluster.Performance)
		return len(s.Secondaries) == 2 && s.Secondaries[0].ConnectionStatus == "connected", fmt.Sprint(s.Secondaries)
	})
	r, words, err := failover(t, []string{"LOCKSTEP_FROM_TOKEN=" + a.Token, "LOCKSTEP_TO_TOKEN=nobody"}, "", args...)
	if err == nil || !r.Undone || !strings.Contains(words, "undone") {
		t.Fatalf("with a token that may not promote: %+v, %v", r, err)
	}
	if s := a.MustStatus(cluster.Performance); s.Mode != "primary" || s.State != "running" {
		t.Fatalf("undone, the former primary is %s, %s", s.Mode, s.State)
	}
	filtered(a)
	for _, s := range []*cluster.Node{b, c} { // they follow it anew
		_, err := s.Client().Logical().Write(perfPath+"secondary/update-primary", map[string]any{"token": a.SecondaryToken(cluster.Performance, s.Name)})
		if err != nil {
			t.Fatal(err)
		}
		s.WaitState(cluster.Performance, "stream-wals")
	}
	during := startLoad(a, "planned")
	during.reaches(t, 300)
	env := []string{"LOCKSTEP_FROM_TOKEN=" + a.Token, "LOCKSTEP_TO_TOKEN=" + b.Token, "LOCKSTEP_SIBLING_TOKEN=" + c.Token}
	r, words, err = failover(t, env, "", append(args, "-sibling="+c.API)...)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Members) != 2 || r.Members[1].Filter != "deny hidden/" || !strings.Contains(words, "filter   of secondary c is carried over: deny hidden/") {
		t.Errorf("what is told of c's filter: %+v", r.Members)
	}
	filtered(b)
	b.MustDo("PUT", "hidden/x", `{"value":"not for c either"}`, 204)
	c.MustDo("GET", "hidden/x", "", 400) // refused by name
	during.done.Wait()
	during.end(o)
	o.allOn(t, b, b.Token)
	t.Logf("writes paused for about %d ms; %+v", r.PauseMS, r.Members)

	// A primary that is lost cannot be asked for the filter: its secondary knows what it leaves out.
	b.Kill()
	env = []string{"LOCKSTEP_TO_TOKEN=" + a.Token, "LOCKSTEP_SIBLING_TOKEN=" + c.Token}
	_, words, err = failover(t, env, "", "-kind=performance", "-from="+b.API, "-to="+a.API, "-sibling="+c.API, "-force", "-yes")
	if err != nil || !strings.Contains(words, "deny hidden/") || !strings.Contains(words, "what c leaves out now") {
		t.Fatalf("forced: %v", err)
	}
	filtered(a)
	c.MustDo("GET", "hidden/x", "", 400)
}
