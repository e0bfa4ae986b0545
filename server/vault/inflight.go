package vault

import (
	"sync"
	"time"

	"github.com/lockstepdb/lockstep/internal/meter"
)

// meters are the times of what the core does, since it was made.
type meters struct {
	request                     meter.Summary // a request, from its first byte to its answer
	auditRequest, auditResponse meter.Summary // recording one on every audit device
}

// running are the requests that are being answered now.
type running struct {
	mu   sync.Mutex // guards what follows
	byID map[string]inFlight
}

type inFlight struct {
	Began  time.Time
	Remote string
	Path   string
	Method string
}

func (t *running) begin(r *request, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID == nil {
		t.byID = map[string]inFlight{}
	}
	t.byID[r.id] = inFlight{now, r.remote, r.path, r.method}
}

func (t *running) end(r *request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byID, r.id)
}

func (t *running) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

// inFlightRequests answers what is being answered: who asks for what, and since when. No body, no token.
func (c *Core) inFlightRequests(*request) (*reply, error) {
	c.running.mu.Lock()
	defer c.running.mu.Unlock()
	out := make(map[string]any, len(c.running.byID))
	for id, f := range c.running.byID {
		out[id] = map[string]any{
			"start_time": stamp(f.Began.UTC()), "client_remote_address": f.Remote, "request_path": "/v1/" + f.Path,
			"request_method": f.Method, "snapshot_time": stamp(c.now().UTC()),
		}
	}
	return &reply{bare: out}, nil
}
