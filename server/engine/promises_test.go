package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

func TestTotalsAndPlaceAreOfOneIndex(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	ks := storage.KeyspaceID{1}
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for w := range 8 {
		writers.Go(func() {
			for i := range fewer(150, 60) {
				enginetest.MustDo(t, e, enginetest.Put(ks, storage.Replicated, fmt.Sprintf("%d-%d", w, i), "x"))
			}
		})
	}
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				totals, at := e.Totals()
				var records uint64
				for _, x := range totals {
					records += x.Count
				}
				if records != at.Index { // every entry puts exactly one new record
					t.Errorf("totals of %d records at index %d", records, at.Index)
					return
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
}

// The first frame of a segment lists the totals of all keyspaces, and a frame's header is bounded.
func TestMoreKeyspacesThanAFrameCanList(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	id := func(n int) storage.KeyspaceID { return storage.KeyspaceID{1, byte(n >> 16), byte(n >> 8), byte(n)} }
	const keyspaces, each = 8_400, 2_800 // a frame lists all of 8,192 at most
	for n := 0; n < keyspaces; n += each {
		var writes []engine.Write
		for i := range each {
			writes = append(writes, enginetest.Put(id(n+i), storage.Replicated, "k", "v"))
		}
		enginetest.MustDo(t, e, writes...)
	}
	e = enginetest.Reopen(t, e)
	enginetest.MustDo(t, e, enginetest.Put(id(7), storage.Replicated, "k", "v2"))
	if totals, err := e.TotalsAt(e.Position().Index); err != nil || len(totals) != keyspaces {
		t.Errorf("totals at the end: got %d, %v, want %d", len(totals), err, keyspaces)
	}
}

// A commit that became durable and yet failed must not be answered by a refusal that clients take for a "no" and repeat.
func TestACommitThatMayBeDurableIsAnsweredAsUnknown(t *testing.T) {
	t.Parallel()
	var armed atomic.Bool
	e := enginetest.New(t, engine.Writer, func(c *engine.Config) {
		c.Seam = func(file string, commit func() error) error {
			err := commit()
			if armed.Load() && strings.HasSuffix(file, ".wal") {
				return errors.New("input/output error")
			}
			return err
		}
	})
	ks := storage.KeyspaceID{1}
	enginetest.MustDo(t, e, enginetest.Put(ks, storage.Replicated, "a", "1"))
	armed.Store(true)
	write := func() error {
		_, err := e.Do(enginetest.Context(t), &engine.Tx{Writes: []engine.Write{enginetest.Put(ks, storage.Replicated, "b", "1")}})
		return err
	}
	if err := write(); !errors.Is(err, engine.ErrOutcomeUnknown) {
		t.Errorf("the commit that failed: got %v, want its outcome unknown", err)
	}
	if err := write(); !errors.Is(err, engine.ErrPoisoned) || errors.Is(err, engine.ErrOutcomeUnknown) {
		t.Errorf("a write after it: got %v, want a refusal", err)
	}
	if err := enginetest.Wait(t, e); err == nil {
		t.Error("the engine went on after a failed commit")
	}
}

// A group that fills the table while a checkpoint runs must not wait for the next interval.
func TestAFullTableIsFlushedWithoutWaitingForTheInterval(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer, func(c *engine.Config) {
		c.CheckpointBytes, c.CheckpointInterval = 64<<10, time.Hour
	})
	big := strings.Repeat("x", 512<<10)
	var writers sync.WaitGroup
	ctx, cancel := context.WithTimeout(enginetest.Context(t), time.Minute)
	defer cancel()
	for w := range 4 {
		writers.Go(func() {
			for i := range 8 {
				tx := &engine.Tx{Writes: []engine.Write{enginetest.Put(storage.KeyspaceID{1}, storage.Replicated, fmt.Sprintf("%d-%d", w, i), big)}}
				if _, err := e.Do(ctx, tx); err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
			}
		})
	}
	writers.Wait()
}
