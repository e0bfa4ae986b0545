package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/lockstepdb/lockstep/internal/buildinfo"
	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

const versionHelp = `Usage: lockstep version [-format=json]

Prints the version, the commit, the Go release, and the versions of the wire
protocol and of the file formats. Two clusters can replicate when their wire
versions are the same.
`

var versionCommand = command{"version", "print version, commit, wire and format versions", versionHelp, runVersion}

type versions struct {
	buildinfo.Info
	Wire  int `json:"wire_version"`
	Log   int `json:"log_format"`
	State int `json:"state_format"`
}

func runVersion(_ context.Context, c *console, args []string) error {
	fs := newFlags("version")
	format := fs.String("format", "table", "")
	if err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	if err := checkFormat(*format); err != nil {
		return err
	}
	v := versions{Info: buildinfo.Read(), Wire: replication.WireVersion, Log: wal.FormatVersion, State: storage.FormatVersion}
	if *format == "json" {
		return json.NewEncoder(c.out).Encode(v)
	}
	fmt.Fprintf(c.out, "lockstep %s\ncommit   %s\ngo       %s %s\nwire     %d\nlog      %d\nstate    %d\n",
		v.Version, v.Commit, v.Go, v.Target, v.Wire, v.Log, v.State)
	return nil
}
