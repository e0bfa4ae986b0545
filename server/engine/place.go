package engine

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// place is how far this cluster is: what readers, streams and waiters go by.
type place struct {
	mu      sync.Mutex // guards what follows
	at      wal.Position
	chain   wal.Hash
	cursors map[string]wal.Position
	moved   chan struct{} // closed at the next change of at
	passed  chan struct{} // closed at the next change of at or of a cursor
}

func (p *place) begin(at wal.Position, chain wal.Hash, cursors map[string]wal.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.chain, p.cursors = at, chain, maps.Clone(cursors)
	if p.cursors == nil {
		p.cursors = map[string]wal.Position{}
	}
	p.wakeLocked(true)
}

func (p *place) move(at wal.Position, chain wal.Hash, cursors map[string]wal.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.chain = at, chain
	maps.Copy(p.cursors, cursors)
	p.wakeLocked(true)
}

func (p *place) setCursor(sub string, at wal.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cursors[sub] = at
	p.wakeLocked(false)
}

func (p *place) wakeLocked(moved bool) {
	if moved {
		if p.moved != nil {
			close(p.moved)
		}
		p.moved = make(chan struct{})
	}
	if p.passed != nil {
		close(p.passed)
	}
	p.passed = make(chan struct{})
}

func (p *place) now() (wal.Position, wal.Hash) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at, p.chain
}

func (p *place) cursor(sub string) wal.Position {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cursors[sub]
}

// of returns a cursor, or for "" the end of the own log, and what is closed at its next change.
func (p *place) of(sub string) (wal.Position, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sub != "" {
		return p.cursors[sub], p.passed
	}
	return p.at, p.passed
}

// Position returns the newest durable, applied place of the own log. During a sync of a Verbatim store
// it is the place up to which frames are kept.
func (e *Engine) Position() wal.Position {
	at, _ := e.place.now()
	return at
}

// Chain returns the chain hash of the frame at Position.
func (e *Engine) Chain() wal.Hash {
	_, chain := e.place.now()
	return chain
}

// Cursor returns the feeder's place up to which a subscription is complete here, as of the newest applied entry.
// Since the beginning of a sync it is the sync's S until the spool is applied.
func (e *Engine) Cursor(sub string) wal.Position { return e.place.cursor(sub) }

// Passed waits until the subscription's cursor (or, for "", the own log) has passed index. It also returns when the cursor goes back: it is then the place in
// another log.
func (e *Engine) Passed(ctx context.Context, sub string, index uint64) error {
	highest := uint64(0)
	for {
		at, changed := e.place.of(sub)
		if at.Index >= index || at.Index < highest {
			return nil
		}
		highest = at.Index
		select {
		case <-changed:
		case <-e.life.ended:
			return e.life.refusal()
		case <-ctx.Done():
			return fmt.Errorf("index %d has not been passed: %w", index, context.Cause(ctx))
		}
	}
}

// Wake returns a channel that is closed at the next change of Position.
func (e *Engine) Wake() <-chan struct{} {
	e.place.mu.Lock()
	defer e.place.mu.Unlock()
	return e.place.moved
}

// Totals of all keyspaces at the newest applied entry, together with that place.
func (e *Engine) Totals() ([]storage.KeyspaceTotal, wal.Position) {
	e.applyMu.RLock()
	defer e.applyMu.RUnlock()
	at, _ := e.place.now()
	return e.state.Totals(), at
}
