package engine

import (
	"context"
	"fmt"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// A performance cluster takes the drop of a keyspace back by an entry that attaches it: its log is never cut. What a detached keyspace holds is counted in the
// state file alone, so wherever such an entry is applied, a checkpoint comes first.

// Detached reports whether a keyspace has been dropped here.
func (e *Engine) Detached(ks storage.KeyspaceID) bool {
	_, gone := e.state.Detached(ks)
	return gone
}

// Attach (Writer, during a sync) shows dropped keyspaces again with the records that they still have, by housekeeping entries. whole is false when records
// of one may have been removed already, because the log no longer holds its drop: ranges are to be compared then. Others are left alone.
func (e *Engine) Attach(ctx context.Context, keyspaces []storage.KeyspaceID) (whole bool, err error) {
	e.sync.step.Lock()
	defer e.sync.step.Unlock()
	switch {
	case e.Role() != Writer:
		return false, fmt.Errorf("attaching keyspaces: %w", ErrNotWritable)
	case e.sync.get() == nil:
		return false, errNoSync
	}
	whole = true
	for _, ks := range keyspaces {
		at, gone := e.state.Detached(ks)
		if !gone {
			continue
		}
		if ks == storage.SystemReplicated || ks == storage.SystemLocal {
			return false, fmt.Errorf("internal error: keyspace %s is the system's own and is never dropped", ks)
		}
		whole = whole && at >= e.wal.First()
		if err := e.attach(ctx, ks); err != nil {
			return false, fmt.Errorf("attaching keyspace %s: %w", ks, err)
		}
	}
	return whole, nil
}

func (e *Engine) attach(ctx context.Context, ks storage.KeyspaceID) error {
	if err := e.disk.streamable(); err != nil {
		return err
	}
	w := &txWork{tx: &Tx{}, meta: meta{housekeeping: true}}
	w.pre = &prepared{entry: &storage.Entry{Blocks: []storage.Block{
		{Keyspace: ks, Scope: storage.Replicated, Changes: []storage.Change{{Op: storage.Attach}}},
	}}}
	e.keys.digest(w.pre)
	_, err := e.submitWhole(ctx, e.afterCheckpoint(ctx, []storage.KeyspaceID{ks}, w))
	return err
}

// afterCheckpoint is work whose entries attach keyspaces: it is sequenced when the file holds everything before it.
func (e *Engine) afterCheckpoint(ctx context.Context, attached []storage.KeyspaceID, w work) *exclusive {
	return &exclusive{ctx: ctx, then: w, run: func(ctx context.Context) (err error) {
		if err = e.flushLocked(ctx); err == nil {
			e.seq.ledger.attachable, err = e.state.Attachable(attached)
		}
		return err
	}}
}

// attachedBy lists the keyspaces that entries attach.
func attachedBy(entries []*prepared) []storage.KeyspaceID {
	var out []storage.KeyspaceID
	for _, p := range entries {
		if !p.entry.Attaches() {
			continue
		}
		for i := range p.entry.Blocks {
			if b := &p.entry.Blocks[i]; b.Changes[0].Op == storage.Attach {
				out = append(out, b.Keyspace)
			}
		}
	}
	return out
}

// attach drafts that a keyspace is shown again.
func (l *ledger) attach(b *storage.Block) error {
	t := storage.KeyspaceTotal{ID: b.Keyspace, Scope: b.Scope}
	if have, ok := l.total(b.Keyspace); ok {
		t = have
	}
	if l.gone(b.Keyspace) {
		if l.inMemory {
			l.unknown[b.Keyspace] = struct{}{}
			return nil
		}
		held, ok := l.attachable[b.Keyspace]
		if !ok {
			return fmt.Errorf("internal error: keyspace %s is attached, and no checkpoint came before that", b.Keyspace)
		}
		t.Total = held
		l.draft.attached[b.Keyspace] = struct{}{}
	}
	l.draft.totals[b.Keyspace] = t
	return nil
}

// attaching reports whether a keyspace is attached by an entry that is not applied yet. Its records cannot be looked up.
func (l *ledger) attaching(ks storage.KeyspaceID) bool {
	if _, ok := l.draft.attached[ks]; ok {
		return true
	}
	_, ok := l.attached[ks]
	return ok && l.detached(ks)
}

// ingestAttaching commits a frame whose entries attach keyspaces.
func (e *Engine) ingestAttaching(ctx context.Context, f *wal.Frame, entries []*prepared, attached []storage.KeyspaceID) error {
	w := &framesWork{frames: []*wal.Frame{f}, entries: [][]*prepared{entries}}
	_, err := e.submitWhole(ctx, e.afterCheckpoint(ctx, attached, w))
	return err
}

// attachable makes a checkpoint before a frame that attaches keyspaces is replayed, and tells the ledger what they hold.
func (r *replay) attachable(ctx context.Context, attached []storage.KeyspaceID) (err error) {
	if err = r.e.flushLocked(ctx); err == nil {
		r.ledger.attachable, err = r.e.state.Attachable(attached)
	}
	return err
}

// attachedAfter lists the keyspaces that were detached at an index of the log and were attached by an entry after it.
func (e *Engine) attachedAfter(index uint64) ([]storage.KeyspaceID, error) {
	var out []storage.KeyspaceID
	seen := map[storage.KeyspaceID]bool{}
	err := e.eachEntry(index+1, ^uint64(0), func(en *storage.Entry) {
		for i := range en.Blocks {
			b := &en.Blocks[i]
			for _, c := range b.Changes {
				if c.Op != storage.Drop && c.Op != storage.Attach || seen[b.Keyspace] {
					continue
				}
				if seen[b.Keyspace] = true; c.Op == storage.Attach {
					out = append(out, b.Keyspace)
				}
			}
		}
	})
	return out, err
}
