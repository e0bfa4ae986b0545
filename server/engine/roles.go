package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// SetRole lets an open store go on in another role: what is under way ends first; nothing is flushed, closed or read again. What was written is as it was, and
// the next entry that is written here begins a fork, as after Open. Whoever calls it has made the role durable, for Open after a crash. A DR secondary's sync that
// has not ended is refused with ErrInconsistent.
func (e *Engine) SetRole(ctx context.Context, role Role) error {
	if _, err := e.submitWhole(ctx, &exclusive{ctx: ctx, then: &roleWork{role}}); err != nil {
		return fmt.Errorf("going on as a %s: %w", role, err)
	}
	return nil
}

// roleWork is a change of role on its way through the sequencer, which has nothing under way. A checkpoint may go on meanwhile.
type roleWork struct{ role Role }

func (w *roleWork) sequence(s *sequencer) verdict {
	e := s.e
	switch {
	case e.Role() == w.role:
		return verdict{}
	case e.sync.spooling() != nil:
		return verdict{err: ErrInconsistent}
	}
	if err := e.com.turn(w.role); err != nil {
		return verdict{err: e.abandonCommit(err)}
	}
	_, s.chain = e.place.now()
	e.role.Store(int32(w.role))
	return verdict{err: e.sync.closeSpool()}
}

// BeginEpoch commits writes as the first entry of a new epoch: a new fork under the next ordinal, at least above. The promotion that it stands for is
// committed with that frame: a crash before it leaves the epoch before, one after it the new one. overrides are forks of others that it is to win
// against. No fence holds for it. A Writer only.
func (e *Engine) BeginEpoch(ctx context.Context, above uint64, writes []Write, overrides ...wal.Fork) (Reign, error) {
	if e.Role() != Writer {
		return Reign{}, fmt.Errorf("beginning an epoch: %w", ErrNotWritable)
	}
	if err := e.disk.writable(); err != nil {
		return Reign{}, err
	}
	w := &txWork{tx: &Tx{Writes: writes}, free: true}
	if err := e.prepareWrites(w); err != nil {
		return Reign{}, err
	}
	// Alone, so that no entry of the epoch before shares the frame.
	if _, err := e.submitWhole(ctx, &exclusive{ctx: ctx, then: &epochWork{w, above, overrides}}); err != nil {
		return Reign{}, fmt.Errorf("beginning an epoch: %w", err)
	}
	h := e.History()
	return h[len(h)-1], nil
}

// epochWork is the first transaction of an epoch on its way through the sequencer, which has nothing under way.
type epochWork struct {
	tx        *txWork
	above     uint64
	overrides []wal.Fork
}

func (w *epochWork) sequence(s *sequencer) verdict {
	v := w.tx.sequence(s)
	if v.placed {
		s.e.com.nextEpoch(w.above, w.overrides)
	}
	return v
}

// nextEpoch lets the next frame begin an epoch.
func (c *committer) nextEpoch(above uint64, overrides []wal.Fork) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fork, c.above, c.overrides, c.epoch = wal.Fork{}, above, overrides, true
	c.term.Store(max(c.e.hist.ordinal(), above) + 1)
}

// NextFork lets the next frame begin a fork, of the same epoch. A Writer only.
func (e *Engine) NextFork() {
	if e.Role() != Writer {
		return
	}
	e.com.mu.Lock()
	defer e.com.mu.Unlock()
	e.com.fork = wal.Fork{}
}

// SetCursor sets the feeder's place up to which the performance subscription is complete here, by an entry: the DR secondaries of this cluster, which may take its
// place, go by the log alone. What a demoted primary was is the place from which it goes on as a secondary; another primary knows the place by another name. Not
// during a sync.
func (e *Engine) SetCursor(ctx context.Context, at wal.Position) error {
	e.sync.step.Lock()
	defer e.sync.step.Unlock()
	if e.Role() != Writer {
		return ErrNotWritable
	}
	if e.sync.get() != nil {
		return ErrInconsistent
	}
	return e.housekeep(ctx, nil, &storage.SyncMark{Kind: storage.SyncEnd, From: at, Until: at})
}

// abandoned is noted as the reason for a sync, should this cluster ever follow a primary again.
const abandoned = "a sync was abandoned before it had ended"

// AbandonSync ends a sync of this cluster's own without its feeder: what is spooled is applied, what was still to be received is missing. The state is
// what it is from then on; NeedsRepair says so. Without a sync nothing happens.
func (e *Engine) AbandonSync(ctx context.Context) error {
	e.sync.step.Lock()
	defer e.sync.step.Unlock()
	s := e.sync.get()
	if s == nil || e.Role() == Verbatim && e.sync.spooling() == nil {
		return nil // none, or that of the performance secondary whose log this is a copy of
	}
	if err := e.setNotes(map[string][]byte{noteRepair: []byte(abandoned)}); err != nil {
		return err
	}
	if e.Role() == Verbatim {
		return e.alone(ctx, e.abandonVerbatim)
	}
	return e.abandonWriter(ctx, s)
}

func (e *Engine) abandonVerbatim(ctx context.Context) error {
	s := e.sync.spooling()
	if s == nil {
		return errNoSync
	}
	if err := e.completeVerbatim(ctx, s); err != nil {
		return err
	}
	r := newReplay(e, ^uint64(0)) // no frame gives the totals it carries
	if err := r.log(ctx, e.state.Applied()+1, func(uint64, uint64) {}); err != nil {
		return err
	}
	if err := e.settleVerbatim(ctx, r); err != nil {
		return err
	}
	// The totals in the frames are not those of this state: nobody is to go on by them.
	return e.beginLog(e.wal.End())
}

func (e *Engine) abandonWriter(ctx context.Context, s *storage.SyncState) error {
	blind := *s
	blind.Until.Index = ^uint64(0) // digests cannot agree: nothing is compared
	next := uint64(1)
	if err := e.unspool(ctx, &blind, &next, func(uint64, uint64) {}); err != nil {
		var d *Diverged
		if !errors.As(err, &d) {
			return fmt.Errorf("applying what is spooled of an abandoned sync: %w", err)
		}
	}
	return e.withSpool(func(sp *spool) error { return e.closeSync(ctx, s, sp) })
}
