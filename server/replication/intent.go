package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

// A change of role has several steps, in the log, in the metadata and, for DR, in the role of the store. Its intent is written before the first of them,
// with all that it mints (ids, keys, certificates), and is cleared by the last. Whatever instant the process dies at, the next start finds the intent and
// takes the steps that are left: a role change that was begun is completed, never undone.

// noteIntent is the role change under way (node scope).
const noteIntent = "replication/intent"

// Calls that change roles in more than one step.
const (
	callPromoteDR    = "dr/secondary/promote"
	callDemoteDR     = "dr/primary/demote"
	callDisableDR    = "dr/secondary/disable"
	callPromotePerf  = "performance/secondary/promote"
	callDemotePerf   = "performance/primary/demote"
	intentVersion    = 1
	resumeAgainAfter = 2 * time.Second
)

// intent is a role change as stored (JSON).
type intent struct {
	Version int        `json:"version"`
	Call    string     `json:"call"`
	ID      string     `json:"id"`            // of this change: an entry of the log that has it was written by it
	Set     *setConfig `json:"set,omitempty"` // what this cluster's part in the set shall be
	CAKey   string     `json:"ca_key,omitempty"`
	Seed    []byte     `json:"token_key,omitempty"` // of the key that signs activation tokens
	Ordinal uint64     `json:"ordinal,omitempty"`   // the epoch's

	// Of a DR promotion: what is needed should the store hold a performance primary.
	PerfCA    string `json:"performance_ca,omitempty"`
	PerfCAKey string `json:"performance_ca_key,omitempty"`
	PerfSeed  []byte `json:"performance_token_key,omitempty"`

	Herald *heraldRecord `json:"herald,omitempty"` // of a promotion: what it takes to tell the former primary

	Kinds     []Kind     `json:"kinds,omitempty"`     // recover: the sets whose fences end
	Overrides []wal.Fork `json:"overrides,omitempty"` // recover: forks of others that the epoch wins against

	Drain     time.Duration     `json:"drain,omitempty"`     // a demotion: how long it waits for secondaries
	Connected map[Kind][]string `json:"connected,omitempty"` // ids of those that were connected when it began
	Outcome   *Demotion         `json:"outcome,omitempty"`   // and how they stood then; nil: that has not been done

	Abandon bool `json:"abandon,omitempty"` // a sync under way ends where it is: somebody said force, or the cluster is to stand alone

	Async bool `json:"async,omitempty"` // a promotion: the level of before ends

	resumed bool // it was begun before this start
}

// demotes reports whether the change is the demotion of this cluster in a set.
func (in *intent) demotes(k Kind) bool {
	return in.Call == callDemoteDR && k == DR || in.Call == callDemotePerf && k == Performance
}

func (in *intent) promotes(k Kind) bool {
	return in.Call == callPromoteDR && k == DR || in.Call == callPromotePerf && k == Performance
}

// inTheWay refuses a call that has to wait for the end of the change.
func (in *intent) inTheWay() error {
	return &NotReady{fmt.Sprintf("another change of role is under way (%s): repeat the call when sys/replication/status shows its end", in.Call)}
}

// Promoting tells whether this cluster is on its way to be a set's primary, and no call can change that.
func (n *Node) Promoting(k Kind) bool {
	in := n.underWay()
	return in != nil && in.promotes(k)
}

// kind is the set that the change is about; of a recover it is not said.
func (in *intent) kind() Kind {
	if in.Set == nil {
		return ""
	}
	return in.Set.Kind
}

// outcome is the note that a demotion leaves.
func (in *intent) outcome() []byte {
	if in.Outcome == nil {
		return nil
	}
	return mustJSON(in.Outcome)
}

// news is the note that lets a promoted cluster tell its former primary.
func (in *intent) news() []byte {
	if in.Herald == nil {
		return nil
	}
	return mustJSON(in.Herald)
}

// wants returns the role in which the engine must run for the change to end.
func (in *intent) wants() (role engine.Role, set bool) {
	switch in.Call {
	case callPromoteDR, callDisableDR:
		return engine.Writer, true
	case callDemoteDR:
		return engine.Verbatim, true
	}
	return engine.Writer, false
}

// ends reports whether the change is the end of this cluster as a secondary of the set. From its first step on no life of that set begins here any more,
// also when a step failed or the store is about to go on in another role: a life would begin anew the very sync that the change abandons.
func (in *intent) ends(k Kind) bool {
	if in == nil {
		return false
	}
	switch in.Call {
	case callPromoteDR, callDisableDR:
		return k == DR
	case callPromotePerf:
		return k == Performance
	}
	return false
}

