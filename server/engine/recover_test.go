package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// segments returns a store's log segments, oldest first.
func segments(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "log", "*.wal"))
	if err != nil || len(all) == 0 {
		t.Fatalf("segments in %s: got %v, %v", dir, all, err)
	}
	return all
}

// flip changes one byte wherever needle is found in a file: pages that are no longer in use hold it too.
func flip(t *testing.T, file, needle string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(needle)) {
		t.Fatalf("%s does not hold %q", file, needle)
	}
	for at := bytes.Index(b, []byte(needle)); at >= 0; at = bytes.Index(b, []byte(needle)) {
		b[at] ^= 0x20
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// image runs a writer for a while and returns the image of its directory at a moment when log waits behind the checkpoint.
func image(t *testing.T, e *engine.Engine, want func(i int) string) string {
	t.Helper()
	for i := range 30 {
		enginetest.MustDo(t, e, put(fmt.Sprintf("key%02d", i), want(i)))
		if i == 20 {
			if err := e.Checkpoint(enginetest.Context(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := filepath.Join(t.TempDir(), "image")
	copyStore(t, enginetest.Dir(t, e), dir)
	return dir
}

// large makes checkpoints and segments rare: tests say when.
func large(c *engine.Config) { c.CheckpointInterval = time.Hour }

func marked(i int) string { return fmt.Sprintf("marked-value-%02d", i) }

func TestDamagedLogIsRefusedOnAPrimaryWithFileAndPlace(t *testing.T) {
	t.Parallel()
	dir := image(t, enginetest.New(t, engine.Writer, large), marked)
	log := segments(t, dir)
	flip(t, log[len(log)-1], "marked-value-25")
	before, _ := os.ReadFile(log[len(log)-1])
	_, _, err := engine.Open(engine.Config{Dir: dir, MinFree: -1})
	var c *boltfile.CorruptError
	if !errors.As(err, &c) || !strings.Contains(err.Error(), filepath.Base(log[len(log)-1])) {
		t.Errorf("got %v, want a CorruptError that names %s", err, log[len(log)-1])
	}
	if after, _ := os.ReadFile(log[len(log)-1]); !bytes.Equal(before, after) {
		t.Error("the refused log was changed")
	}
}

func TestDamagedLogOfASecondaryIsSetAsideAndItsPlaceFoundBySync(t *testing.T) {
	t.Parallel()
	for name, role := range bothRoles {
		for _, which := range []string{"newest entry", "segment removed", "all segments removed"} {
			t.Run(name+", "+which, func(t *testing.T) {
				p := enginetest.New(t, engine.Writer, large)
				p.Hold("s", 1)
				e := enginetest.NewOf(t, enginetest.Secondary(p, role), role, large)
				if err := e.NodeSet(map[string][]byte{"key": []byte("secret")}); err != nil {
					t.Fatal(err)
				}
				s := &syncing{t: t, feeder: p, e: e}
				for i := range 30 {
					enginetest.MustDo(t, p, put(fmt.Sprintf("key%02d", i), marked(i)))
					if err := s.follow(); err != nil {
						t.Fatal(err)
					}
					if i == 20 {
						if err := e.Checkpoint(enginetest.Context(t)); err != nil {
							t.Fatal(err)
						}
					}
				}
				dir := filepath.Join(t.TempDir(), "image")
				copyStore(t, enginetest.Dir(t, e), dir)
				log := segments(t, dir)
				switch which {
				case "newest entry":
					flip(t, log[len(log)-1], "marked-value-25")
				default:
					for _, f := range log {
						if err := os.Remove(f); err != nil {
							t.Fatal(err)
						}
					}
				}
				cfg := engine.Config{Dir: dir, Role: role, MinFree: -1, Repairable: true}
				broken, rep, err := engine.Open(cfg)
				if err != nil {
					t.Fatalf("opening: %v", err)
				}
				if rep.LogSetAside == "" || !exists(rep.LogSetAside) {
					t.Errorf("log set aside: got %q, want a directory", rep.LogSetAside)
				}
				if broken.NeedsRepair() == "" {
					t.Error("NeedsRepair: got nothing")
				}
				if got := string(broken.NodeGet("key")); got != "secret" {
					t.Errorf("node-scope record: got %q, want %q", got, "secret")
				}
				if broken.Identity().ClusterID != e.Identity().ClusterID {
					t.Error("the identity was lost")
				}
				enginetest.Run(t, broken, cfg)
				broken = enginetest.Reopen(t, broken)
				if broken.NeedsRepair() == "" {
					t.Error("NeedsRepair after reopening: got nothing")
				}
				if err := p.Checkpoint(enginetest.Context(t)); err != nil {
					t.Fatal(err)
				}
				s = &syncing{t: t, feeder: p, e: broken, partial: true}
				if err := s.run(); err != nil {
					t.Fatalf("syncing: %v", err)
				}
				s.mustEqual()
				if got := broken.NeedsRepair(); got != "" {
					t.Errorf("NeedsRepair after the sync: got %q, want none", got)
				}
			})
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestKilledWhileALogIsSetAsideGoesOn(t *testing.T) {
	t.Parallel()
	dir := image(t, enginetest.New(t, engine.Writer, large), marked)
	log := segments(t, dir)
	flip(t, log[len(log)-1], "marked-value-25")
	cfg := engine.Config{Dir: dir, MinFree: -1, Repairable: true}
	e, rep, err := engine.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	id := e.Identity().ClusterID
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	// Undo the last rename: the log is aside, the new one not yet in its place.
	if err := os.Rename(filepath.Join(dir, "log"), filepath.Join(dir, "log.new")); err != nil {
		t.Fatal(err)
	}
	e, _, err = engine.Open(cfg)
	if err != nil {
		t.Fatalf("after a kill before the last rename: %v", err)
	}
	if e.Identity().ClusterID != id || e.NeedsRepair() == "" || !exists(rep.LogSetAside) {
		t.Errorf("got id %q and repair %q", e.Identity().ClusterID, e.NeedsRepair())
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	// A new log that is not finished, beside one that is in its place.
	if err := os.MkdirAll(filepath.Join(dir, "log.new"), 0o700); err != nil {
		t.Fatal(err)
	}
	e, _, err = engine.Open(cfg)
	if err != nil {
		t.Fatalf("after a kill before the first rename: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLogShorterThanTheStateIsRefused(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer, large)
	early := image(t, e, marked)
	for i := range 10 {
		enginetest.MustDo(t, e, put(fmt.Sprintf("late%02d", i), marked(i)))
	}
	if err := e.Checkpoint(enginetest.Context(t)); err != nil {
		t.Fatal(err)
	}
	late := filepath.Join(t.TempDir(), "late")
	copyStore(t, enginetest.Dir(t, e), late)
	if err := os.RemoveAll(filepath.Join(late, "log")); err != nil {
		t.Fatal(err)
	}
	copyStore(t, filepath.Join(early, "log"), filepath.Join(late, "log"))
	_, _, err := engine.Open(engine.Config{Dir: late, MinFree: -1})
	if err == nil || !strings.Contains(err.Error(), "shorter than the state") {
		t.Errorf("got %v, want a refusal that says the log is shorter than the state", err)
	}
}

func TestStateOfAnotherMomentIsRefused(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer, small)
	early := image(t, e, marked)
	for i := range 200 {
		enginetest.MustDo(t, e, put(fmt.Sprintf("late%03d", i), strings.Repeat("x", 500)))
	}
	if err := e.Checkpoint(enginetest.Context(t)); err != nil {
		t.Fatal(err)
	}
	if e.FirstIndex() < 40 {
		t.Fatalf("first index: got %d, want the beginning of the log to be gone", e.FirstIndex())
	}
	late := filepath.Join(t.TempDir(), "late")
	copyStore(t, enginetest.Dir(t, e), late)
	if err := copyFile(filepath.Join(early, "state.db"), filepath.Join(late, "state.db")); err != nil {
		t.Fatal(err)
	}
	_, _, err := engine.Open(engine.Config{Dir: late, MinFree: -1})
	if err == nil || !strings.Contains(err.Error(), "gap") {
		t.Errorf("got %v, want a refusal that says there is a gap", err)
	}
}

func TestRotInTheStateIsFoundByReadsAndChecksAndMendedBySync(t *testing.T) {
	t.Parallel()
	for name, role := range bothRoles {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(13, 14))
			p := fill(t, rng)
			enginetest.MustDo(t, p, put("rotten", "marked-value-xx"))
			if err := p.Checkpoint(enginetest.Context(t)); err != nil {
				t.Fatal(err)
			}
			e := enginetest.NewOf(t, enginetest.Secondary(p, role), role, small)
			s := &syncing{t: t, feeder: p, e: e}
			if err := s.run(); err != nil {
				t.Fatal(err)
			}
			dir := enginetest.Dir(t, e)
			enginetest.Stop(t, e)
			flip(t, filepath.Join(dir, "state.db"), "marked-value-xx")

			o, err := engine.Inspect(dir)
			if err != nil {
				t.Fatal(err)
			}
			r, err := o.Check(context.Background(), nil)
			if err != nil || len(r.Damage) == 0 || string(r.Damage[0].Key) != "rotten" {
				t.Errorf("offline check: got %v, %v, want damage at key rotten", r.Damage, err)
			}
			if err := o.Close(); err != nil {
				t.Fatal(err)
			}

			e = enginetest.Open(t, dir, role, small, func(c *engine.Config) { c.Repairable = true })
			var d *storage.Damage
			if _, err := e.Get(shared, []byte("rotten")); !errors.As(err, &d) {
				t.Errorf("reading: got %v, want *Damage", err)
			}
			select {
			case d := <-e.Damaged():
				if string(d.Key) != "rotten" {
					t.Errorf("damage: got %v, want key rotten", d)
				}
			default:
				t.Error("nothing was told by Damaged")
			}
			if r, err := e.Check(enginetest.Context(t), nil); err != nil || len(r.Damage) == 0 {
				t.Errorf("check: got %v, %v, want damage", r.Damage, err)
			}
			if wrong, err := e.Reindex(enginetest.Context(t), nil); err != nil || wrong != 1 {
				t.Errorf("reindex: got %d, %v, want 1 record", wrong, err)
			}
			if root(e, storage.Replicated) == root(p, storage.Replicated) {
				t.Error("after reindex the digests do not tell of the wrong value")
			}
			s = &syncing{t: t, feeder: p, e: e, partial: true}
			if err := s.run(); err != nil {
				t.Fatalf("syncing: %v", err)
			}
			s.mustEqual()
			enginetest.Check(t, e)
		})
	}
}

func TestReindexOfASoundStoreChangesNothing(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(15, 16))
	e := enginetest.New(t, engine.Writer, small)
	randomWrites(t, e, rng, 100)
	before := root(e, 0)
	wrong, err := e.Reindex(enginetest.Context(t), nil)
	if err != nil || wrong != 0 || root(e, 0) != before {
		t.Errorf("got %d wrong, %v, root equal %v, want none, nil, true", wrong, err, root(e, 0) == before)
	}
	randomWrites(t, e, rng, 20)
	at := e.Position()
	got, err := e.TotalsAt(at.Index)
	if err != nil || rootOf(got, 0) != root(e, 0) {
		t.Errorf("totals at %d: got %v, want those of now", at.Index, err)
	}
	e = enginetest.Reopen(t, e)
	if rootOf(got, 0) != root(e, 0) {
		t.Error("the root changed with reopening")
	}
}

func TestOpenNeedsAStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, _, err := engine.Open(engine.Config{Dir: dir}); err == nil {
		t.Error("an empty directory was opened")
	}
	if _, _, err := engine.Open(engine.Config{Dir: filepath.Join(dir, "none")}); err == nil {
		t.Error("a missing directory was opened")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("refusals left %v", entries)
	}
	full := filepath.Join(dir, "full")
	if err := os.MkdirAll(filepath.Join(full, "something"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := engine.Create(full, engine.Identity{}, nil); err == nil {
		t.Error("a store was created in a directory that is not empty")
	}
}

func TestUnreadableStateOfADrSecondaryBeginsAgainAndOfAPrimaryIsRefused(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(23, 24))
	p := fill(t, rng)
	for _, which := range []string{"cut short", "missing"} {
		t.Run(which, func(t *testing.T) {
			d := enginetest.NewOf(t, enginetest.Secondary(p, engine.Verbatim), engine.Verbatim, small)
			if err := (&syncing{t: t, feeder: p, e: d}).run(); err != nil {
				t.Fatal(err)
			}
			dir := enginetest.Dir(t, d)
			enginetest.Stop(t, d)
			state := filepath.Join(dir, "state.db")
			if which == "missing" {
				if err := os.Remove(state); err != nil {
					t.Fatal(err)
				}
			} else if err := os.Truncate(state, 8192); err != nil {
				t.Fatal(err)
			}
			cfg := engine.Config{Dir: dir, Role: engine.Verbatim, MinFree: -1}
			if _, _, err := engine.Open(cfg); err == nil {
				t.Fatal("it was opened although it is not repairable")
			}
			cfg.Repairable = true
			e, rep, err := engine.Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if (which == "cut short") != (rep.StateSetAside != "") || e.NeedsRepair() == "" {
				t.Errorf("set aside: got %q, repair %q", rep.StateSetAside, e.NeedsRepair())
			}
			enginetest.Run(t, e, cfg)
			s := &syncing{t: t, feeder: p, e: e}
			if err := s.run(); err != nil {
				t.Fatal(err)
			}
			s.mustEqual()
		})
	}
}

func TestLogDamagedUnderARunningSecondaryIsRenewedByTheNextSync(t *testing.T) {
	t.Parallel()
	for name, role := range bothRoles {
		t.Run(name, func(t *testing.T) {
			p := enginetest.New(t, engine.Writer, large)
			p.Hold("s", 1)
			repairable := func(c *engine.Config) { c.Repairable, c.SegmentBytes = true, 1<<10 }
			e := enginetest.NewOf(t, enginetest.Secondary(p, role), role, large, repairable)
			e.Hold("x", 1)
			s := &syncing{t: t, feeder: p, e: e}
			for i := range 30 {
				enginetest.MustDo(t, p, put(fmt.Sprintf("key%02d", i), marked(i)))
				if err := s.follow(); err != nil {
					t.Fatal(err)
				}
			}
			dir := enginetest.Dir(t, e)
			enginetest.Stop(t, e)
			flip(t, segments(t, dir)[0], "marked-value-05")
			e = enginetest.Open(t, dir, role, large, repairable)
			r, err := e.Check(enginetest.Context(t), nil)
			if err != nil || len(r.Log) == 0 {
				t.Fatalf("check: got %v, %v, want damage in the log", r.Log, err)
			}
			s = &syncing{t: t, feeder: p, e: e, partial: true}
			if err := p.Checkpoint(enginetest.Context(t)); err != nil {
				t.Fatal(err)
			}
			if err := s.run(); err != nil {
				t.Fatal(err)
			}
			s.mustEqual()
			enginetest.Check(t, e)
			enginetest.MustDo(t, p, put("more", "x"))
			if err := s.follow(); err != nil {
				t.Fatal(err)
			}
			s.mustEqual()
			if _, err := e.TotalsAt(e.Position().Index); err != nil {
				t.Errorf("totals: %v", err)
			}
		})
	}
}

// TestAnInterruptedReindexIsNoDamage interrupts a reindex after its mark is durable.
func TestAnInterruptedReindexIsNoDamage(t *testing.T) {
	t.Parallel()
	for _, repairable := range []bool{false, true} {
		t.Run(fmt.Sprintf("repairable %t", repairable), func(t *testing.T) {
			t.Parallel()
			e := enginetest.New(t, engine.Writer, small, func(c *engine.Config) { c.Repairable = repairable })
			randomWrites(t, e, rand.New(rand.NewPCG(17, 18)), 100)
			before := root(e, 0)
			ctx, cancel := context.WithCancel(context.Background())
			if _, err := e.Reindex(ctx, func(string, uint64, uint64) { cancel() }); !errors.Is(err, context.Canceled) {
				t.Fatalf("reindex: got %v, want %v", err, context.Canceled)
			}
			e = enginetest.Reopen(t, e)
			if !e.ReindexInterrupted() {
				t.Error("reopening says nothing of the interrupted reindex")
			}
			if got := len(e.Damaged()) > 0; got != repairable {
				t.Errorf("damage told: got %t, want %t", got, repairable)
			}
			if _, err := e.Reindex(enginetest.Context(t), nil); err != nil || e.ReindexInterrupted() || root(e, 0) != before {
				t.Errorf("reindex: got %v, interrupted %t, root equal %t, want none, false, true", err, e.ReindexInterrupted(), root(e, 0) == before)
			}
		})
	}
}
