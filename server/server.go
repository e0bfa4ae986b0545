package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lockstepdb/lockstep/internal/buildinfo"
	"github.com/lockstepdb/lockstep/server/vault"
)

// sweepInterval is how often the trash is looked through, beside whenever
// something came to it.
const sweepInterval = 10 * time.Minute

// node is one running server.
type node struct {
	cfg  *Config
	log  hclog.Logger
	dir  *DataDir
	gate gate
	live atomic.Pointer[core] // while one serves

	listener net.Listener
	cert     *certificate // nil without TLS

	faceListener net.Listener // of the OpenSearch API; nil: it has none of its own
	faceCert     *certificate

	addresses   Addresses
	clusterBind string

	open    atomic.Int64  // connections of the API's listener
	limited atomic.Uint64 // requests refused by a rate limit

	trashed   chan struct{} // wakes the sweeper; one slot
	making    sync.Mutex    // one generation is made at a time: by a restore, or by a change of role, which does not wait for it
	announced sync.Once
	sealing   *sealing
	opened    atomic.Pointer[[]string] // ceremonies that need no token; SIGHUP changes them
	lingering *session                 // of the core that switched; written before switched is closed, read after
}

// Run serves one node until ctx ends, then drains, makes a last checkpoint
// and returns. It takes no longer than cfg.ShutdownTimeout for that: past it
// an error is returned while the rest still runs, and the process is to end.
//
// A data directory in use is an *InUse. Any other error is one that a restart
// may cure; a failed commit names its file.
func Run(ctx context.Context, cfg *Config) error {
	unix.Umask(0o077)
	n := &node{cfg: cfg, log: newLogger(cfg), trashed: make(chan struct{}, 1)}
	n.sealing = newSealing(n)
	n.opened.Store(&cfg.Unauthenticated)
	n.gate.shut(waiting{reason: "the server is starting"})

	dir, err := OpenDataDir(cfg.DataDir)
	if err != nil {
		return err
	}
	n.dir = dir
	defer n.release()
	if err := n.bind(); err != nil {
		return err
	}
	n.log.Info("starting", "version", buildinfo.Read().Version, "pid", os.Getpid(), "data", cfg.DataDir,
		"api_addr", n.addresses.API, "cluster_addr", n.addresses.Cluster)
	return n.serve(ctx)
}

// sealedWaiting is what the gate answers while no store is open.
func (n *node) sealedWaiting() waiting {
	info := buildinfo.Read()
	return waiting{face: vault.NewSealed(vault.SealedConfig{
		Node: n.sealing, Logger: n.log, Version: info.Version, BuildDate: info.Date,
	})}
}

// unauthenticated tells whether the configuration opens a ceremony to callers without a token.
func (n *node) unauthenticated(operation string) bool {
	return n.cfg.Dev != nil || slices.Contains(*n.opened.Load(), operation)
}

func newLogger(cfg *Config) hclog.Logger {
	if cfg.Logger != nil {
		return cfg.Logger
	}
	return hclog.New(&hclog.LoggerOptions{
		Name:       "lockstep",
		Level:      hclog.LevelFromString(cfg.LogLevel),
		JSONFormat: cfg.LogFormat == "json",
		Output:     os.Stderr,
		TimeFn:     func() time.Time { return time.Now().UTC() },
	})
}

func (n *node) release() {
	if err := n.dir.Close(); err != nil {
		n.log.Warn("giving up the lock of the data directory failed", "error", err)
	}
	if n.cfg.Dev != nil && n.cfg.Dev.Temporary {
		if err := os.RemoveAll(n.cfg.DataDir); err != nil {
			n.log.Warn("removing the temporary data directory failed", "error", err)
		}
	}
}

func (n *node) bind() (err error) {
	if n.listener, n.cert, err = listen(n.cfg.Listener); err != nil {
		return err
	}
	if n.clusterBind, err = n.cfg.clusterBind(n.listener.Addr()); err == nil {
		n.addresses, err = n.cfg.addresses(n.listener.Addr(), n.clusterBind)
	}
	if err == nil {
		err = n.bindFace()
	}
	if err != nil {
		n.listener.Close()
	}
	return err
}

