package main

import (
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/bench/machine"
	"github.com/lockstepdb/lockstep/bench/node"
	"github.com/lockstepdb/lockstep/bench/report"
)

// peer is another system, measured on the same machine in the same run. What installs and starts it are scripts below
// bench/peers/NAME; one that cannot be had is reported as missing.
type peer struct {
	name    string
	what    string
	replica bool
	clients []int

	primary, copy *service
	cache         string // where programs were put
	dir           string // of this run
}

// service is one server of a peer.
type service struct {
	child
	port int
	dir  string
}

func (s *service) address() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// driver is how a peer is written to.
type driver interface {
	ready(ctx context.Context, p *peer, s *service) error                  // until it serves
	setup(ctx context.Context, p *peer) error                              // when all serve
	run(ctx context.Context, b *bench, p *peer, n int) (report.Run, error) // n clients that write records
	showsAll(ctx context.Context, p *peer) (lag time.Duration, err error)  // until the replica shows what was written
	variants() map[string]func(context.Context, *peer) error               // further settings, by name
}

var peers = []struct {
	peer
	driver
}{
	{peer{name: "redis", what: "Redis, appendfsync always, a replica", replica: true, clients: counts}, redis{}},
	{peer{name: "postgresql", what: "PostgreSQL, an asynchronous replica, upserts by pgbench", replica: true, clients: counts}, postgresql{}},
	{peer{name: "etcd", what: "etcd, one member, gRPC", clients: counts}, external{}},
	{peer{name: "nats", what: "NATS JetStream, every message synced, a mirror", replica: true, clients: counts}, external{}},
	{peer{name: "openbao", what: "OpenBao, KV v1 PUT", clients: []int{64}}, external{}},
}

func peerRows() (ids []string) {
	for _, p := range peers {
		for _, n := range p.clients {
			ids = append(ids, fmt.Sprintf("peer/%s/%d", p.name, n))
		}
		for name := range p.variants() {
			ids = append(ids, fmt.Sprintf("peer/%s-%s/64", p.name, name))
		}
	}
	return ids
}

// peersBeside measures every peer that can be had.
func (b *bench) peersBeside(ctx context.Context) error {
	if !b.peers {
		return nil
	}
	for _, p := range peers {
		id := "peer/" + p.name
		if !b.wantsPeer(&p.peer, p.driver) {
			continue
		}
		if err := b.measurePeer(ctx, &p.peer, p.driver); err != nil {
			if ctx.Err() != nil {
				return err
			}
			b.report.Missing = append(b.report.Missing, report.Missing{ID: id, Why: err.Error()})
			fmt.Fprintf(b.words, "%s  %-32s missing: %v\n", time.Now().Format(time.TimeOnly), id, err)
		}
	}
	return nil
}

func (b *bench) wantsPeer(p *peer, d driver) bool {
	for _, n := range p.clients {
		if b.wants(fmt.Sprintf("peer/%s/%d", p.name, n)) {
			return true
		}
	}
	for name := range d.variants() {
		if b.wants(fmt.Sprintf("peer/%s-%s/64", p.name, name)) {
			return true
		}
	}
	return false
}

// installLimit is how long a peer may take to be installed.
const installLimit = 20 * time.Minute

