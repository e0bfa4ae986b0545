package replication

import (
	"slices"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

// This file is the wire of the simulation: connections, whose messages arrive in order or not at all, the feeder's side, and what a hello is answered.

// simMsg is one message; what is nil is not in it.
type simMsg struct {
	hello  *simHello
	answer *simAnswer
	batch  []*simEntry    // of the feeder's log: whole for DR; for performance what is covered
	names  []wal.Position // of each, in the set's history
	end    wal.Position
	seen   []engine.Reign // the feeder's history, when it has grown
	ask    *simAsk
	give   *simGive
}

type simHello struct {
	place  callerPlace
	site   string
	sync   *simSync
	repair bool
}

type simAnswer struct {
	Answer
	history, log []engine.Reign
	resume       bool
}

// simAsk asks for records as they are now: a range, or the keys of a tail.
type simAsk struct {
	part int
	keys []string // nil: the range
}

type simGive struct {
	simAsk
	recs   map[string]*simWrite
	end    wal.Position
	cursor wal.Position // dr: beside the records, what else the state holds
	floor  uint64
	sync   *simSync
}

const simParts = 3

func simPart(key string) int { return int(key[len(key)-1]) % simParts }

// simConn is one connection; nil and a dead one carry nothing.
type simConn struct {
	kind     Kind
	sec, fed *simCluster
	up, down []*simMsg
	dead     bool

	answered *simAnswer // of the secondary's side
	synced   bool       // answered with a sync that has not begun
	again    bool       // this hello was said for a diff
	path     []engine.Reign

	feeding bool // of the feeder's side
	at      wal.Position
	name    wal.Position // the same in the set's history
	forks   int
}

func (n *simConn) kill() {
	if n != nil {
		n.dead, n.up, n.down = true, nil, nil
	}
}

// lose ends a connection; the secondary notices.
func (n *simConn) lose() {
	if n == nil || n.dead {
		return
	}
	n.kill()
	if r := n.sec.role[n.kind]; r.conn == n && n.sec.up {
		r.conn = nil
		n.sec.happen(n.kind, Event{Kind: Disconnected})
	}
}

// dial tries the connection that a machine asked for.
func (c *simCluster) dial(k Kind) {
	r := c.role[k]
	if !c.up || !r.connect {
		return
	}
	r.connect = false
	r.lives++
	if r.feeder == nil || !r.feeder.leads(k) {
		c.happen(k, Event{Kind: Disconnected})
		return
	}
	for _, o := range c.sim.conns { // a newer stream ends the older
		if o.fed == r.feeder && o.kind == k && !o.dead && (o.sec == c || k == Performance && o.sec.site == c.site) {
			o.lose()
		}
	}
	r.conn = &simConn{kind: k, sec: c, fed: r.feeder}
	c.sim.conns = append(slices.DeleteFunc(c.sim.conns, func(n *simConn) bool { return n.dead }), r.conn)
	c.happen(k, Event{Kind: Connected})
}

func (c *simCluster) timer(k Kind) {
	if r := c.role[k]; c.up && r.state.Waiting {
		c.happen(k, Event{Kind: TimerFired})
	}
}

// deliver takes the oldest message of one direction off a connection.
func (n *simConn) deliver(down bool) {
	switch {
	case n.dead:
	case down && len(n.down) > 0 && n.sec.up:
		m := n.down[0]
		n.down = n.down[1:]
		n.sec.hears(n, m)
	case !down && len(n.up) > 0 && n.fed.up:
		m := n.up[0]
		n.up = n.up[1:]
		n.fed.asked(n, m)
	}
}

// ---- the feeder's side

func (c *simCluster) asked(n *simConn, m *simMsg) {
	if c.role[n.kind].mode != Primary {
		n.lose()
		return
	}
	switch {
	case m.hello != nil:
		c.greeted(n, m.hello)
	case m.ask != nil:
		c.asksRecords(n, m.ask)
	}
}

func (c *simCluster) greeted(n *simConn, h *simHello) {
	k := n.kind
	end := c.end()
	set, log := c.set(), durable(c.history, end.Index)
	history, own := setReigns(k, set, log)
	who := h.site
	if k == DR {
		who = n.sec.name
	}
	caller := h.place
	caller.Identity = c.identity(string(k)+"/"+who, caller.Log)
	f := &feederPlace{Kind: k, Set: "set", Version: "1.0.0", History: history, Log: log, End: end, First: c.first,
		After: func(p wal.Position) (uint64, bool) {
			index, ok, err := afterIn(c, c.history, history, set, p)
			if err != nil {
				c.sim.blind++
			}
			return index, ok
		}}
	if k == Performance {
		f.Floor = c.st.floor
	}
	d := place(f, &caller)
	c.sim.checkPlace(c, f, &caller, d)
	c.meets(k, &caller, d)
	a := &simAnswer{Answer: d, history: history}
	switch {
	case (d.Kind == Continue || d.Kind == Rewind) && h.repair: // also who cannot tell its tail from its log
		a.Kind = Repair
	case d.Kind == Continue && h.sync != nil:
		a.resume = onHistory(log, end.Index, h.sync.from) && onHistory(log, end.Index, h.sync.until)
		if !a.resume {
			a.Kind = Repair
		}
	}
	a.log = log
	n.feeding = false
	switch a.Kind {
	case Continue:
		n.feeding, n.at, n.name = true, a.At, a.Common
	case Rewind: // the keys are asked for first
		n.at, n.name = a.At, a.Common
	case Repair, Bootstrap:
		a.At = c.chk.at
		if !c.consistent() || a.At.Index > 0 && !onHistory(own, end.Index, a.At) {
			n.lose() // a checkpoint of this reign is not finished yet
			return
		}
		if a.At.Index+1 < c.first {
			c.fail("its checkpoint at %v is below its log, which begins at %d", a.At, c.first)
		}
		n.feeding, n.at, n.name, a.Common = true, a.At, a.At, a.At
		if a.Kind == Repair {
			c.sim.repairs++
			c.sim.note("%s: REPAIR for %s: %s (%v)", c, n.sec, d.Reason, d.Kind)
		}
	}
	c.sim.counts[a.Kind]++
	n.forks = len(history)
	n.down = append(n.down, &simMsg{answer: a})
}

// identity is service.identity.
func (c *simCluster) identity(key string, own []engine.Reign) []engine.Reign {
	shown := c.shown[key]
	if len(shown) == 0 || len(own) > 0 && compareHistories(shown, own) != historyNewer {
		c.shown[key] = own
	}
	return shown
}

// meets fences a primary that has met a newer history, or one that it is in conflict with.
func (c *simCluster) meets(k Kind, caller *callerPlace, d Answer) {
	if d.Kind != Stale && d.Kind != Restored && !d.Conflict {
		return
	}
	c.fence(k, caller.History)
	c.fence(k, pathTo(caller.History, caller.Place))
}

func (c *simCluster) fence(k Kind, rival []engine.Reign) {
	r := c.role[k]
	r.fenced = true
	r.rivals = append(r.rivals, rival)
	c.commit() // what was accepted before
}

// feed sends some of what follows in the log.
func (c *simCluster) feed(n *simConn, count int) {
	if n.dead || !n.feeding || n.at.Index >= c.end().Index {
		return
	}
	if n.at.Index+1 < c.first {
		n.lose()
		return
	}
	m := &simMsg{}
	history := c.setHistory(n.kind)
	for range count {
		e := c.entry(n.at.Index + 1)
		if e == nil {
			break
		}
		// What this cluster received before its reign is told by the name that it has in the set's history: others know it by that one.
		if n.at = e.at; onHistory(history, c.end().Index, e.at) {
			n.name = e.at
		} else if p := e.placeIn(); onHistory(history, c.end().Index, p) && !p.IsZero() {
			n.name = p
		}
		m.end = n.name
		if n.kind == DR || e.house == nil && e.write != nil && simReplicated(e.write.key) {
			m.batch, m.names = append(m.batch, e), append(m.names, n.name)
		}
	}
	if len(history) != n.forks {
		n.forks, m.seen = len(history), history
	}
	n.down = append(n.down, m)
}

func (c *simCluster) asksRecords(n *simConn, a *simAsk) {
	g := &simGive{simAsk: *a, recs: map[string]*simWrite{}, end: c.end(), cursor: c.st.cursor, floor: c.st.floor, sync: c.st.sync.clone()}
	for key, w := range c.st.recs {
		if (n.kind == DR || simReplicated(key)) && (a.keys == nil && simPart(key) == a.part || slices.Contains(a.keys, key)) {
			g.recs[key] = w
		}
	}
	if !n.feeding {
		n.feeding = true
	}
	n.down = append(n.down, &simMsg{give: g})
}
