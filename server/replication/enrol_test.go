package replication

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/token"
)

func TestEnablePrimaryIsSafeToRepeat(t *testing.T) {
	for _, k := range kinds {
		s := newStation(t)
		ctx := enginetest.Context(t)
		if got := s.Mode(k); got != Disabled {
			t.Errorf("%s: mode before: got %s, want %s", k, got, Disabled)
		}
		if _, err := s.EnablePrimary(ctx, k, "lb.example:8201"); err != nil {
			t.Fatal(err)
		}
		id := s.set(k).Set
		warning, err := s.EnablePrimary(ctx, k, "lb.example:8201")
		if err != nil || warning == "" || s.set(k).Set != id {
			t.Errorf("%s: repeated: got %q, %v and set %s, want a warning and the same set %s", k, warning, err, s.set(k).Set, id)
		}
		_, err = s.EnablePrimary(ctx, k, "other.example:8201")
		wantRefused(t, err, "primary already")

		s.reload()
		if s.Mode(k) != Primary || s.set(k).Set != id {
			t.Errorf("%s: after a restart: got %s of set %s, want %s of set %s", k, s.Mode(k), s.set(k).Set, Primary, id)
		}
		if _, err := s.certs.server(k); err != nil {
			t.Errorf("%s: no server certificate after a restart: %v", k, err)
		}
	}
}

func TestBothSetsOnOneClusterAreIndependent(t *testing.T) {
	s := newStation(t)
	s.mustEnable(DR)
	s.mustEnable(Performance)
	if s.set(DR).Set == s.set(Performance).Set || s.set(DR).CA == s.set(Performance).CA {
		t.Error("two sets share id or CA")
	}
	s.mustToken(DR, "eu")
	s.mustToken(Performance, "eu") // the same id in another set is another secondary
	_, err := s.EnablePrimary(enginetest.Context(t), DR, "not an address")
	wantRefused(t, err, "host:port")
}

func TestSecondaryTokenRefuses(t *testing.T) {
	s := newStation(t)
	ctx := enginetest.Context(t)
	_, err := s.SecondaryToken(ctx, DR, "eu", 0)
	wantRefused(t, err, "enable this cluster as a primary first")
	s.mustEnable(DR)
	for _, id := range []string{"", ".", "-a", "a/b", "a b", "a\n", "é", "../x", strings.Repeat("a", 64)} {
		_, err := s.SecondaryToken(ctx, DR, id, 0)
		wantRefused(t, err, "id must be")
	}
	for _, ttl := range []time.Duration{-1, time.Millisecond, 24*time.Hour + 1} {
		_, err := s.SecondaryToken(ctx, DR, "eu", ttl)
		wantRefused(t, err, "ttl must be")
	}
	s.mustToken(DR, "eu")
	_, err = s.SecondaryToken(ctx, DR, "eu", 0)
	wantRefused(t, err, "revoke it first")
	wantRefused(t, s.RevokeSecondary(ctx, DR, "us"), "no secondary")
	wantRefused(t, s.RevokeSecondary(ctx, DR, "a/b"), "id must name")
	for range 2 { // safe to repeat
		if err := s.RevokeSecondary(ctx, DR, "eu"); err != nil {
			t.Error(err)
		}
	}
	s.mustToken(DR, "eu")
}

