package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/bench/link"
	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/node"
	"github.com/lockstepdb/lockstep/bench/report"
)

// differences are how many records differ, and roundTrips what a message to the primary and back takes.
var (
	differences = []int{1, 10, 100, 1_000, 10_000, 100_000}
	roundTrips  = []time.Duration{0, 50 * time.Millisecond}
)

func diffRow(d int, roundTrip time.Duration) string {
	return fmt.Sprintf("diff/%d/rtt%d", d, roundTrip.Milliseconds())
}

func diffRows() (ids []string) {
	for _, rtt := range roundTrips {
		for _, d := range differences {
			ids = append(ids, diffRow(d, rtt))
		}
	}
	return ids
}

// diffs measures how long a secondary compares with its primary and fetches what differs, when its place is not in the
// primary's log any more, and how many bytes that costs. The primary is told to keep little log; while the secondary is
// cut off, so many records are changed, one of them until the log has moved on. Time is that between two lines of the
// secondary's log: from merkle-diff to stream-wals.
func (b *bench) diffs(ctx context.Context) error {
	if err := b.needs(5 * int64(b.records) * int64(b.size+100)); err != nil {
		return err
	}
	l, err := link.Listen()
	if err != nil {
		return err
	}
	defer l.Close()
	// Small segments, and checkpoints that come soon: what is old goes at once.
	pr, err := b.startLinked(ctx, "diff", l, node.Options{Replication: []string{
		`segment_bytes = "4MiB"`, `retain_bytes = "4MiB"`, `checkpoint_interval = "1s"`,
	}})
	if err != nil {
		return err
	}
	defer func() { pr.remove() }()
	if err := pr.fill(ctx, b.records); err != nil {
		return err
	}
	for _, rtt := range roundTrips {
		for _, d := range differences {
			if d > b.records/2 {
				b.missing(diffRow(d, rtt), fmt.Sprintf("%d records are too few for it: see -records", b.records))
				continue
			}
			r := row{id: diffRow(d, rtt), unit: "ms", what: fmt.Sprintf("%d of %d records differ, round trip %s: compared, fetched, streaming", d, b.records, rtt)}
			if err := b.measure(ctx, r, func(ctx context.Context) (report.Run, error) { return pr.diff(ctx, l, d, b.records, rtt) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// diff makes d records differ and measures what it takes to find and fetch them.
func (pr *pair) diff(ctx context.Context, l *link.Link, d, records int, rtt time.Duration) (report.Run, error) {
	before, err := pr.secondary.Status(ctx)
	if err != nil {
		return report.Run{}, err
	}
	l.Cut()
	put := load.Put{Path: "/v1/kv/", Host: pr.API, Token: pr.token, Size: pr.size, Stride: records / d}
	if err := load.Fill(ctx, pr.Target(), put, 0, d); err != nil {
		return report.Run{}, err
	}
	if err := pr.outrun(ctx, before.LastRemoteWAL); err != nil {
		return report.Run{}, err
	}
	info, err := os.Stat(pr.secondary.LogFile())
	if err != nil {
		return report.Run{}, err
	}
	passed := l.Bytes()
	l.Set(link.Quality{RoundTrip: rtt})
	defer l.Set(link.Quality{})
	l.Mend()
	if err := pr.secondary.WaitCaughtUp(ctx, pr.Node); err != nil {
		return report.Run{}, err
	}
	passed = l.Bytes() - passed
	after, err := pr.secondary.Status(ctx)
	if err != nil {
		return report.Run{}, err
	}
	took, err := compared(pr.secondary.LogFile(), info.Size())
	return report.Run{Value: ms(took), Extra: map[string]float64{
		"KB to compare": float64(after.DiffBytes-before.DiffBytes) / 1e3, "KB to fetch": float64(after.SyncBytes-before.SyncBytes) / 1e3,
		"KB on the link": float64(passed) / 1e3,
	}}, err
}

// outrun writes record 0 again and again until the primary's log no longer holds what follows an index.
func (pr *pair) outrun(ctx context.Context, index uint64) error {
	conn, err := load.Dial(pr.Target())
	if err != nil {
		return err
	}
	defer conn.Close()
	const large = 512 << 10
	next := load.Put{Path: "/v1/kv/", Host: pr.API, Token: pr.token, Keys: 1, Size: large}.Source(rand.New(rand.NewPCG(index, 0)))
	err = node.Until(ctx, "the primary's log has moved on", 20*time.Millisecond, func() (bool, error) {
		if err := conn.Do(next()); err != nil {
			return false, fmt.Errorf("write to move the log on: %w", err)
		}
		first, err := pr.Metric(ctx, "lockstep.log.first_index")
		return first > float64(index)+1, err
	})
	if err != nil {
		return err
	}
	// What is fetched is to be of the size of the others.
	return load.Fill(ctx, pr.Target(), load.Put{Path: "/v1/kv/", Host: pr.API, Token: pr.token, Size: pr.size}, 0, 1)
}

// compared finds, in what a server logged behind an offset, when it began to compare and when it streamed again.
func compared(file string, from int64) (time.Duration, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	var begin, end time.Time
	for line := range strings.Lines(string(text[min(from, int64(len(text))):])) {
		stamp, rest, ok := strings.Cut(line, " ")
		if !ok || !strings.Contains(rest, "transitioning state") {
			continue
		}
		at, err := time.Parse("2006-01-02T15:04:05.000Z0700", stamp)
		if err != nil {
			return 0, fmt.Errorf("a line of the log %s: %w", file, err)
		}
		switch {
		case begin.IsZero() && strings.Contains(rest, "state=merkle-diff"):
			begin = at
		case !begin.IsZero() && strings.Contains(rest, "state=stream-wals"):
			end = at
		}
	}
	if begin.IsZero() || end.IsZero() {
		return 0, errors.New("the secondary did not compare with its primary")
	}
	return end.Sub(begin), nil
}
