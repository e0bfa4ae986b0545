package replication

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

// A demoted primary hands over: it takes no more writes, waits until its connected secondaries have the last one, and tells them that it was the last. A
// secondary that has heard that and has the last entry knows that a promotion loses nothing.

const (
	drainTime = 5 * time.Second // how long a demotion waits at most, unless its caller says
	maxDrain  = time.Minute     // and may say
)

// Demote is what an operator says with a demotion.
type Demote struct {
	DrainTimeout time.Duration // 0: drainTime; at most maxDrain

	absent map[Kind][]string // ids of secondaries that are waited for although they are not connected
}

// Demotion is what came of one; but for its warnings it is stored, as JSON.
type Demotion struct {
	Warnings    []string  `json:"-"`
	Index       uint64    `json:"index"`       // the last of the own log
	Secondaries []Drained `json:"secondaries"` // as they stood when it ended
}

// Drained is where a secondary stood when its primary was demoted.
type Drained struct {
	ID        string `json:"id"`
	Set       Kind   `json:"set"`
	Index     uint64 `json:"index"` // acknowledged
	Lag       uint64 `json:"lag"`   // entries of the primary that it lacks
	Connected bool   `json:"connected"`
	Drained   bool   `json:"drained"` // it has everything, and knows it
}

// warn puts what a demotion does before what it warns of.
func (d *Demotion) warn(first string) { d.Warnings = append([]string{first}, d.Warnings...) }

func (d *Demote) validate() error {
	switch {
	case d.DrainTimeout < 0 || d.DrainTimeout > maxDrain:
		return refuse("drain_timeout must be from 0 to %v", maxDrain)
	case d.DrainTimeout == 0:
		d.DrainTimeout = drainTime
	}
	return nil
}

