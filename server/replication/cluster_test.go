package replication

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/lockstepdb/lockstep/server/engine/enginetest"
)

// pair is a running primary and a secondary's node that is activated and not following.
func pair(t *testing.T, k Kind) (p, s *station) {
	t.Helper()
	p, s = newStation(t), newStation(t)
	p.run()
	p.mustEnable(k)
	s.activated(k, p.mustToken(k, "eu"))
	return p, s
}

func TestASecondaryDialsItsPrimary(t *testing.T) {
	for _, k := range kinds {
		_, s := pair(t, k)
		for _, purpose := range []string{purposeStream, purposeBulk} {
			conn, err := s.dial(enginetest.Context(t), k, purpose)
			if err != nil {
				t.Fatalf("%s %s: %v", k, purpose, err)
			}
			conn.Close()
		}
	}
}

func TestDialTriesAddressesInOrder(t *testing.T) {
	p, s := pair(t, DR)
	if err := s.knowPrimaries(DR, []string{freeAddr(t), "not an address", p.cfg.ClusterAddr}); err != nil {
		t.Fatal(err)
	}
	s.reload() // the last list is kept
	conn, err := s.dial(enginetest.Context(t), DR, purposeStream)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	p.stop()
	if _, err := s.dial(enginetest.Context(t), DR, purposeStream); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), p.cfg.ClusterAddr) {
		t.Errorf("got %v, want ErrUnreachable naming the addresses", err)
	}
}

func TestTheClusterPortRefuses(t *testing.T) {
	p, s := pair(t, DR)
	good, err := s.clientTLS(DR, purposeStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := verdict(p.cfg.ClusterAddr, good); err != nil {
		t.Fatalf("the good configuration: %v", err)
	}

	stranger := newStation(t) // a primary of its own, with a CA of its own
	stranger.mustEnable(DR)
	strangers, err := stranger.authority(DR, stranger.set(DR))
	if err != nil {
		t.Fatal(err)
	}
	own, err := p.authority(DR, p.set(DR))
	if err != nil {
		t.Fatal(err)
	}
	set := p.set(DR).Set
	signed := func(by *authority, who peer, now time.Time) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		keyPEM, request := mustRequest(t)
		r, err := parseRequest([]byte(request))
		if err != nil {
			t.Fatal(err)
		}
		der, err := by.signSecondary(r.PublicKey, who, now)
		if err != nil {
			t.Fatal(err)
		}
		c, err := keyPair([]byte(encodeCertificate(der)), []byte(keyPEM))
		if err != nil {
			t.Fatal(err)
		}
		return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil }
	}
	known, err := p.readSecondary(DR, "eu")
	if err != nil {
		t.Fatal(err)
	}
	me := peer{ID: "eu", Kind: DR, Set: set, JTI: known.JTI}
	with := func(change func(*peer)) peer { p := me; change(&p); return p }
	now := p.now()

	tests := []struct {
		name   string
		change func(*tls.Config)
		ok     bool
	}{
		{"a certificate that the primary signed anew", func(c *tls.Config) { c.GetClientCertificate = signed(own, me, now) }, true},
		{"no certificate", func(c *tls.Config) { c.GetClientCertificate = nil }, false},
		{"a certificate of another CA", func(c *tls.Config) { c.GetClientCertificate = signed(strangers, me, now) }, false},
		{"an unknown id", func(c *tls.Config) {
			c.GetClientCertificate = signed(own, with(func(p *peer) { p.ID = "us" }), now)
		}, false},
		{"an enrolment before the present one", func(c *tls.Config) {
			c.GetClientCertificate = signed(own, with(func(p *peer) { p.JTI = newID() }), now)
		}, false},
		{"another set in the certificate", func(c *tls.Config) {
			c.GetClientCertificate = signed(own, with(func(p *peer) { p.Set = "other" }), now)
		}, false},
		{"another kind in the certificate", func(c *tls.Config) {
			c.GetClientCertificate = signed(own, with(func(p *peer) { p.Kind = Performance }), now)
		}, false},
		{"an expired certificate", func(c *tls.Config) {
			c.GetClientCertificate = signed(own, me, now.Add(-memberLife-2*backdate))
		}, false},
		{"the primary's own certificate", func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return p.certs.server(DR) }
		}, false},
		{"TLS 1.2", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, false},
		{"no protocol", func(c *tls.Config) { c.NextProtos, c.VerifyConnection = nil, nil }, false},
		{"HTTP/2's protocol", func(c *tls.Config) { c.NextProtos, c.VerifyConnection = []string{"h2"}, nil }, false},
		{"the protocol of a set that is not here", func(c *tls.Config) {
			c.NextProtos, c.VerifyConnection = []string{protocolName(Performance, purposeStream)}, nil
		}, false},
		{"a DR secondary that wants to forward", func(c *tls.Config) {
			c.NextProtos, c.VerifyConnection = []string{protocolName(DR, purposeForward)}, nil
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good.Clone()
			tt.change(cfg)
			if err := verdict(p.cfg.ClusterAddr, cfg); (err == nil) != tt.ok {
				t.Errorf("got %v, want accepted %v", err, tt.ok)
			}
		})
	}
}

