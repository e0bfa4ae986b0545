package replication

import (
	"crypto/x509"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// shortLife is a certificate's life in these tests: long enough that a machine under load renews in the last third of it.
const shortLife = 3 * time.Second

// shortLived runs a primary whose secondaries' certificates end soon.
func shortLived(t *testing.T) *cluster {
	t.Helper()
	p := newCapablePrimary(t)
	p.stop()
	p.certificateLife = shortLife
	p.run()
	if _, err := p.n.EnablePrimary(enginetest.Context(t), DR, p.bind); err != nil {
		t.Fatal(err)
	}
	return p
}

func shift(by time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(by) }
}

func TestCertificatesAreRenewedUnderLoadWhateverTheClocksSay(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]time.Duration{
		"the clocks agree": 0, "the secondary's is ten minutes fast": 10 * time.Minute, "the secondary's is ten minutes slow": -10 * time.Minute,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := shortLived(t)
			s := p.enrol(DR, "eu")
			s.now = shift(off)
			s.run()
			p.caughtUp(DR, s)
			var load sync.WaitGroup
			stop := make(chan struct{})
			load.Go(func() {
				pace := time.NewTicker(pause)
				defer pace.Stop()
				for {
					select {
					case <-stop:
						return
					case <-pace.C:
						p.write(storage.KeyspaceID{7}, storage.Replicated, "k", 10)
					}
				}
			})
			keys := map[string]bool{}
			s.until("three certificates came after the first, each for a key of its own", func() bool {
				keys[string(s.e.NodeGet(noteTLSKey(DR)))] = true
				return len(keys) > 3
			})
			close(stop)
			load.Wait()
			p.caughtUp(DR, s)
			if d, err := s.n.renewalDue(DR); err != nil || !time.Now().Before(d.end) {
				t.Errorf("the certificate in use ended at %v: %v", d.end, err)
			}
			if _, r := s.cost(DR); r.Repair+r.Rewind > 0 {
				t.Errorf("renewing cost a comparison: %+v", r)
			}
			left := s.n.Status(DR)["certificate_expires_in_seconds"].(int64)
			if left < -1 || left > int64(shortLife/time.Second) {
				t.Errorf("status says that %d s are left, of a life of %v", left, shortLife)
			}
		})
	}
}

func TestARenewalThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	p := shortLived(t)
	key := p.e.NodeGet(noteCAKey(DR))
	s := p.follow(DR, "eu")
	p.caughtUp(DR, s)
	if err := p.e.NodeSet(map[string][]byte{noteCAKey(DR): nil}); err != nil {
		t.Fatal(err)
	}
	first := string(s.e.NodeGet(noteTLSKey(DR)))
	s.until("a renewal failed, which the log says", func() bool { return strings.Contains(s.logs.String(), "certificate not renewed, trying again") })
	if string(s.e.NodeGet(noteTLSKey(DR))) != first {
		t.Error("a failed renewal changed the key")
	}
	s.until("it is warned that the certificate ends soon", func() bool {
		return strings.Contains(s.logs.String(), "less than a third of its life left") || strings.Contains(s.logs.String(), "certificate has ended")
	})
	p.write(storage.KeyspaceID{7}, storage.Replicated, "k", 10)
	p.caughtUp(DR, s) // the link stays
	if err := p.e.NodeSet(map[string][]byte{noteCAKey(DR): key}); err != nil {
		t.Fatal(err)
	}
	s.until("a later attempt succeeded", func() bool { return string(s.e.NodeGet(noteTLSKey(DR))) != first })
}

func TestASecondaryWhoseCertificateEndedTakesANewTokenAndCopiesNothing(t *testing.T) {
	t.Parallel()
	p := shortLived(t)
	s := p.follow(DR, "eu")
	p.write(storage.KeyspaceID{7}, storage.Replicated, "before", 200)
	p.caughtUp(DR, s)
	s.stop()
	p.write(storage.KeyspaceID{7}, storage.Replicated, "meanwhile", 50)
	d, err := s.n.renewalDue(DR)
	if err != nil {
		t.Fatal(err)
	}
	s.until("its certificate has ended", func() bool { return time.Now().After(d.end) })
	s.restart()
	s.until("status says what to do", func() bool {
		reason, _ := s.n.Status(DR)["reason"].(string)
		return strings.Contains(reason, "certificate has ended") && strings.Contains(reason, "update-primary")
	})
	if left := s.n.Status(DR)["certificate_expires_in_seconds"].(int64); left > 0 {
		t.Errorf("status says that %d s are left", left)
	}
	s.repoint(DR, p, "eu")
	bytes, r := s.cost(DR)
	if bytes != 0 || r.Continue == 0 || r.Repair+r.Rewind+r.Bootstrap != 0 {
		t.Errorf("it transferred %d bytes beside the stream, and went on as %+v; want it to continue only", bytes, r)
	}
}

