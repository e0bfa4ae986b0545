package replication

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

// This file is the slow twin of the simulation: what must hold is decided by lists of all entries ever written, never by ends of forks.

func simPath(h []engine.Reign) string {
	var out []string
	for _, r := range h {
		text := fmt.Sprintf("%s%d@%d", simFork(r.Fork), r.Ordinal, r.Start)
		if r.ParentEnd > 0 {
			text += fmt.Sprintf("<%d", r.ParentEnd)
		}
		for _, o := range r.Overrides {
			text += "!" + simFork(o)
		}
		out = append(out, text)
	}
	return "[" + strings.Join(out, " ") + "]"
}

func simFork(f wal.Fork) string { return strings.TrimRight(string(f[:]), "\x00") }

func simPlace(p wal.Position) string { return fmt.Sprintf("%s:%d", simFork(p.Fork), p.Index) }

// sequence lists the places of a history up to one, entry by entry; false: the place is not on it.
func (s *sim) sequence(h []engine.Reign, last wal.Position) (out []wal.Position, ok bool) {
	if last.IsZero() {
		return nil, true
	}
	for i, r := range h {
		for index := r.Start; ; index++ {
			p := wal.Position{Fork: r.Fork, Index: index}
			if r.Fork == last.Fork && index > last.Index {
				return out, true
			}
			if r.Fork != last.Fork && i+1 < len(h) {
				next := h[i+1]
				inLog := next.Lineage == r.Lineage && next.ParentEnd == 0
				if inLog && index >= next.Start || !inLog && index > next.ParentEnd {
					break
				}
			}
			if s.entries[p] == nil {
				break
			}
			out = append(out, p)
		}
		if r.Fork == last.Fork {
			return out, true
		}
	}
	return out, false
}

// replay is the state that a list of entries gives.
func (s *sim) replay(places []wal.Position, takes func(string) bool) map[string]int {
	st := &simState{recs: map[string]*simWrite{}}
	for _, p := range places {
		e := s.entries[p]
		if e.write != nil && takes(e.write.key) {
			st.recs[e.write.key] = e.write
		}
		if e.house != nil {
			for k, w := range e.house.sets {
				if takes(k) {
					st.set(k, w)
				}
			}
		}
	}
	return st.visible(takes)
}

// checkPlace holds an answer against both logs.
func (s *sim) checkPlace(c *simCluster, f *feederPlace, caller *callerPlace, d Answer) {
	s.note("%s answers %s place=%s seen=%s of log %s: %v at %s common %s; own history %s end %s (%s)", c, f.Kind, simPlace(caller.Place), simPath(caller.History), simPath(caller.Log), d.Kind,
		simPlace(d.At), simPlace(d.Common), simPath(f.History), simPlace(f.End), d.Reason)
	if d.Kind == Repair && c.first == 1 && c.st.floor == 0 && c.base.IsZero() && c.consistent() {
		c.fail("REPAIR, although its log is whole: %s", d.Reason)
	}
	if d.Kind == Refuse && !d.Conflict {
		c.fail("REFUSED: %s", d.Reason)
	}
	if d.Kind != Continue && d.Kind != Rewind || caller.Place.IsZero() {
		return
	}
	mine, ok := s.sequence(f.History, f.End)
	if f.Kind == Performance && len(f.History) > 0 && !hasFork(f.History, f.End.Fork) {
		c.fail("its end %s is not on its history %s", simPlace(f.End), simPath(f.History))
	}
	theirs, known := s.sequence(caller.History, caller.Place)
	if !ok || !known {
		return // a place in the feeder's log from before its reign
	}
	common := 0
	for common < len(mine) && common < len(theirs) && mine[common] == theirs[common] {
		common++
	}
	switch {
	case d.Kind == Continue && common < len(theirs):
		c.fail("CONTINUE for %s, whose entry %s is not here", simPlace(caller.Place), simPlace(theirs[common]))
	case d.Kind == Rewind && common == len(theirs):
		c.fail("REWIND for %s, all of whose entries are here", simPlace(caller.Place))
	case d.Kind == Rewind && d.Common.Index > 0 && common > 0 && d.Common != theirs[common-1]:
		c.fail("REWIND to %s for %s, where %s is the last that both have", simPlace(d.Common), simPlace(caller.Place), simPlace(theirs[common-1]))
	}
	if f.Kind != Performance || !c.whole() || len(s.vague) > 0 {
		return
	}
	var want, got []wal.Position
	for _, p := range mine[common:] {
		if w := s.entries[p].write; w != nil && simReplicated(w.key) {
			want = append(want, p)
		}
	}
	for i := d.At.Index + 1; i <= f.End.Index; i++ {
		e := c.entry(i)
		if e == nil {
			c.fail("places a secondary at %s, which it does not hold", simPlace(d.At))
			return
		}
		if e.house == nil && e.write != nil && simReplicated(e.write.key) {
			got = append(got, e.write.at)
		}
	}
	if !slices.Equal(want, got) {
		c.fail("%v at %s for %s: what follows in its log is %v, in the history %v", d.Kind, simPlace(d.At), simPlace(caller.Place), got, want)
	}
}

