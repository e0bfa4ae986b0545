package engine

import (
	"context"
	"fmt"
	"time"
)

// sweepRecords bounds one transaction that removes records of dropped keyspaces.
const sweepRecords = 16_384

// checkpoints runs until the committer has ended, then makes a last checkpoint. A failed one ends the engine.
func (e *Engine) checkpoints(ctx context.Context, committed <-chan struct{}) {
	tick := time.NewTicker(e.cfg.CheckpointInterval)
	defer tick.Stop()
	for {
		var asked chan error
		ended := false
		select {
		case asked = <-e.asked:
		case <-e.full:
		case <-tick.C:
			if !e.dirty() {
				continue
			}
		case <-committed:
			ended = true
		case <-e.life.failed:
			return
		}
		err := e.checkpoint(ctx)
		if asked != nil {
			asked <- err
		}
		if ended || e.life.failure() != nil {
			return
		}
	}
}

// dirty reports whether a checkpoint has anything to do.
func (e *Engine) dirty() bool {
	active, _ := e.state.TableBytes()
	return active > 0 || e.stats.cursorMoved.Load() || e.stats.sweeping.Load()
}

// askIfFull wakes the checkpointer when the active table is at its limit.
func (e *Engine) askIfFull() {
	if active, running := e.state.TableBytes(); running || active < e.cfg.CheckpointBytes {
		return
	}
	select {
	case e.full <- struct{}{}:
	default:
	}
}

// checkpoint makes one, then lets go of log and records that nothing needs any more.
func (e *Engine) checkpoint(ctx context.Context) error {
	e.fileMu.Lock()
	defer e.fileMu.Unlock()
	if e.sync.spooling() != nil {
		return nil // the tables are empty; the file belongs to the sync
	}
	if err := e.flushLocked(ctx); err != nil {
		return err
	}
	return e.abandon(ctx, e.retireLocked(ctx))
}

// flush makes a checkpoint and lets go of nothing.
func (e *Engine) flush(ctx context.Context) error {
	e.fileMu.Lock()
	defer e.fileMu.Unlock()
	if e.sync.spooling() != nil {
		return nil
	}
	return e.flushLocked(ctx)
}

// flushLocked writes the tables into the state file.
func (e *Engine) flushLocked(ctx context.Context) error {
	e.stats.cursorMoved.Store(false)
	began := time.Now()
	waiting, _ := e.state.TableBytes()
	e.meters.Waiting.Store(waiting)
	err := e.state.Checkpoint(ctx)
	e.meters.Checkpoint.Since(began)
	e.stats.checkpoint(e.cfg.Now())
	if err == nil {
		return nil
	}
	e.noteUnreadable(err)
	return e.abandon(ctx, fmt.Errorf("checkpoint: %w", err))
}

// Checkpoint waits for a checkpoint that holds everything applied now.
func (e *Engine) Checkpoint(ctx context.Context) error {
	asked := make(chan error, 1)
	select {
	case e.asked <- asked:
	case <-e.life.ended:
		return e.life.refusal()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-asked:
		return err
	case <-e.life.failed:
		return e.life.refusal()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
