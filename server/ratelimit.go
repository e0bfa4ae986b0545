package server

import (
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	// maxAddresses bounds how many client addresses are told apart; those beyond share one limit.
	maxAddresses = 65536
	// forgetEvery bounds how often addresses are looked through for those that need no memory.
	forgetEvery = time.Second
)

// limiter refuses requests above a rate, of the listener and of each client address. Nothing waits: a queue would only hold more.
type limiter struct {
	next      http.Handler
	all       *rate.Limiter // nil: no limit
	perClient rate.Limit    // 0: no limit
	refused   *atomic.Uint64

	mu      sync.Mutex // guards what follows
	clients map[netip.Prefix]*rate.Limiter
	others  *rate.Limiter
	forgot  time.Time
}

// newLimiter returns next itself when there is nothing to limit.
func newLimiter(next http.Handler, l Listener, refused *atomic.Uint64) http.Handler {
	if l.RateLimit == 0 && l.RateLimitPerAddress == 0 {
		return next
	}
	x := &limiter{next: next, perClient: rate.Limit(l.RateLimitPerAddress), refused: refused, clients: map[netip.Prefix]*rate.Limiter{}}
	if l.RateLimit > 0 {
		x.all = bucket(rate.Limit(l.RateLimit))
	}
	if x.perClient > 0 {
		x.others = bucket(x.perClient)
	}
	return x
}

// bucket lets the requests of one second through at once.
func bucket(r rate.Limit) *rate.Limiter { return rate.NewLimiter(r, max(1, int(r))) }

// unlimited are calls that probes and operators make when all else is refused: as in Vault they count against no limit.
var unlimited = map[string]bool{
	"/v1/sys/health": true, "/v1/sys/seal-status": true, "/v1/sys/unseal": true, "/v1/sys/replication/status": true,
	"/v1/sys/replication/dr/status": true, "/v1/sys/replication/performance/status": true,
}

func (x *limiter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !unlimited[r.URL.Path] && !x.allow(r.RemoteAddr, time.Now()) {
		x.refused.Add(1)
		w.Header().Set("Retry-After", strconv.Itoa(x.wait()))
		answerJSON(w, http.StatusTooManyRequests, map[string]any{"errors": []string{"request path is rate limited: more requests a second than the listener's rate_limit or rate_limit_per_address allows; wait, then repeat"}})
		return
	}
	x.next.ServeHTTP(w, r)
}

// allow asks the client's limit first: what one client sends in vain takes nothing from the others.
func (x *limiter) allow(remote string, now time.Time) bool {
	if x.perClient > 0 && !x.client(remote, now).AllowN(now, 1) {
		return false
	}
	return x.all == nil || x.all.AllowN(now, 1)
}

func (x *limiter) client(remote string, now time.Time) *rate.Limiter {
	where, ok := network(remote)
	if !ok {
		return x.others
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if c := x.clients[where]; c != nil {
		return c
	}
	if len(x.clients) >= maxAddresses {
		x.forget(now)
	}
	if len(x.clients) >= maxAddresses {
		return x.others
	}
	c := bucket(x.perClient)
	x.clients[where] = c
	return c
}

// forget drops the limits that are as good as new. The caller holds the mutex.
func (x *limiter) forget(now time.Time) {
	if now.Sub(x.forgot) < forgetEvery {
		return
	}
	x.forgot = now
	for where, c := range x.clients {
		if c.TokensAt(now) >= float64(c.Burst()) {
			delete(x.clients, where)
		}
	}
}

// network is who a client is: an address of version 4, or the 64 bits of version 6 that one customer has.
func network(remote string) (netip.Prefix, bool) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return netip.Prefix{}, false
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}, false
	}
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	return p, err == nil
}

// wait is after how many seconds another request may pass.
func (x *limiter) wait() int {
	slowest := math.Inf(1)
	if x.all != nil {
		slowest = float64(x.all.Limit())
	}
	if x.perClient > 0 {
		slowest = min(slowest, float64(x.perClient))
	}
	return int(math.Ceil(max(1, 1/slowest)))
}
