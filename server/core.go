package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/internal/buildinfo"
	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/server/vault"
)

// switchGrace is how long requests to the old core may still take once a new
// generation is live.
const switchGrace = 2 * time.Second

// core is one generation at work in one role: its engine, its part in replication, its
// API. A change of generation or role ends it; the next one is made anew, but for the engine when only the role changes.
type core struct {
	node *node
	gen  *Generation
	keys *seal.Opened
	log  hclog.Logger

	engine      *engine.Engine
	store       *part // Engine.Run; from the core before, or nil until run starts it
	replication *replication.Node
	vault       *vault.Core
	handler     http.Handler // both faces
	scrub       *scrubber

	switching sync.Mutex    // one Switch at a time
	switched  chan struct{} // closed when another generation became live, or this one is to go on in another role
	becoming  waiting       // what is answered until then
	turning   bool          // switched, and the next core takes this one's engine over
	taking    atomic.Int32  // snapshots under way
	undecided error         // set before switched is closed: which generation is live is not known, and the process must end
	sealed    bool          // it was sealed by an operator
}

// runCore waits until a generation's seal is open, and serves it until ctx ends, another
// generation becomes live or the node is sealed (again is true), or a part of it fails.
func (n *node) runCore(ctx context.Context) (again bool, err error) {
	u, err := n.sealing.await(ctx)
	if u == nil || err != nil {
		n.gate.shut(waiting{reason: "the server is shutting down"})
		return false, err
	}
	c, err := n.openCore(u)
	if err != nil {
		u.done <- err
		return false, err
	}
	eng := c.engine
	defer func() {
		if closed := eng.Close(); err == nil && closed != nil {
			err = fmt.Errorf("close the store: %w", closed)
		}
	}()
	for opened := u.done; ; opened = make(chan error, 1) {
		if again, err = c.run(ctx, opened); err != nil || !again || !c.turning {
			return again, err
		}
		if c, err = c.turned(); err != nil {
			return false, err
		}
	}
}

// turned is the core of the same store in the role that its role file names since. The store stays open: log, tables and file are what they were.
func (c *core) turned() (*core, error) {
	next := &core{node: c.node, keys: c.keys, log: c.log, engine: c.engine, store: c.store, switched: make(chan struct{})}
	var err error
	if next.gen, err = c.node.dir.readGeneration(c.gen.Name); err == nil {
		err = next.engine.SetRole(context.Background(), next.gen.Role)
	}
	if err == nil {
		next.engine.SetRepairable(next.gen.Secondary)
		err = next.build()
	}
	if err != nil {
		return nil, errors.Join(err, c.store.stop())
	}
	return next, nil
}

func (n *node) openCore(u *unsealing) (*core, error) {
	c := &core{node: n, gen: u.gen, keys: u.keys, log: n.log, switched: make(chan struct{})}
	if err := c.openEngine(); err != nil {
		return nil, err
	}
	if err := c.build(); err != nil {
		return nil, errors.Join(err, c.engine.Close())
	}
	return c, nil
}

// liveGeneration returns the live generation of a tidied directory; nil before the cluster is initialised.
func (n *node) liveGeneration() (*Generation, error) {
	if err := n.dir.Tidy(); err != nil {
		return nil, err
	}
	select {
	case n.trashed <- struct{}{}:
	default: // it is awake already
	}
	gen, err := n.dir.Current()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return gen, err
}

func (c *core) openEngine() error {
	eng, report, err := engine.Open(engineConfig(c.node.cfg, c.gen, c.keys, c.log))
	if err != nil {
		return fmt.Errorf("open the store in %s: %w", c.gen.Dir, err)
	}
	c.engine = eng
	logReport(c.log, c.gen, report)
	return nil
}

