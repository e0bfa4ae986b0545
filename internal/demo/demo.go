package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// Config says how the demo runs.
type Config struct {
	Out, Words io.Writer // the table and the summary; what the checks say
	Program    string    // file of the lockstep program, started as server
	Keep       bool      // leave the clusters running
	Dir        string    // scratch directory; empty: a temporary one, removed at the end unless Keep
}

// The ports that are tried first.
const (
	primaryPort     = 8200
	drPort          = 8210
	performancePort = 8220
)

const (
	killAt        = 3     // the DR secondary is killed when a third is written,
	missedWrites  = 4_000 // stays down for that many acknowledged writes,
	leastMissed   = 2_000 // and must have missed at least these
	convergeLimit = 2 * time.Minute
)

// story is one run of the demo.
type story struct {
	cfg         Config
	scratch     string
	primary     *node
	dr          *node
	performance *node
	table       *table
	records     []Record
	list        list
	began       time.Time

	missed    int     // acknowledged while the DR secondary was down
	restarted *status // of the DR secondary, once it had caught up
}

// Run tells the story. It returns nil only when every check at its end passed.
func Run(ctx context.Context, cfg Config) (err error) {
	s := &story{cfg: cfg, began: time.Now()}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.cleanUp(ctx, err)) }()

	showing, hide := context.WithCancel(ctx)
	var table sync.WaitGroup
	err = s.begin(ctx)
	if err == nil {
		table.Go(func() { s.table.show(showing) })
		err = s.replicate(ctx)
	}
	hide()
	table.Wait()
	if err != nil {
		return err
	}
	s.table.last(s.table.look(ctx))
	if err := s.judge(ctx); err != nil {
		return err
	}
	return s.ending(ctx)
}

// prepare finds data, ports and a directory; nothing runs yet.
func (s *story) prepare(ctx context.Context) (err error) {
	s.table = &table{out: s.cfg.Out, terminal: isTerminal(s.cfg.Out), acknowledged: &s.list}
	s.table.say("Reading the Go standard library …")
	if s.records, err = standardLibrary(ctx); err != nil {
		return err
	}
	s.table.say("  %d exported identifiers: functions, types, constants, variables, methods, fields; one record each", len(s.records))
	if s.scratch, err = scratchDir(s.cfg.Dir); err != nil {
		return fmt.Errorf("make a scratch directory: %w", err)
	}
	for _, n := range []struct {
		to         **node
		name, kind string
		port       int
	}{{&s.primary, "primary", "primary", primaryPort}, {&s.dr, "dr", "dr", drPort}, {&s.performance, "perf", "performance", performancePort}} {
		port, taken, err := choosePort(n.port)
		if err != nil {
			return err
		}
		if taken != 0 {
			s.table.say("  port %d is in use: %s takes %d", taken, n.name, port)
		}
		if *n.to, err = newNode(n.name, n.kind, s.scratch, port, clients+2); err != nil {
			return fmt.Errorf("make the directory of %s: %w", n.name, err)
		}
	}
	s.table.primary, s.table.secondaries = s.primary, []*node{s.dr, s.performance}
	return nil
}

// scratchDir makes a directory; one that is named must be empty or missing.
func scratchDir(named string) (string, error) {
	if named == "" {
		return os.MkdirTemp("", "lockstep-demo-")
	}
	named, err := filepath.Abs(named)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(named, 0o700); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(named)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s is not empty: name another one", named)
	}
	return named, err
}

