package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/storage"
)

// Call is one request of another face on the same cluster. It is let in, authenticated, recorded, committed and confirmed as a request under /v1/ is; what it
// means, the face knows.
type Call struct {
	core   *Core
	r      *request
	mounts *mountTable
	sent   *answer // the primary's, to a request that was sent on
}

// Incoming is a request as a face has it.
type Incoming struct {
	Context context.Context
	Method  string
	Path    string // as audit devices record it, without the leading '/'
	Query   url.Values
	Header  http.Header
	Remote  string
	Token   string // secret; empty: none
	// Anonymous is who makes a request without a token; nil: nobody may.
	Anonymous *Principal
	// Principal, when set, was authenticated by the face, which the token is not asked for.
	Principal *Principal
}

// Principal is somebody whom a face knows: with policies, or, without, with what the face allows by itself.
type Principal struct {
	Name     string
	Policies []string
}

// Admit lets a request in if this cluster may answer now: refused while it is filled, a DR secondary or not initialised. It comes before anything is read.
func (c *Core) Admit() error { return c.gate(nil) }

// Begin finds out who makes a request. Whoever begins a call ends it.
func (c *Core) Begin(in *Incoming) (*Call, error) {
	r := &request{
		ctx: in.Context, id: uuid.NewString(), remote: in.Remote, method: in.Method, path: in.Path, query: in.Query, header: in.Header,
		token: in.Token, op: callOperation(in.Method), admitted: c.mode(performance),
	}
	k := &Call{core: c, r: r}
	c.running.begin(r, c.now())
	if err := k.begin(in); err != nil {
		return k, c.auditRequest(r, nil, err)
	}
	return k, nil
}

func callOperation(method string) operation {
	switch method {
	case http.MethodGet, http.MethodHead:
		return opRead
	case http.MethodDelete:
		return opDelete
	}
	return opWrite
}

func (k *Call) begin(in *Incoming) error {
	c, r := k.core, k.r
	if err := c.gate(nil); err != nil {
		return err
	}
	if err := r.parseSynchronous(in.Header); err != nil {
		return err
	}
	who := in.Principal
	if who == nil && in.Token == "" {
		who = in.Anonymous
	}
	if who == nil { // an index token may fence: who shows it must be known first
		cred, err := c.credential(in.Token)
		if err != nil {
			return err
		}
		if cred == nil {
			return denied()
		}
	}
	r.known = true
	if err := c.askConsistency(r, nil); err != nil {
		return err
	}
	if _, err := c.sendOn(r, false); err != nil {
		return err
	}
	if who == nil {
		if err := c.authenticate(r); err != nil {
			return err
		}
	} else if err := k.take(who); err != nil {
		return err
	}
	return k.look()
}

// take makes the caller somebody whom the face knows.
func (k *Call) take(who *Principal) error {
	snap, err := k.core.current()
	if err != nil {
		return err
	}
	acl, err := k.core.aclOf(snap, who.Policies)
	if err != nil {
		return err
	}
	k.r.caller = &caller{policies: who.Policies, displayName: who.Name, acl: acl}
	return nil
}

// look takes the mount table of now.
func (k *Call) look() error {
	snap, err := k.core.current()
	if err == nil {
		k.mounts = snap.mounts
	}
	return err
}

// Context ends with the request.
func (k *Call) Context() context.Context { return k.r.ctx }

// ID is the request's, as logs and audit devices name it.
func (k *Call) ID() string { return k.r.id }

// Name is who makes the request, for texts.
func (k *Call) Name() string { return k.r.caller.displayName }

// Forwarded tells whether a performance secondary sent the request on.
func (k *Call) Forwarded() bool { return k.r.forwarded != nil }

// Record records the request on the audit devices before anything is done; refused is why it will not be.
func (k *Call) Record(body []byte, refused error) error {
	k.r.body = body
	if refused != nil && k.r.audited {
		return refused
	}
	return k.core.auditRequest(k.r, nil, refused)
}

// End confirms what the request has done as sets, mount and request ask for; failed is what became of it. A warning goes with the answer.
func (k *Call) End(failed error) (warning string, err error) {
	var rep *reply
	if k.sent != nil {
		rep = &reply{sent: k.sent}
	}
	rep, err = k.core.confirm(k.r, rep, failed)
	if rep != nil {
		warning = strings.Join(rep.warnings, "; ")
	}
	return warning, err
}

