package replication

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// keyCoverage is the record of what this cluster, a performance secondary, was last told to leave out (storage.SystemLocal: its DR secondary keeps to it, too).
const keyCoverage = "replication/performance/coverage"

// heldCoverage is that record (JSON).
type heldCoverage struct {
	Version int      `json:"version"`
	Number  uint64   `json:"number"` // of the feeder's log
	Fork    string   `json:"since_fork,omitempty"`
	Index   uint64   `json:"since_index,omitempty"`
	Ordinal uint64   `json:"since_ordinal,omitempty"`
	Left    []string `json:"left_out,omitempty"`
	Skipped []string `json:"skipped,omitempty"` // held here, and lacked by the feeder: neither compared nor deleted
	Filling []string `json:"filling,omitempty"` // covered, and not complete here: not served
	Resync  bool     `json:"resync,omitempty"`  // a sync is to begin under this coverage; one that began before does not do
}

const heldCoverageVersion = 1

// holding is heldCoverage in memory.
type holding struct {
	coverage // Left, Since, Ordinal, Number
	filling  []storage.KeyspaceID
	skipped  []storage.KeyspaceID
	resync   bool
}

func (h *holding) encode() []byte {
	r := heldCoverage{
		Version: heldCoverageVersion, Number: h.Number, Index: h.Since.Index, Ordinal: h.Ordinal, Left: idTexts(h.Left), Filling: idTexts(h.filling), Skipped: idTexts(h.skipped), Resync: h.resync,
	}
	if !h.Since.IsZero() {
		r.Fork = hex.EncodeToString(h.Since.Fork[:])
	}
	return mustJSON(&r)
}

func decodeHolding(b []byte) (*holding, error) {
	var r heldCoverage
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("the stored coverage does not decode: %w", err)
	}
	if r.Version > heldCoverageVersion {
		return nil, fmt.Errorf("the stored coverage has version %d, this program reads up to %d: use a newer lockstep", r.Version, heldCoverageVersion)
	}
	h := &holding{resync: r.Resync}
	h.Number, h.Ordinal = r.Number, r.Ordinal
	var err error
	if r.Fork != "" {
		h.Since.Index = r.Index
		fork, err := hex.DecodeString(r.Fork)
		if err != nil || len(fork) != len(h.Since.Fork) {
			return nil, fmt.Errorf("the stored coverage names the fork %.40q", r.Fork)
		}
		copy(h.Since.Fork[:], fork)
	}
	if h.Left, err = idsOf(r.Left); err != nil {
		return nil, err
	}
	if h.skipped, err = idsOf(r.Skipped); err != nil {
		return nil, err
	}
	h.filling, err = idsOf(r.Filling)
	return h, err
}

func idTexts(ids []storage.KeyspaceID) []string {
	var out []string
	for _, id := range ids {
		out = append(out, id.String())
	}
	return out
}

func idsOf(texts []string) ([]storage.KeyspaceID, error) {
	var out []storage.KeyspaceID
	for _, t := range texts {
		id, err := uuid.Parse(t)
		if err != nil {
			return nil, fmt.Errorf("the stored coverage names the keyspace %.40q", t)
		}
		out = append(out, storage.KeyspaceID(id))
	}
	sortIDs(out)
	return out, nil
}

// held is the decoded record, good as long as no entry has touched the system's records, which engine.SystemVersion tells.
type held struct {
	version uint64
	h       *holding
}

// holding returns what this cluster was last told to leave out; without a record nothing. The version is read first: what is read may be newer than it
// says, never older. Every request asks, so the record is not read each time: proving that there is none takes longest.
func (n *Node) holding() (*holding, error) {
	version := n.engine.SystemVersion()
	if last := n.held.Load(); last != nil && last.version == version {
		return last.h, nil
	}
	h := &holding{}
	rec, err := n.engine.Get(storage.SystemLocal, []byte(keyCoverage))
	switch {
	case errors.Is(err, storage.ErrNotFound):
	case err != nil:
		return nil, fmt.Errorf("reading what this cluster leaves out: %w", err)
	default:
		if h, err = decodeHolding(rec.Value); err != nil {
			return nil, err
		}
	}
	n.held.Store(&held{version, h})
	return h, nil
}

