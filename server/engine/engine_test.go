package engine_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// TestTransactionsBehaveLikeASlowTwin lets many workers run random transactions. The twin is a map that Exec itself changes: whatever
// order the sequencer chose, each read must be what the twin holds, and so must all that is there at the end.
func TestTransactionsBehaveLikeASlowTwin(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer, small)
	twin := map[string]string{} // only Exec touches it: one at a time
	ctx := enginetest.Context(t)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 17))
			for range 120 {
				tx := twinTx(t, rng, twin)
				c, err := e.Do(ctx, tx)
				if err != nil && !errors.Is(err, errRefused) {
					t.Errorf("transaction: %v", err)
					return
				}
				if err == nil && c.Position.Index > e.Position().Index {
					t.Errorf("answered at %d before it is durable: %d", c.Position.Index, e.Position().Index)
				}
			}
		})
	}
	wg.Wait()
	got := enginetest.Content(t, e)[shared]
	if !maps.Equal(got, twin) {
		t.Errorf("content: got %d records, want %d, or others", len(got), len(twin))
	}
	e = enginetest.Reopen(t, e)
	if got := enginetest.Content(t, e)[shared]; !maps.Equal(got, twin) {
		t.Errorf("content after reopening: got %d records, want %d, or others", len(got), len(twin))
	}
}

var errRefused = errors.New("refused")

// twinTx is a random transaction: it reads some keys, and then refuses, does nothing, or writes.
func twinTx(t *testing.T, rng *rand.Rand, twin map[string]string) *engine.Tx {
	var keys []string
	tx := &engine.Tx{}
	for range 1 + rng.IntN(3) {
		k := fmt.Sprintf("k%02d", rng.IntN(40))
		keys = append(keys, k)
		if rng.IntN(2) == 0 {
			tx.Reads = append(tx.Reads, engine.Key{Keyspace: shared, Key: []byte(k)})
		}
	}
	what, seed := rng.IntN(10), rng.Uint32()
	tx.Exec = func(r engine.Reader) ([]engine.Write, error) {
		for _, k := range keys {
			rec, err := r.Get(shared, []byte(k))
			want, ok := twin[k]
			if ok != (err == nil) || string(rec.Value) != want {
				t.Errorf("reading %s: got %q, %v, want %q, %v", k, rec.Value, err, want, ok)
			}
		}
		if what == 0 {
			return nil, errRefused
		}
		if what == 1 {
			return nil, nil
		}
		var writes []engine.Write
		for i, k := range keys {
			if (int(seed)+i)%3 == 0 {
				writes = append(writes, enginetest.Delete(shared, storage.Replicated, k))
				delete(twin, k)
				continue
			}
			v := fmt.Sprintf("%d-%d", seed, i)
			writes = append(writes, put(k, v))
			twin[k] = v
		}
		return writes, nil
	}
	return tx
}

func TestRetentionKeepsWhatSecondariesNeedWithinTheLimits(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var clock sync.Mutex
	at := func() time.Time { clock.Lock(); defer clock.Unlock(); return now }
	e := enginetest.New(t, engine.Writer, small, func(c *engine.Config) {
		c.SegmentBytes, c.RetainBytes, c.RetainAge, c.Now = 4<<10, 32<<10, time.Hour, at
	})
	ctx := enginetest.Context(t)
	grow := func(n int) {
		for i := range n {
			enginetest.MustDo(t, e, put(fmt.Sprintf("k%d", i%10), strings.Repeat("x", 500)))
		}
		if err := e.Checkpoint(ctx); err != nil {
			t.Fatal(err)
		}
	}
	grow(40)
	if got := e.LogBytes(e.FirstIndex()); got > 8<<10 {
		t.Errorf("log without secondaries: got %d bytes, want a segment at most", got)
	}
	from := e.Position().Index + 1
	e.Hold("s", from)
	grow(20)
	if e.FirstIndex() > from {
		t.Errorf("first index: got %d, want %d to be held", e.FirstIndex(), from)
	}
	if got := e.Headroom(from); got <= 0 || got > time.Hour {
		t.Errorf("headroom: got %v, want up to an hour", got)
	}
	grow(200)
	if e.FirstIndex() <= from {
		t.Error("the log is held beyond RetainBytes")
	}
	if got := e.LogBytes(e.FirstIndex()); got > 48<<10 || got < 16<<10 {
		t.Errorf("log at the limit: got %d bytes, want about 32 KiB", got)
	}
	if _, err := e.TotalsAt(from); !errors.Is(err, wal.ErrGone) {
		t.Errorf("totals below retention: got %v, want ErrGone", err)
	}
	first := frames(t, e, e.FirstIndex())[0]
	if _, err := e.TotalsAt(first.Last()); err != nil {
		t.Errorf("totals of the first frame held: %v", err)
	}
	if got, err := e.ChainAt(first.Last()); err != nil || got != first.Chain {
		t.Errorf("chain of the first frame held: got %x, %v, want %x", got, err, first.Chain)
	}
	if list, _ := storage.DecodeTotals(first.Totals); len(list) != 1 {
		t.Errorf("a segment's first frame: got %d totals, want all", len(list))
	}
	clock.Lock()
	now = now.Add(2 * time.Hour)
	clock.Unlock()
	grow(3)
	if got := e.LogBytes(e.FirstIndex()); got > 12<<10 {
		t.Errorf("log older than RetainAge: got %d bytes, want a segment or two", got)
	}
	e.Hold("s", 0)
}

