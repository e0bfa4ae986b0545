package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// put is a small write that each test may use.
func put(host string) func(int, *rand.Rand) Source {
	return func(_ int, rng *rand.Rand) Source {
		return Put{Path: "/v1/kv/", Host: host, Token: "t", Keys: 100, Size: 64}.Source(rng)
	}
}

func TestRequestsAreWhatTheySay(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	next := Put{Path: "/v1/kv/", Host: "h", Token: "secret", Header: "X-A: b\r\n", Keys: 1000, Size: 1024}.Source(rng)
	seen := map[string]bool{}
	for range 3 {
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(next())))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]string
		if err := json.Unmarshal(body, &fields); err != nil || len(fields["value"]) != 1024 || len(fields) != 1 {
			t.Fatalf("body: %v: %s", err, body)
		}
		key := strings.TrimPrefix(req.URL.Path, "/v1/kv/")
		if req.Method != "PUT" || len(key) != keyDigits || key >= Key(1000) || req.Header.Get("X-Vault-Token") != "secret" || req.Header.Get("X-A") != "b" {
			t.Fatalf("got %s %s %v", req.Method, req.URL, req.Header)
		}
		seen[fields["value"]] = true
	}
	if len(seen) != 3 {
		t.Errorf("three writes have %d values", len(seen))
	}
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(Get{Path: "/v1/kv/", Host: "h", Keys: 5}.Source(rng)())))
	if err != nil || req.Method != "GET" || !strings.HasPrefix(req.URL.Path, "/v1/kv/00000000") {
		t.Errorf("a read: %v, %+v", err, req)
	}
}

func TestARunCountsWhatWasAnswered(t *testing.T) {
	var answered atomic.Int64
	var conns sync.Map
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answered.Add(1)
		conns.Store(r.RemoteAddr, true)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	host := server.Listener.Addr().String()
	var calls []string
	got, err := Run(context.Background(), Config{
		Target: Target{Address: host}, Clients: 4, Length: 200 * time.Millisecond, New: put(host),
		Begin: func() { calls = append(calls, "begin") }, End: func() { calls = append(calls, "end") },
	})
	if err != nil {
		t.Fatal(err)
	}
	// At most one request of each client is answered after the end.
	if n := answered.Load(); got.Count == 0 || int64(got.Count) > n || int64(got.Count) < n-2*4 {
		t.Errorf("counted %d, the server answered %d", got.Count, n)
	}
	n := 0
	conns.Range(func(_, _ any) bool { n++; return true })
	if n != 4 {
		t.Errorf("the server saw %d connections, want 4", n)
	}
	if strings.Join(calls, " ") != "begin end" {
		t.Errorf("called %v, want begin and end", calls)
	}
}

func TestASingleRefusalFailsTheRun(t *testing.T) {
	var answered atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if answered.Add(1) == 50 {
			http.Error(w, "the disk is full", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	host := server.Listener.Addr().String()
	_, err := Run(context.Background(), Config{Target: Target{Address: host}, Clients: 4, Length: time.Minute, New: put(host)})
	var refused *StatusError
	if !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable || !strings.Contains(string(refused.Body), "disk is full") {
		t.Errorf("got %v, want the refusal", err)
	}
}

func TestARateIsKeptTo(t *testing.T) {
	var answered atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answered.Add(1)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	host := server.Listener.Addr().String()
	if _, err := Run(context.Background(), Config{
		Target: Target{Address: host}, Clients: 4, Length: 250 * time.Millisecond, Rate: 40, New: put(host),
	}); err != nil {
		t.Fatal(err)
	}
	// A quarter of a second at 40 a second; each client may have begun with one.
	if n := answered.Load(); n > 14 {
		t.Errorf("sent %d requests in a quarter of a second at 40 a second", n)
	}
}

func TestFillingWritesEachRecordOnce(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[strings.TrimPrefix(r.URL.Path, "/v1/kv/")]++
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	host := server.Listener.Addr().String()
	if err := Fill(context.Background(), Target{Address: host}, Put{Path: "/v1/kv/", Host: host, Size: 10}, 5, 1_005); err != nil {
		t.Fatal(err)
	}
	for i := 5; i < 1_005; i++ {
		if seen[Key(i)] != 1 {
			t.Fatalf("record %d was written %d times", i, seen[Key(i)])
		}
	}
	if len(seen) != 1_000 {
		t.Errorf("%d records were written, want 1000", len(seen))
	}
}
