package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// runbookPage runs the sh blocks of a page of docs/runbooks as they stand there, with A, B and C for clusters.
type runbookPage struct {
	t   *testing.T
	env []string
	ran int
}

func (p *runbookPage) run(name string, at *cluster.Node, clusters map[string]*cluster.Node) {
	t := p.t
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cluster.Root(), "docs", "runbooks", name+".md"))
	if err != nil {
		t.Fatal(err)
	}
	inside, commands := false, 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "```sh":
			inside = true
		case strings.HasPrefix(line, "```"):
			inside = false
		case inside && line != "":
			commands++
			p.command(name, at, clusters, line)
		}
	}
	if commands == 0 {
		t.Fatalf("docs/runbooks/%s.md has no command", name)
	}
	p.ran += commands
}

func (p *runbookPage) command(page string, at *cluster.Node, clusters map[string]*cluster.Node, line string) {
	t := p.t
	t.Helper()
	words := strings.Fields(line)
	for i, w := range words {
		name, letter, _ := strings.Cut(w, "=")
		if n := clusters[letter]; n != nil {
			words[i] = name + "=" + n.API
		}
	}
	t.Logf("%s: %s", page, line)
	switch {
	case strings.HasPrefix(line, "lockstep failover "):
		if _, said, err := failover(t, p.env, clusters["B"].Name+"\n"+clusters["A"].Name+"\n", words[2:]...); err != nil {
			to := clusters["A"] // a failback goes the other way
			if !strings.Contains(said, "not confirmed") {
				t.Fatalf("%s: %q: %v", page, line, err)
			}
			if _, _, err = failover(t, p.env, to.Name+"\n", words[2:]...); err != nil {
				t.Fatalf("%s: %q: %v", page, line, err)
			}
		}
	case strings.HasPrefix(line, "lockstep "):
		at.MustCommand(words[1:]...)
	case strings.HasPrefix(line, "vault read "):
		if s, err := at.Client().Logical().Read(words[2]); err != nil || s == nil {
			t.Fatalf("%s: %q at %s: %v", page, line, at.Name, err)
		}
	case strings.HasPrefix(line, "vault write -f "):
		if s, err := operator(at).Logical().Write(words[3], nil); err != nil || len(s.Warnings) == 0 {
			t.Fatalf("%s: %q at %s: %v", page, line, at.Name, err)
		}
	default:
		t.Fatalf("docs/runbooks/%s.md has a command that this test cannot run: %q", page, line)
	}
}

// TestTheRunbooksOfFailover does what the pages say, in an order in which one situation leads to the next.
func TestTheRunbooksOfFailover(t *testing.T) {
	s := newTrioOfDR(t)
	p := &runbookPage{t: t, env: s.env}
	abc := map[string]*cluster.Node{"A": s.a, "B": s.b, "C": s.c}
	state := func(n *cluster.Node, want, cause string) {
		t.Helper()
		cluster.Eventually(t, cluster.Deadline, n.Name+" is "+want+" "+cause, func() (bool, string) {
			st, err := n.Status(cluster.DR)
			if err != nil {
				return false, err.Error()
			}
			why, _ := st.Raw["fenced"].(map[string]any)
			return st.State == want && (cause == "" || why["cause"] == cause), fmt.Sprint(st.Mode, st.State, why)
		})
	}
	p.run("planned", s.a, abc)
	p.run("failback", s.a, abc)
	s.oracle.fill(t, s.a, "later", 100)
	cluster.WaitConverged(t, cluster.Deadline, s.a, s.b, cluster.DR)
	s.a.Kill()
	p.run("unplanned", s.b, abc)
	s.oracle.allOn(t, s.b, s.b.Token)
	s.a.Start()
	state(s.a, "fenced", "superseded")
	p.run("lost-primary", s.a, abc)
	cluster.WaitConverged(t, cluster.Deadline, s.b, s.a, cluster.DR)
	cluster.WaitConverged(t, cluster.Deadline, s.b, s.c, cluster.DR)

	// b is lost, and both others are promoted.
	s.b.Kill()
	for _, n := range []*cluster.Node{s.a, s.c} {
		if _, _, err := failover(t, s.env, "", "-from="+s.b.API, "-to="+n.API, "-force", "-yes"); err != nil {
			t.Fatal(err)
		}
	}
	s.b.Start()
	state(s.a, "fenced", "conflict")
	state(s.c, "fenced", "conflict")
	p.run("split-brain", s.a, map[string]*cluster.Node{"A": s.c, "B": s.a})
	cluster.WaitConverged(t, cluster.Deadline, s.a, s.c, cluster.DR)
	s.oracle.allOn(t, s.a, s.a.Token)
	t.Logf("%d commands of the pages were run", p.ran)
}
