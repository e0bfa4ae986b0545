package demo

import (
	"context"
	"time"
)

// statusLimit is how long the table waits for a cluster.
const statusLimit = 2 * time.Second

// status is what the demo reads of a set's replication status.
type status struct {
	Mode            string            `json:"mode"`
	State           string            `json:"state"`
	LastWAL         uint64            `json:"last_wal"`
	LastDRWAL       uint64            `json:"last_dr_wal"`
	LastPerfWAL     uint64            `json:"last_performance_wal"`
	LastRemoteWAL   uint64            `json:"last_remote_wal"`
	MerkleRoot      string            `json:"merkle_root"`
	LagEntries      uint64            `json:"lag_entries"`
	LagMilliseconds int64             `json:"lag_ms"`
	DiffBytes       uint64            `json:"diff_bytes"`
	SyncBytes       uint64            `json:"sync_bytes"`
	Resumes         map[string]uint64 `json:"resumes"` // answers of the primary, by kind
}

// last is a primary's newest index that concerns the set.
func (s *status) last(set string) uint64 {
	if set == "dr" {
		return s.LastDRWAL
	}
	return s.LastPerfWAL
}

func (n *node) status(ctx context.Context, set string) (*status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	var answer struct {
		Data status `json:"data"`
	}
	err := n.api.Do(ctx, "GET", "sys/replication/"+set+"/status", nil, &answer)
	return &answer.Data, err
}
