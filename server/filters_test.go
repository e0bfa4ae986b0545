package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// answered is an answer with its header.
type answered struct {
	status int
	header http.Header
	text   string
}

// ask calls with header pairs.
func (r *running) ask(method, path, body string, header ...string) answered {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", r.cfg.Dev.RootToken)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return answered{text: err.Error()}
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answered{res.StatusCode, res.Header, string(text)}
}

// want calls and demands a status and words of the answer.
func (r *running) want(status int, words, method, path, body string, header ...string) answered {
	r.t.Helper()
	got := r.ask(method, path, body, header...)
	if got.status != status || !strings.Contains(got.text, words) {
		r.t.Fatalf("%s %s %s: got %d %s, want %d with %q\n%s", method, path, body, got.status, got.text, status, words, r.log)
	}
	return got
}

func (r *running) until(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(deadline) {
			r.t.Fatalf("after a minute it is not so that %s\n%s", what, r.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (r *running) status() map[string]any {
	r.t.Helper()
	var out struct {
		Data map[string]any `json:"data"`
	}
	if err := json.Unmarshal([]byte(r.ask("GET", "sys/replication/performance/status", "").text), &out); err != nil {
		return nil
	}
	return out.Data
}

// performancePair is a primary and a performance secondary, both development servers; before runs on the primary ahead of the activation.
func performancePair(t *testing.T, id string, before func(p *running)) (p, s *running) {
	t.Helper()
	pc, sc := testConfig(t), testConfig(t)
	sc.Replication.ForwardByHeader = true
	pc.Replication.HeartbeatInterval, sc.Replication.HeartbeatInterval = 50*time.Millisecond, 50*time.Millisecond
	p, s = runServer(t, pc), runServer(t, sc)
	p.want(200, "", "PUT", "sys/replication/performance/primary/enable", "{}")
	before(p)
	var wrapped struct {
		Info struct {
			Token string `json:"token"`
		} `json:"wrap_info"`
	}
	text := p.want(200, "", "PUT", "sys/replication/performance/primary/secondary-token", fmt.Sprintf(`{"id":%q}`, id)).text
	if err := json.Unmarshal([]byte(text), &wrapped); err != nil {
		t.Fatal(err)
	}
	s.want(200, "", "PUT", "sys/replication/performance/secondary/enable", fmt.Sprintf(`{"token":%q}`, wrapped.Info.Token))
	caughtUp(p, s)
	return p, s
}

// caughtUp waits until both show the same root of what the secondary may have.
func caughtUp(p, s *running) {
	p.t.Helper()
	s.until("the secondary streams and both sides show one root of what it may have", func() bool {
		mine, theirs := s.status(), p.status()
		if mine["mode"] != "secondary" || mine["state"] != "stream-wals" || mine["last_remote_wal"] != theirs["last_wal"] {
			return false
		}
		list, _ := theirs["secondaries"].([]any)
		one, _ := list[0].(map[string]any)
		return mine["merkle_root"] == one["merkle_root"]
	})
}

func TestAPathsFilterOverHTTP(t *testing.T) {
	t.Parallel()
	const filter = "sys/replication/performance/primary/paths-filter/eu"
	p, s := performancePair(t, "eu", func(p *running) {
		p.want(204, "", "POST", "sys/mounts/a", `{"type":"kv"}`)
		p.want(204, "", "POST", "sys/mounts/b", `{"type":"kv"}`)
		p.want(204, "", "PUT", "a/x", `{"v":"1"}`)
		p.want(204, "", "PUT", "b/x", `{"v":"hidden"}`)
		p.want(404, `{"errors":[]}`, "GET", filter, "")
		p.want(400, "mode must be", "PUT", filter, `{"mode":"whitelist","paths":["b/"]}`)
		p.want(204, "", "PUT", filter, `{"mode":"deny","paths":["b"]}`)
		p.want(200, `"data":{"mode":"deny","paths":["b/"]}`, "GET", filter, "")
		p.want(200, `"dynamic_filtered_mounts":["b/"]`, "GET", "sys/replication/performance/primary/dynamic-filter/eu", "")
		p.want(404, "", "GET", "sys/replication/performance/primary/dynamic-filter/us", "")
		p.want(400, "left out by the paths filter of secondary \\\"eu\\\"", "POST", "sys/remount", `{"from":"b","to":"seen"}`)
		p.want(400, "paths-filter/eu", "PUT", "sys/replication/performance/primary/mount-filter/eu", `{"mode":"whitelist"}`)
	})
	const named = "the mount b/ is left out of this cluster by its paths filter"
	s.want(200, `"v":"1"`, "GET", "a/x", "")
	for _, call := range [][3]string{
		{"GET", "b/x", ""}, {"GET", "b/none", ""}, {"LIST", "b", ""}, {"PUT", "b/x", `{"v":"2"}`}, {"DELETE", "b/x", ""},
		{"GET", "sys/internal/ui/mounts/b/x", ""}, {"GET", "sys/mounts/b", ""}, {"GET", "sys/mounts/b/tune", ""},
	} {
		s.want(400, named, call[0], call[1], call[2])
	}
	if got := s.want(200, "left out of this cluster by its paths filter", "GET", "sys/mounts", ""); strings.Contains(got.text, `"b/":`) {
		t.Errorf("sys/mounts lists what is left out: %s", got.text)
	}
	if got := s.want(200, `"a/"`, "GET", "sys/internal/ui/mounts", ""); strings.Contains(got.text, `"b/"`) {
		t.Errorf("sys/internal/ui/mounts lists what is left out: %s", got.text)
	}
	s.want(200, `"dynamic_filtered_mounts":["b/"]`, "GET", "sys/replication/performance/secondary/dynamic-filter/eu", "")
	s.want(400, "its own filter", "GET", "sys/replication/performance/secondary/dynamic-filter/us", "")
	s.want(400, "call the primary", "PUT", filter, `{}`)
	s.want(403, "the paths filter of secondary", "DELETE", "sys/mounts/b", "")
	s.want(403, "the paths filter of secondary", "POST", "sys/remount", `{"from":"a","to":"b"}`)
	s.want(204, "", "POST", "sys/mounts/mine", `{"type":"kv","local":true}`)
	s.want(204, "", "PUT", "mine/x", `{"v":"1"}`)

	p.want(204, "", "DELETE", filter, "")
	s.until("the mount that was added is served, and nothing else was said of it than that it is left out, then being received", func() bool {
		a := s.ask("GET", "b/x", "")
		if a.status != 200 && !(a.status == 400 && strings.Contains(a.text, named)) && !(a.status == 503 && strings.Contains(a.text, "still being received")) {
			t.Fatalf("while the mount is received: got %d %s", a.status, a.text)
		}
		if a := s.ask("GET", "a/x", ""); a.status != 200 {
			t.Fatalf("a mount that was there all the time: got %d %s", a.status, a.text)
		}
		return a.status == 200
	})
	s.want(200, `"v":"hidden"`, "GET", "b/x", "")
	p.want(204, "", "PUT", filter, `{"mode":"allow","paths":["b/","secret/"]}`)
	s.until("the mount that was taken away is not", func() bool { return s.ask("GET", "a/x", "").status == 400 })
	s.want(200, `"v":"hidden"`, "GET", "b/x", "")
	s.want(200, `"v":"1"`, "GET", "mine/x", "")
	s.want(403, "the paths filter of secondary", "POST", "sys/mounts/other", `{"type":"kv"}`)
	caughtUp(p, s)
	if status := s.status(); fmt.Sprint(status["filtered_mounts"]) != "[a/]" {
		t.Errorf("filtered_mounts of the secondary: %v, want [a/]", status["filtered_mounts"])
	}
}

func TestConsistencyHeaders(t *testing.T) {
	t.Parallel()
	p, s := performancePair(t, "eu", func(p *running) {
		p.want(204, "", "POST", "sys/mounts/kv", `{"type":"kv"}`)
	})
	for i := range 20 { // a write through the primary is read on the secondary, by its token alone
		wrote := p.want(204, "", "PUT", "kv/x", fmt.Sprintf(`{"v":"%d"}`, i))
		index := wrote.header.Get("X-Vault-Index")
		if index == "" {
			t.Fatal("a write's answer has no X-Vault-Index")
		}
		s.want(200, fmt.Sprintf(`"v":"%d"`, i), "GET", "kv/x", "", "X-Vault-Index", index)
	}
	if got := p.want(200, "", "GET", "kv/x", ""); got.header.Get("X-Vault-Index") != "" {
		t.Error("a read's answer names a state")
	}
	forwarded := s.want(204, "", "PUT", "kv/x", `{"v":"forwarded"}`).header.Get("X-Vault-Index")
	local := s.want(200, "", "POST", "auth/token/create", `{}`).header.Get("X-Vault-Index")
	if forwarded == "" || local == "" {
		t.Fatalf("of a forwarded write: %q, of a local one: %q", forwarded, local)
	}
	p.want(200, "forwarded", "GET", "kv/x", "", "X-Vault-Index", forwarded, "X-Vault-Index", local)
	s.want(200, "forwarded", "GET", "kv/x", "", "X-Vault-Index", forwarded, "X-Vault-Index", local)

	s.want(400, "malformed or forged", "GET", "kv/x", "", "X-Vault-Index", "nonsense")
	s.want(400, "malformed or forged", "GET", "kv/x", "", "X-Vault-Index", forwarded[:len(forwarded)-4]+"AAAA")
	stranger := runServer(t, testConfig(t))
	foreign := stranger.want(200, "", "PUT", "secret/data/x", `{"data":{}}`).header.Get("X-Vault-Index")
	s.want(400, "malformed or forged", "GET", "kv/x", "", "X-Vault-Index", foreign)

	p.want(400, "forwarding by header is off", "GET", "kv/x", "", "X-Vault-Forward", "active-node")
	s.want(400, "must be active-node", "GET", "kv/x", "", "X-Vault-Forward", "standby")
	s.want(400, "forbids to forward", "PUT", "kv/x", `{"v":"2"}`, "X-Vault-No-Request-Forwarding", "true")
	s.want(200, "forwarded", "GET", "kv/x", "", "X-Vault-No-Request-Forwarding", "true")

	// Without the primary.
	p.stop()
	if err := p.end(); err != nil {
		t.Fatal(err)
	}
	s.want(200, "forwarded", "GET", "kv/x", "") // reads go on
	if got := s.want(503, "needs the primary", "PUT", "kv/x", `{"v":"3"}`); !strings.Contains(got.text, "errors") {
		t.Errorf("a write without the primary: %s", got.text)
	}
}
