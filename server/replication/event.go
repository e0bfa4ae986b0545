package replication

import (
	"fmt"
	"time"
)

// EventKind is what happened.
type EventKind string

const (
	Enabled         EventKind = "enabled"          // the life begins: Empty, Syncing
	Connected       EventKind = "connected"        // a connection to the primary is ready
	Answered        EventKind = "answered"         // the primary answered the hello: Answer, Reason
	Diverged        EventKind = "diverged"         // a batch or a heartbeat showed that roots differ: Reason
	RangesDiffer    EventKind = "ranges-differ"    // the diff found ranges to receive
	RangesEqual     EventKind = "ranges-equal"     // the diff found none
	RootsEqual      EventKind = "roots-equal"      // digests were compared equal at one place, after a sync
	SyncEnded       EventKind = "sync-ended"       // ranges and spool are applied up to the last place at which a range was read
	Reindexed       EventKind = "reindexed"        // the index was rebuilt from the records
	DamageFound     EventKind = "damage-found"     // something here does not hash to what was stored with it: Reason
	CoverageChanged EventKind = "coverage-changed" // what is covered is another, and only a sync makes it complete: Reason
	Rewound         EventKind = "rewound"          // the tail is archived and the log taken back; Reason: it cannot be, ranges are to be compared
	Disconnected    EventKind = "disconnected"     // the connection ended or could not be made: Reason
	TimerFired      EventKind = "timer"            // a back-off ended
	Revoked         EventKind = "revoked"          // the primary does not know this secondary any more: Reason
	Failed          EventKind = "failed"           // something here failed that a repetition does not mend: Reason
	Recover         EventKind = "recover"          // an operator asked to start again
	DisabledNow     EventKind = "disable"          // the life ends
)

var eventKinds = []EventKind{Enabled, Connected, Answered, Diverged, RangesDiffer, RangesEqual, RootsEqual, SyncEnded, Reindexed, DamageFound, CoverageChanged,
	Rewound, Disconnected, TimerFired, Revoked, Failed, Recover, DisabledNow}

// Event is one thing that happened, with what that kind names.
type Event struct {
	Kind    EventKind
	Answer  AnswerKind
	Reason  string
	Empty   bool // enabled: the primary has never answered this secondary
	Syncing bool // enabled: a sync began before the restart and has not ended
}

func (e Event) String() string {
	out := string(e.Kind)
	if e.Kind == Answered {
		out += " " + e.Answer.String()
	}
	if e.Empty {
		out += " empty"
	}
	if e.Syncing {
		out += " syncing"
	}
	if e.Reason != "" {
		out += fmt.Sprintf(" %q", e.Reason)
	}
	return out
}

// ActionKind is what the caller of Step is to do.
type ActionKind string

const (
	DoConnect    ActionKind = "connect"     // dial the known addresses: Connected or Disconnected follows
	DoHello      ActionKind = "send-hello"  // Answered, Revoked or Disconnected follows
	DoStream     ActionKind = "stream"      // take batches from the place of the answer or after the sync
	DoDiff       ActionKind = "start-diff"  // subscribe at S, spool, compare ranges: RangesDiffer or RangesEqual follows
	DoSync       ActionKind = "start-sync"  // receive the ranges that differ, then apply the spool: SyncEnded follows
	DoResumeSync ActionKind = "resume-sync" // go on with the sync under way, spool first: SyncEnded follows
	DoRewind     ActionKind = "rewind"      // archive the tail and take the log back to the answer's place: Rewound or Failed follows
	DoReindex    ActionKind = "reindex"     // rebuild the index from the records: Reindexed or Failed follows
	DoBackOff    ActionKind = "back-off"    // set a timer (Delay of N); TimerFired follows
	DoDisconnect ActionKind = "disconnect"  // end the connection; its Disconnected need not follow
	DoFence      ActionKind = "fence"       // refuse writes of the shared scope: Reason
	DoStop       ActionKind = "stop"        // nothing more happens until recover: Reason
	DoCount      ActionKind = "count"       // count the resume: Answer
	DoFault      ActionKind = "fault"       // Step was given an impossible pair: Err
)

// Action is one thing to do, in order.
type Action struct {
	Kind   ActionKind
	N      int // back-off: number of the attempt
	Answer AnswerKind
	Reason string
	Err    error // fault: an *ImpossibleError
}

func (a Action) String() string {
	out := string(a.Kind)
	if a.Kind == DoBackOff {
		out += fmt.Sprintf(" %d", a.N)
	}
	if a.Kind == DoCount {
		out += " " + a.Answer.String()
	}
	if a.Reason != "" {
		out += fmt.Sprintf(" %q", a.Reason)
	}
	if a.Err != nil {
		out += fmt.Sprintf(" %q", a.Err)
	}
	return out
}

// ImpossibleError is a pair of state and event that cannot occur if actions are done as told.
type ImpossibleError struct {
	State StateName
	Event EventKind
}

func (e *ImpossibleError) Error() string {
	return fmt.Sprintf("internal error: event %s cannot occur in state %s", e.Event, e.State)
}

// Limits of the delay before another attempt.
const (
	minDelay = 200 * time.Millisecond
	maxDelay = 5 * time.Second
)

// Delay returns how long to wait before the n-th attempt (from 1): it doubles from 0.2 s to 5 s; random, in [0, 1), takes up to half of it away so that
// secondaries that lost the same primary do not come back together.
func Delay(n int, random float64) time.Duration {
	d := maxDelay
	if n < 6 { // 0.2 s << 5 is above the limit already
		d = min(maxDelay, minDelay<<max(n-1, 0))
	}
	return max(minDelay, d-time.Duration(random*float64(d)/2))
}
