package replication

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// rollOf is ca_roll of a primary's status, nil when nothing is under way.
func (c *cluster) rollOf(k Kind) map[string]any {
	roll, _ := c.n.Status(k)["ca_roll"].(map[string]any)
	return roll
}

func (c *cluster) roll(k Kind) {
	c.t.Helper()
	if warning, err := c.n.RollAuthority(enginetest.Context(c.t), k); err != nil || !strings.Contains(warning, "is being replaced") {
		c.t.Fatalf("replacing the CA: %q, %v", warning, err)
	}
}

// rolled waits for the end of a replacement and demands that nobody trusts or uses the former CA any more.
func (c *cluster) rolled(k Kind, former string, members ...*cluster) {
	c.t.Helper()
	c.until("the CA is replaced", func() bool { return c.rollOf(k) == nil && c.n.set(k).CA != former })
	set := c.n.set(k)
	if strings.Contains(string(set.trusted()), former) {
		c.t.Error("the primary trusts the former CA still")
	}
	if c.e.NodeGet(noteNextCAKey(k)) != nil {
		c.t.Error("a second CA key is left")
	}
	if _, err := loadAuthority([]byte(former), c.e.NodeGet(noteCAKey(k))); err == nil {
		c.t.Error("the former CA's key is kept")
	}
	for _, m := range members {
		m.until("a member trusts the new CA, and the former no more", func() bool {
			s := m.n.set(k)
			return s.CA == set.CA && !strings.Contains(string(s.trusted()), former)
		})
		if got := issuerOf(m.n.set(k)); got != caHashOf(c.t, set.CA) {
			c.t.Error("a member's certificate is not of the new CA")
		}
		c.caughtUp(k, m)
	}
}

