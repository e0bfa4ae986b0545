package replication

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The CA of a set's cluster port ends one day, and somebody may have seen its key. It is replaced while the set works, and nobody enrols again. Each step is
// one durable write, and what a crash leaves half done goes on with the next start:
//
//	add     another CA is made, and told to the secondaries by heartbeat; the one there was signs everything
//	switch  every secondary keeps the other durably: it signs from now on, and heartbeats make the secondaries ask for certificates of it
//	drop    every secondary keeps such a certificate durably: the former is trusted no more, and what it vouched for is cut
//
// A secondary that is away holds the next step up until it is back, is revoked, or has a certificate that ended: then it needs an activation token anyway.
// Activation tokens that are not redeemed yet hold the switch up too, as they name the CA.

// rollLook is how often it is looked at least whether a CA's replacement is due or can go on: what has ended meanwhile tells nobody.
const rollLook = time.Minute

// errCAReplaced ends what a former CA vouched for. The secondary connects anew, with its newest certificate.
var errCAReplaced = status.Error(codes.Unauthenticated, "the CA that vouched for this connection was replaced: connect anew")

// memberTrust is what a secondary says of its trust.
type memberTrust struct {
	JTI       string // of the enrolment
	Trusts    string // hash of the newest CA that it keeps
	Authority string // hash of the CA whose certificate it shows
}

// trustTold is what a heartbeat said about trust: the hash of the list, by which a secondary confirms it, and of the newest CA in it.
type trustTold struct {
	list   [32]byte
	newest string
}

// told lists the CAs that members of the set are to trust, the one that signs first.
func (s *setConfig) told() []string {
	all := []string{s.CA}
	if s.NextCA != "" {
		all = append(all, s.NextCA)
	}
	former, _ := parseCertificates([]byte(s.Bundle)) // an empty one does not parse
	for _, c := range former {
		if text := encodeCertificate(c.Raw); text != s.CA && text != s.NextCA {
			all = append(all, text)
		}
	}
	return all
}

// rolls reports whether a primary's CA is being replaced.
func (s *setConfig) rolls() bool { return s.NextCA != "" || s.FormerCA != "" }

// hashOfCA names a CA; empty for what is none.
func hashOfCA(text string) string {
	certs, err := parseCertificates([]byte(text))
	if err != nil {
		return ""
	}
	sum := sha256Sum(certs[0].Raw)
	return hex.EncodeToString(sum[:])
}

func (n *Node) trustTold(k Kind, authorities []string) trustTold {
	set := n.set(k)
	if set == nil || len(authorities) == 0 {
		return trustTold{}
	}
	return trustTold{sha256Sum([]byte(strings.Join(authorities, ""))), hashOfCA(cmp.Or(set.NextCA, set.CA))}
}

// trusts keeps what a secondary confirmed.
func (n *Node) trusts(p peer, a *ack, told trustTold) {
	if a.Trust == nil || *a.Trust != told.list || told.newest == "" {
		return
	}
	says := memberTrust{JTI: p.JTI, Trusts: told.newest, Authority: hex.EncodeToString(a.Authority[:])}
	if known, _ := n.peers.get(p.Kind, p.ID); known.Trust == says {
		return
	}
	n.peers.update(p.Kind, p.ID, func(ps *peerState) { ps.Trust = says })
	wake(n.rolling)
}

// vouched reports whether a connection's certificate is of a CA that is trusted now: it lives longer than the trust that it began with.
func (n *Node) vouched(k Kind, s *tls.ConnectionState) bool {
	set := n.set(k)
	if set == nil {
		return true // it is told that this cluster has left the set
	}
	trusted := string(set.trusted())
	for _, chain := range s.VerifiedChains {
		if strings.Contains(trusted, encodeCertificate(chain[len(chain)-1].Raw)) {
			return true
		}
	}
	return false
}

// RollAuthority begins to replace the CA of a set. A repeated call answers with a warning that says what is waited for.
func (n *Node) RollAuthority(ctx context.Context, k Kind) (warning string, err error) {
	n.admin.Lock()
	defer n.admin.Unlock()
	if in := n.underWay(); in != nil {
		return "", in.inTheWay()
	}
	set, err := n.primarySet(k)
	if err != nil {
		return "", err
	}
	if set.rolls() {
		waits, err := n.rollWaits(k, set)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("The CA of this %s set is being replaced already%s.", k, waitText(waits)), nil
	}
	if err := n.beginRoll(ctx, k, set); err != nil {
		return "", err
	}
	return fmt.Sprintf("The CA of this %s set is being replaced: its secondaries are told of the new one, then renew their certificates, then the former one is dropped. ca_roll in sys/replication/%s/status shows how far that is.", k, k), nil
}

