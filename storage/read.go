package storage

import (
	"bytes"
	"fmt"

	"github.com/lockstepdb/lockstep/merkle"
)

// Old is what a writer must know of the record it replaces.
type Old struct {
	Digest  merkle.Digest
	Present bool
	Index   uint64
	Gen     uint64 // file generation it was read under; memory answers are always current
}

func (r *rec) record(key []byte) (Record, error) {
	if r.deleted {
		return Record{}, ErrNotFound
	}
	return Record{Key: key, Value: r.value, Digest: r.digest, Index: r.index}, nil
}

func (r *rec) old(gen uint64) Old {
	if r.deleted {
		return Old{Gen: gen}
	}
	return Old{Digest: r.digest, Present: true, Index: r.index, Gen: gen}
}

// place is what memory knows of a key.
type place struct {
	rec    *rec
	hidden bool      // the keyspace is detached: nothing is in it
	gen    uint64    // of the file
	view   *fileView // referenced, when memory knows nothing and the file must be asked
}

func (s *State) lookup(ks KeyspaceID, key []byte) (p place, err error) {
	var buf [128]byte
	k := appendTableKey(buf[:0], ks, key)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.view == nil {
		return p, fmt.Errorf("%s: %w", s.opts.Path, ErrClosed)
	}
	p.gen = s.gen
	if _, p.hidden = s.dropped[ks]; p.hidden {
		return p, nil
	}
	r, ok := s.active.get(k)
	if !ok {
		r, ok = s.frozen.get(k)
	}
	if ok {
		p.rec = r
	} else {
		p.view = s.view.ref()
	}
	return p, nil
}

// Get returns a record as of the newest applied entry: ErrNotFound when there
// is none, *Damage when what the file holds does not hash to its digest (a wrong
// value is never returned). The value is the caller's only to read.
func (s *State) Get(ks KeyspaceID, key []byte) (Record, error) {
	p, err := s.lookup(ks, key)
	switch {
	case err != nil:
		return Record{}, err
	case p.hidden:
		return Record{}, ErrNotFound
	case p.view == nil:
		return p.rec.record(bytes.Clone(key))
	}
	defer p.view.unref()
	return p.view.get(ks, bytes.Clone(key))
}

// Old finds the digest and index of the newest applied record: handlers call it before they
// enter the sequencer (it may touch the disk). A detached keyspace holds nothing.
func (s *State) Old(ks KeyspaceID, key []byte) (Old, error) {
	p, err := s.lookup(ks, key)
	switch {
	case err != nil:
		return Old{}, err
	case p.hidden:
		return Old{Gen: p.gen}, nil
	case p.view == nil:
		return p.rec.old(p.gen), nil
	}
	defer p.view.unref()
	return p.view.old(ks, key)
}

// OldInFile is what the file holds of a record, whatever the tables say and whether its keyspace is detached: as long as Gen is the same it is what Old says once
// memory knows nothing.
func (s *State) OldInFile(ks KeyspaceID, key []byte) (Old, error) {
	s.mu.RLock()
	if s.view == nil {
		s.mu.RUnlock()
		return Old{}, fmt.Errorf("%s: %w", s.opts.Path, ErrClosed)
	}
	v := s.view.ref()
	s.mu.RUnlock()
	defer v.unref()
	return v.old(ks, key)
}

// OldInMemory is Old from the tables alone; ok is false when they do not know the key and
// the file must be asked.
func (s *State) OldInMemory(ks KeyspaceID, key []byte) (o Old, ok bool) {
	p, err := s.lookup(ks, key)
	switch {
	case err != nil:
		return Old{}, false
	case p.hidden:
		return Old{Gen: p.gen}, true
	case p.view == nil:
		return p.rec.old(p.gen), true
	}
	p.view.unref()
	return Old{}, false
}