func TestSecondaryTokenSaysWhatVaultsClientsNeed(t *testing.T) {
	s := newStation(t)
	s.mustEnable(Performance)
	a, err := s.SecondaryToken(enginetest.Context(t), Performance, "eu", 2*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if a.TTL != 2*time.Hour || a.CreationPath != "sys/replication/performance/primary/secondary-token" || a.Accessor == "" || a.CreationTime.IsZero() {
		t.Errorf("got %v, %q, %q, %v", a.TTL, a.CreationPath, a.Accessor, a.CreationTime)
	}
	c, err := token.Peek(a.Token)
	if err != nil {
		t.Fatal(err)
	}
	if c.Addr != s.cfg.APIAddr || c.Secondary != "eu" || c.Kind != "performance" || c.Set != s.set(Performance).Set {
		t.Errorf("claims: got %+v", c)
	}
	if !IsActivation(a.Token) || IsActivation("s.abcdef") || IsActivation("") {
		t.Error("IsActivation does not tell activation tokens from others")
	}
	if strings.Contains(s.logged.String(), a.Token[:30]) {
		t.Error("the log holds the token")
	}
}

func TestLookupDoesNotSpendTheToken(t *testing.T) {
	s := newStation(t)
	s.mustEnable(DR)
	text := s.mustToken(DR, "eu")
	for range 3 {
		a, err := s.LookupActivation(text)
		if err != nil {
			t.Fatal(err)
		}
		if a.TTL != defaultTTL || a.Token != "" || a.Lookup["primary_version"] != "0.1.0" || a.Lookup["cluster_id"] != s.set(DR).Set {
			t.Errorf("got %+v", a)
		}
		if got, want := fmt.Sprint(a.Lookup["cluster_addrs"]), "[https://"+s.cfg.ClusterAddr+"]"; got != want {
			t.Errorf("cluster addresses: got %s, want %s", got, want)
		}
	}
	_, request := mustRequest(t)
	if _, err := s.Redeem(enginetest.Context(t), text, request, "r"); err != nil {
		t.Fatal(err)
	}
	act, err := getActivation(s.e, recordActivation(DR, s.mustRecord(DR, "eu").JTI))
	if err != nil || act == nil {
		t.Fatal(act, err)
	}
	used := notValid + ": it was used already on " + time.Unix(act.Redeemed, 0).UTC().Format(time.RFC3339)
	_, err = s.LookupActivation(text)
	wantRefused(t, err, used)
	wantRefused(t, err, `by secondary "eu": make a new one on the primary (sys/replication/dr/primary/secondary-token)`)
	_, err = s.LookupActivation("a.b.c")
	wantRefused(t, err, notValid)
	unspent := s.mustToken(DR, "us")
	s.clock.advance(defaultTTL + time.Second)
	_, err = s.LookupActivation(text)
	wantRefused(t, err, used)
	_, err = s.LookupActivation(unspent)
	wantRefused(t, err, notValid+": it ended on ")
	for name, bad := range map[string]string{"a forged one": text[:len(text)-4] + "AAAA", "a forged one that was not used": unspent[:len(unspent)-4] + "AAAA"} {
		if _, err := s.LookupActivation(bad); err == nil || err.Error() != notValid {
			t.Errorf("%s: got %v, want no more than %q", name, err, notValid)
		}
	}
}

func TestRedeemOnceAndAgainWhenTheReplyWasLost(t *testing.T) {
	s := newStation(t)
	ctx := enginetest.Context(t)
	s.mustEnable(DR)
	text := s.mustToken(DR, "eu")
	_, request := mustRequest(t)
	first, err := s.Redeem(ctx, text, request, "r")
	if err != nil {
		t.Fatal(err)
	}
	s.clock.advance(4 * time.Minute)
	s.reload() // the answer does not live in memory
	again, err := s.Redeem(ctx, text, request, "r")
	if err != nil {
		t.Fatal(err)
	}
	delete(first, "server_time_utc")
	delete(again, "server_time_utc")
	for _, a := range []map[string]any{first, again} { // the second entry is the redemption itself
		delete(a, "history")
		delete(a, "primary_records")
		delete(a, "primary_bytes")
	}
	if !reflect.DeepEqual(first, again) {
		t.Errorf("got another answer:\n%v\nwant\n%v", again, first)
	}
	_, other := mustRequest(t)
	_, err = s.Redeem(ctx, text, other, "192.0.2.1:99")
	wantRefused(t, err, notValid+": it was used already on ")
	refused, _ := s.Status(DR)["refused_activations"].([]map[string]any)
	if len(refused) != 1 || refused[0]["node_id"] != "eu" {
		t.Errorf("refused_activations: got %v, want eu", refused)
	}
	if log := s.logged.String(); !strings.Contains(log, "192.0.2.1:99") || !strings.Contains(log, "second hand") {
		t.Error("the log does not tell of the second hand")
	}
	s.clock.advance(2 * time.Minute)
	_, err = s.Redeem(ctx, text, request, "r")
	wantRefused(t, err, notValid+": it was used already on ")
	s.clock.advance(24 * time.Hour)
	_, err = s.Redeem(ctx, text, request, "r")
	wantRefused(t, err, notValid+": it was used already on ")
}

func TestRedeemRefuses(t *testing.T) {
	s, foreign := newStation(t), newStation(t)
	ctx := enginetest.Context(t)
	s.mustEnable(DR)
	foreign.mustEnable(DR)
	_, request := mustRequest(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaDER, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	rsaRequest := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: rsaDER}))
	block, _ := pem.Decode([]byte(request))
	block.Bytes[len(block.Bytes)-1] ^= 1
	badSignature := string(pem.EncodeToMemory(block))

	text := s.mustToken(DR, "eu")
	expired, err := s.SecondaryToken(ctx, DR, "short", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	revoked := s.mustToken(DR, "gone")
	if err := s.RevokeSecondary(ctx, DR, "gone"); err != nil {
		t.Fatal(err)
	}
	replaced := s.mustToken(DR, "twice")
	if err := s.RevokeSecondary(ctx, DR, "twice"); err != nil {
		t.Fatal(err)
	}
	s.mustToken(DR, "twice")
	s.clock.advance(2 * time.Second)

	tests := []struct{ name, token, request, says string }{
		{"no request", text, "", "It was not used"},
		{"a request that is no PEM", text, "hello", "not one PEM block"},
		{"a request of a MiB", text, strings.Repeat("A", 1<<20), "longer than"},
		{"two requests", text, request + request, "not one PEM block"},
		{"a request signed wrongly", text, badSignature, "not signed with its own key"},
		{"a request for an RSA key", text, rsaRequest, "ECDSA"},
		{"no token", "", request, notValid},
		{"a forged token", text[:len(text)-4] + "AAAA", request, notValid},
		{"a token of another set", foreign.mustToken(DR, "eu"), request, notValid},
		{"an expired token", expired.Token, request, notValid + ": it ended on "},
		{"a revoked secondary", revoked, request, notValid},
		{"a token that a newer one of the same id replaced", replaced, request, notValid},
		{"a MiB of dots", strings.Repeat(".", 1<<20), request, notValid},
	}
	before := s.e.Position()
	for _, tt := range tests {
		_, err := s.Redeem(ctx, tt.token, tt.request, "r")
		if err == nil {
			t.Errorf("%s: redeemed", tt.name)
		}
		wantRefused(t, err, tt.says)
	}
	if after := s.e.Position(); after != before {
		t.Errorf("refusals wrote to the log: from %v to %v", before, after)
	}
	if _, err := s.Redeem(ctx, text, request, "r"); err != nil {
		t.Errorf("the token was spent by refusals: %v", err)
	}
}

