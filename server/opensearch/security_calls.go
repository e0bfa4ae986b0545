package opensearch

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

const (
	maxSecurityName = 256
	maxRecord       = 256 << 10
	minPassword     = 8
)

// message is an answer of the security API.
func message(status int, word, text string) *reply {
	return &reply{status: status, body: map[string]any{"status": word, "message": text}}
}

func notFound(kind, name string) *reply {
	return message(http.StatusNotFound, "NOT_FOUND", singular[kind]+" '"+name+"' not found.")
}

var singular = map[string]string{userKind: "user", roleKind: "role", mappingKind: "rolesmapping"}

func badConfiguration(reason string, more map[string]any) *reply {
	body := map[string]any{"status": "error", "reason": reason}
	for k, v := range more {
		body[k] = v
	}
	return &reply{status: http.StatusBadRequest, body: body}
}

func reserved(name string) *reply {
	return message(http.StatusForbidden, "FORBIDDEN", "Resource '"+name+"' is reserved.")
}

// secured returns the routes of one kind of records.
func (f *Face) shown(kind, name string, sec *security) (out map[string]any) {
	out = map[string]any{}
	flags := func(v map[string]any, reserved bool) map[string]any {
		v["reserved"], v["hidden"], v["static"] = reserved, false, reserved
		return v
	}
	want := func(x string) bool { return name == "" || name == x }
	switch kind {
	case userKind:
		for x, u := range sec.users {
			if want(x) {
				out[x] = flags(map[string]any{
					"hash": "", "backend_roles": orEmpty(u.Backend), "attributes": orMap(u.Attributes), "opendistro_security_roles": orEmpty(u.Roles), "description": u.Description,
				}, false)
			}
		}
	case roleKind:
		for x, v := range sec.roles {
			if want(x) {
				permissions := v.Index
				if permissions == nil {
					permissions = []indexPermission{}
				}
				out[x] = flags(map[string]any{
					"cluster_permissions": orEmpty(v.Cluster), "index_permissions": permissions, "tenant_permissions": []any{}, "description": v.Description,
				}, reservedRoles[x] != nil)
			}
		}
	case mappingKind:
		for x, m := range sec.mappings {
			if want(x) {
				out[x] = flags(map[string]any{
					"users": orEmpty(m.Users), "backend_roles": orEmpty(m.Backend), "and_backend_roles": orEmpty(m.AndBackend), "hosts": []string{}, "description": m.Description,
				}, false)
			}
		}
	}
	return out
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func orMap(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func getSecured(kind string) handler {
	return func(f *Face, r *request) (*reply, error) {
		sec, err := f.security()
		if err != nil {
			return nil, err
		}
		out := f.shown(kind, r.vars["name"], sec)
		if r.vars["name"] != "" && len(out) == 0 {
			return notFound(kind, r.vars["name"]), nil
		}
		return ok(out), nil
	}
}

// putSecured makes or replaces one record.
func putSecured(kind string) handler {
	return func(f *Face, r *request) (*reply, error) {
		name := r.vars["name"]
		switch {
		case len(name) > maxSecurityName || strings.ContainsAny(name, "*/") || !printable(name):
			return badConfiguration("the name has more than 256 bytes, or characters that a name cannot have", nil), nil
		case kind == roleKind && reservedRoles[name] != nil:
			return reserved(name), nil
		case len(r.body) == 0:
			return badConfiguration("Request body required for this action.", nil), nil
		}
		value, refused, err := f.securedRecord(r, kind, r.body)
		if refused != nil || err != nil {
			return refused, err
		}
		made, err := f.store(r, recordPrefix[kind]+name, value)
		if err != nil {
			return nil, err
		}
		if made {
			return message(http.StatusCreated, "CREATED", "'"+name+"' created."), nil
		}
		return message(http.StatusOK, "OK", "'"+name+"' updated."), nil
	}
}

func printable(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f || c == 0xfffd })
}

// securedRecord checks a body and makes the record of it.
func (f *Face) securedRecord(r *request, kind string, body []byte) (value []byte, refused *reply, err error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil || fields == nil {
		return nil, badConfiguration("Could not parse content of request.", nil), nil
	}
	known := map[string][]string{
		userKind:    {"password", "hash", "opendistro_security_roles", "backend_roles", "attributes", "description"},
		roleKind:    {"cluster_permissions", "index_permissions", "tenant_permissions", "description"},
		mappingKind: {"users", "backend_roles", "and_backend_roles", "hosts", "description"},
	}[kind]
	var bad []string
	for name := range fields {
		if !slices.Contains(known, name) {
			bad = append(bad, name)
		}
	}
	if bad != nil {
		slices.Sort(bad)
		return nil, badConfiguration("Invalid configuration", map[string]any{"invalid_keys": map[string]string{"keys": strings.Join(bad, ",")}}), nil
	}
	var record any
	switch kind {
	case userKind:
		record, refused, err = f.userRecord(r, body)
	case roleKind:
		record, refused = roleRecord(body)
	default:
		record, refused = mappingRecord(body)
	}
	if refused != nil || err != nil {
		return nil, refused, err
	}
	if value, err = marshal(record); err == nil && len(value) > maxRecord {
		return nil, badConfiguration("Invalid configuration: more than 256 KiB", nil), nil
	}
	return value, nil, err
}

func wrongType() *reply { return badConfiguration("Wrong datatype", nil) }

