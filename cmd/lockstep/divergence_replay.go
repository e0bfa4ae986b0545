package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/lockstepdb/lockstep/internal/client"
)

// replayResult is what a replay came to.
type replayResult struct {
	Applied   int              `json:"applied"`
	Conflicts []map[string]any `json:"conflicts"`
	NotLost   int              `json:"not_lost,omitempty"`             // came from a place that the set still has
	Unlisted  map[string]int   `json:"conflicts_not_listed,omitempty"` // by why
}

// maxConflicts is how many changes that were not written are listed; the rest is counted.
const maxConflicts = 10_000

func (r *replayResult) refused(row map[string]any) {
	if len(r.Conflicts) < maxConflicts {
		r.Conflicts = append(r.Conflicts, row)
		return
	}
	r.unlisted(text(row["why"]), 1)
}

func (r *replayResult) unlisted(why string, n int) {
	if r.Unlisted == nil {
		r.Unlisted = map[string]int{}
	}
	r.Unlisted[why] += n
}

// add takes in what one part came to.
func (r *replayResult) add(part *replayResult) {
	r.Applied += part.Applied
	r.NotLost += part.NotLost
	for _, row := range part.Conflicts {
		r.refused(row)
	}
	for why, n := range part.Unlisted {
		r.unlisted(why, n)
	}
}

func (r *replayResult) print(w io.Writer) {
	left := len(r.Conflicts)
	for _, n := range r.Unlisted {
		left += n
	}
	fmt.Fprintf(w, "Written again: %d. Not written: %d.\n", r.Applied, left)
	for _, row := range r.Conflicts {
		fmt.Fprintf(w, "  index %v, %v of %v%v: %v\n", row["index"], row["op"], row["mount"], orEmpty(row["key"]), row["why"])
	}
	for _, why := range slices.Sorted(maps.Keys(r.Unlisted)) {
		fmt.Fprintf(w, "  and %d more: %s\n", r.Unlisted[why], why)
	}
	if r.NotLost > 0 {
		fmt.Fprintf(w, "Not lost, the set has them: %d.\n", r.NotLost)
	}
}

func runDivergenceReplay(ctx context.Context, c *console, args []string) error {
	fs := newFlags("divergence replay")
	f := divergenceFlags{fs.Bool("dr-token", false, ""), fs.String("format", "table", "")}
	to := fs.String("to", "", "")
	if err := parse(fs, args, 1, 1); err != nil {
		return err
	}
	d, err := askDivergence(f)
	if err != nil {
		return err
	}
	result := &replayResult{Conflicts: []map[string]any{}}
	switch {
	case *to != "":
		err = d.replayOn(ctx, fs.Arg(0), *to, result)
	case d.dr:
		return usagef("divergence replay: a DR secondary takes no writes: name the primary's API with -to=URL")
	default:
		var answer struct {
			Data *replayResult `json:"data"`
		}
		answer.Data = result
		err = d.api.Do(ctx, "POST", "sys/replication/divergence/"+url.PathEscape(fs.Arg(0))+"/replay", nil, &answer)
	}
	if err != nil {
		return err
	}
	if *f.format == "json" {
		return printJSON(c, result)
	}
	result.print(c.out)
	return nil
}

func orEmpty(v any) any {
	if v == nil {
		return ""
	}
	return v
}

const (
	replayRows  = 1000
	replayBytes = 8 << 20
)

// replayOn exports an archive from the cluster that holds it, and has the primary write it: the last change of each record, once.
func (d *divergence) replayOn(ctx context.Context, id, to string, result *replayResult) error {
	if !strings.HasPrefix(to, "https://") && !strings.HasPrefix(to, "http://") {
		return usagef("divergence replay: -to must begin with https:// or http://")
	}
	token := os.Getenv("LOCKSTEP_TO_TOKEN")
	if token == "" {
		return usagef("divergence replay: -to needs a token of that cluster in LOCKSTEP_TO_TOKEN")
	}
	primary := &client.Client{Address: strings.TrimSuffix(to, "/"), Token: token, HTTP: d.api.HTTP}
	last, err := d.lastRows(ctx, id)
	if err != nil {
		return err
	}
	var about map[string]any
	var batch []json.RawMessage
	size := 0
	send := func() error {
		if len(batch) == 0 {
			return nil
		}
		var answer struct {
			Data replayResult `json:"data"`
		}
		body := map[string]any{"common_index": about["common_index"], "common_fork": about["common_fork"], "changes": batch}
		if err := primary.Do(ctx, "POST", "sys/replication/divergence/replay", body, &answer); err != nil {
			return err
		}
		result.add(&answer.Data)
		batch, size = nil, 0
		return nil
	}
	err = d.export(ctx, id, func(first map[string]any, rows []json.RawMessage) error {
		if first != nil {
			about = first
		}
		if about["source"] == "repair" {
			return fmt.Errorf("archive %s is of a repair: it does not tell what its records were based on, so whether one may be written again cannot be told: lockstep divergence export %s, and write what is to be kept", id, id)
		}
		for _, raw := range rows {
			row, err := decodeRow(raw)
			if err != nil {
				return err
			}
			if row.Kind == "entry" && !row.Lost {
				result.NotLost++
				continue
			}
			if why := row.cannot(); why != "" {
				result.refused(map[string]any{"index": row.Index, "op": row.Op, "mount": row.Mount, "key": row.Key, "why": why})
				continue
			}
			if last[row.name()] != row.Index {
				continue
			}
			batch = append(batch, raw)
			if size += len(raw); len(batch) >= replayRows || size >= replayBytes {
				if err := send(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return send()
}

// exportRow is a row of an export.
type exportRow struct {
	Kind     string `json:"kind"`
	Index    uint64 `json:"index"`
	Lost     bool   `json:"lost"`
	Op       string `json:"op"`
	Keyspace string `json:"keyspace"`
	Mount    string `json:"mount"`
	Key      string `json:"key"`
	RawKey   string `json:"key_base64"`
}

func decodeRow(raw json.RawMessage) (*exportRow, error) {
	var row exportRow
	if err := json.Unmarshal(raw, &row); err != nil {
		return nil, fmt.Errorf("a row of the export is not of the form expected: %w", err)
	}
	return &row, nil
}

func (r *exportRow) name() string { return r.Keyspace + " " + r.RawKey }

// cannot says why a row is not sent.
func (r *exportRow) cannot() string {
	switch {
	case r.Kind != "entry":
		return "a repair does not tell what the record was based on: export it"
	case !r.Lost:
		return "it is not lost: it came from a place that the set still has"
	case r.Op == "drop":
		return "a whole keyspace was dropped: disable the mount again"
	case r.Mount == "sys/":
		return "a record of the system's own: repeat the call that made it"
	}
	return ""
}

// lastRows returns the index of each record's last change.
func (d *divergence) lastRows(ctx context.Context, id string) (map[string]uint64, error) {
	last := map[string]uint64{}
	err := d.pages(ctx, "/"+url.PathEscape(id), nil, func(_ json.RawMessage, page *archiveInfo, _ bool) error {
		for _, raw := range page.Items {
			row, err := decodeRow(raw)
			if err != nil {
				return err
			}
			if row.cannot() == "" {
				last[row.name()] = row.Index
			}
		}
		return nil
	})
	return last, err
}