func TestOfManyConcurrentUsesOneWins(t *testing.T) {
	s := newStation(t)
	ctx := enginetest.Context(t)
	s.mustEnable(Performance)
	text := s.mustToken(Performance, "eu")
	const users = 16
	requests := make([]string, users)
	for i := range requests {
		_, requests[i] = mustRequest(t)
	}
	var wg sync.WaitGroup
	won := make([]bool, users)
	for i := range users {
		wg.Go(func() {
			_, err := s.Redeem(ctx, text, requests[i], fmt.Sprint(i))
			won[i] = err == nil
		})
	}
	wg.Wait()
	winners := 0
	for _, w := range won {
		if w {
			winners++
		}
	}
	if winners != 1 {
		t.Errorf("got %d winners, want 1", winners)
	}
	if got := fmt.Sprint(s.Status(Performance)["known_secondaries"]); got != "[eu]" {
		t.Errorf("known_secondaries: got %s, want [eu]", got)
	}
}

func TestExpiredActivationsAreRemoved(t *testing.T) {
	s := newStation(t)
	s.mustEnable(DR)
	for i := range 3 {
		s.mustToken(DR, fmt.Sprint("s", i))
	}
	s.clock.advance(3 * time.Hour)
	s.mustToken(DR, "last")
	keys, err := s.expiredActivations(DR)
	if err != nil || len(keys) != 0 {
		t.Errorf("got %v, %v, want none left", keys, err)
	}
}

func TestAnswerOfRedeemSurvivesJSON(t *testing.T) {
	s := newStation(t)
	s.mustEnable(DR)
	text := s.mustToken(DR, "eu")
	key, request := mustRequest(t)
	data, err := s.Redeem(enginetest.Context(t), text, request, "r")
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	var w welcome
	if err := json.Unmarshal(b, &w); err != nil {
		t.Fatal(err)
	}
	c, err := token.Peek(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.check(DR, c, []byte(key), s.now()); err != nil {
		t.Errorf("check: %v", err)
	}
	if !reflect.DeepEqual(w.History, s.e.History()) || string(w.secret) != string(s.e.Identity().DigestSecret) {
		t.Error("history or digest secret changed on the way")
	}
	for name, change := range map[string]func(*welcome, *token.Claims){
		"another CA":     func(w *welcome, c *token.Claims) { c.CAHash[0] ^= 1 },
		"another set":    func(w *welcome, c *token.Claims) { w.Set = "x" },
		"another id":     func(w *welcome, c *token.Claims) { w.Secondary = "x" },
		"another kind":   func(w *welcome, c *token.Claims) { w.Kind = Performance },
		"another token":  func(w *welcome, c *token.Claims) { c.ID = "x" },
		"no secret":      func(w *welcome, c *token.Claims) { w.DigestSecret = "" },
		"no certificate": func(w *welcome, c *token.Claims) { w.Certificate = "" },
		"a huge bundle":  func(w *welcome, c *token.Claims) { w.Bundle = strings.Repeat("A", 17*maxPEM) },
	} {
		w, c := w, c
		change(&w, &c)
		if err := w.check(DR, c, []byte(key), s.now()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	otherKey, _ := mustRequest(t)
	if err := w.check(DR, c, []byte(otherKey), s.now()); err == nil {
		t.Error("a certificate for another key: accepted")
	}
}

func TestEngineRoleOfEachKind(t *testing.T) {
	p := newStation(t)
	p.run()
	for _, k := range kinds {
		p.mustEnable(k)
		s := newStation(t)
		warning, err := s.EnableSecondary(enginetest.Context(t), k, SecondaryEnable{Token: p.mustToken(k, "eu")})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(warning, "plain http") {
			t.Errorf("no warning of plain http: %q", warning)
		}
		c := <-s.switched
		want := map[Kind]engine.Role{DR: engine.Verbatim, Performance: engine.Writer}[k]
		if c.role != want || string(c.id.DigestSecret) != string(p.e.Identity().DigestSecret) || c.id.ClusterID == p.e.Identity().ClusterID {
			t.Errorf("%s: switched to role %v with identity %v", k, c.role, c.id.ClusterID)
		}
		if strings.Contains(s.logged.String()+p.logged.String(), "PRIVATE KEY") {
			t.Error("a log holds a private key")
		}
	}
}
