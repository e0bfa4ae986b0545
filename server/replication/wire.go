package replication

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/merkle"
	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// WireVersion is the format version of hello, answer, batch and heartbeat.
const WireVersion = 1

// Limits on what a peer may make this cluster hold or do.
const (
	batchBytes   = 256 << 10 // a batch is sent when it has so many bytes, or at once when the log has no more
	partBytes    = 256 << 10 // a longer batch is cut into parts, so that a large value on a slow link still shows progress
	maxBatch     = 64 << 20  // bytes of one encoded batch: a frame may hold a full group and one entry of storage.MaxEntry
	maxReply     = 48 << 20  // bytes of one message of Records: a chunk, or one record of storage.MaxValue
	maxReigns    = 1 << 16   // reigns of a history
	maxOverrides = 1 << 10
	maxText      = 4 << 10 // bytes of a name, address or reason
	maxAddresses = 64

	// MaxReceive is the longest message that the cluster port takes: a forwarded request with the largest body.
	MaxReceive = storage.MaxValue + 2<<20
)

// errWire wraps what is wrong with a message: the peer is broken or of another kind, and the stream ends with it.
var errWire = errors.New("malformed message")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errWire, fmt.Sprintf(format, args...))
}

func encodePosition(p wal.Position) *pb.Position {
	if p.IsZero() {
		return &pb.Position{}
	}
	return &pb.Position{Fork: p.Fork[:], Index: p.Index}
}

func decodePosition(p *pb.Position) (wal.Position, error) {
	if p == nil || len(p.Fork) == 0 && p.Index == 0 {
		return wal.Position{}, nil
	}
	var fork wal.Fork
	if err := decodeFixed(fork[:], p.Fork, "fork"); err != nil {
		return wal.Position{}, err
	}
	return wal.Position{Fork: fork, Index: p.Index}, nil
}

func decodeFixed(dst, src []byte, what string) error {
	if len(src) != len(dst) {
		return malformed("%s has %d bytes, not %d", what, len(src), len(dst))
	}
	copy(dst, src)
	return nil
}

// decodeOptional is decodeFixed for a field that may be empty; given says whether it was there.
func decodeOptional(dst, src []byte, what string) (given bool, err error) {
	if len(src) == 0 {
		return false, nil
	}
	return true, decodeFixed(dst, src, what)
}

func checkText(what string, texts ...string) error {
	for _, t := range texts {
		if len(t) > maxText {
			return malformed("%s has %d bytes, more than %d", what, len(t), maxText)
		}
	}
	return nil
}

// head is what hello, answer, batch and heartbeat begin with.
type head struct {
	Lineage  wal.Lineage
	Ordinal  uint64
	Fork     wal.Fork
	Position wal.Position
	Length   uint64
}

func encodeHead(h head) *pb.Head {
	out := &pb.Head{
		Version:  WireVersion,
		Epoch:    &pb.Epoch{Ordinal: h.Ordinal},
		Position: encodePosition(h.Position),
		Length:   h.Length,
	}
	if h.Lineage != (wal.Lineage{}) {
		out.Lineage = h.Lineage[:]
	}
	if h.Fork != (wal.Fork{}) {
		out.Epoch.Fork = h.Fork[:]
	}
	return out
}

// decodeHead refuses a newer version by name, and flags that nothing here can undo.
func decodeHead(what string, in *pb.Head) (head, error) {
	var h head
	if in == nil {
		return h, malformed("%s without a head", what)
	}
	if in.Version > WireVersion {
		got := min(in.Version, 1<<16-1)
		return h, &wal.VersionError{What: what, Got: uint16(got), Have: WireVersion}
	}
	if in.Version == 0 {
		return h, malformed("%s without a version", what)
	}
	if in.Flags != 0 {
		return h, malformed("%s with flags %#x, of which this program knows none: compression and sealing are not agreed", what, in.Flags)
	}
	if _, err := decodeOptional(h.Lineage[:], in.Lineage, "lineage"); err != nil {
		return h, err
	}
	if in.Epoch != nil {
		h.Ordinal = in.Epoch.Ordinal
		if _, err := decodeOptional(h.Fork[:], in.Epoch.Fork, "fork"); err != nil {
			return h, err
		}
	}
	var err error
	h.Position, err = decodePosition(in.Position)
	h.Length = in.Length
	return h, err
}

