package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

const (
	kv2ConfigKey       = "c"
	defaultMaxVersions = 10
	// maxMaxVersions bounds a key's metadata, which is one record and is rewritten with each version; and a transaction that
	// removes all versions stays far below the engine's 4096 writes.
	maxMaxVersions = 2000
	// maxGone is how many versions one new version pushes out at most.
	maxGone = 2000
)

func metaKey(path string) string { return "m/" + path }

func versionKey(path string, version uint64) string {
	return "v/" + path + "/" + strconv.FormatUint(version, 10)
}

// kv2Config is the configuration of a mount of KV version 2.
type kv2Config struct {
	MaxVersions        int64         `json:"max_versions"`
	CASRequired        bool          `json:"cas_required"`
	DeleteVersionAfter time.Duration `json:"delete_version_after"`
}

// kv2Meta is what is known of a key beside its data.
type kv2Meta struct {
	Created            time.Time              `json:"created"`
	Updated            time.Time              `json:"updated"`
	Current            uint64                 `json:"current"` // 0: metadata without any version
	Oldest             uint64                 `json:"oldest"`
	MaxVersions        int64                  `json:"max_versions"`
	CASRequired        bool                   `json:"cas_required"`
	DeleteVersionAfter time.Duration          `json:"delete_version_after"`
	Custom             map[string]string      `json:"custom,omitempty"`
	Versions           map[uint64]*kv2Version `json:"versions"`
}

// kv2Version is the state of one version.
type kv2Version struct {
	Created   time.Time `json:"created"`
	Deletion  time.Time `json:"deletion,omitzero"` // when it is or will be deleted
	Destroyed bool      `json:"destroyed,omitempty"`
}

func (v *kv2Version) deleted(now time.Time) bool {
	return !v.Deletion.IsZero() && !now.Before(v.Deletion)
}

func newMeta(now time.Time) *kv2Meta {
	return &kv2Meta{Created: now, Updated: now, Versions: map[uint64]*kv2Version{}}
}

// kv2 answers a request below a mount of KV version 2.
func (c *Core) kv2(r *request) (*reply, error) {
	part, path, _ := strings.Cut(r.rest, "/")
	if part == "config" && path == "" {
		return c.kv2ConfigCall(r)
	}
	run, ok := kv2Calls[kv2Call{part, r.op}]
	if !ok {
		if kv2Parts[part] {
			return nil, refuse(errMethod, "unsupported operation")
		}
		return nil, refuse(errUnsupported, "unsupported path: below a kv version 2 mount are data/, metadata/, delete/, undelete/, destroy/, subkeys/ and config")
	}
	if r.op != opList && (path == "" || strings.HasSuffix(path, "/")) {
		return nil, refuse(errInvalid, "the path names no key")
	}
	return run(c, r, path)
}

type kv2Call struct {
	part string
	op   operation
}

type kv2Handler func(c *Core, r *request, path string) (*reply, error)

var kv2Calls = map[kv2Call]kv2Handler{
	{"data", opRead}:       (*Core).kv2Read,
	{"data", opWrite}:      kv2In((*Core).kv2Put),
	{"data", opPatch}:      kv2In((*Core).kv2Patch),
	{"data", opDelete}:     (*Core).kv2DeleteLatest,
	{"delete", opWrite}:    kv2In((*Core).kv2Delete),
	{"undelete", opWrite}:  kv2In((*Core).kv2Undelete),
	{"destroy", opWrite}:   kv2In((*Core).kv2Destroy),
	{"subkeys", opRead}:    (*Core).kv2Subkeys,
	{"metadata", opRead}:   (*Core).kv2MetaRead,
	{"metadata", opList}:   (*Core).kv2List,
	{"metadata", opWrite}:  kv2In((*Core).kv2MetaWrite),
	{"metadata", opPatch}:  kv2In((*Core).kv2MetaPatch),
	{"metadata", opDelete}: (*Core).kv2MetaDelete,
}

var kv2Parts = map[string]bool{
	"data": true, "delete": true, "undelete": true, "destroy": true, "subkeys": true, "metadata": true, "config": true,
}

// kv2In is in for calls that have a path beside their parameters.
func kv2In[P any](run func(c *Core, r *request, path string, p *P) (*reply, error)) kv2Handler {
	return func(c *Core, r *request, path string) (*reply, error) {
		return in(func(c *Core, r *request, p *P) (*reply, error) { return run(c, r, path, p) })(c, r)
	}
}

func decodeMeta(path string, value []byte) (*kv2Meta, error) {
	m := &kv2Meta{}
	if err := json.Unmarshal(value, m); err != nil {
		return nil, fmt.Errorf("metadata record of a key of %d bytes: %w", len(path), err)
	}
	if m.Versions == nil {
		m.Versions = map[uint64]*kv2Version{}
	}
	return m, nil
}

// loadMeta returns a key's metadata, nil when it has none.
func (c *Core) loadMeta(s space, path string) (*kv2Meta, error) {
	value, ok, err := c.get(s, metaKey(path))
	if err != nil || !ok {
		return nil, err
	}
	return decodeMeta(path, value)
}

