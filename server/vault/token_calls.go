package vault

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

type tokenParam struct {
	Token     string        `json:"token"`
	Increment time.Duration `json:"increment"`
}

type accessorParam struct {
	Accessor  string        `json:"accessor"`
	Increment time.Duration `json:"increment"`
}

type incrementParam struct {
	Increment time.Duration `json:"increment"`
}

func badToken() error { return refuse(errDenied, "bad token") }

// named finds the token that a parameter names.
func (c *Core) named(text string) (*credential, error) {
	if text == "" {
		return nil, refuse(errInvalid, "missing token ID")
	}
	cred, err := c.credential(text)
	if err != nil {
		return nil, err
	}
	if cred == nil {
		return nil, badToken()
	}
	return cred, nil
}

// byAccessor finds the token of an accessor.
func (c *Core) byAccessor(accessor string) (*credential, error) {
	if accessor == "" {
		return nil, refuse(errInvalid, "missing accessor")
	}
	if len(accessor) > maxName {
		return nil, refuse(errDenied, "invalid accessor")
	}
	hash, ok, err := c.get(private, accessorPrefix+accessor)
	if err != nil {
		return nil, err
	}
	if ok {
		snap, err := c.current()
		if err != nil {
			return nil, err
		}
		if cred, err := c.credentialByHash(snap, string(hash)); cred != nil || err != nil {
			return cred, err
		}
	}
	return nil, refuse(errDenied, "invalid accessor")
}

func (c *Core) lookupSelf(r *request) (*reply, error) {
	return &reply{data: c.describe(r.token, r.caller.entry)}, nil
}

func (c *Core) lookupToken(r *request, p *tokenParam) (*reply, error) {
	if p.Token == "" {
		p.Token = r.token
	}
	cred, err := c.named(p.Token)
	if err != nil {
		return nil, err
	}
	return &reply{data: c.describe(p.Token, cred.entry)}, nil
}

func (c *Core) lookupAccessor(r *request, p *accessorParam) (*reply, error) {
	cred, err := c.byAccessor(p.Accessor)
	if err != nil {
		return nil, err
	}
	return &reply{data: c.describe("", cred.entry)}, nil
}

// describe is the data of a lookup; id is the token's text as the caller gave it, empty when they did not.
func (c *Core) describe(id string, t *tokenEntry) map[string]any {
	data := map[string]any{
		"id": id, "accessor": t.Accessor, "policies": t.Policies, "path": t.Path, "meta": t.Meta,
		"display_name": t.DisplayName, "num_uses": t.NumUses, "orphan": t.Parent == "", "entity_id": "", "type": t.kind(),
		"creation_time": t.Created.Unix(), "creation_ttl": seconds(t.TTL), "ttl": seconds(t.left(c.now())),
		"explicit_max_ttl": seconds(t.ExplicitMax), "expire_time": nil, "renewable": t.renewable(),
	}
	if !t.Expires.IsZero() {
		data["expire_time"] = t.Expires.Format(time.RFC3339Nano)
		data["issue_time"] = t.Created.Format(time.RFC3339Nano)
	}
	if t.Period > 0 {
		data["period"] = seconds(t.Period)
	}
	if t.Role != "" {
		data["role"] = t.Role
	}
	if len(t.CIDRs) > 0 {
		data["bound_cidrs"] = t.CIDRs
	}
	if !t.Renewed.IsZero() {
		data["last_renewal"] = t.Renewed.Format(time.RFC3339Nano)
		data["last_renewal_time"] = t.Renewed.Unix()
	}
	return data
}

func (c *Core) renewToken(r *request, p *tokenParam) (*reply, error) {
	if p.Token == "" {
		p.Token = strings.TrimSpace(r.token)
	}
	cred, err := c.named(p.Token)
	if err != nil {
		return nil, err
	}
	return c.renew(r, p.Token, cred, p.Increment)
}

func (c *Core) renewSelf(r *request, p *incrementParam) (*reply, error) {
	cred := &credential{hash: r.caller.hash, entry: r.caller.entry}
	return c.renew(r, r.token, cred, p.Increment)
}

func (c *Core) renewAccessor(r *request, p *accessorParam) (*reply, error) {
	cred, err := c.byAccessor(p.Accessor)
	if err != nil {
		return nil, err
	}
	return c.renew(r, "", cred, p.Increment)
}

func (c *Core) renew(r *request, text string, cred *credential, increment time.Duration) (*reply, error) {
	if cred.entry.batch {
		return nil, refuse(errInvalid, "batch tokens cannot be renewed: create another")
	}
	if !cred.entry.renewable() {
		return nil, refuse(errInvalid, "lease is not renewable")
	}
	if err := c.accountStands(cred.entry); err != nil {
		return nil, err
	}
	if increment < 0 {
		return nil, refuse(errInvalid, "increment cannot be negative")
	}
	now := c.now().UTC()
	rep := &reply{}
	err := c.change(r, cred.hash, func(t *tokenEntry) (bool, error) {
		ttl := t.extension(now, increment)
		if ttl <= 0 {
			return true, refuse(errInvalid, "the token has reached its maximum age and cannot be renewed")
		}
		if increment > 0 && ttl < increment {
			rep.warn(fmt.Sprintf("TTL of %q exceeded the effective max_ttl of %q; TTL value is capped accordingly", increment, ttl.Round(time.Second)))
		}
		t.Renewed, t.Expires = now, now.Add(ttl)
		rep.auth = authOf(text, t, ttl)
		return true, nil
	})
	if errors.Is(err, errDenied) {
		return nil, badToken()
	}
	if err != nil {
		return nil, err
	}
	return rep, nil
}

