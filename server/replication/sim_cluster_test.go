package replication

import (
	"fmt"
	"maps"
	"slices"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

// The simulation: clusters as small obvious machines in one goroutine. What decides is the real thing (place, compareHistories, Step, the search by sources,
// compareIndex); log, state, disk and network are models of it. This file is one cluster: what it holds, what a crash leaves of it.

// simWrite is one write by a client (or by a role change), wherever it is applied later.
type simWrite struct {
	id     int
	key    string // r..: replicated scope; l..: local; the names below are local
	gone   bool   // it deletes
	before *simWrite
	at     wal.Position // where it was first written
	shared wal.Position // the replicated part of the state after it, as its index token says
	acked  bool
	lostBy bool           // its only copies were on a disk that was put back
	set    *setConfig     // of simSet
	member []engine.Reign // of simMember
}

const (
	simSet    = "~set"    // the cluster's part as a performance primary
	simMember = "~member" // what it has seen of the set that it is a performance secondary of
)

func simReplicated(key string) bool { return key[0] == 'r' }

// simEntry is one entry of a log. Entries are shared between logs and never changed.
type simEntry struct {
	at     wal.Position
	source wal.Position
	write  *simWrite
	house  *simHouse
}

// simHouse is a housekeeping entry: what it sets, and up to where the feeder's log is complete here with it.
type simHouse struct {
	sets   map[string]*simWrite
	cursor wal.Position // the subscription's place from here on; zero: unchanged
	reach  wal.Position // the feeder's place at which the values were read
	begin  *simSync     // a sync begins
	end    bool         // the sync has ended
}

// simSync is a sync or the fetch of a rewind that has not ended.
type simSync struct {
	from, until wal.Position
	diff        bool     // all ranges; else the keys of a tail
	keys        []string // of the tail, until they are fetched
	got         int      // ranges that are here
	fetched     bool     // everything is here up to until
}

func (s *simSync) clone() *simSync {
	if s == nil {
		return nil
	}
	c := *s
	return &c
}

// simState is what is applied.
type simState struct {
	at     wal.Position
	recs   map[string]*simWrite
	cursor wal.Position
	floor  uint64
	sync   *simSync // of the performance subscription: told by the log
}

func (s *simState) clone() *simState {
	c := *s
	c.recs, c.sync = maps.Clone(s.recs), s.sync.clone()
	return &c
}

func (s *simState) apply(e *simEntry) {
	if e.write != nil {
		s.recs[e.write.key] = e.write
	}
	if h := e.house; h != nil {
		for k, w := range h.sets {
			s.set(k, w)
		}
		if len(h.sets) > 0 {
			s.floor = e.at.Index
		}
		if h.begin != nil {
			s.sync = h.begin.clone()
		}
		if h.end {
			s.sync = nil
		}
		if !h.cursor.IsZero() {
			s.cursor = h.cursor
		}
	}
	if !e.source.IsZero() {
		s.cursor = e.source
	}
	s.at = e.at
}

func (s *simState) set(key string, w *simWrite) {
	if w == nil {
		delete(s.recs, key)
		return
	}
	s.recs[key] = w
}

// visible are the records of a scope, deleted ones left out: what digests are made of.
func (s *simState) visible(takes func(string) bool) map[string]int {
	out := map[string]int{}
	for k, w := range s.recs {
		if takes(k) && !w.gone {
			out[k] = w.id
		}
	}
	return out
}

// simRole is a cluster's part in one set.
type simRole struct {
	mode   Mode
	feeder *simCluster
	seen   []engine.Reign
	joined bool
	repair bool // a sync was abandoned
	fenced bool
	rivals [][]engine.Reign // what it was fenced for

	state   State // of the machine that follows
	conn    *simConn
	connect bool // the machine asked for a connection
	spool   []*simMsg
	rewound int // rewinds since the last re-pointing
	lives   int // connections tried since
}

// simCluster is one cluster.
type simCluster struct {
	sim     *sim
	name    string
	site    string // clusters of one site have one log, and one identity in the performance set
	up      bool
	lineage wal.Lineage
	log     []*simEntry
	base    wal.Position // the place before the first entry that this log ever held
	first   uint64       // held from here
	history []engine.Reign
	st, chk *simState
	pending []*simWrite // accepted, not durable
	reopen  bool        // the next entry begins a fork
	stopped bool        // superseded: it writes no more
	drSync  *simSync
	role    map[Kind]*simRole
	backup  *simCluster
	shown   map[string][]engine.Reign // of the streaming service: forgotten at a restart
}

func (c *simCluster) String() string { return c.name }

func (c *simCluster) end() wal.Position {
	if len(c.log) == 0 {
		return c.base
	}
	return c.log[len(c.log)-1].at
}

// entry returns one that is in the log, held or not.
func (c *simCluster) entry(index uint64) *simEntry {
	if index <= c.base.Index || index > c.end().Index {
		return nil
	}
	return c.log[index-c.base.Index-1]
}

// FirstIndex and nextSource are the log as the search for a place sees it.
func (c *simCluster) FirstIndex() uint64 { return c.first }

func (c *simCluster) nextSource(history []engine.Reign, from, last uint64) (uint64, wal.Position, error) {
	for i := max(from, c.first); i <= last; i++ {
		e := c.entry(i)
		if e == nil {
			break
		}
		if h := e.house; h != nil && h.end {
			return i, h.reach, nil
		} else if h != nil && !h.cursor.IsZero() {
			return i, h.cursor, nil
		}
		if !e.source.IsZero() {
			return i, e.source, nil
		}
		if onHistory(history, last, e.at) {
			return i, e.at, nil
		}
	}
	return 0, wal.Position{}, nil
}

// append makes one entry of this cluster's own durable and applies it.
func (c *simCluster) append(e *simEntry, epoch *engine.Reign) *simEntry {
	index := c.end().Index + 1
	if len(c.history) == 0 || c.reopen || epoch != nil {
		r := engine.Reign{Ordinal: 1, Lineage: c.lineage, Fork: c.sim.newFork(c), Start: index, Who: c.name}
		if n := len(c.history); n > 0 {
			r.Ordinal, r.Parent = c.history[n-1].Ordinal, c.history[n-1].Fork
		}
		if epoch != nil {
			r.Ordinal, r.Overrides = epoch.Ordinal, epoch.Overrides
		}
		c.history, c.reopen = append(slices.Clone(c.history), r), false
	}
	e.at = wal.Position{Fork: c.history[len(c.history)-1].Fork, Index: index}
	if e.write != nil && e.source.IsZero() {
		e.write.at = e.at
	}
	c.take(e)
	return e
}

func (c *simCluster) take(e *simEntry) {
	c.log = append(c.log, e)
	c.sim.entries[e.at] = e
	c.st.apply(e)
}

func (c *simCluster) own(key string, change func(*simWrite)) *simWrite {
	w := c.sim.newWrite(c, key)
	change(w)
	return w
}

func (c *simCluster) checkpoint() {
	if c.drSync == nil { // in a sync the state file is written as it goes
		c.chk = c.st.clone()
	}
}

// crash loses what is in memory. Of what was accepted and is not durable, some entries may turn out to be.
func (c *simCluster) crash(kept int) {
	if !c.up {
		return
	}
	for i, w := range c.pending {
		if i < kept {
			c.append(&simEntry{write: w}, nil)
		}
	}
	c.pending = nil
	c.up = false
	for _, k := range kinds {
		r := c.role[k]
		r.state, r.connect = State{Name: StateDisabled}, false
		r.conn.kill()
		if r.spool != nil && k == DR {
			r.spool = nil
		}
	}
	c.sim.cutFeeds(c, DR)
	c.sim.cutFeeds(c, Performance)
	c.shown = map[string][]engine.Reign{}
	if c.drSync != nil {
		return // ranges and place went to disk together
	}
	c.st = c.chk.clone()
	for _, e := range c.log {
		if e.at.Index > c.st.at.Index {
			c.st.apply(e)
		}
	}
}

func (c *simCluster) restart() {
	if c.up {
		return
	}
	c.up, c.reopen = true, c.role[DR].mode != Secondary
	for _, k := range kinds {
		c.begin(k)
	}
}

// begin starts the machine that follows a primary.
func (c *simCluster) begin(k Kind) {
	r := c.role[k]
	r.conn.kill()
	r.state, r.connect = State{Name: StateDisabled}, false
	if c.up && r.mode == Secondary && r.feeder != nil {
		c.happen(k, Event{Kind: Enabled, Empty: !r.joined, Syncing: c.syncing(k) != nil})
	}
}

func (c *simCluster) syncing(k Kind) *simSync {
	if k == DR {
		return c.drSync
	}
	return c.st.sync
}

func (c *simCluster) consistent() bool { return c.drSync == nil && c.st.sync == nil }

// whole reports whether what is here is a place of a history: consistent, and no sync was abandoned.
func (c *simCluster) whole() bool {
	return c.consistent() && !c.role[DR].repair && !c.role[Performance].repair
}

// set is this cluster's part as a performance primary, nil when it is none.
func (c *simCluster) set() *setConfig {
	if w := c.st.recs[simSet]; w != nil && c.role[DR].mode != Secondary {
		return w.set
	}
	return nil
}

func (c *simCluster) leads(k Kind) bool { return c.up && c.role[k].mode == Primary }

// setHistory is the history of a set whose primary this is, else what it has seen of it.
func (c *simCluster) setHistory(k Kind) []engine.Reign {
	if c.role[k].mode == Primary {
		all, _ := setReigns(k, c.set(), durable(c.history, c.end().Index))
		return all
	}
	return c.role[k].seen
}

// write is a client's.
func (c *simCluster) write(key string, gone bool) {
	switch {
	case !c.up, c.stopped, c.role[DR].mode == Secondary, c.role[DR].fenced:
		return
	case simReplicated(key) && (c.role[Performance].mode != Primary || c.role[Performance].fenced):
		return
	}
	w := c.sim.newWrite(c, key)
	w.gone = gone
	w.before = c.st.recs[key]
	for _, p := range c.pending {
		if p.key == key {
			w.before = p
		}
	}
	c.pending = append(c.pending, w)
}

// commit is the log's fsync: what was accepted is durable, then visible, then answered.
func (c *simCluster) commit() {
	for _, w := range c.pending {
		c.append(&simEntry{write: w}, nil)
		w.acked, w.shared = true, w.at
		if c.role[Performance].mode == Secondary {
			w.shared = c.st.cursor
		}
		c.sim.acked++
	}
	c.pending = nil
}

// retain lets go of log below an index; never above the local checkpoint.
func (c *simCluster) retain(index uint64) {
	if c.drSync == nil {
		c.first = max(c.first, min(index, c.chk.at.Index+1))
	}
}

func (c *simCluster) clone() *simCluster {
	b := *c
	b.log, b.st, b.chk, b.pending = slices.Clone(c.log), c.st.clone(), c.chk.clone(), nil
	b.drSync, b.backup = c.drSync.clone(), nil
	b.role = map[Kind]*simRole{}
	for _, k := range kinds {
		r := *c.role[k]
		r.conn, r.connect, r.state = nil, false, State{Name: StateDisabled}
		r.spool, r.rivals = slices.Clone(r.spool), slices.Clone(r.rivals)
		b.role[k] = &r
	}
	return &b
}

// restore puts an older copy of the whole disk in this cluster's place.
func (c *simCluster) restore() {
	if c.backup == nil {
		return
	}
	gone := c.log
	c.crash(0)
	keep := c.backup
	*c = *keep.clone()
	c.backup, c.up, c.shown = keep, false, map[string][]engine.Reign{}
	if c.drSync == nil {
		c.st = c.chk.clone()
		for _, e := range c.log {
			if e.at.Index > c.st.at.Index {
				c.st.apply(e)
			}
		}
	}
	c.sim.forfeit(c, gone)
	c.restart()
}

func (c *simCluster) fail(format string, args ...any) {
	c.sim.fail("%s: %s", c.name, fmt.Sprintf(format, args...))
}
