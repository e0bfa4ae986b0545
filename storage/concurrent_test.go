package storage_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// TestReadersSeeWholeMomentsWhileEntriesAreAppliedAndCheckpointed writes the entry's number into
// every record of each entry: a reader that sees two numbers in one view sees no single moment.
func TestReadersSeeWholeMomentsWhileEntriesAreAppliedAndCheckpointed(t *testing.T) {
	s := open(t, storage.Options{ChunkRecords: 64})
	const keys, rounds = 150, 150
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	fail := func(format string, args ...any) {
		cancel()
		t.Errorf(format, args...)
	}
	key := func(i int) []byte { return fmt.Appendf(nil, "dir%d/key%d", i%5, i) }
	wg.Go(func() { // applies
		defer cancel()
		w := newTwin()
		for n := 1; n <= rounds && ctx.Err() == nil; n++ {
			e := &storage.Entry{Index: uint64(n), Blocks: []storage.Block{{Keyspace: ksID(1), Scope: storage.Replicated}}}
			for i := range keys {
				e.Blocks[0].Changes = append(e.Blocks[0].Changes, storage.Change{Op: storage.Put, Key: key(i), Value: binary.BigEndian.AppendUint64(nil, uint64(n))})
			}
			applyOne(s, w, e)
		}
	})
	wg.Go(func() { // checkpoints
		for ctx.Err() == nil {
			if err := s.Checkpoint(ctx); err != nil && !errors.Is(err, context.Canceled) {
				fail("checkpoint: %v", err)
			}
		}
	})
	oneMoment := func(what string, v *storage.View) {
		n, seen := 0, v.Position().Index
		err := v.Scan(ksID(1), nil, nil, func(r storage.Record) bool {
			n++
			if got := binary.BigEndian.Uint64(r.Value); got != seen || r.Index != seen {
				fail("%s at index %d shows a record of index %d", what, seen, got)
				return false
			}
			return true
		})
		if err != nil || seen > 0 && n != keys && ctx.Err() == nil {
			fail("%s at index %d: got %d records, %v", what, seen, n, err)
		}
		if _, _, err := v.List(ksID(1), "", "", 0); err != nil {
			fail("%s: %v", what, err)
		}
	}
	wg.Go(func() { // snapshots
		for ctx.Err() == nil {
			v := s.Snapshot()
			oneMoment("snapshot", v)
			v.Release()
		}
	})
	wg.Go(func() { // finished checkpoints, their leaves against their records
		for ctx.Err() == nil {
			v := s.Finished()
			oneMoment("finished view", v)
			parts, err := v.Split(ksID(1), nil, nil, 64)
			if err != nil {
				fail("split: %v", err)
			}
			var sum uint64
			for _, p := range parts {
				sum += p.Count
			}
			if v.Position().Index > 0 && sum != keys {
				fail("parts of a finished view hold %d records, want %d", sum, keys)
			}
			v.Release()
			if r, err := s.Check(ctx, nil); err != nil && !errors.Is(err, context.Canceled) || len(r.Damage) > 0 {
				fail("check: got %v, %v", r.Damage, err)
			}
		}
	})
	for g := range 2 { // single records never go back
		wg.Go(func() {
			var newest [keys]uint64
			for i := g; ctx.Err() == nil; i = (i + 7) % keys {
				r, err := s.Get(ksID(1), key(i))
				if errors.Is(err, storage.ErrNotFound) && newest[i] == 0 {
					continue
				}
				if err != nil || r.Index < newest[i] {
					fail("get: got index %d, %v after %d", r.Index, err, newest[i])
				}
				newest[i] = r.Index
				if o, err := s.Old(ksID(1), key(i)); err != nil || o.Index < newest[i] {
					fail("old: got index %d, %v after %d", o.Index, err, newest[i])
				}
			}
		})
	}
	wg.Wait()
	if got := s.Applied(); got != rounds {
		t.Errorf("applied: got %d, want %d", got, rounds)
	}
}

