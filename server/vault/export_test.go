package vault

import (
	"context"

	"github.com/lockstepdb/lockstep/server/replication"
)

// SetNode gives a core a node of the test's own.
func SetNode(c *Core, n node) { c.setNode(n) }

// NoSets is a node whose cluster is in no set; tests embed it and replace what they need.
type NoSets struct{ node }

func (NoSets) Mode(replication.Kind) replication.Mode { return replication.Disabled }

func (NoSets) Status(replication.Kind) map[string]any {
	return map[string]any{"mode": string(replication.Disabled)}
}

// Sweep is one round of Run.
func Sweep(c *Core, ctx context.Context) error {
	_, err := c.sweep(ctx, "")
	return err
}
