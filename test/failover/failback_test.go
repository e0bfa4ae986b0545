package failover

import (
	"flag"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

const (
	fewRecords  = 10_000
	recordBytes = 200
)

var records = flag.Int("records", 2000, "records of the larger data set in TestFailbackCostsTheTail")

var tails = []int{100, 1000}

// TestFailbackCostsTheTail is number 21 of the list with figures: a primary is lost with a tail of k writes that nobody received, and comes back to its successor.
// The archive is exactly that tail, and what goes over the wire grows with k, not with the data.
func TestFailbackCostsTheTail(t *testing.T) {
	t.Parallel()
	few := failbacks(t, min(*records, fewRecords))
	for i, k := range tails {
		if most := int64(32<<10 + 3*k*recordBytes); few[i] > most {
			t.Errorf("a tail of %d cost %d bytes on the wire, want at most %d", k, few[i], most)
		}
	}
	if *records <= fewRecords {
		return
	}
	for i, many := range failbacks(t, *records) {
		if many > 2*few[i] {
			t.Errorf("a tail of %d cost %d bytes on the wire with %d records and %d with %d: it grows with the data", tails[i], few[i], fewRecords, many, *records)
		}
	}
}

// failbacks returns for each tail how many bytes the new primary has sent.
func failbacks(t *testing.T, n int) (wire []int64) {
	t.Helper()
	s := newMembers(t, cluster.DR, cluster.Options{}, "a", "b")
	from, to := s.all[0], s.all[1]
	cluster.Fill(t, from.Node, "kv/base", n, recordBytes)
	s.enrol()
	t.Logf("%d records: the first filling sent %d bytes", n, from.sent())
	for _, k := range tails {
		path := cluster.Key("tail", k)
		from.cut()
		cluster.Fill(t, from.Node, "kv/"+path, k, recordBytes)
		from.Kill()
		from.mend()
		s.promote(to, true)
		s.write(to, cluster.Key("after", k))
		from.Start()
		s.demote(from)
		before, began := to.sent(), time.Now()
		s.follow(from, to)
		wire = append(wire, to.sent()-before)
		took, paid := time.Since(began), s.cost(from)
		t.Logf("%d records, a tail of %d: back after %v, %d bytes on the wire; comparing %d, records %d",
			n, k, took.Round(time.Millisecond), to.sent()-before, paid.diff, paid.sync)

		got := s.lost(from)
		for i := range k {
			key := cluster.Key(path, i)
			if got[key] != 1 {
				t.Fatalf("%s was lost, and is in the archives %d times", key, got[key])
			}
			delete(got, key)
		}
		if len(got) > 0 {
			t.Fatalf("the archives hold %d writes that were not lost: %v", len(got), got)
		}
		from, to = to, from
	}
	s.end()
	return wire
}
