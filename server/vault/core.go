package vault

import (
	"context"
	"net/http"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
)

// Config says what a Core needs.
type Config struct {
	Engine      *engine.Engine
	Logger      hclog.Logger
	Version     string
	BuildDate   string
	APIAddr     string
	ClusterAddr string
	// DevRootToken, in dev mode, is valid as a root token whatever the store says, also on a cluster that became a secondary.
	DevRootToken string
	MaxBody      int64 // bytes; 32 MiB
}

// Core is the Vault-compatible face of one cluster: mounts, tokens, policies, KV, sys.
type Core struct{ _ int }

func New(cfg Config) (*Core, error) { panic("vault helper") }

// SetReplication gives the core its node, before it serves (the node needs Handle, the core the node).
func (c *Core) SetReplication(n *replication.Node) { panic("vault helper") }

func (c *Core) ServeHTTP(w http.ResponseWriter, r *http.Request) { panic("vault helper") }

// Handle executes a request that a performance secondary forwarded (replication.Config.Handle).
func (c *Core) Handle(ctx context.Context, f *replication.Forwarded) *replication.ForwardedAnswer {
	panic("vault helper")
}

// DevInit initialises an empty store with the given root token and a KV v2 mount at secret/; nothing when it is initialised.
func (c *Core) DevInit(ctx context.Context, rootToken string) error { panic("vault helper") }

// MintRoot writes a new root token into a store that no server runs (Engine.Run must be running in the calling command) and returns it.
func MintRoot(ctx context.Context, e *engine.Engine) (token string, err error) { panic("vault helper") }
