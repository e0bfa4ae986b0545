package failover

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// member is one cluster. What others are told of its addresses goes by two proxies, which count; clients reach it without.
type member struct {
	*cluster.Node
	toAPI, toLog *cluster.Proxy
}

// cut takes a member's addresses away from the others; connections that it makes itself go on.
func (m *member) cut() {
	m.toAPI.Cut()
	m.toLog.Cut()
}

func (m *member) mend() {
	m.toAPI.Mend()
	m.toLog.Mend()
}

// sent is how many bytes a member has sent to those that follow it.
func (m *member) sent() int64 { return m.toLog.FromServer() }

// set is a primary and its secondaries, by name.
type set struct {
	t     *testing.T
	kind  cluster.Kind
	all   []*member
	op    string // batch DR operation token
	named map[string]int
}

// newMembers starts and initialises clusters that do not know each other; the first has a mount kv/.
func newMembers(t *testing.T, kind cluster.Kind, o cluster.Options, names ...string) *set {
	t.Helper()
	s := &set{t: t, kind: kind, named: map[string]int{}}
	for _, name := range names {
		m := &member{toAPI: cluster.NewProxy(t), toLog: cluster.NewProxy(t)}
		own := o
		own.Top = append([]string{
			fmt.Sprintf("api_addr = %q", "http://"+m.toAPI.Address), fmt.Sprintf("cluster_addr = %q", "https://"+m.toLog.Address),
		}, o.Top...)
		if o.Fuse != "" { // a directory
			own.Fuse = filepath.Join(o.Fuse, name)
		}
		m.Node = cluster.New(t, name, own)
		m.toAPI.Serve(strings.TrimPrefix(m.API, "http://"))
		m.toLog.Serve(m.Cluster)
		s.all = append(s.all, m)
		m.Launch()
	}
	for _, m := range s.all {
		m.WaitReady()
		m.Init()
	}
	s.all[0].MustDo("POST", "sys/mounts/kv", `{"type":"kv","options":{"version":"1"}}`, 200, 204)
	return s
}

// newSet starts a primary and its secondaries.
func newSet(t *testing.T, kind cluster.Kind, o cluster.Options, names ...string) *set {
	t.Helper()
	s := newMembers(t, kind, o, names...)
	s.enrol()
	return s
}

// enrol makes the first member the primary and all others its secondaries.
func (s *set) enrol() {
	s.t.Helper()
	p := s.all[0]
	p.EnablePrimary(s.kind)
	if s.kind == cluster.DR {
		s.op = p.OperationToken()
	}
	for _, m := range s.all[1:] {
		m.Join(p.Node, s.kind, m.Name)
		s.converged(p, m)
		if m.Token = p.Token; s.kind == cluster.Performance {
			m.MintToken()
			s.converged(p, m)
		}
	}
}

// converged waits until a secondary shows what its primary has; nobody writes meanwhile.
func (s *set) converged(p, m *member) {
	s.t.Helper()
	cluster.WaitConverged(s.t, cluster.Deadline, p.Node, m.Node, s.kind)
}

// path is that of a call about the set.
func (s *set) path(call string) string { return "sys/replication/" + string(s.kind) + "/" + call }

// operate makes a call about a secondary, until it is not answered 503.
func (s *set) operate(m *member, call string, body map[string]any) {
	s.t.Helper()
	if s.kind == cluster.DR {
		body["dr_operation_token"] = s.op
	}
	text, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	s.patient(m, "POST", s.path("secondary/"+call), string(text))
}

// patient repeats a call while it is answered 503.
func (s *set) patient(m *member, method, path, body string) *cluster.Answer {
	s.t.Helper()
	var a *cluster.Answer
	cluster.Eventually(s.t, cluster.Deadline, path+" at "+m.Name+" is answered", func() (bool, string) {
		var err error
		if a, err = m.Do(context.Background(), method, path, []byte(body)); err != nil {
			return false, err.Error()
		}
		return a.Status == 200 || a.Status == 204, fmt.Sprintf("%d %s", a.Status, a.Body)
	})
	return a
}

// mode waits until a member has a part in the set.
func (s *set) mode(m *member, mode string) {
	s.t.Helper()
	cluster.Eventually(s.t, cluster.Deadline, m.Name+" is a "+mode, func() (bool, string) {
		st, err := m.Status(s.kind)
		if err != nil {
			return false, err.Error()
		}
		return st.Mode == mode && (mode != "primary" || st.State == "running"), fmt.Sprintf("mode %s, state %s, reason %v", st.Mode, st.State, st.Raw["reason"])
	})
}

// demote ends a primary's part and waits until it is a secondary.
func (s *set) demote(m *member) {
	s.t.Helper()
	m.MustDo("POST", s.path("primary/demote"), `{}`, 200)
	s.mode(m, "secondary")
}