func engineConfig(cfg *Config, gen *Generation, keys *seal.Opened, log hclog.Logger) engine.Config {
	r := cfg.Replication
	return engine.Config{
		Dir:                gen.Dir,
		Role:               gen.Role,
		Logger:             log,
		CheckpointBytes:    r.CheckpointBytes,
		CheckpointInterval: r.CheckpointInterval,
		SegmentBytes:       r.SegmentBytes,
		SegmentEntries:     r.SegmentEntries,
		RetainBytes:        r.RetainBytes,
		RetainAge:          r.RetainAge,
		MinFree:            cfg.minFree(),
		Repairable:         gen.Secondary,
		Seam:               fused(cfg.Seam),
		Now:                wallClock,
		Sealer:             keys.Keyring(),
	}
}

// minFree is the engine's: there zero means the default, here it means none.
func (c *Config) minFree() int64 {
	if c.MinFree == 0 {
		return -1
	}
	return c.MinFree
}

func logReport(log hclog.Logger, gen *Generation, r engine.Report) {
	fields := []any{"generation", gen.Name, "first", r.WAL.First, "last", r.WAL.Last, "replayed", r.Replayed, "took", r.Took}
	if r.OutcomeUnknown > 0 {
		fields = append(fields, "kept_unacknowledged", r.OutcomeUnknown)
	}
	log.Info("store opened", fields...)
	if r.WAL.CutBytes > 0 {
		log.Warn("cut the torn end of a write that was never acknowledged", "file", r.WAL.CutFile, "bytes", r.WAL.CutBytes)
	}
	if r.LogSetAside != "" {
		log.Warn("the log was damaged and was set aside; its place is found again by sync", "file", r.LogSetAside)
		logDamage(log, r.LogDamage)
	}
	switch {
	case r.ReindexInterrupted:
		log.Warn("a reindex was interrupted and begins again")
	case r.ReindexNeeded:
		log.Warn("the index does not agree with the records: reindex is needed")
	}
}

// logDamage names what a damaged log may have lost, a line an entry.
func logDamage(log hclog.Logger, damage []engine.LogDamage) {
	for _, d := range damage {
		log.Warn("damaged frame in the log", "file", d.File, "index", d.Index, "error", d.What)
		for _, e := range d.Entries {
			for _, k := range e.Keys {
				log.Warn("its entry may be what is damaged", "index", e.Index, "keyspace", k.Keyspace, "key", string(k.Key), "reason", e.Wrong)
			}
		}
	}
}

func (c *core) build() error {
	n, info := c.node, buildinfo.Read()
	var err error
	c.scrub = newScrubber(c.engine, n.cfg.Scrub, c.log, c.secondary)
	vaultConfig := vault.Config{
		Engine:      c.engine,
		Logger:      c.log,
		Version:     info.Version,
		BuildDate:   info.Date,
		APIAddr:     n.addresses.API,
		ClusterAddr: n.addresses.Cluster,
		MaxBody:     n.cfg.Listener.MaxRequestSize,
		OpenMetrics: n.cfg.Listener.OpenMetrics,
		DataDir:     n.cfg.DataDir,
		Listener:    n.listenerStats,
		Sanitized:   n.cfg.sanitized,
		Seal:        c.keys,
		SealNow:     c.sealNow,
		Snapshots:   c,
		Scrub:       c.scrub.status,
		Now:         wallClock,

		Unauthenticated: n.unauthenticated,
		ForwardByHeader: n.cfg.Replication.ForwardByHeader,
	}
	if n.cfg.Dev != nil {
		vaultConfig.DevRootToken = n.cfg.Dev.RootToken
	}
	if c.vault, err = vault.New(vaultConfig); err != nil {
		return fmt.Errorf("start the API: %w", err)
	}
	archives, err := archive.Open(archive.Options{Dir: filepath.Join(n.dir.Path, archiveName), Sealer: c.keys.Keyring(), FreeDisk: n.dir.FreeDisk, Seam: fused(n.cfg.Seam)})
	if err != nil {
		return fmt.Errorf("start replication: %w", err)
	}
	c.replication, err = replication.New(replication.Config{
		Archives:          archives,
		Tightens:          vault.Tightens,
		Engine:            c.engine,
		Logger:            c.log,
		APIAddr:           n.addresses.API,
		ClusterAddr:       n.addresses.Cluster,
		ClusterBind:       n.clusterBind,
		Version:           info.Version,
		FreeDisk:          n.dir.FreeDisk,
		Switch:            c.switchTo,
		Reopen:            c.reopen,
		Mark:              c.mark,
		Handle:            c.vault.Handle,
		Seal:              n.sealing,
		Mounts:            vault.MountTable,
		HeartbeatInterval: n.cfg.Replication.HeartbeatInterval,
		CertificateLife:   n.cfg.Replication.CertificateTTL,
		ForwardWait:       n.cfg.Replication.WALWait,
		Now:               wallClock,
	})
	if err != nil {
		return fmt.Errorf("start replication: %w", err)
	}
	c.vault.SetReplication(c.replication)
	if c.handler, err = c.face(); err != nil {
		return err
	}
	if n.cfg.built != nil {
		n.cfg.built(c)
	}
	return nil
}