// begin starts and enrols the three clusters.
func (s *story) begin(ctx context.Context) error {
	s.table.say("Starting three clusters in %s …", s.scratch)
	for _, n := range s.nodes() {
		if err := n.start(ctx, s.cfg.Program); err != nil {
			return err
		}
		s.table.say("  %-8s %s  (cluster port %d)", n.name, n.api.Address, n.port+1)
	}
	if err := mount(ctx, s.primary); err != nil {
		return err
	}
	for _, n := range []*node{s.dr, s.performance} {
		s.table.say("Enrolling %s as %s secondary: activation token, certificate request, mutual TLS …", n.name, n.kind)
		if err := enrol(ctx, s.primary, n); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) nodes() []*node { return []*node{s.primary, s.dr, s.performance} }

// replicate writes the data set, kills the DR secondary on the way, and waits
// until all three clusters have everything.
func (s *story) replicate(ctx context.Context) (err error) {
	s.table.say("Writing %d records through the primary's API with %d clients …", len(s.records), clients)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	written := make(chan error, 1)
	go func() { written <- write(ctx, s.primary, s.records, &s.list) }()
	if err := s.interrupt(ctx); err != nil {
		cancel()
		<-written // ends for the same reason, or because of it
		return err
	}
	if err := <-written; err != nil {
		return err
	}
	s.table.say("All %d writes are acknowledged. Waiting until both secondaries show the primary's digests …", s.list.len())
	for _, n := range []*node{s.dr, s.performance} {
		err = eventually(ctx, convergeLimit, n.name+" has what the primary has", func(ctx context.Context) error { return s.converged(ctx, n) })
		if err != nil {
			return err
		}
	}
	if s.restarted, err = s.dr.status(ctx, "dr"); err != nil {
		return fmt.Errorf("ask the DR secondary how it caught up: %w", err)
	}
	return nil
}

// interrupt kills the DR secondary, lets it miss writes, and starts it again.
func (s *story) interrupt(ctx context.Context) error {
	if err := s.waitFor(ctx, len(s.records)/killAt); err != nil {
		return err
	}
	if err := s.dr.kill(); err != nil {
		return err
	}
	at := s.list.len()
	s.table.say("Killed the DR secondary (SIGKILL) after %d acknowledged writes.", at)
	if err := s.waitFor(ctx, at+missedWrites); err != nil {
		return err
	}
	s.missed = s.list.len() - at
	s.table.say("Starting it again: %d writes were acknowledged while it was down.", s.missed)
	return s.dr.start(ctx, s.cfg.Program)
}

// waitFor waits until so many writes were acknowledged.
func (s *story) waitFor(ctx context.Context, writes int) error {
	return eventually(ctx, convergeLimit, fmt.Sprintf("%d writes are acknowledged", writes), func(context.Context) error {
		if n := s.list.len(); n < writes {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
}

func (s *story) converged(ctx context.Context, n *node) error {
	primary, err := s.primary.status(ctx, n.kind)
	if err != nil {
		return err
	}
	own, err := n.status(ctx, n.kind)
	if err != nil {
		return err
	}
	if own.State != "stream-wals" || own.LastRemoteWAL < primary.last(n.kind) || own.MerkleRoot != primary.MerkleRoot {
		return fmt.Errorf("%s: %s at %d with root %s; the primary is at %d with root %s",
			n.name, own.State, own.LastRemoteWAL, own.MerkleRoot, primary.last(n.kind), primary.MerkleRoot)
	}
	return nil
}

// cleanUp ends what runs and removes the scratch directory, unless it is to be
// kept. After a failure the directory is kept: its logs tell why.
func (s *story) cleanUp(ctx context.Context, failed error) error {
	if s.cfg.Keep && failed == nil {
		return nil
	}
	var errs []error
	for _, n := range s.nodes() {
		errs = append(errs, n.stop())
	}
	if failed != nil {
		s.tellKept(ctx)
	} else if s.cfg.Dir == "" {
		errs = append(errs, os.RemoveAll(s.scratch))
	}
	return errors.Join(errs...)
}

// tellKept says where the logs are that tell why it failed, and how to remove
// them. After an interrupt nobody needs them: a temporary directory goes.
func (s *story) tellKept(ctx context.Context) {
	if ctx.Err() != nil && s.cfg.Dir == "" {
		if err := os.RemoveAll(s.scratch); err == nil {
			fmt.Fprintln(s.cfg.Words, "Interrupted: the clusters are stopped and their directory is removed.")
			return
		}
	}
	fmt.Fprintf(s.cfg.Words, "The clusters are stopped; their data and logs are kept in %s. Remove them with:\n  rm -r %s\n", s.scratch, s.scratch)
}

// check runs `lockstep check` on a stopped node's data directory.
func (s *story) check(ctx context.Context, n *node, args ...string) error {
	cmd := exec.CommandContext(ctx, s.cfg.Program, append(append([]string{"check"}, args...), n.data())...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("lockstep check of %s: %w\n%s", n.name, err, out)
	}
	return nil
}

func (s *story) listFile() string { return filepath.Join(s.scratch, "acknowledged.jsonl") }
