package vault

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/lockstepdb/lockstep/server/engine"
)

const (
	appRolePrefix = "role/"   // role/<name>
	roleIDPrefix  = "roleid/" // roleid/<role id>: the role's name
)

func approleRoutes() []route {
	stays := (*Core).methodStays
	routes := []route{
		{"POST", "login", open, in((*Core).approleLogin), nil},
		{"LIST", "role", 0, (*Core).listAppRoles, nil},
		{"GET", "role/*", 0, (*Core).readAppRole, nil},
		{"POST", "role/*", toShared, (*Core).writeAppRole, stays},
		{"DELETE", "role/*", toShared, (*Core).deleteAppRole, stays},
		{"GET", "role/*/role-id", 0, (*Core).readRoleID, nil},
		{"POST", "role/*/role-id", toShared, (*Core).writeRoleID, stays},
		{"POST", "role/*/secret-id", toShared, in((*Core).createSecretID), stays},
		{"LIST", "role/*/secret-id", 0, (*Core).listSecretIDs, nil},
		{"POST", "role/*/custom-secret-id", toShared, in((*Core).createCustomSecretID), stays},
		{"POST", "role/*/secret-id/lookup", 0, in((*Core).lookupSecretID), nil},
		{"POST DELETE", "role/*/secret-id/destroy", toShared, in((*Core).destroySecretID), stays},
		{"POST", "role/*/secret-id-accessor/lookup", 0, in((*Core).lookupSecretID), nil},
		{"POST DELETE", "role/*/secret-id-accessor/destroy", toShared, in((*Core).destroySecretID), stays},
		{"POST", "tidy/secret-id", 0, (*Core).tidy, nil},
	}
	for path, name := range appRoleFields {
		routes = append(routes,
			route{"GET", "role/*/" + path, 0, readAppRoleField(name), nil},
			route{"POST", "role/*/" + path, toShared, writeAppRoleField(name), stays},
			route{"DELETE", "role/*/" + path, toShared, deleteAppRoleField(name), stays},
		)
	}
	return routes
}

// appRoleFields are the parameters of a role that have paths of their own, by these.
var appRoleFields = map[string]string{
	"policies": "token_policies", "token-ttl": "token_ttl", "token-max-ttl": "token_max_ttl", "period": "token_period",
	"token-num-uses": "token_num_uses", "token-bound-cidrs": "token_bound_cidrs", "bind-secret-id": "bind_secret_id",
	"secret-id-num-uses": "secret_id_num_uses", "secret-id-ttl": "secret_id_ttl", "secret-id-bound-cidrs": "secret_id_bound_cidrs",
	"bound-cidr-list": "secret_id_bound_cidrs",
}

// appRole is an account of approle.
type appRole struct {
	tokenSettings
	RoleID         string        `json:"role_id"`
	BindSecretID   *bool         `json:"bind_secret_id"`
	SecretIDCIDRs  []string      `json:"secret_id_bound_cidrs"`
	SecretIDUses   int64         `json:"secret_id_num_uses"`
	SecretIDTTL    time.Duration `json:"secret_id_ttl"`
	LocalSecretIDs bool          `json:"local_secret_ids"`

	ID string `json:"id"` // ours: secret ids belong to it, so that they do not outlive their role to serve another of its name
}

func (a *appRole) bound() bool { return a.BindSecretID == nil || *a.BindSecretID }