// secondary tells whether this cluster follows a primary, which has what is damaged here.
func (c *core) secondary() bool {
	return c.replication.Mode(replication.DR) == replication.Secondary || c.replication.Mode(replication.Performance) == replication.Secondary
}

// part is one of the long-running parts of a core.
type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid once done is closed
}

func start(name string, run func(context.Context) error) *part {
	ctx, cancel := context.WithCancel(context.Background())
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		if err := run(ctx); err != nil {
			p.err = fmt.Errorf("%s: %w", name, err)
		} else if ctx.Err() == nil {
			p.err = fmt.Errorf("internal error: %s ended by itself", name)
		}
	}()
	return p
}

// stop ends the part and waits for it; a part that has ended only tells how.
func (p *part) stop() error {
	p.cancel()
	<-p.done
	return p.err
}

// run starts engine, replication and API in this order, waits for a reason to
// end, and stops them in the opposite one. It has waited for all of them when
// it returns; but the engine runs on when the next core takes it over.
func (c *core) run(ctx context.Context, opened chan<- error) (again bool, err error) {
	if c.store == nil {
		c.store = start("store", c.engine.Run)
	}
	eng := c.store
	if err := c.initDev(ctx); err != nil {
		opened <- err
		return false, errors.Join(err, eng.stop())
	}
	c.vault.NoteVersion(ctx)
	c.node.sealing.running(c.keys)
	repl := start("replication", c.replication.Run)
	api := start("API", c.vault.Run)
	keys := start("keys", c.vault.FollowKeys)
	scrub := start("scrub", c.scrub.run)
	if cert := c.node.cert; cert != nil {
		byName := certificateByName(c.replication.APICertificate)
		cert.byName.Store(&byName)
		defer cert.byName.Store(nil)
	}
	c.node.live.Store(c)
	defer c.node.live.Store(nil)
	c.node.gate.open(c.handler)
	opened <- nil
	c.node.announce()

	var failed *part
	select {
	case <-ctx.Done():
	case <-c.switched:
		again = c.undecided == nil
	case <-eng.done:
		failed = eng
	case <-repl.done:
		failed = repl
	case <-api.done:
		failed = api
	}
	c.endRequests(again, failed != nil || c.undecided != nil)
	err = errors.Join(c.undecided, scrub.stop(), keys.stop(), api.stop())
	err = errors.Join(err, repl.stop())
	if again && err == nil && c.turning {
		return true, nil
	}
	err = errors.Join(err, eng.stop())
	return again && err == nil, err
}

// endRequests shuts the gate and waits for the requests behind it: a moment
// after a switch or failure, the server's own limit (which ends the process)
// when it shuts down.
func (c *core) endRequests(again, failed bool) {
	g := &c.node.gate
	why, grace := waiting{reason: "the server is shutting down"}, c.node.cfg.ShutdownTimeout/2
	switch {
	case failed:
		why.reason, grace = "the server stops after a failure; its log names it", 0
	case again && c.sealed:
		why, grace = c.node.sealedWaiting(), switchGrace
	case again:
		why, grace = c.becoming, switchGrace
	}
	if s := g.shut(why); s != nil {
		s.drain(grace)
	}
	c.node.lingering.drain(grace)
	c.node.lingering = nil
}

const changingReason = "the cluster's role is changing: try again in a moment"

