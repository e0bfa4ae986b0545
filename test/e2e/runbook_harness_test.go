package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// runbook drives servers with the stock client as an operator does with the command line, prints what it does, and remembers it: the commands must be
// those of docs/operations.md.
type runbook struct {
	t      *testing.T      // of the present step
	outer  *testing.T      // of all of them: servers live as long
	ran    map[string]bool // by normalise
	policy string          // of DR operation tokens
	began  time.Time       // when the last command that changes something was given
}

// operator is the stock client as HashiCorp's own drivers set it: it repeats what is answered 503 while a role changes.
func operator(n *cluster.Node) *api.Client {
	c := n.Client()
	c.SetMaxRetries(10)
	c.SetMinRetryWait(20 * time.Millisecond)
	c.SetMaxRetryWait(time.Second)
	return c
}

// did notes a command that was run.
func (b *runbook) did(n *cluster.Node, command string) {
	b.t.Helper()
	b.ran[normalise(command)] = true
	b.t.Logf("%-12s %s", n.Name, command)
}

// write is `vault write`; -f when there is nothing to say.
func (b *runbook) write(n *cluster.Node, path string, data map[string]any) *api.Secret {
	b.t.Helper()
	words := []string{"vault write", path}
	for _, k := range slices.Sorted(maps.Keys(data)) {
		words = append(words, k+"=…")
	}
	b.did(n, strings.Join(words, " "))
	b.began = time.Now()
	secret, err := operator(n).Logical().Write(path, data)
	if err != nil {
		b.t.Fatalf("%s at %s: %v\n%s", path, n.Name, err, n.LogTail(30))
	}
	return secret
}

// change is a write that changes a role: it is answered with a warning, never with an empty body, which automation takes for a failure.
func (b *runbook) change(n *cluster.Node, path string, data map[string]any) {
	b.t.Helper()
	if secret := b.write(n, path, data); secret == nil || len(secret.Warnings) == 0 {
		b.t.Errorf("%s at %s is answered %+v, want a warning", path, n.Name, secret)
	}
}

// activation asks a primary for an activation token.
func (b *runbook) activation(n *cluster.Node, kind cluster.Kind, id string) string {
	b.t.Helper()
	secret := b.write(n, "sys/replication/"+string(kind)+"/primary/secondary-token", map[string]any{"id": id, "ttl": "30m"})
	if secret == nil || secret.WrapInfo == nil || secret.WrapInfo.Token == "" {
		b.t.Fatalf("secondary-token %s at %s: the answer has no wrap_info: %+v", id, n.Name, secret)
	}
	return secret.WrapInfo.Token
}

// ceremony makes a DR operation token with the shares of the primary's keys.
func (b *runbook) ceremony(n *cluster.Node, c *api.Client, keys []string) string {
	b.t.Helper()
	b.did(n, "vault operator generate-root -dr-token -init")
	attempt, err := c.Sys().GenerateDROperationTokenInit("", "")
	if err != nil {
		b.t.Fatalf("generate-operation-token at %s: %v", n.Name, err)
	}
	otp, nonce := attempt.OTP, attempt.Nonce
	for _, key := range keys {
		b.did(n, "vault operator generate-root -dr-token -nonce=…")
		if attempt, err = c.Sys().GenerateDROperationTokenUpdate(key, nonce); err != nil {
			b.t.Fatalf("a share for the operation token of %s: %v", n.Name, err)
		}
		if attempt.Complete {
			break
		}
	}
	token, err := decodeToken(attempt.EncodedToken, otp)
	if err != nil || !attempt.Complete || len(otp) != attempt.OTPLength {
		b.t.Fatalf("the ceremony at %s ends with %+v, %v", n.Name, attempt, err)
	}
	b.did(n, "vault operator generate-root -dr-token -decode=… -otp=…")
	return token
}

// decodeToken is `vault operator generate-root -decode`.
func decodeToken(encoded, otp string) (string, error) {
	token, err := base64.RawStdEncoding.DecodeString(encoded)
	if err != nil || len(token) != len(otp) {
		return "", fmt.Errorf("%q is no token encoded with a password of %d bytes: %w", encoded, len(otp), err)
	}
	for i := range token {
		token[i] ^= otp[i]
	}
	return string(token), nil
}

// mode waits until a set of a cluster shows a mode and a state.
func (b *runbook) mode(n *cluster.Node, kind cluster.Kind, mode, state string) {
	b.t.Helper()
	cluster.Eventually(b.t, cluster.Deadline, fmt.Sprintf("%s is a %s of %s, %s", n.Name, mode, kind, state), func() (bool, string) {
		s, err := n.Status(kind)
		if err != nil {
			return false, err.Error()
		}
		return s.Mode == mode && s.State == state, fmt.Sprintf("mode %s, state %s, %v", s.Mode, s.State, s.Raw["reason"])
	})
	b.t.Logf("%-12s … shows mode %s, state %s, %v after the last command", n.Name, mode, state, time.Since(b.began).Round(time.Millisecond))
}

