package replication

import (
	"context"
	"regexp"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// idPattern is what an operator may call a secondary: it is part of certificates, keys of records, log lines and paths.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func validID(id string) bool { return idPattern.MatchString(id) }

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
	// Lookup is what sys/wrapping/lookup of an activation token answers beside creation_time, creation_ttl and creation_path: what a secondary must know
	// before it spends the token. LookupActivation fills it.
	Lookup map[string]any
}

// SecondaryToken registers an id and mints its activation token. ttl 0 means 30 minutes, at most 24 hours.
func (n *Node) SecondaryToken(ctx context.Context, k Kind, id string, ttl time.Duration) (*Activation, error) {
	panic("replication helper")
}

// RevokeSecondary cuts the secondary's streams at once and refuses it until it uses a new token.
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

// renew certifies a fresh key of an enrolled secondary.
func (n *Node) renew(ctx context.Context, p peer, requestPEM []byte) (certificatePEM []byte, err error) {
	panic("replication helper")
}

// renewCertificate runs until ctx ends: at two thirds of the certificate's life it makes a fresh key and has it certified by send, which calls the
// primary's Renew on the live connection.
func (n *Node) renewCertificate(ctx context.Context, k Kind, send func(ctx context.Context, requestPEM []byte) (certificatePEM []byte, err error)) {
	panic("replication helper")
}

type reindexProgress struct{ _ int }
type checkRecord struct{ _ int }

func (n *Node) loadChecked() error             { return nil }
func (n *Node) keepHolds(ctx context.Context)  { <-ctx.Done() }
func (n *Node) runReindex(ctx context.Context) { <-ctx.Done() }
