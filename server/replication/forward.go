package replication

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

const (
	forwardTime  = 30 * time.Second // for one request, when its client sets no limit of its own
	maxHeaders   = 64
	maxPolicies  = 256
	maxRequestID = 64
)

// forwarder keeps one connection for forwarded requests; it is dialled at the first, and again after it failed or was given up.
type forwarder struct {
	mu   sync.Mutex // guards conn and what is in it, and is held while it is dialled: others wait for the same connection
	conn *forwardConn
}

type forwardConn struct {
	*grpc.ClientConn
	users   int  // requests under way on it
	givenUp bool // closed with the last of them
}

// get returns the connection; the caller hands it back by put.
func (w *forwarder) get(ctx context.Context, dial func(context.Context) (*grpc.ClientConn, error)) (*forwardConn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil && w.conn.GetState() != connectivity.Ready {
		w.conn.Close()
		w.conn = nil
	}
	if w.conn == nil {
		conn, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		w.conn = &forwardConn{ClientConn: conn}
	}
	w.conn.users++
	return w.conn, nil
}

func (w *forwarder) put(c *forwardConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.users--; c.users == 0 && c.givenUp {
		c.Close()
	}
}

// giveUp lets no other request begin on a connection that the caller holds; those under way end.
func (w *forwarder) giveUp(c *forwardConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.givenUp = true
	if w.conn == c {
		w.conn = nil
	}
}

func (w *forwarder) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

// Forward sends a request to the primary and waits, Config.ForwardWait at most, until this cluster has passed the index that it committed; late says that it has not.
// When the primary cannot be asked the error wraps ErrUnreachable and nothing was executed; when it was lost after the request was sent, the error wraps
// engine.ErrOutcomeUnknown.
func (n *Node) Forward(ctx context.Context, f *Forwarded) (answer *ForwardedAnswer, late bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	seen, err := n.seen(Performance)
	if err != nil {
		return nil, false, err
	}
	told := *f
	told.Epochs = epochs(seen)
	out, err := n.forwardOn(ctx, encodeForwarded(&told))
	if status.Code(err) == codes.Unauthenticated { // refused before it was looked at: the connection is of a CA that was replaced
		out, err = n.forwardOn(ctx, encodeForwarded(&told))
	}
	if err != nil {
		return nil, false, err
	}
	if answer, err = decodeForwardedAnswer(out); err != nil {
		return nil, false, fmt.Errorf("the primary's answer to a forwarded request: %w", err)
	}
	if answer.Index == 0 {
		return answer, false, nil
	}
	wait, stop := context.WithTimeout(ctx, n.cfg.ForwardWait)
	defer stop()
	return answer, n.engine.Passed(wait, engine.Performance, answer.Index) != nil, nil
}

func (n *Node) forwardOn(ctx context.Context, in *pb.ForwardRequest) (*pb.ForwardReply, error) {
	conn, err := n.forward.get(ctx, func(ctx context.Context) (*grpc.ClientConn, error) {
		return n.dial(ctx, Performance, purposeForward)
	})
	if err != nil {
		return nil, asUnreachable(err)
	}
	defer n.forward.put(conn)
	var on grpcpeer.Peer // known as soon as the request has a connection
	out, err := pb.NewReplicationClient(conn).Forward(ctx, in, grpc.Peer(&on))
	if err == nil {
		return out, nil
	}
	if status.Code(err) == codes.Unauthenticated {
		n.forward.giveUp(conn)
	}
	return nil, forwardFailed(err, on.Addr != nil)
}

