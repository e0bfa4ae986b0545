package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// frames returns the frames of an engine's log from an index on.
func frames(t *testing.T, e *engine.Engine, from uint64) []*wal.Frame {
	t.Helper()
	var out []*wal.Frame
	r := e.LogReader(from)
	for {
		f, err := r.TryNext()
		if err != nil {
			t.Fatalf("reading the log from %d: %v", from, err)
		}
		if f == nil {
			return out
		}
		out = append(out, f)
	}
}

func replicated(_ storage.KeyspaceID, s storage.Scope) bool { return s == storage.Replicated }

// cut makes one batch of frames, as a feeder does for a performance secondary.
func cut(t *testing.T, fs []*wal.Frame) *engine.CutBatch {
	t.Helper()
	b := &engine.CutBatch{Subscription: engine.Performance}
	totals := map[storage.KeyspaceID]storage.KeyspaceTotal{}
	for _, f := range fs {
		for i, bytes := range f.Entries {
			c, any, err := storage.CutEntry(bytes, replicated)
			if err != nil {
				t.Fatalf("cutting entry %d: %v", f.First+uint64(i), err)
			}
			if any {
				b.Entries = append(b.Entries, engine.CutEntry{At: wal.Position{Fork: f.Fork, Index: f.First + uint64(i)}, Bytes: c})
			}
		}
		list, err := storage.DecodeTotals(f.Totals)
		if err != nil {
			t.Fatalf("totals of frame %d: %v", f.First, err)
		}
		for _, k := range list {
			if k.Scope == storage.Replicated {
				totals[k.ID] = k
			}
		}
		b.End = f.Position()
	}
	for _, k := range totals {
		b.Totals = append(b.Totals, k)
	}
	return b
}

// root returns the root of what an engine holds in a scope; scope 0 is all.
func root(e *engine.Engine, scope storage.Scope) merkle.RootHash {
	totals, _ := e.Totals()
	return rootOf(totals, scope)
}

func rootOf(totals []storage.KeyspaceTotal, scope storage.Scope) merkle.RootHash {
	var parts []merkle.Part
	for _, k := range totals {
		if scope == 0 || k.Scope == scope {
			parts = append(parts, merkle.Part{ID: k.ID, Total: k.Total})
		}
	}
	return merkle.Root(parts)
}

// randomWrites commits random transactions, deletes and drops among them.
func randomWrites(t *testing.T, e *engine.Engine, rng *rand.Rand, n int) {
	t.Helper()
	for range n {
		var writes []engine.Write
		for range 1 + rng.IntN(4) {
			ks, scope := shared, storage.Replicated
			switch rng.IntN(4) {
			case 0:
				ks = other
			case 1:
				ks, scope = local, storage.Local
			}
			key := fmt.Sprintf("key%03d", rng.IntN(200))
			if rng.IntN(4) == 0 {
				writes = append(writes, enginetest.Delete(ks, scope, key))
			} else {
				writes = append(writes, enginetest.Put(ks, scope, key, fmt.Sprintf("%x", rng.Uint64())))
			}
		}
		enginetest.MustDo(t, e, writes...)
	}
	if rng.IntN(2) == 0 {
		ks := storage.KeyspaceID{0: 1}
		for i := range ks[1:] {
			ks[1+i] = byte(rng.Uint32())
		}
		enginetest.MustDo(t, e, enginetest.Put(ks, storage.Replicated, "a", "b"))
		enginetest.MustDo(t, e, enginetest.Drop(ks, storage.Replicated))
	}
}

