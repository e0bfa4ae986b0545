package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Do makes one call of the API with the node's root token.
func (n *Node) Do(ctx context.Context, method, path, body string) (int, []byte, error) {
	scheme := "http://"
	if n.keys != nil {
		scheme = "https://"
	}
	req, err := http.NewRequestWithContext(ctx, method, scheme+n.API+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if n.Token != "" {
		req.Header.Set("X-Vault-Token", n.Token)
	}
	answer, err := n.control.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s at %s: %w", method, path, n.Name, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 64<<20))
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s at %s: %w", method, path, n.Name, err)
	}
	return answer.StatusCode, text, nil
}

// Must is Do that must be answered with success; into, when not nil, takes the answer.
func (n *Node) Must(ctx context.Context, method, path, body string, into any) error {
	status, text, err := n.Do(ctx, method, path, body)
	if err != nil {
		return err
	}
	if status < 200 || status > 299 {
		return fmt.Errorf("%s %s at %s: status %d: %s", method, path, n.Name, status, text)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s %s at %s: %w: %.200s", method, path, n.Name, err, text)
	}
	return nil
}

// Init initialises an empty cluster and keeps its root token.
func (n *Node) Init(ctx context.Context) error {
	var answer struct {
		RootToken string `json:"root_token"`
	}
	if err := n.Must(ctx, http.MethodPut, "sys/init", `{"recovery_shares":1,"recovery_threshold":1}`, &answer); err != nil {
		return err
	}
	n.Token = answer.RootToken
	return Until(ctx, n.Name+" is unsealed", 5*time.Millisecond, func() (bool, error) {
		status, _, err := n.Do(ctx, http.MethodGet, "sys/health", "")
		return err == nil && status == http.StatusOK, nil
	})
}

// Policy is what the tokens of the load may do.
const Policy = `path "kv/*" { capabilities = ["create", "update", "read", "delete", "list"] }
path "secret/*" { capabilities = ["create", "update", "read", "delete", "list"] }
`

// Mounts enables what the load writes to, kv/ of version 1 and secret/ of version 2, and returns a token with a policy
// for them: clients in the field have no root tokens.
func (n *Node) Mounts(ctx context.Context) (string, error) {
	for path, body := range map[string]string{
		"sys/mounts/kv":     `{"type":"kv","options":{"version":"1"}}`,
		"sys/mounts/secret": `{"type":"kv","options":{"version":"2"}}`,
	} {
		if err := n.Must(ctx, http.MethodPost, path, body, nil); err != nil {
			return "", err
		}
	}
	policy, err := json.Marshal(map[string]string{"policy": Policy})
	if err != nil {
		return "", err
	}
	if err := n.Must(ctx, http.MethodPut, "sys/policies/acl/bench", string(policy), nil); err != nil {
		return "", err
	}
	var answer struct {
		Auth struct {
			ClientToken string `json:"client_token"`
		} `json:"auth"`
	}
	if err := n.Must(ctx, http.MethodPost, "auth/token/create", `{"policies":["bench"],"ttl":"24h"}`, &answer); err != nil {
		return "", err
	}
	return answer.Auth.ClientToken, nil
}

// Status is what the scenarios need of a set's status.
type Status struct {
	Mode               string   `json:"mode"`
	State              string   `json:"state"`
	LastWAL            uint64   `json:"last_wal"`
	LastDRWAL          uint64   `json:"last_dr_wal"`
	LastPerformanceWAL uint64   `json:"last_performance_wal"`
	LastRemoteWAL      uint64   `json:"last_remote_wal"`
	MerkleRoot         string   `json:"merkle_root"`
	VerifiedIndex      uint64   `json:"verified_index"`
	DiffBytes          uint64   `json:"diff_bytes"`
	SyncBytes          uint64   `json:"sync_bytes"`
	Reason             string   `json:"reason"`
	Resumes            any      `json:"resumes"`
	Secondaries        []Member `json:"secondaries"`
}

