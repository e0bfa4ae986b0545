package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lockstepdb/lockstep/token"
)

// UpdatePrimary are the parameters of secondary/update-primary. Either Token is given (nil: not at all), or Addrs.
type UpdatePrimary struct {
	Token                          *string // "": forget the primary
	Addrs                          []string
	PrimaryAPIAddr, CAFile, CAPath string
}

// maxUpdateAddrs bounds update_primary_addrs: each may cost a connection attempt.
const maxUpdateAddrs = 8

// UpdatePrimary gives a secondary another primary of its set, or new addresses of the one it has. Data are kept: what differs is found by place, or by
// comparing. A repeated call answers with a warning.
func (n *Node) UpdatePrimary(ctx context.Context, k Kind, p UpdatePrimary) (warning string, err error) {
	n.endDrain()
	n.admin.Lock()
	defer n.admin.Unlock()
	if in := n.underWay(); in != nil {
		return "", in.inTheWay()
	}
	set := n.set(k)
	switch {
	case p.Token != nil && len(p.Addrs) > 0:
		return "", refuse("token and update_primary_addrs exclude each other: give one of them")
	case set == nil:
		return "", refuse("%s replication is disabled here: %s/secondary/enable makes a secondary, from empty", k, k)
	case set.Mode != Secondary:
		return "", refuse("this cluster is the %s primary, not a secondary: demote it first (%s/primary/demote)", k, k)
	case p.Token == nil && len(p.Addrs) == 0:
		return "", refuse("missing token: ask the new primary for one with %s/primary/secondary-token, or give update_primary_addrs", k)
	case len(p.Addrs) > 0:
		return n.updateAddrs(ctx, k, set, p.Addrs)
	case *p.Token == "":
		return n.forgetPrimary(k, set)
	case strings.TrimSpace(*p.Token) == "":
		return "", refuse(`token holds nothing but white space; nothing was changed: give an activation token of the new primary, or token="" to forget the primary`)
	}
	return n.updateByToken(ctx, k, set, p)
}

func (n *Node) forgetPrimary(k Kind, set *setConfig) (string, error) {
	const text = "The token was empty: this cluster stays a %s secondary, follows no primary and tries to reach none."
	if len(set.Primaries) == 0 {
		return fmt.Sprintf("This cluster is a %s secondary without a primary already; nothing was changed.", k), nil
	}
	goOn := n.pauseLife(k)
	defer goOn()
	err := n.storeSecondary(k, func(s *setConfig) map[string][]byte {
		s.Former = s.Primaries // a promotion tells it
		s.Primaries, s.PrimaryAPIAddr, s.ClusterAddr = nil, "", ""
		return nil
	})
	if err != nil {
		return "", err
	}
	n.link[k].update(func(l *linkState) {
		l.Known, l.Primary, l.DialError, l.LastRefusal = nil, primaryPeer{}, "", ""
		l.Machine = State{Name: StateIdle, Reason: noPrimary(k), Syncing: n.engine.SyncState() != nil}
	})
	n.log.Info("the primary is forgotten", "set", string(k), "addresses", strings.Join(set.Primaries, ", "))
	if set.Certificate == "" {
		return fmt.Sprintf(text, k), nil
	}
	return fmt.Sprintf(text+" If that was not meant, update_primary_addrs=%s takes it back.", k, strings.Join(set.Primaries, ",")), nil
}

// updateAddrs tries the addresses over the cluster port, one by one; the first that answers as this set's primary wins.
func (n *Node) updateAddrs(ctx context.Context, k Kind, set *setConfig, addrs []string) (string, error) {
	if set.Certificate == "" {
		return "", refuse("this cluster was demoted and has no certificate of a primary yet: give token instead of update_primary_addrs")
	}
	if len(addrs) > maxUpdateAddrs {
		return "", refuse("update_primary_addrs names %d addresses: at most %d", len(addrs), maxUpdateAddrs)
	}
	for _, a := range addrs {
		if _, ok := hostPort(a); !ok {
			return "", refuse("update_primary_addrs must be cluster addresses, host:port or https://host:port")
		}
	}
	addrs = cleanAddrs(addrs)
	first := ""
	var all error
	for _, a := range addrs {
		conn, err := n.dialOne(ctx, k, purposeStream, a)
		if err == nil {
			conn.Close()
			first = a
			break
		}
		all = errors.Join(all, fmt.Errorf("%s: %w", a, err))
	}
	if first == "" {
		return "", unreachablef("none of update_primary_addrs answers as the primary of this %s set; nothing was changed: %w", k, all)
	}
	known := append([]string{first}, addrs...)
	goOn := n.pauseLife(k)
	defer goOn()
	err := n.storeSecondary(k, func(s *setConfig) map[string][]byte {
		s.Primaries, s.ClusterAddr = cleanAddrs(known), first
		return nil
	})
	if err != nil {
		return "", err
	}
	n.link[k].update(func(l *linkState) { l.Known = cleanAddrs(known) })
	n.log.Info("the primary has other addresses", "set", string(k), "address", first)
	return fmt.Sprintf("This cluster follows its %s primary at %s.", k, first), nil
}

