package vault

import (
	"context"
	"encoding/json"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// counters holds, in local scope, what this cluster counts of logins: uses/<method>/<role>/<hash> of a secret id, and
// lock/<method>/<name>. It is no system keyspace.
var counters = space{storage.KeyspaceID{15: 18}, storage.Local}

const (
	lockPrefix = "lock/"
	usesPrefix = "uses/"

	// As in Vault: so many failures, each within so long of the one before, and a name is locked for so long.
	lockAfter = 5
	lockTime  = 15 * time.Minute

	maxGuests   = 20000 // unknown names whose failures are remembered
	maxWaiting  = 64    // logins that wait for their password's check, or are checked
	maxFromOne  = 32    // of them from one address (64 bits of version 6); a load balancer is one
	busyWait    = "5"   // seconds after which who was refused may try again
	passwordMax = 72    // bytes; bcrypt looks at no more
)

// guests guards what strangers can ask for: checks of passwords, which are slow on purpose, and guesses.
type guests struct {
	checks chan struct{} // a slot for each check that may run for strangers
	own    chan struct{} // and for those with a token, who wait for no stranger
	cost   int           // of bcrypt
	dummy  func() []byte // what passwords of unknown names are compared with: they take as long as others

	mu      sync.Mutex
	known   map[string]*guesses // as many as there are accounts at most
	unknown map[string]*guesses
	waiting int                  // logins that have a place
	from    map[netip.Prefix]int // of them, by address; those without a place are not in it
}

// guesses are the failures of one name of one auth method.
type guesses struct {
	count int
	last  time.Time
	until time.Time // locked until then
	kept  bool      // the lock is a record
}

func (f *guesses) locked(now time.Time) bool { return now.Before(f.until) }

func (f *guesses) over(now time.Time) bool { return !f.locked(now) && now.Sub(f.last) >= lockTime }

func (g *guests) init() {
	g.checks = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
	g.own = make(chan struct{}, 1)
	g.from = map[netip.Prefix]int{}
	g.cost = bcrypt.DefaultCost
	g.known, g.unknown = map[string]*guesses{}, map[string]*guesses{}
	g.dummy = sync.OnceValue(func() []byte {
		hash, err := bcrypt.GenerateFromPassword([]byte(randomText(32)), g.cost)
		if err != nil {
			panic("internal error: bcrypt refused a password of its own: " + err.Error())
		}
		return hash
	})
}

// table returns the failures of known, or of unknown names.
func (g *guests) table(known bool) map[string]*guesses {
	if known {
		return g.known
	}
	return g.unknown
}

// failed counts a failure; lock says that it was the one too many.
func (g *guests) failed(name string, known bool, now time.Time) (lock bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.table(known)
	f := t[name]
	if f == nil || f.over(now) {
		if !known && len(t) >= maxGuests {
			clear(t)
		}
		f = &guesses{}
		t[name] = f
	}
	f.count++
	f.last = now
	if f.count < lockAfter || f.locked(now) {
		return false
	}
	f.until, f.kept, f.count = now.Add(lockTime), false, 0
	return known
}

func (g *guests) forget(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.known, name)
	delete(g.unknown, name)
}

func (g *guests) locked(name string, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range []map[string]*guesses{g.known, g.unknown} {
		if f := t[name]; f != nil && f.locked(now) {
			return true
		}
	}
	return false
}

// unkept returns the locks that are no records yet, and forgets what is over.
func (g *guests) unkept(now time.Time) map[string]time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := map[string]time.Time{}
	for name, f := range g.known {
		switch {
		case f.over(now):
			delete(g.known, name)
		case f.locked(now) && !f.kept:
			out[name] = f.until
		}
	}
	return out
}

func (g *guests) keep(name string, until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f := g.known[name]; f != nil && f.until.Equal(until) {
		f.kept = true
	}
}

// guest is the name under which an auth method's account is counted.
func (m *mount) guest(name string) string { return m.UUID + "/" + name }

// lockRecord is a lock as it is kept, so that neither a restart nor a failover lifts it.
type lockRecord struct {
	Until time.Time `json:"until"`
}

// lockedOut tells whether a name may not log in now. It asks the store for every name, so that the time it takes tells nothing.
func (c *Core) lockedOut(m *mount, name string) (bool, error) {
	now := c.now()
	value, ok, err := c.get(counters, lockPrefix+m.guest(name))
	if err != nil {
		return false, err
	}
	var rec lockRecord
	if ok && json.Unmarshal(value, &rec) == nil && now.Before(rec.Until) {
		return true, nil
	}
	return c.guests.locked(m.guest(name), now), nil
}

// loginFailed counts a failure. The record of a lock is written by Run: a stranger's request writes nothing, and takes
// no longer for a name that exists.
func (c *Core) loginFailed(m *mount, name string, known bool) {
	if c.guests.failed(m.guest(name), known, c.now()) {
		c.log.Warn("an account is locked after repeated failures to log in", "method", m.path, "account", name, "for", lockTime)
		c.wakeRun()
	}
}

