package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/token"
)

// Keyspaces of the tests.
var (
	shared = storage.KeyspaceID{0: 7, 15: 1}
	second = storage.KeyspaceID{0: 7, 15: 2}
	local  = storage.KeyspaceID{0: 9, 15: 1}
)

// patience ends a test that waits for something that does not come.
const patience = time.Minute

// cluster is a node with a real engine, and TLS and gRPC on loopback.
type cluster struct {
	t      testing.TB
	e      *engine.Engine
	mu     sync.Mutex // guards n towards the API's goroutines
	n      *Node
	bind   string
	addr   string // what others are told to dial
	handle func(ctx context.Context, f *Forwarded) *ForwardedAnswer
	logs   *logs
	stop   func()

	api        *httptest.Server // what activation asks of a primary's API; nil: none
	reopenings chan reopening   // what the server would do next
	archives   archive.Options  // Dir is made when it is empty
	kept       *archive.Store

	certificateLife time.Duration    // Config's
	now             func() time.Time // Config's
}

// reopening is a node's request to have its store opened in another role.
type reopening struct {
	role      engine.Role
	secondary bool
}

// logs keeps what a node logs, for tests that ask what was said.
type logs struct {
	t  testing.TB
	mu sync.Mutex // guards what follows
	b  []byte
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	return len(p), nil
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}

// forget lets go of what was logged.
func (l *logs) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = nil
}

func newCluster(t testing.TB, name string, e *engine.Engine, bind string) *cluster {
	t.Helper()
	if bind == "127.0.0.1:0" {
		bind = freeAddr(t)
	}
	c := &cluster{t: t, e: e, bind: bind, logs: &logs{t: t}, stop: func() {}, reopenings: make(chan reopening, 1)}
	t.Cleanup(func() {
		c.stop()
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, c.logs)
		}
	})
	return c
}

func (c *cluster) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: c.logs, Level: hclog.Debug})
}

// run starts the node on the cluster's engine.
func (c *cluster) run() {
	c.t.Helper()
	if c.archives.Dir == "" {
		c.archives.Dir, c.archives.MinFree = filepath.Join(c.t.TempDir(), "archive"), -1
	}
	var err error
	if c.kept, err = archive.Open(c.archives); err != nil {
		c.t.Fatalf("opening the archives: %v", err)
	}
	api := "http://127.0.0.1:1"
	if c.api != nil {
		api = c.api.URL
	}
	n, err := New(Config{
		Engine: c.e, Logger: c.logger(), APIAddr: api,
		Reopen: func(role engine.Role, secondary bool) error {
			select {
			case c.reopenings <- reopening{role, secondary}:
				return nil
			default: // asked already: as the server, which closes the store by then
				return errors.New("the store is about to be opened in another role")
			}
		},
		ClusterAddr: c.addr, ClusterBind: c.bind, Version: "0.1.0", HeartbeatInterval: 50 * time.Millisecond, ForwardWait: patience,
		CertificateLife: c.certificateLife, Now: c.now,
		Handle: func(ctx context.Context, f *Forwarded) *ForwardedAnswer { return c.handle(ctx, f) },
		Mounts: testMounts, Archives: c.kept,
	})
	if err != nil {
		c.t.Fatalf("making a node: %v", err)
	}
	c.mu.Lock()
	c.n = n
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Errorf("running a node: %v", err)
		}
	})
	if c.bind != "" {
		c.until("the cluster port listens", func() bool { return n.ClusterListenAddr() != "" })
		c.bind = n.ClusterListenAddr()
	}
}

// restart stops node and engine and starts both again on the same store.
func (c *cluster) restart(mods ...func(*engine.Config)) {
	c.t.Helper()
	c.stop()
	c.e = enginetest.Reopen(c.t, c.e, mods...)
	c.run()
}

// freeAddr is an address to listen at that is there again after a restart: the system gives ports of its own choice to connections, too.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(8_000))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no port is free between 10000 and 18000")
	return ""
}

