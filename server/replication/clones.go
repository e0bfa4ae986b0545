package replication

import (
	"fmt"
	"net"
	"time"
)

// A secondary has one stream; a newer one ends the older. Two clusters with one identity, of which one is a clone of the other's disk, therefore take
// turns. What tells them apart is only where they are.

const (
	takeoverWindow = time.Minute
	takeoverLimit  = 3 // streams taken over by another place within the window: no longer a cluster that has just moved
	keptTakeovers  = 8
)

// origin is where a stream comes from, as far as that tells two clones apart.
type origin struct {
	Host        string // of the connection
	APIAddr     string
	ClusterAddr string
}

func originOf(p peer, h *hello) origin {
	host, _, err := net.SplitHostPort(p.Remote)
	if err != nil {
		host = p.Remote
	}
	return origin{Host: host, APIAddr: h.APIAddr, ClusterAddr: h.ClusterAddr}
}

func (o origin) String() string {
	return fmt.Sprintf("%s (%s)", o.Host, orElse(o.ClusterAddr, orElse(o.APIAddr, "no address told")))
}

// takeover is a stream that another place with the same identity ended.
type takeover struct {
	At       time.Time
	From, To origin
}

// tookOver remembers that a stream of one place was ended by one of another.
func (n *Node) tookOver(p peer, from, to origin) {
	if from == to {
		return
	}
	n.log.Warn("a secondary's stream was taken over from another place", "set", string(p.Kind), "secondary", p.ID, "from", from.String(), "to", to.String())
	n.peers.update(p.Kind, p.ID, func(ps *peerState) {
		if len(ps.Takeovers) >= keptTakeovers {
			ps.Takeovers = append([]takeover(nil), ps.Takeovers[1:]...)
		}
		ps.Takeovers = append(ps.Takeovers[:len(ps.Takeovers):len(ps.Takeovers)], takeover{n.now(), from, to})
	})
}

// clones says that two clusters use a secondary's identity in turns, "" when none do.
func (n *Node) clones(p *peerState) string {
	recent := 0
	for _, t := range p.Takeovers {
		if n.now().Sub(t.At) < takeoverWindow {
			recent++
		}
	}
	if recent < takeoverLimit {
		return ""
	}
	last := p.Takeovers[len(p.Takeovers)-1]
	return fmt.Sprintf("two clusters take turns with this identity, at %s and at %s: one is a clone of the other; stop it, or revoke the id and enrol each with a token of its own", last.From, last.To)
}