func TestVerbatimTwinHasTheSameLogBytesAndRootsAtEveryFrame(t *testing.T) {
	t.Parallel()
	p := enginetest.New(t, engine.Writer, small)
	d := enginetest.NewOf(t, enginetest.Secondary(p, engine.Verbatim), engine.Verbatim, small)
	p.Hold("d", 1)
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 6 {
		randomWrites(t, p, rng, 60)
		fs := frames(t, p, d.Position().Index+1)
		for len(fs) > 0 {
			n := 1 + rng.IntN(len(fs))
			if err := d.IngestFrames(enginetest.Context(t), fs[:n]); err != nil {
				t.Fatalf("round %d: taking frames: %v", round, err)
			}
			want, err := p.TotalsAt(fs[n-1].Last())
			if err != nil {
				t.Fatalf("totals of the primary at %d: %v", fs[n-1].Last(), err)
			}
			if got := root(d, 0); got != rootOf(want, 0) {
				t.Fatalf("root at %d: got %x, want %x", fs[n-1].Last(), got, rootOf(want, 0))
			}
			fs = fs[n:]
		}
		if p.Position() != d.Position() || p.Chain() != d.Chain() {
			t.Fatalf("place: got %v, want %v", d.Position(), p.Position())
		}
		if round%2 == 1 {
			d = enginetest.Reopen(t, d)
		}
		if round == 3 {
			p = enginetest.Reopen(t, p)
			p.Hold("d", 1)
		}
	}
	if got, want := enginetest.Content(t, d), enginetest.Content(t, p); !reflect.DeepEqual(got, want) {
		t.Errorf("content differs:\ngot  %v\nwant %v", got, want)
	}
	from := max(p.FirstIndex(), d.FirstIndex())
	pf, df := frames(t, p, from), frames(t, d, from)
	if len(pf) != len(df) {
		t.Fatalf("frames from %d on: got %d, want %d", from, len(df), len(pf))
	}
	for i := range pf {
		if !bytes.Equal(pf[i].EncodeHeader(), df[i].EncodeHeader()) || !reflect.DeepEqual(pf[i].Entries, df[i].Entries) {
			t.Errorf("frame %d differs", pf[i].First)
		}
	}
	if err := d.IngestFrames(enginetest.Context(t), pf); err != nil {
		t.Errorf("frames that are held already: got %v, want nil", err)
	}
	if _, err := d.Do(enginetest.Context(t), &engine.Tx{Writes: []engine.Write{put("a", "b")}}); !errors.Is(err, engine.ErrNotWritable) {
		t.Errorf("a client's write: got %v, want ErrNotWritable", err)
	}
}

func TestPerformanceTwinHasTheSameSharedRootAndItsOwnLocalRecords(t *testing.T) {
	t.Parallel()
	p := enginetest.New(t, engine.Writer, small)
	s := enginetest.NewOf(t, enginetest.Secondary(p, engine.Writer), engine.Writer, small)
	p.Hold("s", 1)
	mine := storage.KeyspaceID{0: 200}
	rng := rand.New(rand.NewPCG(3, 4))
	written := map[string]string{}
	for round := range 8 {
		randomWrites(t, p, rng, 40)
		k, v := fmt.Sprint(round), fmt.Sprint(rng.Uint32())
		enginetest.MustPut(t, s, mine, storage.Local, k, v)
		written[k] = v
		fs := frames(t, p, s.Cursor(engine.Performance).Index+1)
		for len(fs) > 0 {
			n := 1 + rng.IntN(len(fs))
			b := cut(t, fs[:n])
			if err := s.IngestCut(enginetest.Context(t), b); err != nil {
				t.Fatalf("round %d: taking a batch: %v", round, err)
			}
			if got := s.Cursor(engine.Performance); got != b.End {
				t.Fatalf("cursor: got %v, want %v", got, b.End)
			}
			want, err := p.TotalsAt(b.End.Index)
			if err != nil {
				t.Fatal(err)
			}
			if got := root(s, storage.Replicated); got != rootOf(want, storage.Replicated) {
				t.Fatalf("shared root at %d: got %x, want %x", b.End.Index, got, rootOf(want, storage.Replicated))
			}
			if rng.IntN(3) == 0 {
				at := s.Position()
				if err := s.IngestCut(enginetest.Context(t), b); err != nil || s.Position() != at {
					t.Fatalf("a batch that was taken already: got %v and %v, want nothing", err, s.Position())
				}
			}
			fs = fs[n:]
		}
		if round%3 == 1 {
			s = enginetest.Reopen(t, s)
		}
	}
	if got := enginetest.Content(t, s)[mine]; !maps.Equal(got, written) {
		t.Errorf("local records: got %v, want %v", got, written)
	}
	if _, ok := enginetest.Content(t, s)[local]; ok {
		t.Error("the feeder's local keyspace is here")
	}
}

func TestCursorMovesWithoutAnEntryAndSurvivesACleanStop(t *testing.T) {
	t.Parallel()
	s := enginetest.New(t, engine.Writer)
	end := wal.Position{Fork: wal.Fork{1}, Index: 77}
	waited := make(chan error, 1)
	go func() { waited <- s.Passed(context.Background(), engine.Performance, 77) }()
	if err := s.IngestCut(enginetest.Context(t), &engine.CutBatch{Subscription: engine.Performance, End: end}); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Errorf("waiting for the cursor: %v", err)
	}
	if got := s.Position().Index; got != 0 {
		t.Errorf("index: got %d, want 0: a cursor alone is no entry", got)
	}
	s = enginetest.Reopen(t, s)
	if got := s.Cursor(engine.Performance); got != end {
		t.Errorf("cursor after reopening: got %v, want %v", got, end)
	}
}

