package replication

import (
	"slices"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

// This file is the operator of the simulation: promote, demote, update-primary, recover, as server/replication does them step by step.

// beginEpoch commits the first entry of a new epoch.
func (c *simCluster) beginEpoch(ordinal uint64, overrides []wal.Fork, w *simWrite) {
	c.append(&simEntry{write: w}, &engine.Reign{Ordinal: ordinal, Overrides: overrides})
}

func (c *simCluster) promote(k Kind, force bool) {
	r := c.role[k]
	switch {
	case !c.up, c.stopped, r.mode != Secondary, !r.joined:
		return
	case !force && !c.mayPromote(k):
		return
	}
	if k == DR {
		c.promoteDR(r)
		return
	}
	if c.role[DR].mode != Primary {
		return
	}
	c.abandon(k)
	c.leaveFeeder(k)
	set := &setConfig{Before: r.seen}
	set.Since = max(lastOrdinal(c.history), lastOrdinal(set.Before)) + 1
	set.From = c.st.cursor
	set.Before = pathTo(set.Before, set.From)
	c.commit()
	c.beginEpoch(set.Since, nil, c.own(simSet, func(w *simWrite) { w.set = set }))
	c.checkpoint()
	c.role[k] = &simRole{mode: Primary, repair: r.repair}
}

func (c *simCluster) mayPromote(k Kind) bool {
	r := c.role[k]
	return c.whole() && !r.state.NeedsDiff && r.state.Name != StateMerkleDiff && r.state.Name != StateMerkleSync
}

// abandon ends a sync without its feeder: the state is what it is, and the next feeder compares.
func (c *simCluster) abandon(k Kind) {
	r := c.role[k]
	if k == DR && c.drSync != nil {
		for _, e := range c.log {
			if e.at.Index > c.st.at.Index {
				c.st.apply(e)
			}
		}
		c.drSync, r.repair = nil, true
		c.base, c.log, c.first = c.end(), nil, c.end().Index+1 // beginLog
		c.chk = c.st.clone()
	}
	if k == Performance && c.st.sync != nil {
		s := c.st.sync
		for _, m := range r.spool {
			c.applyBatch(k, m)
		}
		r.spool, r.repair = nil, true
		at := c.st.cursor
		if at.IsZero() {
			at = s.from
		}
		c.append(&simEntry{house: &simHouse{end: true, reach: at}}, nil)
	}
}

func (c *simCluster) leaveFeeder(k Kind) {
	r := c.role[k]
	r.conn.kill()
	r.conn = nil
	r.state, r.connect = State{Name: StateDisabled}, false
}

func (c *simCluster) promoteDR(r *simRole) {
	c.abandon(DR)
	c.leaveFeeder(DR)
	ordinal := max(lastOrdinal(c.history), lastOrdinal(r.seen)) + 1
	c.role[DR] = &simRole{mode: Primary, repair: r.repair}
	c.history, c.reopen = durable(c.history, c.end().Index), true // as a writer's opening does
	perf, member := c.st.recs[simSet], c.st.recs[simMember]
	c.beginEpoch(ordinal, nil, c.own("~change", func(*simWrite) {}))
	c.chk = c.st.clone()
	switch {
	case perf != nil && perf.set != nil:
		c.role[Performance] = &simRole{mode: Primary, repair: r.repair}
	case member != nil && member.member != nil:
		c.role[Performance] = &simRole{mode: Secondary, seen: member.member, joined: true}
		if c.st.sync != nil {
			c.abandon(Performance)
		}
	}
}

func (c *simCluster) demote(k Kind) {
	if !c.up || c.role[k].mode != Primary {
		return
	}
	c.commit()
	if k == DR {
		if m := c.st.recs[simMember]; c.role[Performance].mode == Secondary && (m == nil || m.member == nil) {
			return // promoted again it would be no member of the performance set: one waits for that record
		}
		c.demoteDR()
		return
	}
	if c.role[DR].mode != Primary {
		return
	}
	// What a DR secondary must know to be the same, should it take over at any of these entries, comes before the one that ends the reign.
	end := c.end()
	seen := withForks(c.setHistory(Performance), c.history, end.Index)
	c.setCursor(end)
	c.append(&simEntry{write: c.own(simMember, func(w *simWrite) { w.member = seen })}, nil)
	c.append(&simEntry{write: c.own(simSet, func(*simWrite) {})}, nil)
	old := c.role[k]
	c.role[k] = &simRole{mode: Secondary, seen: seen, joined: true, repair: old.repair}
	c.sim.cutFeeds(c, k)
}

func (c *simCluster) demoteDR() {
	c.leaveFeeder(Performance)
	c.role[DR] = &simRole{mode: Secondary, seen: durable(c.history, c.end().Index), joined: true, repair: c.role[DR].repair}
	c.role[Performance] = &simRole{}
	c.stopped = false
	c.chk = c.st.clone() // it is opened anew
	c.sim.cutFeeds(c, DR)
	c.sim.cutFeeds(c, Performance)
}

// repoint is secondary/update-primary.
func (c *simCluster) repoint(k Kind, to *simCluster) {
	r := c.role[k]
	if !c.up || r.mode != Secondary || to == c || k == DR && to.site != c.site || k == Performance && to.site == c.site {
		return
	}
	r.feeder, r.rewound, r.lives = to, 0, 0
	c.begin(k)
}

// recover is the operator's "I am the one": an ordinal above all that was met, which overrides the forks that were met.
func (c *simCluster) recover() {
	if !c.up || c.role[DR].mode != Primary {
		return
	}
	c.commit()
	ordinal := lastOrdinal(c.history)
	var overrides []wal.Fork
	for _, k := range kinds {
		mine := c.setHistory(k)
		ordinal = max(ordinal, lastOrdinal(mine))
		for _, rival := range c.role[k].rivals {
			ordinal = max(ordinal, lastOrdinal(rival))
			for _, r := range rival {
				if !hasFork(mine, r.Fork) && !hasFork(c.history, r.Fork) && !slices.Contains(overrides, r.Fork) {
					overrides = append(overrides, r.Fork)
				}
			}
		}
	}
	c.beginEpoch(ordinal+1, overrides, c.own("~change", func(*simWrite) {}))
	c.stopped = false
	for _, k := range kinds {
		c.role[k].fenced, c.role[k].rivals = false, nil
	}
	c.chk = c.st.clone()
}

// keepMember is keepMembership: what a performance secondary's DR secondary must know to take its place.
func (c *simCluster) keepMember() {
	r := c.role[Performance]
	if !c.up || c.role[DR].mode != Primary {
		return
	}
	have := c.st.recs[simMember]
	switch {
	case r.mode == Secondary && r.joined && (have == nil || !sameHistory(have.member, r.seen)):
		c.append(&simEntry{write: c.own(simMember, func(w *simWrite) { w.member = r.seen })}, nil)
	case r.mode == Primary && have != nil && have.member != nil:
		c.append(&simEntry{write: c.own(simMember, func(*simWrite) {})}, nil)
	}
}

// enrol begins an empty DR secondary.
func (c *simCluster) enrol(k Kind, to *simCluster) {
	c.role[k].mode = Secondary
	c.repoint(k, to)
}
