package cluster

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// Switchover is what `lockstep failover -format=json` prints.
type Switchover struct {
	Primary string         `json:"primary"`
	Index   uint64         `json:"index"`
	PauseMS int64          `json:"pause_ms"`
	Forced  bool           `json:"forced"`
	Undone  bool           `json:"undone"`
	Lost    map[string]any `json:"lost_writes"`
	Members []struct {
		Address  string `json:"address"`
		ID       string `json:"id"`
		Bytes    uint64 `json:"copied_bytes"`
		Verified uint64 `json:"verified_index"`
		Filter   string `json:"paths_filter"`
	} `json:"members"`
	LeftAlone []string `json:"left_alone"`
	Archives  []string `json:"archives"`
	Repeat    []string `json:"repeat"`
}

// Failover runs the command as an operator does, with tokens in its environment. words is what it said.
func Failover(t testing.TB, env []string, input string, args ...string) (r *Switchover, words string, err error) {
	t.Helper()
	cmd := exec.Command(Binary(t, false), append([]string{"failover", "-format=json"}, args...)...)
	cmd.Env = append(Environ(), env...)
	cmd.Stdin = strings.NewReader(input)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	r = new(Switchover)
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), r); err != nil {
			t.Fatalf("the command's result: %v\n%s", err, out.String())
		}
	}
	return r, said.String(), err
}

// OperationToken makes the batch token by which the DR secondaries of this primary are operated.
func (n *Node) OperationToken() string {
	n.t.Helper()
	n.MustDo("PUT", "sys/policies/acl/dr-operation", `{"policy":"path \"sys/replication/dr/secondary/*\" { capabilities = [\"read\", \"update\"] }"}`, 200, 204)
	n.MustDo("POST", "auth/token/roles/dr-operation", `{"allowed_policies":"dr-operation","orphan":true,"renewable":false,"token_type":"batch"}`, 200, 204)
	made, err := n.Client().Logical().Write("auth/token/create/dr-operation", map[string]any{"ttl": "24h"})
	if err != nil {
		n.t.Fatalf("a DR operation token of %s: %v", n.Name, err)
	}
	return made.Auth.ClientToken
}