// endWrites lets nobody write what a primary is about to give up, while its streams still go on, waits for the writes that are on their way, and tells the
// feeders where the end is: a secondary must have them before the streams end, or a planned failover loses what was acknowledged.
func (n *Node) endWrites(k Kind) {
	n.mu.Lock()
	n.lives.demoting[k] = true
	n.mu.Unlock()
	n.writes.Lock()
	//lint:ignore SA2001 only the wait is wanted
	n.writes.Unlock()
	n.mu.Lock()
	n.applyFencesLocked()
	n.mu.Unlock()
	if err := n.engine.Settle(context.Background()); err != nil {
		n.log.Error("what was written last may not have been committed", "set", string(k), "error", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	end := n.engine.Position()
	for _, of := range kinds {
		if of == k || k == DR { // the performance set ends with DR
			n.lives.ends[of] = &end
			close(n.lives.ending[of])
			n.lives.ending[of] = make(chan struct{})
		}
	}
}

// ending returns the place at which this primary's part in a set ends, nil while it goes on, and what is closed when that changes.
func (n *Node) ending(k Kind) (*wal.Position, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lives.ends[k], n.lives.ending[k]
}

// demotionFence refuses what a primary that is being demoted takes no more.
func demotionFence(k Kind) *engine.Fence {
	return &engine.Fence{Shared: k == Performance, Reason: "this cluster is being demoted: write to the primary that is promoted next"}
}

// drain waits until the connected secondaries have what this primary wrote, and know that it was all. Those of absent are waited for, too: they may connect.
// enough ends the waiting.
func (n *Node) drain(ctx context.Context, k Kind, limit time.Duration, absent []string, enough <-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	end, _ := n.ending(k)
	if end == nil {
		return
	}
	for {
		behind, moved := n.peers.behind(k, end.Index, true, absent...)
		if behind == "" {
			return
		}
		select {
		case <-moved:
		case <-enough:
			n.log.Info("the demotion waits for nobody any more: its cluster is given another part", "set", string(k), "secondary", behind, "index", end.Index)
			return
		case <-ctx.Done():
			n.log.Warn("demoted before every connected secondary has the last entries", "set", string(k), "secondary", behind, "index", end.Index)
			return
		}
	}
}

// drained says where the known secondaries of a set stand.
func (n *Node) drained(k Kind) []Drained {
	end, _ := n.ending(k)
	known, err := n.secondaries(k, false)
	if err != nil || end == nil {
		return nil
	}
	var out []Drained
	for _, rec := range known {
		p, _ := n.peers.get(k, rec.ID)
		d := Drained{ID: rec.ID, Set: k, Index: n.acked(k, rec), Connected: p.Streams > 0 && n.recent(p.LastHeartbeat)}
		d.Lag = sub(end.Index, d.Index)
		d.Drained = p.Told && d.Lag == 0
		out = append(out, d)
	}
	return out
}

// handOver ends the writes of a set and drains its secondaries, and says how that went.
func (n *Node) handOver(ctx context.Context, k Kind, p Demote, sets ...Kind) *Demotion {
	n.endWrites(k)
	enough := make(chan struct{})
	n.mu.Lock()
	n.lives.drained = enough
	n.mu.Unlock()
	defer n.endDrain()
	d := &Demotion{Index: n.engine.Position().Index}
	until := n.now().Add(p.DrainTimeout)
	for _, of := range sets {
		n.drain(ctx, of, max(0, until.Sub(n.now())), p.absent[of], enough)
		d.Secondaries = append(d.Secondaries, n.drained(of)...)
	}
	d.explain()
	return d
}

// endDrain ends the waiting of a demotion: who says what this cluster is to be next has looked at the others, or waits for none.
func (n *Node) endDrain() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lives.drained != nil {
		close(n.lives.drained)
		n.lives.drained = nil
	}
}

// explain warns of what a promotion now would lose.
func (d *Demotion) explain() {
	for _, s := range d.Secondaries {
		switch {
		case s.Drained:
		case s.Lag > 0:
			d.Warnings = append(d.Warnings, fmt.Sprintf("The %s secondary %s lacks %d entries (it is at index %d, the last is %d): promoted now it would lose them.", s.Set, s.ID, s.Lag, s.Index, d.Index))
		default:
			d.Warnings = append(d.Warnings, fmt.Sprintf("The %s secondary %s has every entry but has not confirmed that there are no more: its promotion will ask for force.", s.Set, s.ID))
		}
	}
}

// noteFarewell keeps, on a secondary, that its primary was demoted and where its part ended (node scope).
func noteFarewell(k Kind) string { return "replication/" + string(k) + "/farewell" }

// farewell is the end of a primary's part, as stored (JSON).
type farewell struct {
	Position wal.Position `json:"position"`
	At       int64        `json:"at"` // Unix seconds
	// Own: this cluster was the primary. Whether another was promoted since it hears from nobody: a successor has no way to a cluster that has handed over.
	Own bool `json:"own,omitempty"`
}

// keepFarewell makes durable that the primary has handed over, before that is acknowledged.
func (n *Node) keepFarewell(k Kind, at wal.Position) error {
	if f, err := n.farewell(k); err != nil || f != nil && f.Position == at {
		return err
	}
	n.log.Info("the primary was demoted: nothing follows", "set", string(k), "index", at.Index)
	return n.engine.NodeSet(map[string][]byte{noteFarewell(k): mustJSON(&farewell{Position: at, At: n.now().Unix()})})
}

// ownFarewell is the end of this cluster's own part.
func (n *Node) ownFarewell(at wal.Position) []byte {
	return mustJSON(&farewell{Position: at, At: n.now().Unix(), Own: true})
}

// farewell returns where the primary's part ended, nil when it did not say.
func (n *Node) farewell(k Kind) (*farewell, error) {
	b := n.engine.NodeGet(noteFarewell(k))
	if b == nil {
		return nil, nil
	}
	f := new(farewell)
	if err := json.Unmarshal(b, f); err != nil {
		return nil, fmt.Errorf("the stored end of the %s primary's part does not decode: %w", k, err)
	}
	return f, nil
}
