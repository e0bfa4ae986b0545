package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/machine"
	"github.com/lockstepdb/lockstep/bench/node"
	"github.com/lockstepdb/lockstep/bench/report"
)

// bench is one run of the program.
type bench struct {
	options
	self   string // this program's own file, for the server of the trivial handler
	words  io.Writer
	report *report.Report
	only   *regexp.Regexp

	watched []watched // processes whose memory and processor time are measured
}

// watched is a server under load.
type watched struct {
	name string
	pid  func() int
	tree bool // with all that it started
}

func (w watched) cpu() float64 {
	if w.tree {
		return machine.TreeCPU(w.pid())
	}
	return machine.ProcessCPU(w.pid())
}

func (w watched) memory() machine.Memory {
	if w.tree {
		return machine.TreeMemory(w.pid())
	}
	return machine.ProcessMemory(w.pid())
}

// Bounds on repetition.
const (
	stealCounts = 10.0 // percent of one core: a run with more does not count
	maxRepeats  = 4    // runs of one row that are repeated for that
)

// wants reports whether any of these rows is to be measured.
func (b *bench) wants(ids ...string) bool {
	for _, id := range ids {
		if b.only == nil || b.only.MatchString(id) {
			return true
		}
	}
	return false
}

// row describes what is measured under an id.
type row struct {
	id, what, unit string
	note           string
}

// measure runs a row as often as is asked for, repeats disturbed runs, and puts the row into the report.
func (b *bench) measure(ctx context.Context, r row, run func(context.Context) (report.Run, error)) error {
	if !b.wants(r.id) {
		return nil
	}
	out, err := repeat(ctx, r, b.runs, func(ctx context.Context) (report.Run, error) { return b.observed(ctx, run) })
	if err != nil {
		return err
	}
	b.report.Rows = append(b.report.Rows, out)
	fmt.Fprintf(b.words, "%s  %-32s %10s %-10s (%s to %s)\n", time.Now().Format(time.TimeOnly), r.id, report.Number(out.Median("")), r.unit,
		report.Number(out.All("")[0]), report.Number(out.All("")[len(out.Runs)-1]))
	return nil
}

// repeat runs until so many runs count. What the hypervisor disturbed does not, as long as there is a calm run; a machine
// that is never calm gets a row that says so.
func repeat(ctx context.Context, r row, runs int, run func(context.Context) (report.Run, error)) (*report.Row, error) {
	out := &report.Row{ID: r.id, What: r.what, Unit: r.unit, Note: r.note}
	var disturbed []report.Run
	for len(out.Runs) < runs {
		one, err := run(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.id, err)
		}
		if one.Steal <= stealCounts {
			out.Runs = append(out.Runs, one)
			continue
		}
		out.Discarded++
		if disturbed = append(disturbed, one); len(disturbed) > maxRepeats {
			break
		}
	}
	if len(out.Runs) == 0 {
		out.Runs, out.Discarded, out.Noisy = disturbed, 0, true
	}
	return out, nil
}

// observed measures what others took of the machine during a run.
func (b *bench) observed(ctx context.Context, run func(context.Context) (report.Run, error)) (report.Run, error) {
	own := func() float64 {
		sum := selfCPU() + childrenCPU()
		for _, w := range b.watched {
			sum += w.cpu()
		}
		return sum
	}
	for _, w := range b.watched {
		machine.ResetPeak(w.pid())
	}
	before, ownBefore, start := machine.ReadCPU(), own(), time.Now()
	one, err := run(ctx)
	if err != nil {
		return one, err
	}
	passed, seconds := machine.ReadCPU().Sub(before), time.Since(start).Seconds()
	one.Steal = passed.StealPercent(seconds)
	one.Foreign = max(0, (passed.Total-passed.Idle-passed.Steal-(own()-ownBefore))/seconds*100)
	if one.Servers == nil {
		one.Servers = b.memory()
	}
	return one, nil
}

func (b *bench) memory() []report.Server {
	const mb = 1e6
	var all []report.Server
	for _, w := range b.watched {
		m := w.memory()
		all = append(all, report.Server{Name: w.name, Anonymous: float64(m.Anonymous) / mb, Peak: float64(m.Peak) / mb})
	}
	return all
}

// watch says which servers the next rows are about.
func (b *bench) watch(nodes ...*node.Node) {
	b.watched = nil
	for _, n := range nodes {
		b.watched = append(b.watched, watched{name: n.Name, pid: n.Pid})
	}
}

// drive runs a load and returns its rate, its latencies and what it cost each server.
func (b *bench) drive(ctx context.Context, cfg load.Config) (report.Run, error) {
	if cfg.Length == 0 {
		cfg.Length = b.length
	}
	if cfg.Warmup == 0 {
		cfg.Warmup = b.warmup
	}
	cfg.Seed = uint64(time.Now().UnixNano())
	begun, ended := make([]float64, len(b.watched)+1), make([]float64, len(b.watched)+1)
	read := func(into []float64) func() {
		return func() {
			for i, w := range b.watched {
				into[i] = w.cpu()
			}
			into[len(into)-1] = selfCPU()
		}
	}
	cfg.Begin, cfg.End = read(begun), read(ended)
	result, err := load.Run(ctx, cfg)
	if err != nil {
		return report.Run{}, err
	}
	out := latencies(&result.Latency)
	out.Value = result.PerSecond()
	out.Servers = b.memory()
	per1000 := 1000 / float64(result.Count)
	for i := range out.Servers {
		out.Servers[i].CPU = (ended[i] - begun[i]) * per1000
	}
	out.Driver = (ended[len(ended)-1] - begun[len(begun)-1]) * per1000
	return out, nil
}

// latencies returns a run with the quantiles of a histogram.
func latencies(h *load.Histogram) report.Run {
	return report.Run{P50: ms(h.Quantile(0.5)), P90: ms(h.Quantile(0.9)), P99: ms(h.Quantile(0.99)), Max: ms(h.Max())}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// selfCPU returns the seconds of one core that this program used.
func selfCPU() float64 { return usage(syscall.RUSAGE_SELF) }

// childrenCPU returns what processes used that this one started and that have ended.
func childrenCPU() float64 { return usage(syscall.RUSAGE_CHILDREN) }

func usage(who int) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / float64(time.Second)
}

// scratch makes a directory for one scenario, empty; it is removed when the scenario has ended.
func (b *bench) scratch(name string) (string, func(), error) {
	dir, err := os.MkdirTemp(b.dir, name+"-")
	if err != nil {
		return "", nil, fmt.Errorf("make a directory below %s: %w", b.dir, err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", nil, err
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}

// missing puts a row that cannot be measured into the report.
func (b *bench) missing(id, why string) {
	if b.wants(id) {
		b.report.Missing = append(b.report.Missing, report.Missing{ID: id, Why: why})
		fmt.Fprintf(b.words, "%s  %-32s missing: %s\n", time.Now().Format(time.TimeOnly), id, why)
	}
}
