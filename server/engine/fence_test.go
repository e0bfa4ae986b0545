package engine_test

import (
	"errors"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

func TestAFenceRefusesTransactionsByScope(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	e := enginetest.New(t, engine.Writer)
	replicated, local := storage.KeyspaceID{1}, storage.KeyspaceID{2}
	put := func(ks storage.KeyspaceID, scope storage.Scope) error {
		_, err := e.Do(ctx, &engine.Tx{Exec: func(engine.Reader) ([]engine.Write, error) {
			return []engine.Write{enginetest.Put(ks, scope, "k", "v")}, nil
		}})
		return err
	}
	nothing := func(ks storage.KeyspaceID) error { // as a delete of what is not there
		_, err := e.Do(ctx, &engine.Tx{Reads: []engine.Key{{Keyspace: ks, Key: []byte("none")}}, Exec: func(engine.Reader) ([]engine.Write, error) { return nil, nil }})
		return err
	}
	for _, tt := range []struct {
		name                    string
		fence                   *engine.Fence
		shared, own, unwritable bool // refused
	}{
		{"none", nil, false, false, false},
		{"of what is shared", &engine.Fence{Shared: true, Reason: "a newer primary shares it"}, true, false, true},
		{"of everything", &engine.Fence{Reason: "a newer primary has the log"}, true, true, true},
		{"lifted again", nil, false, false, false},
	} {
		e.SetFence(tt.fence)
		for name, got := range map[string]struct {
			err  error
			want bool
		}{
			"replicated scope": {put(replicated, storage.Replicated), tt.shared},
			"local scope":      {put(local, storage.Local), tt.own},
			"nothing to write in the replicated scope": {nothing(replicated), tt.shared},
			"nothing to write in the local scope":      {nothing(local), tt.own},
			"Writable":                                 {e.Writable(), tt.unwritable},
		} {
			if errors.Is(got.err, engine.ErrFenced) != got.want || got.err != nil && got.err.Error() != tt.fence.Reason {
				t.Errorf("%s, %s: got %v, want refused %v", tt.name, name, got.err, got.want)
			}
		}
	}
}

func TestAnEpochPassesAFenceAndKeepsWhatItOverrides(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	ks := storage.KeyspaceID{7}
	enginetest.MustPut(t, e, ks, storage.Replicated, "k", "before")
	e.SetFence(&engine.Fence{Reason: "another was promoted"})
	lost := wal.Fork{9, 9}
	r, err := e.BeginEpoch(enginetest.Context(t), 4, []engine.Write{enginetest.Put(ks, storage.Replicated, "k", "after")}, lost)
	if err != nil {
		t.Fatal(err)
	}
	if r.Ordinal != 5 || len(r.Overrides) != 1 || r.Overrides[0] != lost {
		t.Errorf("the epoch is %+v, want ordinal 5 that overrides %v", r, lost)
	}
	e = enginetest.Reopen(t, e)
	if h := e.History(); len(h[len(h)-1].Overrides) != 1 {
		t.Errorf("after a restart the history is %+v: it does not say what it overrides", h)
	}
	enginetest.MustPut(t, e, ks, storage.Replicated, "k", "another opening")
	if h := e.History(); len(h[len(h)-1].Overrides) != 0 || h[len(h)-1].Ordinal != 5 {
		t.Errorf("a new fork of the same epoch is %+v, want ordinal 5 that overrides nothing of its own", h[len(h)-1])
	}
}