func asUnreachable(err error) error {
	if errors.Is(err, ErrUnreachable) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

func forwardFailed(err error, sent bool) error {
	err = plainly(err)
	if !sent {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	switch status.Code(err) { // finds the status that is wrapped
	case codes.InvalidArgument, codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition, codes.ResourceExhausted:
		return fmt.Errorf("%w: it refused a forwarded request: %w", ErrUnreachable, err)
	}
	return fmt.Errorf("%w: the primary was lost while it had a forwarded request: %w", engine.ErrOutcomeUnknown, err)
}

func encodeForwarded(f *Forwarded) *pb.ForwardRequest {
	return &pb.ForwardRequest{
		Method: f.Method, Path: f.Path, Query: f.Query, Header: encodeHeader(f.Header), Body: f.Body, RequestId: f.RequestID,
		Policies: f.Policies, DisplayName: f.DisplayName, Epochs: encodeHistory(f.Epochs),
	}
}

// decodeForwarded bounds a request of a secondary; who it comes from is what the certificate says.
func decodeForwarded(in *pb.ForwardRequest, p peer) (*Forwarded, error) {
	switch {
	case len(in.GetBody()) > storage.MaxValue:
		return nil, malformed("a body of %d bytes, more than %d", len(in.GetBody()), storage.MaxValue)
	case len(in.GetHeader()) > maxHeaders || len(in.GetPolicies()) > maxPolicies:
		return nil, malformed("%d headers and %d policies, more than %d and %d", len(in.GetHeader()), len(in.GetPolicies()), maxHeaders, maxPolicies)
	case len(in.GetRequestId()) > maxRequestID:
		return nil, malformed("a request id of %d bytes, more than %d", len(in.GetRequestId()), maxRequestID)
	case len(in.GetPath()) > 4*maxText || len(in.GetQuery()) > 4*maxText:
		return nil, malformed("a path or query of more than %d bytes", 4*maxText)
	}
	if err := checkText("a text of the request", append([]string{in.GetMethod(), in.GetDisplayName()}, in.GetPolicies()...)...); err != nil {
		return nil, err
	}
	header, err := decodeHeader(in.GetHeader())
	if err != nil {
		return nil, err
	}
	if len(in.GetEpochs()) > maxEpochs {
		return nil, malformed("the beginnings of %d epochs, more than %d", len(in.GetEpochs()), maxEpochs)
	}
	seen, err := decodeHistory(in.GetEpochs())
	if err != nil {
		return nil, err
	}
	return &Forwarded{
		Method: in.GetMethod(), Path: in.GetPath(), Query: in.GetQuery(), Header: header, Body: in.GetBody(), RequestID: in.GetRequestId(),
		Secondary: p.ID, Policies: in.GetPolicies(), DisplayName: in.GetDisplayName(), Epochs: seen,
	}, nil
}

func decodeForwardedAnswer(in *pb.ForwardReply) (*ForwardedAnswer, error) {
	if in.GetStatus() < 100 || in.GetStatus() > 599 {
		return nil, malformed("a status of %d", in.GetStatus())
	}
	if len(in.GetHeader()) > maxHeaders {
		return nil, malformed("%d headers, more than %d", len(in.GetHeader()), maxHeaders)
	}
	header, err := decodeHeader(in.GetHeader())
	if err != nil {
		return nil, err
	}
	return &ForwardedAnswer{Status: int(in.GetStatus()), Header: header, Body: in.GetBody(), Index: in.GetIndex()}, nil
}

func encodeHeader(h http.Header) []*pb.HeaderField {
	var out []*pb.HeaderField
	for name, values := range h {
		out = append(out, &pb.HeaderField{Name: name, Values: values})
	}
	return out
}

func decodeHeader(in []*pb.HeaderField) (http.Header, error) {
	h := http.Header{}
	for _, f := range in {
		if len(f.GetValues()) > maxHeaders {
			return nil, malformed("a header with %d values, more than %d", len(f.GetValues()), maxHeaders)
		}
		if err := checkText("a header", append([]string{f.GetName()}, f.GetValues()...)...); err != nil {
			return nil, err
		}
		for _, v := range f.GetValues() {
			h.Add(f.GetName(), v)
		}
	}
	return h, nil
}

// Forward implements pb.ReplicationServer.
func (s *service) Forward(ctx context.Context, in *pb.ForwardRequest) (*pb.ForwardReply, error) {
	p, err := s.n.caller(ctx)
	if err != nil {
		return nil, err
	}
	if p.Purpose != purposeForward || p.Kind != Performance {
		return nil, status.Error(codes.PermissionDenied, "requests are forwarded on a connection of their own, by performance secondaries")
	}
	if s.n.cfg.Handle == nil {
		return nil, status.Error(codes.Unavailable, "this primary takes no forwarded requests yet")
	}
	f, err := decodeForwarded(in, p)
	if err != nil {
		return nil, s.failed(p, err)
	}
	if err := s.n.meetEpochs(Performance, f.Epochs, teller{How: "a request that secondary " + p.ID + " forwarded"}); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	ctx, done := s.n.track(ctx, p)
	defer done()
	a := s.n.cfg.Handle(ctx, f)
	if a == nil {
		return nil, status.Error(codes.Internal, "the request was not answered")
	}
	return &pb.ForwardReply{Status: uint32(a.Status), Header: encodeHeader(a.Header), Body: a.Body, Index: a.Index}, nil
}

// Renew implements pb.ReplicationServer.
func (s *service) Renew(ctx context.Context, in *pb.RenewRequest) (*pb.RenewReply, error) {
	p, err := s.n.caller(ctx)
	if err != nil {
		return nil, err
	}
	if string(p.Kind) != in.GetKind() || p.Purpose != purposeStream {
		return nil, status.Error(codes.PermissionDenied, "a certificate is renewed on the connection of its own stream")
	}
	if len(in.GetRequest()) > maxPEM {
		return nil, status.Errorf(codes.InvalidArgument, "a certificate request of %d bytes, more than %d", len(in.GetRequest()), maxPEM)
	}
	cert, err := s.n.renew(ctx, p, in.GetRequest())
	if err != nil {
		var refused *Refused
		if errors.As(err, &refused) {
			return nil, status.Error(codes.InvalidArgument, refused.Reason)
		}
		return nil, s.failed(p, err)
	}
	return &pb.RenewReply{Certificate: cert}, nil
}
