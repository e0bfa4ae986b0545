package server

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// One byte now and then renews the patience with a body; it must not hold up the end of a role.
func TestASlowBodyDoesNotHoldUpTheEndOfARole(t *testing.T) {
	var g gate
	reading, ended := make(chan struct{}), make(chan error, 1)
	g.open(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(reading)
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	}))
	srv := httptest.NewServer(patience{&g, bodyReadTimeout, answerTimeout})
	defer srv.Close()
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	<-reading
	g.shut(waiting{reason: "the role has ended"}).drain(0)
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the handler was given the end of a body that had not ended")
		}
	case <-time.After(bodyReadTimeout / 2):
		t.Error("the handler still waits for the client")
	}
}

func TestABodyMustComeWithARate(t *testing.T) {
	t.Parallel()
	begun := time.Unix(1000, 0)
	for _, tt := range []struct {
		name string
		read int64
		at   time.Duration
		want time.Duration
	}{
		{"the first piece has the whole time", 0, 0, 30 * time.Second},
		{"a byte now and then earns nothing", 20, 29 * time.Second, 30*time.Second + 20*time.Second/1024},
		{"a body that comes has the whole time for each piece", 10 << 20, time.Minute, 90 * time.Second},
		{"one that came and stopped ends when its time is up", 60 << 10, 80 * time.Second, 90 * time.Second},
	} {
		b := &patientBody{timeout: 30 * time.Second, rate: 1 << 10, begun: begun, read: tt.read}
		if got := b.deadline(begun.Add(tt.at)).Sub(begun); got.Truncate(time.Millisecond) != tt.want.Truncate(time.Millisecond) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestASlowBodyEndsThoughEachByteIsInTime sends single bytes, each well within the time of a piece.
func TestASlowBodyEndsThoughEachByteIsInTime(t *testing.T) {
	t.Parallel()
	const piece = 300 * time.Millisecond
	ended := make(chan error, 1)
	srv := httptest.NewServer(patience{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	}), piece, answerTimeout})
	defer srv.Close()
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(piece / 10)
	defer tick.Stop()
	for range 1000 {
		select {
		case err := <-ended:
			if err == nil {
				t.Error("the handler was given the end of a body that had not ended")
			}
			return
		case <-tick.C:
			_, _ = io.WriteString(c, "x") // the connection may be gone
		}
	}
	t.Error("single bytes hold the connection")
}
