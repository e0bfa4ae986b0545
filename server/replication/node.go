package replication

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// Kind is the kind of a replication set.
type Kind string

const (
	DR          Kind = "dr"
	Performance Kind = "performance"
)

// kinds in the order in which status lists them.
var kinds = []Kind{DR, Performance}

func (k Kind) valid() bool { return k == DR || k == Performance }

// Mode is a cluster's part in a set, printed as Vault prints it.
type Mode string

const (
	Disabled      Mode = "disabled"
	Bootstrapping Mode = "bootstrapping"
	Primary       Mode = "primary"
	Secondary     Mode = "secondary"
)

// Refused is an operator's call that cannot be done; its sentence says what to do. The API answers 400 with it.
type Refused struct{ Reason string }

func (r *Refused) Error() string { return r.Reason }

func refuse(format string, args ...any) *Refused {
	return &Refused{Reason: fmt.Sprintf(format, args...)}
}

// ErrUnreachable wraps what failed when the primary could not be asked; the API answers 500 (activation) or 503 (forwarding).
var ErrUnreachable = errors.New("the primary cannot be reached")

// Config says what a Node needs.
type Config struct {
	Engine      *engine.Engine
	Logger      hclog.Logger
	APIAddr     string // what others are told, with scheme
	ClusterAddr string // what secondaries dial, host:port or https://host:port
	ClusterBind string // address to listen on for the cluster port
	Version     string
	FreeDisk    func() (int64, error) // free bytes on the data directory's file system
	// Switch ends this core and starts a new, empty store as a secondary: Verbatim for DR. It writes notes (node scope) into the new store
	// before the switch, keeps the old state as trash, and returns at once; the new core starts in the background. Crash-safe: one rename decides.
	Switch func(id engine.Identity, role engine.Role, notes map[string][]byte) error
	// Reopen ends this core and lets the same store go on in another role; secondary says that a primary holds what it holds. It returns at once. Crash-safe:
	// one rename decides.
	Reopen func(role engine.Role, secondary bool) error
	// Mark says, for the next start, whether a primary holds what this store holds. It may be nil.
	Mark func(secondary bool) error
	// Seal gives and takes keys at an enrolment; nil: stores are not sealed.
	Seal Seal
	// Handle executes a request that a performance secondary forwarded, as the identity that the secondary authenticated.
	Handle func(ctx context.Context, f *Forwarded) *ForwardedAnswer
	// Archives keeps what rewinds and repairs take back; without it nothing that this cluster wrote is taken back.
	Archives *archive.Store
	// Tightens begins to look for what took rights away among the changes that an archive keeps, in their order: in words, and the calls that do the same on
	// another primary. nil: only what is known here is named.
	Tightens func() func(ks storage.KeyspaceID, c *storage.Change) (what string, repeat []string)
	// Mounts says where the mount table is; without it no mount is known, and a paths filter leaves everything out.
	Mounts            *MountTable
	HeartbeatInterval time.Duration // 1 s
	// CertificateLife is how long the certificates that this cluster signs for its secondaries are good; 72 h. They are renewed at two thirds.
	CertificateLife time.Duration
	// AuthorityLife is how long a set's CA is good; 20 years. It is replaced when a quarter of that is left.
	AuthorityLife time.Duration
	// ForwardWait is how long a forwarded write waits at most for this cluster to have received it; 2 s.
	ForwardWait time.Duration
	Now         func() time.Time
}

