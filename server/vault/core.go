package vault

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/storage"
)

// Config says what a Core needs.
type Config struct {
	Engine      *engine.Engine
	Logger      hclog.Logger // nil: no log
	Version     string
	BuildDate   string
	APIAddr     string
	ClusterAddr string
	// DevRootToken, in dev mode, is valid as a root token whatever the store says, also on a cluster that became a secondary.
	DevRootToken string
	// ForwardByHeader lets clients of a performance secondary send a request to the primary by X-Vault-Forward and X-Vault-Inconsistent.
	ForwardByHeader bool
	MaxBody         int64 // bytes; 32 MiB
	// OpenMetrics serves sys/metrics without a token.
	OpenMetrics bool
	DataDir     string                // of the server: no audit device may write there
	Stdout      io.Writer             // of audit devices; os.Stdout
	Listener    func() ListenerStats  // may be nil
	Sanitized   func() map[string]any // the configuration without secrets; may be nil
	// Seal holds the keys of the store; nil: it is not sealed, as in this package's tests.
	Seal *seal.Opened
	// SealNow ends the core and forgets its keys: sys/seal.
	SealNow func() error
	// Snapshots takes and restores snapshots of everything; nil: there are none here.
	Snapshots Snapshots
	// Scrub tells how far stored data have been read again; nil: they are not.
	Scrub func() ScrubStatus
	// Unauthenticated tells which ceremonies of the key holders need no token (Op…); nil: none.
	Unauthenticated func(operation string) bool
	PasswordCost    int // of bcrypt; 0: the library's default. Tests make it cheap
	Now             func() time.Time
}

const defaultMaxBody = 32 << 20

// Core is the Vault-compatible face of one cluster: mounts, tokens, policies, KV, sys.
type Core struct {
	cfg     Config
	engine  *engine.Engine
	log     hclog.Logger
	now     func() time.Time
	routes  []route
	methods map[string][]route // of auth methods by their type; paths below the mount
	node    atomic.Pointer[nodeRef]
	snap    atomic.Pointer[snapshot]
	face    atomic.Pointer[FaceFunc] // the other one

	// mountsMu makes mount table changes one after the other: the sequencer cannot list, and whether a path is free
	// depends on all paths.
	mountsMu sync.Mutex
	// familyMu is held for writing while a token's children become orphans, for reading while a child is made: a child
	// made in between would die with a parent that it no longer has.
	familyMu sync.RWMutex

	began   time.Time
	meters  meters
	running running
	audit   auditor

	guests    guests // who logs in
	profiling profiling

	wake    chan struct{} // one slot: Run has something to do now
	movesMu sync.Mutex
	moves   []moved // the last remounts, newest last

	maxMounts   int
	ceremonies  ceremonies
	unpublished atomic.Bool // keys are in force here that the record does not name yet
}

// node is what the core asks of replication.Node; tests put a loopback between two cores in its place.
type node interface {
	filters
	indexes
	confirmations
	Mode(k replication.Kind) replication.Mode
	Revoked(k replication.Kind) bool
	HoldRole() (release func())
	RollAuthority(ctx context.Context, k replication.Kind) (string, error)
	Fenced(k replication.Kind) map[string]any
	Status(k replication.Kind) map[string]any
	EnablePrimary(ctx context.Context, k replication.Kind, primaryClusterAddr string) (string, error)
	SecondaryToken(ctx context.Context, k replication.Kind, id string, ttl time.Duration) (*replication.Activation, error)
	RevokeSecondary(ctx context.Context, k replication.Kind, id string) error
	LookupActivation(text string) (*replication.Activation, error)
	Redeem(ctx context.Context, text, requestPEM, remote string) (map[string]any, error)
	EnableSecondary(ctx context.Context, k replication.Kind, p replication.SecondaryEnable) (string, error)
	SecondaryTokenFor(ctx context.Context, k replication.Kind, id string, ttl time.Duration, publicKey string) (string, error)
	GeneratePublicKey(k replication.Kind) (string, error)
	PromoteSecondary(ctx context.Context, k replication.Kind, p replication.Promote) (string, error)
	Promoting(k replication.Kind) bool
	Demoted(k replication.Kind) (*replication.Demotion, error)
	DemotePrimary(ctx context.Context, k replication.Kind, p replication.Demote) (*replication.Demotion, error)
	PromotePreflight(k replication.Kind) (*replication.Preflight, error)
	DisablePrimary(ctx context.Context, k replication.Kind) (string, error)
	DisableSecondary(ctx context.Context, k replication.Kind) (string, error)
	UpdatePrimary(ctx context.Context, k replication.Kind, p replication.UpdatePrimary) (string, error)
	Recover(ctx context.Context) (string, error)
	Reindex(ctx context.Context, o replication.ReindexOptions) (string, error)
	MerkleCheck(ctx context.Context) (*replication.CorruptionReport, error)
	Forward(ctx context.Context, f *replication.Forwarded) (*replication.ForwardedAnswer, bool, error)
	Meters() *replication.Meters
	archives
}