// serve starts, in this order, the API listener (so that callers hear that
// the server is starting), the sweeper and reloader, and the cores, one after
// the other; it stops them in the opposite order.
func (n *node) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	srv := newHTTPServer(newLimiter(&n.gate, n.cfg.Listener, &n.limited), n.cfg.Listener, n.log.Named("http"))
	var running sync.WaitGroup
	running.Go(func() {
		if err := serve(srv, countingListener{n.listener, &n.open}, n.cert, n.cfg.Listener); err != nil {
			cancel(err)
		}
	})
	face := n.newFaceServer()
	if face != nil {
		running.Go(func() {
			if err := serve(face, countingListener{n.faceListener, &n.open}, n.faceCert, n.cfg.OpenSearch.Listener); err != nil {
				cancel(err)
			}
		})
	}
	running.Go(func() { n.sweep(ctx) })
	running.Go(func() { n.reloadLoop(ctx) })

	stopped := make(chan error, 1)
	go func() {
		err := n.runCores(ctx)
		cancel(nil) // ends sweeper and reloader when it was a core that failed
		err = errors.Join(err, endHTTP(srv), endFace(face))
		running.Wait()
		stopped <- err
	}()
	err := n.await(ctx, stopped)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	return err
}

// runCores serves one generation after the other until ctx ends or one fails.
func (n *node) runCores(ctx context.Context) error {
	for {
		again, err := n.runCore(ctx)
		if err != nil || !again {
			return err
		}
	}
}

// endHTTP ends the listener. Every request has been answered by the gate or
// its core by now; connections get a second to take the answer.
func endHTTP(srv *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		return closeHTTP(srv)
	}
	return nil
}

// endFace ends the listener of the OpenSearch API, if there is one.
func endFace(srv *http.Server) error {
	if srv == nil {
		return nil
	}
	return endHTTP(srv)
}

func closeHTTP(srv *http.Server) error {
	if err := srv.Close(); err != nil {
		return fmt.Errorf("close the API listener: %w", err)
	}
	return nil
}

// await waits for the end, at most ShutdownTimeout once ctx has ended.
func (n *node) await(ctx context.Context, stopped <-chan error) error {
	select {
	case err := <-stopped:
		return err
	case <-ctx.Done():
	}
	n.log.Info("stopping: requests end, then the last checkpoint is made", "limit", n.cfg.ShutdownTimeout)
	notify(n.log, notifyStopping)
	limit := time.NewTimer(n.cfg.ShutdownTimeout)
	defer limit.Stop()
	select {
	case err := <-stopped:
		if err == nil {
			n.log.Info("stopped")
		}
		return err
	case <-limit.C:
		return fmt.Errorf("shutdown took longer than %v and was cut short: nothing acknowledged is lost, the next start replays the log", n.cfg.ShutdownTimeout)
	}
}

// announce tells, once, that requests are answered.
func (n *node) announce() {
	n.announced.Do(func() {
		n.log.Info("ready", "api_addr", n.addresses.API)
		notify(n.log, notifyReady)
		if n.cfg.Ready != nil {
			n.cfg.Ready(n.addresses)
		}
	})
}

// sweep removes old trash until ctx ends.
func (n *node) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		removed, err := n.dir.SweepTrash(time.Now().Add(-n.cfg.TrashKeep))
		if err != nil {
			n.log.Warn("sweeping the trash failed; it is tried again", "error", err, "in", sweepInterval)
		} else if removed > 0 {
			n.log.Info("removed replaced stores from the trash", "stores", removed, "kept_for", n.cfg.TrashKeep)
		}
		select {
		case <-ctx.Done():
			return
		case <-n.trashed:
		case <-tick.C:
		}
	}
}
