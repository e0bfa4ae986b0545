package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/lockstepdb/lockstep/internal/buildinfo"
	"github.com/lockstepdb/lockstep/server/engine"
)

// errRoleEnded is the cause of the contexts of requests that outlast their core.
var errRoleEnded = errors.New("the cluster's role is changing")

// gate is what the API listener serves: the live core, or, while there is
// none, an answer that says why. The listener stays up over a change of role.
type gate struct {
	mu      sync.Mutex
	session *session // nil while there is no live core
	waiting waiting
}

// session is the time in which one core answers requests.
type session struct {
	core     http.Handler
	ctx      context.Context
	end      context.CancelCauseFunc
	requests sync.WaitGroup
}

// waiting is why no core answers.
type waiting struct {
	reason   string
	becoming *engine.Role // set while a new secondary starts
	face     http.Handler // answers instead, while the node is sealed
}

// open lets a core answer until the gate is shut.
func (g *gate) open(core http.Handler) {
	s := &session{core: core}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	g.mu.Lock()
	defer g.mu.Unlock()
	g.session = s
}

// shut lets no further request reach the core, and returns the session whose
// requests are still to end. Shutting a gate that is shut returns nil.
func (g *gate) shut(why waiting) *session {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.session
	g.session, g.waiting = nil, why
	return s
}

// reopen undoes shut.
func (g *gate) reopen(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.session = s
}

// drain waits until the session's requests have ended. Those that last longer
// than grace are cancelled.
func (s *session) drain(grace time.Duration) {
	if s == nil {
		return
	}
	timer := time.AfterFunc(grace, func() { s.end(errRoleEnded) })
	defer timer.Stop()
	s.requests.Wait()
	s.end(errRoleEnded)
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s, why := g.enter()
	if s == nil {
		why.answer(w, r)
		return
	}
	defer s.requests.Done()
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	body, _ := r.Body.(*patientBody)
	if body != nil {
		body.ctx = ctx
	}
	defer context.AfterFunc(s.ctx, func() {
		cancel(context.Cause(s.ctx))
		if body != nil { // a slow client must not hold up the end of a role
			body.end()
		}
	})()
	s.core.ServeHTTP(w, r.WithContext(ctx))
}

func (g *gate) enter() (*session, waiting) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.session != nil {
		g.session.requests.Add(1)
	}
	return g.session, g.waiting
}

// answer says in Vault's form that nothing can be answered now. Health and
// replication status of a new secondary are known already: it bootstraps.
func (why waiting) answer(w http.ResponseWriter, r *http.Request) {
	if !vaultPath(r.URL.Path) {
		why.answerOpenSearch(w)
		return
	}
	if why.face != nil {
		why.face.ServeHTTP(w, r)
		return
	}
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	if why.becoming != nil && read {
		switch r.URL.Path {
		case "/v1/sys/health":
			why.health(w, r)
			return
		case "/v1/sys/replication/status":
			answerJSON(w, http.StatusOK, envelope(map[string]any{"dr": why.status(engine.Verbatim), "performance": why.status(engine.Writer)}))
			return
		case "/v1/sys/replication/dr/status":
			answerJSON(w, http.StatusOK, envelope(why.status(engine.Verbatim)))
			return
		case "/v1/sys/replication/performance/status":
			answerJSON(w, http.StatusOK, envelope(why.status(engine.Writer)))
			return
		}
	}
	w.Header().Set("Retry-After", "1")
	answerJSON(w, http.StatusServiceUnavailable, map[string]any{"errors": []string{why.reason}})
}

// answerOpenSearch says the same in OpenSearch's form.
func (why waiting) answerOpenSearch(w http.ResponseWriter) {
	reason := why.reason
	if why.face != nil {
		reason = "the server is sealed or not initialised: see GET /v1/sys/seal-status"
	}
	cause := map[string]string{"type": "status_exception", "reason": reason}
	w.Header().Set("Retry-After", "1")
	answerJSON(w, http.StatusServiceUnavailable, map[string]any{
		"error":  map[string]any{"root_cause": []any{cause}, "type": cause["type"], "reason": reason},
		"status": http.StatusServiceUnavailable,
	})
}

func (why waiting) status(of engine.Role) map[string]any { return map[string]any{"mode": why.mode(of)} }

// mode is the replication mode of the set that the role belongs to: a new
// verbatim log is a DR secondary's, a new writer's a performance secondary's.
func (why waiting) mode(of engine.Role) string {
	if *why.becoming == of {
		return "bootstrapping"
	}
	return "disabled"
}

func (why waiting) health(w http.ResponseWriter, r *http.Request) {
	status := http.StatusServiceUnavailable // it serves nobody yet
	if text := r.URL.Query().Get("sealedcode"); text != "" {
		asked, err := strconv.Atoi(text)
		if err != nil || asked < 200 || asked > 599 {
			answerJSON(w, http.StatusBadRequest, map[string]any{"errors": []string{}})
			return
		}
		status = asked
	}
	answerJSON(w, status, map[string]any{
		"initialized":                  true,
		"sealed":                       false,
		"standby":                      false,
		"performance_standby":          false,
		"replication_dr_mode":          why.mode(engine.Verbatim),
		"replication_performance_mode": why.mode(engine.Writer),
		"server_time_utc":              time.Now().Unix(),
		"version":                      buildinfo.Read().Version,
		"enterprise":                   false,
	})
}

func envelope(data map[string]any) map[string]any {
	return map[string]any{
		"request_id": "", "lease_id": "", "renewable": false, "lease_duration": 0,
		"data": data, "wrap_info": nil, "warnings": nil, "auth": nil,
	}
}

func answerJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A client that has gone away needs no answer.
	_ = json.NewEncoder(w).Encode(body)
}
