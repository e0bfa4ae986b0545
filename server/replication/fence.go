package replication

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

// A primary that meets a newer history of its set is fenced: another cluster was promoted in its place, and what it wrote from here on would be lost. It
// takes no writes, of the log as a whole by a DR history and of what is shared by a performance history, until an operator demotes it or says recover. It
// learns of the history from a secondary's hello, from the promoted cluster itself (herald.go), from a client's index token or from a forwarded request.

// fenceCause is why a primary is fenced.
type fenceCause string

const (
	fenceNewer    fenceCause = "superseded" // another cluster was promoted in its place
	fenceConflict fenceCause = "conflict"   // it and another cluster were promoted independently
	fenceRestored fenceCause = "restored"   // its disk is older than what its secondaries hold, or a clone
)

// noteFence keeps a fence (node scope).
func noteFence(k Kind) string { return "replication/" + string(k) + "/fence" }

const fenceVersion = 1

// fence is why this primary takes no writes of a set, as stored (JSON).
type fence struct {
	Version     int            `json:"version"`
	Cause       fenceCause     `json:"cause"`
	Ordinal     uint64         `json:"ordinal"`           // the highest met
	History     []engine.Reign `json:"history,omitempty"` // as met; of an index token or a forwarded request only the beginnings of its epochs
	Whole       bool           `json:"whole,omitempty"`   // History is a set's history to its end
	Rival       []engine.Reign `json:"rival,omitempty"`   // of a conflict between two others: the history of the second
	Cluster     string         `json:"cluster,omitempty"` // id of the cluster that has it
	APIAddr     string         `json:"api_addr,omitempty"`
	ClusterAddr string         `json:"cluster_addr,omitempty"`
	Told        string         `json:"told"`  // by whom
	From        uint64         `json:"from"`  // index at which the other history goes on, 0: not known
	Index       uint64         `json:"index"` // the newest here at that time
	At          int64          `json:"at"`    // Unix seconds
}

// teller is who told of a history.
type teller struct {
	How         string // "secondary b", for people
	Cluster     string // its cluster id, "" when not known
	APIAddr     string
	ClusterAddr string
}

// fenceOf returns why this primary takes no writes of a set, nil when it does.
func (n *Node) fenceOf(k Kind) *fence {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fences[k]
}

// loadFences reads the fences from before the start.
func (n *Node) loadFences() error {
	for _, k := range kinds {
		b := n.engine.NodeGet(noteFence(k))
		set := n.sets[k]
		if b == nil || set == nil || set.Mode != Primary {
			continue
		}
		f := new(fence)
		if err := json.Unmarshal(b, f); err != nil {
			return fmt.Errorf("the stored fence of the %s set does not decode: %w", k, err)
		}
		if f.Version > fenceVersion {
			return fmt.Errorf("the stored fence of the %s set has version %d, this program reads up to %d: use a newer lockstep", k, f.Version, fenceVersion)
		}
		n.fences[k] = f
	}
	n.applyFencesLocked()
	return nil
}

// applyFencesLocked tells the engine what it must refuse. The caller holds mu, or is alone.
func (n *Node) applyFencesLocked() {
	switch {
	case n.lives.demoting[DR]:
		n.engine.SetFence(demotionFence(DR))
	case n.fences[DR] != nil:
		n.engine.SetFence(&engine.Fence{Reason: n.fences[DR].sentence(DR)})
	case n.lives.demoting[Performance]:
		n.engine.SetFence(demotionFence(Performance))
	case n.fences[Performance] != nil:
		n.engine.SetFence(&engine.Fence{Shared: true, Reason: n.fences[Performance].sentence(Performance)})
	default:
		n.engine.SetFence(nil)
	}
}

// unfenceLocked forgets a fence whose note is gone, or that of a demotion. The caller holds mu.
func (n *Node) unfenceLocked(k Kind) {
	delete(n.fences, k)
	n.applyFencesLocked()
}

// raise fences this primary, durably before it returns. Writes are refused before that.
func (n *Node) raise(k Kind, f *fence) error {
	f.Version, f.Index, f.At = fenceVersion, n.engine.Position().Index, n.now().Unix()
	n.mu.Lock()
	defer n.mu.Unlock()
	set, old := n.sets[k], n.fences[k]
	if set == nil || set.Mode != Primary || n.lives.demoting[k] || old != nil && !f.tellsMore(old) {
		return nil
	}
	if old != nil {
		f.Index, f.At = old.Index, old.At
	}
	n.fences[k] = f
	n.applyFencesLocked()
	if err := n.engine.NodeSet(map[string][]byte{noteFence(k): mustJSON(f)}); err != nil {
		return fmt.Errorf("storing that this primary is fenced: %w", err)
	}
	if slot := n.lives.now[Performance]; k == DR && slot != nil { // what it would take would be written, too
		slot.end(errFenced)
	}
	if old == nil || old.Cause != f.Cause {
		n.log.Error("this primary is fenced and takes no writes", "set", string(k), "cause", string(f.Cause), "told_by", f.Told, "new_primary", f.Cluster,
			"address", f.APIAddr, "ordinal", f.Ordinal, "index", f.Index, "error", f.sentence(k))
	}
	return nil
}