func waitText(waits []string) string {
	if len(waits) == 0 {
		return ""
	}
	return ", and waits for " + strings.Join(waits, ", ") + ": connect or revoke them"
}

// beginRoll makes the next CA. Its key is stored first: without the configuration it counts for nothing.
func (n *Node) beginRoll(ctx context.Context, k Kind, set *setConfig) error {
	ca, err := newAuthority(k, set.Set, n.now(), n.cfg.AuthorityLife)
	if err != nil {
		return err
	}
	key, err := encodeKey(ca.key)
	if err != nil {
		return err
	}
	if err := n.engine.NodeSet(map[string][]byte{noteNextCAKey(k): key}); err != nil {
		return fmt.Errorf("storing the next CA's key: %w", err)
	}
	err = n.storePrimary(ctx, k, func(s *setConfig) {
		s.NextCA, s.RollSince = encodeCertificate(ca.cert.Raw), n.now().Unix()
	})
	if err != nil {
		return err
	}
	n.log.Info("the set's CA is being replaced: its secondaries are told of the next", "set", string(k))
	wake(n.rolling)
	return nil
}

// keepAuthorities begins the replacement of CAs in time, and takes its steps, until ctx ends.
func (n *Node) keepAuthorities(ctx context.Context) {
	for {
		for _, k := range kinds {
			if err := n.roll(ctx, k); err != nil && ctx.Err() == nil {
				n.log.Warn("the replacement of the set's CA does not go on; it is tried again", "set", string(k), "error", err)
			}
		}
		if !sleepOr(ctx, n.lookAtRoll(), n.rolling) {
			return
		}
	}
}

func (n *Node) lookAtRoll() time.Duration {
	return min(rollLook, n.cfg.AuthorityLife/100, n.cfg.CertificateLife/10)
}

// roll takes the steps of a CA's replacement that can be taken now.
func (n *Node) roll(ctx context.Context, k Kind) error {
	if set := n.set(k); set == nil || set.Mode != Primary || !set.rolls() && !n.rollDue(set) {
		return nil
	}
	n.admin.Lock()
	defer n.admin.Unlock()
	set := n.set(k)
	if set == nil || set.Mode != Primary || n.underWay() != nil || n.reopening || n.demoting(k) {
		return nil
	}
	if !set.rolls() {
		return n.beginRoll(ctx, k, set)
	}
	if err := n.storeTrust(ctx, k); err != nil {
		return err
	}
	waits, err := n.rollWaits(k, set)
	if err != nil || len(waits) > 0 {
		return err
	}
	if set.NextCA != "" {
		return n.switchCA(ctx, k, set)
	}
	return n.dropCA(ctx, k, set)
}

// rollDue reports whether a CA has less than a quarter of its life left.
func (n *Node) rollDue(set *setConfig) bool {
	certs, err := parseCertificates([]byte(set.CA))
	if err != nil {
		return false // whoever uses it says so
	}
	ca := certs[0]
	return n.now().After(ca.NotAfter.Add(-ca.NotAfter.Sub(ca.NotBefore.Add(backdate)) / 4))
}

func (n *Node) switchCA(ctx context.Context, k Kind, set *setConfig) error {
	if _, err := n.authorityFor(k, set.NextCA); err != nil { // an earlier attempt ended between its two writes
		n.log.Warn("the next CA's key is not here: another is made", "set", string(k))
		return n.beginRoll(ctx, k, set)
	}
	err := n.storePrimary(ctx, k, func(s *setConfig) {
		s.Bundle, s.FormerCA = addCA(s.Bundle, s.CA), s.CA
		s.CA, s.NextCA = s.NextCA, ""
	})
	if err != nil {
		return err
	}
	n.log.Info("the set has another CA: its secondaries renew their certificates", "set", string(k))
	wake(n.rolling)
	return n.forgetFormerKey(k)
}

// forgetFormerKey puts the key of the CA in use where the former's is.
func (n *Node) forgetFormerKey(k Kind) error {
	next := n.engine.NodeGet(noteNextCAKey(k))
	if next == nil {
		return nil
	}
	if err := n.engine.NodeSet(map[string][]byte{noteCAKey(k): next, noteNextCAKey(k): nil}); err != nil {
		return fmt.Errorf("removing the former CA's key: %w", err)
	}
	return nil
}

func (n *Node) dropCA(ctx context.Context, k Kind, set *setConfig) error {
	if err := n.forgetFormerKey(k); err != nil {
		return err
	}
	err := n.storePrimary(ctx, k, func(s *setConfig) {
		s.Bundle = strings.ReplaceAll(s.Bundle, s.FormerCA, "")
		s.FormerCA, s.RollSince = "", 0
	})
	if err != nil {
		return err
	}
	cut := n.streams.cutKind(k, errCAReplaced)
	n.log.Info("the set's former CA is dropped", "set", string(k), "streams", cut)
	return nil
}