func TestWrongBatchIsRefusedBeforeTheCommitAndLeavesNoTrace(t *testing.T) {
	t.Parallel()
	p := enginetest.New(t, engine.Writer)
	d := enginetest.NewOf(t, enginetest.Secondary(p, engine.Verbatim), engine.Verbatim)
	s := enginetest.NewOf(t, enginetest.Secondary(p, engine.Writer), engine.Writer)
	enginetest.MustDo(t, p, put("a", "1"))
	fs := frames(t, p, 1)
	good := cut(t, fs)

	bad := *good
	bad.Totals = append([]storage.KeyspaceTotal(nil), good.Totals...)
	bad.Totals[0].Count++
	var diverged *engine.Diverged
	if err := s.IngestCut(enginetest.Context(t), &bad); !errors.As(err, &diverged) || diverged.Keyspace != shared {
		t.Errorf("a batch with other totals: got %v, want *Diverged of %s", err, shared)
	}
	wrong := *fs[0]
	wrong.Totals = storage.EncodeTotals(bad.Totals)
	wrong.Seal(wrong.Prev)
	if err := d.IngestFrames(enginetest.Context(t), []*wal.Frame{&wrong}); !errors.As(err, &diverged) {
		t.Errorf("a frame with other totals: got %v, want *Diverged", err)
	}
	unnamed := *good
	unnamed.Totals = nil
	if err := s.IngestCut(enginetest.Context(t), &unnamed); !errors.As(err, &diverged) {
		t.Errorf("a batch whose totals leave out what it touches: got %v, want *Diverged", err)
	}
	for name, e := range map[string]*engine.Engine{"performance": s, "dr": d} {
		if got := enginetest.Content(t, e); len(got) != 0 || e.Position().Index != 0 {
			t.Errorf("%s: after refusals: got %v at %v, want nothing", name, got, e.Position())
		}
	}
	if err := s.IngestCut(enginetest.Context(t), good); err != nil {
		t.Errorf("the right batch afterwards: %v", err)
	}
	if err := d.IngestFrames(enginetest.Context(t), fs); err != nil {
		t.Errorf("the right frame afterwards: %v", err)
	}
}

func TestHostileBatchesAreRefused(t *testing.T) {
	t.Parallel()
	s := enginetest.New(t, engine.Writer)
	enginetest.MustPut(t, s, local, storage.Local, "mine", "1")
	encode := func(e *storage.Entry) []byte { e.Version = 1; e.Index = 1; return storage.EncodeEntry(nil, e) }
	block := func(ks storage.KeyspaceID, scope storage.Scope, op storage.Op) []storage.Block {
		c := storage.Change{Op: op}
		if op == storage.Put {
			c.Key, c.Value = []byte("k"), []byte("v")
		}
		return []storage.Block{{Keyspace: ks, Scope: scope, Changes: []storage.Change{c}}}
	}
	for name, b := range map[string][]byte{
		"local scope":                         encode(&storage.Entry{Blocks: block(shared, storage.Local, storage.Put)}),
		"our local keyspace, said to be ours": encode(&storage.Entry{Blocks: block(local, storage.Replicated, storage.Put)}),
		"drop of our local keyspace":          encode(&storage.Entry{Blocks: block(local, storage.Replicated, storage.Drop)}),
		"housekeeping":                        encode(&storage.Entry{Housekeeping: true, Blocks: block(shared, storage.Replicated, storage.Put)}),
		"garbage":                             []byte("garbage"),
		"nothing":                             nil,
	} {
		t.Run(name, func(t *testing.T) {
			at := wal.Position{Fork: wal.Fork{1}, Index: 1}
			err := s.IngestCut(enginetest.Context(t), &engine.CutBatch{
				Subscription: engine.Performance, Entries: []engine.CutEntry{{At: at, Bytes: b}}, End: at,
			})
			if err == nil {
				t.Error("it was taken")
			}
		})
	}
	if got := s.Position().Index; got != 1 {
		t.Errorf("index: got %d, want 1", got)
	}
}

func TestFramesOutOfPlaceAreRefused(t *testing.T) {
	t.Parallel()
	p := enginetest.New(t, engine.Writer)
	d := enginetest.NewOf(t, enginetest.Secondary(p, engine.Verbatim), engine.Verbatim)
	for i := range 4 {
		enginetest.MustDo(t, p, put("a", fmt.Sprint(i)))
	}
	fs := frames(t, p, 1)
	foreign := *fs[0]
	foreign.Lineage[0]++
	foreign.Seal(foreign.Prev)
	broken := *fs[0]
	broken.Entries = [][]byte{[]byte("garbage")}
	for name, list := range map[string][]*wal.Frame{
		"a gap":               fs[1:],
		"another lineage":     {&foreign},
		"changed after seal":  {&broken},
		"a gap in the middle": {fs[0], fs[2]},
	} {
		if err := d.IngestFrames(enginetest.Context(t), list); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	if got := d.Position().Index; got != 0 {
		t.Errorf("index: got %d, want 0", got)
	}
}