func TestWritesAreRefusedWhileTheDiskIsTooFullAndResumeByThemselves(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer, func(c *engine.Config) { c.MinFree = 1 << 20 })
	if st, err := os.Stat(filepath.Join(enginetest.Dir(t, e), "reserve")); err != nil || st.Size() != 64<<20 {
		t.Errorf("reserve: got %v, %v, want 64 MiB", st, err)
	}
	enginetest.MustDo(t, e, put("a", "1"))
	e.SetMinFree(1 << 60)
	_, err := e.Do(enginetest.Context(t), &engine.Tx{Writes: []engine.Write{put("a", "2")}})
	if !errors.Is(err, engine.ErrDiskFull) || !strings.Contains(err.Error(), "MiB") {
		t.Errorf("got %v, want ErrDiskFull with figures", err)
	}
	if err := e.Writable(); !errors.Is(err, engine.ErrDiskFull) {
		t.Errorf("Writable: got %v, want ErrDiskFull", err)
	}
	if got := mustGet(t, e, shared, "a"); got != "1" {
		t.Errorf("reading meanwhile: got %q, want %q", got, "1")
	}
	e.SetMinFree(1 << 20)
	enginetest.MustDo(t, e, put("a", "3"))
}

func TestNodeScopeRecordsStayHere(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	if err := e.NodeSet(map[string][]byte{"a/1": []byte("x"), "a/2": []byte("y"), "b": {}}); err != nil {
		t.Fatal(err)
	}
	if err := e.NodeSet(map[string][]byte{"a/1": nil}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := e.NodeList("a/"); len(got) != 1 || string(got["a/2"]) != "y" {
			t.Errorf("list: got %v, want a/2", got)
		}
		if got := e.NodeGet("a/1"); got != nil {
			t.Errorf("deleted: got %q, want nil", got)
		}
		if got := e.NodeGet("b"); got == nil {
			t.Error("an empty record: got none")
		}
		if got := e.Position().Index; got != 0 {
			t.Errorf("index: got %d, want 0", got)
		}
		e = enginetest.Reopen(t, e)
	}
}

func TestPlacesSurviveReopening(t *testing.T) {
	t.Parallel()
	p := enginetest.New(t, engine.Writer, small)
	d := enginetest.NewOf(t, enginetest.Secondary(p, engine.Verbatim), engine.Verbatim, small)
	rng := rand.New(rand.NewPCG(19, 20))
	p.Hold("d", 1)
	randomWrites(t, p, rng, 100)
	if err := d.IngestFrames(enginetest.Context(t), frames(t, p, 1)); err != nil {
		t.Fatal(err)
	}
	if err := d.AdoptHistory(p.History()); err != nil {
		t.Fatal(err)
	}
	at, chain, content := d.Position(), d.Chain(), enginetest.Content(t, d)
	d = enginetest.Reopen(t, d)
	if d.Position() != at || d.Chain() != chain || !reflect.DeepEqual(enginetest.Content(t, d), content) {
		t.Errorf("after reopening: got %v, want %v", d.Position(), at)
	}
	if !reflect.DeepEqual(d.History(), p.History()) {
		t.Errorf("history: got %v, want %v", d.History(), p.History())
	}
	for _, f := range frames(t, d, d.FirstIndex()) {
		got, err := d.TotalsAt(f.Last())
		if err != nil {
			t.Fatalf("totals of the secondary at %d: %v", f.Last(), err)
		}
		want, err := p.TotalsAt(f.Last())
		if err != nil {
			t.Fatalf("totals of the primary at %d: %v", f.Last(), err)
		}
		if rootOf(got, 0) != rootOf(want, 0) {
			t.Errorf("root at %d: got %x, want %x", f.Last(), rootOf(got, 0), rootOf(want, 0))
		}
	}
}

