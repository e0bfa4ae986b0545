package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/lockstepdb/lockstep/server"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

const walDumpHelp = `Usage: lockstep wal dump [flags] DIR
       lockstep wal dump [flags] -config=FILE

Prints the log of a stopped node: each frame, its entries, and what they
change. Keys are shown; values only with -values. It does not judge what it
reads: lockstep check does.

  -config=FILE    take the directory from a server's configuration
  -from=INDEX     begin with the frame that holds this index
  -to=INDEX       end with the frame that holds this index
  -values         show values too; they may be secret
  -format=json    one JSON object a frame and line
` + unsealHelp

var walDumpCommand = command{"wal dump", "print a stopped node's log", walDumpHelp, runWALDump}

// dump is what of a log is printed, and how.
type dump struct {
	from, to uint64
	values   bool
	json     bool
	mounts   mountTable
}

func runWALDump(_ context.Context, c *console, args []string) (err error) {
	d := dump{}
	fs := newFlags("wal dump")
	config := fs.String("config", "", "")
	shares := newUnsealFlag(fs)
	format := fs.String("format", "table", "")
	fs.Uint64Var(&d.from, "from", 0, "")
	fs.Uint64Var(&d.to, "to", 0, "")
	fs.BoolVar(&d.values, "values", false, "")
	if err := parse(fs, args, 0, 1); err != nil {
		return err
	}
	if err := checkFormat(*format); err != nil {
		return err
	}
	d.json = *format == "json"
	dir, auto, err := dataDir(*config, fs.Args())
	if err != nil {
		return err
	}
	stopped, err := server.InspectLive(dir, shares.unsealer(c, auto))
	if err != nil {
		return reportCorrupt(c.out, err)
	}
	defer func() { err = errors.Join(err, stopped.Close()) }()
	d.mounts = readMounts(filepath.Join(stopped.Generation.Dir, stateFile), stopped.Keys)
	return d.print(c.out, stopped.Log)
}

// print writes the frames asked for, oldest first.
func (d *dump) print(w io.Writer, log *wal.Log) error {
	d.from = max(d.from, log.First())
	frames := log.Reader(d.from)
	for d.to == 0 || d.from <= d.to { // to the end, where a reader is told if it is not the true one
		f, err := frames.TryNext()
		if err != nil {
			return fmt.Errorf("read the log at index %d: %w", d.from, err)
		}
		if f == nil {
			return nil
		}
		if err := d.frame(w, f); err != nil {
			return err
		}
		d.from = f.Last() + 1
	}
	return nil
}

func (d *dump) frame(w io.Writer, f *wal.Frame) error {
	shown, err := d.show(f)
	if err != nil {
		return err
	}
	if d.json {
		return json.NewEncoder(w).Encode(shown)
	}
	return shown.print(w)
}

// shownFrame, shownEntry and shownChange are what is printed of a frame.
type shownFrame struct {
	First   uint64       `json:"first"`
	Last    uint64       `json:"last"`
	Time    time.Time    `json:"time"`
	Ordinal uint64       `json:"ordinal"`
	Fork    string       `json:"fork"`
	Lineage string       `json:"lineage"`
	Bytes   uint64       `json:"bytes"`
	Chain   string       `json:"chain"`
	Entries []shownEntry `json:"entries"`
}

type shownEntry struct {
	Index        uint64        `json:"index"`
	Source       string        `json:"source,omitempty"`
	RequestID    string        `json:"request_id,omitempty"`
	Housekeeping bool          `json:"housekeeping,omitempty"`
	Changes      []shownChange `json:"changes,omitempty"`
	Damaged      string        `json:"damaged,omitempty"`
}

type shownChange struct {
	Op       string  `json:"op"`
	Keyspace string  `json:"keyspace"`
	Mount    string  `json:"mount,omitempty"`
	Scope    string  `json:"scope"`
	Key      string  `json:"key"`
	Bytes    int     `json:"bytes"`
	Value    *string `json:"value,omitempty"`
}

func (d *dump) show(f *wal.Frame) (*shownFrame, error) {
	s := &shownFrame{First: f.First, Last: f.Last(), Time: time.Unix(0, f.Time).UTC(), Ordinal: f.Ordinal,
		Fork: f.Fork.String(), Lineage: f.Lineage.String(), Bytes: f.Length, Chain: fmt.Sprintf("%x", f.Chain[:8])}
	for i, raw := range f.Entries {
		e, err := storage.DecodeEntry(raw)
		if err != nil {
			s.Entries = append(s.Entries, shownEntry{Index: f.First + uint64(i), Damaged: err.Error()})
			continue
		}
		s.Entries = append(s.Entries, d.entry(e))
	}
	return s, nil
}

func (d *dump) entry(e *storage.Entry) shownEntry {
	s := shownEntry{Index: e.Index, RequestID: e.RequestID, Housekeeping: e.Housekeeping}
	if !e.Upstream.IsZero() {
		s.Source = fmt.Sprintf("%s/%d", e.Upstream.Fork, e.Upstream.Index)
	}
	for _, b := range e.Blocks {
		for _, ch := range b.Changes {
			s.Changes = append(s.Changes, d.change(b, ch))
		}
	}
	return s
}

func (d *dump) change(b storage.Block, ch storage.Change) shownChange {
	s := shownChange{Op: opName(ch.Op), Keyspace: b.Keyspace.String(), Mount: d.mounts.name(b.Keyspace),
		Scope: scopeName(b.Scope), Key: string(ch.Key), Bytes: len(ch.Value)}
	if d.values && ch.Op == storage.Put {
		value := string(ch.Value)
		s.Value = &value
	}
	return s
}

func opName(op storage.Op) string {
	switch op {
	case storage.Put:
		return "put"
	case storage.Delete:
		return "delete"
	case storage.Drop:
		return "drop"
	case storage.Attach:
		return "attach"
	}
	return fmt.Sprintf("op %d", op)
}

func scopeName(s storage.Scope) string {
	switch s {
	case storage.Replicated:
		return "replicated"
	case storage.Local:
		return "local"
	}
	return fmt.Sprintf("scope %d", s)
}

// print writes a frame for people.
func (s *shownFrame) print(w io.Writer) error {
	fmt.Fprintf(w, "frame %d-%d  %s  fork %s (%d)  %d bytes  chain %s\n",
		s.First, s.Last, s.Time.Format(time.RFC3339Nano), s.Fork, s.Ordinal, s.Bytes, s.Chain)
	for _, e := range s.Entries {
		e.print(w)
	}
	return nil
}

func (e shownEntry) print(w io.Writer) {
	line := fmt.Sprintf("  entry %d", e.Index)
	if e.Source != "" {
		line += "  source " + e.Source
	}
	if e.RequestID != "" {
		line += "  request " + e.RequestID
	}
	if e.Housekeeping {
		line += "  housekeeping"
	}
	if e.Damaged != "" {
		line += "  damaged: " + e.Damaged
	}
	fmt.Fprintln(w, line)
	for _, c := range e.Changes {
		place := c.Mount
		if place == "" {
			place = c.Keyspace
		}
		fmt.Fprintf(w, "    %-6s %s %q", c.Op, place, c.Key)
		if c.Op == "put" {
			fmt.Fprintf(w, "  %d bytes", c.Bytes)
		}
		if c.Value != nil {
			fmt.Fprintf(w, "  %q", *c.Value)
		}
		fmt.Fprintln(w)
	}
}