func (n *Node) setHolding(ctx context.Context, h *holding) error {
	if _, err := n.engine.Do(ctx, &engine.Tx{Writes: []engine.Write{put(keyCoverage, h.encode())}}); err != nil {
		return fmt.Errorf("storing what this cluster leaves out: %w", err)
	}
	return nil
}

// Lack says that this cluster does not hold a mount's data, and why; empty: it does.
type Lack string

const (
	LackFiltered Lack = "filtered" // its paths filter leaves the mount out
	LackFilling  Lack = "filling"  // it may have the mount, whose data are still being received
)

// Lacks tells whether this cluster holds a keyspace of the replicated scope.
func (n *Node) Lacks(id storage.KeyspaceID) (Lack, error) {
	h, err := n.holding()
	switch {
	case err != nil:
		return "", err
	case hasID(h.Left, id):
		return LackFiltered, nil
	case hasID(h.filling, id):
		return LackFilling, nil
	}
	return "", nil
}

// Lacking lists the paths of the mounts that this cluster does not hold, filtered or still being filled.
func (n *Node) Lacking() (filtered, filling []string, err error) {
	h, err := n.holding()
	if err != nil || len(h.Left)+len(h.filling) == 0 {
		return []string{}, []string{}, err
	}
	v := n.engine.Snapshot()
	defer v.Release()
	c := &coverer{table: n.cfg.Mounts, mounts: map[string]mountPlace{}}
	if err := c.readMounts(v); err != nil {
		return nil, nil, err
	}
	return c.paths(h.Left), c.paths(h.filling), nil
}

// accept takes what the feeder tells of the coverage into force, durably, before anything is done on its ground. changed says that a sync must begin under it.
// history is that of the feeder's log, which ends at last.
func (l *life) accept(c *coverage, history []engine.Reign, last uint64) (resync bool, err error) {
	n := l.n
	old, err := n.holding()
	if err != nil || c == nil {
		return old != nil && old.resync, err
	}
	next := *old
	if kept := keeps(&old.coverage, history, last, c.Ordinal); len(kept) == 0 {
		next.Since, next.Ordinal = c.Since, c.Ordinal
	} else if missing := without(kept, c.Left); len(missing) > 0 {
		return false, malformed("the primary widens what this cluster may have (keyspace %s) although it does not know the change that narrowed it: "+
			"write the paths filter of this secondary again on the primary", missing[0])
	}
	next.Number, next.Left = c.Number, c.Left
	next.skipped = nil
	for _, id := range c.Unavailable { // whoever has such data keeps them, and whoever has none does not answer as if there were none
		if hasID(old.Left, id) || !l.records(id) {
			next.Left = union(next.Left, []storage.KeyspaceID{id})
		} else {
			next.skipped = append(next.skipped, id)
		}
	}
	next.filling = without(union(old.filling, c.Added), next.Left)
	syncing := l.e.SyncState() != nil
	if len(without(c.Added, old.filling)) > 0 || syncing && len(c.Removed) > 0 {
		next.resync = true
	}
	if !slices.Equal(old.Left, next.Left) || !slices.Equal(old.filling, next.filling) || !slices.Equal(old.skipped, next.skipped) || old.resync != next.resync || old.Since != next.Since {
		if err := n.setHolding(l.ctx, &next); err != nil {
			return false, err
		}
		l.log.Info("the coverage of this cluster has changed", "number", next.Number, "left_out", len(next.Left), "filling", len(next.filling), "resync", next.resync)
	}
	if syncing { // its spool could bring back what is left out: it goes when the sync has ended
		return next.resync, nil
	}
	return next.resync, l.evict(&next)
}

// records reports whether this cluster has records of a keyspace.
func (l *life) records(id storage.KeyspaceID) bool {
	totals, _ := l.e.Totals()
	return slices.ContainsFunc(totals, func(t storage.KeyspaceTotal) bool { return t.ID == id && t.Count > 0 })
}

