package replication

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

// follow is a secondary's life in one set: it turns the world into events for Step, and Step's actions into calls, until ctx ends or
// the machine stops; the error then says why. One goroutine owns the machine; what it starts belongs to a session (one connection)
// or a subscription (one stream), and has ended when that is closed.
func (n *Node) follow(ctx context.Context, k Kind) error {
	set := n.set(k)
	if set == nil || set.Mode != Secondary {
		return fmt.Errorf("this cluster is no %s secondary", k)
	}
	l := &life{
		n: n, e: n.engine, kind: k, ctx: ctx, log: n.log.Named("secondary").With("set", string(k)),
		state: State{Name: StateDisabled}, events: make(chan happened), timer: time.NewTimer(time.Hour),
	}
	l.timer.Stop()
	defer l.timer.Stop()
	defer l.closeSession()
	if k == Performance {
		defer n.forward.close()
	}
	l.happen(Event{Kind: Enabled, Empty: !set.Joined, Syncing: l.syncing() != nil})
	for l.stopped == "" {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case h := <-l.events:
			l.handle(h)
		case <-l.timer.C:
			l.happen(Event{Kind: TimerFired})
		case d := <-l.e.Damaged():
			l.log.Error("damage was found; it will be repaired from the primary", "error", &d)
			l.happen(Event{Kind: DamageFound, Reason: fmt.Sprintf("keyspace %s: %s", d.Keyspace, d.What)})
		}
	}
	return errors.New(l.stopped)
}

// life is what one run of follow knows. Its fields belong to the goroutine of follow unless they say otherwise.
type life struct {
	n    *Node
	e    *engine.Engine
	kind Kind
	log  hclog.Logger
	// ctx ends with the role: commits under way are not cut by a lost connection, so that the next hello says the place they reach.
	ctx context.Context

	state   State
	events  chan happened
	session *session
	timer   *time.Timer
	stopped string // why the machine stopped
	fails   int    // subscriptions in a row that ended without progress
	force   bool   // roots differ although a sync has all its ranges: it is not continued, another begins

	progress  atomic.Bool // something became durable since the last subscription ended; any goroutine
	keysFixed atomic.Uint64
	rounds    atomic.Uint64
}

// happened is an event, or work for the goroutine of follow, with the context of what it comes from: from what has been closed it no longer counts.
type happened struct {
	from  context.Context
	event Event
	do    func()
}

func (l *life) handle(h happened) {
	switch {
	case h.from.Err() != nil:
	case h.do != nil:
		h.do()
	default:
		l.happen(h.event)
	}
}

// tell hands an event to the machine; false: what it comes from has been closed.
func (l *life) tell(from context.Context, e Event) bool {
	return l.hand(happened{from: from, event: e})
}

func (l *life) hand(h happened) bool {
	select {
	case l.events <- h:
		return true
	case <-h.from.Done():
		return false
	case <-l.ctx.Done():
		return false
	}
}

// happen takes one step of the machine and does what it asks for.
func (l *life) happen(e Event) {
	if e.Kind == Disconnected && l.session != nil && l.session.sub != nil {
		if l.fails++; l.progress.Swap(false) {
			l.fails = 1
		}
	}
	if e.Kind == Diverged {
		l.force = true
	}
	before := l.state
	next, actions := Step(before, e)
	l.state = next
	l.n.link[l.kind].update(func(s *linkState) { s.Machine = next })
	l.note(before, e)
	for _, a := range actions {
		l.do(a)
	}
}

// note writes one line for a change of state, and for what interrupted.
func (l *life) note(before State, e Event) {
	switch {
	case before.Name != l.state.Name:
		reason := e.Reason
		if l.state.Name == StateMerkleDiff || l.state.Name == StateMerkleSync {
			reason = orElse(reason, l.state.Cause)
		}
		l.log.Info("transitioning state", "from", string(before.Name), "state", string(l.state.Name), "event", string(e.Kind), "reason", reason)
	case e.Kind == Disconnected:
		l.log.Warn("the primary cannot be followed at present", "error", e.Reason)
	}
}

