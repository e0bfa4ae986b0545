package crash

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

const (
	writers       = 8
	keysPerWriter = 150 // overwritten again and again, so that the data stays small over hundreds of rounds
	valueBytes    = 400
)

// load is writers that put records at a primary for as long as it answers.
// Each key belongs to one writer: its writes have an order.
type load struct {
	ledger *ledger
	node   *cluster.Node
	next   [writers]int

	stop context.CancelFunc
	done sync.WaitGroup
}

// start lets the writers run until end is called. A writer whose request
// fails waits until the primary serves again.
func (l *load) start() {
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	for w := range writers {
		l.done.Go(func() { l.write(ctx, w) })
	}
}

// end stops the writers after their present request.
func (l *load) end() {
	l.stop()
	l.done.Wait()
}

func (l *load) write(ctx context.Context, w int) {
	for ctx.Err() == nil {
		key := fmt.Sprintf("kv/w%d/%03d", w, l.next[w]%keysPerWriter)
		value := fmt.Sprintf("%d.%d.", w, l.next[w])
		value += strings.Repeat("x", valueBytes-len(value))
		l.next[w]++
		l.ledger.sending(key, value)
		// Not ctx: a request that was sent is waited for.
		if l.node.Put(context.Background(), key, value) != nil {
			pause(ctx, 5*time.Millisecond)
			continue
		}
		l.ledger.acknowledged(key, value)
	}
}

// pause keeps a writer from spinning on a refused connection.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
