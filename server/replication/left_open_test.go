package replication

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

func TestReasonsDoNotQuoteGRPC(t *testing.T) {
	lost := status.Error(codes.Unavailable, "this node stops")
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"a status", lost, "this node stops"},
		{"wrapped", fmt.Errorf("the stream broke: %w", lost), "the stream broke: this node stops"},
		{"joined", fmt.Errorf("x: %w", errors.Join(errors.New("a"), lost)), "x: a\nthis node stops"},
		{"two of them", fmt.Errorf("%w, %w", lost, status.Error(codes.Aborted, "again")), "this node stops, again"},
		{"none", errors.New("plain"), "plain"},
	} {
		if got := plain(tt.err); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
		if e := plainly(tt.err); e.Error() != tt.want || !errors.Is(e, tt.err) {
			t.Errorf("%s: plainly gives %q, or hides what it is", tt.name, e)
		}
	}
	if e := failure(fmt.Errorf("greeting: %w", lost)); strings.Contains(e.Reason, "rpc error") {
		t.Errorf("an event's reason is %q", e.Reason)
	}
}

func TestALostLinkShowsTransientFailure(t *testing.T) {
	t.Parallel()
	p, px := newPrimary(t)
	s := p.follow(Performance, "eu")
	p.caughtUp(Performance, s)
	px.block(true)
	px.cut()
	s.until("the connection shows transient_failure with a reason", func() bool {
		st := s.n.Status(Performance)
		reason, _ := st["reason"].(string)
		return st["connection_state"] == "transient_failure" && reason != "" && !strings.Contains(reason, "rpc error")
	})
	px.block(false)
	p.caughtUp(Performance, s)
	if got := s.n.Status(Performance)["connection_state"]; got != "ready" {
		t.Errorf("got connection_state %v, want ready", got)
	}
}

func TestTheLogIsHeldFromWhereASyncBegins(t *testing.T) {
	p, _ := newPrimary(t)
	s := p.enrol(DR, "eu")
	_ = s
	rec, err := p.n.readSecondary(DR, "eu")
	if err != nil {
		t.Fatal(err)
	}
	p.n.peers.update(DR, "eu", func(ps *peerState) { ps.Acked = wal.Position{Index: 500} })
	if got := p.n.acked(DR, rec); got != 500 {
		t.Errorf("streaming: held after %d, want 500", got)
	}
	p.n.peers.update(DR, "eu", func(ps *peerState) { ps.Acked, ps.Placed = wal.Position{Index: 0}, true })
	if got := p.n.acked(DR, rec); got != 0 {
		t.Errorf("a sync from the beginning: held after %d, want 0", got)
	}
}

func TestClonesOfASecondaryAreShown(t *testing.T) {
	p := newStation(t)
	p.mustEnable(Performance)
	p.mustToken(Performance, "eu")
	who := peer{ID: "eu", Kind: Performance}
	one, two := origin{Host: "10.0.0.1", ClusterAddr: "https://one:8201"}, origin{Host: "10.0.0.2", ClusterAddr: "https://two:8201"}
	conflict := func() string {
		for _, s := range p.Status(Performance)["secondaries"].([]map[string]any) {
			c, _ := s["conflict"].(string)
			return c
		}
		return "no secondary"
	}
	p.tookOver(who, one, one)
	p.tookOver(who, one, two)
	p.tookOver(who, two, two)
	p.tookOver(who, two, two)
	if got := conflict(); got != "" {
		t.Errorf("a secondary that moved and reconnects counts as cloned: %s", got)
	}
	p.tookOver(who, two, one)
	p.tookOver(who, one, two)
	if got := conflict(); !strings.Contains(got, "https://one:8201") || !strings.Contains(got, "https://two:8201") {
		t.Errorf("got %q, want both places named", got)
	}
	p.clock.advance(2 * takeoverWindow)
	if got := conflict(); got != "" {
		t.Errorf("long after: %s", got)
	}
}

func TestASecondaryRevokedBeforeItsFirstAnswerTakesANewToken(t *testing.T) {
	ctx := enginetest.Context(t)
	p, s, stranger := newStation(t), newStation(t), newStation(t)
	p.run()
	p.mustEnable(Performance)
	stranger.run()
	stranger.mustEnable(Performance)
	enginetest.MustPut(t, p.e, storage.KeyspaceID{9}, storage.Replicated, "k", "v")
	if _, err := s.EnableSecondary(ctx, Performance, SecondaryEnable{Token: p.mustToken(Performance, "eu")}); err != nil {
		t.Fatal(err)
	}
	if err := p.RevokeSecondary(ctx, Performance, "eu"); err != nil {
		t.Fatal(err)
	}
	s = s.switchedTo()
	s.run()
	eventually(t, "it is revoked while it bootstraps", func() bool { return s.Mode(Performance) == Bootstrapping && s.Revoked(Performance) })
	_, err := s.EnableSecondary(ctx, Performance, SecondaryEnable{Token: stranger.mustToken(Performance, "eu")})
	wantRefused(t, err, "of the same primary")
	if _, err := s.EnableSecondary(ctx, Performance, SecondaryEnable{Token: p.mustToken(Performance, "eu")}); err != nil {
		t.Fatal(err)
	}
	s.stop()
	s = s.switchedTo()
	s.run()
	eventually(t, "it streams", func() bool {
		return s.Status(Performance)["state"] == "stream-wals" && s.Mode(Performance) == Secondary
	})
}
