package server

import (
	"net"
	"sync"
	"sync/atomic"

	"github.com/lockstepdb/lockstep/server/vault"
)

// listenerStats is what sys/metrics shows of the API's listener.
func (n *node) listenerStats() vault.ListenerStats {
	s := vault.ListenerStats{Connections: n.open.Load(), Refused: n.limited.Load()}
	if n.cert != nil {
		s.CertEnds = n.cert.pair.Load().Leaf.NotAfter
	}
	return s
}

// countingListener counts the connections that are open.
type countingListener struct {
	net.Listener
	open *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Add(1)
	return &openConn{Conn: c, closed: sync.OnceFunc(func() { l.open.Add(-1) })}, nil
}

type openConn struct {
	net.Conn
	closed func()
}

func (c *openConn) Close() error {
	c.closed()
	return c.Conn.Close()
}
