package vault

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/storage"
)

const (
	mountPrefix = "mounts/"
	authPrefix  = "auth/"
)

// mountRecord is a mount table entry as it is stored.
type mountRecord struct {
	UUID        string            `json:"uuid"` // the keyspace's id
	Accessor    string            `json:"accessor"`
	Type        string            `json:"type"`
	Description string            `json:"description"`
	Options     map[string]string `json:"options"`
	Config      mountConfig       `json:"config"`
	Local       bool              `json:"local"`
}

type mountConfig struct {
	DefaultLeaseTTL   int64  `json:"default_lease_ttl"` // seconds; 0: the system's
	MaxLeaseTTL       int64  `json:"max_lease_ttl"`
	ForceNoCache      bool   `json:"force_no_cache"`
	ListingVisibility string `json:"listing_visibility,omitempty"`
	TokenType         string `json:"token_type,omitempty"` // of an auth method's tokens
}

// mount is a mount table entry in memory.
type mount struct {
	mountRecord
	path   string // ends in '/'; an auth method's begins with auth/
	id     storage.KeyspaceID
	digest merkle.Digest // of its record
}

// auth tells whether the mount is an auth method.
func (m *mount) auth() bool { return strings.HasPrefix(m.path, authPrefix) }

// space is where the mount's data are.
func (m *mount) space() space {
	if m.Local {
		return space{m.id, storage.Local}
	}
	return space{m.id, storage.Replicated}
}

// home is the system keyspace that holds the mount's record.
func (m *mount) home() space {
	if m.Local {
		return private
	}
	return shared
}

func (m *mount) version() int {
	if m.Options["version"] == "2" {
		return 2
	}
	return 1
}

// describe is the mount as sys/mounts shows it.
func (m *mount) describe() map[string]any {
	config := map[string]any{
		"default_lease_ttl": m.Config.DefaultLeaseTTL, "max_lease_ttl": m.Config.MaxLeaseTTL, "force_no_cache": m.Config.ForceNoCache,
	}
	if m.Config.ListingVisibility != "" {
		config["listing_visibility"] = m.Config.ListingVisibility
	}
	if m.auth() {
		config["token_type"] = cmp.Or(m.Config.TokenType, "default-service")
	}
	return map[string]any{
		"type": m.Type, "accessor": m.Accessor, "description": m.Description, "uuid": m.UUID, "config": config,
		"options": m.Options, "local": m.Local, "seal_wrap": false, "external_entropy_access": false,
		"deprecation_status": "supported", "plugin_version": "", "running_plugin_version": "", "running_sha256": "",
	}
}

func (m *mount) encode() ([]byte, error) { return marshal(m.mountRecord) }

// mountTable is all mounts of a cluster. Of two on one path the replicated one is served: the other could come to be only
// on a secondary whose primary took a path that was local here.
type mountTable struct {
	served map[string]*mount
	hidden []*mount
	auth   map[string]*mount // the auth methods by uuid
}

// loadMounts reads the table; of what an earlier one knows it takes over what has not changed.
func loadMounts(view *storage.View, known *mountTable, log hclog.Logger) (*mountTable, error) {
	t := &mountTable{served: map[string]*mount{cubbyhole.path: cubbyhole}, auth: map[string]*mount{}}
	for _, s := range []space{shared, private} {
		err := view.Scan(s.id, []byte(mountPrefix), prefixEnd(mountPrefix), func(rec storage.Record) bool {
			m := known.same(rec, s.scope == storage.Local)
			if m == nil {
				var err error
				if m, err = decodeMount(string(rec.Key), rec.Value); err != nil {
					log.Error("a mount table entry cannot be read and is not served", "error", err)
					return true
				}
				m.Local, m.digest = s.scope == storage.Local, rec.Digest
			}
			t.add(m)
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

// same returns the mount of a record that has not changed, nil when there is none.
func (t *mountTable) same(rec storage.Record, local bool) *mount {
	if t == nil {
		return nil
	}
	m := t.served[strings.TrimPrefix(string(rec.Key), mountPrefix)]
	if m == nil || m.Local != local || m.digest != rec.Digest {
		return nil
	}
	return m
}

func (t *mountTable) add(m *mount) {
	if m.auth() {
		t.auth[m.UUID] = m
	}
	if t.served[m.path] != nil {
		t.hidden = append(t.hidden, m)
	} else {
		t.served[m.path] = m
	}
}

func decodeMount(key string, value []byte) (*mount, error) {
	m := &mount{path: strings.TrimPrefix(key, mountPrefix)}
	if err := json.Unmarshal(value, &m.mountRecord); err != nil {
		return nil, fmt.Errorf("mount %s: %w", m.path, err)
	}
	id, err := uuid.Parse(m.UUID)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", m.path, err)
	}
	m.id = storage.KeyspaceID(id)
	return m, nil
}

// route finds the mount that a path is below, and what follows the mount's own path.
func (t *mountTable) route(path string) (m *mount, rest string) {
	for at := len(path); at > 0; at = strings.LastIndexByte(path[:at-1], '/') + 1 {
		prefix := path[:at]
		if !strings.HasSuffix(prefix, "/") {
			if m := t.served[prefix+"/"]; m != nil {
				return m, ""
			}
			continue
		}
		if m := t.served[prefix]; m != nil {
			return m, path[at:]
		}
	}
	return nil, ""
}

// byPath returns the mount of exactly this path, with or without its final '/'.
func (t *mountTable) byPath(path string) *mount { return t.served[strings.TrimSuffix(path, "/")+"/"] }

// byID returns the mount of a keyspace.
func (t *mountTable) byID(id storage.KeyspaceID) *mount {
	for _, m := range t.all() {
		if m.id == id {
			return m
		}
	}
	return nil
}

// all returns the served mounts and the hidden ones, by path.
func (t *mountTable) all() []*mount {
	out := slices.Clone(t.hidden)
	for _, m := range t.served {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *mount) int { return strings.Compare(a.path, b.path) })
	return out
}

// conflict returns the path of a mount that a new one at path would lie in or contain; empty when there is none.
func (t *mountTable) conflict(path string) string {
	for _, m := range t.all() {
		if strings.HasPrefix(path, m.path) || strings.HasPrefix(m.path, path) {
			return m.path
		}
	}
	return ""
}

// hiddenWarnings tells of mounts that cannot be reached.
func (t *mountTable) hiddenWarnings() []string {
	var out []string
	for _, m := range t.hidden {
		out = append(out, fmt.Sprintf("the local mount %s (accessor %s) is hidden by the replicated mount of the same path: "+
			"move it with sys/remount, from=%s", m.path, m.Accessor, m.Accessor))
	}
	return out
}
