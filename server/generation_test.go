package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/server/engine"
)

// openDir locks a data directory for the length of a test.
func openDir(t *testing.T, path string) *DataDir {
	t.Helper()
	d, err := OpenDataDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// testKeys are the keys of all stores of these tests.
var testKeys = sync.OnceValue(func() *seal.Opened {
	keys, _, err := seal.New(seal.Options{Config: seal.Config{Shares: 1, Threshold: 1}}, time.Now())
	if err != nil {
		panic(err)
	}
	return keys
})

// currentOrFirst is what a node does that is initialised at its first start.
func currentOrFirst(d *DataDir) (*Generation, error) {
	g, err := d.Current()
	if !errors.Is(err, fs.ErrNotExist) {
		return g, err
	}
	if g, err = d.Prepare(engine.Identity{ClusterName: "test"}, engine.Writer, false, nil, testKeys(), nil); err != nil {
		return nil, err
	}
	return g, d.Adopt(g)
}

func mustCurrent(t *testing.T, d *DataDir) *Generation {
	t.Helper()
	if err := d.Tidy(); err != nil {
		t.Fatalf("tidy: %v", err)
	}
	g, err := currentOrFirst(d)
	if err != nil {
		t.Fatalf("current: %v", err)
	}
	return g
}

// crash is what a test panics with at a step, in place of a dying process.
type crash struct{ step string }

// crashesAt runs fn and lets it die before a step; it reports whether it came there.
func crashesAt(d *DataDir, step string, fn func() error) (crashed bool, err error) {
	d.step = func(name string) {
		if name == step {
			panic(crash{name})
		}
	}
	defer func() {
		d.step = nil
		if r := recover(); r != nil {
			if _, ok := r.(crash); !ok {
				panic(r)
			}
			crashed = true
		}
	}()
	return false, fn()
}

// steps are all at which a process can die in a change of generation, in their
// order; from adopted on the new one is live.
var steps = []string{"create", "role", "rename generation", "write CURRENT", "rename CURRENT", "adopted", "discard", "discarded"}

func TestTheFirstStartSurvivesACrashAtEachStep(t *testing.T) {
	for _, step := range steps[:slices.Index(steps, "discard")] {
		t.Run(step, func(t *testing.T) {
			path := t.TempDir()
			d := openDir(t, path)
			crashed, err := crashesAt(d, step, func() error {
				_, err := currentOrFirst(d)
				return err
			})
			if !crashed {
				t.Fatalf("the first start never came to this step (%v)", err)
			}
			g := mustCurrent(t, d)
			if g.Role != engine.Writer || g.Secondary {
				t.Errorf("got %+v, want a writer's that is no secondary's", g)
			}
			mustOpen(t, g)
			demandOnly(t, d, g.Name)
		})
	}
}

func TestAChangeOfGenerationSurvivesACrashAtEachStep(t *testing.T) {
	for i, step := range steps {
		t.Run(step, func(t *testing.T) {
			d := openDir(t, t.TempDir())
			old := mustCurrent(t, d)
			crashed, err := crashesAt(d, step, func() error {
				next, err := d.Prepare(engine.Identity{ClusterName: "test"}, engine.Verbatim, true, map[string][]byte{"set": []byte("dr")}, testKeys(), nil)
				if err != nil {
					return err
				}
				if err := d.Adopt(next); err != nil {
					return err
				}
				return d.Tidy()
			})
			if !crashed {
				t.Fatalf("the change never came to this step (%v)", err)
			}
			g := mustCurrent(t, d)
			if wantNew := i >= slices.Index(steps, "adopted"); wantNew != (g.Name != old.Name) {
				t.Errorf("live is %s, the old one was %s", g.Name, old.Name)
			}
			eng := mustOpen(t, g)
			if g.Name != old.Name && string(eng["set"]) != "dr" {
				t.Error("the new generation lacks its notes")
			}
			if g.Name != old.Name && (g.Role != engine.Verbatim || !g.Secondary) {
				t.Errorf("the new generation is %+v", g)
			}
			demandOnly(t, d, g.Name)
		})
	}
}

// mustOpen opens a generation's store and returns its node-scope records.
func mustOpen(t *testing.T, g *Generation) map[string][]byte {
	t.Helper()
	eng, _, err := engine.Open(engine.Config{Dir: g.Dir, Role: g.Role, MinFree: -1, Repairable: g.Secondary, Sealer: testKeys().Keyring()})
	if err != nil {
		t.Fatalf("open %s: %v", g.Name, err)
	}
	notes := eng.NodeList("")
	if err := eng.Close(); err != nil {
		t.Fatal(err)
	}
	return notes
}

// demandOnly demands that nothing is left over beside one generation and the trash.
func demandOnly(t *testing.T, d *DataDir, live string) {
	t.Helper()
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch e.Name() {
		case live, currentName, lockName, trashName:
		default:
			t.Errorf("%s is left over", e.Name())
		}
	}
}

