package replication

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sort"
	"sync"
	"testing"

	"github.com/lockstepdb/lockstep/merkle"
	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// table is a keyspace as a sorted list with running sums: what a finished checkpoint tells, slow and obvious.
type table struct {
	keys    [][]byte
	digests []merkle.Digest
	sums    []merkle.Digest // of the first i records
	levels  []int
	at      wal.Position

	mu           sync.Mutex // guards what follows
	calls, bytes int        // asked over the wire, and what the answers weigh
}

func newTable(secret *merkle.Key, records map[string]string) *table {
	tb := &table{at: wal.Position{Fork: wal.Fork{1}, Index: 100}}
	for k := range records {
		tb.keys = append(tb.keys, []byte(k))
	}
	sort.Slice(tb.keys, func(i, j int) bool { return bytes.Compare(tb.keys[i], tb.keys[j]) < 0 })
	tb.sums = append(tb.sums, merkle.Digest{})
	for _, k := range tb.keys {
		d := secret.Record(k, []byte(records[string(k)]))
		s := tb.sums[len(tb.sums)-1]
		s.Add(&d)
		tb.digests, tb.sums, tb.levels = append(tb.digests, d), append(tb.sums, s), append(tb.levels, secret.Level(k))
	}
	return tb
}

func (tb *table) Release() {}

func (tb *table) bounds(low, high []byte) (from, to int) {
	from = sort.Search(len(tb.keys), func(i int) bool { return bytes.Compare(tb.keys[i], low) >= 0 })
	to = len(tb.keys)
	if len(high) > 0 {
		to = sort.Search(len(tb.keys), func(i int) bool { return bytes.Compare(tb.keys[i], high) >= 0 })
	}
	return from, to
}

func (tb *table) RangeTotal(_ storage.KeyspaceID, low, high []byte) (merkle.Total, error) {
	from, to := tb.bounds(low, high)
	t := merkle.Total{Count: uint64(to - from), Sum: tb.sums[to]}
	t.Sum.Sub(&tb.sums[from])
	return t, nil
}

func (tb *table) Items(_ storage.KeyspaceID, low, high []byte, fn func(key []byte, d merkle.Digest) bool) error {
	from, to := tb.bounds(low, high)
	for i := from; i < to; i++ {
		if !fn(tb.keys[i], tb.digests[i]) {
			break
		}
	}
	return nil
}

func (tb *table) cut(low, high []byte, limit int) []storage.Child {
	from, to := tb.bounds(low, high)
	lows := [][]byte{low}
	for level := 12; level > 0 && len(lows) == 1; level-- {
		for i := from; i < to; i++ {
			if tb.levels[i] >= level && bytes.Compare(tb.keys[i], low) > 0 {
				lows = append(lows, tb.keys[i])
			}
		}
	}
	for len(lows) > limit {
		half := lows[:1]
		for i := 2; i < len(lows); i += 2 {
			half = append(half, lows[i])
		}
		lows = half
	}
	out := make([]storage.Child, len(lows))
	for i := range lows {
		end := high
		if i+1 < len(lows) {
			end = lows[i+1]
		}
		total, _ := tb.RangeTotal(storage.KeyspaceID{}, lows[i], end)
		out[i] = storage.Child{Low: lows[i], Total: total}
	}
	return out
}

func (tb *table) split(_ context.Context, spans []span) ([][]storage.Child, wal.Position, error) {
	reply := &pb.SplitReply{}
	out := make([][]storage.Child, len(spans))
	for i, s := range spans {
		out[i] = tb.cut(s.Low, s.High, splitLimit)
		parts := &pb.Parts{}
		for _, c := range out[i] {
			parts.Children = append(parts.Children, &pb.Child{Low: c.Low, Count: c.Count, Sum: c.Sum[:]})
		}
		reply.Parts = append(reply.Parts, parts)
	}
	tb.count(int(size(reply) + size(&pb.SplitRequest{Ranges: encodeSpans(spans)})))
	return out, tb.at, nil
}

func (tb *table) count(bytes int) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.calls++
	tb.bytes += bytes
}