// Answered records the answer. It fails when no audit device could: then the answer must not be given.
func (k *Call) Answered(status int, body []byte) error {
	if got := k.core.auditResponse(k.r, answer{status: status, body: body}); got.status != status {
		var said struct{ Errors []string }
		_ = json.Unmarshal(got.body, &said) // our own
		return &refusal{kind: errUnaudited, say: strings.Join(said.Errors, "; ")}
	}
	return nil
}

// Close ends a call; header gets the index of what it wrote.
func (k *Call) Close(header http.Header) {
	if header != nil && k.r.caller != nil {
		stampIndex(header, k.r)
	}
	k.core.running.end(k.r)
}

// Log says what an error was that the client is not shown.
func (k *Call) Log(err error) {
	k.core.log.Error("request failed", "path", k.r.path, "request_id", k.r.id, "error", err)
}

// CheckPassword compares a password with its bcrypt hash for a face; nil is the hash of an account that does not exist, and takes as long. An account is locked after
// repeated failures, and so many strangers at once are let in, as for userpass.
func (c *Core) CheckPassword(ctx context.Context, remote, account string, hash []byte, password string) (bool, error) {
	m := &mount{mountRecord: mountRecord{UUID: "opensearch"}, path: "opensearch/"}
	right, err := c.checkPassword(ctx, remote, hash, password, func() error { return c.mayTry(m, account) })
	if err != nil {
		return false, err
	}
	if !right {
		c.loginFailed(m, account, hash != nil)
		return false, nil
	}
	c.guests.forget(m.guest(account))
	return true, c.mayTry(m, account)
}

// HashPassword is the bcrypt hash of a new password.
func (k *Call) HashPassword(password string) ([]byte, error) {
	return k.core.hashPassword(k.r.ctx, password)
}

// Translate gives the HTTP status and the text of an error of this package or of what lies under it; known is false for one that must be logged and not shown.
func Translate(err error) (status int, text string, known bool) {
	status, texts, unknown := translate(err)
	return status, strings.Join(texts, "; "), !unknown
}

// ---- rights by policies

// May judges an operation on a path by the caller's policies: read, list, delete, or update, for which create does too.
func (k *Call) May(operation, path string, body []byte) error {
	return k.as(callOperations[operation], path, body).authorise(false)
}

var callOperations = map[string]operation{"read": opRead, "list": opList, "delete": opDelete, "update": opWrite}

// as is the request that would do one thing under /v1/.
func (k *Call) as(op operation, path string, body []byte) *request {
	return &request{ctx: k.r.ctx, id: k.r.id, op: op, method: k.r.method, path: path, query: url.Values{}, header: k.r.header, body: body, caller: k.r.caller}
}

// MaySudo is May where the sudo capability is needed too.
func (k *Call) MaySudo(path string) error { return k.as(opWrite, path, nil).authorise(true) }

// Writes judges a write of one record: permits tells, once it is known whether the record exists, whether it may be made or changed.
func (k *Call) Writes(path string, body []byte) (permits func(exists bool) error, err error) {
	r := k.as(opWrite, path, body)
	if err := r.authorise(false); err != nil {
		return nil, err
	}
	caps := r.caller.acl.on(path)
	if caps&(capCreate|capUpdate) != capCreate|capUpdate {
		r.only = caps & (capCreate | capUpdate)
	}
	return r.permits, nil
}

// Unlimited tells whether the caller may do everything.
func (k *Call) Unlimited() bool { return k.r.caller.acl.root }

// Reaches tells whether the caller's policies could allow anything below a mount at a path that ends in '/'.
func (k *Call) Reaches(path string) bool { return k.r.caller.acl.reaches(path) }

// ---- mounts

// Mount is a KV v1 mount.
type Mount struct {
	Path  string // ends in '/'
	ID    storage.KeyspaceID
	Scope storage.Scope
	own   *mount
}

func (m *Mount) put(key string, value []byte) engine.Write { return m.own.space().put(key, value) }

// Put is the write of a record of the mount.
func (m *Mount) Put(key string, value []byte) engine.Write { return m.put(key, value) }

// Delete is its removal.
func (m *Mount) Delete(key string) engine.Write { return m.own.space().del(key) }

