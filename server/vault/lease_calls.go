package vault

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/storage"
)

// Tokens are the only leases here. A lease's id is the path that gave out the token, and its hash.

const leaseMark = "/h"

func leaseID(hash string, t *tokenEntry) string { return t.Path + leaseMark + hash }

type leaseParams struct {
	LeaseID   string        `json:"lease_id"`
	Increment time.Duration `json:"increment"`
	Sync      bool          `json:"sync"` // revocations are always done when they are answered
	Prefix    string        `json:"prefix"`
}

// lease finds the token of a lease; nil when there is none any more.
func (c *Core) lease(r *request, p *leaseParams) (*credential, error) {
	id := p.LeaseID
	if id == "" {
		id = r.rest
	}
	if id == "" {
		return nil, refuse(errInvalid, "missing lease_id")
	}
	at := strings.LastIndex(id, leaseMark)
	if at < 0 || len(id) > maxPath {
		return nil, nil
	}
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	cred, err := c.credentialByHash(snap, id[at+len(leaseMark):])
	if err != nil || cred == nil || leaseID(cred.hash, cred.entry) != id {
		return nil, err
	}
	return cred, nil
}

func badLease() error { return refuse(errInvalid, "invalid lease") }

func (c *Core) lookupLease(r *request, p *leaseParams) (*reply, error) {
	cred, err := c.lease(r, p)
	if err != nil {
		return nil, err
	}
	if cred == nil {
		return nil, badLease()
	}
	t := cred.entry
	data := map[string]any{
		"id": leaseID(cred.hash, t), "issue_time": stamp(t.Created), "expire_time": nil, "last_renewal": nil,
		"renewable": t.renewable(), "ttl": seconds(t.left(c.now())),
	}
	if !t.Expires.IsZero() {
		data["expire_time"] = stamp(t.Expires)
	}
	if !t.Renewed.IsZero() {
		data["last_renewal"] = stamp(t.Renewed)
	}
	return &reply{data: data}, nil
}

func (c *Core) renewLease(r *request, p *leaseParams) (*reply, error) {
	cred, err := c.lease(r, p)
	if err != nil {
		return nil, err
	}
	if cred == nil {
		return nil, refuse(errInvalid, "lease not found or lease is not renewable")
	}
	return nil, refuse(errInvalid, "tokens cannot be renewed through this endpoint: use auth/token/renew")
}

func (c *Core) revokeLease(r *request, p *leaseParams) (*reply, error) {
	cred, err := c.lease(r, p)
	if err != nil || cred == nil {
		return nil, err // what is not there is revoked
	}
	return nil, c.revoke(r, cred.hash)
}

// revokePrefix revokes all tokens that paths with a prefix gave out. New ones that come while it runs may stay.
func (c *Core) revokePrefix(r *request, p *leaseParams) (*reply, error) {
	prefix := r.rest
	if prefix == "" {
		prefix = p.Prefix
	}
	prefix = strings.TrimSuffix(prefix, "/")
	if prefix == "" {
		return nil, refuse(errInvalid, "missing prefix: name the path whose leases are to be revoked")
	}
	hashes := []string{}
	err := c.scanLeases(func(hash string, t *tokenEntry) bool {
		if strings.HasPrefix(leaseID(hash, t)+"/", prefix+"/") {
			hashes = append(hashes, hash)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	for _, hash := range hashes {
		if err := c.revoke(r, hash); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// listLeases lists what is one level below a prefix.
func (c *Core) listLeases(r *request) (*reply, error) {
	prefix := strings.TrimSuffix(r.rest, "/")
	if prefix != "" {
		prefix += "/"
	}
	names := map[string]bool{}
	err := c.scanLeases(func(hash string, t *tokenEntry) bool {
		below, ok := strings.CutPrefix(leaseID(hash, t), prefix)
		if ok {
			name, _, folder := strings.Cut(below, "/")
			if folder {
				name += "/"
			}
			names[name] = true
		}
		return len(names) < maxListedAccessors
	})
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, missing()
	}
	keys := make([]string, 0, len(names))
	for name := range names {
		keys = append(keys, name)
	}
	slices.Sort(keys)
	rep := &reply{data: map[string]any{"keys": keys}}
	if len(keys) == maxListedAccessors {
		rep.warn(fmt.Sprintf("only %d leases are listed", maxListedAccessors))
	}
	return rep, nil
}

// scanLeases visits the tokens that have a lease: all whose time is limited.
func (c *Core) scanLeases(visit func(hash string, t *tokenEntry) bool) error {
	view := c.engine.Snapshot()
	defer view.Release()
	now := c.now()
	var bad error
	err := view.Scan(private.id, []byte(tokenPrefix), prefixEnd(tokenPrefix), func(rec storage.Record) bool {
		hash := strings.TrimPrefix(string(rec.Key), tokenPrefix)
		t, err := decodeToken(hash, rec.Value)
		if err != nil {
			bad = err
			return false
		}
		if t.Expires.IsZero() || t.expired(now) {
			return true
		}
		return visit(hash, t)
	})
	if err != nil {
		return err
	}
	return bad
}

// tidy lets Run sweep now instead of within its minute.
func (c *Core) tidy(*request) (*reply, error) {
	c.wakeRun()
	rep := warned("The sweep has been started; what it cannot remove it says in the server's log.")
	rep.status = http.StatusAccepted
	return rep, nil
}
