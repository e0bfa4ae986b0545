package chaos

import (
	"fmt"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// A role change is done as the runbooks say, by an operator who repeats what is answered 503 and looks at status between two calls. With a crash the
// server that a call went to is killed shortly after it, started, and asked again.

// stuck is a role change that did not get on while a fault lasts: it is tried again without.
type stuck struct{ err error }

func (s *stuck) Error() string { return s.err.Error() }

// path is that of a call about a set.
func path(kind cluster.Kind, call string) string {
	return "sys/replication/" + string(kind) + "/" + call
}

// role makes a call that changes a role, and repeats it until it is answered 200.
func (w *world) role(m *member, kind cluster.Kind, call string, body map[string]any, crash time.Duration) error {
	if call == "primary/demote" {
		w.noteRelease(m, kind)
		defer w.endRelease()
	}
	if crash > 0 {
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			_, _ = m.call("POST", path(kind, call), encode(body)) // asked again below
		}()
		time.Sleep(crash)
		m.node.Kill()
		<-answered
		w.tally.crashed++
		if err := w.start(m); err != nil {
			return err
		}
		if s, err := m.node.Status(kind); err == nil && call == "primary/demote" && s.Mode == "secondary" {
			return nil // a DR secondary takes no call of that name
		}
	}
	_, err := w.insist(m, "POST", path(kind, call), encode(body), callTime)
	return err
}

// op adds the operation token to a call about a DR secondary.
func (s *site) auth(body map[string]any) map[string]any {
	if body == nil {
		body = map[string]any{}
	}
	body["dr_operation_token"] = s.op
	return body
}

// become waits until a member shows a mode.
func (w *world) become(m *member, kind cluster.Kind, mode string) error {
	return w.await(fmt.Sprintf("%s is a %s of %s", m.name, mode, kind), stepTime, func() (bool, string) {
		s, err := m.node.Status(kind)
		if err != nil {
			return false, err.Error()
		}
		return s.Mode == mode, fmt.Sprintf("mode %s, state %s, reason %v", s.Mode, s.State, s.Raw["reason"])
	})
}

// follow gives a secondary a primary by a new token, and waits until it streams.
func (w *world) follow(m, p *member, kind cluster.Kind) error {
	token, id, err := w.activation(p, m, kind)
	if err != nil {
		return &stuck{err}
	}
	body := map[string]any{"token": token}
	if kind == cluster.DR {
		body = m.site.auth(body)
	}
	if err := w.role(m, kind, "secondary/update-primary", body, 0); err != nil {
		return &stuck{err}
	}
	m.known[kind] = id
	if err := w.awaitStream(m, kind, followTime); err != nil {
		return &stuck{err}
	}
	return nil
}

const (
	followTime = 15 * time.Second // until a secondary streams
	selfTime   = 4 * time.Second  // until one has found its primary's successor by itself
	drainTime  = 5 * time.Second
	forkTime   = 3 * time.Second
)

// switchover moves the serving part of a site to one of its DR secondaries, as planned.
func (w *world) switchover(st *site, to *member, crash time.Duration) error {
	from := st.active
	w.endReign(from)
	if err := w.role(from, cluster.DR, "primary/demote", nil, crash); err != nil {
		return &stuck{err}
	}
	if err := w.become(from, cluster.DR, "secondary"); err != nil {
		return &stuck{err}
	}
	// A performance secondary goes on receiving until its part has ended: what its copy lacks of that, the successor receives.
	if st == w.primary && !w.drained(from, to) {
		w.tally.note("planned switchover undone")
		return w.undo(st)
	}
	// A primary that was killed in its demotion told nobody that it handed over: that both are at one index was seen above.
	body := st.auth(map[string]any{"force": crash > 0})
	if err := w.role(to, cluster.DR, "secondary/promote", body, w.second(crash)); err != nil {
		return &stuck{err}
	}
	if err := w.promoted(st, to, true); err != nil {
		return err
	}
	return w.gather(st)
}

// second is when the second call of a role change is interrupted: one in two.
func (w *world) second(crash time.Duration) time.Duration {
	if crash%2 == 0 {
		return 0
	}
	return crash
}

// drained waits until a copy has the last entry of a demoted primary. It has no link to it any more: what a fault kept back stays away.
func (w *world) drained(from, to *member) bool {
	err := w.await(to.name+" has all of "+from.name, time.Second, func() (bool, string) {
		a, err := from.node.Status(cluster.DR)
		if err != nil {
			return false, err.Error()
		}
		b, err := to.node.Status(cluster.DR)
		if err != nil {
			return false, err.Error()
		}
		return b.LastWAL == a.LastWAL && a.LastWAL > 0, fmt.Sprintf("%d of %d", b.LastWAL, a.LastWAL)
	})
	if err != nil {
		w.note("%v", err)
	}
	return err == nil
}

// undo promotes the demoted primary of a site again. It cannot know that none of its secondaries was promoted; here that is known.
func (w *world) undo(st *site) error {
	if err := w.role(st.active, cluster.DR, "secondary/promote", st.auth(map[string]any{"force": true}), 0); err != nil {
		return &stuck{err}
	}
	if err := w.promoted(st, st.active, true); err != nil {
		return err
	}
	return w.gather(st)
}

