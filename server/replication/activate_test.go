package replication

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine/enginetest"
)

func TestChecksBeforeTheTokenIsSpentNameWhatFails(t *testing.T) {
	tests := []struct {
		name        string
		break_      func(p, s *station, in *SecondaryEnable)
		says        string
		unreachable bool
	}{
		{"the address does not answer", func(p, s *station, in *SecondaryEnable) { in.PrimaryAPIAddr = "http://" + freeAddr(p.t) }, "check failed: the primary's API address", true},
		{"the address is the cluster port", func(p, s *station, in *SecondaryEnable) { in.PrimaryAPIAddr = "http://" + p.cfg.ClusterAddr }, "check failed: the CA of the primary's API address", true},
		{"the address is the cluster port, by TLS", func(p, s *station, in *SecondaryEnable) { in.PrimaryAPIAddr = "https://" + p.cfg.ClusterAddr }, "check failed: the CA of the primary's API address", true},
		{"the clock is ahead", func(p, s *station, in *SecondaryEnable) { s.clock.advance(2 * time.Minute) }, "check failed: clock", false},
		{"the clock is behind", func(p, s *station, in *SecondaryEnable) { s.clock.advance(-2 * time.Minute) }, "check failed: clock", false},
		{"the primary is newer", func(p, s *station, in *SecondaryEnable) { p.version.Store("0.2.0") }, "check failed: version", false},
		{"the cluster port is closed", func(p, s *station, in *SecondaryEnable) { p.stop() }, "check failed: cluster port", true},
		{"the disk is small", func(p, s *station, in *SecondaryEnable) {
			s.cfg.FreeDisk = func() (int64, error) { return 1 << 20, nil }
			s.reload()
		}, "check failed: disk", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, s := newStation(t), newStation(t)
			p.run()
			p.mustEnable(DR)
			in := SecondaryEnable{Token: p.mustToken(DR, "eu")}
			tt.break_(p, s, &in)
			_, err := s.EnableSecondary(enginetest.Context(t), DR, in)
			if err == nil || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "The token was not used") {
				t.Errorf("got %v, want an error that says %q", err, tt.says)
			}
			if got := errors.Is(err, ErrUnreachable); got != tt.unreachable {
				t.Errorf("unreachable: got %v, want %v", got, tt.unreachable)
			}
			if _, err := p.LookupActivation(in.Token); err != nil {
				t.Errorf("the token was spent: %v", err)
			}
			if p.unwraps.Load() != 0 || len(s.switched) != 0 || s.Mode(DR) != Disabled {
				t.Error("it went on after a check had failed")
			}
		})
	}
}

func TestEnableSecondaryRefusesParametersAndRoles(t *testing.T) {
	p, s := newStation(t), newStation(t)
	p.run()
	p.mustEnable(DR)
	ctx := enginetest.Context(t)
	text := p.mustToken(DR, "eu")
	for _, tt := range []struct {
		name string
		kind Kind
		in   SecondaryEnable
		says string
	}{
		{"no token", DR, SecondaryEnable{}, "not an activation token"},
		{"a Vault token", DR, SecondaryEnable{Token: "hvs.abc"}, "not an activation token"},
		{"a token of the other kind", Performance, SecondaryEnable{Token: text}, "sys/replication/dr/secondary/enable"},
		{"an address that is none", DR, SecondaryEnable{Token: text, PrimaryAPIAddr: "ftp://x"}, "API address"},
		{"an address with a password", DR, SecondaryEnable{Token: text, PrimaryAPIAddr: "https://a:b@x"}, "API address"},
		{"a CA file that is missing", DR, SecondaryEnable{Token: text, CAFile: "/does/not/exist"}, "ca_file cannot be read"},
		{"a CA path that is missing", DR, SecondaryEnable{Token: text, CAPath: "/does/not/exist"}, "ca_path cannot be read"},
		{"a CA file without a certificate", DR, SecondaryEnable{Token: text, CAFile: pemFile(t, "hello")}, "no PEM certificate"},
	} {
		_, err := s.EnableSecondary(ctx, tt.kind, tt.in)
		t.Run(tt.name, func(t *testing.T) { wantRefused(t, err, tt.says) })
	}
	_, err := p.EnableSecondary(ctx, DR, SecondaryEnable{Token: text})
	wantRefused(t, err, "disable")
	q := newStation(t)
	q.mustEnable(Performance)
	_, err = q.EnableSecondary(ctx, DR, SecondaryEnable{Token: text})
	wantRefused(t, err, "disable")
}

