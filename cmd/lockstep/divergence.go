package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"text/tabwriter"

	"github.com/lockstepdb/lockstep/internal/client"
)

const divergenceAccess = `
The cluster is the one that VAULT_ADDR names, the token VAULT_TOKEN; the same
names with LOCKSTEP_ win. A DR secondary serves no tokens: -dr-token says that
it is one, and it takes a DR operation token, which LOCKSTEP_DR_OPERATION_TOKEN
holds, or VAULT_TOKEN.
`

const divergenceListHelp = `Usage: lockstep divergence list [-dr-token] [-format=json]

Lists the archives of what this cluster wrote or held and its primary does not
have: taken back by a rewind, or overwritten by a repair.
` + divergenceAccess

const divergenceShowHelp = `Usage: lockstep divergence show [-values] [-dr-token] [-format=json] ID

Shows what an archive holds, a line a write. Values are left out unless -values
asks for them, in base64; that needs sudo.
` + divergenceAccess

const divergenceExportHelp = `Usage: lockstep divergence export [-dr-token] ID

Writes an archive to standard output, with all values: first a line of JSON
about the archive, then one a write. Values of the system's own records are
never among them.
` + divergenceAccess

const divergenceReplayHelp = `Usage: lockstep divergence replay [-to=URL] [-dr-token] [-format=json] ID

Writes what an archive holds again: each record only if nothing has touched it
since the histories parted. What was not written is listed, with the reason.

The cluster that holds the archive replays it when it is the primary. Otherwise
name the primary's API with -to; its token is LOCKSTEP_TO_TOKEN, and the CA that
is trusted is the same. Repeating it is harmless.
` + divergenceAccess

const divergenceDiscardHelp = `Usage: lockstep divergence discard -confirm=ID [-dr-token] ID

Removes an archive for good. Export it first. -confirm repeats its id.
` + divergenceAccess

var (
	divergenceListCommand    = command{"divergence list", "list archives of lost writes", divergenceListHelp, runDivergenceList}
	divergenceShowCommand    = command{"divergence show", "show what an archive holds", divergenceShowHelp, runDivergenceShow}
	divergenceExportCommand  = command{"divergence export", "write an archive out, with values", divergenceExportHelp, runDivergenceExport}
	divergenceReplayCommand  = command{"divergence replay", "write again what nothing has touched since", divergenceReplayHelp, runDivergenceReplay}
	divergenceDiscardCommand = command{"divergence discard", "remove an archive for good", divergenceDiscardHelp, runDivergenceDiscard}
)

// divergence asks a cluster about its archives.
type divergence struct {
	api *client.Client
	dr  bool // a DR secondary is asked, with a DR operation token
}

// archiveInfo is what the commands need of an archive's description; the rest passes through.
type archiveInfo struct {
	ID          string            `json:"id"`
	CommonIndex uint64            `json:"common_index"`
	CommonFork  string            `json:"common_fork"`
	Items       []json.RawMessage `json:"items"`
	Next        uint64            `json:"next"`
	Problem     string            `json:"problem"`
	Tightenings []string          `json:"tightenings"`
	Repeat      []string          `json:"repeat"`
	Unnamed     uint64            `json:"tightenings_not_listed"`
}

// sayTightenings names what took rights away in the lost time, and the calls that do so again.
func sayTightenings(c *console, a *archiveInfo) {
	if len(a.Tightenings) == 0 {
		return
	}
	fmt.Fprintf(c.err, "What took rights away and was taken back (archive %s):\n", a.ID)
	for _, what := range a.Tightenings {
		fmt.Fprintf(c.err, "  %s\n", what)
	}
	if a.Unnamed > 0 {
		fmt.Fprintf(c.err, "  and %d more, which are not listed: look through the writes to sys/ in the archive\n", a.Unnamed)
	}
	if len(a.Repeat) == 0 {
		fmt.Fprintln(c.err, "Nothing of it need be repeated: a promoted cluster knows no DR secondary of the former primary, and none of its tokens.")
		return
	}
	fmt.Fprintln(c.err, "Look whether it still holds, then say there, with its own token:")
	for _, call := range a.Repeat {
		fmt.Fprintf(c.err, "  %s\n", call)
	}
}

// ask makes a call below sys/replication/divergence and fills out from the answer's data.
func (d *divergence) ask(ctx context.Context, method, path string, params map[string]any, out any) error {
	base, body := "sys/replication/divergence", any(nil)
	if d.dr {
		method, base = "POST", "sys/replication/dr/secondary/divergence"
		all := map[string]any{"dr_operation_token": d.api.Token}
		for k, v := range params {
			all[k] = v
		}
		body = all
	} else if len(params) > 0 {
		q := url.Values{}
		for k, v := range params {
			q.Set(k, fmt.Sprint(v))
		}
		path += "?" + q.Encode()
	}
	var answer struct {
		Data json.RawMessage `json:"data"`
	}
	if err := d.api.Do(ctx, method, base+path, body, &answer); err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer.Data, out)
}

// pages calls fn for each page of an archive.
func (d *divergence) pages(ctx context.Context, path string, params map[string]any, fn func(raw json.RawMessage, page *archiveInfo, first bool) error) error {
	for from, first := uint64(0), true; first || from > 0; first = false {
		all := map[string]any{"from": from, "limit": 1000}
		for k, v := range params {
			all[k] = v
		}
		var raw json.RawMessage
		if err := d.ask(ctx, "GET", path, all, &raw); err != nil {
			return err
		}
		var page archiveInfo
		if err := json.Unmarshal(raw, &page); err != nil {
			return fmt.Errorf("the answer is not of the form expected: %w", err)
		}
		if page.Problem != "" {
			return fmt.Errorf("the archive cannot be read: %s", page.Problem)
		}
		if err := fn(raw, &page, first); err != nil {
			return err
		}
		from = page.Next
	}
	return nil
}

