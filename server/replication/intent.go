package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

// A change of role has several steps, in the log, in the metadata and, for DR, a reopening of the store. Its intent is written before the first of them,
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

	Abandon bool `json:"abandon,omitempty"` // a sync under way ends where it is: somebody said force, or the cluster is to stand alone
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
// also when a step failed or the store is about to be opened in another role: a life would begin anew the very sync that the change abandons.
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
	n.intent = &in
	switch in.Call {
	case callDemoteDR:
		n.sets[DR], n.sets[Performance] = in.Set, nil
	case callDemotePerf:
		n.sets[Performance] = in.Set
	}
	return nil
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

// resume completes the role change that was begun before this start, or by this one's reopening. It returns when nothing is left, or with ctx.
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

// complete takes the steps that are left of a role change. reopened says that the store is being reopened in another role: the rest follows there. The caller
// holds admin.
func (n *Node) complete(ctx context.Context, in *intent) (reopened bool, err error) {
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

var errNoReopen = errors.New("this node cannot reopen its store in another role")

// reopen ends this core and opens the store anew in another role. A demoted primary has drained its secondaries before.
func (n *Node) reopen(role engine.Role) error {
	if n.cfg.Reopen == nil {
		return errNoReopen
	}
	if err := n.cfg.Reopen(role, role == engine.Verbatim); err != nil {
		return fmt.Errorf("reopening the store: %w", err)
	}
	n.reopening = true
	return nil
}
