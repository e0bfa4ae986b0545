package engine

import (
	"context"
	"fmt"
	"sync"

	"github.com/lockstepdb/lockstep/wal"
)

// work is what the sequencer does for a caller, in its one order.
type work interface {
	// sequence checks, drafts and accepts, or leaves no trace.
	sequence(s *sequencer) verdict
}

// verdict is what sequencing came to: placed in the group that is being
// gathered, or an answer that waits until an index is durable.
type verdict struct {
	placed bool
	err    error
	after  uint64
	// then runs when the answer is due, before it is given; nil is nothing.
	then func()
}

// job is one caller's work, with the way its answer takes.
type job struct {
	work  work
	done  chan answer // one slot
	index uint64      // of its last entry, once placed
	// taken is held from the hand-over until the sequencer needs none of the caller's memory any more.
	taken sync.Mutex
}

type answer struct {
	at  wal.Position
	err error
}

// answer gives the answer; the first one counts.
func (j *job) answer(at wal.Position, err error) {
	select {
	case j.done <- answer{at, err}:
	default:
	}
}

// submit hands work to the sequencer and waits for its answer.
func (e *Engine) submit(ctx context.Context, w work) (wal.Position, error) {
	j := &job{work: w, done: make(chan answer, 1)}
	j.taken.Lock()
	select {
	case e.jobs <- j:
	case <-e.life.ended:
		return wal.Position{}, e.life.refusal()
	case <-ctx.Done():
		return wal.Position{}, fmt.Errorf("not begun: %w", context.Cause(ctx))
	}
	select {
	case a := <-j.done:
		return a.at, a.err
	case <-ctx.Done():
		j.taken.Lock()
		return wal.Position{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, context.Cause(ctx))
	}
}

// exclusive is work that needs log and state to itself: it runs on the sequencer when nothing is gathered or under way.
type exclusive struct {
	ctx context.Context
	run func(ctx context.Context) error // may be nil
	// then is sequenced afterwards, first in its group; it may be nil.
	then work
}

func (x *exclusive) sequence(s *sequencer) verdict {
	panic("internal error: exclusive work was sequenced")
}

// alone runs fn while nothing is sequenced, committed or checkpointed.
func (e *Engine) alone(ctx context.Context, fn func(ctx context.Context) error) error {
	j := &exclusive{ctx: ctx, run: fn}
	_, err := e.submitWhole(ctx, j)
	return err
}

// submitWhole is submit that stays until the work has ended: because the work ends by ctx itself, or because what follows must know how it ended.
func (e *Engine) submitWhole(ctx context.Context, w work) (wal.Position, error) {
	j := &job{work: w, done: make(chan answer, 1)}
	j.taken.Lock()
	select {
	case e.jobs <- j:
	case <-e.life.ended:
		return wal.Position{}, e.life.refusal()
	case <-ctx.Done():
		return wal.Position{}, fmt.Errorf("not begun: %w", context.Cause(ctx))
	}
	a := <-j.done
	return a.at, a.err
}
