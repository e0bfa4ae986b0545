package engine_test

import (
	"context"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

func TestMetersCountWhatTheEngineDoes(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	for range 3 {
		w := engine.Write{Keyspace: storage.SystemLocal, Scope: storage.Local, Change: storage.Change{Op: storage.Put, Key: []byte("k"), Value: []byte("v")}}
		if _, err := e.Do(context.Background(), &engine.Tx{Writes: []engine.Write{w}}); err != nil {
			t.Fatal(err)
		}
	}
	m := e.Meters()
	if got := m.Persist.Read(); got.Count != 3 || got.Sum == 0 {
		t.Errorf("after three commits one after the other: %d were timed, %d ns in all", got.Count, got.Sum)
	}
	if got := m.Group.Read(); got.Count != 3 || got.Sum != 3 {
		t.Errorf("groups: %d with %d entries, want 3 with 3", got.Count, got.Sum)
	}
	before := m.Checkpoint.Read().Count
	if err := e.Checkpoint(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := m.Checkpoint.Read().Count; got != before+1 {
		t.Errorf("a checkpoint more: the meter went from %d to %d", before, got)
	}
	s := e.Stats()
	if s.LogLast != 3 || s.Checkpointed != 3 || s.RingEntries == 0 || s.RingBytes == 0 || s.RingLimit < s.RingBytes {
		t.Errorf("stats: %+v", s)
	}
	if err := e.Poisoned(); err != nil {
		t.Errorf("a healthy engine is poisoned: %v", err)
	}
}
