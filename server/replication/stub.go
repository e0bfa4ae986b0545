package replication

import (
	"context"

	"google.golang.org/grpc"
)

// Until the stream server and the client loop exist.

func (n *Node) registerServices(s *grpc.Server) {}

func (n *Node) follow(ctx context.Context, k Kind) error { <-ctx.Done(); return context.Cause(ctx) }

// Forward sends a request to the primary and waits, 2 s at most, until this cluster has passed the index that it committed; late says that it has not.
func (n *Node) Forward(ctx context.Context, f *Forwarded) (answer *ForwardedAnswer, late bool, err error) {
	return nil, false, ErrUnreachable
}