// checkStates compares what a cluster shows with what its history tells.
func (s *sim) checkStates() {
	for _, c := range s.clusters {
		if !c.up || !c.whole() {
			continue
		}
		k, at := Performance, c.end()
		switch {
		case c.role[DR].mode == Secondary:
			if !c.role[DR].joined {
				continue
			}
			s.compareState(c, "log", c.history, c.st.at, func(string) bool { return true })
			continue
		case c.role[k].mode == Secondary:
			if !c.role[k].joined {
				continue
			}
			at = c.st.cursor
		}
		s.compareState(c, "set", c.setHistory(k), at, simReplicated)
	}
}

func (s *sim) compareState(c *simCluster, of string, history []engine.Reign, at wal.Position, takes func(string) bool) {
	places, ok := s.sequence(history, at)
	if !ok || len(places) > 0 && places[len(places)-1] != at && of == "log" {
		return // a place of the feeder's from before its reign, or of a log of which only its end was copied
	}
	if of == "log" && !c.base.IsZero() || s.vague[c.site] {
		return // its beginning is a copy of a state
	}
	want, got := s.replay(places, takes), c.st.visible(takes)
	if !maps.Equal(want, got) {
		c.fail("at %s of %s %s it shows %v, the %s tells %v", simPlace(at), simPath(history), of, got, of, want)
	}
}

// follows reports whether a record is a write or one after it.
func simFollows(have, w *simWrite) bool {
	for ; have != nil; have = have.before {
		if have == w {
			return true
		}
	}
	return false
}

// setPlace is up to where the set's history is here.
func (c *simCluster) setPlace() wal.Position {
	if c.role[Performance].mode == Secondary {
		return c.st.cursor
	}
	return c.end()
}

// stand is Node.stand.
func (c *simCluster) stand(p wal.Position) Reach {
	if c.role[Performance].mode == Secondary {
		return compareIndex(c.role[Performance].seen, c.st.cursor, p)
	}
	return compareIndex(c.setHistory(Performance), c.end(), p)
}

// checkTokens asks each cluster for each acknowledged replicated write.
func (s *sim) checkTokens(final bool) {
	for _, c := range s.clusters {
		if !c.up || c.role[DR].mode == Secondary || c.role[Performance].mode == "" || !c.whole() {
			continue
		}
		for _, w := range s.writes {
			if !w.acked || !simReplicated(w.key) {
				continue
			}
			has := simFollows(c.st.recs[w.key], w)
			switch r := c.stand(w.at); {
			case r == Reached && !has:
				c.fail("the token of write %d (%s at %s) is reached at cursor %s of %s, and the write is not here", w.id, w.key, simPlace(w.at), simPlace(c.st.cursor), simPath(c.setHistory(Performance)))
			case r == LostIndex && has && onHistory(c.setHistory(Performance), ^uint64(0), c.setPlace()): // else a rewind that takes it back is due
				c.fail("the token of write %d (%s at %s) is lost, and the write is here", w.id, w.key, simPlace(w.at))
			case final && has && r != Reached:
				c.fail("the token of write %d (%s at %s) is not reached on %s at %s, and the write is here", w.id, w.key, simPlace(w.at), simPath(c.setHistory(Performance)), simPlace(c.st.cursor))
			}
		}
	}
}

// archived are all archives: they outlive the disks, as those that an operator has exported.
type archived struct {
	log   bool // from a log, with the flag that tells lost from dropped; else a record that a repair overwrote
	lost  bool
	write *simWrite
}

