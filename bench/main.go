// Command bench measures Lockstep servers, the limits of the machine that they run on, and, where they are installed,
// other systems beside them. docs/performance.md explains what each row means and how to repeat it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/lockstepdb/lockstep/bench/machine"
	"github.com/lockstepdb/lockstep/bench/report"
)

const help = `Usage: bench [-set=quick|all|large] [flags]

Starts real servers from a lockstep binary, puts load on them and prints a table
of medians with their ratios to limits measured in the same run; words about
progress go to standard error. Runs during which the hypervisor took more than
10 percent of a core do not count and are repeated, a few times at most.

`

// options are what the command line says.
type options struct {
	set       string        // of scenarios: quick, all, large
	binary    string        // of lockstep
	dir       string        // data directories are made below it
	out       string        // JSON and Markdown are written here, with these endings
	runs      int           // of each row
	limitRuns int           // of each limit, before and after each
	length    time.Duration // of a run
	warmup    time.Duration
	keys      int // records that are written to at random
	records   int // of scenarios about many
	size      int // of a record's value, in those scenarios
	read      int // records that are there to be read
	peers     bool
	list      bool
}

// valueSize is the size of values, unless a row says otherwise.
const valueSize = 1024

// smallValue is the size of values where there are ten million of them.
const smallValue = 100

// quickRead is how many records are read in the quick set, where filling must not take long.
const quickRead = 20_000

func main() {
	var err error
	if len(os.Args) > 1 && os.Args[1] == handlerCommand {
		err = serveHandler(os.Args[2:])
	} else {
		err = run(os.Args[1:], os.Stdout, os.Stderr)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string, out, words io.Writer) error {
	b, err := parse(args, words)
	if err != nil {
		return err
	}
	if b.list {
		return list(out)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := b.prepare(); err != nil {
		return err
	}
	failed := b.all(ctx)
	b.report.Judge(goals)
	// What was measured before a failure is worth keeping.
	if err := b.write(out); err != nil {
		return errors.Join(failed, err)
	}
	return failed
}

func parse(args []string, words io.Writer) (*bench, error) {
	b := &bench{words: words}
	var only string
	var seconds float64
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(words)
	fs.Usage = func() { fmt.Fprint(words, help); fs.PrintDefaults() }
	fs.StringVar(&b.set, "set", "quick", "scenarios: quick (ours, under three minutes), all, or large (10 million records)")
	fs.StringVar(&only, "only", "", "measure only rows that match this regular expression")
	fs.IntVar(&b.runs, "runs", 3, "runs of each row")
	fs.Float64Var(&seconds, "seconds", 0, "length of a run under load; 1.5 in quick, 20 otherwise")
	fs.IntVar(&b.keys, "keys", 100_000, "records that are written to at random")
	fs.IntVar(&b.records, "records", 0, "records of the rows about many: bootstrap, diff, restart, reindex, growth; 1,000,000 of 1 KiB, or 10,000,000 of 100 bytes in large")
	fs.StringVar(&b.binary, "binary", "bin/lockstep", "the server's binary")
	fs.StringVar(&b.dir, "dir", ".cache/bench", "directory on the disk to be measured; data directories are made below it and removed")
	fs.StringVar(&b.out, "out", "", "write the results to this name with .json and .md added; the Markdown is printed in any case")
	fs.BoolVar(&b.peers, "peers", true, "with -set=all: measure the peers that are installed")
	fs.BoolVar(&b.list, "list", false, "list the rows and end")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unknown argument %q: see -help", fs.Arg(0))
	}
	return b, b.settle(only, seconds)
}

// settle fills in what depends on other flags, and refuses what makes no sense.
func (b *bench) settle(only string, seconds float64) error {
	var err error
	if only != "" {
		if b.only, err = regexp.Compile(only); err != nil {
			return fmt.Errorf("-only: %w", err)
		}
	}
	quick := b.set == setQuick
	b.size = valueSize
	if b.set == setLarge {
		b.size = smallValue
	}
	if b.records == 0 {
		if b.records = 1_000_000; b.set == setLarge {
			b.records = 10_000_000
		}
	}
	if !quick && b.set != setAll && b.set != setLarge {
		return fmt.Errorf("-set=%s: there are quick, all and large", b.set)
	}
	if b.runs < 1 || b.keys < 1 || b.records < 1000 || b.records > 999_999_999 || b.keys > 999_999_999 || seconds < 0 {
		return errors.New("-runs and -keys must be at least 1, -records 1000, both of these below a thousand million, -seconds not negative")
	}
	if seconds == 0 {
		if seconds = 20; quick {
			seconds = 1.5
		}
	}
	b.length = time.Duration(seconds * float64(time.Second))
	b.warmup = min(b.length/4, 3*time.Second)
	b.limitRuns, b.read = b.runs, b.keys
	if quick {
		b.limitRuns, b.read = 1, min(b.keys, quickRead)
	}
	return nil
}

// prepare makes the directory and refuses what could not be measured.
func (b *bench) prepare() error {
	var err error
	if b.self, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program's own file: %w", err)
	}
	if b.binary, err = filepath.Abs(b.binary); err != nil {
		return err
	}
	if _, err := os.Stat(b.binary); err != nil {
		return fmt.Errorf("no server to measure: %w: run `make build`, or name one with -binary", err)
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	if machine.InMemory(b.dir) {
		return fmt.Errorf("%s lies in memory, where a sync costs nothing: name a directory on a disk with -dir", b.dir)
	}
	b.report = &report.Report{
		Version: 1, Started: time.Now(), Machine: machine.Describe(b.dir, "."), Versions: map[string]string{},
		Settings: map[string]string{
			"set": b.set, "runs of a row": fmt.Sprint(b.runs), "length of a run under load": fmt.Sprintf("%s after %s that do not count", b.length, b.warmup),
			"records": fmt.Sprintf("%d of %d bytes, keys at random", b.keys, valueSize),
		},
	}
	return nil
}

func (b *bench) write(out io.Writer) error {
	var text strings.Builder
	if err := b.report.Markdown(&text); err != nil {
		return err
	}
	if _, err := io.WriteString(out, text.String()); err != nil {
		return err
	}
	if b.out == "" {
		return nil
	}
	if err := os.WriteFile(b.out+".md", []byte(text.String()), 0o644); err != nil {
		return err
	}
	f, err := os.Create(b.out + ".json")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := b.report.JSON(f); err != nil {
		return fmt.Errorf("write %s.json: %w", b.out, err)
	}
	return f.Close()
}
