package replication

import (
	"context"
	"fmt"

	"github.com/lockstepdb/lockstep/server/engine"
)

// The calls by which an operator changes roles, of either kind: what is refused, and what is repeated.

// Promote is what an operator says with a promotion.
type Promote struct {
	PrimaryClusterAddr string
	Force              bool // although replication is catching up or the state is not consistent
	Async              bool // its answers wait for no secondaries: the level of before ends
}

const promoteWarning = "This cluster is being promoted to the %s primary: other secondaries need new activation tokens from it (%s/secondary/update-primary there)."

// PromoteSecondary makes the secondary of a set its primary, with an epoch of its own. All data and the set's id are kept. A repeated call answers with a warning.
func (n *Node) PromoteSecondary(ctx context.Context, k Kind, p Promote) (warning string, err error) {
	n.endDrain()
	n.admin.Lock()
	defer n.admin.Unlock()
	if p.PrimaryClusterAddr != "" {
		if _, ok := hostPort(p.PrimaryClusterAddr); !ok {
			return "", refuse("primary_cluster_addr must be host:port or https://host:port")
		}
	}
	if in := n.underWay(); in != nil {
		if in.promotes(k) {
			return "This cluster is being promoted already.", n.goOn(ctx, k, in)
		}
		return "", in.inTheWay()
	}
	set := n.set(k)
	switch {
	case set == nil:
		return "", refuse("%s replication is disabled here: only a secondary can be promoted; %s/primary/enable makes a primary of a new set", k, k)
	case set.Mode == Primary && set.HoldFrom > 0: // it was promoted
		return fmt.Sprintf("This cluster is the %s primary already; nothing was changed.", k), nil
	case set.Mode == Primary:
		return "", refuse("this cluster is the %s primary, not a secondary: there is nothing to promote", k)
	case !set.Joined:
		return "", refuse("this cluster is still being filled for the first time and holds no complete copy: wait, or promote another secondary")
	}
	if !p.Force {
		if err := n.mayPromote(k, set); err != nil {
			return "", err
		}
	}
	if k == DR {
		return n.promoteDR(ctx, set, p)
	}
	return n.promotePerf(ctx, set, p)
}

// DemotePrimary makes a primary a secondary without a primary: set id and data are kept. A repeated call answers with a warning.
func (n *Node) DemotePrimary(ctx context.Context, k Kind, p Demote) (*Demotion, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	n.admin.Lock()
	defer n.admin.Unlock()
	if in := n.underWay(); in != nil {
		if in.demotes(k) {
			return n.demoteOn(ctx, k, in)
		}
		return nil, in.inTheWay()
	}
	set := n.set(k)
	switch {
	case set == nil:
		return nil, refuse("%s replication is disabled here: only a primary can be demoted", k)
	case set.Mode == Secondary && set.Secondary == "":
		return n.Demoted(k)
	case set.Mode == Secondary:
		return nil, refuse("this cluster is a %s secondary, not the primary: demote the primary", k)
	case k == Performance && n.fenceOf(DR) != nil:
		return nil, refuse("this cluster is fenced as the DR primary, whose successor has its part in the performance set too: say dr/primary/demote")
	}
	if k == DR {
		return n.demoteDR(ctx, set, p)
	}
	return n.demotePerf(ctx, set, p)
}

// demoteOn completes a demotion whose call failed on the way and is repeated.
func (n *Node) demoteOn(ctx context.Context, k Kind, in *intent) (*Demotion, error) {
	if err := n.goOn(ctx, k, in); err != nil {
		return nil, err
	}
	d := &Demotion{}
	if in.Outcome != nil {
		d.Index, d.Secondaries = in.Outcome.Index, in.Outcome.Secondaries
		d.explain()
	}
	d.warn("This cluster is being demoted already.")
	return d, nil
}

