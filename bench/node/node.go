package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/machine"
)

// Deadline is how long anything may take that takes a healthy server seconds at most.
const Deadline = 3 * time.Minute

// Options say how a server is run.
type Options struct {
	Binary      string // of lockstep
	Dir         string // where the node's directory is made
	Name        string
	TLS         bool   // of the API; the cluster port always has it
	ClusterAddr string // host:port that the primary tells its secondaries, when it is not the cluster port's own
	Replication []string
	Set         string // of which it is primary or secondary: Performance when empty, or DR
}

// Kinds of replication sets.
const (
	Performance = "performance"
	DR          = "dr"
)

// Node is one server: configuration, data directory and, while it runs, a process.
type Node struct {
	Name    string
	Dir     string
	API     string // host:port
	Cluster string // host:port of the cluster port
	Token   string // a root token, once there is one

	options Options
	keys    *pair // of the API, with TLS
	control *http.Client
	cmd     *exec.Cmd
	ended   <-chan error
	log     *os.File
}

// New makes a node; nothing runs yet.
func New(o Options) (*Node, error) {
	if o.Set == "" {
		o.Set = Performance
	}
	port, err := FreePorts()
	if err != nil {
		return nil, err
	}
	n := &Node{
		Name: o.Name, Dir: filepath.Join(o.Dir, o.Name), options: o,
		API: fmt.Sprintf("127.0.0.1:%d", port), Cluster: fmt.Sprintf("127.0.0.1:%d", port+1),
		control: &http.Client{Timeout: Deadline, Transport: &http.Transport{}},
	}
	if err := os.MkdirAll(n.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make node %s: %w", o.Name, err)
	}
	if o.TLS {
		if n.keys, err = newPair(n.Dir); err != nil {
			return nil, fmt.Errorf("make node %s: %w", o.Name, err)
		}
		n.control.Transport = &http.Transport{TLSClientConfig: n.keys.client}
	}
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	secret := base64.StdEncoding.EncodeToString(key[:]) + "\n"
	for name, text := range map[string]string{"unseal.key": secret, "lockstep.hcl": n.config()} {
		if err := os.WriteFile(filepath.Join(n.Dir, name), []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("make node %s: %w", o.Name, err)
		}
	}
	return n, nil
}

func (n *Node) config() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "cluster_name = %q\n", n.Name)
	fmt.Fprintf(&b, "storage \"bbolt\" {\n  path = %q\n}\n", n.Data())
	fmt.Fprintf(&b, "listener \"tcp\" {\n  address         = %q\n  cluster_address = %q\n", n.API, n.Cluster)
	if n.keys != nil {
		fmt.Fprintf(&b, "  tls_cert_file   = %q\n  tls_key_file    = %q\n", n.keys.certFile, n.keys.keyFile)
	} else {
		b.WriteString("  tls_disable     = true\n")
	}
	fmt.Fprintf(&b, "}\nseal \"file\" {\n  path = %q\n}\n", filepath.Join(n.Dir, "unseal.key"))
	if len(n.options.Replication) > 0 {
		fmt.Fprintf(&b, "replication {\n  %s\n}\n", strings.Join(n.options.Replication, "\n  "))
	}
	return b.String()
}

// Set is the kind of the set that the node is primary or secondary of.
func (n *Node) Set() string { return n.options.Set }

// LogFile is where the server's words go.
func (n *Node) LogFile() string { return filepath.Join(n.Dir, "log") }

// Data is the node's data directory.
func (n *Node) Data() string { return filepath.Join(n.Dir, "data") }

// Target is what a load driver connects to.
func (n *Node) Target() load.Target {
	t := load.Target{Address: n.API}
	if n.keys != nil {
		t.TLS = n.keys.client
	}
	return t
}

// Start starts the server and waits until it serves; an empty one is initialised.
func (n *Node) Start(ctx context.Context) error {
	if err := n.Launch(); err != nil {
		return err
	}
	return n.WaitReady(ctx)
}

