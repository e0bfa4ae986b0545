package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/machine"
	"github.com/lockstepdb/lockstep/bench/report"
)

// limit is one limit of the machine, measured before and after all rows.
type limit struct {
	row
	run func(context.Context) (report.Run, error)
}

func (b *bench) limits() []limit {
	all := []limit{
		{row{id: "limit/fsync", what: "4 KiB appended to a file, fdatasync after each", unit: "syncs/s"}, b.fsync},
		{row{id: "limit/commit/1", what: "bbolt alone, 1 KiB a commit, one writer", unit: "entries/s"}, b.commit(1)},
		{row{id: "limit/commit/64", what: "bbolt alone, 1 KiB entries of 64 writers, one commit takes what queued", unit: "entries/s"}, b.commit(64)},
	}
	for _, clients := range []int{1, 64, 256} {
		all = append(all, limit{row{
			id: fmt.Sprintf("limit/handler/plain/%d", clients), unit: "requests/s",
			what: fmt.Sprintf("net/http, PUT of 1 KiB, encoding/json decodes it, %d clients", clients),
		}, b.handler(false, clients)})
	}
	for _, clients := range []int{64, 256} {
		all = append(all, limit{row{
			id: fmt.Sprintf("limit/handler/tls/%d", clients), unit: "requests/s",
			what: fmt.Sprintf("the same over TLS 1.3, %d clients", clients),
		}, b.handler(true, clients)})
	}
	return all
}

// measureLimits measures every limit that a goal of a wanted row needs. It is called before and after the rows: each
// call adds one figure, and what counts is the mean of both.
func (b *bench) measureLimits(ctx context.Context) error {
	needed := b.neededLimits()
	for _, l := range b.limits() {
		if !slices.Contains(needed, l.id) && (b.only == nil || !b.only.MatchString(l.id)) {
			continue
		}
		got, err := repeat(ctx, l.row, b.limitRuns, func(ctx context.Context) (report.Run, error) { return b.observed(ctx, l.run) })
		if err != nil {
			return err
		}
		if before := b.report.Row(l.id); before != nil {
			before.Runs = append(before.Runs, got.Runs...)
			before.Discarded += got.Discarded
			before.Noisy = before.Noisy || got.Noisy
		} else {
			b.report.Limits = append(b.report.Limits, got)
		}
		fmt.Fprintf(b.words, "%s  %-32s %10s %s\n", time.Now().Format(time.TimeOnly), l.id, report.Number(got.Median("")), l.unit)
	}
	return nil
}

// neededLimits are the limits that goals of wanted rows are measured by.
func (b *bench) neededLimits() []string {
	var all []string
	for _, g := range goals {
		if g.Limit != "" && b.wants(g.Row) && b.runsScenarioOf(g.Row) {
			all = append(all, g.Limit)
		}
	}
	return all
}

// fsync appends 4 KiB and makes it durable, again and again.
func (b *bench) fsync(ctx context.Context) (report.Run, error) {
	f, err := os.CreateTemp(b.dir, "fsync-")
	if err != nil {
		return report.Run{}, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 4096)
	var h load.Histogram
	start := time.Now()
	for time.Since(start) < b.length && ctx.Err() == nil {
		t := time.Now()
		if _, err := f.Write(page); err != nil {
			return report.Run{}, fmt.Errorf("append to %s: %w", f.Name(), err)
		}
		if err := machine.Datasync(f); err != nil {
			return report.Run{}, fmt.Errorf("sync %s: %w", f.Name(), err)
		}
		h.Record(time.Since(t))
	}
	run := latencies(&h)
	run.Value = float64(h.Count()) / time.Since(start).Seconds()
	return run, ctx.Err()
}

// commit lets writers hand 1 KiB entries to one committer, which puts what has queued into one transaction: what a log
// in bbolt can do when nothing else is to be done. bbolt is set as the product sets a segment's file, and used directly,
// so that the limit does not move with the product.
func (b *bench) commit(writers int) func(context.Context) (report.Run, error) {
	return func(ctx context.Context) (report.Run, error) {
		dir, remove, err := b.scratch("commit")
		if err != nil {
			return report.Run{}, err
		}
		defer remove()
		db, err := bbolt.Open(filepath.Join(dir, "log"), 0o600, &bbolt.Options{
			NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, InitialMmapSize: 4 << 30,
		})
		if err != nil {
			return report.Run{}, err
		}
		defer db.Close()
		db.AllocSize = 16 << 20
		return groupCommit(ctx, db, writers, b.length)
	}
}

// entry is one entry on its way to the committer.
type entry struct {
	value []byte
	done  chan error
}

func groupCommit(ctx context.Context, db *bbolt.DB, writers int, length time.Duration) (report.Run, error) {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	queue := make(chan entry, writers)
	histograms := make([]load.Histogram, writers)
	start := time.Now()
	var all, committer sync.WaitGroup
	committer.Go(func() { commitAll(db, queue) })
	errs := make([]error, writers)
	for i := range writers {
		all.Go(func() {
			e := entry{make([]byte, valueSize), make(chan error, 1)}
			for ctx.Err() == nil && errs[i] == nil {
				t := time.Now()
				queue <- e
				errs[i] = <-e.done
				histograms[i].Record(time.Since(t))
			}
		})
	}
	all.Wait()
	seconds := time.Since(start).Seconds()
	close(queue)
	committer.Wait()
	var sum load.Histogram
	for i := range histograms {
		if errs[i] != nil {
			return report.Run{}, fmt.Errorf("commit: %w", errs[i])
		}
		sum.Add(&histograms[i])
	}
	run := latencies(&sum)
	run.Value = float64(sum.Count()) / seconds
	return run, nil
}

// commitAll commits what is queued, one transaction after the other, until the queue is closed.
func commitAll(db *bbolt.DB, queue <-chan entry) {
	index := uint64(0)
	for first := range queue {
		group := []entry{first}
		for more := true; more; {
			select {
			case e, ok := <-queue:
				if more = ok; ok {
					group = append(group, e)
				}
			default:
				more = false
			}
		}
		err := db.Update(func(tx *bbolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte("entries"))
			if err != nil {
				return err
			}
			bucket.FillPercent = 1
			for _, e := range group {
				index++
				if err := bucket.Put(binary.BigEndian.AppendUint64(nil, index), e.value); err != nil {
					return err
				}
			}
			return nil
		})
		for _, e := range group {
			e.done <- err
		}
	}
}
