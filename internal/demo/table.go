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
	drawn int        // lines of the table on the screen

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

func (t *table) erase() {
	if t.drawn > 0 {
		fmt.Fprintf(t.out, "\x1b[%dA\x1b[J", t.drawn)
		t.drawn = 0
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
	digest              string
	perSecond           float64
	secondary, answered bool
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
	var digests []string
	for i, s := range sets {
		if s == nil || s.Mode == "" {
			continue
		}
		l.answered, l.state, l.index = true, s.State, max(l.index, s.last(t.secondaries[i].kind))
		digests = append(digests, short(s.MerkleRoot))
	}
	l.digest = strings.Join(digests, " ")
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
		l.state, l.index, l.ms, l.digest = own.State, own.LastRemoteWAL, own.LagMilliseconds, short(own.MerkleRoot)
		if own.Mode == "bootstrapping" {
			l.state = own.Mode
		}
	}
	l.perSecond = seen.per(now, seen.index)
	if primary != nil {
		l.lag = primary.last(n.kind) - min(l.index, primary.last(n.kind))
		if own != nil && own.MerkleRoot != "" && primary.MerkleRoot == own.MerkleRoot {
			l.digest += " = primary"
		}
	}
	return l
}

func short(root string) string { return root[:min(len(root), 12)] }

func (t *table) draw(lines []line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.terminal {
		fmt.Fprintln(t.out, oneLine(lines, t.acknowledged.len()))
		return
	}
	t.erase()
	rows := rows(lines, t.acknowledged.len())
	fmt.Fprintln(t.out, strings.Join(rows, "\n"))
	t.drawn = len(rows)
}

// last draws a table that stays.
func (t *table) last(lines []line) {
	t.draw(lines)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drawn = 0
}

func rows(lines []line, acknowledged int) []string {
	const format = "  %-10s %-21s %-12s %10s %8s %7s %8s  %s"
	out := []string{"", fmt.Sprintf(format, "cluster", "role", "state", "last index", "lag", "lag ms", "writes/s", "verified digest")}
	for _, l := range lines {
		index, lag, ms := "-", "-", "-"
		if l.answered {
			index = fmt.Sprint(l.index)
			if l.secondary {
				lag, ms = fmt.Sprint(l.lag), fmt.Sprint(l.ms)
			}
		}
		out = append(out, fmt.Sprintf(format, l.name, l.role, l.state, index, lag, ms, fmt.Sprintf("%.0f", l.perSecond), l.digest))
	}
	return append(out, fmt.Sprintf("  %d writes acknowledged", acknowledged))
}

func oneLine(lines []line, acknowledged int) string {
	parts := []string{fmt.Sprintf("%6d acknowledged", acknowledged)}
	for _, l := range lines {
		switch {
		case !l.answered:
			parts = append(parts, l.name+" "+l.state)
		case l.secondary:
			parts = append(parts, fmt.Sprintf("%s %s at %d, lag %d / %d ms, %.0f/s, %s", l.name, l.state, l.index, l.lag, l.ms, l.perSecond, l.digest))
		default:
			parts = append(parts, fmt.Sprintf("%s %s at %d, %.0f/s, %s", l.name, l.state, l.index, l.perSecond, l.digest))
		}
	}
	return strings.Join(parts, " | ")
}
