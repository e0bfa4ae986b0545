package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstepdb/lockstep/merkle"
	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

const (
	helloTime = 10 * time.Second // a stream without a hello ends
	silence   = 10               // heartbeat intervals without a word end a stream, on either side
)

// service answers the calls of secondaries.
type service struct {
	pb.UnimplementedReplicationServer
	n     *Node
	log   hclog.Logger
	calls bulkCalls

	mu      sync.Mutex                // guards what follows
	current map[string]*feeder        // the newest stream of each secondary: an older one of the same ends
	shown   map[string][]engine.Reign // the newest own history that a caller of each identity has shown
}

func (n *Node) registerServices(s *grpc.Server) {
	pb.RegisterReplicationServer(s, &service{
		n: n, log: n.log.Named("feeder"), current: map[string]*feeder{}, shown: map[string][]engine.Reign{},
	})
}

// Stream implements pb.ReplicationServer: one subscription. The handler watches; one goroutine sends, one receives. A blocked Send or Recv
// ends only with the stream, and the stream ends when the handler returns: so it cannot wait for those two, it only tells them to end; Run waits.
func (s *service) Stream(stream grpc.BidiStreamingServer[pb.FromSecondary, pb.FromPrimary]) error {
	p, err := s.n.caller(stream.Context())
	if err != nil {
		return err
	}
	if p.Purpose != purposeStream {
		return status.Error(codes.PermissionDenied, "this connection was made for another purpose")
	}
	ctx, done := s.n.track(stream.Context(), p)
	defer done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	f := &feeder{
		s: s, n: s.n, peer: p, stream: stream, cancel: cancel,
		log:   s.log.With("secondary", p.ID, "set", string(p.Kind)),
		hello: make(chan *hello, 1), acked: make(chan struct{}, 1), heard: s.n.now(),
	}
	s.n.peers.update(p.Kind, p.ID, func(ps *peerState) { ps.Streams++ })
	defer s.n.peers.update(p.Kind, p.ID, func(ps *peerState) { ps.Streams-- })
	defer s.leave(f)

	s.n.feeding.Go(func() { cancel(f.receive()) })
	s.n.feeding.Go(func() { cancel(f.send(ctx)) })
	f.watch(ctx)
	return f.ended(context.Cause(ctx))
}

// join makes f the secondary's one stream and ends an older one, which the secondary has given up.
func (s *service) join(f *feeder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.current[f.peer.key()]; old != nil && old != f {
		old.cancel(status.Error(codes.Aborted, "the secondary has begun another stream"))
	}
	s.current[f.peer.key()] = f
}

func (s *service) leave(f *feeder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current[f.peer.key()] == f {
		delete(s.current, f.peer.key())
	}
}

// identity returns the newest own history that a caller of this identity has shown, and remembers this one when it is not older.
func (s *service) identity(p peer, own []engine.Reign) []engine.Reign {
	s.mu.Lock()
	defer s.mu.Unlock()
	shown := s.shown[p.key()]
	if len(shown) == 0 || len(own) > 0 && compareHistories(shown, own) != historyNewer {
		s.shown[p.key()] = own
	}
	return shown
}

// feeder feeds one subscription: a cursor over the own log, never a queue. What a slow, dead or hostile secondary costs is one window, one batch
// and the log that is held for it within the retention limits.
type feeder struct {
	s      *service
	n      *Node
	peer   peer
	stream grpc.BidiStreamingServer[pb.FromSecondary, pb.FromPrimary]
	log    hclog.Logger
	cancel context.CancelCauseFunc

	hello chan *hello
	acked chan struct{} // one slot: there is a new acknowledgement

	mu    sync.Mutex // guards what follows
	heard time.Time  // when the secondary last said something
	last  ack        // its newest acknowledgement
	roots []sentRoot // of the newest heartbeats

	// Of the sending goroutine.
	reader  *wal.Reader
	at      wal.Position // end of what was sent
	chain   wal.Hash     // of the frame there, once one was sent
	forks   int          // length of the history that was sent
	win     *window
	pending *wal.Frame // read, and not sent because the batch was full
	held    uint64     // the log is held from here
}

// sentRoot is what a heartbeat said.
type sentRoot struct {
	index uint64
	root  merkle.RootHash
}

// ---- receiving

