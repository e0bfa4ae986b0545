package replication

import (
	"context"
	"fmt"
	"time"

	"github.com/lockstepdb/lockstep/storage"
)

// ReindexOptions are the parameters of reindex.
type ReindexOptions struct {
	Diff      bool // look for the keys that are wrong first, and tell them
	Force     bool // what waits in memory goes to storage first, and the index is built from nothing but that
	SkipFlush bool // do not wait for what is in memory: writes wait less long, and a kill before the flush makes another reindex
}

// reindexProgress is a reindex under way, and what the last one with diff found.
type reindexProgress struct {
	asked       chan ReindexOptions // one slot: wakes runReindex
	Running     bool
	Stage       string
	Done, Total uint64
	Diff        *reindexDiff // replaced, never changed
}

// reindexDiff is what a reindex with diff found.
type reindexDiff struct {
	At    time.Time
	Total int
	Keys  []map[string]any // the first maxDiffKeys
}

// maxDiffKeys bounds how many wrong keys status and log name.
const maxDiffKeys = 100

// Stages of a reindex, as status prints them.
const (
	stageScanning = "scanning" // diff: every record is hashed, and what is stored is compared
	stageBuilding = "building"
)

// Reindex starts in the background; progress is in Status. While one runs, another call answers with a warning.
func (n *Node) Reindex(ctx context.Context, o ReindexOptions) (warning string, err error) {
	if o.Force && o.SkipFlush {
		return "", refuse("force and skip_flush exclude each other: force scans what is in storage, skip_flush leaves some of it out; give one of them")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.reindex.Running {
		return "The index is being rebuilt already: see reindex_building_progress in sys/replication/status.", nil
	}
	n.reindex.Running, n.reindex.Stage, n.reindex.Done, n.reindex.Total = true, stageBuilding, 0, 0
	if o.Diff {
		n.reindex.Stage = stageScanning
	}
	n.reindex.asked <- o // has room: only one runs
	return "The index is being rebuilt in the background: see reindex_building_progress in sys/replication/status.", nil
}

// runReindex does what Reindex asks for, until ctx ends. A reindex that the last life did not finish comes first; on a secondary it is
// the repair of damage that does it (DamageFound), unless it lacked only its flush.
func (n *Node) runReindex(ctx context.Context) {
	n.mu.Lock()
	unflushed := n.checked.Unflushed
	n.mu.Unlock()
	if unflushed || n.engine.ReindexInterrupted() && !n.isSecondary() {
		if _, err := n.Reindex(ctx, ReindexOptions{Force: true}); err != nil {
			n.log.Error("the interrupted reindex did not begin again", "error", err)
		}
	}
	for {
		var o ReindexOptions
		select {
		case <-ctx.Done():
			return
		case o = <-n.reindex.asked:
		}
		begin := n.now()
		wrong, err := n.rebuildIndex(ctx, o)
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
func (n *Node) rebuildIndex(ctx context.Context, o ReindexOptions) (wrong uint64, err error) {
	if o.Diff {
		if err := n.findWrong(ctx); err != nil {
			return 0, err
		}
	}
	if o.SkipFlush { // durable before anything is rebuilt in memory only
		if err := n.storeChecked(func(c *checkRecord) { c.Unflushed = true }); err != nil {
			return 0, err
		}
	}
	rebuild := n.engine.Reindex
	if o.SkipFlush {
		rebuild = n.engine.ReindexUnflushed
	}
	wrong, err = rebuild(ctx, func(_ string, done, total uint64) { n.progress(stageBuilding, done, total) })
	if err != nil {
		return wrong, err
	}
	if o.SkipFlush {
		if err := n.flushIndex(ctx); err != nil {
			return wrong, err
		}
	}
	return wrong, n.storeChecked(func(c *checkRecord) { c.Reindexed, c.Unflushed = n.now().Unix(), false })
}

func (n *Node) progress(stage string, done, total uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reindex.Stage, n.reindex.Done, n.reindex.Total = stage, done, total
}

// flushTime is how long a node that stops waits for the flush of a reindex with skip_flush.
const flushTime = 10 * time.Second

// flushIndex makes durable what was rebuilt, also when the node is told to stop meanwhile.
func (n *Node) flushIndex(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
	defer cancel()
	if err := n.engine.Checkpoint(ctx); err != nil {
		return fmt.Errorf("flushing the rebuilt index (the next start rebuilds it again): %w", err)
	}
	return nil
}

// findWrong hashes everything, and tells by log and status which keys are not what is stored with them.
func (n *Node) findWrong(ctx context.Context) error {
	report, err := n.engine.Check(ctx, func(_ string, done, total uint64) { n.progress(stageScanning, done, total) })
	if err != nil {
		return fmt.Errorf("looking for wrong keys: %w", err)
	}
	d := &reindexDiff{At: n.now(), Keys: []map[string]any{}}
	for _, x := range differences(report.Damage) {
		if d.Total++; d.Total > maxDiffKeys {
			continue
		}
		n.log.Warn("reindex found a difference", "keyspace", x.Keyspace.String(), "key", string(x.Key), "error", x.What)
		found := map[string]any{"keyspace": x.Keyspace.String(), "what": x.What}
		if len(x.Key) > 0 {
			found["key"] = string(x.Key)
		}
		d.Keys = append(d.Keys, found)
	}
	if d.Total > maxDiffKeys {
		n.log.Warn("more keys are wrong than are named", "total", d.Total)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reindex.Diff = d
	return nil
}

// differences are the wrong keys, and of a keyspace that has none the first thing that is wrong with it as a whole: sums are wrong, too, where a
// record is.
func differences(damage []storage.Damage) []storage.Damage {
	var keys, whole []storage.Damage
	named := map[storage.KeyspaceID]bool{}
	for _, x := range damage {
		if len(x.Key) > 0 {
			keys, named[x.Keyspace] = append(keys, x), true
		}
	}
	for _, x := range damage {
		if !named[x.Keyspace] {
			whole, named[x.Keyspace] = append(whole, x), true
		}
	}
	return append(keys, whole...)
}