func (s *sim) archive(w *simWrite, lost bool) {
	s.archives = append(s.archives, archived{log: true, lost: lost, write: w})
}

// archiveRecords keeps what a repair is about to overwrite.
func (s *sim) archiveRecords(c *simCluster, sets map[string]*simWrite) {
	for k, w := range sets {
		if old := c.st.recs[k]; old != nil && !simFollows(w, old) {
			s.archives = append(s.archives, archived{lost: true, write: old})
		}
	}
}

// archiveAll keeps the tail of a log that a repair lets go of.
func (c *simCluster) archiveAll(k Kind, a *simAnswer) {
	if k != DR {
		return
	}
	for i := c.end().Index; i >= c.first && i > 0; i-- {
		e := c.entry(i)
		if e == nil || onHistory(a.history, ^uint64(0), e.at) {
			break
		}
		if e.write != nil {
			c.sim.archive(e.write, e.source.IsZero() || !c.sim.onSet(c.role[k].feeder, e.source))
		}
	}
}

func (s *sim) onSet(c *simCluster, p wal.Position) bool {
	return onHistory(c.setHistory(Performance), ^uint64(0), p)
}

// forfeit marks what was acknowledged and stood only on a disk that was put back.
func (s *sim) forfeit(c *simCluster, gone []*simEntry) {
	for _, e := range gone {
		if e.write == nil || c.entry(e.at.Index) == e || !e.source.IsZero() {
			continue
		}
		held := false
		for _, o := range s.clusters {
			if o != c && simFollows(o.st.recs[e.write.key], e.write) {
				held = true
			}
		}
		e.write.lostBy = e.write.lostBy || !held
	}
}

// checkEnd is what must hold when all clusters follow one primary and nothing moves.
func (s *sim) checkEnd(w *simCluster) {
	want := w.st.visible(simReplicated)
	places, _ := s.sequence(w.setHistory(Performance), w.end())
	if told := s.replay(places, simReplicated); !maps.Equal(want, told) && len(s.vague) == 0 {
		w.fail("it ends with %v, its history tells %v", want, told)
	}
	leaders := map[string]*simCluster{}
	for _, c := range s.clusters {
		if c.role[DR].mode == Primary {
			if leaders[c.site] != nil || c.role[DR].fenced || c.stopped {
				c.fail("a second or fenced DR primary of site %s at the end", c.site)
			}
			leaders[c.site] = c
		}
		if c.role[Performance].mode == Primary && (c != w || c.role[Performance].fenced) {
			c.fail("a second or fenced performance primary at the end")
		}
		if got := c.st.visible(simReplicated); !maps.Equal(got, want) {
			c.fail("it ends with %v, the primary %s with %v", got, w, want)
		}
		if !c.consistent() {
			c.fail("it is not consistent at the end: %v %+v %+v", c.role[DR].state, c.drSync, c.st.sync)
		}
		for _, k := range kinds {
			if r := c.role[k]; r.mode == Secondary && r.rewound > 1 {
				c.fail("%v: a return took %d rewinds", k, r.rewound)
			}
		}
	}
	all := func(string) bool { return true }
	for _, c := range s.clusters {
		if got, want := c.st.visible(all), leaders[c.site].st.visible(all); !maps.Equal(got, want) {
			c.fail("its local records end as %v, those of %s as %v", got, leaders[c.site], want)
		}
	}
	s.checkWrites(w, leaders)
}

// checkWrites finds every acknowledged write: in the state, overwritten by what came after it, or in an archive.
func (s *sim) checkWrites(w *simCluster, leaders map[string]*simCluster) {
	for _, x := range s.writes {
		if !x.acked || x.lostBy || x.key[0] == '~' {
			continue
		}
		holder := w
		if !simReplicated(x.key) {
			holder = leaders[s.byFork[x.at.Fork].site]
		}
		if simFollows(holder.st.recs[x.key], x) {
			continue
		}
		if !slices.ContainsFunc(s.archives, func(a archived) bool { return a.lost && simFollows(a.write, x) }) {
			s.fail("write %d of %s, acknowledged by %s at %s, is neither in the state of %s nor in an archive as lost", x.id, x.key, s.byFork[x.at.Fork], simPlace(x.at), holder)
		}
	}
}
