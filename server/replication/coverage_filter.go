package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// Limits on a paths filter.
const (
	maxFilterPaths = 4096
	maxFilterPath  = 512 // bytes
)

// Modes of a paths filter.
const (
	FilterAllow = "allow" // only the mounts named
	FilterDeny  = "deny"  // all but the mounts named
)

// PathsFilter says which mounts a performance secondary may have.
type PathsFilter struct {
	Mode  string
	Paths []string // of mounts, each with its final slash, ascending
}

// filterRecord is a secondary's paths filter as stored (JSON): a record of storage.SystemLocal, so that a promoted DR secondary has it. One that was removed
// stays, so that its removal is a change with a place.
type filterRecord struct {
	Version int      `json:"version"`
	Mode    string   `json:"mode,omitempty"` // empty: removed
	Paths   []string `json:"paths,omitempty"`
	Changed int64    `json:"changed"` // Unix seconds; for people
}

const filterRecordVersion = 1

const filterPrefix = "replication/performance/filter/"

func recordFilter(id string) []byte { return []byte(filterPrefix + id) }

func decodeFilter(b []byte) (*filterRecord, error) {
	var f filterRecord
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("a paths filter's record does not decode: %w", err)
	}
	if f.Version > filterRecordVersion {
		return nil, fmt.Errorf("a paths filter's record has version %d, this program reads up to %d: use a newer lockstep", f.Version, filterRecordVersion)
	}
	if f.Mode != "" && f.Mode != FilterAllow && f.Mode != FilterDeny {
		return nil, fmt.Errorf("a paths filter's record has mode %.20q, which this program does not know: use a newer lockstep", f.Mode)
	}
	return &f, nil
}

// readFilter returns a secondary's filter and the index of its last change; nil and 0 when it never had one.
func readFilter(v *storage.View, id string) (*filterRecord, uint64, error) {
	rec, err := v.Get(storage.SystemLocal, recordFilter(id))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reading the paths filter of secondary %q: %w", id, err)
	}
	f, err := decodeFilter(rec.Value)
	return f, rec.Index, err
}

func (f *filterRecord) active() bool { return f != nil && f.Mode != "" }

// leavesOut tells whether a mount's path is left out.
func (f *filterRecord) leavesOut(path string) bool {
	_, named := slices.BinarySearch(f.Paths, path)
	return named == (f.Mode == FilterDeny)
}

// normalise checks a filter and brings its paths into their one form.
func (f *PathsFilter) normalise() error {
	switch f.Mode {
	case "":
		f.Mode = FilterAllow
	case FilterAllow, FilterDeny:
	default:
		return refuse("mode must be allow (only the paths named are replicated) or deny (all but them)")
	}
	if len(f.Paths) > maxFilterPaths {
		return refuse("a paths filter names at most %d paths; this one has %d", maxFilterPaths, len(f.Paths))
	}
	paths := make([]string, 0, len(f.Paths))
	for _, p := range f.Paths {
		clean, err := cleanFilterPath(p)
		if err != nil {
			return err
		}
		paths = append(paths, clean)
	}
	slices.Sort(paths)
	f.Paths = slices.Compact(paths)
	return nil
}

func cleanFilterPath(p string) (string, error) {
	clean := strings.Trim(p, "/")
	switch {
	case clean == "":
		return "", refuse("paths must name mounts, as secret/; an empty path names none")
	case len(clean) >= maxFilterPath:
		return "", refuse("a path of more than %d bytes names no mount", maxFilterPath)
	case strings.Contains(clean, "//"), strings.ContainsFunc(clean, func(c rune) bool { return !unicode.IsPrint(c) }):
		return "", refuse("the path %.40q names no mount: write it as sys/mounts shows it, as secret/", p)
	}
	for _, own := range []string{"sys/", "cubbyhole/", "identity/", "auth/token/"} {
		if strings.HasPrefix(clean+"/", own) {
			return "", refuse("%s is no mount that a filter can leave out: what is shared of it goes to every secondary, the rest to none", own)
		}
	}
	return clean + "/", nil
}

// filterCall checks what the calls about a secondary's filter have in common.
func (n *Node) filterCall(id string) error {
	if _, err := n.primarySet(Performance); err != nil {
		return err
	}
	if !validID(id) {
		return refuse("the filter's path ends in the id of a secondary: 1 to 63 letters, digits, dots, dashes or underscores")
	}
	return nil
}

// SetPathsFilter replaces a secondary's filter. It is in force for every entry after it, live streams included. The id need not be known yet.
func (n *Node) SetPathsFilter(ctx context.Context, id string, f PathsFilter) error {
	n.admin.Lock()
	defer n.admin.Unlock()
	if err := n.filterCall(id); err != nil {
		return err
	}
	if err := f.normalise(); err != nil {
		return err
	}
	return n.writeFilter(ctx, id, &filterRecord{Mode: f.Mode, Paths: f.Paths})
}