func TestRevocationRefusesNewAndResumedConnections(t *testing.T) {
	p, s := pair(t, DR)
	cfg, err := s.clientTLS(DR, purposeStream)
	if err != nil {
		t.Fatal(err)
	}
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	if err := verdict(p.cfg.ClusterAddr, cfg); err != nil {
		t.Fatal(err)
	}
	if s, ok := cfg.ClientSessionCache.Get(cfg.ServerName); ok && s != nil {
		t.Error("the cluster port hands out session tickets")
	}
	if err := p.RevokeSecondary(enginetest.Context(t), DR, "eu"); err != nil {
		t.Fatal(err)
	}
	if err := verdict(p.cfg.ClusterAddr, cfg); err == nil {
		t.Error("a revoked secondary is let in")
	}
	if err := p.RevokeSecondary(enginetest.Context(t), DR, "eu"); err != nil {
		t.Fatal(err)
	}
	p.mustToken(DR, "eu")
	if err := verdict(p.cfg.ClusterAddr, cfg); err == nil {
		t.Error("a new token for the id lets the old certificate in")
	}
}

func TestRevocationCutsLiveStreams(t *testing.T) {
	p, _ := pair(t, DR)
	rec, err := p.readSecondary(DR, "eu")
	if err != nil {
		t.Fatal(err)
	}
	me := peer{ID: "eu", Kind: DR, Set: p.set(DR).Set, JTI: rec.JTI}
	ctx, done := p.track(enginetest.Context(t), me)
	defer done()
	if ctx.Err() != nil {
		t.Fatalf("a known secondary's stream is cut: %v", context.Cause(ctx))
	}
	if err := p.RevokeSecondary(enginetest.Context(t), DR, "eu"); err != nil {
		t.Fatal(err)
	}
	if got := context.Cause(ctx); status.Code(got) != codes.PermissionDenied || !strings.Contains(got.Error(), "activation token") {
		t.Errorf("the stream ended with %v", got)
	}
	late, done2 := p.track(enginetest.Context(t), me) // checked before the revocation, tracked after it
	defer done2()
	if late.Err() == nil {
		t.Error("a stream that began during the revocation lives on")
	}
	if got := len(p.streams.live); got != 1 {
		t.Errorf("got %d secondaries with streams, want 1", got)
	}
	done()
	done2()
	if got := len(p.streams.live); got != 0 {
		t.Errorf("got %d secondaries with streams after they ended, want none", got)
	}
}

func TestCallerNeedsAConnectionOfItsKind(t *testing.T) {
	p, s := pair(t, DR)
	ctx := context.Background()
	if _, err := p.caller(ctx); status.Code(err) != codes.Unauthenticated {
		t.Errorf("no connection: got %v", err)
	}
	cert, err := s.clientCertificate(DR)
	if err != nil {
		t.Fatal(err)
	}
	via := func(protocol string, certs ...*tls.Certificate) context.Context {
		info := credentials.TLSInfo{State: tls.ConnectionState{NegotiatedProtocol: protocol}}
		for _, c := range certs {
			info.State.PeerCertificates = append(info.State.PeerCertificates, c.Leaf)
			ca, err := parseCertificates([]byte(p.set(DR).CA))
			if err != nil {
				t.Fatal(err)
			}
			info.State.VerifiedChains = append(info.State.VerifiedChains, []*x509.Certificate{c.Leaf, ca[0]})
		}
		return grpcpeer.NewContext(ctx, &grpcpeer.Peer{Addr: &net.TCPAddr{}, AuthInfo: info})
	}
	got, err := p.caller(via(protocolName(DR, purposeBulk), cert))
	if err != nil || got.ID != "eu" || got.Kind != DR || got.Purpose != purposeBulk {
		t.Errorf("got %+v, %v", got, err)
	}
	for name, ctx := range map[string]context.Context{
		"no certificate":              via(protocolName(DR, purposeStream)),
		"the protocol of another set": via(protocolName(Performance, purposeStream), cert),
		"no protocol":                 via("h2", cert),
	} {
		if _, err := p.caller(ctx); err == nil {
			t.Errorf("%s: let in", name)
		}
	}
}

