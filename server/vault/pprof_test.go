package vault_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/vault"
)

func TestProfilesAreAnsweredAsNetHTTPPprofDoes(t *testing.T) {
	c := ready(t)
	c.must(204, "PUT", "sys/policies/acl/debug", `{"policy":"path \"sys/pprof/*\" { capabilities = [\"read\"] }"}`)
	debug := c.token(`{"policies":["debug"]}`)
	packed := func(b []byte) bool { return bytes.HasPrefix(b, []byte{0x1f, 0x8b}) }
	says := func(text string) func([]byte) bool {
		return func(b []byte) bool { return bytes.Contains(b, []byte(text)) }
	}
	for path, right := range map[string]func([]byte) bool{
		"sys/pprof/":                   says("<html>"),
		"sys/pprof/allocs":             packed,
		"sys/pprof/block":              packed,
		"sys/pprof/cmdline":            says(".test"),
		"sys/pprof/goroutine":          packed,
		"sys/pprof/goroutine?debug=2":  says("goroutine "),
		"sys/pprof/heap?gc=1":          packed,
		"sys/pprof/mutex":              packed,
		"sys/pprof/profile?seconds=1":  packed,
		"sys/pprof/symbol?0x1+0x2":     says("num_symbols: 1"),
		"sys/pprof/threadcreate":       packed,
		"sys/pprof/trace?seconds=0.01": says("trace"),
	} {
		token := debug
		if path == "sys/pprof/" { // which is sys/pprof to a policy
			token = c.root
		}
		if g := c.call("GET", path, token, ""); g.status != 200 || !right(g.raw) {
			t.Errorf("%s: status %d, %.80q", path, g.status, g.raw)
		}
	}
	for _, s := range []struct {
		path, token string
		status      int
	}{
		{"sys/pprof/heap", "none", 403},
		{"sys/pprof/heap", c.token(`{"policies":["default"]}`), 403},
		{"sys/pprof/cpu", debug, 404},
		{"sys/pprof/heap/x", debug, 404},
		{"sys/pprof/profile?seconds=61", debug, 400},
		{"sys/pprof/profile?seconds=0", debug, 400},
		{"sys/pprof/profile?seconds=NaN", debug, 400},
		{"sys/pprof/heap?seconds=1.5", debug, 400},
		{"sys/pprof/goroutine?seconds=1&debug=1", debug, 400},
	} {
		if g := c.call("GET", s.path, s.token, ""); g.status != s.status {
			t.Errorf("%s: got %v, want %d", s.path, g, s.status)
		}
	}
}

func TestOneProfileOfAKindIsTakenAtATime(t *testing.T) {
	c := ready(t)
	end := vault.BeginProfile(c.core, "heap")
	if g := c.call("GET", "sys/pprof/heap", c.root, ""); g.status != http.StatusTooManyRequests || !strings.Contains(string(g.raw), "being taken") {
		t.Errorf("a second one: got %v", g)
	}
	c.must(200, "GET", "sys/pprof/allocs", "")
	end()
	c.must(200, "GET", "sys/pprof/heap", "")
}