type nodeRef struct{ node }

// New makes a core; it starts nothing.
func New(cfg Config) (*Core, error) {
	if cfg.Engine == nil {
		return nil, errors.New("vault: Config.Engine is missing")
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = defaultMaxBody
	}
	if cfg.MaxBody < 0 || cfg.MaxBody > defaultMaxBody {
		return nil, fmt.Errorf("vault: Config.MaxBody is %d, it must be from 1 to %d bytes", cfg.MaxBody, defaultMaxBody)
	}
	c := &Core{cfg: cfg, engine: cfg.Engine, log: cfg.Logger, now: cfg.Now, routes: routeTable(), methods: methodTables(), wake: make(chan struct{}, 1)}
	c.maxMounts = maxMounts
	c.guests.init()
	if cfg.PasswordCost != 0 {
		c.guests.cost = cfg.PasswordCost
	}
	if c.log == nil {
		c.log = hclog.NewNullLogger()
	}
	c.log = c.log.Named("vault")
	if c.now == nil {
		c.now = time.Now
	}
	c.began = c.now()
	if cfg.OpenMetrics {
		openMetrics(c.routes)
	}
	return c, nil
}

// SetReplication gives the core its node, before it serves (the node needs Handle, the core the node).
func (c *Core) SetReplication(n *replication.Node) { c.setNode(n) }

func (c *Core) setNode(n node) { c.node.Store(&nodeRef{n}) }

// replicator is the node, or a refusal when the core has none.
func (c *Core) replicator() (node, error) {
	if n := c.node.Load(); n != nil {
		return n.node, nil
	}
	return nil, refuse(errUnavailable, "replication is not running on this server")
}

func (c *Core) mode(k replication.Kind) replication.Mode {
	if n := c.node.Load(); n != nil {
		return n.Mode(k)
	}
	return replication.Disabled
}

func (c *Core) revoked(k replication.Kind) bool {
	n := c.node.Load()
	return n != nil && n.Revoked(k)
}

func (c *Core) ServeHTTP(w http.ResponseWriter, h *http.Request) {
	r := &request{ctx: h.Context(), id: uuid.NewString(), remote: h.RemoteAddr}
	defer c.recovered(w, r)
	if !strings.HasPrefix(h.URL.Path, "/v1/") {
		answer{status: http.StatusNotFound, body: errorBody(nil)}.write(w)
		return
	}
	if err := r.parse(h); err != nil {
		c.encodeError(r, err).write(w)
		return
	}
	if r.path == "sys/health" {
		c.serveHealth(w, h)
		return
	}
	r.rawBody = h.Body
	defer func() {
		if r.out != nil {
			r.out.end()
		}
	}()
	r.openBody = func(limit int64) ([]byte, error) { return readBody(w, h, min(limit, c.cfg.MaxBody)) }
	defer c.meters.request.Since(time.Now())
	c.running.begin(r, c.now())
	defer c.running.end(r)
	a := c.auditResponse(r, c.respond(r))
	stampIndex(w.Header(), r)
	if r.out != nil && a.status == http.StatusOK {
		c.sendStream(w, r)
		return
	}
	a.writeAs(w, r.contentType)
}

