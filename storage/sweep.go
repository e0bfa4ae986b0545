package storage

import (
	"bytes"
	"context"
	"fmt"
	"slices"
)

// Sweep removes the records of keyspaces detached by entries below index (the retained log no longer
// holds their drop), at most limit records a call, as the checkpointer; it returns how many are left to remove, at least.
func (s *State) Sweep(ctx context.Context, below uint64, limit int) (left int, err error) {
	s.work.Lock()
	defer s.work.Unlock()
	if err := s.writable(); err != nil {
		return 0, fmt.Errorf("sweep: %w", err)
	}
	ids, err := s.sweepable(below)
	if err != nil {
		return 0, fmt.Errorf("sweep: %w", err)
	}
	for _, id := range ids {
		for done := false; !done; {
			if limit <= 0 || ctx.Err() != nil {
				left += max(1, int(s.disk[id].total.Count))
				break
			}
			before := s.disk[id].total.Count
			if done, err = s.sweepOnce(id, limit); err != nil {
				return 0, fmt.Errorf("sweep keyspace %s: %w", id, err)
			}
			limit -= int(before - s.disk[id].total.Count)
		}
	}
	return left, ctx.Err()
}

// sweepable lists the keyspaces detached below an index that still have rows, in order of id.
func (s *State) sweepable(below uint64) ([]KeyspaceID, error) {
	var ids []KeyspaceID
	for id, d := range s.disk {
		if d.detachedAt == 0 || d.detachedAt >= below || d.detachedAt == s.spared[id] {
			continue
		}
		has, err := s.hasRows(id)
		if err != nil {
			return nil, err
		}
		if has {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b KeyspaceID) int { return bytes.Compare(a[:], b[:]) })
	return ids, nil
}

// sweepOnce removes rows of one keyspace in one transaction; done says that none is left.
func (s *State) sweepOnce(id KeyspaceID, limit int) (done bool, err error) {
	mark := s.written.clone()
	walk := rangeWalk{}
	err = s.update(&mark, func(t *fileTx) error { return t.sweepStep(id, &walk, limit) })
	return walk.done, err
}