func (f *feeder) receive() error {
	first, err := f.stream.Recv()
	if err != nil {
		return hungUp(err)
	}
	if first.GetHello() == nil {
		return status.Error(codes.InvalidArgument, "the first message is no hello")
	}
	h, err := decodeHello(first.GetHello())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	f.hello <- h
	for {
		m, err := f.stream.Recv()
		if err != nil {
			return hungUp(err)
		}
		a, err := decodeAck(m.GetAck())
		if err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		f.take(a)
	}
}

// hungUp tells a secondary that ended its stream from a stream that broke.
func hungUp(err error) error {
	if errors.Is(err, io.EOF) {
		return context.Canceled
	}
	return err
}

// take keeps an acknowledgement; the sender looks at the newest only.
func (f *feeder) take(a *ack) {
	now := f.n.now()
	f.mu.Lock()
	if a.Durable.Index >= f.last.Durable.Index {
		f.last = *a
	}
	f.heard = now
	verified := a.Root != nil && f.sentLocked(a.Applied.Index, *a.Root)
	f.mu.Unlock()
	f.n.peers.update(f.peer.Kind, f.peer.ID, func(ps *peerState) {
		ps.LastHeartbeat, ps.State = now, a.State
		ps.APIAddr, ps.ClusterAddr = orElse(a.APIAddr, ps.APIAddr), orElse(a.ClusterAddr, ps.ClusterAddr)
		ps.ClockSkew = now.Sub(time.Unix(0, a.Clock))
		if a.Heard != 0 {
			ps.RoundTrip = now.Sub(time.Unix(0, a.Heard))
		}
		if verified {
			ps.Root, ps.RootIndex = *a.Root, a.Applied.Index
		}
	})
	select {
	case f.acked <- struct{}{}:
	default:
	}
}

func (f *feeder) sentLocked(index uint64, root merkle.RootHash) bool {
	for _, r := range f.roots {
		if r.index == index && r.root == root {
			return true
		}
	}
	return false
}

func (f *feeder) newestAck() ack {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// watch returns when the subscription has ended: by either goroutine, a revocation, or silence.
func (f *feeder) watch(ctx context.Context) {
	limit := silence * f.n.cfg.HeartbeatInterval
	tick := time.NewTicker(f.n.cfg.HeartbeatInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		f.mu.Lock()
		quiet := f.n.now().Sub(f.heard)
		f.mu.Unlock()
		if quiet > max(limit, minSilence) {
			f.cancel(status.Errorf(codes.DeadlineExceeded, "nothing was heard from the secondary for %v", quiet.Round(time.Millisecond)))
		}
	}
}

// ended says why a subscription ended: here in the log, and to the secondary.
func (f *feeder) ended(cause error) error {
	if cause == nil || errors.Is(cause, context.Canceled) {
		f.log.Info("the secondary's stream has ended")
		return status.Error(codes.Unavailable, "the stream has ended")
	}
	if errors.Is(cause, errRevoked) {
		f.log.Info("the secondary's stream was cut", "error", cause)
		return status.Error(codes.PermissionDenied, cause.Error())
	}
	if _, ok := status.FromError(cause); !ok {
		return f.s.failed(f.peer, cause)
	}
	f.log.Info("the secondary's stream has ended", "error", cause)
	return cause
}

// ---- the answer

func (f *feeder) send(ctx context.Context) error {
	var h *hello
	timer := time.NewTimer(helloTime)
	defer timer.Stop()
	select {
	case h = <-f.hello:
	case <-timer.C:
		return status.Errorf(codes.DeadlineExceeded, "no hello within %v", helloTime)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if h.Kind != f.peer.Kind {
		return status.Errorf(codes.PermissionDenied, "a hello for a %s subscription with the certificate of a %s secondary", h.Kind, f.peer.Kind)
	}
	f.s.join(f)
	f.win = newWindow(h.Window)
	a, err := f.answer(h)
	if err != nil {
		return err
	}
	if err := f.stream.Send(&pb.FromPrimary{Message: &pb.FromPrimary_Answer{Answer: encodeAnswer(a)}}); err != nil {
		return err
	}
	kind := answerKind(a.Kind)
	f.log.Info("answered a secondary", "answer", kind.String(), "index", a.From.Index, "resume", a.Resume, "reason", a.Reason)
	f.n.peers.update(f.peer.Kind, f.peer.ID, func(ps *peerState) {
		ps.Resumes.count(kind)
		ps.APIAddr, ps.ClusterAddr = orElse(h.APIAddr, ps.APIAddr), orElse(h.ClusterAddr, ps.ClusterAddr)
	})
	if kind != Continue && kind != Repair && kind != Bootstrap {
		return f.linger(ctx, a)
	}
	f.at = a.From
	f.reader = f.n.engine.LogReader(a.From.Index + 1)
	return f.feed(ctx)
}

// linger leaves the secondary the time to read an answer that is no welcome and to hang up.
func (f *feeder) linger(ctx context.Context, a *answer) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(f.n.cfg.HeartbeatInterval):
		return status.Error(codes.FailedPrecondition, a.Reason)
	}
}

