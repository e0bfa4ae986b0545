package replication

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/server/engine"
)

// follow is a secondary's life in one set: it turns the world into events for Step, and Step's actions into calls, until ctx ends or
// the machine stops; the error then says why. One goroutine owns the machine; what it starts belongs to a session (one connection)
// or a subscription (one stream), and has ended when that is closed.
func (n *Node) follow(ctx context.Context, k Kind) error {
	set := n.set(k)
	if set == nil || set.Mode != Secondary {
		return fmt.Errorf("this cluster is no %s secondary", k)
	}
	l := &life{
		n: n, e: n.engine, kind: k, ctx: ctx, log: n.log.Named("secondary").With("set", string(k)),
		state: State{Name: StateDisabled}, events: make(chan happened), timer: time.NewTimer(time.Hour),
	}
	l.timer.Stop()
	defer l.timer.Stop()
	defer l.closeSession()
	if k == Performance {
		defer n.forward.close()
	}
	if err := l.settleCoverage(); err != nil {
		return err
	}
	l.happen(Event{Kind: Enabled, Empty: !set.Joined, Syncing: l.syncing() != nil})
	for l.stopped == "" {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case h := <-l.events:
			l.handle(h)
		case <-l.timer.C:
			l.happen(Event{Kind: TimerFired})
		case d := <-l.e.Damaged():
			l.log.Error("damage was found; it will be repaired from the primary", "error", &d)
			l.happen(Event{Kind: DamageFound, Reason: fmt.Sprintf("keyspace %s: %s", d.Keyspace, d.What)})
		}
	}
	return errors.New(l.stopped)
}

// life is what one run of follow knows. Its fields belong to the goroutine of follow unless they say otherwise.
type life struct {
	n    *Node
	e    *engine.Engine
	kind Kind
	log  hclog.Logger
	// ctx ends with the role: commits under way are not cut by a lost connection, so that the next hello says the place they reach.
	ctx context.Context

	state   State
	events  chan happened
	session *session
	timer   *time.Timer
	stopped string // why the machine stopped
	fails   int    // subscriptions in a row that ended without progress
	force   bool   // roots differ although a sync has all its ranges: it is not continued, another begins

	deciding  atomic.Bool // what differs is decided for the primary: not the first filling; any goroutine
	keeping   atomic.Bool // and archived first: this cluster has written what the primary may not have; any goroutine
	progress  atomic.Bool // something became durable since the last subscription ended; any goroutine
	keysFixed atomic.Uint64
	rounds    atomic.Uint64
}

// happened is an event, or work for the goroutine of follow, with the context of what it comes from: from what has been closed it no longer counts.
type happened struct {
	from  context.Context
	event Event
	do    func()
	drop  func() // gives back what do would have taken; may be nil
}

func (l *life) handle(h happened) {
	switch {
	case h.from.Err() != nil:
		if h.drop != nil {
			h.drop()
		}
	case h.do != nil:
		h.do()
	default:
		l.happen(h.event)
	}
}

// tell hands an event to the machine; false: what it comes from has been closed.
func (l *life) tell(from context.Context, e Event) bool {
	return l.hand(happened{from: from, event: e})
}

func (l *life) hand(h happened) bool {
	select {
	case l.events <- h:
		return true
	case <-h.from.Done():
		return false
	case <-l.ctx.Done():
		return false
	}
}

// happen takes one step of the machine and does what it asks for.
func (l *life) happen(e Event) {
	if e.Kind == Disconnected && l.session != nil && l.session.sub != nil {
		if l.fails++; l.progress.Swap(false) {
			l.fails = 1
		}
	}
	if e.Kind == Diverged || e.Kind == Rewound && e.Reason != "" {
		l.force = true
	}
	before := l.state
	next, actions := Step(before, e)
	l.state = next
	l.n.link[l.kind].update(func(s *linkState) { s.Machine = next })
	l.note(before, e)
	for _, a := range actions {
		l.do(a)
	}
}

// note writes one line for a change of state, and for what interrupted.
func (l *life) note(before State, e Event) {
	switch {
	case before.Name != l.state.Name:
		reason := e.Reason
		if l.state.Name == StateMerkleDiff || l.state.Name == StateMerkleSync {
			reason = orElse(reason, l.state.Cause)
		}
		l.log.Info("transitioning state", "from", string(before.Name), "state", string(l.state.Name), "event", string(e.Kind), "reason", reason)
	case e.Kind == Disconnected:
		l.log.Warn("the primary cannot be followed at present", "error", e.Reason)
	}
}

func (l *life) do(a Action) {
	switch a.Kind {
	case DoConnect:
		l.connect()
	case DoHello:
		l.greet()
	case DoStream:
		l.session.sub.apply()
	case DoDiff:
		l.diff(a.Reason)
	case DoResumeSync:
		l.session.sub.resume()
	case DoSync: // the comparison goes on and receives what differs: nothing to start
	case DoReindex:
		l.reindex()
	case DoRewind:
		l.rewind()
	case DoBackOff:
		l.timer.Reset(Delay(min(max(a.N, l.fails), maxAttempt), rand.Float64()))
	case DoDisconnect:
		l.closeSession()
		if l.state.Waiting {
			l.connection("transient_failure")
		}
	case DoFence:
		l.log.Error("this cluster must not write for its set any more", "reason", a.Reason)
	case DoStop:
		l.stopped = orElse(a.Reason, "stopped")
	case DoCount:
		l.n.link[l.kind].update(func(s *linkState) { s.Resumes.count(a.Answer) })
	case DoFault:
		l.log.Error("the role machine was given what cannot happen", "error", a.Err)
	}
}

// syncing returns the sync of this set that has not ended, nil when there is none.
func (l *life) syncing() *syncPlace {
	s := l.e.SyncState()
	if s == nil || s.Set != string(l.kind) {
		return nil
	}
	return &syncPlace{From: s.From, Until: s.Until, SpoolEnd: l.e.SpoolEnd()}
}
