package vault

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
)

// statusOfMissing goes with a body: a deleted version still has metadata to tell.
const statusOfMissing = http.StatusNotFound

func (c *Core) kv2MetaRead(r *request, path string) (*reply, error) {
	m, err := c.loadMeta(r.mount.space(), path)
	if err != nil {
		return nil, err
	}
	if m == nil {
		return nil, missing()
	}
	versions := map[string]any{}
	for n, v := range m.Versions {
		versions[strconv.FormatUint(n, 10)] = map[string]any{
			"created_time": stamp(v.Created), "deletion_time": stamp(v.Deletion), "destroyed": v.Destroyed,
		}
	}
	return &reply{data: map[string]any{
		"versions": versions, "current_version": m.Current, "oldest_version": m.Oldest, "created_time": stamp(m.Created),
		"updated_time": stamp(m.Updated), "max_versions": m.MaxVersions, "cas_required": m.CASRequired,
		"delete_version_after": m.DeleteVersionAfter.String(), "custom_metadata": m.custom(),
	}}, nil
}

// kv2Settings are what a mount's configuration and a key's metadata have in common.
type kv2Settings struct {
	MaxVersions        *int64         `json:"max_versions"`
	CASRequired        *bool          `json:"cas_required"`
	DeleteVersionAfter *time.Duration `json:"delete_version_after"`
}

type kv2MetaParams struct {
	MaxVersions        *int64          `json:"max_versions"`
	CASRequired        *bool           `json:"cas_required"`
	DeleteVersionAfter *time.Duration  `json:"delete_version_after"`
	Custom             json.RawMessage `json:"custom_metadata"`
}

func (p *kv2MetaParams) settings() *kv2Settings {
	return &kv2Settings{p.MaxVersions, p.CASRequired, p.DeleteVersionAfter}
}

func (p *kv2Settings) validate() error {
	if p.MaxVersions != nil && (*p.MaxVersions < 0 || *p.MaxVersions > maxMaxVersions) {
		return refuse(errInvalid, "max_versions must be from 0 to %d", maxMaxVersions)
	}
	return nil
}

func (p *kv2Settings) apply(maxVersions *int64, cas *bool, after *time.Duration) {
	if p.MaxVersions != nil {
		*maxVersions = *p.MaxVersions
	}
	if p.CASRequired != nil {
		*cas = *p.CASRequired
	}
	if p.DeleteVersionAfter != nil {
		*after = *p.DeleteVersionAfter
	}
}

// custom metadata's limits are Vault's.
const (
	maxCustom      = 64
	maxCustomKey   = 128
	maxCustomValue = 512
)

func checkCustom(m map[string]string) error {
	if len(m) > maxCustom {
		return refuse(errInvalid, "custom_metadata has more than %d keys", maxCustom)
	}
	for k, v := range m {
		if k == "" || len(k) > maxCustomKey || v == "" || len(v) > maxCustomValue {
			return refuse(errInvalid, "custom_metadata: keys have from 1 to %d bytes, values from 1 to %d", maxCustomKey, maxCustomValue)
		}
	}
	return nil
}

func (c *Core) kv2MetaWrite(r *request, path string, p *kv2MetaParams) (*reply, error) {
	if err := p.settings().validate(); err != nil {
		return nil, err
	}
	var custom map[string]string
	if p.Custom != nil {
		var err error
		if custom, err = mapValue(p.Custom); err != nil {
			return nil, refuse(errInvalid, "custom_metadata: %s", err)
		}
		if err := checkCustom(custom); err != nil {
			return nil, err
		}
	}
	s, now := r.mount.space(), c.now().UTC()
	return nil, c.commit(r, &engine.Tx{
		Reads: []engine.Key{s.key(metaKey(path))},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			m, err := readMeta(rd, s, path)
			if err != nil {
				return nil, err
			}
			if err := r.permits(m != nil); err != nil {
				return nil, err
			}
			if m == nil {
				m = newMeta(now)
			}
			m.Updated = now
			p.settings().apply(&m.MaxVersions, &m.CASRequired, &m.DeleteVersionAfter)
			if p.Custom != nil {
				m.Custom = custom
			}
			return putMeta(s, path, m)
		},
	})
}

