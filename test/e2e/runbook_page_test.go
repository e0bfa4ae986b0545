package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// runbookPage runs the sh blocks of a page of docs/runbooks as they stand there, with A, B and C for clusters. What the page puts into a variable, or says to be
// printed, later commands have.
type runbookPage struct {
	t    *testing.T
	env  []string
	vars map[string]string
	ran  int
}

func newRunbookPage(t *testing.T, env []string) *runbookPage {
	p := &runbookPage{t: t, env: env, vars: map[string]string{}}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		p.vars[name] = value
	}
	return p
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
			t.Logf("%s: %s", name, line)
			c := &pageCommand{p: p, page: name, line: line, at: at, clusters: clusters, env: p.env}
			c.run()
		}
	}
	if commands == 0 {
		t.Fatalf("docs/runbooks/%s.md has no command", name)
	}
	p.ran += commands
}

// pageCommand is one line of a page.
type pageCommand struct {
	p        *runbookPage
	page     string
	line     string
	at       *cluster.Node
	clusters map[string]*cluster.Node
	env      []string
	token    string // given by VAULT_TOKEN before the command
}

var (
	captured  = regexp.MustCompile(`^([A-Z_]+)=\$\((.*)\)$`)
	archiveID = regexp.MustCompile(`\bdr-\d+-[0-9a-f]{8}\b`)
)

func (c *pageCommand) fatal(format string, args ...any) {
	c.p.t.Helper()
	c.p.t.Fatalf("docs/runbooks/%s.md: %q at %s: %s\n%s", c.page, c.line, c.at.Name, fmt.Sprintf(format, args...), c.at.LogTail(10))
}

func (c *pageCommand) run() {
	c.p.t.Helper()
	line, into := c.line, ""
	if m := captured.FindStringSubmatch(line); m != nil {
		into, line = m[1], m[2]
	}
	line, _, _ = strings.Cut(line, "  #")
	words := strings.Fields(os.Expand(line, func(name string) string {
		value := c.p.vars[name]
		if value == "" {
			c.fatal("nothing has said what %s is", name)
		}
		return value
	}))
	for i, w := range words {
		name, letter, _ := strings.Cut(w, "=")
		if n := c.clusters[letter]; n != nil {
			words[i] = name + "=" + n.API
			if name == "VAULT_ADDR" {
				c.at = n
			}
		}
	}
	for ; regexp.MustCompile(`^[A-Z_]+=`).MatchString(words[0]); words = words[1:] {
		c.env = append(c.env[:len(c.env):len(c.env)], words[0])
		if token, found := strings.CutPrefix(words[0], "VAULT_TOKEN="); found {
			c.token = token
		}
	}
	out := c.execute(words)
	if into != "" {
		if c.p.vars[into] = strings.TrimSpace(out); c.p.vars[into] == "" {
			c.fatal("it prints nothing")
		}
	}
}

// execute runs a command and returns what it prints.
func (c *pageCommand) execute(words []string) string {
	c.p.t.Helper()
	two := strings.Join(words[:min(2, len(words))], " ")
	switch {
	case two == "lockstep failover":
		return c.failover(words[2:])
	case two == "systemctl stop":
		c.at.Stop()
	case two == "systemctl start":
		c.at.Start()
	case two == "systemctl reload":
		c.reload()
	case words[0] == "lockstep":
		return c.lockstep(words[1:])
	case two == "vault read":
		s, err := c.client().Logical().Read(words[2])
		if err != nil || s == nil {
			c.fatal("%v", err)
		}
	case two == "vault write":
		return c.write(words[2:])
	case two == "vault token":
		return c.tokenCreate(words[2:])
	case two == "vault policy" && words[2] == "delete":
		if err := c.client().Sys().DeletePolicy(words[3]); err != nil {
			c.fatal("%v", err)
		}
	case two == "vault operator" && len(words) > 4 && words[2] == "generate-root":
		return c.ceremony(words[4:])
	default:
		c.fatal("this test cannot run it")
	}
	return ""
}

func (c *pageCommand) client() *api.Client {
	client := operator(c.at)
	if c.token != "" {
		client.SetToken(c.token)
	}
	return client
}