// until waits for a condition; what it waits for is named when it does not come.
func (c *cluster) until(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			c.t.Fatalf("after %v it is not so that %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// newPrimary runs a primary of the given sets. Its secondaries reach it through the proxy that is returned.
func newPrimary(t testing.TB, mods ...func(*engine.Config)) (*cluster, *proxy) {
	t.Helper()
	c := newCluster(t, "the primary", enginetest.New(t, engine.Writer, mods...), "127.0.0.1:0")
	c.run()
	p := newProxy(t, c.bind)
	for _, k := range kinds {
		if _, err := c.n.EnablePrimary(enginetest.Context(t), k, p.addr); err != nil {
			t.Fatalf("enabling the %s primary: %v", k, err)
		}
	}
	return c, p
}

// enrol makes the empty store of a secondary, as an activation does, and does not run it.
func (c *cluster) enrol(k Kind, id string, mods ...func(*engine.Config)) *cluster {
	t := c.t
	t.Helper()
	ctx := enginetest.Context(t)
	act, err := c.n.SecondaryToken(ctx, k, id, 0)
	if err != nil {
		t.Fatalf("minting a token: %v", err)
	}
	claims, err := token.Peek(act.Token)
	if err != nil {
		t.Fatalf("reading the token: %v", err)
	}
	key, request, err := newRequest()
	if err != nil {
		t.Fatalf("making a request: %v", err)
	}
	answer, err := c.n.Redeem(ctx, act.Token, string(request), "test")
	if err != nil {
		t.Fatalf("redeeming the token: %v", err)
	}
	var w welcome
	if b, err := json.Marshal(answer); err != nil || json.Unmarshal(b, &w) != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	if err := w.check(k, claims, key, time.Now()); err != nil {
		t.Fatalf("checking the answer: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "secondary")
	role := engine.Writer
	if k == DR {
		role = engine.Verbatim
	}
	notes := map[string][]byte{noteSet(k): mustJSON(w.set(claims, "")), noteTLSKey(k): key, noteSeen(k): mustJSON(w.History)}
	err = engine.Create(dir, engine.Identity{ClusterID: uuid.NewString(), ClusterName: id, DigestSecret: w.secret}, notes)
	if err != nil {
		t.Fatalf("creating the secondary's store: %v", err)
	}
	repairable := func(c *engine.Config) { c.Repairable = true }
	return newCluster(t, "secondary "+id, enginetest.Open(t, dir, role, append(mods, repairable)...), "")
}

// follow enrols a secondary and runs it.
func (c *cluster) follow(k Kind, id string, mods ...func(*engine.Config)) *cluster {
	c.t.Helper()
	s := c.enrol(k, id, mods...)
	s.run()
	return s
}

// caughtUp waits until a secondary is at the primary's place with the same root and streams, and compares every record. The
// primary notes by itself what it knows of its secondaries: the records that count are those read while it stood still.
func (c *cluster) caughtUp(k Kind, s *cluster) {
	c.t.Helper()
	var want, got content
	c.until("the secondary streams at the primary's place with an equal root ("+s.n.link[k].get().Machine.String()+")", func() bool {
		totals, at := c.e.Totals()
		link := s.n.link[k].get()
		if link.Machine.Name != StateStreamWALs || link.Verified != at.Index || s.e.SyncState() != nil {
			return false
		}
		if mine, _ := s.e.Totals(); rootOf(k, mine) != rootOf(k, totals) {
			return false
		}
		want, got = contentOf(c.t, k, c.e), contentOf(c.t, k, s.e)
		_, now := c.e.Totals()
		return now == at
	})
	for id := range want {
		sameRecords(c.t, id, got[id], want[id])
		delete(got, id)
	}
	for id := range got {
		sameRecords(c.t, id, got[id], nil)
	}
}

// content is all records that a secondary receives, read without a digest.
type content map[storage.KeyspaceID]map[string]string

func contentOf(t testing.TB, k Kind, e *engine.Engine) content {
	t.Helper()
	all := enginetest.Content(t, e)
	totals, _ := e.Totals()
	for _, total := range totals {
		if !covers(k, total.Scope) {
			delete(all, total.ID)
		}
	}
	return all
}

func sameRecords(t testing.TB, id storage.KeyspaceID, got, want map[string]string) {
	t.Helper()
	if len(want) != len(got) {
		t.Errorf("keyspace %s: the secondary has %d records, the primary %d", id, len(got), len(want))
	}
	for key, value := range want {
		if got[key] != value {
			t.Errorf("keyspace %s, key %q: got %d bytes, want %d", id, key, len(got[key]), len(value))
			return
		}
	}
}

// write commits n records one by one, several at a time, and returns when all are durable.
func (c *cluster) write(ks storage.KeyspaceID, scope storage.Scope, prefix string, n int) {
	c.t.Helper()
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	next := atomic.Int64{}
	for range 16 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				w := enginetest.Put(ks, scope, fmt.Sprintf("%s%06d", prefix, i), fmt.Sprintf("value %d of %s", i, prefix))
				if _, err := c.e.Do(context.Background(), &engine.Tx{Writes: []engine.Write{w}}); err != nil {
					failed.Store(&err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		c.t.Fatalf("writing: %v", *err)
	}
}

// scaled is a number of records that the race detector gets through in time.
func scaled(n int) int {
	if raceEnabled {
		return n / 4
	}
	return n
}

// load commits n records by few large transactions.
func (c *cluster) load(ks storage.KeyspaceID, scope storage.Scope, prefix string, n, size int) {
	c.t.Helper()
	var ws []engine.Write
	for i := range n {
		value := make([]byte, size)
		copy(value, fmt.Sprintf("%s%d", prefix, i))
		ws = append(ws, enginetest.Put(ks, scope, fmt.Sprintf("%s%06d", prefix, i), string(value)))
		if len(ws) == 1000 || i == n-1 {
			enginetest.MustDo(c.t, c.e, ws...)
			ws = nil
		}
	}
}

func (c *cluster) checkpoint() {
	c.t.Helper()
	if err := c.e.Checkpoint(enginetest.Context(c.t)); err != nil {
		c.t.Fatalf("making a checkpoint: %v", err)
	}
}

// ---- a network that can fail

// proxy forwards connections to an address, counts bytes, and cuts or freezes on demand.
type proxy struct {
	t    testing.TB
	addr string
	l    net.Listener
	wg   sync.WaitGroup

	down atomic.Int64 // bytes from target to client, of all connections
	up   atomic.Int64

	mu     sync.Mutex // guards what follows
	target string
	conns  map[net.Conn]net.Conn
	cutAt  int64         // cut everything when down reaches it; 0: never
	frozen chan struct{} // not nil: nothing is forwarded until it is closed
	refuse bool
	last   bool // the next cut is for good: what follows is refused
	lost   bool // it has been: nothing passes
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	p := &proxy{t: t, addr: l.Addr().String(), target: target, l: l, conns: map[net.Conn]net.Conn{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.thaw()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		target := p.target
		p.mu.Unlock()
		server, err := net.Dial("tcp", target)
		if err != nil {
			client.Close()
			continue
		}
		if !p.admit(client, server) {
			client.Close()
			server.Close()
			continue
		}
		p.wg.Go(func() { p.forward(server, client, &p.up) })
		p.wg.Go(func() { p.forward(client, server, &p.down) })
	}
}

// admit notes a connection that may be forwarded, so that no cut misses it.
func (p *proxy) admit(client, server net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse || p.lost {
		return false
	}
	p.conns[client] = server
	return true
}

func (p *proxy) forward(dst, src net.Conn, count *atomic.Int64) {
	defer src.Close()
	defer dst.Close()
	b := make([]byte, 16<<10)
	for {
		n, err := src.Read(b)
		p.wait()
		if n > 0 && count == &p.down {
			if n = p.allowed(n); n == 0 {
				p.cut()
				return
			}
		} else {
			count.Add(int64(n))
		}
		if _, werr := dst.Write(b[:n]); err != nil || werr != nil {
			return
		}
	}
}

// allowed counts how many of n bytes may come down before the cut.
func (p *proxy) allowed(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost {
		return 0
	}
	if p.cutAt > 0 {
		left := p.cutAt - p.down.Load()
		if left <= 0 {
			p.cutAt = 0
			p.lost = p.last
			return 0
		}
		n = int(min(left, int64(n)))
	}
	p.down.Add(int64(n))
	return n
}

func (p *proxy) wait() {
	p.mu.Lock()
	frozen := p.frozen
	p.mu.Unlock()
	if frozen != nil {
		<-frozen
	}
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for a, b := range p.conns {
		a.Close()
		b.Close()
	}
	clear(p.conns)
}

// cutAfter ends all connections when n more bytes have come down.
func (p *proxy) cutAfter(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAt = p.down.Load() + n
}

// loseAfter lets n more bytes come down and then nothing, on no connection, until it is called again or the network is found again.
func (p *proxy) loseAfter(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAt, p.last, p.lost = p.down.Load()+n, true, false
}

func (p *proxy) found() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAt, p.last, p.lost = 0, false, false
}

// freeze stops forwarding and leaves the connections open: a peer that is gone without a word.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = make(chan struct{})
}

func (p *proxy) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen != nil {
		close(p.frozen)
		p.frozen = nil
	}
}

// block refuses new connections, or not.
func (p *proxy) block(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = on
}
