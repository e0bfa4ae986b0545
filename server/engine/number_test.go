package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

// begin makes a keyspace numbered.
func begin() engine.Write { return put(string(engine.NumbersKey), "") }

func do(t *testing.T, e *engine.Engine, writes ...engine.Write) []engine.Number {
	t.Helper()
	tx := &engine.Tx{Writes: writes}
	if _, err := e.Do(enginetest.Context(t), tx); err != nil {
		t.Fatal(err)
	}
	return tx.Numbers
}

func numberOf(t *testing.T, e *engine.Engine, key string) (string, engine.Number) {
	t.Helper()
	r, err := e.Get(shared, []byte(key))
	if err != nil {
		t.Fatalf("reading %q: %v", key, err)
	}
	value, n := engine.Split(r.Value)
	return string(value), n
}

func nextOf(t *testing.T, e *engine.Engine) uint64 {
	t.Helper()
	r, err := e.Get(shared, engine.NumbersKey)
	if err != nil {
		t.Fatal(err)
	}
	next, _, err := engine.NextNumber(r.Value)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestWritesOfANumberedKeyspaceHaveGaplessNumbers(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	if got := do(t, e, put("plain", "1")); got != nil {
		t.Errorf("numbers in a keyspace that is not numbered: got %v, want none", got)
	}
	do(t, e, enginetest.Delete(shared, storage.Replicated, "plain"))
	do(t, e, begin())
	steps := []struct {
		name string
		tx   []engine.Write
		want []engine.Number
	}{
		{"a new record", []engine.Write{put("a", "1")}, []engine.Number{{Version: 1, Seq: 0, Term: 1}}},
		{"an overwrite", []engine.Write{put("a", "2")}, []engine.Number{{Version: 2, Seq: 1, Term: 1}}},
		{"two records, one of them twice", []engine.Write{put("a", "3"), put("b", "1"), put("a", "4")},
			[]engine.Number{{Version: 3, Seq: 2, Term: 1}, {Version: 1, Seq: 3, Term: 1}, {Version: 4, Seq: 4, Term: 1}}},
		{"a delete, and the record again", []engine.Write{enginetest.Delete(shared, storage.Replicated, "a"), put("a", "5")},
			[]engine.Number{{Version: 5, Seq: 5, Term: 1}, {Version: 1, Seq: 6, Term: 1}}},
		{"a delete of nothing", []engine.Write{enginetest.Delete(shared, storage.Replicated, "none")}, []engine.Number{{Version: 1, Seq: 7, Term: 1}}},
		{"beginning once more changes nothing", []engine.Write{begin(), put("b", "2")}, []engine.Number{{}, {Version: 2, Seq: 8, Term: 1}}},
		{"a reserved record has no number", []engine.Write{put("\x00about", "x"), put("b", "3")}, []engine.Number{{}, {Version: 3, Seq: 9, Term: 1}}},
		{"another keyspace beside it", []engine.Write{enginetest.Put(other, storage.Replicated, "b", "x"), put("b", "4")}, []engine.Number{{}, {Version: 4, Seq: 10, Term: 1}}},
	}
	for _, s := range steps {
		if got := do(t, e, s.tx...); !slices.Equal(got, s.want) {
			t.Errorf("%s: got %v, want %v", s.name, got, s.want)
		}
	}
	for range 2 { // at once, and from the file
		if value, n := numberOf(t, e, "b"); value != "4" || n != (engine.Number{Version: 4, Seq: 10, Term: 1}) {
			t.Errorf("record b: got %q %v, want 4 with version 4 and operation 10", value, n)
		}
		if got := nextOf(t, e); got != 11 {
			t.Errorf("the next operation: got %d, want 11", got)
		}
		if got := mustGet(t, e, other, "b"); got != "x" {
			t.Errorf("a record of a keyspace that is not numbered: got %q, want it as it was put", got)
		}
		e = enginetest.Reopen(t, e)
	}
	if got, want := do(t, e, put("b", "5")), (engine.Number{Version: 5, Seq: 11, Term: 1}); len(got) != 1 || got[0] != want {
		t.Errorf("after reopening: got %v, want %v", got, want)
	}
}

func TestRecordsFromBeforeNumberingHaveTheFirstNumber(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	do(t, e, put("old", `{"a":1}`))
	numbers := do(t, e, begin(), put("new", "1"))
	if want := (engine.Number{Version: 1, Seq: 1, Term: 1}); numbers[1] != want {
		t.Errorf("the first operation beside an old record: got %v, want %v", numbers[1], want)
	}
	if value, n := numberOf(t, e, "old"); value != `{"a":1}` || n != (engine.Number{Version: 1, Seq: 0, Term: 1}) {
		t.Errorf("an old record: got %q %v, want version 1 and operation 0", value, n)
	}
	if got := do(t, e, put("old", "2"))[0]; got != (engine.Number{Version: 2, Seq: 2, Term: 1}) {
		t.Errorf("an old record overwritten: got %v, want version 2 and operation 2", got)
	}
}

func TestAValueThatComesWithANumberGetsItsOwn(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	do(t, e, begin(), put("a", "1"), put("b", "1"))
	r, err := e.Get(shared, []byte("b"))
	if err != nil {
		t.Fatal(err)
	}
	do(t, e, put("a", string(r.Value))) // as a replay of an archive does
	if value, n := numberOf(t, e, "a"); value != "1" || n != (engine.Number{Version: 2, Seq: 2, Term: 1}) {
		t.Errorf("got %q %v, want the text alone with version 2 and operation 2", value, n)
	}
}

func TestANewEpochRaisesTheTerm(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	do(t, e, begin(), put("a", "1"))
	if _, err := e.BeginEpoch(enginetest.Context(t), 0, []engine.Write{enginetest.Put(other, storage.Replicated, "x", "y")}); err != nil {
		t.Fatal(err)
	}
	if got := do(t, e, put("a", "2"))[0]; got != (engine.Number{Version: 2, Seq: 1, Term: 2}) {
		t.Errorf("got %v, want term 2", got)
	}
}

func TestARefusedOrDroppedKeyspaceLeavesNoNumbers(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	do(t, e, begin(), put("a", "1"))
	refused := errors.New("no")
	if _, err := e.Do(context.Background(), &engine.Tx{Exec: func(engine.Reader) ([]engine.Write, error) { return []engine.Write{put("a", "2")}, refused }}); !errors.Is(err, refused) {
		t.Fatalf("got %v, want the refusal", err)
	}
	if got := nextOf(t, e); got != 1 {
		t.Errorf("the next operation after a refusal: got %d, want 1", got)
	}
	do(t, e, enginetest.Drop(shared, storage.Replicated))
	if _, err := e.Get(shared, engine.NumbersKey); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("numbers of a dropped keyspace: got %v, want none", err)
	}
}

