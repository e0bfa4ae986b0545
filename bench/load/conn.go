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

// Do sends a whole request and waits for the end of its answer.
func (c *Conn) Do(request []byte) error {
	_, _, err := c.do(request, false)
	return err
}

// Get is Do that returns the answer's body.
func (c *Conn) Get(request []byte) ([]byte, error) {
	_, body, err := c.do(request, true)
	return body, err
}

func (c *Conn) do(request []byte, keep bool) (int64, []byte, error) {
	if _, err := c.conn.Write(request); err != nil {
		return 0, nil, fmt.Errorf("send: %w", err)
	}
	return readAnswer(c.in, keep)
}
