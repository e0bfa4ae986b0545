package vault

import (
	"time"

	"context"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// SetNode gives a core a node of the test's own.
func SetNode(c *Core, n node) { c.setNode(n) }

// NoSets is a node whose cluster is in no set; tests embed it and replace what they need.
type NoSets struct{ node }

func (NoSets) Mode(replication.Kind) replication.Mode { return replication.Disabled }

func (NoSets) Revoked(replication.Kind) bool { return false }

func (NoSets) PromotePreflight(replication.Kind) (*replication.Preflight, error) { return nil, nil }

func (NoSets) HoldRole() (release func()) { return func() {} }

func (NoSets) Synchronous(replication.Kind) (replication.Level, error) {
	return replication.Level{}, nil
}

func (NoSets) SetSynchronous(context.Context, replication.Kind, replication.Level) error {
	return &replication.Refused{Reason: "no sets"}
}

func (NoSets) Degraded(replication.Kind) time.Time { return time.Time{} }

func (NoSets) AwaitConfirmed(context.Context, bool, *replication.Written) (string, error) {
	return "", nil
}

func (NoSets) AwaitLevel(context.Context, uint64, replication.Level, bool, ...replication.Kind) error {
	return nil
}

func (NoSets) Leased(replication.Kind) error { return nil }

func (NoSets) Fenced(replication.Kind) map[string]any { return nil }

func (NoSets) Meters() *replication.Meters { return nil }

func (NoSets) Lacks(storage.KeyspaceID) (replication.Lack, error) { return "", nil }

func (NoSets) LeavesOut(string, string) (bool, error) { return false, nil }
func (NoSets) Reveals(string, string) (string, error) { return "", nil }

func (NoSets) Wrote(wal.Position, *replication.Written) (*replication.Written, error) {
	return &replication.Written{}, nil
}

func (NoSets) ForwardedIndexToken(string) string { return "" }

func (NoSets) ReachedIndex(context.Context, []string, bool, bool) (replication.Reach, error) {
	return replication.Reached, nil
}

func (NoSets) Status(replication.Kind) map[string]any {
	return map[string]any{"mode": string(replication.Disabled)}
}

// Sweep is one round of Run.
func Sweep(c *Core, ctx context.Context) error {
	return c.sweep(&request{ctx: ctx, id: "sweep"}, &sweeper{})
}

// CheapPasswords makes the hashes of passwords as cheap as bcrypt allows.
func CheapPasswords(c *Core) { c.guests.cost = bcrypt.MinCost }

// LimitMounts changes how many mounts a core lets a cluster have.
func LimitMounts(c *Core, n int) { c.maxMounts = n }

// KeepLockouts does what Run does about lockouts.
func KeepLockouts(c *Core, ctx context.Context) error {
	return c.keepLockouts(&request{ctx: ctx, id: "test"})
}

// BatchAllows is batchAllows.
func BatchAllows(c *Core, token, path string) (bool, error) { return c.batchAllows(token, path) }

// RouteLine is one route as a test compares it.
type RouteLine struct {
	Methods, Path                string
	Open, AnyToken, Sudo, Shared bool
	OnDR                         bool // perhaps only for a while
}

// Routes lists every route: those of the table, and those of each auth method below auth/<type>/.
func Routes(c *Core) []RouteLine {
	var out []RouteLine
	add := func(prefix string, routes []route) {
		for _, rt := range routes {
			has := func(flag int) bool { return rt.flags&flag != 0 }
			out = append(out, RouteLine{rt.methods, prefix + rt.path, has(open), has(anyToken), has(sudo), has(toShared), has(onDR) || has(onRevoked)})
		}
	}
	add("", c.routes)
	for kind, routes := range c.methods {
		add("auth/"+kind+"/", routes)
	}
	return out
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

// CubbyholeID is the keyspace of all cubbyholes, CountersID that of what is counted of logins.
var CubbyholeID, CountersID = cubbyhole.id, counters.id

// Metrics are the names of all metrics, with kind and unit.
func Metrics() map[string]string {
	out := map[string]string{}
	for _, m := range metricTable {
		out[m.name] = string(m.kind) + ", " + m.unit
	}
	return out
}

// NoteVersion is what Run does at its start, of a core of a version.
func NoteVersion(c *Core, ctx context.Context, version string) error {
	c.cfg.Version = version
	return c.noteVersion(ctx)
}

// AllowForwarding sets what the configuration says of forwarding by header.
func AllowForwarding(c *Core, on bool) { c.cfg.ForwardByHeader = on }

// BeginProfile takes the place of one who takes a profile of a kind.
func BeginProfile(c *Core, kind string) (end func()) { return c.profiling.begin(kind) }
