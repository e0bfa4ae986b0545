package vault

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/lockstepdb/lockstep/server/replication"
)

const (
	performance = replication.Performance
	dr          = replication.DR
)

// perform answers a client's request: may this cluster answer it now, who asks, may they, and where is it executed.
func (c *Core) perform(r *request) (*reply, error) {
	rt, known, err := c.resolve(r)
	if err != nil {
		return nil, err
	}
	limit := int64(maxOpenBody)
	free := c.emptyAndRevoked(rt)
	r.opened = rt != nil && c.isOpen(rt, r.path)
	// Index tokens are no secrets, and one of a newer history fences: who shows it must be known first. authenticate comes after the wait: it goes by the state that was waited for.
	if !free && !r.opened && r.header.Get(headerIndex) != "" && c.mode(dr) != replication.Secondary {
		cred, err := c.credential(r.token)
		if err != nil {
			return nil, err
		}
		if cred == nil {
			return nil, c.auditRequest(r, rt, denied())
		}
		r.known = true
	}
	if err := c.askConsistency(r, rt); err != nil {
		return nil, err
	}
	if rt != nil && rt.flags&drHeader != 0 && c.mode(dr) == replication.Secondary {
		if r.token == "" {
			return nil, c.auditRequest(r, rt, denied())
		}
		if err := c.drOperation(r, r.token); err != nil {
			return nil, c.auditRequest(r, rt, err)
		}
		r.opened = true
	}
	if rt != nil && rt.flags&onDemoted != 0 && c.mode(dr) == replication.Secondary {
		r.opened = true
	}
	if !free && !r.opened {
		limit = c.cfg.MaxBody
		if err := c.authenticate(r); err != nil {
			return nil, c.auditRequest(r, rt, err)
		}
	}
	if (r.op == opWrite || r.op == opPatch) && (rt == nil || rt.flags&rawBody == 0) {
		body, err := r.openBody(limit)
		if err != nil {
			return nil, c.auditRequest(r, rt, err)
		}
		r.body = body
	}
	if err := c.auditRequest(r, rt, nil); err != nil {
		return nil, err
	}
	switch {
	case free:
		return rt.run(c, r)
	case rt != nil:
		return c.performRoute(r, rt)
	case known:
		return nil, c.refuseKnown(r)
	}
	return c.performMount(r)
}

// resolve finds the route of a request, in the table or among those of an auth method, unless the cluster's present part
// forbids it.
func (c *Core) resolve(r *request) (rt *route, known bool, err error) {
	rt, r.rest, known = c.findRoute(r.op, r.path)
	r.admitted = c.mode(performance)
	if err := c.gate(rt); err != nil {
		return nil, known, err
	}
	if rt == nil && !known && strings.HasPrefix(r.path, authPrefix) {
		return c.authRoute(r)
	}
	return rt, known, nil
}

// gate refuses what the cluster's present part in its sets does not allow, before anything is read.
func (c *Core) gate(rt *route) error {
	flags := 0
	if rt != nil {
		flags = rt.flags
	}
	if flags&early != 0 && flags&open != 0 && flags&onDR != 0 {
		return nil
	}
	if c.emptyAndRevoked(rt) {
		return nil
	}
	drMode, perfMode := c.mode(dr), c.mode(performance)
	switch {
	case drMode == replication.Bootstrapping || perfMode == replication.Bootstrapping:
		return refuse(errUnavailable, "this cluster is being filled from its primary: wait until sys/replication/status shows mode secondary, then repeat")
	case drMode == replication.Secondary && flags&onDR == 0 && c.promoting():
		return refuse(errUnavailable, "this cluster is becoming the primary: repeat the request in a moment")
	case drMode == replication.Secondary && flags&onDR == 0 && !(flags&onDemoted != 0 && c.wasDemoted()) && !(flags&onRevoked != 0 && rt.kind() == dr && c.revoked(dr)):
		return refuse(errInvalid, "path disabled in replication DR secondary mode")
	}
	ready, err := c.initialised()
	if err != nil {
		return err
	}
	if !ready && flags&early == 0 {
		return refuse(errUnavailable, "this cluster is not initialised: call PUT /v1/sys/init (vault operator init) first")
	}
	return nil
}

// promoting tells whether a promotion of DR was answered and is not in force yet: clients repeat what was refused with 503, and nothing else.
func (c *Core) promoting() bool {
	n := c.node.Load()
	return n != nil && n.Promoting(dr)
}

// emptyAndRevoked lets secondary/enable through on a cluster that its primary revoked before it was filled: it holds no token of anybody,
// and the node takes only an activation token of the same primary.
func (c *Core) emptyAndRevoked(rt *route) bool {
	return rt != nil && rt.flags&onRevoked != 0 && c.mode(rt.kind()) == replication.Bootstrapping && c.revoked(rt.kind())
}

