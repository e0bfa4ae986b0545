package replication

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// testMounts is a mount table whose records are the path's key and the keyspace's id.
var testMounts = &MountTable{Prefix: "mounts/", Decode: func(key, value []byte) (string, storage.KeyspaceID, bool) {
	if len(value) != 16 {
		return "", storage.KeyspaceID{}, false
	}
	return strings.TrimPrefix(string(key), "mounts/"), storage.KeyspaceID(value), true
}, Grants: func(path string) bool { return strings.HasPrefix(path, "auth/") }}

func mountWrite(path string, id storage.KeyspaceID) engine.Write {
	return enginetest.Put(storage.SystemReplicated, storage.Replicated, "mounts/"+path, string(id[:]))
}

func unmountWrites(path string, id storage.KeyspaceID) []engine.Write {
	return []engine.Write{
		{Keyspace: storage.SystemReplicated, Scope: storage.Replicated, Change: storage.Change{Op: storage.Delete, Key: []byte("mounts/" + path)}},
		{Keyspace: id, Scope: storage.Replicated, Change: storage.Change{Op: storage.Drop}},
	}
}

func (c *cluster) mount(path string, id storage.KeyspaceID) {
	c.t.Helper()
	enginetest.MustDo(c.t, c.e, mountWrite(path, id))
}

func (c *cluster) filter(id, mode string, paths ...string) {
	c.t.Helper()
	if err := c.n.SetPathsFilter(enginetest.Context(c.t), id, PathsFilter{Mode: mode, Paths: paths}); err != nil {
		c.t.Fatalf("setting a paths filter: %v", err)
	}
}

func (c *cluster) unfilter(id string) {
	c.t.Helper()
	if err := c.n.DeletePathsFilter(enginetest.Context(c.t), id); err != nil {
		c.t.Fatalf("deleting a paths filter: %v", err)
	}
}

// settled waits until a filtered secondary is at the primary's place and streams, with the root of exactly what it may have on either side, and compares
// every record of every keyspace.
func (c *cluster) settled(s *cluster, id string, want ...storage.KeyspaceID) {
	t := c.t
	t.Helper()
	c.until("the filtered secondary streams at the primary's place with the root of what it may have", func() bool {
		_, at := c.e.Totals()
		link := s.n.link[Performance].get()
		if link.Machine.Name != StateStreamWALs || link.Verified != at.Index || s.e.SyncState() != nil || !s.n.filled() {
			return false
		}
		mine, theirs := s.n.Status(Performance), c.n.Status(Performance)
		for _, one := range theirs["secondaries"].([]map[string]any) {
			if one["node_id"] == id {
				return one["merkle_root"] == mine["merkle_root"]
			}
		}
		return false
	})
	all, got := enginetest.Content(t, c.e), enginetest.Content(t, s.e)
	totals, _ := s.e.Totals()
	for _, total := range totals {
		if total.Scope == storage.Replicated && total.Count > 0 && total.ID != storage.SystemReplicated && !slices.Contains(want, total.ID) {
			t.Errorf("the secondary holds %d records of keyspace %s, which it may not have", total.Count, total.ID)
		}
	}
	for _, ks := range append(want, storage.SystemReplicated) {
		if len(got[ks]) != len(all[ks]) {
			t.Errorf("keyspace %s: the secondary has %d records, the primary %d", ks, len(got[ks]), len(all[ks]))
		}
		for key, value := range all[ks] {
			if got[ks][key] != value {
				t.Errorf("keyspace %s, key %q: the secondary has another value", ks, key)
				break
			}
		}
	}
}

// tap writes down which keyspaces a primary sends anything of, in streams and syncs.
type tap struct {
	mu   sync.Mutex // guards what follows
	seen map[storage.KeyspaceID]int
	odd  string
}

func (p *tap) note(id storage.KeyspaceID, scope storage.Scope) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[id]++
	if scope != storage.Replicated {
		p.odd = fmt.Sprintf("keyspace %s of scope %d", id, scope)
	}
}