// respond executes a client's request and encodes its answer.
func (c *Core) respond(r *request) answer {
	rep, err := c.perform(r)
	rep, err = c.confirm(r, rep, err)
	a := c.encodeReply(r, rep, err)
	if r.wraps(rep, a) {
		r.contentType = ""
		a = c.wrapAnswer(r, rep, a)
	}
	return a
}

// recovered answers 500 when a handler panicked, and logs it once. The client learns nothing of the panic.
func (c *Core) recovered(w http.ResponseWriter, r *request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	c.logPanic(r, p)
	answer{status: http.StatusInternalServerError, body: errorBody([]string{internalText(r)})}.write(w)
}

func (c *Core) logPanic(r *request, p any) {
	c.log.Error("handler panicked", "path", r.path, "request_id", r.id, "error", fmt.Sprint(p), "stack", string(debug.Stack()))
}

func internalText(r *request) string {
	return "internal error; the server's log tells more under request_id " + r.id
}

// space is a keyspace and how far it travels.
type space struct {
	id    storage.KeyspaceID
	scope storage.Scope
}

var (
	shared  = space{storage.SystemReplicated, storage.Replicated}
	private = space{storage.SystemLocal, storage.Local}
)

func (s space) put(key string, value []byte) engine.Write {
	return engine.Write{Keyspace: s.id, Scope: s.scope, Change: storage.Change{Op: storage.Put, Key: []byte(key), Value: value}}
}

func (s space) del(key string) engine.Write {
	return engine.Write{Keyspace: s.id, Scope: s.scope, Change: storage.Change{Op: storage.Delete, Key: []byte(key)}}
}

func (s space) drop() engine.Write {
	return engine.Write{Keyspace: s.id, Scope: s.scope, Change: storage.Change{Op: storage.Drop}}
}

func (s space) key(key string) engine.Key { return engine.Key{Keyspace: s.id, Key: []byte(key)} }

// get reads one record; ok is false when there is none.
func (c *Core) get(s space, key string) (value []byte, ok bool, err error) {
	rec, err := c.engine.Get(s.id, []byte(key))
	return found(rec, err)
}

// read is get for the function of a transaction.
func read(rd engine.Reader, s space, key string) (value []byte, ok bool, err error) {
	rec, err := rd.Get(s.id, []byte(key))
	return found(rec, err)
}

func found(rec storage.Record, err error) ([]byte, bool, error) {
	if errors.Is(err, storage.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return rec.Value, true, nil
}

// commit makes a transaction durable in the name of a request.
func (c *Core) commit(r *request, tx *engine.Tx) error {
	if r.forwarded != nil {
		tx.RequestID = r.id
	}
	n := c.node.Load()
	if n != nil {
		release := n.HoldRole()
		defer release()
		if n.Mode(dr) == replication.Secondary || r.admitted == replication.Primary && n.Mode(performance) == replication.Secondary {
			return refuse(errUnavailable, "this cluster ceased to be the primary while the request was under way, and nothing was written: repeat it")
		}
	}
	asked := tx
	tx, err := c.underLease(tx)
	if err != nil {
		return err
	}
	done, err := c.engine.Do(r.ctx, tx)
	if err != nil {
		return err
	}
	asked.Numbers = tx.Numbers
	if r.committed = max(r.committed, done.Position.Index); n == nil || done.Position.Index == 0 {
		return nil
	}
	if r.written, err = n.Wrote(done.Position, r.written); err != nil {
		return err
	}
	r.index = r.written.Token
	if r.away != "" { // the answer of a forwarded write was wrapped here: both are to be seen
		r.index = n.ForwardedIndexToken(r.away)
	}
	return nil
}

// prefixEnd is the least key above all keys that begin with prefix, which must not be empty or end in 0xff.
func prefixEnd(prefix string) []byte {
	end := []byte(prefix)
	end[len(end)-1]++
	return end
}

// randomText returns n random characters of base 62.
func randomText(n int) string {
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	out := make([]byte, 0, n)
	var b [64]byte
	for len(out) < n {
		_, _ = rand.Read(b[:]) // never fails
		for _, x := range b {
			if x < 248 && len(out) < n { // 248 = 4 × 62: no character is likelier than another
				out = append(out, alphabet[x%62])
			}
		}
	}
	return string(out)
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
