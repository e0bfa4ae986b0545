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
	Unflushed bool  `json:"unflushed,omitempty"` // a reindex with skip_flush is not on disk to the end: killed now, it begins again
}

func (n *Node) loadChecked() error {
	n.reindex.asked = make(chan ReindexOptions, 1)
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

// Recover ends the fences of a primary, which goes on under an epoch of its own. Without one it starts every secondary's life here again, from the
// connection on. Nothing is wiped.
func (n *Node) Recover(ctx context.Context) (warning string, err error) {
	n.admin.Lock()
	defer n.admin.Unlock()
	if in := n.underWay(); in != nil && in.Call == callRecover {
		return recoveredWarning, n.goOn(ctx, in.Kinds[0], in)
	}
	if n.isFenced() {
		return n.recoverFenced(ctx)
	}
	var again []string
	n.mu.Lock()
	for _, k := range kinds {
		if slot := n.lives.now[k]; slot != nil {
			slot.end(errRecover)
			again = append(again, string(k))
		}
	}
	n.mu.Unlock()
	if len(again) == 0 {
		return "This cluster follows no primary: there was nothing to start again.", nil
	}
	n.log.Info("recover: starting again", "sets", strings.Join(again, ", "))
	return "Replication (" + strings.Join(again, ", ") + ") is being started again.", nil
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
