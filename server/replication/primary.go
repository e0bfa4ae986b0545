package replication

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"

	"github.com/google/uuid"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// idPattern is what an operator may call a secondary: it is part of certificates, of records' keys, log lines and paths.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func validID(id string) bool { return idPattern.MatchString(id) }

// EnablePrimary makes this cluster the primary of a new set: a set id, a private CA and a key that signs activation tokens. All data are kept.
// primaryClusterAddr is what secondaries are told to dial; empty: this node's cluster address. Repeated with the same address it answers with a warning.
func (n *Node) EnablePrimary(ctx context.Context, k Kind, primaryClusterAddr string) (warning string, err error) {
	n.admin.Lock()
	defer n.admin.Unlock()
	if primaryClusterAddr != "" {
		if _, ok := hostPort(primaryClusterAddr); !ok {
			return "", refuse("primary_cluster_addr must be host:port or https://host:port")
		}
	}
	if in := n.underWay(); in != nil {
		return "", in.inTheWay()
	}
	if set := n.set(k); set != nil {
		return alreadyPrimary(set, primaryClusterAddr)
	}
	if dr := n.set(DR); dr != nil && dr.Mode == Secondary {
		return "", refuse("this cluster is a DR secondary, which takes no other part in replication: promote it (dr/secondary/promote) or disable it first (dr/secondary/disable)")
	}
	set, err := n.newPrimary(ctx, k, primaryClusterAddr)
	if err != nil {
		return "", err
	}
	n.use(k, set)
	n.log.Info("replication primary enabled", "set", string(k), "cluster_id", set.Set)
	warning = fmt.Sprintf("This cluster is being enabled as the primary of a new %s set.", k)
	if n.clusterAddr(set) == "" {
		warning += " It has no cluster_addr: set cluster_addr in its configuration, or give primary_cluster_addr, before secondaries are activated."
	}
	return warning, nil
}

func alreadyPrimary(set *setConfig, addr string) (string, error) {
	switch {
	case set.Mode == Secondary:
		return "", refuse("this cluster is a %s secondary: promote it (%s/secondary/promote), or disable it first (%s/secondary/disable)", set.Kind, set.Kind, set.Kind)
	case set.ClusterAddr != addr:
		return "", refuse("this cluster is the %s primary already, with primary_cluster_addr %q, which stays as it is while it is one: leave primary_cluster_addr out", set.Kind, set.ClusterAddr)
	}
	return fmt.Sprintf("This cluster is the primary of %s set %s already; nothing was changed.", set.Kind, set.Set), nil
}

// newPrimary mints and stores what a primary needs. The configuration is written last: without it nothing else of it counts.
func (n *Node) newPrimary(ctx context.Context, k Kind, addr string) (*setConfig, error) {
	now := n.now()
	id := uuid.NewString()
	ca, err := newAuthority(k, id, now, n.cfg.AuthorityLife)
	if err != nil {
		return nil, err
	}
	caKey, err := encodeKey(ca.key)
	if err != nil {
		return nil, err
	}
	_, tokenKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key that signs activation tokens: %w", err)
	}
	set := &setConfig{Version: setConfigVersion, Kind: k, Mode: Primary, Set: id, ClusterAddr: addr, CA: encodeCertificate(ca.cert.Raw), Generation: now.UnixNano()}

	notes := map[string][]byte{noteCAKey(k): caKey}
	if k == DR {
		notes[noteTokenKey(k)], notes[noteSet(k)] = tokenKey.Seed(), mustJSON(set)
	}
	if err := n.engine.NodeSet(notes); err != nil {
		return nil, fmt.Errorf("storing the keys of the %s set: %w", k, err)
	}
	if k == Performance {
		_, err := n.engine.Do(ctx, &engine.Tx{Writes: []engine.Write{
			put(noteTokenKey(k), tokenKey.Seed()),
			put(noteSet(k), mustJSON(set)),
		}})
		if err != nil {
			return nil, fmt.Errorf("storing the configuration of the %s set: %w", k, err)
		}
	}
	return set, nil
}

// put is a write to the system's local keyspace.
func put(key string, value []byte) engine.Write {
	return engine.Write{Keyspace: storage.SystemLocal, Scope: storage.Local, Change: storage.Change{Op: storage.Put, Key: []byte(key), Value: value}}
}

func remove(key string) engine.Write {
	return engine.Write{Keyspace: storage.SystemLocal, Scope: storage.Local, Change: storage.Change{Op: storage.Delete, Key: []byte(key)}}
}

// primarySet returns the configuration of a set whose primary this cluster is, or why a primary's call is refused.
func (n *Node) primarySet(k Kind) (*setConfig, error) {
	set := n.set(k)
	switch {
	case set == nil:
		return nil, refuse("%s replication is disabled here: enable this cluster as a primary first", k)
	case set.Mode != Primary:
		return nil, refuse("this cluster is a %s secondary: call the primary", k)
	}
	return set, nil
}

// tokenKey returns the key that signs a set's activation tokens.
func (n *Node) tokenKey(k Kind) (ed25519.PrivateKey, error) {
	seed := n.engine.NodeGet(noteTokenKey(k))
	if seed == nil {
		r, err := n.engine.Get(storage.SystemLocal, []byte(noteTokenKey(k)))
		if err != nil {
			return nil, fmt.Errorf("reading the key that signs the %s set's activation tokens: %w", k, err)
		}
		seed = r.Value
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("the stored key that signs the %s set's activation tokens has %d bytes", k, len(seed))
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// clusterAddr is what a set's secondaries dial.
func (n *Node) clusterAddr(set *setConfig) string {
	if set.ClusterAddr != "" {
		return set.ClusterAddr
	}
	return n.cfg.ClusterAddr
}

// clusterAddrs is the list that heartbeats carry.
func (n *Node) clusterAddrs(k Kind) []string {
	set := n.set(k)
	if set == nil {
		return nil
	}
	return cleanAddrs([]string{clusterURL(n.clusterAddr(set)), clusterURL(n.cfg.ClusterAddr)})
}

// isOutcome reports whether a transaction's own function refused it: such an error is for the caller as it is.
func isOutcome(err error) bool {
	var r *Refused
	return errors.As(err, &r)
}
