package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Deadline is how long the harness waits for anything that takes a healthy
// server well under a second. Slow machines and the race detector need room;
// a test that hangs costs this once.
const Deadline = 3 * time.Minute

// Options say how a node is run. The zero value is a server with the
// product's defaults.
type Options struct {
	Race bool // run the binary built with the race detector
	// Replication are the lines of the configuration's replication block,
	// such as `segment_entries = 64`.
	Replication []string
	// Top are lines at the configuration's top level.
	Top []string
	// Dir is where the node lives; a temporary directory of the test by default.
	Dir string
	// LogFile is where the server's words go; log in Dir by default.
	LogFile string
	// Shamir leaves the node without a key file: each start waits for unseal keys.
	Shamir bool
	// Env is added to the server's environment.
	Env []string
	// Clock names a file with a duration that the server adds to its clock; it is built with the tag chaosclock then.
	Clock string
	// Fuse names a file that tells the server at which of its commits to end by SIGKILL, see Light; it is built with the tag chaosclock then.
	Fuse string
	// Binary is the program that runs instead of the one built from this source; Become changes it.
	Binary string
	// Piped lets this process write the log, so that a limit on the size of the server's files leaves it whole.
	Piped bool
}

// Node is one server: a configuration, a data directory and, while it runs, a process.
type Node struct {
	Name    string
	Dir     string // everything of the node
	Data    string // its data directory
	Config  string // its configuration file
	LogFile string // what all its processes wrote
	API     string // URL
	Cluster string // host:port of the cluster port
	Token   string // a root token of this cluster, once there is one
	// Keys are the unseal keys of a Shamir node, the recovery keys of others, once it is initialised. A secondary's are its primary's.
	Keys []string

	t          testing.TB
	options    Options
	configured []string // by Configure

	mu   sync.Mutex
	proc *process
}

// process is one run of the server.
type process struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when it has ended
	err  error         // valid after done: what Wait returned
}

// New makes a node with ports of its own; nothing runs yet.
func New(t testing.TB, name string, o Options) *Node {
	t.Helper()
	dir := o.Dir
	if dir == "" {
		dir = filepath.Join(scratch(t), name)
	}
	port := freePorts(t)
	n := &Node{
		Name: name, Dir: dir,
		Data:    filepath.Join(dir, "data"),
		Config:  filepath.Join(dir, "lockstep.hcl"),
		LogFile: filepath.Join(dir, "log"),
		API:     fmt.Sprintf("http://127.0.0.1:%d", port),
		Cluster: fmt.Sprintf("127.0.0.1:%d", port+1),
		t:       t, options: o,
	}
	if o.LogFile != "" {
		n.LogFile = o.LogFile
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatalf("make node %s: %v", name, err)
	}
	if err := os.WriteFile(n.Config, n.config(), 0o600); err != nil {
		t.Fatalf("make node %s: %v", name, err)
	}
	if err := os.WriteFile(n.keyFile(), []byte(newKey()), 0o600); err != nil {
		t.Fatalf("make node %s: %v", name, err)
	}
	t.Cleanup(n.end)
	return n
}

// Light lets the server end by SIGKILL at its n-th commit from now on: instead of it, or when its bytes are durable. A restart puts it out.
func (n *Node) Light(commit int, after bool) {
	n.t.Helper()
	when := "before"
	if after {
		when = "after"
	}
	draft := n.options.Fuse + ".draft" // the server must not find half of it
	err := os.WriteFile(draft, fmt.Appendf(nil, "%d %s", commit, when), 0o600)
	if err == nil {
		err = os.Rename(draft, n.options.Fuse)
	}
	if err != nil {
		n.t.Fatalf("light the fuse of %s: %v", n.Name, err)
	}
}

// Become names the program that runs from the next start on; "" is the one built from this source.
func (n *Node) Become(binary string) { n.options.Binary = binary }

// Configure gives lines of the configuration's replication block that hold beside those of Options; the next start takes them.
func (n *Node) Configure(replication ...string) {
	n.t.Helper()
	n.configured = replication
	if err := os.WriteFile(n.Config, n.config(), 0o600); err != nil {
		n.t.Fatalf("configure node %s: %v", n.Name, err)
	}
}

