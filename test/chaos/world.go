package chaos

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// member is one server. Its site is the DR set that it belongs to.
type member struct {
	name  string
	node  *cluster.Node
	proxy *cluster.Proxy // in front of its cluster port
	http  *http.Client
	clock string // file with the offset of its clock
	site  *site

	// life counts what a client may not compare across: its data are of another time (restored, filled anew), or it became another cluster.
	life  atomic.Int64
	token atomic.Pointer[string]
	ids   int // activations asked for
	// known is the id under which the primary of a kind knows it.
	known map[cluster.Kind]string
	// since is when its data were last replaced by older ones, or begun from empty.
	since time.Duration
}

func (m *member) userToken() string {
	if t := m.token.Load(); t != nil {
		return *t
	}
	return ""
}

// site is a DR set: one cluster that serves and its copies.
type site struct {
	name     string
	active   *member
	standbys []*member
	op       string // batch DR operation token
}

// view is what clients know: whom to ask.
type view struct {
	reign       int
	primary     *member // nil while there is none
	secondaries []*member

	isolated      *member // a primary that was replaced and does not know it yet
	isolatedReign int
}

// reign is the time of one primary.
type reign struct {
	number      int
	on          *member
	planned     bool          // it took over everything, or the product is wrong
	first, last time.Duration // last is 0 while it lasts
	// kept is the last acknowledged write of former reigns that is here, lost the first that is not, as the primary says when it is asked for their index tokens.
	kept, lost *op
	blind      bool          // it cannot tell
	perf       bool          // it has a log of its own
	since      time.Duration // when its data were last replaced by older ones, or filled anew
}

// world is one round's clusters and what is known of them.
type world struct {
	t       *testing.T
	plan    *plan
	history *history
	members []*member
	sites   []*site
	primary *site // of the performance set, or of all where there is none
	view    atomic.Pointer[view]
	reigns  []*reign
	healing []heal
	tally   *tally

	out map[*member]bool // clients are sent elsewhere

	fenced   []fenced
	shots    []*shot
	levels   []*level
	released []release

	archived *archived // at the end
	replaced bool      // a data directory was, and with it its archives

	mu    sync.Mutex
	forks map[string]int // fork → reign
	calm  map[*member][]interval
	watch sync.WaitGroup
}

const (
	account    = "ann"
	passphrase = "correct horse"
	everything = `path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }`
)

func sizes(behind bool) []string {
	retain := `retain_bytes = "256MiB"`
	if behind {
		retain = `retain_bytes = "256KiB"`
	}
	return []string{
		"segment_entries = 48", `checkpoint_bytes = "128KiB"`, `checkpoint_interval = "250ms"`, `best_effort_wal_wait_duration = "250ms"`, retain,
	}
}

// build starts the servers of a topology and enrols them.
func build(t *testing.T, p *plan, dir string, sum *tally) *world {
	t.Helper()
	w := &world{
		t: t, plan: p, tally: sum, history: &history{began: time.Now()}, forks: map[string]int{}, out: map[*member]bool{}, calm: map[*member][]interval{},
	}
	for _, s := range p.topology.sites {
		in := &site{name: s[0]}
		for i, name := range s {
			m := w.newMember(name, dir)
			m.site = in
			if i == 0 {
				in.active = m
			} else {
				in.standbys = append(in.standbys, m)
			}
		}
		w.sites = append(w.sites, in)
	}
	w.primary = w.sites[0]
	for _, m := range w.members {
		m.node.Launch()
		m.proxy.Serve(m.node.Cluster)
	}
	for _, m := range w.members {
		m.node.WaitReady()
		m.node.Init()
		m.use(m.node.Token)
	}
	w.enrol()
	return w
}

func (w *world) newMember(name, dir string) *member {
	m := &member{name: name, proxy: cluster.NewProxy(w.t), clock: filepath.Join(dir, name+".clock"), known: map[cluster.Kind]string{}}
	m.node = cluster.New(w.t, name, cluster.Options{
		Dir: filepath.Join(dir, name), Replication: sizes(w.plan.behind), Clock: m.clock, Piped: true,
		Top: []string{fmt.Sprintf("cluster_addr = %q", "https://"+m.proxy.Address)},
	})
	m.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Second}}
	w.t.Cleanup(m.http.CloseIdleConnections)
	w.members = append(w.members, m)
	return m
}

func (m *member) use(token string) {
	m.token.Store(&token)
	m.node.Token = token
}

// enrol makes the plan's topology of the servers.
func (w *world) enrol() {
	w.t.Helper()
	p := w.primary.active
	w.must(p, "POST", "sys/mounts/kv", `{"type":"kv","options":{"version":"1"}}`)
	w.must(p, "POST", "sys/mounts/secret", `{"type":"kv","options":{"version":"2"}}`)
	w.must(p, "POST", "sys/auth/userpass", `{"type":"userpass"}`)
	w.must(p, "PUT", "sys/policies/acl/all", encode(map[string]string{"policy": everything}))
	dr := "path \"sys/replication/dr/secondary/*\" { capabilities = [\"read\", \"update\"] }\npath \"sys/storage/snapshot\" { capabilities = [\"update\"] }"
	w.must(p, "PUT", "sys/policies/acl/dr-operation", encode(map[string]string{"policy": dr}))
	w.must(p, "POST", "auth/token/roles/dr-operation", `{"allowed_policies":"dr-operation","orphan":true,"renewable":false,"token_type":"batch"}`)
	w.must(p, "POST", "auth/userpass/users/"+account, encode(map[string]string{"password": passphrase, "policies": "all"}))
	if len(w.sites) > 1 {
		p.node.EnablePrimary(cluster.Performance)
	}
	for _, s := range w.sites {
		if s != w.primary {
			w.demand(w.join(s.active, p, cluster.Performance))
			w.demand(w.login(s.active))
		}
		if len(s.standbys) == 0 {
			continue
		}
		s.active.node.EnablePrimary(cluster.DR)
		w.demand(w.operationToken(s))
		for _, d := range s.standbys {
			w.demand(w.join(d, s.active, cluster.DR))
		}
	}
	for _, s := range w.sites {
		if s != w.primary {
			w.demand(w.awaitStream(s.active, cluster.Performance, stepTime))
		}
		for _, d := range s.standbys {
			w.demand(w.awaitStream(d, cluster.DR, stepTime))
		}
	}
}

// publish tells the clients whom to ask.
func (w *world) publish(change func(*view)) {
	next := &view{}
	if old := w.view.Load(); old != nil {
		*next = *old
	}
	next.secondaries = nil
	for _, s := range w.sites {
		if s != w.primary && !w.out[s.active] {
			next.secondaries = append(next.secondaries, s.active)
		}
	}
	change(next)
	w.view.Store(next)
}

// remove the round's files unless they are to be kept.
func tidy(t *testing.T, dir string, keep bool) {
	if keep || t.Failed() {
		t.Logf("kept: %s", dir)
		return
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Logf("remove the round's files: %v", err)
	}
}
