package chaos

import (
	"fmt"
	"strings"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// runs is how often an operator runs the command until it has done what it is to do: it goes on from where the clusters stand.
const runs = 3

// command moves the part of a DR primary by `lockstep failover`, with all who follow it named as siblings.
func (w *world) command(st *site, from, to *member, force bool) (*cluster.Switchover, error) {
	siblings := []*member{}
	for _, d := range st.standbys {
		if d != to && d != from {
			siblings = append(siblings, d)
		}
	}
	from.ids++
	args := []string{"-kind=dr", "-yes", "-from=" + from.node.API, "-to=" + to.node.API, fmt.Sprintf("-from-id=%s-%d", from.name, from.ids)}
	if force {
		args = append(args, "-force")
	}
	// A DR secondary has its primary's tokens once it is promoted.
	tokens := make([]string, len(siblings))
	for i, m := range siblings {
		args, tokens[i] = append(args, "-sibling="+m.node.API), st.active.userToken()
	}
	env := []string{
		"LOCKSTEP_DR_OPERATION_TOKEN=" + st.op, "LOCKSTEP_FROM_TOKEN=" + from.userToken(), "LOCKSTEP_TO_TOKEN=" + st.active.userToken(),
		"LOCKSTEP_SIBLING_TOKEN=" + strings.Join(tokens, ","),
	}
	r, words, err := cluster.Failover(w.t, env, "", args...)
	if !force {
		w.endRelease()
	}
	if err != nil {
		return r, fmt.Errorf("lockstep failover %s: %w\n%s", strings.Join(args, " "), err, words)
	}
	for _, joined := range r.Members {
		for _, m := range append(siblings, from) {
			if m.node.API == joined.Address {
				m.known[cluster.DR] = joined.ID
			}
		}
	}
	return r, nil
}

// commandSwitch moves the serving part of a site to one of its DR secondaries by the command, as planned.
func (w *world) commandSwitch(st *site, to *member) error {
	if err := w.healAll(); err != nil {
		return err
	}
	if err := w.joinAll(); err != nil { // the command refuses to begin without the secondary
		return err
	}
	from := st.active
	if err := w.login(from); err != nil {
		return &stuck{err}
	}
	w.endReign(from)
	w.noteRelease(from, cluster.DR)
	r, err := w.command(st, from, to, false)
	for n := 1; err != nil && n < runs; n++ {
		w.note("run again: %v", err)
		w.tally.note("lockstep failover that was run again")
		if r != nil && r.Undone { // its secondaries need tokens of it
			w.tally.note("planned switchover that lockstep failover undid")
			if err := w.promoted(st, from, true); err != nil {
				return err
			}
			if err := w.gather(st); err != nil {
				return err
			}
			w.endReign(from)
		}
		w.noteRelease(from, cluster.DR)
		r, err = w.command(st, from, to, false)
	}
	if err != nil {
		return err
	}
	if err := w.promoted(st, to, true); err != nil {
		return err
	}
	return w.gathered(st)
}

// commandFail promotes a DR secondary by the command, without its primary, and takes that in again by running the command once more.
func (w *world) commandFail(st *site, to *member, how int) error {
	if err := w.healAll(); err != nil {
		return err
	}
	from, old := st.active, w.reigning()
	if err := w.login(from); err != nil {
		return &stuck{err}
	}
	w.waitOps(10) // the token gets to the secondaries
	way := wayKilled
	if how%2 == 1 {
		way = wayPaused // its API does not answer either
	}
	w.isolate(from, way)
	w.waitOps(10)
	r, err := w.command(st, from, to, true)
	if err != nil {
		return err
	}
	if !r.Forced || len(r.LeftAlone) != 1 || r.LeftAlone[0] != from.node.API {
		return fmt.Errorf("lockstep failover -force: forced %t, left alone %v, want the former primary %s", r.Forced, r.LeftAlone, from.node.API)
	}
	if err := w.promoted(st, to, false); err != nil {
		return err
	}
	w.alone(st, from, way, old)
	if err := w.healAll(); err != nil { // it goes on, or is started, and meets its successor
		return err
	}
	w.waitOps(20)
	if err := w.login(to); err != nil { // it may have none of its own part yet
		return &stuck{err}
	}
	w.endReign(from)
	w.noteRelease(from, cluster.DR)
	_, err = w.command(st, from, to, false)
	for n := 1; err != nil && n < runs; n++ {
		w.note("run again: %v", err)
		w.tally.note("lockstep failover that was run again")
		w.noteRelease(from, cluster.DR)
		_, err = w.command(st, from, to, false)
	}
	if err != nil {
		return err
	}
	return w.gathered(st)
}

// gathered demands that all who were named to the command stream from the new primary, and brings the rest of the topology behind it.
func (w *world) gathered(st *site) error {
	for _, d := range st.standbys {
		if err := w.awaitStream(d, cluster.DR, stepTime); err != nil {
			return fmt.Errorf("after lockstep failover: %w", err)
		}
	}
	return w.gatherMembers(st)
}
