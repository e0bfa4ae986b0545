package link

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// echo answers with what it is sent.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func TestALinkPassesEverythingOnInOrder(t *testing.T) {
	for _, q := range []Quality{{}, {RoundTrip: 20 * time.Millisecond, Loss: 0.05}, {Rate: 20e6}} {
		l, err := Listen()
		if err != nil {
			t.Fatal(err)
		}
		l.Set(q)
		l.Serve(echo(t))
		c, err := net.Dial("tcp", l.Address)
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Repeat([]byte("in this order "), 40_000)
		start := time.Now()
		go func() {
			_, _ = c.Write(want)
			_ = c.(*net.TCPConn).CloseWrite()
		}()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%+v: what came back differs: %v", q, err)
		}
		if took := time.Since(start); took < q.RoundTrip {
			t.Errorf("%+v: an echo came after %s", q, took)
		}
		if n := l.Bytes(); n != int64(2*len(want)) {
			t.Errorf("%+v: counted %d bytes, want %d", q, n, 2*len(want))
		}
		c.Close()
		l.Close()
	}
}

func TestALinkThatIsCutEndsConnectionsAndTakesNoneUntilItIsMended(t *testing.T) {
	l, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.Serve(echo(t))
	alive := func() bool {
		c, err := net.Dial("tcp", l.Address)
		if err != nil {
			return false
		}
		defer c.Close()
		_, _ = c.Write([]byte("x"))
		_, err = io.ReadFull(c, make([]byte, 1))
		return err == nil
	}
	if !alive() {
		t.Fatal("nothing passes")
	}
	c, err := net.Dial("tcp", l.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	l.Cut()
	if _, err := io.ReadFull(c, make([]byte, 1)); err == nil {
		t.Error("a connection goes on over a cut link")
	}
	if alive() {
		t.Error("a cut link takes connections")
	}
	l.Mend()
	if !alive() {
		t.Error("a mended link takes none")
	}
}
