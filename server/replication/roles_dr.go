package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// A DR secondary's log is its primary's, copied; a primary's is written here. So a DR promotion, demotion or disabling opens the same store anew in another
// role: the intent is written, the core ends, the next one completes what is left. Nothing is copied or wiped.

func (n *Node) promoteDR(ctx context.Context, set *setConfig, p Promote) (string, error) {
	next, caKey, err := n.successor(DR, set, p.PrimaryClusterAddr, "")
	if err != nil {
		return "", err
	}
	seed, err := newSeed()
	if err != nil {
		return "", err
	}
	seen, err := n.seen(DR)
	if err != nil {
		return "", err
	}
	in := &intent{
		Call: callPromoteDR, Set: next, CAKey: caKey, Seed: seed, Ordinal: max(lastOrdinal(n.engine.History()), lastOrdinal(seen)) + 1, Abandon: p.Force, Async: p.Async,
		Herald: n.heraldOf(DR, set),
	}
	if err := n.successorPerf(in); err != nil {
		return "", err
	}
	levels, err := n.levelsGoOn(DR, p.Async)
	if err != nil {
		return "", err
	}
	goOn := n.pauseLife(DR)
	defer goOn()
	if err := n.begin(in); err != nil {
		return "", err
	}
	n.holdFormer(DR, next) // closing the store lets go of log that nobody holds
	if _, err := n.complete(context.WithoutCancel(ctx), in); err != nil {
		return "", fmt.Errorf("the promotion has begun and is completed at the next start: %w", err)
	}
	return fmt.Sprintf(promoteWarning, DR, DR) + levels, nil
}

// successorPerf mints what this cluster needs to take its former primary's place in a performance set. Whether there is one is only known once the store
// is open for writing: the log may tell of its end.
func (n *Node) successorPerf(in *intent) (err error) {
	if in.PerfSeed, err = newSeed(); err != nil {
		return err
	}
	former, err := n.formerPerf()
	if err != nil || former == nil {
		return err
	}
	s, err := n.successorAuthority() // the set's secondaries know it already
	if err != nil {
		return err
	}
	in.PerfCA, in.PerfCAKey = s.CA, s.Key
	return nil
}

// formerPerf reads the performance primary's configuration that came with the copied log, nil when the former primary was none.
func (n *Node) formerPerf() (*setConfig, error) {
	r, err := n.engine.Get(storage.SystemLocal, []byte(noteSet(Performance)))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the former primary's part in the performance set: %w", err)
	}
	set, err := decodeSet(Performance, r.Value)
	if err != nil || set.Mode != Primary {
		return nil, err
	}
	return set, nil
}

func decodeSet(k Kind, b []byte) (*setConfig, error) {
	var s setConfig
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("the stored configuration of the %s set does not decode: %w", k, err)
	}
	if s.Version > setConfigVersion {
		return nil, fmt.Errorf("the stored configuration of the %s set has version %d, this program reads up to %d", k, s.Version, setConfigVersion)
	}
	if s.Kind != k || (s.Mode != Primary && s.Mode != Secondary) {
		return nil, fmt.Errorf("the stored configuration of the %s set says kind %q, mode %q", k, s.Kind, s.Mode)
	}
	return &s, nil
}

func (n *Node) completePromoteDR(ctx context.Context, in *intent) error {
	wrote, err := n.wrote(DR, in)
	if err != nil {
		return err
	}
	notes := map[string][]byte{
		noteSet(DR): mustJSON(in.Set), noteCAKey(DR): []byte(in.CAKey), noteTokenKey(DR): in.Seed,
		noteTLSKey(DR): nil, noteSeen(DR): nil, notePublicKey(DR): nil, noteSuccessor: nil, noteHerald(DR): in.news(), noteFarewell(DR): nil, noteContact(DR): nil,
	}
	perf, err := n.formerPerf()
	if err != nil {
		return err
	}
	if perf != nil && in.PerfCAKey != "" {
		notes[noteCAKey(Performance)] = []byte(in.PerfCAKey)
	}
	var member *setConfig
	if perf == nil {
		var more map[string][]byte
		if member, more, err = n.formerMember(); err != nil {
			return err
		}
		maps.Copy(notes, more)
	}
	if !wrote {
		writes, err := n.removals(DR)
		if err != nil {
			return err
		}
		writes = append(writes, put(recordChange(DR), []byte(in.ID)))
		writes = append(writes, in.endLevels(DR)...)
		if perf != nil && in.PerfCA != "" {
			// Its secondaries' certificates are of the former CA: it goes on being trusted, and no longer signs.
			perf.Bundle, perf.CA = addCA(perf.Bundle, perf.CA), in.PerfCA
			perf.ClusterAddr, perf.HoldFrom, perf.NextCA = "", in.Set.HoldFrom, "" // the next CA's key is not here
			writes = append(writes, put(noteSet(Performance), mustJSON(perf)), put(noteTokenKey(Performance), in.PerfSeed))
		}
		reign, err := n.engine.BeginEpoch(ctx, in.Ordinal-1, writes)
		if err != nil {
			return err
		}
		n.log.Info("promoted", "set", string(DR), "cluster_id", in.Set.Set, "ordinal", reign.Ordinal, "index", reign.Start)
	}
	err = n.done(notes, func() {
		n.use(DR, in.Set)
		if member != nil {
			n.use(Performance, member)
		}
		if perf != nil {
			n.use(Performance, perf)
		}
	})
	if err != nil {
		return err
	}
	n.holdFormer(DR, in.Set)
	if member != nil {
		n.markRepairable()
		n.log.Info("this cluster takes its former primary's place as a performance secondary; performance/secondary/update-primary gives it a primary", "cluster_id", member.Set)
	}
	if perf != nil {
		n.holdFormer(Performance, perf)
		n.restoreHolds()
		n.log.Info("this cluster takes its former primary's place in the performance set", "cluster_id", perf.Set)
	}
	return nil
}

