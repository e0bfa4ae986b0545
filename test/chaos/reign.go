package chaos

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// reigning is the number of the present reign; 0 when there is none.
func (w *world) reigning() int {
	if len(w.reigns) == 0 {
		return 0
	}
	return w.reigns[len(w.reigns)-1].number
}

// endReign notes that a member is about to be asked to give up its part: what is read there from now on is not judged as the primary's.
func (w *world) endReign(m *member) {
	for _, r := range w.reigns {
		if r.on == m && r.last == 0 {
			r.last = w.history.now()
		}
	}
}

// beginReign makes a member that serves writes the one that clients write to, and asks it which writes of former reigns it has.
func (w *world) beginReign(m *member, planned bool) error {
	r := &reign{number: w.reigning() + 1, on: m, planned: planned, first: w.history.now(), since: m.since}
	if err := w.lower(m); err != nil {
		return err
	}
	if n := len(w.reigns); n > 0 {
		r.perf = w.reigns[n-1].on.site != m.site
	}
	if !w.learnFork(r, stepTime) {
		return &stuck{fmt.Errorf("%s takes no write after its promotion", m.name)}
	}
	w.boundary(r)
	w.reigns = append(w.reigns, r)
	w.publish(func(v *view) { v.reign, v.primary = r.number, m })
	w.note("reign %d: %s", r.number, m.name)
	return nil
}

// learnFork writes once, and so learns under which fork the member writes since it was opened.
func (w *world) learnFork(r *reign, limit time.Duration) bool {
	err := w.await("a write of "+r.on.name, limit, func() (bool, string) {
		ctx, cancel := context.WithTimeout(context.Background(), opTime)
		defer cancel()
		a, err := r.on.do(ctx, "POST", "kv/probe", []byte(`{"v":"probe"}`), r.on.userToken())
		if err != nil {
			return false, err.Error()
		}
		if a.status == http.StatusForbidden {
			_ = w.login(r.on)
		}
		at, ok := placeOf(a.header.Get("X-Vault-Index"))
		held := a.status == http.StatusConflict && strings.Contains(string(a.body), "not confirmed") // it is committed
		if a.status >= 300 && !held || !ok {
			return false, fmt.Sprintf("status %d: %s", a.status, a.body)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.forks[at.fork] = r.number
		return true, ""
	})
	if err != nil {
		w.note("%v", err)
	}
	return err == nil
}

// reignOf tells whose write an acknowledged one was, by the fork that it has.
func (w *world) reignOf(fork string) (int, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, ok := w.forks[fork]
	return n, ok
}

// before orders acknowledged writes: by reign, then by index.
func before(a, b *op) int {
	if a.reign != b.reign {
		return a.reign - b.reign
	}
	if a.at.index < b.at.index {
		return -1
	}
	if a.at.index > b.at.index {
		return 1
	}
	return 0
}

// gone tells whether a later reign has begun without a write, or could not tell: a primary that was paused may acknowledge one when another reigns already.
func (w *world) gone(o *op) bool {
	return slices.ContainsFunc(w.reigns, func(r *reign) bool {
		return r.number > o.reign && (r.blind || r.kept == nil || before(o, r.kept) > 0)
	})
}

// written are the acknowledged writes up to now that have a place and were not lost before, in order.
func (w *world) written() []*op {
	var all []*op
	for _, o := range w.history.all() {
		if !o.kind.writes() || o.outcome != done || o.mismatch || o.at.index == 0 {
			continue
		}
		if n, ok := w.reignOf(o.at.fork); ok {
			c := *o
			if c.reign = n; !w.gone(&c) {
				all = append(all, &c)
			}
		}
	}
	slices.SortStableFunc(all, before)
	return all
}

// lastAcknowledged is the highest index of the present reign that a client was told.
func (w *world) lastAcknowledged() uint64 {
	time.Sleep(100 * time.Millisecond) // what was answered just now is noted
	var last uint64
	for _, o := range w.written() {
		if o.reign == w.reigning() {
			last = max(last, o.at.index)
		}
	}
	return last
}

// boundary finds where the new primary's history leaves those before: the index tokens of acknowledged writes tell.
func (w *world) boundary(r *reign) {
	all := slices.DeleteFunc(w.written(), func(o *op) bool { return o.reign >= r.number }) // by way of a secondary it may have taken some itself already
	if len(all) == 0 {
		return
	}
	low, high, sure := 0, len(all), -1
	for low < high {
		mid := (low + high) / 2
		switch status, text := w.holds(r.on, all[mid]); {
		case strings.Contains(text, "cannot be placed"): // too old for the logs: then it is among what is kept, or nobody can tell
			low = mid + 1
		case status == http.StatusOK:
			low, sure = mid+1, mid
		default:
			high = mid
		}
	}
	if low > 0 && sure != low-1 {
		w.tally.note("promotion whose place in its predecessor's log nobody can tell")
	}
	if r.blind = sure != low-1 || low == 0 && r.perf; r.blind {
		return
	}
	if low > 0 {
		r.kept = all[low-1]
	}
	if low < len(all) {
		r.lost = all[low]
		w.note("reign %d of %s begins before %s", r.number, r.on.name, r.lost)
	}
}

// holds asks a cluster whether it has what a token names.
func (w *world) holds(m *member, o *op) (status int, text string) {
	err := w.await("an answer about an index token", stepTime, func() (bool, string) {
		ctx, cancel := context.WithTimeout(context.Background(), opTime)
		defer cancel()
		a, err := m.do(ctx, "GET", "kv/probe", nil, m.userToken(), "X-Vault-Index", o.token)
		if err != nil {
			return false, err.Error()
		}
		status, text = a.status, string(a.body)
		return status == http.StatusOK || status == http.StatusPreconditionFailed || status == http.StatusConflict, fmt.Sprint(status)
	})
	if err != nil {
		w.note("%v", err)
	}
	return status, text
}

// interval is a time in which a secondary streamed and nothing was brought into line.
type interval struct {
	from, to time.Duration
	life     int64
	repairs  float64
}

const watchEvery = 40 * time.Millisecond

// observe watches in which state the performance secondaries are.
func (w *world) observe(ctx context.Context) {
	if len(w.sites) == 1 {
		return
	}
	for _, m := range w.members {
		w.watch.Go(func() {
			good := false
			for ctx.Err() == nil {
				good = w.look(m, good)
				rest(ctx, watchEvery)
			}
		})
	}
}

// look asks once; good tells whether the look before found the member in order.
func (w *world) look(m *member, good bool) bool {
	from := w.history.now()
	s, err := statusOf(m)
	if err != nil || s.Mode != "secondary" || s.State != "stream-wals" {
		return false
	}
	if whole, _ := s.Raw["consistent"].(bool); !whole {
		return false
	}
	repairs, _ := s.Number("repair")
	now := interval{from, w.history.now(), m.life.Load(), repairs}
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.calm[m]
	if n := len(all); good && n > 0 && all[n-1].life == now.life && all[n-1].repairs == now.repairs {
		all[n-1].to = now.from
		return true
	}
	w.calm[m] = append(all, interval{now.to, now.to, now.life, now.repairs})
	return true
}

func statusOf(m *member) (*cluster.Status, error) {
	if !m.node.Running() {
		return nil, fmt.Errorf("%s does not run", m.name)
	}
	return m.node.Status(cluster.Performance)
}

// wasCalm tells whether a read fell into a calm time of its secondary.
func (w *world) wasCalm(o *op) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, in := range w.calm[o.on] {
		if in.from <= o.call && o.ret <= in.to && int64(o.life) == in.life {
			return true
		}
	}
	return false
}
