package vault

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/lockstepdb/lockstep/server/engine"
)

// reserved are the first parts of paths that are the API's own.
var reserved = []string{"sys/", "auth/", "cubbyhole/", "identity/", "audit/"}

const (
	maxMountPath = 512
	maxText      = 4 << 10 // bytes of a description
)

type mountParams struct {
	Type        string            `json:"type"`
	Description string            `json:"description"`
	Config      mountTuning       `json:"config"`
	Options     map[string]string `json:"options"`
	Local       bool              `json:"local"`
	SealWrap    bool              `json:"seal_wrap"`
	Entropy     bool              `json:"external_entropy_access"`
	Version     string            `json:"plugin_version"`
	PluginName  string            `json:"plugin_name"`
}

// mountTuning is what tune accepts, and enable below config.
type mountTuning struct {
	DefaultLeaseTTL   *time.Duration    `json:"default_lease_ttl"`
	MaxLeaseTTL       *time.Duration    `json:"max_lease_ttl"`
	ForceNoCache      *bool             `json:"force_no_cache"`
	ListingVisibility *string           `json:"listing_visibility"`
	Description       *string           `json:"description"`
	TokenType         *string           `json:"token_type"` // of an auth method
	Options           map[string]string `json:"options"`
}

func (t *mountTuning) apply(m *mountRecord) error {
	for _, d := range []*time.Duration{t.DefaultLeaseTTL, t.MaxLeaseTTL} {
		if d != nil && *d < 0 {
			return refuse(errInvalid, "default_lease_ttl and max_lease_ttl cannot be negative")
		}
	}
	if t.DefaultLeaseTTL != nil {
		m.Config.DefaultLeaseTTL = seconds(*t.DefaultLeaseTTL)
	}
	if t.MaxLeaseTTL != nil {
		m.Config.MaxLeaseTTL = seconds(*t.MaxLeaseTTL)
	}
	if m.Config.MaxLeaseTTL > 0 && m.Config.DefaultLeaseTTL > m.Config.MaxLeaseTTL {
		return refuse(errInvalid, "default_lease_ttl is greater than max_lease_ttl")
	}
	if t.ForceNoCache != nil {
		m.Config.ForceNoCache = *t.ForceNoCache
	}
	if t.ListingVisibility != nil {
		if v := *t.ListingVisibility; v != "" && v != "hidden" && v != "unauth" {
			return refuse(errInvalid, "listing_visibility must be hidden or unauth")
		}
		m.Config.ListingVisibility = *t.ListingVisibility
	}
	if t.TokenType != nil {
		switch *t.TokenType {
		case "", "default-service", "default-batch", typeService, typeBatch:
			m.Config.TokenType = *t.TokenType
		default:
			return refuse(errInvalid, "token_type must be service, batch, default-service or default-batch")
		}
	}
	if t.Description != nil {
		m.Description = *t.Description
	}
	if len(m.Description) > maxText {
		return refuse(errInvalid, "the description is longer than %d bytes", maxText)
	}
	return nil
}

// record checks the parameters of a new mount and makes its record.
func (p *mountParams) record() (*mountRecord, error) {
	m := &mountRecord{UUID: uuid.NewString(), Type: p.Type, Description: p.Description, Local: p.Local, Options: map[string]string{}}
	maps.Copy(m.Options, p.Options)
	switch p.Type {
	case "":
		return nil, refuse(errInvalid, "backend type must be specified as a string")
	case "kv":
	case "kv-v1", "kv-v2":
		if v := m.Options["version"]; v != "" && v != strings.TrimPrefix(p.Type, "kv-v") {
			return nil, refuse(errInvalid, "type %s and options.version %s contradict each other", p.Type, v)
		}
		m.Type, m.Options["version"] = "kv", strings.TrimPrefix(p.Type, "kv-v")
	default:
		return nil, refuse(errInvalid, "plugin not found in the catalog: %s; the types here are kv, kv-v1 and kv-v2", p.Type)
	}
	switch m.Options["version"] {
	case "":
		m.Options["version"] = "1"
	case "1", "2":
	default:
		return nil, refuse(errInvalid, "options.version must be \"1\" or \"2\"")
	}
	for name := range m.Options {
		if name != "version" && name != optionSynchronous {
			return nil, refuse(errInvalid, "option %q is not known: kv mounts have version and %s only", name, optionSynchronous)
		}
	}
	if err := checkSynchronous(m.Options); err != nil {
		return nil, err
	}
	if p.SealWrap || p.Entropy || p.Version != "" {
		return nil, refuse(errInvalid, "seal_wrap, external_entropy_access and plugin_version are not supported: leave them out")
	}
	m.Accessor = "kv_" + randomHex(4)
	return m, p.Config.apply(m)
}