func encodeHistory(reigns []engine.Reign) []*pb.Reign {
	out := make([]*pb.Reign, len(reigns))
	for i := range reigns {
		r := &reigns[i]
		p := &pb.Reign{
			Ordinal: r.Ordinal, Lineage: r.Lineage[:], Fork: r.Fork[:], Start: r.Start, ParentEnd: r.ParentEnd, Who: r.Who, When: r.When,
		}
		if r.Parent != (wal.Fork{}) {
			p.Parent = r.Parent[:]
		}
		for j := range r.Overrides {
			p.Overrides = append(p.Overrides, r.Overrides[j][:])
		}
		out[i] = p
	}
	return out
}

func decodeHistory(in []*pb.Reign) ([]engine.Reign, error) {
	if len(in) > maxReigns {
		return nil, malformed("a history of %d reigns, more than %d", len(in), maxReigns)
	}
	if len(in) == 0 {
		return nil, nil
	}
	out := make([]engine.Reign, len(in))
	for i, p := range in {
		if err := decodeReign(&out[i], p); err != nil {
			return nil, fmt.Errorf("reign %d: %w", i, err)
		}
	}
	return out, nil
}

func decodeReign(r *engine.Reign, p *pb.Reign) error {
	if err := checkText("name of a cluster", p.GetWho()); err != nil {
		return err
	}
	if err := decodeFixed(r.Lineage[:], p.GetLineage(), "lineage"); err != nil {
		return err
	}
	if err := decodeFixed(r.Fork[:], p.GetFork(), "fork"); err != nil {
		return err
	}
	if _, err := decodeOptional(r.Parent[:], p.GetParent(), "parent"); err != nil {
		return err
	}
	if len(p.GetOverrides()) > maxOverrides {
		return malformed("%d overridden forks, more than %d", len(p.GetOverrides()), maxOverrides)
	}
	for _, o := range p.GetOverrides() {
		var f wal.Fork
		if err := decodeFixed(f[:], o, "overridden fork"); err != nil {
			return err
		}
		r.Overrides = append(r.Overrides, f)
	}
	r.Ordinal, r.Start, r.ParentEnd, r.Who, r.When = p.GetOrdinal(), p.GetStart(), p.GetParentEnd(), p.GetWho(), p.GetWhen()
	return nil
}

// onHistory reports whether a place lies on a history that ends at last. The place before everything does.
func onHistory(history []engine.Reign, last uint64, p wal.Position) bool {
	if p.Index == 0 {
		return true
	}
	for i := range history {
		if history[i].Fork != p.Fork {
			continue
		}
		return p.Index >= history[i].Start && p.Index <= endOf(history, i, last)
	}
	return false
}

// span is [Low, High) of a keyspace; High empty: to the end.
type span struct {
	Keyspace  storage.KeyspaceID
	Low, High []byte
}

// contains reports whether a key is inside.
func (s *span) contains(key []byte) bool {
	return bytes.Compare(key, s.Low) >= 0 && (len(s.High) == 0 || bytes.Compare(key, s.High) < 0)
}

func encodeSpan(s *span) *pb.Range {
	return &pb.Range{Keyspace: s.Keyspace[:], Low: s.Low, High: s.High}
}

func decodeSpan(in *pb.Range) (span, error) {
	var s span
	if err := decodeFixed(s.Keyspace[:], in.GetKeyspace(), "keyspace"); err != nil {
		return s, err
	}
	s.Low, s.High = in.GetLow(), in.GetHigh()
	if len(s.Low) > storage.MaxKey || len(s.High) > storage.MaxKey {
		return s, malformed("a range bound of more than %d bytes", storage.MaxKey)
	}
	if len(s.High) > 0 && bytes.Compare(s.Low, s.High) >= 0 {
		return s, malformed("a range that ends before it begins")
	}
	return s, nil
}

func decodeTotal(count uint64, sum []byte) (merkle.Total, error) {
	t := merkle.Total{Count: count}
	return t, decodeFixed(t.Sum[:], sum, "digest")
}
