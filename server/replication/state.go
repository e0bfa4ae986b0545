package replication

import "fmt"

// StateName is a secondary's state in one set, printed as Vault prints it.
type StateName string

const (
	StateDisabled      StateName = "disabled"      // no part in the set
	StateBootstrapping StateName = "bootstrapping" // empty, not yet answered by the primary
	StateIdle          StateName = "idle"          // stopped, with the reason; recover starts again
	StateConnecting    StateName = "connecting"    // waits for connection, answer or the next attempt; shown as what it was
	StateStreamWALs    StateName = "stream-wals"   // applies batches as they come
	StateMerkleDiff    StateName = "merkle-diff"   // compares ranges (or rebuilds the index to do so)
	StateMerkleSync    StateName = "merkle-sync"   // receives what differs, until past the last place at which a range was read
)

// stateNames in the order of the diagram.
var stateNames = []StateName{StateDisabled, StateBootstrapping, StateIdle, StateConnecting, StateStreamWALs, StateMerkleDiff, StateMerkleSync}

// maxRounds is how many rounds of diff and sync may end with roots that still differ before the index is rebuilt from the records.
const maxRounds = 3

// State is one set's machine. Fields that only make sense in one state are reset on entry to any other.
type State struct {
	Name StateName

	Reason     string // idle: why, and what to do
	Revoked    bool   // idle: because the primary does not know this secondary any more
	Reindexing bool   // merkle-diff: the index is being rebuilt first; the diff follows

	// Attempt counts failed attempts to reach the primary since the last answer: connecting and bootstrapping.
	Attempt int
	// Waiting is set while a timer runs before the next attempt: connecting and bootstrapping.
	Waiting bool
	// Connected is set between the connection and the answer to the hello: connecting and bootstrapping.
	Connected bool

	// What outlives a lost connection.
	Syncing   bool   // a sync has begun here and not ended: the state is not consistent
	NeedsDiff bool   // ranges are to be compared at the next chance
	Rebuild   bool   // and the index is to be rebuilt before
	Cause     string // why the last diff happened
	Rounds    int    // rounds that ended with roots that still differ, since roots were last equal
	Reindexed bool   // the index was rebuilt since roots were last equal
}

func (s State) String() string {
	out := string(s.Name)
	add := func(on bool, format string, args ...any) {
		if on {
			out += " " + fmt.Sprintf(format, args...)
		}
	}
	add(s.Reindexing, "reindexing")
	add(s.Revoked, "revoked")
	add(s.Connected, "connected")
	add(s.Waiting, "waiting")
	add(s.Attempt > 0, "attempt=%d", s.Attempt)
	add(s.Syncing, "syncing")
	add(s.NeedsDiff, "needs-diff")
	add(s.Rebuild, "rebuild")
	add(s.Rounds > 0, "rounds=%d", s.Rounds)
	add(s.Reindexed, "reindexed")
	add(s.Cause != "", "cause=%q", s.Cause)
	add(s.Reason != "", "reason=%q", s.Reason)
	return out
}

// Shown is what status prints as state: a secondary without a connection shows what it will go on with.
func (s State) Shown() string {
	switch s.Name {
	case StateStreamWALs, StateMerkleDiff, StateMerkleSync, StateIdle:
		return string(s.Name)
	case StateDisabled:
		return ""
	}
	switch {
	case s.Syncing, s.Name == StateBootstrapping:
		return string(StateMerkleSync)
	case s.NeedsDiff:
		return string(StateMerkleDiff)
	}
	return string(StateStreamWALs)
}

// Consistent reports whether what is readable is a prefix of the primary's history.
func (s State) Consistent() bool { return !s.Syncing && s.Name != StateBootstrapping }

// ---- entering a state: what belongs to others is reset here and nowhere else

func (s State) kept() State {
	return State{Syncing: s.Syncing, NeedsDiff: s.NeedsDiff, Rebuild: s.Rebuild, Cause: s.Cause, Rounds: s.Rounds, Reindexed: s.Reindexed}
}

func (s State) becomeIdle(reason string) State {
	n := s.kept()
	n.Name, n.Reason = StateIdle, reason
	return n
}

// becomeConnecting waits for the timer after the attempt-th failure; 0 connects at once. A secondary that the primary has never answered stays bootstrapping.
func (s State) becomeConnecting(attempt int) State {
	n := s.kept()
	n.Name, n.Attempt, n.Waiting = StateConnecting, attempt, attempt > 0
	if s.Name == StateBootstrapping {
		n.Name = StateBootstrapping
	}
	return n
}

func (s State) becomeStream() State {
	n := s.kept()
	n.Name = StateStreamWALs
	return n
}

func (s State) becomeDiff(cause string, reindexing bool) State {
	n := s.kept()
	n.Name, n.Cause, n.Reindexing, n.NeedsDiff, n.Rebuild = StateMerkleDiff, cause, reindexing, true, reindexing
	return n
}

func (s State) becomeSync() State {
	n := s.kept()
	n.Name, n.Syncing, n.NeedsDiff, n.Rebuild = StateMerkleSync, true, false, false
	return n
}
