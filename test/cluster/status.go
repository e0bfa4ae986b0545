package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"
)

// Status is what sys/replication/status says of one set. Raw holds every field.
type Status struct {
	Mode                string   `json:"mode"`
	State               string   `json:"state"`
	ClusterID           string   `json:"cluster_id"`
	KnownSecondaries    []string `json:"known_secondaries"`
	SecondaryID         string   `json:"secondary_id"`
	ConnectionState     string   `json:"connection_state"`
	LastWAL             uint64   `json:"last_wal"`
	LastDRWAL           uint64   `json:"last_dr_wal"`
	LastPerformanceWAL  uint64   `json:"last_performance_wal"`
	LastRemoteWAL       uint64   `json:"last_remote_wal"`
	MerkleRoot          string   `json:"merkle_root"`
	CorruptedMerkleTree bool     `json:"corrupted_merkle_tree"`
	Secondaries         []Peer   `json:"secondaries"`
	Primaries           []Peer   `json:"primaries"`

	Raw map[string]any `json:"-"`
}

// Peer is an element of secondaries or primaries.
type Peer struct {
	NodeID           string `json:"node_id"`
	ConnectionStatus string `json:"connection_status"`
	ClusterAddress   string `json:"cluster_address"`
	APIAddress       string `json:"api_address"`
}

// Last returns the last index of a primary that matters for the set.
func (s *Status) Last(kind Kind) uint64 {
	if kind == DR {
		return s.LastDRWAL
	}
	return s.LastPerformanceWAL
}

// Number returns a numeric field of the status, wherever it is nested, and
// whether there is one: names are unique.
func (s *Status) Number(name string) (float64, bool) { return findNumber(s.Raw, name) }

func findNumber(in any, name string) (float64, bool) {
	switch v := in.(type) {
	case map[string]any:
		if n, ok := v[name].(float64); ok {
			return n, true
		}
		for _, inner := range v {
			if n, ok := findNumber(inner, name); ok {
				return n, true
			}
		}
	case []any:
		for _, inner := range v {
			if n, ok := findNumber(inner, name); ok {
				return n, true
			}
		}
	}
	return 0, false
}

// Status asks the node about one set, with a limit of its own.
func (n *Node) Status(kind Kind) (*Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	answer, err := n.as(ctx, "", http.MethodGet, "sys/replication/"+string(kind)+"/status", nil) // needs no token, and may be asked while that changes
	if err != nil {
		return nil, err
	}
	if answer.Status != http.StatusOK {
		return nil, fmt.Errorf("status of %s: %d: %s", n.Name, answer.Status, answer.Body)
	}
	var envelope struct {
		Data json.RawMessage `json:"data"`
	}
	s := &Status{}
	if err := json.Unmarshal(answer.Body, &envelope); err != nil {
		return nil, fmt.Errorf("status of %s: %w: %s", n.Name, err, answer.Body)
	}
	if err := json.Unmarshal(envelope.Data, s); err != nil {
		return nil, fmt.Errorf("status of %s: %w: %s", n.Name, err, answer.Body)
	}
	if err := json.Unmarshal(envelope.Data, &s.Raw); err != nil {
		return nil, fmt.Errorf("status of %s: %w: %s", n.Name, err, answer.Body)
	}
	return s, nil
}

// MustStatus is Status that must be answered.
func (n *Node) MustStatus(kind Kind) *Status {
	n.t.Helper()
	s, err := n.Status(kind)
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

// WaitState waits until the secondary shows a state of its set.
func (n *Node) WaitState(kind Kind, state string) {
	n.t.Helper()
	Eventually(n.t, Deadline, fmt.Sprintf("%s shows %s for %s", n.Name, state, kind), func() (bool, string) {
		s, err := n.Status(kind)
		if err != nil {
			return false, err.Error()
		}
		return s.State == state, fmt.Sprintf("mode %s, state %s", s.Mode, s.State)
	})
}

// Converged reports whether secondary shows all that primary has of a set,
// with the same root; the primary must not be written to meanwhile.
func Converged(primary, secondary *Node, kind Kind) (bool, string) {
	p, err := primary.Status(kind)
	if err != nil {
		return false, err.Error()
	}
	s, err := secondary.Status(kind)
	if err != nil {
		return false, err.Error()
	}
	detail := fmt.Sprintf("primary: index %d root %s; %s: state %s, remote index %d, root %s",
		p.Last(kind), p.MerkleRoot, secondary.Name, s.State, s.LastRemoteWAL, s.MerkleRoot)
	return s.State == "stream-wals" && s.LastRemoteWAL >= p.Last(kind) && s.MerkleRoot == p.MerkleRoot && s.MerkleRoot != "", detail
}

// WaitConverged waits until Converged says so.
func WaitConverged(t testing.TB, limit time.Duration, primary, secondary *Node, kind Kind) {
	t.Helper()
	Eventually(t, limit, secondary.Name+" shows what "+primary.Name+" has", func() (bool, string) {
		return Converged(primary, secondary, kind)
	})
}