// DisablePrimary ends a set's primary: its data stay, its secondaries cannot come back. A repeated call answers with a warning.
func (n *Node) DisablePrimary(ctx context.Context, k Kind) (warning string, err error) {
	n.admin.Lock()
	defer n.admin.Unlock()
	set := n.set(k)
	switch in := n.underWay(); {
	case in != nil:
		return "", in.inTheWay()
	case set == nil:
		return fmt.Sprintf("%s replication is disabled already; nothing was changed.", k), nil
	case set.Mode != Primary:
		return "", refuse("this cluster is a %s secondary, not the primary: use %s/secondary/disable", k, k)
	}
	writes, err := n.removals(k)
	if err != nil {
		return "", err
	}
	if k == Performance { // this entry decides
		writes = append(writes, remove(noteSet(k)), remove(noteTokenKey(k)))
	}
	notes := map[string][]byte{noteSet(k): nil, noteCAKey(k): nil, noteTokenKey(k): nil, noteSeen(k): nil, noteNextCAKey(k): nil, noteFence(k): nil, noteHerald(k): nil}
	if k == DR { // here the notes do: what the records say of a set that is no more counts for nobody
		if err := n.engine.NodeSet(notes); err != nil {
			return "", fmt.Errorf("storing that the %s set is disabled: %w", k, err)
		}
	}
	if len(writes) > 0 {
		if _, err := n.engine.Do(ctx, &engine.Tx{Writes: writes}); err != nil && k == Performance {
			return "", fmt.Errorf("removing the primary's part in the %s set: %w", k, err)
		} else if err != nil {
			n.log.Warn("records of the disabled set's secondaries are left behind", "set", string(k), "error", err)
		}
	}
	n.use(k, nil)
	n.leave(k)
	if k == Performance {
		if err := n.engine.NodeSet(notes); err != nil {
			return "", fmt.Errorf("removing the keys of the %s set: %w", k, err)
		}
	}
	n.log.Info("replication disabled", "set", string(k), "cluster_id", set.Set)
	return fmt.Sprintf("This cluster has %s replication disabled: its former secondaries can only be enrolled again from empty.", k), nil
}

// DisableSecondary ends a secondary's part in a set. Its data stay; enabled again it begins empty. A repeated call answers with a warning.
func (n *Node) DisableSecondary(ctx context.Context, k Kind) (warning string, err error) {
	n.endDrain()
	n.admin.Lock()
	defer n.admin.Unlock()
	set := n.set(k)
	switch in := n.underWay(); {
	case in != nil && in.Call == callDisableDR && k == DR:
		return "Replication is being disabled already.", n.goOn(ctx, k, in)
	case in != nil:
		return "", in.inTheWay()
	case set == nil:
		return fmt.Sprintf("%s replication is disabled already; nothing was changed.", k), nil
	case set.Mode != Secondary:
		return "", refuse("this cluster is the %s primary, not a secondary: use %s/primary/disable", k, k)
	}
	const text = "This cluster has %s replication disabled and keeps what it holds: enabled as a secondary again it begins empty."
	if k == DR {
		in := &intent{Call: callDisableDR, Abandon: true}
		if err := n.begin(in); err != nil {
			return "", err
		}
		goOn := n.pauseLife(DR)
		defer goOn()
		if _, err := n.complete(ctx, in); err != nil {
			return "", fmt.Errorf("disabling has begun and is completed at the next start: %w", err)
		}
		return fmt.Sprintf(text, k), nil
	}
	goOn := n.pauseLife(k)
	defer goOn()
	notes := map[string][]byte{noteSet(k): nil, noteTLSKey(k): nil, noteSeen(k): nil, notePublicKey(k): nil, noteFarewell(k): nil}
	if err := n.engine.NodeSet(notes); err != nil {
		return "", fmt.Errorf("storing that the %s set is disabled: %w", k, err)
	}
	n.use(k, nil)
	if err := n.engine.AbandonSync(ctx); err != nil { // the next start does it
		n.log.Error("the sync under way was not ended", "error", err)
	}
	n.markRepairable()
	n.log.Info("replication disabled", "set", string(k), "cluster_id", set.Set)
	return fmt.Sprintf(text, k), nil
}