// kv2MetaPatch changes what is named; in custom_metadata null removes a key.
func (c *Core) kv2MetaPatch(r *request, path string, p *kv2MetaParams) (*reply, error) {
	if err := p.settings().validate(); err != nil {
		return nil, err
	}
	var custom map[string]*string
	if p.Custom != nil && json.Unmarshal(p.Custom, &custom) != nil {
		return nil, refuse(errInvalid, "custom_metadata: must be an object of strings")
	}
	err := c.kv2Change(r, path, func(m *kv2Meta, now time.Time) ([]engine.Write, error) {
		m.Updated = now
		p.settings().apply(&m.MaxVersions, &m.CASRequired, &m.DeleteVersionAfter)
		for k, v := range custom {
			if v == nil {
				delete(m.Custom, k)
				continue
			}
			if m.Custom == nil {
				m.Custom = map[string]string{}
			}
			m.Custom[k] = *v
		}
		return nil, checkCustom(m.Custom)
	})
	if err == errNothing {
		return nil, missing()
	}
	return nil, err
}

// kv2MetaDelete removes a key with all its versions, in one entry.
func (c *Core) kv2MetaDelete(r *request, path string) (*reply, error) {
	s := r.mount.space()
	err := c.commit(r, &engine.Tx{
		Reads: []engine.Key{s.key(metaKey(path))},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			m, err := readMeta(rd, s, path)
			if err != nil {
				return nil, err
			}
			if m == nil {
				return nil, errNothing
			}
			writes := []engine.Write{s.del(metaKey(path))}
			for n, v := range m.Versions {
				if !v.Destroyed {
					writes = append(writes, s.del(versionKey(path, n)))
				}
			}
			return writes, nil
		},
	})
	return done(err)
}

func (c *Core) kv2ConfigCall(r *request) (*reply, error) {
	switch r.op {
	case opRead:
		return c.kv2ConfigRead(r)
	case opWrite:
		return in((*Core).kv2ConfigWrite)(c, r)
	}
	return nil, refuse(errMethod, "unsupported operation")
}

func (c *Core) kv2ConfigRead(r *request) (*reply, error) {
	cfg := kv2Config{}
	value, ok, err := c.get(r.mount.space(), kv2ConfigKey)
	if err != nil {
		return nil, err
	}
	if ok {
		if err := json.Unmarshal(value, &cfg); err != nil {
			return nil, fmt.Errorf("configuration record of mount %s: %w", r.mount.path, err)
		}
	}
	return &reply{data: map[string]any{
		"max_versions": cfg.MaxVersions, "cas_required": cfg.CASRequired, "delete_version_after": cfg.DeleteVersionAfter.String(),
	}}, nil
}

func (c *Core) kv2ConfigWrite(r *request, p *kv2Settings) (*reply, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	s := r.mount.space()
	return nil, c.commit(r, &engine.Tx{
		Reads: []engine.Key{s.key(kv2ConfigKey)},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			cfg, err := readConfig(rd, s)
			if err != nil {
				return nil, err
			}
			p.apply(&cfg.MaxVersions, &cfg.CASRequired, &cfg.DeleteVersionAfter)
			value, err := marshal(cfg)
			if err != nil {
				return nil, err
			}
			return []engine.Write{s.put(kv2ConfigKey, value)}, nil
		},
	})
}

// kv2Subkeys shows the names in a version's data without the values.
func (c *Core) kv2Subkeys(r *request, path string) (*reply, error) {
	depth := 0
	if text := r.query.Get("depth"); text != "" {
		var err error
		if depth, err = strconv.Atoi(text); err != nil || depth < 0 {
			return nil, refuse(errInvalid, "depth must be a whole number")
		}
	}
	meta, n, value, err := c.kv2Version(r, path)
	if err != nil {
		return nil, err
	}
	data := map[string]any{"subkeys": nil, "metadata": meta.describe(n, meta.Versions[n])}
	if value == nil {
		return &reply{status: statusOfMissing, data: data}, nil
	}
	tree, err := decodeNumbers(value)
	if err != nil {
		return nil, err
	}
	data["subkeys"] = namesOnly(tree, depth)
	return &reply{data: data}, nil
}

// namesOnly replaces the leaves of an object by null; depth 0 means all levels.
func namesOnly(v any, depth int) any {
	m, ok := v.(map[string]any)
	if !ok || len(m) == 0 {
		return nil
	}
	out := make(map[string]any, len(m))
	for k, sub := range m {
		if depth == 1 {
			out[k] = nil
		} else {
			out[k] = namesOnly(sub, max(depth-1, 0))
		}
	}
	return out
}