// rollWaits names the secondaries that the next step waits for.
func (n *Node) rollWaits(k Kind, set *setConfig) ([]string, error) {
	known, err := n.secondaries(k, false)
	if err != nil {
		return nil, err
	}
	waits := []string{}
	ca, next := hashOfCA(set.CA), hashOfCA(set.NextCA)
	for _, r := range known {
		done := r.Authority == ca
		if set.NextCA != "" {
			done = r.Trusts == next
		} else if r.State == secondaryIssued { // its token names the CA in use
			done = true
		}
		if until := r.goodUntil(); !done && (until.IsZero() || !n.now().After(until)) {
			waits = append(waits, r.ID)
		}
	}
	return waits, nil
}

// trustNotes is how often what a secondary says of its trust is noted within a look: a replacement takes two notes of each, one that takes back what it said a
// third. Each is an entry of the log, and what is said meanwhile waits for the next look.
const trustNotes = 4

// mayNoteTrust counts a note of what a secondary says.
func (n *Node) mayNoteTrust(k Kind, id string) (may bool) {
	now := n.now()
	n.peers.update(k, id, func(ps *peerState) {
		t := &ps.TrustNotes
		if in := now.Sub(t.since); in < 0 || in >= n.lookAtRoll() {
			*t = paced{since: now}
		}
		if may = t.count < trustNotes; may {
			t.count++
		}
	})
	return may
}

// storeTrust notes in the secondaries' records what they confirmed: it holds over a restart of this node.
func (n *Node) storeTrust(ctx context.Context, k Kind) error {
	known, err := n.secondaries(k, false)
	if err != nil {
		return err
	}
	for _, r := range known {
		p, _ := n.peers.get(k, r.ID)
		if t := p.Trust; t.JTI == r.JTI && (t.Trusts != r.Trusts || t.Authority != r.Authority) && n.mayNoteTrust(k, r.ID) {
			_, err := n.changeSecondary(ctx, k, r.ID, r.JTI, func(r *secondaryRecord) { r.Trusts, r.Authority = t.Trusts, t.Authority })
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// rollStatus tells when the CA ends, and how far its replacement is.
func (n *Node) rollStatus(k Kind, out map[string]any) {
	set := n.set(k)
	if set == nil {
		return
	}
	if certs, err := parseCertificates([]byte(set.CA)); err == nil {
		out["ca_expires_in_seconds"] = int64(certs[0].NotAfter.Sub(n.now()) / time.Second)
	}
	if !set.rolls() {
		return
	}
	waits, err := n.rollWaits(k, set)
	if err != nil {
		return // the secondaries' own part of the status says it
	}
	state := "distributing"
	if set.NextCA == "" {
		state = "renewing"
	}
	out["ca_roll"] = map[string]any{"state": state, "since": stamp(time.Unix(set.RollSince, 0)), "waits_for": waits}
}

// ---- the secondary's side

// ofFormerCA reports whether this secondary's certificate is of another CA than the one that the primary signs with.
func (n *Node) ofFormerCA(k Kind) bool {
	set := n.set(k)
	if set == nil || set.Mode != Secondary {
		return false
	}
	cert, err := n.clientCertificate(k)
	if err != nil {
		return false
	}
	ca, err := parseCertificates([]byte(set.CA))
	return err == nil && cert.Leaf.CheckSignatureFrom(ca[0]) != nil
}

// trust is what the primary is told, once after each heartbeat, of whom this secondary trusts: what is told is durable.
func (sub *subscription) trust() (list, authority *[32]byte) {
	sub.mu.Lock()
	heard := sub.clock
	sub.mu.Unlock()
	set := sub.l.n.set(sub.l.kind)
	if set == nil || heard == sub.confirmed {
		return nil, nil
	}
	sub.confirmed = heard
	trusted := sha256Sum(set.trusted())
	issuer := issuerOf(set)
	return &trusted, &issuer
}

// issuerOf is the hash of the CA that signed a secondary's certificate, zero when it is none of the trusted.
func issuerOf(set *setConfig) (hash [32]byte) {
	own, err := parseCertificates([]byte(set.Certificate))
	if err != nil {
		return hash
	}
	cas, err := parseCertificates(set.trusted())
	if err != nil {
		return hash
	}
	for _, ca := range cas {
		if signed(own[0], ca) {
			return sha256Sum(ca.Raw)
		}
	}
	return hash
}

func signed(c, by *x509.Certificate) bool { return c.CheckSignatureFrom(by) == nil }

// wake fills a channel of one slot.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
