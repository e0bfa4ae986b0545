package replication

import (
	"context"
	"sync"
)

// intake is what was received and not yet taken, bounded by twice what the feeder may have in flight.
type intake struct {
	limits
	ready chan struct{} // one slot: there is something

	mu             sync.Mutex // guards what follows
	batches        []*batch
	bytes, entries int
}

const takeBytes = 4 << 20 // of batches that are committed at once

func newIntake(w limits) *intake {
	return &intake{limits: w.orDefault(), ready: make(chan struct{}, 1)}
}

// put refuses a feeder that sends more than it was allowed to.
func (in *intake) put(b *batch) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.batches = append(in.batches, b)
	in.bytes += b.Bytes
	in.entries += max(b.Entries, 1)
	if in.entries > 2*in.Entries || in.bytes > 2*in.Bytes+maxBatch {
		return malformed("the primary has %d entries and %d bytes in flight, more than it was allowed to", in.entries, in.bytes)
	}
	in.signal()
	return nil
}

func (in *intake) signal() {
	select {
	case in.ready <- struct{}{}:
	default:
	}
}

// take waits for batches and returns as many as are committed at once; none when it was only woken. It ends with ctx.
func (in *intake) take(ctx context.Context) ([]*batch, error) {
	select {
	case <-in.ready:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	n, bytes, entries := 0, 0, 0
	for n < len(in.batches) && (n == 0 || bytes+in.batches[n].Bytes <= takeBytes && entries < windowEntries/4) {
		bytes += in.batches[n].Bytes
		entries += max(in.batches[n].Entries, 1)
		n++
	}
	out := append([]*batch(nil), in.batches[:n]...)
	in.batches = append(in.batches[:0], in.batches[n:]...)
	clear(in.batches[len(in.batches):cap(in.batches)])
	in.bytes -= bytes
	in.entries -= entries
	if len(in.batches) > 0 {
		in.signal()
	}
	return out, nil
}