func (c *Config) validate() error {
	switch {
	case c.Engine == nil:
		return errors.New("replication: Config.Engine is missing")
	case c.Logger == nil:
		return errors.New("replication: Config.Logger is missing")
	case c.Version == "":
		return errors.New("replication: Config.Version is missing")
	}
	if c.ForwardWait <= 0 {
		c.ForwardWait = 2 * time.Second
	}
	if c.CertificateLife <= 0 {
		c.CertificateLife = memberLife
	}
	if c.AuthorityLife <= 0 {
		c.AuthorityLife = caLife
	}
	if c.HeartbeatInterval <= 0 {
		c.HeartbeatInterval = time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// Node is a cluster's part in its replication sets: at most one role in each.
type Node struct {
	cfg     Config
	engine  *engine.Engine
	log     hclog.Logger
	now     func() time.Time
	peers   *peerTable     // what a primary knows of its secondaries while it runs
	streams *streamTable   // live streams and calls by secondary: revocation cancels them
	link    map[Kind]*link // one for each kind, always: what a secondary knows of its primary
	certs   *certificates  // the TLS keys in use
	meters  *Meters
	clients *clientListener        // of the cluster port; nil until Run (guarded by mu)
	forward forwarder              // connection of forwarded requests
	covers  coverCache             // what secondaries may ask for
	levels  levels                 // of synchronous sets
	held    atomic.Pointer[held]   // what this cluster, a secondary, leaves out
	minter  atomic.Pointer[minter] // of the newest index token
	feeding sync.WaitGroup         // goroutines of streams that this cluster feeds
	rolling chan struct{}          // one slot: a CA's replacement may go on

	renewing map[Kind]chan struct{} // one slot each: the CA is another, a certificate of it is to be had

	admin     sync.Mutex // held by operator's calls that change the role or the list of secondaries; guards reopening
	reopening bool       // the store goes on in another role: this node ends

	writes sync.RWMutex // read-locked while a client's write is on its way into the log

	mu      sync.Mutex          // guards what follows
	sets    map[Kind]*setConfig // nil entry: disabled; replaced, never changed
	lives   lives
	fences  map[Kind]*fence // why a primary takes no writes; replaced, never changed
	intent  *intent         // the change of role under way
	reindex reindexProgress
	checked checkRecord
}

// New reads the cluster's part in its sets from the engine, holds the log for the secondaries known to it, and starts nothing. Call it
// before Engine.Run.
func New(cfg Config) (*Node, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg:     cfg,
		engine:  cfg.Engine,
		log:     cfg.Logger.Named("replication"),
		now:     cfg.Now,
		peers:   newPeerTable(),
		streams: newStreamTable(),
		link:    map[Kind]*link{DR: newLink(), Performance: newLink()},
		sets:    map[Kind]*setConfig{},
		fences:  map[Kind]*fence{},
		lives:   newLives(),
		meters:  NewMeters(),

		rolling:  make(chan struct{}, 1),
		renewing: map[Kind]chan struct{}{DR: make(chan struct{}, 1), Performance: make(chan struct{}, 1)},
	}
	n.certs = &certificates{node: n}
	for _, k := range kinds {
		if dr := n.sets[DR]; dr != nil && dr.Mode == Secondary && k != DR {
			break // its copy of the primary's part in a performance set is not its own, and may be half received
		}
		set, err := n.loadSet(k)
		if err != nil {
			return nil, err
		}
		n.sets[k] = set
		if set != nil && set.Mode == Secondary {
			n.link[k].remember(set, n.engine.SyncState() != nil)
		}
	}
	if err := n.loadIntent(); err != nil {
		return nil, err
	}
	if err := n.loadFences(); err != nil {
		return nil, err
	}
	if err := n.loadChecked(); err != nil {
		return nil, err
	}
	n.engine.RenewHolds(n.restoreHolds)
	return n, nil
}

// Mode returns the cluster's part in a set, as committed.
func (n *Node) Mode(k Kind) Mode {
	set := n.set(k)
	switch {
	case n.demoting(k): // it takes no more writes
		return n.demotedMode(k)
	case set == nil:
		return Disabled
	case set.Mode == Secondary && !set.Joined:
		return Bootstrapping
	default:
		return set.Mode
	}
}

// Revoked reports whether this cluster is a secondary of a set that stopped because its primary does not know it any more. Only then
// EnableSecondary takes another token for the set.
func (n *Node) Revoked(k Kind) bool {
	set := n.set(k)
	return set != nil && set.Mode == Secondary && n.link[k].get().Machine.Revoked
}

// isSecondary reports whether this cluster is a secondary of any set.
func (n *Node) isSecondary() bool {
	return slices.ContainsFunc(kinds, func(k Kind) bool {
		set := n.set(k)
		return set != nil && set.Mode == Secondary
	})
}

// set returns the configuration of a set, nil when this cluster has no part in it.
func (n *Node) set(k Kind) *setConfig {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sets[k]
}

// ---- forwarding

// Forwarded is a request of a performance secondary's client, executed on the primary.
type Forwarded struct {
	Method, Path string // Path below /v1/
	Query        string
	Header       http.Header // only those that change the meaning of the request
	Body         []byte
	RequestID    string   // kept in the entry
	Secondary    string   // id of the secondary, from its certificate
	Policies     []string // of the caller, authenticated by the secondary
	DisplayName  string
	Epochs       []engine.Reign // beginnings of the newest epochs of the set that the secondary has seen
}

// ForwardedAnswer is the primary's answer, with the index that it committed.
type ForwardedAnswer struct {
	Status int
	Header http.Header
	Body   []byte
	Index  uint64 // of the primary's log; 0 when nothing was written
}
