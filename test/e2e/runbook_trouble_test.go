package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// TestTheRunbooksOfTrouble does what the pages say about a secondary that is lost, does not come in line, or was away for too long, and about lost tokens.
func TestTheRunbooksOfTrouble(t *testing.T) {
	t.Parallel()
	clock := filepath.Join(t.TempDir(), "clock")
	o := cluster.Options{Clock: clock, Replication: []string{`checkpoint_interval = "500ms"`}}
	a, c := cluster.New(t, "a", o), cluster.New(t, "c", o)
	for _, n := range []*cluster.Node{a, c} {
		n.Launch()
	}
	for _, n := range []*cluster.Node{a, c} {
		n.WaitReady()
		n.Init()
	}
	a.MustDo("POST", "sys/mounts/kv", `{"type":"kv","options":{"version":"1"}}`, 200, 204)
	data := &oracle{acked: map[string]string{}}
	data.fill(t, a, "r", 200)
	a.EnablePrimary(cluster.DR)
	c.Join(a, cluster.DR, "c")
	b := &runbook{t: t, outer: t, ran: map[string]bool{}, policy: failoverPage(t).policy}
	operation := b.operationToken(a)
	p := newRunbookPage(t, []string{"VAULT_TOKEN=" + a.Token, "LOCKSTEP_DR_OPERATION_TOKEN=" + operation})
	ac := map[string]*cluster.Node{"A": a, "C": c}

	// The disk of c is gone; a new machine stands at its address.
	c.Kill()
	if err := os.RemoveAll(c.Data); err != nil {
		t.Fatal(err)
	}
	c.Start()
	c.Init()
	p.vars["C_TOKEN"] = c.Token
	p.run("lost-secondary", a, ac)
	enrolled(c, a, cluster.DR)
	cluster.WaitConverged(t, cluster.Deadline, a, c, cluster.DR)

	// A record of c rots.
	c.Stop()
	rotten := filepath.Join(c.Store(), "state.db")
	at, found := cluster.Offset(t, rotten, func(_ []string, key, value []byte) int {
		if string(key) != cluster.Key("r", 77) {
			return -1
		}
		return len(value) - 50
	})
	if !found {
		t.Fatalf("%s does not hold the record", rotten)
	}
	cluster.FlipByte(t, rotten, at, 0x40)
	c.Start()
	p.run("stuck-sync", c, ac)
	cluster.WaitConverged(t, cluster.Deadline, a, c, cluster.DR)
	c.Stop()
	c.MustCheck()

	// It stays away until its certificate has ended.
	if err := os.WriteFile(clock, []byte("80h"), 0o600); err != nil {
		t.Fatal(err)
	}
	data.fill(t, a, "meanwhile", 10)
	c.Start()
	cluster.Eventually(t, cluster.Deadline, "c says what is wrong", func() (bool, string) {
		s := c.MustStatus(cluster.DR)
		return strings.Contains(fmt.Sprint(s.Raw["reason"]), "certificate has ended"), fmt.Sprint(s.State, s.Raw["reason"])
	})
	p.run("certificate-expiry", a, ac)
	cluster.WaitConverged(t, cluster.Deadline, a, c, cluster.DR)
	if n := copied(c, cluster.DR); n != 0 {
		t.Errorf("%d bytes were copied to the secondary that got another certificate, want none", n)
	}

	p.run("token-lost", a, ac)
	cluster.WaitConverged(t, cluster.Deadline, a, c, cluster.DR)
	c.MustDo("POST", drPath+"secondary/merkle-check", fmt.Sprintf(`{%q:%q}`, opField, operation), 403) // the stolen one, which certificate-expiry used
	data.allOn(t, a, a.Token)
	t.Logf("%d commands of the pages were run", p.ran)
}
