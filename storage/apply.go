package storage

import (
	"maps"
	"unsafe"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/wal"
)

// PerformanceSub is the subscription whose cursor the sources of applied entries move.
const PerformanceSub = "performance"

// Applying is one entry with the digests that its sequencer computed.
type Applying struct {
	Entry   *Entry
	Digests [][]merkle.Digest // of each block's puts, in order of Changes; zero for deletes
}

// change is one change made ready for the table, outside the lock.
type change struct {
	key string
	rec *rec
}

// Apply makes entries readable, in order. totals are those of the touched keyspaces after the
// last one, as in the frame's header; end and chain are the end of the frame. An entry's source moves the
// cursor PerformanceSub, its sync mark the sync state (with the cursor: back to S where a sync begins, to the end of the spool where it
// ends), and housekeeping raises the floor of what it touches. It never fails for what a record means: a put into an unknown keyspace makes it, one into a detached
// keyspace is kept and shown to nobody. An entry that attaches one needs what Attachable says.
func (s *State) Apply(entries []Applying, totals []KeyspaceTotal, end wal.Position, chain wal.Hash) {
	changes, size := prepare(entries)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range entries {
		s.applyHeaderLocked(entries[i].Entry)
	}
	for i := range changes {
		s.active.recs.Set(changes[i].key, changes[i].rec)
	}
	s.active.bytes += size
	for i := range totals {
		t := &totals[i]
		k := s.liveLocked(t.ID, t.Scope)
		if k.detachedAt == 0 {
			k.total = t.Total
		}
	}
	s.pos, s.chain, s.changed = end, chain, true
}

// prepare makes the table's keys and records of all puts and deletes, with three allocations.
func prepare(entries []Applying) ([]change, int64) {
	n, keyBytes := 0, 0
	for i := range entries {
		for j := range entries[i].Entry.Blocks {
			for _, c := range entries[i].Entry.Blocks[j].Changes {
				if c.keyed() {
					n++
					keyBytes += idSize + len(c.Key)
				}
			}
		}
	}
	keys := make([]byte, 0, keyBytes) // never grows: the strings below are parts of it
	changes := make([]change, 0, n)
	recs := make([]rec, n)
	var size int64
	for i := range entries {
		e := entries[i].Entry
		for j := range e.Blocks {
			block := &e.Blocks[j]
			for at := range block.Changes {
				c := &block.Changes[at]
				if !c.keyed() {
					continue
				}
				r := &recs[len(changes)]
				r.index, r.deleted = e.Index, c.Op == Delete
				if c.Op == Put {
					r.value, r.digest = c.Value, entries[i].Digests[j][at]
				}
				from := len(keys)
				keys = appendTableKey(keys, block.Keyspace, c.Key)
				changes = append(changes, change{unsafe.String(&keys[from], len(keys)-from), r})
				size += int64(len(c.Key) + len(c.Value))
			}
		}
	}
	return changes, size
}

// applyHeaderLocked does what an entry says beside its records.
func (s *State) applyHeaderLocked(e *Entry) {
	for i := range e.Blocks {
		block := &e.Blocks[i]
		k := s.liveLocked(block.Keyspace, block.Scope)
		if e.Housekeeping {
			k.floor = max(k.floor, e.Index)
		}
		for j := range block.Changes {
			switch op := block.Changes[j].Op; {
			case op == Drop && k.detachedAt == 0:
				k.detachedAt = e.Index
				k.total = merkle.Total{}
				s.dropped = maps.Clone(s.dropped)
				s.dropped[block.Keyspace] = e.Index
			case op == Attach && k.detachedAt != 0: // its total is among the frame's
				k.detachedAt = 0
				s.dropped = without(s.dropped, block.Keyspace)
			}
		}
	}
	if !e.Upstream.IsZero() {
		s.setCursorLocked(PerformanceSub, e.Upstream)
	}
	if e.Sync != nil {
		s.sync = e.Sync.advance(s.sync)
		switch e.Sync.Kind {
		case SyncBegin:
			s.setCursorLocked(PerformanceSub, e.Sync.From)
		case SyncEnd:
			s.setCursorLocked(PerformanceSub, e.Sync.Until)
		}
	}
}

// liveLocked returns what is known of a keyspace as a value of its own that may be changed until
// the lock is given up. A keyspace that is not known comes to be.
func (s *State) liveLocked(id KeyspaceID, scope Scope) *info {
	k := &info{scope: scope}
	if have, ok := s.live.Get(string(id[:])); ok {
		*k = *have
	}
	s.live.Set(string(id[:]), k)
	s.active.touched[id] = struct{}{}
	return k
}

// advance returns the state of a sync after a housekeeping entry that carries m.
func (m *SyncMark) advance(s *SyncState) *SyncState {
	switch {
	case m.Kind == SyncEnd:
		return nil
	case m.Kind == SyncBegin || s == nil:
		s = &SyncState{Set: PerformanceSub, From: m.From}
	default:
		s = s.clone()
	}
	s.Until = m.Until
	if m.Kind == SyncRange {
		s.Keyspace, s.Done = m.Keyspace, orNil(append([]byte(nil), m.High...))
		if len(m.High) == 0 {
			s.Keyspace = m.Keyspace.next()
		}
	}
	return s
}

// next returns the id that follows: with nothing done of it, all of id is.
func (id KeyspaceID) next() KeyspaceID {
	for i := len(id) - 1; i >= 0; i-- {
		if id[i]++; id[i] != 0 {
			break
		}
	}
	return id
}
