package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// A performance secondary's part in its set has node scope, because its key and certificate have. Its own DR secondary would not know of the set, and
// could only come back to it from empty. So a performance secondary that is a DR primary keeps, in the log, what it takes to be a member: no key, no
// certificate. Its DR secondary, promoted, is then a performance secondary without a primary, and update-primary gives it one.

// recordMember is a performance secondary's part in its set, for its DR secondaries.
const recordMember = "replication/performance/member"

type memberRecord struct {
	Version int            `json:"version"`
	Set     string         `json:"set"`
	CA      string         `json:"ca"`
	Bundle  string         `json:"bundle,omitempty"`
	Seen    []engine.Reign `json:"seen"`
}

const memberVersion = 1

// membership is what the record is to hold now, nil for none.
func (n *Node) membership() ([]byte, error) {
	set := n.set(Performance)
	if n.Mode(DR) != Primary || set == nil || set.Mode != Secondary || !set.Joined {
		return nil, nil
	}
	seen, err := n.seen(Performance)
	if err != nil {
		return nil, err
	}
	return mustJSON(&memberRecord{Version: memberVersion, Set: set.Set, CA: set.CA, Bundle: set.Bundle, Seen: seen}), nil
}

// keepMembership brings the record up to date. A DR primary alone writes it.
func (n *Node) keepMembership(ctx context.Context) error {
	if n.Mode(DR) != Primary || n.engine.Role() != engine.Writer || n.underWay() != nil || n.fenceOf(DR) != nil {
		return nil
	}
	want, err := n.membership()
	if err != nil {
		return err
	}
	r, err := n.engine.Get(storage.SystemLocal, []byte(recordMember))
	switch {
	case err != nil && !errors.Is(err, storage.ErrNotFound):
		return err
	case err != nil && want == nil, err == nil && string(r.Value) == string(want):
		return nil
	}
	w := put(recordMember, want)
	if want == nil {
		w = remove(recordMember)
	}
	_, err = n.engine.Do(ctx, &engine.Tx{Writes: []engine.Write{w}})
	return err
}

// formerMember reads what the former primary was in a performance set as a secondary: the notes that make this cluster the same, nil when it was none.
func (n *Node) formerMember() (*setConfig, map[string][]byte, error) {
	r, err := n.engine.Get(storage.SystemLocal, []byte(recordMember))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the former primary's part in the performance set: %w", err)
	}
	var m memberRecord
	if err := json.Unmarshal(r.Value, &m); err != nil {
		return nil, nil, fmt.Errorf("the former primary's part in the performance set does not decode: %w", err)
	}
	if m.Version > memberVersion {
		return nil, nil, fmt.Errorf("the former primary's part in the performance set has version %d, this program reads up to %d", m.Version, memberVersion)
	}
	set := n.demoted(&setConfig{Kind: Performance, Set: m.Set, CA: m.CA, Bundle: m.Bundle})
	return set, map[string][]byte{noteSet(Performance): mustJSON(set), noteSeen(Performance): mustJSON(m.Seen)}, nil
}
