package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/lockstepdb/lockstep/test/cluster"
)

const (
	drPath   = "sys/replication/dr/"
	perfPath = "sys/replication/performance/"
	opField  = "dr_operation_token"
)

// drSite is four clusters: a is the primary at first, b and c are its DR secondaries, perf is a performance secondary.
type drSite struct {
	a, b, c, perf *cluster.Node
	network       *cluster.Proxy // between a's cluster port and all others
	oracle        *oracle
	batch         string // a batch DR operation token, made before anything happened
	app           string // an application's token, made before anything happened
}

func newDRSite(t *testing.T) *drSite {
	d := &drSite{oracle: &oracle{acked: map[string]string{}}, network: cluster.NewProxy(t)}
	for name, n := range map[string]**cluster.Node{"a": &d.a, "b": &d.b, "c": &d.c, "perf": &d.perf} {
		o := cluster.Options{}
		if name == "a" {
			o.Top = []string{fmt.Sprintf("cluster_addr = %q", "https://"+d.network.Address)}
		}
		*n = cluster.New(t, name, o)
		(*n).Launch()
	}
	d.network.Serve(d.a.Cluster)
	for _, n := range d.nodes() {
		n.WaitReady()
		n.Init()
	}
	for _, mount := range []string{"kv", "secret-us"} {
		if err := d.a.Client().Sys().Mount(mount, &api.MountInput{Type: "kv", Options: map[string]string{"version": "1"}}); err != nil {
			t.Fatal(err)
		}
	}
	d.a.MustDo("PUT", "secret-us/x", `{"value":"not for perf"}`, 204)
	d.oracle.fill(t, d.a, "before", 2000)
	return d
}

func (d *drSite) nodes() []*cluster.Node { return []*cluster.Node{d.a, d.b, d.c, d.perf} }

// enrolled takes over what a cluster has of its primary's from its activation on: the keys of its seal, and on a DR secondary the tokens.
func enrolled(s, p *cluster.Node, kind cluster.Kind) {
	s.Keys, s.Token = p.Keys, ""
	if kind == cluster.DR {
		s.Token = p.Token
	}
}

func (d *drSite) setUp(b *runbook) {
	b.change(d.a, drPath+"primary/enable", nil)
	b.mode(d.a, cluster.DR, "primary", "running")
	for id, s := range map[string]*cluster.Node{"b": d.b, "c": d.c} {
		b.change(s, drPath+"secondary/enable", map[string]any{"token": b.activation(d.a, cluster.DR, id)})
		enrolled(s, d.a, cluster.DR)
		b.follows(s, d.a, cluster.DR, id)
	}
	b.change(d.a, perfPath+"primary/enable", nil)
	b.mode(d.a, cluster.Performance, "primary", "running")
	b.write(d.a, perfPath+"primary/paths-filter/perf", map[string]any{"mode": "deny", "paths": "secret-us/"})
	b.change(d.perf, perfPath+"secondary/enable", map[string]any{"token": b.activation(d.a, cluster.Performance, "perf")})
	enrolled(d.perf, d.a, cluster.Performance)
	b.follows(d.perf, d.a, cluster.Performance, "perf")
	b.account(d.a)
	d.app = b.login(d.a)
	b.follows(d.perf, d.a, cluster.Performance, "perf") // the account is there, too
	d.perf.Token = b.login(d.perf)
	d.batch = b.operationToken(d.a)
	for id, s := range map[string]*cluster.Node{"b": d.b, "c": d.c} {
		b.follows(s, d.a, cluster.DR, id)
	}
	d.oracle.allOn(b.t, d.a, d.app)
	d.oracle.allOn(b.t, d.perf, d.perf.Token)
}

