package vault

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/lockstepdb/lockstep/storage"
)

// An auth method is a mount below auth/. Its accounts are records of its keyspace: of replicated scope, so that a performance
// secondary lets in whom its primary knows. What a login writes (the token, uses of secret ids, lockouts) is local.

// methodTables are the routes of the auth methods by type. Their paths are below the mount; a '*' is one segment.
func methodTables() map[string][]route {
	return map[string][]route{"userpass": userpassRoutes(), "approle": approleRoutes()}
}

// methodStays tells that what a local auth method keeps is written here.
func (c *Core) methodStays(r *request) (bool, error) { return r.mount.Local, nil }

// authRoute finds the route of a path below an auth method.
func (c *Core) authRoute(r *request) (rt *route, known bool, err error) {
	snap, err := c.current()
	if err != nil {
		return nil, false, err
	}
	m, below := snap.mounts.route(r.path)
	if m == nil || !m.auth() {
		return nil, false, nil
	}
	if err := c.holds(m); err != nil {
		return nil, false, err
	}
	r.mount = m
	routes, below := c.methods[m.Type], strings.TrimSuffix(below, "/")
	for i := range routes {
		rest, ok := matchRoute(routes[i].path, below)
		if !ok || strings.Contains(rest, "/") {
			continue
		}
		known = true
		if routes[i].accepts(r.op) {
			r.rest = rest
			return &routes[i], true, nil
		}
	}
	return nil, known, nil
}

// onAuth makes a handler of mounts one of auth methods.
func onAuth(run handler) handler {
	return func(c *Core, r *request) (*reply, error) {
		r.rest = authPrefix + r.rest
		return run(c, r)
	}
}

func (c *Core) authStays(r *request) (bool, error) {
	m, err := c.mountAt(authPrefix + r.rest)
	return m != nil && m.Local, err
}

// authPath checks the path of an auth method, given below auth/.
func authPath(below string) (string, error) {
	path, err := cleanPath(strings.Trim(below, "/"))
	if err != nil {
		return "", err
	}
	switch {
	case path == "" || len(path) > maxMountPath:
		return "", refuse(errInvalid, "the path of an auth method has from 1 to %d bytes", maxMountPath)
	case path == "token" || strings.HasPrefix(path, "token/"):
		return "", refuse(errInvalid, "path is already in use at auth/token/")
	}
	return authPrefix + path + "/", nil
}

func (c *Core) enableAuth(r *request, p *mountParams) (*reply, error) {
	path, err := authPath(r.rest)
	if err != nil {
		return nil, err
	}
	rec, err := p.authRecord(c.methods)
	if err != nil {
		return nil, err
	}
	m := &mount{mountRecord: *rec, path: path, id: storage.KeyspaceID(uuid.MustParse(rec.UUID))}
	return nil, c.addMount(r, m, m.space().put(methodSecretKey, []byte(randomHex(32))))
}

// methodSecretKey is the record with the key of an auth method's hashes.
const methodSecretKey = "secret"

// authRecord checks the parameters of a new auth method and makes its record.
func (p *mountParams) authRecord(types map[string][]route) (*mountRecord, error) {
	kind := cmp.Or(p.Type, p.PluginName)
	if types[kind] == nil {
		return nil, refuse(errInvalid, "plugin not found in the catalog: %s; the auth methods here are approle and userpass", kind)
	}
	if p.SealWrap || p.Entropy || p.Version != "" {
		return nil, refuse(errInvalid, "seal_wrap, external_entropy_access and plugin_version are not supported: leave them out")
	}
	if len(p.Options) > 0 {
		return nil, refuse(errInvalid, "auth methods here have no options: leave options out")
	}
	m := &mountRecord{
		UUID: uuid.NewString(), Type: kind, Description: p.Description, Local: p.Local, Options: maps.Clone(p.Options),
		Accessor: "auth_" + kind + "_" + randomHex(4),
	}
	return m, p.Config.apply(m)
}