// forget begins anew and returns what was seen.
func (p *tap) forget() map[storage.KeyspaceID]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen
	p.seen = map[storage.KeyspaceID]int{}
	return seen
}

func (p *tap) batch(t testing.TB, b *pb.Batch) {
	for _, c := range b.GetEntries() {
		e, err := storage.DecodeEntry(c.GetEntry())
		if err != nil {
			t.Errorf("an entry on the wire: %v", err)
			return
		}
		for _, block := range e.Blocks {
			p.note(block.Keyspace, block.Scope)
		}
	}
	totals, err := storage.DecodeTotals(b.GetTotals())
	if err != nil {
		t.Errorf("totals on the wire: %v", err)
	}
	for _, total := range totals {
		p.note(total.ID, total.Scope)
	}
}

func (c *cluster) tap(p *proxy) *tap {
	out := &tap{seen: map[storage.KeyspaceID]int{}}
	m := c.meddle(p)
	m.set(func(m *meddler) {
		var parts assembler
		m.down = func(_ int, msg *pb.FromPrimary) ([]*pb.FromPrimary, error) {
			if b := msg.GetBatch(); b != nil {
				out.batch(c.t, b)
			}
			if part := msg.GetPart(); part != nil {
				if b, err := parts.add(part); err != nil {
					parts = assembler{}
				} else if b != nil {
					out.batch(c.t, b)
				}
			}
			return []*pb.FromPrimary{msg}, nil
		}
		m.reply = func(reply any) {
			if split, ok := reply.(*pb.SplitReply); ok {
				for _, k := range split.GetKeyspaces() {
					out.note(storage.KeyspaceID(k.GetId()), storage.Scope(k.GetScope()))
				}
			}
		}
	})
	return out
}

// TestAPathsFilterIsAppliedLive is one filtered secondary's life: what it may not have is never on the wire, narrowing and widening come under writes, and
// both sides agree on the root of what it may have.
func TestAPathsFilterIsAppliedLive(t *testing.T) {
	t.Parallel()
	p, px := newPrimary(t)
	wire := p.tap(px)
	third := storage.KeyspaceID{0: 7, 15: 3}
	p.mount("a/", shared)
	p.mount("b/", second)
	p.write(shared, storage.Replicated, "k", 200)
	p.write(second, storage.Replicated, "hidden", 200)
	p.write(local, storage.Local, "l", 50)
	p.filter("eu", FilterDeny, "b") // before the secondary exists
	s := p.follow(Performance, "eu")
	p.settled(s, "eu", shared)
	p.write(second, storage.Replicated, "more", 50)
	p.write(shared, storage.Replicated, "more", 50)
	p.settled(s, "eu", shared)
	if seen := wire.forget(); seen[second] > 0 || seen[shared] == 0 {
		t.Fatalf("sent of the filtered keyspace: %d times, of the other: %d times", seen[second], seen[shared])
	}
	if lack, err := s.n.Lacks(second); lack != LackFiltered || err != nil {
		t.Errorf("the secondary says of the filtered keyspace %q, %v", lack, err)
	}

	writes := newWriter(p)
	p.unfilter("eu")
	s.until("the widened secondary has what was added", func() bool { lack, _ := s.n.Lacks(second); return lack == "" })
	writes.stop()
	p.settled(s, "eu", shared, second)

	writes = newWriter(p)
	reason := s.n.link[Performance].get().DiffReason
	p.filter("eu", FilterAllow, "/b/")
	s.until("the narrowed secondary has dropped", func() bool { lack, _ := s.n.Lacks(shared); return lack == LackFiltered })
	p.mount("c/", third) // made under a filter that does not name it
	p.write(third, storage.Replicated, "c", 20)
	writes.stop()
	p.settled(s, "eu", second)
	if now := s.n.link[Performance].get().DiffReason; now != reason {
		t.Errorf("the narrowing took a repair (%s), want the records deleted as it was told", now)
	}
	if seen := wire.forget(); seen[third] > 0 {
		t.Errorf("a mount that nobody allows was sent %d times", seen[third])
	}
	p.write(shared, storage.Replicated, "unseen", 20)
	p.settled(s, "eu", second)
	if seen := wire.forget(); seen[shared] > 0 {
		t.Errorf("after the narrowing the filtered keyspace was sent %d times", seen[shared])
	}

	// A move is a change of coverage, too: into the filter, and out of it.
	enginetest.MustDo(t, p.e, mountWrite("b/", third), enginetest.Delete(storage.SystemReplicated, storage.Replicated, "mounts/c/"), mountWrite("old/", second))
	p.settled(s, "eu", third)
	// A mount that is left out goes, and one that is covered.
	enginetest.MustDo(t, p.e, unmountWrites("old/", second)...)
	enginetest.MustDo(t, p.e, unmountWrites("b/", third)...)
	p.settled(s, "eu")
	p.unfilter("eu")
	p.settled(s, "eu", shared)
	wire.mu.Lock()
	defer wire.mu.Unlock()
	if wire.odd != "" {
		t.Errorf("on the wire to a performance secondary: %s", wire.odd)
	}
	if got := s.n.link[Performance].get().Machine.Rounds; got != 0 {
		t.Errorf("changes of the coverage counted as %d rounds of repair", got)
	}
}

