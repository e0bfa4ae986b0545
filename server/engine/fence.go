package engine

import (
	"context"
	"errors"
	"sync"

	"github.com/lockstepdb/lockstep/storage"
)

// ErrFenced is what every Fence is, for errors.Is.
var ErrFenced = errors.New("this cluster is fenced: it takes no writes")

// Fence is why a writer takes no transactions any more, although log and disk are well: another cluster may have taken its place. Whoever sets it says, and
// keeps, why; the engine only refuses.
type Fence struct {
	Shared bool   // only what changes the replicated scope is refused
	Reason string // a sentence for clients, with what to do
}

func (f *Fence) Error() string { return f.Reason }
func (f *Fence) Unwrap() error { return ErrFenced }

// fenceHolder guards the fence in force.
type fenceHolder struct {
	mu  sync.RWMutex // guards now; read-locked from the check of a transaction until it is sequenced
	now *Fence
}

func (h *fenceHolder) get() *Fence {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.now
}

// SetFence refuses transactions from now on, nil takes them again. What was sequenced before is committed and answered; what is sequenced after it has
// returned is not. BeginEpoch is let through: it is how a fence ends. What a feeder sends (Ingest…) is not a transaction.
func (e *Engine) SetFence(f *Fence) {
	e.fence.mu.Lock()
	defer e.fence.mu.Unlock()
	e.fence.now = f
}

// Settle waits until everything that was sequenced before is durable and readable: after SetFence, until what the fence did not refuse is there.
func (e *Engine) Settle(ctx context.Context) error {
	_, err := e.submitWhole(ctx, &exclusive{ctx: ctx}) // not alone: a checkpoint need not be waited for
	return err
}

// fenced says why every transaction is refused, nil when not.
func (e *Engine) fenced() error { return e.fence.get().whole() }

// whole refuses a transaction before it is looked at.
func (f *Fence) whole() error {
	if f == nil || f.Shared {
		return nil
	}
	return f
}

// nothing refuses a transaction that found nothing to write in a scope that is fenced: there may be something where another cluster took this one's place.
func (f *Fence) nothing(tx *Tx, l *ledger) error {
	if f == nil {
		return nil
	}
	for _, k := range tx.Reads {
		if t, ok := l.total(k.Keyspace); ok && t.Scope == storage.Replicated {
			return f
		}
	}
	return nil
}

// entry refuses what changes a scope that is fenced.
func (f *Fence) entry(entry *storage.Entry) error {
	if f == nil {
		return nil
	}
	for i := range entry.Blocks {
		if !f.Shared || entry.Blocks[i].Scope == storage.Replicated {
			return f
		}
	}
	return nil
}