func TestReplacedGenerationsStayInTheTrashForTheirTime(t *testing.T) {
	d := openDir(t, t.TempDir())
	old := mustCurrent(t, d)
	next, err := d.Prepare(engine.Identity{}, engine.Writer, true, nil, testKeys(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Adopt(next); err != nil {
		t.Fatal(err)
	}
	mustCurrent(t, d)
	trash, err := filepath.Glob(filepath.Join(d.Path, trashName, "*-"+old.Name, "role.json"))
	if err != nil || len(trash) != 1 {
		t.Fatalf("in the trash: %v, %v; want %s whole", trash, err, old.Name)
	}
	foreign := filepath.Join(d.Path, trashName, "operator's own")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	if n, err := d.SweepTrash(time.Now().Add(-time.Hour)); n != 0 || err != nil {
		t.Errorf("swept %d, %v before its time", n, err)
	}
	if n, err := d.SweepTrash(time.Now().Add(time.Hour)); n != 1 || err != nil {
		t.Errorf("swept %d, %v; want 1", n, err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("what a server did not put there is gone: %v", err)
	}
}

func TestADirectoryThatCannotBeUnderstoodIsRefused(t *testing.T) {
	write := func(name, content string) func(*testing.T, *DataDir) {
		return func(t *testing.T, d *DataDir) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(d.Path, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name   string
		change func(*testing.T, *DataDir)
		want   string
	}{
		{"another program's", func(t *testing.T, d *DataDir) {
			os.RemoveAll(filepath.Join(d.Path, currentName))
			os.RemoveAll(filepath.Join(d.Path, "gen-0001"))
			write("photo.jpg", "x")(t, d)
		}, "neither empty nor Lockstep's"},
		{"CURRENT names nothing", write(currentName, "\n"), "names no generation"},
		{"CURRENT names what is gone", write(currentName, "gen-0007\n"), "names generation gen-0007, which cannot be read"},
		{"CURRENT names another directory", write(currentName, "../gen-0001\n"), "names no generation"},
		{"CURRENT is lost and two generations are there", func(t *testing.T, d *DataDir) {
			if _, err := d.Prepare(engine.Identity{}, engine.Writer, true, nil, testKeys(), nil); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(d.Path, currentName)); err != nil {
				t.Fatal(err)
			}
		}, "has lost its file CURRENT and holds gen-0001 and gen-0002"},
		{"a newer role file", write("gen-0001/role.json", `{"format":2,"log":"writer"}`), "format version 2 is newer"},
		{"an unknown log", write("gen-0001/role.json", `{"format":1,"log":"quantum"}`), `unknown kind of log "quantum"`},
		{"a damaged role file", write("gen-0001/role.json", `{`), "role.json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := openDir(t, t.TempDir())
			mustCurrent(t, d)
			c.change(t, d)
			before := names(t, d.Path)
			err := d.Tidy()
			if err == nil {
				_, err = currentOrFirst(d)
			}
			if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if after := names(t, d.Path); !slices.Equal(before, after) {
				t.Errorf("the directory was changed from %v to %v", before, after)
			}
		})
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestALostCURRENTWithOneGenerationIsFoundAgain(t *testing.T) {
	d := openDir(t, t.TempDir())
	g := mustCurrent(t, d)
	if err := os.Remove(filepath.Join(d.Path, currentName)); err != nil {
		t.Fatal(err)
	}
	if got := mustCurrent(t, d); got.Name != g.Name {
		t.Errorf("got %s, want %s", got.Name, g.Name)
	}
}

func TestASecondProcessIsRefusedWithThePid(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	_, err := OpenDataDir(path) // a second open file has a lock of its own
	var inUse *InUse
	if !errors.As(err, &inUse) || inUse.PID != os.Getpid() {
		t.Fatalf("got %v, want *InUse with pid %d", err, os.Getpid())
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenDataDir(path)
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	again.Close()
}

func TestOthersCannotEnterTheDataDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "data")
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	d := openDir(t, path)
	mustCurrent(t, d)
	err := filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			err = fmt.Errorf("%s has mode %v", name, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestStoppedNeedsADataDirectory(t *testing.T) {
	if _, err := OpenStopped(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no data directory of Lockstep") {
		t.Errorf("got %v", err)
	}
	if _, err := OpenStopped(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func FuzzRole(f *testing.F) {
	f.Add([]byte(`{"format":1,"log":"writer","secondary":false}`))
	f.Add([]byte(`{"format":1,"log":"verbatim","secondary":true}`))
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		role, secondary, err := decodeRole(b)
		if err != nil && (role != 0 || secondary) {
			t.Errorf("refused with %v, and yet %v, %v", err, role, secondary)
		}
		if err == nil && role != engine.Writer && role != engine.Verbatim {
			t.Errorf("accepted as role %d", role)
		}
	})
}

func TestGenerationsAreNumbered(t *testing.T) {
	for name, want := range map[string]int{"gen-0001": 1, "gen-12345": 12345, "gen-0000": 0, "gen-1": 0, "gen-000a": 0, "gen-": 0,
		"gen-0001.new": 0, "../gen-0001": 0, "gen-+001": 0, "gen-99999999999999999999": 0} {
		if got, ok := generationNumber(name); ok != (want > 0) || (ok && got != want) {
			t.Errorf("%q: got %d, %v; want %d", name, got, ok, want)
		}
	}
}
