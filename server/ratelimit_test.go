package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

func TestRateLimits(t *testing.T) {
	var refused atomic.Uint64
	served := 0
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ })
	ask := func(h http.Handler, path, remote string) *httptest.ResponseRecorder {
		r, w := httptest.NewRequest("GET", path, nil), httptest.NewRecorder()
		r.RemoteAddr = remote
		h.ServeHTTP(w, r)
		return w
	}
	h := newLimiter(next, Listener{RateLimit: 0.01}, &refused)
	if w := ask(h, "/v1/kv/a", "10.0.0.1:1"); w.Code != 200 {
		t.Errorf("the first request: %d", w.Code)
	}
	w := ask(h, "/v1/kv/a", "10.0.0.2:1")
	if w.Code != 429 || w.Header().Get("Retry-After") != "100" || refused.Load() != 1 {
		t.Errorf("the second one: %d, Retry-After %q, %d refused", w.Code, w.Header().Get("Retry-After"), refused.Load())
	}
	for path := range unlimited {
		if w := ask(h, path, "10.0.0.2:1"); w.Code != 200 {
			t.Errorf("%s is limited: %d", path, w.Code)
		}
	}
	h = newLimiter(next, Listener{RateLimitPerAddress: 0.01}, &refused)
	for _, c := range []struct {
		remote string
		want   int
	}{
		{"10.0.0.1:1", 200}, {"10.0.0.1:2", 429}, {"10.0.0.2:1", 200}, {"[2001:db8::1]:1", 200}, {"[2001:db8::2]:1", 429}, {"[2001:db8:0:1::1]:1", 200},
		{"[::ffff:10.0.0.1]:3", 429}, {"nonsense", 200}, {"other nonsense", 429},
	} {
		if w := ask(h, "/v1/kv/a", c.remote); w.Code != c.want {
			t.Errorf("%s: got %d, want %d", c.remote, w.Code, c.want)
		}
	}
	before := served
	if h := newLimiter(next, Listener{}, &refused); ask(h, "/v1/kv/a", "10.0.0.1:1").Code != 200 || served != before+1 {
		t.Error("without a limit a request is not served")
	}
}

func TestAddressesThatNeedNoMemoryAreForgottenAndTheRestShareOneLimit(t *testing.T) {
	x := newLimiter(nil, Listener{RateLimitPerAddress: 1}, nil).(*limiter)
	now := time.Now()
	for i := range maxAddresses {
		x.allow(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255), now)
	}
	if got := len(x.clients); got != maxAddresses {
		t.Fatalf("%d addresses are known, want %d", got, maxAddresses)
	}
	if a, b := x.allow("11.0.0.1:1", now), x.allow("11.0.0.2:1", now); !a || b {
		t.Errorf("two more addresses: %v, %v; want them to share one limit", a, b)
	}
	if !x.allow("11.0.0.3:1", now.Add(2*time.Second)) || len(x.clients) != 1 {
		t.Errorf("when all could be forgotten %d are known", len(x.clients))
	}
}
