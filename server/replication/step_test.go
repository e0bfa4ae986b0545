package replication

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite testdata from what the machine does")

// Scripts: a line that begins with "> " is an event (or "start", a fresh machine); below it stand the state after it and the actions. Any other line is a comment.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/step/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("%s: the machine does otherwise (-update rewrites it)\ngot:\n%s\nwant:\n%s", file, got, want)
			}
		})
	}
}

func runScript(t *testing.T, script string) string {
	t.Helper()
	s := State{Name: StateDisabled}
	var out strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "  ") {
			continue // an answer of the machine, written anew below
		}
		fmt.Fprintln(&out, line)
		command, ok := strings.CutPrefix(line, "> ")
		if !ok {
			continue
		}
		if command == "start" {
			s = State{Name: StateDisabled}
			continue
		}
		e := parseEvent(t, command)
		var actions []Action
		s, actions = Step(s, e)
		fmt.Fprintf(&out, "  %v\n", s)
		for _, a := range actions {
			if a.Kind == DoFault {
				t.Errorf("%q: %v", command, a.Err)
			}
			fmt.Fprintf(&out, "    %v\n", a)
		}
	}
	return out.String()
}

// parseEvent reads: kind, then the answer, then empty, syncing or a reason in quotes.
func parseEvent(t *testing.T, text string) Event {
	t.Helper()
	head, reason, quoted := strings.Cut(text, ` "`)
	e := Event{}
	if quoted {
		var err error
		if e.Reason, err = strconv.Unquote(`"` + reason); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
	}
	for i, word := range strings.Fields(head) {
		switch {
		case i == 0:
			e.Kind = EventKind(word)
		case word == "empty":
			e.Empty = true
		case word == "syncing":
			e.Syncing = true
		default:
			for a := NoAnswer; a <= Restored; a++ {
				if a.String() == word {
					e.Answer = a
				}
			}
			if e.Answer == NoAnswer {
				t.Fatalf("%q: no answer is called %s", text, word)
			}
		}
	}
	for _, k := range eventKinds {
		if k == e.Kind {
			return e
		}
	}
	t.Fatalf("%q: no event is called %s", text, e.Kind)
	return e
}

// someStates returns every state with every combination of what may be set in it.
func someStates() []State {
	var out []State
	for _, name := range stateNames {
		for bits := range 1 << 8 {
			on := func(i int) bool { return bits>>i&1 == 1 }
			s := State{Name: name, Syncing: on(0), NeedsDiff: on(1), Rebuild: on(2), Reindexed: on(3), Waiting: on(4), Connected: on(5), Reindexing: on(6)}
			if on(7) {
				s.Rounds, s.Attempt = maxRounds, maxAttempt
			}
			if s.Reindexing && name != StateMerkleDiff {
				continue
			}
			if (s.Waiting || s.Connected || s.Attempt > 0) && name != StateConnecting && name != StateBootstrapping {
				s.Waiting, s.Connected, s.Attempt = false, false, 0
			}
			if s.Waiting && s.Connected {
				continue
			}
			out = append(out, s)
		}
	}
	return out
}

func someEvents() []Event {
	var out []Event
	for _, k := range eventKinds {
		if k != Answered {
			out = append(out, Event{Kind: k, Reason: "because"})
			continue
		}
		for a := NoAnswer; a <= Restored+1; a++ {
			out = append(out, Event{Kind: Answered, Answer: a, Reason: "because"})
		}
	}
	return out
}

func TestEveryPairOfStateAndEventIsAnswered(t *testing.T) {
	for _, s := range someStates() {
		for _, e := range someEvents() {
			next, actions := Step(s, e)
			name := fmt.Sprintf("%v, %v", s, e)
			if next.Name == "" {
				t.Fatalf("%s: no state", name)
			}
			for i, a := range actions {
				if a.Kind != DoFault {
					continue
				}
				var impossible *ImpossibleError
				if !errors.As(a.Err, &impossible) || impossible.State != s.Name || impossible.Event != e.Kind {
					t.Errorf("%s: the fault is %v, want an ImpossibleError of that pair", name, a.Err)
				}
				if i != 0 || len(actions) != 1 {
					t.Errorf("%s: a fault beside other actions: %v", name, actions)
				}
				if fmt.Sprint(next.Name) != string(s.Name) {
					t.Errorf("%s: a fault changed the state to %v", name, next)
				}
			}
			if next.Name == StateIdle && next.Reason == "" && s.Name != StateIdle {
				t.Errorf("%s: idle without a reason", name)
			}
			if next.Reason != "" && next.Name != StateIdle || next.Reindexing && next.Name != StateMerkleDiff ||
				next.Waiting && next.Name != StateConnecting && next.Name != StateBootstrapping {
				t.Errorf("%s: what belongs to another state stayed: %v", name, next)
			}
		}
	}
}

func TestOnlyUnendedSyncsAreLeftBySyncEnded(t *testing.T) {
	// An inconsistent state is called consistent by one event alone.
	for _, s := range someStates() {
		if !s.Syncing {
			continue
		}
		for _, e := range someEvents() {
			next, _ := Step(s, e)
			if !next.Syncing && e.Kind != SyncEnded && e.Kind != DisabledNow && e.Kind != Enabled {
				t.Errorf("%v, %v: the sync is forgotten: %v", s, e, next)
			}
		}
	}
}

func TestRoundsEndWhateverThePrimarySays(t *testing.T) {
	// Roots that differ for ever, with a diff that finds nothing (the field's known disease) or something new each time: idle after a bounded number of steps.
	for name, found := range map[string]EventKind{"the diff is empty": RangesEqual, "the diff finds something": RangesDiffer} {
		s := State{Name: StateStreamWALs}
		var reindexed, diffs int
		for i := 0; s.Name != StateIdle; i++ {
			if i > 100 {
				t.Fatalf("%s: still %v after %d events", name, s, i)
			}
			e := Event{Kind: Diverged, Reason: "roots differ"}
			switch {
			case s.Name == StateMerkleDiff && s.Reindexing:
				e = Event{Kind: Reindexed}
			case s.Name == StateMerkleDiff:
				e = Event{Kind: found}
			case s.Name == StateMerkleSync:
				e = Event{Kind: SyncEnded}
			}
			var actions []Action
			s, actions = Step(s, e)
			for _, a := range actions {
				switch a.Kind {
				case DoReindex:
					reindexed++
				case DoDiff:
					diffs++
				case DoFault:
					t.Fatalf("%s: %v", name, a.Err)
				}
			}
		}
		if diffs != maxRounds+1 || reindexed != 1 {
			t.Errorf("%s: got %d diffs and %d reindexes, want %d and 1", name, diffs, reindexed, maxRounds+1)
		}
	}
}

func TestDelaysGrowToALimitAndNeverVanish(t *testing.T) {
	for n := range 100 {
		for _, random := range []float64{0, 0.5, 0.999999} {
			d := Delay(n, random)
			if d < minDelay || d > maxDelay {
				t.Errorf("attempt %d, random %v: got %v, want between %v and %v", n, random, d, minDelay, maxDelay)
			}
			if random == 0 && n > 0 && Delay(n+1, 0) < d {
				t.Errorf("attempt %d: the next delay is shorter", n)
			}
		}
	}
	if got := Delay(maxAttempt, 0); got != maxDelay {
		t.Errorf("the longest delay: got %v, want %v", got, maxDelay)
	}
}
