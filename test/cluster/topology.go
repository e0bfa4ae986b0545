package cluster

import (
	"fmt"
	"sync"
	"testing"
)

// Trio is what most tests need: a primary of both sets, a DR secondary and a
// performance secondary.
type Trio struct {
	Primary, DR, Performance *Node
	t                        testing.TB
}

// NewTrio starts three servers, enrols both secondaries and waits until they
// stream. The performance secondary has a token of its own. The primary has a
// KV v1 mount kv/ and a KV v2 mount secret/.
func NewTrio(t testing.TB, o Options) *Trio {
	t.Helper()
	tr := &Trio{New(t, "primary", o), New(t, "dr", o), New(t, "performance", o), t}
	for _, n := range tr.Nodes() {
		n.Start()
		n.Init()
	}
	tr.Primary.MustDo("POST", "sys/mounts/kv", `{"type":"kv","options":{"version":"1"}}`, 200, 204)
	tr.Primary.MustDo("POST", "sys/mounts/secret", `{"type":"kv","options":{"version":"2"}}`, 200, 204)
	for _, k := range []Kind{DR, Performance} {
		tr.Primary.EnablePrimary(k)
	}
	tr.DR.Join(tr.Primary, DR, "dr-1")
	tr.Performance.Join(tr.Primary, Performance, "perf-1")
	WaitConverged(t, Deadline, tr.Primary, tr.DR, DR)
	WaitConverged(t, Deadline, tr.Primary, tr.Performance, Performance)
	tr.Performance.MintToken()
	tr.WaitConverged()
	return tr
}

// Nodes returns the three nodes.
func (tr *Trio) Nodes() []*Node { return []*Node{tr.Primary, tr.DR, tr.Performance} }

// Secondary returns the secondary of a set.
func (tr *Trio) Secondary(kind Kind) *Node {
	if kind == DR {
		return tr.DR
	}
	return tr.Performance
}

// WaitConverged waits until both secondaries show what the primary has.
func (tr *Trio) WaitConverged() {
	tr.t.Helper()
	WaitConverged(tr.t, Deadline, tr.Primary, tr.DR, DR)
	WaitConverged(tr.t, Deadline, tr.Primary, tr.Performance, Performance)
}

// StartAll starts what does not run, all at once, and waits until they answer.
func (tr *Trio) StartAll() {
	tr.t.Helper()
	for _, n := range tr.Nodes() {
		if !n.Running() {
			n.Launch()
		}
	}
	for _, n := range tr.Nodes() {
		n.WaitReady()
	}
}

// KillAll ends all three by SIGKILL.
func (tr *Trio) KillAll() {
	for _, n := range tr.Nodes() {
		n.Kill()
	}
}

// CheckAll runs `lockstep check` on all three at once; none may run.
func (tr *Trio) CheckAll() error {
	errs := make([]error, len(tr.Nodes()))
	var all sync.WaitGroup
	for i, n := range tr.Nodes() {
		all.Go(func() {
			if out, err := n.Check(); err != nil {
				errs[i] = fmt.Errorf("lockstep check of %s: %w\n%s", n.Name, err, out)
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// EnablePrimary makes the node the primary of a new set.
func (n *Node) EnablePrimary(kind Kind) {
	n.t.Helper()
	n.MustDo("POST", "sys/replication/"+string(kind)+"/primary/enable", `{}`, 200)
}

// SecondaryToken asks the primary for an activation token.
func (n *Node) SecondaryToken(kind Kind, id string) string {
	n.t.Helper()
	secret, err := n.Client().Logical().Write("sys/replication/"+string(kind)+"/primary/secondary-token", map[string]any{"id": id})
	if err != nil {
		n.t.Fatalf("secondary-token %s at %s: %v", id, n.Name, err)
	}
	if secret == nil || secret.WrapInfo == nil || secret.WrapInfo.Token == "" {
		n.t.Fatalf("secondary-token %s at %s: the answer has no wrap_info: %+v", id, n.Name, secret)
	}
	return secret.WrapInfo.Token
}

// Join enrols the node as a secondary of primary and waits until it is one.
func (n *Node) Join(primary *Node, kind Kind, id string) {
	n.t.Helper()
	token := primary.SecondaryToken(kind, id)
	_, err := n.Client().Logical().Write("sys/replication/"+string(kind)+"/secondary/enable", map[string]any{"token": token})
	if err != nil {
		n.t.Fatalf("secondary/enable %s at %s: %v\n%s\n---- primary:\n%s", id, n.Name, err, n.LogTail(30), primary.LogTail(20))
	}
	n.Token = ""
	Eventually(n.t, Deadline, n.Name+" is a secondary", func() (bool, string) {
		s, err := n.Status(kind)
		if err != nil {
			return false, err.Error()
		}
		return s.Mode == "secondary", "mode " + s.Mode
	})
}
