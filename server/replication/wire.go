package replication

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

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

// ---- small values

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

// ---- head

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

// ---- histories

func encodeHistory(reigns []engine.Reign) []*pb.Reign {
	out := make([]*pb.Reign, len(reigns))
	for i := range reigns {
		r := &reigns[i]
		p := &pb.Reign{
			Ordinal: r.Ordinal, Lineage: r.Lineage[:], Fork: r.Fork[:], Start: r.Start, Who: r.Who, When: r.When,
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
	r.Ordinal, r.Start, r.Who, r.When = p.GetOrdinal(), p.GetStart(), p.GetWho(), p.GetWhen()
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
		end := last
		if i+1 < len(history) {
			end = history[i+1].Start - 1
		}
		return p.Index >= history[i].Start && p.Index <= end
	}
	return false
}

// ---- frames and batches

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
	Follows wal.Position
	End     wal.Position
	Frames  []*wal.Frame
	Cut     []engine.CutEntry
	Totals  []storage.KeyspaceTotal
	History []engine.Reign
	Newest  time.Time // commit time of the last cut entry; zero without one
	Bytes   int       // of entries
	Entries int
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
	if len(in.GetEntries()) != 0 || len(in.GetTotals()) != 0 {
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

// ---- parts

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

// ---- hello

// hello is a decoded Hello.
type hello struct {
	head
	Kind        Kind
	Set         string
	ClusterID   string
	ClusterName string
	Software    string
	APIAddr     string
	ClusterAddr string
	Chain       wal.Hash // zero: not told
	Root        *merkle.RootHash
	History     []engine.Reign
	Seen        []engine.Reign
	Sync        *syncPlace
	Repair      string
	Window      limits
}

// syncPlace is how far an interrupted sync has come.
type syncPlace struct {
	From, Until, SpoolEnd wal.Position
}

func encodeHello(h *hello) *pb.Hello {
	out := &pb.Hello{
		Head: encodeHead(h.head), Kind: string(h.Kind), Set: h.Set,
		ClusterId: h.ClusterID, ClusterName: h.ClusterName, Software: h.Software, ApiAddr: h.APIAddr, ClusterAddr: h.ClusterAddr,
		History: encodeHistory(h.History), Seen: encodeHistory(h.Seen), Repair: h.Repair,
		Window: &pb.Window{Bytes: uint64(h.Window.Bytes), Entries: uint64(h.Window.Entries)},
	}
	if h.Chain != (wal.Hash{}) {
		out.Chain = h.Chain[:]
	}
	if h.Root != nil {
		out.Root = h.Root[:]
	}
	if h.Sync != nil {
		out.Sync = &pb.SyncPlace{
			From: encodePosition(h.Sync.From), Until: encodePosition(h.Sync.Until), SpoolEnd: encodePosition(h.Sync.SpoolEnd),
		}
	}
	return out
}

func decodeHello(in *pb.Hello) (*hello, error) {
	hd, err := decodeHead("hello", in.GetHead())
	if err != nil {
		return nil, err
	}
	h := &hello{
		head: hd, Kind: Kind(in.GetKind()), Set: in.GetSet(), ClusterID: in.GetClusterId(), ClusterName: in.GetClusterName(),
		Software: in.GetSoftware(), APIAddr: in.GetApiAddr(), ClusterAddr: in.GetClusterAddr(), Repair: in.GetRepair(),
	}
	if err := checkText("a text of the hello", h.Set, h.ClusterID, h.ClusterName, h.Software, h.APIAddr, h.ClusterAddr, h.Repair); err != nil {
		return nil, err
	}
	if h.Kind != DR && h.Kind != Performance {
		return nil, malformed("a hello for a subscription of kind %.40q", in.GetKind())
	}
	if _, err := decodeOptional(h.Chain[:], in.GetChain(), "chain hash"); err != nil {
		return nil, err
	}
	if h.Root, err = decodeRoot(in.GetRoot()); err != nil {
		return nil, err
	}
	if h.History, err = decodeHistory(in.GetHistory()); err != nil {
		return nil, err
	}
	if h.Seen, err = decodeHistory(in.GetSeen()); err != nil {
		return nil, err
	}
	if h.Sync, err = decodeSyncPlace(in.GetSync()); err != nil {
		return nil, err
	}
	h.Window = limits{
		Bytes:   int(min(in.GetWindow().GetBytes(), windowBytes)),
		Entries: int(min(in.GetWindow().GetEntries(), windowEntries)),
	}
	return h, nil
}

func decodeSyncPlace(in *pb.SyncPlace) (*syncPlace, error) {
	if in == nil {
		return nil, nil
	}
	var s syncPlace
	var err error
	if s.From, err = decodePosition(in.From); err != nil {
		return nil, err
	}
	if s.Until, err = decodePosition(in.Until); err != nil {
		return nil, err
	}
	if s.SpoolEnd, err = decodePosition(in.SpoolEnd); err != nil {
		return nil, err
	}
	return &s, nil
}

func decodeRoot(b []byte) (*merkle.RootHash, error) {
	var r merkle.RootHash
	if given, err := decodeOptional(r[:], b, "root"); err != nil || !given {
		return nil, err
	}
	return &r, nil
}

// ---- answer

// answer is a decoded Answer.
type answer struct {
	head
	Kind        pb.Answer_Kind
	Reason      string
	From        wal.Position
	Chain       wal.Hash
	Resume      bool
	History     []engine.Reign
	ClusterID   string
	ClusterName string
}

func encodeAnswer(a *answer) *pb.Answer {
	out := &pb.Answer{
		Head: encodeHead(a.head), Kind: a.Kind, Reason: a.Reason, From: encodePosition(a.From), Resume: a.Resume,
		History: encodeHistory(a.History), ClusterId: a.ClusterID, ClusterName: a.ClusterName,
	}
	if a.Chain != (wal.Hash{}) {
		out.Chain = a.Chain[:]
	}
	return out
}

func decodeAnswer(in *pb.Answer) (*answer, error) {
	hd, err := decodeHead("answer", in.GetHead())
	if err != nil {
		return nil, err
	}
	a := &answer{
		head: hd, Kind: in.GetKind(), Reason: in.GetReason(), Resume: in.GetResume(),
		ClusterID: in.GetClusterId(), ClusterName: in.GetClusterName(),
	}
	if err := checkText("a text of the answer", a.Reason, a.ClusterID, a.ClusterName); err != nil {
		return nil, err
	}
	if a.From, err = decodePosition(in.GetFrom()); err != nil {
		return nil, err
	}
	if _, err := decodeOptional(a.Chain[:], in.GetChain(), "chain hash"); err != nil {
		return nil, err
	}
	if a.History, err = decodeHistory(in.GetHistory()); err != nil {
		return nil, err
	}
	return a, nil
}

// ---- heartbeat

// heartbeat is a decoded Heartbeat.
type heartbeat struct {
	head
	Clock     int64
	Root      *merkle.RootHash
	Floor     uint64
	Confirmed uint64
	Addresses []string
	APIAddr   string
}

func encodeHeartbeat(h *heartbeat) *pb.Heartbeat {
	out := &pb.Heartbeat{
		Head: encodeHead(h.head), Clock: h.Clock, Floor: h.Floor, Confirmed: h.Confirmed, ClusterAddresses: h.Addresses, ApiAddr: h.APIAddr,
	}
	if h.Root != nil {
		out.Root = h.Root[:]
	}
	return out
}

func decodeHeartbeat(in *pb.Heartbeat) (*heartbeat, error) {
	hd, err := decodeHead("heartbeat", in.GetHead())
	if err != nil {
		return nil, err
	}
	h := &heartbeat{
		head: hd, Clock: in.GetClock(), Floor: in.GetFloor(), Confirmed: in.GetConfirmed(),
		Addresses: in.GetClusterAddresses(), APIAddr: in.GetApiAddr(),
	}
	if len(h.Addresses) > maxAddresses {
		return nil, malformed("a heartbeat with %d addresses, more than %d", len(h.Addresses), maxAddresses)
	}
	if err := checkText("an address", append(h.Addresses[:len(h.Addresses):len(h.Addresses)], h.APIAddr)...); err != nil {
		return nil, err
	}
	h.Root, err = decodeRoot(in.GetRoot())
	return h, err
}

// ---- acknowledgements

// ack is a decoded Ack.
type ack struct {
	Durable, Applied wal.Position
	State            string
	Reason           string
	Root             *merkle.RootHash
	APIAddr          string
	ClusterAddr      string
	Clock, Heard     int64
	Sync             syncFigures
}

// syncFigures counts what syncs cost since the secondary started.
type syncFigures struct {
	DiffBytes, SyncBytes, KeysFixed, Rounds uint64
}

func encodeAck(a *ack) *pb.Ack {
	out := &pb.Ack{
		Durable: encodePosition(a.Durable), Applied: encodePosition(a.Applied), State: a.State, Reason: a.Reason,
		ApiAddr: a.APIAddr, ClusterAddr: a.ClusterAddr, Clock: a.Clock, Heard: a.Heard,
		Sync: &pb.SyncFigures{
			DiffBytes: a.Sync.DiffBytes, SyncBytes: a.Sync.SyncBytes, KeysFixed: a.Sync.KeysFixed, Rounds: a.Sync.Rounds,
		},
	}
	if a.Root != nil {
		out.Root = a.Root[:]
	}
	return out
}

func decodeAck(in *pb.Ack) (*ack, error) {
	if in == nil {
		return nil, malformed("an acknowledgement without content")
	}
	a := &ack{
		State: in.State, Reason: in.Reason, APIAddr: in.ApiAddr, ClusterAddr: in.ClusterAddr, Clock: in.Clock, Heard: in.Heard,
		Sync: syncFigures{
			DiffBytes: in.GetSync().GetDiffBytes(), SyncBytes: in.GetSync().GetSyncBytes(),
			KeysFixed: in.GetSync().GetKeysFixed(), Rounds: in.GetSync().GetRounds(),
		},
	}
	if err := checkText("a text of the acknowledgement", a.State, a.Reason, a.APIAddr, a.ClusterAddr); err != nil {
		return nil, err
	}
	var err error
	if a.Durable, err = decodePosition(in.Durable); err != nil {
		return nil, err
	}
	if a.Applied, err = decodePosition(in.Applied); err != nil {
		return nil, err
	}
	a.Root, err = decodeRoot(in.Root)
	return a, err
}

// ---- ranges and totals of a sync

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
