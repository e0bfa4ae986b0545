package replication

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A performance set outlives its primary when a DR secondary of it is promoted: the set's secondaries then go on there, without new tokens. For that they
// must know, before it is needed, where it is and whom to trust. A DR secondary makes the CA that it would have and tells its primary the certificate; the
// primary tells its performance secondaries by heartbeat. The key never leaves the DR secondary.

// noteSuccessor keeps a DR secondary's CA for its primary's performance set (node scope).
const noteSuccessor = "replication/performance/successor"

// maxSuccessors bounds how many clusters may succeed a primary.
const maxSuccessors = 8

// successorCA is a CA that is not in use yet.
type successorCA struct {
	CA  string `json:"ca"`
	Key string `json:"key"`
}

// successorAuthority returns the CA that this DR secondary will have in its primary's performance set, made at the first call.
func (n *Node) successorAuthority() (*successorCA, error) {
	if b := n.engine.NodeGet(noteSuccessor); b != nil {
		var s successorCA
		if err := json.Unmarshal(b, &s); err != nil {
			return nil, errors.New("the stored CA of a successor does not decode")
		}
		return &s, nil
	}
	ca, err := newAuthority(Performance, "of a successor", n.now(), n.cfg.AuthorityLife)
	if err != nil {
		return nil, err
	}
	key, err := encodeKey(ca.key)
	if err != nil {
		return nil, err
	}
	s := &successorCA{CA: encodeCertificate(ca.cert.Raw), Key: string(key)}
	if err := n.engine.NodeSet(map[string][]byte{noteSuccessor: mustJSON(s)}); err != nil {
		return nil, fmt.Errorf("storing the CA of a successor: %w", err)
	}
	return s, nil
}

// checkAuthority reads one CA's certificate from outside.
func checkAuthority(text string) error {
	if len(text) > maxPEM {
		return malformed("a CA of %d bytes", len(text))
	}
	certs, err := parseCertificates([]byte(text))
	if err != nil || len(certs) != 1 {
		return malformed("a CA that is not one PEM certificate")
	}
	if !certs[0].IsCA || !certs[0].BasicConstraintsValid {
		return malformed("a certificate that is not a CA's in the place of one")
	}
	return nil
}

// maxAuthorities bounds how many CAs a heartbeat tells: the one in use, the next, former ones, successors'.
const maxAuthorities = 2 + maxBundle + maxSuccessors

// succession is what a primary tells its secondaries: the CAs that they are to trust, its own first; of a performance set also the CAs and addresses of the DR
// secondaries that may take its place.
func (n *Node) succession(k Kind) (authorities, addrs []string) {
	set := n.set(k)
	if set == nil || set.Mode != Primary {
		return nil, nil
	}
	if k == DR {
		return set.told(), nil
	}
	if n.demoting(DR) { // nothing, which leaves what was told: from here on one of those is looked for
		return nil, nil
	}
	authorities = set.told()
	if n.Mode(DR) != Primary {
		return authorities, nil
	}
	peers, _ := n.peers.all(DR)
	successors := 0
	for _, p := range peers {
		if p.Authority == "" || successors == maxSuccessors {
			continue
		}
		successors++
		if !slices.Contains(authorities, p.Authority) {
			authorities = append(authorities, p.Authority)
		}
		if _, ok := hostPort(p.ClusterAddr); ok {
			addrs = append(addrs, p.ClusterAddr)
		}
	}
	return authorities, cleanAddrs(addrs)
}

// knowSuccession keeps whom a secondary trusts, and where a performance secondary will look, should its primary not come back.
func (n *Node) knowSuccession(k Kind, authorities, addrs []string) error {
	set := n.set(k)
	if set == nil || len(authorities) == 0 {
		return nil
	}
	ca, bundle := authorities[0], strings.Join(authorities[1:], "")
	if addrs = cleanAddrs(addrs); k != Performance {
		addrs = nil
	}
	if set.CA == ca && set.Bundle == bundle && slices.Equal(set.Failover, addrs) {
		return nil
	}
	err := n.storeSecondary(k, func(s *setConfig) map[string][]byte {
		s.CA, s.Bundle, s.Failover = ca, bundle, addrs
		return nil
	})
	if err == nil && ca != set.CA {
		n.log.Info("the primary's CA is another", "set", string(k))
		wake(n.renewing[k])
	}
	return err
}

// foundSuccessor makes the address at which a former DR secondary answered as the primary the first one to be tried.
func (n *Node) foundSuccessor(k Kind, addr string) {
	err := n.storeSecondary(k, func(s *setConfig) map[string][]byte {
		s.Primaries, s.ClusterAddr = cleanAddrs(append([]string{addr}, s.Primaries...)), addr
		return nil
	})
	if err != nil {
		n.log.Error("the successor's address was not stored", "set", string(k), "error", err)
		return
	}
	n.log.Info("a DR secondary of the former primary answers as the primary", "set", string(k), "address", addr)
	n.link[k].update(func(l *linkState) { l.Known = n.set(k).Primaries })
}
