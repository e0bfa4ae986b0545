package chaos

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Rules that are stricter than what every version keeps: one line each.
const (
	// What the promotion of a DR secondary left behind is in an archive of a cluster of the site.
	archivedOnCopiedLogs = true
	// The same where a performance secondary was promoted.
	archivedOnOwnLogs = true
)

const (
	checkTime = 30 * time.Second // of the checker, for one key
	maxShown  = 120              // operations of a history that are printed
	maxFaults = 5                // of a kind that are printed
)

// verdict holds what was noted against the model.
type verdict struct {
	ops     []*op
	reigns  []*reign
	byKey   map[string][]*op // reads and writes, in order of their calls
	byValue map[string]*op
	byToken map[string]*op
	places  map[place]int // how many acknowledged writes have it
	crashes bool          // servers were killed in role changes
	faults  []string
	calm    func(*op) bool
	tally   *tally
	// archived is nil where a data directory was replaced or emptied, and with it what may have been archived there.
	archived *archived
	fenced   []fenced
	shots    []*shot
	levels   []*level
	released []release
}

// judge fails the round for everything that the model does not allow.
func (w *world) judge() {
	v := &verdict{ops: w.history.all(), reigns: w.reigns, calm: w.wasCalm, tally: w.tally, archived: w.archived, crashes: w.tally.crashed > 0,
		fenced: w.fenced, shots: w.shots, levels: w.levels, released: w.released}
	v.attribute(w.reignOf)
	v.count()
	v.judge()
	for i, f := range v.faults {
		if i == maxFaults {
			w.fail("and %d more", len(v.faults)-i)
			break
		}
		w.fail("%s", f)
	}
	if len(v.faults) > 0 {
		w.t.Logf("all operations: %s", w.keepHistory(v.ops))
		w.t.Log(w.plan.String())
		for _, r := range w.reigns {
			w.t.Logf("reign %d: %s from %s to %s, planned %t\n  last kept: %v\n  first lost: %v", r.number, r.on.name, r.first, r.last, r.planned, r.kept, r.lost)
		}
	}
	for _, m := range w.members {
		// "tls: internal error" is how TLS tells that the peer serves no set there at present.
		said := strings.ReplaceAll(m.node.Log(), "tls: internal error", "")
		if at := strings.Index(said, "internal error"); at >= 0 {
			w.fail("the log of %s says: %.300s", m.name, said[at:])
		}
	}
}

// keepHistory writes all operations into a file beside the servers' directories, and returns its name.
func (w *world) keepHistory(ops []*op) string {
	file := filepath.Join(filepath.Dir(w.members[0].node.Dir), "history.txt")
	var b strings.Builder
	for _, o := range ops {
		fmt.Fprintln(&b, o)
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		return err.Error()
	}
	return file
}

func (v *verdict) fault(format string, args ...any) {
	v.faults = append(v.faults, fmt.Sprintf(format, args...))
}

// attribute finds out whose write each acknowledged one was, and what became of it.
func (v *verdict) attribute(reignOf func(fork string) (int, bool)) {
	slices.SortFunc(v.ops, func(a, b *op) int { return int(a.call - b.call) })
	v.byKey, v.byValue, v.byToken = map[string][]*op{}, map[string]*op{}, map[string]*op{}
	v.places = map[place]int{}
	for _, o := range v.ops {
		if o.kind != list {
			v.byKey[o.key] = append(v.byKey[o.key], o)
		}
		if !o.kind.writes() {
			continue
		}
		if o.value != "" {
			v.byValue[o.value] = o
		}
		if o.outcome != done || o.mismatch {
			continue
		}
		if o.token != "" {
			v.byToken[o.token] = o
		}
		v.places[o.at]++
		if o.at.index == 0 { // it changed nothing, or its place is not known
			o.fate.unsure = true
			if o.kind == remove && !o.direct && o.token == "" {
				// It found nothing, at whichever primary the secondary had then: of the one that reigned it tells nothing.
				o.outcome = refused
				v.tally.note("delete by way of a secondary that found nothing")
			}
			continue
		}
		n, ok := reignOf(o.at.fork)
		if !ok {
			n, ok = v.betweenOpenings(o)
		}
		switch {
		case ok:
			o.reign = n
			o.fate = v.fateOf(o)
		case v.crashes:
			o.outcome = unknown
			v.tally.note("write of a primary that was killed in a role change, of which it is not known which")
		default:
			v.fault("written under a fork that no primary had: %s", o)
		}
	}
	for _, ops := range v.byKey {
		v.findIdle(ops)
	}
}

// betweenOpenings tells whose a write was that a primary took between two kills in a role change: before it had learnt of its demotion, or after it was promoted.
func (v *verdict) betweenOpenings(o *op) (int, bool) {
	for _, r := range v.reigns {
		if r.number > o.reign && r.on == o.on && r.first > o.call {
			return r.number, true
		}
	}
	r := reignNumber(v.reigns, o.reign)
	return o.reign, r != nil && r.last > 0 && o.ret >= r.last && o.direct
}

// findIdle marks the deletes of a key that may have found nothing: another delete may have come between them and the write before.
func (v *verdict) findIdle(ops []*op) {
	for _, o := range ops {
		if o.kind != remove || !o.settled() {
			continue
		}
		var last *op // the write before
		for _, x := range ops {
			if x.kind.writes() && x.kind != remove && x.settled() && before(x, o) < 0 && (last == nil || before(x, last) > 0) {
				last = x
			}
		}
		o.idle = v.places[o.at] > 1 || last == nil
		for _, x := range ops {
			if x != o && x.kind == remove && x.outcome != refused && last != nil && x.ret > last.call && x.call < o.ret {
				o.idle = true
			}
		}
	}
}

