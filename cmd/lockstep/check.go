package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/server"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

const checkHelp = `Usage: lockstep check [-against=LIST] DIR
       lockstep check [-against=LIST] -config=FILE

Checks the data directory of a stopped node and changes nothing in it: every
frame of the log, every record, leaf and total of the state, and that log and
state agree. Damage is printed a line each, with file, keyspace, mount and key;
values are not shown. Exit code 0: nothing wrong; 1: damage, or it could not be
checked.

  -config=FILE    take the directory from a server's configuration
  -against=LIST   instead, look each record of LIST up, using no digest and no
                  index: a file of JSON objects, one a line,
                  {"path":"secret/app","value":{"k":"v"}}
                  with the mount's path and the key below it, and the newest value.
                  Stop the server cleanly first: after a kill some records are
                  still in the log alone
` + unsealHelp

var checkCommand = command{"check", "check a stopped node's log and state", checkHelp, runCheck}

func runCheck(ctx context.Context, c *console, args []string) error {
	fs := newFlags("check")
	config := fs.String("config", "", "")
	against := fs.String("against", "", "")
	shares := newUnsealFlag(fs)
	if err := parse(fs, args, 0, 1); err != nil {
		return err
	}
	dir, auto, err := dataDir(*config, fs.Args())
	if err != nil {
		return err
	}
	u := shares.unsealer(c, auto)
	if *against != "" {
		return checkAgainst(c, dir, u, *against)
	}
	return checkStore(ctx, c, dir, u)
}

// dataDir returns the one directory that a command line names, and where its configuration says that its key is.
func dataDir(config string, args []string) (string, *seal.Auto, error) {
	switch {
	case config != "" && len(args) == 0:
		cfg, err := server.ReadConfig(config)
		if err != nil {
			return "", nil, err
		}
		return cfg.DataDir, cfg.Seal, nil
	case config == "" && len(args) == 1:
		return args[0], nil, nil
	}
	return "", nil, usagef("say which data directory: DIR or -config=FILE")
}

// stateFile is the name of a generation's state.
const stateFile = "state.db"

func checkStore(ctx context.Context, c *console, dir string, u server.Unsealer) (err error) {
	stopped, err := server.InspectLive(dir, u)
	if err != nil {
		return reportCorrupt(c.out, err)
	}
	defer func() { err = errors.Join(err, stopped.Close()) }()
	mounts := readMounts(filepath.Join(stopped.Generation.Dir, stateFile), stopped.Keys)
	p := newProgress(c.err)
	report, err := stopped.Check(ctx, p.report)
	p.done()
	if err != nil {
		return reportCorrupt(c.out, err)
	}
	return printReport(c.out, stopped, report, mounts)
}

// reportCorrupt prints a file that cannot be read as the damage that it is;
// other errors are returned.
func reportCorrupt(w io.Writer, err error) error {
	var corrupt *boltfile.CorruptError
	if !errors.As(err, &corrupt) {
		return err
	}
	fmt.Fprintln(w, "damaged:", err)
	return errReported
}

func printReport(w io.Writer, s *server.Stopped, r engine.CheckReport, mounts mountTable) error {
	for _, d := range r.Log {
		fmt.Fprintf(w, "damaged: %s: log, index %d: %s%s\n", d.File, d.Index, d.What, touched(d.Entries, mounts))
	}
	for _, d := range r.Damage {
		fmt.Fprintf(w, "damaged: %s: %s%s\n", d.File, where(d, mounts), d.What)
	}
	if r.NotCompared != "" {
		fmt.Fprintf(w, "not compared: %s\n", r.NotCompared)
	}
	if sync := s.State.Mark().Sync; sync != nil {
		fmt.Fprintf(w, "not consistent: a sync from index %d has not ended; the server continues it\n", sync.From.Index)
	}
	if len(r.Log)+len(r.Damage) > 0 {
		fmt.Fprintf(w, "%s: %d damaged places in %d records\n", s.Generation.Dir, len(r.Log)+len(r.Damage), r.Records)
		return errReported
	}
	end, _ := s.Log.End()
	fmt.Fprintf(w, "%s: nothing wrong: %d records in %d keyspaces, %d leaves, log from %d to %d\n",
		s.Generation.Dir, r.Records, len(r.Totals), r.Leaves, s.Log.First(), end.Index)
	return nil
}

// progress tells on standard error how far a check is, once it takes longer
// than two seconds.
type progress struct {
	w       io.Writer
	began   time.Time
	told    time.Time
	stage   string
	printed bool
}

const (
	silence  = 2 * time.Second
	interval = time.Second
)

func newProgress(w io.Writer) *progress { return &progress{w: w, began: time.Now()} }

func (p *progress) report(stage string, done, total uint64) {
	now := time.Now()
	if now.Sub(p.began) < silence || (now.Sub(p.told) < interval && stage == p.stage) {
		return
	}
	p.told, p.stage, p.printed = now, stage, true
	if total == 0 {
		fmt.Fprintf(p.w, "%s: %d\n", stage, done)
		return
	}
	fmt.Fprintf(p.w, "%s: %d of %d (%d%%)\n", stage, done, total, done*100/total)
}

func (p *progress) done() {
	if p.printed {
		fmt.Fprintf(p.w, "done in %s\n", time.Since(p.began).Round(100*time.Millisecond))
	}
}

// where names the record that is damaged, as far as there is one.
func where(d storage.Damage, mounts mountTable) string {
	switch {
	case d.Keyspace == storage.KeyspaceID{}:
		return ""
	case len(d.Key) == 0:
		return fmt.Sprintf("keyspace %s: ", mounts.describe(d.Keyspace))
	}
	return fmt.Sprintf("keyspace %s, key %q: ", mounts.describe(d.Keyspace), d.Key)
}

// changesShown is how many keys of a damaged frame are named.
const changesShown = 5

// touched names the entries of a damaged frame that may be what is wrong, with the records that they change.
func touched(entries []engine.SuspectEntry, mounts mountTable) string {
	text, shown := "", 0
	if len(entries) > 1 && entries[0].Wrong == "" {
		text = "; one of"
	}
	for _, e := range entries {
		if shown < changesShown {
			text += fmt.Sprintf("; entry %d", e.Index)
			if e.Wrong != "" {
				text += fmt.Sprintf(" (%s)", e.Wrong)
			}
		}
		for _, k := range e.Keys {
			if shown++; shown <= changesShown {
				text += fmt.Sprintf(", keyspace %s, key %q", mounts.describe(k.Keyspace), k.Key)
			}
		}
	}
	if shown > changesShown {
		text += fmt.Sprintf("; and %d more", shown-changesShown)
	}
	return strings.Replace(text, "; one of; ", "; one of ", 1)
}
