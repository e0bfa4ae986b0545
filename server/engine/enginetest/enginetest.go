// Package enginetest runs engines for tests: real files, real syncs, in a
// directory of the test's own, and checked to the last byte when the test ends.
package enginetest

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// timeout ends a test that waits for something that does not come.
const timeout = 2 * time.Minute

// running is an engine with its Run.
type running struct {
	cfg     engine.Config
	cancel  context.CancelFunc
	ended   chan error
	once    sync.Once
	err     error
	unclean bool
}

var engines sync.Map // *engine.Engine → *running

// New creates a store and runs an engine on it. mods change its configuration, which has no limit of free disk. When
// the test ends the engine is stopped, opened for inspection and checked.
func New(t testing.TB, role engine.Role, mods ...func(*engine.Config)) *engine.Engine {
	t.Helper()
	return NewOf(t, engine.Identity{ClusterName: t.Name()}, role, mods...)
}

// NewOf is New for a given identity: Secondary gives one whose digests can be compared.
func NewOf(t testing.TB, id engine.Identity, role engine.Role, mods ...func(*engine.Config)) *engine.Engine {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	if err := engine.Create(dir, id, nil); err != nil {
		t.Fatalf("creating a store: %v", err)
	}
	return Open(t, dir, role, mods...)
}

// Secondary returns an identity for a secondary of e: another cluster with the same digest secret. A DR secondary has the
// lineage too.
func Secondary(e *engine.Engine, role engine.Role) engine.Identity {
	id := engine.Identity{ClusterName: "secondary", DigestSecret: e.Identity().DigestSecret}
	if role == engine.Verbatim {
		id.Lineage = e.Identity().Lineage
	}
	return id
}

// Open runs an engine on an existing store.
func Open(t testing.TB, dir string, role engine.Role, mods ...func(*engine.Config)) *engine.Engine {
	t.Helper()
	cfg := engine.Config{Dir: dir, Role: role, MinFree: -1}
	for _, mod := range mods {
		mod(&cfg)
	}
	e, _, err := engine.Open(cfg)
	if err != nil {
		t.Fatalf("opening the store: %v", err)
	}
	Run(t, e, cfg)
	return e
}

// Run runs an engine that the test has opened itself.
func Run(t testing.TB, e *engine.Engine, cfg engine.Config) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cfg: cfg, cancel: cancel, ended: make(chan error, 1)}
	engines.Store(e, r)
	go func() { r.ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		defer engines.Delete(e)
		if r.stopped() {
			return // the store may be another engine's by now
		}
		Stop(t, e)
		if !r.unclean && !t.Failed() {
			CheckStore(t, cfg.Dir)
		}
	})
}

func of(t testing.TB, e *engine.Engine) *running {
	t.Helper()
	r, ok := engines.Load(e)
	if !ok {
		t.Fatal("this engine was not made by enginetest")
	}
	return r.(*running)
}

func (r *running) stopped() bool { return r.ended == nil }

// Dir returns the directory of an engine's store.
func Dir(t testing.TB, e *engine.Engine) string {
	t.Helper()
	return of(t, e).cfg.Dir
}

// Stop ends an engine: Run drains, makes a last checkpoint and returns; the files are closed.
func Stop(t testing.TB, e *engine.Engine) {
	t.Helper()
	if err := Wait(t, e); err != nil {
		t.Errorf("running the engine: %v", err)
	}
}

// Wait is Stop that returns the error of Run, for tests that make it fail. The store is then not checked at the end.
func Wait(t testing.TB, e *engine.Engine) error {
	t.Helper()
	r := of(t, e)
	r.once.Do(func() {
		r.cancel()
		r.err = <-r.ended
		r.ended = nil
		r.unclean = r.err != nil
		if err := e.Close(); err != nil {
			r.err = errors.Join(r.err, err)
		}
	})
	return r.err
}

// Reopen stops an engine and runs another one on its store.
func Reopen(t testing.TB, e *engine.Engine, mods ...func(*engine.Config)) *engine.Engine {
	t.Helper()
	r := of(t, e)
	Stop(t, e)
	return Open(t, r.cfg.Dir, r.cfg.Role, append([]func(*engine.Config){func(c *engine.Config) { *c = r.cfg }}, mods...)...)
}