// planned moves the part of a to b, while applications write.
func (d *drSite) planned(b *runbook) {
	b.follows(d.b, d.a, cluster.DR, "b") // caught up
	during := startLoad(d.a, "planned")
	during.reaches(b.t, 300)
	b.change(d.a, drPath+"primary/demote", nil)
	during.end(d.oracle)
	if !strings.Contains(fmt.Sprint(during.failed), "400") && !strings.Contains(fmt.Sprint(during.failed), "503") {
		b.t.Errorf("writers of the demoted primary are ended by: %v", during.failed)
	}
	b.mode(d.a, cluster.DR, "secondary", "idle")
	_, err := d.a.Client().KVv1("kv").Get(b.t.Context(), cluster.Key("before", 1))
	if !answered(err, http.StatusBadRequest) {
		b.t.Errorf("a read on the demoted primary: %v, want 400", err)
	}
	b.change(d.b, drPath+"secondary/promote", map[string]any{opField: d.batch})
	b.mode(d.b, cluster.DR, "primary", "running")
	d.promoted(b, d.b)

	costs := d.costs()
	generated := b.ceremony(d.a, operator(d.a), d.a.Keys)
	b.change(d.a, drPath+"secondary/update-primary", map[string]any{opField: generated, "token": b.activation(d.b, cluster.DR, "a")})
	b.follows(d.a, d.b, cluster.DR, "a")
	b.change(d.c, drPath+"secondary/update-primary", map[string]any{opField: d.batch, "token": b.activation(d.b, cluster.DR, "c")})
	b.follows(d.c, d.b, cluster.DR, "c")
	b.follows(d.perf, d.b, cluster.Performance, "perf") // by itself
	d.allInLine(b, d.b, costs, d.a, d.c)
	b.dropOperationToken(d.a, generated)
}

// failback restores the order: the same with the parts swapped, at rest.
func (d *drSite) failback(b *runbook) {
	d.oracle.fill(b.t, d.b, "away", 500)
	b.follows(d.a, d.b, cluster.DR, "a")
	b.follows(d.c, d.b, cluster.DR, "c")
	b.change(d.b, drPath+"primary/demote", nil)
	b.mode(d.b, cluster.DR, "secondary", "idle")
	generated := b.ceremony(d.a, operator(d.a), d.a.Keys)
	b.change(d.a, drPath+"secondary/promote", map[string]any{opField: generated})
	b.mode(d.a, cluster.DR, "primary", "running")
	b.dropOperationToken(d.a, generated)
	d.promoted(b, d.a)

	costs := d.costs()
	for id, s := range map[string]*cluster.Node{"b": d.b, "c": d.c} {
		b.change(s, drPath+"secondary/update-primary", map[string]any{opField: d.batch, "token": b.activation(d.a, cluster.DR, id)})
		b.follows(s, d.a, cluster.DR, id)
	}
	b.follows(d.perf, d.a, cluster.Performance, "perf")
	d.allInLine(b, d.a, costs, d.b, d.c)
}