// refuseKnown tells a permitted caller that the path exists but not for this verb.
func (c *Core) refuseKnown(r *request) error {
	if err := r.authorise(false); err != nil {
		return err
	}
	return refuse(errMethod, "unsupported operation")
}

func (c *Core) performRoute(r *request, rt *route) (*reply, error) {
	if rt.flags&(open|anyToken) == 0 && !r.opened {
		if err := r.authorise(rt.flags&sudo != 0); err != nil {
			return nil, err
		}
	}
	if rt.flags&toShared != 0 && r.forwarded == nil && c.mode(performance) == replication.Secondary {
		stays, err := rt.staysHere(c, r)
		if err != nil {
			return nil, err
		}
		if !stays {
			return c.forward(r)
		}
	}
	if _, err := c.sendOn(r, false); err != nil {
		return nil, err
	}
	return rt.run(c, r)
}

func (rt *route) staysHere(c *Core, r *request) (bool, error) {
	if rt.stays == nil {
		return false, nil
	}
	return rt.stays(c, r)
}

// performMount answers a request below a mount.
func (c *Core) performMount(r *request) (*reply, error) {
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	r.mount, r.rest = snap.mounts.route(r.path)
	if err := c.authoriseData(r); err != nil {
		return nil, err
	}
	if ownPath(r.path) {
		return nil, noRoute(r)
	}
	if r.mount == nil {
		return nil, c.warnOfSync(r, nil, noRoute(r))
	}
	if r.op == opWrite && strings.HasSuffix(r.path, "/") {
		return nil, refuse(errInvalid, "cannot write to a path ending in '/'")
	}
	if err := c.holds(r.mount); err != nil {
		return nil, err
	}
	writes := r.op == opWrite || r.op == opPatch || r.op == opDelete
	if writes && !r.mount.Local && r.forwarded == nil && c.mode(performance) == replication.Secondary {
		return c.forward(r)
	}
	if on, err := c.sendOn(r, !r.mount.Local); err != nil {
		return nil, err
	} else if on {
		return c.forward(r)
	}
	rep, err := c.performKind(r)
	return rep, c.warnOfSync(r, rep, err)
}

// performKind answers as the mount's type does.
func (c *Core) performKind(r *request) (*reply, error) {
	switch {
	case r.mount == cubbyhole:
		return c.cubbyholeCall(r)
	case r.mount.version() == 2:
		return c.kv2(r)
	}
	return c.kv1(r)
}

func noRoute(r *request) error {
	if ownPath(r.path) {
		return refuse(errUnsupported, "unsupported path")
	}
	return refuse(errUnsupported, "no handler for route %q: no secrets engine is mounted there", r.path)
}

// authoriseData asks the policies about a path below a mount. A write needs create where nothing is yet and update where
// something is; the store is asked only if the policies make a difference.
func (c *Core) authoriseData(r *request) error {
	if err := r.authorise(false); err != nil || r.op != opWrite {
		return err
	}
	caps := r.caller.acl.on(r.path)
	if caps&(capCreate|capUpdate) == capCreate|capUpdate {
		return nil
	}
	exists := true
	if r.mount != nil {
		var err error
		if exists, err = c.exists(r); err != nil {
			return err
		}
	}
	r.only = caps & (capCreate | capUpdate)
	return r.permits(exists)
}

// permits judges a write of a caller who may only create, or only update. Before the transaction it spares work; the
// transaction asks again, since another may have written in between.
func (r *request) permits(exists bool) error {
	if r.only == capCreate && exists || r.only == capUpdate && !exists {
		return denied()
	}
	return nil
}

// exists tells whether a write to a path below a mount would change something that is there.
func (c *Core) exists(r *request) (bool, error) {
	key := r.rest
	switch {
	case r.mount == cubbyhole:
		owner, err := r.caller.cubbyhole()
		if err != nil {
			return false, err
		}
		key = owner + key
	case r.mount.version() == 2:
		part, path, _ := strings.Cut(r.rest, "/")
		if part != "data" && part != "metadata" {
			return true, nil
		}
		key = metaKey(path)
	}
	_, ok, err := c.get(r.mount.space(), key)
	return ok, err
}

