package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// Synchronous replication holds back answers, never commits: an answer of a synchronous primary is given when enough secondaries hold everything that it may
// depend on, its own write and whatever it has read. Who gets no answer has been shown nothing, so readers see nothing above the confirmed index, also
// after a restart, and performance secondaries are streamed nothing above it.
//
// A secondary counts while it streams (stream-wals) and could take the primary's place: a performance secondary with a paths filter does not. What it
// acknowledges then is durable and readable there, so both levels ask for the same acknowledgement.

// NotConfirmed is an answer that was held back for nothing.
type NotConfirmed struct {
	Index     uint64 // of the primary's log
	Want      int    // secondaries
	Have      int
	Waited    time.Duration
	Committed bool // the request's own write is part of it
	Left      bool // it was written as the primary of a set, which this cluster is no longer
}

func (e *NotConfirmed) Error() string {
	if e.Left {
		return fmt.Sprintf("committed here, not confirmed: this cluster ceased to be the primary before %d secondaries were known to have index %d: read on the new primary before you write again",
			e.Want, e.Index)
	}
	what := "what this answer depends on is not confirmed"
	then := "repeat the request, or see sys/replication/status for the secondaries that are missing"
	if e.Committed {
		what = "committed here, not confirmed"
		then = "nothing is undone: the write reaches the secondaries when they stream again; read before you write again"
	}
	return fmt.Sprintf("%s: %d of %d secondaries have index %d after %v: %s", what, e.Have, e.Want, e.Index, e.Waited, then)
}

// recordLevel is the record (local scope) with the level of a set; a successor goes on with it.
func recordLevel(k Kind) string { return "replication/" + string(k) + "/synchronous" }

// levels is what a primary knows of the synchronous mode of its sets.
type levels struct {
	mu       sync.Mutex // guards what follows
	version  uint64     // of the system's records when of was read; 0: never
	of       map[Kind]Level
	degraded map[Kind]time.Time // since when answers are given without confirmation
	lapsed   map[Kind]bool      // the write lease has ended
}

// Synchronous returns the level of a set that this cluster is the primary of, also while it is being demoted: its secondaries still stream then, and answers wait.
func (n *Node) Synchronous(k Kind) (Level, error) {
	if !n.reigns(k) {
		return Level{}, nil
	}
	version := n.engine.SystemVersion() + 1
	n.levels.mu.Lock()
	defer n.levels.mu.Unlock()
	if n.levels.version == version {
		return n.levels.of[k], nil
	}
	of := map[Kind]Level{}
	for _, kind := range kinds {
		l, err := n.readLevel(kind)
		if err != nil {
			return Level{}, err
		}
		of[kind] = l
	}
	n.levels.of, n.levels.version = of, version
	return of[k], nil
}

// reigns reports whether this cluster is a set's primary, or is just being demoted.
func (n *Node) reigns(k Kind) bool {
	set := n.set(k)
	return set != nil && set.Mode == Primary
}

func (n *Node) readLevel(k Kind) (Level, error) {
	r, err := n.engine.Get(storage.SystemLocal, []byte(recordLevel(k)))
	if errors.Is(err, storage.ErrNotFound) {
		return Level{}, nil
	}
	if err != nil {
		return Level{}, fmt.Errorf("reading the level of the %s set: %w", k, err)
	}
	return ParseLevel(string(r.Value))
}

// SetSynchronous sets the level of a set that this cluster is the primary of.
func (n *Node) SetSynchronous(ctx context.Context, k Kind, l Level) error {
	n.admin.Lock()
	defer n.admin.Unlock()
	if n.Mode(k) != Primary {
		return refuse("this cluster is no %s primary: only a primary has a level of replication", k)
	}
	if shortest := connectedFor * n.cfg.HeartbeatInterval; l.Lease > 0 && l.Lease < shortest {
		return refuse("a write lease of %v is too short for heartbeats every %v: give at least %v", l.Lease, n.cfg.HeartbeatInterval, shortest)
	}
	w := put(recordLevel(k), []byte(l.String()))
	if l.Secondaries == 0 {
		w = remove(recordLevel(k))
	}
	if _, err := n.engine.Do(ctx, &engine.Tx{Writes: []engine.Write{w}}); err != nil {
		return fmt.Errorf("storing the level of the %s set: %w", k, err)
	}
	n.levels.mu.Lock()
	delete(n.levels.degraded, k)
	delete(n.levels.lapsed, k)
	n.levels.mu.Unlock()
	n.log.Info("the level of replication is set", "set", string(k), "level", l.String())
	return nil
}

