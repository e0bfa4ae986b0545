package failover

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
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
			for call, commits := range []int{4, 8, 6} {
				sweep(t, fmt.Sprintf("call %d", call), commits, func(k kill) (burnt bool) {
					prefix := fmt.Sprintf("call%d-%d-%t", call, k.commit, k.after)
					s.write(from, prefix)
					s.converged(from, to)
					burnt = s.killedSwitchover(from, to, call, k)
					s.shows(to, prefix, true)
					from, to = to, from
					return burnt
				})
			}
			s.end()
		})
	}
}

// sweep tries one kill after the other until none comes any more, or one that is drawn, of some commits.
func sweep(t *testing.T, what string, commits int, try func(k kill) (burnt bool)) {
	t.Helper()
	if !*steps {
		k := kill{1 + rand.IntN(commits), rand.IntN(2) == 0}
		t.Logf("%s, %v: killed %t", what, k, try(k))
		return
	}
	kills := 0
	for k := (kill{commit: 1}); try(k); kills++ {
		if k.after {
			k.commit++
		}
		k.after = !k.after
	}
	t.Logf("%s: %d kills, before and after each of %d commits", what, kills, kills/2)
}

// TestAReturnSurvivesAKillAtEachStep is the other half of number 20: a former primary that takes back what only it had ends by SIGKILL at a commit from the call that names its
// new primary on, and is started. It goes on, and its archives hold what was lost, all of it and nothing else.
func TestAReturnSurvivesAKillAtEachStep(t *testing.T) {
	for _, kind := range []cluster.Kind{cluster.DR, cluster.Performance} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSet(t, kind, cluster.Options{Fuse: t.TempDir()}, "a", "b")
			from, to := s.all[0], s.all[1]
			lost := map[*member][]string{}
			sweep(t, "the return", 18, func(k kill) (burnt bool) {
				prefix := fmt.Sprintf("alone-%d-%t", k.commit, k.after)
				s.lose(from, prefix)
				s.promote(to, true)
				from.Start()
				s.demote(from)
				body := map[string]any{"token": s.tokenFor(from, to)}
				if kind == cluster.DR {
					body["dr_operation_token"] = s.op
				}
				text, err := json.Marshal(body)
				if err != nil {
					t.Fatal(err)
				}
				from.Light(k.commit, k.after)
				burnt = s.insist(from, s.path("secondary/update-primary"), string(text), "secondary", to)
				if !burnt {
					from.Restart() // puts the fuse out
				}
				s.converged(to, from)
				lost[from] = append(lost[from], prefix)
				s.archived(from, lost[from]...)
				s.shows(to, prefix, false)
				from, to = to, from
				return burnt
			})
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
		behind     *member
		body       func() map[string]any
	}{
		{from, "primary/demote", "secondary", nil, func() map[string]any { return map[string]any{} }},
		// A primary that was killed in its demotion told nobody that it handed over; that both have the same was seen before.
		{to, "secondary/promote", "primary", nil, func() map[string]any { return map[string]any{"force": force} }},
		{from, "secondary/update-primary", "secondary", to, func() map[string]any { return map[string]any{"token": s.tokenFor(from, to)} }},
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
		done := s.insist(step.at, s.path(step.path), string(text), step.mode, step.behind)
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

// insist repeats a call until the member has the part that it asks for, and shows what behind has, starting it when it ended. It reports whether it did.
func (s *set) insist(m *member, path, body, mode string, behind *member) (ended bool) {
	s.t.Helper()
	later := false // it is to be repeated: another change of role was under way
	call := func() {
		a, _ := m.Do(context.Background(), "POST", path, []byte(body)) // whether it did its work is asked below
		later = a != nil && a.Status == http.StatusServiceUnavailable
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
		yes, detail := st.Mode == mode && (mode != "primary" || st.State == "running"), fmt.Sprintf("mode %s, state %s, reason %v", st.Mode, st.State, st.Raw["reason"])
		if later || ended && (!yes || st.State == "idle") {
			call()
		}
		if yes && behind != nil {
			return cluster.Converged(behind.Node, m.Node, s.kind)
		}
		return yes, detail
	})
	return ended
}