// forward sends a whole request to the primary and gives back its answer.
func (c *Core) forward(r *request) (*reply, error) {
	n, err := c.replicator()
	if err != nil {
		return nil, err
	}
	if r.header.Get(headerNoForwarding) != "" {
		return nil, refuse(errInvalid, "only the primary can answer this, and %s forbids to forward it: call the primary, or leave the header out", headerNoForwarding)
	}
	got, late, err := n.Forward(r.ctx, &replication.Forwarded{
		Method: r.method, Path: r.path, Query: r.query.Encode(), Header: forwardedHeader(r), Body: r.body,
		RequestID: r.id, Policies: r.caller.policies, DisplayName: r.caller.displayName,
	})
	if err != nil {
		return nil, forwardError(err)
	}
	r.away = got.Header.Get(headerIndex)
	r.index = n.ForwardedIndexToken(r.away)
	rep := &reply{sent: &answer{status: got.Status, body: got.Body}}
	if late {
		return rep, rep.warnSent(lateText)
	}
	return rep, nil
}

const lateText = "the primary has committed this write, this cluster has not received it yet: reads here may be stale"

func forwardError(err error) error {
	if errors.Is(err, replication.ErrUnreachable) {
		return refuse(errUnavailable, "a write to what is shared needs the primary, reads and local mounts do not: %s", err)
	}
	return err
}

// forwardedHeader is what of a request's header changes its meaning.
func forwardedHeader(r *request) http.Header {
	h := http.Header{}
	for _, index := range r.consistency.index {
		h.Add(headerIndex, index)
	}
	if level := r.header.Get(headerSynchronous); level != "" {
		h.Set(headerSynchronous, level)
	}
	if r.op == opPatch {
		h.Set("Content-Type", "application/merge-patch+json")
	}
	if r.wrapTTL > 0 { // wrapped here; there it only meets what policies say of wrapping
		h.Set(wrapHeader, strconv.FormatInt(seconds(r.wrapTTL), 10))
	}
	return h
}

// Handle executes a request that a performance secondary forwarded (replication.Config.Handle). The secondary has
// authenticated its client; the policies are judged once more, by their text here. Only writes of shared scope are executed:
// a secondary reaches nothing that is local to this cluster.
func (c *Core) Handle(ctx context.Context, f *replication.Forwarded) (out *replication.ForwardedAnswer) {
	r := &request{ctx: ctx, id: f.RequestID, method: f.Method, header: f.Header, forwarded: f}
	defer func() {
		if p := recover(); p != nil {
			c.logPanic(r, p)
			out = &replication.ForwardedAnswer{Status: http.StatusInternalServerError, Body: errorBody([]string{internalText(r)})}
		}
	}()
	if f.Header.Get(headerFace) != "" {
		return c.handleFace(ctx, f)
	}
	rep, err := c.performForwarded(r, f)
	rep, err = c.confirm(r, rep, err)
	a := c.auditResponse(r, c.encodeReply(r, rep, err))
	h := http.Header{"Content-Type": {"application/json"}}
	stampIndex(h, r)
	return &replication.ForwardedAnswer{Status: a.status, Header: h, Body: a.body, Index: r.committed}
}

func (c *Core) performForwarded(r *request, f *replication.Forwarded) (*reply, error) {
	if err := r.parseForwarded(f, c.cfg.MaxBody); err != nil {
		return nil, err
	}
	rt, known, err := c.resolve(r)
	if err != nil {
		return nil, err
	}
	if r.consistency.index = f.Header.Values(headerIndex); len(r.consistency.index) > 0 {
		reach, err := c.reach(r, true)
		if err := c.judge(r, reach, err); err != nil {
			return nil, err
		}
	}
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	acl, err := c.aclOf(snap, f.Policies)
	if err != nil {
		return nil, err
	}
	r.caller = &caller{policies: f.Policies, displayName: f.DisplayName, acl: acl}
	if err := c.auditRequest(r, rt, nil); err != nil {
		return nil, err
	}
	if rt == nil && !known {
		return c.performForwardedMount(r, snap)
	}
	if rt == nil || rt.flags&toShared == 0 {
		return nil, notShared()
	}
	stays, err := rt.staysHere(c, r)
	if err != nil {
		return nil, err
	}
	if stays {
		return nil, notShared()
	}
	mounts, err := c.mountPathsOf(r, rt)
	if err != nil {
		return nil, err
	}
	if err := c.withinFilter(r, mounts...); err != nil {
		return nil, err
	}
	return c.performRoute(r, rt)
}

func (c *Core) performForwardedMount(r *request, snap *snapshot) (*reply, error) {
	m, _ := snap.mounts.route(r.path)
	if m != nil && m.Local {
		return nil, notShared()
	}
	if m != nil {
		if err := c.withinFilter(r, m.path); err != nil {
			return nil, err
		}
	}
	return c.performMount(r)
}

func notShared() error {
	return refuse(errInvalid, "only writes to what a primary shares with its performance secondaries can be forwarded")
}
