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
