package chaos

import (
	"github.com/lockstepdb/lockstep/test/cluster"
)

// settle completes a role change that a fault had stopped half way: an operator looks who is what, and goes on from there.
func (w *world) settle() error {
	for _, st := range w.sites {
		if err := w.settleSite(st); err != nil {
			return err
		}
	}
	if len(w.sites) > 1 {
		if err := w.settlePrimary(); err != nil {
			return err
		}
	}
	return w.joinAll()
}

// mode asks what a member is.
func (w *world) mode(m *member, kind cluster.Kind) (mode string, err error) {
	err = w.await(m.name+" shows its part", stepTime, func() (bool, string) {
		s, err := m.node.Status(kind)
		if err != nil {
			return false, err.Error()
		}
		mode = s.Mode
		return mode != "bootstrapping", "mode " + mode
	})
	return mode, err
}

// settleSite leaves exactly one DR primary in a site: the newest that was promoted, or the one that was there.
func (w *world) settleSite(st *site) error {
	if len(st.standbys) == 0 {
		return nil
	}
	var primaries []*member
	for _, m := range append([]*member{st.active}, st.standbys...) {
		mode, err := w.mode(m, cluster.DR)
		if err != nil {
			return err
		}
		if mode == "primary" {
			primaries = append(primaries, m)
		}
	}
	switch {
	case len(primaries) == 0: // demoted, and nobody was promoted yet
		return w.undo(st)
	case len(primaries) > 1 || primaries[0] != st.active:
		next := primaries[len(primaries)-1]
		for _, m := range primaries {
			if m != next {
				if err := w.role(m, cluster.DR, "primary/demote", nil, 0); err != nil {
					return err
				}
			}
		}
		if next != st.active {
			return w.promoted(st, next, false)
		}
	}
	return nil
}

// settlePrimary leaves exactly one performance primary.
func (w *world) settlePrimary() error {
	var primaries []*site
	for _, st := range w.sites {
		mode, err := w.mode(st.active, cluster.Performance)
		if err != nil {
			return err
		}
		if mode == "primary" {
			primaries = append(primaries, st)
		}
	}
	if len(primaries) == 0 {
		if err := w.role(w.primary.active, cluster.Performance, "secondary/promote", map[string]any{"force": true}, 0); err != nil {
			return err
		}
		return w.reignBy(w.primary, false)
	}
	next := primaries[0]
	for _, st := range primaries {
		if st != w.primary {
			next = st
		}
	}
	for _, st := range primaries {
		if st != next {
			if err := w.role(st.active, cluster.Performance, "primary/demote", nil, 0); err != nil {
				return err
			}
		}
	}
	if next != w.primary || w.reigning() == 0 {
		return w.reignBy(next, false)
	}
	return nil
}

// joinAll brings everybody who does not stream behind whom it is to follow.
func (w *world) joinAll() error {
	for _, st := range w.sites {
		for _, d := range st.standbys {
			if w.awaitStream(d, cluster.DR, selfTime) != nil {
				if err := w.join1(d, st.active, cluster.DR); err != nil {
					return err
				}
			}
		}
		if st != w.primary && !w.followsOf(st.active, w.primary.active) {
			if err := w.join1(st.active, w.primary.active, cluster.Performance); err != nil {
				return err
			}
		}
	}
	return nil
}

// join1 lets a member follow: by update-primary while it is a secondary, from empty when it was disabled.
func (w *world) join1(m, p *member, kind cluster.Kind) error {
	mode, err := w.mode(m, kind)
	if err != nil {
		return err
	}
	if mode == "secondary" {
		return w.follow(m, p, kind)
	}
	if err := w.login(m); err != nil {
		return err
	}
	if err := w.join(m, p, kind); err != nil {
		return err
	}
	if err := w.awaitStream(m, kind, followTime); err != nil || kind == cluster.DR {
		return err
	}
	return w.login(m)
}
