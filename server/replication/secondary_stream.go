package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstepdb/lockstep/merkle"
	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

// subscription is one open stream: one goroutine receives, one acknowledges and watches for silence, one applies, and during a sync
// one compares. All have ended when close returns.
type subscription struct {
	l      *life
	s      *session
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	stream grpc.BidiStreamingClient[pb.FromSecondary, pb.FromPrimary]
	answer *answer
	in     *intake
	begun  bool                         // batches are being taken; of the goroutine of follow
	acks   chan struct{}                // one slot: there is something to acknowledge
	until  atomic.Pointer[wal.Position] // M, once all ranges of a sync are here

	covering sync.Mutex // held while a batch's coverage is taken into force: until its end place and records are of two coverages

	mu       sync.Mutex // guards what follows
	heard    time.Time
	clock    int64 // of the newest heartbeat
	newest   wal.Position
	verified wal.Position // where roots were last compared equal
	root     merkle.RootHash
	ahead    []*heartbeat // those with a root whose place is not reached yet, the newest last

	confirmed int64 // clock of the heartbeat after which trust was told; of the acknowledging goroutine

	comparing sync.Mutex // held while roots are compared: where a heartbeat or a batch has come
	differs   bool       // roots were found to differ: told once; guarded by comparing

	// Of the applying goroutine.
	at      wal.Position // up to here batches are taken
	history []engine.Reign
	written time.Time // commit time of the newest entry taken
}

// open begins a stream and says hello (cause and force as for hello). The answer has been checked and its history accepted.
func (s *session) open(cause string, force bool) (*subscription, error) {
	l := s.l
	h, err := l.hello(cause, force)
	if err != nil {
		return nil, err
	}
	sub := &subscription{l: l, s: s, in: newIntake(h.Window), acks: make(chan struct{}, 1), heard: l.n.now()}
	sub.ctx, sub.cancel = context.WithCancelCause(s.ctx)
	if err := sub.greet(h); err != nil {
		if cause := context.Cause(sub.ctx); cause != nil && s.ctx.Err() == nil {
			err = cause
		}
		sub.close()
		return nil, err
	}
	sub.wg.Go(sub.receive)
	sub.wg.Go(sub.acknowledge)
	return sub, nil
}

func (sub *subscription) close() {
	sub.cancel(nil)
	sub.wg.Wait()
}

// greet exchanges hello and answer.
func (sub *subscription) greet(h *hello) error {
	l := sub.l
	limit := time.AfterFunc(helloTime, func() { sub.cancel(fmt.Errorf("the primary did not answer the hello within %v", helloTime)) })
	defer limit.Stop()
	var err error
	sub.stream, err = pb.NewReplicationClient(sub.s.conn).Stream(sub.ctx, grpc.MaxCallRecvMsgSize(maxMessage))
	if err != nil {
		return fmt.Errorf("opening the stream: %w", err)
	}
	if err := sub.stream.Send(&pb.FromSecondary{Message: &pb.FromSecondary_Hello{Hello: encodeHello(h)}}); err != nil {
		return sub.reason("saying hello", err)
	}
	m, err := sub.stream.Recv()
	if err != nil {
		return sub.reason("waiting for the answer to the hello", err)
	}
	if m.GetAnswer() == nil {
		return malformed("the primary's first message is no answer")
	}
	if sub.answer, err = decodeAnswer(m.GetAnswer()); err != nil {
		return err
	}
	switch answerKind(sub.answer.Kind) {
	case NoAnswer:
		return malformed("an answer of a kind (%d) that this program does not know", sub.answer.Kind)
	case Continue:
		if sub.answer.From != h.Position && (l.kind == DR || h.Sync != nil) {
			return malformed("the primary goes on after index %d, not after this cluster's place, %d", sub.answer.From.Index, h.Position.Index)
		}
		l.keeps(sub.answer)
		if err := l.welcome(sub.answer); err != nil || sub.answer.From == h.Position {
			return err
		}
		return l.replace(h.Position, sub.answer.From)
	case Repair, Bootstrap:
		l.deciding.Store(answerKind(sub.answer.Kind) == Repair)
		l.keeps(sub.answer)
		return l.welcome(sub.answer)
	}
	return nil
}

