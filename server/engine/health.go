package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// keptDamage is how much damage waits to be repaired; the newest is kept.
const keptDamage = 64

// damages passes on what was found to be wrong.
type damages struct {
	mu sync.Mutex // one sender at a time
	ch chan storage.Damage
}

func (d *damages) found(x storage.Damage) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		select {
		case d.ch <- x:
			return
		default:
		}
		select {
		case <-d.ch:
		default:
		}
	}
}

// Damaged returns a channel that receives what recovery, reads, checkpoints or checks found to be wrong (bounded; newest kept). A secondary repairs it from its primary.
func (e *Engine) Damaged() <-chan storage.Damage { return e.damaged.ch }

// NeedsRepair returns why this store must be synced from its primary, "" when it need not. It is durable until a sync has ended.
func (e *Engine) NeedsRepair() string { return string(e.wal.Note(noteRepair)) }

// CheckReport is what Check found.
type CheckReport struct {
	storage.CheckReport
	Log []LogDamage // at most 1000
	// NotCompared says from where on log and state could not be compared, because the log is damaged there; "": they were, or need not be.
	NotCompared string
}

// maxLogDamage bounds a report.
const maxLogDamage = 1000

// Check hashes everything again: records, leaves, totals, log. It makes a checkpoint first, so that every
// record applied now is among those checked; log that nothing needs any more is kept until it has been checked. Progress may be nil.
func (e *Engine) Check(ctx context.Context, progress func(stage string, done, total uint64)) (CheckReport, error) {
	if err := e.flush(ctx); err != nil {
		return CheckReport{}, err
	}
	r, err := checkStore(ctx, e.state, e.wal, e.keys, progress)
	for _, d := range r.Damage {
		e.damaged.found(d)
	}
	if len(r.Log) > 0 {
		d := r.Log[0]
		e.damaged.found(storage.Damage{File: d.File, What: fmt.Sprintf("log, index %d: %s", d.Index, d.What)})
		e.badLog.Store(e.repairable.Load())
	}
	return r, err
}

// RenewLog makes a checkpoint and lets the log begin again after it: damaged segments, which the state does not need, are
// gone. Secondaries that would have needed them are repaired by a sync. The end of a sync does it by itself when Check has found a secondary's log damaged.
func (e *Engine) RenewLog(ctx context.Context) error {
	return e.alone(ctx, func(ctx context.Context) error {
		if e.sync.spooling() != nil {
			return ErrInconsistent
		}
		if err := e.flushLocked(ctx); err != nil {
			return err
		}
		return e.beginLog(e.place.now())
	})
}

// beginLog lets the log begin again after a place, at which the totals are those of the state.
func (e *Engine) beginLog(at wal.Position, chain wal.Hash) error {
	notes := e.bases.clear()
	notes[baseNote(at.Index)], notes[noteRewind] = storage.EncodeTotals(e.state.Totals()), nil
	if err := e.wal.Reset(at, chain, notes); err != nil {
		return e.abandonCommit(fmt.Errorf("beginning the log again after %d: %w", at.Index, err))
	}
	e.bases.begin(at.Index)
	e.com.begin(at, chain)
	return nil
}

func checkStore(ctx context.Context, state *storage.State, log *wal.Log, keys *keyring, progress func(string, uint64, uint64)) (CheckReport, error) {
	var r CheckReport
	var err error
	if r.CheckReport, err = state.Check(ctx, stage(progress, "records")); err != nil {
		return r, fmt.Errorf("checking records: %w", err)
	}
	r.Log, err = checkLog(ctx, log, func(d wal.Damage) LogDamage { return suspects(d, state, keys) }, stage(progress, "log"))
	return r, err
}

func checkLog(ctx context.Context, log *wal.Log, name func(wal.Damage) LogDamage, progress func(done, total uint64)) ([]LogDamage, error) {
	var damage []LogDamage
	end, _ := log.End()
	first := log.First()
	progress(0, end.Index+1-first)
	err := log.Verify(ctx, first, end.Index+1, func(d wal.Damage) error { // beyond the end: a segment that no longer tells where it ends
		if len(damage) < maxLogDamage {
			damage = append(damage, name(d))
		}
		return nil
	})
	if errors.Is(err, wal.ErrGone) {
		err = nil // retention overtook the check
	}
	if err != nil {
		return damage, fmt.Errorf("checking the log: %w", err)
	}
	progress(end.Index+1-first, end.Index+1-first)
	return damage, nil
}

func stage(progress func(string, uint64, uint64), name string) func(done, total uint64) {
	if progress == nil {
		return func(uint64, uint64) {}
	}
	return func(done, total uint64) { progress(name, done, total) }
}

// Reindex rebuilds leaves, stored digests and totals from the records. When the truth differs from what the log's frames say, the totals of this engine are the truth from then on.
// Writes wait until it has ended.
func (e *Engine) Reindex(ctx context.Context, progress func(stage string, done, total uint64)) (wrong uint64, err error) {
	return e.reindex(ctx, true, progress)
}

// ReindexUnflushed is Reindex that leaves what waits for a checkpoint where it is: writes wait less long.
func (e *Engine) ReindexUnflushed(ctx context.Context, progress func(stage string, done, total uint64)) (wrong uint64, err error) {
	return e.reindex(ctx, false, progress)
}

