package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/lockstepdb/lockstep/internal/client"
)

const statusHelp = `Usage: lockstep status [-format=json] [-timeout=5s]

Asks a running cluster for its health and its replication status. No token is
needed. The address is VAULT_ADDR (https://127.0.0.1:8200); the CA's
certificate is VAULT_CACERT, a directory of them VAULT_CAPATH;
VAULT_SKIP_VERIFY=true believes any. The same names with LOCKSTEP_ win.

A sealed node tells how far unsealing is and what to do; the exit code is 2 then.
A node that has not answered after -timeout is given up, with exit code 1.
`

var statusCommand = command{"status", "show a running cluster and its replication", statusHelp, runStatus}

// clusterStatus is what -format=json prints.
type clusterStatus struct {
	Address     string         `json:"address"`
	Health      map[string]any `json:"health"`
	Seal        *sealStatus    `json:"seal,omitempty"`       // of a sealed node
	Replication sets           `json:"replication,omitzero"` // a sealed node cannot tell
}

// sets are the statuses of the two replication sets.
type sets struct {
	DR          map[string]any `json:"dr"`
	Performance map[string]any `json:"performance"`
}

func runStatus(ctx context.Context, c *console, args []string) error {
	fs := newFlags("status")
	format := fs.String("format", "table", "")
	timeout := fs.Duration("timeout", 5*time.Second, "")
	if err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	if err := checkFormat(*format); err != nil {
		return err
	}
	if *timeout <= 0 {
		return usagef("status: -timeout=%v: want more than nothing", *timeout)
	}
	api, err := client.FromEnvironment(os.Getenv)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	s, err := askStatus(limited, api)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("%s has not answered within %v: it hangs, or the network drops what is sent to it. See its log; -timeout=1m waits longer", api.Address, *timeout)
	}
	if err != nil {
		return err
	}
	if *format == "json" {
		enc := json.NewEncoder(c.out)
		enc.SetIndent("", "  ")
		err = enc.Encode(s)
	} else {
		err = s.print(c.out)
	}
	if err == nil && s.Seal != nil {
		return errSealed
	}
	return err
}

// healthPath asks for the answer whatever the cluster's condition: 299 for all.
const healthPath = "sys/health?activecode=299&standbycode=299&drsecondarycode=299&performancestandbycode=299&uninitcode=299&sealedcode=299"

func askStatus(ctx context.Context, api *client.Client) (*clusterStatus, error) {
	s := &clusterStatus{Address: api.Address}
	if err := api.Do(ctx, "GET", healthPath, nil, &s.Health); err != nil {
		return nil, fmt.Errorf("ask %s for its health: %w", api.Address, err)
	}
	if s.Health["sealed"] == true {
		if err := api.Do(ctx, "GET", "sys/seal-status", nil, &s.Seal); err != nil {
			return nil, fmt.Errorf("ask %s for its seal's status: %w", api.Address, err)
		}
		s.Seal.ToDo = s.Seal.advice()
		return s, nil
	}
	var answer struct {
		Data sets `json:"data"`
	}
	if err := api.Do(ctx, "GET", "sys/replication/status", nil, &answer); err != nil {
		return nil, fmt.Errorf("ask %s for its replication status: %w", api.Address, err)
	}
	s.Replication = answer.Data
	return s, nil
}

func (s *clusterStatus) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	row(t, "Address", s.Address)
	for _, f := range []field{{"Cluster", "cluster_name"}, {"Cluster id", "cluster_id"}, {"Version", "version"},
		{"Initialized", "initialized"}, {"Sealed", "sealed"}} {
		f.print(t, s.Health)
	}
	if s.Seal != nil {
		s.Seal.print(t)
		return t.Flush()
	}
	printSet(t, "DR", s.Replication.DR)
	printSet(t, "Performance", s.Replication.Performance)
	return t.Flush()
}

// field is a row of the table: its title and the key of the status.
type field struct{ title, key string }

func (f field) print(w io.Writer, from map[string]any) {
	if v, ok := from[f.key]; ok && text(v) != "" {
		row(w, f.title, text(v))
	}
}

// setFields are the rows of a replication set, in order; what a status does
// not have is left out. A primary's last index of the set and a secondary's
// received one count the same log; a performance secondary's own log counts
// for itself.
var setFields = []field{
	{"State", "state"}, {"Reason", "reason"}, {"Connection", "connection_state"}, {"Set", "cluster_id"}, {"Secondary id", "secondary_id"},
	{"Primary", "primary_cluster_addr"}, {"Last index of the set", "last_dr_wal"}, {"Last index of the set", "last_performance_wal"},
	{"Received index", "last_remote_wal"}, {"Own log's index", "last_wal"},
	{"Lag, entries", "lag_entries"}, {"Lag, ms", "lag_ms"}, {"Root", "merkle_root"},
	{"Filtered mounts", "filtered_mounts"}, {"Filling mounts", "filling_mounts"}, {"Damage found", "corrupted_merkle_tree"},
	{"Consistent", "consistent"}, {"Resumed since start", "resumes"}, {"Bytes of diff", "diff_bytes"}, {"Bytes of sync", "sync_bytes"},
}

func printSet(w io.Writer, title string, status map[string]any) {
	fmt.Fprintln(w)
	row(w, title, text(status["mode"]))
	for _, f := range setFields {
		f.print(w, status)
	}
	for _, kind := range []string{"secondaries", "primaries"} {
		peers, _ := status[kind].([]any)
		for _, p := range peers {
			if peer, ok := p.(map[string]any); ok {
				row(w, "  "+strings.TrimSuffix(kind, "ies")+"y", peerLine(peer))
			}
		}
	}
}

func peerLine(peer map[string]any) string {
	var words []string
	for _, key := range []string{"node_id", "api_address", "connection_status", "state"} {
		if v := text(peer[key]); v != "" {
			words = append(words, v)
		}
	}
	if lag := text(peer["lag_entries"]); lag != "" {
		words = append(words, "lag "+lag+" entries")
	}
	if root := text(peer["merkle_root"]); root != "" {
		words = append(words, "root "+root)
	}
	if mounts := text(peer["filtered_mounts"]); mounts != "" {
		words = append(words, "without "+mounts)
	}
	if at := text(peer["last_heartbeat"]); at != "" {
		words = append(words, "heard of at "+at)
	}
	return strings.Join(words, "  ")
}

func row(w io.Writer, title, value string) { fmt.Fprintf(w, "%s\t%s\n", title, value) }

func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case float64:
		return fmt.Sprintf("%.0f", v)
	case []any:
		var words []string
		for _, one := range v {
			words = append(words, text(one))
		}
		return strings.Join(words, ", ")
	case map[string]any:
		var words []string
		for _, key := range slices.Sorted(maps.Keys(v)) {
			words = append(words, key+" "+text(v[key]))
		}
		return strings.Join(words, ", ")
	}
	return fmt.Sprint(v)
}
