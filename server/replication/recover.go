package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstepdb/lockstep/server/engine"
)

// callRecover is the role change by which a fenced primary goes on: "I am the one".
const callRecover = "recover"

const recoveredWarning = "This cluster is being made the primary again under an epoch of its own: it takes writes. Every other cluster that took its place is overridden: it fences itself as soon as it hears of this one, and keeps what only it has in an archive when it comes back by update-primary."

// recoverFenced begins an epoch above everything that was met, which overrides it, and ends the fences. The caller holds admin.
func (n *Node) recoverFenced(ctx context.Context) (warning string, err error) {
	own := n.engine.History()
	in := &intent{Call: callRecover, Ordinal: lastOrdinal(own)}
	for _, k := range kinds {
		f := n.fenceOf(k)
		if f == nil {
			continue
		}
		in.Kinds = append(in.Kinds, k)
		in.Ordinal = max(in.Ordinal, f.Ordinal, lastOrdinal(f.History))
		history, _ := n.setHistory(k, n.set(k), n.engine.Position().Index)
		in.Ordinal = max(in.Ordinal, lastOrdinal(history))
		for _, fork := range f.overridden(slices.Concat(history, own)) {
			if !slices.Contains(in.Overrides, fork) {
				in.Overrides = append(in.Overrides, fork)
			}
		}
	}
	in.Ordinal++
	if err := n.begin(in); err != nil {
		return "", err
	}
	if err := n.completeRecover(context.WithoutCancel(ctx), in); err != nil {
		return "", fmt.Errorf("the recovery has begun and is completed at the next start, or by repeating the call: %w", err)
	}
	return recoveredWarning, nil
}

func (n *Node) completeRecover(ctx context.Context, in *intent) error {
	if len(in.Kinds) == 0 {
		return errors.New("internal error: a recovery of no set")
	}
	wrote, err := n.wrote(in.Kinds[0], in)
	if err != nil {
		return err
	}
	if !wrote {
		reign, err := n.engine.BeginEpoch(ctx, in.Ordinal-1, []engine.Write{put(recordChange(in.Kinds[0]), []byte(in.ID))}, in.Overrides...)
		if err != nil {
			return err
		}
		n.log.Info("recovered: this cluster goes on as the primary", "ordinal", reign.Ordinal, "index", reign.Start, "overridden_forks", len(in.Overrides))
	}
	notes := map[string][]byte{}
	for _, k := range in.Kinds {
		notes[noteFence(k)] = nil
	}
	err = n.done(notes, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, k := range in.Kinds {
			n.unfenceLocked(k)
		}
	})
	if err != nil {
		return err
	}
	n.mu.Lock()
	for _, k := range kinds { // a herald has news, and a secondary's life may begin again
		n.lives.wakeLocked(k)
	}
	n.mu.Unlock()
	for _, k := range in.Kinds { // its secondaries are to hear of the new epoch and be placed anew
		n.streams.cutKind(k, errRecovered)
	}
	return nil
}

// isFenced reports whether this cluster is fenced in any set.
func (n *Node) isFenced() bool {
	return slices.ContainsFunc(kinds, func(k Kind) bool { return n.fenceOf(k) != nil })
}

// errRecovered ends the streams of secondaries when their primary goes on under another epoch.
var errRecovered = status.Error(codes.Unavailable, "this primary goes on under a new epoch: say hello again")
