package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/lockstepdb/lockstep/internal/client"
	"github.com/lockstepdb/lockstep/server/snapshot"
)

const snapshotSaveHelp = `Usage: lockstep snapshot save [-address=URL] -output=FILE

Takes a snapshot of a running cluster: one moment of everything that it holds,
encrypted as its store is. Writes go on meanwhile. FILE appears when it is
whole and was compared with its checksums; until then it is FILE.partial.
Needs a token with sudo on sys/storage/snapshot; on a DR secondary a DR operation
token, in LOCKSTEP_DR_OPERATION_TOKEN or in the other's place.

  -address=URL   the cluster; else VAULT_ADDR. VAULT_TOKEN and VAULT_CACERT as in
                 lockstep help status
  -output=FILE   where to; a file that is there is replaced

A snapshot is opened with the unseal shares (or the auto key) that were in force
when it was taken. Keep them; without them it is worth nothing.
`

var snapshotSaveCommand = command{"snapshot save", "take a snapshot of a running cluster", snapshotSaveHelp, runSnapshotSave}

func runSnapshotSave(ctx context.Context, c *console, args []string) error {
	fs := newFlags("snapshot save")
	address := fs.String("address", "", "")
	output := fs.String("output", "", "")
	if err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	if *output == "" {
		return usagef("snapshot save: say where to with -output=FILE")
	}
	api, err := clientAt(*address)
	if err != nil {
		return err
	}
	if err := authoriseDR(ctx, api); err != nil {
		return err
	}
	h, s, err := saveTo(*output, newProgress(c.err), func() (io.ReadCloser, error) { return api.Stream(ctx, "GET", "sys/storage/snapshot", nil) })
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s: snapshot %s of %s at index %d: %d records, root %s\n", *output, h.ID, h.ClusterName, s.Index, s.Records, s.Root)
	return nil
}

func clientAt(address string) (*client.Client, error) {
	return client.FromEnvironment(func(name string) string {
		if address != "" && name == "LOCKSTEP_ADDR" {
			return address
		}
		return os.Getenv(name)
	})
}

// authoriseDR lets a DR secondary be asked with the DR operation token of the environment, and any other cluster with the usual one.
func authoriseDR(ctx context.Context, api *client.Client) error {
	token := operationToken()
	if token == "" {
		return nil
	}
	var health struct {
		Mode string `json:"replication_dr_mode"`
	}
	if err := api.Do(ctx, "GET", healthPath, nil, &health); err != nil {
		return fmt.Errorf("ask %s for its health: %w", api.Address, err)
	}
	if health.Mode == "secondary" {
		api.Token = token
	}
	return nil
}

const partialSuffix = ".partial"

// saveTo writes a snapshot to a file that has its name only once it is whole.
func saveTo(file string, p *progress, ask func() (io.ReadCloser, error)) (h snapshot.Header, s snapshot.Summary, err error) {
	partial := file + partialSuffix
	f, err := os.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return h, s, fmt.Errorf("write the snapshot: %w", err)
	}
	r, err := copyVerified(f, p, ask)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(partial, file)
	}
	if err != nil {
		return h, s, errors.Join(fmt.Errorf("no snapshot was saved: %w", err), os.Remove(partial))
	}
	return r.Header, r.Summary, syncParent(file)
}

// copyVerified writes what ask gives, and reads it on the way as one who restores it does.
func copyVerified(to io.Writer, p *progress, ask func() (io.ReadCloser, error)) (*snapshot.Reader, error) {
	from, err := ask()
	if err != nil {
		return nil, err
	}
	defer from.Close()
	w := bufio.NewWriterSize(to, 1<<20)
	r, err := snapshot.Open(io.TeeReader(from, w))
	if err != nil {
		return nil, err
	}
	if err := verify(r, p); err != nil {
		return nil, err
	}
	if _, err := io.Copy(w, from); err != nil {
		return nil, err
	}
	return r, w.Flush()
}

