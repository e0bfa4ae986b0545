package replication

import (
	"sync"
	"time"

	"github.com/lockstepdb/lockstep/wal"
)

// primaryPeer is one node of the primary that heartbeats were exchanged with.
type primaryPeer struct {
	APIAddr       string
	ClusterAddr   string
	LastHeartbeat time.Time
	RoundTrip     time.Duration
	ClockSkew     time.Duration // this clock minus the primary's
	CanaryAge     time.Duration // this clock minus the time of the newest entry applied, 0 when nothing is missing
}

// linkState is what a secondary knows of its primary and of its own life as one.
type linkState struct {
	Machine    State     // of the role machine
	Connection string    // gRPC's channel state in lower case: ready, connecting, idle, transient_failure, shutdown
	Started    time.Time // when this client was last started
	Known      []string  // cluster addresses of the primary
	Primary    primaryPeer

	LastRemote  uint64       // last index received by streaming; 0 after a sync without writes since
	RemoteEnd   wal.Position // the primary's newest place, from its heartbeats
	Others      []sibling    // the primary's other secondaries, from its heartbeats
	RateFrom    rateMark     // the present measurement of how fast the primary writes
	Rate        float64      // entries a second, of the last measurement
	RemoteTime  time.Time    // of the entry at RemoteEnd, on the primary's clock
	LagEntries  uint64
	LagBytes    uint64
	LagTime     time.Duration
	Verified    uint64    // the primary's index at which digests were last compared equal
	VerifiedAt  time.Time // when
	Resumes     resumes
	DiffBytes   uint64 // on the wire, comparing
	SyncBytes   uint64 // on the wire, records received
	DiffReason  string // why the last diff happened
	SyncDone    uint64 // progress of a sync: records received, and to be received
	SyncTotal   uint64
	DialError   string // why the last attempt to connect failed; empty when it did not
	LastRefusal string // the primary's last sentence that was no welcome
}

// link guards a linkState: the client loop writes it, status reads it.
type link struct {
	mu sync.Mutex // guards s
	s  linkState
}

func newLink() *link {
	return &link{s: linkState{Machine: State{Name: StateDisabled}, Connection: "idle"}}
}

// remember fills in what is known before the first contact.
func (l *link) remember(s *setConfig, syncing bool) {
	l.update(func(st *linkState) {
		st.Known = s.Primaries
		st.Machine = State{Name: StateConnecting, Syncing: syncing}
		if len(s.Primaries) == 0 {
			st.Machine = State{Name: StateIdle, Reason: noPrimary(s.Kind), Syncing: syncing}
		}
		if !s.Joined {
			st.Machine.Name = StateBootstrapping
		}
	})
}

// reset forgets everything when a cluster's part in the set changes.
func (l *link) reset(s *setConfig) {
	fresh := newLink()
	if s != nil && s.Mode == Secondary {
		fresh.remember(s, false)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.s = fresh.s
}

func (l *link) update(change func(*linkState)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.s)
}

func (l *link) get() linkState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.s
}
