package opensearch

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/vault"
	"github.com/lockstepdb/lockstep/storage"
)

func itoa(n int) string { return strconv.Itoa(n) }

// descriptionKey is the record that says of a keyspace what an index has beyond a mount.
const descriptionKey = "\x00index"

// description is that record.
type description struct {
	Created  int64             `json:"created"`            // ms since 1970
	Settings map[string]string `json:"settings,omitempty"` // flat names, with index. before them
	Mappings json.RawMessage   `json:"mappings,omitempty"`
	Aliases  map[string]alias  `json:"aliases,omitempty"`
	Closed   bool              `json:"closed,omitempty"`
}

// alias is one alias of an index.
type alias struct {
	Filter json.RawMessage `json:"filter,omitempty"`
	Index  string          `json:"index_routing,omitempty"`
	Search string          `json:"search_routing,omitempty"`
	Write  *bool           `json:"is_write_index,omitempty"`
	Hidden *bool           `json:"is_hidden,omitempty"`
}

// index is a KV v1 mount as this face sees it.
type index struct {
	name  string
	mount *vault.Mount
	desc  *description
}

// uuid is the mount's.
func (ix *index) uuid() string { return ix.mount.ID.String() }

// descriptions are what was read of them since the system's records, or one of them, last changed.
type descriptions struct {
	version uint64
	mu      sync.Mutex
	known   map[storage.KeyspaceID]*description
}

// describe returns what is recorded of a mount. It may be newer than the version that it is remembered for, never older.
func (f *Face) describe(m *vault.Mount) (*description, error) {
	version := f.engine.SystemVersion()
	d := f.described.Load()
	if d == nil || d.version != version {
		d = &descriptions{version: version, known: map[storage.KeyspaceID]*description{}}
		f.described.Store(d)
	}
	d.mu.Lock()
	desc := d.known[m.ID]
	d.mu.Unlock()
	if desc != nil {
		return desc, nil
	}
	desc, err := descriptionOf(f.engine.Get(m.ID, []byte(descriptionKey)))
	if err != nil {
		return nil, fmt.Errorf("what is recorded of index %s: %w", m.Path, err)
	}
	d.mu.Lock()
	d.known[m.ID] = desc
	d.mu.Unlock()
	return desc, nil
}

func descriptionOf(rec storage.Record, err error) (*description, error) {
	desc := &description{}
	if errors.Is(err, storage.ErrNotFound) {
		return desc, nil
	}
	if err == nil {
		err = json.Unmarshal(rec.Value, desc)
	}
	return desc, err
}

// index returns the index of a name, nil when there is none.
func (f *Face) index(r *request, name string) (*index, error) {
	if badName(name) != "" {
		return nil, nil
	}
	m, err := r.call.Mount(name + "/")
	if err != nil || m == nil {
		return nil, err
	}
	desc, err := f.describe(m)
	return &index{name, m, desc}, err
}

// indices returns all indices here, by name.
func (f *Face) indices(r *request) ([]*index, error) {
	mounts, err := r.call.Mounts()
	if err != nil {
		return nil, err
	}
	out := make([]*index, 0, len(mounts))
	for _, m := range mounts {
		name := strings.TrimSuffix(m.Path, "/")
		if badName(name) != "" {
			continue
		}
		desc, err := f.describe(m)
		if err != nil {
			return nil, err
		}
		out = append(out, &index{name, m, desc})
	}
	return out, nil
}

// usable refuses documents' calls on an index that is closed.
func (ix *index) usable() error {
	if ix.desc.Closed {
		return &failure{status: http.StatusBadRequest, kind: "index_closed_exception", reason: "closed", index: ix.name, uuid: ix.uuid()}
	}
	return nil
}

// create makes an index; there is one already when made is false.
func (f *Face) create(r *request, name string, desc *description) (ix *index, made bool, err error) {
	if err := checkName(name); err != nil {
		return nil, false, err
	}
	desc.Created = f.now().UnixMilli()
	value, err := desc.encode()
	if err != nil {
		return nil, false, err
	}
	m, made, err := r.call.MakeMount(name, "index made through the OpenSearch API", func(m *vault.Mount) []engine.Write {
		return []engine.Write{m.Put(string(engine.NumbersKey), nil), m.Put(descriptionKey, value)}
	})
	if err != nil {
		return nil, false, err
	}
	if !made {
		desc, err = f.describe(m)
	}
	return &index{name, m, desc}, made, err
}

// maxDescription bounds what is kept in memory of each index.
const maxDescription = 1 << 20

// indexChange is what is to become of one index's description.
type indexChange struct {
	ix *index
	fn func(d *description) error
}

// change rewrites what is recorded of indices, all of it or nothing.
func (f *Face) change(r *request, changes []indexChange) error {
	if len(changes) == 0 {
		return nil
	}
	key := []byte(descriptionKey)
	var reads []engine.Key
	for _, c := range changes {
		reads = append(reads, engine.Key{Keyspace: c.ix.mount.ID, Key: key})
	}
	return r.call.Commit(&engine.Tx{
		Reads: reads,
		Exec: func(rd engine.Reader) (out []engine.Write, err error) {
			done := map[storage.KeyspaceID]*description{}
			for _, c := range changes {
				d := done[c.ix.mount.ID]
				if d == nil {
					if d, err = descriptionOf(rd.Get(c.ix.mount.ID, key)); err != nil {
						return nil, err
					}
					d.init()
					done[c.ix.mount.ID] = d
				}
				if err := c.fn(d); err != nil {
					return nil, err
				}
			}
			for _, c := range changes {
				d := done[c.ix.mount.ID]
				if d == nil {
					continue
				}
				delete(done, c.ix.mount.ID)
				value, err := d.encode()
				if err != nil {
					return nil, err
				}
				out = append(out, c.ix.mount.Put(string(engine.NumbersKey), nil), c.ix.mount.Put(descriptionKey, value))
			}
			return out, nil
		},
	})
}

func (d *description) init() {
	if d.Aliases == nil {
		d.Aliases = map[string]alias{}
	}
	if d.Settings == nil {
		d.Settings = map[string]string{}
	}
}

func (d *description) encode() ([]byte, error) {
	value, err := marshal(d)
	if err == nil && len(value) > maxDescription {
		err = illegal("settings, mappings and aliases of an index take more than %d bytes", maxDescription)
	}
	return value, err
}

// replicas is how many copies settings ask for. There is one of each index on a cluster, whatever they say.
func (ix *index) replicas() int {
	n, err := strconv.Atoi(ix.desc.Settings["index.number_of_replicas"])
	if err != nil {
		return 1
	}
	return n
}

// shards is the part of an answer about a write.
func (ix *index) shards() map[string]int {
	return map[string]int{"total": 1 + ix.replicas(), "successful": 1, "failed": 0}
}

// documents counts the records that are documents.
func documents(view *storage.View, ix *index) (uint64, error) {
	n := view.Total(ix.mount.ID).Count
	for _, key := range []string{string(engine.NumbersKey), descriptionKey} {
		_, err := view.Get(ix.mount.ID, []byte(key))
		switch {
		case err == nil:
			n--
		case !errors.Is(err, storage.ErrNotFound):
			return 0, err
		}
	}
	return n, nil
}
