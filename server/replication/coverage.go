package replication

import (
	"bytes"
	"maps"
	"slices"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// MountTable says how mounts are found among the records of storage.SystemReplicated: what a paths filter names are paths, what a subscription covers are
// keyspaces.
type MountTable struct {
	Prefix string // of their keys
	// Decode returns a mount's path, with its final slash, and its keyspace; ok is false for what is no mount's record.
	Decode func(key, value []byte) (path string, id storage.KeyspaceID, ok bool)
	// Grants tells whether the records of a mount say who may do what: these are not replayed. nil: of no mount.
	Grants func(path string) bool
}

// coverage is what a performance subscription takes, as its feeder told it: the replicated scope but for what is left out.
type coverage struct {
	Number  uint64               // the feeder's index as of which it was computed
	Since   wal.Position         // where the paths filter was last changed; zero: there never was one
	Ordinal uint64               // of the reign of Since
	Left    []storage.KeyspaceID // left out, ascending
	Added   []storage.KeyspaceID // left out before and covered now: the records were not sent
	Removed []storage.KeyspaceID // covered before and left out now

	Unavailable []storage.KeyspaceID // not left out, but the feeder has not the data: not sent, not compared, not deleted
}

// cover is the coverage of one subscription as of one index. It is never changed after it was made.
type cover struct {
	whole bool                        // all of the replicated scope, whatever the mount table says
	known map[storage.KeyspaceID]bool // keyspaces of mounts: whether they are covered
	lacks []storage.KeyspaceID        // of those that are not: what nobody leaves out, but the feeder lacks
}

// place of a keyspace of the replicated scope in a cover.
type standing int8

const (
	leftOut standing = iota
	unknown          // no mount has it: it is not made yet, or was dropped. It is not sent
	covered
)

func (c *cover) of(id storage.KeyspaceID) standing {
	if c.whole || id == storage.SystemReplicated {
		return covered
	}
	in, known := c.known[id]
	switch {
	case !known:
		return unknown
	case in:
		return covered
	}
	return leftOut
}

// takes is what a subscription covers of all keyspaces.
type takes func(id storage.KeyspaceID, s storage.Scope) bool

func (c *cover) takes(id storage.KeyspaceID, s storage.Scope) bool {
	return s == storage.Replicated && c.of(id) == covered
}

// across is what is sent of a frame that has one cover before it and another after it. Of a keyspace that is added nothing, its records are yet to come; of one
// that is removed nothing, it goes; a mount that is made or unmounted within the frame, wholly.
func across(before, after *cover) takes {
	if before == after {
		return after.takes
	}
	return func(id storage.KeyspaceID, s storage.Scope) bool {
		if s != storage.Replicated {
			return false
		}
		b, a := before.of(id), after.of(id)
		return b == covered && a != leftOut || b == unknown && a == covered
	}
}

// left lists what is left out, ascending.
func (c *cover) left() []storage.KeyspaceID {
	var out []storage.KeyspaceID
	for id, in := range c.known {
		if !in && !c.whole && !hasID(c.lacks, id) {
			out = append(out, id)
		}
	}
	sortIDs(out)
	return out
}

// moved lists, ascending, the keyspaces of mounts that stand as from says in one cover and as to says in another.
func moved(before, after *cover, from, to standing) []storage.KeyspaceID {
	var out []storage.KeyspaceID
	for id := range after.known {
		if before.of(id) == from && after.of(id) == to {
			out = append(out, id)
		}
	}
	sortIDs(out)
	return out
}

func sortIDs(ids []storage.KeyspaceID) {
	slices.SortFunc(ids, func(a, b storage.KeyspaceID) int { return bytes.Compare(a[:], b[:]) })
}

func hasID(sorted []storage.KeyspaceID, id storage.KeyspaceID) bool {
	_, ok := slices.BinarySearchFunc(sorted, id, func(a, b storage.KeyspaceID) int { return bytes.Compare(a[:], b[:]) })
	return ok
}

// without returns a less b, both ascending.
func without(a, b []storage.KeyspaceID) []storage.KeyspaceID {
	var out []storage.KeyspaceID
	for _, id := range a {
		if !hasID(b, id) {
			out = append(out, id)
		}
	}
	return out
}

func union(a, b []storage.KeyspaceID) []storage.KeyspaceID {
	out := append(slices.Clone(a), without(b, a)...)
	sortIDs(out)
	return out
}

// coverer computes one subscription's cover from the filter and the mount table of the own log, at a place and from there on.
type coverer struct {
	table  *MountTable
	key    string // of the filter's record
	at     uint64 // index as of which it is
	filter *filterRecord
	since  wal.Position // of the filter's last change; zero without one
	reign  uint64       // ordinal there
	mounts map[string]mountPlace
	told   *coverage // what the secondary was last told
	kept   []storage.KeyspaceID
	absent []storage.KeyspaceID // what this cluster lacks itself: it was promoted by force under a filter of its own
	now    *cover
}

type mountPlace struct {
	path string
	id   storage.KeyspaceID
}

// coverer reads filter and mount table of a view. history is that of the own log; told is what the secondary says it was last told: nil for nothing.
func (n *Node) coverer(v *storage.View, history []engine.Reign, id string, told *coverage) (*coverer, error) {
	own, err := n.holding()
	if err != nil {
		return nil, err
	}
	c := &coverer{
		table: n.cfg.Mounts, key: string(recordFilter(id)), at: v.Position().Index, mounts: map[string]mountPlace{}, told: told, absent: union(own.Left, own.filling),
	}
	filter, index, err := readFilter(v, id)
	if err != nil {
		return nil, err
	}
	if c.filter = filter; filter != nil {
		r := reignAt(history, index)
		c.since, c.reign = wal.Position{Fork: r.Fork, Index: index}, r.Ordinal
	}
	c.kept = keeps(told, history, c.at, c.reign)
	if err := c.readMounts(v); err != nil {
		return nil, err
	}
	c.now = c.compute()
	return c, nil
}

func (c *coverer) readMounts(v *storage.View) error {
	if c.table == nil {
		return nil
	}
	return v.Scan(storage.SystemReplicated, []byte(c.table.Prefix), prefixEnd(c.table.Prefix), func(rec storage.Record) bool {
		c.mount(rec.Key, rec.Value)
		return true
	})
}

// mount takes a record of the mount table into account: value nil when it was deleted.
func (c *coverer) mount(key, value []byte) {
	delete(c.mounts, string(key))
	if value == nil {
		return
	}
	if path, id, ok := c.table.Decode(key, value); ok {
		c.mounts[string(key)] = mountPlace{path, id}
	}
}

// compute is the pure function: filter, mount table and what the secondary keeps to, nothing else.
func (c *coverer) compute() *cover {
	filtered := c.filter.active()
	out := &cover{whole: !filtered && len(c.kept)+len(c.absent) == 0, known: make(map[storage.KeyspaceID]bool, len(c.mounts))}
	for _, m := range c.mounts {
		in := !(filtered && c.filter.leavesOut(m.path)) && !hasID(c.kept, m.id)
		if in && hasID(c.absent, m.id) {
			in, out.lacks = false, append(out.lacks, m.id)
		}
		out.known[m.id] = in
	}
	sortIDs(out.lacks)
	return out
}

// coverage is what the secondary is told of c; before is the cover in force until now, nil for what it said it was told.
func (c *coverer) coverage(before *cover) *coverage {
	out := &coverage{Number: c.at, Since: c.since, Ordinal: c.reign, Left: c.now.left(), Unavailable: c.now.lacks}
	switch {
	case before != nil:
		out.Added, out.Removed = moved(before, c.now, leftOut, covered), moved(before, c.now, covered, leftOut)
	case c.told != nil:
		for _, id := range c.told.Left {
			if c.now.known[id] {
				out.Added = append(out.Added, id)
			}
		}
	}
	return out
}

// ofLineage is the part of a set's history that one log tells: changes of filters are in that.
func ofLineage(history []engine.Reign, lineage wal.Lineage) []engine.Reign {
	var out []engine.Reign
	for i := range history {
		if history[i].Lineage == lineage {
			out = append(out, history[i])
		}
	}
	return out
}

// keeps returns what a secondary leaves out although its feeder's filter does not (PROTOCOL 6): what it was told to by a change that the feeder never had, until
// the feeder's own filter was changed in a later reign (its ordinal is reign) than that of the change that was lost.
func keeps(told *coverage, history []engine.Reign, last, reign uint64) []storage.KeyspaceID {
	if told == nil || told.Since.IsZero() || onHistory(history, last, told.Since) || reign > told.Ordinal {
		return nil
	}
	return told.Left
}

// reignAt returns the reign in which an index of the own log was written.
func reignAt(history []engine.Reign, index uint64) engine.Reign {
	for i := len(history) - 1; i >= 0; i-- {
		if history[i].Start <= index {
			return history[i]
		}
	}
	return engine.Reign{}
}

// follow takes a frame of the own log into account; before is the cover until it. The mount table is followed even while there is no filter: one may come.
func (c *coverer) follow(fr *wal.Frame, totals []storage.KeyspaceTotal) (before *cover, err error) {
	before = c.now
	if fr.Last() <= c.at {
		return before, nil
	}
	changed := false
	if touchesSystem(totals) {
		for i, e := range fr.Entries {
			if fr.First+uint64(i) <= c.at {
				continue
			}
			did, err := c.entry(e, wal.Position{Fork: fr.Fork, Index: fr.First + uint64(i)}, fr.Ordinal)
			if err != nil {
				return nil, err
			}
			changed = changed || did
		}
	}
	c.at = fr.Last()
	if changed {
		if next := c.compute(); next.whole != before.whole || !maps.Equal(next.known, before.known) {
			c.now = next
		}
	}
	return before, nil
}

func touchesSystem(totals []storage.KeyspaceTotal) bool {
	return slices.ContainsFunc(totals, func(t storage.KeyspaceTotal) bool {
		return t.ID == storage.SystemReplicated || t.ID == storage.SystemLocal
	})
}

// entry takes an entry into account and reports whether it touches the filter or a mount.
func (c *coverer) entry(b []byte, at wal.Position, ordinal uint64) (changed bool, err error) {
	e, err := storage.DecodeEntry(b)
	if err != nil {
		return false, err
	}
	for i := range e.Blocks {
		block := &e.Blocks[i]
		for j := range block.Changes {
			ch := &block.Changes[j]
			switch {
			case block.Keyspace == storage.SystemLocal && string(ch.Key) == c.key:
				if err := c.refilter(ch, at, ordinal); err != nil {
					return false, err
				}
				changed = true
			case block.Keyspace == storage.SystemReplicated && c.table != nil && bytes.HasPrefix(ch.Key, []byte(c.table.Prefix)):
				var value []byte
				if ch.Op == storage.Put {
					value = ch.Value
				}
				c.mount(ch.Key, value)
				changed = true
			}
		}
	}
	return changed, nil
}

// refilter takes a change of the filter's record; that it goes altogether is the end of a revoked secondary's.
func (c *coverer) refilter(ch *storage.Change, at wal.Position, ordinal uint64) error {
	c.filter, c.since, c.reign = nil, wal.Position{}, 0
	if ch.Op != storage.Put {
		return nil
	}
	f, err := decodeFilter(ch.Value)
	if err != nil {
		return err
	}
	c.filter, c.since, c.reign = f, at, ordinal
	if c.kept != nil && ordinal > c.told.Ordinal {
		c.kept = nil
	}
	return nil
}