// reload is SIGHUP, until the server says that it has read its files again.
func (c *pageCommand) reload() {
	c.p.t.Helper()
	from := len(c.at.Log())
	if err := syscall.Kill(c.at.Pid(), syscall.SIGHUP); err != nil {
		c.fatal("%v", err)
	}
	cluster.Eventually(c.p.t, cluster.Deadline, c.at.Name+" has read its files again", func() (bool, string) {
		return strings.Contains(c.at.Log()[from:], "reloaded certificates"), c.at.LogTail(3)
	})
}

// failover answers the questions of the command: whichever of the two becomes the primary is confirmed.
func (c *pageCommand) failover(args []string) string {
	c.p.t.Helper()
	a, b := c.clusters["A"], c.clusters["B"]
	_, said, err := failover(c.p.t, c.env, b.Name+"\n"+a.Name+"\n", args...)
	if err != nil && strings.Contains(said, "not confirmed") { // a failback goes the other way
		_, _, err = failover(c.p.t, c.env, a.Name+"\n", args...)
	}
	if err != nil {
		c.fatal("%v", err)
	}
	return ""
}

func (c *pageCommand) lockstep(args []string) string {
	c.p.t.Helper()
	file := ""
	args = slices.DeleteFunc(slices.Clone(args), func(w string) bool {
		name, found := strings.CutPrefix(w, ">")
		if found {
			file = name
		}
		return found
	})
	for i, w := range args {
		if strings.HasPrefix(w, "-config=") {
			args[i] = "-config=" + c.at.Config
		}
	}
	cmd := exec.Command(cluster.Binary(c.p.t, false), args...)
	cmd.Env = append(append(cluster.Environ(), "VAULT_ADDR="+c.at.API, "VAULT_TOKEN="+c.at.Token), c.env...)
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		c.fatal("%v\n%s%s", err, out.String(), words.String())
	}
	switch {
	case file == "":
		c.p.t.Logf("%s%s", out.String(), words.String())
	case out.Len() == 0:
		c.fatal("%s is empty", file)
	}
	if id := archiveID.FindString(out.String()); id != "" && args[0] == "divergence" && args[1] == "list" {
		c.p.vars["ID"] = id
	}
	return out.String()
}

// write is `vault write` with its parameters; -field prints the wrapping token.
func (c *pageCommand) write(args []string) string {
	c.p.t.Helper()
	path, field, data := "", "", map[string]any{}
	for _, w := range args {
		name, value, valued := strings.Cut(w, "=")
		switch {
		case name == "-field":
			field = value
		case valued:
			data[name] = value
		case w != "-f":
			path = w
		}
	}
	s, err := c.client().Logical().Write(path, data)
	switch {
	case err != nil:
		c.fatal("%v", err)
	case field == "wrapping_token":
		return s.WrapInfo.Token
	case field != "":
		c.fatal("this test does not know the field %s", field)
	}
	return ""
}

func (c *pageCommand) tokenCreate(args []string) string {
	c.p.t.Helper()
	ask, role := &api.TokenCreateRequest{}, ""
	for _, w := range args {
		switch name, value, _ := strings.Cut(w, "="); name {
		case "-role":
			role = value
		case "-ttl":
			ask.TTL = value
		case "create", "-field":
		default:
			c.fatal("this test does not know %s", name)
		}
	}
	s, err := c.client().Auth().Token().CreateWithRole(ask, role)
	if err != nil {
		c.fatal("%v", err)
	}
	return s.Auth.ClientToken
}

// ceremony is a step of generate-root; the holders of the shares give theirs.
func (c *pageCommand) ceremony(args []string) string {
	c.p.t.Helper()
	switch name, value, _ := strings.Cut(args[0], "="); name {
	case "-init":
		attempt, err := c.client().Sys().GenerateDROperationTokenInit("", "")
		if err != nil {
			c.fatal("%v", err)
		}
		c.p.vars["NONCE"], c.p.vars["OTP"] = attempt.Nonce, attempt.OTP
	case "-nonce":
		for _, key := range c.at.Keys {
			attempt, err := c.client().Sys().GenerateDROperationTokenUpdate(key, value)
			if err != nil {
				c.fatal("%v", err)
			}
			if c.p.vars["ENCODED"] = attempt.EncodedToken; attempt.Complete {
				return ""
			}
		}
		c.fatal("the shares are not enough")
	case "-decode":
		token, err := decodeToken(value, c.p.vars["OTP"])
		if err != nil {
			c.fatal("%v", err)
		}
		return token
	default:
		c.fatal("this test does not know %s", name)
	}
	return ""
}