func syncParent(file string) error {
	d, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func verify(r *snapshot.Reader, p *progress) error {
	defer p.done()
	return r.Verify(func(bytes int64) { p.report("MiB", uint64(bytes>>20), 0) })
}

const snapshotInspectHelp = `Usage: lockstep snapshot inspect [flags] FILE

Says of what, from when and how much a snapshot is, and compares every part with
its checksum. Exit code 0: it is whole; 1: it is not. No keys are needed; with
them the parts are opened too, which shows that they are this snapshot's.

  -format=json            for programs
  -unseal                 open it with its shares or its auto key
  -unseal-key-file=FILE   shares, one a line; else LOCKSTEP_UNSEAL_KEYS, or asked for
`

var snapshotInspectCommand = command{"snapshot inspect", "show what a snapshot holds, and whether it is whole", snapshotInspectHelp, runSnapshotInspect}

// inspected is what -format=json prints.
type inspected struct {
	File   string           `json:"file"`
	Opened bool             `json:"opened"` // with its keys
	Header snapshot.Header  `json:"header"`
	Holds  snapshot.Summary `json:"holds"`
}

func runSnapshotInspect(_ context.Context, c *console, args []string) error {
	fs := newFlags("snapshot inspect")
	format := fs.String("format", "table", "")
	unseal := fs.Bool("unseal", false, "")
	shares := newUnsealFlag(fs)
	if err := parse(fs, args, 1, 1); err != nil {
		return err
	}
	if err := checkFormat(*format); err != nil {
		return err
	}
	file := fs.Arg(0)
	r, closeFile, err := openSnapshot(file)
	if err != nil {
		return err
	}
	defer closeFile()
	if *unseal {
		if err := shares.unsealer(c, nil).OpenSnapshot(r, file); err != nil {
			return err
		}
	}
	if err := verify(r, newProgress(c.err)); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if *format == "json" {
		enc := json.NewEncoder(c.out)
		enc.SetIndent("", "  ")
		return enc.Encode(inspected{file, *unseal, r.Header, r.Summary})
	}
	return printSnapshot(c.out, file, r, *unseal)
}

func printSnapshot(w io.Writer, file string, r *snapshot.Reader, opened bool) error {
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	h, s := &r.Header, &r.Summary
	checked := "whole: every part matches its checksum"
	if opened {
		checked += ", and opens with the keys"
	}
	of := "primary, or without replication"
	if h.Secondary || h.Log == "verbatim" {
		of = "secondary"
	}
	for _, line := range [][2]string{
		{"File", file}, {"Checked", checked}, {"Snapshot", h.ID}, {"Cluster", h.ClusterName}, {"Cluster id", h.ClusterID}, {"Taken of a", of},
		{"Begun", h.Taken.Format(time.RFC3339)}, {"Finished", s.Finished.Format(time.RFC3339)}, {"Index", fmt.Sprint(s.Index)},
		{"Keyspaces", fmt.Sprint(s.Keyspaces)}, {"Records", fmt.Sprint(s.Records)}, {"Root", s.Root},
		{"Written meanwhile", fmt.Sprintf("%d entries", s.Entries)}, {"Size", fmt.Sprintf("%d bytes in %d parts", s.Bytes, s.Pieces)},
		{"Opened by", fmt.Sprintf("%d of %d shares (%s)", r.Seal.Threshold, r.Seal.Shares, r.Seal.Type)}, {"Written by", h.Version},
	} {
		row(t, line[0], line[1])
	}
	return t.Flush()
}

func openSnapshot(file string) (*snapshot.Reader, func(), error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, fmt.Errorf("read the snapshot: %w", err)
	}
	r, err := snapshot.Open(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", file, err), f.Close())
	}
	return r, func() { f.Close() }, nil
}

// confirm asks a person; anything but yes is no.
func confirm(c *console, question string) error {
	in, ok := c.in.(*os.File)
	if !ok || !isTerminal(in) {
		return usagef("nobody is there to be asked: repeat with -yes")
	}
	fmt.Fprintf(c.err, "%s Type yes to go on: ", question)
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != "yes" {
		return errors.New("not confirmed: nothing was changed")
	}
	return nil
}

// existing tells whether a directory is there.
func existing(dir string) bool {
	_, err := os.Stat(dir)
	return !errors.Is(err, fs.ErrNotExist)
}