// answer decides by place and completes what it says.
func (f *feeder) answer(h *hello) (*answer, error) {
	e := f.n.engine
	set := f.n.set(f.peer.Kind)
	if set == nil {
		return nil, status.Error(codes.FailedPrecondition, "this cluster has left the set")
	}
	id, end := e.Identity(), e.Position()
	history := durable(e.History(), end.Index)
	a := &answer{
		head: f.head(end), History: history, ClusterID: id.ClusterID, ClusterName: id.ClusterName,
	}
	f.forks = len(history)
	caller := &callerPlace{
		Set: h.Set, Version: h.Software, Lineage: h.Lineage, Place: h.Position, Chain: h.Chain, History: h.Seen, Log: h.History,
		Identity: f.s.identity(f.peer, h.History),
	}
	d := place(&feederPlace{
		Kind: f.peer.Kind, Set: set.Set, Version: f.n.cfg.Version, History: history, End: end, First: e.FirstIndex(), Floor: f.floor(),
		Chain: func(index uint64) (wal.Hash, bool) {
			c, err := e.ChainAt(index)
			return c, err == nil
		},
	}, caller)
	a.Reason = d.Reason
	switch {
	case d.Kind == Continue && h.Repair != "":
		d.Kind, a.Reason = Repair, h.Repair
	case d.Kind == Continue && h.Sync != nil:
		a.Resume = onHistory(history, end.Index, h.Sync.From) && onHistory(history, end.Index, h.Sync.Until)
		if !a.Resume {
			d.Kind, a.Reason = Repair, "the sync that was under way read from a history that is not this primary's"
		}
	}
	a.Kind = wireAnswer(d.Kind)
	switch d.Kind {
	case Continue:
		a.From = d.At
		if c, err := e.ChainAt(d.At.Index); err == nil {
			a.Chain = c
		}
	case Repair, Bootstrap:
		if s := e.SyncState(); s != nil {
			return nil, status.Error(codes.Unavailable, "this cluster is in a sync itself: ask again when it has ended")
		}
		v := e.Finished()
		a.From, a.Chain = v.Position(), v.Chain()
		v.Release()
	case Rewind:
		a.From = d.At
	}
	// Held before the answer is given: the secondary's spool begins there.
	f.hold(a.From.Index+1, d.Kind == Continue || d.Kind == Repair || d.Kind == Bootstrap)
	return a, nil
}

// durable leaves out of a history a fork none of whose frames is durable: a restart would forget it, and nobody may know of it before.
func durable(history []engine.Reign, last uint64) []engine.Reign {
	for len(history) > 0 && history[len(history)-1].Start > last {
		history = history[:len(history)-1]
	}
	return history
}

// floor returns the index from which the own log alone tells the story of what a performance subscription covers.
func (f *feeder) floor() uint64 {
	var floor uint64
	if f.peer.Kind != Performance {
		return 0
	}
	totals, _ := f.n.engine.Totals()
	for _, t := range totals {
		if covers(Performance, t.Scope) {
			floor = max(floor, f.n.engine.Floor(t.ID))
		}
	}
	return floor
}

// hold keeps the log from an index on for the secondary. It is also the first thing that an answer does.
func (f *feeder) hold(from uint64, on bool) {
	if on && from != f.held {
		f.held = from
		f.n.engine.Hold(f.peer.key(), from)
	}
}

var answerKinds = map[pb.Answer_Kind]AnswerKind{
	pb.Answer_KIND_CONTINUE:   Continue,
	pb.Answer_KIND_REPAIR:     Repair,
	pb.Answer_KIND_REWIND:     Rewind,
	pb.Answer_KIND_BOOTSTRAP:  Bootstrap,
	pb.Answer_KIND_REFUSED:    Refuse,
	pb.Answer_KIND_SUPERSEDED: Superseded,
	pb.Answer_KIND_I_AM_STALE: Stale,
	pb.Answer_KIND_RESTORED:   Restored,
}

// answerKind returns NoAnswer for one that this program does not know.
func answerKind(k pb.Answer_Kind) AnswerKind { return answerKinds[k] }

