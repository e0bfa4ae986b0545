package crash

import (
	"fmt"
	"slices"
	"sync"
)

// ledger is the test's own list of what was written: for each key the last
// value that the primary acknowledged, and those it was sent since without an
// answer. It is kept outside the product, so that no lost write goes unnoticed.
type ledger struct {
	mu      sync.Mutex
	records map[string]*record
	acked   int // writes acknowledged, ever
	touched map[string]bool
}

// record is one key's story since its value was last known for certain.
type record struct {
	acked string   // "" when nothing was ever acknowledged
	maybe []string // sent later, outcome unknown, in order
}

func newLedger() *ledger {
	return &ledger{records: map[string]*record{}, touched: map[string]bool{}}
}

// sending notes a value before it is sent: from here on it may be found.
func (l *ledger) sending(key, value string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.records[key]
	if r == nil {
		r = &record{}
		l.records[key] = r
	}
	r.maybe = append(r.maybe, value)
	l.touched[key] = true
}

// acknowledged notes that the primary answered: from here on it must be found.
func (l *ledger) acknowledged(key, value string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*l.records[key] = record{acked: value}
	l.acked++
}

// settle compares what a cluster shows with what it may show; the value shown
// is the key's value from then on.
func (l *ledger) settle(key, value string, found bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.records[key]
	if !found {
		if r.acked != "" {
			return fmt.Errorf("%s: lost; %q was acknowledged", key, brief(r.acked))
		}
		r.maybe = nil
		return nil
	}
	if value != r.acked && !slices.Contains(r.maybe, value) {
		return fmt.Errorf("%s: holds %q; %q was acknowledged, %d later ones had no answer", key, brief(value), brief(r.acked), len(r.maybe))
	}
	*r = record{acked: value}
	return nil
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// takeTouched returns the keys written since the last call.
func (l *ledger) takeTouched() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys := make([]string, 0, len(l.touched))
	for k := range l.touched {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	clear(l.touched)
	return keys
}

// keys returns every key ever written, in order.
func (l *ledger) keys() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys := make([]string, 0, len(l.records))
	for k := range l.records {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func brief(value string) string {
	if len(value) > 24 {
		return value[:24] + "…"
	}
	return value
}
