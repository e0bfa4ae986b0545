package replication

// Step is a secondary's life in one set as a pure function: no clock, no I/O, no goroutine. Every pair of state and event is answered; a pair that
// cannot occur leaves the state as it was and returns one fault.
func Step(s State, e Event) (State, []Action) {
	switch e.Kind { // what means the same in every state
	case DisabledNow:
		return State{Name: StateDisabled}, []Action{{Kind: DoDisconnect}}
	case Revoked:
		if s.Name != StateDisabled {
			n, acts := stop(s, orElse(e.Reason, "this secondary was revoked: it needs a new activation token"))
			n.Revoked = true
			return n, acts
		}
	case Failed:
		if s.Name != StateDisabled && s.Name != StateIdle {
			return stop(s, e.Reason)
		}
	case Recover:
		if s.Name != StateDisabled {
			return restart(s)
		}
	}
	switch s.Name {
	case StateDisabled:
		return stepDisabled(s, e)
	case StateIdle:
		return stepIdle(s, e)
	case StateBootstrapping, StateConnecting:
		return stepConnecting(s, e)
	case StateStreamWALs:
		return stepStream(s, e)
	case StateMerkleDiff:
		return stepDiff(s, e)
	case StateMerkleSync:
		return stepSync(s, e)
	}
	return impossible(s, e)
}

func stepDisabled(s State, e Event) (State, []Action) {
	switch e.Kind {
	case Enabled:
		n := State{Name: StateConnecting, Syncing: e.Syncing}
		if e.Empty {
			n.Name = StateBootstrapping
		}
		return n, []Action{{Kind: DoConnect}}
	case Disconnected, TimerFired: // of the life before
		return s, nil
	}
	return impossible(s, e)
}

// stepIdle lets what was under way when it stopped end in silence.
func stepIdle(s State, e Event) (State, []Action) {
	switch e.Kind {
	case Enabled:
		return impossible(s, e)
	case Connected:
		return s, []Action{{Kind: DoDisconnect}}
	case DamageFound:
		s.NeedsDiff, s.Rebuild, s.Cause = true, true, e.Reason
		return s, nil
	}
	return s, nil
}

func stepConnecting(s State, e Event) (State, []Action) {
	switch e.Kind {
	case Connected:
		if s.Waiting || s.Connected {
			return impossible(s, e)
		}
		s.Connected = true
		return s, []Action{{Kind: DoHello}}
	case Answered:
		if !s.Connected {
			return impossible(s, e)
		}
		return answered(s, e)
	case Disconnected:
		if s.Waiting {
			return s, nil // a late word of the connection before
		}
		return lost(s)
	case TimerFired:
		if !s.Waiting {
			return s, nil // of an attempt that another event overtook
		}
		s.Waiting = false
		return s, []Action{{Kind: DoConnect}}
	case DamageFound:
		s.NeedsDiff, s.Rebuild, s.Cause = true, true, e.Reason
		return s, nil
	case Diverged, RootsEqual, CoverageChanged: // of a batch that was under way when the connection ended: the next one tells again
		return s, nil
	}
	return impossible(s, e)
}

// answered follows the primary's answer to the hello.
func answered(s State, e Event) (State, []Action) {
	count := Action{Kind: DoCount, Answer: e.Answer}
	s.Attempt = 0
	switch e.Answer {
	case Continue:
		return continued(s, count)
	case Repair:
		// A sync under way whose S is gone begins anew; ranges already received are compared again, not sent again.
		return toDiff(s, orElse(s.Cause, e.Reason), count)
	case Bootstrap:
		return toDiff(s, orElse(e.Reason, "the secondary is empty"), count)
	case Rewind:
		return s.becomeSync(), []Action{count, {Kind: DoRewind, Reason: e.Reason}}
	case Superseded:
		n, acts := stop(s, e.Reason)
		return n, append([]Action{{Kind: DoFence, Reason: e.Reason}}, acts...)
	case Refuse:
		return stop(s, e.Reason)
	case Stale, Restored: // the primary has to be dealt with; this secondary is fine and asks again, as often as is harmless
		n := s.becomeConnecting(maxAttempt)
		return n, []Action{{Kind: DoDisconnect}, {Kind: DoBackOff, N: maxAttempt, Reason: e.Reason}}
	}
	return impossible(s, e)
}

// continued is a place on the primary's history: what was under way goes on first.
func continued(s State, count Action) (State, []Action) {
	switch {
	case s.Syncing:
		return s.becomeSync(), []Action{count, {Kind: DoResumeSync}}
	case s.NeedsDiff:
		return toDiff(s, s.Cause, count)
	}
	return s.becomeStream(), []Action{count, {Kind: DoStream}}
}

