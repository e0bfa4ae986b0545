package replication

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/server/engine"
)

// meddler is the primary's own service behind the primary's own TLS, with hands on every message of a stream and every reply of a sync.
type meddler struct {
	*service
	mu     sync.Mutex                                                // guards what follows
	down   func(n int, m *pb.FromPrimary) ([]*pb.FromPrimary, error) // n counts the messages of a stream
	up     func(m *pb.FromSecondary)
	reply  func(m any)
	before func(ctx context.Context, call string)
}

// meddle puts a meddler between the primary and the secondaries behind a proxy.
func (c *cluster) meddle(p *proxy) *meddler {
	t := c.t
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	m := &meddler{service: &service{n: c.n, log: c.n.log, current: map[string]*feeder{}, shown: map[string][]engine.Reign{}}}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(c.n.serverTLS())), grpc.MaxRecvMsgSize(maxMessage), grpc.InitialWindowSize(windowSize), grpc.InitialConnWindowSize(windowSize))
	pb.RegisterReplicationServer(s, m)
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(l) })
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	p.retarget(l.Addr().String())
	return m
}

func (m *meddler) set(change func(m *meddler)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

func (m *meddler) get() meddler {
	m.mu.Lock()
	defer m.mu.Unlock()
	return meddler{down: m.down, up: m.up, reply: m.reply, before: m.before}
}

func (m *meddler) Stream(s grpc.BidiStreamingServer[pb.FromSecondary, pb.FromPrimary]) error {
	return m.service.Stream(&meddledStream{BidiStreamingServer: s, m: m})
}

type meddledStream struct {
	grpc.BidiStreamingServer[pb.FromSecondary, pb.FromPrimary]
	m *meddler
	n int
}

func (s *meddledStream) Send(m *pb.FromPrimary) error {
	down := s.m.get().down
	if down == nil {
		return s.BidiStreamingServer.Send(m)
	}
	out, err := down(s.n, m)
	s.n++
	for _, o := range out {
		if err := s.BidiStreamingServer.Send(o); err != nil {
			return err
		}
	}
	return err
}

func (s *meddledStream) Recv() (*pb.FromSecondary, error) {
	m, err := s.BidiStreamingServer.Recv()
	if up := s.m.get().up; up != nil && err == nil {
		up(m)
	}
	return m, err
}

func (m *meddler) saw(reply any) {
	if see := m.get().reply; see != nil {
		see(reply)
	}
}

func (m *meddler) call(ctx context.Context, name string) {
	if before := m.get().before; before != nil {
		before(ctx, name)
	}
}

func (m *meddler) Split(ctx context.Context, in *pb.SplitRequest) (*pb.SplitReply, error) {
	m.call(ctx, "Split")
	out, err := m.service.Split(ctx, in)
	m.saw(out)
	return out, err
}

func (m *meddler) Items(in *pb.ItemsRequest, s grpc.ServerStreamingServer[pb.ItemsReply]) error {
	m.call(s.Context(), "Items")
	return m.service.Items(in, &seen[pb.ItemsReply]{s, m})
}

func (m *meddler) Records(in *pb.RecordsRequest, s grpc.ServerStreamingServer[pb.RecordsReply]) error {
	m.call(s.Context(), "Records")
	return m.service.Records(in, &seen[pb.RecordsReply]{s, m})
}

type seen[T any] struct {
	grpc.ServerStreamingServer[T]
	m *meddler
}

func (s *seen[T]) Send(r *T) error {
	s.m.saw(r)
	return s.ServerStreamingServer.Send(r)
}

func (p *proxy) retarget(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = addr
}
