package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/internal/client"
)

// hanging is a server that takes requests and answers them when the test ends.
func hanging(t *testing.T) string {
	t.Helper()
	end := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-end }))
	t.Cleanup(func() { close(end); s.Close() })
	return s.URL
}

func TestStatusGivesUpAServerThatHangs(t *testing.T) {
	t.Setenv("LOCKSTEP_ADDR", hanging(t))
	err := run(context.Background(), []string{"status", "-timeout=50ms"}, strings.NewReader(""), io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "has not answered within 50ms") || !strings.Contains(err.Error(), "-timeout") {
		t.Errorf("got %v, want that it has not answered, and what to do", err)
	}
}

func TestFailoverSaysForWhatItWaits(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	f := &failover{c: &console{err: &said}, kind: "dr"}
	m := &member{api: client.New(hanging(t), "", 1), kind: "dr", say: f.say}
	for range 2 { // it goes on hanging: that is said once
		ctx, cancel := context.WithTimeout(context.Background(), failoverSilence+200*time.Millisecond)
		if err := m.do(ctx, http.MethodGet, healthPath, nil, nil); err == nil {
			t.Error("it answered")
		}
		cancel()
	}
	if got := said.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "waiting") || !strings.Contains(got, m.api.Address) || strings.Contains(got, "?") {
		t.Errorf("it said %q, want one line that names the cluster", got)
	}
}

// TestTheDROperationTokenIsForDRSecondariesAlone: what is in the environment for them is not shown to a cluster that takes the usual token.
func TestTheDROperationTokenIsForDRSecondariesAlone(t *testing.T) {
	t.Setenv("LOCKSTEP_DR_OPERATION_TOKEN", "of the DR secondary")
	for mode, want := range map[string]string{"secondary": "of the DR secondary", "primary": "the usual", "disabled": "the usual"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"replication_dr_mode":%q}`, mode)
		}))
		api := client.New(s.URL, "the usual", 1)
		if err := authoriseDR(context.Background(), api); err != nil || api.Token != want {
			t.Errorf("%s: the token is %q, %v, want %q", mode, api.Token, err, want)
		}
		s.Close()
	}
}
