package storage_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

func keyOf(id storage.KeyspaceID) merkle.Key {
	return merkle.Key(sha256.Sum256(append([]byte("digest key of "), id[:]...)))
}

func ksID(n byte) storage.KeyspaceID { return storage.KeyspaceID{0: 7, 15: n} }

// finder collects damage.
type finder struct {
	mu    sync.Mutex
	found []storage.Damage
}

func (f *finder) Found(d storage.Damage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.found = append(f.found, d)
}

func (f *finder) all() []storage.Damage {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.found)
}

// twin is the slow, obvious state: maps, and totals by adding everything up.
type twin struct {
	recs     map[storage.KeyspaceID]map[string]storage.Record
	scope    map[storage.KeyspaceID]storage.Scope
	detached map[storage.KeyspaceID]bool
	index    uint64
}

func newTwin() *twin {
	return &twin{
		recs:     map[storage.KeyspaceID]map[string]storage.Record{},
		scope:    map[storage.KeyspaceID]storage.Scope{},
		detached: map[storage.KeyspaceID]bool{},
	}
}

func (w *twin) clone() *twin {
	c := &twin{recs: map[storage.KeyspaceID]map[string]storage.Record{}, scope: maps.Clone(w.scope), detached: maps.Clone(w.detached), index: w.index}
	for id, m := range w.recs {
		c.recs[id] = maps.Clone(m)
	}
	return c
}

func (w *twin) apply(e *storage.Entry) {
	w.index = e.Index
	for _, b := range e.Blocks {
		if w.recs[b.Keyspace] == nil {
			w.recs[b.Keyspace] = map[string]storage.Record{}
			w.scope[b.Keyspace] = b.Scope
		}
		k := keyOf(b.Keyspace)
		for _, c := range b.Changes {
			switch {
			case c.Op == storage.Drop:
				w.detached[b.Keyspace] = true
			case w.detached[b.Keyspace]:
			case c.Op == storage.Put:
				w.recs[b.Keyspace][string(c.Key)] = storage.Record{Key: c.Key, Value: c.Value, Digest: k.Record(c.Key, c.Value), Index: e.Index}
			case c.Op == storage.Delete:
				delete(w.recs[b.Keyspace], string(c.Key))
			}
		}
	}
}

func (w *twin) total(id storage.KeyspaceID, low, high string) (t merkle.Total) {
	if w.detached[id] {
		return t
	}
	for key, r := range w.recs[id] {
		if key >= low && (high == "" || key < high) {
			t.Replace(nil, &r.Digest)
		}
	}
	return t
}