// extension is how long a token renewed now lives on.
func (t *tokenEntry) extension(now time.Time, increment time.Duration) time.Duration {
	ttl := increment
	if ttl == 0 {
		ttl = t.TTL
	}
	limit := t.Created.Add(cmp.Or(t.MaxTTL, maxTTL)).Sub(now)
	if t.Period > 0 {
		ttl, limit = t.Period, t.Period
	}
	if t.ExplicitMax > 0 {
		limit = min(limit, t.Created.Add(t.ExplicitMax).Sub(now))
	}
	return min(ttl, limit)
}

func (c *Core) revokeToken(r *request, p *tokenParam) (*reply, error) {
	if p.Token == "" {
		return nil, refuse(errInvalid, "missing token ID")
	}
	cred, err := c.credential(p.Token)
	if err != nil {
		return nil, err
	}
	if cred == nil { // an unknown token is as good as revoked: the call is safe to repeat
		return nil, c.dropWrapped(r, p.Token)
	}
	return nil, c.revokeCredential(r, cred)
}

func (c *Core) revokeSelf(r *request) (*reply, error) {
	return nil, c.revokeCredential(r, &credential{hash: r.caller.hash, entry: r.caller.entry})
}

func (c *Core) revokeAccessor(r *request, p *accessorParam) (*reply, error) {
	cred, err := c.byAccessor(p.Accessor)
	if err != nil {
		return nil, err
	}
	return nil, c.revokeCredential(r, cred)
}

func (c *Core) revokeCredential(r *request, cred *credential) error {
	if cred.entry.batch {
		return refuse(errInvalid, "batch tokens cannot be revoked: they end with their time, or with their parent")
	}
	if cred.hash == "" {
		return refuse(errInvalid, "the dev root token cannot be revoked while the server runs in dev mode")
	}
	return c.revoke(r, cred.hash)
}

// revokeOrphan revokes one token and leaves its children alive as orphans.
func (c *Core) revokeOrphan(r *request, p *tokenParam) (*reply, error) {
	if p.Token == "" {
		return nil, refuse(errInvalid, "missing token ID")
	}
	cred, err := c.credential(p.Token)
	if err != nil {
		return nil, err
	}
	if cred == nil || cred.hash == "" {
		return nil, refuse(errInvalid, "token to revoke not found")
	}
	c.familyMu.Lock()
	defer c.familyMu.Unlock()
	for {
		children, err := c.children(cred.hash, 256)
		if err != nil {
			return nil, err
		}
		if len(children) == 0 {
			break
		}
		if err := c.adoptOut(r, cred.hash, children); err != nil {
			return nil, err
		}
	}
	err = c.change(r, cred.hash, func(*tokenEntry) (bool, error) { return false, nil })
	if err != nil && !errors.Is(err, errDenied) { // denied: another call was faster
		return nil, err
	}
	return nil, c.emptyCubbyhole(r, cred.hash)
}

// adoptOut makes children orphans, in one entry.
func (c *Core) adoptOut(r *request, parent string, children []string) error {
	tx := &engine.Tx{}
	for _, child := range children {
		tx.Reads = append(tx.Reads, private.key(tokenPrefix+child))
	}
	tx.Exec = func(rd engine.Reader) ([]engine.Write, error) {
		var writes []engine.Write
		for _, child := range children {
			writes = append(writes, private.del(parentPrefix+parent+"/"+child))
			value, ok, err := read(rd, private, tokenPrefix+child)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			var t tokenEntry
			if err := json.Unmarshal(value, &t); err != nil {
				return nil, fmt.Errorf("token record %.8s: %w", child, err)
			}
			t.Parent, t.Depth = "", 0
			if value, err = marshal(&t); err != nil {
				return nil, err
			}
			writes = append(writes, private.put(tokenPrefix+child, value))
		}
		return writes, nil
	}
	return c.commit(r, tx)
}

const maxListedAccessors = 100000

func (c *Core) listAccessors(r *request) (*reply, error) {
	view := c.engine.Snapshot()
	defer view.Release()
	keys := []string{}
	err := view.Scan(private.id, []byte(accessorPrefix), prefixEnd(accessorPrefix), func(rec storage.Record) bool {
		keys = append(keys, strings.TrimPrefix(string(rec.Key), accessorPrefix))
		return len(keys) < maxListedAccessors
	})
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, missing()
	}
	rep := &reply{data: map[string]any{"keys": keys}}
	if len(keys) == maxListedAccessors {
		rep.warn(fmt.Sprintf("only the first %d accessors are listed", maxListedAccessors))
	}
	return rep, nil
}
