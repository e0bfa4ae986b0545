package replication

import (
	"fmt"

	"github.com/lockstepdb/lockstep/server/engine"
)

// hello says where this cluster is. cause asks for a sync although the place may be held; force, for another one than that which is under way.
func (l *life) hello(cause string, force bool) (*hello, error) {
	n, e := l.n, l.e
	set := n.set(l.kind)
	if set == nil {
		return nil, fmt.Errorf("this cluster is no %s secondary any more", l.kind)
	}
	seen, err := n.seen(l.kind)
	if err != nil {
		return nil, err
	}
	due, err := l.resyncDue()
	if err != nil {
		return nil, err
	}
	if due != "" {
		cause, force = orElse(cause, due), true
	}
	id := e.Identity()
	h := &hello{
		Kind: l.kind, Set: set.Set, ClusterID: id.ClusterID, ClusterName: id.ClusterName, Software: n.cfg.Version,
		APIAddr: n.cfg.APIAddr, ClusterAddr: n.cfg.ClusterAddr, History: e.History(), Seen: seen, Repair: orElse(cause, e.NeedsRepair()),
		Window: limits{}.orDefault(),
	}
	if len(h.History) > 0 {
		newest := h.History[len(h.History)-1]
		h.Ordinal, h.Fork = newest.Ordinal, newest.Fork
	}
	switch l.kind {
	case DR:
		s, err := n.successorAuthority()
		if err != nil {
			return nil, err
		}
		h.Authority = s.CA
		h.Lineage, h.Position, h.Chain = id.Lineage, e.Position(), e.Chain()
	default:
		h.Position = e.Cursor(engine.Performance)
		held, err := n.holding()
		if err != nil {
			return nil, err
		}
		h.Coverage = &coverage{Number: held.Number, Since: held.Since, Ordinal: held.Ordinal, Left: held.Left}
		if len(seen) > 0 {
			h.Lineage = seen[0].Lineage
		}
	}
	if s := l.syncing(); s != nil && !force {
		h.Sync, h.Position, h.Repair = s, s.SpoolEnd, ""
	}
	return h, nil
}

// acceptHistory takes a feeder's history into use: it must be the newest that this cluster has seen of the set. It is durable before anything of it is.
func (l *life) acceptHistory(h []engine.Reign) error {
	if err := l.see(h); err != nil {
		return err
	}
	if l.kind == DR && !sameHistory(l.e.History(), h) {
		if err := l.e.AdoptHistory(h); err != nil {
			return fmt.Errorf("adopting the primary's history: %w", err)
		}
	}
	return nil
}

// see makes durable that a feeder's history is the newest that this cluster has seen of the set, which it must be.
func (l *life) see(h []engine.Reign) error {
	if len(h) == 0 {
		return malformed("a feeder without a history")
	}
	seen, err := l.n.seen(l.kind)
	if err != nil {
		return err
	}
	if err := l.newest(seen, h); err != nil || sameHistory(seen, h) {
		return err
	}
	if err := l.n.setSeen(l.kind, h); err != nil || l.kind == DR {
		return err
	}
	// Whoever takes this cluster's place must know the forks of what it holds: the record comes before any entry of them.
	return l.n.keepMembership(l.ctx)
}

// newest refuses a history that is not the newest seen.
func (l *life) newest(seen, h []engine.Reign) error {
	if r := compareHistories(seen, h); len(seen) > 0 && r != historyKnown {
		return fmt.Errorf("the primary's history (ordinal %d) is not the newest that this cluster has seen of the set (ordinal %d): nothing is taken from it",
			h[len(h)-1].Ordinal, seen[len(seen)-1].Ordinal)
	}
	return nil
}

func sameHistory(a, b []engine.Reign) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Fork != b[i].Fork || a[i].Start != b[i].Start || a[i].Ordinal != b[i].Ordinal {
			return false
		}
	}
	return true
}