func (w *twin) totals() (all []storage.KeyspaceTotal) {
	for id := range w.recs {
		if !w.detached[id] {
			all = append(all, storage.KeyspaceTotal{ID: id, Scope: w.scope[id], Total: w.total(id, "", "")})
		}
	}
	slices.SortFunc(all, func(a, b storage.KeyspaceTotal) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return all
}

func (w *twin) keys(id storage.KeyspaceID) (keys []string) {
	if w.detached[id] {
		return nil
	}
	for key := range w.recs[id] {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

func (w *twin) list(id storage.KeyspaceID, prefix, after string, limit int) (names []string, more bool) {
	return listOf(w.keys(id), prefix, after, limit)
}

// listOf lists sorted keys the slow way.
func listOf(keys []string, prefix, after string, limit int) (names []string, more bool) {
	for _, key := range keys {
		rest, ok := strings.CutPrefix(key, prefix)
		if !ok || rest == "" {
			continue
		}
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			rest = rest[:i+1]
		}
		if rest <= after || len(names) > 0 && names[len(names)-1] == rest {
			continue
		}
		if limit > 0 && len(names) == limit {
			return names, true
		}
		names = append(names, rest)
	}
	return names, false
}

// frame is what one group commit gives Apply.
type frame struct {
	entries []*storage.Entry
	totals  []storage.KeyspaceTotal
	end     wal.Position
	chain   wal.Hash
}

func (f *frame) applying() (all []storage.Applying) {
	for _, e := range f.entries {
		a := storage.Applying{Entry: e}
		for _, b := range e.Blocks {
			k := keyOf(b.Keyspace)
			digests := make([]merkle.Digest, len(b.Changes))
			for i, c := range b.Changes {
				if c.Op == storage.Put {
					digests[i] = k.Record(c.Key, c.Value)
				}
			}
			a.Digests = append(a.Digests, digests)
		}
		all = append(all, a)
	}
	return all
}

// writer makes frames of random entries and keeps the twin that they lead to.
type writer struct {
	rng       *rand.Rand
	twin      *twin
	keyspaces int
	keys      int
	dropOneIn int // blocks; 0: none
}

func newWriter(seed uint64) *writer {
	return &writer{rng: rand.New(rand.NewPCG(seed, 1)), twin: newTwin(), keyspaces: 3, keys: 400}
}

func (w *writer) key() []byte {
	n := w.rng.IntN(w.keys)
	switch n % 4 {
	case 0:
		return fmt.Appendf(nil, "dir%d/sub%d/%d", n%7, n%3, n)
	case 1:
		return fmt.Appendf(nil, "dir%d/%d", n%5, n)
	case 2:
		return fmt.Appendf(nil, "dir%d-%d", n%5, n)
	}
	return fmt.Appendf(nil, "key%d", n)
}

func (w *writer) entry() *storage.Entry {
	e := &storage.Entry{Version: 1, Index: w.twin.index + 1, Time: int64(w.rng.Uint64() >> 2)}
	for n := 1 + w.rng.IntN(2); n > 0; n-- {
		b := storage.Block{Keyspace: ksID(byte(w.rng.IntN(w.keyspaces))), Scope: storage.Replicated}
		if b.Keyspace[15]%2 == 1 {
			b.Scope = storage.Local
		}
		for n := 1 + w.rng.IntN(6); n > 0; n-- {
			c := storage.Change{Op: storage.Put, Key: w.key(), Value: make([]byte, w.rng.IntN(60))}
			for i := range c.Value {
				c.Value[i] = byte(w.rng.Uint32())
			}
			if w.rng.IntN(4) == 0 {
				c = storage.Change{Op: storage.Delete, Key: c.Key}
			}
			b.Changes = append(b.Changes, c)
		}
		if w.dropOneIn > 0 && w.rng.IntN(w.dropOneIn) == 0 {
			b.Changes = append(b.Changes, storage.Change{Op: storage.Drop})
		}
		if len(e.Blocks) == 0 || e.Blocks[0].Keyspace != b.Keyspace {
			e.Blocks = append(e.Blocks, b)
		}
	}
	w.twin.apply(e)
	return e
}

func (w *writer) frame(entries int) *frame {
	f := &frame{}
	touched := map[storage.KeyspaceID]bool{}
	for range entries {
		e := w.entry()
		for _, b := range e.Blocks {
			touched[b.Keyspace] = true
		}
		f.entries = append(f.entries, e)
	}
	for _, t := range w.twin.totals() {
		if touched[t.ID] {
			f.totals = append(f.totals, t)
		}
	}
	f.end = wal.Position{Fork: wal.Fork{1}, Index: w.twin.index}
	f.chain = wal.Hash(sha256.Sum256(fmt.Append(nil, "chain", w.twin.index)))
	return f
}

func apply(s *storage.State, f *frame) { s.Apply(f.applying(), f.totals, f.end, f.chain) }

func statePath(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "state.db")
	if err := storage.Create(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// open opens a state for a test; damage found fails it, and so does what Check finds at its end.
func open(t testing.TB, o storage.Options) *storage.State {
	t.Helper()
	if o.Path == "" {
		o.Path = statePath(t)
	}
	o.Key = keyOf
	if o.Found == nil {
		o.Found = func(d storage.Damage) { t.Errorf("damage found: %v", &d) }
	}
	s, err := storage.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func checkpoint(t testing.TB, s *storage.State) {
	t.Helper()
	if err := s.Checkpoint(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// checkWhole runs Check and compares what it counts with the twin.
func checkWhole(t testing.TB, s *storage.State, w *twin) {
	t.Helper()
	r, err := s.Check(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.Damage {
		t.Errorf("check found %v", &r.Damage[i])
	}
	if w != nil {
		if want := w.totals(); !slices.Equal(r.Totals, want) {
			t.Errorf("totals of check: got %v, want %v", r.Totals, want)
		}
	}
}

// compare compares a state's every answer with the twin's.
func compare(t testing.TB, s *storage.State, w *twin, extra []string) {
	t.Helper()
	if got, want := s.Totals(), w.totals(); !slices.Equal(got, want) {
		t.Fatalf("totals: got %v, want %v", got, want)
	}
	if got := s.Applied(); got != w.index {
		t.Fatalf("applied: got %d, want %d", got, w.index)
	}
	v := s.Snapshot()
	defer v.Release()
	for id := range w.recs {
		keys := w.keys(id)
		for _, key := range append(slices.Clone(keys), extra...) {
			compareGet(t, s.Get, w, id, key)
			compareGet(t, v.Get, w, id, key)
			compareOld(t, s, w, id, key)
		}
		compareScan(t, v, w, id)
		compareLists(t, v, w, id)
	}
}

func compareGet(t testing.TB, get func(storage.KeyspaceID, []byte) (storage.Record, error), w *twin, id storage.KeyspaceID, key string) {
	t.Helper()
	got, err := get(id, []byte(key))
	want, ok := w.recs[id][key]
	if w.detached[id] {
		ok = false
	}
	switch {
	case !ok && !errors.Is(err, storage.ErrNotFound):
		t.Fatalf("get %s %q: got %v, %v, want not found", id, key, got, err)
	case ok && err != nil:
		t.Fatalf("get %s %q: %v", id, key, err)
	case ok && (!bytes.Equal(got.Value, want.Value) || got.Digest != want.Digest || got.Index != want.Index || string(got.Key) != key):
		t.Fatalf("get %s %q: got %+v, want %+v", id, key, got, want)
	}
}

func compareOld(t testing.TB, s *storage.State, w *twin, id storage.KeyspaceID, key string) {
	t.Helper()
	got, err := s.Old(id, []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	want, ok := w.recs[id][key]
	if w.detached[id] {
		ok, want = false, storage.Record{}
	}
	if got.Present != ok || got.Digest != want.Digest || got.Index != want.Index {
		t.Fatalf("old %s %q: got %+v, want %v %+v", id, key, got, ok, want)
	}
	if m, inMemory := s.OldInMemory(id, []byte(key)); inMemory && m != got {
		t.Fatalf("old in memory %s %q: got %+v, want %+v", id, key, m, got)
	}
}

func compareScan(t testing.TB, v *storage.View, w *twin, id storage.KeyspaceID) {
	t.Helper()
	var got []string
	err := v.Scan(id, nil, nil, func(r storage.Record) bool {
		if want := w.recs[id][string(r.Key)]; !bytes.Equal(want.Value, r.Value) || want.Digest != r.Digest || want.Index != r.Index {
			t.Fatalf("scan %s: got %+v, want %+v", id, r, want)
		}
		got = append(got, string(r.Key))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := w.keys(id); !slices.Equal(got, want) {
		t.Fatalf("scan %s: got %q, want %q", id, got, want)
	}
}

func compareLists(t testing.TB, v *storage.View, w *twin, id storage.KeyspaceID) {
	t.Helper()
	keys := w.keys(id)
	for _, prefix := range []string{"", "dir1", "dir1/", "dir0/sub0/", "key", "none/", "dir1/sub1/9"} {
		for _, after := range []string{"", "dir1/", "dir1", "sub0/", "dir3-18", "zz"} {
			for _, limit := range []int{0, 1, 3} {
				got, more, err := v.List(id, prefix, after, limit)
				if err != nil {
					t.Fatal(err)
				}
				want, wantMore := listOf(keys, prefix, after, limit)
				if !slices.Equal(got, want) || more != wantMore {
					t.Fatalf("list %s %q after %q, %d: got %q %v, want %q %v", id, prefix, after, limit, got, more, want, wantMore)
				}
			}
		}
	}
}

// compareRanges compares what a finished view says of ranges with the twin.
func compareRanges(t testing.TB, v *storage.View, w *twin, rng *rand.Rand) {
	t.Helper()
	for id := range w.recs {
		bounds := append(w.keys(id), "", "a", "zzz", "dir1/", "dir2")
		for range 30 {
			low, high := bounds[rng.IntN(len(bounds))], bounds[rng.IntN(len(bounds))]
			got, err := v.RangeTotal(id, []byte(low), []byte(high))
			if err != nil {
				t.Fatal(err)
			}
			if want := w.total(id, low, high); got != want {
				t.Fatalf("range total %s [%q, %q): got %v, want %v", id, low, high, got, want)
			}
			compareSplit(t, v, w, id, low, high, 2+rng.IntN(20))
		}
	}
}

func compareSplit(t testing.TB, v *storage.View, w *twin, id storage.KeyspaceID, low, high string, limit int) {
	t.Helper()
	if high != "" && low >= high {
		return
	}
	parts, err := v.Split(id, []byte(low), []byte(high), limit)
	if err != nil {
		t.Fatal(err)
	}
	if len(parts) == 0 || len(parts) > limit || string(parts[0].Low) != low {
		t.Fatalf("split %s [%q, %q) by %d: got %v", id, low, high, limit, parts)
	}
	for i, p := range parts {
		end := high
		if i+1 < len(parts) {
			end = string(parts[i+1].Low)
		}
		if want := w.total(id, string(p.Low), end); p.Total != want {
			t.Fatalf("part %d of split %s [%q, %q): got %v, want %v", i, id, low, high, p.Total, want)
		}
	}
	var got merkle.Total
	err = v.Items(id, []byte(low), []byte(high), func(key []byte, d merkle.Digest) bool {
		got.Replace(nil, &d)
		return true
	})
	if want := w.total(id, low, high); err != nil || got != want {
		t.Fatalf("items %s [%q, %q): got %v, %v, want %v", id, low, high, got, err, want)
	}
}

// failAt is a seam that fails the n-th commit from now, before or after it became durable.
type failAt struct {
	n     int
	after bool
	hit   bool
}

var errSeam = errors.New("injected failure of a commit")

func (f *failAt) seam(_ string, commit func() error) error {
	f.n--
	if f.n != 0 {
		return commit()
	}
	f.hit = true
	if f.after {
		if err := commit(); err != nil {
			return err
		}
	}
	return errSeam
}

var _ boltfile.Seam = (&failAt{}).seam