func (n *Node) updateByToken(ctx context.Context, k Kind, set *setConfig, p UpdatePrimary) (string, error) {
	if isKeyToken(*p.Token) {
		w, c, key, err := n.openKeyToken(k, *p.Token)
		if err != nil {
			return "", err
		}
		return n.follows(k, set, w, c, key, "")
	}
	claims, err := token.Peek(*p.Token)
	if err != nil {
		return "", refuse("token: %v", err)
	}
	switch {
	case Kind(claims.Kind) != k:
		return "", refuse("the token is for a %s secondary: use sys/replication/%s/secondary/update-primary", claims.Kind, claims.Kind)
	case set.JTI == claims.ID && len(set.Primaries) > 0 && !n.Revoked(k):
		return "This cluster follows the primary that this token names already; nothing was changed.", nil
	case claims.Set != set.Set:
		return "", refuse("the token is of set %s, this cluster belongs to set %s: its data are of another origin; disable it (%s/secondary/disable) and enable it anew, which begins empty", claims.Set, set.Set, k)
	}
	api, err := newPrimaryAPI(SecondaryEnable{PrimaryAPIAddr: p.PrimaryAPIAddr, CAFile: p.CAFile, CAPath: p.CAPath}, claims, n.now)
	if err != nil {
		return "", err
	}
	w, key, err := n.activate(ctx, k, api, *p.Token)
	if err != nil {
		return "", err
	}
	warning, err := n.follows(k, set, w, claims, key, api.base.String())
	if err == nil && api.base.Scheme == "http" {
		warning += " The primary's API address is plain http: token and answer crossed the network unprotected."
	}
	return warning, err
}

// follows makes the cluster a secondary of the primary that accepted it, with the data that it holds.
func (n *Node) follows(k Kind, old *setConfig, w *welcome, c token.Claims, key []byte, apiAddr string) (string, error) {
	if !bytes.Equal(w.secret, n.engine.Identity().DigestSecret) {
		return "", refuse("the primary's digests are made with another key: its data are of another origin than this cluster's; disable this cluster (%s/secondary/disable) and enable it anew, which begins empty", k)
	}
	goOn := n.pauseLife(k)
	defer goOn()
	err := n.storeSecondary(k, func(s *setConfig) map[string][]byte {
		next := w.set(c, apiAddr)
		next.Generation, next.Joined = n.now().UnixNano(), old.Joined
		if len(next.Primaries) > 0 {
			next.ClusterAddr = next.Primaries[0]
		}
		notes := map[string][]byte{noteTLSKey(k): key, notePending(c.ID): nil, notePublicKey(k): nil, noteFarewell(k): nil} // another has not handed over
		if left := n.heraldOf(k, s); left != nil && !sameAddrs(left.Addrs, next.Primaries) {
			notes[noteHerald(k)] = mustJSON(left)
		}
		*s = *next
		return notes
	})
	if err != nil {
		return "", err
	}
	n.link[k].update(func(l *linkState) {
		l.Known, l.Primary, l.DialError, l.LastRefusal = w.ClusterAddrs, primaryPeer{}, "", ""
		l.Machine.Revoked = false
	})
	n.log.Info("the primary is another", "set", string(k), "cluster_id", w.Set, "secondary", w.Secondary)
	return fmt.Sprintf("This cluster becomes a %s secondary of another primary and keeps its data: what differs is brought into line.", k), nil
}