func TestDrSecondaryOfAPerformanceSecondaryFollowsASyncByStreaming(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(21, 22))
	p := fill(t, rng)
	s := enginetest.NewOf(t, enginetest.Secondary(p, engine.Writer), engine.Writer, small)
	s.Hold("d", 1)
	d := enginetest.NewOf(t, enginetest.Secondary(s, engine.Verbatim), engine.Verbatim, small)
	ctx := enginetest.Context(t)
	catchUp := func() {
		if err := d.IngestFrames(ctx, frames(t, s, d.Position().Index+1)); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(d.SyncState(), s.SyncState()) {
			t.Errorf("sync: got %+v, want %+v", d.SyncState(), s.SyncState())
		}
		if got, most := d.Cursor(engine.Performance), s.Cursor(engine.Performance); got.Index > most.Index {
			t.Errorf("cursor: got %v, want %v at most: what moved it without an entry does not stream", got, most)
		}
		if root(d, 0) != root(s, 0) {
			t.Errorf("root: got %x, want %x", root(d, 0), root(s, 0))
		}
	}
	drive := &syncing{t: t, feeder: p, e: s, meddle: catchUp}
	if err := drive.run(); err != nil {
		t.Fatal(err)
	}
	catchUp()
	d = enginetest.Reopen(t, d)
	catchUp()
}

func TestSystemVersionChangesWithTheSystemOnly(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	enginetest.MustDo(t, e, put("a", "1"))
	before := e.SystemVersion()
	enginetest.MustDo(t, e, put("a", "2"))
	if got := e.SystemVersion(); got != before {
		t.Errorf("after another keyspace: got %d, want %d", got, before)
	}
	enginetest.MustPut(t, e, storage.SystemLocal, storage.Local, "a", "1")
	if got := e.SystemVersion(); got == before {
		t.Errorf("after the system's: got %d, want another", got)
	}
}

func TestStoppedEngineSaysSo(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer)
	enginetest.MustDo(t, e, put("a", "1"))
	enginetest.Stop(t, e)
	if _, err := e.Do(context.Background(), &engine.Tx{Writes: []engine.Write{put("a", "2")}}); !errors.Is(err, engine.ErrStopped) {
		t.Errorf("Do: got %v, want ErrStopped", err)
	}
	if err := e.Checkpoint(context.Background()); !errors.Is(err, engine.ErrStopped) {
		t.Errorf("Checkpoint: got %v, want ErrStopped", err)
	}
	if err := e.Passed(context.Background(), "", 100); !errors.Is(err, engine.ErrStopped) {
		t.Errorf("Passed: got %v, want ErrStopped", err)
	}
}

func TestFullTableSlowsCommitsAndLosesNothing(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer, func(c *engine.Config) { c.CheckpointBytes = 8 << 10 })
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 40 {
				if _, err := e.Do(enginetest.Context(t), &engine.Tx{Writes: []engine.Write{put(fmt.Sprintf("w%d-%d", w, i), strings.Repeat("x", 1000))}}); err != nil {
					t.Errorf("writing: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	s := e.Stats()
	if s.Checkpoints == 0 || s.Entries != 320 || s.Commits == 0 || s.Commits > s.Entries {
		t.Errorf("stats: got %+v", s)
	}
	if got := len(enginetest.Content(t, e)[shared]); got != 320 {
		t.Errorf("records: got %d, want 320", got)
	}
}

func BenchmarkDo(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("%d clients", clients), func(b *testing.B) {
			e := enginetest.New(b, engine.Writer)
			value := make([]byte, 1024)
			for i := range value {
				value[i] = byte(rand.Uint32())
			}
			b.SetBytes(1024)
			b.ResetTimer()
			var wg sync.WaitGroup
			for w := range clients {
				wg.Go(func() {
					for i := w; i < b.N; i += clients {
						key := fmt.Appendf(nil, "%016x", rand.Uint64())
						_, err := e.Do(context.Background(), &engine.Tx{Writes: []engine.Write{{
							Keyspace: shared, Scope: storage.Replicated,
							Change: storage.Change{Op: storage.Put, Key: key, Value: value},
						}}})
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			s := e.Stats()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
			b.ReportMetric(float64(s.Entries)/float64(max(s.Commits, 1)), "entries/commit")
		})
	}
}
