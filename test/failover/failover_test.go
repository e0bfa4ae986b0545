// Package failover tells failures that need an operator, one story each, on
// real servers: a primary that was cut off with its clients, one that was
// restored from an old copy.
package failover

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

const (
	dr    = "sys/replication/dr/"
	count = 40 // writes of each part of a story
)

// pair is a primary and its DR secondary. What others are told of the primary's addresses goes by two proxies; clients reach it without.
type pair struct {
	t            *testing.T
	a, b         *cluster.Node
	toAPI, toLog *cluster.Proxy
	op           string // batch DR operation token
}

func newPair(t *testing.T) *pair {
	p := &pair{t: t, toAPI: cluster.NewProxy(t), toLog: cluster.NewProxy(t)}
	p.a = cluster.New(t, "a", cluster.Options{Top: []string{
		fmt.Sprintf("api_addr = %q", "http://"+p.toAPI.Address), fmt.Sprintf("cluster_addr = %q", "https://"+p.toLog.Address),
	}})
	p.b = cluster.New(t, "b", cluster.Options{})
	p.toAPI.Serve(strings.TrimPrefix(p.a.API, "http://"))
	p.toLog.Serve(p.a.Cluster)
	for _, n := range []*cluster.Node{p.a, p.b} {
		n.Start()
		n.Init()
	}
	p.a.MustDo("POST", "sys/mounts/kv", `{"type":"kv","options":{"version":"1"}}`, 200, 204)
	policy := `{"policy":"path \"sys/replication/dr/secondary/*\" { capabilities = [\"read\", \"update\"] }"}`
	p.a.MustDo("PUT", "sys/policies/acl/dr-operation", policy, 200, 204)
	p.a.MustDo("POST", "auth/token/roles/dr-operation", `{"allowed_policies":"dr-operation","orphan":true,"renewable":false,"token_type":"batch"}`, 200, 204)
	p.a.EnablePrimary(cluster.DR)
	var made struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	if err := json.Unmarshal(p.a.MustDo("POST", "auth/token/create/dr-operation", `{"ttl":"24h"}`, 200).Body, &made); err != nil {
		t.Fatal(err)
	}
	p.op = made.Auth.Token
	p.b.Join(p.a, cluster.DR, "b")
	p.b.Token = p.a.Token
	cluster.WaitConverged(t, cluster.Deadline, p.a, p.b, cluster.DR)
	return p
}

// operate makes a call about a DR secondary, until it is not answered 503.
func (p *pair) operate(n *cluster.Node, call string, body map[string]any) {
	p.t.Helper()
	body["dr_operation_token"] = p.op
	text, err := json.Marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	p.patient(n, "POST", dr+"secondary/"+call, string(text))
}

// patient repeats a call while it is answered 503.
func (p *pair) patient(n *cluster.Node, method, path, body string) *cluster.Answer {
	p.t.Helper()
	var a *cluster.Answer
	cluster.Eventually(p.t, cluster.Deadline, path+" at "+n.Name+" is answered", func() (bool, string) {
		var err error
		if a, err = n.Do(context.Background(), method, path, []byte(body)); err != nil {
			return false, err.Error()
		}
		return a.Status == 200 || a.Status == 204, fmt.Sprintf("%d %s", a.Status, a.Body)
	})
	return a
}

// write puts records that are all acknowledged.
func (p *pair) write(n *cluster.Node, prefix string) {
	p.t.Helper()
	for i := range count {
		p.patient(n, "PUT", cluster.Key("kv/"+prefix, i), fmt.Sprintf(`{"value":%q}`, prefix))
	}
}

// shows demands that a cluster has all records of a part of the story, or none.
func (p *pair) shows(n *cluster.Node, prefix string, want bool) {
	p.t.Helper()
	for i := range count {
		value, found, err := n.Get(context.Background(), cluster.Key("kv/"+prefix, i))
		if err != nil || found != want || found && value != prefix {
			p.t.Fatalf("%s at %s: %q, found %t, %v; want found %t", cluster.Key(prefix, i), n.Name, value, found, err, want)
		}
	}
}

// fenced waits until a primary says of itself that it takes no writes, and why, and demands that it takes none.
func (p *pair) fenced(n *cluster.Node, cause string) {
	p.t.Helper()
	cluster.Eventually(p.t, cluster.Deadline, n.Name+" is fenced", func() (bool, string) {
		a, err := n.Do(context.Background(), "GET", "sys/health", nil)
		if err != nil {
			return false, err.Error()
		}
		return a.Status == 429 && strings.Contains(string(a.Body), cause), fmt.Sprintf("%d %s", a.Status, a.Body)
	})
	if a := n.MustDo("PUT", "kv/refused", `{"value":"x"}`, 503); !strings.Contains(string(a.Body), "fenced") {
		p.t.Errorf("a write on a fenced primary is refused with %s", a.Body)
	}
	if s := n.MustStatus(cluster.DR); s.State != "fenced" {
		p.t.Errorf("the state of a fenced primary is %q", s.State)
	}
}