// TestARenewalRepeatedIsNoEntry has a member renew again and again: it is served, its key is certified, and the log grows once a tenth of a life.
func TestARenewalRepeatedIsNoEntry(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	ctx := enginetest.Context(t)
	s.mustEnable(DR)
	token := s.mustToken(DR, "eu")
	_, request := mustRequest(t)
	if _, err := s.Redeem(ctx, token, request, "test"); err != nil {
		t.Fatal(err)
	}
	rec := s.mustRecord(DR, "eu")
	who := peer{ID: "eu", Kind: DR, Set: rec.Set, JTI: rec.JTI}
	renewed := func() *x509.Certificate {
		t.Helper()
		text, err := s.renew(ctx, who, []byte(request))
		if err != nil {
			t.Fatal(err)
		}
		certs, err := parseCertificates(text)
		if err != nil {
			t.Fatal(err)
		}
		return certs[0]
	}
	for range 2 {
		s.clock.advance(memberLife * 2 / 3)
		before := s.e.Position().Index
		first := renewed()
		if got := s.e.Position().Index - before; got != 1 {
			t.Errorf("the first renewal in its time is %d entries, want 1", got)
		}
		for range renewBurst - 1 {
			renewed()
		}
		if _, err := s.renew(ctx, who, []byte(request)); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("one more within the window: got %v, want it refused for now", err)
		}
		s.clock.advance(memberLife / 11)
		if again := renewed(); !again.NotAfter.Equal(first.NotAfter) {
			t.Errorf("one soon after ends at %v, want %v as the first does", again.NotAfter, first.NotAfter)
		}
		if got := s.e.Position().Index - before; got != 1 {
			t.Errorf("with those that were asked for soon after it is %d entries, want 1", got)
		}
		if until := s.mustRecord(DR, "eu").CertificateUntil; until < first.NotAfter.Unix() {
			t.Errorf("the record says that certificates end at %d, and one ends at %d", until, first.NotAfter.Unix())
		}
	}

	// Another CA certifies it at once, however young the certificate is.
	if _, err := s.RollAuthority(ctx, DR); err != nil {
		t.Fatal(err)
	}
	former := s.set(DR).CA
	if err := s.switchCA(ctx, DR, s.set(DR)); err != nil {
		t.Fatal(err)
	}
	before := s.e.Position().Index
	cas, err := parseCertificates([]byte(s.set(DR).CA))
	if err != nil {
		t.Fatal(err)
	}
	if c := renewed(); !signed(c, cas[0]) || s.set(DR).CA == former || s.e.Position().Index != before {
		t.Error("after the CA was replaced the renewal is not of the new one, or is an entry")
	}
}

// TestARenewalEndsWithinWhatIsNoted: what is noted of a member is never before the end of what it has.
func TestARenewalEndsWithinWhatIsNoted(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	for _, tt := range []struct {
		name  string
		until time.Duration // of the record, from now; 0: nothing is noted
		end   time.Duration
		noted bool
	}{
		{"nothing is noted", 0, 100 * time.Hour, false},
		{"the newest ended", -time.Hour, 100 * time.Hour, false},
		{"the newest is two thirds old", 33 * time.Hour, 100 * time.Hour, false},
		{"the newest is just over a tenth old", 90*time.Hour - time.Second, 100 * time.Hour, false},
		{"the newest is a tenth old", 90 * time.Hour, 90 * time.Hour, true},
		{"the newest was made this second", 100 * time.Hour, 100 * time.Hour, true},
		{"the newest is of a time in which they lasted longer", 500 * time.Hour, 100 * time.Hour, true},
	} {
		rec := &secondaryRecord{}
		if tt.until != 0 {
			rec.CertificateUntil = now.Add(tt.until).Unix()
		}
		end, noted := renewedUntil(rec, now, 100*time.Hour)
		if !end.Equal(now.Add(tt.end)) || noted != tt.noted {
			t.Errorf("%s: it ends %v from now, noted: %v; want %v and %v", tt.name, end.Sub(now), noted, tt.end, tt.noted)
		}
	}
}