// loadIntent reads the role change that a crash left half done, and lets nobody take this cluster for what it is about to cease to be.
func (n *Node) loadIntent() error {
	b := n.engine.NodeGet(noteIntent)
	if b == nil {
		return nil
	}
	var in intent
	if err := json.Unmarshal(b, &in); err != nil {
		return fmt.Errorf("the stored role change does not decode: %w", err)
	}
	if in.Version > intentVersion {
		return fmt.Errorf("the stored role change has version %d, this program reads up to %d: use a newer lockstep", in.Version, intentVersion)
	}
	in.resumed = true
	n.intent = &in
	switch {
	case n.handsOver(&in): // it goes on as a primary that takes no writes
		n.lives.demoting[in.Set.Kind] = true
	case in.Call == callDemoteDR:
		n.sets[DR], n.sets[Performance] = in.Set, nil
	case in.Call == callDemotePerf:
		n.sets[Performance] = in.Set
	}
	return nil
}

// handsOver reports whether a role change is a demotion whose secondaries have not been told yet, on a cluster that can still tell them.
func (n *Node) handsOver(in *intent) bool {
	if in.Call != callDemoteDR && in.Call != callDemotePerf || in.Outcome != nil || n.engine.Role() != engine.Writer {
		return false
	}
	set := n.sets[in.Set.Kind]
	return set != nil && set.Mode == Primary
}

// begin makes a role change durable before its first step. The caller holds admin.
func (n *Node) begin(in *intent) error {
	in.Version, in.ID = intentVersion, newID()
	if err := n.engine.NodeSet(map[string][]byte{noteIntent: mustJSON(in)}); err != nil {
		return fmt.Errorf("storing that the role changes: %w", err)
	}
	n.setIntent(in)
	n.log.Info("the role changes", "call", in.Call)
	return nil
}

func (n *Node) setIntent(in *intent) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.intent = in
}

// underWay returns the role change that has not ended, nil when there is none.
func (n *Node) underWay() *intent {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.intent
}

// done writes the last step: notes of the new role, and that nothing is left to do. use puts the new role into force: before anybody can see that the change has ended.
func (n *Node) done(notes map[string][]byte, use func()) error {
	notes[noteIntent] = nil
	if err := n.engine.NodeSet(notes); err != nil {
		return fmt.Errorf("storing the new role: %w", err)
	}
	use()
	n.setIntent(nil)
	return nil
}