// twin is the slow obvious form of numbering: every operation that any writer was told, in order of its number, replayed.
func TestConcurrentWritersAreNumberedAsOneAfterTheOther(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer, small)
	do(t, e, begin())
	type op struct {
		key   string
		del   bool
		value string
		n     engine.Number
	}
	var mu sync.Mutex
	var all []op
	var wg sync.WaitGroup
	for w := range 8 {
		rng := rand.New(rand.NewPCG(1, uint64(w)))
		wg.Go(func() {
			for i := range 60 {
				var writes []engine.Write
				var ops []op
				for range 1 + rng.IntN(3) {
					o := op{key: fmt.Sprint("k", rng.IntN(6)), del: rng.IntN(4) == 0, value: fmt.Sprint(w, ".", i)}
					change := put(o.key, o.value)
					if o.del {
						change = enginetest.Delete(shared, storage.Replicated, o.key)
					}
					writes, ops = append(writes, change), append(ops, o)
				}
				tx := &engine.Tx{Writes: writes}
				if i%2 == 0 {
					tx = &engine.Tx{Exec: func(engine.Reader) ([]engine.Write, error) { return writes, nil }}
				}
				if _, err := e.Do(context.Background(), tx); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for j := range ops {
					ops[j].n = tx.Numbers[j]
					all = append(all, ops[j])
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b op) int { return int(a.n.Seq) - int(b.n.Seq) })
	versions, values := map[string]uint64{}, map[string]string{}
	for i, o := range all {
		if o.n.Seq != uint64(i) || o.n.Version != versions[o.key]+1 {
			t.Fatalf("operation %d on %s after version %d: got %v", i, o.key, versions[o.key], o.n)
		}
		versions[o.key], values[o.key] = o.n.Version, o.value
		if o.del {
			delete(versions, o.key)
			delete(values, o.key)
		}
	}
	if got := nextOf(t, e); got != uint64(len(all)) {
		t.Errorf("the next operation: got %d, want %d", got, len(all))
	}
	for k := range 6 {
		key := fmt.Sprint("k", k)
		want, ok := values[key]
		r, err := e.Get(shared, []byte(key))
		if ok != (err == nil) {
			t.Errorf("record %s: got %v, want it there: %v", key, err, ok)
		} else if got, n := engine.Split(r.Value); ok && (string(got) != want || n.Version != versions[key]) {
			t.Errorf("record %s: got %q version %d, want %q version %d", key, got, n.Version, want, versions[key])
		}
	}
}

func FuzzNumberOfAValue(f *testing.F) {
	f.Add([]byte(`{"a":1}`))
	f.Add(append(make([]byte, 24), 1))
	f.Add(append([]byte(`{"a":1}`), append(make([]byte, 24), 1)...))
	f.Fuzz(func(t *testing.T, value []byte) {
		put, n := engine.Split(value)
		if len(put) != len(value) && len(put)+25 != len(value) {
			t.Errorf("of %d bytes %d are the value", len(value), len(put))
		}
		if len(put) == len(value) && n != (engine.Number{Version: 1, Term: 1}) {
			t.Errorf("a value without a number: got %v", n)
		}
		if next, _, err := engine.NextNumber(value); err == nil && len(value) != 17 {
			t.Errorf("a record of numbers with %d bytes: got %d", len(value), next)
		}
	})
}
