// Package link stands between two servers as a network does: it passes TCP connections on after a delay, at a limited
// rate, and lets some of what passes arrive late as if a packet had been lost and sent again.
//
// A loss holds up what comes behind it for one round trip, as TCP's order demands. What TCP does besides, sending more
// slowly for a while, is not imitated.
package link

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Quality is what a link is like; the zero value passes everything on at once.
type Quality struct {
	RoundTrip time.Duration
	Rate      float64 // bytes a second, in each direction; 0: no limit
	Loss      float64 // share of packets that must be sent again
}

const (
	packet  = 1460     // bytes
	chunk   = 16 << 10 // what is passed on at once
	inside  = 512      // chunks on their way at most, in each direction: 8 MiB
	sockets = 64 << 10 // buffers of the sockets: what waits in them was not on the link yet
)

// Link listens on an address and passes connections on to another.
type Link struct {
	Address string // host:port

	listener net.Listener
	all      sync.WaitGroup
	bytes    atomic.Int64

	mu      sync.Mutex
	target  string
	quality Quality
	cut     bool
	conns   map[net.Conn]bool
}

// Listen makes a link; Serve tells where it leads.
func Listen() (*Link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("make a link: %w", err)
	}
	return &Link{Address: l.Addr().String(), listener: l, conns: map[net.Conn]bool{}}, nil
}

// Serve passes connections on to target; call it once.
func (l *Link) Serve(target string) {
	l.target = target
	l.all.Go(func() {
		for {
			c, err := l.listener.Accept()
			if err != nil {
				return
			}
			l.all.Go(func() { l.pass(c) })
		}
	})
}

// Close ends the link and all that goes over it.
func (l *Link) Close() {
	l.listener.Close()
	l.Cut()
	l.all.Wait()
}

// Set changes what the link is like, for what is sent from now on.
func (l *Link) Set(q Quality) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quality = q
}

// Cut ends all connections and refuses new ones until Mend.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for c := range l.conns {
		c.Close()
	}
}

// Mend takes connections again.
func (l *Link) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
}

// Bytes returns how many went over the link, in both directions.
func (l *Link) Bytes() int64 { return l.bytes.Load() }

func (l *Link) pass(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	defer to.Close()
	if !l.hold(from, to) {
		return
	}
	defer l.release(from, to)
	var both sync.WaitGroup
	both.Go(func() { l.oneWay(to, from) })
	both.Go(func() { l.oneWay(from, to) })
	both.Wait()
}

func (l *Link) hold(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return false
	}
	for _, c := range conns {
		l.conns[c] = true
		_ = c.(*net.TCPConn).SetReadBuffer(sockets)
		_ = c.(*net.TCPConn).SetWriteBuffer(sockets)
	}
	return true
}

func (l *Link) release(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		delete(l.conns, c)
	}
}

// travelling is a piece on its way.
type travelling struct {
	bytes   []byte
	arrives time.Time
}

// oneWay passes one direction on; what is under way arrives although no more is sent.
func (l *Link) oneWay(to, from net.Conn) {
	way := make(chan travelling, inside)
	var arriving sync.WaitGroup
	arriving.Go(func() {
		defer func() { _ = to.(*net.TCPConn).CloseWrite() }()
		for p := range way {
			time.Sleep(time.Until(p.arrives))
			if _, err := to.Write(p.bytes); err != nil {
				_ = from.Close()
				for range way { // until the sender has noticed
				}
				return
			}
		}
	})
	var free time.Time // when the link has sent all that it was given
	for {
		buf := make([]byte, chunk)
		n, err := from.Read(buf)
		if n > 0 {
			l.bytes.Add(int64(n))
			var p travelling
			p.bytes = buf[:n]
			p.arrives, free = l.arrival(n, free)
			way <- p
		}
		if err != nil {
			break
		}
	}
	close(way)
	arriving.Wait()
}

// arrival tells when n bytes that are sent now arrive, and when the link is free for the next.
func (l *Link) arrival(n int, free time.Time) (arrives, next time.Time) {
	l.mu.Lock()
	q := l.quality
	l.mu.Unlock()
	now := time.Now()
	if next = now; free.After(now) {
		next = free
	}
	if q.Rate > 0 {
		next = next.Add(time.Duration(float64(n) / q.Rate * float64(time.Second)))
	}
	arrives = next.Add(q.RoundTrip / 2)
	for sent := 0; sent < n; sent += packet {
		if q.Loss > 0 && rand.Float64() < q.Loss {
			return arrives.Add(q.RoundTrip), next
		}
	}
	return arrives, next
}
