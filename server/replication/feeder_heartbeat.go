package replication

import (
	"github.com/lockstepdb/lockstep/merkle"
	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// mark is an end of the log at which a batch is to end. Under load a secondary is never where the log ends when a heartbeat is made: it gets the root of this place
// when it comes there.
type mark struct {
	end    wal.Position
	totals []storage.KeyspaceTotal
}

func (f *feeder) heartbeat() error {
	totals, end := f.n.engine.Totals()
	f.markEnd(end, totals)
	// What is covered at the end of the log is known once all of it was cut; before, the secondary is not there either.
	if f.coverer == nil || f.at == end {
		return f.beat(end, f.root(totals))
	}
	return f.beat(end, nil)
}

// markEnd lets a batch end at an end of the log that is still to be sent. What was sent may be ahead of what is applied here: a mark behind it would let no batch
// begin any more.
func (f *feeder) markEnd(end wal.Position, totals []storage.KeyspaceTotal) {
	if f.mark == nil && f.at.Index < end.Index {
		f.mark = &mark{end, totals}
	}
}

// marked reports whether what was sent ends at the mark.
func (f *feeder) marked() bool { return f.mark != nil && f.at.Index >= f.mark.end.Index }

// passMark tells the root of the mark when what was sent ends there.
func (f *feeder) passMark() error {
	if !f.marked() {
		return nil
	}
	m := f.mark
	f.mark = nil
	if f.at != m.end {
		return nil
	}
	return f.beat(m.end, f.root(m.totals))
}

func (f *feeder) root(totals []storage.KeyspaceTotal) *merkle.RootHash {
	root := rootOfTaken(f.takes(), totals)
	return &root
}

// beat sends a heartbeat that tells an end of the log, and the root there when it is known.
func (f *feeder) beat(end wal.Position, root *merkle.RootHash) error {
	e := f.n.engine
	h := &heartbeat{head: f.head(end), Clock: f.n.now().UnixNano(), Floor: e.FirstIndex(), APIAddr: f.n.cfg.APIAddr, Root: root}
	if index, gated, _ := f.n.confirmedIndex(f.peer.Kind); gated {
		h.Confirmed = index
	}
	if addr := f.n.cfg.ClusterAddr; addr != "" {
		h.Addresses = []string{addr}
	}
	if set := f.n.set(f.peer.Kind); set != nil && set.ClusterAddr != "" {
		h.Addresses = []string{set.ClusterAddr}
	}
	h.Authorities, h.Failover = f.n.succession(f.peer.Kind)
	told := f.n.trustTold(f.peer.Kind, h.Authorities)
	h.Others = f.n.standings(f.peer)
	if last, _ := f.n.ending(f.peer.Kind); last != nil && f.at.Index >= last.Index {
		h.Last = true
		if h.Position != *last {
			h.Position, h.Root = *last, nil
		}
	}
	f.mu.Lock()
	f.told = told
	f.beats.sent(h.Clock)
	if h.Last && f.bye == 0 {
		f.bye = h.Clock
	}
	if len(f.roots) >= 16 {
		f.roots = append(f.roots[:0], f.roots[1:]...)
	}
	if h.Root != nil {
		f.roots = append(f.roots, sentRoot{h.Position.Index, *h.Root})
	}
	f.mu.Unlock()
	f.settle()
	return f.stream.Send(&pb.FromPrimary{Message: &pb.FromPrimary_Heartbeat{Heartbeat: encodeHeartbeat(h)}})
}
