package engine_test

import (
	"errors"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

func TestAnEpochBeginsWithItsFirstFrame(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	e := enginetest.New(t, engine.Writer)
	ks := storage.KeyspaceID{7}
	enginetest.MustPut(t, e, ks, storage.Replicated, "k", "of the first epoch")
	r, err := e.BeginEpoch(ctx, 6, []engine.Write{enginetest.Put(ks, storage.Replicated, "k", "of the second")})
	if err != nil {
		t.Fatal(err)
	}
	if h := e.History(); len(h) != 2 || r.Ordinal != 7 || r.Start != 2 || r.Parent != h[0].Fork || h[1].Fork != r.Fork || e.Position().Fork != r.Fork {
		t.Errorf("the epoch is %+v, the history %+v, want ordinal 7 from index 2 after the first fork", r, h)
	}
	enginetest.MustPut(t, e, ks, storage.Replicated, "k", "still of the second")
	e = enginetest.Reopen(t, e)
	enginetest.MustPut(t, e, ks, storage.Replicated, "k", "another opening of it")
	h := e.History()
	if len(h) != 3 || h[2].Ordinal != 7 || h[2].Fork == h[1].Fork {
		t.Errorf("after a restart the history is %+v, want another fork under ordinal 7", h)
	}
	if _, err := enginetest.New(t, engine.Verbatim).BeginEpoch(ctx, 0, nil); !errors.Is(err, engine.ErrNotWritable) {
		t.Errorf("on a copied log: got %v, want ErrNotWritable", err)
	}
}

func TestACursorThatIsSetIsDurable(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	at := wal.Position{Fork: wal.Fork{1}, Index: 42}
	if err := e.SetCursor(enginetest.Context(t), engine.Performance, at); err != nil {
		t.Fatal(err)
	}
	if e = enginetest.Reopen(t, e); e.Cursor(engine.Performance) != at {
		t.Errorf("got %v after a restart, want %v", e.Cursor(engine.Performance), at)
	}
}