// promoted waits until the new active member of a site serves, and makes it known.
func (w *world) promoted(st *site, to *member, planned bool) error {
	if err := w.become(to, cluster.DR, "primary"); err != nil {
		return &stuck{err}
	}
	for i, d := range st.standbys {
		if d == to {
			st.standbys[i] = st.active
		}
	}
	if w.plan.synchronous { // a login writes, and is not answered while the level that was its predecessor's holds
		to.use(st.active.userToken())
	}
	st.active = to
	to.life.Add(1)
	if st == w.primary {
		return w.beginReign(to, planned)
	}
	w.publish(func(*view) {})
	return nil
}

// gather brings all that followed a site's former active member behind the present one.
func (w *world) gather(st *site) error {
	for _, d := range st.standbys {
		if err := w.follow(d, st.active, cluster.DR); err != nil {
			return err
		}
	}
	return w.gatherMembers(st)
}

// gatherMembers brings a site whose active member is another one, and those that follow it, into the performance set again.
func (w *world) gatherMembers(st *site) error {
	if st != w.primary {
		// It is a member of the performance set, with the identity of its predecessor or without a primary.
		if w.awaitStream(st.active, cluster.Performance, selfTime) == nil {
			w.tally.note("successor of a performance secondary went on by itself")
			return nil
		}
		return w.follow(st.active, w.primary.active, cluster.Performance)
	}
	return w.gatherSites()
}

// gatherSites brings the other sites behind the performance primary: by themselves where they can.
func (w *world) gatherSites() error {
	for _, other := range w.sites {
		if other == w.primary {
			continue
		}
		if w.followsOf(other.active, w.primary.active) {
			w.tally.note("performance secondary found its primary's successor by itself")
			continue
		}
		if err := w.follow(other.active, w.primary.active, cluster.Performance); err != nil {
			return err
		}
	}
	return nil
}

// followsOf waits a little until m streams from p.
func (w *world) followsOf(m, p *member) bool {
	return w.await(m.name+" follows "+p.name, selfTime, func() (bool, string) {
		s, err := m.node.Status(cluster.Performance)
		if err != nil || s.State != "stream-wals" || s.ConnectionState != "ready" {
			return false, ""
		}
		of, err := p.node.Status(cluster.Performance)
		if err != nil {
			return false, err.Error()
		}
		for _, peer := range of.Secondaries {
			if peer.ConnectionStatus == "connected" && peer.NodeID == m.known[cluster.Performance] {
				return true, ""
			}
		}
		return false, ""
	}) == nil
}

// failover promotes a DR secondary by force, while its primary is killed, cut off, or paused. What that had alone is lost, and counted.
func (w *world) failover(st *site, to *member, how int, crash time.Duration) error {
	from := st.active
	w.isolate(from, how)
	w.waitOps(10)
	if err := w.role(to, cluster.DR, "secondary/update-primary", st.auth(map[string]any{"token": ""}), 0); err != nil {
		return &stuck{err}
	}
	if err := w.role(to, cluster.DR, "secondary/promote", st.auth(map[string]any{"force": true}), crash); err != nil {
		return &stuck{err}
	}
	old := w.reigning()
	if err := w.promoted(st, to, false); err != nil {
		return err
	}
	w.alone(st, from, how, old)
	if err := w.recall(from, cluster.DR, how); err != nil {
		return err
	}
	return w.gather(st)
}

// Ways in which a primary is out of reach.
const (
	wayKilled = iota
	wayCut
	wayPaused
	ways
)

func (w *world) isolate(m *member, how int) {
	switch how % ways {
	case wayKilled:
		m.node.Kill()
	case wayCut:
		m.proxy.Cut()
	case wayPaused:
		h, err := w.pause(m)
		if err != nil || h == nil {
			m.node.Kill()
			return
		}
		w.healing = append(w.healing, *h)
	}
}

// alone lets clients go on at a primary that was replaced and does not know it.
func (w *world) alone(st *site, m *member, how, old int) {
	if st != w.primary || how%ways != wayCut {
		w.waitOps(10)
		return
	}
	w.publish(func(v *view) { v.isolated, v.isolatedReign = m, old })
	w.waitOps(40)
}

// recall brings a replaced primary back and demotes it, before anyone else reaches it.
func (w *world) recall(m *member, kind cluster.Kind, how int) error {
	if how%ways == wayPaused {
		if err := w.healAll(); err != nil {
			return err
		}
	}
	if err := w.start(m); err != nil {
		return err
	}
	w.endReign(m)
	if err := w.role(m, kind, "primary/demote", nil, 0); err != nil {
		return &stuck{err}
	}
	w.publish(func(v *view) {
		if v.isolated == m {
			v.isolated, v.isolatedReign = nil, 0
		}
	})
	if err := w.become(m, kind, "secondary"); err != nil {
		return &stuck{err}
	}
	m.proxy.Mend()
	return nil
}
