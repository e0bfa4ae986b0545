package replication

import (
	"context"
	"errors"

	"github.com/lockstepdb/lockstep/wal"
)

// lives are the secondaries' lives of a node: at most one for each set. All of it is guarded by Node.mu.
type lives struct {
	now      map[Kind]*oneLife
	paused   map[Kind]int           // while above zero no life begins
	changed  map[Kind]chan struct{} // closed and replaced when what a life depends on has changed
	demoting map[Kind]bool          // a primary that takes no more writes
	ends     map[Kind]*wal.Position // and where its part ends, once that is known
	ending   map[Kind]chan struct{} // closed and replaced when that is known
	drained  chan struct{}          // closed when a demotion is to wait for nobody any more; nil: none waits
}

type oneLife struct {
	end  context.CancelCauseFunc
	done chan struct{}
}

func newLives() lives {
	l := lives{now: map[Kind]*oneLife{}, paused: map[Kind]int{}, changed: map[Kind]chan struct{}{}, demoting: map[Kind]bool{}, ends: map[Kind]*wal.Position{}, ending: map[Kind]chan struct{}{}}
	for _, k := range kinds {
		l.changed[k], l.ending[k] = make(chan struct{}), make(chan struct{})
	}
	return l
}

// wakeLocked lets whoever waits for a change look again. The caller holds Node.mu.
func (l *lives) wakeLocked(k Kind) {
	close(l.changed[k])
	l.changed[k] = make(chan struct{})
}

// noPrimary is why a demoted cluster, or one that was told to forget its primary, does nothing.
func noPrimary(k Kind) string {
	return "no primary is configured: name one with " + string(k) + "/secondary/update-primary, or promote this cluster"
}

// live is a cluster's lives as a secondary of one set, one after the other, until ctx ends. While it is none, or has no primary, it waits.
func (n *Node) live(ctx context.Context, k Kind) {
	for ctx.Err() == nil {
		life, slot, changed := n.beginLife(ctx, k)
		if slot == nil {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		n.lifeOf(life, k)
		slot.end(nil)
		n.mu.Lock()
		delete(n.lives.now, k)
		n.mu.Unlock()
		close(slot.done)
	}
}

// beginLife makes room for a life when there is to be one; else it says what to wait for.
func (n *Node) beginLife(ctx context.Context, k Kind) (context.Context, *oneLife, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	set := n.sets[k]
	if set == nil || set.Mode != Secondary || len(set.Primaries) == 0 || n.lives.paused[k] > 0 || n.intent.ends(k) || n.fences[DR] != nil {
		if set != nil && set.Mode == Secondary && len(set.Primaries) == 0 {
			n.link[k].update(func(l *linkState) {
				l.Machine = State{Name: StateIdle, Reason: noPrimary(k), Syncing: n.engine.SyncState() != nil}
				l.Connection, l.Known = "idle", nil
			})
		}
		return nil, nil, n.lives.changed[k]
	}
	life, end := context.WithCancelCause(ctx)
	slot := &oneLife{end: end, done: make(chan struct{})}
	n.lives.now[k] = slot
	return life, slot, nil
}

// lifeOf is one life; when it ended by itself it waits for somebody to end it.
func (n *Node) lifeOf(life context.Context, k Kind) {
	log := n.log.With("set", string(k))
	n.link[k].update(func(l *linkState) { l.Started = n.now() })
	err := n.follow(life, k)
	if life.Err() != nil {
		return
	}
	if n.Revoked(k) {
		log.Error("the primary revoked this secondary; a new activation token enrols it again: "+string(k)+"/secondary/update-primary keeps its data", "error", err)
	} else {
		log.Error("the subscription ended; POST sys/replication/recover starts it again", "error", err)
	}
	n.link[k].update(func(l *linkState) {
		if l.Machine.Name != StateIdle {
			l.Machine = State{Name: StateIdle, Reason: plain(err)}
		}
	})
	<-life.Done()
}

// errPaused is the cause with which a life ends because its role changes.
var errPaused = errors.New("the cluster's role is changing")

// pauseLife ends a life, waits for that, and lets none begin before goOn is called.
func (n *Node) pauseLife(k Kind) (goOn func()) {
	n.mu.Lock()
	n.lives.paused[k]++
	slot := n.lives.now[k]
	n.mu.Unlock()
	if slot != nil {
		slot.end(errPaused)
		<-slot.done
	}
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.lives.paused[k]--
		n.lives.wakeLocked(k)
	}
}

// demoting reports whether a primary is on its way to be none.
func (n *Node) demoting(k Kind) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lives.demoting[k] || n.lives.demoting[DR]
}

// demotedMode is the mode of a set during a demotion.
func (n *Node) demotedMode(k Kind) Mode {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lives.demoting[k] {
		return Secondary
	}
	return Disabled // a DR secondary has no part in a performance set
}
