package opensearch

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/lockstepdb/lockstep/storage"
)

const (
	recordsPrefix = "opensearch/"
	userKind      = "internalusers"
	roleKind      = "roles"
	mappingKind   = "rolesmapping"
)

// recordPrefix is where the records of a kind are.
var recordPrefix = map[string]string{
	userKind: recordsPrefix + "user/", roleKind: recordsPrefix + "role/", mappingKind: recordsPrefix + "rolesmapping/",
}

// user is an internal user.
type user struct {
	Hash        string            `json:"hash"` // bcrypt
	Roles       []string          `json:"opendistro_security_roles"`
	Backend     []string          `json:"backend_roles"`
	Attributes  map[string]string `json:"attributes"`
	Description string            `json:"description,omitempty"`
}

// role is what a role allows.
type role struct {
	Cluster     []string          `json:"cluster_permissions"`
	Index       []indexPermission `json:"index_permissions"`
	Tenant      []json.RawMessage `json:"tenant_permissions"`
	Description string            `json:"description,omitempty"`
}

type indexPermission struct {
	Patterns []string `json:"index_patterns"`
	DLS      string   `json:"dls,omitempty"`
	FLS      []string `json:"fls"`
	Masked   []string `json:"masked_fields"`
	Actions  []string `json:"allowed_actions"`
}

// roleMapping is who has a role.
type roleMapping struct {
	Users       []string `json:"users"`
	Backend     []string `json:"backend_roles"`
	AndBackend  []string `json:"and_backend_roles"`
	Hosts       []string `json:"hosts"`
	Description string   `json:"description,omitempty"`
}

// security is what the records of users, roles and mappings say, as of a version of the system's records.
type security struct {
	version  uint64
	users    map[string]*user
	roles    map[string]*role
	mappings map[string]*roleMapping
}

// security returns what holds now.
func (f *Face) security() (*security, error) {
	version := f.engine.SystemVersion()
	if s := f.secured.Load(); s != nil && s.version == version {
		return s, nil
	}
	s := &security{version: version, users: map[string]*user{}, roles: map[string]*role{}, mappings: map[string]*roleMapping{}}
	view := f.engine.Snapshot()
	defer view.Release()
	if err := load(view, userKind, s.users); err != nil {
		return nil, err
	}
	if err := load(view, roleKind, s.roles); err != nil {
		return nil, err
	}
	if err := load(view, mappingKind, s.mappings); err != nil {
		return nil, err
	}
	for name, r := range reservedRoles {
		s.roles[name] = r
	}
	f.secured.Store(s)
	return s, nil
}

func load[T any](view *storage.View, kind string, into map[string]*T) error {
	prefix := recordPrefix[kind]
	var bad error
	end := []byte(prefix)
	end[len(end)-1]++
	err := view.Scan(storage.SystemReplicated, []byte(prefix), end, func(rec storage.Record) bool {
		v := new(T)
		if bad = json.Unmarshal(rec.Value, v); bad != nil {
			bad = fmt.Errorf("the record %s: %w", rec.Key, bad)
			return false
		}
		into[strings.TrimPrefix(string(rec.Key), prefix)] = v
		return true
	})
	if err == nil {
		err = bad
	}
	return err
}

// reservedRoles are there always and cannot be changed.
var reservedRoles = map[string]*role{
	"all_access": {Description: "Allow full access to all indices and all cluster APIs", Cluster: []string{"*"}, Index: []indexPermission{{Patterns: []string{"*"}, Actions: []string{"*"}}}},
	"readall": {
		Description: "Provide the minimum permissions to read all indices", Cluster: []string{"cluster_composite_ops_ro"},
		Index: []indexPermission{{Patterns: []string{"*"}, Actions: []string{"read"}}},
	},
	"cross_cluster_replication_leader_full_access": {
		Description: "Allows to serve as the leader of a replicated index, with the statistics",
		Cluster:     []string{"indices:admin/plugins/replication/index/stats"},
		Index: []indexPermission{{Patterns: []string{"*"}, Actions: []string{
			"indices:admin/plugins/replication/index/setup/validate", "indices:data/read/plugins/replication/changes", "indices:data/read/plugins/replication/file_chunk",
		}}},
	},
	"cross_cluster_replication_follower_full_access": {
		Description: "Allows to follow indices, with bulk calls and statistics",
		Cluster: []string{
			"cluster:admin/plugins/replication/autofollow/update", "cluster:admin/plugins/replication/bulk/*",
			"indices:admin/plugins/replication/follower/stats", "indices:admin/plugins/replication/autofollow/stats",
		},
		Index: []indexPermission{{Patterns: []string{"*"}, Actions: []string{
			"indices:admin/plugins/replication/index/pause", "indices:admin/plugins/replication/index/resume",
			"indices:admin/plugins/replication/index/setup/validate", "indices:admin/plugins/replication/index/start",
			"indices:admin/plugins/replication/index/status_check", "indices:admin/plugins/replication/index/stop",
			"indices:admin/plugins/replication/index/update", "indices:data/write/plugins/replication/changes",
		}}},
	},
}

