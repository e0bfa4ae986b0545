package replication

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// NotReady is a change of role that cannot be made now and may be later: a promotion that would lose data, a call while another change is under way. The API
// answers 503, and clients try again.
type NotReady struct{ Reason string }

func (e *NotReady) Error() string { return e.Reason }

func notReady(format string, args ...any) *NotReady {
	return &NotReady{fmt.Sprintf(format, args...) + ": try again, or pass force=true, which may lose writes"}
}

// placeOf returns up to where the feeder's log is complete and readable here.
func (n *Node) placeOf(k Kind) wal.Position {
	if k == DR {
		return n.engine.Position()
	}
	return n.engine.Cursor(engine.Performance)
}

// successor is the configuration of a secondary's set once the cluster is its primary: the same set, a CA of its own. bundle are CAs that are trusted
// beside it.
func (n *Node) successor(k Kind, set *setConfig, addr, bundle string) (next *setConfig, caKey string, err error) {
	now := n.now()
	ca, err := newAuthority(k, set.Set, now, n.cfg.AuthorityLife)
	if err != nil {
		return nil, "", err
	}
	key, err := encodeKey(ca.key)
	if err != nil {
		return nil, "", err
	}
	return &setConfig{
		Version: setConfigVersion, Kind: k, Mode: Primary, Set: set.Set, ClusterAddr: addr, CA: encodeCertificate(ca.cert.Raw), Bundle: bundle,
		Generation: now.UnixNano(), HoldFrom: n.engine.FirstIndex(),
	}, string(key), nil
}

// demoted is the configuration of a primary's set once the cluster is a secondary without a primary.
func (n *Node) demoted(set *setConfig) *setConfig {
	return &setConfig{
		Version: setConfigVersion, Kind: set.Kind, Mode: Secondary, Set: set.Set, CA: set.CA, Bundle: set.Bundle,
		Generation: n.now().UnixNano(), Joined: true,
	}
}

func newSeed() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key that signs activation tokens: %w", err)
	}
	return key.Seed(), nil
}

// setHistory is the history of a set whose primary this cluster is, up to an index of its own log, and the part of the own log in it.
func (n *Node) setHistory(k Kind, set *setConfig, last uint64) (all, own []engine.Reign) {
	return setReigns(k, set, durable(n.engine.History(), last))
}

// setReigns is a set's history as its primary's log tells it: for DR the log's; for performance what came before this cluster's reign, then the part of its own
// log since.
func setReigns(k Kind, set *setConfig, log []engine.Reign) (all, own []engine.Reign) {
	if k == DR || set == nil || set.Since == 0 {
		return log, log
	}
	i := slices.IndexFunc(log, func(r engine.Reign) bool { return r.Ordinal >= set.Since })
	if i < 0 {
		return set.Before, nil
	}
	own = slices.Clone(log[i:])
	own[0].Parent, own[0].ParentEnd = set.From.Fork, set.From.Index
	return append(slices.Clone(set.Before), own...), own
}

func lastOrdinal(h []engine.Reign) uint64 {
	var o uint64
	for _, r := range h {
		o = max(o, r.Ordinal)
	}
	return o
}

// removals are the writes that forget the secondaries and activations of a kind.
func (n *Node) removals(k Kind) ([]engine.Write, error) {
	v := n.engine.Snapshot()
	defer v.Release()
	var writes []engine.Write
	prefixes := []string{recordPrefix(k), activationPrefix(k)}
	if k == Performance { // a filter belongs to an id that its set knows
		prefixes = append(prefixes, filterPrefix)
	}
	for _, prefix := range prefixes {
		err := v.Scan(storage.SystemLocal, []byte(prefix), prefixEnd(prefix), func(r storage.Record) bool {
			writes = append(writes, remove(string(r.Key)))
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("listing the %s secondaries: %w", k, err)
		}
	}
	return writes, nil
}

// recordChange is the record by which an entry says which role change wrote it.
func recordChange(k Kind) string { return "replication/" + string(k) + "/change" }

// wrote reports whether a role change has committed its entry.
func (n *Node) wrote(k Kind, in *intent) (bool, error) {
	r, err := n.engine.Get(storage.SystemLocal, []byte(recordChange(k)))
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the last change of role: %w", err)
	}
	return string(r.Value) == in.ID, nil
}

// use puts a configuration into use, nil: this cluster has no part in the set any more. What was served under the one before is forgotten.
func (n *Node) use(k Kind, set *setConfig) {
	n.certs.forget(k)
	n.link[k].reset(set)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sets[k] = set
	delete(n.lives.demoting, k)
	delete(n.lives.ends, k)
	n.unfenceLocked(k)
	n.lives.wakeLocked(k)
}

// markRepairable says, at once and for the next start, whether what is damaged here can be had from a primary. A wrong mark for the next start is only less
// help: it is logged.
func (n *Node) markRepairable() {
	n.engine.SetRepairable(n.isSecondary())
	if n.cfg.Mark == nil {
		return
	}
	if err := n.cfg.Mark(n.isSecondary()); err != nil {
		n.log.Error("whether a primary holds what this store holds could not be noted for the next start", "error", err)
	}
}

// errLeft ends the streams of a cluster that is no primary any more. Its secondaries go on asking: another cluster may take its place.
func errLeft(k Kind) error {
	return status.Errorf(codes.Unavailable, "this cluster is not the %s primary any more: give its secondaries another by %s/secondary/update-primary", k, k)
}

// leave ends what a primary did for the secondaries of a set.
func (n *Node) leave(k Kind) {
	cut := n.streams.cutKind(k, errLeft(k))
	for _, id := range n.peers.forgetAll(k) {
		n.engine.Hold(holdName(k, id), 0)
	}
	n.engine.Hold(holdFormer(k), 0)
	n.log.Info("this cluster is not the primary of the set any more", "set", string(k), "streams", cut)
}
