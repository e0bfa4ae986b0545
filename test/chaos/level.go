package chaos

import (
	"fmt"
	"net/http"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// A synchronous set is told to wait for all of its secondaries: whichever is promoted then, what was acknowledged is there. Whoever is promoted without the
// others waits for nobody until they follow: an operator takes the level away at once, as the runbooks say, and gives it again when the step has ended.

// confirmTimeout is how long a write waits for secondaries before it is answered 409, well within a client's patience.
const confirmTimeout = "400ms"

// level is a time in which a primary was told to wait for all secondaries of a set.
type level struct {
	kind     cluster.Kind
	on       *member
	reign    int
	from, to time.Duration // to is 0 while it lasts
}

var bothKinds = []cluster.Kind{cluster.DR, cluster.Performance}

// waits is for how many secondaries the primary of all is to wait in a set.
func (w *world) waits(kind cluster.Kind) int {
	switch {
	case !w.plan.synchronous:
		return 0
	case kind == cluster.DR:
		return len(w.primary.standbys)
	}
	return len(w.sites) - 1
}

// raise gives the sets of the primary their levels. While a fault lasts that may fail: the next step tries again.
func (w *world) raise() {
	for _, kind := range bothKinds {
		w.lowerOthers(kind)
		n, m := w.waits(kind), w.primary.active
		if n == 0 || w.current(kind) != nil {
			continue
		}
		if err := w.setLevel(m, kind, fmt.Sprintf("durable=%d,timeout=%s", n, confirmTimeout)); err != nil {
			w.note("no level: %v", err)
			w.tally.note("set that was given no level while a fault lasted")
			continue
		}
		w.levels = append(w.levels, &level{kind: kind, on: m, reign: w.reigning(), from: w.history.now()})
	}
}

// current is the level in force at the primary; nil when there is none.
func (w *world) current(kind cluster.Kind) *level {
	for _, l := range w.levels {
		if l.kind == kind && l.on == w.primary.active && l.reign == w.reigning() && l.to == 0 {
			return l
		}
	}
	return nil
}

// lowerOthers takes their levels from former primaries that are one again, of a set of their own.
func (w *world) lowerOthers(kind cluster.Kind) {
	for _, l := range w.levels {
		if l.kind == kind && l.to == 0 && l.on != w.primary.active {
			l.to = w.history.now()
			_ = w.setLevel(l.on, kind, "async") // one that is no primary waits for nobody
		}
	}
}

// lower takes the levels from a member that was promoted, which may have its predecessor's.
func (w *world) lower(m *member) error {
	if !w.plan.synchronous {
		return nil
	}
	for _, l := range w.levels {
		if l.on == m && l.to == 0 {
			l.to = w.history.now()
		}
	}
	for _, kind := range bothKinds {
		if err := w.setLevel(m, kind, "async"); err != nil {
			return &stuck{err}
		}
	}
	return nil
}

// setLevel sets the level of a set; a cluster that is not its primary has none.
func (w *world) setLevel(m *member, kind cluster.Kind, text string) error {
	a, err := w.insist(m, "POST", path(kind, "primary/synchronous"), encode(map[string]string{"level": text}), callTime)
	if a != nil && a.status == http.StatusBadRequest && text == "async" {
		return nil
	}
	return err
}

// confirmedIsKept: what a primary acknowledged while it waited for all secondaries of a set is not lost by the promotion of one of them, by force or not. One
// that was filled from empty or restored from an older copy has confirmed nothing of the time before.
func (v *verdict) confirmedIsKept() {
	for _, o := range v.ops {
		if !o.kind.writes() || o.outcome != done || o.mismatch || o.unconfirmed || o.at.index == 0 {
			continue
		}
		next := reignNumber(v.reigns, o.reign+1)
		if next == nil || next.on == v.reigns[o.reign-1].on || o.call <= next.since {
			continue
		}
		kind := cluster.DR
		if next.perf {
			kind = cluster.Performance
		}
		if !v.confirmed(o, kind) {
			continue
		}
		if !next.planned {
			v.tally.confirmed++
		}
		if o.fate.lostIn == next.number {
			v.fault("acknowledged when all secondaries of the %s set had it, and lost by the promotion of one: %s", kind, o)
		}
	}
}

// confirmed tells whether a write was asked for and acknowledged while its primary waited for all secondaries of a set.
func (v *verdict) confirmed(o *op, kind cluster.Kind) bool {
	for _, l := range v.levels {
		if l.kind == kind && l.reign == o.reign && l.from <= o.call && (l.to == 0 || o.ret <= l.to) {
			return true
		}
	}
	return false
}
