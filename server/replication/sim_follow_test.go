package replication

import (
	"slices"
	"sort"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

// This file is the secondary's side of the simulation: it drives Step, applies what comes, rewinds and syncs.

func (c *simCluster) happen(k Kind, e Event) {
	r := c.role[k]
	next, actions := Step(r.state, e)
	r.state = next
	for _, a := range actions {
		c.do(k, a)
	}
}

func (c *simCluster) do(k Kind, a Action) {
	r := c.role[k]
	switch a.Kind {
	case DoConnect:
		r.connect = true
	case DoHello:
		c.hello(k, r.state.NeedsDiff || r.repair)
	case DoStream:
		c.unspool(k)
	case DoDiff:
		if r.conn.synced {
			c.beginDiff(k)
			return
		}
		r.conn.again = true
		c.hello(k, true)
	case DoResumeSync:
		c.resume(k)
	case DoSync: // ranges are being received already
	case DoReindex:
		c.happen(k, Event{Kind: Reindexed})
	case DoRewind:
		c.rewind(k)
	case DoDisconnect:
		r.conn.kill()
		r.conn = nil
	case DoFence:
		c.stopped = true
	case DoFault:
		c.fail("%v: %v", k, a.Err)
	}
}

func (c *simCluster) hello(k Kind, repair bool) {
	r := c.role[k]
	h := &simHello{site: c.site, repair: repair}
	h.place = callerPlace{Set: "set", Version: "1.0.0", Lineage: c.lineage, Place: c.st.cursor, History: r.seen, Log: c.history}
	if k == DR {
		h.place.Place = c.end()
	}
	if s := c.syncing(k); s != nil && !repair {
		h.sync = s.clone()
		if s.diff && k == Performance {
			h.place.Place = s.from
			if n := len(r.spool); n > 0 {
				h.place.Place = r.spool[n-1].end
			}
		}
	}
	r.conn.path = pathTo(r.seen, h.place.Place)
	r.conn.up = append(r.conn.up, &simMsg{hello: h})
}

func (c *simCluster) hears(n *simConn, m *simMsg) {
	r := c.role[n.kind]
	if r.conn != n {
		return
	}
	switch {
	case m.answer != nil:
		c.answered(n, m.answer)
	case m.give != nil:
		c.gets(n, m.give)
	default:
		c.takes(n, m)
	}
}

func (c *simCluster) answered(n *simConn, a *simAnswer) {
	r := c.role[n.kind]
	n.answered = a
	n.synced = a.Kind == Repair || a.Kind == Bootstrap || a.Kind == Continue && a.resume
	if n.synced || a.Kind == Continue {
		r.joined = true
		if !c.accept(n) {
			return
		}
	}
	if n.again {
		n.again = false
		if !n.synced {
			n.lose()
			return
		}
		c.beginDiff(n.kind)
		return
	}
	c.happen(n.kind, Event{Kind: Answered, Answer: a.Kind, Reason: a.Reason})
}

// setCursor gives this cluster another place in the set's history. It is an entry, so that a DR secondary that takes over knows it.
func (c *simCluster) setCursor(at wal.Position) {
	c.append(&simEntry{house: &simHouse{cursor: at, reach: at, end: true}}, nil)
}

// accept is acceptHistory.
func (c *simCluster) accept(n *simConn) bool {
	return c.acceptHistory(n, &simMsg{seen: n.answered.history})
}

func (c *simCluster) acceptHistory(n *simConn, m *simMsg) bool {
	r := c.role[n.kind]
	if len(m.seen) == 0 {
		return true
	}
	if len(r.seen) > 0 && compareHistories(r.seen, m.seen) != historyKnown {
		n.lose()
		return false
	}
	r.seen = m.seen
	if n.kind == Performance { // before anything of it is in the log
		c.keepMember()
	}
	if n.kind == DR {
		c.history, c.lineage = slices.Clone(m.seen), m.seen[0].Lineage
	}
	return true
}

// takes takes a batch: applied, or spooled while ranges are compared.
func (c *simCluster) takes(n *simConn, m *simMsg) {
	r := c.role[n.kind]
	if !c.acceptHistory(n, m) {
		return
	}
	if !onHistory(r.seen, m.end.Index, m.end) {
		c.fail("%v: a batch up to %s is not on the history that was accepted, %s", n.kind, simPlace(m.end), simPath(r.seen))
		return
	}
	if s := c.syncing(n.kind); s != nil && s.diff && !s.fetched {
		c.spool(n.kind, m)
		return
	}
	c.applyBatch(n.kind, m)
	c.passed(n.kind)
}

func (c *simCluster) spool(k Kind, m *simMsg) {
	if k == DR {
		c.log = append(c.log, m.batch...)
		return
	}
	c.role[k].spool = append(c.role[k].spool, m)
}

func (c *simCluster) applyBatch(k Kind, m *simMsg) {
	for i, e := range m.batch {
		if k == DR {
			if e.at.Index != c.end().Index+1 {
				c.fail("entry %v follows %v", e.at, c.end())
				return
			}
			c.log = append(c.log, e)
			c.st.apply(e)
			continue
		}
		c.append(&simEntry{source: m.names[i], write: e.write}, nil)
	}
	if k == Performance {
		c.st.cursor = m.end // durable with the next entry or checkpoint
	}
}

// passed ends a sync or a fetch once the last place at which records were read is behind.
func (c *simCluster) passed(k Kind) {
	s := c.syncing(k)
	if s == nil || !s.fetched {
		return
	}
	at := c.st.cursor
	if k == DR {
		at = c.st.at
	}
	r := c.role[k]
	if at.Index < s.until.Index || !onHistory(r.seen, at.Index, s.until) {
		return
	}
	if k == DR {
		c.drSync = nil
		c.chk = c.st.clone()
	} else {
		c.append(&simEntry{house: &simHouse{end: true, reach: at}}, nil)
	}
	if r.state.Name == StateMerkleSync {
		c.happen(k, Event{Kind: SyncEnded})
	}
	if r.state.Name == StateStreamWALs { // what a heartbeat at the same place tells
		c.happen(k, Event{Kind: RootsEqual})
	}
}

// ---- sync

func (c *simCluster) beginDiff(k Kind) {
	r := c.role[k]
	a := r.conn.answered
	r.conn.synced = false
	r.spool, r.repair = nil, false
	s := &simSync{from: a.At, diff: true}
	c.archiveAll(k, a)
	if k == DR {
		c.log, c.base, c.first, c.drSync = nil, a.At, a.At.Index+1, s
		c.st.at = a.At
	} else {
		c.append(&simEntry{house: &simHouse{begin: s, cursor: a.At}}, nil)
	}
	c.ask(k)
}

// ask requests the next range, or the keys of a tail.
func (c *simCluster) ask(k Kind) {
	s := c.syncing(k)
	c.role[k].conn.up = append(c.role[k].conn.up, &simMsg{ask: &simAsk{part: s.got, keys: s.keys}})
}

func (c *simCluster) resume(k Kind) {
	s := c.syncing(k)
	c.role[k].conn.synced = false
	switch {
	case s.fetched:
		c.passed(k)
	case s.diff || s.keys != nil:
		c.ask(k)
	}
}

// gets takes records as they are on the feeder.
func (c *simCluster) gets(n *simConn, g *simGive) {
	k := n.kind
	s := c.syncing(k)
	if s == nil && k == Performance { // of a rewind that has written nothing yet
		c.rewound(n, g)
		return
	}
	sets := map[string]*simWrite{}
	for key, w := range g.recs {
		if c.st.recs[key] != w {
			sets[key] = w
		}
	}
	for key := range c.st.recs {
		mine := k == DR || simReplicated(key)
		if mine && g.recs[key] == nil && (g.keys == nil && simPart(key) == g.part || slices.Contains(g.keys, key)) {
			sets[key] = nil
		}
	}
	c.sim.copied += len(sets)
	c.sim.archiveRecords(c, sets)
	if len(sets) > 0 && c.role[k].state.Name == StateMerkleDiff {
		c.happen(k, Event{Kind: RangesDiffer})
	}
	if k == DR {
		for key, w := range sets {
			c.st.set(key, w)
		}
		c.st.cursor, c.st.floor, c.st.sync = g.cursor, max(c.st.floor, g.floor), g.sync
		s.until, s.got = g.end, s.got+1
		s.fetched = !s.diff || s.got == simParts
	} else {
		next := *s
		next.until, next.got = g.end, s.got+1
		next.fetched = next.got == simParts
		c.append(&simEntry{house: &simHouse{sets: sets, begin: &next, reach: g.end}}, nil)
		s = c.st.sync
	}
	if !s.fetched {
		c.ask(k)
		return
	}
	if c.role[k].state.Name == StateMerkleDiff {
		c.happen(k, Event{Kind: RangesEqual})
	}
	c.unspool(k)
}

// unspool applies what came while ranges were compared.
func (c *simCluster) unspool(k Kind) {
	r := c.role[k]
	if s := c.syncing(k); s == nil || !s.fetched {
		return
	}
	if k == DR {
		for _, e := range c.log {
			if e.at.Index > c.st.at.Index {
				c.st.apply(e)
			}
		}
	}
	spool := r.spool
	r.spool = nil
	for _, m := range spool {
		c.applyBatch(k, m)
	}
	c.passed(k)
}

// ---- rewind

// placeIn is where an entry of a performance secondary's own log stands in the log of the set; zero: nowhere.
func (e *simEntry) placeIn() wal.Position {
	switch {
	case !e.source.IsZero():
		return e.source
	case e.house != nil:
		return e.house.reach
	}
	return e.at
}

// tail returns the held entries that lie beyond a place in the set's history; false: the log does not reach back to it.
func (c *simCluster) tail(path []engine.Reign, common wal.Position) (out []*simEntry, ok bool) {
	index := func(f wal.Fork) int { return slices.IndexFunc(path, func(r engine.Reign) bool { return r.Fork == f }) }
	j := index(common.Fork)
	for i := c.end().Index; i >= c.first && i > 0; i-- {
		e := c.entry(i)
		p := e.placeIn()
		at := index(p.Fork)
		switch {
		case p.IsZero() || at < 0, p == e.at && !onHistory(path, c.st.cursor.Index, p): // written here for this cluster alone, under a fork of its reign
			continue
		case at > j || at == j && p.Index > common.Index:
			out = append(out, e)
		default:
			return out, true
		}
	}
	return out, c.first == 1
}

func (c *simCluster) rewind(k Kind) {
	r := c.role[k]
	a := r.conn.answered
	if k == DR {
		c.rewindLog(a)
		return
	}
	tail, ok := c.tail(r.conn.path, a.Common)
	if !ok || c.st.sync != nil { // the own log does not tell what to take back
		c.sim.repairs++
		c.happen(k, Event{Kind: Diverged, Reason: "the tail is not held"})
		return
	}
	keys := map[string]bool{}
	for _, e := range tail {
		if e.write != nil && simReplicated(e.write.key) {
			keys[e.write.key] = true
			c.sim.archive(e.write, true)
		}
		if e.house != nil {
			for key, w := range e.house.sets {
				keys[key] = true
				if w != nil {
					c.sim.archive(w, true)
				}
			}
		}
	}
	sorted := []string{}
	for key := range keys {
		sorted = append(sorted, key)
	}
	sort.Strings(sorted)
	c.sim.tails += len(sorted)
	if len(sorted) == 0 {
		if !c.accept(r.conn) {
			return
		}
		c.tookBack(k)
		c.setCursor(a.Common)
		r.conn.up = append(r.conn.up, &simMsg{ask: &simAsk{keys: sorted}})
		c.happen(k, Event{Kind: SyncEnded})
		return
	}
	r.conn.up = append(r.conn.up, &simMsg{ask: &simAsk{keys: sorted}})
}

func (c *simCluster) tookBack(k Kind) {
	c.role[k].rewound++
	c.sim.rewinds++
}

// rewound sets the keys of a performance secondary's tail to the feeder's values.
func (c *simCluster) rewound(n *simConn, g *simGive) {
	if len(g.keys) == 0 {
		return // the feeder was only told to go on
	}
	a := n.answered
	if !c.accept(n) {
		return
	}
	sets := map[string]*simWrite{}
	for _, key := range g.keys {
		if c.st.recs[key] != g.recs[key] {
			sets[key] = g.recs[key]
		}
	}
	c.sim.copied += len(sets)
	c.tookBack(n.kind)
	s := &simSync{from: a.Common, until: g.end, fetched: true}
	c.append(&simEntry{house: &simHouse{sets: sets, begin: s, cursor: a.Common, reach: g.end}}, nil)
	c.passed(n.kind)
}

// rewindLog cuts a copied log at the answer's place. What the tail touched is fetched before anything more is applied.
func (c *simCluster) rewindLog(a *simAnswer) {
	r := c.role[DR]
	var tail []*simEntry
	for i := c.end().Index; i > a.At.Index; i-- {
		e := c.entry(i)
		if e == nil || i < c.first {
			c.sim.repairs++
			c.happen(DR, Event{Kind: Diverged, Reason: "the tail is not held"})
			return
		}
		tail = append(tail, e)
	}
	keys := map[string]bool{}
	if s := c.drSync; s != nil && s.diff { // ranges were read that this feeder may not have
		c.sim.repairs++
		c.happen(DR, Event{Kind: Diverged, Reason: "a sync was under way"})
		return
	} else if s != nil {
		for _, key := range s.keys {
			keys[key] = true
		}
	}
	for _, e := range tail {
		if e.write != nil {
			keys[e.write.key] = true
			c.sim.archive(e.write, e.source.IsZero() || !c.sim.onSet(r.feeder, e.source))
		}
		if e.house != nil {
			for key := range e.house.sets {
				keys[key] = true
			}
		}
	}
	s := &simSync{from: a.At, keys: []string{}}
	for key := range keys {
		s.keys = append(s.keys, key)
	}
	sort.Strings(s.keys)
	c.sim.tails += len(s.keys)
	if !c.accept(r.conn) {
		return
	}
	c.tookBack(DR)
	c.log = c.log[:a.At.Index-c.base.Index]
	c.drSync, c.st.at = s, a.At
	c.ask(DR)
}
