package server

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// syncBuffer is a log that a test reads while others write it.
type syncBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// newTestNode makes a node without a listener of its own; its gate is served
// by an httptest server.
func newTestNode(t *testing.T) (*node, *httptest.Server) {
	t.Helper()
	cfg := testConfig(t)
	n := &node{cfg: cfg, log: hclog.NewNullLogger(), dir: openDir(t, cfg.DataDir)}
	n.sealing = newSealing(n)
	n.gate.shut(waiting{reason: "the server is starting"})
	n.addresses = Addresses{API: "http://" + cfg.Listener.Address}
	host, port, err := splitAddress(cfg.Listener.Address)
	if err != nil {
		t.Fatal(err)
	}
	n.clusterBind = host + ":" + strconv.Itoa(port+1)
	srv := httptest.NewServer(&n.gate)
	t.Cleanup(srv.Close)
	return n, srv
}

// openTestCore opens the live generation, which needs nobody to unseal it.
func openTestCore(t *testing.T, n *node) (*core, chan error) {
	t.Helper()
	u, err := n.sealing.await(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.openCore(u)
	if err != nil {
		t.Fatal(err)
	}
	return c, u.done
}

func TestASwitchServesAnotherGenerationBehindTheSameListener(t *testing.T) {
	n, srv := newTestNode(t)
	if code, text := get(t, srv.URL+"/v1/sys/health"); code != 503 || !strings.Contains(text, "starting") {
		t.Errorf("before the start: got %d %s", code, text)
	}
	c, opened := openTestCore(t, n)
	type outcome struct {
		again bool
		err   error
	}
	ended := make(chan outcome, 1)
	ready := make(chan struct{})
	n.cfg.Ready = func(Addresses) { close(ready) }
	go func() {
		again, err := c.run(context.Background(), opened)
		ended <- outcome{again, err}
	}()
	<-ready
	if code, text := get(t, srv.URL+"/v1/sys/health"); code != 200 {
		t.Errorf("the first core: got %d %s", code, text)
	}

	if err := c.switchTo(engine.Identity{DigestSecret: make([]byte, 32)}, engine.Verbatim, nil); err == nil {
		t.Error("a switch without a primary's keys was accepted")
	}
	if err := n.sealing.Import(testKeys().Export()); err != nil {
		t.Fatal(err)
	}
	id := engine.Identity{ClusterName: "switched", DigestSecret: make([]byte, 32)}
	if err := c.switchTo(id, engine.Verbatim, map[string][]byte{"note": []byte("kept")}); err != nil {
		t.Fatal(err)
	}
	if err := c.switchTo(id, engine.Verbatim, nil); err == nil {
		t.Error("a second switch of one core was accepted")
	}
	if got := <-ended; !got.again || got.err != nil {
		t.Fatalf("the first core ended with %+v, want again", got)
	}
	if err := c.engine.Close(); err != nil {
		t.Fatal(err)
	}
	demandBootstrapping(t, srv.URL)

	next, _ := openTestCore(t, n)
	defer next.engine.Close()
	if next.gen.Role != engine.Verbatim || !next.gen.Secondary || next.engine.Identity().ClusterName != "switched" || string(next.engine.NodeGet("note")) != "kept" {
		t.Errorf("the next core is of %+v", next.gen)
	}
}

// demandBootstrapping demands what a cluster between two generations answers.
func demandBootstrapping(t *testing.T, url string) {
	t.Helper()
	if code, text := get(t, url+"/v1/sys/health"); code != 503 || decoded(t, text)["replication_dr_mode"] != "bootstrapping" {
		t.Errorf("health: got %d %s", code, text)
	}
	if code, _ := get(t, url+"/v1/sys/health?sealedcode=299"); code != 299 {
		t.Errorf("health with a code of its own: got %d", code)
	}
	if code, _ := get(t, url+"/v1/sys/health?sealedcode=x"); code != 400 {
		t.Errorf("health with a wrong code: got %d", code)
	}
	if code, text := get(t, url+"/v1/sys/replication/dr/status"); code != 200 || !strings.Contains(text, `"mode":"bootstrapping"`) {
		t.Errorf("status: got %d %s", code, text)
	}
	if code, text := get(t, url+"/v1/sys/replication/performance/status"); code != 200 || !strings.Contains(text, `"mode":"disabled"`) {
		t.Errorf("status of the other set: got %d %s", code, text)
	}
	if code, text := get(t, url+"/v1/secret/data/app"); code != 503 || !strings.Contains(text, "role is changing") {
		t.Errorf("anything else: got %d %s", code, text)
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var b strings.Builder
	if _, err := io.Copy(&b, answer.Body); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, b.String()
}

func TestRequestsThatOutlastTheirCoreAreCancelled(t *testing.T) {
	var g gate
	entered, cause := make(chan struct{}), make(chan error, 1)
	g.open(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		cause <- context.Cause(r.Context())
	}))
	srv := httptest.NewServer(&g)
	defer srv.Close()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if answer, err := http.Get(srv.URL); err == nil {
			answer.Body.Close()
		}
	}()
	<-entered
	g.shut(waiting{reason: "over"}).drain(time.Millisecond)
	if got := <-cause; got != errRoleEnded {
		t.Errorf("cancelled with %v, want %v", got, errRoleEnded)
	}
	<-answered
	if code, text := get(t, srv.URL); code != 503 || !strings.Contains(text, "over") {
		t.Errorf("after the end: got %d %s", code, text)
	}
}