// maxBundle is how many former CAs a set trusts at most.
const maxBundle = 8

// addCA puts a CA into a bundle, the newest last, and lets go of the oldest.
func addCA(bundle, ca string) string {
	certs, err := parseCertificates([]byte(bundle + ca))
	if err != nil {
		return ca
	}
	var out string
	for i, c := range certs {
		if i >= len(certs)-maxBundle {
			out += encodeCertificate(c.Raw)
		}
	}
	return out
}

func (n *Node) demoteDR(ctx context.Context, set *setConfig, p Demote) (*Demotion, error) {
	in := n.demotion(callDemoteDR, set, p)
	warning := "This cluster is being demoted to a DR secondary without a primary: it serves no clients, and needs dr/secondary/update-primary or promote."
	if perf := n.set(Performance); perf != nil {
		warning += fmt.Sprintf(" It is no performance %s any more.", perf.Mode)
	}
	if err := n.begin(in); err != nil {
		return nil, err
	}
	d, err := n.handOverOnce(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("the demotion has begun and is completed at the next start, or by repeating the call: %w", err)
	}
	if _, err := n.complete(context.WithoutCancel(ctx), in); err != nil {
		return nil, fmt.Errorf("the demotion has begun and is completed at the next start: %w", err)
	}
	d.warn(warning)
	return d, nil
}

func (n *Node) completeDemoteDR(in *intent) error {
	history := durable(n.engine.History(), n.engine.Position().Index)
	notes := map[string][]byte{
		noteSet(DR): mustJSON(in.Set), noteSeen(DR): mustJSON(history), noteCAKey(DR): nil, noteNextCAKey(DR): nil, noteTokenKey(DR): nil,
		// A DR secondary has no part in a performance set of its own.
		noteSet(Performance): nil, noteTLSKey(Performance): nil, noteSeen(Performance): nil, noteCAKey(Performance): nil, noteNextCAKey(Performance): nil,
		noteFence(DR): nil, noteFence(Performance): nil, noteHerald(DR): nil, noteHerald(Performance): nil,
		noteDemotion(DR): in.outcome(),
		noteFarewell(DR): n.ownFarewell(n.engine.Position()), noteFarewell(Performance): nil, // it has everything that it wrote itself
	}
	err := n.done(notes, func() {
		n.use(DR, in.Set)
		n.use(Performance, nil)
	})
	if err != nil {
		return err
	}
	n.log.Info("demoted", "set", string(DR), "cluster_id", in.Set.Set, "index", n.engine.Position().Index)
	return nil
}

func (n *Node) completeDisableDR(ctx context.Context, in *intent) error {
	wrote, err := n.wrote(DR, in)
	if err != nil {
		return err
	}
	if !wrote {
		// What the former primary was in its sets came with its log, and is not this cluster's.
		var writes []engine.Write
		for _, k := range kinds {
			gone, err := n.removals(k)
			if err != nil {
				return err
			}
			writes = append(writes, gone...)
		}
		writes = append(writes, remove(noteSet(Performance)), remove(noteTokenKey(Performance)), remove(recordMember), put(recordChange(DR), []byte(in.ID)))
		if _, err := n.engine.BeginEpoch(ctx, 0, writes); err != nil {
			return err
		}
	}
	notes := map[string][]byte{noteSet(DR): nil, noteTLSKey(DR): nil, noteSeen(DR): nil, notePublicKey(DR): nil, noteSuccessor: nil, noteFarewell(DR): nil}
	err = n.done(notes, func() {
		n.use(DR, nil)
		n.use(Performance, nil)
	})
	if err != nil {
		return err
	}
	n.log.Info("replication disabled", "set", string(DR))
	return nil
}

// holdFormer keeps the log from before a promotion for the former primary and its other secondaries, within the limits: they come back by
// update-primary, and go on where they are if the log still tells how.
func (n *Node) holdFormer(k Kind, set *setConfig) {
	if set != nil && set.Mode == Primary && set.HoldFrom > 0 {
		n.engine.Hold(holdFormer(k), set.HoldFrom)
	}
}

func holdFormer(k Kind) string { return string(k) + "/ former members" } // no id has a blank
