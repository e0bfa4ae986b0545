package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/server"
	"github.com/lockstepdb/lockstep/server/snapshot"
)

const snapshotRestoreHelp = `Usage: lockstep snapshot restore [-yes] -config=FILE SNAPSHOT
       lockstep snapshot restore [-yes] SNAPSHOT DIR
       lockstep snapshot restore -running [-address=URL] [-force] SNAPSHOT

Makes a store of a snapshot. The cluster is then what it was at that moment: same
cluster id, same part in its replication sets, unsealed with the shares that were
in force then. It begins a new epoch, so that secondaries that hold more go back
with it.

The first two forms need an empty data directory, whose server is stopped. They
show what they do and ask. Run them as the user that the server runs as.
Make sure that the cluster the snapshot is of runs nowhere else.

The third replaces all that a running cluster holds by an own snapshot of it.
Without -force it only compares the snapshot and says what would be lost. The
store that is replaced goes to the trash (trash_keep).

  -config=FILE    take the directory from a server's configuration
  -yes            do not ask
  -running        send the snapshot to a running cluster
  -address=URL    which one; else VAULT_ADDR
  -force          replace what it holds
` + unsealHelp

var snapshotRestoreCommand = command{"snapshot restore", "make a store of a snapshot", snapshotRestoreHelp, runSnapshotRestore}

// restoring is what the command line says.
type restoring struct {
	running, force, yes bool
	config, address     string
	shares              unsealFlag
}

func runSnapshotRestore(ctx context.Context, c *console, args []string) error {
	var o restoring
	fs := newFlags("snapshot restore")
	fs.StringVar(&o.config, "config", "", "")
	fs.StringVar(&o.address, "address", "", "")
	fs.BoolVar(&o.running, "running", false, "")
	fs.BoolVar(&o.force, "force", false, "")
	fs.BoolVar(&o.yes, "yes", false, "")
	o.shares = newUnsealFlag(fs)
	if err := parse(fs, args, 1, 2); err != nil {
		return err
	}
	switch {
	case o.running && (o.config != "" || fs.NArg() == 2 || o.yes):
		return usagef("snapshot restore: -running takes neither -config, DIR nor -yes: the running cluster has its own directory, and -force confirms")
	case o.running:
		return o.send(ctx, c, fs.Arg(0))
	case o.force || o.address != "":
		return usagef("snapshot restore: -force and -address go with -running")
	}
	cfg, err := o.target(fs.Args()[1:])
	if err != nil {
		return err
	}
	return o.make(ctx, c, cfg, fs.Arg(0))
}

// leastFree is what a restore leaves free on a disk of which no configuration says more.
const leastFree = 64 << 20

// target is the configuration of the node that is to be.
func (o *restoring) target(args []string) (*server.Config, error) {
	switch {
	case o.config != "" && len(args) == 0:
		return server.ReadConfig(o.config)
	case o.config == "" && len(args) == 1:
		return &server.Config{DataDir: args[0], MinFree: leastFree}, nil
	}
	return nil, usagef("snapshot restore: say which data directory: DIR or -config=FILE")
}

// make restores into an empty data directory.
func (o *restoring) make(ctx context.Context, c *console, cfg *server.Config, file string) error {
	if existing(cfg.DataDir) {
		if err := sameOwner(cfg.DataDir); err != nil {
			return err
		}
	}
	r, closeFile, err := openSnapshot(file)
	if err != nil {
		return err
	}
	defer closeFile()
	h := &r.Header
	fmt.Fprintf(c.err, "Restoring the snapshot %s of cluster %q (%s), taken %s at index %d with %d records, into %s.\n",
		h.ID, h.ClusterName, h.ClusterID, h.Taken.Format(time.RFC3339), h.From, h.Records, cfg.DataDir)
	if !o.yes {
		if err := confirm(c, "The cluster must not run anywhere else."); err != nil {
			return err
		}
	}
	log := hclog.New(&hclog.LoggerOptions{Name: "lockstep", Level: hclog.Warn, Output: c.err})
	p := newProgress(c.err)
	done, err := server.RestoreStopped(ctx, cfg, r, o.shares.unsealer(c, cfg.Seal), log, func(bytes int64) { p.report("MiB", uint64(bytes>>20), 0) })
	p.done()
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s: restored at index %d: %d records, root %s", cfg.DataDir, done.Index, done.Records, done.Root)
	if done.Ordinal > 0 {
		fmt.Fprintf(c.out, "; epoch %d begun", done.Ordinal)
	}
	fmt.Fprintln(c.out, ". Start the server and unseal it.")
	return nil
}

// send restores over HTTP.
func (o *restoring) send(ctx context.Context, c *console, file string) error {
	api, err := clientAt(o.address)
	if err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read the snapshot: %w", err)
	}
	defer f.Close()
	path := "sys/storage/snapshot"
	if o.force {
		path = "sys/storage/snapshot-force"
	}
	var answer struct {
		Data     snapshot.Restored `json:"data"`
		Warnings []string          `json:"warnings"`
	}
	if err := api.Send(ctx, "POST", path, f, &answer); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "%s: restored at index %d: %d records, root %s; epoch %d begun\n", api.Address, answer.Data.Index, answer.Data.Records, answer.Data.Root, answer.Data.Ordinal)
	for _, w := range answer.Warnings {
		fmt.Fprintln(c.err, w)
	}
	return nil
}