func stepStream(s State, e Event) (State, []Action) {
	switch e.Kind {
	case Diverged:
		return differ(s, e.Reason)
	case RootsEqual:
		s.Rounds, s.Reindexed = 0, false
		return s, nil
	case DamageFound:
		return s.becomeDiff(e.Reason, true), []Action{{Kind: DoReindex}}
	case CoverageChanged: // nothing is wrong: no round of those that end
		return toDiff(s, e.Reason)
	case Disconnected:
		return lost(s)
	case TimerFired:
		return s, nil
	}
	return impossible(s, e)
}

func stepDiff(s State, e Event) (State, []Action) {
	switch e.Kind {
	case Reindexed:
		if !s.Reindexing {
			return s, nil
		}
		n := s.becomeDiff(s.Cause, false)
		return n, []Action{{Kind: DoDiff, Reason: n.Cause}}
	case RangesDiffer:
		if s.Reindexing {
			return impossible(s, e)
		}
		return s.becomeSync(), []Action{{Kind: DoSync}}
	case RangesEqual:
		if s.Reindexing {
			return impossible(s, e)
		}
		s.NeedsDiff = false
		if s.Syncing { // all ranges are here: only the spool is left
			return s.becomeSync(), []Action{{Kind: DoSync}}
		}
		return s.becomeStream(), []Action{{Kind: DoStream}}
	case DamageFound:
		if s.Reindexing {
			return s, nil
		}
		return s.becomeDiff(e.Reason, true), []Action{{Kind: DoReindex}}
	case CoverageChanged:
		if s.Reindexing { // the diff that follows begins under it
			return s, nil
		}
		return toDiff(s, e.Reason)
	case Disconnected:
		return lost(s)
	case Diverged, RootsEqual, TimerFired: // of the stream before
		return s, nil
	}
	return impossible(s, e)
}

func stepSync(s State, e Event) (State, []Action) {
	switch e.Kind {
	case SyncEnded:
		s.Syncing = false
		if s.NeedsDiff { // damage was found meanwhile
			return toDiff(s, s.Cause)
		}
		return s.becomeStream(), []Action{{Kind: DoStream}}
	case Diverged: // while the spool was applied, after the last range: this round did not make roots equal
		s.Syncing = true
		return differ(s, e.Reason)
	case DamageFound:
		s.NeedsDiff, s.Rebuild, s.Cause = true, true, e.Reason
		return s, nil
	case CoverageChanged: // what is spooled was cut to another coverage
		return toDiff(s, e.Reason)
	case Rewound: // the next hello names the sync that mends the records, or asks for a comparison
		n := s.becomeConnecting(0)
		if e.Reason != "" {
			n.NeedsDiff, n.Cause = true, e.Reason
		}
		return n, []Action{{Kind: DoDisconnect}, {Kind: DoConnect}}
	case Disconnected:
		return lost(s)
	case RangesDiffer, RangesEqual: // a resumed sync compares again on the way
		return s, nil
	case RootsEqual, TimerFired:
		return s, nil
	}
	return impossible(s, e)
}

// differ begins another round, after the third first a rebuilt index, and then no more: never a loop.
func differ(s State, cause string) (State, []Action) {
	switch {
	case s.Rounds < maxRounds:
		s.Rounds++
		return s.becomeDiff(cause, false), []Action{{Kind: DoDiff, Reason: cause}}
	case !s.Reindexed:
		s.Reindexed = true
		return s.becomeDiff(cause, true), []Action{{Kind: DoReindex}}
	}
	return stop(s, "roots still differ after three rounds of diff and sync and one more with a rebuilt index ("+cause+
		"): run merkle-check on this cluster and on the primary, then recover here")
}

// toDiff compares ranges, after rebuilding the index when that is due.
func toDiff(s State, cause string, before ...Action) (State, []Action) {
	if s.Rebuild {
		return s.becomeDiff(cause, true), append(before, Action{Kind: DoReindex})
	}
	return s.becomeDiff(cause, false), append(before, Action{Kind: DoDiff, Reason: cause})
}

// maxAttempt is the number of the longest delay.
const maxAttempt = 6

// lost waits for the next attempt.
func lost(s State) (State, []Action) {
	n := min(s.Attempt+1, maxAttempt)
	return s.becomeConnecting(n), []Action{{Kind: DoDisconnect}, {Kind: DoBackOff, N: n}}
}

// restart begins again, at once, with all rounds.
func restart(s State) (State, []Action) {
	s.Rounds, s.Reindexed = 0, false
	return s.becomeConnecting(0), []Action{{Kind: DoDisconnect}, {Kind: DoConnect}}
}

func stop(s State, reason string) (State, []Action) {
	return s.becomeIdle(reason), []Action{{Kind: DoDisconnect}, {Kind: DoStop, Reason: reason}}
}

func impossible(s State, e Event) (State, []Action) {
	return s, []Action{{Kind: DoFault, Err: &ImpossibleError{State: s.Name, Event: e.Kind}}}
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
