package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
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
	Deleted   bool      `json:"deleted,omitempty"` // by a call: whatever the clock of who reads it says
	Destroyed bool      `json:"destroyed,omitempty"`
}

func (v *kv2Version) deleted(now time.Time) bool {
	return v.Deleted || !v.Deletion.IsZero() && !now.Before(v.Deletion)
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
