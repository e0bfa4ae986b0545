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
// connection and call), for each set in which this cluster is a secondary one life (follow), and one keeper of holds; it returns after all have ended.
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
	for _, k := range kinds {
		if set := n.set(k); set != nil && set.Mode == Secondary {
			wg.Go(func() { n.live(ctx, k) })
		}
	}
	wg.Go(func() { n.keepHolds(ctx) })
	wg.Go(func() { n.runReindex(ctx) })

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

// live is a secondary's life in one set: follow, again after each Recover, until ctx ends. After a life that ended by itself it waits for Recover.
func (n *Node) live(ctx context.Context, k Kind) {
	log := n.log.With("set", string(k))
	for ctx.Err() == nil {
		life, end := context.WithCancelCause(ctx)
		n.mu.Lock()
		n.restart[k] = end
		n.mu.Unlock()
		n.link[k].update(func(l *linkState) { l.Started = n.now() })
		err := n.follow(life, k)
		if ctx.Err() == nil && !errors.Is(context.Cause(life), errRecover) {
			if n.Revoked(k) {
				log.Error("the primary revoked this secondary; POST sys/replication/"+string(k)+"/secondary/enable with a new activation token enrols it again", "error", err)
			} else {
				log.Error("the subscription ended; POST sys/replication/recover starts it again", "error", err)
			}
			n.link[k].update(func(l *linkState) {
				if l.Machine.Name != StateIdle {
					l.Machine = State{Name: StateIdle, Reason: plain(err)}
				}
			})
			<-life.Done()
		}
		end(nil)
	}
}
