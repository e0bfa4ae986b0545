package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/internal/client"
)

const failoverHelp = `Usage: lockstep failover -from=ADDR -to=ADDR [-sibling=ADDR …] [flags]

Moves the part of a set's primary from one cluster to a secondary of it, without
losing or copying anything: looks at both sides, shows the plan and its price,
asks, demotes the one, waits until the other has everything, promotes it, and
gives the former primary and each sibling a token of the new one. Paths filters
are carried over. When the second half fails before the promotion, the first is
undone.

Run again after it was interrupted it goes on from where the clusters stand, and
it takes a former primary in again that is fenced.

  -kind=dr|performance   the set (dr)
  -from=ADDR      API address of the primary
  -to=ADDR        API address of the secondary that becomes the primary
  -sibling=ADDR   API address of another secondary; repeated for more
  -from-id=ID     what the former primary is called as a secondary (its cluster_name)
  -drain=5s       how long the demotion waits for secondaries, at most 1m
  -synchronous=async
                  the new primary's answers wait for no secondaries. Without it
                  the level of before goes on: writes and logins are 409 until
                  as many secondaries follow
  -force          the primary is lost or sealed: promote without it. What it has
                  and the secondary has not is lost; the estimate is shown first
  -yes            do not ask
  -format=json    the result for programs; words go to standard error

Tokens come from the environment: LOCKSTEP_TOKEN or VAULT_TOKEN for all, or
LOCKSTEP_FROM_TOKEN, LOCKSTEP_TO_TOKEN and LOCKSTEP_SIBLING_TOKEN (in order,
separated by commas). DR secondaries take LOCKSTEP_DR_OPERATION_TOKEN: a batch
token made on the primary beforehand, see docs/operations.md. CAs as for status.
`

var failoverCommand = command{"failover", "move a set's primary to a secondary, planned or forced", failoverHelp, runFailover}

// operationToken is the DR operation token of the environment; "": none.
func operationToken() string { return os.Getenv("LOCKSTEP_DR_OPERATION_TOKEN") }

// addressList is a flag that may be repeated.
type addressList []string

func (l *addressList) String() string     { return strings.Join(*l, ",") }
func (l *addressList) Set(v string) error { *l = append(*l, v); return nil }

// failover is one run of the command.
type failover struct {
	c        *console
	kind     string
	from, to *member
	siblings []*member
	fromID   string
	drain    time.Duration
	force    bool
	async    bool // the level of before ends
	yes      bool
	dr       string                  // DR operation token; secret
	filters  map[string]*pathsFilter // of secondaries, by id
	sealed   bool                    // -from answers that it is

	result failoverResult
}

// failoverResult is what -format=json prints.
type failoverResult struct {
	Kind      string         `json:"kind"`
	Primary   string         `json:"primary"` // address
	Index     uint64         `json:"index"`   // of the new primary when it had been promoted
	PauseMS   int64          `json:"pause_ms"`
	Forced    bool           `json:"forced"`
	Estimate  map[string]any `json:"lost_writes,omitempty"`
	Members   []memberResult `json:"members"`
	Undone    bool           `json:"undone,omitempty"`
	LeftAlone []string       `json:"left_alone,omitempty"` // could not be reached, or is sealed
	Unnamed   []string       `json:"not_named,omitempty"`  // ids of secondaries of the former primary that were given no address
	Archives  []string       `json:"archives,omitempty"`   // of what only the former primary had, there
	Repeat    []string       `json:"repeat,omitempty"`     // calls on the new primary: what took rights away in it
}

type memberResult struct {
	Address  string `json:"address"`
	ID       string `json:"id"`
	Bytes    uint64 `json:"copied_bytes"`
	Verified uint64 `json:"verified_index"`
	Filter   string `json:"paths_filter,omitempty"`
}

