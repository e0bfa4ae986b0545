package storage

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/tidwall/btree"

	"github.com/lockstepdb/lockstep/wal"
)

// errNotFinished tells a caller that only the file's own views know ranges.
var errNotFinished = errors.New("internal error: ranges are known only to a view from Finished")

// View is a consistent, immutable reading of the state. Any number of goroutines may use it.
type View struct {
	file   *fileView                  // nil: the state was closed
	tables []*btree.Map[string, *rec] // newest first; none: a finished checkpoint
	live   *btree.Map[string, *info]  // nil: the file's own
	pos    wal.Position
	chain  wal.Hash
}

// Snapshot returns an immutable view of the newest applied state (tables and file). Release it soon.
func (s *State) Snapshot() *View {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.view == nil {
		return &View{}
	}
	v := &View{file: s.view.ref(), live: s.live.Copy(), pos: s.pos, chain: s.chain}
	if s.active.recs.Len() > 0 {
		v.tables = append(v.tables, s.active.recs.Copy())
	}
	if s.frozen != nil && s.frozen.recs.Len() > 0 {
		v.tables = append(v.tables, &s.frozen.recs)
	}
	return v
}

// Finished returns a view of the newest finished checkpoint alone, whose leaves describe exactly that. Release it soon:
// a view must not outlive two checkpoints.
func (s *State) Finished() *View {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.view == nil {
		return &View{}
	}
	return &View{file: s.view.ref(), pos: s.view.pos, chain: s.view.chain}
}

// Release gives the view back. It must not be used afterwards, nor released twice.
func (v *View) Release() {
	if v.file != nil {
		v.file.unref()
	}
}

// Position returns the place whose state the view shows.
func (v *View) Position() wal.Position { return v.pos }

// Chain returns the chain hash of the frame at Position.
func (v *View) Chain() wal.Hash { return v.chain }

// Totals returns the totals of all keyspaces, detached ones left out, ordered by id.
func (v *View) Totals() []KeyspaceTotal {
	switch {
	case v.file == nil:
		return nil
	case v.live != nil:
		return totalsOf(v.live)
	}
	return v.file.totals()
}

// Total returns the total of one keyspace; zero when there is nothing in it.
func (v *View) Total(ks KeyspaceID) KeyspaceTotal {
	if v.file != nil && v.live != nil {
		if k, ok := v.live.Get(string(ks[:])); ok && k.detachedAt == 0 {
			return KeyspaceTotal{ID: ks, Scope: k.scope, Total: k.total}
		}
	}
	return KeyspaceTotal{ID: ks}
}

// hidden reports whether a keyspace is detached, or the state closed.
func (v *View) hidden(ks KeyspaceID) (bool, error) {
	if v.file == nil {
		return true, ErrClosed
	}
	if v.live != nil {
		k, ok := v.live.Get(string(ks[:]))
		return ok && k.detachedAt != 0, nil
	}
	k := v.file.keyspaces[ks]
	return k != nil && k.detachedAt != 0, nil
}

// Get returns a record; its errors are those of State.Get.
func (v *View) Get(ks KeyspaceID, key []byte) (Record, error) {
	if hidden, err := v.hidden(ks); err != nil {
		return Record{}, err
	} else if hidden {
		return Record{}, ErrNotFound
	}
	for _, t := range v.tables {
		if r, ok := t.Get(string(appendTableKey(nil, ks, key))); ok {
			return r.record(bytes.Clone(key))
		}
	}
	return v.file.get(ks, bytes.Clone(key))
}

// Scan calls fn for records of [low, high) in key order until it returns false; an empty high means to the end. Values
// are verified, and so is that none is missing. The record's slices stay valid.
func (v *View) Scan(ks KeyspaceID, low, high []byte, fn func(Record) bool) error {
	if hidden, err := v.hidden(ks); hidden || err != nil {
		return err
	}
	m := v.merge(ks)
	for err := m.seek(low); ; err = m.next() {
		if err != nil {
			return fmt.Errorf("scan: %w", err)
		}
		if !m.ok || len(high) > 0 && bytes.Compare(m.key, high) >= 0 {
			return nil
		}
		r, err := m.record()
		if err != nil {
			return fmt.Errorf("scan: %w", err)
		}
		if !fn(r) {
			return nil
		}
	}
}

// List returns, in order, the distinct children below prefix after the name after ("" from the start): names up to and
// including the next '/', at most limit (0: no limit). more is false at the end. It seeks past each child: a root with a million records
// below one folder costs one step.
func (v *View) List(ks KeyspaceID, prefix, after string, limit int) (names []string, more bool, err error) {
	if hidden, err := v.hidden(ks); hidden || err != nil {
		return nil, false, err
	}
	m := v.merge(ks)
	for err = m.seek(pastChild(prefix, after)); err == nil && m.ok; {
		rest, below := bytes.CutPrefix(m.key, []byte(prefix))
		if !below {
			break
		}
		if len(rest) == 0 { // the record that prefix itself names is no child of it
			err = m.next()
			continue
		}
		if limit > 0 && len(names) == limit {
			return names, true, nil
		}
		name := string(rest)
		if i := bytes.IndexByte(rest, '/'); i >= 0 {
			name = string(rest[:i+1])
		}
		names = append(names, name)
		err = m.seek(pastChild(prefix, name))
	}
	if err != nil {
		return nil, false, fmt.Errorf("list: %w", err)
	}
	return names, false, nil
}

// pastChild returns the lowest key behind all records of a child: "dir/" is passed by going to "dir0".
func pastChild(prefix, name string) []byte {
	if name == "" {
		return []byte(prefix)
	}
	k := append([]byte(prefix), name...)
	if i := bytes.IndexByte(k[len(prefix):], '/'); i >= 0 {
		k = k[:len(prefix)+i+1]
		k[len(k)-1] = '/' + 1
		return k
	}
	return append(k, 0)
}
