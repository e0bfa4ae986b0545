package vault

import (
	"strconv"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
)

// Versions that are deleted, brought back, or destroyed.

func (c *Core) kv2DeleteLatest(r *request, path string) (*reply, error) {
	return done(c.kv2Change(r, path, func(m *kv2Meta, now time.Time) ([]engine.Write, error) {
		_, v := m.version(0)
		if v == nil || v.Destroyed || v.deleted(now) {
			return nil, errNothing
		}
		v.Deletion, v.Deleted, m.Updated = now, true, now
		return nil, nil
	}))
}

type versionsParams struct {
	Versions []string `json:"versions"`
}

// numbers returns the versions named.
func (p *versionsParams) numbers() ([]uint64, error) {
	if len(p.Versions) == 0 {
		return nil, refuse(errInvalid, "no version number provided")
	}
	if len(p.Versions) > maxMaxVersions {
		return nil, refuse(errInvalid, "more than %d versions named", maxMaxVersions)
	}
	out := make([]uint64, 0, len(p.Versions))
	for _, text := range p.Versions {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, refuse(errInvalid, "versions must be whole numbers")
		}
		out = append(out, n)
	}
	return out, nil
}

func (c *Core) kv2Delete(r *request, path string, p *versionsParams) (*reply, error) {
	return c.kv2EachVersion(r, path, p, func(n uint64, v *kv2Version, now time.Time) []engine.Write {
		if !v.Destroyed && !v.deleted(now) {
			v.Deletion, v.Deleted = now, true
		}
		return nil
	})
}

func (c *Core) kv2Undelete(r *request, path string, p *versionsParams) (*reply, error) {
	return c.kv2EachVersion(r, path, p, func(n uint64, v *kv2Version, now time.Time) []engine.Write {
		if !v.Destroyed {
			v.Deletion, v.Deleted = time.Time{}, false
		}
		return nil
	})
}

func (c *Core) kv2Destroy(r *request, path string, p *versionsParams) (*reply, error) {
	s := r.mount.space()
	return c.kv2EachVersion(r, path, p, func(n uint64, v *kv2Version, now time.Time) []engine.Write {
		if v.Destroyed {
			return nil
		}
		v.Destroyed = true
		return []engine.Write{s.del(versionKey(path, n))}
	})
}

func (c *Core) kv2EachVersion(r *request, path string, p *versionsParams, fn func(n uint64, v *kv2Version, now time.Time) []engine.Write) (*reply, error) {
	numbers, err := p.numbers()
	if err != nil {
		return nil, err
	}
	return done(c.kv2Change(r, path, func(m *kv2Meta, now time.Time) ([]engine.Write, error) {
		var more []engine.Write
		for _, n := range numbers {
			if v := m.Versions[n]; v != nil {
				more = append(more, fn(n, v, now)...)
			}
		}
		m.Updated = now
		return more, nil
	}))
}