// newWriter writes to both keyspaces until stop.
type writer struct {
	quit chan struct{}
	done sync.WaitGroup
}

func newWriter(c *cluster) *writer {
	w := &writer{quit: make(chan struct{})}
	for i, ks := range []storage.KeyspaceID{shared, second} {
		w.done.Go(func() {
			pace := time.NewTicker(pause)
			defer pace.Stop()
			for n := 0; ; n++ {
				select {
				case <-w.quit:
					return
				case <-pace.C:
				}
				put := enginetest.Put(ks, storage.Replicated, fmt.Sprintf("live%d", n%500), fmt.Sprint(i, n))
				if _, err := c.e.Do(context.Background(), &engine.Tx{Writes: []engine.Write{put}}); err != nil {
					c.t.Errorf("writing under way: %v", err)
					return
				}
			}
		})
	}
	return w
}

func (w *writer) stop() { close(w.quit); w.done.Wait() }

func TestFilterFlipsUnderLoadEndInStep(t *testing.T) {
	t.Parallel()
	p, px := newPrimary(t)
	p.mount("a/", shared)
	p.mount("b/", second)
	p.write(shared, storage.Replicated, "k", 300)
	p.write(second, storage.Replicated, "k", 300)
	s := p.follow(Performance, "eu")
	p.settled(s, "eu", shared, second)
	writes := newWriter(p)
	for i := range 12 {
		switch i % 4 {
		case 0:
			p.filter("eu", FilterDeny, "a")
		case 1:
			p.unfilter("eu")
		case 2:
			p.filter("eu", FilterAllow, "a")
			px.cut()
		default:
			p.filter("eu", FilterAllow, "a", "b")
		}
	}
	p.filter("eu", FilterDeny, "b")
	writes.stop()
	p.settled(s, "eu", shared)
	p.unfilter("eu")
	p.settled(s, "eu", shared, second)
}

