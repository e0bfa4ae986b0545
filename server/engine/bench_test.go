package engine_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

const benchKeys = 100_000

// benchEngine is an engine as the server runs it, sealed, but for its checkpoints.
func benchEngine(b *testing.B, mods ...func(*engine.Config)) (e *engine.Engine, cfg engine.Config) {
	b.Helper()
	keys, _, err := seal.New(seal.Options{Config: seal.Config{Shares: 1, Threshold: 1}}, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	cfg = engine.Config{Dir: filepath.Join(b.TempDir(), "store"), Role: engine.Writer, MinFree: -1, Sealer: keys.Keyring()}
	for _, mod := range mods {
		mod(&cfg)
	}
	if err := engine.CreateSealed(cfg.Dir, engine.Identity{ClusterName: b.Name()}, nil, cfg.Sealer); err != nil {
		b.Fatal(err)
	}
	if e, _, err = engine.Open(cfg); err != nil {
		b.Fatal(err)
	}
	return e, cfg
}

// benchRun runs an engine whose store nobody checks at the end.
func benchRun(b *testing.B, e *engine.Engine) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	return func() {
		cancel()
		if err := errors.Join(<-ended, e.Close()); err != nil {
			b.Error(err)
		}
	}
}

func benchTx(rng *rand.Rand, puts int) *engine.Tx {
	tx := &engine.Tx{Writes: make([]engine.Write, puts)}
	values := make([]byte, puts*1024)
	for i := range puts {
		value := values[i*1024 : (i+1)*1024 : (i+1)*1024]
		for j := 0; j < len(value); j += 8 {
			binary.BigEndian.PutUint64(value[j:], rng.Uint64())
		}
		tx.Writes[i] = engine.Write{
			Keyspace: storage.KeyspaceID{1}, Scope: storage.Replicated,
			Change: storage.Change{Op: storage.Put, Key: fmt.Appendf(nil, "bench/%08d", rng.IntN(benchKeys)), Value: value},
		}
	}
	return tx
}

// benchWrite lets callers write records until there are n.
func benchWrite(b *testing.B, e *engine.Engine, callers, n, puts int) {
	b.Helper()
	var wg sync.WaitGroup
	var done atomic.Int64
	for i := range callers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), uint64(n)))
			for done.Add(int64(puts)) <= int64(n) {
				if _, err := e.Do(context.Background(), benchTx(rng, puts)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkTransaction commits transactions of some puts of 1 KiB from 64 callers, checkpoints and all.
func BenchmarkTransaction(b *testing.B) {
	for _, puts := range []int{1, 100} {
		b.Run(fmt.Sprint(puts), func(b *testing.B) {
			e, _ := benchEngine(b)
			stop := benchRun(b, e)
			defer stop()
			b.ReportAllocs()
			b.ResetTimer()
			benchWrite(b, e, 64, b.N*puts, puts)
			b.StopTimer()
			b.ReportMetric(float64(b.N*puts)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// BenchmarkRecovery opens a store with 100,000 records and as many entries of log behind its checkpoint, as a kill leaves it.
func BenchmarkRecovery(b *testing.B) {
	for _, entries := range []int{1_000, 100_000} {
		b.Run(fmt.Sprint(entries), func(b *testing.B) {
			e, cfg := benchEngine(b, func(c *engine.Config) { c.CheckpointInterval, c.CheckpointBytes = time.Hour, 1<<30 })
			stop := benchRun(b, e)
			benchWrite(b, e, 64, benchKeys, 100)
			if err := e.Checkpoint(enginetest.Context(b)); err != nil {
				b.Fatal(err)
			}
			benchWrite(b, e, 64, entries, 1)
			killed := filepath.Join(b.TempDir(), "killed")
			copyStore(b, cfg.Dir, killed)
			stop()
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				cfg.Dir = filepath.Join(b.TempDir(), "again")
				copyStore(b, killed, cfg.Dir)
				b.StartTimer()
				e, report, err := engine.Open(cfg)
				b.StopTimer()
				if err != nil || report.Replayed != uint64(entries) {
					b.Fatalf("replayed %d entries, want %d: %v", report.Replayed, entries, err)
				}
				if err := e.Close(); err != nil {
					b.Fatal(err)
				}
				os.RemoveAll(cfg.Dir)
				b.StartTimer()
			}
			b.ReportMetric(float64(b.N*entries)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