// Degraded returns since when a synchronous set's answers are given without confirmation; zero: they are not.
func (n *Node) Degraded(k Kind) time.Time {
	n.levels.mu.Lock()
	defer n.levels.mu.Unlock()
	return n.levels.degraded[k]
}

// Written is what the answer to a write must have from the moment of its commit: a change of role may come before the answer.
type Written struct {
	Token string // of the state after the write

	index  uint64
	levels map[Kind]Level // of the sets that this cluster was the primary of, as far as they are synchronous
}

// Wrote is called with the place of a write while HoldRole keeps the part in which it was written; before is what an earlier write of the same request left, or nil.
func (n *Node) Wrote(at wal.Position, before *Written) (*Written, error) {
	w := &Written{Token: n.IndexToken(at), index: at.Index}
	if before != nil {
		w.levels = before.levels
	}
	for _, k := range kinds {
		l, err := n.Synchronous(k)
		if err != nil {
			return nil, err
		}
		if l.Secondaries == 0 {
			continue
		}
		if w.levels == nil {
			w.levels = map[Kind]Level{}
		}
		w.levels[k] = l
	}
	return w, nil
}

// AwaitConfirmed holds an answer back until what it may depend on is confirmed as the sets ask for: everything that this cluster's log holds now. committed says
// that the request has written, here what written tells, which is nil otherwise. warning says that it is given without, as a set's level allows. An error is
// *NotConfirmed or the context's.
func (n *Node) AwaitConfirmed(ctx context.Context, committed bool, written *Written) (warning string, err error) {
	for _, k := range kinds {
		l, err := n.Synchronous(k)
		if err != nil {
			return "", err
		}
		if l.Secondaries == 0 {
			w, err := n.leftUnconfirmed(k, written)
			if err != nil {
				return "", err
			}
			warning = orElse(warning, w)
			continue
		}
		w, err := n.awaitSet(ctx, k, l, committed)
		if err != nil {
			return "", err
		}
		warning = orElse(warning, w)
	}
	return warning, nil
}

// leftUnconfirmed judges a write of a synchronous primary that is none any more: which secondaries hold it is not known here now.
func (n *Node) leftUnconfirmed(k Kind, w *Written) (warning string, err error) {
	if w == nil || w.levels[k].Secondaries == 0 || n.reigns(k) { // there, the level was lowered
		return "", nil
	}
	l := w.levels[k]
	if l.Degrade {
		return fmt.Sprintf("Answered without the confirmation of %d %s secondaries: this cluster ceased to be the primary.", l.Secondaries, k), nil
	}
	return "", &NotConfirmed{Index: w.index, Want: l.Secondaries, Committed: true, Left: true}
}

func (n *Node) awaitSet(ctx context.Context, k Kind, l Level, committed bool) (warning string, err error) {
	index := n.engine.Position().Index
	since := n.Degraded(k)
	if !since.IsZero() { // nobody waits until the secondaries are back
		if have, _ := n.confirmed([]Kind{k}, index); have < l.Secondaries {
			return degradedText(k, l, since), nil
		}
		n.degrade(k, l, false)
		return "", nil
	}
	err = n.AwaitLevel(ctx, index, l, committed, k)
	var e *NotConfirmed
	if !l.Degrade || !errors.As(err, &e) {
		return "", err
	}
	n.degrade(k, l, true)
	return degradedText(k, l, n.Degraded(k)), nil
}

func degradedText(k Kind, l Level, since time.Time) string {
	return fmt.Sprintf("Answered without the confirmation of %d %s secondaries: the set is degraded since %s.", l.Secondaries, k, since.UTC().Format(time.RFC3339))
}

// degrade notes that answers are given without confirmation, or no longer.
func (n *Node) degrade(k Kind, l Level, on bool) {
	n.levels.mu.Lock()
	defer n.levels.mu.Unlock()
	if _, is := n.levels.degraded[k]; is == on {
		return
	}
	if n.levels.degraded == nil {
		n.levels.degraded = map[Kind]time.Time{}
	}
	if !on {
		delete(n.levels.degraded, k)
		n.log.Info("answers wait for confirmation again", "set", string(k), "level", l.String())
		return
	}
	n.levels.degraded[k] = n.now()
	n.log.Warn("answers are given without confirmation until enough secondaries are back", "set", string(k), "level", l.String())
}

