package replication

import (
	"context"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// ackedEvery is how many entries an acknowledged position moves before it is stored again: storing it is an entry of its own, which is acknowledged, too.
// After a restart the log is held from the stored one, that is longer than needed, within the limits.
const ackedEvery = 4096

func holdName(k Kind, id string) string { return string(k) + "/" + id }

// restoreHolds holds the log for known secondaries from what their records say. New does it: Engine.Run runs before Node.Run does, and its
// first checkpoint lets go of log that nobody holds.
func (n *Node) restoreHolds() {
	for _, k := range kinds {
		known, err := n.secondaries(k, false)
		if err != nil {
			n.log.Warn("the log is not held for secondaries from before the start", "set", string(k), "error", err)
		}
		for _, rec := range known {
			n.engine.Hold(holdName(k, rec.ID), n.acked(k, rec)+1)
		}
		n.holdFormer(k, n.set(k))
	}
	if in := n.underWay(); in != nil && in.Set != nil {
		n.holdFormer(in.Set.Kind, in.Set)
	}
	if err := n.holdTail(); err != nil {
		n.log.Warn("the log is not held for a rewind", "error", err)
	}
}

// holdTail keeps a DR secondary's log from where the set's other members were last known to be: should one of them be promoted that has less of it, this cluster
// finds back to the common point by its own log. It is held within the limits, like a primary's for its secondaries.
func (n *Node) holdTail() error {
	set := n.set(DR)
	if set == nil || set.Mode != Secondary {
		n.engine.Hold(holdOwnTail, 0)
		return nil
	}
	others, err := n.listSecondaries(DR, set, false)
	if err != nil {
		return err
	}
	var from uint64
	for _, rec := range others {
		if at := max(rec.Acked, rec.IssuedAt) + 1; rec.ID != set.Secondary && (from == 0 || at < from) {
			from = at
		}
	}
	n.engine.Hold(holdOwnTail, from)
	return nil
}

const holdOwnTail = string(DR) + "/ own tail" // no id has a blank

// keepHolds keeps the log for known secondaries, from what each acknowledged last, until ctx ends.
func (n *Node) keepHolds(ctx context.Context) {
	t := time.NewTicker(n.cfg.HeartbeatInterval)
	defer t.Stop()
	for {
		for _, k := range kinds {
			if err := n.hold(ctx, k); err != nil && ctx.Err() == nil {
				n.log.Warn("the log is not held anew for secondaries", "set", string(k), "error", err)
			}
		}
		if err := n.holdTail(); err != nil && ctx.Err() == nil {
			n.log.Warn("the log is not held for a rewind", "error", err)
		}
		if err := n.keepMembership(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("what this cluster is in the performance set is not kept for its DR secondaries", "error", err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) hold(ctx context.Context, k Kind) error {
	known, err := n.secondaries(k, false)
	if err != nil {
		return err
	}
	for _, rec := range known {
		at := n.acked(k, rec)
		n.engine.Hold(holdName(k, rec.ID), at+1)
		if at >= rec.Acked+ackedEvery && n.fenceOf(DR) == nil && !n.demoting(k) {
			if err := n.storeAcked(ctx, k, rec, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// acked returns the index up to which a secondary needs nothing any more: acknowledged now, or before the restart, or when its token was issued.
func (n *Node) acked(k Kind, rec *secondaryRecord) uint64 {
	p, _ := n.peers.get(k, rec.ID)
	if p.Placed || p.Acked.Index > 0 {
		return p.Acked.Index
	}
	return max(rec.Acked, rec.IssuedAt)
}

func (n *Node) storeAcked(ctx context.Context, k Kind, rec *secondaryRecord, at uint64) error {
	key := recordSecondary(k, rec.ID)
	_, err := n.engine.Do(ctx, &engine.Tx{
		Reads: []engine.Key{{Keyspace: storage.SystemLocal, Key: key}},
		Exec: func(r engine.Reader) ([]engine.Write, error) {
			now, err := getSecondary(r, key)
			if err != nil || now == nil || now.JTI != rec.JTI || now.State == secondaryRevoked {
				return nil, err
			}
			now.Acked = at
			return []engine.Write{put(string(key), mustJSON(now))}, nil
		},
	})
	return err
}
