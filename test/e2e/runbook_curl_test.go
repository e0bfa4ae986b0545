package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// curlBlocks are the blocks of docs/operations.md, section "DR by curl": what the others need, planned, unplanned, and the former primary's return.
func curlBlocks(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cluster.Root(), "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n### DR by curl\n")
	section, _, _ = strings.Cut(section, "\n### ")
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)\n```sh\n(.*?)```").FindAllStringSubmatch(section, -1) {
		blocks = append(blocks, m[1])
	}
	if !found || len(blocks) != 4 {
		t.Fatalf("docs/operations.md has %d blocks of curl, want 4", len(blocks))
	}
	return blocks
}

// TestTheCurlFormsOfFailover runs them as they stand there, by a shell.
func TestTheCurlFormsOfFailover(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"sh", "curl", "python3"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not here: %v", name, err)
		}
	}
	blocks := curlBlocks(t)
	a, b := cluster.New(t, "a", cluster.Options{}), cluster.New(t, "b", cluster.Options{})
	for _, n := range []*cluster.Node{a, b} {
		n.Start()
		n.Init()
	}
	a.MustDo("POST", "sys/mounts/kv", `{"type":"kv","options":{"version":"1"}}`, 200, 204)
	o := &oracle{acked: map[string]string{}}
	o.fill(t, a, "before", 50)
	a.EnablePrimary(cluster.DR)
	operation := a.OperationToken()
	b.Join(a, cluster.DR, "b")
	b.Token = a.Token
	run := func(block int, a, b *cluster.Node) {
		t.Helper()
		cmd := exec.Command("sh", "-e", "-c", blocks[0]+blocks[block])
		cmd.Env = append(cluster.Environ(), "A="+a.API, "B="+b.API, "VAULT_TOKEN="+a.Token, "LOCKSTEP_DR_OPERATION_TOKEN="+operation)
		var out, words bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &words
		if err := cmd.Run(); err != nil || strings.Contains(out.String(), `"errors"`) {
			t.Fatalf("block %d: %v\n%s%s\n%s\n%s", block, err, out.String(), words.String(), a.LogTail(5), b.LogTail(5))
		}
	}
	follows := func(s, p *cluster.Node) {
		t.Helper()
		cluster.WaitConverged(t, cluster.Deadline, p, s, cluster.DR)
		if m := p.MustStatus(cluster.DR).Mode; m != "primary" {
			t.Fatalf("%s is %s, want the primary", p.Name, m)
		}
		o.allOn(t, p, p.Token)
	}
	follows(b, a)
	run(1, a, b)
	follows(a, b)
	o.fill(t, b, "onb", 20)
	follows(a, b)
	run(1, b, a)
	follows(b, a)
	a.Kill()
	run(2, a, b)
	cluster.Eventually(t, cluster.Deadline, "the other is the primary", func() (bool, string) {
		s, err := b.Status(cluster.DR)
		return err == nil && s.Mode == "primary" && s.State == "running", fmt.Sprintf("%+v, %v", s, err)
	})
	o.fill(t, b, "alone", 20)
	a.Start()
	cluster.Eventually(t, cluster.Deadline, "the former primary is fenced", func() (bool, string) {
		s, err := a.Status(cluster.DR)
		return err == nil && s.State == "fenced", fmt.Sprintf("%+v, %v", s, err)
	})
	run(3, a, b)
	follows(a, b)
}
