package vault

import (
	"context"
	"errors"
	"net/http"

	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/wal"
)

// Headers of Vault's consistency protocol.
const (
	headerIndex        = "X-Vault-Index"
	headerInconsistent = "X-Vault-Inconsistent"
	headerForward      = "X-Vault-Forward"
	headerNoForwarding = "X-Vault-No-Request-Forwarding"

	valueInconsistent = "forward-active-node"
	valueForward      = "active-node"
)

// indexes is what the core asks of replication.Node about states of the set.
type indexes interface {
	Wrote(at wal.Position, before *replication.Written) (*replication.Written, error)
	ForwardedIndexToken(primary string) string
	ReachedIndex(ctx context.Context, texts []string, wait, heed bool) (replication.Reach, error)
}

// consistency is what a request's headers ask for.
type consistency struct {
	index   []string // states that must be here
	forward bool     // execute it on the primary
	unmet   bool     // some state is not here: to be executed here, it has to wait
}

// askConsistency reads the headers, and waits for the states that they name unless the request is to go to the primary instead.
func (c *Core) askConsistency(r *request, rt *route) error {
	if rt != nil && rt.flags&(open|early) == open|early { // status and health are answered in any state
		return nil
	}
	k := &r.consistency
	k.index = r.header.Values(headerIndex)
	inconsistent, always := r.header.Get(headerInconsistent), r.header.Get(headerForward)
	switch {
	case inconsistent != "" && inconsistent != valueInconsistent:
		return refuse(errInvalid, "%s must be %s, or be left out", headerInconsistent, valueInconsistent)
	case always != "" && always != valueForward:
		return refuse(errInvalid, "%s must be %s, or be left out", headerForward, valueForward)
	case inconsistent+always != "" && !c.cfg.ForwardByHeader:
		return refuse(errInvalid, "forwarding by header is off here: leave out %s and %s, or set allow_forwarding_via_header in the replication stanza of this server",
			headerInconsistent, headerForward)
	}
	secondary := c.mode(performance) == replication.Secondary
	k.forward = always != "" && secondary
	if len(k.index) == 0 || k.forward {
		return nil
	}
	if inconsistent != "" && secondary {
		reach, err := c.reach(r, false)
		if err == nil && reach == replication.NotYet {
			k.forward, k.unmet = true, true
			return nil
		}
		return c.judge(r, reach, err)
	}
	reach, err := c.reach(r, true)
	return c.judge(r, reach, err)
}

// judge is judge for a request here: a state that was lost is named with the archive that holds it.
func (c *Core) judge(r *request, reach replication.Reach, err error) error {
	if n := c.node.Load(); err == nil && reach == replication.LostIndex && n != nil {
		if id := n.LostIn(r.consistency.index); id != "" {
			return refuse(errConflict, "the state that %s names was lost: this cluster's history goes on before it, and what was lost is in archive %s (sys/replication/divergence). Read what is there, then forget that state",
				headerIndex, id)
		}
	}
	return judge(reach, err)
}

func (c *Core) reach(r *request, wait bool) (replication.Reach, error) {
	n := c.node.Load()
	if n == nil {
		return replication.Reached, nil
	}
	return n.ReachedIndex(r.ctx, r.consistency.index, wait, r.known || r.forwarded != nil)
}

// errNotYet is the answer that clients repeat.
var errNotYet = errors.New("required index state not present")

// judge turns how this cluster stands to the states of a request into its answer; nil lets it go on.
func judge(reach replication.Reach, err error) error {
	switch {
	case errors.Is(err, replication.ErrIndexToken):
		return refuse(errInvalid, "%s: %s: leave the header out, or send what a write of this set answered", headerIndex, err)
	case err != nil:
		return err
	}
	switch reach {
	case replication.Reached:
		return nil
	case replication.LostIndex:
		return refuse(errConflict, "the state that %s names was lost: this cluster's history goes on before it. Read what is there, then forget that state", headerIndex)
	}
	return errNotYet
}

// sendOn tells whether a request that could be executed here goes to the primary, because its headers say so. One that cannot go there waits here.
func (c *Core) sendOn(r *request, can bool) (bool, error) {
	k := &r.consistency
	if r.forwarded != nil || !k.forward {
		return false, nil
	}
	if can {
		return true, nil
	}
	if k.unmet {
		reach, err := c.reach(r, true)
		return false, c.judge(r, reach, err)
	}
	return false, nil
}

// stampIndex says in a write's answer which state it left.
func stampIndex(h http.Header, r *request) {
	if r.index != "" {
		h.Set(headerIndex, r.index)
	}
}