// mountPath checks the path of a new mount and gives it its final '/'.
func mountPath(path string) (string, error) {
	path, err := cleanPath(strings.Trim(path, "/"))
	if err != nil {
		return "", err
	}
	if path == "" || len(path) > maxMountPath {
		return "", refuse(errInvalid, "a mount's path has from 1 to %d bytes", maxMountPath)
	}
	if path += "/"; slices.ContainsFunc(reserved, func(r string) bool { return strings.HasPrefix(path, r) }) {
		return "", refuse(errInvalid, "cannot mount in protected path %q", path)
	}
	return path, nil
}

func (c *Core) enableMount(r *request, p *mountParams) (*reply, error) {
	path, err := mountPath(r.rest)
	if err != nil {
		return nil, err
	}
	rec, err := p.record()
	if err != nil {
		return nil, err
	}
	return nil, c.addMount(r, &mount{mountRecord: *rec, path: path})
}

// maxMounts is how many mounts and auth methods a cluster may have. Each is a keyspace: their totals are noted together.
const maxMounts = 10000

// addMount makes a mount, with what else belongs to it, in one entry.
func (c *Core) addMount(r *request, m *mount, more ...engine.Write) error {
	value, err := m.encode()
	if err != nil {
		return err
	}
	c.mountsMu.Lock()
	defer c.mountsMu.Unlock()
	snap, err := c.current()
	if err != nil {
		return err
	}
	if taken := snap.mounts.conflict(m.path); taken != "" {
		return refuse(errInvalid, "path is already in use at %s", taken)
	}
	if len(snap.mounts.served)+len(snap.mounts.hidden) > c.maxMounts { // cubbyhole is one of them and does not count
		return refuse(errInvalid, "this cluster has %d mounts and auth methods, as many as it can have: disable one that is not needed, or keep data of several in one", c.maxMounts)
	}
	return c.commit(r, &engine.Tx{Writes: append([]engine.Write{m.home().put(mountPrefix+m.path, value)}, more...)})
}

// disableMount removes a mount's record and drops its keyspace, in one entry.
func (c *Core) disableMount(r *request) (*reply, error) {
	c.mountsMu.Lock()
	defer c.mountsMu.Unlock()
	m, err := c.mountAt(r.rest)
	if err != nil || m == nil {
		return nil, err // what is not there is disabled
	}
	if m == cubbyhole || m.auth() != strings.HasPrefix(r.path, "sys/auth/") {
		return nil, refuse(errInvalid, "cannot unmount %q here", m.path)
	}
	return nil, c.commit(r, &engine.Tx{Writes: []engine.Write{m.home().del(mountPrefix + m.path), m.space().drop()}})
}

func (c *Core) mountAt(path string) (*mount, error) {
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	return snap.mounts.byPath(path), nil
}

func noMount(path string) error {
	return refuse(errInvalid, "no mount at %s/", strings.TrimSuffix(path, "/"))
}