// unplanned cuts a off under load and kills it, with b as its successor, and takes a in again.
func (d *drSite) unplanned(b *runbook) {
	during := startLoad(d.a, "unplanned")
	during.reaches(b.t, 300)
	replicated := d.isOnBoth(b, during)
	_, n := during.upTo()
	costs := d.costs()
	during.reaches(b.t, n+300)
	d.network.Cut() // what clients write from here on is acknowledged and reaches nobody
	_, n = during.upTo()
	during.reaches(b.t, n+200)
	d.a.Kill()
	during.done.Wait()

	// Nobody has an operation token: the call is opened for as long as the ceremony takes.
	stranger := operator(d.b)
	stranger.ClearToken()
	if _, err := stranger.Sys().GenerateDROperationTokenInit("", ""); !answered(err, http.StatusForbidden) {
		b.t.Errorf("the ceremony without a token: %v, want 403", err)
	}
	reload(b.t, d.b, "enable_unauthenticated_access = [\"generate-operation-token\"]\n", func() bool {
		_, err := stranger.Sys().GenerateDROperationTokenStatus()
		return err == nil
	})
	generated := b.ceremony(d.b, stranger, d.b.Keys)
	reload(b.t, d.b, "", func() bool {
		_, err := stranger.Sys().GenerateDROperationTokenStatus()
		return answered(err, http.StatusForbidden)
	})

	b.did(d.b, "vault read "+drPath+"secondary/promote/preflight")
	if p := preflight(b.t, d.b); p["ready"] != false || p["force_needed"] != true || p["primary_connected"] != false {
		b.t.Errorf("preflight without a primary: %v", p)
	} else {
		b.t.Logf("%-12s … %v", d.b.Name, p["verdict"])
	}
	b.change(d.b, drPath+"secondary/update-primary", map[string]any{opField: generated, "token": ""})
	b.mode(d.b, cluster.DR, "secondary", "idle")
	if _, err := d.b.Client().Logical().Write(drPath+"secondary/promote", map[string]any{opField: generated}); !answered(err, http.StatusServiceUnavailable) {
		b.t.Errorf("promoted without force although nobody knows what its primary wrote: %v, want 503", err)
	}
	b.change(d.b, drPath+"secondary/promote", map[string]any{opField: generated, "force": true})
	b.mode(d.b, cluster.DR, "primary", "running")
	shown, lost := during.shown(b.t, d.b, d.app)
	_, acked := during.upTo()
	if want := 200 - loaders; lost < want { // one of each writer may have been on its way when the network was cut
		b.t.Errorf("%d writes were lost; at least %d were made after the network was cut", lost, want)
	}
	b.t.Logf("%-12s … %d of the %d writes that were acknowledged under load were not replicated when the primary was killed", d.b.Name, lost, acked)
	for w := range loaders {
		if shown[w] < replicated[w] {
			b.t.Errorf("writer %d: %d writes are shown, %d were replicated before the kill", w, shown[w], replicated[w])
		}
	}
	during.keep(d.oracle, shown)
	b.dropOperationToken(d.b, generated)
	d.promoted(b, d.b)

	b.change(d.c, drPath+"secondary/update-primary", map[string]any{opField: d.batch, "token": b.activation(d.b, cluster.DR, "c")})
	b.follows(d.c, d.b, cluster.DR, "c")
	b.follows(d.perf, d.b, cluster.Performance, "perf")

	d.a.Start() // as a primary: it knows of nothing
	b.mode(d.a, cluster.DR, "primary", "running")
	d.network.Mend()
	b.mode(d.a, cluster.DR, "primary", "fenced") // the new primary has reached it
	if err := d.a.Put(b.t.Context(), "kv/while-fenced", "x"); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "was promoted to the dr primary") {
		b.t.Errorf("a write on the fenced primary: %v, want 503 that tells of its successor", err)
	}
	b.change(d.a, drPath+"primary/demote", nil)
	b.mode(d.a, cluster.DR, "secondary", "idle")
	b.change(d.a, drPath+"secondary/update-primary", map[string]any{opField: d.batch, "token": b.activation(d.b, cluster.DR, "a")})
	b.follows(d.a, d.b, cluster.DR, "a")
	d.allInLine(b, d.b, costs, d.a, d.c)
	_, said, found := strings.Cut(d.a.Log(), "entries that the primary does not have are taken back; they are archived")
	if !found {
		b.t.Errorf("the log of a does not tell that its writes were taken back and archived:\n%s", d.a.LogTail(30))
	}
	said, _, _ = strings.Cut(said, "\n")
	b.t.Logf("%-12s … says what it took back%s", d.a.Name, said)
	d.lostIsArchived(b, lost)
}

// lostIsArchived demands that the archives of the former primary hold what was acknowledged and lost.
func (d *drSite) lostIsArchived(b *runbook, lost int) {
	b.t.Helper()
	list, err := operator(d.a).Logical().Write(drPath+"secondary/divergence", map[string]any{opField: d.batch})
	if err != nil {
		b.t.Errorf("listing what diverged on %s: %v", d.a.Name, err)
		return
	}
	info, _ := list.Data["key_info"].(map[string]any)
	entries := 0
	for id, about := range info {
		m, _ := about.(map[string]any)
		n, err := strconv.Atoi(fmt.Sprint(m["lost_entries"]))
		if err != nil || m["source"] != "rewind" || m["complete"] != true {
			b.t.Errorf("archive %s: %v", id, m)
		}
		entries += n
	}
	if entries < lost {
		b.t.Errorf("the archives of %s hold %d entries, and %d acknowledged writes were lost:\n%s", d.a.Name, entries, lost, d.a.LogTail(30))
	}
	b.t.Logf("%-12s … has archived %d entries", d.a.Name, entries)
}

