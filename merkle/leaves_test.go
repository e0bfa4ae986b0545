package merkle_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/merkle"
)

// twin is the slow, obvious index: records in a map, leaves made anew from all of them.
type twin map[string]merkle.Digest

func (w twin) keys() []string { return slices.Sorted(maps.Keys(w)) }

func (w twin) leaves() []merkle.Leaf {
	leaves := []merkle.Leaf{{}}
	for _, key := range w.keys() {
		if level := testKey.Level([]byte(key)); level > 0 {
			leaves = append(leaves, merkle.Leaf{Low: key, Level: uint8(level)})
		}
		d := w[key]
		leaves[len(leaves)-1].Replace(nil, &d)
	}
	return leaves
}

func (w twin) total(low, high string, bounded bool) (t merkle.Total) {
	for key, d := range w {
		if key >= low && (!bounded || key < high) {
			t.Replace(nil, &d)
		}
	}
	return t
}

// index keeps a Leaves as its keeper should.
type index struct {
	*merkle.Leaves
	recs twin
}

func newIndex() *index { return &index{merkle.NewLeaves(), twin{}} }

func (x *index) put(key string, d merkle.Digest) {
	if old, ok := x.recs[key]; ok {
		x.recs[key] = d
		x.Replace([]byte(key), &old, &d)
		return
	}
	x.recs[key] = d
	x.Replace([]byte(key), nil, &d)
	if level := testKey.Level([]byte(key)); level > 0 {
		_, high, last := x.Find([]byte(key))
		x.Split(key, level, x.recs.total(key, high, !last))
	}
}

func (x *index) remove(key string) {
	old, ok := x.recs[key]
	if !ok {
		return
	}
	delete(x.recs, key)
	x.Replace([]byte(key), &old, nil)
	if leaf, ok := x.At(key); ok && key != "" {
		x.Join(leaf.Low)
	}
}

func all(l *merkle.Leaves) (leaves []merkle.Leaf) {
	l.Ascend(nil, func(leaf merkle.Leaf, high string, last bool) bool {
		leaves = append(leaves, leaf)
		return true
	})
	return leaves
}

func compareLeaves(t *testing.T, l *merkle.Leaves, w twin) {
	t.Helper()
	want := w.leaves()
	got := all(l)
	if !slices.Equal(got, want) {
		t.Fatalf("leaves: got %d, want %d, or others", len(got), len(want))
	}
	slots := map[int]string{}
	for _, leaf := range got {
		at := l.Slot([]byte(leaf.Low))
		if other, taken := slots[at]; taken || at < 0 || at >= l.Slots() {
			t.Fatalf("the leaf at %q has slot %d of %d, and so has the one at %q", leaf.Low, at, l.Slots(), other)
		}
		slots[at] = leaf.Low
	}
	if l.Len() != len(want) || l.Total() != w.total("", "", false) {
		t.Fatalf("got %d leaves, total %v, want %d, %v", l.Len(), l.Total(), len(want), w.total("", "", false))
	}
}

func randomKey(rng *rand.Rand, n int) string { return fmt.Sprintf("%x", rng.IntN(n)*7919) }

func TestLeavesHaveTheShapeOfTheirContentWhateverTheHistory(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 0))
		x := newIndex()
		keys := 300 << (2 * (seed % 3))
		for i := range 4000 {
			key := randomKey(rng, keys)
			if rng.IntN(3) == 0 {
				x.remove(key)
			} else {
				x.put(key, testKey.Record([]byte(key), []byte{byte(i)}))
			}
			if i%500 == 0 {
				compareLeaves(t, x.Leaves, x.recs)
			}
		}
		compareLeaves(t, x.Leaves, x.recs)
		loaded, ok := merkle.LoadLeaves(each(all(x.Leaves)))
		if !ok {
			t.Fatal("leaves in order were not taken")
		}
		compareLeaves(t, loaded, x.recs)
		for _, key := range x.recs.keys() {
			x.remove(key)
		}
		compareLeaves(t, x.Leaves, twin{})
	}
}

func each(leaves []merkle.Leaf) func() (merkle.Leaf, bool) {
	return func() (leaf merkle.Leaf, ok bool) {
		if ok = len(leaves) > 0; ok {
			leaf, leaves = leaves[0], leaves[1:]
		}
		return leaf, ok
	}
}

func TestManyLeavesFillManyBlocks(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	x := newIndex()
	for x.Len() < 3000 { // boundary keys only: as many leaves as records
		if key := randomKey(rng, 1<<30); testKey.Level([]byte(key)) > 0 {
			d := testKey.Record([]byte(key), nil)
			x.recs[key] = d
			x.Replace([]byte(key), nil, &d)
			x.Split(key, testKey.Level([]byte(key)), merkle.Total{Count: 1, Sum: d})
		}
	}
	compareLeaves(t, x.Leaves, x.recs)
	keys := x.recs.keys()
	for range 300 {
		key := keys[rng.IntN(len(keys))] + "~"
		below, leaf := x.Before([]byte(key))
		if want := x.recs.total("", leaf.Low, true); below != want {
			t.Fatalf("total before the leaf of %q: got %v, want %v", key, below, want)
		}
	}
	rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for _, key := range keys[:2900] {
		x.remove(key)
	}
	compareLeaves(t, x.Leaves, x.recs)
}