func TestGarbageOnTheClusterPort(t *testing.T) {
	p, s := pair(t, DR)
	before := p.e.Position()
	for name, garbage := range map[string]string{
		"HTTP":        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"zeros":       strings.Repeat("\x00", 1<<16),
		"half a TLS":  "\x16\x03\x01\x02\x00\x01\x00",
		"a big hello": "\x16\x03\x01\xff\xff" + strings.Repeat("A", 1<<16),
		"nothing":     "",
	} {
		c, err := net.Dial("tcp", p.cfg.ClusterAddr)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, _ = io.WriteString(c, garbage) // refused while it is written: that is as good
		if tcp := c.(*net.TCPConn); tcp.CloseWrite() == nil {
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			_, _ = io.Copy(io.Discard, c)
		}
		c.Close()
	}
	conn, err := s.dial(enginetest.Context(t), DR, purposeStream)
	if err != nil {
		t.Fatalf("after garbage: %v", err)
	}
	conn.Close()
	if p.e.Position() != before || strings.Contains(p.logged.String(), "goroutine ") {
		t.Error("garbage wrote to the log, or made a stack trace")
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bounded := &clientListener{Listener: l, slots: make(chan struct{}, 1)}
	accepted := make(chan net.Conn, 4)
	go func() {
		for {
			c, err := bounded.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	first := <-accepted
	second := dial()
	_ = second.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := second.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a connection above the limit: got %v, want it closed", err)
	}
	first.Close()
	first.Close() // frees its place once
	dial()
	<-accepted
	if got := len(bounded.slots); got != 1 {
		t.Errorf("got %d connections counted, want 1", got)
	}
}

func TestCertificatesAreRenewedBeforeTheyEnd(t *testing.T) {
	p, s := pair(t, DR)
	before := s.set(DR).Certificate
	when, err := s.renewalDue(DR)
	if err != nil {
		t.Fatal(err)
	}
	at, end := when.at, when.end
	if life := end.Sub(s.now()); life < 24*time.Hour || life > 72*time.Hour || !at.After(s.now()) || !at.Before(end) {
		t.Errorf("life %v, renewal after %v", life, at.Sub(s.now()))
	}
	s.clock.advance(at.Sub(s.now()) + time.Minute)
	p.clock.offset.Store(s.clock.offset.Load())

	ctx, cancel := context.WithCancel(enginetest.Context(t))
	defer cancel()
	asked := make(chan struct{}, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.renewCertificate(ctx, DR, func(ctx context.Context, request []byte) ([]byte, error) {
			asked <- struct{}{}
			return nil, errors.New("the primary is away")
		})
	}()
	<-asked // it fails; another attempt follows in a minute, which this test does not wait for
	cancel()
	<-ended
	if s.set(DR).Certificate != before {
		t.Fatal("a failed renewal changed the certificate")
	}

	rec, err := p.readSecondary(DR, "eu")
	if err != nil {
		t.Fatal(err)
	}
	me := peer{ID: "eu", Kind: DR, Set: p.set(DR).Set, JTI: rec.JTI}
	err = s.renewOnce(enginetest.Context(t), DR, func(ctx context.Context, request []byte) ([]byte, error) { return p.renew(ctx, me, request) })
	if err != nil {
		t.Fatal(err)
	}
	s.reload()
	if s.set(DR).Certificate == before {
		t.Error("the certificate is the old one after a restart")
	}
	conn, err := s.dial(enginetest.Context(t), DR, purposeStream)
	if err != nil {
		t.Fatalf("with the renewed certificate: %v", err)
	}
	conn.Close()
	if again, _ := s.renewalDue(DR); !again.at.After(s.now()) {
		t.Error("the renewed certificate is due at once")
	}

	for name, answer := range map[string]func(request []byte) ([]byte, error){
		"another member's": func(r []byte) ([]byte, error) {
			ca, err := p.authority(DR, p.set(DR))
			if err != nil {
				return nil, err
			}
			req, err := parseRequest(r)
			if err != nil {
				return nil, err
			}
			der, err := ca.signSecondary(req.PublicKey, peer{ID: "us", Kind: DR, Set: me.Set, JTI: me.JTI}, p.now())
			return []byte(encodeCertificate(der)), err
		},
		"one for another key": func([]byte) ([]byte, error) { return []byte(before), nil },
		"garbage":             func([]byte) ([]byte, error) { return []byte("hello"), nil },
	} {
		have := s.set(DR).Certificate
		err := s.renewOnce(enginetest.Context(t), DR, func(_ context.Context, r []byte) ([]byte, error) { return answer(r) })
		if err == nil || s.set(DR).Certificate != have {
			t.Errorf("%s: got %v, want it refused and nothing changed", name, err)
		}
	}
	if err := p.RevokeSecondary(enginetest.Context(t), DR, "eu"); err != nil {
		t.Fatal(err)
	}
	_, request := mustRequest(t)
	if _, err := p.renew(enginetest.Context(t), me, []byte(request)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a revoked secondary's renewal: got %v", err)
	}
}

func TestClocksTenMinutesApartStillConnect(t *testing.T) {
	for _, apart := range []time.Duration{-10 * time.Minute, 10 * time.Minute} {
		p, s := pair(t, DR)
		s.clock.advance(apart)
		conn, err := s.dial(enginetest.Context(t), DR, purposeStream)
		if err != nil {
			t.Errorf("%v apart: %v", apart, err)
			continue
		}
		conn.Close()
		_ = p
	}
}