// TestAChangeWhoseSyncFailedEndsTheProcess lets a rename that decides take place and fail all the same, as a failed sync of the directory would: what
// the next start finds is not known, so this one does not go on.
func TestAChangeWhoseSyncFailedEndsTheProcess(t *testing.T) {
	current := func(d *DataDir) string { return filepath.Join(d.Path, currentName) }
	role := func(d *DataDir) string { return filepath.Join(d.Path, generationPrefix+"0001", roleName) }
	for _, tt := range []struct {
		name, step string
		file       func(*DataDir) string
		change     func(*core) error
	}{
		{"a switch to another generation", "rename CURRENT", current, func(c *core) error {
			return c.switchTo(engine.Identity{DigestSecret: make([]byte, 32)}, engine.Verbatim, nil)
		}},
		{"the same store in another role", "rename role", role, func(c *core) error {
			return c.reopen(engine.Verbatim, true)
		}},
		{"a mark that a primary holds what this store holds", "rename role", role, func(c *core) error { return c.mark(true) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, srv := newTestNode(t)
			c, ended := serveCore(t, n)
			if err := n.sealing.Import(testKeys().Export()); err != nil {
				t.Fatal(err)
			}
			file := tt.file(n.dir)
			n.dir.step = func(step string) {
				if step == tt.step {
					if err := os.Rename(file+unfinishedSuffix, file); err != nil {
						t.Error(err)
					}
				}
			}
			failed := tt.change(c)
			if failed == nil {
				t.Fatal("the change succeeded")
			}
			if err := <-ended; !errors.Is(err, failed) {
				t.Errorf("the core ended with %v, want %v", err, failed)
			}
			if code, text := get(t, srv.URL+"/v1/sys/mounts"); code != 503 {
				t.Errorf("behind the failed change: got %d %s, want 503", code, text)
			}
		})
	}
}

// TestAChangeThatDidNotTakePlaceGoesOnInTheOldRole lets the rename itself fail: the old role is served as before.
func TestAChangeThatDidNotTakePlaceGoesOnInTheOldRole(t *testing.T) {
	n, srv := newTestNode(t)
	c, ended := serveCore(t, n)
	n.dir.step = func(step string) {
		if step == "rename role" {
			if err := os.Remove(filepath.Join(c.gen.Dir, roleName+unfinishedSuffix)); err != nil {
				t.Error(err)
			}
		}
	}
	for name, change := range map[string]func() error{
		"reopen": func() error { return c.reopen(engine.Verbatim, true) },
		"mark":   func() error { return c.mark(true) },
	} {
		if err := change(); err == nil {
			t.Errorf("%s succeeded", name)
		}
		if code, text := get(t, srv.URL+"/v1/sys/health"); code != 200 {
			t.Errorf("after %s: got %d %s, want 200", name, code, text)
		}
	}
	if g, err := n.dir.Current(); err != nil || g.Role != engine.Writer || g.Secondary {
		t.Errorf("the generation is %+v, %v, want it unchanged", g, err)
	}
	select {
	case err := <-ended:
		t.Errorf("the core ended: %v", err)
	default:
	}
}

// TestAChangeOfRoleKeepsTheStoreOpen changes the role of a node back and forth: the engine stays the same one, with what no checkpoint has written, and what
// role.json says is what it does.
func TestAChangeOfRoleKeepsTheStoreOpen(t *testing.T) {
	n, _ := newTestNode(t)
	cores := make(chan *core, 1)
	n.cfg.built = func(c *core) { cores <- c }
	n.cfg.Replication.CheckpointInterval = time.Hour
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.runCores(ctx) }()
	first := <-cores
	c := first
	for _, role := range []engine.Role{engine.Verbatim, engine.Writer, engine.Verbatim, engine.Writer} {
		secondary := role == engine.Verbatim
		if err := c.reopen(role, secondary); err != nil {
			t.Fatal(err)
		}
		c = <-cores
		if c.engine != first.engine || c.engine.Role() != role || c.engine.Repairable() != secondary || c.gen.Role != role {
			t.Fatalf("the next core has engine %p as a %v, its generation is %+v", c.engine, c.engine.Role(), c.gen)
		}
		if g, err := n.dir.Current(); err != nil || g.Role != role || g.Secondary != secondary {
			t.Fatalf("the next start would open %+v, %v", g, err)
		}
	}
	tx := &engine.Tx{Writes: []engine.Write{{Keyspace: storage.KeyspaceID{9}, Scope: storage.Local, Change: storage.Change{Op: storage.Put, Key: []byte("k"), Value: []byte("v")}}}}
	if _, err := c.engine.Do(context.Background(), tx); err != nil {
		t.Error(err)
	}
	if got := c.engine.Stats().Checkpoints; got != 0 {
		t.Errorf("%d checkpoints, want none", got)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// serveCore runs a core until the test ends; ended tells how it did when that is before.
func serveCore(t *testing.T, n *node) (c *core, ended <-chan error) {
	t.Helper()
	c, opened := openTestCore(t, n)
	ctx, stop := context.WithCancel(context.Background())
	told, done, ready := make(chan error, 1), make(chan struct{}), make(chan struct{})
	n.cfg.Ready = func(Addresses) { close(ready) }
	go func() {
		defer close(done)
		again, err := c.run(ctx, opened)
		if again {
			t.Error("another core is to be opened, though nobody knows which role is stored")
		}
		told <- err
	}()
	t.Cleanup(func() {
		stop()
		<-done
		if err := c.engine.Close(); err != nil {
			t.Error(err)
		}
	})
	<-ready
	return c, told
}