func runFailover(ctx context.Context, c *console, args []string) error {
	fs := newFlags("failover")
	kind := fs.String("kind", "dr", "")
	from, to := fs.String("from", "", ""), fs.String("to", "", "")
	fromID := fs.String("from-id", "", "")
	drain := fs.Duration("drain", 5*time.Second, "")
	force, yes := fs.Bool("force", false, ""), fs.Bool("yes", false, "")
	level := fs.String("synchronous", "", "")
	format := fs.String("format", "table", "")
	var siblings addressList
	fs.Var(&siblings, "sibling", "")
	if err := parse(fs, args, 0, 0); err != nil {
		return err
	}
	if err := checkFormat(*format); err != nil {
		return err
	}
	switch {
	case *kind != "dr" && *kind != "performance":
		return usagef("failover: -kind=%s: want dr or performance", *kind)
	case *to == "" || *from == "":
		return usagef("failover: say between which clusters with -from=ADDR and -to=ADDR; lockstep help failover tells more")
	case *level != "" && *level != "async":
		return usagef("failover: -synchronous=%s: want async, or leave it out", *level)
	case *drain <= 0 || *drain > time.Minute:
		return usagef("failover: -drain=%v: want more than nothing and at most 1m", *drain)
	}
	f := &failover{c: c, kind: *kind, fromID: *fromID, drain: *drain, force: *force, async: *level != "", yes: *yes, dr: operationToken()}
	f.result = failoverResult{Kind: *kind, Primary: *to, Members: []memberResult{}}
	if err := f.connect(*from, *to, siblings); err != nil {
		return err
	}
	err := f.run(ctx)
	if err == nil || f.result.Undone {
		err = errors.Join(err, f.print(*format))
	}
	return err
}

// connect makes a client for each cluster, with its token.
func (f *failover) connect(from, to string, siblings []string) error {
	base, err := client.FromEnvironment(os.Getenv)
	if err != nil {
		return err
	}
	with := func(role, address, token string) (*member, error) {
		if !strings.HasPrefix(address, "https://") && !strings.HasPrefix(address, "http://") {
			return nil, usagef("failover: -%s=%s: want an address that begins with https:// or http://", role, address)
		}
		api := *base
		api.Address = strings.TrimSuffix(address, "/")
		if token != "" {
			api.Token = token
		}
		return &member{role: role, api: &api, kind: f.kind, say: f.say}, nil
	}
	if f.from, err = with("from", from, os.Getenv("LOCKSTEP_FROM_TOKEN")); err != nil {
		return err
	}
	if f.to, err = with("to", to, os.Getenv("LOCKSTEP_TO_TOKEN")); err != nil {
		return err
	}
	tokens := strings.Split(os.Getenv("LOCKSTEP_SIBLING_TOKEN"), ",")
	for i, address := range siblings {
		token := ""
		if i < len(tokens) {
			token = tokens[i]
		}
		s, err := with("sibling", address, token)
		if err != nil {
			return err
		}
		f.siblings = append(f.siblings, s)
	}
	return nil
}

// say writes one line of progress.
func (f *failover) say(format string, args ...any) { fmt.Fprintf(f.c.err, format+"\n", args...) }

// confirm asks for the name of the cluster that becomes the primary.
func (f *failover) confirm() error {
	if f.yes {
		return nil
	}
	fmt.Fprintf(f.c.err, "Type the name of the cluster that becomes the primary (%s) to go on: ", f.to.name)
	line, err := bufio.NewReader(f.c.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if strings.TrimSpace(line) != f.to.name || f.to.name == "" {
		return errors.New("not confirmed, nothing was changed: type that name, or repeat with -yes")
	}
	return nil
}

func (f *failover) print(format string) error {
	if format == "json" {
		enc := json.NewEncoder(f.c.out)
		enc.SetIndent("", "  ")
		return enc.Encode(f.result)
	}
	r := &f.result
	if r.Undone {
		_, err := fmt.Fprintf(f.c.out, "undone: %s is the %s primary again\n", f.from.api.Address, r.Kind)
		return err
	}
	fmt.Fprintf(f.c.out, "%s is the %s primary, from index %d on\n", r.Primary, r.Kind, r.Index)
	if r.PauseMS > 0 {
		fmt.Fprintf(f.c.out, "writes paused for about %d ms\n", r.PauseMS)
	}
	for _, m := range r.Members {
		fmt.Fprintf(f.c.out, "%s follows as %s: digests equal at index %d, %d bytes copied\n", m.Address, m.ID, m.Verified, m.Bytes)
	}
	for _, id := range r.Unnamed {
		fmt.Fprintf(f.c.out, "%s was not named with -sibling: run this command again with its address, or give it a token of the new primary (%s/secondary/update-primary)\n", id, r.Kind)
	}
	for _, a := range r.LeftAlone {
		if f.sealed {
			fmt.Fprintf(f.c.out, "%s is sealed: it takes no writes. Unseal it, then run this command again, without -force\n", a)
			continue
		}
		fmt.Fprintf(f.c.out, "%s was not reached: it takes no more writes once the new primary reaches it. Then run this command again, without -force\n", a)
	}
	return nil
}