func TestRangesAreCutAtTheBoundariesOfALevel(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 1))
	x := newIndex()
	for range 20_000 {
		key := randomKey(rng, 1<<30)
		d := testKey.Record([]byte(key), nil)
		x.put(key, d)
		if len(x.recs) > 6000 {
			break
		}
	}
	keys := x.recs.keys()
	for i := range 200 {
		low, high := keys[rng.IntN(len(keys))], keys[rng.IntN(len(keys))]
		bounded := i%4 != 0
		var end []byte
		if bounded {
			end = []byte(high)
		}
		var want [merkle.MaxLevel + 2][]string
		top := 0
		for _, key := range keys {
			if key <= low || bounded && key >= high {
				continue
			}
			for level := 1; level <= testKey.Level([]byte(key)); level++ {
				want[level] = append(want[level], key)
				top = max(top, level)
			}
		}
		level, n := x.Top([]byte(low), end)
		if level != top || n != len(want[top]) {
			t.Fatalf("top of [%q, %q): got level %d with %d, want %d with %d", low, end, level, n, top, len(want[top]))
		}
		for level := 1; level <= top+1; level++ {
			if got := x.Cuts([]byte(low), end, level); !slices.Equal(got, want[level]) {
				t.Fatalf("cuts of [%q, %q) at level %d: got %q, want %q", low, end, level, got, want[level])
			}
		}
	}
}

func TestACloneStaysWhatItWas(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 1))
	x := newIndex()
	type pair struct {
		leaves *merkle.Leaves
		recs   twin
	}
	var kept []pair
	for i := range 3000 {
		key := randomKey(rng, 2000)
		if rng.IntN(3) == 0 {
			x.remove(key)
		} else {
			x.put(key, testKey.Record([]byte(key), []byte{byte(i)}))
		}
		if i%300 == 0 {
			kept = append(kept, pair{x.Clone(), maps.Clone(x.recs)})
		}
	}
	// A clone may change too, without the others seeing it.
	side := &index{kept[4].leaves.Clone(), maps.Clone(kept[4].recs)}
	for i := range 500 {
		key := randomKey(rng, 2000)
		side.put(key, testKey.Record([]byte(key), []byte{byte(i)}))
	}
	compareLeaves(t, side.Leaves, side.recs)
	for _, p := range kept {
		compareLeaves(t, p.leaves, p.recs)
	}
	compareLeaves(t, x.Leaves, x.recs)
}

func TestLoadLeavesSaysWhenLeavesAreOutOfOrderOrIncomplete(t *testing.T) {
	leaf := func(low string) merkle.Leaf { return merkle.Leaf{Low: low, Total: merkle.Total{Count: 1}} }
	for name, c := range map[string]struct {
		leaves []merkle.Leaf
		ok     bool
		left   int
	}{
		"in order":               {[]merkle.Leaf{leaf(""), leaf("a"), leaf("b")}, true, 3},
		"none at all":            {nil, false, 1},
		"the first is missing":   {[]merkle.Leaf{leaf("a"), leaf("b")}, false, 3},
		"one twice":              {[]merkle.Leaf{leaf(""), leaf("a"), leaf("a")}, false, 2},
		"one behind its greater": {[]merkle.Leaf{leaf(""), leaf("b"), leaf("a"), leaf("c")}, false, 3},
		"the first twice":        {[]merkle.Leaf{leaf(""), leaf("")}, false, 1},
	} {
		l, ok := merkle.LoadLeaves(each(c.leaves))
		if ok != c.ok || l.Len() != c.left {
			t.Errorf("%s: got %v with %d leaves, want %v with %d", name, ok, l.Len(), c.ok, c.left)
		}
		d := merkle.Digest{1}
		l.Replace([]byte("x"), nil, &d) // whatever was loaded can be used
		l.Split("x", 1, merkle.Total{})
		l.Join("x")
	}
}

// FuzzLeaves plays any history of puts and removes, and compares the index with its twin.
func FuzzLeaves(f *testing.F) {
	f.Add([]byte("abcabcabd"))
	f.Add([]byte(strings.Repeat("\x00\x01\x80\xff", 50)))
	f.Fuzz(func(t *testing.T, history []byte) {
		x := newIndex()
		for i := 0; i+2 < len(history) && i < 3*400; i += 3 {
			key := string(binary.BigEndian.AppendUint16(nil, binary.BigEndian.Uint16(history[i+1:])))
			if history[i]&3 == 0 {
				x.remove(key)
			} else {
				x.put(key, testKey.Record([]byte(key), history[i:i+1]))
			}
		}
		compareLeaves(t, x.Leaves, x.recs)
	})
}

func BenchmarkLeavesReplace(b *testing.B) {
	leaves := []merkle.Leaf{{}}
	for i := range 31_000 {
		leaves = append(leaves, merkle.Leaf{Low: fmt.Sprintf("secret/data/%012d", i), Level: 1})
	}
	l, _ := merkle.LoadLeaves(each(leaves))
	d := testKey.Record([]byte("a"), nil)
	keys := make([][]byte, 1024)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "secret/data/%012d", i*30)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		l.Replace(keys[i&1023], &d, &d)
		i++
	}
}

func BenchmarkLeavesClone(b *testing.B) {
	leaves := []merkle.Leaf{{}}
	for i := range 313_000 { // of 10 million records
		leaves = append(leaves, merkle.Leaf{Low: fmt.Sprintf("secret/data/%012d", i), Level: 1})
	}
	l, _ := merkle.LoadLeaves(each(leaves))
	b.ReportAllocs()
	for b.Loop() {
		l.Clone()
	}
}
