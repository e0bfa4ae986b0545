package chaos

import (
	"fmt"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// perfSwitch moves the part of the performance primary to another site.
func (w *world) perfSwitch(to *site, crash time.Duration) error {
	from := w.primary
	w.endReign(from.active)
	if err := w.role(from.active, cluster.Performance, "primary/demote", nil, crash); err != nil {
		return &stuck{err}
	}
	if err := w.become(from.active, cluster.Performance, "secondary"); err != nil {
		return &stuck{err}
	}
	next := to
	if !w.has(to.active, w.lastAcknowledged()) {
		w.tally.note("planned performance switchover undone")
		next = from
	}
	if err := w.role(next.active, cluster.Performance, "secondary/promote", map[string]any{"force": crash > 0}, w.second(crash)); err != nil {
		return &stuck{err}
	}
	if err := w.reignBy(next, true); err != nil {
		return err
	}
	return w.gatherAll()
}

// has waits until a performance secondary has an index of its primary.
func (w *world) has(m *member, index uint64) bool {
	return w.await(fmt.Sprintf("%s has index %d", m.name, index), drainTime, func() (bool, string) {
		s, err := m.node.Status(cluster.Performance)
		if err != nil {
			return false, err.Error()
		}
		return s.LastRemoteWAL >= index, fmt.Sprint(s.LastRemoteWAL)
	}) == nil
}

// reignBy makes a site's active member, which was promoted, the performance primary.
func (w *world) reignBy(st *site, planned bool) error {
	if err := w.become(st.active, cluster.Performance, "primary"); err != nil {
		return &stuck{err}
	}
	w.primary = st
	return w.beginReign(st.active, planned)
}

// gatherAll brings all other sites behind the performance primary, by tokens.
func (w *world) gatherAll() error {
	for _, other := range w.sites {
		if other == w.primary {
			continue
		}
		if err := w.follow(other.active, w.primary.active, cluster.Performance); err != nil {
			return err
		}
	}
	return nil
}

// perfFail promotes another site by force.
func (w *world) perfFail(to *site, how int, crash time.Duration) error {
	from := w.primary
	gone := from.active
	w.isolate(gone, how)
	w.waitOps(10)
	if err := w.role(to.active, cluster.Performance, "secondary/promote", map[string]any{"force": true}, crash); err != nil {
		return &stuck{err}
	}
	old := w.reigning()
	if err := w.reignBy(to, false); err != nil {
		return err
	}
	if how%ways == wayCut {
		w.publish(func(v *view) {
			v.isolated, v.isolatedReign = gone, old
			v.secondaries = without(v.secondaries, gone)
		})
		w.waitOps(40)
	}
	if err := w.recall(gone, cluster.Performance, how); err != nil {
		return err
	}
	w.publish(func(*view) {})
	return w.gatherAll()
}

func without(all []*member, m *member) []*member {
	var kept []*member
	for _, x := range all {
		if x != m {
			kept = append(kept, x)
		}
	}
	return kept
}