// Last is the index that a secondary of the set must reach.
func (s *Status) Last() uint64 { return max(s.LastPerformanceWAL, s.LastDRWAL) }

// Member is a secondary as its primary shows it.
type Member struct {
	NodeID           string  `json:"node_id"`
	ConnectionStatus string  `json:"connection_status"`
	LagEntries       float64 `json:"lag_entries"`
}

// Status asks for the state of the node's set.
func (n *Node) Status(ctx context.Context) (*Status, error) {
	var answer struct {
		Data Status `json:"data"`
	}
	if err := n.Must(ctx, http.MethodGet, "sys/replication/"+n.Set()+"/status", "", &answer); err != nil {
		return nil, err
	}
	return &answer.Data, nil
}

// EnablePrimary makes the node the primary of a set.
func (n *Node) EnablePrimary(ctx context.Context) error {
	body := `{}`
	if n.options.ClusterAddr != "" {
		body = fmt.Sprintf(`{"primary_cluster_addr":"https://%s"}`, n.options.ClusterAddr)
	}
	return n.Must(ctx, http.MethodPost, "sys/replication/"+n.Set()+"/primary/enable", body, nil)
}

// Enrol makes the node a secondary of a primary's set and returns as soon as it is accepted.
func (n *Node) Enrol(ctx context.Context, primary *Node) error {
	var answer struct {
		WrapInfo struct {
			Token string `json:"token"`
		} `json:"wrap_info"`
	}
	ask := fmt.Sprintf(`{"id":%q}`, n.Name)
	if err := primary.Must(ctx, http.MethodPost, "sys/replication/"+n.Set()+"/primary/secondary-token", ask, &answer); err != nil {
		return err
	}
	body, err := json.Marshal(map[string]string{"token": answer.WrapInfo.Token})
	if err != nil {
		return err
	}
	return n.Must(ctx, http.MethodPost, "sys/replication/"+n.Set()+"/secondary/enable", string(body), nil)
}

// WaitCaughtUp waits until the secondary has all that the primary has, verified: equal roots. The primary must not be
// written to meanwhile.
func (n *Node) WaitCaughtUp(ctx context.Context, primary *Node) error {
	return Until(ctx, n.Name+" has what "+primary.Name+" has", 5*time.Millisecond, func() (bool, error) { return n.CaughtUp(ctx, primary) })
}

// CaughtUp reports whether the secondary streams and has all that the primary has, with the same root.
func (n *Node) CaughtUp(ctx context.Context, primary *Node) (bool, error) {
	p, err := primary.Status(ctx)
	if err != nil {
		return false, err
	}
	s, err := n.Status(ctx)
	if err != nil {
		return false, nil // it may be between two stores
	}
	return s.State == "stream-wals" && s.LastRemoteWAL >= p.Last() && s.MerkleRoot == p.MerkleRoot && s.MerkleRoot != "", nil
}

// MintToken stops the node, makes a root token for the store that it has now, and starts it: how an operator gets into
// a cluster that became a secondary.
func (n *Node) MintToken(ctx context.Context) error {
	if err := n.Stop(); err != nil {
		return err
	}
	out, err := n.Command(ctx, "token", "create", "-offline", "-config="+n.ConfigFile())
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if words := strings.Fields(line); len(words) > 0 && len(words[len(words)-1]) >= 20 {
			n.Token = strings.Trim(words[len(words)-1], `",`)
			break
		}
	}
	return n.Start(ctx)
}

// Metric returns the value of a gauge of sys/metrics.
func (n *Node) Metric(ctx context.Context, name string) (float64, error) {
	var answer struct {
		Gauges []struct {
			Name  string
			Value float64
		}
	}
	if err := n.Must(ctx, http.MethodGet, "sys/metrics", "", &answer); err != nil {
		return 0, err
	}
	for _, g := range answer.Gauges {
		if g.Name == name {
			return g.Value, nil
		}
	}
	return 0, fmt.Errorf("sys/metrics of %s has no gauge %s", n.Name, name)
}