// divergenceFlags are those that all these commands have.
type divergenceFlags struct {
	dr     *bool
	format *string
}

func askDivergence(f divergenceFlags) (*divergence, error) {
	if f.format != nil {
		if err := checkFormat(*f.format); err != nil {
			return nil, err
		}
	}
	api, err := client.FromEnvironment(os.Getenv)
	if err != nil {
		return nil, err
	}
	if token := operationToken(); *f.dr && token != "" {
		api.Token = token
	}
	return &divergence{api, *f.dr}, nil
}

func runDivergenceList(ctx context.Context, c *console, args []string) error {
	fs := newFlags("divergence list")
	f := divergenceFlags{fs.Bool("dr-token", false, ""), fs.String("format", "table", "")}
	if err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	d, err := askDivergence(f)
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if err := d.ask(ctx, "GET", "", nil, &raw); err != nil {
		return err
	}
	if *f.format == "json" {
		return printJSON(c, raw)
	}
	var list struct {
		Keys []string `json:"keys"`
		Info map[string]struct {
			Source      string `json:"source"`
			Set         string `json:"set"`
			CommonIndex uint64 `json:"common_index"`
			EndIndex    uint64 `json:"end_index"`
			Lost        uint64 `json:"lost_entries"`
			Records     uint64 `json:"records"`
			Time        string `json:"time"`
			Problem     string `json:"problem"`
		} `json:"key_info"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return fmt.Errorf("the answer is not of the form expected: %w", err)
	}
	t := tabwriter.NewWriter(c.out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, "ID\tSource\tSet\tAfter index\tUp to\tLost entries\tRecords\tTime\tProblem")
	for _, id := range list.Keys {
		m := list.Info[id]
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\n", id, m.Source, m.Set, m.CommonIndex, m.EndIndex, m.Lost, m.Records, m.Time, m.Problem)
	}
	return t.Flush()
}

func printJSON(c *console, v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func runDivergenceShow(ctx context.Context, c *console, args []string) error {
	fs := newFlags("divergence show")
	f := divergenceFlags{fs.Bool("dr-token", false, ""), fs.String("format", "table", "")}
	values := fs.Bool("values", false, "")
	if err := parse(fs, args, 1, 1); err != nil {
		return err
	}
	d, err := askDivergence(f)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(c.out, 0, 8, 3, ' ', 0)
	params := map[string]any{}
	if *values {
		params["show_values"] = true
	}
	err = d.pages(ctx, "/"+url.PathEscape(fs.Arg(0)), params, func(raw json.RawMessage, page *archiveInfo, first bool) error {
		if *f.format == "json" {
			return printJSON(c, raw)
		}
		if first {
			sayTightenings(c, page)
			fmt.Fprintln(t, "Index\tTime\tOp\tMount\tKey\tLost\tValue")
		}
		for _, item := range page.Items {
			var row struct {
				Index uint64 `json:"index"`
				Time  string `json:"time"`
				Op    string `json:"op"`
				Mount string `json:"mount"`
				Space string `json:"keyspace"`
				Key   string `json:"key"`
				Raw   string `json:"key_base64"`
				Lost  bool   `json:"lost"`
				Value string `json:"value_base64"`
			}
			if err := json.Unmarshal(item, &row); err != nil {
				return fmt.Errorf("the answer is not of the form expected: %w", err)
			}
			if row.Mount == "" {
				row.Mount = row.Space
			}
			if row.Key == "" {
				row.Key = row.Raw
			}
			fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%q\t%v\t%s\n", row.Index, row.Time, row.Op, row.Mount, row.Key, row.Lost, row.Value)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return t.Flush()
}

func runDivergenceExport(ctx context.Context, c *console, args []string) error {
	fs := newFlags("divergence export")
	f := divergenceFlags{dr: fs.Bool("dr-token", false, "")}
	if err := parse(fs, args, 1, 1); err != nil {
		return err
	}
	d, err := askDivergence(f)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(c.out)
	return d.export(ctx, fs.Arg(0), func(about map[string]any, rows []json.RawMessage) error {
		if about != nil {
			if err := enc.Encode(about); err != nil {
				return err
			}
		}
		for _, row := range rows {
			if err := enc.Encode(row); err != nil {
				return err
			}
		}
		return nil
	})
}

// export calls fn for each page; about is the archive's description, with the first only.
func (d *divergence) export(ctx context.Context, id string, fn func(about map[string]any, rows []json.RawMessage) error) error {
	return d.pages(ctx, "/"+url.PathEscape(id)+"/export", nil, func(raw json.RawMessage, page *archiveInfo, first bool) error {
		var about map[string]any
		if first {
			if err := json.Unmarshal(raw, &about); err != nil {
				return err
			}
			delete(about, "items")
			delete(about, "next")
		}
		return fn(about, page.Items)
	})
}

func runDivergenceDiscard(ctx context.Context, c *console, args []string) error {
	fs := newFlags("divergence discard")
	f := divergenceFlags{dr: fs.Bool("dr-token", false, "")}
	confirm := fs.String("confirm", "", "")
	if err := parse(fs, args, 1, 1); err != nil {
		return err
	}
	if *confirm != fs.Arg(0) {
		return usagef("divergence discard: what the archive holds is lost for good: export it, then repeat its id with -confirm=%s", fs.Arg(0))
	}
	d, err := askDivergence(f)
	if err != nil {
		return err
	}
	path := "/" + url.PathEscape(fs.Arg(0))
	if d.dr {
		path += "/discard"
	}
	return d.ask(ctx, "DELETE", path, map[string]any{"confirm": true}, nil)
}