func (tb *table) items(_ context.Context, spans []span, fn func(i int, key []byte, d shortDigest) error) (wal.Position, error) {
	reply := &pb.ItemsReply{}
	for i, s := range spans {
		var failed error
		tb.Items(s.Keyspace, s.Low, s.High, func(key []byte, d merkle.Digest) bool {
			reply.Items = append(reply.Items, &pb.Item{Key: key, Digest: d[:16]})
			failed = fn(i, key, shortDigest(d[:16]))
			return failed == nil
		})
		if failed != nil {
			return tb.at, failed
		}
	}
	tb.count(int(size(reply) + size(&pb.ItemsRequest{Ranges: encodeSpans(spans)})))
	return tb.at, nil
}

// mend applies what a comparison reports and checks its form: in order, without gaps, from low to the end.
func mend(t *testing.T, here, there map[string]string, secret *merkle.Key, low []byte) (fetched int, feeder *table) {
	t.Helper()
	own := newTable(secret, here)
	feeder = newTable(secret, there)
	at, ended := low, false
	c := &comparer{own: func() ownSide { return own }, feeder: feeder, found: func(_ context.Context, d *difference) error {
		if ended || !bytes.Equal(d.Low, at) || len(d.High) > 0 && bytes.Compare(d.High, d.Low) <= 0 {
			t.Fatalf("range [%q, %q) told after %q", d.Low, d.High, at)
		}
		at, ended = d.High, len(d.High) == 0
		in := span{Low: d.Low, High: d.High}
		if d.Whole {
			for k := range here {
				if in.contains([]byte(k)) {
					delete(here, k)
				}
			}
			for k, v := range there {
				if in.contains([]byte(k)) {
					here[k] = v
					fetched++
				}
			}
		}
		for _, k := range d.Keys {
			if !in.contains(k) {
				t.Fatalf("key %q told of [%q, %q)", k, d.Low, d.High)
			}
			here[string(k)] = there[string(k)]
			fetched++
		}
		for _, k := range d.Gone {
			if !in.contains(k) {
				t.Fatalf("key %q told of [%q, %q)", k, d.Low, d.High)
			}
			delete(here, string(k))
		}
		return nil
	}}
	if err := c.run(t.Context(), low); err != nil {
		t.Fatalf("comparing: %v", err)
	}
	if !ended {
		t.Fatalf("the comparison ended at %q", at)
	}
	return fetched, feeder
}

func TestComparisonFindsExactlyWhatDiffers(t *testing.T) {
	t.Parallel()
	secret := &merkle.Key{1, 2, 3}
	for seed := range uint64(scaled(60)) {
		r := rand.New(rand.NewPCG(seed, 7))
		here, there := map[string]string{}, map[string]string{}
		for range r.IntN(4000) {
			k := fmt.Sprintf("k%05d", r.IntN(6000))
			here[k], there[k] = "same", "same"
		}
		changes := []int{0, 1, 3, 50, 3000}[r.IntN(5)]
		for range changes {
			k := fmt.Sprintf("k%05d", r.IntN(6000))
			switch r.IntN(4) {
			case 0:
				delete(here, k)
			case 1:
				delete(there, k)
			case 2:
				here[k] = "mine"
			case 3:
				there[k] = "theirs"
			}
		}
		want := map[string]string{}
		for k, v := range there {
			want[k] = v
		}
		mend(t, here, there, secret, nil)
		if len(here) != len(want) {
			t.Fatalf("seed %d: got %d records, want %d", seed, len(here), len(want))
		}
		for k, v := range want {
			if here[k] != v {
				t.Fatalf("seed %d: record %q: got %q, want %q", seed, k, here[k], v)
			}
		}
	}
}

func TestComparisonContinuedAtAKeyLeavesWhatIsBelow(t *testing.T) {
	secret := &merkle.Key{5}
	here, there := map[string]string{}, map[string]string{}
	for i := range 2000 {
		there[fmt.Sprintf("k%05d", i)] = "v"
	}
	here["k00001"] = "kept as it is"
	mend(t, here, there, secret, []byte("k01000"))
	if got := len(here); got != 1001 || here["k00001"] != "kept as it is" {
		t.Errorf("got %d records and %q, want 1001 and the one below left alone", got, here["k00001"])
	}
}

