package storage

import (
	"fmt"

	"github.com/lockstepdb/lockstep/merkle"
)

// Attachable returns what keyspaces hold that an entry is about to attach: the records that are left of each that is detached, those of others left out. Sweep
// lets them be from here on. The tables must be empty (ErrTablesNotEmpty): what was written to a detached keyspace is counted in the file alone.
func (s *State) Attachable(ids []KeyspaceID) (map[KeyspaceID]merkle.Total, error) {
	s.work.Lock()
	defer s.work.Unlock()
	if err := s.bulk(); err != nil {
		return nil, fmt.Errorf("attaching keyspaces: %w", err)
	}
	out := map[KeyspaceID]merkle.Total{}
	for _, id := range ids {
		if d := s.disk[id]; d != nil && d.detachedAt != 0 {
			s.spared[id] = d.detachedAt
			out[id] = d.total
		}
	}
	return out, nil
}