// AwaitLevel waits until enough secondaries of the sets named, or of any that this cluster is the primary of, hold an index.
func (n *Node) AwaitLevel(ctx context.Context, index uint64, l Level, committed bool, of ...Kind) error {
	if len(of) == 0 {
		of = kinds
	}
	timer := time.NewTimer(l.Timeout)
	defer timer.Stop()
	for {
		have, moved := n.confirmed(of, index)
		if have >= l.Secondaries {
			return nil
		}
		select {
		case <-moved:
		case <-timer.C:
			return &NotConfirmed{Index: index, Want: l.Secondaries, Have: have, Waited: l.Timeout, Committed: committed}
		case <-ctx.Done():
			return fmt.Errorf("waiting for the confirmation of index %d: %w", index, context.Cause(ctx))
		}
	}
}

// confirmed counts the secondaries that hold an index, and returns what is closed when one of them moves.
func (n *Node) confirmed(of []Kind, index uint64) (have int, moved <-chan struct{}) {
	for _, k := range of {
		var peers []peerState
		peers, moved = n.peers.all(k)
		for i := range peers {
			if peers[i].Acked.Index >= index && n.counts(k, &peers[i]) {
				have++
			}
		}
	}
	return have, moved
}

// counts reports whether a secondary's acknowledgement confirms.
func (n *Node) counts(k Kind, p *peerState) bool {
	return p.Streams > 0 && n.couldSucceed(k, p)
}

// couldSucceed reports whether a secondary, as it was last heard of, could take the primary's place.
func (n *Node) couldSucceed(k Kind, p *peerState) bool {
	if p.State != string(StateStreamWALs) {
		return false
	}
	if k == DR {
		return true
	}
	c, err := n.coverOf(p.ID)
	return err == nil && len(c.left()) == 0
}

// confirmedIndex returns the highest index that a synchronous set's secondaries confirm; ok is false where the set is asynchronous or degraded.
func (n *Node) confirmedIndex(k Kind) (index uint64, ok bool, moved <-chan struct{}) {
	l, err := n.Synchronous(k)
	if err != nil || l.Secondaries == 0 || !n.Degraded(k).IsZero() {
		return 0, false, nil
	}
	peers, moved := n.peers.all(k)
	var held []uint64
	for i := range peers {
		if n.counts(k, &peers[i]) {
			held = append(held, peers[i].Acked.Index)
		}
	}
	if len(held) < l.Secondaries {
		return 0, true, moved
	}
	slices.Sort(held)
	return held[len(held)-l.Secondaries], true, moved
}

// noteConfirmed is the highest index of the primary's log that it said to be confirmed (node scope).
func noteConfirmed(k Kind) string { return "replication/" + string(k) + "/confirmed" }

// confirmedNote is that index as stored (JSON).
type confirmedNote struct {
	Lineage wal.Lineage `json:"lineage"` // of the log
	Index   uint64      `json:"index"`
}

// heardConfirmed keeps the highest confirmed index that this secondary has heard of: what lies up to there may have been shown to somebody.
func (n *Node) heardConfirmed(k Kind, h *heartbeat) error {
	if h.Confirmed == 0 {
		return nil
	}
	now, err := n.confirmedHeard(k)
	if err != nil || now.Lineage == h.Lineage && now.Index >= h.Confirmed {
		return err
	}
	note := mustJSON(confirmedNote{Lineage: h.Lineage, Index: h.Confirmed})
	if err := n.engine.NodeSet(map[string][]byte{noteConfirmed(k): note}); err != nil {
		return fmt.Errorf("storing the primary's confirmed index: %w", err)
	}
	return nil
}

func (n *Node) confirmedHeard(k Kind) (c confirmedNote, err error) {
	b := n.engine.NodeGet(noteConfirmed(k))
	if b == nil {
		return c, nil
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("the stored confirmed index of the %s set does not decode: %w", k, err)
	}
	return c, nil
}

// lacksConfirmed says what a secondary lacks of what its primary has shown as confirmed, "" when it lacks nothing.
func (n *Node) lacksConfirmed(k Kind) (string, error) {
	c, err := n.confirmedHeard(k)
	if err != nil || c.Index == 0 {
		return "", err
	}
	at, lineage := n.placeOf(k), n.engine.Identity().Lineage
	if k == Performance {
		seen, err := n.seen(k)
		if err != nil {
			return "", err
		}
		lineage = reignOf(seen, at.Fork).Lineage
	}
	if c.Lineage != lineage || at.Index >= c.Index {
		return "", nil
	}
	return fmt.Sprintf("this cluster has index %d, and the primary has confirmed %d: %d entries that clients were told to be safe would be lost; another secondary has them",
		at.Index, c.Index, c.Index-at.Index), nil
}
