package replication

import (
	"fmt"
	"time"
)

// A set's level may ask for a write lease: a primary that has not heard, for that long, of as many secondaries as its level names takes no writes. It may be cut
// off, and another may have been promoted in its place. Hearing of a secondary is the echo of a heartbeat, and counts from when that heartbeat was sent, on this
// process's monotonic clock: no other clock, and no message that was held up on its way, makes a lease longer.

// maxBeats is how many heartbeats without an echo a feeder remembers.
const maxBeats = 64

// sentBeat is when a heartbeat was sent.
type sentBeat struct {
	clock int64     // that it told, and by which it is echoed
	at    time.Time // monotonic
}

// beats are the newest heartbeats of a stream, oldest first.
type beats []sentBeat

func (b *beats) sent(clock int64) {
	if len(*b) >= maxBeats {
		*b = append((*b)[:0], (*b)[1:]...)
	}
	*b = append(*b, sentBeat{clock, time.Now()})
}

// echoed returns when the heartbeat that an acknowledgement echoes was sent, and forgets those before it; zero: that is not known, or not true.
func (b *beats) echoed(clock int64) time.Time {
	for i, s := range *b {
		if s.clock == clock {
			*b = append((*b)[:0], (*b)[i:]...)
			return s.at
		}
	}
	return time.Time{}
}

// LeaseLost is why a primary with a write lease takes no writes at present.
type LeaseLost struct {
	Set   Kind
	Lease time.Duration
	Want  int // secondaries
	Have  int
}

func (e *LeaseLost) Error() string {
	return fmt.Sprintf("this primary takes no writes: the write lease of its %s set asks for %d secondaries, and within %v it has heard of %d: another cluster may have been promoted. "+
		"Nothing was written: repeat it when they are connected again (sys/replication/status), or, if this is the only primary, set a level without a lease (sys/replication/%s/primary/synchronous)",
		e.Set, e.Want, e.Lease, e.Have, e.Set)
}

// Leased returns nil while a set's write lease lasts, or the set has none, and *LeaseLost otherwise.
func (n *Node) Leased(k Kind) error {
	l, err := n.Synchronous(k)
	if err != nil || l.Lease == 0 {
		return err
	}
	lost := &LeaseLost{Set: k, Lease: l.Lease, Want: l.Secondaries}
	peers, _ := n.peers.all(k)
	for i := range peers {
		if p := &peers[i]; !p.Heard.IsZero() && time.Since(p.Heard) < l.Lease && n.couldSucceed(k, p) {
			lost.Have++
		}
	}
	n.lapse(k, l, lost.Have < lost.Want)
	if lost.Have < lost.Want {
		return lost
	}
	return nil
}

// lapse notes that a lease has ended, or begun again.
func (n *Node) lapse(k Kind, l Level, is bool) {
	n.levels.mu.Lock()
	defer n.levels.mu.Unlock()
	if n.levels.lapsed[k] == is {
		return
	}
	if n.levels.lapsed == nil {
		n.levels.lapsed = map[Kind]bool{}
	}
	n.levels.lapsed[k] = is
	if is {
		n.log.Warn("the write lease has ended: writes are refused until enough secondaries are heard of", "set", string(k), "level", l.String())
		return
	}
	n.log.Info("the write lease holds again: writes are taken", "set", string(k), "level", l.String())
}
