package failover

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

var paused = flag.Duration("paused", 500*time.Millisecond, "how long one secondary of five stands still in TestAPausedSecondaryTroublesNobody")

const (
	turningKeys = 1000      // that are overwritten in turn
	moreMemory  = 160 << 20 // bytes that the primary may take more: the newest frames of its log that it keeps for readers (64 MiB), twice for the collector, and noise
)

// TestAPausedSecondaryTroublesNobody is number 13 of the list: of five secondaries one stands still under load. The others keep their streams and go on showing what is written, the
// primary's memory does not grow, and the one goes on by itself.
func TestAPausedSecondaryTroublesNobody(t *testing.T) {
	if *paused < time.Minute {
		t.Parallel()
	}
	o := cluster.Options{Replication: []string{`checkpoint_bytes = "8MiB"`, `checkpoint_interval = "1s"`}}
	s := newSet(t, cluster.DR, o, "a", "b", "c", "d", "e", "f")
	a, others, still := s.all[0], s.all[1:5], s.all[5]
	writing := startTurning(t, a)
	t.Logf("all five run:     %v", s.watch(a, others, writing, min(*paused, time.Minute)))
	calm := s.watch(a, others, writing, min(*paused, time.Minute))
	t.Logf("once more:        %v", calm)

	streams := s.resumes(others)
	t.Cleanup(func() { _ = syscall.Kill(still.Pid(), syscall.SIGCONT) })
	if err := syscall.Kill(still.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	troubled := s.watch(a, others, writing, *paused)
	t.Logf("one stands still: %v", troubled)
	if got := s.resumes(others); !slices.Equal(got, streams) {
		t.Errorf("while one stood still the streams of the others went from %v to %v", streams, got)
	}
	if err := syscall.Kill(still.Pid(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	writing.end()
	began := time.Now()
	for _, m := range s.all[1:] {
		s.converged(a, m)
	}
	t.Logf("the one was in line again after %v, by %v", time.Since(began).Round(time.Millisecond), s.resumes(s.all[5:]))
	if troubled.memory > calm.memory+moreMemory {
		t.Errorf("the primary's memory grew from %d MiB to %d MiB", calm.memory>>20, troubled.memory>>20)
	}
	s.end()
}

// resumes tells how each member went on after connections, since its start.
func (s *set) resumes(members []*member) (all []string) {
	s.t.Helper()
	for _, m := range members {
		all = append(all, fmt.Sprint(m.MustStatus(s.kind).Raw["resumes"]))
	}
	return all
}

// turning overwrites some keys in turn, without pause.
type turning struct {
	count atomic.Int64
	stop  context.CancelFunc
	done  sync.WaitGroup
}

func startTurning(t *testing.T, m *member) *turning {
	ctx, stop := context.WithCancel(context.Background())
	l := &turning{stop: stop}
	t.Cleanup(l.end)
	for w := range writers {
		l.done.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := m.Put(ctx, cluster.Key(fmt.Sprintf("kv/turning/%d", w), i%turningKeys), cluster.Value(i, w, valueBytes)); err != nil {
					if ctx.Err() == nil {
						t.Errorf("a write was refused: %v", err)
					}
					return
				}
				l.count.Add(1)
			}
		})
	}
	return l
}

func (l *turning) end() {
	l.stop()
	l.done.Wait()
}

// watched is what was seen of a primary and its secondaries for some time.
type watched struct {
	writes int64 // a second
	memory int64 // bytes, the most
	shown  []time.Duration
}

func (w *watched) String() string {
	slices.Sort(w.shown)
	at := func(q float64) time.Duration {
		return w.shown[int(q*float64(len(w.shown)-1))].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("%d writes/s; the others show a write after %v (median), %v (p99), %v (maximum of %d); the primary's memory %.1f MiB at most",
		w.writes, at(0.5), at(0.99), at(1), len(w.shown), float64(w.memory)/(1<<20))
}

// watch asks again and again what the primary has, and how long it takes until each of the others shows it.
func (s *set) watch(a *member, others []*member, writing *turning, span time.Duration) *watched {
	s.t.Helper()
	w, began, before := &watched{}, time.Now(), writing.count.Load()
	for len(w.shown) == 0 || time.Since(began) < span {
		last, asked := a.MustStatus(s.kind).LastDRWAL, time.Now()
		for _, m := range others {
			cluster.Eventually(s.t, cluster.Deadline, fmt.Sprintf("%s shows index %d", m.Name, last), func() (bool, string) {
				st, err := m.Status(s.kind)
				if err != nil {
					return false, err.Error()
				}
				return st.LastRemoteWAL >= last, fmt.Sprint(st.LastRemoteWAL)
			})
			w.shown = append(w.shown, time.Since(asked))
		}
		if rss, err := a.RssAnon(); err == nil { // where the system does not tell it is not judged
			w.memory = max(w.memory, rss)
		}
	}
	w.writes = int64(float64(writing.count.Load()-before) / time.Since(began).Seconds())
	return w
}
