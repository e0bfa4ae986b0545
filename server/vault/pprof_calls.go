package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/pprof"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxProfiling is how long a profile may be taken: whoever asks waits for it, and it costs some percent of what runs.
	maxProfiling = 60 * time.Second
	// maxTrace ends a trace early, which is then one of less time; maxProfile refuses an answer. They bound memory.
	maxTrace   = 32 << 20
	maxProfile = 64 << 20
)

const (
	profileCPU   = "profile"
	profileTrace = "trace"
)

// runtimeProfiles are those that the runtime keeps all the time.
var runtimeProfiles = []string{"allocs", "block", "goroutine", "heap", "mutex", "threadcreate"}

// profiling is what is being taken: one profile of each kind at a time.
type profiling struct {
	mu    sync.Mutex // guards taken
	taken map[string]bool
}

// begin returns nil when one of this kind is being taken.
func (p *profiling) begin(kind string) (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[kind] {
		return nil
	}
	if p.taken == nil {
		p.taken = map[string]bool{}
	}
	p.taken[kind] = true
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.taken, kind)
	}
}

// profile answers sys/pprof/…, as net/http/pprof does.
func (c *Core) profile(r *request) (*reply, error) {
	if r.wrapTTL > 0 {
		return nil, refuse(errInvalid, "a profile cannot be wrapped: leave out %s", wrapHeader)
	}
	take, asked := profileOf(r.rest), r.query
	if take == nil {
		return nil, refuse(errNotFound, "there is no profile of that name: GET sys/pprof lists them")
	}
	if err := boundProfile(r.rest, asked); err != nil {
		return nil, err
	}
	end := c.profiling.begin(r.rest)
	if end == nil {
		return nil, refuse(errBusy, "such a profile is being taken already: wait until it has ended")
	}
	defer end()
	query := asked.Encode()
	if r.rest == "symbol" { // addresses, no parameters
		query = rawAddresses(asked)
	}
	return takeProfile(r, take, query)
}

func profileOf(name string) http.HandlerFunc {
	switch name {
	case "":
		return pprof.Index
	case "cmdline":
		return pprof.Cmdline
	case "symbol":
		return pprof.Symbol
	case profileCPU:
		return pprof.Profile
	case profileTrace:
		return pprof.Trace
	}
	if slices.Contains(runtimeProfiles, name) {
		return pprof.Handler(name).ServeHTTP
	}
	return nil
}

// boundProfile refuses what takes too long.
func boundProfile(name string, asked url.Values) error {
	text := asked.Get("seconds")
	if text == "" {
		return nil
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(seconds > 0 && seconds <= maxProfiling.Seconds()) || name != profileTrace && seconds != float64(int(seconds)) {
		return refuse(errInvalid, "seconds must be a number from 1 to %d", int(maxProfiling.Seconds()))
	}
	return nil
}

func rawAddresses(asked url.Values) string {
	for key := range asked {
		return strings.ReplaceAll(key, " ", "+")
	}
	return ""
}

func takeProfile(r *request, take http.HandlerFunc, query string) (*reply, error) {
	ctx, enough := context.WithCancel(r.ctx)
	defer enough()
	asked, err := http.NewRequestWithContext(ctx, http.MethodGet, "/debug/pprof/"+r.rest+"?"+query, nil)
	if err != nil {
		return nil, err
	}
	got := &taken{header: http.Header{}, status: http.StatusOK}
	if r.rest == profileTrace {
		got.enough = enough
	}
	take(got, asked)
	switch {
	case r.ctx.Err() != nil:
		return nil, context.Cause(r.ctx)
	case got.status >= 500: // the runtime takes one of a kind at a time
		return nil, refuse(errBusy, "%s", strings.TrimSpace(got.body.String()))
	case got.status != http.StatusOK:
		return nil, refuse(errInvalid, "%s", strings.TrimSpace(got.body.String()))
	case got.over:
		return nil, refuse(errInvalid, "the profile is larger than %d MiB: ask for fewer seconds", maxProfile>>20)
	}
	r.contentType = got.header.Get("Content-Type")
	return &reply{bare: json.RawMessage(got.body.Bytes())}, nil
}

// taken is a profile's answer, kept until it is complete: the answer of a request is recorded before it is sent.
type taken struct {
	header http.Header
	status int
	body   bytes.Buffer
	enough func() // called when a trace is long enough; may be nil
	over   bool   // it was too long
}

func (t *taken) Header() http.Header    { return t.header }
func (t *taken) WriteHeader(status int) { t.status = status }

func (t *taken) Write(b []byte) (int, error) {
	if t.body.Len()+len(b) > maxProfile {
		t.over = true
		return 0, errors.New("the profile is too large")
	}
	if t.enough != nil && t.body.Len()+len(b) > maxTrace {
		t.enough()
	}
	return t.body.Write(b)
}
