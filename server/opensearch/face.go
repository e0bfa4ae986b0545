package opensearch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/server/vault"
)

// Config says what a Face needs.
type Config struct {
	Core    *vault.Core
	Engine  *engine.Engine
	Logger  hclog.Logger // nil: no log
	Version string       // of the server
	Address string       // host:port under which clients reach this face
	Dev     bool         // a request without a credential is the development server's root
	MaxBody int64        // bytes; 32 MiB
	Now     func() time.Time
}

const (
	defaultMaxBody = 32 << 20
	maxPath        = 8 << 10
)

// Face answers OpenSearch's API.
type Face struct {
	cfg    Config
	engine *engine.Engine
	log    hclog.Logger
	now    func() time.Time
	routes []route

	described atomic.Pointer[descriptions]
	secured   atomic.Pointer[security]
	searches  chan struct{} // a slot for each search that may run

	transientMu sync.Mutex // guards transient
	transient   map[string]any

	verified verified // passwords that were right
}

// New makes a face; it starts nothing.
func New(cfg Config) (*Face, error) {
	if cfg.Core == nil || cfg.Engine == nil {
		return nil, errors.New("opensearch: Config.Core and Config.Engine are needed")
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = defaultMaxBody
	}
	f := &Face{cfg: cfg, engine: cfg.Engine, log: cfg.Logger, now: cfg.Now, routes: routeTable(), searches: make(chan struct{}, maxSearches), transient: map[string]any{}}
	if f.log == nil {
		f.log = hclog.NewNullLogger()
	}
	f.log = f.log.Named("opensearch")
	if f.now == nil {
		f.now = time.Now
	}
	f.verified.init()
	return f, nil
}

// request is one call, from a client of this cluster or sent on by a performance secondary.
type request struct {
	call   *vault.Call
	ctx    context.Context
	method string
	path   string // as the client wrote it
	query  url.Values
	header http.Header
	body   []byte
	route  *route
	vars   map[string]string
	who    *identity // whom security knows; nil: policies judge
	began  time.Time
}

// reply is what a handler answers.
type reply struct {
	status int // 0: 200
	body   any // encoded as JSON
	table  *table
	text   string // instead of body
	header http.Header
	sent   *vault.Sent
}

func ok(body any) *reply { return &reply{body: body} }

var acknowledged = map[string]any{"acknowledged": true}

type noSecurity struct{}

// WithoutSecurity marks a request of a listener whose security is "none".
func WithoutSecurity(r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), noSecurity{}, true))
}

// anonymous is who makes a request without a credential; nil: nobody may.
func (f *Face) anonymous(h *http.Request) *vault.Principal {
	if open, _ := h.Context().Value(noSecurity{}).(bool); open || f.cfg.Dev {
		return &vault.Principal{Name: "anonymous", Policies: []string{"root"}}
	}
	return nil
}

func (f *Face) ServeHTTP(w http.ResponseWriter, h *http.Request) {
	r := &request{ctx: h.Context(), method: h.Method, path: h.URL.EscapedPath(), query: h.URL.Query(), header: h.Header, began: f.now()}
	defer f.recovered(w, r)
	out := &encoded{}
	rep, err := f.respond(w, h, r)
	if err == nil {
		err = out.encode(r, rep)
	}
	warning := ""
	if r.call != nil {
		defer func() { r.call.Close(nil) }()
		if warning, err = r.call.End(err); warning == "" && rep != nil && rep.sent != nil {
			warning = rep.sent.Warning
		}
	}
	if err != nil {
		f.encodeError(out, r, err)
	}
	if r.call != nil {
		if withheld := r.call.Answered(out.status, out.body); withheld != nil {
			f.encodeError(out, r, withheld)
		}
		r.call.Close(w.Header())
	}
	if warning != "" {
		w.Header().Set("Warning", `299 Lockstep-`+f.cfg.Version+` `+quoted(warning))
	}
	out.write(w, h.Method)
}

// recovered answers 500 when a handler panicked, and logs it once.
func (f *Face) recovered(w http.ResponseWriter, r *request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	f.log.Error("handler panicked", "path", r.path, "error", fmt.Sprint(p), "stack", string(debug.Stack()))
	out := &encoded{}
	f.encodeError(out, r, fail(http.StatusInternalServerError, "exception", "internal error; the server's log tells more"))
	out.write(w, r.method)
}