// keepLockouts writes the records of new locks.
func (c *Core) keepLockouts(r *request) error {
	for name, until := range c.guests.unkept(c.now()) {
		value, err := marshal(lockRecord{until.UTC()})
		if err != nil {
			return err
		}
		if err := c.commit(r, &engine.Tx{Writes: []engine.Write{counters.put(lockPrefix+name, value)}}); err != nil {
			return err
		}
		c.guests.keep(name, until)
	}
	return nil
}

// voidCounters finds locks that are over, and uses of secret ids that are gone.
func (c *Core) voidCounters(view *storage.View, now time.Time) func(storage.Record) (bool, error) {
	return func(rec storage.Record) (bool, error) {
		key := string(rec.Key)
		if strings.HasPrefix(key, lockPrefix) {
			var lock lockRecord
			return json.Unmarshal(rec.Value, &lock) != nil || !now.Before(lock.Until), nil
		}
		method, secret, ok := strings.Cut(strings.TrimPrefix(key, usesPrefix), "/")
		if !ok {
			return true, nil
		}
		s, err := methodSpace(method)
		if err != nil {
			return true, nil
		}
		there, err := has(view, s, secretPrefix+secret)
		return !there, err
	}
}

func busy() error {
	return refuse(errBusy, "too many logins at once: repeat in a few seconds")
}

// enter takes a place for a login, of those there are and of those that one address may have: who comes with many at once keeps nobody else out.
func (g *guests) enter(remote string) (leave func(), err error) {
	where := network(remote)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting >= maxWaiting || g.from[where] >= maxFromOne {
		return nil, busy()
	}
	g.waiting++
	g.from[where]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.waiting--
		if g.from[where]--; g.from[where] == 0 {
			delete(g.from, where)
		}
	}, nil
}

// network is who a client is: an address of version 4, or the 64 bits of version 6 that one customer has. Those without an address are one.
func network(remote string) netip.Prefix {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	ip := a.Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// checkPassword compares a password with its hash; a nil hash is an unknown name's and takes as long. allowed is asked once
// more when it is this one's turn.
func (c *Core) checkPassword(ctx context.Context, remote string, hash []byte, password string, allowed func() error) (bool, error) {
	g := &c.guests
	leave, err := g.enter(remote)
	if err != nil {
		return false, err
	}
	defer leave()
	select {
	case g.checks <- struct{}{}:
		defer func() { <-g.checks }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if err := allowed(); err != nil {
		return false, err
	}
	right := hash != nil && len(password) <= passwordMax
	if !right {
		hash = g.dummy()
	}
	password = password[:min(len(password), passwordMax)]
	return bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil && right, nil
}

// hashPassword is for callers with a token.
func (c *Core) hashPassword(ctx context.Context, password string) ([]byte, error) {
	if len(password) > passwordMax {
		return nil, refuse(errInvalid, "the password is longer than %d bytes, which is all that its hash looks at: choose a shorter one", passwordMax)
	}
	select {
	case c.guests.own <- struct{}{}:
		defer func() { <-c.guests.own }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return bcrypt.GenerateFromPassword([]byte(password), c.guests.cost)
}

// ---- what an operator sees of it

// listLocked lists the accounts that are locked, by the accessor of their auth method.
func (c *Core) listLocked(r *request) (*reply, error) {
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	keys, err := c.keysOf(counters, lockPrefix, maxListed)
	if err != nil {
		return nil, err
	}
	methods, total := []map[string]any{}, 0
	for id, m := range snap.mounts.auth {
		if r.rest != "" && r.rest != m.Accessor {
			continue
		}
		names := []string{}
		for _, key := range keys {
			name, ok := strings.CutPrefix(key, lockPrefix+id+"/")
			if !ok {
				continue
			}
			if locked, err := c.lockedOut(m, name); err != nil {
				return nil, err
			} else if locked {
				names = append(names, name)
			}
		}
		total += len(names)
		methods = append(methods, map[string]any{"mount_accessor": m.Accessor, "counts": len(names), "alias_identifiers": names})
	}
	return &reply{data: map[string]any{"by_namespace": []map[string]any{
		{"namespace_id": "root", "namespace_path": "", "counts": total, "mount_accessors": methods},
	}, "total": total}}, nil
}

// unlock lifts a lock: sys/locked-users/<accessor>/unlock/<name>.
func (c *Core) unlock(r *request) (*reply, error) {
	accessor, name, ok := strings.Cut(r.rest, "/unlock/")
	if !ok {
		return nil, refuse(errUnsupported, "unsupported path: write to sys/locked-users/<accessor of the auth method>/unlock/<name>")
	}
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	for _, m := range snap.mounts.auth {
		if m.Accessor == accessor {
			c.guests.forget(m.guest(name))
			return nil, c.commit(r, &engine.Tx{Writes: []engine.Write{counters.del(lockPrefix + m.guest(name))}})
		}
	}
	return nil, refuse(errInvalid, "no auth method has the accessor %q", accessor)
}
