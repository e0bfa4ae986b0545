package vault

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/lockstepdb/lockstep/server/engine"
)

const userPrefix = "user/"

func userpassRoutes() []route {
	stays := (*Core).methodStays
	return []route{
		{"POST", "login/*", open, in((*Core).userpassLogin), nil},
		{"LIST", "users", 0, (*Core).listUsers, nil},
		{"GET", "users/*", 0, (*Core).readUser, nil},
		{"POST", "users/*", toShared, (*Core).writeUser, stays},
		{"DELETE", "users/*", toShared, (*Core).deleteUser, stays},
		{"POST", "users/*/password", toShared, in((*Core).changePassword), stays},
		{"POST", "users/*/policies", toShared, (*Core).changePolicies, stays},
	}
}

// user is an account of userpass. A name has no case.
type user struct {
	tokenSettings
	Hash []byte `json:"hash"`
}

func userName(r *request) (string, error) {
	name := strings.ToLower(r.rest)
	if len(name) > maxName {
		return "", refuse(errInvalid, "a user's name has at most %d bytes", maxName)
	}
	return name, nil
}

func (c *Core) user(m *mount, name string) (*user, error) {
	value, ok, err := c.get(m.space(), userPrefix+name)
	if err != nil || !ok {
		return nil, err
	}
	var u user
	if err := json.Unmarshal(value, &u); err != nil {
		return nil, fmt.Errorf("account of %s: %w", m.path, err)
	}
	return &u, nil
}

type passwordParam struct {
	Password string `json:"password"`
}

func (c *Core) userpassLogin(r *request, p *passwordParam) (*reply, error) {
	name, err := userName(r)
	if err != nil {
		return nil, err
	}
	if p.Password == "" {
		return nil, refuse(errInvalid, "missing password")
	}
	u, err := c.user(r.mount, name)
	if err != nil {
		return nil, err
	}
	var hash []byte
	if u != nil {
		hash = u.Hash
	}
	right, err := c.checkPassword(r.ctx, r.remote, hash, p.Password, func() error { return c.mayTry(r.mount, name) })
	if err != nil {
		return nil, err
	}
	if !right {
		c.loginFailed(r.mount, name, u != nil)
		return nil, refuse(errInvalid, "invalid username or password")
	}
	if err := c.mayTry(r.mount, name); err != nil { // others may have failed meanwhile
		return nil, err
	}
	c.guests.forget(r.mount.guest(name))
	return c.logIn(r, login{settings: &u.tokenSettings, account: userPrefix + name, display: name, meta: map[string]string{"username": name}})
}

// mayTry refuses a name that is locked, in the words for whatever is forbidden.
func (c *Core) mayTry(m *mount, name string) error {
	locked, err := c.lockedOut(m, name)
	if err != nil {
		return err
	}
	if locked {
		return denied()
	}
	return nil
}

func (c *Core) listUsers(r *request) (*reply, error) { return c.listNames(r.mount.space(), userPrefix) }

func (c *Core) readUser(r *request) (*reply, error) {
	name, err := userName(r)
	if err != nil {
		return nil, err
	}
	u, err := c.user(r.mount, name)
	if err != nil {
		return nil, err
	}
	if u == nil {
		return nil, missing()
	}
	return &reply{data: u.describe()}, nil
}

// oldSettings gives parameters their present names.
func oldSettings(f fields) fields {
	for _, old := range []string{"policies", "ttl", "max_ttl", "period"} {
		f.alias(old, "token_"+old)
	}
	f.alias("bound_cidrs", "token_bound_cidrs")
	f.alias("bound_cidr_list", "token_bound_cidrs")
	return f
}

// writeUser makes an account or changes what is given of one.
func (c *Core) writeUser(r *request) (*reply, error) {
	name, err := userName(r)
	if err != nil {
		return nil, err
	}
	f, err := r.fields()
	if err != nil {
		return nil, err
	}
	var p passwordParam
	if _, err := f.decode(&p); err != nil {
		return nil, err
	}
	var hash []byte
	if p.Password != "" {
		if hash, err = c.hashPassword(r.ctx, p.Password); err != nil {
			return nil, err
		}
	}
	delete(f, "password")
	delete(f, "hash")
	var u user
	return c.update(r, r.mount.space(), userPrefix+name, oldSettings(f), &u, func() error {
		if hash != nil {
			u.Hash = hash
		}
		return u.validate()
	}, func() error {
		if hash == nil {
			return refuse(errInvalid, "missing password: a new user needs one")
		}
		return nil
	})
}

func (c *Core) deleteUser(r *request) (*reply, error) {
	name, err := userName(r)
	if err != nil {
		return nil, err
	}
	return nil, c.commit(r, &engine.Tx{Writes: []engine.Write{r.mount.space().del(userPrefix + name)}})
}

// changePassword is what a user may be allowed to do about themselves.
func (c *Core) changePassword(r *request, p *passwordParam) (*reply, error) {
	name, err := userName(r)
	if err != nil {
		return nil, err
	}
	if p.Password == "" {
		return nil, refuse(errInvalid, "missing password")
	}
	hash, err := c.hashPassword(r.ctx, p.Password)
	if err != nil {
		return nil, err
	}
	return c.changeUser(r, name, fields{}, hash)
}

func (c *Core) changePolicies(r *request) (*reply, error) {
	name, err := userName(r)
	if err != nil {
		return nil, err
	}
	f, err := r.fields()
	if err != nil {
		return nil, err
	}
	raw, ok := oldSettings(f)["token_policies"]
	if !ok {
		return nil, refuse(errInvalid, "missing token_policies")
	}
	return c.changeUser(r, name, fields{"token_policies": raw}, nil)
}

// changeUser changes an account that exists.
func (c *Core) changeUser(r *request, name string, f fields, hash []byte) (*reply, error) {
	var u user
	return c.update(r, r.mount.space(), userPrefix+name, f, &u, func() error {
		if hash != nil {
			u.Hash = hash
		}
		return u.validate()
	}, func() error { return refuse(errInvalid, "username does not exist") })
}
