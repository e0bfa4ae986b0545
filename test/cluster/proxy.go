package cluster

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Proxy passes TCP connections on to a server and counts the bytes: what went
// over the wire, by a witness outside the product. It can cut, hold up and
// delay what passes.
type Proxy struct {
	Address string // host:port that it listens on

	listener net.Listener
	down, up atomic.Int64 // bytes from and to the server
	limit    atomic.Int64 // of down: then all is cut; 0: none
	all      sync.WaitGroup

	mu     sync.Mutex
	target string
	conns  map[net.Conn]bool
	cut    bool
	held   [directions]chan struct{} // while a direction is held up: closed when it goes on
	delay  time.Duration
}

// Direction is the way of bytes through a proxy.
type Direction int

// The directions.
const (
	FromServer Direction = iota
	ToServer
	directions = 2
)

// NewProxy listens on a free port; Serve tells where connections go.
func NewProxy(t testing.TB) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", freePorts(t)))
	for range 9 { // somebody else can take a port in the moment after it was found free
		if err == nil {
			break
		}
		l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", freePorts(t)))
	}
	if err != nil {
		t.Fatalf("proxy: %v", err)
	}
	p := &Proxy{Address: l.Addr().String(), listener: l, conns: map[net.Conn]bool{}}
	t.Cleanup(func() {
		p.listener.Close()
		p.Cut()
		p.all.Wait()
	})
	return p
}

// Serve passes connections on to target from now on; call it once.
func (p *Proxy) Serve(target string) {
	p.Redirect(target)
	p.all.Go(p.accept)
}

// Redirect passes new connections on to another target, and ends those that there are: as when an address moves to another machine.
func (p *Proxy) Redirect(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
	for c := range p.conns {
		c.Close()
	}
}

func (p *Proxy) destination() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.target
}

// FromServer returns the bytes that the server has sent through the proxy.
func (p *Proxy) FromServer() int64 { return p.down.Load() }

// ToServer returns the bytes that were sent to the server.
func (p *Proxy) ToServer() int64 { return p.up.Load() }

// Cut ends all connections and refuses new ones until Mend.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for c := range p.conns {
		c.Close()
	}
	p.goOnLocked()
}

// CutAfter cuts when the server has sent so many bytes more.
func (p *Proxy) CutAfter(bytes int64) { p.limit.Store(p.down.Load() + bytes) }

// Hold lets nothing pass in the directions given until Mend, and ends no connection: each end sees a peer that is silent. What was held goes on then,
// as on a network whose packets are sent again.
func (p *Proxy) Hold(ways ...Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range ways {
		if p.held[w] == nil {
			p.held[w] = make(chan struct{})
		}
	}
}

// Delay lets each piece of what passes wait for so long, until Mend.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Mend lets everything through again.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.delay = false, 0
	p.goOnLocked()
}

func (p *Proxy) goOnLocked() {
	for w, held := range p.held {
		if held != nil {
			close(held)
			p.held[w] = nil
		}
	}
}

// pass waits until a piece may go on.
func (p *Proxy) pass(w Direction) {
	for {
		p.mu.Lock()
		held, delay := p.held[w], p.delay
		p.mu.Unlock()
		if held == nil {
			time.Sleep(delay)
			return
		}
		<-held
	}
}

const wireBuffer = 64 << 10 // bytes

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.all.Go(func() { p.serve(c) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.destination())
	if err != nil {
		return
	}
	defer server.Close()
	if !p.hold(client, server) {
		return
	}
	defer p.release(client, server)
	// What the kernel would buffer for a dead peer was never on a real wire.
	for _, c := range []net.Conn{client, server} {
		_ = c.(*net.TCPConn).SetReadBuffer(wireBuffer)
		_ = c.(*net.TCPConn).SetWriteBuffer(wireBuffer)
	}
	var both sync.WaitGroup
	pass := func(w Direction, to, from net.Conn, count *atomic.Int64) {
		_, _ = io.Copy(counted{to, count, func() { p.pass(w) }, p.spent}, from)
		to.Close()
		from.Close()
	}
	both.Go(func() { pass(FromServer, client, server, &p.down) })
	both.Go(func() { pass(ToServer, server, client, &p.up) })
	both.Wait()
}

func (p *Proxy) hold(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		return false
	}
	for _, c := range conns {
		p.conns[c] = true
	}
	return true
}

func (p *Proxy) release(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.conns, c)
	}
}

// counted counts what is written. It hides the connection's own ways of
// copying, which would pass bytes by the count.
type counted struct {
	io.Writer
	count *atomic.Int64
	pass  func() // waits until a piece may go on
	spent func() // is told of each piece that went
}

func (c counted) Write(b []byte) (int, error) {
	c.pass()
	n, err := c.Writer.Write(b)
	c.count.Add(int64(n))
	c.spent()
	return n, err
}

// spent cuts when the limit is reached, once.
func (p *Proxy) spent() {
	if limit := p.limit.Load(); limit > 0 && p.down.Load() >= limit && p.limit.CompareAndSwap(limit, 0) {
		p.Cut()
	}
}
