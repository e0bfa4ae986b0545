package vault

import (
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// Writing a version: put, patch, and what makes room for it.

// ---- writing

type casOptions struct {
	CAS *int64 `json:"cas"`
}

type kv2DataParams struct {
	Data    json.RawMessage `json:"data"`
	Options *casOptions     `json:"options"`
}

func (p *kv2DataParams) validate() error {
	if len(p.Data) == 0 {
		return refuse(errInvalid, "no data provided")
	}
	if p.Data[0] != '{' {
		return refuse(errInvalid, "data must be an object")
	}
	return nil
}

// checkCAS compares what the caller believes to be the current version with what is.
func (p *kv2DataParams) checkCAS(cfg *kv2Config, meta *kv2Meta) error {
	if p.Options == nil || p.Options.CAS == nil {
		if cfg.CASRequired || meta.CASRequired {
			return refuse(errInvalid, "check-and-set parameter required for this call")
		}
		return nil
	}
	if cas := *p.Options.CAS; cas < 0 || uint64(cas) != meta.Current {
		return refuse(errInvalid, "check-and-set parameter did not match the current version")
	}
	return nil
}

func (c *Core) kv2Put(r *request, path string, p *kv2DataParams) (*reply, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	return c.kv2Append(r, path, func(rd engine.Reader, cfg *kv2Config, meta *kv2Meta) ([]byte, error) {
		return p.Data, p.checkCAS(cfg, meta)
	}, nil)
}

// maxPatchTries is how often a patch is merged anew because another write came first.
const maxPatchTries = 8

// errOvertaken ends the transaction of a patch whose version is not the current one any more.
var errOvertaken = errors.New("the version that was patched is not the current one any more")

// kv2Patch makes a new version of the current one and a merge patch. A large value takes long to merge, so that is done
// here, and the transaction only checks that what was merged is still current.
func (c *Core) kv2Patch(r *request, path string, p *kv2DataParams) (*reply, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	for range maxPatchTries {
		rep, err := c.kv2PatchOnce(r, path, p)
		if !errors.Is(err, errOvertaken) {
			return rep, err
		}
		if err := r.ctx.Err(); err != nil {
			return nil, err
		}
	}
	return nil, refuse(errConflict, "other writes to this key came first %d times: nothing was written, repeat the patch", maxPatchTries)
}

func (c *Core) kv2PatchOnce(r *request, path string, p *kv2DataParams) (*reply, error) {
	s, now := r.mount.space(), c.now()
	seen, err := c.loadMeta(s, path)
	if err != nil {
		return nil, err
	}
	if seen == nil {
		return nil, missing()
	}
	n, v := seen.version(0)
	if v == nil || v.Destroyed || v.deleted(now) {
		return nil, missing()
	}
	key := s.key(versionKey(path, n))
	old, err := c.engine.Get(key.Keyspace, key.Key)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, errOvertaken // metadata and data are read one after the other
	}
	if err != nil {
		return nil, err
	}
	value, err := mergePatch(old.Value, p.Data)
	if err != nil {
		return nil, err
	}
	return c.kv2Append(r, path, func(rd engine.Reader, cfg *kv2Config, meta *kv2Meta) ([]byte, error) {
		current, v := meta.version(0)
		if v == nil || v.Destroyed || v.deleted(now) {
			return nil, missing()
		}
		if err := p.checkCAS(cfg, meta); err != nil {
			return nil, err
		}
		if current != n {
			return nil, errOvertaken
		}
		// The number alone does not tell: a key that was removed and made again counts from one.
		is, err := rd.Get(key.Keyspace, key.Key)
		if errors.Is(err, storage.ErrNotFound) || err == nil && is.Digest != old.Digest {
			return nil, errOvertaken
		}
		return value, err
	}, []engine.Key{key})
}

// kv2Append adds a version with the data that make returns, and lets go of those beyond max_versions.
func (c *Core) kv2Append(r *request, path string, data func(engine.Reader, *kv2Config, *kv2Meta) ([]byte, error), reads []engine.Key) (*reply, error) {
	s, now := r.mount.space(), c.now().UTC()
	var rep *reply
	tx := &engine.Tx{Reads: append(reads, s.key(kv2ConfigKey), s.key(metaKey(path)))}
	tx.Exec = func(rd engine.Reader) ([]engine.Write, error) {
		cfg, err := readConfig(rd, s)
		if err != nil {
			return nil, err
		}
		meta, err := readMeta(rd, s, path)
		if err != nil {
			return nil, err
		}
		if err := r.permits(meta != nil); err != nil {
			return nil, err
		}
		if meta == nil {
			meta = newMeta(now)
		}
		value, err := data(rd, cfg, meta)
		if err != nil {
			return nil, err
		}
		gone := meta.append(cfg, now)
		rep = &reply{data: meta.describe(meta.Current, meta.Versions[meta.Current])}
		writes, err := putMeta(s, path, meta)
		if err != nil {
			return nil, err
		}
		writes = append(writes, s.put(versionKey(path, meta.Current), value))
		for _, n := range gone {
			writes = append(writes, s.del(versionKey(path, n)))
		}
		return writes, nil
	}
	if err := c.commit(r, tx); err != nil {
		return nil, err
	}
	return rep, nil
}

// append adds a version and returns the versions to let go of: the oldest of those that are one too many now, the others
// with the versions to come.
func (m *kv2Meta) append(cfg *kv2Config, now time.Time) (gone []uint64) {
	m.Current++
	m.Updated = now
	v := &kv2Version{Created: now}
	if after := deletionAfter(cfg, m); after > 0 {
		v.Deletion = now.Add(after)
	}
	m.Versions[m.Current] = v
	keep := uint64(defaultMaxVersions)
	switch {
	case m.MaxVersions > 0:
		keep = uint64(m.MaxVersions)
	case cfg.MaxVersions > 0:
		keep = uint64(cfg.MaxVersions)
	}
	keep = min(keep, maxMaxVersions)
	for n := range m.Versions {
		if n+keep <= m.Current {
			gone = append(gone, n)
		}
	}
	slices.Sort(gone)
	gone = gone[:min(len(gone), maxGone)]
	for _, n := range gone {
		delete(m.Versions, n)
	}
	m.Oldest = m.Current
	for n := range m.Versions {
		m.Oldest = min(m.Oldest, n)
	}
	return gone
}

// deletionAfter is the shorter of the mount's and the key's time; a negative one at the key switches it off.
func deletionAfter(cfg *kv2Config, m *kv2Meta) time.Duration {
	mount, key := max(cfg.DeleteVersionAfter, 0), m.DeleteVersionAfter
	switch {
	case key < 0:
		return 0
	case key == 0:
		return mount
	case mount == 0:
		return key
	}
	return min(mount, key)
}
