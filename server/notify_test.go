package server

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTheSupervisorIsToldOfEachPhase(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", socket)
	cfg := testConfig(t)
	reload := make(chan struct{})
	cfg.Reload = reload
	r := runServer(t, cfg)
	told := func(want string) {
		t.Helper()
		b := make([]byte, 512)
		n, err := conn.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(b[:n]); !strings.HasPrefix(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	told("READY=1")
	reload <- struct{}{}
	told("RELOADING=1\nMONOTONIC_USEC=")
	told("READY=1")
	r.stop()
	told("STOPPING=1")
	if err := r.end(); err != nil {
		t.Error(err)
	}
}