func caHashOf(t testing.TB, text string) [32]byte {
	t.Helper()
	certs, err := parseCertificates([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return sha256Sum(certs[0].Raw)
}

// TestTheCAIsReplacedUnderLoadAndNobodyEnrolsAgain replaces the CAs of both sets while clients write here and through a performance secondary. One secondary
// is away, and the primary restarts meanwhile.
func TestTheCAIsReplacedUnderLoadAndNobodyEnrolsAgain(t *testing.T) {
	t.Parallel()
	p := newCapablePrimary(t, DR, Performance)
	p.handle = func(ctx context.Context, f *Forwarded) *ForwardedAnswer {
		done, err := p.e.Do(ctx, &engine.Tx{RequestID: f.RequestID, Writes: []engine.Write{enginetest.Put(second, storage.Replicated, f.Path, string(f.Body))}})
		if err != nil {
			return &ForwardedAnswer{Status: http.StatusInternalServerError}
		}
		return &ForwardedAnswer{Status: http.StatusNoContent, Index: done.Position.Index}
	}
	members := map[string]*cluster{"standby": p.follow(DR, "standby"), "eu": p.follow(Performance, "eu"), "away": p.follow(Performance, "away")}
	kindOf := func(id string) Kind { return map[bool]Kind{true: DR, false: Performance}[id == "standby"] }
	former, bytes, was, jti := map[Kind]string{}, map[string]uint64{}, map[string]resumes{}, map[string]string{}
	for id, m := range members {
		k := kindOf(id)
		p.caughtUp(k, m)
		former[k], jti[id] = p.n.set(k).CA, m.n.set(k).JTI
		bytes[id], was[id] = m.cost(k)
	}
	eu, away := members["eu"], members["away"]
	oldKey, oldCertificate := eu.e.NodeGet(noteTLSKey(Performance)), eu.n.set(Performance).Certificate
	forward := func() {
		t.Helper()
		a, _, err := eu.n.Forward(enginetest.Context(t), &Forwarded{Method: "PUT", Path: newID(), Body: []byte("v"), RequestID: newID()})
		if err != nil || a.Status != http.StatusNoContent {
			t.Errorf("a forwarded write: %+v, %v", a, err)
		}
	}
	forward() // on a connection of the former CA
	away.stop()
	was["away"], bytes["away"] = resumes{}, 0 // it counts anew when it is back

	stop := make(chan struct{})
	var load sync.WaitGroup
	load.Go(func() {
		pace := time.NewTicker(pause)
		defer pace.Stop()
		for {
			select {
			case <-stop:
				return
			case <-pace.C:
				p.write(shared, storage.Replicated, "k", 20)
			}
		}
	})
	p.roll(DR)
	p.roll(Performance)
	p.rolled(DR, former[DR])
	p.until("only the secondary that is away is waited for", func() bool {
		roll := p.rollOf(Performance)
		return roll["state"] == "distributing" && slices.Equal(roll["waits_for"].([]string), []string{"away"})
	})
	if warning, err := p.n.RollAuthority(enginetest.Context(t), Performance); err != nil || !strings.Contains(warning, "already, and waits for away") {
		t.Errorf("asked again: %q, %v", warning, err)
	}
	close(stop)
	load.Wait()
	p.restart()
	if roll := p.rollOf(Performance); roll == nil || !slices.Equal(roll["waits_for"].([]string), []string{"away"}) {
		t.Errorf("after a restart the replacement is %v", roll)
	}
	away.restart()
	p.rolled(DR, former[DR], members["standby"])
	p.rolled(Performance, former[Performance], eu, away)
	forward() // whatever its connection's certificate was of
	for id, m := range members {
		k := kindOf(id)
		if m.n.set(k).JTI != jti[id] {
			t.Errorf("%s enrolled again", id)
		}
		b, r := m.cost(k)
		if b != bytes[id] || r.Repair != was[id].Repair || r.Rewind != was[id].Rewind || r.Bootstrap != was[id].Bootstrap || r.Continue <= was[id].Continue {
			t.Errorf("%s: the replacement cost %d bytes beside the stream, and resumes went from %+v to %+v; want it to continue only", id, b-bytes[id], was[id], r)
		}
	}

	pair, err := keyPair([]byte(oldCertificate), oldKey)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := eu.n.clientTLS(Performance, purposeStream)
	if err != nil {
		t.Fatal(err)
	}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
	if err := verdict(p.bind, cfg); err == nil {
		t.Error("a certificate of the former CA, which has not ended, lets one in")
	}
}

// TestAMemberThatAlternatesWhatItTrustsFillsNoLog says another thing after each of a replacement's looks.
func TestAMemberThatAlternatesWhatItTrustsFillsNoLog(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	p := newCapablePrimary(t, Performance)
	p.follow(Performance, "hostile").stop()
	rec, err := p.n.readSecondary(Performance, "hostile")
	if err != nil {
		t.Fatal(err)
	}
	say := func(what string) {
		t.Helper()
		says := memberTrust{JTI: rec.JTI, Trusts: what}
		p.n.peers.update(Performance, "hostile", func(ps *peerState) { ps.Trust = says })
		if err := p.n.storeTrust(ctx, Performance); err != nil {
			t.Fatal(err)
		}
	}
	before := p.e.Position().Index
	for i := range 50 {
		say(fmt.Sprint("of the CA ", i%2))
	}
	if entries := p.e.Position().Index - before; entries != trustNotes {
		t.Errorf("50 sayings made %d entries, want %d", entries, trustNotes)
	}
	p.n.peers.update(Performance, "hostile", func(ps *peerState) { ps.TrustNotes.since = ps.TrustNotes.since.Add(-rollLook) })
	say("the truth")
	if rec, err := p.n.readSecondary(Performance, "hostile"); err != nil || rec.Trusts != "the truth" {
		t.Errorf("a look later the record says %q, %v", rec.Trusts, err)
	}
}

func TestACAsReplacementWaitsForTokensThatNameTheFormer(t *testing.T) {
	t.Parallel()
	p := newCapablePrimary(t, DR)
	former := p.n.set(DR).CA
	before, err := p.n.SecondaryToken(enginetest.Context(t), DR, "before", 0)
	if err != nil {
		t.Fatal(err)
	}
	p.roll(DR)
	p.until("the token is waited for", func() bool { return slices.Equal(p.rollOf(DR)["waits_for"].([]string), []string{"before"}) })
	meanwhile := p.follow(DR, "meanwhile")
	p.until("who enrols meanwhile is told of the new CA", func() bool {
		return strings.Contains(string(meanwhile.n.set(DR).trusted()), p.n.set(DR).NextCA) && slices.Equal(p.rollOf(DR)["waits_for"].([]string), []string{"before"})
	})
	if _, request := mustRequest(t); request != "" {
		if _, err := p.n.Redeem(enginetest.Context(t), before.Token, request, "test"); err != nil {
			t.Fatalf("redeeming a token from before: %v", err)
		}
	}
	if got := p.rollOf(DR)["waits_for"].([]string); !slices.Equal(got, []string{"before"}) {
		t.Errorf("who redeemed it, and has not connected, is not waited for: %v", got)
	}
	if err := p.n.RevokeSecondary(enginetest.Context(t), DR, "before"); err != nil {
		t.Fatal(err)
	}
	p.rolled(DR, former, meanwhile)
}

func TestACAsReplacementGoesOnWithoutASecondaryWhoseCertificateEnded(t *testing.T) {
	t.Parallel()
	p := shortLived(t)
	former := p.n.set(DR).CA
	s := p.follow(DR, "eu")
	p.write(shared, storage.Replicated, "before", 50)
	p.caughtUp(DR, s)
	s.stop()
	p.roll(DR)
	if got := p.rollOf(DR)["waits_for"].([]string); !slices.Equal(got, []string{"eu"}) {
		t.Errorf("waits for %v", got)
	}
	p.rolled(DR, former)
	s.restart()
	s.until("status says what to do", func() bool {
		reason, _ := s.n.Status(DR)["reason"].(string)
		return strings.Contains(reason, "update-primary") && !strings.Contains(reason, "tls:") && !strings.Contains(reason, "x509:")
	})
	s.repoint(DR, p, "eu")
	if bytes, r := s.cost(DR); bytes != 0 || r.Continue == 0 || r.Repair+r.Rewind+r.Bootstrap != 0 {
		t.Errorf("coming back cost %d bytes, resumes %+v; want it to continue", bytes, r)
	}
}

// TestACAsReplacementIsKillSafe leaves behind what a crash after each of its writes does, and starts again.
func TestACAsReplacementIsKillSafe(t *testing.T) {
	t.Parallel()
	p := newCapablePrimary(t, DR, Performance)
	members := map[Kind]*cluster{DR: p.follow(DR, "standby"), Performance: p.follow(Performance, "eu")}
	for k, m := range members {
		p.caughtUp(k, m)
	}
	ctx := enginetest.Context(t)
	for _, tt := range []struct {
		name  string
		crash func(k Kind, set *setConfig) error // takes the writes up to the crash; the node is stopped
		begun bool
	}{
		{"the next CA's key is stored, and nothing else", func(k Kind, set *setConfig) error {
			_, key := newCA(t, k, set)
			return p.e.NodeSet(map[string][]byte{noteNextCAKey(k): key})
		}, false},
		{"the replacement has begun", func(k Kind, set *setConfig) error { return p.n.beginRoll(ctx, k, set) }, true},
		{"the configuration names a CA whose key was overwritten by a second attempt", func(k Kind, set *setConfig) error {
			if err := p.n.beginRoll(ctx, k, set); err != nil {
				return err
			}
			_, key := newCA(t, k, set)
			return p.e.NodeSet(map[string][]byte{noteNextCAKey(k): key})
		}, true},
	} {
		for k, m := range members {
			former := p.n.set(k).CA
			p.stop()
			if err := tt.crash(k, p.n.set(k)); err != nil {
				t.Fatalf("%s, %s: %v", tt.name, k, err)
			}
			p.restart()
			if p.n.set(k).rolls() != tt.begun {
				t.Errorf("%s, %s: a replacement is under way: %v, want %v", tt.name, k, !tt.begun, tt.begun)
			}
			if !tt.begun {
				p.roll(k)
			}
			p.rolled(k, former, m)
		}
	}
	for k, m := range members { // the other CA signs, and its key is not where it belongs yet
		former := p.n.set(k).CA
		p.n.mustHold(t, k)
		p.roll(k)
		m.until("the secondary knows the next CA", func() bool { return strings.Contains(m.n.set(k).Bundle, p.n.set(k).NextCA) })
		p.stop()
		err := p.n.storePrimary(ctx, k, func(s *setConfig) {
			s.Bundle, s.FormerCA, s.CA, s.NextCA = addCA(s.Bundle, s.CA), s.CA, s.NextCA, ""
		})
		if err != nil {
			t.Fatal(err)
		}
		p.restart()
		p.rolled(k, former, m)
	}
}

// mustHold keeps a replacement from going on: it issues a token that is not redeemed.
func (n *Node) mustHold(t *testing.T, k Kind) {
	t.Helper()
	if _, err := n.SecondaryToken(enginetest.Context(t), k, "held", 0); err != nil {
		t.Fatal(err)
	}
}

// newCA makes a CA beside the one that a set has.
func newCA(t *testing.T, k Kind, set *setConfig) (certificate string, key []byte) {
	t.Helper()
	ca, err := newAuthority(k, set.Set, time.Now(), caLife)
	if err != nil {
		t.Fatal(err)
	}
	if key, err = encodeKey(ca.key); err != nil {
		t.Fatal(err)
	}
	return encodeCertificate(ca.cert.Raw), key
}

func TestACAIsReplacedByItselfWhenAQuarterOfItsLifeIsLeft(t *testing.T) {
	t.Parallel()
	p := newCluster(t, "the primary", enginetest.New(t, engine.Writer), "127.0.0.1:0")
	p.now = shift(-caLife*3/4 - 2*time.Hour)
	p.run()
	for _, k := range kinds {
		if _, err := p.n.EnablePrimary(enginetest.Context(t), k, p.bind); err != nil {
			t.Fatal(err)
		}
	}
	former := map[Kind]string{DR: p.n.set(DR).CA, Performance: p.n.set(Performance).CA}
	p.now = shift(-2 * time.Hour)
	p.restart()
	for _, k := range kinds {
		p.rolled(k, former[k])
		if left := p.n.Status(k)["ca_expires_in_seconds"].(int64); left < int64(caLife/time.Second)-60 {
			t.Errorf("the new CA ends in %d s", left)
		}
	}
	p.now = nil
	p.restart()
	for _, k := range kinds {
		if set := p.n.set(k); p.n.rollDue(set) || set.rolls() {
			t.Errorf("a new %s CA is to be replaced", k)
		}
	}
}
