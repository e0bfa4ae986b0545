package cluster

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Ports lie below the range that the system takes ports of outgoing
// connections from, so that a server which was killed finds its own again.
const (
	firstPort = 18000
	lastPort  = 31998
)

// freePorts returns an API port whose successor is free as well. Both stay
// this test's until it ends: a locked file keeps other tests off.
func freePorts(t testing.TB) int {
	t.Helper()
	dir := filepath.Join(os.TempDir(), "lockstep-test-ports")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatalf("choose ports: %v", err)
	}
	for range 500 {
		port := firstPort + 2*rand.IntN((lastPort-firstPort)/2)
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprint(port)), os.O_CREATE|os.O_RDWR, 0o666)
		if err != nil {
			t.Fatalf("choose ports: %v", err)
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil || !free(port) || !free(port+1) {
			f.Close()
			continue
		}
		t.Cleanup(func() { f.Close() })
		return port
	}
	t.Fatalf("choose ports: no two neighbours between %d and %d are free", firstPort, lastPort)
	return 0
}

func free(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}
