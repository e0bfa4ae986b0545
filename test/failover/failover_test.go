// Package failover tells failures that need an operator, one story each, on
// real servers: a primary that was cut off with its clients, one that was
// restored from an old copy.
package failover

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

const count = 20 // writes of each part of a story

// newPair is a DR primary and its secondary, which has the story's first part.
func newPair(t *testing.T) (s *set, a, b *member) {
	t.Helper()
	s = newSet(t, cluster.DR, cluster.Options{}, "a", "b")
	a, b = s.all[0], s.all[1]
	s.write(a, "before")
	s.converged(a, b)
	return s, a, b
}

// TestAPrimaryThatWasCutOffWithItsClientsIsFencedAtFirstContact is number 23 of the list: nobody demotes it, and what it took alone is in its archive.
func TestAPrimaryThatWasCutOffWithItsClientsIsFencedAtFirstContact(t *testing.T) {
	t.Parallel()
	s, a, b := newPair(t)
	a.cut()
	s.write(a, "alone")
	s.promote(b, true)
	s.write(b, "after")
	s.write(a, "alone") // it does not know

	a.mend()
	s.fenced(a, "superseded")
	a.Restart()
	s.fenced(a, "superseded")

	s.demote(a)
	s.follow(a, b)
	s.shows(b, "before", true)
	s.shows(b, "after", true)
	s.shows(b, "alone", false)
	s.archived(a, "alone")
	s.end()
}

// TestAPrimaryRestoredFromAnOldCopyStopsUntilSomebodyRecovers is number 25 of the list.
func TestAPrimaryRestoredFromAnOldCopyStopsUntilSomebodyRecovers(t *testing.T) {
	t.Parallel()
	s, a, b := newPair(t)
	a.Stop()
	copied := filepath.Join(a.Dir, "copy")
	if err := cluster.CopyTree(copied, a.Data); err != nil {
		t.Fatal(err)
	}
	a.Start()
	s.write(a, "newer")
	s.converged(a, b)
	a.Kill()
	if err := os.RemoveAll(a.Data); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(copied, a.Data); err != nil {
		t.Fatal(err)
	}
	a.Start()
	s.fenced(a, "restored")

	s.patient(a, "POST", "sys/replication/recover", `{}`)
	s.write(a, "recovered")
	s.converged(a, b)
	s.shows(a, "before", true)
	s.shows(a, "newer", false)
	s.shows(a, "recovered", true)
	s.archived(b, "newer")
	s.end()
}