// resume completes the role change that was begun before this start, or by the core before. It returns when nothing is left, or with ctx.
func (n *Node) resume(ctx context.Context) {
	for ctx.Err() == nil {
		in := n.underWay()
		if in == nil {
			n.leaveSync(ctx)
			return
		}
		reopened, err := n.finish(ctx, in)
		if reopened {
			<-ctx.Done()
			return
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		n.log.Error("the change of role is not complete yet; it goes on", "call", in.Call, "error", err, "again_in", resumeAgainAfter.String())
		t := time.NewTimer(resumeAgainAfter)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// finish completes a role change, unless the call that began it has done so meanwhile: taken once more, it would undo what came after it.
func (n *Node) finish(ctx context.Context, in *intent) (reopened bool, err error) {
	n.admin.Lock()
	defer n.admin.Unlock()
	if n.underWay() != in {
		return false, nil
	}
	return n.complete(ctx, in)
}

// leaveSync ends a sync of a set that this cluster has left: nobody would.
func (n *Node) leaveSync(ctx context.Context) {
	s := n.engine.SyncState()
	if s == nil {
		return
	}
	if set := n.set(Kind(s.Set)); set != nil && set.Mode == Secondary || n.engine.Role() == engine.Verbatim && Kind(s.Set) != DR {
		return
	}
	if err := n.engine.AbandonSync(ctx); err != nil && ctx.Err() == nil {
		n.log.Error("a sync of a set that this cluster has left was not ended", "error", err)
	}
}

// complete takes the steps that are left of a role change. reopened says that the store goes on in another role: the rest follows there. The caller
// holds admin.
func (n *Node) complete(ctx context.Context, in *intent) (reopened bool, err error) {
	if _, err := n.handOverOnce(ctx, in); err != nil {
		return false, err
	}
	if role, needed := in.wants(); needed && n.engine.Role() != role {
		if in.Abandon {
			if err := n.engine.AbandonSync(ctx); err != nil {
				return false, err
			}
		}
		return true, n.reopen(role)
	}
	switch in.Call {
	case callPromoteDR:
		return false, n.completePromoteDR(ctx, in)
	case callDemoteDR:
		return false, n.completeDemoteDR(in)
	case callDisableDR:
		return false, n.completeDisableDR(ctx, in)
	case callPromotePerf:
		return false, n.completePromotePerf(ctx, in)
	case callDemotePerf:
		return false, n.completeDemotePerf(ctx, in)
	case callRecover:
		return false, n.completeRecover(ctx, in)
	}
	return false, fmt.Errorf("internal error: a role change %q that this program does not know", in.Call)
}

// reconnectTime is how long a demotion that goes on after a start waits at least for secondaries: they have to connect first.
const reconnectTime = 15 * time.Second

// handOverOnce hands over what a demotion gives up, unless that has been done, and makes durable how it went. A demotion that was killed does it at the next
// start, for those who were connected when it began. The caller holds admin.
func (n *Node) handOverOnce(ctx context.Context, in *intent) (*Demotion, error) {
	n.mu.Lock()
	hands, began := n.handsOver(in), n.lives.ends[in.kind()] != nil
	n.mu.Unlock()
	if !hands {
		return in.Outcome, nil
	}
	k, p := in.Set.Kind, Demote{DrainTimeout: in.Drain}
	sets := n.setsLost(k)
	if in.resumed && !began {
		p.DrainTimeout, p.absent = max(p.DrainTimeout, reconnectTime), map[Kind][]string{}
		for _, of := range sets {
			known, err := n.secondaries(of, false)
			if err != nil {
				return nil, fmt.Errorf("listing who is to be told of the demotion: %w", err)
			}
			for _, rec := range known {
				if slices.Contains(in.Connected[of], rec.ID) {
					p.absent[of] = append(p.absent[of], rec.ID)
				}
			}
		}
	}
	d := n.handOver(ctx, k, p, sets...)
	if err := ctx.Err(); err != nil && in.resumed {
		return nil, fmt.Errorf("telling the secondaries of the demotion: %w", err)
	}
	done := *in
	done.Outcome = d
	if err := n.engine.NodeSet(map[string][]byte{noteIntent: mustJSON(&done)}); err != nil {
		return nil, fmt.Errorf("storing where the secondaries stand: %w", err)
	}
	in.Outcome = d
	return d, nil
}

// setsLost are those in which a primary's demotion ends its part: the performance set ends with DR.
func (n *Node) setsLost(k Kind) []Kind {
	if perf := n.set(Performance); k == DR && perf != nil && perf.Mode == Primary {
		return kinds
	}
	return []Kind{k}
}

// demotion is the intent of one.
func (n *Node) demotion(call string, set *setConfig, p Demote) *intent {
	in := &intent{Call: call, Set: n.demoted(set), Drain: p.DrainTimeout, Connected: map[Kind][]string{}}
	for _, k := range n.setsLost(set.Kind) {
		in.Connected[k] = n.peers.connected(k)
	}
	return in
}

// noteDemotion keeps, on a cluster that was demoted, how that went: for a call that is repeated because its answer was lost.
func noteDemotion(k Kind) string { return "replication/" + string(k) + "/demotion" }

// Demoted says how the demotion went by which this cluster became a secondary without a primary.
func (n *Node) Demoted(k Kind) (*Demotion, error) {
	if in := n.underWay(); in != nil && in.demotes(k) {
		return nil, &NotReady{"this cluster is being demoted: repeat the call in a moment"}
	}
	set := n.set(k)
	if set == nil || set.Mode != Secondary || set.Secondary != "" {
		return nil, refuse("this cluster is no demoted %s primary: sys/replication/status shows what it is", k)
	}
	d, err := n.demotionOf(k)
	if err != nil {
		return nil, err
	}
	if d == nil {
		d = new(Demotion)
	}
	d.explain()
	d.warn(fmt.Sprintf("This cluster is a demoted %s primary already; nothing was changed. What is said of its secondaries is how they stood when it was demoted.", k))
	return d, nil
}

// demotionOf reads what a demotion left, nil when it left nothing.
func (n *Node) demotionOf(k Kind) (*Demotion, error) {
	b := n.engine.NodeGet(noteDemotion(k))
	if b == nil {
		return nil, nil
	}
	d := new(Demotion)
	if err := json.Unmarshal(b, d); err != nil {
		return nil, fmt.Errorf("the stored outcome of the demotion does not decode: %w", err)
	}
	return d, nil
}

// goOn takes the next steps of a role change whose call failed on the way and is repeated. The caller holds admin.
func (n *Node) goOn(ctx context.Context, k Kind, in *intent) error {
	if n.reopening { // nothing is left to do here: the next core does it
		return nil
	}
	begin := n.pauseLife(k)
	defer begin()
	if _, err := n.complete(ctx, in); err != nil {
		return fmt.Errorf("the change of role (%s) has begun and is not complete; repeat the call: %w", in.Call, err)
	}
	return nil
}

var errNoReopen = errors.New("this node cannot go on with its store in another role")

// reopen ends this core; the next one goes on with the store in another role. A demoted primary has drained its secondaries before.
func (n *Node) reopen(role engine.Role) error {
	if n.cfg.Reopen == nil {
		return errNoReopen
	}
	if err := n.cfg.Reopen(role, role == engine.Verbatim); err != nil {
		return fmt.Errorf("changing the role of the store: %w", err)
	}
	n.reopening = true
	return nil
}
