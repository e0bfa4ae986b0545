package replication

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// Kind is the kind of a replication set.
type Kind string

const (
	DR          Kind = "dr"
	Performance Kind = "performance"
)

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
	// Handle executes a request that a performance secondary forwarded, as the identity that the secondary authenticated.
	Handle            func(ctx context.Context, f *Forwarded) *ForwardedAnswer
	HeartbeatInterval time.Duration // 1 s
	Now               func() time.Time
}

// Node is a cluster's part in its replication sets: at most one role in each.
type Node struct{ _ int }

func New(cfg Config) (*Node, error) { panic("replication helper") }

// Run serves the cluster port and the secondary's subscription until ctx ends.
func (n *Node) Run(ctx context.Context) error { panic("replication helper") }

// Mode returns the cluster's part in a set, as committed.
func (n *Node) Mode(k Kind) Mode { panic("replication helper") }

// ---- operator's calls; each is safe to repeat

func (n *Node) EnablePrimary(ctx context.Context, k Kind, primaryClusterAddr string) (warning string, err error) {
	panic("replication helper")
}

// Activation is what secondary-token answers with.
type Activation struct {
	Token        string // secret: revealed to the caller only
	Accessor     string
	TTL          time.Duration
	CreationTime time.Time
	CreationPath string
	Warning      string
}

// SecondaryToken registers an id and mints its activation token. ttl 0 means 30 minutes, at most 24 hours.
func (n *Node) SecondaryToken(ctx context.Context, k Kind, id string, ttl time.Duration) (*Activation, error) {
	panic("replication helper")
}
func (n *Node) RevokeSecondary(ctx context.Context, k Kind, id string) error {
	panic("replication helper")
}

// IsActivation reports whether a text is an activation token by its shape.
func IsActivation(text string) bool { panic("replication helper") }

// LookupActivation answers sys/wrapping/lookup for an activation token, without spending it.
func (n *Node) LookupActivation(text string) (*Activation, error) { panic("replication helper") }

// Redeem spends an activation token with a certificate request (PEM): the answer is what sys/wrapping/unwrap returns as data. Without a request it
// is a *Refused and the token stays unspent.
func (n *Node) Redeem(ctx context.Context, text, requestPEM, remote string) (map[string]any, error) {
	panic("replication helper")
}

// SecondaryEnable are the parameters of secondary/enable.
type SecondaryEnable struct {
	Token, PrimaryAPIAddr, CAFile, CAPath string
}

// EnableSecondary checks first (the primary's API address, its CA, clock, version, cluster port, disk; the first that fails is named, with what to do), then spends the token, then switches to
// a new empty store. Nothing is cleared before the primary accepted.
func (n *Node) EnableSecondary(ctx context.Context, k Kind, p SecondaryEnable) (warning string, err error) {
	panic("replication helper")
}

func (n *Node) Recover(ctx context.Context) (warning string, err error) { panic("replication helper") }

// Reindex starts in the background; progress is in Status.
func (n *Node) Reindex(ctx context.Context) (warning string, err error) { panic("replication helper") }

// MerkleCheck hashes everything again and reports, changing nothing. On a secondary damage is repaired from the primary afterwards.
func (n *Node) MerkleCheck(ctx context.Context) (*CorruptionReport, error) {
	panic("replication helper")
}

// CorruptionReport is a check's result for the API.
type CorruptionReport struct {
	At     time.Time
	Totals []storage.KeyspaceTotal
	Report engine.CheckReport
}

// ---- status

// Status is one set's status: the keys and types of sys/replication/<kind>/status data, ours added.
func (n *Node) Status(k Kind) map[string]any { panic("replication helper") }

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
}

// ForwardedAnswer is the primary's answer, with the index that it committed.
type ForwardedAnswer struct {
	Status int
	Header http.Header
	Body   []byte
	Index  uint64 // of the primary's log; 0 when nothing was written
}

// Forward sends a request to the primary and waits, 2 s at most, until this cluster has passed the index that it committed; late says that it has not.
func (n *Node) Forward(ctx context.Context, f *Forwarded) (answer *ForwardedAnswer, late bool, err error) {
	panic("replication helper")
}
