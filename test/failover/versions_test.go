package failover

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// olderCommit is what this version must work together with: until there are two releases, a commit from before this one.
const olderCommit = "c01f8ff"

// The versions that the programs say they have: of one release, and of the next one.
const (
	olderVersion = "0.1.0"
	patchVersion = "0.1.1"
	nextVersion  = "0.2.0"
)

var versions = flag.Bool("versions", false, "build an older version from the repository's history and run it beside this one")

// older returns the program of the older version, or skips the test.
func older(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("LOCKSTEP_TEST_OLDER"); path != "" {
		return path
	}
	if !*versions {
		t.Skip("make test-versions builds the older version, which takes a minute; or name a program of it by LOCKSTEP_TEST_OLDER=PATH")
	}
	return cluster.Built(t, olderCommit, olderVersion)
}

// become restarts a member as another program.
func (s *set) become(m *member, program string) {
	s.t.Helper()
	m.Stop()
	m.Become(program)
	m.Start()
}

// TestVersionsWorkTogetherInEveryRole is number 40 of the list: two programs of one release, each in every role, through enrolment, a forced promotion with a tail
// that is taken back, and planned switchovers to and fro.
func TestVersionsWorkTogetherInEveryRole(t *testing.T) {
	before, now := older(t), cluster.Built(t, "", patchVersion)
	for _, kind := range []cluster.Kind{cluster.DR, cluster.Performance} {
		for name, programs := range map[string][2]string{"older primary": {before, now}, "newer primary": {now, before}} {
			t.Run(fmt.Sprintf("%s, %s", kind, name), func(t *testing.T) {
				t.Parallel()
				s := newMembers(t, kind, cluster.Options{Binary: programs[0]}, "a", "b", "c")
				a, b, c := s.all[0], s.all[1], s.all[2]
				s.become(b, programs[1])
				s.become(c, programs[1])
				s.enrol()
				s.write(a, "before")
				s.converged(a, b)
				s.converged(a, c)
				s.lose(a, "alone")
				s.promote(b, true)
				s.repoint(c, b)
				s.write(b, "after")
				s.returns(a, b)
				s.converged(b, c)
				s.archived(a, "alone")

				during := startClients(t, "during", a, b)
				during.more(100)
				s.moves(during, b, a, c)
				s.moves(during, a, b, c)
				during.end()
				s.converged(b, a)
				s.converged(b, c)
				during.shownBy(t, b)
				for prefix, want := range map[string]bool{"before": true, "after": true, "alone": false} {
					s.shows(b, prefix, want)
				}
				s.end()
			})
		}
	}
}

// moves moves the primary's part while clients write, and demands that nothing was copied.
func (s *set) moves(during *clients, from, to *member, siblings ...*member) {
	s.t.Helper()
	r := s.switchover(from, to, siblings...)
	for _, m := range r.Members {
		if m.Bytes > 0 {
			s.t.Errorf("from %s to %s, %s received %d bytes beside the stream", from.Name, to.Name, m.ID, m.Bytes)
		}
	}
	during.more(100)
}

// TestAnUpgradeUnderLoadLosesAndCopiesNothing is number 41 of the list: every member is restarted as the newer program while clients write, secondaries first, by
// SIGTERM and by SIGKILL in turn.
func TestAnUpgradeUnderLoadLosesAndCopiesNothing(t *testing.T) {
	before := older(t)
	for _, kind := range []cluster.Kind{cluster.DR, cluster.Performance} {
		for _, version := range []string{patchVersion, nextVersion} {
			now := cluster.Built(t, "", version)
			t.Run(fmt.Sprintf("%s, to %s", kind, version), func(t *testing.T) {
				t.Parallel()
				s := newSet(t, kind, cluster.Options{Binary: before}, "a", "b", "c")
				a, b, c := s.all[0], s.all[1], s.all[2]
				during := startClients(t, "during", a)
				for i, m := range []*member{c, b, a} {
					during.more(200)
					if i%2 == 0 {
						m.Kill()
					}
					s.become(m, now)
					during.more(200)
				}
				during.end()
				for _, m := range []*member{b, c} {
					s.converged(a, m)
					if got := s.cost(m); got != (cost{}) {
						t.Errorf("%s was upgraded and then received %d bytes of comparing, %d of records", m.Name, got.diff, got.sync)
					}
				}
				during.shownBy(t, a)
				if r := s.switchover(a, b, c); r.Members[0].Bytes+r.Members[1].Bytes > 0 {
					t.Errorf("a switchover after the upgrade copied: %+v", r.Members)
				}
				during.shownBy(t, b)
				s.end()
			})
		}
	}
}

// TestASecondaryOfAnOlderReleaseIsRefusedUntilItIsUpgraded shows what happens out of order: enrolled, or met again after a failover, it is told which side to upgrade; then it
// goes on where it was.
func TestASecondaryOfAnOlderReleaseIsRefusedUntilItIsUpgraded(t *testing.T) {
	before, now := older(t), cluster.Built(t, "", nextVersion)
	for _, kind := range []cluster.Kind{cluster.DR, cluster.Performance} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSet(t, kind, cluster.Options{Binary: before}, "a", "b")
			a, b := s.all[0], s.all[1]
			s.write(a, "before")
			s.converged(a, b)
			s.become(a, now) // the wrong one first
			cluster.Eventually(t, cluster.Deadline, "b says that it must be upgraded", func() (bool, string) {
				st := b.MustStatus(kind)
				reason := fmt.Sprint(st.Raw["reason"])
				return strings.Contains(reason, "upgrade the secondary first"), reason
			})
			s.write(a, "between")
			s.become(b, now)
			s.converged(a, b)
			if got := s.cost(b); got != (cost{}) {
				t.Errorf("upgraded, b received %d bytes of comparing, %d of records", got.diff, got.sync)
			}
			s.shows(a, "between", true)

			b.Stop() // as the older release, the former primary of a newer one
			s.become(a, before)
			b.Start()
			s.converged(a, b)
			s.demote(a)
			s.promote(b, false)
			s.write(b, "by-b")
			a.Stop()
			a.Become(now)
			a.Start()
			s.follow(a, b)
			if got := s.cost(a); got != (cost{}) {
				t.Errorf("upgraded after a failover, a received %d bytes of comparing, %d of records", got.diff, got.sync)
			}
			s.end()
		})
	}
}

// TestADowngradeWithinAFormatGoesOn restarts members as the older program again: it works as long as no format has changed between the two.
func TestADowngradeWithinAFormatGoesOn(t *testing.T) {
	before, now := older(t), cluster.Built(t, "", patchVersion)
	s := newSet(t, cluster.DR, cluster.Options{Binary: now}, "a", "b")
	a, b := s.all[0], s.all[1]
	for _, m := range []*member{b, a} {
		s.become(m, before)
		s.write(a, "with-"+m.Name)
	}
	s.converged(a, b)
	s.shows(a, "with-b", true)
	s.end()
}