// errFenced is the cause with which the life of a fenced cluster as a secondary of another set ends.
var errFenced = errors.New("this cluster is fenced")

// tellsMore reports whether a fence is to replace the one in force.
func (f *fence) tellsMore(old *fence) bool {
	switch {
	case f.Cause != old.Cause:
		return f.Cause != fenceRestored // what it is worse than
	case f.Whole != old.Whole:
		return f.Whole
	case f.Ordinal != old.Ordinal:
		return f.Ordinal > old.Ordinal
	}
	return f.APIAddr != old.APIAddr && f.APIAddr != "" || f.Whole && !sameHistory(f.History, old.History) || len(f.Rival) > 0 && !sameHistory(f.Rival, old.Rival)
}

// sentence says why writes are refused, and what to do.
func (f *fence) sentence(k Kind) string {
	who := "another cluster"
	if f.Cause == fenceConflict && len(f.Rival) > 0 {
		return fmt.Sprintf("this cluster is fenced and takes no writes: two others (cluster ids %s and %s) were promoted to the %s primary in its place, independently of each other. Say recover (sys/replication/recover) on the one whose data are to win; here and on the other %s/primary/demote, then %s/secondary/update-primary with a token of the winner",
			f.History[len(f.History)-1].Who, f.Rival[len(f.Rival)-1].Who, k, k, k)
	}
	if f.Cluster != "" {
		who = "cluster " + f.Cluster
	}
	if at := orElse(f.APIAddr, f.ClusterAddr); at != "" {
		who += " (" + at + ")"
	}
	scope := "writes"
	if k == Performance {
		scope = "writes to what is shared"
	}
	switch f.Cause {
	case fenceConflict:
		return fmt.Sprintf("this cluster is fenced and takes no %s: it and %s were promoted to the %s primary independently of each other. Say recover (sys/replication/recover) on the one whose data are to win, then demote the other (%s/primary/demote) and give it a token of the winner (%s/secondary/update-primary)",
			scope, who, k, k, k)
	case fenceRestored:
		return fmt.Sprintf("this cluster is fenced and takes no %s: a secondary holds entries of this cluster's own epoch that are not here (%s), so this disk was restored from a backup, or is a clone. If another copy has them, stop this one and start that; else say recover (sys/replication/recover), which goes on from index %d",
			scope, f.Told, f.Index)
	}
	from := ""
	if f.From > 0 {
		from = fmt.Sprintf(", from index %d on", f.From)
	}
	return fmt.Sprintf("this cluster is fenced and takes no %s: %s was promoted to the %s primary (epoch %d%s): write there. Here say %s/primary/demote, then %s/secondary/update-primary with a token of it; or recover (sys/replication/recover), if this cluster is to win",
		scope, who, k, f.Ordinal, from, k, k)
}

// describe is the fence for status and health.
func (f *fence) describe() map[string]any {
	out := map[string]any{"cause": string(f.Cause), "ordinal": f.Ordinal, "told_by": f.Told, "index": f.Index, "since": stamp(time.Unix(f.At, 0))}
	for key, v := range map[string]string{"new_primary_cluster_id": f.Cluster, "new_primary_api_addr": f.APIAddr, "new_primary_cluster_addr": clusterURL(f.ClusterAddr)} {
		if v != "" {
			out[key] = v
		}
	}
	return out
}

// Fenced describes why this primary takes no writes of a set, nil when it does.
func (n *Node) Fenced(k Kind) map[string]any {
	if f := n.fenceOf(k); f != nil {
		return f.describe()
	}
	return nil
}

// meet follows what a set's history, told by somebody entitled, says about this primary: Stale, Restored and a Refuse for a conflict have fenced it, durably.
// NoAnswer: nothing is wrong.
func (n *Node) meet(k Kind, theirs []engine.Reign, from teller) (Answer, error) {
	set := n.set(k)
	if set == nil || set.Mode != Primary || len(theirs) == 0 {
		return Answer{}, nil
	}
	own, _ := n.setHistory(k, set, n.engine.Position().Index)
	d := judge(own, theirs)
	f := n.fenceOf(k)
	if d.Kind != Stale || f == nil || !f.Whole {
		return d, n.fenceBy(k, d, theirs, true, from)
	}
	other := f.unknownTo(theirs)
	switch {
	case other == nil: // the caller's contains everything that this cluster was told, or is newer
		return d, n.fenceBy(k, d, theirs, true, from)
	case compareHistories(theirs, other) != historyConflict: // the answer tells the caller of a newer one
		return d, nil
	}
	d = conflicting()
	if f.Cause == fenceConflict && (sameHistory(theirs, f.History) || sameHistory(theirs, f.Rival)) {
		return d, nil
	}
	return d, n.raiseConflict(k, other, theirs, from)
}

