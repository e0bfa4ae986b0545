package replication

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// TestCoverageFollowedAlongTheLogIsTheOneReadAtItsEnd changes filter and mounts at random, many changes a frame, and holds what is followed frame by frame
// against the slow obvious twin: filter and mount table read from the records. What is sent of each frame must be covered on both sides of it, or of a
// mount that came or went within it.
func TestCoverageFollowedAlongTheLogIsTheOneReadAtItsEnd(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	n := &Node{engine: e, cfg: Config{Mounts: testMounts}}
	r := rand.New(rand.NewPCG(1, 2))
	read := func() *coverer {
		t.Helper()
		v := e.Snapshot()
		defer v.Release()
		c, err := n.coverer(v, e.History(), "eu", nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	followed, log := read(), e.LogReader(e.Position().Index+1)
	mounted := map[string]storage.KeyspaceID{}
	next := byte(0)
	for range 300 {
		var writes []engine.Write
		for range 1 + r.IntN(3) {
			writes = append(writes, randomChange(r, mounted, &next)...)
		}
		enginetest.MustDo(t, e, writes...)
		for {
			fr, err := log.TryNext()
			if err != nil && !errors.Is(err, wal.ErrGone) {
				t.Fatal(err)
			}
			if fr == nil {
				break
			}
			totals, err := storage.DecodeTotals(fr.Totals)
			if err != nil {
				t.Fatal(err)
			}
			before, err := followed.follow(fr, totals)
			if err != nil {
				t.Fatal(err)
			}
			sends := across(before, followed.now)
			for id := range maps.Keys(before.known) {
				if sends(id, storage.Replicated) && (before.of(id) == leftOut || followed.now.of(id) == leftOut) {
					t.Fatalf("frame at %d: keyspace %s is sent although it is left out before or after it", fr.First, id)
				}
			}
			if sends(storage.SystemLocal, storage.Local) || !sends(storage.SystemReplicated, storage.Replicated) {
				t.Fatal("the system's local keyspace is sent, or the shared one is not")
			}
		}
		twin := read()
		if followed.now.whole != twin.now.whole || !maps.Equal(followed.now.known, twin.now.known) || followed.since != twin.since || followed.at != twin.at {
			t.Fatalf("at %d: followed %+v (since %v), read %+v (since %v)", twin.at, followed.now, followed.since, twin.now, twin.since)
		}
		if !slices.Equal(followed.coverage(followed.now).Left, obviouslyLeft(twin)) {
			t.Fatalf("at %d: left out %v, obviously %v", twin.at, followed.now.left(), obviouslyLeft(twin))
		}
	}
}

// randomChange is one change of the filter or of a mount.
func randomChange(r *rand.Rand, mounted map[string]storage.KeyspaceID, next *byte) []engine.Write {
	path := func() string { return fmt.Sprintf("m%d/", r.IntN(6)) }
	p := path()
	id, taken := mounted[p]
	switch k := r.IntN(10); {
	case k < 3:
		f := filterRecord{Version: filterRecordVersion, Mode: []string{"", FilterAllow, FilterDeny}[r.IntN(3)]}
		if f.Mode != "" {
			f.Paths = slices.Sorted(maps.Keys(map[string]bool{path(): true, path(): true}))
		}
		return []engine.Write{put(string(recordFilter("eu")), mustJSON(&f))}
	case k == 3:
		return []engine.Write{remove(string(recordFilter("eu"))), put(string(recordFilter("us")), mustJSON(&filterRecord{Version: 1, Mode: FilterAllow}))}
	case !taken:
		*next++
		id = storage.KeyspaceID{5, *next, byte(r.IntN(256))}
		mounted[p] = id
		return []engine.Write{mountWrite(p, id), enginetest.Put(id, storage.Replicated, "k", "v")}
	case k < 7: // moved, unless the other path is in use
		q := path()
		if _, used := mounted[q]; used {
			return []engine.Write{enginetest.Put(id, storage.Replicated, "k", "w")}
		}
		delete(mounted, p)
		mounted[q] = id
		return []engine.Write{enginetest.Delete(storage.SystemReplicated, storage.Replicated, "mounts/"+p), mountWrite(q, id)}
	}
	delete(mounted, p)
	return unmountWrites(p, id)
}

// obviouslyLeft asks of each mount whether its path is named.
func obviouslyLeft(c *coverer) []storage.KeyspaceID {
	var out []storage.KeyspaceID
	for _, m := range c.mounts {
		named := c.filter != nil && strings.Contains(" "+strings.Join(c.filter.Paths, " ")+" ", " "+m.path+" ")
		if c.filter != nil && (c.filter.Mode == FilterDeny && named || c.filter.Mode == FilterAllow && !named) {
			out = append(out, m.id)
		}
	}
	sortIDs(out)
	return out
}

func TestWhatASecondaryKeepsTo(t *testing.T) {
	p, d := wal.Fork{1}, wal.Fork{2}
	left := []storage.KeyspaceID{{9}}
	history := []engine.Reign{{Ordinal: 1, Fork: p, Start: 1}, {Ordinal: 2, Fork: d, Start: 96}}
	for _, tt := range []struct {
		name  string
		told  *coverage
		reign uint64 // in which the feeder's filter was last changed
		want  bool
	}{
		{"nothing was told", nil, 0, false},
		{"there never was a filter", &coverage{Left: left}, 0, false},
		{"the feeder knows the change", &coverage{Left: left, Since: wal.Position{Fork: p, Index: 95}, Ordinal: 1}, 1, false},
		{"the change was lost in the failover", &coverage{Left: left, Since: wal.Position{Fork: p, Index: 96}, Ordinal: 1}, 1, true},
		{"and the feeder never had a filter", &coverage{Left: left, Since: wal.Position{Fork: p, Index: 96}, Ordinal: 1}, 0, true},
		{"lost, but the filter was written again since", &coverage{Left: left, Since: wal.Position{Fork: p, Index: 96}, Ordinal: 1}, 2, false},
		{"of a fork that the feeder has not heard of, of its own ordinal", &coverage{Left: left, Since: wal.Position{Fork: wal.Fork{7}, Index: 5}, Ordinal: 2}, 2, true},
	} {
		if got := keeps(tt.told, history, 200, tt.reign); (len(got) > 0) != tt.want {
			t.Errorf("%s: keeps %v, want it to: %v", tt.name, got, tt.want)
		}
	}
}

func FuzzFilterPath(f *testing.F) {
	for _, p := range []string{"secret", "/secret/", "auth/userpass", "sys/x", "a//b", ""} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		clean, err := cleanFilterPath(path)
		if err != nil {
			return
		}
		again, err := cleanFilterPath(clean)
		if err != nil || again != clean || !strings.HasSuffix(clean, "/") || strings.HasPrefix(clean, "/") || len(clean) > maxFilterPath {
			t.Fatalf("%q becomes %q, which becomes %q, %v", path, clean, again, err)
		}
	})
}

func FuzzHeldCoverage(f *testing.F) {
	h := holding{coverage: *testCoverage(), filling: []storage.KeyspaceID{{4}}, skipped: []storage.KeyspaceID{{5}}, resync: true}
	f.Add(h.encode())
	f.Add([]byte(`{"version":1,"left_out":["x"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeHolding(b)
		if err != nil {
			return
		}
		if back, err := decodeHolding(got.encode()); err != nil || !slices.Equal(back.Left, got.Left) || back.resync != got.resync {
			t.Fatalf("%q reads as %+v, which reads back as %+v, %v", b, got, back, err)
		}
	})
}
