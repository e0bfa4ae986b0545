package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sort"
	"sync"
	"time"

	"github.com/lockstepdb/lockstep/wal"
)

// holds are the indexes from which known secondaries need the log.
type holds struct {
	mu    sync.Mutex // guards what follows
	from  map[string]uint64
	again map[string]bool // set since RenewHolds began; nil: it is not under way
}

// Hold keeps the log from an index on for a known secondary, within the limits; 0 releases it.
func (e *Engine) Hold(secondary string, from uint64) {
	e.holds.mu.Lock()
	defer e.holds.mu.Unlock()
	if from == 0 {
		delete(e.holds.from, secondary)
		return
	}
	if e.holds.from == nil {
		e.holds.from = map[string]uint64{}
	}
	e.holds.from[secondary] = from
	if e.holds.again != nil {
		e.holds.again[secondary] = true
	}
}

// RenewHolds calls set, and then releases what set does not hold again: whoever held it, on a store that stayed open, is no more.
func (e *Engine) RenewHolds(set func()) {
	h := &e.holds
	h.mu.Lock()
	h.again = map[string]bool{}
	h.mu.Unlock()
	set()
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.from, func(name string, _ uint64) bool { return !h.again[name] })
	h.again = nil
}

// lowest returns the lowest hold; ok is false when there is none.
func (h *holds) lowest() (from uint64, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.from {
		if !ok || f < from {
			from, ok = f, true
		}
	}
	return from, ok
}

// retireLocked lets go of log that neither the checkpoint nor a hold within the limits needs, and of the records of keyspaces whose drop
// the log no longer holds. The caller holds fileMu.
func (e *Engine) retireLocked(ctx context.Context) error {
	defer e.meters.Retire.Since(time.Now())
	needed := e.state.Mark().Applied.Index + 1
	keep := e.keepFrom(needed)
	before, began := e.wal.First(), time.Now()
	if _, err := e.wal.Truncate(keep); err != nil {
		if isCommit(err) {
			return fmt.Errorf("dropping log below %d: %w", keep, err)
		}
		e.log.Warn("segments that are no longer listed could not be removed: the next start tries again", "error", err)
	}
	first := e.wal.First()
	if first > before {
		e.meters.DropLog.Since(began)
		e.meters.Dropped.Store(first - before)
		if err := e.bases.drop(e.wal, first-1); err != nil {
			return fmt.Errorf("dropping notes of totals below %d: %w", first-1, err)
		}
	}
	return e.sweepLocked(ctx, first)
}

func (e *Engine) sweepLocked(ctx context.Context, below uint64) error {
	for {
		left, err := e.state.Sweep(ctx, below, sweepRecords)
		if err != nil && ctx.Err() != nil {
			return nil // the next start goes on
		}
		if err != nil {
			return fmt.Errorf("removing records of dropped keyspaces: %w", err)
		}
		active, _ := e.state.TableBytes()
		e.stats.sweeping.Store(left > 0)
		if left == 0 || active >= e.cfg.CheckpointBytes { // what is left comes after the next checkpoint
			return nil
		}
	}
}

// keepFrom returns the first index to keep: what the checkpoint needs, and what holds ask for within the limits.
func (e *Engine) keepFrom(needed uint64) uint64 {
	held, ok := e.holds.lowest()
	if !ok || held >= needed {
		return needed
	}
	held = max(held, e.wal.First())
	oldest := e.cfg.Now().Add(-e.cfg.RetainAge)
	n := sort.Search(int(needed-held), func(i int) bool {
		from := held + uint64(i)
		return e.wal.Bytes(from) <= e.cfg.RetainBytes && !e.writtenBefore(from, oldest)
	})
	return held + uint64(n)
}

// writtenBefore reports whether the frame that holds index is older than t. One that cannot be read is not.
func (e *Engine) writtenBefore(index uint64, t time.Time) bool {
	f, err := e.wal.Frame(index)
	return err == nil && time.Unix(0, f.Time).Before(t)
}

// Headroom returns for how long the log from an index on stays held at the present write rate, at most RetainAge.
func (e *Engine) Headroom(from uint64) time.Duration {
	left := e.cfg.RetainAge
	if f, err := e.wal.Frame(from); err == nil {
		left -= e.cfg.Now().Sub(time.Unix(0, f.Time))
	} else if errors.Is(err, wal.ErrGone) {
		return 0
	}
	if rate := e.stats.rate(); rate > 0 {
		bytes := float64(e.cfg.RetainBytes-e.wal.Bytes(from)) / rate
		left = min(left, time.Duration(min(bytes*float64(time.Second), float64(e.cfg.RetainAge))))
	}
	return max(left, 0)
}