// isOnBoth returns how many writes of each writer both DR secondaries surely have: those that were acknowledged before an index that they reached.
func (d *drSite) isOnBoth(b *runbook, l *load) [loaders]int {
	b.t.Helper()
	first, _ := l.upTo()
	index := d.a.MustStatus(cluster.DR).LastDRWAL
	for _, s := range []*cluster.Node{d.b, d.c} {
		cluster.Eventually(b.t, cluster.Deadline, fmt.Sprintf("%s has index %d", s.Name, index), func() (bool, string) {
			at := s.MustStatus(cluster.DR).LastRemoteWAL
			return at >= index, fmt.Sprint(at)
		})
	}
	return first
}

// promoted checks what holds after each promotion: everything is there, for tokens made before, and can be written on.
func (d *drSite) promoted(b *runbook, p *cluster.Node) {
	b.t.Helper()
	d.oracle.allOn(b.t, p, d.app)
	d.oracle.fill(b.t, p, fmt.Sprintf("after-%d", len(d.oracle.acked)), 50)
}

func (d *drSite) costs() map[*cluster.Node]int {
	costs := map[*cluster.Node]int{d.perf: copied(d.perf, cluster.Performance)}
	for _, n := range []*cluster.Node{d.a, d.b, d.c} {
		if n.Running() && n.MustStatus(cluster.DR).Mode == "secondary" {
			costs[n] = copied(n, cluster.DR)
		}
	}
	return costs
}

// allInLine checks what each rejoining cluster cost, and writes to the primary what all must get.
func (d *drSite) allInLine(b *runbook, p *cluster.Node, before map[*cluster.Node]int, secondaries ...*cluster.Node) {
	b.t.Helper()
	for _, s := range secondaries {
		b.cost(s, cluster.DR, before[s], d.oracle.bytes)
	}
	b.cost(d.perf, cluster.Performance, before[d.perf], d.oracle.bytes)
	d.oracle.fill(b.t, p, fmt.Sprintf("in-line-%d", len(d.oracle.acked)), 50)
	for _, s := range secondaries {
		b.follows(s, p, cluster.DR, s.Name)
	}
	b.follows(d.perf, p, cluster.Performance, "perf")
	d.oracle.allOn(b.t, d.perf, d.perf.Token)
	b.leftOut(d.perf, "secret-us/x")
}

func (d *drSite) end(b *runbook) { checkAll(b.t, d.nodes()) }

// checkAll stops servers and judges their files.
func checkAll(t *testing.T, nodes []*cluster.Node) {
	var all sync.WaitGroup
	for _, n := range nodes {
		n.Stop()
	}
	for _, n := range nodes {
		all.Go(func() {
			if out, err := n.Check(); err != nil {
				t.Errorf("lockstep check of %s: %v\n%s", n.Name, err, out)
			}
		})
	}
	all.Wait()
}

// reload puts a line on top of the configuration, or takes it away, and makes the server read it.
func reload(t *testing.T, n *cluster.Node, line string, done func() bool) {
	t.Helper()
	text, err := os.ReadFile(n.Config)
	if err != nil {
		t.Fatal(err)
	}
	was := string(text)
	if rest, found := strings.CutPrefix(was, "enable_unauthenticated_access"); found {
		_, was, _ = strings.Cut(rest, "\n")
	}
	if err := os.WriteFile(n.Config, []byte(line+was), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n.Pid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, cluster.Deadline, n.Name+" has read its configuration", func() (bool, string) { return done(), "not yet" })
}

// preflight asks what a promotion would cost.
func preflight(t *testing.T, n *cluster.Node) map[string]any {
	t.Helper()
	secret, err := n.Client().Logical().Read(drPath + "secondary/promote/preflight")
	if err != nil || secret == nil {
		t.Fatalf("preflight at %s: %v", n.Name, err)
	}
	return secret.Data
}
