package replication

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// Limits of the cluster port.
const (
	windowSize       = 16 << 20 // both HTTP/2 windows
	maxMessage       = 64 << 20 // a frame of one largest entry fits
	maxConnections   = 512      // accepted and not yet closed
	handshakeTime    = 5 * time.Second
	dialTime         = 5 * time.Second // for each address
	keepaliveTime    = 15 * time.Second
	keepaliveTimeout = 5 * time.Second
	maxStreams       = 64 // at once on one connection
)

func sha256Sum(b []byte) [32]byte { return sha256.Sum256(b) }

// newServer makes the gRPC server of the cluster port.
func (n *Node) newServer() *grpc.Server {
	s := grpc.NewServer(append(n.meters.serverOptions(),
		grpc.Creds(credentials.NewTLS(n.serverTLS())),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.InitialWindowSize(windowSize),
		grpc.InitialConnWindowSize(windowSize),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)...)
	n.registerServices(s)
	return s
}

// dial connects to the primary for one purpose: the known cluster addresses in order, mutual TLS pinned to the set's trust bundle. The
// connection it returns is ready. The caller closes it; after a disconnection it dials anew, as the addresses may have changed. When every address
// refuses the certificate the error is errCertificateRefused, else it wraps ErrUnreachable.
func (n *Node) dial(ctx context.Context, k Kind, purpose string) (*grpc.ClientConn, error) {
	set := n.set(k)
	if set == nil || set.Mode != Secondary {
		return nil, fmt.Errorf("this cluster is no %s secondary", k)
	}
	if len(set.Primaries) == 0 {
		return nil, fmt.Errorf("%w: no cluster address of the %s primary is known", ErrUnreachable, k)
	}
	var all error
	everyoneRefused := true
	for _, addr := range set.Primaries {
		conn, err := n.dialOne(ctx, k, purpose, addr)
		if err == nil {
			n.link[k].update(func(l *linkState) { l.DialError = "" })
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		everyoneRefused = everyoneRefused && errors.Is(err, errCertificateRefused)
		all = errors.Join(all, fmt.Errorf("%s: %w", addr, err))
	}
	for _, addr := range set.Failover {
		if slices.Contains(set.Primaries, addr) {
			continue
		}
		if conn, err := n.dialOne(ctx, k, purpose, addr); err == nil {
			n.link[k].update(func(l *linkState) { l.DialError = "" })
			n.foundSuccessor(k, addr)
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	n.link[k].update(func(l *linkState) { l.DialError = all.Error() })
	if everyoneRefused {
		return nil, errCertificateRefused
	}
	return nil, fmt.Errorf("%w: %v", ErrUnreachable, all)
}

func (n *Node) dialOne(ctx context.Context, k Kind, purpose, addr string) (*grpc.ClientConn, error) {
	cfg, err := n.clientTLS(k, purpose)
	if err != nil {
		return nil, err
	}
	conn, err := n.dialWith(ctx, cfg, addr)
	if err != nil {
		return nil, refusalOf(k, err)
	}
	return conn, nil
}

// dialWith connects to a cluster port; the connection it returns is ready.
func (n *Node) dialWith(ctx context.Context, cfg *tls.Config, addr string) (*grpc.ClientConn, error) {
	hp, ok := hostPort(addr)
	if !ok {
		return nil, errors.New("not an address")
	}
	last := &lastError{}
	conn, err := grpc.NewClient("passthrough:///"+hp, append(n.meters.dialOptions(),
		grpc.WithTransportCredentials(&reportingCreds{TransportCredentials: credentials.NewTLS(cfg), last: last}),
		grpc.WithAuthority(cfg.ServerName),
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", target)
			last.set(err)
			return c, err
		}),
		grpc.WithInitialWindowSize(windowSize),
		grpc.WithInitialConnWindowSize(windowSize),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second}, MinConnectTimeout: dialTime}),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
	)...)
	if err != nil {
		return nil, err
	}
	if err := awaitReady(ctx, conn, last); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// awaitReady connects and waits until the connection is ready or its first attempt failed.
func awaitReady(ctx context.Context, conn *grpc.ClientConn, last *lastError) error {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	conn.Connect()
	for {
		s := conn.GetState()
		switch s {
		case connectivity.Ready:
			return nil
		case connectivity.TransientFailure, connectivity.Shutdown:
			if err := last.get(); err != nil {
				return err
			}
			return errors.New("the connection failed")
		}
		if !conn.WaitForStateChange(ctx, s) {
			return errors.Join(fmt.Errorf("no connection within %v", dialTime), last.get())
		}
	}
}

// reportingCreds remembers why a handshake failed: gRPC itself tells only the state.
type reportingCreds struct {
	credentials.TransportCredentials
	last *lastError
}

func (c *reportingCreds) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ClientHandshake(ctx, authority, raw)
	c.last.set(err)
	if err != nil {
		return nil, nil, err
	}
	return &reportingConn{Conn: conn, last: c.last}, info, nil
}

// reportingConn remembers why reading failed: in TLS 1.3 the server's verdict on the client's certificate comes after the client's handshake.
type reportingConn struct {
	net.Conn
	last *lastError
}

func (c *reportingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.last.set(err)
	}
	return n, err
}

func (c *reportingCreds) Clone() credentials.TransportCredentials {
	return &reportingCreds{TransportCredentials: c.TransportCredentials.Clone(), last: c.last}
}

type lastError struct {
	mu  sync.Mutex // guards err
	err error
}

func (l *lastError) set(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *lastError) get() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// clientListener bounds how many connections are open at once, and closes those above the limit.
type clientListener struct {
	net.Listener
	slots chan struct{}
}

func newClientListener(l net.Listener) *clientListener {
	return &clientListener{Listener: l, slots: make(chan struct{}, maxConnections)}
}

func (l *clientListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &countedConn{Conn: c, release: sync.OnceFunc(func() { <-l.slots })}, nil
		default:
			c.Close()
		}
	}
}

type countedConn struct {
	net.Conn
	release func()
}

func (c *countedConn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}