// respond executes a client's request. Who asks is found out before anything is told, what exists included.
func (f *Face) respond(w http.ResponseWriter, h *http.Request, r *request) (*reply, error) {
	if len(r.path) > maxPath {
		return nil, illegal("the path is longer than %d bytes", maxPath)
	}
	if err := f.cfg.Core.Admit(); err != nil {
		return nil, err
	}
	in, err := f.incoming(h, r)
	if err != nil {
		return nil, err
	}
	call, err := f.cfg.Core.Begin(in)
	if err != nil {
		call.Close(nil)
		if status, _, _ := vault.Translate(err); status == http.StatusForbidden {
			return nil, unauthorized()
		}
		return nil, err
	}
	r.call = call
	err = f.prepare(w, h, r)
	if err = call.Record(r.body, err); err != nil {
		return nil, err
	}
	return f.run(r)
}

// prepare finds the route of a request and reads its body.
func (f *Face) prepare(w http.ResponseWriter, h *http.Request, r *request) (err error) {
	if r.route, r.vars, err = find(f.routes, r.method, r.path); err != nil {
		return err
	}
	if r.body, err = f.readBody(w, h); err != nil {
		return err
	}
	if err := r.source(); err != nil {
		return err
	}
	if err := r.contentType(); err != nil {
		return err
	}
	return r.route.unknownParams(r.path, r.query)
}

// run executes a request, here or on the primary.
func (f *Face) run(r *request) (*reply, error) {
	if r.route.flags&writes != 0 && r.call.Remote() {
		principal := ""
		if r.who != nil {
			principal = r.who.encode()
		}
		sent, err := r.call.Send(strings.TrimPrefix(r.path, "/"), principal, r.body)
		return &reply{sent: sent}, err
	}
	if r.route.action != "" && r.vars["index"] == "" && r.vars["indices"] == "" {
		if err := f.mayCluster(r, r.route.action); err != nil {
			return nil, err
		}
	}
	return r.route.run(f, r)
}

// Forwarded executes a request that a performance secondary sent on (vault.FaceFunc). The secondary has found out who asks; rights are judged here.
func (f *Face) Forwarded(call *vault.Call, in *replication.Forwarded, principal string) (sent vault.Sent) {
	r := &request{call: call, ctx: call.Context(), method: in.Method, path: "/" + in.Path, header: in.Header, body: in.Body, began: f.now()}
	out := &encoded{}
	defer func() {
		if p := recover(); p != nil {
			f.log.Error("handler panicked", "path", r.path, "error", fmt.Sprint(p), "stack", string(debug.Stack()))
			sent = vault.Sent{Status: http.StatusInternalServerError, Type: jsonType, Body: []byte(`{"error":"internal error; the log of the primary tells more"}`)}
		}
	}()
	rep, err := f.forwarded(r, in, principal)
	if err == nil {
		err = out.encode(r, rep)
	}
	warning, err := call.End(err)
	if err != nil {
		f.encodeError(out, r, err)
	}
	if withheld := call.Answered(out.status, out.body); withheld != nil {
		f.encodeError(out, r, withheld)
	}
	return vault.Sent{Status: out.status, Body: out.body, Type: out.kind, Warning: warning}
}

func (f *Face) forwarded(r *request, in *replication.Forwarded, principal string) (*reply, error) {
	var err error
	if r.query, err = url.ParseQuery(in.Query); err != nil {
		return nil, illegal("the query cannot be read")
	}
	if principal != "" {
		if r.who, err = f.identityOf(principal); err != nil {
			return nil, err
		}
	}
	if r.route, r.vars, err = find(f.routes, r.method, r.path); err == nil && r.route.flags&writes == 0 {
		err = illegal("only writes to what a primary shares with its performance secondaries can be forwarded")
	}
	if err = r.call.Record(r.body, err); err != nil {
		return nil, err
	}
	return f.run(r)
}

// decode reads a JSON object strictly: a field that into does not have is refused.
func (r *request) decode(into any) error {
	if len(r.body) == 0 {
		return bodyRequired()
	}
	return decodeStrict(r.body, into)
}

func decodeStrict(text []byte, into any) error {
	if text[0] != '{' {
		return fail(http.StatusBadRequest, parseFailed, "the request's body must be a JSON object")
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	d.UseNumber()
	err := d.Decode(into)
	if err == nil && d.More() {
		err = errors.New("there is more behind the object")
	}
	if err != nil {
		return fail(http.StatusBadRequest, parseFailed, "the request's body cannot be read: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}
