package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// noteMaintenance keeps when this node's index was last rebuilt and last checked (node scope).
const noteMaintenance = "replication/maintenance"

// checkRecord is what is kept of the last check and the last reindex.
type checkRecord struct {
	Checked   int64 `json:"checked,omitempty"` // Unix seconds; 0: never
	Corrupted bool  `json:"corrupted,omitempty"`
	Reindexed int64 `json:"reindexed,omitempty"`
}

// reindexProgress is a reindex under way.
type reindexProgress struct {
	asked       chan struct{} // one slot: wakes runReindex
	Running     bool
	Stage       string
	Done, Total uint64
}

func (n *Node) loadChecked() error {
	n.reindex.asked = make(chan struct{}, 1)
	b := n.engine.NodeGet(noteMaintenance)
	if b == nil {
		return nil
	}
	if err := json.Unmarshal(b, &n.checked); err != nil {
		return fmt.Errorf("the stored record of the last check does not decode: %w", err)
	}
	return nil
}

func (n *Node) storeChecked(change func(*checkRecord)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.checked
	change(&c)
	if err := n.engine.NodeSet(map[string][]byte{noteMaintenance: mustJSON(&c)}); err != nil {
		return fmt.Errorf("storing when the index was checked: %w", err)
	}
	n.checked = c
	return nil
}

// Recover starts every secondary's life here again, from the connection on. Nothing is wiped.
func (n *Node) Recover(ctx context.Context) (warning string, err error) {
	n.admin.Lock()
	defer n.admin.Unlock()
	var again []string
	n.mu.Lock()
	for _, k := range kinds {
		if end := n.restart[k]; end != nil {
			end(errRecover)
			again = append(again, string(k))
		}
	}
	n.mu.Unlock()
	if len(again) == 0 {
		return "This cluster is no secondary: there was nothing to start again.", nil
	}
	n.log.Info("recover: starting again", "sets", strings.Join(again, ", "))
	return "Replication (" + strings.Join(again, ", ") + ") is being started again.", nil
}

// Reindex starts in the background; progress is in Status. While one runs, another call answers with a warning.
func (n *Node) Reindex(ctx context.Context) (warning string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.reindex.Running {
		return "The index is being rebuilt already: see reindex_building_progress in sys/replication/status.", nil
	}
	n.reindex.Running, n.reindex.Stage, n.reindex.Done, n.reindex.Total = true, "building", 0, 0
	n.reindex.asked <- struct{}{} // has room: only one runs
	return "The index is being rebuilt in the background: see reindex_building_progress in sys/replication/status.", nil
}

// runReindex does what Reindex asks for, until ctx ends. A reindex that the last life did not finish comes first; on a secondary it is
// the repair of damage that does it (DamageFound).
func (n *Node) runReindex(ctx context.Context) {
	if n.engine.ReindexInterrupted() && !n.isSecondary() {
		if _, err := n.Reindex(ctx); err != nil {
			n.log.Error("the interrupted reindex did not begin again", "error", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.reindex.asked:
		}
		begin := n.now()
		wrong, err := n.rebuildIndex(ctx)
		n.mu.Lock()
		n.reindex.Running = false
		n.mu.Unlock()
		if err != nil {
			if ctx.Err() == nil {
				n.log.Error("the index was not rebuilt", "error", err)
			}
			continue
		}
		n.log.Info("index rebuilt", "wrong", wrong, "took", n.now().Sub(begin).String())
	}
}

// rebuildIndex rebuilds the index from the records, with progress in Status, and returns how many stored digests were wrong.
func (n *Node) rebuildIndex(ctx context.Context) (wrong uint64, err error) {
	wrong, err = n.engine.Reindex(ctx, func(stage string, done, total uint64) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.reindex.Stage, n.reindex.Done, n.reindex.Total = stage, done, total
	})
	if err != nil {
		return wrong, err
	}
	return wrong, n.storeChecked(func(c *checkRecord) { c.Reindexed = n.now().Unix() })
}

// CorruptionReport is a check's result for the API.
type CorruptionReport struct {
	At     time.Time
	Totals []storage.KeyspaceTotal
	Report engine.CheckReport
}

// MerkleCheck hashes everything again and reports, changing nothing. On a secondary damage is repaired from the primary afterwards.
func (n *Node) MerkleCheck(ctx context.Context) (*CorruptionReport, error) {
	report, err := n.engine.Check(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("checking records and index: %w", err)
	}
	totals, _ := n.engine.Totals()
	r := &CorruptionReport{At: n.now(), Totals: totals, Report: report}
	damaged := len(report.Damage)+len(report.Log) > 0
	err = n.storeChecked(func(c *checkRecord) { c.Checked, c.Corrupted = r.At.Unix(), damaged })
	if damaged {
		n.log.Error("merkle-check found damage", "error", firstDamage(&report), "places", len(report.Damage)+len(report.Log))
	}
	return r, err
}

func firstDamage(r *engine.CheckReport) error {
	if len(r.Damage) > 0 {
		return &r.Damage[0]
	}
	if len(r.Log) > 0 {
		return fmt.Errorf("%s: frame at index %d: %s", r.Log[0].File, r.Log[0].Index, r.Log[0].What)
	}
	return errors.New("nothing")
}
