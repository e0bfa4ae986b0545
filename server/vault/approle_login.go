package vault

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
)

type approleLoginParams struct {
	RoleID   string `json:"role_id"`
	SecretID string `json:"secret_id"`
}

func badRole() error { return refuse(errInvalid, "invalid role or secret ID") }

func (c *Core) approleLogin(r *request, p *approleLoginParams) (*reply, error) {
	switch {
	case p.RoleID == "":
		return nil, refuse(errInvalid, "missing role_id")
	case len(p.RoleID) > maxName || len(p.SecretID) > maxTokenText:
		return nil, badRole()
	}
	if err := c.mayTry(r.mount, p.RoleID); err != nil {
		return nil, err
	}
	name, a, err := c.roleByID(r.mount, p.RoleID)
	if err != nil {
		return nil, err
	}
	secret, err := c.spendSecretID(r, a, p)
	if errors.Is(err, errInvalid) {
		c.loginFailed(r.mount, p.RoleID, a != nil)
	}
	if err != nil {
		return nil, err
	}
	c.guests.forget(r.mount.guest(p.RoleID))
	settings := a.tokenSettings
	meta := map[string]string{"role_name": name}
	if secret != nil {
		if len(secret.Token) > 0 {
			settings.CIDRs = secret.Token
		}
		for k, v := range secret.Meta {
			if k != "role_name" {
				meta[k] = v
			}
		}
	}
	return c.logIn(r, login{settings: &settings, account: appRolePrefix + name, meta: meta})
}

func (c *Core) roleByID(m *mount, id string) (name string, a *appRole, err error) {
	value, ok, err := c.get(m.space(), roleIDPrefix+id)
	if err != nil || !ok {
		return "", nil, err
	}
	a, err = c.appRole(m, string(value))
	return string(value), a, err
}

// spendSecretID checks the secret id of a login and counts its use. The work for a role that does not exist is the same up
// to the last lookup. A nil result without an error is a role that needs none.
func (c *Core) spendSecretID(r *request, a *appRole, p *approleLoginParams) (*secretID, error) {
	hash, err := c.methodHash(r.mount, p.SecretID)
	if err != nil {
		return nil, err
	}
	if a == nil {
		a = &appRole{ID: "none"}
	}
	if !withinCIDRs(r.remote, a.SecretIDCIDRs) {
		return nil, badRole()
	}
	if !a.bound() {
		return nil, nil
	}
	value, ok, err := c.get(r.mount.space(), secretPrefix+a.ID+"/"+hash)
	if err != nil {
		return nil, err
	}
	if !ok || p.SecretID == "" {
		return nil, badRole()
	}
	var rec secretID
	if err := json.Unmarshal(value, &rec); err != nil {
		return nil, fmt.Errorf("secret id of %s: %w", r.mount.path, err)
	}
	if rec.expired(c.now()) || !withinCIDRs(r.remote, rec.CIDRs) {
		return nil, badRole()
	}
	if rec.NumUses > 0 {
		err = c.countSecretID(r, a, hash, &rec)
	}
	return &rec, err
}

func usesKey(m *mount, a *appRole, hash string) string {
	return usesPrefix + m.UUID + "/" + a.ID + "/" + hash
}

func decodeUses(value []byte) (n int64, err error) {
	if len(value) == 0 {
		return 0, nil
	}
	if err := json.Unmarshal(value, &n); err != nil {
		return 0, fmt.Errorf("uses of a secret id: %w", err)
	}
	return n, nil
}

func (c *Core) secretIDUsed(m *mount, a *appRole, hash string) (int64, error) {
	value, _, err := c.get(counters, usesKey(m, a, hash))
	if err != nil {
		return 0, err
	}
	return decodeUses(value)
}

// countSecretID counts one use, in one transaction with the judgement whether any is left. Where the secret id's record may
// be written it goes with the last use; on a performance secondary the count remains.
func (c *Core) countSecretID(r *request, a *appRole, hash string, rec *secretID) error {
	key, s := usesKey(r.mount, a, hash), r.mount.space()
	secret := secretPrefix + a.ID + "/" + hash
	mine := r.mount.Local || c.mode(performance) != replication.Secondary
	return c.commit(r, &engine.Tx{
		Reads: []engine.Key{counters.key(key), s.key(secret)},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			if _, ok, err := read(rd, s, secret); err != nil {
				return nil, err
			} else if !ok {
				return nil, badRole()
			}
			value, _, err := read(rd, counters, key)
			if err != nil {
				return nil, err
			}
			used, err := decodeUses(value)
			if err != nil {
				return nil, err
			}
			switch {
			case used >= rec.NumUses:
				return nil, badRole()
			case mine && used+1 == rec.NumUses:
				return append(a.dropSecretID(s, hash, rec), counters.del(key)), nil
			}
			if value, err = marshal(used + 1); err != nil {
				return nil, err
			}
			return []engine.Write{counters.put(key, value)}, nil
		},
	})
}
