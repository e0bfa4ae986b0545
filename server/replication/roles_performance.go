package replication

import (
	"context"
	"fmt"
	"slices"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// A performance secondary's log is its own, so its role changes while it runs: nothing is reopened, and what is local to it is served on.

func (n *Node) promotePerf(ctx context.Context, set *setConfig, p Promote) (string, error) {
	next, caKey, err := n.successor(Performance, set, p.PrimaryClusterAddr, "")
	if err != nil {
		return "", err
	}
	seed, err := newSeed()
	if err != nil {
		return "", err
	}
	levels, err := n.levelsGoOn(Performance, p.Async)
	if err != nil {
		return "", err
	}
	goOn := n.pauseLife(Performance)
	defer goOn()
	if next.Before, err = n.seen(Performance); err != nil {
		return "", err
	}
	next.Since = max(lastOrdinal(n.engine.History()), lastOrdinal(next.Before)) + 1
	in := &intent{Call: callPromotePerf, Set: next, CAKey: caKey, Seed: seed, Ordinal: next.Since, Abandon: p.Force, Async: p.Async, Herald: n.heraldOf(Performance, set)}
	if err := n.begin(in); err != nil {
		return "", err
	}
	if err := n.completePromotePerf(ctx, in); err != nil {
		return "", fmt.Errorf("the promotion has begun and is completed at the next start, or by repeating the call: %w", err)
	}
	return fmt.Sprintf(promoteWarning, Performance, Performance) + levels, nil
}

func (n *Node) completePromotePerf(ctx context.Context, in *intent) error {
	if in.Abandon {
		if err := n.engine.AbandonSync(ctx); err != nil {
			return err
		}
	}
	wrote, err := n.wrote(Performance, in)
	if err != nil {
		return err
	}
	if err := n.engine.NodeSet(map[string][]byte{noteCAKey(Performance): []byte(in.CAKey)}); err != nil {
		return fmt.Errorf("storing the CA key: %w", err)
	}
	if !wrote {
		writes, err := n.removals(Performance)
		if err != nil {
			return err
		}
		set := *in.Set // the place counts that the end of an abandoned sync has reached
		set.From = n.engine.Cursor(engine.Performance)
		set.Before = pathTo(set.Before, set.From)
		writes = append(writes, put(noteSet(Performance), mustJSON(&set)), put(noteTokenKey(Performance), in.Seed), put(recordChange(Performance), []byte(in.ID)))
		writes = append(writes, in.endLevels(Performance)...)
		if _, err := n.engine.BeginEpoch(ctx, in.Ordinal-1, writes); err != nil {
			return err
		}
	}
	set, err := n.formerPerf() // as the entry has it
	if err != nil {
		return err
	}
	notes := map[string][]byte{noteSet(Performance): nil, noteTLSKey(Performance): nil, noteSeen(Performance): nil, notePublicKey(Performance): nil,
		noteHerald(Performance): in.news(), noteFarewell(Performance): nil, noteContact(Performance): nil}
	if err := n.done(notes, func() { n.use(Performance, set) }); err != nil {
		return err
	}
	n.holdFormer(Performance, set)
	n.markRepairable()
	n.log.Info("promoted", "set", string(Performance), "cluster_id", in.Set.Set, "ordinal", in.Set.Since, "after", set.From.Index)
	return nil
}

func (n *Node) demotePerf(ctx context.Context, set *setConfig, p Demote) (*Demotion, error) {
	in := n.demotion(callDemotePerf, set, p)
	history, _ := n.setHistory(Performance, set, n.engine.Position().Index)
	in.Set.Before = history
	if err := n.begin(in); err != nil {
		return nil, err
	}
	// From here on shared writes are refused; those under way end up in the log, and the secondaries get them.
	d, err := n.handOverOnce(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("the demotion has begun and is completed at the next start, or by repeating the call: %w", err)
	}
	if err := n.completeDemotePerf(ctx, in); err != nil {
		return nil, fmt.Errorf("the demotion has begun and is completed at the next start, or by repeating the call: %w", err)
	}
	d.warn("This cluster is being demoted to a performance secondary without a primary: name one with performance/secondary/update-primary.")
	return d, nil
}

func (n *Node) completeDemotePerf(ctx context.Context, in *intent) error {
	n.leave(Performance)
	end, err := n.endReign(ctx, in)
	if err != nil {
		return err
	}
	// What it writes as a secondary has a fork that is none of the set's: should it be the primary again, a place that it told somebody of then, in its own log, must
	// not be taken for one beyond the end of this reign.
	n.engine.NextFork()
	if err := n.engine.SetCursor(ctx, end); err != nil {
		return fmt.Errorf("storing the place from which this cluster goes on as a secondary: %w", err)
	}
	seen := withForks(in.Set.Before, n.engine.History(), end.Index)
	set := *in.Set
	set.Before = nil
	notes := map[string][]byte{noteSet(Performance): mustJSON(&set), noteSeen(Performance): mustJSON(seen), noteCAKey(Performance): nil, noteNextCAKey(Performance): nil,
		noteFence(Performance): nil, noteHerald(Performance): nil, noteDemotion(Performance): in.outcome(),
		noteFarewell(Performance): n.ownFarewell(end)} // it has everything that it wrote itself
	if err := n.done(notes, func() { n.use(Performance, &set) }); err != nil {
		return err
	}
	n.markRepairable()
	n.log.Info("demoted", "set", string(Performance), "cluster_id", set.Set)
	return nil
}

// endReign commits the entry that ends a primary's part in the set, and returns the place before it: all that was written for the set lies there or before.
func (n *Node) endReign(ctx context.Context, in *intent) (wal.Position, error) {
	wrote, err := n.wrote(Performance, in)
	if err != nil {
		return wal.Position{}, err
	}
	if !wrote {
		writes, err := n.removals(Performance)
		if err != nil {
			return wal.Position{}, err
		}
		writes = append(writes, remove(noteSet(Performance)), remove(noteTokenKey(Performance)), put(recordChange(Performance), []byte(in.ID)))
		if _, err := n.engine.Do(ctx, &engine.Tx{Writes: writes}); err != nil {
			return wal.Position{}, fmt.Errorf("removing the primary's part in the performance set: %w", err)
		}
	}
	r, err := n.engine.Get(storage.SystemLocal, []byte(recordChange(Performance)))
	if err != nil {
		return wal.Position{}, fmt.Errorf("reading the end of this cluster's reign: %w", err)
	}
	index := r.Index - 1
	return wal.Position{Fork: reignAt(n.engine.History(), index).Fork, Index: index}, nil
}

// withForks adds to a set's history the forks that its primary's log has begun since, up to an index.
func withForks(history, log []engine.Reign, last uint64) []engine.Reign {
	i, j, ok := lastCommon(history, log)
	if !ok {
		return history
	}
	return append(slices.Clone(history[:i+1]), durable(log[j+1:], last)...)
}

// HoldRole keeps a demotion waiting until release is called: Mode, asked meanwhile, holds for a write that is committed before.
func (n *Node) HoldRole() (release func()) {
	n.writes.RLock()
	return n.writes.RUnlock
}