// TestAFilterSurvivesKillsOfEitherSide stops each side at the points at which a change of coverage is half done.
func TestAFilterSurvivesKillsOfEitherSide(t *testing.T) {
	t.Parallel()
	p, px := newPrimary(t)
	p.mount("a/", shared)
	p.mount("b/", second)
	p.write(shared, storage.Replicated, "k", 100)
	p.write(second, storage.Replicated, "k", 100)
	s := p.follow(Performance, "eu")
	p.settled(s, "eu", shared, second)

	// The filter is written and nobody was told; the primary restarts, then the secondary.
	px.block(true)
	px.cut()
	p.filter("eu", FilterDeny, "b")
	p.restart()
	px.block(false)
	s.restart()
	p.settled(s, "eu", shared)

	// The secondary has noted what it may not have, and dies before it deletes that.
	p.unfilter("eu")
	p.settled(s, "eu", shared, second)
	px.block(true)
	px.cut()
	p.filter("eu", FilterDeny, "b")
	h, err := s.n.holding()
	if err != nil {
		t.Fatal(err)
	}
	next := *h
	next.Left = []storage.KeyspaceID{second}
	if err := s.n.setHolding(enginetest.Context(t), &next); err != nil {
		t.Fatal(err)
	}
	s.restart()
	s.until("what is left out was deleted without the primary", func() bool {
		totals, _ := s.e.Totals()
		return !slices.ContainsFunc(totals, func(t storage.KeyspaceTotal) bool { return t.ID == second && t.Count > 0 })
	})
	px.block(false)
	p.settled(s, "eu", shared)

	// It was told of an addition and dies before the sync begins.
	px.block(true)
	px.cut()
	p.unfilter("eu")
	next = holding{coverage: coverage{Since: h.Since, Ordinal: h.Ordinal}, filling: []storage.KeyspaceID{second}, resync: true}
	if err := s.n.setHolding(enginetest.Context(t), &next); err != nil {
		t.Fatal(err)
	}
	s.restart()
	if lack, err := s.n.Lacks(second); lack != LackFilling || err != nil {
		t.Errorf("a keyspace whose records were not received: %q, %v, want it said", lack, err)
	}
	px.block(false)
	p.settled(s, "eu", shared, second)
	if lack, err := s.n.Lacks(second); lack != "" || err != nil {
		t.Errorf("a keyspace that is complete: %q, %v", lack, err)
	}
}

func TestAPerformanceSecondaryIsRefusedWhatItMayNotHave(t *testing.T) {
	t.Parallel()
	p, _ := newPrimary(t)
	p.mount("a/", shared)
	p.mount("b/", second)
	p.write(shared, storage.Replicated, "k", 10)
	p.write(second, storage.Replicated, "k", 10)
	p.write(local, storage.Local, "k", 10)
	p.filter("eu", FilterDeny, "b")
	s := p.follow(Performance, "eu")
	p.settled(s, "eu", shared)
	p.checkpoint()
	conn, err := s.n.dial(enginetest.Context(t), Performance, purposeBulk)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	rpc := pb.NewReplicationClient(conn)
	for _, tt := range []struct {
		name string
		ks   storage.KeyspaceID
		want codes.Code
	}{
		{"what it may have", shared, codes.OK},
		{"what its filter leaves out", second, codes.FailedPrecondition},
		{"what is local to the primary", local, codes.PermissionDenied},
		{"the system's local records", storage.SystemLocal, codes.PermissionDenied},
	} {
		r := &pb.Range{Keyspace: tt.ks[:]}
		ctx := enginetest.Context(t)
		_, err := rpc.Split(ctx, &pb.SplitRequest{Kind: "performance", Ranges: []*pb.Range{r}, Limit: 4})
		if status.Code(err) != tt.want {
			t.Errorf("%s, split: got %v, want %v", tt.name, err, tt.want)
		}
		items, err := rpc.Items(ctx, &pb.ItemsRequest{Kind: "performance", Ranges: []*pb.Range{r}})
		if err == nil {
			_, err = items.Recv()
		}
		if status.Code(err) != tt.want {
			t.Errorf("%s, items: got %v, want %v", tt.name, err, tt.want)
		}
		records, err := rpc.Records(ctx, &pb.RecordsRequest{Kind: "performance", Range: r})
		if err == nil {
			_, err = records.Recv()
		}
		if status.Code(err) != tt.want {
			t.Errorf("%s, records: got %v, want %v", tt.name, err, tt.want)
		}
		if tt.want != codes.OK && !strings.Contains(p.logs.String(), tt.ks.String()) {
			t.Errorf("%s: the primary's log does not name the keyspace", tt.name)
		}
	}
}

