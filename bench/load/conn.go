package load

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

// Target is the server that is driven.
type Target struct {
	Address string      // host:port
	TLS     *tls.Config // nil: plain
}

// Conn is one keep-alive connection. It is for one goroutine.
type Conn struct {
	conn net.Conn
	in   *bufio.Reader
}

const (
	dialTimeout = 10 * time.Second
	readBuffer  = 16 << 10
	// patience is how long any single answer may take before the run counts as failed.
	patience = 2 * time.Minute
)

// Dial opens a connection.
func Dial(t Target) (*Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	var conn net.Conn
	var err error
	if t.TLS == nil {
		conn, err = dialer.Dial("tcp", t.Address)
	} else {
		conn, err = tls.DialWithDialer(&dialer, "tcp", t.Address, t.TLS)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", t.Address, err)
	}
	return &Conn{conn, bufio.NewReaderSize(conn, readBuffer)}, nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.conn.Close() }

// SetDeadline ends what waits at that time.
func (c *Conn) SetDeadline(t time.Time) error { return c.conn.SetDeadline(t) }

// Do sends a whole request and waits for the end of its answer.
func (c *Conn) Do(request []byte) error {
	return c.do(request, &answer{})
}

// Get is Do that returns the answer's body.
func (c *Conn) Get(request []byte) ([]byte, error) {
	a := answer{keep: true}
	err := c.do(request, &a)
	return a.body, err
}

// Header is Do that returns a header of the answer; its name is given in small letters.
func (c *Conn) Header(request []byte, name string) (string, error) {
	a := answer{header: name}
	err := c.do(request, &a)
	return a.value, err
}

// DoAll sends requests without waiting for the answers between them, then reads as many answers. They must be few
// enough for the buffers of both ends.
func (c *Conn) DoAll(requests []byte, n int) error {
	if _, err := c.conn.Write(requests); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	for range n {
		if err := (&answer{}).read(c.in); err != nil {
			return err
		}
	}
	return nil
}

func (c *Conn) do(request []byte, a *answer) error {
	if _, err := c.conn.Write(request); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return a.read(c.in)
}
