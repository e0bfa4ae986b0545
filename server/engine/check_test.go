package engine_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// checked inspects and checks a stopped store.
func checked(t *testing.T, dir string) engine.CheckReport {
	t.Helper()
	o, err := engine.Inspect(dir)
	if err != nil {
		t.Fatalf("inspect: %v", err)
	}
	defer o.Close()
	r, err := o.Check(context.Background(), nil)
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	return r
}

// grouped returns a new frame of several entries.
func grouped(t *testing.T, e *engine.Engine) *wal.Frame {
	t.Helper()
	for range 50 {
		from := e.Position().Index + 1
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				_, _ = e.Do(context.Background(), &engine.Tx{Writes: []engine.Write{put(fmt.Sprintf("group%02d", i), fmt.Sprintf("grouped-%d-%02d", from, i))}})
			})
		}
		wg.Wait()
		for _, f := range frames(t, e, from) {
			if f.Count > 2 {
				return f
			}
		}
	}
	t.Fatal("no frame of several entries came to be")
	return nil
}

// written returns key and value of an entry that puts one record.
func written(t *testing.T, raw []byte) (key, value string) {
	t.Helper()
	e, err := storage.DecodeEntry(raw)
	if err != nil {
		t.Fatal(err)
	}
	c := e.Blocks[0].Changes[0]
	return string(c.Key), string(c.Value)
}

func TestCheckNamesTheKeysOfADamagedEntryAndChecksTheStateToo(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer, large)
	for i := range 3 {
		enginetest.MustDo(t, e, put(fmt.Sprintf("key%02d", i), marked(i)))
	}
	early := grouped(t, e)
	if err := e.Checkpoint(enginetest.Context(t)); err != nil {
		t.Fatal(err)
	}
	records := uint64(0)
	totals, _ := e.Totals()
	for _, ks := range totals {
		records += ks.Count
	}
	alone := enginetest.MustDo(t, e, put("key03", marked(3))).Position.Index
	late := grouped(t, e)
	newest := enginetest.MustDo(t, e, put("key04", marked(4))).Position.Index
	dir := filepath.Join(t.TempDir(), "image")
	copyStore(t, enginetest.Dir(t, e), dir)

	key, value := written(t, early.Entries[1])
	lateKey, lateValue := written(t, late.Entries[1])
	for name, tc := range map[string]struct {
		value    string
		index    uint64
		key      string
		entries  int
		wrong    bool
		compared bool
	}{
		"an entry that the state has: it is told from its neighbours":     {value, early.First, key, 1, true, true},
		"the only entry of its frame, behind the checkpoint":              {marked(3), alone, "key03", 1, false, false},
		"one of several entries, behind the checkpoint: all are suspects": {lateValue, late.First, lateKey, int(late.Count), false, false},
		"the newest entry": {marked(4), newest, "key04", 1, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			to := filepath.Join(t.TempDir(), "damaged")
			copyStore(t, dir, to)
			log := segments(t, to)
			flip(t, log[len(log)-1], tc.value)
			r := checked(t, to)
			if len(r.Damage) > 0 || r.Records != records {
				t.Errorf("state: got damage %v in %d records, want none in %d", r.Damage, r.Records, records)
			}
			if len(r.Log) != 1 || r.Log[0].File != log[len(log)-1] {
				t.Fatalf("log: got %+v, want one place in %s", r.Log, log[len(log)-1])
			}
			got := r.Log[0]
			if got.Index != tc.index {
				t.Errorf("index: got %d, want %d", got.Index, tc.index)
			}
			if len(got.Entries) != tc.entries || (got.Entries[0].Wrong != "") != tc.wrong {
				t.Errorf("entries: got %+v, want %d, wrong for certain: %v", got.Entries, tc.entries, tc.wrong)
			}
			named := slices.ContainsFunc(got.Entries, func(s engine.SuspectEntry) bool {
				return len(s.Keys) == 1 && s.Keys[0].Keyspace == shared && string(s.Keys[0].Key) == tc.key
			})
			if !named {
				t.Errorf("entries: got %+v, want one with key %s", got.Entries, tc.key)
			}
			if (r.NotCompared == "") != tc.compared {
				t.Errorf("compared: got %q, want said: %v", r.NotCompared, !tc.compared)
			}
		})
	}
	t.Run("a segment that is gone", func(t *testing.T) {
		log := segments(t, dir)
		if err := os.Remove(log[len(log)-1]); err != nil {
			t.Fatal(err)
		}
		r := checked(t, dir)
		if len(r.Damage) > 0 || r.Records != records || len(r.Log) != 1 || r.NotCompared == "" {
			t.Errorf("got %+v, want one place in the log and a state without damage", r)
		}
	})
}

func TestCheckOfARunningEngineCountsWhatNoCheckpointHolds(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer, large)
	for i := range 7 {
		enginetest.MustDo(t, e, put(fmt.Sprintf("key%02d", i), marked(i)))
	}
	r, err := e.Check(enginetest.Context(t), nil)
	if err != nil || r.Records != 7 {
		t.Errorf("got %d records, %v, want 7", r.Records, err)
	}
	if mark, at := e.Finished(), e.Position(); mark.Position() != at {
		t.Errorf("checkpoint at %v, want %v", mark.Position(), at)
	} else {
		mark.Release()
	}
}
