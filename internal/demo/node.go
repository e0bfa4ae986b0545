package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lockstepdb/lockstep/internal/client"
)

// Limits on how long a server may take.
const (
	startLimit = 60 * time.Second
	stopLimit  = 60 * time.Second
	pollEvery  = 50 * time.Millisecond
)

// node is one of the demo's clusters: a directory and, while it runs, a
// server process.
type node struct {
	name string // what the table calls it
	kind string // "primary", "dr", "performance"
	dir  string // its data directory is dir/data
	port int
	api  *client.Client

	mu   sync.Mutex // guards what follows: the table looks while the story goes on
	proc *process
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // valid then
}

func newNode(name, kind, scratch string, port, connections int) (*node, error) {
	n := &node{name: name, kind: kind, dir: filepath.Join(scratch, kind), port: port}
	n.api = client.New("http://"+address(port), "hvs."+rand.Text(), connections)
	return n, os.MkdirAll(n.dir, 0o700)
}

func (n *node) data() string    { return filepath.Join(n.dir, "data") }
func (n *node) logFile() string { return filepath.Join(n.dir, "log") }

// start starts the server and waits until it answers.
func (n *node) start(ctx context.Context, program string) error {
	log, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	defer log.Close() // the process has its own
	cmd := exec.Command(program, "server", "-dev", "-dev-listen-address="+address(n.port), "-dev-data-dir="+n.data())
	cmd.Stdout, cmd.Stderr = log, log
	// Not on the command line: every user of the machine sees that.
	cmd.Env = append(os.Environ(), "VAULT_DEV_ROOT_TOKEN_ID="+n.api.Token)
	// A group of its own: an interrupt from the terminal ends the demo, which then ends its servers.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() { p.err = cmd.Wait(); close(p.done) }()
	n.mu.Lock()
	n.proc = p
	n.mu.Unlock()
	return n.waitReady(ctx, p)
}

func (n *node) waitReady(ctx context.Context, p *process) error {
	return eventually(ctx, startLimit, n.name+" answers", func(ctx context.Context) error {
		select {
		case <-p.done:
			return &fatal{fmt.Errorf("%s ended (%v); the end of its log:\n%s", n.name, p.err, n.logTail())}
		default:
		}
		return n.api.Do(ctx, "GET", "sys/health?standbycode=299&drsecondarycode=299", nil, nil)
	})
}

func (n *node) running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc != nil
}

// end sends a signal and waits until the process is gone.
func (n *node) end(sig os.Signal) error {
	n.mu.Lock()
	p := n.proc
	n.mu.Unlock()
	if p == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", n.name, err)
	}
	select {
	case <-p.done:
	case <-time.After(stopLimit):
		// Waited for by the goroutine of start; what it holds ends with it.
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not end within %v after %v and was killed", n.name, stopLimit, sig)
	}
	n.mu.Lock()
	n.proc = nil
	n.mu.Unlock()
	if sig == syscall.SIGTERM && p.err != nil {
		return fmt.Errorf("%s did not end cleanly: %w; the end of its log:\n%s", n.name, p.err, n.logTail())
	}
	return nil
}

func (n *node) kill() error { return n.end(syscall.SIGKILL) }
func (n *node) stop() error { return n.end(syscall.SIGTERM) }

// logTail returns the last lines that the server wrote.
func (n *node) logTail() string {
	text, err := os.ReadFile(n.logFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// fatal ends eventually at once.
type fatal struct{ error }

func (f *fatal) Unwrap() error { return f.error }

// eventually tries until it succeeds, a fatal error comes, or the limit is over.
func eventually(whole context.Context, limit time.Duration, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(whole, limit)
	defer cancel()
	for {
		err := try(ctx)
		var f *fatal
		if err == nil || errors.As(err, &f) {
			return err
		}
		select {
		case <-ctx.Done():
			if whole.Err() != nil {
				return context.Cause(whole)
			}
			return fmt.Errorf("waiting until %s: not within %v: %w", what, limit, err)
		case <-time.After(pollEvery):
		}
	}
}