// raiseConflict fences a primary in whose place two others were promoted, independently of each other.
func (n *Node) raiseConflict(k Kind, first, second []engine.Reign, from teller) error {
	f := &fence{
		Cause: fenceConflict, Ordinal: max(lastOrdinal(first), lastOrdinal(second)), History: first, Rival: second, Whole: true, Told: from.How,
		Cluster: second[len(second)-1].Who, Index: n.engine.Position().Index,
	}
	return n.raise(k, f)
}

// unknownTo returns a history that this cluster was told of and that another does not contain, nil when there is none.
func (f *fence) unknownTo(theirs []engine.Reign) []engine.Reign {
	for _, h := range [][]engine.Reign{f.History, f.Rival} {
		if len(h) > 0 && compareHistories(h, theirs) != historyKnown {
			return h
		}
	}
	return nil
}

// conflicting is the answer to a history that is in conflict with the newest that is known here.
func conflicting() Answer {
	return Answer{Kind: Refuse, Conflict: true, Reason: "two clusters were promoted independently in the place of this one: say recover on the one whose data are to win"}
}

// fenceBy fences this primary if an answer says so. whole: theirs is a history to its end, not only the beginnings of epochs.
func (n *Node) fenceBy(k Kind, d Answer, theirs []engine.Reign, whole bool, from teller) error {
	f := &fence{Ordinal: lastOrdinal(theirs), History: theirs, Whole: whole, Told: from.How}
	switch {
	case d.Kind == Stale:
		f.Cause = fenceNewer
	case d.Kind == Restored:
		f.Cause = fenceRestored
	case d.Conflict:
		f.Cause = fenceConflict
	default:
		return nil
	}
	own := n.engine.History()
	if len(theirs) > 0 && f.Cause != fenceRestored {
		last := theirs[len(theirs)-1]
		f.Cluster = last.Who
		if from.Cluster != "" && from.Cluster == last.Who {
			f.APIAddr, f.ClusterAddr = from.APIAddr, from.ClusterAddr
		}
		if i, _, ok := lastCommon(theirs, own); ok && i+1 < len(theirs) {
			f.From = leftAt(theirs[i], theirs[i+1])
		}
	}
	if err := n.raise(k, f); err != nil {
		return err
	}
	// The log itself has gone on elsewhere: a DR secondary of this cluster took its place in both sets.
	if dr := n.set(DR); k == Performance && dr != nil && dr.Mode == Primary && f.Cause != fenceRestored && len(theirs) > 0 && goesOn(own, theirs) {
		both := *f
		return n.raise(DR, &both)
	}
	return nil
}

// leftAt returns the first index of a fork that its successor does not have; 0: that is not told.
func leftAt(fork, next engine.Reign) uint64 {
	switch {
	case next.ParentEnd > 0:
		return next.ParentEnd + 1
	case fork.Lineage == next.Lineage || fork.Lineage == (wal.Lineage{}): // the latter where only the beginnings of epochs are known
		return next.Start
	}
	return 0
}

// goesOn reports whether what a history has beyond the own one was written in copies of the own log.
func goesOn(own, theirs []engine.Reign) bool {
	i, j, ok := lastCommon(theirs, own)
	if !ok {
		return false
	}
	for _, r := range theirs[i+1:] {
		if r.Lineage != own[j].Lineage {
			return false
		}
	}
	return i+1 < len(theirs)
}

// news is the history of a set that this primary has to tell to whoever has another: one that it was fenced by and the other does not know, else its own.
func (n *Node) news(k Kind, own, theirs []engine.Reign) []engine.Reign {
	if f := n.fenceOf(k); f != nil && f.Whole && f.Cause != fenceRestored {
		if h := f.unknownTo(theirs); h != nil {
			return h
		}
	}
	return own
}

// overridden are the forks that recover wins against: those that were met and are not on the own history.
func (f *fence) overridden(own []engine.Reign) []wal.Fork {
	var out []wal.Fork
	for _, r := range slices.Backward(slices.Concat(f.Rival, f.History)) {
		if len(out) < maxOverrides/2 && !hasFork(own, r.Fork) && !slices.Contains(out, r.Fork) && r.Fork != (wal.Fork{}) {
			out = append(out, r.Fork)
		}
	}
	return out
}