func (a *appRole) validate() error {
	switch {
	case a.LocalSecretIDs:
		return refuse(errInvalid, "local_secret_ids is not supported: enable the auth method with local, and its secret ids stay on this cluster")
	case a.SecretIDUses < 0 || a.SecretIDUses > 1<<31-1 || a.SecretIDTTL < 0:
		return refuse(errInvalid, "secret_id_num_uses and secret_id_ttl cannot be negative")
	case a.SecretIDTTL > maxPeriod:
		return refuse(errInvalid, "secret_id_ttl is longer than ten years")
	case len(a.RoleID) > maxName || a.RoleID == "" || strings.Contains(a.RoleID, "/"):
		return refuse(errInvalid, "role_id has from 1 to %d bytes and no '/'", maxName)
	}
	var err error
	if a.SecretIDCIDRs, err = cleanCIDRs(a.SecretIDCIDRs); err != nil {
		return err
	}
	if err := a.tokenSettings.validate(); err != nil {
		return err
	}
	if !a.bound() && len(a.SecretIDCIDRs) == 0 && len(a.CIDRs) == 0 {
		return refuse(errInvalid, "at least one constraint should be enabled on the role: bind_secret_id, secret_id_bound_cidrs or token_bound_cidrs")
	}
	return nil
}

func (a *appRole) describe() map[string]any {
	data := a.tokenSettings.describe()
	data["bind_secret_id"], data["secret_id_bound_cidrs"] = a.bound(), orEmpty(a.SecretIDCIDRs)
	data["secret_id_num_uses"], data["secret_id_ttl"] = a.SecretIDUses, seconds(a.SecretIDTTL)
	data["local_secret_ids"] = false
	return data
}

func appRoleName(name string) error {
	if len(name) > maxName {
		return refuse(errInvalid, "a role's name has at most %d bytes", maxName)
	}
	return nil
}

// appRole reads a role; nil when there is none.
func (c *Core) appRole(m *mount, name string) (*appRole, error) {
	if err := appRoleName(name); err != nil {
		return nil, err
	}
	value, ok, err := c.get(m.space(), appRolePrefix+name)
	if err != nil || !ok {
		return nil, err
	}
	return decodeAppRole(m, value)
}

func decodeAppRole(m *mount, value []byte) (*appRole, error) {
	var a appRole
	if err := json.Unmarshal(value, &a); err != nil {
		return nil, fmt.Errorf("role of %s: %w", m.path, err)
	}
	return &a, nil
}

// mustAppRole is appRole for paths below a role.
func (c *Core) mustAppRole(r *request) (*appRole, error) {
	a, err := c.appRole(r.mount, r.rest)
	if err != nil {
		return nil, err
	}
	if a == nil {
		return nil, refuse(errInvalid, "role %q does not exist", r.rest)
	}
	return a, nil
}

func (c *Core) listAppRoles(r *request) (*reply, error) {
	return c.listNames(r.mount.space(), appRolePrefix)
}

func (c *Core) readAppRole(r *request) (*reply, error) {
	a, err := c.appRole(r.mount, r.rest)
	if err != nil {
		return nil, err
	}
	if a == nil {
		return nil, missing()
	}
	return &reply{data: a.describe()}, nil
}

// appRoleParams are the parameters that somebody may give of a role.
func appRoleParams(r *request) (fields, error) {
	f, err := r.fields()
	if err != nil {
		return nil, err
	}
	f.alias("bound_cidr_list", "secret_id_bound_cidrs")
	delete(f, "id")
	return oldSettings(f), nil
}

func (c *Core) writeAppRole(r *request) (*reply, error) {
	f, err := appRoleParams(r)
	if err != nil {
		return nil, err
	}
	return c.changeAppRole(r, f, true)
}

// changeAppRole changes what is given of a role, or makes it. The record that finds a role by its id changes with it.
func (c *Core) changeAppRole(r *request, f fields, create bool) (*reply, error) {
	if err := appRoleName(r.rest); err != nil {
		return nil, err
	}
	s, key, freshID, fresh := r.mount.space(), appRolePrefix+r.rest, uuid.NewString(), uuid.NewString()
	var wanted struct {
		RoleID string `json:"role_id"`
	}
	if _, err := f.decode(&wanted); err != nil {
		return nil, err
	}
	var unknown []string
	err := c.commit(r, &engine.Tx{
		Reads: []engine.Key{s.key(key), s.key(roleIDPrefix + wanted.RoleID), s.key(roleIDPrefix + freshID)},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			value, ok, err := read(rd, s, key)
			if err != nil {
				return nil, err
			}
			a := &appRole{RoleID: freshID, ID: fresh}
			if ok {
				if a, err = decodeAppRole(r.mount, value); err != nil {
					return nil, err
				}
			} else if !create {
				return nil, refuse(errInvalid, "role %q does not exist", r.rest)
			}
			before := a.RoleID
			if unknown, err = f.decode(a); err != nil {
				return nil, err
			}
			if err := a.validate(); err != nil {
				return nil, err
			}
			return a.writes(rd, s, r.rest, before)
		},
	})
	if err != nil || len(unknown) == 0 {
		return nil, err
	}
	return warned(ignored(unknown)), nil
}

