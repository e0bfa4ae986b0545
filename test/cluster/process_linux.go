package cluster

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// startOnOwnThread starts a server that does not outlive the test process,
// however that ends. Pdeathsig fires when the thread that started a child
// ends, so one locked thread starts it and waits for it.
func startOnOwnThread(p *process) error {
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = p.cmd.Wait()
		p.log.Close()
		close(p.done)
	}()
	return <-started
}

// RssAnon returns the bytes of anonymous memory of the running server; pages
// of mapped files do not count.
func (n *Node) RssAnon() (int64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", n.Pid()))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no RssAnon in the status of process %d", n.Pid())
}