func wireAnswer(a AnswerKind) pb.Answer_Kind {
	for w, k := range answerKinds {
		if k == a {
			return w
		}
	}
	return pb.Answer_KIND_UNSPECIFIED
}

// head returns the head of a message: the epoch is the newest of the own log.
func (f *feeder) head(at wal.Position) head {
	h := head{Lineage: f.n.engine.Identity().Lineage, Position: at}
	if history := durable(f.n.engine.History(), at.Index); len(history) > 0 {
		r := history[len(history)-1]
		h.Ordinal, h.Fork = r.Ordinal, r.Fork
	}
	return h
}

// ---- batches

// feed sends what the log gets, until ctx ends: batches of about 256 KiB, or at once what there is; heartbeats in between.
func (f *feeder) feed(ctx context.Context) error {
	tick := time.NewTicker(f.n.cfg.HeartbeatInterval)
	defer tick.Stop()
	if err := f.heartbeat(); err != nil {
		return err
	}
	for {
		wake := f.n.engine.Wake() // before the log is asked: what comes after is not missed
		f.settle()
		sent := false
		if f.win.room() {
			b, err := f.gather()
			if err != nil {
				return f.gone(err)
			}
			if b != nil {
				if err := f.sendBatch(ctx, b, tick.C); err != nil {
					return err
				}
				sent = true
			}
		}
		var more <-chan struct{}
		if f.win.room() {
			more = wake
		}
		if sent {
			more = closed
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			if err := f.heartbeat(); err != nil {
				return err
			}
		case <-more:
		case <-f.acked:
		}
	}
}

// closed is ready at once.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// settle takes the newest acknowledgement into account: window, hold, lag.
func (f *feeder) settle() {
	a := f.newestAck()
	if a.Durable.Index > f.at.Index {
		a.Durable = f.at // it cannot have what it was not sent
	}
	f.win.ack(a.Durable.Index)
	if a.Durable.Index > 0 {
		f.hold(a.Durable.Index+1, true)
	}
	lag := time.Duration(0)
	if oldest := f.win.oldest(); !oldest.IsZero() {
		lag = max(0, f.n.now().Sub(oldest))
	}
	f.n.peers.update(f.peer.Kind, f.peer.ID, func(ps *peerState) {
		ps.CanaryAge = lag
		if a.Durable.Index > 0 {
			ps.Acked = a.Durable
		}
	})
}

func (f *feeder) gone(err error) error {
	if errors.Is(err, wal.ErrGone) {
		return status.Errorf(codes.OutOfRange, "this primary's log does not hold index %d any more: say hello again, what differs is repaired", f.at.Index+1)
	}
	return err
}

// outgoing is a batch to be sent.
type outgoing struct {
	follows, end   wal.Position
	ordinal        uint64
	frames         []*wal.Frame
	cut            []*pb.Cut
	totals         map[storage.KeyspaceID]storage.KeyspaceTotal
	bytes, entries int
	read           int // bytes taken from the log, covered or not
	written        time.Time
}

// gather takes whole frames from the log until a batch is full or the log has no more; nil when there is nothing.
func (f *feeder) gather() (*outgoing, error) {
	b := &outgoing{follows: f.at}
	for b.bytes < batchBytes && b.read < 16*batchBytes && b.entries < windowEntries/4 {
		fr := f.pending
		f.pending = nil
		if fr == nil {
			var err error
			if fr, err = f.reader.TryNext(); err != nil {
				return nil, err
			}
		}
		if fr == nil {
			break
		}
		if b.read > 0 && b.read+int(fr.Length) > 16*batchBytes {
			f.pending = fr
			break
		}
		if err := f.add(b, fr); err != nil {
			return nil, err
		}
	}
	if b.end.IsZero() {
		return nil, nil
	}
	return b, nil
}

// add puts a frame into a batch: whole for a DR subscription, what is covered for a performance one. A cursor may lie within a
// frame: after a restart the secondary knows the last entry it took, not the end of the frame whose later entries it does not cover.
func (f *feeder) add(b *outgoing, fr *wal.Frame) error {
	next := f.at.Index + 1
	if fr.First > next || fr.Last() < next || fr.First != next && f.peer.Kind == DR {
		return fmt.Errorf("the log gave entries %d to %d where %d follows", fr.First, fr.Last(), next)
	}
	if f.peer.Kind == DR {
		b.frames = append(b.frames, fr)
		b.bytes += int(fr.Length)
		b.entries += int(fr.Count)
	} else if err := f.cut(b, fr); err != nil {
		return err
	}
	if b.written.IsZero() {
		b.written = time.Unix(0, fr.Time)
	}
	b.read += int(fr.Length)
	b.end, b.ordinal = fr.Position(), fr.Ordinal
	f.at, f.chain = b.end, fr.Chain
	return nil
}

