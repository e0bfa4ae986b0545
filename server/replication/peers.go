package replication

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/wal"
)

// connectedFor is how many heartbeat intervals may pass without an echo before a peer counts as disconnected.
const connectedFor = 3

// resumes counts how streams began, by the answer to the hello.
type resumes struct {
	Continue, Repair, Rewind, Bootstrap uint64
}

func (r *resumes) count(a AnswerKind) {
	switch a {
	case Continue:
		r.Continue++
	case Repair:
		r.Repair++
	case Rewind:
		r.Rewind++
	case Bootstrap:
		r.Bootstrap++
	}
}

// peerState is what a primary knows of one secondary since it started; Acked is also restored from the stored record.
type peerState struct {
	ID            string
	APIAddr       string
	ClusterAddr   string
	State         string    // as the secondary names its own state
	Streams       int       // live subscriptions
	LastHeartbeat time.Time // zero: none yet
	Heard         time.Time // when the newest heartbeat that it has echoed was sent (monotonic); zero: none yet
	RoundTrip     time.Duration
	ClockSkew     time.Duration // this clock minus the secondary's, not corrected for the round trip
	CanaryAge     time.Duration // lag on this cluster's clock: now minus the time of the first entry not yet acknowledged
	Acked         wal.Position  // durable there, in this log
	Authority     string        // DR: CA that it will have in this cluster's performance set
	Renewals      paced         // of its certificate, of late
	TrustNotes    paced         // of what it says of its trust, of late
	Trust         memberTrust   // whom it trusts, as it says
	Told          bool          // of a primary that is being demoted: it knows where its part ends
	Placed        bool          // Acked counts, even zero: the newest stream began there
	Takeovers     []takeover    // the newest streams that others with this identity ended
	Root          merkle.RootHash
	RootIndex     uint64 // index of this log at which Root was verified there; 0: none yet
	Resumes       resumes
	DiffBytes     uint64 // of diff and sync sent to it
	SyncBytes     uint64
}

// peerTable holds the peers of each kind. Its methods may be called from any goroutine.
type peerTable struct {
	mu    sync.Mutex // guards what follows
	peers map[Kind]map[string]*peerState
	moved chan struct{} // closed and replaced at each change of an acknowledged position
}

func newPeerTable() *peerTable {
	return &peerTable{peers: map[Kind]map[string]*peerState{DR: {}, Performance: {}}, moved: make(chan struct{})}
}

// update changes the record of a secondary, making it when there is none.
func (t *peerTable) update(k Kind, id string, change func(*peerState)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[k][id]
	if p == nil {
		p = &peerState{ID: id}
		t.peers[k][id] = p
	}
	before, told := p.Acked, p.Told
	change(p)
	if p.Acked != before || p.Told != told {
		close(t.moved)
		t.moved = make(chan struct{})
	}
}

// get returns a copy of a secondary's record; ok is false when there is none.
func (t *peerTable) get(k Kind, id string) (p peerState, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.peers[k][id]; r != nil {
		return *r, true
	}
	return peerState{ID: id}, false
}

// all returns copies of all records of a kind, by id, and a channel that is closed when an acknowledged position moves.
func (t *peerTable) all(k Kind) ([]peerState, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]peerState, 0, len(t.peers[k]))
	for _, p := range t.peers[k] {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b peerState) int { return strings.Compare(a.ID, b.ID) })
	return out, t.moved
}

// connected lists the secondaries of a kind that have a stream now.
func (t *peerTable) connected(k Kind) (ids []string) {
	peers, _ := t.all(k)
	for _, p := range peers {
		if p.Streams > 0 {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

// behind names a connected secondary that has not acknowledged an index, or, when it is the last of this primary's part, that it is; "" when there is
// none, and the channel that all returns. Those of absent count as connected.
func (t *peerTable) behind(k Kind, index uint64, last bool, absent ...string) (id string, moved <-chan struct{}) {
	peers, moved := t.all(k)
	for _, id := range absent {
		if p, _ := t.get(k, id); p.Acked.Index < index || last && !p.Told {
			return id, moved
		}
	}
	for _, p := range peers {
		if p.Streams > 0 && (p.Acked.Index < index || last && !p.Told) {
			id = p.ID
		}
	}
	return id, moved
}

// forget drops a revoked secondary's record.
func (t *peerTable) forget(k Kind, id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.peers[k], id)
}

// forgetAll drops every record of a kind and returns whose they were.
func (t *peerTable) forgetAll(k Kind) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ids []string
	for id := range t.peers[k] {
		ids = append(ids, id)
	}
	t.peers[k] = map[string]*peerState{}
	return ids
}
