package storage

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/lockstepdb/lockstep/merkle"
)

// totals returns the totals of the keyspaces that are attached, ordered by id.
func (v *fileView) totals() []KeyspaceTotal {
	t := make([]KeyspaceTotal, 0, len(v.keyspaces))
	for id, k := range v.keyspaces {
		if k.detachedAt == 0 {
			t = append(t, KeyspaceTotal{ID: id, Scope: k.scope, Total: k.total})
		}
	}
	slices.SortFunc(t, func(a, b KeyspaceTotal) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return t
}

// finished returns what a finished view knows of an attached keyspace; nil when there is none.
func (v *View) finished(ks KeyspaceID) (*viewInfo, error) {
	switch {
	case v.file == nil:
		return nil, ErrClosed
	case v.live != nil:
		return nil, errNotFinished
	}
	k := v.file.keyspaces[ks]
	if k != nil && k.detachedAt != 0 {
		k = nil
	}
	return k, nil
}

// RangeTotal returns the exact digest of [low, high) from leaves and, at the edges, stored digests. Only on views from Finished.
// An empty high means to the end.
func (v *View) RangeTotal(ks KeyspaceID, low, high []byte) (merkle.Total, error) {
	k, err := v.finished(ks)
	if err != nil || k == nil || len(high) > 0 && bytes.Compare(low, high) >= 0 {
		return merkle.Total{}, err
	}
	t := k.leaves.Total()
	if len(high) > 0 {
		if t, err = v.file.below(ks, high); err != nil {
			return merkle.Total{}, fmt.Errorf("digest of a range: %w", err)
		}
	}
	b, err := v.file.below(ks, low)
	if err != nil {
		return merkle.Total{}, fmt.Errorf("digest of a range: %w", err)
	}
	t.Sub(b)
	return t, nil
}

// below returns the total of all records of a keyspace below key.
func (v *fileView) below(ks KeyspaceID, key []byte) (merkle.Total, error) {
	t, leaf := v.keyspaces[ks].leaves.Before(key)
	if leaf.Low == string(key) {
		return t, nil
	}
	err := v.read(func() error {
		return v.walkLeaf(ks, key, func(k []byte, r row) {
			if bytes.Compare(k, key) < 0 {
				t.Replace(nil, &r.digest)
			}
		})
	})
	return t, err
}

// Child is one part of a split range.
type Child struct {
	Low []byte
	merkle.Total
}

// Split cuts [low, high) at its boundary keys of the coarsest level that gives at least two parts and returns them in order (the first
// has Low == low); one part when the range is a single leaf. At most limit parts (at least 2): of more cuts than that,
// evenly spread ones are kept. Only on views from Finished.
func (v *View) Split(ks KeyspaceID, low, high []byte, limit int) ([]Child, error) {
	k, err := v.finished(ks)
	if err != nil {
		return nil, err
	}
	lows := [][]byte{low}
	if k != nil {
		high := orNil(high)
		level, n := k.leaves.Top(low, high)
		if n > 0 {
			for _, cut := range thin(k.leaves.Cuts(low, high, level), max(limit, 2)-1) {
				lows = append(lows, []byte(cut))
			}
		}
	}
	parts := make([]Child, len(lows))
	for i := range lows {
		end := high
		if i+1 < len(lows) {
			end = lows[i+1]
		}
		parts[i].Low = lows[i]
		if parts[i].Total, err = v.RangeTotal(ks, lows[i], end); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

// thin keeps at most n cuts, evenly spread.
func thin(cuts []string, n int) []string {
	if len(cuts) <= n {
		return cuts
	}
	kept := make([]string, n)
	for i := range kept {
		kept[i] = cuts[(i+1)*len(cuts)/(n+1)]
	}
	return kept
}

// Items calls fn for key and stored digest of each record in [low, high), values untouched, until it returns false. An empty
// high means to the end. Keys stay valid. Only on views from Finished.
func (v *View) Items(ks KeyspaceID, low, high []byte, fn func(key []byte, d merkle.Digest) bool) error {
	k, err := v.finished(ks)
	if err != nil || k == nil {
		return err
	}
	c := fileCursor{v: v.file, ks: ks}
	for err := c.seek(low); ; err = c.next() {
		if err != nil {
			return fmt.Errorf("items of a range: %w", err)
		}
		if !c.ok || len(high) > 0 && bytes.Compare(c.key(), high) >= 0 {
			return nil
		}
		if !fn(c.key(), c.rows[c.at].digest) {
			return nil
		}
	}
}