// lost returns the paths below kv/ of the puts that a cluster's archives call lost.
func (p *pair) lost(n *cluster.Node) map[string]bool {
	p.t.Helper()
	ask := func(rest string) *cluster.Answer {
		if n.MustStatus(cluster.DR).Mode == "primary" {
			return n.MustDo("GET", "sys/replication/divergence"+rest+"?limit=1000", "", 200)
		}
		return n.MustDo("POST", dr+"secondary/divergence"+rest, fmt.Sprintf(`{"dr_operation_token":%q,"limit":1000}`, p.op), 200)
	}
	var list struct {
		Data struct {
			Keys []string `json:"keys"`
		} `json:"data"`
	}
	if err := json.Unmarshal(ask("").Body, &list); err != nil {
		p.t.Fatal(err)
	}
	all := map[string]bool{}
	for _, id := range list.Data.Keys {
		var one struct {
			Data struct {
				Items []struct {
					Op, Key, Mount string
					Lost           bool
				} `json:"items"`
			} `json:"data"`
		}
		if err := json.Unmarshal(ask("/"+id).Body, &one); err != nil {
			p.t.Fatal(err)
		}
		for _, it := range one.Data.Items {
			if it.Lost && it.Op == "put" && it.Mount == "kv/" {
				all[it.Key] = true
			}
		}
	}
	return all
}

// archived demands that a cluster's archives hold exactly one part of the story.
func (p *pair) archived(n *cluster.Node, prefix string) {
	p.t.Helper()
	got := p.lost(n)
	for i := range count {
		if key := strings.TrimPrefix(cluster.Key("kv/"+prefix, i), "kv/"); !got[key] {
			p.t.Errorf("%s was acknowledged by %s, lost, and is not in its archives", key, n.Name)
		} else {
			delete(got, key)
		}
	}
	if len(got) > 0 {
		p.t.Errorf("the archives of %s hold what was not lost: %v", n.Name, got)
	}
}

func (p *pair) end() {
	p.t.Helper()
	for _, n := range []*cluster.Node{p.a, p.b} {
		n.Stop()
		n.MustCheck()
	}
}

// TestAPrimaryThatWasCutOffWithItsClientsIsFencedAtFirstContact is number 23 of the list: nobody demotes it, and what it took alone is in its archive.
func TestAPrimaryThatWasCutOffWithItsClientsIsFencedAtFirstContact(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.write(p.a, "before")
	cluster.WaitConverged(t, cluster.Deadline, p.a, p.b, cluster.DR)
	p.toAPI.Cut()
	p.toLog.Cut()
	p.write(p.a, "alone")
	p.operate(p.b, "update-primary", map[string]any{"token": ""})
	p.operate(p.b, "promote", map[string]any{"force": true})
	p.write(p.b, "after")
	p.write(p.a, "alone") // it does not know

	p.toAPI.Mend()
	p.toLog.Mend()
	p.fenced(p.a, "superseded")
	p.a.Restart()
	p.fenced(p.a, "superseded")

	p.a.MustDo("POST", dr+"primary/demote", `{}`, 200)
	cluster.Eventually(t, cluster.Deadline, "a is a secondary", func() (bool, string) {
		s, err := p.a.Status(cluster.DR)
		return err == nil && s.Mode == "secondary", fmt.Sprint(s, err)
	})
	p.operate(p.a, "update-primary", map[string]any{"token": p.b.SecondaryToken(cluster.DR, "a")})
	cluster.WaitConverged(t, cluster.Deadline, p.b, p.a, cluster.DR)
	p.shows(p.b, "before", true)
	p.shows(p.b, "after", true)
	p.shows(p.b, "alone", false)
	p.archived(p.a, "alone")
	p.end()
}

// TestAPrimaryRestoredFromAnOldCopyStopsUntilSomebodyRecovers is number 25 of the list.
func TestAPrimaryRestoredFromAnOldCopyStopsUntilSomebodyRecovers(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.write(p.a, "before")
	cluster.WaitConverged(t, cluster.Deadline, p.a, p.b, cluster.DR)
	p.a.Stop()
	copied := filepath.Join(p.a.Dir, "copy")
	if err := cluster.CopyTree(copied, p.a.Data); err != nil {
		t.Fatal(err)
	}
	p.a.Start()
	p.write(p.a, "newer")
	cluster.WaitConverged(t, cluster.Deadline, p.a, p.b, cluster.DR)
	p.a.Kill()
	if err := os.RemoveAll(p.a.Data); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(copied, p.a.Data); err != nil {
		t.Fatal(err)
	}
	p.a.Start()
	p.fenced(p.a, "restored")

	p.patient(p.a, "POST", "sys/replication/recover", `{}`)
	p.write(p.a, "recovered")
	cluster.WaitConverged(t, cluster.Deadline, p.a, p.b, cluster.DR)
	p.shows(p.a, "before", true)
	p.shows(p.a, "newer", false)
	p.shows(p.a, "recovered", true)
	p.archived(p.b, "newer")
	p.end()
}