func TestOneDifferenceAmongManyRecordsCostsFewBytes(t *testing.T) {
	t.Parallel()
	// The same with 1,000,000 records: 14,941 bytes in 6 calls.
	n := 200_000
	if raceEnabled {
		n = 50_000
	}
	secret := &merkle.Key{9}
	here, there := make(map[string]string, n), make(map[string]string, n)
	for i := range n {
		k := fmt.Sprintf("collection/%08d/some-longer-name-of-a-record", i)
		here[k], there[k] = "v", "v"
	}
	there[fmt.Sprintf("collection/%08d/some-longer-name-of-a-record", n/3)] = "changed"
	fetched, feeder := mend(t, here, there, secret, nil)
	if fetched != 1 {
		t.Errorf("records fetched: got %d, want 1", fetched)
	}
	if limit := 20 << 10; feeder.bytes > limit {
		t.Errorf("bytes on the wire: got %d, want at most %d", feeder.bytes, limit)
	}
	t.Logf("%d records: %d bytes in %d calls", n, feeder.bytes, feeder.calls)
}

// TestManyDifferencesAreAskedForTogether: what waits for a far feeder is the number of requests that follow one on another, which grows by the level of the tree
// and not by the difference.
func TestManyDifferencesAreAskedForTogether(t *testing.T) {
	t.Parallel()
	const n, differ = 40_000, 1000
	secret := &merkle.Key{9}
	here, there := make(map[string]string, n), make(map[string]string, n)
	for i := range n {
		k := fmt.Sprintf("k%08d", i)
		here[k], there[k] = "v", "v"
		if i%(n/differ) == 0 {
			there[k] = "changed"
		}
	}
	fetched, feeder := mend(t, here, there, secret, nil)
	if fetched != differ {
		t.Errorf("records fetched: got %d, want %d", fetched, differ)
	}
	if limit := 45; feeder.calls > limit {
		t.Errorf("requests: got %d, want at most %d", feeder.calls, limit)
	}
	t.Logf("%d of %d records differ: %d bytes in %d requests", differ, n, feeder.bytes, feeder.calls)
}

func TestComparisonRefusesPartsThatAreNotOfTheirRange(t *testing.T) {
	child := func(low string) storage.Child { return storage.Child{Low: []byte(low), Total: merkle.Total{Count: 5}} }
	for _, c := range []struct {
		name string
		cut  []storage.Child
	}{
		{"none", []storage.Child{}},
		{"not from the beginning", []storage.Child{child("b")}},
		{"out of order", []storage.Child{child(""), child("m"), child("c")}},
		{"twice", []storage.Child{child(""), child("m"), child("m")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := &comparer{
				own: func() ownSide { return newTable(&merkle.Key{}, nil) }, feeder: fixedParts{c.cut},
				found: func(context.Context, *difference) error { return nil },
			}
			if err := x.run(t.Context(), nil); err == nil {
				t.Error("got no error")
			}
		})
	}
}

// fixedParts is a feeder that answers everything with the same parts.
type fixedParts struct{ cut []storage.Child }

func (f fixedParts) split(_ context.Context, spans []span) ([][]storage.Child, wal.Position, error) {
	return [][]storage.Child{f.cut}, wal.Position{}, nil
}

func (f fixedParts) items(context.Context, []span, func(int, []byte, shortDigest) error) (wal.Position, error) {
	return wal.Position{}, nil
}

func TestAFeederThatSplitsWithoutEndIsRefused(t *testing.T) {
	here := map[string]string{}
	for i := range 400 {
		here[fmt.Sprintf("z%d", i)] = "v"
	}
	own := newTable(&merkle.Key{}, here)
	x := &comparer{own: func() ownSide { return own }, feeder: endless{}, found: func(context.Context, *difference) error { return nil }}
	if err := x.run(t.Context(), nil); err == nil {
		t.Error("got no error")
	}
}

// endless cuts every range once more.
type endless struct{ fixedParts }

func (endless) split(_ context.Context, spans []span) ([][]storage.Child, wal.Position, error) {
	low := spans[0].Low
	total := merkle.Total{Count: 1000, Sum: merkle.Digest{1}}
	return [][]storage.Child{{{Low: low, Total: total}, {Low: append(bytes.Clone(low), 'a', 0), Total: total}}}, wal.Position{}, nil
}