func (f *feeder) cut(b *outgoing, fr *wal.Frame) error {
	for i, e := range fr.Entries {
		if fr.First+uint64(i) <= f.at.Index {
			continue
		}
		cut, any, err := storage.CutEntry(e, func(_ storage.KeyspaceID, s storage.Scope) bool { return covers(Performance, s) })
		if err != nil {
			return fmt.Errorf("entry %d of the own log: %w", fr.First+uint64(i), err)
		}
		if !any {
			continue
		}
		at := wal.Position{Fork: fr.Fork, Index: fr.First + uint64(i)}
		b.cut = append(b.cut, &pb.Cut{At: encodePosition(at), Entry: cut})
		b.bytes += len(cut)
		b.entries++
	}
	totals, err := storage.DecodeTotals(fr.Totals)
	if err != nil {
		return fmt.Errorf("totals of the own log's frame at %d: %w", fr.First, err)
	}
	for _, t := range totals {
		if covers(Performance, t.Scope) {
			if b.totals == nil {
				b.totals = map[storage.KeyspaceID]storage.KeyspaceTotal{}
			}
			b.totals[t.ID] = t
		}
	}
	return nil
}

// sendBatch sends a batch, in parts when it is large, with heartbeats between the parts.
func (f *feeder) sendBatch(ctx context.Context, b *outgoing, tick <-chan time.Time) error {
	messages, err := splitBatch(f.encode(b))
	if err != nil {
		return err
	}
	f.win.add(b.end.Index, b.bytes, b.entries, b.written)
	for _, m := range messages {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := f.stream.Send(m); err != nil {
			return err
		}
		select {
		case <-tick:
			if err := f.heartbeat(); err != nil {
				return err
			}
		default:
		}
	}
	return nil
}

func (f *feeder) encode(b *outgoing) *pb.Batch {
	h := f.head(b.end)
	h.Ordinal, h.Fork, h.Length = b.ordinal, b.end.Fork, uint64(b.bytes)
	out := &pb.Batch{Head: encodeHead(h), Follows: encodePosition(b.follows), Entries: b.cut}
	for _, fr := range b.frames {
		out.Frames = append(out.Frames, encodeFrame(fr))
	}
	if len(b.totals) > 0 {
		list := make([]storage.KeyspaceTotal, 0, len(b.totals))
		for _, t := range b.totals {
			list = append(list, t)
		}
		out.Totals = storage.EncodeTotals(list)
	}
	// A fork is in the history before its first frame is durable, so a history read now has every fork of this batch.
	if history := durable(f.n.engine.History(), b.end.Index); len(history) != f.forks {
		f.forks = len(history)
		out.History = encodeHistory(history)
	}
	return out
}

// ---- heartbeats

// rootOf returns the root of what a subscription of a kind covers.
func rootOf(k Kind, totals []storage.KeyspaceTotal) merkle.RootHash {
	parts := make([]merkle.Part, 0, len(totals))
	for _, t := range totals {
		if covers(k, t.Scope) {
			parts = append(parts, merkle.Part{ID: t.ID, Total: t.Total})
		}
	}
	return merkle.Root(parts)
}

func (f *feeder) heartbeat() error {
	e := f.n.engine
	totals, end := e.Totals()
	root := rootOf(f.peer.Kind, totals)
	h := &heartbeat{
		head: f.head(end), Clock: f.n.now().UnixNano(), Root: &root, Floor: e.FirstIndex(), APIAddr: f.n.cfg.APIAddr,
	}
	if addr := f.n.cfg.ClusterAddr; addr != "" {
		h.Addresses = []string{addr}
	}
	if set := f.n.set(f.peer.Kind); set != nil && set.ClusterAddr != "" {
		h.Addresses = []string{set.ClusterAddr}
	}
	f.mu.Lock()
	if len(f.roots) >= 16 {
		f.roots = append(f.roots[:0], f.roots[1:]...)
	}
	f.roots = append(f.roots, sentRoot{end.Index, root})
	f.mu.Unlock()
	f.settle()
	return f.stream.Send(&pb.FromPrimary{Message: &pb.FromPrimary_Heartbeat{Heartbeat: encodeHeartbeat(h)}})
}
