package chaos

import (
	"fmt"
	"net/http"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// follower draws a member that follows another, and of which kind.
func (w *world) follower(pick int) (m, p *member, kind cluster.Kind) {
	type link struct {
		m, p *member
		kind cluster.Kind
	}
	var all []link
	for _, st := range w.sites {
		if st != w.primary {
			all = append(all, link{st.active, w.primary.active, cluster.Performance})
		}
		for _, d := range st.standbys {
			all = append(all, link{d, st.active, cluster.DR})
		}
	}
	l := all[pick%len(all)]
	return l.m, l.p, l.kind
}

// revoke takes a secondary's identity away and gives it another; its data stay.
func (w *world) revoke(pick int) error {
	m, p, kind := w.follower(pick)
	if _, err := w.insist(p, "POST", path(kind, "primary/revoke-secondary"), encode(map[string]string{"id": m.known[kind]}), callTime); err != nil {
		return &stuck{err}
	}
	w.waitOps(10)
	return w.follow(m, p, kind)
}

// anew disables a secondary and fills it from empty. A performance secondary that is a DR primary is not made anew.
func (w *world) anew(pick int) error {
	m, p, kind := w.follower(pick)
	if kind == cluster.Performance && len(m.site.standbys) > 0 {
		m, p, kind = m.site.standbys[0], m, cluster.DR
	}
	var body map[string]any
	if kind == cluster.DR {
		body = m.site.auth(nil)
	}
	w.out[m] = true // alone it would take writes of its own
	defer delete(w.out, m)
	w.publish(func(*view) {})
	time.Sleep(100 * time.Millisecond)
	if err := w.role(m, kind, "secondary/disable", body, 0); err != nil {
		return &stuck{err}
	}
	if err := w.become(m, kind, "disabled"); err != nil {
		return &stuck{err}
	}
	m.life.Add(1)
	if err := w.login(m); err != nil {
		return &stuck{err}
	}
	if err := w.join(m, p, kind); err != nil {
		return &stuck{err}
	}
	if kind == cluster.Performance {
		if err := w.awaitStream(m, kind, followTime); err != nil {
			return &stuck{err}
		}
		if err := w.login(m); err != nil {
			return err
		}
		delete(w.out, m)
		w.publish(func(*view) {})
		return nil
	}
	return w.awaitStream(m, kind, followTime)
}

// wrong makes calls that a member's part does not allow. They change nothing.
func (w *world) wrong(m *member) error {
	calls := []struct {
		kind cluster.Kind
		call string
		body map[string]any
	}{
		{cluster.DR, "primary/demote", nil}, {cluster.DR, "primary/secondary-token", map[string]any{"id": "nobody"}},
		{cluster.DR, "secondary/promote", m.site.auth(nil)}, {cluster.DR, "secondary/update-primary", m.site.auth(map[string]any{"token": "x"})},
		{cluster.Performance, "primary/demote", nil}, {cluster.Performance, "primary/secondary-token", map[string]any{"id": "nobody"}},
		{cluster.Performance, "secondary/promote", nil}, {cluster.Performance, "secondary/update-primary", map[string]any{"token": "x"}},
		{cluster.Performance, "secondary/enable", map[string]any{"token": "x"}}, {cluster.DR, "secondary/enable", map[string]any{"token": "x"}},
	}
	for _, c := range calls {
		if w.allowed(m, c.kind, c.call) {
			continue
		}
		a, err := m.call("POST", path(c.kind, c.call), encode(c.body))
		if err != nil || a.status == http.StatusServiceUnavailable {
			continue
		}
		if a.status < 400 && len(a.body) > 0 || a.status >= 500 {
			if a.status == http.StatusOK && c.call == "secondary/promote" { // it was promoted: repeated
				continue
			}
			return fmt.Errorf("%s of %s at %s, whose part does not allow it: status %d: %s", c.call, c.kind, m.name, a.status, a.body)
		}
		w.tally.wrong++
	}
	return nil
}

// allowed tells whether a call would do something, given who the member is.
func (w *world) allowed(m *member, kind cluster.Kind, call string) bool {
	active := m.site.active == m
	primary := active && (kind == cluster.DR && len(m.site.standbys) > 0 || kind == cluster.Performance && m.site == w.primary && len(w.sites) > 1)
	secondary := kind == cluster.DR && !active || kind == cluster.Performance && active && m.site != w.primary
	switch call {
	case "primary/demote", "primary/secondary-token":
		return primary
	case "secondary/promote":
		return secondary
	}
	return false // the tokens are none
}
