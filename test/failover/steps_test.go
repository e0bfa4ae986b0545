package failover

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

var steps = flag.Bool("steps", false, "kill a planned switchover at each commit of each call, not only at one of each call")

// kill is the end of a process at a commit of a call.
type kill struct {
	commit int
	after  bool // its bytes are durable
}

func (k kill) String() string {
	if k.after {
		return fmt.Sprintf("after commit %d", k.commit)
	}
	return fmt.Sprintf("before commit %d", k.commit)
}

// TestASwitchoverSurvivesAKillAtEachStep is number 20 of the list: the process that a call of a planned switchover went to ends by SIGKILL at a commit, is started, and asked
// again. The change is completed, or was never begun; nothing that was acknowledged is lost, and nothing is copied.
func TestASwitchoverSurvivesAKillAtEachStep(t *testing.T) {
	for _, kind := range []cluster.Kind{cluster.DR, cluster.Performance} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSet(t, kind, cluster.Options{Fuse: t.TempDir()}, "a", "b")
			from, to := s.all[0], s.all[1]
			killed := 0
			for call := range 3 {
				for k, through := (kill{commit: 1}), false; !through; {
					if !*steps {
						k = kill{1 + rand.IntN(2), rand.IntN(2) == 0}
					}
					prefix := fmt.Sprintf("call%d-%d-%t", call, k.commit, k.after)
					s.write(from, prefix)
					s.converged(from, to)
					burnt := s.killedSwitchover(from, to, call, k)
					s.shows(to, prefix, true)
					from, to = to, from
					if burnt {
						killed++
					}
					if through = !burnt || !*steps; *steps && through {
						t.Logf("call %d of the switchover has %d commits", call, k.commit-1)
					} else if through {
						t.Logf("call %d, %v: killed %t", call, k, burnt)
					}
					if k.after {
						k.commit++
					}
					k.after = !k.after
				}
			}
			t.Logf("%d kills", killed)
			s.end()
		})
	}
}

// killedSwitchover moves the primary's part step by step, with a kill in one of the calls, and reports whether it came to that.
func (s *set) killedSwitchover(from, to *member, call int, k kill) (burnt bool) {
	s.t.Helper()
	force := false
	for i, step := range []struct {
		at         *member
		path, mode string
		body       func() map[string]any
	}{
		{from, "primary/demote", "secondary", func() map[string]any { return map[string]any{} }},
		// A primary that was killed in its demotion told nobody that it handed over; that both have the same was seen before.
		{to, "secondary/promote", "primary", func() map[string]any { return map[string]any{"force": force} }},
		{from, "secondary/update-primary", "secondary", func() map[string]any { return map[string]any{"token": s.tokenFor(from, to)} }},
	} {
		body := step.body()
		if s.kind == cluster.DR && i > 0 {
			body["dr_operation_token"] = s.op
		}
		text, err := json.Marshal(body)
		if err != nil {
			s.t.Fatal(err)
		}
		lit := i == call
		if lit {
			step.at.Light(k.commit, k.after)
		}
		done := s.insist(step.at, s.path(step.path), string(text), step.mode, i == 2)
		if lit {
			burnt = done
			force = burnt
			if !burnt {
				step.at.Restart() // puts the fuse out
			}
		}
	}
	s.converged(to, from)
	if got := s.cost(from); got != (cost{}) {
		s.t.Errorf("killed in call %d %v: %s received %d bytes of comparing, %d of records", call, k, from.Name, got.diff, got.sync)
	}
	return burnt
}

// insist repeats a call until the member has the part that it asks for, starting it when it ended. It reports whether it did.
func (s *set) insist(m *member, path, body, mode string, streams bool) (ended bool) {
	s.t.Helper()
	call := func() {
		_, _ = m.Do(context.Background(), "POST", path, []byte(body)) // whether it did its work is asked below
	}
	call()
	cluster.Eventually(s.t, cluster.Deadline, fmt.Sprintf("%s is a %s", m.Name, mode), func() (bool, string) {
		if !m.Running() {
			ended = true
			m.Start()
			call()
		}
		st, err := m.Status(s.kind)
		if err != nil {
			return false, err.Error()
		}
		yes := st.Mode == mode && (mode != "primary" || st.State == "running") && (!streams || st.State == "stream-wals" && st.ConnectionState == "ready")
		if !yes && ended {
			call()
		}
		return yes, fmt.Sprintf("mode %s, state %s, link %s, reason %v", st.Mode, st.State, st.ConnectionState, st.Raw["reason"])
	})
	return ended
}
