package chaos

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	clients  = 6
	opTime   = 2 * time.Second       // how long a client waits for an answer
	pace     = 15 * time.Millisecond // between two operations of a client
	backoff  = 60 * time.Millisecond // after one that was not done
	v2Keys   = 7
	v1Keys   = 5
	maxReply = 1 << 20
)

// keys are few, so that clients meet.
func keys() []string {
	var all []string
	for i := range v2Keys {
		all = append(all, fmt.Sprintf("secret/s%d", i))
	}
	for i := range v1Keys {
		all = append(all, fmt.Sprintf("kv/k%d", i))
	}
	return all
}

// history collects what all clients did.
type history struct {
	began time.Time
	mu    sync.Mutex
	ops   []*op
	count atomic.Int64
}

func (h *history) now() time.Duration { return time.Since(h.began) }

func (h *history) add(o *op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o.id = len(h.ops)
	h.ops = append(h.ops, o)
	h.count.Add(1)
}

func (h *history) all() []*op {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.ops)
}

// client is one of those that the servers serve; its seed decides what it asks.
type client struct {
	id       int
	w        *world
	r        *rand.Rand
	n        int            // values written
	versions map[string]int // last seen, for cas
	token    string         // of its last write
}

// run asks until ctx ends; what was asked is waited for.
func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		o := c.draw()
		if o == nil {
			rest(ctx, backoff)
			continue
		}
		o.call = c.w.history.now()
		c.w.send(o)
		o.ret = c.w.history.now()
		c.learn(o)
		c.w.history.add(o)
		if o.outcome == done {
			rest(ctx, pace)
		} else {
			rest(ctx, backoff)
		}
	}
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// draw makes the next operation; nil when there is nobody to ask. The same numbers are drawn whoever there is.
func (c *client) draw() *op {
	where, which, what, key, stale := c.r.IntN(100), c.r.IntN(60), c.r.IntN(100), c.r.IntN(v2Keys+v1Keys), c.r.IntN(10)
	o := &op{client: c.id, key: keys()[key]}
	v := c.w.view.Load()
	switch {
	case len(v.secondaries) > 0 && where < 40:
		o.on = v.secondaries[which%len(v.secondaries)]
	case v.isolated != nil && c.id%2 == 1:
		o.on, o.direct, o.reign = v.isolated, true, v.isolatedReign
	default:
		o.on, o.direct = v.primary, true
	}
	if o.on == nil {
		return nil
	}
	if o.reign == 0 {
		o.reign = v.reign
	}
	o.life = int(o.on.life.Load())
	o.kind = pick(what, versioned(o.key))
	if o.kind.writes() && o.kind != remove {
		c.n++
		o.value = fmt.Sprintf("c%d.%d", c.id, c.n)
	}
	if o.kind == cas {
		o.expect = c.versions[o.key]
		if stale == 0 {
			o.expect++
		}
	}
	if !o.direct && o.kind == read && stale < 6 {
		o.asked = c.token
	}
	return o
}

func pick(n int, v2 bool) kind {
	switch {
	case n < 35:
		return read
	case n < 40:
		return list
	case n < 48:
		return remove
	case n < 75 && v2:
		return cas
	}
	return put
}

func (c *client) learn(o *op) {
	if o.version > 0 {
		c.versions[o.key] = o.version
	}
	if o.kind.writes() && o.outcome == done && o.token != "" {
		c.token = o.token
	}
	if o.outcome == refused && o.status == http.StatusConflict {
		c.token = "" // its state was lost
	}
}

// request is what the operation is on the wire.
func (o *op) request() (method, path string, body []byte) {
	v2 := versioned(o.key)
	path = o.key
	switch {
	case o.kind == list && v2:
		return "LIST", "secret/metadata/", nil
	case o.kind == list:
		return "LIST", "kv/", nil
	case v2:
		path = "secret/data/" + tail(o.key)
	}
	switch o.kind {
	case read:
		return http.MethodGet, path, nil
	case remove:
		return http.MethodDelete, path, nil
	}
	var content any = map[string]any{"v": o.value}
	if v2 {
		in := map[string]any{"data": content}
		if o.kind == cas {
			in["options"] = map[string]any{"cas": o.expect}
		}
		content = in
	}
	body, _ = json.Marshal(content) // of texts and numbers: cannot fail
	return http.MethodPost, path, body
}

