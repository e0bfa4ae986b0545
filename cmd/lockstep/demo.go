package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/lockstepdb/lockstep/internal/demo"
)

const demoHelp = `Usage: lockstep demo [-keep] [-dir=DIR]

Starts three clusters on this machine, a primary, a DR secondary and a
performance secondary, enrols both secondaries over the HTTP API, writes every
exported identifier of the Go standard library, kills the DR secondary in the
middle and shows that it catches up without copying. Exit code 0 only when
every acknowledged record is found on all three. It needs the go command and
uses no network but this machine's own.

  -keep       leave the clusters running; print how to reach them
  -dir=DIR    scratch directory; otherwise a temporary one, removed at the end
              and on an interrupt. After a failure it stays: its logs tell why
`

var demoCommand = command{"demo", "three clusters replicate real data before your eyes", demoHelp, runDemo}

func runDemo(ctx context.Context, c *console, args []string) error {
	cfg := demo.Config{Out: c.out, Words: c.err}
	fs := newFlags("demo")
	fs.BoolVar(&cfg.Keep, "keep", false, "")
	fs.StringVar(&cfg.Dir, "dir", "", "")
	if err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	var err error
	if cfg.Program, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program's own file: %w", err)
	}
	// A terminal that is closed must not leave servers behind.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP)
	defer stop()
	return demo.Run(ctx, cfg)
}