// version picks a version by number, 0 being the current one; nil when the key does not know it.
func (m *kv2Meta) version(n uint64) (uint64, *kv2Version) {
	if n == 0 {
		n = m.Current
	}
	return n, m.Versions[n]
}

// describe is a version as answers show it.
func (m *kv2Meta) describe(n uint64, v *kv2Version) map[string]any {
	return map[string]any{
		"version": n, "created_time": stamp(v.Created), "deletion_time": stamp(v.Deletion), "destroyed": v.Destroyed,
		"custom_metadata": m.custom(),
	}
}

func (m *kv2Meta) custom() any {
	if len(m.Custom) == 0 {
		return nil
	}
	return m.Custom
}

// stamp prints a time as KV version 2 does: nothing for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// ---- reading

func (c *Core) kv2Read(r *request, path string) (*reply, error) {
	meta, n, value, err := c.kv2Version(r, path)
	if err != nil {
		return nil, err
	}
	data := map[string]any{"data": nil, "metadata": meta.describe(n, meta.Versions[n])}
	if value == nil {
		return &reply{status: statusOfMissing, data: data}, nil
	}
	data["data"] = json.RawMessage(value)
	return &reply{data: data}, nil
}

// kv2Version finds the version that a request asks for. value is nil when it is deleted or destroyed.
func (c *Core) kv2Version(r *request, path string) (meta *kv2Meta, n uint64, value []byte, err error) {
	var want uint64
	if text := r.query.Get("version"); text != "" {
		if want, err = strconv.ParseUint(text, 10, 64); err != nil {
			return nil, 0, nil, refuse(errInvalid, "version must be a whole number")
		}
	}
	s := r.mount.space()
	// Metadata and data are read one after the other. If another request has removed the version in between, the metadata
	// read anew says so.
	for range 3 {
		if meta, err = c.loadMeta(s, path); err != nil {
			return nil, 0, nil, err
		}
		if meta == nil {
			return nil, 0, nil, missing()
		}
		var v *kv2Version
		if n, v = meta.version(want); v == nil {
			return nil, 0, nil, missing()
		}
		if v.Destroyed || v.deleted(c.now()) {
			return meta, n, nil, nil
		}
		var ok bool
		if value, ok, err = c.get(s, versionKey(path, n)); err != nil || ok {
			return meta, n, value, err
		}
	}
	return nil, 0, nil, fmt.Errorf("version %d of a key has metadata and no data", n)
}

func (c *Core) kv2List(r *request, path string) (*reply, error) {
	return c.list(r, r.mount.space(), metaKey(path))
}

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

func readConfig(rd engine.Reader, s space) (*kv2Config, error) {
	cfg := &kv2Config{}
	value, ok, err := read(rd, s, kv2ConfigKey)
	if err != nil || !ok {
		return cfg, err
	}
	if err := json.Unmarshal(value, cfg); err != nil {
		return nil, fmt.Errorf("configuration record of a kv mount: %w", err)
	}
	return cfg, nil
}

func readMeta(rd engine.Reader, s space, path string) (*kv2Meta, error) {
	value, ok, err := read(rd, s, metaKey(path))
	if err != nil || !ok {
		return nil, err
	}
	return decodeMeta(path, value)
}

func putMeta(s space, path string, m *kv2Meta) ([]engine.Write, error) {
	value, err := marshal(m)
	if err != nil {
		return nil, err
	}
	return []engine.Write{s.put(metaKey(path), value)}, nil
}

// ---- deleting

// kv2Change rewrites a key's metadata; without any there is nothing to change. fn may add writes.
func (c *Core) kv2Change(r *request, path string, fn func(m *kv2Meta, now time.Time) (more []engine.Write, err error)) error {
	s, now := r.mount.space(), c.now().UTC()
	return c.commit(r, &engine.Tx{
		Reads: []engine.Key{s.key(metaKey(path))},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			meta, err := readMeta(rd, s, path)
			if err != nil {
				return nil, err
			}
			if meta == nil {
				return nil, errNothing
			}
			more, err := fn(meta, now)
			if err != nil {
				return nil, err
			}
			writes, err := putMeta(s, path, meta)
			return append(writes, more...), err
		},
	})
}

// errNothing ends a transaction that finds nothing to change.
var errNothing = errors.New("nothing to change")

func done(err error) (*reply, error) {
	if errors.Is(err, errNothing) {
		return nil, nil
	}
	return nil, err
}

func (c *Core) kv2DeleteLatest(r *request, path string) (*reply, error) {
	return done(c.kv2Change(r, path, func(m *kv2Meta, now time.Time) ([]engine.Write, error) {
		_, v := m.version(0)
		if v == nil || v.Destroyed || v.deleted(now) {
			return nil, errNothing
		}
		v.Deletion, m.Updated = now, now
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
			v.Deletion = now
		}
		return nil
	})
}

func (c *Core) kv2Undelete(r *request, path string, p *versionsParams) (*reply, error) {
	return c.kv2EachVersion(r, path, p, func(n uint64, v *kv2Version, now time.Time) []engine.Write {
		if !v.Destroyed {
			v.Deletion = time.Time{}
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