func (l *life) do(a Action) {
	switch a.Kind {
	case DoConnect:
		l.connect()
	case DoHello:
		l.greet()
	case DoStream:
		l.session.sub.apply()
	case DoDiff:
		l.diff(a.Reason)
	case DoResumeSync:
		l.session.sub.resume()
	case DoSync: // the comparison goes on and receives what differs: nothing to start
	case DoReindex:
		l.reindex()
	case DoRewind:
		l.session.tell(Event{Kind: Failed, Reason: "this version cannot take back entries that the primary does not have (" + a.Reason +
			"): " + anew + ", then enable it as a secondary with a new activation token"})
	case DoBackOff:
		l.timer.Reset(Delay(min(max(a.N, l.fails), maxAttempt), rand.Float64()))
	case DoDisconnect:
		l.closeSession()
	case DoFence:
		l.log.Error("this cluster must not write for its set any more", "reason", a.Reason)
	case DoStop:
		l.stopped = orElse(a.Reason, "stopped")
	case DoCount:
		l.n.link[l.kind].update(func(s *linkState) { s.Resumes.count(a.Answer) })
	case DoFault:
		l.log.Error("the role machine was given what cannot happen", "error", a.Err)
	}
}

// syncing returns the sync of this set that has not ended, nil when there is none.
func (l *life) syncing() *syncPlace {
	s := l.e.SyncState()
	if s == nil || s.Set != string(l.kind) {
		return nil
	}
	return &syncPlace{From: s.From, Until: s.Until, SpoolEnd: l.e.SpoolEnd()}
}

// ---- sessions

// session is one connection to the primary.
type session struct {
	l      *life
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	conn   *grpc.ClientConn
	sub    *subscription // the open stream; the goroutine of follow sets it
}

func (s *session) tell(e Event) {
	s.wg.Go(func() { s.l.tell(s.ctx, e) })
}

func (l *life) connect() {
	l.closeSession()
	s := &session{l: l}
	s.ctx, s.cancel = context.WithCancel(l.ctx)
	l.session = s
	l.connection("connecting")
	s.wg.Go(func() {
		conn, err := l.n.dial(s.ctx, l.kind, purposeStream)
		if err != nil {
			l.connection("transient_failure")
			l.tell(s.ctx, failure(err))
			return
		}
		connected := happened{from: s.ctx, do: func() {
			s.conn = conn
			l.connection("ready")
			l.happen(Event{Kind: Connected})
		}}
		if !l.hand(connected) {
			conn.Close()
		}
	})
}

func (l *life) connection(state string) {
	l.n.link[l.kind].update(func(s *linkState) { s.Connection = state })
}

func (l *life) closeSession() {
	s := l.session
	if s == nil {
		return
	}
	l.session = nil
	s.closeSub()
	s.cancel()
	s.wg.Wait()
	if s.conn != nil {
		s.conn.Close()
	}
	l.connection("idle")
}

func (s *session) closeSub() {
	if s.sub != nil {
		s.sub.close()
		s.sub = nil
	}
}

// greet says hello and hands the primary's answer to the machine.
func (l *life) greet() {
	s := l.session
	cause := ""
	if l.state.NeedsDiff {
		cause = orElse(l.state.Cause, "ranges are to be compared")
	}
	force := l.force
	s.wg.Go(func() {
		sub, err := s.open(cause, force)
		if err != nil {
			l.tell(s.ctx, failure(err))
			return
		}
		answered := happened{from: s.ctx, do: func() {
			s.sub = sub
			l.answered(sub)
		}}
		if !l.hand(answered) {
			sub.close()
		}
	})
}

func (l *life) answered(sub *subscription) {
	a := sub.answer
	kind := answerKind(a.Kind)
	if kind != Continue && kind != Repair && kind != Bootstrap {
		l.n.link[l.kind].update(func(s *linkState) { s.LastRefusal = a.Reason })
	} else {
		l.session.keepCertificate()
	}
	l.happen(Event{Kind: Answered, Answer: kind, Reason: a.Reason})
}

func (s *session) keepCertificate() {
	l := s.l
	s.wg.Go(func() {
		l.n.renewCertificate(s.ctx, l.kind, func(ctx context.Context, requestPEM []byte) ([]byte, error) {
			out, err := pb.NewReplicationClient(s.conn).Renew(ctx, &pb.RenewRequest{Kind: string(l.kind), Request: requestPEM})
			return out.GetCertificate(), err
		})
	})
}

// diff subscribes at the feeder's S, unless the answer to the hello did so already, and starts the comparison.
func (l *life) diff(cause string) {
	l.n.link[l.kind].update(func(s *linkState) { s.DiffReason = cause })
	s := l.session
	if s.sub != nil && s.sub.synced() {
		s.sub.sync()
		return
	}
	s.closeSub()
	force := l.force
	s.wg.Go(func() {
		sub, err := s.open(orElse(cause, "ranges are to be compared"), force)
		if err != nil {
			l.tell(s.ctx, failure(err))
			return
		}
		begun := happened{from: s.ctx, do: func() {
			s.sub = sub
			if !sub.synced() {
				l.happen(Event{Kind: Disconnected, Reason: "the primary did not agree to a sync: " + orElse(sub.answer.Reason, sub.answer.Kind.String())})
				return
			}
			sub.sync()
		}}
		if !l.hand(begun) {
			sub.close()
		}
	})
}