func TestPathsFilterCalls(t *testing.T) {
	t.Parallel()
	p, _ := newPrimary(t)
	ctx := enginetest.Context(t)
	p.mount("a/", shared)
	p.mount("b/", second)
	if f, err := p.n.PathsFilter("eu"); f != nil || err != nil {
		t.Errorf("no filter: got %+v, %v", f, err)
	}
	p.filter("eu", "", "b", "/b/", "nested/x/", "auth/userpass")
	f, err := p.n.PathsFilter("eu")
	if err != nil || f.Mode != FilterAllow || !slices.Equal(f.Paths, []string{"auth/userpass/", "b/", "nested/x/"}) {
		t.Errorf("got %+v, %v", f, err)
	}
	if paths, ok, err := p.n.DynamicFilter("eu"); err != nil || !ok || !slices.Equal(paths, []string{"a/"}) {
		t.Errorf("the dynamic filter: %v, %v, %v", paths, ok, err)
	}
	for path, want := range map[string]bool{"a/": true, "b": false, "b/": false, "later": true, "nested/x": false, "nested": true} {
		if got, err := p.n.LeavesOut("eu", path); got != want || err != nil {
			t.Errorf("%s left out: got %v, %v", path, got, err)
		}
	}
	for _, bad := range []PathsFilter{
		{Mode: "whitelist"}, {Paths: []string{""}}, {Paths: []string{"/"}}, {Paths: []string{"sys"}}, {Paths: []string{"auth/token"}}, {Paths: []string{"cubbyhole/"}},
		{Paths: []string{"a//b"}}, {Paths: []string{"a\x00"}}, {Paths: []string{strings.Repeat("x", 600)}}, {Paths: make([]string, maxFilterPaths+1)},
	} {
		if err := p.n.SetPathsFilter(ctx, "eu", bad); !isOutcome(err) {
			t.Errorf("%.40v: got %v, want a refusal", bad, err)
		}
	}
	if err := p.n.SetPathsFilter(ctx, "no/id", PathsFilter{}); !isOutcome(err) {
		t.Errorf("an id with a slash: %v", err)
	}
	s := p.follow(Performance, "eu")
	p.settled(s, "eu", second)
	if err := s.n.SetPathsFilter(ctx, "x", PathsFilter{}); !isOutcome(err) {
		t.Errorf("on a secondary: %v", err)
	}
	if err := p.n.RevokeSecondary(ctx, Performance, "eu"); err != nil {
		t.Fatal(err)
	}
	if f, err := p.n.PathsFilter("eu"); f != nil || err != nil {
		t.Errorf("after the revocation: got %+v, %v", f, err)
	}
	p.filter("us", FilterDeny, "b")
	p.unfilter("us")
	p.unfilter("us")
	if f, err := p.n.PathsFilter("us"); f != nil || err != nil {
		t.Errorf("after the deletion: got %+v, %v", f, err)
	}
}