func (e *Engine) reindex(ctx context.Context, flush bool, progress func(stage string, done, total uint64)) (wrong uint64, err error) {
	err = e.alone(ctx, func(ctx context.Context) error {
		if flush && e.sync.spooling() == nil {
			if err := e.flushLocked(ctx); err != nil {
				return err
			}
		}
		before := e.state.Totals()
		var err error
		if wrong, err = e.state.Reindex(ctx, stage(progress, "reindex")); err != nil {
			if isCommit(err) {
				return e.abandon(ctx, fmt.Errorf("reindex: %w", err))
			}
			return err
		}
		e.seq.ledger.reload()
		e.system.Add(1)
		if slices.Equal(before, e.state.Totals()) {
			return nil
		}
		return e.rebase()
	})
	return wrong, err
}

// SetRepairable says anew whether a primary holds what this store holds: a role changed while the store is open.
func (e *Engine) SetRepairable(on bool) {
	e.repairable.Store(on)
	e.state.SetRepairable(on)
}

// Repairable reports whether a primary holds what this store holds.
func (e *Engine) Repairable() bool { return e.repairable.Load() }

// ReindexInterrupted reports whether a reindex began, in this life or the one before, and has not ended.
func (e *Engine) ReindexInterrupted() bool { return e.state.Mark().Reindexing }

// rebase notes the totals here and now: those before, added up from frames, may be others than the truth.
func (e *Engine) rebase() error {
	if e.sync.spooling() != nil {
		return nil
	}
	at, chain := e.place.now()
	notes := e.bases.clear()
	notes[baseNote(at.Index)] = storage.EncodeTotals(e.state.Totals())
	if err := e.setNotes(notes); err != nil {
		return err
	}
	e.bases.begin(at.Index)
	e.com.begin(at, chain)
	return nil
}

// isCommit reports whether a commit failed, so that what is on disk is unknown.
func isCommit(err error) bool {
	var c *boltfile.CommitError
	return errors.As(err, &c) || errors.Is(err, wal.ErrPoisoned)
}

// Stats are counters for status and metrics.
type Stats struct {
	Commits, Entries, CommitBytes uint64
	Checkpoints                   uint64
	LastCheckpoint                time.Time
	WaitingBytes                  int64         // active table
	Throttled                     time.Duration // total time commits waited for a checkpoint
	LogFirst, LogLast             uint64
	LogBytes                      int64
	Checkpointed                  uint64 // index up to which the state file holds everything
	RingEntries                   uint64 // newest entries kept in memory for streams
	RingBytes, RingLimit          int64
	StateBytes, DiskFree          int64
}

// counters are what Stats is made of.
type counters struct {
	commits, entries, bytes atomic.Uint64
	throttled               atomic.Int64
	cursorMoved             atomic.Bool // a cursor moved without an entry since the last checkpoint
	sweeping                atomic.Bool // records of dropped keyspaces wait to be removed

	mu          sync.Mutex // guards what follows
	checkpoints uint64
	last        time.Time
	finished    chan struct{} // closed at the end of the next checkpoint
	rateAt      time.Time     // bytes a second, decaying with a time constant of a minute
	rateValue   float64
}

func (c *counters) commit(g *group) {
	c.commits.Add(1)
	c.entries.Add(uint64(len(g.entries)))
	c.bytes.Add(uint64(g.bytes))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.decayLocked(time.Now())
	c.rateValue += float64(g.bytes) / rateWindow.Seconds()
}

const rateWindow = time.Minute

func (c *counters) decayLocked(now time.Time) {
	if passed := now.Sub(c.rateAt); !c.rateAt.IsZero() && passed < 10*rateWindow {
		c.rateValue /= 1 + passed.Seconds()/rateWindow.Seconds()
	} else {
		c.rateValue = 0
	}
	c.rateAt = now
}

// rate returns the bytes committed a second, of late.
func (c *counters) rate() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.decayLocked(time.Now())
	return c.rateValue
}

// checkpoint counts an ended checkpoint and wakes who waits for one.
func (c *counters) checkpoint(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checkpoints++
	c.last = now
	if c.finished != nil {
		close(c.finished)
		c.finished = nil
	}
}

func (c *counters) nextCheckpoint() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.finished == nil {
		c.finished = make(chan struct{})
	}
	return c.finished
}

// Stats returns counters since Open, and sizes now.
func (e *Engine) Stats() Stats {
	s := Stats{
		Commits:     e.stats.commits.Load(),
		Entries:     e.stats.entries.Load(),
		CommitBytes: e.stats.bytes.Load(),
		Throttled:   time.Duration(e.stats.throttled.Load()),
		LogFirst:    e.wal.First(),
	}
	e.stats.mu.Lock()
	s.Checkpoints, s.LastCheckpoint = e.stats.checkpoints, e.stats.last
	e.stats.mu.Unlock()
	s.WaitingBytes, _ = e.state.TableBytes()
	s.LogBytes = e.wal.Bytes(s.LogFirst)
	s.LogLast = e.Position().Index
	s.Checkpointed = e.state.Mark().Applied.Index
	s.RingEntries, s.RingBytes, s.RingLimit = e.wal.Held()
	s.StateBytes = fileSize(e.path(stateFile))
	s.DiskFree, _ = e.disk.look() // 0: unknown
	return s
}
