package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// replay applies frames that are durable already: at Open, and at the end of a DR secondary's sync. Its goroutine has
// log and state to itself.
type replay struct {
	e       *Engine
	ledger  *ledger
	compare uint64 // frames that end at or after it must give the totals they carry
	touched map[storage.KeyspaceID]storage.KeyspaceTotal
	entries uint64
	syncing *storage.SyncState // of a performance secondary, as entries tell
	cursors map[string]wal.Position
}

func newReplay(e *Engine, compare uint64) *replay {
	return &replay{
		e: e, ledger: newLedger(e.state), compare: compare,
		touched: map[storage.KeyspaceID]storage.KeyspaceTotal{},
		cursors: e.cursors(),
	}
}

// log replays the log from an index to its end.
func (r *replay) log(ctx context.Context, from uint64, progress func(done, total uint64)) error {
	end, _ := r.e.wal.End()
	next, stop := r.e.readAhead(ctx, from, end.Index)
	defer stop()
	for at := from - 1; at < end.Index; {
		a := next()
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if a == nil || a.frame == nil {
			return fmt.Errorf("replaying the log after %d: %w", at, a.readError())
		}
		if a.frame.First != at+1 {
			return fmt.Errorf("replaying the log: a frame begins at %d, not at %d", a.frame.First, at+1)
		}
		if err := r.frame(ctx, a); err != nil {
			return err
		}
		at = a.frame.Last()
		progress(at-from+1, end.Index-from+1)
		if err := r.flushIfFull(ctx); err != nil {
			return err
		}
	}
	return nil
}

// frame applies one frame. Where totals are compared, a frame that differs is not applied.
func (r *replay) frame(ctx context.Context, a *ahead) error {
	f, entries, err := a.frame, a.entries, a.err
	if attached := attachedBy(entries); err == nil && len(attached) > 0 {
		err = r.attachable(ctx, attached)
	}
	if err != nil {
		return fmt.Errorf("replaying the frame %d to %d: %w", f.First, f.Last(), err)
	}
	applying := make([]storage.Applying, len(entries))
	for i, p := range entries {
		applying[i] = p.applying()
	}
	if f.Last() >= r.compare {
		err = r.ledger.addFrame(f, entries, r.touched)
	} else {
		err = r.ledger.addEntries(entries, r.touched)
	}
	if err != nil {
		r.ledger.forget()
		return fmt.Errorf("replaying the frame %d to %d: %w", f.First, f.Last(), err)
	}
	r.apply(f, entries, applying)
	return nil
}

func (r *replay) apply(f *wal.Frame, entries []*prepared, applying []storage.Applying) {
	g := newGroup()
	g.last = f.Last()
	r.ledger.accept(g)
	for _, p := range entries {
		if eff := effectOf(p.entry); eff != nil {
			r.syncing = eff.apply(r.syncing, r.cursors)
		}
	}
	r.e.state.Apply(applying, r.ledger.list(g.touched, false), f.Position(), f.Chain)
	r.ledger.retire(g)
	r.entries += uint64(len(entries))
}

// flushIfFull makes a checkpoint when the table is as large as a running engine lets it become. What a kill leaves is seldom more than that: the checkpoint
// that it lacks is then made after Open, while requests are answered.
func (r *replay) flushIfFull(ctx context.Context) error {
	if active, _ := r.e.state.TableBytes(); active < 2*r.e.cfg.CheckpointBytes {
		return nil
	}
	return r.e.flushLocked(ctx)
}

// cursors returns a copy of the places of all subscriptions.
func (e *Engine) cursors() map[string]wal.Position {
	out := maps.Clone(e.state.Mark().Cursors)
	if out == nil {
		out = map[string]wal.Position{}
	}
	for sub := range out {
		out[sub] = e.state.Cursor(sub)
	}
	if p := e.state.Cursor(Performance); !p.IsZero() {
		out[Performance] = p
	}
	return out
}

// recover replays what the checkpoint lacks. When the log's own totals contradict the state, a Repairable store asks for a
// sync and goes on with what its records say.
func (r *recovery) replay(ctx context.Context) error {
	e := r.e
	mark := e.state.Mark()
	from := mark.Applied.Index + 1
	p := newReplay(e, max(mark.ConsistentAt, 1))
	p.syncing = mark.Sync
	err := p.log(ctx, from, func(uint64, uint64) {})
	var d *Diverged
	if errors.As(err, &d) {
		if err = r.contradiction(d); err == nil {
			p.compare = ^uint64(0)
			err = p.log(ctx, e.state.Applied()+1, func(uint64, uint64) {})
		}
	}
	if err != nil {
		return err
	}
	r.report.Replayed = p.entries
	e.sync.begin(p.syncing, false)
	return nil
}

func (r *recovery) contradiction(d *Diverged) error {
	if !r.cfg.Repairable {
		return &boltfile.CorruptError{
			File: r.e.path(stateFile),
			What: fmt.Sprintf("replaying the log gives other digests than it says, so the state is not what it was: %v; run: lockstep check", d),
			Err:  d,
		}
	}
	return r.needRepair(d.Error())
}
