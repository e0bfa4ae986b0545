package replication

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

func encodeFrame(f *wal.Frame) *pb.Frame {
	return &pb.Frame{Header: f.EncodeHeader(), Entries: f.Entries}
}

// decodeFrame returns a frame whose checksum and chain hash are right for what it holds.
func decodeFrame(p *pb.Frame) (*wal.Frame, error) {
	h, err := wal.DecodeHeader(p.GetHeader())
	if err != nil {
		return nil, fmt.Errorf("frame: %w", err)
	}
	if uint64(h.Count) != uint64(len(p.GetEntries())) || h.Count == 0 {
		return nil, malformed("frame at index %d says %d entries and brings %d", h.First, h.Count, len(p.GetEntries()))
	}
	var length uint64
	for _, e := range p.GetEntries() {
		if len(e) > storage.MaxEntry {
			return nil, malformed("frame at index %d has an entry of %d bytes, more than %d", h.First, len(e), storage.MaxEntry)
		}
		length += uint64(len(e))
	}
	if length != h.Length {
		return nil, malformed("frame at index %d says %d bytes and brings %d", h.First, h.Length, length)
	}
	f := &wal.Frame{Header: h, Entries: p.GetEntries()}
	if err := f.Verify(); err != nil {
		return nil, fmt.Errorf("frame at index %d: %w", h.First, err)
	}
	return f, nil
}

// batch is a decoded Batch. Frames follow one another; cut entries are in order and inside (Follows, End].
type batch struct {
	Follows  wal.Position
	End      wal.Position
	Frames   []*wal.Frame
	Cut      []engine.CutEntry
	Totals   []storage.KeyspaceTotal
	History  []engine.Reign
	Coverage *coverage // performance: in force after it; nil: the one before
	Newest   time.Time // commit time of the last cut entry; zero without one
	Bytes    int       // of entries
	Entries  int
}

// decodeBatch checks everything about a batch that can be checked without knowing what came before it.
func decodeBatch(k Kind, in *pb.Batch) (*batch, error) {
	h, err := decodeHead("batch", in.GetHead())
	if err != nil {
		return nil, err
	}
	b := &batch{End: h.Position}
	if b.Follows, err = decodePosition(in.GetFollows()); err != nil {
		return nil, err
	}
	if b.End.Index <= b.Follows.Index {
		return nil, malformed("a batch that ends at index %d and follows %d", b.End.Index, b.Follows.Index)
	}
	if b.History, err = decodeHistory(in.GetHistory()); err != nil {
		return nil, err
	}
	switch k {
	case DR:
		err = b.decodeFrames(in)
	default:
		err = b.decodeCut(in)
	}
	if err != nil {
		return nil, err
	}
	if uint64(b.Bytes) != h.Length {
		return nil, malformed("a batch that says %d bytes and brings %d", h.Length, b.Bytes)
	}
	return b, nil
}

func (b *batch) decodeFrames(in *pb.Batch) error {
	if len(in.GetEntries()) != 0 || len(in.GetTotals()) != 0 || in.GetCoverage() != nil {
		return malformed("cut entries for a subscription that takes whole frames")
	}
	next := b.Follows.Index + 1
	for i, p := range in.GetFrames() {
		f, err := decodeFrame(p)
		if err != nil {
			return err
		}
		if f.First != next {
			return malformed("a frame at index %d where %d must follow", f.First, next)
		}
		if i > 0 && f.Prev != b.Frames[i-1].Chain {
			return malformed("the frame at index %d does not continue the chain of the one before", f.First)
		}
		next = f.Last() + 1
		b.Frames = append(b.Frames, f)
		b.Bytes += int(f.Length)
		b.Entries += int(f.Count)
	}
	if len(b.Frames) == 0 || b.Frames[len(b.Frames)-1].Position() != b.End {
		return malformed("a batch whose frames do not end at its position, index %d", b.End.Index)
	}
	return nil
}