func mountOfKV(m *mount) *Mount {
	if m == nil || m == cubbyhole || m.auth() || m.Type != "kv" || m.version() != 1 {
		return nil
	}
	return &Mount{Path: m.path, ID: m.id, Scope: m.space().scope, own: m}
}

// Mounts returns the KV v1 mounts whose data are here, by path.
func (k *Call) Mounts() ([]*Mount, error) {
	var out []*Mount
	for _, m := range k.mounts.served {
		kv := mountOfKV(m)
		if kv == nil {
			continue
		}
		lack, err := k.core.lack(m)
		if err != nil {
			return nil, err
		}
		if lack == "" && k.within(m) {
			out = append(out, kv)
		}
	}
	slices.SortFunc(out, func(a, b *Mount) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

// within tells whether a request may reach a mount: one that was forwarded reaches only what its secondary may have.
func (k *Call) within(m *mount) bool {
	return k.r.forwarded == nil || !m.Local && k.core.withinFilter(k.r, m.path) == nil
}

// Mount returns the KV v1 mount at a path that ends in '/', nil when there is none. One whose data are not here is refused, and one that a forwarded request may
// not reach.
func (k *Call) Mount(path string) (*Mount, error) {
	m := k.mounts.served[path]
	kv := mountOfKV(m)
	if kv == nil {
		return nil, nil
	}
	if k.r.forwarded != nil {
		if m.Local {
			return nil, notShared()
		}
		if err := k.core.withinFilter(k.r, m.path); err != nil {
			return nil, err
		}
	}
	if err := k.core.holds(m); err != nil {
		return nil, err
	}
	k.r.mount = m
	return kv, nil
}

// Taken tells whether something else than a KV v1 mount stands at a path, or in the way of it.
func (k *Call) Taken(path string) bool {
	m := k.mounts.served[path]
	return m != nil && mountOfKV(m) == nil || m == nil && k.mounts.conflict(path) != ""
}

// MakeMount makes a KV v1 mount of replicated scope, with the first records of its keyspace, in one entry. made is false when there is one at the path already.
func (k *Call) MakeMount(path, description string, records func(m *Mount) []engine.Write) (m *Mount, made bool, err error) {
	path, err = mountPath(path)
	if err != nil {
		return nil, false, err
	}
	if k.r.forwarded != nil {
		if err := k.core.withinFilter(k.r, path); err != nil {
			return nil, false, err
		}
	}
	rec, err := (&mountParams{Type: "kv-v1", Description: description}).record()
	if err != nil {
		return nil, false, err
	}
	id, err := uuid.Parse(rec.UUID)
	if err != nil {
		return nil, false, fmt.Errorf("internal error: %w", err)
	}
	own := &mount{mountRecord: *rec, path: path, id: storage.KeyspaceID(id)}
	m = mountOfKV(own)
	err = k.core.addMount(k.r, own, records(m)...)
	if again := k.look(); err == nil {
		return m, true, again
	}
	if there, _ := k.Mount(path); there != nil { // another request has made it meanwhile
		return there, false, nil
	}
	return nil, false, err
}

// DropMount removes a mount and what is in it.
func (k *Call) DropMount(m *Mount) error {
	k.core.mountsMu.Lock()
	defer k.core.mountsMu.Unlock()
	if err := k.look(); err != nil {
		return err
	}
	if now := k.mounts.served[m.Path]; now == nil || now.id != m.ID {
		return missing()
	}
	if err := k.commit(&engine.Tx{Writes: []engine.Write{m.own.home().del(mountPrefix + m.Path), m.own.space().drop()}}); err != nil {
		return err
	}
	return k.look()
}

// ---- state

// Commit makes a transaction durable in the name of the request.
func (k *Call) Commit(tx *engine.Tx) error { return k.commit(tx) }

func (k *Call) commit(tx *engine.Tx) error {
	if k.Remote() {
		return fmt.Errorf("internal error: a write of %s was to be forwarded", k.r.path)
	}
	return k.core.commit(k.r, tx)
}

// Remote tells whether what is shared is written on another cluster: a request that writes it is to be sent on by Send.
func (k *Call) Remote() bool {
	return k.r.forwarded == nil && k.core.mode(performance) == replication.Secondary
}

// Sent is the primary's answer.
type Sent struct {
	Status  int
	Body    []byte
	Type    string // content type
	Warning string
}

// headerFace says which face a forwarded request is for, headerPrincipal whom that face knows.
const (
	headerFace      = "X-Lockstep-Face"
	headerPrincipal = "X-Lockstep-Principal"
)

// Send has the primary execute the request: path as the client wrote it. principal is for the face there, empty when policies say all.
func (k *Call) Send(path, principal string, body []byte) (*Sent, error) {
	n, err := k.core.replicator()
	if err != nil {
		return nil, err
	}
	h := forwardedHeader(k.r)
	h.Del("Content-Type")
	h.Set(headerFace, "opensearch")
	if principal != "" {
		h.Set(headerPrincipal, principal)
	}
	if t := k.r.header.Get("Content-Type"); t != "" {
		h.Set("Content-Type", t)
	}
	got, late, err := n.Forward(k.r.ctx, &replication.Forwarded{
		Method: k.r.method, Path: path, Query: k.r.query.Encode(), Header: h, Body: body,
		RequestID: k.r.id, Policies: k.r.caller.policies, DisplayName: k.r.caller.displayName,
	})
	if err != nil {
		return nil, forwardError(err)
	}
	k.r.away = got.Header.Get(headerIndex)
	k.r.index = n.ForwardedIndexToken(k.r.away)
	k.sent = &answer{status: got.Status}
	out := &Sent{Status: got.Status, Body: got.Body, Type: got.Header.Get("Content-Type"), Warning: got.Header.Get("Warning")}
	if late {
		out.Warning = lateText
	}
	return out, nil
}

// FaceFunc answers a request that a performance secondary has sent on.
type FaceFunc func(k *Call, f *replication.Forwarded, principal string) Sent

// SetFace gives the core the face that answers such requests, before it serves.
func (c *Core) SetFace(face FaceFunc) { c.face.Store(&face) }

// handleFace executes a forwarded request of the other face.
func (c *Core) handleFace(ctx context.Context, f *replication.Forwarded) *replication.ForwardedAnswer {
	in := f.Header.Get(headerFace)
	face := c.face.Load()
	r := &request{
		ctx: ctx, id: f.RequestID, method: f.Method, path: f.Path, header: f.Header, forwarded: f, op: callOperation(f.Method),
		admitted: c.mode(performance), body: f.Body,
	}
	k := &Call{core: c, r: r}
	err := k.beginForwarded(f)
	if err == nil && (face == nil || in != "opensearch") {
		err = refuse(errUnsupported, "this primary does not know the face %q: use the version of the secondary on the primary, too", in)
	}
	if err != nil {
		a := c.encodeError(r, err)
		return &replication.ForwardedAnswer{Status: a.status, Header: http.Header{"Content-Type": {"application/json"}}, Body: a.body}
	}
	began := time.Now()
	c.running.begin(r, c.now())
	defer c.running.end(r)
	defer c.meters.request.Since(began)
	out := (*face)(k, f, f.Header.Get(headerPrincipal))
	h := http.Header{"Content-Type": {out.Type}}
	if out.Warning != "" {
		h.Set("Warning", out.Warning)
	}
	stampIndex(h, r)
	return &replication.ForwardedAnswer{Status: out.Status, Header: h, Body: out.Body, Index: r.committed}
}

func (k *Call) beginForwarded(f *replication.Forwarded) (err error) {
	r := k.r
	if len(f.RequestID) > maxRequestID || !plainID(f.RequestID) {
		r.id = ""
		return refuse(errInvalid, "a forwarded request needs an id of at most %d letters, digits and dashes", maxRequestID)
	}
	if int64(len(f.Body)) > k.core.cfg.MaxBody {
		return refuse(errBodyTooBig, "request body too large: at most %d bytes", k.core.cfg.MaxBody)
	}
	if r.query, err = url.ParseQuery(f.Query); err != nil {
		return refuse(errInvalid, "error parsing the query")
	}
	if err := k.core.gate(nil); err != nil {
		return err
	}
	if err := r.parseSynchronous(f.Header); err != nil {
		return err
	}
	if r.consistency.index = f.Header.Values(headerIndex); len(r.consistency.index) > 0 {
		reach, err := k.core.reach(r, true)
		if err := k.core.judge(r, reach, err); err != nil {
			return err
		}
	}
	if err := k.take(&Principal{Name: f.DisplayName, Policies: f.Policies}); err != nil {
		return err
	}
	return k.look()
}
