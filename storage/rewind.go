package storage

import (
	"fmt"
	"maps"

	"github.com/lockstepdb/lockstep/wal"
)

// Rewind begins to take back what entries after an index did: in one synced transaction the state of the sync that will mend the
// records is stored, keyspaces that such an entry dropped are attached again with the records that they still have, and
// cursors takes the place of the cursors. Applied stays where it is until StartAfter. The tables must be empty (ErrTablesNotEmpty).
func (s *State) Rewind(to uint64, cursors map[string]wal.Position, sync *SyncState) error {
	s.work.Lock()
	defer s.work.Unlock()
	if err := s.bulk(); err != nil {
		return fmt.Errorf("rewind to index %d: %w", to, err)
	}
	mark := s.written.clone()
	mark.Sync, mark.Cursors = sync.clone(), maps.Clone(cursors)
	attached := map[KeyspaceID]struct{}{}
	err := s.update(&mark, func(t *fileTx) error {
		for id, d := range s.disk {
			if d.detachedAt > to {
				t.keyspace(id, d.scope).detachedAt = 0
				attached[id] = struct{}{}
			}
		}
		return nil
	})
	if err == nil {
		err = s.publish(mark, attached)
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
	for id := range attached {
		s.dropped = without(s.dropped, id)
	}
	return nil
}
