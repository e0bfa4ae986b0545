package replication

import (
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// coverNow computes what a performance secondary takes, as of the end of the log, and completes the answer with it. When that is another coverage than the
// secondary has data of, its place does not do although it may be held: h then asks for a repair.
func (f *feeder) coverNow(h *hello, a *answer) error {
	if f.peer.Kind != Performance {
		return nil
	}
	v := f.n.engine.Snapshot()
	defer v.Release()
	c, err := f.n.coverer(v, ofLineage(a.History, a.Lineage), f.peer.ID, h.Coverage)
	if err != nil {
		return err
	}
	a.Coverage = c.coverage(nil)
	if h.Repair == "" {
		h.Repair = a.recovered(h)
	}
	f.coverer = c
	f.mu.Lock()
	f.kept = c.kept
	f.mu.Unlock()
	if len(c.kept) > 0 {
		f.log.Warn("a secondary was told to leave out mounts by a change that this cluster never had: it keeps to that until its paths filter is written again",
			"mounts", c.paths(c.kept))
	}
	return nil
}

// recovered says why a place that is held does not do, now that the coverage is another; empty: it does.
func (a *answer) recovered(h *hello) string {
	switch {
	case a.Coverage == nil:
		return ""
	case len(a.Coverage.Added) > 0:
		return "keyspaces were added to what this secondary may have"
	case h.Sync != nil && h.Coverage != nil && len(without(a.Coverage.Left, h.Coverage.Left)) > 0:
		return "keyspaces were taken from what this secondary may have while it was in a sync"
	}
	return ""
}

// follow takes a frame into account before it is cut. It returns what of it is sent, and, when it changes the coverage, what the secondary is told after it.
func (f *feeder) follow(fr *wal.Frame, totals []storage.KeyspaceTotal) (takes, *coverage, error) {
	c := f.coverer
	since := c.since
	before, err := c.follow(fr, totals)
	if err != nil {
		return nil, nil, fmt.Errorf("coverage after the frame at %d: %w", fr.First, err)
	}
	if before == c.now && since == c.since {
		return c.now.takes, nil, nil
	}
	told := c.coverage(before)
	if since == c.since && len(told.Added)+len(told.Removed) == 0 && slices.Equal(told.Left, before.left()) {
		return across(before, c.now), nil, nil // mounts came or went that nothing leaves out
	}
	f.mu.Lock()
	f.kept = c.kept
	f.mu.Unlock()
	f.log.Info("the secondary's coverage has changed", "index", told.Number, "left_out", len(told.Left), "added", len(told.Added), "removed", len(told.Removed))
	return across(before, c.now), told, nil
}

// takes is what the subscription covers now.
func (f *feeder) takes() takes {
	if f.coverer == nil {
		return wholeOf(f.peer.Kind)
	}
	return f.coverer.now.takes
}

func wholeOf(k Kind) takes {
	return func(_ storage.KeyspaceID, s storage.Scope) bool { return covers(k, s) }
}

// cutEntry cuts an entry to what is taken of it.
func (f *feeder) cutEntry(e []byte, takes takes) (cut []byte, any bool, err error) {
	strange := false
	cut, any, err = storage.CutEntry(e, func(id storage.KeyspaceID, s storage.Scope) bool {
		strange = strange || s == storage.Replicated && f.coverer.now.of(id) == unknown
		return takes(id, s)
	})
	if err != nil || !strange {
		return cut, any, err
	}
	drops, err := f.dropsOf(e)
	if err != nil || len(drops) == 0 {
		return cut, any, err
	}
	return storage.CutEntry(e, func(id storage.KeyspaceID, s storage.Scope) bool { return takes(id, s) || drops[id] })
}

// dropsOf lists what an entry drops of the keyspaces that no mount has any more. Whether they were covered cannot be told now; that they are gone may be, to a
// secondary that was not told before that they are left out.
func (f *feeder) dropsOf(b []byte) (map[storage.KeyspaceID]bool, error) {
	e, err := storage.DecodeEntry(b)
	if err != nil {
		return nil, err
	}
	var out map[storage.KeyspaceID]bool
	for i := range e.Blocks {
		block := &e.Blocks[i]
		if block.Scope != storage.Replicated || len(block.Changes) != 1 || block.Changes[0].Op != storage.Drop ||
			f.coverer.now.of(block.Keyspace) != unknown || f.coverer.told != nil && hasID(f.coverer.told.Left, block.Keyspace) {
			continue
		}
		if out == nil {
			out = map[storage.KeyspaceID]bool{}
		}
		out[block.Keyspace] = true
	}
	return out, nil
}

// coverCache remembers the covers of secondaries for the calls of their syncs, as long as no system record changes.
type coverCache struct {
	mu   sync.Mutex // guards what follows
	made map[string]cachedCover
}

type cachedCover struct {
	version uint64
	cover   *cover
}

// takes is what a secondary may ask for in a sync: by its filter as it is now, and no more than the stream beside the sync gives it.
func (s *service) takes(p peer) (takes, error) {
	if p.Kind != Performance {
		return wholeOf(p.Kind), nil
	}
	c, err := s.n.coverOf(p.ID)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	f := s.current[p.key()]
	s.mu.Unlock()
	if f == nil {
		return c.takes, nil
	}
	f.mu.Lock()
	kept := f.kept
	f.mu.Unlock()
	if len(kept) == 0 {
		return c.takes, nil
	}
	return func(id storage.KeyspaceID, sc storage.Scope) bool { return c.takes(id, sc) && !hasID(kept, id) }, nil
}

// mayAsk refuses a call for a keyspace that the secondary may not have. A secondary of ours asks for one only in the moment in which its filter changes:
// it says hello again then.
func (s *service) mayAsk(p peer, id storage.KeyspaceID, scope storage.Scope) error {
	takes, err := s.takes(p)
	if err != nil || takes(id, scope) {
		return err
	}
	s.log.Warn("refused a keyspace that the secondary may not have", "secondary", p.ID, "set", string(p.Kind), "keyspace", id.String())
	code := codes.FailedPrecondition
	if !covers(p.Kind, scope) {
		code = codes.PermissionDenied
	}
	return status.Errorf(code, "keyspace %s is not covered by the %s subscription of %q", id, p.Kind, p.ID)
}

// coverOf returns what a performance secondary's filter lets it have now.
func (n *Node) coverOf(id string) (*cover, error) {
	version := n.engine.SystemVersion() // read first: what is computed may be newer than it says, never older
	n.covers.mu.Lock()
	cached, ok := n.covers.made[id]
	n.covers.mu.Unlock()
	if ok && cached.version == version {
		return cached.cover, nil
	}
	v := n.engine.Snapshot()
	defer v.Release()
	filter, _, err := readFilter(v, id)
	if err != nil {
		return nil, err
	}
	own, err := n.holding()
	if err != nil {
		return nil, err
	}
	made := &cover{whole: true}
	if filter.active() || len(own.Left)+len(own.filling) > 0 {
		c, err := n.coverer(v, nil, id, nil)
		if err != nil {
			return nil, err
		}
		made = c.now
	}
	n.covers.mu.Lock()
	defer n.covers.mu.Unlock()
	if n.covers.made == nil || len(n.covers.made) > 2*maxSecondaries {
		n.covers.made = map[string]cachedCover{}
	}
	n.covers.made[id] = cachedCover{version, made}
	return made, nil
}

// ---- on the wire

func encodeIDs(ids []storage.KeyspaceID) []byte {
	var out []byte
	for _, id := range ids {
		out = append(out, id[:]...)
	}
	return out
}

// maxCovered bounds the keyspaces that a coverage names.
const maxCovered = 1 << 18

func decodeIDs(b []byte, what string) ([]storage.KeyspaceID, error) {
	if len(b)%16 != 0 || len(b)/16 > maxCovered {
		return nil, malformed("a coverage whose %s has %d bytes", what, len(b))
	}
	var out []storage.KeyspaceID
	for ; len(b) > 0; b = b[16:] {
		id := storage.KeyspaceID(b[:16])
		if n := len(out); n > 0 && string(out[n-1][:]) >= string(id[:]) {
			return nil, malformed("a coverage whose %s is out of order", what)
		}
		if id == storage.SystemReplicated || id == storage.SystemLocal {
			return nil, malformed("a coverage whose %s names a keyspace of the system", what)
		}
		out = append(out, id)
	}
	return out, nil
}

func encodeCoverage(c *coverage) *pb.Coverage {
	if c == nil {
		return nil
	}
	return &pb.Coverage{
		Number: c.Number, Since: encodePosition(c.Since), Ordinal: c.Ordinal,
		LeftOut: encodeIDs(c.Left), Added: encodeIDs(c.Added), Removed: encodeIDs(c.Removed),
		Unavailable: encodeIDs(c.Unavailable),
	}
}

func decodeCoverage(in *pb.Coverage) (*coverage, error) {
	if in == nil {
		return nil, nil
	}
	c := &coverage{Number: in.GetNumber(), Ordinal: in.GetOrdinal()}
	var err error
	if c.Since, err = decodePosition(in.GetSince()); err != nil {
		return nil, err
	}
	if c.Left, err = decodeIDs(in.GetLeftOut(), "list of what is left out"); err != nil {
		return nil, err
	}
	if c.Added, err = decodeIDs(in.GetAdded(), "list of what is added"); err != nil {
		return nil, err
	}
	if c.Removed, err = decodeIDs(in.GetRemoved(), "list of what is removed"); err != nil {
		return nil, err
	}
	c.Unavailable, err = decodeIDs(in.GetUnavailable(), "list of what is unavailable")
	return c, err
}