// welcome makes durable what an answer brings before anything is done on its ground.
func (l *life) welcome(a *answer) error {
	if len(a.History) > 0 {
		if err := l.acceptHistory(a.History); err != nil {
			return err
		}
	}
	if l.kind == Performance {
		if _, err := l.accept(a.Coverage, ofLineage(a.History, a.Lineage), a.Position.Index); err != nil {
			return err
		}
	}
	if l.n.engine.NodeGet(noteFarewell(l.kind)) != nil { // a primary goes on
		if err := l.n.engine.NodeSet(map[string][]byte{noteFarewell(l.kind): nil}); err != nil {
			return err
		}
	}
	return l.n.joined(l.kind)
}

// replace gives this cluster's place the name that it has in the log of the primary it follows now, which is not the one that it came from.
func (l *life) replace(before, now wal.Position) error {
	if err := l.e.SetCursor(l.ctx, now); err != nil {
		return fmt.Errorf("storing the place in the new primary's log: %w", err)
	}
	l.log.Info("the place was found in another primary's log", "before", before.Index, "index", now.Index)
	return nil
}

// reason says why a stream broke: Send knows only that it did, Recv why.
func (sub *subscription) reason(doing string, err error) error {
	if status.Code(err) == codes.Unknown || errors.Is(err, context.Canceled) {
		if cause := context.Cause(sub.ctx); cause != nil {
			return fmt.Errorf("%s: %w", doing, cause)
		}
	}
	if _, why := sub.stream.Recv(); why != nil && status.Code(err) == codes.Unknown {
		err = why
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// tell hands an event to the machine, unless this stream has been given up.
func (sub *subscription) tell(e Event) { sub.l.tell(sub.ctx, e) }

// synced reports whether the stream was answered with a sync, or with the continuation of one, that has not begun yet.
func (sub *subscription) synced() bool {
	k := answerKind(sub.answer.Kind)
	return !sub.begun && (k == Repair || k == Bootstrap || k == Continue && sub.answer.Resume)
}

func (sub *subscription) receive() {
	if err := sub.receiving(); sub.ctx.Err() == nil {
		sub.tell(failure(err))
	}
}

// receiving returns why the stream ended; it does not end without a reason.
func (sub *subscription) receiving() error {
	var parts assembler
	for {
		m, err := sub.stream.Recv()
		if err != nil {
			return fmt.Errorf("the stream broke: %w", err)
		}
		sub.mu.Lock()
		sub.heard = sub.l.n.now()
		sub.mu.Unlock()
		var b *pb.Batch
		switch {
		case m.GetBatch() != nil:
			if b = m.GetBatch(); parts.open {
				return malformed("a batch between the parts of another")
			}
		case m.GetPart() != nil:
			if b, err = parts.add(m.GetPart()); err != nil {
				return err
			}
		case m.GetHeartbeat() != nil:
			h, err := decodeHeartbeat(m.GetHeartbeat())
			if err != nil {
				return err
			}
			if err := sub.beat(h); err != nil {
				return err
			}
		default:
			return malformed("a message of a kind that this program does not know")
		}
		if b == nil {
			continue
		}
		d, err := decodeBatch(sub.l.kind, b)
		if err != nil {
			return err
		}
		if err := sub.in.put(d); err != nil {
			return err
		}
	}
}

// beat takes a heartbeat: addresses, clock, and the primary's root, to be compared when this cluster is at the same place.
func (sub *subscription) beat(h *heartbeat) error {
	l := sub.l
	now := l.n.now()
	if h.Last { // before an acknowledgement says that it was heard
		if err := l.n.keepFarewell(l.kind, h.Position); err != nil {
			return err
		}
	}
	sub.mu.Lock()
	if sub.clock = h.Clock; h.Position.Index > sub.newest.Index { // one with the root of a place that was reached tells an end of before
		sub.newest = h.Position
	}
	newest := sub.newest
	sub.mu.Unlock()
	if h.Last {
		sub.wakeAcks()
	}
	if err := l.n.keepContact(l.kind, h, now); err != nil {
		return err
	}
	if len(h.Addresses) > 0 {
		if err := l.n.knowPrimaries(l.kind, h.Addresses); err != nil {
			return err
		}
	}
	if err := l.n.knowSuccession(l.kind, h.Authorities, h.Failover); err != nil {
		return err
	}
	if err := l.n.heardConfirmed(l.kind, h); err != nil {
		return err
	}
	at := l.place()
	l.n.link[l.kind].update(func(s *linkState) {
		s.Primary.LastHeartbeat = now
		s.Primary.ClockSkew = now.Sub(time.Unix(0, h.Clock))
		s.Primary.APIAddr = h.APIAddr
		if len(h.Addresses) > 0 {
			s.Primary.ClusterAddr = h.Addresses[0]
		}
		s.RemoteEnd, s.RemoteTime = newest, time.Unix(0, h.Clock)
		s.LagEntries = newest.Index - min(at.Index, newest.Index)
		if s.LagEntries == 0 {
			s.LagTime, s.Primary.CanaryAge, s.LagBytes = 0, 0, 0
		}
	})
	if h.Root != nil && h.Position.Index > at.Index {
		sub.mu.Lock()
		sub.ahead = append(sub.ahead[max(0, len(sub.ahead)-maxAhead+1):], h)
		sub.mu.Unlock()
	}
	sub.compare(h, now)
	return nil
}

// place returns up to where the feeder's log is complete and readable here.
func (l *life) place() wal.Position {
	if l.kind == DR {
		return l.e.Position()
	}
	return l.e.Cursor(engine.Performance)
}

func (sub *subscription) wakeAcks() {
	select {
	case sub.acks <- struct{}{}:
	default:
	}
}

// acknowledge is the one that sends: what is durable, as soon as it is and at least once a heartbeat. It also ends a stream on which nothing
// is heard any more.
func (sub *subscription) acknowledge() {
	interval := sub.l.n.cfg.HeartbeatInterval
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-sub.ctx.Done():
			return
		case <-sub.acks:
		case <-tick.C:
		}
		sub.mu.Lock()
		quiet := sub.l.n.now().Sub(sub.heard)
		sub.mu.Unlock()
		if quiet > max(silence*interval, minSilence) {
			sub.tell(Event{Kind: Disconnected, Reason: fmt.Sprintf("nothing was heard from the primary for %v", quiet.Round(time.Millisecond))})
			return
		}
		// An error shows at the receiver, with its reason.
		if sub.stream.Send(&pb.FromSecondary{Message: &pb.FromSecondary_Ack{Ack: encodeAck(sub.ackNow())}}) != nil {
			return
		}
	}
}

// minSilence is the shortest silence that ends a stream, however fast heartbeats are.
const minSilence = 3 * time.Second

func (sub *subscription) ackNow() *ack {
	l := sub.l
	link := l.n.link[l.kind].get()
	trust, authority := sub.trust()
	a := &ack{
		Trust: trust, Authority: authority,
		State: link.Machine.Shown(), Reason: link.Machine.Reason, APIAddr: l.n.cfg.APIAddr, ClusterAddr: l.n.cfg.ClusterAddr,
		Clock: l.n.now().UnixNano(),
		Sync: syncFigures{
			DiffBytes: link.DiffBytes, SyncBytes: link.SyncBytes, KeysFixed: l.keysFixed.Load(), Rounds: l.rounds.Load(),
		},
	}
	if l.syncing() != nil {
		a.Durable = l.e.SpoolEnd()
	} else {
		a.Durable = l.place()
		a.Applied = a.Durable
	}
	sub.mu.Lock()
	defer sub.mu.Unlock()
	a.Heard = sub.clock
	if !sub.verified.IsZero() && l.e.SyncState() == nil {
		root := sub.root
		a.Applied, a.Root = sub.verified, &root
	}
	return a
}
