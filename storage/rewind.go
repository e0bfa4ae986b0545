package storage

import (
	"fmt"
	"maps"

	"github.com/lockstepdb/lockstep/wal"
)

// Rewind begins to take back what entries after an index did: in one synced transaction the state of the sync that will mend the
// records is stored, keyspaces that such an entry dropped are attached again with the records that they still have, those of detach, which such an entry
// attached, are detached again, and cursors takes the place of the cursors. Applied stays where it is until StartAfter. The tables must be empty (ErrTablesNotEmpty).
func (s *State) Rewind(to uint64, cursors map[string]wal.Position, detach []KeyspaceID, sync *SyncState) error {
	s.work.Lock()
	defer s.work.Unlock()
	if err := s.bulk(); err != nil {
		return fmt.Errorf("rewind to index %d: %w", to, err)
	}
	mark := s.written.clone()
	mark.Sync, mark.Cursors = sync.clone(), maps.Clone(cursors)
	changed := map[KeyspaceID]uint64{} // detached at
	for id, d := range s.disk {
		if d.detachedAt > to {
			changed[id] = 0
		}
	}
	for _, id := range detach {
		if s.disk[id] != nil {
			changed[id] = to // or before: its records stay until the log no longer reaches back to here
		}
	}
	err := s.update(&mark, func(t *fileTx) error {
		for id, at := range changed {
			t.keyspace(id, s.disk[id].scope).detachedAt = at
		}
		return nil
	})
	if err == nil {
		err = s.publish(mark, keysOf(changed))
	}
	if err != nil {
		return fmt.Errorf("rewind to index %d: %w", to, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cursors = maps.Clone(mark.Cursors)
	if s.cursors == nil {
		s.cursors = map[string]wal.Position{}
	}
	for id, at := range changed {
		s.dropped = without(s.dropped, id)
		if at != 0 {
			s.dropped[id] = at
		}
	}
	return nil
}

func keysOf(m map[KeyspaceID]uint64) map[KeyspaceID]struct{} {
	out := make(map[KeyspaceID]struct{}, len(m))
	for id := range m {
		out[id] = struct{}{}
	}
	return out
}