func (n *Node) config() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "cluster_name = %q\nlog_level = \"debug\"\nmin_free = \"16MiB\"\n", n.Name)
	fmt.Fprintf(&b, "storage \"bbolt\" {\n  path = %q\n}\n", n.Data)
	fmt.Fprintf(&b, "listener \"tcp\" {\n  address         = %q\n  cluster_address = %q\n  tls_disable     = true\n}\n",
		strings.TrimPrefix(n.API, "http://"), n.Cluster)
	if !n.options.Shamir {
		fmt.Fprintf(&b, "seal \"file\" {\n  path = %q\n}\n", n.keyFile())
	}
	b.WriteString("replication {\n  heartbeat_interval = \"200ms\"\n}\n")
	text := b.String()
	// A line given replaces the harness's own of that name.
	for _, line := range n.options.Top {
		text = line + "\n" + without(text, line)
	}
	for _, line := range slices.Concat(n.options.Replication, n.configured) {
		text = strings.Replace(without(text, line), "replication {\n", "replication {\n  "+line+"\n", 1)
	}
	return []byte(text)
}

// keyFile holds what unseals the node at each start.
func (n *Node) keyFile() string { return filepath.Join(n.Dir, "unseal.key") }

func newKey() string {
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	return base64.StdEncoding.EncodeToString(key[:]) + "\n"
}

// without returns a configuration without the setting that line sets.
func without(text, line string) string {
	name, _, _ := strings.Cut(line, "=")
	own := regexp.MustCompile(`(?m)^ *` + regexp.QuoteMeta(strings.TrimSpace(name)) + ` *=.*\n`)
	return own.ReplaceAllString(text, "")
}

// scratch is one temporary directory a test, kept when LOCKSTEP_TEST_KEEP is set.
func scratch(t testing.TB) string {
	t.Helper()
	if os.Getenv("LOCKSTEP_TEST_KEEP") == "" {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("", "lockstep-"+strings.ReplaceAll(t.Name(), "/", "-")+"-")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("kept: %s", dir)
	return dir
}

// Start starts the server and waits until it answers sys/health.
func (n *Node) Start() {
	n.t.Helper()
	n.Launch()
	n.WaitReady()
}

// Launch starts the server and does not wait.
func (n *Node) Launch() {
	n.t.Helper()
	if err := n.launch(); err != nil {
		n.t.Fatalf("start %s: %v", n.Name, err)
	}
}

func (n *Node) launch() error {
	log, err := os.OpenFile(n.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "--- start %s\n", time.Now().Format(time.TimeOnly))
	cmd := exec.Command(n.options.binary(n.t), "server", "-config="+n.Config)
	var words io.Writer = log
	if n.options.Piped {
		words = struct{ io.Writer }{log}
	}
	cmd.Stdout, cmd.Stderr = words, words
	cmd.Env = append(Environ(), "GORACE=halt_on_error=0 exitcode=66")
	cmd.Env = append(cmd.Env, n.options.Env...)
	if n.options.Clock != "" {
		cmd.Env = append(cmd.Env, "LOCKSTEP_CHAOS_CLOCK="+n.options.Clock)
	}
	if n.options.Fuse != "" {
		_ = os.Remove(n.options.Fuse) // of a run that has ended
		cmd.Env = append(cmd.Env, "LOCKSTEP_CHAOS_FUSE="+n.options.Fuse)
	}
	p := &process{cmd: cmd, log: log, done: make(chan struct{})}
	if err := startOnOwnThread(p); err != nil {
		log.Close()
		return err
	}
	n.mu.Lock()
	n.proc = p
	n.mu.Unlock()
	return nil
}

// WaitReady waits until the server answers sys/health, whatever it answers.
func (n *Node) WaitReady() {
	n.t.Helper()
	Eventually(n.t, Deadline, n.Name+" answers sys/health", func() (bool, string) {
		if exited, err := n.exited(); exited {
			n.t.Fatalf("%s ended instead of serving: %v\n%s", n.Name, err, n.LogTail(40))
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.API+"/v1/sys/health", nil)
		if err != nil {
			return false, err.Error()
		}
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, err.Error()
		}
		answer.Body.Close()
		return answer.StatusCode != http.StatusServiceUnavailable, answer.Status
	})
}

