package storage_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

const benchKeyspace = 5

func benchValue(rng *rand.Rand, n int) []byte {
	v := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(v[i:], rng.Uint64())
	}
	return v
}

// load fills a state with records in order of key, by chunks as a sync does.
func load(b testing.TB, s *storage.State, n, size int) {
	b.Helper()
	rng := rand.New(rand.NewPCG(1, 1))
	const chunk = 20_000
	key := func(i int) []byte { return fmt.Appendf(nil, "secret/data/%09d", i) }
	for from := 0; from < n; from += chunk {
		recs := make([]storage.Record, 0, chunk)
		for i := from; i < min(n, from+chunk); i++ {
			recs = append(recs, storage.Record{Key: key(i), Value: benchValue(rng, size), Index: uint64(i)})
		}
		var high []byte
		if from+chunk < n {
			high = key(from + chunk)
		}
		low := key(from)
		if from == 0 {
			low = nil
		}
		if err := s.ReplaceRange(ksID(benchKeyspace), storage.Replicated, low, high, recs, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func anonymousMiB() string {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return "unknown"
}

// benchFrame makes a frame of n puts of random ones of the first keys records.
func benchFrame(rng *rand.Rand, index uint64, n, keys, size int) *frame {
	f := &frame{}
	for range n {
		index++
		f.entries = append(f.entries, &storage.Entry{Version: 1, Index: index, Blocks: []storage.Block{{
			Keyspace: ksID(benchKeyspace), Scope: storage.Replicated,
			Changes: []storage.Change{{Op: storage.Put, Key: fmt.Appendf(nil, "secret/data/%09d", rng.IntN(keys)), Value: benchValue(rng, size)}},
		}}})
	}
	f.end = wal.Position{Fork: wal.Fork{1}, Index: index}
	return f
}

func benchState(b testing.TB) *storage.State {
	return open(b, storage.Options{Found: func(storage.Damage) {}}) // totals of benchFrame are not those of a frame
}

func BenchmarkGet(b *testing.B) {
	s := benchState(b)
	load(b, s, 200_000, 512)
	rng := rand.New(rand.NewPCG(2, 2))
	keys := make([][]byte, 4096)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "secret/data/%09d", rng.IntN(200_000))
	}
	run := func(name string, fn func(key []byte) error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if err := fn(keys[i&4095]); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
	get := func(key []byte) error { _, err := s.Get(ksID(benchKeyspace), key); return err }
	old := func(key []byte) error { _, err := s.Old(ksID(benchKeyspace), key); return err }
	run("file", get)
	run("file, digest only", old)
	run("file, absent", func(key []byte) error { return old(append(key[:len(key):len(key)], '~')) })
	f := &frame{end: wal.Position{Index: 1}}
	e := &storage.Entry{Index: 1, Blocks: []storage.Block{{Keyspace: ksID(benchKeyspace), Scope: storage.Replicated}}}
	for _, key := range keys {
		e.Blocks[0].Changes = append(e.Blocks[0].Changes, storage.Change{Op: storage.Put, Key: key, Value: key})
	}
	f.entries = []*storage.Entry{e}
	apply(s, f)
	run("table", get)
	run("table, digest only", old)
	b.Run("snapshot", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.Snapshot().Release()
		}
	})
}

func BenchmarkApply(b *testing.B) {
	s := benchState(b)
	rng := rand.New(rand.NewPCG(3, 3))
	f := benchFrame(rng, 0, 64, 1_000_000, 512)
	entries := f.applying()
	b.ReportAllocs()
	for b.Loop() {
		s.Apply(entries, nil, f.end, f.chain)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/entry")
}

func BenchmarkReplaceRangeIntoEmpty(b *testing.B) {
	for b.Loop() {
		s := benchState(b)
		start := time.Now()
		load(b, s, 1_000_000, 512)
		b.ReportMetric(1e6/time.Since(start).Seconds(), "records/s")
		b.Logf("RssAnon %s", anonymousMiB())
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckpoint50kInto1M(b *testing.B) {
	s := benchState(b)
	load(b, s, 1_000_000, 512)
	rng := rand.New(rand.NewPCG(4, 4))
	index := uint64(0)
	for b.Loop() {
		b.StopTimer()
		for range 50 {
			f := benchFrame(rng, index, 1000, 1_000_000, 512)
			index = f.end.Index
			apply(s, f)
		}
		b.StartTimer()
		if err := s.Checkpoint(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(50_000*float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.Logf("RssAnon %s", anonymousMiB())
}

func BenchmarkScan(b *testing.B) {
	s := benchState(b)
	const n = 200_000
	load(b, s, n, 512)
	v := s.Finished()
	defer v.Release()
	b.Run("records", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := v.Scan(ksID(benchKeyspace), nil, nil, func(storage.Record) bool { return true }); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/record")
	})
	b.Run("items", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := v.Items(ksID(benchKeyspace), nil, nil, func([]byte, merkle.Digest) bool { return true }); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/record")
	})
}