func (f *Face) userRecord(r *request, body []byte) (any, *reply, error) {
	var in struct {
		user
		Password string `json:"password"`
	}
	if json.Unmarshal(body, &in) != nil {
		return nil, wrongType(), nil
	}
	switch {
	case in.Password != "" && len(in.Password) < minPassword:
		return nil, badConfiguration("Weak password", nil), nil
	case in.Password != "":
		hash, err := r.call.HashPassword(in.Password)
		if err != nil {
			return nil, nil, err
		}
		in.Hash = string(hash)
	case in.Hash != "":
		if _, err := bcrypt.Cost([]byte(in.Hash)); err != nil {
			return nil, badConfiguration("Invalid configuration: [hash] is no bcrypt hash", nil), nil
		}
	default:
		sec, err := f.security()
		if err != nil {
			return nil, nil, err
		}
		old := sec.users[r.vars["name"]]
		if old == nil {
			return nil, badConfiguration("Please specify either 'hash' or 'password' when creating a new internal user.", nil), nil
		}
		in.Hash = old.Hash
	}
	return in.user, nil, nil
}

func roleRecord(body []byte) (any, *reply) {
	var in role
	if json.Unmarshal(body, &in) != nil {
		return nil, wrongType()
	}
	for _, p := range in.Index {
		if p.DLS != "" || len(p.FLS) > 0 || len(p.Masked) > 0 {
			return nil, badConfiguration("dls, fls and masked_fields are not offered by this server: keep what not everybody may see in another index", nil)
		}
		for _, pattern := range p.Patterns {
			if strings.HasPrefix(pattern, "/") {
				return nil, badConfiguration("index patterns that are regular expressions are not offered by this server: use '*'", nil)
			}
		}
	}
	return in, nil
}

func mappingRecord(body []byte) (any, *reply) {
	var in roleMapping
	if json.Unmarshal(body, &in) != nil {
		return nil, wrongType()
	}
	if len(in.Hosts) > 0 {
		return nil, badConfiguration("hosts are not offered by this server: map users or backend roles", nil)
	}
	return in, nil
}

// store writes a record; made tells that there was none.
func (f *Face) store(r *request, key string, value []byte) (made bool, err error) {
	k := engine.Key{Keyspace: storage.SystemReplicated, Key: []byte(key)}
	err = r.call.Commit(&engine.Tx{
		Reads: []engine.Key{k},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			_, err := rd.Get(k.Keyspace, k.Key)
			if made = isNotFound(err); err != nil && !made {
				return nil, err
			}
			return []engine.Write{systemPut(key, value)}, nil
		},
	})
	return made, err
}

func deleteSecured(kind string) handler {
	return func(f *Face, r *request) (*reply, error) {
		name := r.vars["name"]
		if kind == roleKind && reservedRoles[name] != nil {
			return reserved(name), nil
		}
		key := recordPrefix[kind] + name
		k := engine.Key{Keyspace: storage.SystemReplicated, Key: []byte(key)}
		there := false
		err := r.call.Commit(&engine.Tx{
			Reads: []engine.Key{k},
			Exec: func(rd engine.Reader) ([]engine.Write, error) {
				_, err := rd.Get(k.Keyspace, k.Key)
				if there = err == nil; isNotFound(err) {
					return nil, nil
				}
				return []engine.Write{systemDelete(key)}, err
			},
		})
		if err != nil {
			return nil, err
		}
		if !there {
			return notFound(kind, name), nil
		}
		return message(http.StatusOK, "OK", "'"+name+"' deleted."), nil
	}
}

// patchSecured changes one record by a JSON Patch of whole fields: add, replace and remove.
func patchSecured(kind string) handler {
	return func(f *Face, r *request) (*reply, error) {
		name := r.vars["name"]
		if kind == roleKind && reservedRoles[name] != nil {
			return reserved(name), nil
		}
		var steps []struct {
			Op    string          `json:"op"`
			Path  string          `json:"path"`
			Value json.RawMessage `json:"value"`
		}
		if json.Unmarshal(r.body, &steps) != nil || len(steps) == 0 {
			return badConfiguration("Could not parse content of request.", nil), nil
		}
		rec, err := f.engine.Get(storage.SystemReplicated, []byte(recordPrefix[kind]+name))
		if isNotFound(err) {
			return notFound(kind, name), nil
		}
		if err != nil {
			return nil, err
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(rec.Value, &fields); err != nil {
			return nil, err
		}
		for _, s := range steps {
			field, deeper, _ := strings.Cut(strings.TrimPrefix(s.Path, "/"), "/")
			switch {
			case field == "" || deeper != "":
				return badConfiguration("a patch changes whole fields on this server: take a path such as /"+field, nil), nil
			case s.Op == "remove":
				delete(fields, field)
			case s.Op == "add" || s.Op == "replace":
				fields[field] = s.Value
			default:
				return badConfiguration("add, replace and remove are the operations of a patch on this server", nil), nil
			}
		}
		body, err := marshal(fields)
		if err != nil {
			return nil, err
		}
		value, refused, err := f.securedRecord(r, kind, body)
		if refused != nil || err != nil {
			return refused, err
		}
		if _, err := f.store(r, recordPrefix[kind]+name, value); err != nil {
			return nil, err
		}
		return message(http.StatusOK, "OK", "'"+name+"' updated."), nil
	}
}

// account tells who asks.
func (f *Face) account(r *request) (*reply, error) {
	name, backend, roles := r.call.Name(), []string{}, []string{}
	if r.who != nil {
		backend, roles = orEmpty(r.who.backend), orEmpty(r.who.roles)
	}
	return ok(map[string]any{
		"user_name": name, "is_reserved": false, "is_hidden": false, "is_internal_user": r.who != nil, "user_requested_tenant": nil, "backend_roles": backend,
		"custom_attribute_names": []string{}, "tenants": map[string]bool{}, "roles": roles,
	}), nil
}
