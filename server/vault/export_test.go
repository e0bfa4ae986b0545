package vault

import (
	"context"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
)

// SetNode gives a core a node of the test's own.
func SetNode(c *Core, n node) { c.setNode(n) }

// NoSets is a node whose cluster is in no set; tests embed it and replace what they need.
type NoSets struct{ node }

func (NoSets) Mode(replication.Kind) replication.Mode { return replication.Disabled }

func (NoSets) Revoked(replication.Kind) bool { return false }

func (NoSets) Status(replication.Kind) map[string]any {
	return map[string]any{"mode": string(replication.Disabled)}
}

// Sweep is one round of Run.
func Sweep(c *Core, ctx context.Context) error {
	_, err := c.sweep(ctx, "")
	return err
}

// MoveRecord gives a replicated mount another path without asking what is there.
func MoveRecord(t testing.TB, e *engine.Engine, from, to string) {
	t.Helper()
	rec, err := e.Get(shared.id, []byte(mountPrefix+from))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Do(context.Background(), &engine.Tx{Writes: []engine.Write{shared.del(mountPrefix + from), shared.put(mountPrefix+to, rec.Value)}}); err != nil {
		t.Fatal(err)
	}
}
