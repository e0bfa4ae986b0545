package replication

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine/enginetest"
)

// foreignWords are those of the libraries below, which say nothing to an operator.
var foreignWords = []string{"tls:", "x509:", "rpc error", "code =", "desc ="}

func wantOurWords(t *testing.T, what, text string) {
	t.Helper()
	for _, w := range foreignWords {
		if strings.Contains(text, w) {
			t.Errorf("%s says %q in the words of a library: %s", what, w, text)
		}
	}
}

func TestWhatTLSSaysIsSaidInOurWords(t *testing.T) {
	t.Parallel()
	remote := func(a tls.AlertError) error {
		return fmt.Errorf("handshake: %w", &net.OpError{Op: "remote error", Err: errors.New(a.Error())})
	}
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"a certificate that is not accepted":    {remote(42), "needs a new activation token"},
		"one that ended":                        {remote(45), "dr/secondary/update-primary"},
		"one of a CA that is not known there":   {remote(48), "does not know the CA of this secondary's certificate"},
		"a cluster that is no primary":          {remote(80), "is not the dr primary at present"},
		"a port of something else":              {remote(120), "is not the dr primary at present"},
		"a server of a CA that is unknown here": {fmt.Errorf("handshake: %w", x509.UnknownAuthorityError{}), "does not know the CA of the cluster"},
		"something else":                        {errors.New("no route"), "no route"},
	} {
		got := refusalOf(DR, tt.err).Error()
		if !strings.Contains(got, strings.TrimPrefix(tt.want, "dr/")) {
			t.Errorf("%s: got %q, want %q in it", name, got, tt.want)
		}
		wantOurWords(t, name, got)
	}
}

func TestASecondaryIsToldInOurWordsThatItsPrimaryWasDemoted(t *testing.T) {
	t.Parallel()
	p := newCapablePrimary(t, Performance)
	s := p.follow(Performance, "eu")
	p.caughtUp(Performance, s)
	p.demote(Performance)
	s.until("it says that the cluster it knows is the primary no more", func() bool {
		reason, _ := s.n.Status(Performance)["reason"].(string)
		wantOurWords(t, "the status", reason)
		return strings.Contains(reason, "is not the performance primary at present") && strings.Contains(reason, "update-primary")
	})
	wantOurWords(t, "the log", s.logs.String())
}

func TestASecondaryIsToldInOurWordsThatItWasRevoked(t *testing.T) {
	t.Parallel()
	p := newCapablePrimary(t, DR)
	s := p.follow(DR, "eu")
	p.caughtUp(DR, s)
	if err := p.n.RevokeSecondary(enginetest.Context(t), DR, "eu"); err != nil {
		t.Fatal(err)
	}
	s.until("it says that it was revoked", func() bool {
		reason, _ := s.n.Status(DR)["reason"].(string)
		wantOurWords(t, "the status", reason)
		return s.n.Revoked(DR) && strings.Contains(reason, "new activation token")
	})
	s.until("its log says it too", func() bool { return strings.Contains(s.logs.String(), "revoked this secondary") })
	wantOurWords(t, "the log", s.logs.String())
}
