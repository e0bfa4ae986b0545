package replication

import (
	"fmt"
	"slices"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

// AnswerKind is a feeder's answer to a hello (PROTOCOL section 2).
type AnswerKind int

const (
	NoAnswer   AnswerKind = iota
	Continue              // stream after At: nothing is copied
	Repair                // sync of what differs
	Rewind                // back to At, the tail archived first
	Bootstrap             // sync; everything differs
	Refuse                // a sentence says what to do
	Superseded            // another caller has the same identity and a newer log history
	Stale                 // the caller's history is newer than the feeder's: the feeder fences itself
	Restored              // the feeder's disk was restored or cloned: it stops writing and says so
)

var answerNames = []string{"none", "CONTINUE", "REPAIR", "REWIND", "BOOTSTRAP", "REFUSED", "SUPERSEDED", "STALE", "RESTORED"}

func (a AnswerKind) String() string {
	if a < 0 || int(a) >= len(answerNames) {
		return fmt.Sprintf("answer %d", int(a))
	}
	return answerNames[a]
}

// Answer is where a secondary's stream begins, or why it does not.
type Answer struct {
	Kind     AnswerKind
	At       wal.Position // in the feeder's log. CONTINUE: the stream begins after it; REWIND: what is kept ends there
	Common   wal.Position // the same place, in the log that the caller knows it by, when there is one in common
	Conflict bool         // REFUSED because the histories are in conflict: the feeder refuses writes, too
	Reason   string       // a sentence, for every answer but CONTINUE
}

// feederPlace is what a feeder's side of the decision depends on.
type feederPlace struct {
	Kind    Kind
	Set     string
	Version string
	History []engine.Reign // of the set, oldest first
	Log     []engine.Reign // of its log; nil: the same
	End     wal.Position   // its newest durable place
	First   uint64         // first index its log still holds; End.Index+1 when it holds none
	Floor   uint64         // the highest floor of a covered keyspace: a cursor below it cannot be continued (performance)
	// Chain returns the chain hash of the frame that ends at an index, false when it is not held (dr).
	Chain func(index uint64) (wal.Hash, bool)
	// After returns the index of the own log after which everything follows that lies beyond a place in a former primary's log; false: the own log
	// does not tell it (performance).
	After func(p wal.Position) (uint64, bool)
}

// callerPlace is what a hello says of the caller's place.
type callerPlace struct {
	Set      string
	Version  string
	Lineage  wal.Lineage    // dr: of the own log, which is a copy of the feeder's; not looked at otherwise
	Place    wal.Position   // dr: the last durable frame; performance: the cursor. Zero: empty
	Chain    wal.Hash       // dr: of the frame at Place; zero: not compared
	History  []engine.Reign // the newest seen of the set
	Log      []engine.Reign // of the caller's own log
	Identity []engine.Reign // the newest own log's history that another caller of this identity has shown; nil: none
}

// place decides from histories where a secondary's stream begins. It is the one place where that is decided; nothing else is looked at than its
// arguments, and a hash verifies a place but never finds one.
func place(f *feederPlace, c *callerPlace) Answer {
	if a := refusal(f, c); a.Kind != NoAnswer {
		return a
	}
	if superseded(f, c) {
		return Answer{Kind: Superseded, Reason: "another cluster with this secondary's identity was promoted after this one's last epoch: stop this one"}
	}
	if a := judge(f.History, c.History); a.Kind != NoAnswer {
		return a
	}
	if c.Place.IsZero() {
		return Answer{Kind: Bootstrap, Reason: "the secondary is empty"}
	}
	if f.Kind == DR && (len(f.History) == 0 || c.Lineage != f.History[0].Lineage) {
		return Answer{Kind: Refuse, Reason: "the secondary's data come from another log (lineage): revoke it on the primary, then secondary/enable here with a new token, which begins with an empty store, makes it a member of this set"}
	}
	return locate(f, c)
}

// superseded reports whether another caller of this identity was promoted after the caller's last epoch. What a DR secondary has only copied from this feeder
// is nobody's promotion: it comes back with less when its disk was restored.
func superseded(f *feederPlace, c *callerPlace) bool {
	return len(c.Identity) > 0 && compareHistories(c.Identity, c.Log) == historyNewer &&
		(f.Kind == Performance || compareHistories(c.Identity, f.History) != historyKnown)
}

// refusal checks what has nothing to do with histories.
func refusal(f *feederPlace, c *callerPlace) Answer {
	if c.Set != f.Set {
		return Answer{Kind: Refuse, Reason: fmt.Sprintf("the secondary belongs to set %s, this is set %s", c.Set, f.Set)}
	}
	if reason := versionsFit(f.Version, c.Version); reason != "" {
		return Answer{Kind: Refuse, Reason: reason}
	}
	return Answer{}
}

// judge compares a feeder's history with the newest that the caller has seen, wherever the caller itself is.
func judge(feeder, caller []engine.Reign) Answer {
	if len(feeder) == 0 || len(caller) == 0 {
		return Answer{}
	}
	switch compareHistories(caller, feeder) {
	case historyNewer:
		return Answer{Kind: Stale, Reason: fmt.Sprintf("the secondary has seen ordinal %d of this set, which left this primary's history: this primary is out of date",
			caller[len(caller)-1].Ordinal)}
	case historySameReign:
		return Answer{Kind: Restored, Reason: "the secondary has entries of this primary's own epoch that this primary does not have: its disk was restored or cloned. Find the newer copy, or say recover here"}
	case historyConflict:
		return Answer{Kind: Refuse, Conflict: true, Reason: "this primary and the one that the secondary followed were promoted independently: say recover on the one whose data are to win"}
	}
	return Answer{}
}

// historyRelation is how one history stands to another.
type historyRelation int

const (
	historyKnown     historyRelation = iota // the other contains it, or is newer
	historyNewer                            // it is newer (PROTOCOL 2)
	historySameReign                        // it goes on under the other's running ordinal, in a way the other does not know
	historyConflict                         // both go on, and neither is newer
)

// compareHistories says how a stands to b. Both are paths in one tree of forks.
func compareHistories(a, b []engine.Reign) historyRelation {
	i, j, ok := lastCommon(a, b)
	if !ok {
		if len(a) == 0 {
			return historyKnown
		}
		return historyConflict
	}
	tailA, tailB := a[i+1:], b[j+1:]
	if len(tailA) == 0 {
		return historyKnown
	}
	if newer(a, tailA, b, j, tailB) {
		return historyNewer
	}
	current := b[len(b)-1].Ordinal
	if b[j].Ordinal == current && tailA[0].Ordinal == current {
		return historySameReign
	}
	if len(tailB) > 0 && newer(b, tailB, a, i, tailA) {
		return historyKnown
	}
	return historyConflict
}

// newer reports whether a, which leaves b after b[j], is newer than b: its ordinal is higher and it leaves inside b's current reign
// (however often that was reopened) or at its end, or it overrides a fork of what b has beyond.
func newer(a, tailA, b []engine.Reign, j int, tailB []engine.Reign) bool {
	current := b[len(b)-1].Ordinal
	if a[len(a)-1].Ordinal > current && b[j].Ordinal == current {
		return true
	}
	return overrides(tailA, tailB) > overrides(tailB, tailA)
}

// overrides returns the highest ordinal in a under which an operator has overridden a fork of b, 0 when none has. Of two that override each other the one said
// later counts: it was minted above the other.
func overrides(a, b []engine.Reign) (ordinal uint64) {
	for _, r := range a {
		if slices.ContainsFunc(b, func(lost engine.Reign) bool { return slices.Contains(r.Overrides, lost.Fork) }) {
			ordinal = max(ordinal, r.Ordinal)
		}
	}
	return ordinal
}

// lastCommon returns where in a and b their last common fork stands.
func lastCommon(a, b []engine.Reign) (i, j int, ok bool) {
	for i = len(a) - 1; i >= 0; i-- {
		if j = slices.IndexFunc(b, func(r engine.Reign) bool { return r.Fork == a[i].Fork }); j >= 0 {
			return i, j, true
		}
	}
	return 0, 0, false
}

// locate finds the common point of two paths of one tree and says what follows from it.
func locate(f *feederPlace, c *callerPlace) Answer {
	history, path := f.History, pathTo(c.History, c.Place)
	if f.Kind == DR && hasFork(c.Log, c.Place.Fork) { // how the copy came there, whatever was seen of the set since
		path = pathTo(c.Log, c.Place)
	}
	i, j, ok := lastCommon(history, path)
	if !ok && f.Log != nil { // a place in this log, from before its cluster's reign
		history = f.Log
		i, j, ok = lastCommon(history, path)
	}
	if !ok {
		return Answer{Kind: Refuse, Reason: fmt.Sprintf("the secondary's place (fork %v, index %d) is on no fork that this primary knows", c.Place.Fork, c.Place.Index)}
	}
	mine, theirs := endOf(history, i, f.End.Index), endOf(path, j, c.Place.Index)
	common := wal.Position{Fork: history[i].Fork, Index: min(mine, theirs)}
	rewind := c.Place.Index > common.Index || j < len(path)-1
	if rewind && restored(history, path, i, j, common.Index) {
		return Answer{Kind: Restored, Reason: fmt.Sprintf("the secondary has entries after index %d of this primary's own epoch that this primary does not have: its disk was restored or cloned. Find the newer copy, or say recover here", common.Index)}
	}
	at, ok := f.own(common)
	switch {
	case !ok:
		return Answer{Kind: Repair, Common: common, Reason: "the secondary's place is in the log of a former primary, and this primary's log does not tell any more what followed it: ranges are compared"}
	case !rewind:
		a := atCommonPoint(f, c, at)
		a.Common = common
		return a
	}
	kept := *c // the hash told is that of an entry which goes
	kept.Chain = wal.Hash{}
	if a := atCommonPoint(f, &kept, at); a.Kind != Continue {
		a.Common = common
		return a
	}
	return Answer{Kind: Rewind, At: at, Common: common, Reason: fmt.Sprintf("the secondary's entries after index %d are not in this primary's history", common.Index)}
}

// own finds a place of the set's history in the feeder's own log.
func (f *feederPlace) own(p wal.Position) (wal.Position, bool) {
	if f.Log == nil || hasFork(f.Log, p.Fork) {
		return p, true
	}
	index, ok := f.After(p)
	if !ok {
		return wal.Position{}, false
	}
	return wal.Position{Fork: reignAt(f.Log, index).Fork, Index: index}, true
}

// restored reports whether a caller that has entries beyond the common point went on under the feeder's own running ordinal.
func restored(history, path []engine.Reign, i, j int, common uint64) bool {
	current := history[len(history)-1].Ordinal
	ahead := path[min(j+1, len(path)-1)] // the fork under which the caller went on
	if endOf(path, j, ^uint64(0)) > common {
		ahead = path[j]
	}
	next := history[min(i+1, len(history)-1)]
	return ahead.Ordinal == current && next.Ordinal == current && history[i].Ordinal == current
}

// atCommonPoint answers a caller all of whose entries the feeder has.
func atCommonPoint(f *feederPlace, c *callerPlace, at wal.Position) Answer {
	switch {
	case at.Index+1 < f.First:
		return Answer{Kind: Repair, At: at, Reason: fmt.Sprintf("this primary's log begins at index %d, what the two have in common ends at %d", f.First, at.Index)}
	case f.Kind == Performance && at.Index < f.Floor:
		return Answer{Kind: Repair, At: at, Reason: fmt.Sprintf("this primary's log tells the whole story only from index %d on, what the two have in common ends at %d", f.Floor, at.Index)}
	}
	if f.Kind == DR && f.Chain != nil && c.Chain != (wal.Hash{}) {
		if have, ok := f.Chain(at.Index); ok && have != c.Chain {
			return Answer{Kind: Repair, At: at, Reason: fmt.Sprintf("the log's hash at index %d differs between secondary and primary", at.Index)}
		}
	}
	return Answer{Kind: Continue, At: at}
}

// pathTo cuts a history at a place on it: a secondary may know of epochs that it has not reached yet. When the place's own fork is not in the
// history, the path is that fork alone.
func pathTo(h []engine.Reign, p wal.Position) []engine.Reign {
	for i, r := range h {
		if r.Fork == p.Fork {
			return h[:i+1]
		}
	}
	return []engine.Reign{{Fork: p.Fork}}
}

// endOf returns the last index of the i-th fork of a path that counts; the running one ends at end.
func endOf(path []engine.Reign, i int, end uint64) uint64 {
	switch {
	case i+1 == len(path):
		return end
	case path[i+1].Lineage != path[i].Lineage, path[i+1].ParentEnd > 0: // the set went on in another log, or in this one after its end had been taken back
		return path[i+1].ParentEnd
	}
	return path[i+1].Start - 1
}
