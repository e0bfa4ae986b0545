package replication

import (
	"fmt"
	"maps"
	"testing"
)

// The scenarios of the protocol that are about histories, on the machine of the simulation. Indexes are counted from the filled state on.

func simFilled(t *testing.T) *sim {
	t.Helper()
	s := newSim()
	s.verbose = true
	s.rest()
	return s
}

// rest lets everything run until nothing moves.
func (s *sim) rest() {
	for range 30 {
		s.round()
	}
}

func (s *sim) writeKeys(c *simCluster, from, to int) {
	for i := from; i <= to; i++ {
		c.write(fmt.Sprintf("r%d", i), false)
		c.commit()
	}
}

// catchUp runs one connection alone.
func (s *sim) catchUp(k Kind, c *simCluster) {
	for range 30 {
		c.timer(k)
		c.dial(k)
		if n := c.role[k].conn; n != nil {
			n.deliver(false)
			n.fed.feed(n, 4)
			n.deliver(true)
		}
	}
}

func (s *sim) must(t *testing.T, w *simCluster) {
	t.Helper()
	s.rest()
	s.checkStates()
	if s.err == nil {
		s.checkEnd(w)
		s.checkTokens(true)
	}
	if s.err != nil {
		for _, line := range s.trace {
			t.Log(line)
		}
		t.Fatal(s.err)
	}
}

func TestScenarioDPromotedWithSBehindAtAndAhead(t *testing.T) {
	for _, tt := range []struct {
		name   string
		at     int // of S, when D is at 5 of 10
		want   AnswerKind
		copied int
	}{
		{"S is behind D", 3, Continue, 0},
		{"S is where D is", 5, Continue, 0},
		{"S is ahead of D", 8, Rewind, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := simFilled(t)
			p, d, sec := s.cluster("P"), s.cluster("D"), s.cluster("S")
			sec.write("l1", false)
			sec.commit()
			for i := 1; i <= 10; i++ {
				s.writeKeys(p, i, i)
				if i <= 5 {
					s.catchUp(DR, d)
				}
				if i <= tt.at {
					s.catchUp(Performance, sec)
				}
			}
			d.promote(DR, true)
			before := maps.Clone(s.counts)
			s.copied = 0
			sec.repoint(Performance, d)
			s.catchUp(Performance, sec)
			if got := s.counts[tt.want] - before[tt.want]; got != 1 || s.copied != tt.copied {
				t.Errorf("got %d answers %v and %d keys copied, want 1 and %d", got, tt.want, s.copied, tt.copied)
			}
			if tt.at > 5 && len(s.archives) != tt.at-5 {
				t.Errorf("got %d writes in the archive, want %d", len(s.archives), tt.at-5)
			}
			// The old primary, and the third site, return.
			p.demote(DR)
			p.repoint(DR, d)
			s.cluster("S2").repoint(Performance, d)
			s.must(t, d)
			if got := p.role[DR].rewound; got != 1 {
				t.Errorf("the old primary was rewound %d times, want once", got)
			}
			if sec.st.recs["l1"] == nil {
				t.Error("what is local to S is gone")
			}
		})
	}
}

// A wrote 1 to 10, B was promoted at 4 and C at 7; then one recover on C. All return, in every order.
func TestScenarioThreePrimariesReturnInEveryOrder(t *testing.T) {
	orders := [][]string{{"P", "S", "S2"}, {"P", "S2", "S"}, {"S", "P", "S2"}, {"S", "S2", "P"}, {"S2", "P", "S"}, {"S2", "S", "P"}}
	for _, order := range orders {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			s := simFilled(t)
			a, b, c := s.cluster("P"), s.cluster("S"), s.cluster("S2")
			for i := 1; i <= 10; i++ {
				s.writeKeys(a, i, i)
				if i <= 4 {
					s.catchUp(Performance, b)
				}
				if i <= 7 {
					s.catchUp(Performance, c)
				}
			}
			b.promote(Performance, true)
			c.promote(Performance, true)
			s.writeKeys(b, 11, 13)
			s.writeKeys(c, 14, 15)
			// Nobody chose between the two: whoever of B's meets C makes C stop, until recover on it says so.
			b.demote(Performance)
			b.repoint(Performance, c)
			s.catchUp(Performance, b)
			if !c.role[Performance].fenced {
				t.Fatal("C goes on writing although it has met B")
			}
			c.recover()
			for _, name := range order {
				x := s.cluster(name)
				if x == c {
					s.writeKeys(c, 16, 16)
					continue
				}
				x.demote(Performance)
				x.repoint(Performance, c)
				s.catchUp(Performance, x)
				if got := x.role[Performance].rewound; got != 1 {
					t.Errorf("the return of %s took %d rewinds", name, got)
				}
			}
			s.must(t, c)
			if c.role[Performance].fenced {
				t.Error("one recover did not end the conflict")
			}
		})
	}
}

// T takes the place of S; S comes back as if nothing had happened.
func TestScenarioTPromotedForSThenSReturns(t *testing.T) {
	s := simFilled(t)
	p, old, next := s.cluster("P"), s.cluster("S"), s.cluster("T")
	s.writeKeys(p, 1, 3)
	s.rest()
	next.promote(DR, true)
	next.repoint(Performance, p)
	s.catchUp(Performance, next)
	old.begin(Performance)
	s.catchUp(Performance, old)
	if s.counts[Superseded] != 1 || !old.stopped {
		t.Fatalf("S was not told that T has taken its place: %v", s.counts)
	}
	old.demote(DR)
	old.repoint(DR, next)
	s.must(t, p)
	if s.repairs != 0 {
		t.Errorf("%d repairs, want none", s.repairs)
	}
}

// A secondary's primary is put back to what it was before, writes on, and meets its secondary.
func TestScenarioRestoredAndWroteOn(t *testing.T) {
	s := simFilled(t)
	p := s.cluster("P")
	p.checkpoint()
	p.backup = p.clone()
	s.writeKeys(p, 1, 4)
	s.rest()
	p.restore()
	s.writeKeys(p, 5, 12)
	s.rest()
	if s.counts[Restored] == 0 || !p.role[DR].fenced {
		t.Fatalf("the restored primary goes on: %v", s.counts)
	}
	p.recover()
	s.must(t, p)
	if s.rewinds != 3 {
		t.Errorf("%d rewinds, want one each of D, S and S2", s.rewinds)
	}
}