// identity is a user with the roles that mappings, and the user's own record, give.
func (s *security) identity(name string, u *user) *identity {
	id := &identity{name: name, backend: u.Backend, sec: s, roles: slices.Clone(u.Roles)}
	for role, m := range s.mappings {
		all := len(m.AndBackend) > 0 && !slices.ContainsFunc(m.AndBackend, func(b string) bool { return !slices.Contains(u.Backend, b) })
		if all || anyWild(m.Users, name) || slices.ContainsFunc(u.Backend, func(b string) bool { return anyWild(m.Backend, b) }) {
			id.roles = append(id.roles, role)
		}
	}
	slices.Sort(id.roles)
	id.roles = slices.Compact(id.roles)
	return id
}

func anyWild(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return wildMatch(p, name) })
}

// actionGroups are names for sets of actions.
var actionGroups = map[string][]string{
	"unlimited":                {"*"},
	"indices_all":              {"indices:*"},
	"read":                     {"indices:data/read*", "indices:admin/mappings/fields/get*", "indices:admin/resolve/index"},
	"write":                    {"indices:data/write*", "indices:admin/mapping/put"},
	"delete":                   {"indices:data/write/delete*"},
	"crud":                     {"indices:data/read*", "indices:data/write*", "indices:admin/mapping/put", "indices:admin/mappings/fields/get*"},
	"search":                   {"indices:data/read/search*", "indices:data/read/msearch*", "indices:data/read/suggest*"},
	"get":                      {"indices:data/read/get*", "indices:data/read/mget*"},
	"index":                    {"indices:data/write/index*", "indices:data/write/update*", "indices:admin/mapping/put", "indices:data/write/bulk*"},
	"data_access":              {"indices:data/*", "indices:admin/mapping/put"},
	"create_index":             {"indices:admin/create", "indices:admin/mapping/put"},
	"manage":                   {"indices:monitor/*", "indices:admin/*"},
	"indices_monitor":          {"indices:monitor/*"},
	"manage_aliases":           {"indices:admin/aliases*"},
	"cluster_all":              {"cluster:*"},
	"cluster_monitor":          {"cluster:monitor/*"},
	"cluster_composite_ops_ro": {"indices:data/read/mget", "indices:data/read/msearch", "indices:data/read/scroll*", "indices:admin/aliases/get*"},
	"cluster_composite_ops":    {"indices:data/write/bulk", "indices:admin/aliases*", "indices:data/read/mget", "indices:data/read/msearch", "indices:data/read/scroll*"},
}

func allows(permissions []string, action string) bool {
	for _, p := range permissions {
		if group, ok := actionGroups[p]; ok && anyWild(group, action) || wildMatch(p, action) {
			return true
		}
	}
	return false
}

// may tells whether a role of the user allows an action on an index.
func (id *identity) may(action, index string) bool {
	for _, name := range id.roles {
		r := id.sec.roles[name]
		if r == nil {
			continue
		}
		for _, p := range r.Index {
			matches := slices.ContainsFunc(p.Patterns, func(pattern string) bool {
				return wildMatch(strings.ReplaceAll(pattern, "${user.name}", id.name), index)
			})
			if matches && allows(p.Actions, action) {
				return true
			}
		}
	}
	return false
}

// mayCluster tells whether a role of the user allows an action on the cluster.
func (id *identity) mayCluster(action string) bool {
	for _, name := range id.roles {
		if r := id.sec.roles[name]; r != nil && allows(r.Cluster, action) {
			return true
		}
	}
	return false
}
