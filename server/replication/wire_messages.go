package replication

import (
	"github.com/lockstepdb/lockstep/merkle"
	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

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
	Authority   string    // DR: CA that it will have in its primary's performance set; empty: none
	Coverage    *coverage // performance: what it was last told; nil: nothing yet
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
		Window: &pb.Window{Bytes: uint64(h.Window.Bytes), Entries: uint64(h.Window.Entries)}, Coverage: encodeCoverage(h.Coverage),
	}
	if h.Authority != "" {
		out.Authority = []byte(h.Authority)
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
	if h.Authority = string(in.GetAuthority()); h.Authority != "" {
		if err := checkAuthority(h.Authority); err != nil {
			return nil, err
		}
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
	if h.Coverage, err = decodeCoverage(in.GetCoverage()); err != nil {
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
	Coverage    *coverage      // performance
	Common      wal.Position   // REWIND: the last place of the secondary's that counts
	Log         []engine.Reign // performance: of the feeder's log, when From lies before its reign
}

func encodeAnswer(a *answer) *pb.Answer {
	out := &pb.Answer{
		Head: encodeHead(a.head), Kind: a.Kind, Reason: a.Reason, From: encodePosition(a.From), Resume: a.Resume,
		History: encodeHistory(a.History), ClusterId: a.ClusterID, ClusterName: a.ClusterName, Coverage: encodeCoverage(a.Coverage),
		Log: encodeHistory(a.Log),
	}
	if !a.Common.IsZero() {
		out.Common = encodePosition(a.Common)
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
	if a.Log, err = decodeHistory(in.GetLog()); err != nil {
		return nil, err
	}
	if a.Common, err = decodePosition(in.GetCommon()); err != nil {
		return nil, err
	}
	a.Coverage, err = decodeCoverage(in.GetCoverage())
	return a, err
}

// heartbeat is a decoded Heartbeat.
type heartbeat struct {
	head
	Clock     int64
	Root      *merkle.RootHash
	Floor     uint64
	Confirmed uint64
	Addresses []string
	APIAddr   string

	Authorities []string // CAs to trust, the one that signs first
	Failover    []string // performance: addresses of the primary's possible successors

	Others []sibling // the primary's other secondaries of the set
	Last   bool      // the primary was demoted: Position is where its part ended
}

// sibling is how far a secondary has come, as its primary knows.
type sibling struct {
	ID        string `json:"id"`
	Index     uint64 `json:"index"`
	Connected bool   `json:"connected"`
}

// maxStandings bounds how many secondaries a heartbeat tells of.
const maxStandings = 64

func encodeHeartbeat(h *heartbeat) *pb.Heartbeat {
	out := &pb.Heartbeat{
		Head: encodeHead(h.head), Clock: h.Clock, Floor: h.Floor, Confirmed: h.Confirmed, ClusterAddresses: h.Addresses, ApiAddr: h.APIAddr,
	}
	if h.Root != nil {
		out.Root = h.Root[:]
	}
	for _, ca := range h.Authorities {
		out.Authorities = append(out.Authorities, []byte(ca))
	}
	out.FailoverAddresses, out.Last = h.Failover, h.Last
	for _, o := range h.Others {
		out.Others = append(out.Others, &pb.Standing{Id: o.ID, Index: o.Index, Connected: o.Connected})
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
	if len(in.GetAuthorities()) > maxAuthorities || len(in.GetFailoverAddresses()) > maxAddresses {
		return nil, malformed("a heartbeat with %d CAs and %d addresses of successors", len(in.GetAuthorities()), len(in.GetFailoverAddresses()))
	}
	for _, ca := range in.GetAuthorities() {
		if err := checkAuthority(string(ca)); err != nil {
			return nil, err
		}
		h.Authorities = append(h.Authorities, string(ca))
	}
	h.Failover = in.GetFailoverAddresses()
	if err := checkText("an address", h.Failover...); err != nil {
		return nil, err
	}
	if len(in.GetOthers()) > maxStandings {
		return nil, malformed("a heartbeat that tells of %d secondaries, more than %d", len(in.GetOthers()), maxStandings)
	}
	for _, o := range in.GetOthers() {
		if !validID(o.GetId()) {
			return nil, malformed("a heartbeat that tells of a secondary without a proper id")
		}
		h.Others = append(h.Others, sibling{ID: o.GetId(), Index: o.GetIndex(), Connected: o.GetConnected()})
	}
	h.Last = in.GetLast()
	h.Root, err = decodeRoot(in.GetRoot())
	return h, err
}

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
	Trust, Authority *[32]byte // see trustTold; nil: nothing new
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
	if a.Trust != nil && a.Authority != nil {
		out.Trust, out.Authority = a.Trust[:], a.Authority[:]
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
	if a.Root, err = decodeRoot(in.Root); err != nil {
		return nil, err
	}
	var trust, authority [32]byte
	told, err := decodeOptional(trust[:], in.Trust, "hash of trusted CAs")
	if err != nil || !told {
		return a, err
	}
	if _, err := decodeOptional(authority[:], in.Authority, "hash of a CA"); err != nil {
		return nil, err
	}
	a.Trust, a.Authority = &trust, &authority
	return a, nil
}
