package failover

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

const (
	writers    = 4
	valueBytes = 200
	retryAfter = 5 * time.Millisecond
)

// clients write without pause, each record once, at whichever member takes it: what was refused goes to the next member, until it is acknowledged. What was
// acknowledged is their list, outside the servers.
type clients struct {
	path string
	at   []*member
	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex
	acked [writers]int // of each writer, its first ones
	last  time.Time    // when the last one was acknowledged
	gap   time.Duration
	grown chan struct{} // one slot
}

func startClients(t *testing.T, path string, at ...*member) *clients {
	ctx, stop := context.WithCancel(context.Background())
	c := &clients{path: path, at: at, stop: stop, last: time.Now(), grown: make(chan struct{}, 1)}
	t.Cleanup(c.end)
	for w := range writers {
		c.done.Go(func() { c.write(ctx, w) })
	}
	return c
}

func (c *clients) key(w, i int) string { return fmt.Sprintf("kv/%s/%d/%06d", c.path, w, i) }

func (c *clients) write(ctx context.Context, w int) {
	at := 0
	for i := 0; ctx.Err() == nil; {
		if err := c.at[at].Put(ctx, c.key(w, i), cluster.Value(i, w, valueBytes)); err != nil {
			at = (at + 1) % len(c.at)
			select {
			case <-ctx.Done():
			case <-time.After(retryAfter):
			}
			continue
		}
		i++
		c.acknowledged(w)
	}
}

func (c *clients) acknowledged(w int) {
	now := time.Now()
	c.mu.Lock()
	c.acked[w]++
	c.gap, c.last = max(c.gap, now.Sub(c.last)), now
	c.mu.Unlock()
	select {
	case c.grown <- struct{}{}:
	default:
	}
}

// pause returns the longest time without any acknowledgement since it was last asked.
func (c *clients) pause() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	longest := c.gap
	c.gap = 0
	return longest
}

// count is how many writes were acknowledged.
func (c *clients) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := 0
	for _, n := range c.acked {
		all += n
	}
	return all
}

// more waits until so many more writes were acknowledged.
func (c *clients) more(n int) {
	for until := c.count() + n; c.count() < until; {
		<-c.grown
	}
}

// end stops the writers.
func (c *clients) end() {
	c.stop()
	c.done.Wait()
}

// shownBy demands that a cluster shows all that was acknowledged; the writers have ended.
func (c *clients) shownBy(t *testing.T, m *member) {
	t.Helper()
	want := map[string]string{}
	for w, n := range c.acked {
		for i := range n {
			want[c.key(w, i)] = cluster.Value(i, w, valueBytes)
		}
	}
	if err := m.Shows(m.Token, want); err != nil {
		t.Error(err)
	}
}
