package chaos

import (
	"fmt"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// fenced is a primary that has said that it takes no writes of a set. It was asked at from, and had answered at to.
type fenced struct {
	on       *member
	kind     cluster.Kind
	from, to time.Duration
}

// release is the call that ends a fence: a demotion. It may take effect from at on, and has when it was answered, at end; 0: that is not known.
type release struct {
	on      *member
	kind    cluster.Kind
	at, end time.Duration
}

// saysFenced tells which set's fence refused an operation.
func (o *op) saysFenced() (cluster.Kind, bool) {
	switch {
	case o.outcome != refused || !o.direct || !strings.Contains(o.detail, "is fenced and takes no "):
		return "", false
	case strings.Contains(o.detail, "takes no writes to what is shared"):
		return cluster.Performance, true
	}
	return cluster.DR, true
}

// fencedTakesNothing: a primary that has answered that it is fenced acknowledges no write that it is asked for afterwards, until it is demoted. Clients
// write to what is shared only: the fence of either set concerns them. A delete that finds nothing is refused as well: the successor may have something.
func (v *verdict) fencedTakesNothing() {
	told := v.fenced
	for _, o := range v.ops {
		if kind, ok := o.saysFenced(); ok {
			told = append(told, fenced{o.on, kind, o.call, o.ret})
		}
	}
	for _, o := range v.ops {
		if !o.kind.writes() || o.outcome != done || o.mismatch {
			continue
		}
		for _, f := range told {
			if f.on == v.takerOf(o) && f.to <= o.call && !v.releasedBetween(f, o.ret) {
				v.fault("acknowledged by a primary that had said at %d ms that it was fenced: %s", f.to.Milliseconds(), o)
				break
			}
		}
	}
}

// takerOf is the primary that took an acknowledged write; nil when that is not known.
func (v *verdict) takerOf(o *op) *member {
	if o.direct {
		return o.on
	}
	if r := reignNumber(v.reigns, o.reign); r != nil && o.at.index > 0 {
		return r.on
	}
	return nil
}

// releasedBetween tells whether a fence may have ended before end.
func (v *verdict) releasedBetween(f fenced, end time.Duration) bool {
	for _, r := range v.released {
		// While the call is under way the cluster may still say that it is fenced.
		if r.on == f.on && r.kind == f.kind && max(r.at, r.end) > f.from && r.at <= end {
			return true
		}
	}
	return false
}

// noteRelease notes that a member is about to be asked to give up its part.
func (w *world) noteRelease(m *member, kind cluster.Kind) {
	w.released = append(w.released, release{on: m, kind: kind, at: w.history.now()})
}

// endRelease notes that the newest of those calls was answered.
func (w *world) endRelease() {
	if n := len(w.released); n > 0 && w.released[n-1].end == 0 {
		w.released[n-1].end = w.history.now()
	}
}

// fence promotes a secondary by force while its primary is cut off, lets that hear of it, and clients go on there until an operator demotes it.
func (w *world) fence(pick, how int) error {
	if err := w.healAll(); err != nil {
		return err
	}
	st := w.primary
	var others []*site
	for _, other := range w.sites {
		if other != st {
			others = append(others, other)
		}
	}
	if len(st.standbys) > 0 && (len(others) == 0 || how%3 > 0) {
		return w.fenceSite(st, st.standbys[pick%len(st.standbys)], how)
	}
	return w.fencePerformance(others[pick%len(others)], how)
}

func (w *world) fenceSite(st *site, to *member, how int) error {
	from, old := st.active, w.reigning()
	w.isolate(from, wayCut)
	w.waitOps(10)
	if err := w.role(to, cluster.DR, "secondary/update-primary", st.auth(map[string]any{"token": ""}), 0); err != nil {
		return &stuck{err}
	}
	if err := w.role(to, cluster.DR, "secondary/promote", st.auth(map[string]any{"force": true}), 0); err != nil {
		return &stuck{err}
	}
	if err := w.promoted(st, to, false); err != nil {
		return err
	}
	w.alone(st, from, wayCut, old)
	if err := w.hears(from, cluster.DR, how); err != nil {
		return err
	}
	if err := w.recall(from, cluster.DR, wayCut); err != nil {
		return err
	}
	return w.gather(st)
}

func (w *world) fencePerformance(to *site, how int) error {
	from, old := w.primary.active, w.reigning()
	w.isolate(from, wayCut)
	w.waitOps(10)
	if err := w.role(to.active, cluster.Performance, "secondary/promote", map[string]any{"force": true}, 0); err != nil {
		return &stuck{err}
	}
	if err := w.reignBy(to, false); err != nil {
		return err
	}
	w.publish(func(v *view) {
		v.isolated, v.isolatedReign = from, old
		v.secondaries = without(v.secondaries, from)
	})
	w.waitOps(40)
	if err := w.hears(from, cluster.Performance, how); err != nil {
		return err
	}
	if err := w.recall(from, cluster.Performance, wayCut); err != nil {
		return err
	}
	w.publish(func(*view) {})
	return w.gatherAll()
}

// hears lets a replaced primary be reached, waits until it says that it is fenced, and lets clients go on there: it takes nothing, after a restart neither.
func (w *world) hears(m *member, kind cluster.Kind, how int) error {
	m.proxy.Mend()
	if err := w.showsFenced(m, kind); err != nil {
		return err
	}
	w.waitOps(30)
	if how%2 == 0 {
		return nil
	}
	w.endReign(m)
	m.node.Kill()
	if err := w.start(m); err != nil {
		return err
	}
	if err := w.showsFenced(m, kind); err != nil {
		return err
	}
	w.waitOps(20)
	return nil
}

// showsFenced waits until a primary's status says that it is fenced, and notes since when it must take no writes.
func (w *world) showsFenced(m *member, kind cluster.Kind) error {
	return w.await(m.name+" is fenced", stepTime, func() (bool, string) {
		from := w.history.now()
		s, err := m.node.Status(kind)
		if err != nil {
			return false, err.Error()
		}
		if s.State == "fenced" {
			w.note("%s is fenced: %v", m.name, s.Raw["reason"])
			w.fenced = append(w.fenced, fenced{m, kind, from, w.history.now()})
			w.tally.note("primary that was fenced before it was demoted")
		}
		return s.State == "fenced", fmt.Sprintf("mode %s, state %s", s.Mode, s.State)
	})
}
