package replication

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
)

// clock is a node's clock that a test may move.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

// station is one node with a real engine, a real API listener that answers what activation needs, and, when it runs, a real cluster port.
type station struct {
	*Node
	t        testing.TB
	e        *engine.Engine
	clock    *clock
	cfg      Config
	api      *httptest.Server
	logged   *logBuffer
	switched chan switchCall // what the node was switched to
	unwraps  atomic.Int64    // calls of sys/wrapping/unwrap
	loseNext atomic.Int64    // answers to unwrap that are lost on the way
	noSwitch atomic.Bool     // Switch fails
	version  atomic.Value    // string: what sys/health tells, when set
	stop     func()
}

type switchCall struct {
	id    engine.Identity
	role  engine.Role
	notes map[string][]byte
}

type logBuffer struct {
	mu sync.Mutex // guards b
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newStation makes a node that is not yet running.
func newStation(t testing.TB, mods ...func(*Config)) *station {
	t.Helper()
	e := enginetest.New(t, engine.Writer)
	s := &station{t: t, e: e, clock: &clock{}, logged: &logBuffer{}, switched: make(chan switchCall, 1), stop: func() {}}
	s.api = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.api.Close)
	s.cfg = Config{
		Engine: e, Logger: hclog.New(&hclog.LoggerOptions{Output: s.logged, Level: hclog.Debug}),
		APIAddr: s.api.URL, ClusterAddr: freeAddr(t), Version: "0.1.0", HeartbeatInterval: 20 * time.Millisecond, Now: s.clock.now,
		FreeDisk: func() (int64, error) { return 1 << 40, nil },
		Switch: func(id engine.Identity, role engine.Role, notes map[string][]byte) error {
			if s.noSwitch.Load() {
				return errors.New("the disk is full")
			}
			s.switched <- switchCall{id, role, notes}
			return nil
		},
		Handle: func(context.Context, *Forwarded) *ForwardedAnswer { return nil },
	}
	s.cfg.ClusterBind = s.cfg.ClusterAddr
	for _, mod := range mods {
		mod(&s.cfg)
	}
	s.reload()
	return s
}

// reload makes the node anew from what its engine holds.
func (s *station) reload() {
	s.t.Helper()
	n, err := New(s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Node = n
}

// run serves the cluster port until the test ends.
func (s *station) run() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Errorf("running the node: %v", err)
		}
	})
	s.t.Cleanup(s.stop)
	eventually(s.t, "the cluster port listens", func() bool { return s.ClusterListenAddr() != "" })
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come to be that %s", what)
		}
	}
}

// serve is the part of the API that activation uses, with the envelope and errors of vault-api.
func (s *station) serve(w http.ResponseWriter, r *http.Request) {
	version := s.cfg.Version
	if v, ok := s.version.Load().(string); ok {
		version = v
	}
	lose := func() bool {
		s.unwraps.Add(1)
		return s.loseNext.Add(-1) >= 0
	}
	serveActivation(w, r, s.Node, version, s.clock.now(), lose)
}

// serveActivation answers for a node; an answer to unwrap that is lost has been given nevertheless.
func serveActivation(w http.ResponseWriter, r *http.Request, n *Node, version string, now time.Time, lose func() bool) {
	var in struct{ Token, CSR string }
	body, _ := io.ReadAll(r.Body)
	_ = json.Unmarshal(body, &in)
	switch r.URL.Path {
	case "/v1/sys/health":
		fmt.Fprintf(w, `{"initialized":true,"sealed":false,"version":%q,"server_time_utc":%d}`, version, now.Unix())
	case "/v1/sys/wrapping/lookup":
		a, err := n.LookupActivation(in.Token)
		if err != nil {
			answerError(w, err)
			return
		}
		a.Lookup["creation_path"] = a.CreationPath
		answerData(w, a.Lookup)
	case "/v1/sys/wrapping/unwrap":
		lost := lose()
		data, err := n.Redeem(r.Context(), in.Token, in.CSR, r.RemoteAddr)
		if lost {
			panic(http.ErrAbortHandler)
		}
		if err != nil {
			answerError(w, err)
			return
		}
		answerData(w, data)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func answerData(w http.ResponseWriter, data any) {
	_ = json.NewEncoder(w).Encode(map[string]any{"data": data})
}

func answerError(w http.ResponseWriter, err error) {
	var refused *Refused
	w.WriteHeader(map[bool]int{true: 400, false: 500}[errors.As(err, &refused)])
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{err.Error()}})
}

// ---- what tests do with stations

func (s *station) mustEnable(k Kind) {
	s.t.Helper()
	if _, err := s.EnablePrimary(enginetest.Context(s.t), k, ""); err != nil {
		s.t.Fatal(err)
	}
}

func (s *station) mustToken(k Kind, id string) string {
	s.t.Helper()
	a, err := s.SecondaryToken(enginetest.Context(s.t), k, id, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	return a.Token
}

func mustRequest(t testing.TB) (key, request string) {
	t.Helper()
	k, r, err := newRequest()
	if err != nil {
		t.Fatal(err)
	}
	return string(k), string(r)
}

// activated turns a fresh station into a running secondary's node: the switch is done here in the same store, as the server does it in a new one.
func (s *station) activated(k Kind, token string) {
	s.t.Helper()
	if _, err := s.EnableSecondary(enginetest.Context(s.t), k, SecondaryEnable{Token: token}); err != nil {
		s.t.Fatal(err)
	}
	c := <-s.switched
	if err := s.e.NodeSet(c.notes); err != nil {
		s.t.Fatal(err)
	}
	s.reload()
}

func wantRefused(t testing.TB, err error, part string) {
	t.Helper()
	var r *Refused
	if !errors.As(err, &r) || !strings.Contains(err.Error(), part) {
		t.Errorf("got %v, want a refusal that says %q", err, part)
	}
}

// files writes PEM to a file of the test.
func pemFile(t testing.TB, text string) string {
	t.Helper()
	name := t.TempDir() + "/ca.pem"
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// raw dials a cluster port with a TLS configuration and waits for the server's verdict, which in TLS 1.3 comes after the client's handshake.
func verdict(addr string, cfg *tls.Config) error {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: cfg}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}