// TestAFailoverKeepsTheFilter promotes the DR secondary of a performance primary: with the newest filter, and without it.
func TestAFailoverKeepsTheFilter(t *testing.T) {
	t.Parallel()
	p := newCapablePrimary(t, DR, Performance)
	d := p.successor(DR, "d")
	p.mount("a/", shared)
	p.mount("b/", second)
	p.write(shared, storage.Replicated, "k", 50)
	p.write(second, storage.Replicated, "k", 50)
	p.filter("eu", FilterDeny, "b")
	s := p.follow(Performance, "eu")
	p.settled(s, "eu", shared)
	p.caughtUp(DR, d)

	// The newest change reaches the secondary and not the DR secondary.
	d.stop()
	p.filter("eu", FilterDeny, "a", "b")
	p.settled(s, "eu")
	p.stop()
	d.run()
	d.promote(DR, true)
	if f, err := d.n.PathsFilter("eu"); err != nil || f == nil || !slices.Equal(f.Paths, []string{"b/"}) {
		t.Fatalf("the filter after the failover: %+v, %v", f, err)
	}
	s.repointed(d)
	d.write(shared, storage.Replicated, "after", 20)
	d.inStep(s)
	if lack, err := s.n.Lacks(shared); lack != LackFiltered || err != nil {
		t.Errorf("what the lost change left out: %q, %v, want it left out still", lack, err)
	}
	totals, _ := s.e.Totals()
	if slices.ContainsFunc(totals, func(t storage.KeyspaceTotal) bool { return (t.ID == shared || t.ID == second) && t.Count > 0 }) {
		t.Error("after the failover the secondary was given what it may not have")
	}
	s.restart()
	d.inStep(s)
	if lack, err := s.n.Lacks(shared); lack != LackFiltered || err != nil {
		t.Errorf("after a restart: %q, %v", lack, err)
	}
	d.filter("eu", FilterDeny, "b") // an operator says it again on the new primary
	d.settled(s, "eu", shared)
}

// repointed tells a performance secondary of the cluster that took its primary's place: what heartbeats bring beforehand.
func (c *cluster) repointed(to *cluster) {
	c.t.Helper()
	err := c.n.storeSecondary(Performance, func(s *setConfig) map[string][]byte {
		s.Bundle, s.Primaries = s.Bundle+to.n.set(Performance).CA, []string{to.bind}
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.restart()
}

// inStep waits until a secondary streams at the primary's place.
func (c *cluster) inStep(s *cluster) {
	c.t.Helper()
	c.until("the secondary streams at the primary's place with an equal root", func() bool {
		_, at := c.e.Totals()
		link := s.n.link[Performance].get()
		return link.Machine.Name == StateStreamWALs && link.Verified == at.Index && s.e.SyncState() == nil
	})
}

// TestWhatAForcedPrimaryLacksIsNotDeletedElsewhere: a filtered secondary is promoted by force, and its former primary follows it.
func TestWhatAForcedPrimaryLacksIsNotDeletedElsewhere(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	p := newCapablePrimary(t, Performance)
	p.mount("a/", shared)
	p.mount("b/", second)
	p.write(shared, storage.Replicated, "k", 50)
	p.write(second, storage.Replicated, "only here", 50)
	p.filter("eu", FilterDeny, "b")
	s := p.enrol(Performance, "eu").capable()
	s.run()
	p.settled(s, "eu", shared)
	if _, err := s.n.PromoteSecondary(ctx, Performance, Promote{}); !isOutcome(err) || !strings.Contains(err.Error(), "b/") {
		t.Fatalf("promoting a filtered secondary: %v, want a refusal that names the mount", err)
	}
	p.demote(Performance)
	s.promote(Performance, true)
	if lack, err := s.n.Lacks(second); lack == "" || err != nil {
		t.Errorf("the forced primary says of what it lacks: %q, %v", lack, err)
	}
	a, err := s.n.SecondaryToken(ctx, Performance, "old", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.n.UpdatePrimary(ctx, Performance, UpdatePrimary{Token: &a.Token}); err != nil {
		t.Fatal(err)
	}
	s.write(shared, storage.Replicated, "after", 20)
	s.inStep(p)
	if got := enginetest.Content(t, p.e)[second]; len(got) != 50 {
		t.Errorf("the only copy of what the new primary lacks has %d records, want 50", len(got))
	}
	if lack, err := p.n.Lacks(second); lack != "" || err != nil {
		t.Errorf("who has it says: %q, %v", lack, err)
	}
	fresh := s.follow(Performance, "fresh")
	s.inStep(fresh)
	if lack, err := fresh.n.Lacks(second); lack == "" || err != nil {
		t.Errorf("who never had it says: %q, %v, want it not answered as empty", lack, err)
	}
	if got := enginetest.Content(t, fresh.e)[shared]; len(got) != 70 {
		t.Errorf("the rest has %d records, want 70", len(got))
	}
}
