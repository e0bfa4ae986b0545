package engine

import (
	"errors"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// Get returns a record as of the newest applied entry: storage.ErrNotFound when there is none, *storage.Damage when what the
// file holds is not what was written.
func (e *Engine) Get(ks storage.KeyspaceID, key []byte) (storage.Record, error) {
	r, err := e.state.Get(ks, key)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return r, err
	}
	return r, err
}

// Snapshot returns an immutable view of the newest applied state. Release it soon.
func (e *Engine) Snapshot() *storage.View { return e.state.Snapshot() }

// Finished returns the newest finished checkpoint: what a sync reads on the feeder's side and compares on the secondary's.
// Release it soon.
func (e *Engine) Finished() *storage.View { return e.state.Finished() }

// FinishedAt returns the place of the newest finished checkpoint.
func (e *Engine) FinishedAt() wal.Position {
	v := e.state.Finished()
	defer v.Release()
	return v.Position()
}

// LogReader reads the own log's frames from an index on.
func (e *Engine) LogReader(from uint64) *wal.Reader { return e.wal.Reader(from) }

// FirstIndex returns the first index that the log holds.
func (e *Engine) FirstIndex() uint64 { return e.wal.First() }

// LogBytes returns the size of the frames held from an index on.
func (e *Engine) LogBytes(from uint64) int64 { return e.wal.Bytes(from) }

// Floor returns the own index from which this log alone tells a keyspace's story; 0: from its beginning.
func (e *Engine) Floor(ks storage.KeyspaceID) uint64 { return e.state.Floor(ks) }

// ChainAt returns the chain hash of the frame that ends at index; wal.ErrGone when it is not held.
func (e *Engine) ChainAt(index uint64) (wal.Hash, error) {
	at, chain := e.place.now()
	if index == at.Index {
		return chain, nil
	}
	if first := e.wal.First(); index+1 == first && index < at.Index {
		f, err := e.wal.Frame(first)
		if err != nil {
			return wal.Hash{}, err
		}
		return f.Prev, nil
	}
	f, err := e.wal.Frame(index)
	if err != nil {
		return wal.Hash{}, err
	}
	if f.Last() != index {
		return wal.Hash{}, notAnEnd(index, f)
	}
	return f.Chain, nil
}

// SystemVersion returns a number that changes with every applied entry that touched a system keyspace (and with every
// sync of one), or a record that is about its keyspace (Reserved): caches of mounts, policies and the like are valid as long as it stays the same.
func (e *Engine) SystemVersion() uint64 { return e.system.Load() }