// Launch starts the server and does not wait.
func (n *Node) Launch() error {
	n.control.CloseIdleConnections() // those of a server that ended
	log, err := os.OpenFile(n.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	cmd := exec.Command(n.options.Binary, "server", "-config="+filepath.Join(n.Dir, "lockstep.hcl"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = environ()
	ended, err := machine.StartAndWait(cmd)
	if err != nil {
		log.Close()
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	n.cmd, n.ended, n.log = cmd, ended, log
	return nil
}

// environ is this process's environment without what would steer a server.
func environ() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "VAULT_") && !strings.HasPrefix(e, "LOCKSTEP_") {
			env = append(env, e)
		}
	}
	return env
}

// WaitReady waits until the server answers sys/health as one that serves, or that waits to be initialised.
func (n *Node) WaitReady(ctx context.Context) error {
	return Until(ctx, n.Name+" answers sys/health", time.Millisecond, func() (bool, error) {
		select {
		case err := <-n.ended:
			n.cmd = nil
			return false, fmt.Errorf("%s ended instead of serving: %w; its last words:\n%s", n.Name, err, n.LogTail())
		default:
		}
		status, _, err := n.Do(ctx, http.MethodGet, "sys/health", "")
		return err == nil && status != http.StatusServiceUnavailable, nil
	})
}

// Pid returns the process id of the running server.
func (n *Node) Pid() int {
	if n.cmd == nil {
		return 0
	}
	return n.cmd.Process.Pid
}

// Kill ends the server by SIGKILL; one that does not run is left alone.
func (n *Node) Kill() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill()
	<-n.ended
	n.cmd = nil
	n.log.Close()
}

// Stop ends the server by SIGTERM and demands that it ends well.
func (n *Node) Stop() error {
	if n.cmd == nil {
		return nil
	}
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", n.Name, err)
	}
	select {
	case err := <-n.ended:
		n.cmd = nil
		n.log.Close()
		if err != nil {
			return fmt.Errorf("%s after SIGTERM: %w; its last words:\n%s", n.Name, err, n.LogTail())
		}
		return nil
	case <-time.After(Deadline):
		n.Kill()
		return fmt.Errorf("%s did not end within %s after SIGTERM", n.Name, Deadline)
	}
}

// Remove ends the server and removes all that it has.
func (n *Node) Remove() {
	n.Kill()
	_ = os.RemoveAll(n.Dir)
}

// LogTail returns the last lines that the server wrote.
func (n *Node) LogTail() string {
	text, _ := os.ReadFile(n.LogFile())
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// Command runs the lockstep binary as an operator on this node's machine does.
func (n *Node) Command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, n.options.Binary, args...)
	cmd.Env = environ()
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("lockstep %s: %w: %s", strings.Join(args, " "), err, words.String())
	}
	return out.String(), nil
}

// ConfigFile is the server's configuration.
func (n *Node) ConfigFile() string { return filepath.Join(n.Dir, "lockstep.hcl") }

// Until asks until the answer is yes, an error, or Deadline has passed.
func Until(ctx context.Context, what string, every time.Duration, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, Deadline, errors.New("it took too long"))
	defer cancel()
	return UntilDone(ctx, what, every, ask)
}

// UntilDone is Until that waits as long as its context allows.
func UntilDone(ctx context.Context, what string, every time.Duration, ask func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		yes, err := ask()
		if err != nil {
			return err
		}
		if yes {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// Ports lie below the range that the system takes ports of outgoing connections from, so that a server that was killed
// finds its own again.
const firstPort, lastPort = 18000, 31998

// FreePorts returns a port whose successor is free as well.
func FreePorts() (int, error) {
	for range 500 {
		port := firstPort + 2*mrand.IntN((lastPort-firstPort)/2)
		if free(port) && free(port+1) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no two neighbouring ports between %d and %d are free: end what holds them", firstPort, lastPort)
}

func free(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}