func changing(to engine.Role) waiting {
	return waiting{reason: changingReason, becoming: &to}
}

func (c *core) initDev(ctx context.Context) error {
	dev := c.node.cfg.Dev
	if dev == nil || c.gen.Secondary {
		return nil
	}
	if err := c.vault.DevInit(ctx, dev.RootToken); err != nil {
		return fmt.Errorf("initialise the development server: %w", err)
	}
	return nil
}

var errChanging = errors.New("the cluster's role is changing already")

// ending tells whether this core is to make room for another. The caller holds switching.
func (c *core) ending() bool {
	select {
	case <-c.switched:
		return true
	default:
		return false
	}
}

// switchTo is replication.Config.Switch. From the moment that the gate is
// shut no write is acknowledged that the switch would leave behind.
func (c *core) switchTo(id engine.Identity, role engine.Role, notes map[string][]byte) error {
	c.switching.Lock()
	defer c.switching.Unlock()
	if c.ending() {
		return errChanging
	}
	if !c.node.making.TryLock() {
		return errRestoring
	}
	defer c.node.making.Unlock()
	keys, err := c.node.sealing.forSwitch()
	if err != nil {
		return err
	}
	next, err := c.node.dir.Prepare(id, role, true, notes, keys, nil)
	if err != nil {
		return err
	}
	g := &c.node.gate
	s := g.shut(changing(role))
	err = c.node.dir.Adopt(next)
	if err != nil && !c.node.dir.names(next) {
		g.reopen(s)
		return err
	}
	c.node.sealing.switched(keys)
	if err != nil { // the new name stands in CURRENT and may be gone after a crash: only a start can tell
		c.undecided = err
	} else {
		c.log.Info("another generation is live", "from", c.gen.Name, "to", next.Name)
	}
	c.node.lingering, c.becoming = s, changing(role)
	close(c.switched)
	return err
}

// reopen is replication.Config.Reopen: the same generation in another role.
func (c *core) reopen(role engine.Role, secondary bool) error {
	c.switching.Lock()
	defer c.switching.Unlock()
	if c.ending() {
		return errChanging
	}
	g := &c.node.gate
	why := waiting{reason: changingReason}
	s := g.shut(why)
	err := c.node.dir.Rewrite(c.gen, role, secondary)
	if err != nil && !c.node.dir.opensAs(c.gen, role, secondary) {
		g.reopen(s)
		return err
	}
	if err != nil { // the new role stands in role.json and may be gone after a crash: only a start can tell
		c.undecided = err
	} else {
		c.log.Info("the store goes on in another role", "generation", c.gen.Name, "log", role.String())
		c.turning = true
	}
	c.node.lingering, c.becoming = s, why
	close(c.switched)
	return err
}

// mark is replication.Config.Mark. A mark that may be gone after a crash ends the process, as a role does: what this program goes by must be what the next
// start goes by.
func (c *core) mark(secondary bool) error {
	c.switching.Lock()
	defer c.switching.Unlock()
	before, err := c.node.dir.readGeneration(c.gen.Name)
	if err != nil {
		return err
	}
	if err = c.node.dir.Rewrite(c.gen, before.Role, secondary); err == nil || before.Secondary == secondary || !c.node.dir.opensAs(c.gen, before.Role, secondary) {
		return err
	}
	if c.ending() {
		return err
	}
	c.undecided = err
	c.node.lingering, c.becoming = c.node.gate.shut(waiting{reason: changingReason}), waiting{reason: changingReason}
	close(c.switched)
	return err
}

// sealNow is vault.Config.SealNow. From the moment that it returns nobody is answered but by the sealed face; the store is
// closed, and its keys forgotten, once the requests under way have ended.
func (c *core) sealNow() error {
	c.switching.Lock()
	defer c.switching.Unlock()
	if c.ending() {
		return errChanging
	}
	c.node.sealing.sealed()
	c.node.lingering, c.sealed = c.node.gate.shut(c.node.sealedWaiting()), true
	c.log.Warn("sealed by an operator")
	close(c.switched)
	return nil
}
