package engine_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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
	if err := e.SetCursor(enginetest.Context(t), at); err != nil {
		t.Fatal(err)
	}
	if e = enginetest.Reopen(t, e); e.Cursor(engine.Performance) != at {
		t.Errorf("got %v after a restart, want %v", e.Cursor(engine.Performance), at)
	}
}

// TestASyncIsAbandonedAfterItsLastStep lets the context of EndSync end while the entry that ends the sync is being committed, as the end of a
// secondary's life does, and abandons the sync at once: it has ended, or it is abandoned, never something between.
func TestASyncIsAbandonedAfterItsLastStep(t *testing.T) {
	t.Parallel()
	ctx := enginetest.Context(t)
	p := fill(t, rand.New(rand.NewPCG(13, 14)))
	v := p.Finished()
	from, chain := v.Position(), v.Chain()
	v.Release()
	enginetest.MustDo(t, p, put("zzz", "spooled"))

	ending, life := context.WithCancel(ctx)
	var armed atomic.Bool
	ended, returned := make(chan error, 1), make(chan struct{})
	e := enginetest.NewOf(t, enginetest.Secondary(p, engine.Writer), engine.Writer, small, func(c *engine.Config) {
		c.Seam = func(file string, commit func() error) error {
			if strings.HasSuffix(file, ".wal") && armed.CompareAndSwap(true, false) {
				life()
				select {
				case <-returned:
				case <-time.After(100 * time.Millisecond): // it waits, as it shall
				}
			}
			return commit()
		}
	})
	if _, err := e.BeginSync(ctx, engine.Performance, from, chain, p.Identity().Lineage); err != nil {
		t.Fatal(err)
	}
	s := &syncing{t: t, feeder: p, e: e}
	if err := s.ranges(ctx, e.SyncState()); err != nil {
		t.Fatal(err)
	}
	go func() {
		err := e.EndSync(ending, func(done, total uint64) { armed.Store(done == total) })
		ended <- err
		close(returned)
	}()
	if err := <-ended; err != nil {
		t.Errorf("the sync whose end was under way: %v, want it to be waited for", err)
	}
	if err := e.AbandonSync(ctx); err != nil {
		t.Errorf("abandoning it: %v", err)
	}
	if st := e.SyncState(); st != nil {
		t.Errorf("a sync is under way: %+v", st)
	}
	s.mustEqual()
}
