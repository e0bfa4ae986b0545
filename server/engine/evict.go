package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/storage"
)

// evictKeys is how many records one housekeeping entry of Empty deletes at most.
const evictKeys = 2048

// Empty (Writer) deletes the records of replicated keyspaces that this cluster may not have any more, by housekeeping entries: digest, root and floor follow,
// and so do this cluster's DR secondaries. The keyspaces are not dropped: an id that is dropped is gone for good, and its feeder may give it back.
// Killed on the way it is to be called again. Not during a sync, whose spool could bring the records back.
func (e *Engine) Empty(ctx context.Context, keyspaces []storage.KeyspaceID) error {
	e.sync.step.Lock()
	defer e.sync.step.Unlock()
	if e.Role() != Writer {
		return fmt.Errorf("emptying keyspaces: %w", ErrNotWritable)
	}
	if e.sync.get() != nil {
		return ErrInconsistent
	}
	absent := make(map[storage.KeyspaceID]bool, len(keyspaces))
	for _, ks := range keyspaces {
		absent[ks] = true
	}
	for _, t := range e.state.Totals() {
		if !absent[t.ID] || t.Count == 0 {
			continue
		}
		if t.Scope != storage.Replicated || t.ID == storage.SystemReplicated {
			return fmt.Errorf("internal error: keyspace %s is this cluster's own and is never emptied", t.ID)
		}
		if err := e.empty(ctx, t); err != nil {
			return fmt.Errorf("emptying keyspace %s: %w", t.ID, err)
		}
	}
	return nil
}

// empty deletes from the first key on, a bounded number an entry.
func (e *Engine) empty(ctx context.Context, t storage.KeyspaceTotal) error {
	var low []byte
	for {
		var writes []Write
		v := e.state.Snapshot()
		err := v.Scan(t.ID, low, nil, func(rec storage.Record) bool {
			key := bytes.Clone(rec.Key)
			writes = append(writes, Write{t.ID, t.Scope, storage.Change{Op: storage.Delete, Key: key}})
			return len(writes) < evictKeys
		})
		v.Release()
		var damage *storage.Damage
		switch {
		case errors.As(err, &damage):
			return e.emptyByDifference(ctx, t) // finds the keys of records that cannot be read, too
		case err != nil:
			return err
		case len(writes) == 0:
			return nil
		}
		for _, chunk := range chunks(writes) {
			if err := e.housekeep(ctx, chunk, nil); err != nil {
				return err
			}
		}
		low = append(writes[len(writes)-1].Key, 0)
	}
}

// emptyByDifference deletes what a range without records lacks.
func (e *Engine) emptyByDifference(ctx context.Context, t storage.KeyspaceTotal) error {
	writes, err := e.differences(ctx, &SyncRange{Keyspace: t.ID, Scope: t.Scope})
	if err != nil {
		return err
	}
	for _, chunk := range chunks(writes) {
		if err := e.housekeep(ctx, chunk, nil); err != nil {
			return err
		}
	}
	return nil
}