func (c *Core) listMounts(r *request) (*reply, error) {
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	here, warnings, err := c.served(snap.mounts)
	if err != nil {
		return nil, err
	}
	data := map[string]any{}
	for path, m := range here {
		if !m.auth() {
			data[path] = m.describe()
		}
	}
	return &reply{data: data, inject: true, warnings: append(snap.mounts.hiddenWarnings(), warnings...)}, nil
}

func (c *Core) readMount(r *request) (*reply, error) {
	m, err := c.mountAt(r.rest)
	if err != nil {
		return nil, err
	}
	if m == nil || m.auth() != strings.HasPrefix(r.path, "sys/auth/") {
		return nil, noMount(r.rest)
	}
	if err := c.holds(m); err != nil {
		return nil, err
	}
	return &reply{data: m.describe(), inject: true}, nil
}

func (c *Core) readTune(r *request) (*reply, error) {
	m, err := c.mountAt(r.rest)
	if err != nil {
		return nil, err
	}
	if m == nil {
		return nil, noMount(r.rest)
	}
	if err := c.holds(m); err != nil {
		return nil, err
	}
	data := map[string]any{
		"description": m.Description, "default_lease_ttl": orDefault(m.Config.DefaultLeaseTTL),
		"max_lease_ttl": orDefault(m.Config.MaxLeaseTTL), "force_no_cache": m.Config.ForceNoCache, "options": m.Options,
	}
	if m.Config.ListingVisibility != "" {
		data["listing_visibility"] = m.Config.ListingVisibility
	}
	if m.auth() {
		data["token_type"] = cmp.Or(m.Config.TokenType, "default-service")
	}
	return &reply{data: data, inject: true}, nil
}

func orDefault(ttl int64) int64 {
	if ttl == 0 {
		return seconds(maxTTL)
	}
	return ttl
}

func (c *Core) tuneMount(r *request, p *mountTuning) (*reply, error) {
	m, err := c.mountAt(r.rest)
	if err != nil {
		return nil, err
	}
	if m == nil || m == cubbyhole {
		return nil, noMount(r.rest)
	}
	if p.TokenType != nil && !m.auth() {
		return nil, refuse(errInvalid, "token_type is for auth methods: leave it out")
	}
	key := mountPrefix + m.path
	return nil, c.commit(r, &engine.Tx{
		Reads: []engine.Key{m.home().key(key)},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			value, ok, err := read(rd, m.home(), key)
			if err != nil {
				return nil, err
			}
			if !ok {
				return nil, noMount(m.path)
			}
			var rec mountRecord
			if err := json.Unmarshal(value, &rec); err != nil {
				return nil, err
			}
			if v, ok := p.Options["version"]; ok && v != rec.Options["version"] {
				return nil, refuse(errInvalid, "the version of a kv mount cannot be changed: enable a new mount and copy")
			}
			if level, ok := p.Options[optionSynchronous]; ok && m.auth() {
				return nil, refuse(errInvalid, "options.%s is for secrets engines: leave it out", optionSynchronous)
			} else if ok {
				if err := checkSynchronous(p.Options); err != nil {
					return nil, err
				}
				rec.Options[optionSynchronous] = level
			}
			if err := p.apply(&rec); err != nil {
				return nil, err
			}
			if value, err = marshal(rec); err != nil {
				return nil, err
			}
			return []engine.Write{m.home().put(key, value)}, nil
		},
	})
}

// ---- which of them write local scope

func (c *Core) enableStays(r *request) (bool, error) {
	p, _, err := params[mountParams](r)
	if err != nil {
		return false, err
	}
	return p.Local, nil
}

func (c *Core) mountStays(r *request) (bool, error) {
	m, err := c.mountAt(r.rest)
	return m != nil && m.Local, err
}

func (c *Core) remountStays(r *request) (bool, error) {
	p, _, err := params[remountParams](r)
	if err != nil {
		return false, err
	}
	snap, err := c.current()
	if err != nil {
		return false, err
	}
	m := snap.mounts.remountable(p.From)
	return m != nil && m.Local, nil
}
