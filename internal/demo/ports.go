package demo

import (
	"fmt"
	"net"
)

// host is where all servers of the demo listen.
const host = "127.0.0.1"

// choosePort returns wanted when it and the next one (the cluster port) are
// free, else a pair that the system gives. taken says which one was in use.
func choosePort(wanted int) (port, taken int, err error) {
	taken = firstTaken(wanted)
	if taken == 0 {
		return wanted, 0, nil
	}
	const attempts = 100
	for range attempts {
		port, err := anyPort()
		if err != nil {
			return 0, 0, err
		}
		if port < 65535 && firstTaken(port) == 0 {
			return port, taken, nil
		}
	}
	return 0, 0, fmt.Errorf("find two free ports in a row: none in %d attempts", attempts)
}

// firstTaken returns which port of a pair is in use; 0 when both are free.
func firstTaken(port int) int {
	for p := port; p <= port+1; p++ {
		ln, err := net.Listen("tcp", address(p))
		if err != nil {
			return p
		}
		ln.Close()
	}
	return 0
}

func anyPort() (int, error) {
	ln, err := net.Listen("tcp", address(0))
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}

func address(port int) string { return fmt.Sprintf("%s:%d", host, port) }