func TestAnErrorOfThePrimaryIsToldAsVaultTellsIt(t *testing.T) {
	p, s := newStation(t), newStation(t)
	p.run()
	p.mustEnable(DR)
	ctx := enginetest.Context(t)
	text := p.mustToken(DR, "eu")
	if err := p.RevokeSecondary(ctx, DR, "eu"); err != nil {
		t.Fatal(err)
	}
	_, err := s.EnableSecondary(ctx, DR, SecondaryEnable{Token: text})
	want := `error response unwrapping secondary token; status code is 400, message is "400 Bad Request"`
	if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v, want an ErrUnreachable that says %s", err, want)
	}
	_, err = s.EnableSecondary(ctx, DR, SecondaryEnable{Token: text, PrimaryAPIAddr: "http://" + freeAddr(t)})
	if err == nil || !strings.HasPrefix(err.Error(), `error unwrapping secondary token: Post "http://`) || !strings.Contains(err.Error(), `/v1/sys/wrapping/unwrap": dial tcp`) {
		t.Errorf("got %v", err)
	}
}

func TestALostReplyIsAskedForAgain(t *testing.T) {
	t.Parallel()
	p, s := newStation(t), newStation(t)
	p.run()
	p.mustEnable(Performance)
	text := p.mustToken(Performance, "eu")
	p.loseNext.Store(2)
	s.activated(Performance, text)
	if got := p.unwraps.Load(); got != 3 {
		t.Errorf("got %d calls, want 3", got)
	}
	if s.Mode(Performance) != Bootstrapping {
		t.Errorf("mode: got %s, want %s", s.Mode(Performance), Bootstrapping)
	}
	if warning, err := s.EnableSecondary(enginetest.Context(t), Performance, SecondaryEnable{Token: text}); err != nil || warning == "" {
		t.Errorf("repeated with the same token: got %q, %v, want a warning", warning, err)
	}
}

func TestAnActivationGoesOnAfterItWasInterrupted(t *testing.T) {
	t.Parallel()
	p, s := newStation(t), newStation(t)
	p.run()
	p.mustEnable(DR)
	ctx := enginetest.Context(t)
	text := p.mustToken(DR, "eu")

	// All replies are lost; then the process dies, comes back, and the operator repeats the call.
	p.loseNext.Store(unwrapAttempts)
	if _, err := s.EnableSecondary(ctx, DR, SecondaryEnable{Token: text}); !errors.Is(err, ErrUnreachable) {
		t.Fatalf("got %v, want ErrUnreachable", err)
	}
	s.reload()
	s.noSwitch.Store(true)
	if _, err := s.EnableSecondary(ctx, DR, SecondaryEnable{Token: text}); err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Fatalf("got %v, want the failure of the switch", err)
	}
	s.noSwitch.Store(false)
	s.activated(DR, text)
	if refused, ok := p.Status(DR)["refused_activations"].([]map[string]any); !ok || refused == nil || len(refused) > 0 {
		t.Error("a repeated call counts as a second hand")
	}
}

func TestNothingIsKeptOfAnActivationThatWasRefused(t *testing.T) {
	t.Parallel()
	p, s := newStation(t), newStation(t)
	p.run()
	p.mustEnable(DR)
	ctx := enginetest.Context(t)
	text := p.mustToken(DR, "eu")
	p.loseNext.Store(unwrapAttempts)
	if _, err := s.EnableSecondary(ctx, DR, SecondaryEnable{Token: text}); err == nil {
		t.Fatal("enabled")
	}
	if len(s.e.NodeList("replication/pending/")) != 1 {
		t.Fatal("the key pair of an activation under way is not kept")
	}
	p.clock.advance(retryTime + time.Minute)
	if _, err := s.EnableSecondary(ctx, DR, SecondaryEnable{Token: text}); err == nil {
		t.Fatal("enabled after five minutes")
	}
	if left := s.e.NodeList("replication/pending/"); len(left) != 0 {
		t.Errorf("got %d key pairs left, want none", len(left))
	}
}