// promote makes a secondary the primary; by force it is told to forget its primary first.
func (s *set) promote(m *member, force bool) {
	s.t.Helper()
	if force {
		s.operate(m, "update-primary", map[string]any{"token": ""})
	}
	s.operate(m, "promote", map[string]any{"force": force})
	cluster.Eventually(s.t, cluster.Deadline, m.Name+" serves, and says until then that it may be asked again", func() (bool, string) {
		a, err := m.Do(context.Background(), "GET", "sys/mounts", nil)
		if err != nil {
			return false, err.Error()
		}
		if a.Status != 200 && a.Status != 503 {
			s.t.Fatalf("%s, promoted, answers %d %s, want 503 until it serves", m.Name, a.Status, a.Body)
		}
		return a.Status == 200, string(a.Body)
	})
	s.mode(m, "primary")
}

// follow gives a member a token of a primary, and waits until it shows what that has; nobody writes meanwhile.
func (s *set) follow(m, p *member) {
	s.t.Helper()
	s.repoint(m, p)
	s.converged(p, m)
}

// repoint gives a member a token of a primary, under a name that was never used.
func (s *set) repoint(m, p *member) {
	s.t.Helper()
	s.operate(m, "update-primary", map[string]any{"token": s.tokenFor(m, p)})
}

// tokenFor is a token of a primary for a member, under a name that was never used.
func (s *set) tokenFor(m, p *member) string {
	s.t.Helper()
	s.named[m.Name]++
	return p.SecondaryToken(s.kind, fmt.Sprintf("%s-%d", m.Name, s.named[m.Name]))
}

// switchover moves the primary's part by `lockstep failover`, and demands that nobody was sent a key.
func (s *set) switchover(from, to *member, siblings ...*member) *cluster.Switchover {
	s.t.Helper()
	env := []string{"LOCKSTEP_DR_OPERATION_TOKEN=" + s.op, "LOCKSTEP_FROM_TOKEN=" + from.Token, "LOCKSTEP_TO_TOKEN=" + to.Token}
	args := []string{"-kind=" + string(s.kind), "-from=" + from.API, "-to=" + to.API, "-yes"}
	tokens := make([]string, len(siblings))
	for i, m := range siblings {
		tokens[i], args = m.Token, append(args, "-sibling="+m.API)
	}
	r, words, err := cluster.Failover(s.t, append(env, "LOCKSTEP_SIBLING_TOKEN="+strings.Join(tokens, ",")), "", args...)
	if err != nil {
		s.t.Fatalf("lockstep failover from %s to %s: %v\n%s", from.Name, to.Name, err, words)
	}
	if len(r.Members) != 1+len(siblings) {
		s.t.Fatalf("the command tells of %d members, want %d\n%s", len(r.Members), 1+len(siblings), words)
	}
	return r
}

// cost is what a secondary received since its start beside the stream.
type cost struct{ diff, sync uint64 } // bytes compared, bytes of records

func (s *set) cost(m *member) cost {
	s.t.Helper()
	st := m.MustStatus(s.kind)
	diff, ok1 := st.Number("diff_bytes")
	sync, ok2 := st.Number("sync_bytes")
	if !ok1 || !ok2 {
		s.t.Fatalf("the status of %s (%s) has no diff_bytes and sync_bytes", m.Name, st.Mode)
	}
	return cost{uint64(diff), uint64(sync)}
}

// write puts records that are all acknowledged.
func (s *set) write(m *member, prefix string) {
	s.t.Helper()
	for i := range count {
		s.patient(m, "PUT", cluster.Key("kv/"+prefix, i), fmt.Sprintf(`{"value":%q}`, prefix))
	}
}

// shows demands that a cluster has all records of a part of the story, or none.
func (s *set) shows(m *member, prefix string, want bool) {
	s.t.Helper()
	for i := range count {
		value, found, err := m.Get(context.Background(), cluster.Key("kv/"+prefix, i))
		if err != nil || found != want || found && value != prefix {
			s.t.Fatalf("%s at %s: %q, found %t, %v; want found %t", cluster.Key(prefix, i), m.Name, value, found, err, want)
		}
	}
}

// fenced waits until a primary says of itself that it takes no writes, and why, and demands that it takes none.
func (s *set) fenced(m *member, cause string) {
	s.t.Helper()
	cluster.Eventually(s.t, cluster.Deadline, m.Name+" is fenced", func() (bool, string) {
		a, err := m.Do(context.Background(), "GET", "sys/health", nil)
		if err != nil {
			return false, err.Error()
		}
		return a.Status == 429 && strings.Contains(string(a.Body), cause), fmt.Sprintf("%d %s", a.Status, a.Body)
	})
	if a := m.MustDo("PUT", "kv/refused", `{"value":"x"}`, 503); !strings.Contains(string(a.Body), "fenced") {
		s.t.Errorf("a write on a fenced primary is refused with %s", a.Body)
	}
	if st := m.MustStatus(s.kind); st.State != "fenced" {
		s.t.Errorf("the state of a fenced primary is %q", st.State)
	}
}

// end stops all members and looks at what they leave.
func (s *set) end() {
	s.t.Helper()
	for _, m := range s.all {
		m.Stop()
		m.MustCheck()
	}
}
