package replication

import (
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// TestAKnownIDGetsAnotherTokenOnceWhatItHadHasEnded follows one id through a token that nobody redeemed, a certificate that was renewed once, and one that
// came by public key.
func TestAKnownIDGetsAnotherTokenOnceWhatItHadHasEnded(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	ctx := enginetest.Context(t)
	s.mustEnable(DR)
	first := s.mustToken(DR, "eu")
	_, err := s.SecondaryToken(ctx, DR, "eu", 0)
	wantRefused(t, err, "activation token is good until")
	wantRefused(t, err, "revoke-secondary")
	place := s.mustRecord(DR, "eu").IssuedAt
	enginetest.MustPut(t, s.e, storage.KeyspaceID{9}, storage.Replicated, "k", "v")

	s.clock.advance(defaultTTL + 2*time.Second)
	again := s.mustToken(DR, "eu")
	_, request, err := newRequest()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Redeem(ctx, first, string(request), "test"); err == nil {
		t.Error("the token that ended was redeemed")
	}
	if _, err := s.Redeem(ctx, again, string(request), "test"); err != nil {
		t.Fatal(err)
	}
	rec := s.mustRecord(DR, "eu")
	if rec.State != secondaryActive || rec.IssuedAt != place {
		t.Errorf("the record is %+v, want an active secondary whose log is held from index %d", rec, place)
	}
	if err := s.storeAcked(ctx, DR, rec, 3); err != nil {
		t.Fatal(err)
	}
	_, err = s.SecondaryToken(ctx, DR, "eu", 0)
	wantRefused(t, err, "certificate is good until")

	who := peer{ID: "eu", Kind: DR, Set: rec.Set, JTI: rec.JTI}
	s.clock.advance(memberLife - time.Hour)
	if _, err := s.renew(ctx, who, request); err != nil {
		t.Fatal(err)
	}
	s.clock.advance(2 * time.Hour) // the first certificate would have ended
	_, err = s.SecondaryToken(ctx, DR, "eu", 0)
	wantRefused(t, err, "certificate is good until")
	s.clock.advance(memberLife)
	open, done := s.track(ctx, who)
	defer done()
	s.mustToken(DR, "eu")
	if open.Err() == nil {
		t.Error("a stream that outlived its certificate goes on beside the new token")
	}
	if err := s.enrolled(who); err == nil {
		t.Error("the enrolment before is let in beside the new token")
	}
	if rec = s.mustRecord(DR, "eu"); rec.State != secondaryIssued || rec.Acked != 3 || s.acked(DR, rec) != 3 {
		t.Errorf("the record is %+v, want one that keeps its place", rec)
	}

	other := newStation(t)
	key, err := other.GeneratePublicKey(DR)
	if err != nil {
		t.Fatal(err)
	}
	s.clock.advance(maxTTL)
	if _, err := s.SecondaryTokenFor(ctx, DR, "eu", 0, key); err != nil {
		t.Fatalf("by public key: %v", err)
	}
	rec = s.mustRecord(DR, "eu")
	if err := s.keyCame(ctx, peer{ID: "eu", Kind: DR, Set: rec.Set, JTI: rec.JTI}); err != nil {
		t.Fatal(err)
	}
	_, err = s.SecondaryToken(ctx, DR, "eu", 0)
	wantRefused(t, err, "certificate is good until")
	s.clock.advance(memberLife + 2*time.Second)
	s.mustToken(DR, "eu")
}

// TestARecordOfAnEarlierVersionSaysNotWhenItEnds has a record without the times: only a revocation frees its id.
func TestARecordOfAnEarlierVersionSaysNotWhenItEnds(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	r := &secondaryRecord{ID: "eu", State: secondaryActive}
	wantRefused(t, r.mayHaveAnother(DR, now), "known already: choose another, or revoke it first (dr/primary/revoke-secondary)")
	r.State, r.Changed = secondaryIssued, now.Unix()
	wantRefused(t, r.mayHaveAnother(DR, now.Add(maxTTL)), "activation token is good until")
	if err := r.mayHaveAnother(DR, now.Add(maxTTL+time.Second)); err != nil {
		t.Errorf("longer ago than any token lasts: %v", err)
	}
}

func (s *station) mustRecord(k Kind, id string) *secondaryRecord {
	s.t.Helper()
	r, err := s.readSecondary(k, id)
	if err != nil || r == nil {
		s.t.Fatalf("the record of secondary %q: %v, %v", id, r, err)
	}
	return r
}