func (a *appRole) writes(rd engine.Reader, s space, name, oldID string) ([]engine.Write, error) {
	owner, taken, err := read(rd, s, roleIDPrefix+a.RoleID)
	if err != nil {
		return nil, err
	}
	if taken && string(owner) != name {
		return nil, refuse(errInvalid, "role_id already in use: choose another")
	}
	value, err := marshal(a)
	if err != nil {
		return nil, err
	}
	writes := []engine.Write{s.put(appRolePrefix+name, value), s.put(roleIDPrefix+a.RoleID, []byte(name))}
	if oldID != a.RoleID {
		writes = append(writes, s.del(roleIDPrefix+oldID))
	}
	return writes, nil
}

// deleteAppRole removes a role; with it its secret ids are void. What remains of them is removed after it, and by a sweep.
func (c *Core) deleteAppRole(r *request) (*reply, error) {
	a, err := c.appRole(r.mount, r.rest)
	if a == nil || err != nil {
		return nil, err
	}
	s := r.mount.space()
	err = c.commit(r, &engine.Tx{Writes: []engine.Write{s.del(appRolePrefix + r.rest), s.del(roleIDPrefix + a.RoleID)}})
	if err != nil {
		return nil, err
	}
	for _, prefix := range []string{secretPrefix, secretAccessorPrefix} {
		for {
			keys, err := c.keysOf(s, prefix+a.ID+"/", sweepWrites)
			if err != nil {
				return nil, err
			}
			if len(keys) == 0 {
				break
			}
			if err := c.remove(r, s, keys); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

func (c *Core) readRoleID(r *request) (*reply, error) {
	a, err := c.appRole(r.mount, r.rest)
	if err != nil {
		return nil, err
	}
	if a == nil {
		return nil, missing()
	}
	return &reply{data: map[string]any{"role_id": a.RoleID}}, nil
}

func (c *Core) writeRoleID(r *request) (*reply, error) {
	f, err := r.fields()
	if err != nil {
		return nil, err
	}
	raw, ok := f["role_id"]
	if !ok {
		return nil, refuse(errInvalid, "missing role_id")
	}
	return c.changeAppRole(r, fields{"role_id": raw}, false)
}

// ---- single parameters

func readAppRoleField(name string) handler {
	return func(c *Core, r *request) (*reply, error) {
		a, err := c.appRole(r.mount, r.rest)
		if err != nil {
			return nil, err
		}
		if a == nil {
			return nil, missing()
		}
		return &reply{data: map[string]any{name: a.describe()[name]}}, nil
	}
}

func writeAppRoleField(name string) handler {
	return func(c *Core, r *request) (*reply, error) {
		f, err := appRoleParams(r)
		if err != nil {
			return nil, err
		}
		raw, ok := f[name]
		if !ok {
			return nil, refuse(errInvalid, "missing %s", name)
		}
		return c.changeAppRole(r, fields{name: raw}, false)
	}
}

func deleteAppRoleField(name string) handler {
	zero := json.RawMessage(`0`)
	switch name {
	case "token_policies", "token_bound_cidrs", "secret_id_bound_cidrs":
		zero = json.RawMessage(`[]`)
	case "bind_secret_id":
		zero = json.RawMessage(`true`)
	}
	return func(c *Core, r *request) (*reply, error) { return c.changeAppRole(r, fields{name: zero}, false) }
}
