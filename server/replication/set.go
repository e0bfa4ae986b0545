package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// setConfig is a cluster's part in one replication set, as stored (JSON). Where it is kept says who may know it (DESIGN 8): a DR set's and a
// secondary's in node scope, a performance primary's in the system's local keyspace, so that a promoted DR secondary finds it.
type setConfig struct {
	Version     int    `json:"version"` // setConfigVersion
	Kind        Kind   `json:"kind"`
	Mode        Mode   `json:"mode"` // Primary or Secondary
	Set         string `json:"set"`  // set id, a uuid
	ClusterAddr string `json:"cluster_addr,omitempty"`
	CA          string `json:"ca"`               // PEM: the CA of the primary that made this set, or that activated this secondary
	Bundle      string `json:"bundle,omitempty"` // PEM: further CA certificates that are trusted in this set
	Generation  int64  `json:"generation"`       // Unix nanoseconds at which this part began

	// Of a primary whose CA is being replaced.
	NextCA    string `json:"next_ca,omitempty"`    // PEM: told to the secondaries, and signs nothing yet
	FormerCA  string `json:"former_ca,omitempty"`  // PEM, in the bundle too: signs nothing any more
	RollSince int64  `json:"roll_since,omitempty"` // Unix seconds

	// Of a primary that was promoted.
	Before   []engine.Reign `json:"before,omitempty"`    // performance: the set's history before this cluster's reign
	Since    uint64         `json:"since,omitempty"`     // performance: ordinal of this cluster's first reign; 0: it made the set
	From     wal.Position   `json:"from,omitzero"`       // performance: the last place in the former primary's log that this cluster had
	HoldFrom uint64         `json:"hold_from,omitempty"` // the log is held from here for those that followed the former primary

	// Of a secondary.
	Secondary      string   `json:"secondary,omitempty"`        // its id
	JTI            string   `json:"jti,omitempty"`              // of the token that activated it
	Primaries      []string `json:"primaries,omitempty"`        // cluster addresses, in the order in which they are tried
	Former         []string `json:"former,omitempty"`           // where its primary was before it was told to forget it
	Failover       []string `json:"failover,omitempty"`         // performance: of the primary's DR secondaries, tried when the others do not answer
	PrimaryAPIAddr string   `json:"primary_api_addr,omitempty"` // where it was activated
	Certificate    string   `json:"certificate,omitempty"`      // PEM; its key is a node-scope note of its own
	Joined         bool     `json:"joined,omitempty"`           // the primary has answered a hello once
}

const setConfigVersion = 1

// trusted returns the PEM certificates that vouch for members of the set.
func (s *setConfig) trusted() []byte { return []byte(s.CA + s.Bundle) }

// Names of notes (node scope) and of records in storage.SystemLocal.
func noteSet(k Kind) string    { return "replication/" + string(k) + "/set" }
func noteTLSKey(k Kind) string { return "replication/" + string(k) + "/tls-key" } // secondary: of its certificate
func noteCAKey(k Kind) string  { return "replication/" + string(k) + "/ca-key" }  // primary
func noteNextCAKey(k Kind) string {
	return "replication/" + string(k) + "/next-ca-key" // of a CA that is about to be in use
}
func noteTokenKey(k Kind) string { return "replication/" + string(k) + "/token-key" } // primary; of a performance set a record
func notePublicKey(k Kind) string {
	return "replication/" + string(k) + "/public-key" // key of generate-public-key
}
func noteSeen(k Kind) string { return "replication/" + string(k) + "/seen" } // newest history seen of the set
func notePending(jti string) string {
	return "replication/pending/" + jti // key and request of an activation under way
}

func recordPrefix(k Kind) string               { return "replication/" + string(k) + "/secondary/" }
func recordSecondary(k Kind, id string) []byte { return []byte(recordPrefix(k) + id) }
func activationPrefix(k Kind) string           { return "replication/" + string(k) + "/activation/" }
func recordActivation(k Kind, jti string) []byte {
	return []byte(activationPrefix(k) + jti)
}

// loadSet reads a set's configuration: nil when there is none.
func (n *Node) loadSet(k Kind) (*setConfig, error) {
	b := n.engine.NodeGet(noteSet(k))
	if b == nil && k == Performance {
		r, err := n.engine.Get(storage.SystemLocal, []byte(noteSet(k)))
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return nil, fmt.Errorf("reading the configuration of the %s set: %w", k, err)
		}
		b = r.Value
	}
	if b == nil {
		return nil, nil
	}
	return decodeSet(k, b)
}

// storeSecondary writes a secondary's changed configuration, together with other notes, and puts it into use.
func (n *Node) storeSecondary(k Kind, change func(*setConfig) (more map[string][]byte)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.sets[k]
	if old == nil || old.Mode != Secondary {
		return fmt.Errorf("this cluster is no %s secondary", k)
	}
	s := *old
	notes := map[string][]byte{}
	for key, v := range change(&s) {
		notes[key] = v
	}
	notes[noteSet(k)] = mustJSON(&s)
	if err := n.engine.NodeSet(notes); err != nil {
		return fmt.Errorf("storing the configuration of the %s set: %w", k, err)
	}
	n.sets[k] = &s
	return nil
}

// storePrimary writes a primary's changed configuration and puts it into use. The caller holds admin.
func (n *Node) storePrimary(ctx context.Context, k Kind, change func(*setConfig)) error {
	s := *n.set(k)
	change(&s)
	var err error
	if k == DR {
		err = n.engine.NodeSet(map[string][]byte{noteSet(k): mustJSON(&s)})
	} else {
		_, err = n.engine.Do(ctx, &engine.Tx{Writes: []engine.Write{put(noteSet(k), mustJSON(&s))}})
	}
	if err != nil {
		return fmt.Errorf("storing the configuration of the %s set: %w", k, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sets[k] = &s
	return nil
}

// joined records that the primary has answered a hello: the mode is secondary from now on.
func (n *Node) joined(k Kind) error {
	if s := n.set(k); s == nil || s.Joined {
		return nil
	}
	return n.storeSecondary(k, func(s *setConfig) map[string][]byte { s.Joined = true; return nil })
}

// knowPrimaries replaces the list of cluster addresses that a secondary tries, when it differs: the last list is kept while the primary is away.
func (n *Node) knowPrimaries(k Kind, addrs []string) error {
	addrs = cleanAddrs(addrs)
	s := n.set(k)
	if s == nil || len(addrs) == 0 || equalStrings(s.Primaries, addrs) {
		return nil
	}
	if err := n.storeSecondary(k, func(s *setConfig) map[string][]byte { s.Primaries = addrs; return nil }); err != nil {
		return err
	}
	n.link[k].update(func(l *linkState) { l.Known = addrs })
	return nil
}

// seen returns the newest history seen of a set, nil when none was.
func (n *Node) seen(k Kind) ([]engine.Reign, error) {
	b := n.engine.NodeGet(noteSeen(k))
	if b == nil {
		return nil, nil
	}
	var h []engine.Reign
	if err := json.Unmarshal(b, &h); err != nil {
		return nil, fmt.Errorf("the stored history of the %s set does not decode: %w", k, err)
	}
	return h, nil
}

// setSeen makes the newest history seen of a set durable: before the message that brought it is answered.
func (n *Node) setSeen(k Kind, h []engine.Reign) error {
	if err := n.engine.NodeSet(map[string][]byte{noteSeen(k): mustJSON(h)}); err != nil {
		return fmt.Errorf("storing the history of the %s set: %w", k, err)
	}
	return nil
}

// mustJSON encodes our own types, which always encode.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("internal error: " + err.Error())
	}
	return b
}
