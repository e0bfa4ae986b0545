package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/lockstepdb/lockstep/test/cluster"
)

const (
	recordBytes = 600
	loaders     = 8
)

// oracle is the test's own list of acknowledged writes, outside the product. Each key is written once.
type oracle struct {
	acked map[string]string // path → value
	bytes int
}

// fill writes records below kv/path and keeps them.
func (o *oracle) fill(t *testing.T, n *cluster.Node, path string, records int) {
	t.Helper()
	cluster.Fill(t, n, "kv/"+path, records, recordBytes)
	for i := range records {
		o.keep(cluster.Key(path, i), cluster.Value(i, 0, recordBytes))
	}
}

func (o *oracle) keep(key, value string) {
	o.acked["kv/"+key] = value
	o.bytes += len(value)
}

// allOn demands that a cluster shows every acknowledged write to who holds a token.
func (o *oracle) allOn(t *testing.T, n *cluster.Node, token string) {
	t.Helper()
	if err := n.Shows(token, o.acked); err != nil {
		t.Error(err)
	}
	t.Logf("%-12s … shows all %d acknowledged writes, %d bytes", n.Name, len(o.acked), o.bytes)
}

func get(c *api.Client, key string) (value string, found bool, err error) {
	secret, err := c.KVv1("kv").Get(context.Background(), key)
	switch {
	case errors.Is(err, api.ErrSecretNotFound):
		return "", false, nil
	case err != nil:
		return "", false, fmt.Errorf("kv/%s: %w", key, err)
	}
	return fmt.Sprint(secret.Data["value"]), true, nil
}

// load is writers at a primary, each with keys of its own in order, until the primary refuses or is gone.
type load struct {
	path string
	done sync.WaitGroup

	mu     sync.Mutex
	acked  [loaders]int
	grown  chan struct{} // one slot: there are more
	failed error         // what ended a writer, the first
}

func startLoad(n *cluster.Node, path string) *load {
	l := &load{path: path, grown: make(chan struct{}, 1)}
	for w := range loaders {
		l.done.Go(func() {
			for i := 0; ; i++ {
				err := n.Put(context.Background(), "kv/"+l.key(w, i), cluster.Value(i, w, recordBytes))
				l.mu.Lock()
				if err != nil {
					l.failed = err
				} else {
					l.acked[w]++
				}
				l.mu.Unlock()
				select {
				case l.grown <- struct{}{}:
				default:
				}
				if err != nil {
					return
				}
			}
		})
	}
	return l
}

func (l *load) key(w, i int) string { return fmt.Sprintf("%s/%d/%06d", l.path, w, i) }

// upTo returns how many writes of each writer were acknowledged.
func (l *load) upTo() (acked [loaders]int, all int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.acked {
		all += n
	}
	return l.acked, all
}

// reaches waits until so many writes were acknowledged.
func (l *load) reaches(t *testing.T, want int) {
	t.Helper()
	for {
		if _, all := l.upTo(); all >= want {
			return
		}
		l.mu.Lock()
		failed := l.failed
		l.mu.Unlock()
		if failed != nil {
			t.Fatalf("a writer was ended before its time: %v", failed)
		}
		<-l.grown
	}
}

// end waits until every writer was refused, and keeps all that was acknowledged.
func (l *load) end(o *oracle) {
	l.done.Wait()
	acked, _ := l.upTo()
	l.keep(o, acked)
}

// keep gives the oracle the first writes of each writer.
func (l *load) keep(o *oracle, first [loaders]int) {
	for w, n := range first {
		for i := range n {
			o.keep(l.key(w, i), cluster.Value(i, w, recordBytes))
		}
	}
}

// shown returns how many writes of each writer a cluster shows. They must be the first ones: a secondary is a prefix. The last may have had no answer.
func (l *load) shown(t *testing.T, n *cluster.Node, token string) (shown [loaders]int, lost int) {
	t.Helper()
	c := operator(n)
	c.SetToken(token)
	acked, _ := l.upTo()
	for w := range loaders {
		gap := -1
		for i := range acked[w] + 1 {
			got, found, err := get(c, l.key(w, i))
			switch {
			case err != nil:
				t.Fatal(err)
			case !found && i < acked[w]:
				lost++
			}
			switch {
			case !found && gap < 0:
				gap = i
			case found && gap >= 0:
				t.Errorf("%s shows kv/%s and not kv/%s, which was written before", n.Name, l.key(w, i), l.key(w, gap))
			case found:
				shown[w]++
				if want := cluster.Value(i, w, recordBytes); got != want {
					t.Errorf("kv/%s on %s holds %.30q, want %.30q", l.key(w, i), n.Name, got, want)
				}
			}
		}
	}
	return shown, lost
}