// fateOf follows a write over the promotions after it.
func (v *verdict) fateOf(o *op) fate {
	for _, r := range v.reigns {
		switch {
		case r.number <= o.reign:
		case r.blind && r.planned: // nothing is lost, or the checker finds it
		case r.blind:
			return fate{unsure: true}
		case r.lost != nil && before(o, r.lost) >= 0:
			return fate{lostIn: r.number}
		case r.kept != nil && before(o, r.kept) <= 0:
		case r.lost == nil && o.call > r.first:
			return fate{lostIn: r.number} // it was made at the former primary when there was another
		default:
			return fate{unsure: true}
		}
	}
	return fate{}
}

func (v *verdict) count() {
	for _, o := range v.ops {
		v.tally.ops[o.kind][o.outcome]++
		if o.fate.lostIn > 0 {
			v.tally.lost++
		}
	}
}

func (v *verdict) judge() {
	v.nothingLostAsPlanned()
	v.lostIsArchived()
	v.confirmedIsKept()
	v.fencedTakesNothing()
	v.snapshots()
	v.refusedIsNeverSeen()
	v.lists()
	v.secondaries()
	for _, key := range slices.Sorted(maps.Keys(v.byKey)) {
		v.linearizable(key)
	}
}

// nothingLostAsPlanned: a planned change loses no acknowledged write.
func (v *verdict) nothingLostAsPlanned() {
	for _, o := range v.ops {
		if n := o.fate.lostIn; n > 0 && v.reigns[n-1].planned {
			v.fault("lost by a planned change: %s", o)
		}
	}
}

// lostIsArchived: what a promotion left behind can be had again.
func (v *verdict) lostIsArchived() {
	for _, o := range v.ops {
		if o.fate.lostIn == 0 || v.archived == nil {
			continue
		}
		if v.archived.holds(o) {
			v.tally.archived++
			continue
		}
		if perf := v.reigns[o.fate.lostIn-1].perf; perf && archivedOnOwnLogs || !perf && archivedOnCopiedLogs {
			v.fault("acknowledged, lost by a promotion, and in no archive: %s", o)
		}
	}
}

// refusedIsNeverSeen: what was refused, or never asked, is not read anywhere.
func (v *verdict) refusedIsNeverSeen() {
	for _, o := range v.ops {
		if o.kind != read || o.outcome != done || !o.found {
			continue
		}
		switch x := v.byValue[o.got]; {
		case x == nil || x.key != o.key:
			v.fault("read what nobody wrote there: %s", o)
		case x.outcome == refused || x.mismatch:
			v.fault("read what was refused: %s\n  written by %s", o, x)
		case x.call > o.ret:
			v.fault("read before it was written: %s\n  written by %s", o, x)
		}
	}
}

// lists: on the primary a list names every key that was written before, and none that was never written.
func (v *verdict) lists() {
	for _, o := range v.ops {
		r := reignNumber(v.reigns, o.reign)
		if o.kind != list || o.outcome != done || !o.direct || r == nil || r.on != o.on || o.call < r.first || r.last > 0 && o.ret > r.last {
			continue
		}
		for key, ops := range v.byKey {
			if versioned(key) != versioned(o.key) {
				continue
			}
			may, must := false, false
			for _, x := range ops {
				if !x.kind.writes() || x.kind == remove {
					continue
				}
				may = may || x.call < o.ret && x.outcome != refused
				must = must || x.outcome == done && !x.mismatch && x.fate == (fate{}) && x.reign <= o.reign && x.ret < o.call
			}
			if !versioned(key) && slices.ContainsFunc(ops, func(x *op) bool { return x.kind == remove && x.outcome != refused }) {
				must = false
			}
			switch named := slices.Contains(o.names, tail(key)); {
			case must && !named:
				v.fault("%s is missing in a list: %s", key, o)
			case named && !may:
				v.fault("%s is in a list and was never written: %s", key, o)
			}
		}
	}
}

// linearizable: what the primary answered about a key fits one order of the operations.
func (v *verdict) linearizable(key string) {
	history := timeline(v.byKey[key], v.reigns)
	switch porcupine.CheckOperationsTimeout(model(), history, checkTime) {
	case porcupine.Ok:
	case porcupine.Unknown:
		v.fault("%s: the checker came to no result about %d operations within %s", key, len(history), checkTime)
	default:
		v.fault("%s: what the primary answered fits no order of the operations:\n%s", key, v.shortest(key))
	}
}

// shortest returns the beginning of a key's history up to the first operation that makes it impossible.
func (v *verdict) shortest(key string) string {
	ops := v.byKey[key]
	sorted := slices.SortedFunc(slices.Values(ops), func(a, b *op) int {
		if a.reign != b.reign {
			return a.reign - b.reign
		}
		return int(a.ret - b.ret)
	})
	fits := func(n int) bool {
		// Operations that ended later may have been under way.
		part := slices.Clone(sorted[:n])
		for _, o := range sorted[n:] {
			if o.kind.writes() && !o.mismatch {
				c := *o
				if c.outcome == done {
					c.outcome = unknown
				}
				part = append(part, &c)
			}
		}
		return porcupine.CheckOperationsTimeout(model(), timeline(part, v.reigns), 2*time.Second) != porcupine.Illegal
	}
	low, high := 0, len(sorted)
	for low < high {
		if mid := (low + high) / 2; fits(mid + 1) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	n := min(low+1, len(sorted))
	var b strings.Builder
	for _, o := range sorted[max(0, n-maxShown):n] {
		if o.kind.writes() && o.outcome != refused || o.direct && o.outcome == done {
			fmt.Fprintf(&b, "  %s\n", o)
		}
	}
	return b.String()
}