func (n *Node) current() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc
}

func (n *Node) exited() (bool, error) {
	p := n.current()
	if p == nil {
		return true, errors.New("never started")
	}
	select {
	case <-p.done:
		return true, p.err
	default:
		return false, nil
	}
}

// Running reports whether the node's process is there.
func (n *Node) Running() bool {
	exited, _ := n.exited()
	return !exited
}

// Pid returns the process id of the running server.
func (n *Node) Pid() int { return n.current().cmd.Process.Pid }

// Kill ends the server by SIGKILL; a node that does not run is left alone.
func (n *Node) Kill() {
	if p := n.current(); p != nil {
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// Terminate sends SIGTERM and does not wait.
func (n *Node) Terminate() error { return n.current().cmd.Process.Signal(syscall.SIGTERM) }

// Stop ends the server by SIGTERM and demands exit code 0.
func (n *Node) Stop() {
	n.t.Helper()
	if !n.Running() {
		return
	}
	if err := n.Terminate(); err != nil {
		n.t.Fatalf("stop %s: %v", n.Name, err)
	}
	if err := n.WaitExit(Deadline); err != nil {
		n.t.Fatalf("%s after SIGTERM: %v\n%s", n.Name, err, n.LogTail(60))
	}
}

// WaitExit waits until the server ended by itself and returns how: nil for code 0.
func (n *Node) WaitExit(limit time.Duration) error {
	n.t.Helper()
	p := n.current()
	select {
	case <-p.done:
		return p.err
	case <-time.After(limit):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // its goroutines' stacks tell what it waits for
		select {
		case <-p.done:
		case <-time.After(5 * time.Second):
		}
		n.t.Fatalf("%s did not end within %s\n%s", n.Name, limit, n.LogTail(200))
		return nil
	}
}

// Restart kills the server and starts it again.
func (n *Node) Restart() {
	n.t.Helper()
	n.Kill()
	n.Start()
}

// end is the node's cleanup: the process ends, its log is judged.
func (n *Node) end() {
	n.Kill()
	n.JudgeLog()
	if n.t.Failed() {
		n.t.Logf("---- end of the log of %s (%s)\n%s", n.Name, n.API, n.LogTail(60))
	}
}

var forbidden = regexp.MustCompile(`(?m)^(panic:|fatal error:|goroutine \d+ \[|SIG[A-Z]+: |WARNING: DATA RACE|unexpected fault address).*$|runtime error: .*|\[recovered\].*`)

var faultOfFile = regexp.MustCompile(`is damaged: [^\n]*runtime error: [^\n]*`)

// JudgeLog fails the test when the server's log holds a panic, a stack trace or a data race.
func (n *Node) JudgeLog() {
	n.t.Helper()
	text, err := os.ReadFile(n.LogFile)
	if err != nil {
		return // it never ran
	}
	// A fault that reading a damaged file caused is an error like any other, named by its file.
	text = faultOfFile.ReplaceAll(text, []byte("(fault)"))
	if at := forbidden.FindIndex(text); at != nil {
		from, to := max(0, at[0]-600), min(len(text), at[1]+3000)
		n.t.Errorf("the log of %s holds what no log may:\n%s", n.Name, text[from:to])
	}
}

// Log returns everything that the node's processes wrote.
func (n *Node) Log() string {
	text, _ := os.ReadFile(n.LogFile)
	return string(text)
}

// LogTail returns the log's last lines.
func (n *Node) LogTail(lines int) string {
	all := strings.Split(strings.TrimRight(n.Log(), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Environ is this process's environment without what would steer a client or a server.
func Environ() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "VAULT_") && !strings.HasPrefix(e, "LOCKSTEP_") {
			env = append(env, e)
		}
	}
	return env
}

// Eventually asks until the answer is yes. detail says what was seen; it is
// printed when the limit passes first.
func Eventually(t testing.TB, limit time.Duration, what string, ask func() (yes bool, detail string)) {
	t.Helper()
	end := time.Now().Add(limit)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		yes, detail := ask()
		if yes {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain until %s; last seen: %s", limit, what, detail)
		}
		<-tick.C
	}
}