// compared leaves out of totals what a secondary's feeder lacks: it is in no root of the feeder's.
func (n *Node) compared(k Kind, totals []storage.KeyspaceTotal) []storage.KeyspaceTotal {
	if k != Performance || !n.streamsFrom(k) {
		return totals
	}
	h, err := n.holding()
	if err != nil || len(h.skipped) == 0 {
		return totals
	}
	return slices.DeleteFunc(slices.Clone(totals), func(t storage.KeyspaceTotal) bool { return hasID(h.skipped, t.ID) })
}

// evict deletes what this cluster may not have any more. Killed on the way it goes on at the next start.
func (l *life) evict(h *holding) error {
	if len(h.Left) == 0 {
		return nil
	}
	if err := l.e.Empty(l.ctx, h.Left); err != nil {
		return fmt.Errorf("deleting what the paths filter leaves out: %w", err)
	}
	return nil
}

// settleCoverage finishes what a kill may have interrupted: data that are to go, or a sync that has ended.
func (l *life) settleCoverage() error {
	if l.kind != Performance || l.e.SyncState() != nil {
		return nil
	}
	h, err := l.n.holding()
	if err != nil {
		return err
	}
	if len(h.filling) > 0 && !h.resync { // the sync that filled them has ended
		next := *h
		next.filling = nil
		if err := l.n.setHolding(l.ctx, &next); err != nil {
			return err
		}
		h = &next
	}
	return l.evict(h)
}

// syncBegun notes that the sync under way began under the coverage in force.
func (l *life) syncBegun() error {
	h, err := l.n.holding()
	if err != nil || !h.resync {
		return err
	}
	next := *h
	next.resync = false
	return l.n.setHolding(l.ctx, &next)
}

// resyncDue says why a sync has to begin although one is under way or the place is held; empty: it has not.
func (l *life) resyncDue() (string, error) {
	if l.kind != Performance {
		return "", nil
	}
	h, err := l.n.holding()
	if err != nil || !h.resync {
		return "", err
	}
	return coverageCause, nil
}

// coverageCause is the reason for a diff that a changed coverage asks for.
const coverageCause = "the primary changed what this cluster may have"

// filled reports whether the roots of this cluster and its feeder are to be compared: not while something covered is still to be received.
func (n *Node) filled() bool {
	h, err := n.holding()
	return err == nil && len(h.filling) == 0 && !h.resync
}

// wanted leaves out of a feeder's list of keyspaces what this cluster may not have.
func (y *syncer) wanted(theirs []storage.KeyspaceTotal) ([]storage.KeyspaceTotal, error) {
	if y.l.kind != Performance {
		return theirs, nil
	}
	h, err := y.l.n.holding()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(theirs, func(t storage.KeyspaceTotal) bool { return hasID(h.Left, t.ID) }), nil
}

// skips tells whether a keyspace is not compared, because the feeder lacks it.
func (y *syncer) skips(id storage.KeyspaceID) bool {
	if y.l.kind != Performance {
		return false
	}
	h, err := y.l.n.holding()
	return err != nil || hasID(h.skipped, id) // what cannot be told is not deleted
}

// commitAll makes batches durable in their order, and takes what they tell of the coverage into force between them. resync says that a sync must begin.
func (sub *subscription) commitAll(batches []*batch, spool bool) (resync bool, err error) {
	for len(batches) > 0 {
		run := 1 + slices.IndexFunc(batches, func(b *batch) bool { return b.Coverage != nil || sub.rooted(b.End) })
		if run == 0 {
			run = len(batches)
		}
		if resync, err = sub.commitRun(batches[:run], spool); err != nil || resync {
			return resync, err
		}
		if !spool {
			sub.compareAt(sub.at)
		}
		batches = batches[run:]
	}
	return false, nil
}

// commitRun makes batches durable of which only the last may tell of the coverage.
func (sub *subscription) commitRun(batches []*batch, spool bool) (resync bool, err error) {
	c := batches[len(batches)-1].Coverage
	if c != nil {
		sub.covering.Lock()
		defer sub.covering.Unlock()
	}
	if err := sub.commit(batches, spool); err != nil {
		return false, err
	}
	sub.took(batches)
	if c == nil {
		return false, nil
	}
	return sub.l.accept(c, ofLineage(sub.history, sub.answer.Lineage), sub.at.Index)
}
