package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

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
		}, drop: func() { conn.Close() }}
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
		}, drop: sub.close}
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
	if due, err := l.resyncDue(); kind == Continue && (err != nil || due != "") {
		l.happen(Event{Kind: CoverageChanged, Reason: orElse(due, "what this cluster leaves out cannot be read")})
	}
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
		}, drop: sub.close}
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
		return Event{Kind: Failed, Reason: plain(err) + ": upgrade this cluster"}
	case errors.Is(err, engine.ErrPoisoned), errors.Is(err, archive.ErrNoRoom):
		return Event{Kind: Failed, Reason: err.Error()}
	case status.Code(err) == codes.PermissionDenied:
		return Event{Kind: Revoked, Reason: plain(err)}
	case errors.Is(err, errCertificateRefused):
		return Event{Kind: Revoked, Reason: errCertificateRefused.Error()}
	}
	return Event{Kind: Disconnected, Reason: plain(err)}
}