func (b *batch) decodeCut(in *pb.Batch) error {
	if len(in.GetFrames()) != 0 {
		return malformed("whole frames for a subscription that takes only what it covers")
	}
	var err error
	if b.Coverage, err = decodeCoverage(in.GetCoverage()); err != nil {
		return err
	}
	last := b.Follows.Index
	for _, c := range in.GetEntries() {
		at, err := decodePosition(c.GetAt())
		if err != nil {
			return err
		}
		if at.Index <= last || at.Index > b.End.Index {
			return malformed("an entry at index %d outside its batch or out of order", at.Index)
		}
		e, err := storage.DecodeEntry(c.GetEntry())
		if err != nil {
			return fmt.Errorf("entry at index %d: %w", at.Index, err)
		}
		if err := checkCut(e, at); err != nil {
			return err
		}
		last = at.Index
		b.Newest = time.Unix(0, e.Time)
		b.Cut = append(b.Cut, engine.CutEntry{At: at, Bytes: c.GetEntry()})
		b.Bytes += len(c.GetEntry())
		b.Entries++
	}
	if len(in.GetTotals()) == 0 {
		return nil
	}
	totals, err := storage.DecodeTotals(in.GetTotals())
	if err != nil {
		return fmt.Errorf("totals of the batch that ends at index %d: %w", b.End.Index, err)
	}
	for i := range totals {
		if totals[i].Scope != storage.Replicated {
			return malformed("totals of keyspace %s, which a performance subscription does not cover", totals[i].ID)
		}
	}
	b.Totals = totals
	return nil
}

// checkCut refuses what a feeder must never send: it could alter what is local here.
func checkCut(e *storage.Entry, at wal.Position) error {
	if e.Housekeeping {
		return malformed("the entry at index %d is housekeeping of the feeder", at.Index)
	}
	for i := range e.Blocks {
		if e.Blocks[i].Scope != storage.Replicated {
			return malformed("the entry at index %d touches keyspace %s, which a performance subscription does not cover", at.Index, e.Blocks[i].Keyspace)
		}
	}
	return nil
}

// splitBatch cuts an encoded batch into messages of at most partBytes; a short one stays whole.
func splitBatch(b *pb.Batch) ([]*pb.FromPrimary, error) {
	if proto.Size(b) <= 2*partBytes {
		return []*pb.FromPrimary{{Message: &pb.FromPrimary_Batch{Batch: b}}}, nil
	}
	data, err := proto.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encode a batch: %w", err)
	}
	if len(data) > maxBatch {
		return nil, fmt.Errorf("a batch of %d bytes, more than %d", len(data), maxBatch)
	}
	var out []*pb.FromPrimary
	for len(data) > 0 {
		n := min(partBytes, len(data))
		part := &pb.Part{Data: data[:n], Left: uint64(len(data) - n)}
		out = append(out, &pb.FromPrimary{Message: &pb.FromPrimary_Part{Part: part}})
		data = data[n:]
	}
	return out, nil
}

// assembler puts the parts of a batch together. Its memory grows with what arrived, not with what a part announces.
type assembler struct {
	data []byte
	left uint64
	open bool
}

// add returns the batch when the part was its last.
func (a *assembler) add(p *pb.Part) (*pb.Batch, error) {
	n := uint64(len(p.GetData()))
	switch {
	case n == 0 || p.GetLeft() > maxBatch || uint64(len(a.data))+n+p.GetLeft() > maxBatch:
		return nil, malformed("a part of %d bytes with %d to come", n, p.GetLeft())
	case a.open && a.left != n+p.GetLeft():
		return nil, malformed("a part is missing: %d bytes were to come, now %d", a.left, n+p.GetLeft())
	}
	a.data = append(a.data, p.GetData()...)
	a.left, a.open = p.GetLeft(), true
	if a.left > 0 {
		return nil, nil
	}
	b := new(pb.Batch)
	if err := proto.Unmarshal(a.data, b); err != nil {
		return nil, malformed("parts that are not a batch: %v", err)
	}
	*a = assembler{}
	return b, nil
}
