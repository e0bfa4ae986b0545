package replication

import (
	"fmt"
	"slices"
	"time"

	"github.com/lockstepdb/lockstep/wal"
)

// maxAhead bounds the heartbeats whose places are still to be reached.
const maxAhead = 16

// compareAt compares roots where this cluster has come to, if a heartbeat told the primary's there, and forgets those before.
func (sub *subscription) compareAt(at wal.Position) {
	sub.mu.Lock()
	var here *heartbeat
	for len(sub.ahead) > 0 && sub.ahead[0].Position.Index <= at.Index {
		if sub.ahead[0].Position == at {
			here = sub.ahead[0]
		}
		sub.ahead = sub.ahead[1:]
	}
	sub.mu.Unlock()
	if here != nil {
		sub.compare(here, sub.l.n.now())
	}
}

// rooted reports whether a heartbeat told the primary's root at a place that is to be reached.
func (sub *subscription) rooted(at wal.Position) bool {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	return slices.ContainsFunc(sub.ahead, func(h *heartbeat) bool { return h.Position == at })
}

// compare compares the primary's root with this cluster's when both are at one place.
func (sub *subscription) compare(h *heartbeat, now time.Time) {
	sub.comparing.Lock()
	defer sub.comparing.Unlock()
	l := sub.l
	if h.Root == nil || sub.differs || l.e.SyncState() != nil || l.kind == Performance && !l.n.filled() {
		return
	}
	// A stream that was opened for a sync that has not begun yet: that roots differ is known, and told once only.
	if l.n.link[l.kind].get().Machine.Name != StateStreamWALs {
		return
	}
	if !sub.covering.TryLock() { // place and records are of two coverages; the next heartbeat is compared
		return
	}
	defer sub.covering.Unlock()
	before := l.place()
	totals, at := l.e.Totals()
	if l.kind == DR {
		before = at
	}
	// A cursor read before and after is the place of the totals between.
	if before != h.Position || l.place() != before || l.e.SyncState() != nil {
		return
	}
	root := rootOf(l.kind, l.n.compared(l.kind, totals))
	if root != *h.Root {
		sub.differs = true
		l.log.Error("the root differs from the primary's", "index", before.Index, "root", fmt.Sprintf("%x", root[:]), "primary_root", fmt.Sprintf("%x", h.Root[:]))
		sub.tell(Event{Kind: Diverged, Reason: fmt.Sprintf("at index %d this cluster has root %x, the primary %x", before.Index, root[:], h.Root[:])})
		return
	}
	sub.mu.Lock()
	fresh := sub.verified != before
	sub.verified, sub.root = before, root
	sub.mu.Unlock()
	l.n.link[l.kind].update(func(s *linkState) { s.Verified, s.VerifiedAt = before.Index, now })
	if fresh {
		l.progress.Store(true)
		sub.wakeAcks()
		sub.tell(Event{Kind: RootsEqual})
	}
}
