package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// How often the table is drawn: in place on a terminal, as a line elsewhere.
const (
	redraw    = 250 * time.Millisecond
	lineEvery = time.Second
)

// table shows the clusters while the story goes on. On a terminal it is drawn
// in place below what was said; elsewhere it is a line a second.
type table struct {
	out          io.Writer
	terminal     bool
	primary      *node
	secondaries  []*node
	acknowledged *list

	mu    sync.Mutex // guards out and drawn
	drawn []string   // the table on the screen

	seen map[string]*seen // by node; the drawing goroutine's own
}

// seen is what the table remembers of a node from one look to the next.
type seen struct {
	rate
	index uint64    // last that it told,
	at    time.Time // and when
}

// rate turns a counter into a number a second.
type rate struct {
	at    time.Time
	value uint64
	last  float64
}

func (r *rate) per(now time.Time, value uint64) float64 {
	if elapsed := now.Sub(r.at); r.at.IsZero() || elapsed >= lineEvery {
		if !r.at.IsZero() && value >= r.value {
			r.last = float64(value-r.value) / elapsed.Seconds()
		}
		r.at, r.value = now, value
	}
	return r.last
}

// isTerminal reports whether w can be drawn on.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// say prints a line of the story above the table.
func (t *table) say(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.erase()
	fmt.Fprintf(t.out, format+"\n", args...)
}

// erase goes up as many lines as the table takes now: one that was narrowed
// since has wrapped what was drawn.
func (t *table) erase() {
	if len(t.drawn) > 0 {
		fmt.Fprintf(t.out, "\x1b[%dA\x1b[J", height(t.drawn, t.width()))
		t.drawn = nil
	}
}

// show draws until ctx ends.
func (t *table) show(ctx context.Context) {
	t.look(ctx) // rates need a first value
	every := lineEvery
	if t.terminal {
		every = redraw
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.draw(t.look(ctx))
		}
	}
}

// line is a cluster's row.
type line struct {
	name, role, state   string
	index, lag          uint64
	ms                  int64
	digests             []string // of a primary: one a set
	perSecond           float64
	secondary, answered bool
	same                bool // the primary shows the same digest
}

// look asks every cluster at once.
func (t *table) look(ctx context.Context) []line {
	lines := make([]line, 1+len(t.secondaries))
	primary := make([]*status, len(t.secondaries))
	own := make([]*status, len(t.secondaries))
	var asking sync.WaitGroup
	for i, s := range t.secondaries {
		asking.Go(func() { primary[i] = ask(ctx, t.primary, s.kind) })
		asking.Go(func() { own[i] = ask(ctx, s, s.kind) })
	}
	asking.Wait()
	now := time.Now()
	lines[0] = t.primaryLine(now, primary)
	for i, s := range t.secondaries {
		lines[i+1] = t.secondaryLine(now, s, primary[i], own[i])
	}
	return lines
}

// ask returns nil when the node does not answer: the table then says so.
func ask(ctx context.Context, n *node, set string) *status {
	if !n.running() {
		return nil
	}
	s, err := n.status(ctx, set)
	if err != nil {
		return nil
	}
	return s
}

func (t *table) of(n *node) *seen {
	if t.seen == nil {
		t.seen = map[string]*seen{}
	}
	if t.seen[n.name] == nil {
		t.seen[n.name] = &seen{}
	}
	return t.seen[n.name]
}

func (t *table) primaryLine(now time.Time, sets []*status) line {
	l := line{name: t.primary.name, role: "primary", state: "no answer", perSecond: t.of(t.primary).per(now, uint64(t.acknowledged.len()))}
	for i, s := range sets {
		if s == nil || s.Mode == "" {
			continue
		}
		l.answered, l.state, l.index = true, s.State, max(l.index, s.last(t.secondaries[i].kind))
		l.digests = append(l.digests, s.MerkleRoot)
	}
	return l
}

// secondaryLine shows what the secondary tells of itself, and how many entries
// of its primary it lacks as the primary tells. One that is down lags on.
func (t *table) secondaryLine(now time.Time, n *node, primary, own *status) line {
	l := line{name: n.name, role: n.kind + " secondary", secondary: true, answered: true}
	seen := t.of(n)
	if own == nil {
		l.state, l.index, l.ms = "no answer", seen.index, now.Sub(seen.at).Milliseconds()
		if !n.running() {
			l.state = "down"
		}
	} else {
		seen.index, seen.at = own.LastRemoteWAL, now
		l.state, l.index, l.ms, l.digests = own.State, own.LastRemoteWAL, own.LagMilliseconds, []string{own.MerkleRoot}
		if own.Mode == "bootstrapping" {
			l.state = own.Mode
		}
	}
	l.perSecond = seen.per(now, seen.index)
	if primary != nil {
		l.lag = primary.last(n.kind) - min(l.index, primary.last(n.kind))
		l.same = own != nil && own.MerkleRoot != "" && primary.MerkleRoot == own.MerkleRoot
	}
	return l
}

func (t *table) draw(lines []line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.terminal {
		fmt.Fprintln(t.out, oneLine(lines, t.acknowledged.len()))
		return
	}
	t.erase()
	t.drawn = rows(lines, t.acknowledged.len(), t.width())
	fmt.Fprintln(t.out, strings.Join(t.drawn, "\n"))
}

// last draws a table that stays.
func (t *table) last(lines []line) {
	t.draw(lines)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drawn = nil
}
