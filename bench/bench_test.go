package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/bench/report"
)

// stealing returns runs with these shares of steal, one after the other; the value is the number of the run.
func stealing(steal ...float64) func(context.Context) (report.Run, error) {
	n := 0
	return func(context.Context) (report.Run, error) {
		if n == len(steal) {
			return report.Run{}, errors.New("one run too many")
		}
		n++
		return report.Run{Value: float64(n), Steal: steal[n-1]}, nil
	}
}

func TestRunsWithStealAreRepeatedAndDoNotCount(t *testing.T) {
	for _, row := range []struct {
		name      string
		steal     []float64
		want      []float64
		discarded int
		noisy     bool
	}{
		{"all calm", []float64{0, 10, 3}, []float64{1, 2, 3}, 0, false},
		{"two disturbed", []float64{11, 0, 50, 0, 0}, []float64{2, 4, 5}, 2, false},
		{"one calm among many", []float64{20, 20, 5, 20, 20, 20}, []float64{3}, 5, false},
		{"never calm", []float64{20, 30, 40, 50, 60}, []float64{1, 2, 3, 4, 5}, 0, true},
	} {
		got, err := repeat(context.Background(), testRow, 3, stealing(row.steal...))
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if all := got.All(""); !slices.Equal(all, row.want) || got.Discarded != row.discarded || got.Noisy != row.noisy {
			t.Errorf("%s: got runs %v, %d discarded, noisy %t; want %v, %d, %t", row.name, all, got.Discarded, got.Noisy, row.want, row.discarded, row.noisy)
		}
	}
}

var testRow = row{id: "a/row"}

func TestAFailedRunFailsItsRowByName(t *testing.T) {
	_, err := repeat(context.Background(), testRow, 3, stealing(0))
	if err == nil || !strings.Contains(err.Error(), "a/row: one run too many") {
		t.Errorf("got %v", err)
	}
}

func TestFlagsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, args := range [][]string{{"-set=most"}, {"-only=("}, {"-runs=0"}, {"-keys=0"}, {"-records=1"}, {"-seconds=-1"}, {"quick"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
	b, err := parse([]string{"-set=large"}, io.Discard)
	if err != nil || b.records != 10_000_000 || b.size != smallValue || b.length != 20*time.Second {
		t.Errorf("large: got %+v, %v", b, err)
	}
	if b, err = parse(nil, io.Discard); err != nil || b.set != setQuick || b.records != 1_000_000 || b.size != valueSize || b.limitRuns != 1 {
		t.Errorf("without flags: got %+v, %v", b, err)
	}
}

func TestEveryGoalIsAboutARowAndALimitThatThereAre(t *testing.T) {
	var rows, limits []string
	for _, s := range scenarios {
		if len(s.sets) == 0 || len(s.rows) == 0 {
			t.Errorf("a scenario of rows %v and sets %v is never run", s.rows, s.sets)
		}
		rows = append(rows, s.rows...)
	}
	for _, l := range (&bench{}).limits() {
		limits = append(limits, l.id)
	}
	for _, g := range goals {
		if !slices.Contains(rows, g.Row) {
			t.Errorf("goal %q is about row %s, which nothing measures", g.What, g.Row)
		}
		if g.Limit != "" && !slices.Contains(limits, g.Limit) {
			t.Errorf("goal %q is about limit %s, which nothing measures", g.What, g.Limit)
		}
		if g.Aim != 0 && (g.Aim > g.Must) == g.Lower {
			t.Errorf("goal %q: its aim %g is easier than its must %g", g.What, g.Aim, g.Must)
		}
	}
}

func TestOnlyTheLimitsOfWantedRowsAreMeasured(t *testing.T) {
	b, err := parse([]string{"-only=^write/plain/64$"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.neededLimits(); !slices.Equal(got, []string{handler64}) {
		t.Errorf("got %v, want %s", got, handler64)
	}
	if b, err = parse([]string{"-only=^catch-up$"}, io.Discard); err != nil || len(b.neededLimits()) != 0 {
		t.Errorf("a row of another set needs %v, %v", b.neededLimits(), err)
	}
}

func TestTheTimeOfADiffIsTakenFromTheLog(t *testing.T) {
	const earlier = "2026-01-02T03:04:00.000Z [INFO]  replication: transitioning state: from=connecting state=merkle-diff event=repair\n"
	const log = "--- start\n" +
		"2026-01-02T03:04:05.100Z [INFO]  replication.performance: transitioning state: from=connecting state=merkle-diff event=repair reason=x\n" +
		"2026-01-02T03:04:05.200Z [INFO]  replication.performance: transitioning state: from=merkle-diff state=merkle-sync event=differs reason=x\n" +
		"2026-01-02T03:04:05.350Z [INFO]  replication.performance: transitioning state: from=merkle-sync state=stream-wals event=equal reason=\"\"\n"
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte(earlier+log), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := compared(file, int64(len(earlier))); err != nil || got != 250*time.Millisecond {
		t.Errorf("got %v, %v; want 250ms", got, err)
	}
	if _, err := compared(file, int64(len(earlier+log))); err == nil {
		t.Error("a log without a diff was taken for one")
	}
}

func TestPgbenchsLogIsReadToItsEnd(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"latency.1": "0 1 100 0 5 5\n1 1 300 0 5 6\n", "latency.1.1": "0 2 200 0 5 7\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h, err := pgLatencies(dir)
	if err != nil || h.Count() != 3 || h.Max() != 300*time.Microsecond {
		t.Errorf("got %d transactions, the longest of %v, %v", h.Count(), h.Max(), err)
	}
	if _, err := pgLatencies(t.TempDir()); err == nil {
		t.Error("no transactions were taken for a measurement")
	}
}