// follows waits for what HashiCorp's replication drivers poll for: roots, state, indexes, addresses and links of both sides. Nobody may write meanwhile.
func (b *runbook) follows(s, p *cluster.Node, kind cluster.Kind, id string) {
	b.t.Helper()
	cluster.Eventually(b.t, cluster.Deadline, s.Name+" follows "+p.Name, func() (bool, string) { return driverConditions(p, s, kind, id) })
	b.did(s, "vault read sys/replication/"+string(kind)+"/status")
	b.t.Logf("%-12s … follows %s (%s), %v after the last command", s.Name, p.Name, kind, time.Since(b.began).Round(time.Millisecond))
}

// driverConditions reports the first condition that does not hold.
func driverConditions(p, s *cluster.Node, kind cluster.Kind, id string) (bool, string) {
	leader, err := p.Client().Sys().Leader()
	if err != nil {
		return false, "leader: " + err.Error()
	}
	primary, err := typed(p, kind)
	if err != nil {
		return false, err.Error()
	}
	secondary, err := typed(s, kind)
	if err != nil {
		return false, err.Error()
	}
	ours, err := s.Status(kind)
	if err != nil {
		return false, err.Error()
	}
	root, err := rootFor(p, kind, id)
	if err != nil {
		return false, err.Error()
	}
	last := primary.LastDRWAL
	if kind == cluster.Performance {
		last = primary.LastPerformanceWAL
	}
	connected := func(peers []api.ClusterInfo, id string) bool {
		return slices.ContainsFunc(peers, func(c api.ClusterInfo) bool {
			return c.ConnectionStatus == "connected" && (id == "" || c.NodeID == id)
		})
	}
	for _, c := range []struct {
		what string
		ok   bool
	}{
		{"the primary runs", primary.Mode == "primary" && primary.State == "running"},
		{"the secondary is one, with its id", secondary.Mode == "secondary" && secondary.SecondaryID == id},
		{"it is of the same set", secondary.ClusterID == primary.ClusterID && primary.ClusterID != ""},
		{"stream-wals", secondary.State == "stream-wals"},
		{"the link is ready", ours.ConnectionState == "ready"},
		{"last_remote_wal is reached", secondary.LastRemoteWAL >= last && last > 0},
		{"roots are equal", secondary.MerkleRoot == root && root != ""},
		{"the primary's cluster address is known", leader.LeaderClusterAddress != "" && slices.Contains(secondary.KnownPrimaryClusterAddrs, leader.LeaderClusterAddress)},
		{"the primary is connected, seen from the secondary", connected(secondary.Primaries, "")},
		{"the id is known to the primary", slices.Contains(primary.KnownSecondaries, id)},
		{"the secondary is connected, seen from the primary", connected(primary.Secondaries, id)},
	} {
		if !c.ok {
			return false, fmt.Sprintf("not %q: leader %s, primary %+v, secondary %+v, link %s, reason %v",
				c.what, leader.LeaderClusterAddress, primary, secondary, ours.ConnectionState, ours.Raw["reason"])
		}
	}
	return true, ""
}

// rootFor is the root that a secondary must have: the set's, or with a paths filter that of what this secondary may have.
func rootFor(p *cluster.Node, kind cluster.Kind, id string) (string, error) {
	s, err := p.Status(kind)
	if err != nil {
		return "", err
	}
	peers, _ := s.Raw["secondaries"].([]any)
	for _, peer := range peers {
		one, _ := peer.(map[string]any)
		if filtered, _ := one["filtered_mounts"].([]any); one["node_id"] == id && len(filtered) > 0 {
			root, _ := one["merkle_root"].(string)
			return root, nil
		}
	}
	return s.MerkleRoot, nil
}

// typed asks for a set's status as the stock client decodes it.
func typed(n *cluster.Node, kind cluster.Kind) (*api.ReplicationStatusGenericResponse, error) {
	if kind == cluster.DR {
		return n.Client().Sys().ReplicationDRStatusWithContext(context.Background())
	}
	return n.Client().Sys().ReplicationPerformanceStatusWithContext(context.Background())
}

// copied returns the bytes that comparing and fetching have cost a secondary since its server opened its store in the present role.
func copied(n *cluster.Node, kind cluster.Kind) int {
	s := n.MustStatus(kind)
	diff, _ := s.Number("diff_bytes")
	sync, _ := s.Number("sync_bytes")
	return int(diff + sync)
}

// cost demands that a secondary came in line without a copy of what it has: for less than a tenth of the data, which a test of a few thousand records is.
func (b *runbook) cost(n *cluster.Node, kind cluster.Kind, before, data int) {
	b.t.Helper()
	now := copied(n, kind)
	if now < before { // the store was opened in another role since
		before = 0
	}
	s := n.MustStatus(kind)
	b.t.Logf("%-12s … came in line for %d bytes of diff and sync; the data are %d bytes; resumes %v, last diff %v",
		n.Name, now-before, data, s.Raw["resumes"], s.Raw["last_diff_reason"])
	if now-before >= data/10 {
		b.t.Errorf("%s came in line for %d bytes of diff and sync, of %d bytes of data: it copied what is there", n.Name, now-before, data)
	}
}

// normalise is a command without what differs from one time to the next: options about output, and values.
func normalise(command string) string {
	var words, params []string
	for _, w := range strings.Fields(command) {
		name, _, valued := strings.Cut(w, "=")
		switch {
		case w == "-f" || name == "-field" || name == "-format":
		case valued:
			params = append(params, name+"=")
		default:
			words = append(words, w)
		}
	}
	slices.Sort(params)
	return strings.Join(append(words, params...), " ")
}