// overTLS serves a station's API by TLS, with a certificate of httptest's own, or the set's for who asks by its name.
func overTLS(t *testing.T, p *station, pinned bool) *httptest.Server {
	t.Helper()
	api := httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	api.TLS = &tls.Config{}
	api.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that fail are what is tested
	if pinned {
		own, err := tls.X509KeyPair(ownCertificate(t))
		if err != nil {
			t.Fatal(err)
		}
		api.TLS.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c, err := p.APICertificate(hello); c != nil || err != nil {
				return c, err
			}
			return &own, nil
		}
	}
	api.StartTLS()
	t.Cleanup(api.Close)
	return api
}

func ownCertificate(t *testing.T) (cert, key []byte) {
	t.Helper()
	ca, err := newAuthority(DR, "somebody else", time.Now(), caLife)
	if err != nil {
		t.Fatal(err)
	}
	key, err = encodeKey(ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(encodeCertificate(ca.cert.Raw)), key
}

func TestTheAPIAddressIsTrustedByCAFileOrFingerprintOnly(t *testing.T) {
	p := newStation(t)
	p.run()
	p.mustEnable(DR)
	plain, pinned := overTLS(t, p, false), overTLS(t, p, true)
	ca := pemFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: plain.Certificate().Raw})))
	wrong, _ := ownCertificate(t)

	tests := []struct {
		name string
		in   SecondaryEnable
		ok   bool
	}{
		{"ca_file", SecondaryEnable{PrimaryAPIAddr: plain.URL, CAFile: ca}, true},
		{"ca_path", SecondaryEnable{PrimaryAPIAddr: plain.URL + "/", CAPath: strings.TrimSuffix(ca, "/ca.pem")}, true},
		{"the fingerprint in the token", SecondaryEnable{PrimaryAPIAddr: pinned.URL}, true},
		{"a CA file of somebody else", SecondaryEnable{PrimaryAPIAddr: plain.URL, CAFile: pemFile(t, string(wrong))}, false},
		{"a CA file of somebody else, though the fingerprint would do", SecondaryEnable{PrimaryAPIAddr: pinned.URL, CAFile: pemFile(t, string(wrong))}, false},
		{"nothing", SecondaryEnable{PrimaryAPIAddr: plain.URL}, false},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStation(t)
			tt.in.Token = p.mustToken(DR, "eu"+string(rune('a'+i)))
			before := p.unwraps.Load()
			warning, err := s.EnableSecondary(enginetest.Context(t), DR, tt.in)
			if (err == nil) != tt.ok {
				t.Fatalf("got %v, want success %v", err, tt.ok)
			}
			if err != nil && (!strings.Contains(err.Error(), "check failed: the CA") || p.unwraps.Load() != before) {
				t.Errorf("got %v and %d calls of unwrap", err, p.unwraps.Load()-before)
			}
			if strings.Contains(warning, "plain http") {
				t.Errorf("warns of plain http: %q", warning)
			}
		})
	}
}

func TestPinnedChainsAreVerified(t *testing.T) {
	p, q := newStation(t), newStation(t)
	p.mustEnable(DR)
	q.mustEnable(DR)
	set := p.set(DR)
	good, err := p.certs.server(DR)
	if err != nil {
		t.Fatal(err)
	}
	other, err := q.certs.server(DR)
	if err != nil {
		t.Fatal(err)
	}
	parse := func(ders ...[]byte) (out []*x509.Certificate) {
		for _, der := range ders {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, c)
		}
		return out
	}
	hash, name := sha256Sum(good.Certificate[1]), serverName(DR, set.Set)
	for _, tt := range []struct {
		what  string
		chain []*x509.Certificate
		name  string
		now   time.Time
		ok    bool
	}{
		{"the set's chain", parse(good.Certificate...), name, p.now(), true},
		{"no CA", parse(good.Certificate[0]), name, p.now(), false},
		{"another set's chain", parse(other.Certificate...), name, p.now(), false},
		{"another set's leaf under this CA", parse(other.Certificate[0], good.Certificate[1]), name, p.now(), false},
		{"the CA as leaf", parse(good.Certificate[1], good.Certificate[1]), name, p.now(), false},
		{"another name", parse(good.Certificate...), serverName(Performance, set.Set), p.now(), false},
		{"after its end", parse(good.Certificate...), name, p.now().Add(memberLife + time.Minute), false},
	} {
		if _, err := verifyPinned(tt.chain, hash, tt.name, tt.now); (err == nil) != tt.ok {
			t.Errorf("%s: got %v, want accepted %v", tt.what, err, tt.ok)
		}
	}
}