func (b *bench) measurePeer(ctx context.Context, p *peer, d driver) error {
	if err := b.installPeer(ctx, p); err != nil {
		return err
	}
	dir, remove, err := b.scratch(p.name)
	if err != nil {
		return err
	}
	defer remove()
	// A peer may run as a user of its own.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	p.dir = dir
	defer p.end()
	if p.primary, err = b.startPeer(ctx, p, d, "primary", nil); err != nil {
		return err
	}
	b.watched = []watched{{name: "primary", tree: true, pid: func() int { return p.primary.cmd.Process.Pid }}}
	if p.replica {
		if p.copy, err = b.startPeer(ctx, p, d, "replica", p.primary); err != nil {
			return err
		}
		b.watched = append(b.watched, watched{name: "replica", tree: true, pid: func() int { return p.copy.cmd.Process.Pid }})
	}
	if err := d.setup(ctx, p); err != nil {
		return err
	}
	for _, n := range p.clients {
		r := row{id: fmt.Sprintf("peer/%s/%d", p.name, n), what: fmt.Sprintf("%s, %d clients", p.what, n), unit: "writes/s"}
		if err := b.measure(ctx, r, b.runPeer(p, d, n)); err != nil {
			return err
		}
	}
	for name, change := range d.variants() {
		if err := change(ctx, p); err != nil {
			return err
		}
		r := row{id: fmt.Sprintf("peer/%s-%s/64", p.name, name), what: fmt.Sprintf("%s, %s, 64 clients", p.what, name), unit: "writes/s"}
		if err := b.measure(ctx, r, b.runPeer(p, d, 64)); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) runPeer(p *peer, d driver, n int) func(context.Context) (report.Run, error) {
	return func(ctx context.Context) (report.Run, error) {
		before := make([]float64, len(b.watched))
		for i, w := range b.watched {
			before[i] = w.cpu()
		}
		start := time.Now()
		run, err := d.run(ctx, b, p, n)
		if err != nil {
			return run, err
		}
		// The driver is a process of its own: what a server took in the warm-up is in it, in proportion.
		operations := run.Value * time.Since(start).Seconds()
		run.Servers = b.memory()
		for i, w := range b.watched {
			run.Servers[i].CPU = (w.cpu() - before[i]) / math.Max(1, operations) * 1000
		}
		if !p.replica {
			return run, nil
		}
		lag, err := d.showsAll(ctx, p)
		if err == nil {
			run.Extra = map[string]float64{lagAtEnd: ms(lag)}
		}
		return run, err
	}
}

func (b *bench) installPeer(ctx context.Context, p *peer) error {
	ctx, cancel := context.WithTimeout(ctx, installLimit)
	defer cancel()
	var err error
	if p.cache, err = filepath.Abs(filepath.Join(b.dir, "peers")); err != nil {
		return err
	}
	if err := os.MkdirAll(p.cache, 0o755); err != nil {
		return err
	}
	var words strings.Builder
	cmd := exec.CommandContext(ctx, filepath.Join("bench", "peers", p.name, "install"))
	cmd.Env, cmd.Stderr = append(os.Environ(), "CACHE="+p.cache), &words
	out, err := cmd.Output()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(words.String()), "\n")
		return fmt.Errorf("could not be installed: %w: %s", err, strings.Join(lines[max(0, len(lines)-2):], " "))
	}
	b.report.Versions[p.name] = strings.TrimSpace(string(out))
	return nil
}

func (b *bench) startPeer(ctx context.Context, p *peer, d driver, name string, primary *service) (*service, error) {
	port, err := node.FreePorts()
	if err != nil {
		return nil, err
	}
	s := &service{port: port, dir: filepath.Join(p.dir, name)}
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return nil, err
	}
	script, err := filepath.Abs(filepath.Join("bench", "peers", p.name, "serve"))
	if err != nil {
		return nil, err
	}
	args := []string{s.dir, fmt.Sprint(port)}
	if primary != nil {
		args = append(args, fmt.Sprint(primary.port))
	}
	log, err := os.Create(filepath.Join(p.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd = exec.Command(script, args...)
	s.cmd.Env = append(os.Environ(), "CACHE="+p.cache)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if s.ended, err = machine.StartAndWait(s.cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	if err = s.listens(ctx, p.name, log.Name()); err == nil {
		err = d.ready(ctx, p, s)
	}
	if err != nil {
		s.child.end()
		return nil, err
	}
	return s, nil
}

// listens waits until a peer's server takes connections.
func (s *service) listens(ctx context.Context, name, log string) error {
	return node.Until(ctx, name+" listens", 10*time.Millisecond, func() (bool, error) {
		select {
		case err := <-s.ended:
			text, _ := os.ReadFile(log)
			return false, fmt.Errorf("%s ended instead of serving: %v: %s", name, err, text[max(0, len(text)-600):])
		default:
		}
		conn, err := net.DialTimeout("tcp", s.address(), time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil, nil
	})
}

// end stops a peer's servers, the replica first.
func (p *peer) end() {
	for _, s := range []*service{p.copy, p.primary} {
		if s == nil {
			continue
		}
		_ = s.cmd.Process.Signal(os.Interrupt)
		select {
		case <-s.ended:
		case <-time.After(30 * time.Second):
			s.child.end()
		}
	}
	p.primary, p.copy = nil, nil
}