// send asks and notes the answer.
func (w *world) send(o *op) {
	ctx, cancel := context.WithTimeout(context.Background(), opTime)
	defer cancel()
	method, path, body := o.request()
	a, err := o.on.do(ctx, method, path, body, o.on.userToken(), "X-Vault-Index", o.asked)
	if err != nil {
		o.outcome, o.detail = unknown, err.Error()
		var dial *net.OpError
		if errors.As(err, &dial) && dial.Op == "dial" {
			o.outcome = refused // nothing was sent
		}
		return
	}
	o.answered(a)
}

// answered reads an answer.
func (o *op) answered(a *answer) {
	o.status, o.token = a.status, a.header.Get("X-Vault-Index")
	var body struct {
		Errors   []string        `json:"errors"`
		Warnings []string        `json:"warnings"`
		Data     json.RawMessage `json:"data"`
	}
	_ = json.Unmarshal(a.body, &body) // of an empty body there is nothing to know
	for _, text := range body.Warnings {
		o.warned = o.warned || strings.Contains(text, "merkle-sync")
	}
	o.detail = strings.Join(body.Errors, "; ")
	switch {
	case a.status == http.StatusOK || a.status == http.StatusNoContent:
		o.outcome, o.found = done, true
		o.at, _ = placeOf(o.token)
	case a.status == http.StatusNotFound && !o.kind.writes():
		o.outcome = done
	case a.status == http.StatusBadRequest && o.kind == cas && strings.Contains(o.detail, "did not match the current version"):
		o.outcome, o.mismatch = done, true
		return
	case a.status == http.StatusConflict && strings.Contains(o.detail, "committed here, not confirmed"):
		if o.at, o.unconfirmed = placeOf(o.token); !o.unconfirmed {
			o.outcome = unknown
		}
		return
	case a.status == http.StatusConflict && strings.Contains(o.detail, "read before you write again"):
		o.outcome = unknown
		return
	case a.status >= 400 && a.status < 500, a.status == http.StatusServiceUnavailable:
		o.outcome = refused
		return
	default:
		o.outcome = unknown
		return
	}
	o.decode(body.Data)
}

func (o *op) decode(data json.RawMessage) {
	var in struct {
		V        string              `json:"v"`
		Keys     []string            `json:"keys"`
		Version  int                 `json:"version"`
		Data     *struct{ V string } `json:"data"`
		Metadata struct {
			Version int `json:"version"`
		} `json:"metadata"`
	}
	_ = json.Unmarshal(data, &in)
	o.names, o.version, o.got = in.Keys, in.Version, in.V
	if o.kind == read && versioned(o.key) {
		o.version = in.Metadata.Version
		if o.found = o.found && in.Data != nil; o.found {
			o.got = in.Data.V
		}
	}
}

// placeOf reads the shared place out of an index token.
func placeOf(token string) (place, bool) {
	plain, err := base64.StdEncoding.DecodeString(token)
	if err != nil {
		return place{}, false
	}
	fields := strings.Split(string(plain), ":")
	if len(fields) != 5 {
		return place{}, false
	}
	names := strings.Split(fields[1], ".")
	index, err := strconv.ParseUint(fields[3], 10, 64)
	if err != nil || len(names) < 3 {
		return place{}, false
	}
	return place{names[1], index}, true
}

// answer is what a server answered.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends one request, once.
func (m *member) do(ctx context.Context, method, path string, body []byte, token string, header ...string) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, m.node.API+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] != "" {
			req.Header.Set(header[i], header[i+1])
		}
	}
	got, err := m.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer got.Body.Close()
	text, err := io.ReadAll(io.LimitReader(got.Body, maxReply))
	if err != nil {
		return nil, err
	}
	return &answer{got.StatusCode, got.Header, text}, nil
}
