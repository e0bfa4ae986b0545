package failover

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// shortLog lets a primary keep little log.
var shortLog = cluster.Options{Replication: []string{`retain_bytes = "1MiB"`, `segment_bytes = "256KiB"`, `segment_entries = 4096`, `checkpoint_interval = "500ms"`}}

var offline = flag.Int("offline", 1000, "records of the primary in TestARepairEnds")

const (
	passed      = 400  // records that are changed while a secondary is away
	passedBytes = 4000 // of each: more than the log keeps
	meanwhile   = 400  // records that are written during a first filling
	hotWriters  = 16
)

// TestARepairEnds is numbers 15 and 16 of the list: a secondary comes back after its place in the log has gone, while one key is overwritten as fast as the primary can. It compares,
// fetches what differs, and streams; it never begins anew.
func TestARepairEnds(t *testing.T) {
	for _, kind := range []cluster.Kind{cluster.DR, cluster.Performance} {
		t.Run(string(kind), func(t *testing.T) {
			if *offline <= fewRecords {
				t.Parallel()
			}
			s := newMembers(t, kind, shortLog, "a", "b")
			a, b := s.all[0], s.all[1]
			cluster.Fill(t, a.Node, "kv/base", *offline, recordBytes)
			s.enrol()
			b.Stop()
			last := a.MustStatus(kind).LastWAL
			cluster.Fill(t, a.Node, "kv/base", passed, passedBytes)
			s.expired(a, last)

			hot := startHot(a, "kv/base/hot")
			t.Cleanup(hot.end)
			hot.reaches(200)
			before, writes, began := a.sent(), hot.count.Load(), time.Now()
			b.Start()
			cluster.Eventually(t, 5*time.Minute, "the repair has ended", func() (bool, string) {
				st, err := b.Status(kind)
				if err != nil {
					return false, err.Error()
				}
				return st.State == "stream-wals" && st.Raw["consistent"] == true && st.LastRemoteWAL > last+passed,
					fmt.Sprintf("state %s, at %d, progress %v", st.State, st.LastRemoteWAL, st.Raw["merkle_sync_progress"])
			})
			took, wire, meanwhile := time.Since(began), a.sent()-before, hot.count.Load()-writes
			hot.end()
			s.converged(a, b)
			paid := s.cost(b)
			t.Logf("%s, %d records of %d bytes: repaired in %v while one key was written %d times; %d bytes on the wire, comparing %d, records %d",
				kind, *offline, recordBytes, took.Round(time.Millisecond), meanwhile, wire, paid.diff, paid.sync)
			if how := b.MustStatus(kind).Raw["resumes"]; fmt.Sprint(how) != "map[bootstrap:0 continue:0 repair:1 rewind:0]" {
				t.Errorf("the secondary went on by %v, want one repair", how)
			}
			if paid.sync > 2*passed*passedBytes {
				t.Errorf("%d bytes of records were sent, %d differed", paid.sync, passed*passedBytes)
			}
			s.end()
		})
	}
}

// expired waits until a primary's log begins after an index.
func (s *set) expired(m *member, index uint64) {
	s.t.Helper()
	cluster.Eventually(s.t, cluster.Deadline, fmt.Sprintf("index %d is not in the log of %s any more", index, m.Name), func() (bool, string) {
		first := m.FirstIndex()
		return first > index+1, fmt.Sprint("it begins at ", first)
	})
}

// hot is one key that is overwritten as fast as a primary takes it.
type hot struct {
	count atomic.Int64
	grown chan struct{}
	stop  context.CancelFunc
	done  sync.WaitGroup
}

func startHot(m *member, key string) *hot {
	ctx, stop := context.WithCancel(context.Background())
	h := &hot{grown: make(chan struct{}, 1), stop: stop}
	for w := range hotWriters {
		h.done.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if m.Put(ctx, key, cluster.Value(i, w, valueBytes)) != nil {
					return
				}
				h.count.Add(1)
				select {
				case h.grown <- struct{}{}:
				default:
				}
			}
		})
	}
	return h
}

// reaches waits until the key was written so often.
func (h *hot) reaches(n int64) {
	for h.count.Load() < n {
		<-h.grown
	}
}

func (h *hot) end() {
	h.stop()
	h.done.Wait()
}

// TestALogThatExpiresDuringTheFirstFillingCostsDigests is number 17 of the list: the link is cut in the middle of a first filling, and comes back after what was written meanwhile has left
// the log. What was received is compared, not sent again.
func TestALogThatExpiresDuringTheFirstFillingCostsDigests(t *testing.T) {
	t.Parallel()
	s := newMembers(t, cluster.DR, shortLog, "a", "b", "c")
	a, b, c := s.all[0], s.all[1], s.all[2]
	cluster.Fill(t, a.Node, "kv/base", 4000, 2000)
	a.EnablePrimary(s.kind)
	before := a.sent()
	c.Join(a.Node, s.kind, c.Name)
	s.converged(a, c)
	whole, wire := s.cost(c), a.sent()-before
	c.Stop()

	a.toLog.CutAfter(wire * 3 / 4)
	b.Join(a.Node, s.kind, b.Name)
	var half cost
	cluster.Eventually(t, cluster.Deadline, "the link is cut in the middle of a first filling", func() (bool, string) {
		st := b.MustStatus(s.kind)
		half = s.cost(b)
		return half.sync > 0 && st.ConnectionState != "ready" && st.ConnectionState != "connecting", fmt.Sprint(half, st.ConnectionState)
	})
	if half.sync <= whole.sync/3 || half.sync >= whole.sync {
		t.Fatalf("the link was cut after %d of %d bytes of records", half.sync, whole.sync)
	}
	last := a.MustStatus(s.kind).LastWAL
	cluster.Fill(t, a.Node, "kv/meanwhile", meanwhile, passedBytes)
	s.expired(a, last)
	a.mend()
	s.converged(a, b)
	paid := s.cost(b)
	t.Logf("a whole filling: comparing %d bytes, records %d; cut after %d, in the end %d and %d", whole.diff, whole.sync, half.sync, paid.diff, paid.sync)
	// What was under way when the link was cut is sent again.
	if most := whole.sync + whole.sync/4 + meanwhile*(passedBytes+recordBytes); paid.sync > most {
		t.Errorf("%d bytes of records were sent, want at most %d", paid.sync, most)
	}
	if how := fmt.Sprint(b.MustStatus(s.kind).Raw["resumes"]); how != "map[bootstrap:1 continue:0 repair:1 rewind:0]" {
		t.Errorf("the secondary went on by %s, want one bootstrap and one repair", how)
	}
	s.end()
}