func (c *Core) listAuth(r *request) (*reply, error) {
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	data := map[string]any{"token/": map[string]any{
		"type": "token", "accessor": "auth_token", "description": "token based credentials", "local": false, "seal_wrap": false,
		"external_entropy_access": false, "options": nil, "uuid": uuid.UUID(storage.SystemLocal).String(),
		"config": map[string]any{"default_lease_ttl": 0, "max_lease_ttl": 0, "force_no_cache": false, "token_type": "default-service"},
	}}
	here, warnings, err := c.served(snap.mounts)
	if err != nil {
		return nil, err
	}
	for path, m := range here {
		if m.auth() {
			data[strings.TrimPrefix(path, authPrefix)] = m.describe()
		}
	}
	return &reply{data: data, inject: true, warnings: warnings}, nil
}

// login is what an auth method knows of who has just proved who they are.
type login struct {
	settings *tokenSettings
	account  string // key of the account's record
	display  string
	meta     map[string]string
}

// logIn gives a token to an account.
func (c *Core) logIn(r *request, l login) (*reply, error) {
	if !withinCIDRs(r.remote, l.settings.CIDRs) {
		return nil, denied()
	}
	m, s, rep := r.mount, *l.settings, &reply{}
	if s.Type == "" || s.Type == "default" {
		s.Type = m.Config.TokenType
	}
	policies := cleanNames(s.Policies)
	if slices.Contains(policies, rootPolicy) { // no call writes that into an account
		return nil, denied()
	}
	if !s.NoDefault {
		policies = cleanNames(append(policies, defaultPolicy))
	}
	now := c.now().UTC()
	t := &tokenEntry{
		Accessor: randomText(24), Policies: policies, Path: r.path, Meta: l.meta, DisplayName: m.displayName(l.display), Created: now,
		NumUses: int(s.NumUses), ExplicitMax: s.ExplicitMax, Period: s.Period, Renewable: true, MaxTTL: m.maxTTL(&s),
		Mount: m.UUID, Account: l.account, CIDRs: s.CIDRs, batch: s.batch(""),
	}
	if t.batch {
		t.Accessor, t.Renewable, t.NumUses, t.Period, t.ExplicitMax = "", false, 0, 0, 0
	}
	fallback := cmp.Or(time.Duration(m.Config.DefaultLeaseTTL)*time.Second, min(maxTTL, t.MaxTTL))
	t.TTL = life{asked: s.TTL, fallback: fallback, limit: t.MaxTTL, period: t.Period, explicit: t.ExplicitMax}.decide(rep)
	t.Expires = now.Add(t.TTL)
	var err error
	rep.auth, err = c.issue(r, t, "")
	if err != nil {
		return nil, err
	}
	return rep, nil
}

// maxTTL is how long a token of the method may live: what is shorter of the account's limit and the mount's.
func (m *mount) maxTTL(s *tokenSettings) time.Duration {
	limit := cmp.Or(time.Duration(m.Config.MaxLeaseTTL)*time.Second, maxTTL)
	return shorter(s.MaxTTL, limit)
}

// displayName is the mount's path and the account's name.
func (m *mount) displayName(name string) string {
	text := strings.TrimSuffix(strings.TrimPrefix(m.path, authPrefix), "/")
	if name != "" {
		text += "-" + name
	}
	return displayName(text)
}

// accountStands refuses to prolong a token whose account is gone.
func (c *Core) accountStands(t *tokenEntry) error {
	if t.Mount == "" {
		return nil
	}
	snap, err := c.current()
	if err != nil {
		return err
	}
	m := snap.mounts.auth[t.Mount]
	if m == nil {
		return badToken()
	}
	_, ok, err := c.get(m.space(), t.Account)
	if err != nil {
		return err
	}
	if !ok {
		return refuse(errInvalid, "the account that this token was given to does not exist any more: log in with another")
	}
	return nil
}
