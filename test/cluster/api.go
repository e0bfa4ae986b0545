package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// Kind is the kind of a replication set, as it stands in paths.
type Kind string

// The kinds of replication sets.
const (
	DR          Kind = "dr"
	Performance Kind = "performance"
)

// Client returns the stock Vault client for this node, with its token. It
// does not retry: what a server answers is what the test sees.
func (n *Node) Client() *api.Client {
	n.t.Helper()
	cfg := api.DefaultConfig()
	if cfg.Error != nil {
		n.t.Fatal(cfg.Error)
	}
	cfg.Address, cfg.MaxRetries, cfg.Timeout = n.API, 0, Deadline
	cfg.DisableRedirects = true
	c, err := api.NewClient(cfg)
	if err != nil {
		n.t.Fatalf("client for %s: %v", n.Name, err)
	}
	c.SetToken(n.Token)
	return c
}

// Init initialises an empty cluster and keeps its root token.
func (n *Node) Init() {
	n.t.Helper()
	ask := &api.InitRequest{RecoveryShares: 3, RecoveryThreshold: 2}
	if n.options.Shamir {
		ask = &api.InitRequest{SecretShares: 3, SecretThreshold: 2}
	}
	answer, err := n.Client().Sys().Init(ask)
	if err != nil {
		n.t.Fatalf("init %s: %v\n%s", n.Name, err, n.LogTail(20))
	}
	if answer.RootToken == "" {
		n.t.Fatalf("init %s: the answer holds no root token", n.Name)
	}
	n.Token = answer.RootToken
	if n.Keys = answer.RecoveryKeysB64; n.options.Shamir {
		n.Keys = answer.KeysB64
		n.Unseal(n.Keys...)
	}
}

// Unseal gives unseal keys until the node is unsealed, which it must be in the end.
func (n *Node) Unseal(keys ...string) {
	n.t.Helper()
	for _, key := range keys {
		status, err := n.Client().Sys().Unseal(key)
		if err != nil {
			n.t.Fatalf("unseal %s: %v\n%s", n.Name, err, n.LogTail(20))
		}
		if !status.Sealed {
			return
		}
	}
	n.t.Fatalf("%s is still sealed after %d keys", n.Name, len(keys))
}

// MintToken stops the node, makes a root token for the store it has now, and
// starts it: how an operator gets into a cluster that became a secondary.
func (n *Node) MintToken() {
	n.t.Helper()
	n.Stop()
	out := n.MustCommand("token", "create", "-offline", "-config="+n.Config)
	n.Token = lastWord(out)
	n.Start()
}

// lastWord finds a token in a command's output: the last word of its first line that holds one.
func lastWord(out string) string {
	for line := range strings.Lines(out) {
		if words := strings.Fields(line); len(words) > 0 && len(words[len(words)-1]) >= 20 {
			return strings.Trim(words[len(words)-1], `",`)
		}
	}
	return strings.TrimSpace(out)
}

// Command runs the lockstep binary with arguments, as a client of this node,
// and returns what it printed on standard output, and on standard error.
func (n *Node) Command(args ...string) (stdout, stderr string, err error) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, n.options.binary(n.t), args...)
	cmd.Env = append(Environ(), "VAULT_ADDR="+n.API, "VAULT_TOKEN="+n.Token)
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	err = cmd.Run()
	return out.String(), words.String(), err
}

// MustCommand is Command that must succeed.
func (n *Node) MustCommand(args ...string) string {
	n.t.Helper()
	out, words, err := n.Command(args...)
	if err != nil {
		n.t.Fatalf("lockstep %s: %v\n%s%s", strings.Join(args, " "), err, out, words)
	}
	return out
}

// Check runs `lockstep check` on the stopped node's data and returns its whole output.
func (n *Node) Check(args ...string) (string, error) {
	n.t.Helper()
	out, words, err := n.Command(append([]string{"check", "-config=" + n.Config}, args...)...)
	return out + words, err
}

// MustCheck demands that `lockstep check` finds nothing wrong.
func (n *Node) MustCheck(args ...string) {
	n.t.Helper()
	if out, err := n.Check(args...); err != nil {
		n.t.Fatalf("lockstep check of %s: %v\n%s\n%s", n.Name, err, out, n.LogTail(20))
	}
}

// Answer is a raw answer of a server.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Data returns a member of the answer's data as text; "" when it is not there.
func (a *Answer) Data(name string) string {
	var envelope struct {
		Data map[string]any `json:"data"`
	}
	if json.Unmarshal(a.Body, &envelope) != nil || envelope.Data[name] == nil {
		return ""
	}
	return fmt.Sprint(envelope.Data[name])
}

var transport = &http.Client{
	Timeout: Deadline,
	Transport: &http.Transport{
		MaxIdleConnsPerHost: 64,
		// Servers come and go: a connection of a dead one must not be found again.
		IdleConnTimeout: time.Second,
	},
}

// Do sends one request as it is, body included, with the node's token.
func (n *Node) Do(ctx context.Context, method, path string, body []byte, header ...string) (*Answer, error) {
	return n.as(ctx, n.Token, method, path, body, header...)
}

// as sends it with another token, or with none.
func (n *Node) as(ctx context.Context, token, method, path string, body []byte, header ...string) (*Answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, n.API+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	answer, err := transport.Do(req)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	return &Answer{answer.StatusCode, answer.Header, text}, nil
}

// MustDo is Do that must be answered with one of the codes given.
func (n *Node) MustDo(method, path, body string, want ...int) *Answer {
	n.t.Helper()
	answer, err := n.Do(context.Background(), method, path, []byte(body))
	if err != nil {
		n.t.Fatalf("%s %s at %s: %v\n%s", method, path, n.Name, err, n.LogTail(30))
	}
	for _, code := range want {
		if answer.Status == code {
			return answer
		}
	}
	n.t.Fatalf("%s %s at %s: status %d, want %v\n%s", method, path, n.Name, answer.Status, want, answer.Body)
	return nil
}

// Put writes one record of a KV v1 mount; nil means that the server acknowledged it.
func (n *Node) Put(ctx context.Context, path, value string) error {
	body, err := json.Marshal(map[string]string{"value": value})
	if err != nil {
		return err
	}
	answer, err := n.Do(ctx, http.MethodPut, path, body)
	if err != nil {
		return err
	}
	if answer.Status != http.StatusNoContent && answer.Status != http.StatusOK {
		return fmt.Errorf("PUT %s at %s: status %d: %s", path, n.Name, answer.Status, answer.Body)
	}
	return nil
}

// Get reads one record of a KV v1 mount; found is false when there is none.
func (n *Node) Get(ctx context.Context, path string) (value string, found bool, err error) {
	answer, err := n.Do(ctx, http.MethodGet, path, nil)
	switch {
	case err != nil:
		return "", false, err
	case answer.Status == http.StatusNotFound:
		return "", false, nil
	case answer.Status != http.StatusOK:
		return "", false, fmt.Errorf("GET %s at %s: status %d: %s", path, n.Name, answer.Status, answer.Body)
	}
	return answer.Data("value"), true, nil
}
