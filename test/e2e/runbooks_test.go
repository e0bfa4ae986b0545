package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// TestRunbooks are the runbooks of docs/operations.md, step by step, on real servers, by the stock client. Each leaves the clusters as the next one finds
// them. An oracle outside the servers keeps every acknowledged write.
func TestRunbooks(t *testing.T) {
	t.Parallel()
	page := failoverPage(t)
	b := &runbook{t: t, outer: t, ran: map[string]bool{}, policy: page.policy}
	step := func(name string, run func()) bool {
		return t.Run(name, func(t *testing.T) {
			b.t = t
			defer func() { b.t = b.outer }()
			run()
		})
	}
	d := newDRSite(t)
	for _, s := range []struct {
		name string
		run  func(*runbook)
	}{
		{"setting up DR and performance", d.setUp},
		{"planned failover of DR", d.planned},
		{"failback", d.failback},
		{"unplanned promotion of a DR secondary", d.unplanned},
		{"nothing is damaged by DR failovers", d.end},
	} {
		if !step(s.name, func() { s.run(b) }) {
			return
		}
	}
	if !step("failover of performance", func() { performanceFailover(b) }) {
		return
	}
	step("docs/operations.md has the commands that were run here", func() { page.compare(b) })
}

// page is what docs/operations.md says about failover.
type page struct {
	policy   string // of DR operation tokens
	commands map[string]bool
}

func failoverPage(t *testing.T) *page {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cluster.Root(), "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Failover\n")
	if !found {
		t.Fatal("docs/operations.md has no section Failover")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	p := &page{commands: map[string]bool{}}
	fence := ""
	for line := range strings.Lines(section) {
		kind, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && fence == "":
			fence = "in " + kind
		case isFence:
			fence = ""
		case fence == "in hcl":
			p.policy += line
		case fence != "":
			line, _, _ = strings.Cut(line, "#")
			if _, command, found := strings.Cut(line, "vault "); found { // the cluster's name stands before it
				p.commands[normalise("vault "+command)] = true
			}
		}
	}
	return p
}

// compare demands that the page says what was run, and nothing that was not.
func (p *page) compare(b *runbook) {
	for _, c := range slices.Sorted(maps.Keys(p.commands)) {
		if !b.ran[c] {
			b.t.Errorf("docs/operations.md says %q, which no runbook of this test runs", c)
		}
	}
	for _, c := range slices.Sorted(maps.Keys(b.ran)) {
		if !p.commands[c] {
			b.t.Errorf("a runbook runs %q, which docs/operations.md does not say", c)
		}
	}
}
