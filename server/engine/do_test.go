package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

var (
	shared = storage.KeyspaceID{0: 7, 15: 1}
	other  = storage.KeyspaceID{0: 7, 15: 2}
	local  = storage.KeyspaceID{0: 9, 15: 1}
)

// small makes segments, tables and checkpoints small, so that a short test crosses many of them.
func small(c *engine.Config) {
	c.SegmentBytes = 16 << 10
	c.CheckpointBytes = 32 << 10
}

func put(key, value string) engine.Write {
	return enginetest.Put(shared, storage.Replicated, key, value)
}

func mustGet(t *testing.T, e *engine.Engine, ks storage.KeyspaceID, key string) string {
	t.Helper()
	r, err := e.Get(ks, []byte(key))
	if err != nil {
		t.Fatalf("reading %q: %v", key, err)
	}
	return string(r.Value)
}

func TestWriteIsReadableAndSurvivesReopening(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	c := enginetest.MustDo(t, e, put("a", "1"), put("b", "2"))
	if c.Position.Index != 1 || e.Position() != c.Position {
		t.Errorf("position: got %v and %v, want index 1 and the same", c.Position, e.Position())
	}
	enginetest.MustDo(t, e, enginetest.Delete(shared, storage.Replicated, "b"))
	for _, when := range []string{"at once", "after reopening"} {
		if got := mustGet(t, e, shared, "a"); got != "1" {
			t.Errorf("%s: got %q, want %q", when, got, "1")
		}
		if _, err := e.Get(shared, []byte("b")); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s: deleted record: got %v, want ErrNotFound", when, err)
		}
		if when == "at once" {
			e = enginetest.Reopen(t, e)
		}
	}
	if got := len(e.History()); got != 1 {
		t.Errorf("reigns before the first frame of the new opening: got %d, want 1", got)
	}
	enginetest.MustDo(t, e, put("c", "3"))
	h := e.History()
	if len(h) != 2 || h[1].Start != 3 || h[1].Parent != h[0].Fork || h[1].Ordinal != 1 || h[1].Fork == h[0].Fork {
		t.Errorf("history after the first frame of the new opening: got %+v", h)
	}
}

// increment adds one to a counter, only if nobody else did meanwhile.
func increment(key string) *engine.Tx {
	k := engine.Key{Keyspace: shared, Key: []byte(key)}
	return &engine.Tx{
		Reads: []engine.Key{k},
		Exec: func(r engine.Reader) ([]engine.Write, error) {
			n := 0
			rec, err := r.Get(k.Keyspace, k.Key)
			if err == nil {
				n, err = strconv.Atoi(string(rec.Value))
			} else if errors.Is(err, storage.ErrNotFound) {
				err = nil
			}
			return []engine.Write{put(key, strconv.Itoa(n+1))}, err
		},
	}
}

func TestConcurrentIncrementsLoseNothing(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer, small)
	ctx := enginetest.Context(t)
	const workers, each, keys = 16, 100, 5
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				if _, err := e.Do(ctx, increment(fmt.Sprintf("counter%d", (w+i)%keys))); err != nil {
					t.Errorf("incrementing: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for i := range keys {
		n, _ := strconv.Atoi(mustGet(t, e, shared, fmt.Sprintf("counter%d", i)))
		sum += n
	}
	if sum != workers*each {
		t.Errorf("sum of counters: got %d, want %d", sum, workers*each)
	}
}

var errExists = errors.New("exists already")

func TestOfManyCreatesOfOneKeyExactlyOneWinsAndLosersSeeItDurable(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	ctx := enginetest.Context(t)
	for round := range 50 {
		key := fmt.Sprintf("key%d", round)
		var wg sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for w := range 8 {
			wg.Go(func() {
				_, err := e.Do(ctx, &engine.Tx{Exec: func(r engine.Reader) ([]engine.Write, error) {
					if _, err := r.Get(shared, []byte(key)); err == nil {
						return nil, errExists
					}
					return []engine.Write{put(key, strconv.Itoa(w))}, nil
				}})
				if err == nil {
					mu.Lock()
					won++
					mu.Unlock()
					return
				}
				if !errors.Is(err, errExists) {
					t.Errorf("losing: got %v, want %v", err, errExists)
				}
				if _, err := e.Get(shared, []byte(key)); err != nil {
					t.Errorf("refused because of a record that cannot be read: %v", err)
				}
			})
		}
		wg.Wait()
		if won != 1 {
			t.Fatalf("winners: got %d, want 1", won)
		}
	}
}

func TestContextThatEndsFirstLeavesTheOutcomeUnknown(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	ctx, cancel := context.WithCancel(context.Background())
	_, err := e.Do(ctx, &engine.Tx{Exec: func(engine.Reader) ([]engine.Write, error) {
		cancel()
		return []engine.Write{put("a", "1")}, nil
	}})
	if err != nil && !errors.Is(err, engine.ErrOutcomeUnknown) {
		t.Errorf("got %v, want nil or ErrOutcomeUnknown", err)
	}
}

func TestLimitsAreToldWithFigures(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	many := make([]engine.Write, 4097)
	for i := range many {
		many[i] = put(strconv.Itoa(i), "")
	}
	for name, writes := range map[string][]engine.Write{
		"a key of 16 KiB and a byte":     {put(string(make([]byte, storage.MaxKey+1)), "")},
		"a value of 34 MiB and a byte":   {put("k", string(make([]byte, storage.MaxValue+1)))},
		"an entry of more than 36 MiB":   {put("k", string(make([]byte, 20<<20))), put("l", string(make([]byte, 17<<20)))},
		"a transaction of 4,097 records": many,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := e.Do(enginetest.Context(t), &engine.Tx{Writes: writes})
			if !errors.Is(err, engine.ErrTooLarge) {
				t.Errorf("got %v, want ErrTooLarge", err)
			}
			_, err = e.Do(enginetest.Context(t), &engine.Tx{Exec: func(engine.Reader) ([]engine.Write, error) { return writes, nil }})
			if !errors.Is(err, engine.ErrTooLarge) {
				t.Errorf("by Exec: got %v, want ErrTooLarge", err)
			}
		})
	}
	if got := e.Position().Index; got != 0 {
		t.Errorf("index after refusals: got %d, want 0", got)
	}
}

func TestScopeOfAKeyspaceNeverChanges(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	enginetest.MustDo(t, e, put("a", "1"))
	_, err := e.Do(enginetest.Context(t), &engine.Tx{Writes: []engine.Write{enginetest.Put(shared, storage.Local, "b", "2")}})
	if err == nil {
		t.Error("a write in another scope was taken")
	}
}

func TestDroppedKeyspaceIsGoneAtOnceAndForGood(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer, small)
	for i := range 50 {
		enginetest.MustDo(t, e, put(fmt.Sprintf("k%d", i), "v"))
	}
	enginetest.MustDo(t, e, enginetest.Put(other, storage.Replicated, "stays", "v"))
	enginetest.MustDo(t, e, enginetest.Drop(shared, storage.Replicated))
	enginetest.MustDo(t, e, put("late", "v"))
	for _, when := range []string{"at once", "after reopening", "after a second reopening"} {
		if got := enginetest.Content(t, e); len(got) != 1 || len(got[other]) != 1 {
			t.Errorf("%s: got %v, want only keyspace other", when, got)
		}
		if _, err := e.Get(shared, []byte("late")); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s: a write after the drop: got %v, want ErrNotFound", when, err)
		}
		enginetest.MustDo(t, e, put("later", "v"))
		if when != "after a second reopening" {
			e = enginetest.Reopen(t, e)
		}
	}
}