func TestACheckpointThatIsCancelledIsFinishedByTheNext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	commits := 0
	s := open(t, storage.Options{ChunkRecords: 10, Seam: func(_ string, commit func() error) error {
		if commits++; commits == 3 {
			cancel()
		}
		return commit()
	}})
	w := newWriter(8)
	apply(s, w.frame(30))
	if err := s.Checkpoint(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want %v", err, context.Canceled)
	}
	compare(t, s, w.twin, nil)
	apply(s, w.frame(30))
	compare(t, s, w.twin, nil)
	checkpoint(t, s)
	compare(t, s, w.twin, nil)
	checkWhole(t, s, w.twin)
	if m := s.Mark(); m.Applied.Index != w.twin.index || m.ConsistentAt != 0 {
		t.Errorf("mark: %+v", m)
	}
}

func TestACheckpointOfNothingWritesNothing(t *testing.T) {
	commits := 0
	s := open(t, storage.Options{Seam: func(_ string, commit func() error) error { commits++; return commit() }})
	checkpoint(t, s)
	w := newWriter(1)
	apply(s, w.frame(1))
	checkpoint(t, s)
	checkpoint(t, s)
	if commits != 1 {
		t.Errorf("got %d commits, want 1", commits)
	}
	s.SetCursor("index-1", wal.Position{Index: 1})
	s.SetCursor("index-1", wal.Position{Index: 1})
	checkpoint(t, s)
	checkpoint(t, s)
	if commits != 2 {
		t.Errorf("got %d commits, want a second for the cursor", commits)
	}
}

func TestTableBytesGrowWithWhatIsAppliedAndGoWithACheckpoint(t *testing.T) {
	s := open(t, storage.Options{})
	w := newTwin()
	put := func(i uint64) {
		applyOne(s, w, &storage.Entry{Index: i, Blocks: []storage.Block{{Keyspace: ksID(1), Scope: storage.Local, Changes: []storage.Change{
			{Op: storage.Put, Key: []byte("k"), Value: make([]byte, 99)},
		}}}})
	}
	put(1)
	put(2) // an overwritten value holds its frame's memory, so it counts
	if got, busy := s.TableBytes(); got != 200 || busy {
		t.Errorf("got %d, %v, want 200, false", got, busy)
	}
	gen := s.Gen()
	checkpoint(t, s)
	if got, busy := s.TableBytes(); got != 0 || busy {
		t.Errorf("after a checkpoint: got %d, %v, want 0, false", got, busy)
	}
	if s.Gen() == gen {
		t.Error("the file changed and its generation did not")
	}
}

func TestAClosedStateAnswersWithAnError(t *testing.T) {
	s := open(t, storage.Options{})
	v := s.Snapshot()
	if _, err := v.RangeTotal(ksID(1), nil, nil); err == nil {
		t.Error("a snapshot answered for ranges, which only a finished view knows")
	}
	v.Release()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	closed := s.Finished()
	defer closed.Release()
	_, get := s.Get(ksID(1), []byte("k"))
	_, old := s.Old(ksID(1), []byte("k"))
	_, view := closed.Get(ksID(1), []byte("k"))
	_, _, list := s.Snapshot().List(ksID(1), "", "", 0)
	for name, err := range map[string]error{"Get": get, "Old": old, "View.Get": view, "List": list, "Checkpoint": s.Checkpoint(context.Background())} {
		if !errors.Is(err, storage.ErrClosed) {
			t.Errorf("%s: got %v, want %v", name, err, storage.ErrClosed)
		}
	}
	if _, ok := s.OldInMemory(ksID(1), []byte("k")); ok {
		t.Error("a closed state knows a key")
	}
}

func TestAVeryLargeValueComesBack(t *testing.T) {
	path := statePath(t)
	s := open(t, storage.Options{Path: path})
	w := newTwin()
	large := bytes.Repeat([]byte("0123456789abcdef"), storage.MaxValue/16)
	long := bytes.Repeat([]byte("k"), storage.MaxKey)
	applyOne(s, w, &storage.Entry{Index: 1, Blocks: []storage.Block{{Keyspace: ksID(1), Scope: storage.Local, Changes: []storage.Change{
		{Op: storage.Put, Key: []byte("large"), Value: large}, {Op: storage.Put, Key: long, Value: []byte{}},
	}}}})
	checkpoint(t, s)
	compare(t, s, w, nil)
	checkWhole(t, s, w)
}
