package engine

import (
	"sync/atomic"

	"github.com/lockstepdb/lockstep/internal/meter"
)

// Meters are the times and sizes of what an engine does, since Open. All may be read while they are written.
type Meters struct {
	Persist    meter.Summary // making one group durable: transaction and sync
	Group      meter.Summary // entries of one group
	Checkpoint meter.Summary // one checkpoint
	Retire     meter.Summary // letting go of log after a checkpoint, and of the records of dropped keyspaces
	DropLog    meter.Summary // the part of it that removes segments
	Dropped    atomic.Uint64 // entries that the last of them removed
	Waiting    atomic.Int64  // bytes that the last checkpoint began with
}

// Meters returns the engine's meters.
func (e *Engine) Meters() *Meters { return &e.meters }

// Poisoned returns why the engine answers no further write, nil when it does.
func (e *Engine) Poisoned() error { return e.life.failure() }

// MinFree returns the free disk below which clients' writes are refused; 0: never.
func (e *Engine) MinFree() int64 { return max(e.disk.minFree.Load(), 0) }
