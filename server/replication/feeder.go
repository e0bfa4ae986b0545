package replication

import (
	"context"
	"errors"
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
		s.n.tookOver(f.peer, old.from, f.from)
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

// identity returns the newest own history that a caller of this identity has shown, and remembers this one when it is not older. A DR secondary's log is a copy,
// which a rewind makes shorter: of it nothing is remembered.
func (s *service) identity(p peer, own []engine.Reign) []engine.Reign {
	if p.Kind == DR {
		return nil
	}
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
	from   origin // set before it joins

	hello chan *hello
	acked chan struct{} // one slot: there is a new acknowledgement

	mu    sync.Mutex           // guards what follows
	heard time.Time            // when the secondary last said something
	last  ack                  // its newest acknowledgement
	roots []sentRoot           // of the newest heartbeats
	told  trustTold            // and whom the newest said to trust
	beats beats                // that were sent, and not yet echoed
	bye   int64                // clock of the first heartbeat that said where this primary's part ends; 0: none yet
	kept  []storage.KeyspaceID // left out although the filter does not: see keeps

	// Of the sending goroutine.
	reader  *wal.Reader
	at      wal.Position // end of what was sent
	chain   wal.Hash     // of the frame there, once one was sent
	forks   int          // length of the history that was sent
	win     *window
	pending *wal.Frame      // read, and not sent because the batch was full
	shown   <-chan struct{} // the pending frame is not to be shown yet: closed when that may be otherwise
	held    uint64          // the log is held from here
	coverer *coverer        // performance: what is covered at the end of what was sent
	mark    *mark           // where a batch is to end, for the root there to be told
}

// sentRoot is what a heartbeat said.
type sentRoot struct {
	index uint64
	root  merkle.RootHash
}

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
	parted := f.bye != 0 && a.Heard >= f.bye
	verified := a.Root != nil && f.sentLocked(a.Applied.Index, *a.Root)
	sent := f.beats.echoed(a.Heard)
	told := f.told
	f.mu.Unlock()
	f.n.trusts(f.peer, a, told)
	f.n.peers.update(f.peer.Kind, f.peer.ID, func(ps *peerState) {
		ps.LastHeartbeat, ps.State, ps.Told = now, a.State, parted
		ps.APIAddr, ps.ClusterAddr = orElse(a.APIAddr, ps.APIAddr), orElse(a.ClusterAddr, ps.ClusterAddr)
		if sent.After(ps.Heard) {
			ps.Heard = sent
		}
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

// rootOf returns the root of what a subscription of a kind covers that nothing filters.
func rootOf(k Kind, totals []storage.KeyspaceTotal) merkle.RootHash {
	return rootOfTaken(wholeOf(k), totals)
}

func rootOfTaken(takes takes, totals []storage.KeyspaceTotal) merkle.RootHash {
	parts := make([]merkle.Part, 0, len(totals))
	for _, t := range totals {
		if takes(t.ID, t.Scope) {
			parts = append(parts, merkle.Part{ID: t.ID, Total: t.Total})
		}
	}
	return merkle.Root(parts)
}
