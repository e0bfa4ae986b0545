package replication

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/lockstepdb/lockstep/internal/meter"
)

// Meters are the times of calls on the cluster port, by the name of the call, and of comparing, since the node was made. All may be read while they are
// written. A stream's time is its life.
type Meters struct {
	Served map[string]*meter.Summary // answered as a primary
	Called map[string]*meter.Summary // made as a secondary
	Diff   meter.Summary             // comparing with the primary, and fetching what differs beside it
}

// callNames are the calls of the protocol.
var callNames = []string{"Stream", "Split", "Items", "Records", "Forward", "Renew"}

// NewMeters makes meters that have counted nothing.
func NewMeters() *Meters {
	m := &Meters{Served: map[string]*meter.Summary{}, Called: map[string]*meter.Summary{}}
	for _, name := range callNames {
		m.Served[name], m.Called[name] = new(meter.Summary), new(meter.Summary)
	}
	return m
}

// Meters returns the node's meters.
func (n *Node) Meters() *Meters { return n.meters }

// observe counts a call by its full name; one that is not of the protocol is not counted, for its name comes from outside.
func observe(calls map[string]*meter.Summary, full string, began time.Time) {
	if s := calls[full[strings.LastIndexByte(full, '/')+1:]]; s != nil {
		s.Since(began)
	}
}

func (m *Meters) serverOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			defer observe(m.Served, info.FullMethod, time.Now())
			return handle(ctx, request)
		}),
		grpc.StreamInterceptor(func(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			defer observe(m.Served, info.FullMethod, time.Now())
			return handle(service, stream)
		}),
	}
}

func (m *Meters) dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			defer observe(m.Called, method, time.Now())
			return invoke(ctx, method, request, reply, conn, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			began := time.Now()
			stream, err := open(ctx, desc, conn, method, opts...)
			if err != nil {
				observe(m.Called, method, began)
				return nil, err
			}
			context.AfterFunc(stream.Context(), func() { observe(m.Called, method, began) })
			return stream, nil
		}),
	}
}
