package replication

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

func TestForwardedWriteIsReadableHereWhenItIsAnswered(t *testing.T) {
	t.Parallel()
	p, _ := newPrimary(t)
	var got *Forwarded
	p.handle = func(ctx context.Context, f *Forwarded) *ForwardedAnswer {
		got = f
		c, err := p.e.Do(ctx, &engine.Tx{RequestID: f.RequestID, Writes: []engine.Write{enginetest.Put(shared, storage.Replicated, f.Path, string(f.Body))}})
		if err != nil {
			return &ForwardedAnswer{Status: 500}
		}
		return &ForwardedAnswer{Status: 204, Header: http.Header{"X-Vault-Index": {"i"}}, Body: []byte("{}"), Index: c.Position.Index}
	}
	s := p.follow(Performance, "s")
	p.caughtUp(Performance, s)
	large := strings.Repeat("x", 32<<20)
	if raceEnabled {
		large = large[:3<<20]
	}
	for _, body := range []string{"small", large} {
		f := &Forwarded{
			Method: "PUT", Path: "secret/a", Query: "q=1", Header: http.Header{"X-Vault-Namespace": {"n"}}, Body: []byte(body), RequestID: "request",
			Secondary: "somebody else", Policies: []string{"default", "p"}, DisplayName: "me",
		}
		a, late, err := s.n.Forward(enginetest.Context(t), f)
		if err != nil || a.Status != 204 || late || a.Header.Get("X-Vault-Index") != "i" || string(a.Body) != "{}" {
			t.Fatalf("answer: got %+v, late %v, %v", a, late, err)
		}
		if r, err := s.e.Get(shared, []byte("secret/a")); err != nil || string(r.Value) != body {
			t.Errorf("the own replica: got %d bytes, %v, want %d", len(r.Value), err, len(body))
		}
		if got.Secondary != "s" || got.Method != "PUT" || got.Query != "q=1" || got.Header.Get("X-Vault-Namespace") != "n" || len(got.Policies) != 2 {
			t.Errorf("the primary was given %+v", got)
		}
	}
}

func TestAPrimaryLostWithARequestLeavesItsOutcomeUnknown(t *testing.T) {
	p, px := newPrimary(t)
	p.handle = func(context.Context, *Forwarded) *ForwardedAnswer {
		px.block(true)
		px.cut()
		return &ForwardedAnswer{Status: 200}
	}
	s := p.follow(Performance, "s")
	p.caughtUp(Performance, s)
	if _, _, err := s.n.Forward(enginetest.Context(t), &Forwarded{Method: "PUT"}); !errors.Is(err, engine.ErrOutcomeUnknown) || errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v, want an unknown outcome, which clients must not take for a refusal", err)
	}
}

func TestForwardSaysWhenTheOwnReplicaIsLateOrThePrimaryAway(t *testing.T) {
	t.Parallel()
	p, px := newPrimary(t)
	p.handle = func(context.Context, *Forwarded) *ForwardedAnswer {
		return &ForwardedAnswer{Status: 200, Index: 1 << 40}
	}
	s := p.follow(Performance, "s")
	p.caughtUp(Performance, s)
	s.n.cfg.ForwardWait = 50 * time.Millisecond
	if _, late, err := s.n.Forward(enginetest.Context(t), &Forwarded{Method: "PUT"}); err != nil || !late {
		t.Errorf("an index that does not come: got late %v, %v, want it late", late, err)
	}
	px.block(true)
	px.cut()
	_, _, err := s.n.Forward(enginetest.Context(t), &Forwarded{Method: "PUT"})
	if errors.Is(err, engine.ErrOutcomeUnknown) { // it went out on the connection just before that was seen to be lost
		_, _, err = s.n.Forward(enginetest.Context(t), &Forwarded{Method: "PUT"})
	}
	if !errors.Is(err, ErrUnreachable) || errors.Is(err, engine.ErrOutcomeUnknown) {
		t.Errorf("without a primary: got %v, want ErrUnreachable", err)
	}
	p.handle = func(context.Context, *Forwarded) *ForwardedAnswer { return &ForwardedAnswer{Status: 200} }
	px.block(false)
	s.n.cfg.ForwardWait = patience
	s.until("requests are forwarded again", func() bool {
		_, late, err := s.n.Forward(enginetest.Context(t), &Forwarded{Method: "GET"})
		return err == nil && !late
	})
}
