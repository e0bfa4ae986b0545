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

// curlBlocks are the blocks of a section of docs/operations.md. Of "DR by curl": what the others need, planned, unplanned, and the former primary's return; of
// "Performance by curl": planned and unplanned.
func curlBlocks(t *testing.T, name string, want int) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cluster.Root(), "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n### "+name+"\n")
	section, _, _ = strings.Cut(section, "\n### ")
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)\n```sh\n(.*?)```").FindAllStringSubmatch(section, -1) {
		blocks = append(blocks, m[1])
	}
	if !found || len(blocks) != want {
		t.Fatalf("docs/operations.md, section %s, has %d blocks of curl, want %d", name, len(blocks), want)
	}
	return blocks
}

func needTools(t *testing.T) {
	t.Helper()
	for _, name := range []string{"sh", "curl", "python3"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not here: %v", name, err)
		}
	}
}

// TestTheCurlFormsOfPerformanceFailover moves the primary there and back, and promotes the other once it is gone.
func TestTheCurlFormsOfPerformanceFailover(t *testing.T) {
	t.Parallel()
	needTools(t)
	call, blocks := curlBlocks(t, "DR by curl", 4)[0], curlBlocks(t, "Performance by curl", 2)
	a, b := cluster.New(t, "a", cluster.Options{}), cluster.New(t, "b", cluster.Options{})
	for _, n := range []*cluster.Node{a, b} {
		n.Start()
		n.Init()
	}
	a.MustDo("POST", "sys/mounts/kv", `{"type":"kv","options":{"version":"1"}}`, 200, 204)
	o := &oracle{acked: map[string]string{}}
	o.fill(t, a, "before", 50)
	a.EnablePrimary(cluster.Performance)
	b.Join(a, cluster.Performance, "b")
	a.MustDo("PUT", "sys/policies/acl/operator", `{"policy":"path \"*\" { capabilities = [\"create\", \"read\", \"update\", \"list\", \"sudo\"] }"}`, 200, 204)
	a.MustDo("POST", "sys/auth/userpass", `{"type":"userpass"}`, 200, 204)
	a.MustDo("POST", "auth/userpass/users/ann", fmt.Sprintf(`{"password":%q,"policies":"operator"}`, passphrase), 200, 204)
	cluster.WaitConverged(t, cluster.Deadline, a, b, cluster.Performance)
	login, err := b.Client().Logical().Write("auth/userpass/login/ann", map[string]any{"password": passphrase})
	if err != nil {
		t.Fatalf("login at b: %v", err)
	}
	tokens := map[*cluster.Node]string{a: a.Token, b: login.Auth.ClientToken}
	run := func(block int, a, b *cluster.Node) {
		t.Helper()
		cmd := exec.Command("sh", "-e", "-c", call+blocks[block])
		cmd.Env = append(cluster.Environ(), "A="+a.API, "B="+b.API, "TOKEN_A="+tokens[a], "TOKEN_B="+tokens[b])
		var out, words bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &words
		if err := cmd.Run(); err != nil || strings.Contains(out.String(), `"errors"`) {
			t.Fatalf("block %d: %v\n%s%s\n%s\n%s", block, err, out.String(), words.String(), a.LogTail(5), b.LogTail(5))
		}
	}
	follows := func(s, p *cluster.Node) {
		t.Helper()
		cluster.WaitConverged(t, cluster.Deadline, p, s, cluster.Performance)
		if m := p.MustStatus(cluster.Performance).Mode; m != "primary" {
			t.Fatalf("%s is %s, want the primary", p.Name, m)
		}
		o.allOn(t, p, tokens[p])
	}
	follows(b, a)
	run(0, a, b)
	follows(a, b)
	run(0, b, a)
	follows(b, a)
	a.Kill()
	run(1, a, b)
	o.allOn(t, b, tokens[b])
}

// TestTheCurlFormsOfFailover runs them as they stand there, by a shell.
func TestTheCurlFormsOfFailover(t *testing.T) {
	t.Parallel()
	needTools(t)
	blocks := curlBlocks(t, "DR by curl", 4)
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