// DeletePathsFilter removes a secondary's filter: it may have everything shared.
func (n *Node) DeletePathsFilter(ctx context.Context, id string) error {
	n.admin.Lock()
	defer n.admin.Unlock()
	if err := n.filterCall(id); err != nil {
		return err
	}
	return n.writeFilter(ctx, id, &filterRecord{})
}

// dropFilter forgets the filter of a secondary that was revoked: who comes back with a new token is told anew what it may have.
func (n *Node) dropFilter(ctx context.Context, id string) error {
	key := recordFilter(id)
	_, err := n.engine.Do(ctx, &engine.Tx{
		Reads: []engine.Key{{Keyspace: storage.SystemLocal, Key: key}},
		Exec: func(r engine.Reader) ([]engine.Write, error) {
			if _, err := r.Get(storage.SystemLocal, key); errors.Is(err, storage.ErrNotFound) {
				return nil, nil
			} else if err != nil {
				return nil, err
			}
			return []engine.Write{remove(string(key))}, nil
		},
	})
	if err != nil {
		return fmt.Errorf("secondary %q is revoked, its paths filter was not removed (repeat the call): %w", id, err)
	}
	return nil
}

func (n *Node) writeFilter(ctx context.Context, id string, f *filterRecord) error {
	f.Version, f.Changed = filterRecordVersion, n.now().Unix()
	if err := n.filterRoom(id); err != nil {
		return err
	}
	done, err := n.engine.Do(ctx, &engine.Tx{Writes: []engine.Write{put(string(recordFilter(id)), mustJSON(f))}})
	if err != nil {
		return fmt.Errorf("writing the paths filter of secondary %q: %w", id, err)
	}
	n.log.Info("paths filter changed", "secondary", id, "mode", orElse(f.Mode, "none"), "paths", len(f.Paths), "index", done.Position.Index)
	n.awaitDR(ctx, done.Position.Index, "paths filter")
	return nil
}

// filterRoom bounds the number of filters: ids need not be known.
func (n *Node) filterRoom(id string) error {
	v := n.engine.Snapshot()
	defer v.Release()
	count := 0
	err := v.Scan(storage.SystemLocal, []byte(filterPrefix), prefixEnd(filterPrefix), func(rec storage.Record) bool {
		if string(rec.Key) == string(recordFilter(id)) {
			count = 0
			return false
		}
		count++
		return count <= 2*maxSecondaries
	})
	if err != nil {
		return fmt.Errorf("reading the paths filters: %w", err)
	}
	if count > 2*maxSecondaries {
		return refuse("there are more than %d paths filters: revoke the secondaries that are no more", 2*maxSecondaries)
	}
	return nil
}

// PathsFilter returns a secondary's filter, nil when it has none.
func (n *Node) PathsFilter(id string) (*PathsFilter, error) {
	if err := n.filterCall(id); err != nil {
		return nil, err
	}
	v := n.engine.Snapshot()
	defer v.Release()
	f, _, err := readFilter(v, id)
	if err != nil || !f.active() {
		return nil, err
	}
	return &PathsFilter{Mode: f.Mode, Paths: append([]string{}, f.Paths...)}, nil
}

// DynamicFilter returns the paths of the mounts that a secondary's filter leaves out now; none, and ok false, when it has no filter.
func (n *Node) DynamicFilter(id string) (paths []string, ok bool, err error) {
	if err := n.filterCall(id); err != nil {
		return nil, false, err
	}
	v := n.engine.Snapshot()
	defer v.Release()
	c, err := n.coverer(v, n.engine.History(), id, nil)
	if err != nil || !c.filter.active() {
		return nil, false, err
	}
	return c.paths(c.now.left()), true, nil
}

// paths are the mounts of some keyspaces.
func (c *coverer) paths(ids []storage.KeyspaceID) []string {
	out := []string{}
	for _, m := range c.mounts {
		if hasID(ids, m.id) {
			out = append(out, m.path)
		}
	}
	slices.Sort(out)
	return out
}

// LeavesOut tells whether a secondary's filter leaves out the mount of a path, which need not exist.
func (n *Node) LeavesOut(id, mountPath string) (bool, error) {
	v := n.engine.Snapshot()
	defer v.Release()
	f, _, err := readFilter(v, id)
	if err != nil {
		return false, err
	}
	return f.active() && f.leavesOut(strings.Trim(mountPath, "/")+"/"), nil
}

// Reveals names a secondary whose filter leaves out the mount at one path and would not at another, "" when there is none: what a move would show it.
func (n *Node) Reveals(from, to string) (id string, err error) {
	v := n.engine.Snapshot()
	defer v.Release()
	var failed error
	err = v.Scan(storage.SystemLocal, []byte(filterPrefix), prefixEnd(filterPrefix), func(rec storage.Record) bool {
		whose := strings.TrimPrefix(string(rec.Key), filterPrefix)
		var f *filterRecord
		if f, _, failed = readFilter(v, whose); failed != nil {
			return false
		}
		if f.active() && f.leavesOut(from) && !f.leavesOut(to) {
			id = whose
		}
		return id == ""
	})
	return id, errors.Join(err, failed)
}
