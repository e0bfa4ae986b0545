package replication

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// errRecover is the cause with which Recover restarts a secondary's life.
var errRecover = errors.New("an operator asked to recover")

// stopTime is how long calls under way may take to end when a node stops.
const stopTime = 5 * time.Second

// Run serves the cluster port and the secondary's subscription until ctx ends. It starts: the gRPC server (and, in it, one goroutine for each
// connection and call), for each set in which this cluster is a secondary one life (follow) and one herald, and one keeper of holds and one of CAs; it returns after all have
// ended.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()

	if n.cfg.ClusterBind != "" {
		l, err := net.Listen("tcp", n.cfg.ClusterBind)
		if err != nil {
			return fmt.Errorf("listening on the cluster port: %w", err)
		}
		n.setListener(newClientListener(l))
		s := n.newServer()
		wg.Go(func() {
			if err := s.Serve(n.clients); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("serving the cluster port: %w", err))
			}
		})
		wg.Go(func() {
			<-ctx.Done()
			n.streams.cutAll(errStopping)
			stopServer(s)
			n.feeding.Wait()
		})
	}
	wg.Go(func() {
		n.resume(ctx)
		for _, k := range kinds {
			wg.Go(func() { n.live(ctx, k) })
		}
	})
	for _, k := range kinds {
		wg.Go(func() { n.heralds(ctx, k) })
	}
	wg.Go(func() { n.keepHolds(ctx) })
	wg.Go(func() { n.watchCertificates(ctx) })
	wg.Go(func() { n.runReindex(ctx) })
	wg.Go(func() { n.keepAuthorities(ctx) })

	<-ctx.Done()
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// ClusterListenAddr returns the address that the cluster port listens on, empty before Run listens.
func (n *Node) ClusterListenAddr() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.clients == nil {
		return ""
	}
	return n.clients.Addr().String()
}

func (n *Node) setListener(l *clientListener) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clients = l
}

// stopServer lets calls end for a while, then ends them.
func stopServer(s *grpc.Server) {
	t := time.AfterFunc(stopTime, s.Stop)
	defer t.Stop()
	s.GracefulStop()
}
