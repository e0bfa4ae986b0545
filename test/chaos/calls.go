package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

func encode(v any) string {
	b, _ := json.Marshal(v) // of texts: cannot fail
	return string(b)
}

// demand ends the round for what can only fail when something is wrong.
func (w *world) demand(err error) {
	w.t.Helper()
	if err != nil {
		w.fail("%v", err)
		w.t.FailNow()
	}
}

func (w *world) must(m *member, method, path, body string) *answer {
	w.t.Helper()
	a, err := w.insist(m, method, path, body, stepTime)
	w.demand(err)
	return a
}

const (
	stepTime = 20 * time.Second // for what takes a healthy server well under one
	callTime = 10 * time.Second // of one call of an operator
)

// insist repeats an operator's call while it is answered 412, 429 or 503, or not at all, as operators' tools do.
func (w *world) insist(m *member, method, path, body string, limit time.Duration) (*answer, error) {
	end := time.Now().Add(limit)
	for {
		a, err := m.call(method, path, body)
		switch {
		case err != nil:
		case a.status < 300:
			return a, nil
		case a.status == http.StatusForbidden && time.Now().Before(end):
			err = fmt.Errorf("status 403: %s", a.body)
			if again := w.login(m); again != nil {
				err = fmt.Errorf("%w; and logging in: %w", err, again)
			}
		case a.status == http.StatusPreconditionFailed, a.status == http.StatusTooManyRequests, a.status >= 500:
			err = fmt.Errorf("status %d: %s", a.status, a.body)
		default:
			return a, fmt.Errorf("%s %s at %s: status %d: %s", method, path, m.name, a.status, a.body)
		}
		if time.Now().After(end) || !m.node.Running() {
			return a, fmt.Errorf("%s %s at %s: given up after %s: %w", method, path, m.name, limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (m *member) call(method, path, body string) (*answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	return m.do(ctx, method, path, []byte(body), m.userToken())
}

// login gets a token of this very cluster by the account that all share.
func (w *world) login(m *member) error {
	end := time.Now().Add(stepTime)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), callTime)
		a, err := m.do(ctx, "POST", "auth/userpass/login/"+account, []byte(encode(map[string]string{"password": passphrase})), "")
		cancel()
		if err == nil && a.status == http.StatusOK {
			var in struct {
				Auth struct {
					Token string `json:"client_token"`
				} `json:"auth"`
			}
			if err := json.Unmarshal(a.body, &in); err != nil || in.Auth.Token == "" {
				return fmt.Errorf("login at %s: %s", m.name, a.body)
			}
			m.use(in.Auth.Token)
			return nil
		}
		if err == nil {
			err = fmt.Errorf("status %d: %s", a.status, a.body)
		}
		if time.Now().After(end) {
			return fmt.Errorf("login at %s: %w", m.name, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// operationToken makes the batch token by which a site's DR secondaries are operated. Its role is replicated, and may not be there yet.
func (w *world) operationToken(s *site) error {
	var a *answer
	err := w.await("a DR operation token of "+s.active.name, stepTime, func() (bool, string) {
		var err error
		if a, err = s.active.call("POST", "auth/token/create/dr-operation", `{"ttl":"768h"}`); err != nil {
			return false, err.Error()
		}
		return a.status == http.StatusOK, fmt.Sprintf("status %d: %s", a.status, a.body)
	})
	if err != nil {
		return err
	}
	var in struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	if err := json.Unmarshal(a.body, &in); err != nil || in.Auth.Token == "" {
		return fmt.Errorf("a DR operation token of %s: %s", s.active.name, a.body)
	}
	s.op = in.Auth.Token
	return nil
}

// activation asks the primary of a kind for a token for m, under an id that was never used.
func (w *world) activation(p, m *member, kind cluster.Kind) (token, id string, err error) {
	m.ids++
	id = fmt.Sprintf("%s-%d", m.name, m.ids)
	a, err := w.insist(p, "POST", "sys/replication/"+string(kind)+"/primary/secondary-token", encode(map[string]string{"id": id}), stepTime)
	if err != nil {
		return "", "", err
	}
	var in struct {
		Wrap struct {
			Token string `json:"token"`
		} `json:"wrap_info"`
	}
	if err := json.Unmarshal(a.body, &in); err != nil || in.Wrap.Token == "" {
		return "", "", fmt.Errorf("secondary-token of %s at %s: %s", id, p.name, a.body)
	}
	return in.Wrap.Token, id, nil
}

// join makes m a secondary of p, from empty.
func (w *world) join(m, p *member, kind cluster.Kind) error {
	token, id, err := w.activation(p, m, kind)
	if err != nil {
		return err
	}
	m.life.Add(1)
	if _, err := w.insist(m, "POST", "sys/replication/"+string(kind)+"/secondary/enable", encode(map[string]string{"token": token}), stepTime); err != nil {
		return err
	}
	m.known[kind] = id
	m.since = w.history.now()
	return w.await(m.name+" is a secondary", stepTime, func() (bool, string) {
		s, err := m.node.Status(kind)
		if err != nil {
			return false, err.Error()
		}
		return s.Mode == "secondary", "mode " + s.Mode
	})
}

// await asks until the answer is yes, or the limit has passed.
func (w *world) await(what string, limit time.Duration, ask func() (bool, string)) error {
	end := time.Now().Add(limit)
	for {
		yes, detail := ask()
		if yes {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited %s in vain until %s; last seen: %s", limit, what, detail)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// awaitStream waits until a secondary streams.
func (w *world) awaitStream(m *member, kind cluster.Kind, limit time.Duration) error {
	return w.await(m.name+" streams", limit, func() (bool, string) {
		s, err := m.node.Status(kind)
		if err != nil {
			return false, err.Error()
		}
		return s.Mode == "secondary" && s.State == "stream-wals" && s.ConnectionState == "ready",
			fmt.Sprintf("mode %s, state %s, link %s, reason %v", s.Mode, s.State, s.ConnectionState, s.Raw["reason"])
	})
}