// reindex rebuilds the index from the records, without a stream.
func (l *life) reindex() {
	s := l.session
	if s == nil { // damage was found while there is no connection: the machine asks again after the next answer
		return
	}
	s.closeSub()
	s.wg.Go(func() {
		l.log.Info("rebuilding the index from the records")
		wrong, err := l.e.Reindex(s.ctx, nil)
		if err != nil {
			if s.ctx.Err() == nil {
				l.tell(s.ctx, Event{Kind: Failed, Reason: fmt.Sprintf("rebuilding the index: %v", err)})
			}
			return
		}
		l.log.Info("the index was rebuilt", "wrong", wrong)
		l.tell(s.ctx, Event{Kind: Reindexed})
	})
}

// failure turns an error of a connection or stream into an event.
func failure(err error) Event {
	var version *wal.VersionError
	switch {
	case errors.As(err, &version):
		return Event{Kind: Failed, Reason: err.Error() + ": upgrade this cluster"}
	case errors.Is(err, engine.ErrPoisoned):
		return Event{Kind: Failed, Reason: err.Error()}
	case status.Code(err) == codes.PermissionDenied:
		return Event{Kind: Revoked, Reason: status.Convert(err).Message()}
	case errors.Is(err, errCertificateRefused):
		return Event{Kind: Revoked, Reason: errCertificateRefused.Error()}
	}
	return Event{Kind: Disconnected, Reason: err.Error()}
}

// ---- hello

// hello says where this cluster is. cause asks for a sync although the place may be held; force, for another one than that which is under way.
func (l *life) hello(cause string, force bool) (*hello, error) {
	n, e := l.n, l.e
	set := n.set(l.kind)
	if set == nil {
		return nil, fmt.Errorf("this cluster is no %s secondary any more", l.kind)
	}
	seen, err := n.seen(l.kind)
	if err != nil {
		return nil, err
	}
	id := e.Identity()
	h := &hello{
		Kind: l.kind, Set: set.Set, ClusterID: id.ClusterID, ClusterName: id.ClusterName, Software: n.cfg.Version,
		APIAddr: n.cfg.APIAddr, ClusterAddr: n.cfg.ClusterAddr, History: e.History(), Seen: seen, Repair: orElse(cause, e.NeedsRepair()),
		Window: limits{}.orDefault(),
	}
	if len(h.History) > 0 {
		newest := h.History[len(h.History)-1]
		h.Ordinal, h.Fork = newest.Ordinal, newest.Fork
	}
	switch l.kind {
	case DR:
		h.Lineage, h.Position, h.Chain = id.Lineage, e.Position(), e.Chain()
	default:
		h.Position = e.Cursor(engine.Performance)
		if len(seen) > 0 {
			h.Lineage = seen[0].Lineage
		}
	}
	if s := l.syncing(); s != nil && !force {
		h.Sync, h.Position, h.Repair = s, s.SpoolEnd, ""
	}
	return h, nil
}

// acceptHistory takes a feeder's history into use: it must be the newest that this cluster has seen of the set. It is durable before anything of it is.
func (l *life) acceptHistory(h []engine.Reign) error {
	if len(h) == 0 {
		return malformed("a feeder without a history")
	}
	seen, err := l.n.seen(l.kind)
	if err != nil {
		return err
	}
	if r := compareHistories(seen, h); len(seen) > 0 && r != historyKnown {
		return fmt.Errorf("the primary's history (ordinal %d) is not the newest that this cluster has seen of the set (ordinal %d): nothing is taken from it",
			h[len(h)-1].Ordinal, seen[len(seen)-1].Ordinal)
	}
	if !sameHistory(seen, h) {
		if err := l.n.setSeen(l.kind, h); err != nil {
			return err
		}
	}
	if l.kind == DR && !sameHistory(l.e.History(), h) {
		if err := l.e.AdoptHistory(h); err != nil {
			return fmt.Errorf("adopting the primary's history: %w", err)
		}
	}
	return nil
}

func sameHistory(a, b []engine.Reign) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Fork != b[i].Fork || a[i].Start != b[i].Start || a[i].Ordinal != b[i].Ordinal {
			return false
		}
	}
	return true
}
