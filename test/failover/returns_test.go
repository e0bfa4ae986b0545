package failover

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// TestThreePrimariesInTurnReturnInAnyOrder is number 22 of the list: a is lost with a tail of its own, then b, and c is the primary. Each comes back by one rewind
// at most, whoever is first, and what it had alone is in its archive.
func TestThreePrimariesInTurnReturnInAnyOrder(t *testing.T) {
	for _, order := range []string{"a, b", "b, a", "a to b, b, a"} {
		t.Run(order, func(t *testing.T) {
			t.Parallel()
			s := newSet(t, cluster.DR, cluster.Options{}, "a", "b", "c")
			a, b, c := s.all[0], s.all[1], s.all[2]
			s.write(a, "first")
			s.converged(a, b)
			s.converged(a, c)
			s.lose(a, "alone-a")
			s.promote(b, true)
			s.follow(c, b)
			s.write(b, "second")
			s.converged(b, c)
			s.lose(b, "alone-b")
			s.promote(c, true)
			s.write(c, "third")

			lost := map[*member][]string{a: {"alone-a"}, b: {"alone-b"}}
			rewinds := 1
			for _, step := range strings.Split(order, ", ") {
				switch step {
				case "a":
					s.returns(a, c)
				case "b":
					s.returns(b, c)
				case "a to b": // neither has heard of c yet
					c.Kill()
					b.Start()
					s.returns(a, b)
					lost[a], rewinds = append(lost[a], "alone-b"), 2
					c.Start()
				}
			}
			for prefix, want := range map[string]bool{"first": true, "second": true, "third": true, "alone-a": false, "alone-b": false} {
				s.shows(c, prefix, want)
			}
			for m, prefixes := range lost {
				s.archived(m, prefixes...)
				if n := len(s.archivesOf(m)); n > len(prefixes) || n > rewinds {
					t.Errorf("%s has %d archives, want one a rewind", m.Name, n)
				}
			}
			s.end()
		})
	}
}

// lose lets a primary acknowledge what nobody receives, and ends it.
func (s *set) lose(m *member, prefix string) {
	s.t.Helper()
	m.cut()
	s.write(m, prefix)
	m.Kill()
	m.mend()
}

// returns starts a former primary, unless it runs, and lets it follow another.
func (s *set) returns(m, p *member) {
	s.t.Helper()
	if !m.Running() {
		m.Start()
	}
	if m.MustStatus(s.kind).Mode == "primary" {
		s.demote(m)
	}
	s.follow(m, p)
}

// TestTwoPromotionsAreAConflictUntilSomebodyChooses is number 24 of the list.
func TestTwoPromotionsAreAConflictUntilSomebodyChooses(t *testing.T) {
	t.Parallel()
	s := newSet(t, cluster.DR, cluster.Options{}, "a", "b", "c")
	a, b, c := s.all[0], s.all[1], s.all[2]
	s.write(a, "before")
	s.converged(a, b)
	s.converged(a, c)
	a.Kill()
	for _, m := range []*member{b, c} {
		s.promote(m, true)
		s.write(m, "alone-"+m.Name)
	}
	a.Start() // both tell it, and hear of each other from it
	s.fenced(a, "conflict")
	for _, m := range []*member{b, c} {
		m.Restart() // it knocks at once, else within ten seconds
		s.fenced(m, "conflict")
	}

	s.patient(b, "POST", "sys/replication/recover", `{}`)
	s.mode(b, "primary")
	s.write(b, "chosen")
	b.Restart()
	s.fenced(a, "superseded")
	c.Restart()
	s.fenced(c, "superseded")
	for _, m := range []*member{a, c} {
		s.returns(m, b)
	}
	s.shows(b, "before", true)
	s.shows(b, "alone-b", true)
	s.shows(b, "chosen", true)
	s.shows(b, "alone-c", false)
	s.archived(c, "alone-c")
	s.archived(a)
	s.end()
}

// TestACloneOfAPrimaryStopsAtItsFirstContact is number 26 of the list: a copy of a primary's disk runs elsewhere, takes writes, and then has the primary's address.
func TestACloneOfAPrimaryStopsAtItsFirstContact(t *testing.T) {
	t.Parallel()
	s, a, b := newPair(t)
	a.Stop()
	clone := &member{Node: cluster.New(t, "clone", cluster.Options{Top: []string{
		fmt.Sprintf("api_addr = %q", "http://"+a.toAPI.Address), fmt.Sprintf("cluster_addr = %q", "https://"+a.toLog.Address),
	}})}
	if err := cluster.CopyTree(clone.Data, a.Data); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(a.Dir, "unseal.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(clone.Dir, "unseal.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	a.Start()
	s.write(a, "newer")
	s.converged(a, b)
	clone.Start()
	clone.Token = a.Token
	s.write(clone, "cloned") // nobody who knows better has met it
	s.write(clone, "cloned-too")

	a.toAPI.Redirect(strings.TrimPrefix(clone.API, "http://"))
	a.toLog.Redirect(clone.Cluster)
	s.fenced(clone, "restored")
	s.shows(a, "newer", true)
	s.write(a, "meanwhile") // the original goes on

	clone.Stop()
	a.toAPI.Redirect(strings.TrimPrefix(a.API, "http://"))
	a.toLog.Redirect(a.Cluster)
	s.converged(a, b)
	if n := len(s.archivesOf(b)); n > 0 {
		t.Errorf("the secondary took something back for a clone: %d archives", n)
	}
	s.end()
}