// Turn lets an engine go on in another role, as the server does; whoever reopens it later reopens it in that one.
func Turn(t testing.TB, e *engine.Engine, role engine.Role, repairable bool) {
	t.Helper()
	if err := TryTurn(t, e, role, repairable); err != nil {
		t.Fatal(err)
	}
}

// TryTurn is Turn that returns the error.
func TryTurn(t testing.TB, e *engine.Engine, role engine.Role, repairable bool) error {
	t.Helper()
	if err := e.SetRole(Context(t), role); err != nil {
		return err
	}
	e.SetRepairable(repairable)
	r := of(t, e)
	r.cfg.Role, r.cfg.Repairable = role, repairable
	return nil
}

// CheckStore checks a stopped store: log, records, digests, and that log and state agree.
func CheckStore(t testing.TB, dir string) {
	t.Helper()
	o, err := engine.Inspect(dir)
	if err != nil {
		t.Errorf("inspecting the store: %v", err)
		return
	}
	defer o.Close()
	report, err := o.Check(context.Background(), nil)
	if err != nil {
		t.Errorf("checking the store: %v", err)
	}
	Clean(t, report)
}

// Check checks a running engine.
func Check(t testing.TB, e *engine.Engine) {
	t.Helper()
	report, err := e.Check(Context(t), nil)
	if err != nil {
		t.Errorf("checking the engine: %v", err)
	}
	Clean(t, report)
}

// Clean reports what a check has found.
func Clean(t testing.TB, report engine.CheckReport) {
	t.Helper()
	for _, d := range report.Damage {
		t.Errorf("the check found damage: %v", &d)
	}
	for _, d := range report.Log {
		t.Errorf("the check found damage in the log: %s, index %d: %s", d.File, d.Index, d.What)
	}
}

// Context returns a context that ends with the test, or after two minutes.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	return ctx
}

// MustPut commits one record.
func MustPut(t testing.TB, e *engine.Engine, ks storage.KeyspaceID, scope storage.Scope, key, value string) engine.Committed {
	t.Helper()
	return MustDo(t, e, Put(ks, scope, key, value))
}

// MustDo commits writes.
func MustDo(t testing.TB, e *engine.Engine, writes ...engine.Write) engine.Committed {
	t.Helper()
	c, err := e.Do(Context(t), &engine.Tx{Writes: writes})
	if err != nil {
		t.Fatalf("committing: %v", err)
	}
	return c
}

// Put is the write of a record.
func Put(ks storage.KeyspaceID, scope storage.Scope, key, value string) engine.Write {
	return engine.Write{Keyspace: ks, Scope: scope, Change: storage.Change{Op: storage.Put, Key: []byte(key), Value: []byte(value)}}
}

// Delete is the write that removes a record.
func Delete(ks storage.KeyspaceID, scope storage.Scope, key string) engine.Write {
	return engine.Write{Keyspace: ks, Scope: scope, Change: storage.Change{Op: storage.Delete, Key: []byte(key)}}
}

// Drop is the write that drops a keyspace.
func Drop(ks storage.KeyspaceID, scope storage.Scope) engine.Write {
	return engine.Write{Keyspace: ks, Scope: scope, Change: storage.Change{Op: storage.Drop}}
}

// Content returns everything that an engine holds, by keyspace and key.
func Content(t testing.TB, e *engine.Engine) map[storage.KeyspaceID]map[string]string {
	t.Helper()
	v := e.Snapshot()
	defer v.Release()
	out := map[storage.KeyspaceID]map[string]string{}
	for _, total := range v.Totals() {
		if total.Count == 0 {
			continue
		}
		records := map[string]string{}
		err := v.Scan(total.ID, nil, nil, func(r storage.Record) bool {
			records[string(r.Key)] = string(r.Value)
			return true
		})
		if err != nil {
			t.Fatalf("scanning keyspace %s: %v", total.ID, err)
		}
		out[total.ID] = records
	}
	return out
}
