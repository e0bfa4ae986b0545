package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/internal/client"
)

// run takes the steps that the clusters' states call for: the first run all of them, a later one those that are left.
func (f *failover) run(ctx context.Context) error {
	to, err := f.to.meet(ctx)
	if err != nil {
		return err
	}
	if to.State == "fenced" {
		return fmt.Errorf("%s is fenced: another cluster took its place. Let it follow that one first: lockstep failover -kind=%s -from=%s -to=ADDR of the primary", f.to.api.Address, f.kind, f.to.api.Address)
	}
	from, fromErr := f.from.meet(ctx)
	var sealed *sealedError
	f.sealed = errors.As(fromErr, &sealed)
	if fromErr != nil && !f.force && to.Mode != "primary" {
		return fmt.Errorf("%w\nIf the primary is lost, -force promotes without it", fromErr)
	}
	if from != nil && f.from.id != "" && f.from.id == f.to.id {
		return usagef("failover: -from and -to are one cluster, %s: name the present primary with -from, and with -to the one to be", f.to.name)
	}
	if from != nil && from.Set != to.Set {
		return fmt.Errorf("%s is of %s set %s, %s of set %s: they are not members of one set", f.from.api.Address, f.kind, from.Set, f.to.api.Address, to.Set)
	}
	before, err := f.siblingsBefore(ctx)
	if err != nil {
		return err
	}
	if from != nil && from.Mode == "primary" && to.Mode == "secondary" {
		var known []string
		for _, s := range from.Secondaries {
			known = append(known, s.ID)
		}
		f.unnamed(known, to, before)
	}
	if err := f.readFilters(ctx, from, to, before); err != nil {
		return err
	}
	switch {
	case to.Mode == "primary":
		f.say("%s is the %s primary already: what is left is to take the others in", f.to.api.Address, f.kind)
		f.result.Index = to.LastWAL
		if f.async {
			f.say("note: its level is as it was: -synchronous counts for a promotion. primary/synchronous sets it")
		}
	case to.Mode != "secondary":
		return fmt.Errorf("%s is no %s secondary (mode %s): there is nothing to promote", f.to.api.Address, f.kind, to.Mode)
	case from == nil:
		err = f.forced(ctx, to, before)
	case from.Mode == "primary" || from.Mode == "secondary" && from.ID == "":
		err = f.planned(ctx, from, to)
	default:
		return fmt.Errorf("%s is neither the %s primary nor was it (mode %s, secondary id %q): name the primary with -from", f.from.api.Address, f.kind, from.Mode, from.ID)
	}
	if err != nil {
		return err
	}
	return f.rejoin(ctx, from, before)
}

// siblingsBefore is how the other secondaries stand, for the count of what is copied.
func (f *failover) siblingsBefore(ctx context.Context) ([]*setStatus, error) {
	var out []*setStatus
	for _, s := range f.siblings {
		st, err := s.meet(ctx)
		if err != nil {
			return nil, fmt.Errorf("%w\nLeave it out of -sibling to go on without it; run again, this command re-points it later", err)
		}
		if st.Mode != "secondary" || st.ID == "" {
			return nil, fmt.Errorf("%s is no %s secondary (mode %s): leave it out of -sibling", s.api.Address, f.kind, st.Mode)
		}
		out = append(out, st)
	}
	return out, nil
}

// unnamed finds the secondaries of the primary that no -sibling names: they are left without one.
func (f *failover) unnamed(known []string, to *setStatus, siblings []*setStatus) {
	for _, id := range known {
		if id != to.ID && !slices.ContainsFunc(siblings, func(s *setStatus) bool { return s.ID == id }) {
			f.result.Unnamed = append(f.result.Unnamed, id)
		}
	}
}

func (f *failover) sayUnnamed() {
	for _, id := range f.result.Unnamed {
		f.say("     note     secondary %s is not named with -sibling: it will have no primary until it is given a token of the new one", id)
	}
}

// planned demotes, waits, promotes.
func (f *failover) planned(ctx context.Context, from, to *setStatus) error {
	if f.force {
		return errors.New("-force is for a primary that cannot be reached, and it answers: leave -force out")
	}
	p, err := f.to.preflight(ctx)
	if err != nil {
		return err
	}
	if from.Mode == "primary" {
		if err := f.fit(from, to, p); err != nil {
			return err
		}
	}
	if err := f.mayWrite(ctx, from.Mode == "primary"); err != nil {
		return err
	}
	f.plan(from, p)
	if err := f.confirm(); err != nil {
		return err
	}
	began := time.Now()
	if from.Mode == "primary" {
		if err := f.demote(ctx, to.ID); err != nil {
			return f.undo(ctx, err)
		}
	}
	if err := f.handedOver(ctx); err != nil {
		return f.undo(ctx, err)
	}
	if err := f.promote(ctx, false); err != nil {
		return f.undo(ctx, err)
	}
	f.result.PauseMS = time.Since(began).Milliseconds()
	return nil
}

// fit says why a switchover should not begin now.
func (f *failover) fit(from, to *setStatus, p *promotion) error {
	if from.State == "fenced" {
		return fmt.Errorf("%s is fenced: %s", f.from.api.Address, from.Reason)
	}
	for _, s := range from.Secondaries {
		if s.ID == to.ID && s.Connected == "connected" && p.Connected {
			return nil
		}
	}
	return fmt.Errorf("%s (secondary %q) does not follow %s at present: %s. A switchover would leave the set without a primary; see its status", f.to.api.Address, to.ID, f.from.api.Address, p.Verdict)
}

// mayWrite checks, before anything is changed, what would stop the second half.
func (f *failover) mayWrite(ctx context.Context, primary bool) error {
	if f.kind != "dr" {
		return nil
	}
	if f.dr == "" {
		return usagef("failover: a DR secondary is promoted with a DR operation token: set LOCKSTEP_DR_OPERATION_TOKEN, see docs/operations.md")
	}
	if !primary {
		return nil
	}
	asks := *f.from.api
	asks.Token = f.dr
	var answer struct {
		Data map[string]any `json:"data"`
	}
	path := f.to.path("secondary/promote")
	err := asks.Do(ctx, "POST", "sys/capabilities-self", map[string]any{"paths": []string{path}}, &answer)
	if err != nil { // not a batch token: one that a ceremony made is known to its own cluster alone
		var refused *client.APIError
		err := f.to.api.Do(ctx, "POST", f.to.path("secondary/divergence"), map[string]any{"dr_operation_token": f.dr}, nil)
		if errors.As(err, &refused) && refused.Status == http.StatusForbidden {
			return fmt.Errorf("the DR operation token in LOCKSTEP_DR_OPERATION_TOKEN is none of %s: nothing was changed. See docs/operations.md for how to get one", f.to.api.Address)
		}
		return nil
	}
	if may := fmt.Sprint(answer.Data[path]); !strings.Contains(may, "update") && !strings.Contains(may, "root") {
		return fmt.Errorf("the DR operation token may not promote: its policies grant %s on %s, and it takes update", may, path)
	}
	return nil
}

func (f *failover) plan(from *setStatus, p *promotion) {
	f.say("Plan, %s set %s:", f.kind, from.Set)
	if from.Mode == "primary" {
		f.say("  1. demote   %s (%s), index %d: writes are refused from here on; it waits up to %v for its secondaries", f.from.name, f.from.api.Address, from.LastWAL, f.drain)
	} else {
		f.say("  1. demote   %s (%s): done", f.from.name, f.from.api.Address)
	}
	f.say("  2. promote  %s (%s), index %d, once it has everything; else %s is promoted again", f.to.name, f.to.api.Address, p.Index, f.from.name)
	f.say("  3. re-point %s%s to the new primary; nothing is copied", f.from.name, f.names())
	f.sayUnnamed()
	f.planFilters()
	f.planLevels(p)
	f.say("Price: no acknowledged write. Writes pause from 1 to the end of 2: %s is %d entries behind at this moment", f.to.name, p.Lag)
}

// planLevels says what answers of the new primary wait for.
func (f *failover) planLevels(p *promotion) {
	for _, set := range slices.Sorted(maps.Keys(p.Levels)) {
		if f.async {
			f.say("     level    of the %s set ends (%s): answers of %s wait for no secondaries until one is set again", set, p.Levels[set], f.to.name)
		} else {
			f.say("     level    of the %s set goes on (%s): writes and logins on %s are 409 until so many follow. -synchronous=async ends it", set, p.Levels[set], f.to.name)
		}
	}
}

func (f *failover) names() string {
	out := ""
	for _, s := range f.siblings {
		out += ", " + s.name
	}
	return out
}

// demote ends the primary's part; the secondary that is to follow must have everything.
func (f *failover) demote(ctx context.Context, id string) error {
	var answer struct {
		Warnings []string `json:"warnings"`
		Data     struct {
			Index       uint64 `json:"index"`
			Secondaries []struct {
				ID      string `json:"node_id"`
				Set     string `json:"set"`
				Lag     uint64 `json:"lag_entries"`
				Drained bool   `json:"drained"`
			} `json:"secondaries"`
		} `json:"data"`
	}
	err := f.from.write(ctx, failoverStep+f.drain, f.from.path("primary/demote"), map[string]any{"drain_timeout": f.drain.String()}, &answer)
	if err != nil {
		return fmt.Errorf("demote %s: %w", f.from.api.Address, err)
	}
	f.say("%s is demoted at index %d", f.from.name, answer.Data.Index)
	for _, s := range answer.Data.Secondaries {
		if s.Set == f.kind && s.ID == id && !s.Drained {
			f.say("%s lacks %d entries yet", f.to.name, s.Lag)
		}
	}
	return nil
}

// handedOver waits until the secondary says that a promotion loses nothing.
func (f *failover) handedOver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, failoverStep)
	defer cancel()
	for {
		p, err := f.to.preflight(ctx)
		if err == nil && p.Ready && p.Handed {
			f.say("%s has everything: %s", f.to.name, p.Verdict)
			return nil
		}
		if err == nil && !p.Connected && !p.Handed {
			err = errors.New(p.Verdict) // the primary's last word did not get here, and will not
		} else if err == nil {
			err = errors.New(p.Verdict)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v in vain until %s had everything: %w", failoverStep, f.to.api.Address, err)
		case <-time.After(failoverPoll):
		}
	}
}

func (f *failover) promote(ctx context.Context, force bool) error {
	began := time.Now()
	body := map[string]any{"force": force}
	if f.async {
		body["synchronous"] = "async"
	}
	if f.kind == "dr" {
		body["dr_operation_token"] = f.dr
	}
	if err := f.to.write(ctx, failoverStep, f.to.path("secondary/promote"), body, nil); err != nil {
		return fmt.Errorf("promote %s: %w", f.to.api.Address, err)
	}
	s, err := f.to.await(ctx, failoverStep, "is the primary", func(s *setStatus) bool { return s.Mode == "primary" && s.State == "running" })
	if err != nil {
		return err
	}
	f.result.Index = s.LastWAL
	f.say("%s is the primary, %v after it was asked", f.to.name, time.Since(began).Round(time.Millisecond))
	return nil
}

// undo makes the former primary the primary again, if the other is surely not.
func (f *failover) undo(ctx context.Context, cause error) error {
	s, err := f.to.status(ctx)
	if err != nil || s.Mode != "secondary" {
		return fmt.Errorf("%w\nWhether %s was promoted is not known, so %s was not promoted again: run this command again when it answers", cause, f.to.api.Address, f.from.api.Address)
	}
	from, err := f.from.status(ctx)
	if err == nil && from.Mode == "primary" {
		return fmt.Errorf("%w\nNothing was changed: %s is the primary", cause, f.from.api.Address)
	}
	f.say("undoing: %s becomes the primary again (%v)", f.from.name, cause)
	body := map[string]any{"force": true} // it cannot know that nobody was promoted; that was asked above
	if f.kind == "dr" {
		body["dr_operation_token"] = f.dr
	}
	if err := f.from.write(ctx, failoverStep, f.from.path("secondary/promote"), body, nil); err != nil {
		return fmt.Errorf("%w\nUndoing failed too: promote %s: %v. Promote one of the two by hand", cause, f.from.api.Address, err)
	}
	if _, err := f.from.await(ctx, failoverStep, "is the primary again", func(s *setStatus) bool { return s.Mode == "primary" && s.State == "running" }); err != nil {
		return fmt.Errorf("%w\nUndoing: %w", cause, err)
	}
	if err := f.carryAll(ctx, f.from); err != nil { // its own ended with the first half
		return fmt.Errorf("%w\nIt was undone: %s is the primary again, but %w. Set the paths filters there before you give out tokens", cause, f.from.api.Address, err)
	}
	f.result.Undone = true
	return fmt.Errorf("%w\nIt was undone: %s is the primary again. Its secondaries need tokens of it (update-primary)", cause, f.from.api.Address)
}

// forced promotes without the primary.
func (f *failover) forced(ctx context.Context, to *setStatus, before []*setStatus) error {
	if f.kind == "dr" && f.dr == "" {
		return usagef("failover: a DR secondary is promoted with a DR operation token: set LOCKSTEP_DR_OPERATION_TOKEN, see docs/operations.md")
	}
	p, err := f.lost(ctx)
	if err != nil {
		return err
	}
	why := "cannot be reached"
	if f.sealed {
		why = "is sealed"
	}
	f.say("%s %s. Promoting %s (%s) at index %d without it:", f.from.api.Address, why, f.to.name, f.to.api.Address, p.Index)
	f.say("  %s", p.Verdict)
	f.say("  estimated loss: at least %v writes, about %v by the last rate and the time since (last contact %s)", p.Lost["at_least"], p.Lost["estimate"], p.Contact)
	for _, o := range p.Others {
		if o.Index > p.Index {
			f.say("  secondary %s had index %d when last heard of: promoting that one would lose less", o.ID, o.Index)
		}
	}
	var known []string
	for _, o := range p.Others {
		known = append(known, o.ID)
	}
	f.unnamed(known, to, before)
	f.sayUnnamed()
	f.planFilters()
	f.planLevels(p)
	f.say("  Make sure that clients no longer reach %s.", f.from.api.Address)
	if err := f.confirm(); err != nil {
		return err
	}
	f.result.Forced, f.result.Estimate = true, p.Lost
	return f.promote(ctx, true)
}

// lost is the preflight of a cluster whose primary is away, which that cluster may take a moment to notice. A primary that it hears is not lost: the address is wrong.
func (f *failover) lost(ctx context.Context) (*promotion, error) {
	noticed, cancel := context.WithTimeout(ctx, failoverReach)
	defer cancel()
	for {
		p, err := f.to.preflight(ctx)
		if err != nil || !p.Connected {
			return p, err
		}
		select {
		case <-noticed.Done():
			return nil, fmt.Errorf("%s hears its primary at this moment, so that is not lost: see whether -from=%s is its address. Nothing was changed", f.to.api.Address, f.from.api.Address)
		case <-time.After(failoverPoll):
		}
	}
}

var secondaryID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// joining is a cluster that comes behind the new primary.
type joining struct {
	m      *member
	was    string // what it was called, or is to be called if that is free
	id     string // what it is called at the new primary
	before *setStatus
}

// rejoin gives the former primary and the siblings tokens of the new one, all of them first, so that nobody is left alone while another one is waited for; then it waits until
// they are in line.
func (f *failover) rejoin(ctx context.Context, from *setStatus, before []*setStatus) error {
	if err := f.carryAll(ctx, f.to); err != nil {
		return err
	}
	since := f.result.Index
	var all []*joining
	if from == nil {
		f.result.LeftAlone = append(f.result.LeftAlone, f.from.api.Address)
	} else {
		id := f.fromID
		if id == "" {
			if id = f.from.name; !secondaryID.MatchString(id) {
				id = "former-primary"
			}
		}
		if err := f.demoteFormer(ctx); err != nil {
			return err
		}
		all = append(all, &joining{f.from, id, id, &setStatus{}})
	}
	for i, s := range f.siblings {
		all = append(all, &joining{s, before[i].ID, before[i].ID, before[i]})
	}
	for _, j := range all {
		if err := f.repoint(ctx, j); err != nil {
			return err
		}
	}
	for _, j := range all {
		if err := f.inLine(ctx, j, since); err != nil {
			return err
		}
		if j.m == f.from {
			f.sayLost(ctx)
		}
	}
	return nil
}

// demoteFormer demotes a former primary that has not been: it was away when the other was promoted.
func (f *failover) demoteFormer(ctx context.Context) error {
	s, err := f.from.await(ctx, failoverStep, "answers", func(s *setStatus) bool { return true })
	if err != nil || s.Mode != "primary" {
		return err
	}
	f.say("%s still takes itself for the primary (%s): demoting it. What only it has is taken back", f.from.name, s.State)
	if err := f.confirm(); err != nil {
		return err
	}
	if err := f.from.write(ctx, failoverStep, f.from.path("primary/demote"), map[string]any{"drain_timeout": "1s"}, nil); err != nil {
		return fmt.Errorf("demote %s: %w", f.from.api.Address, err)
	}
	_, err = f.from.await(ctx, failoverStep, "is demoted", func(s *setStatus) bool { return s.Mode == "secondary" })
	return err
}

// repoint lets a cluster follow the new primary, unless it does.
func (f *failover) repoint(ctx context.Context, j *joining) error {
	primary, err := f.to.status(ctx)
	if err != nil {
		return err
	}
	if now, err := j.m.status(ctx); err == nil && now.ID != "" && now.State == "stream-wals" && now.Connection == "ready" {
		j.id = now.ID
		for _, s := range primary.Secondaries {
			if s.ID == now.ID && s.Connected == "connected" {
				return nil
			}
		}
	}
	token, used, err := f.token(ctx, j.id)
	if err != nil {
		return err
	}
	j.id = used
	body := map[string]any{"token": token}
	if f.kind == "dr" {
		body["dr_operation_token"] = f.dr
	}
	if err := j.m.write(ctx, failoverStep, j.m.path("secondary/update-primary"), body, nil); err != nil {
		return fmt.Errorf("re-point %s: %w", j.m.api.Address, err)
	}
	f.say("%s follows %s as %s", j.m.name, f.to.name, j.id)
	return nil
}

// inLine waits until a cluster's digest is equal to the new primary's, and tells what it cost.
func (f *failover) inLine(ctx context.Context, j *joining, since uint64) error {
	s, err := j.m.await(ctx, failoverJoin, "is in line with the new primary", func(s *setStatus) bool {
		return s.Mode == "secondary" && s.State == "stream-wals" && s.Verified >= since
	})
	if err != nil {
		return err
	}
	copied := s.DiffBytes + s.SyncBytes
	if was := j.before.DiffBytes + j.before.SyncBytes; was <= copied {
		copied -= was
	}
	f.say("%s is in line: digests are equal at index %d, %d bytes were copied", j.m.name, s.Verified, copied)
	f.result.Members = append(f.result.Members, memberResult{Address: j.m.api.Address, ID: j.id, Bytes: copied, Verified: s.Verified, Filter: f.shownFilter(j.was)})
	return nil
}

// token asks the new primary for an activation token. An id that is taken, by a run of this command that was interrupted, gets another ending.
func (f *failover) token(ctx context.Context, id string) (token, used string, err error) {
	for try := 1; try <= 5; try++ {
		used = id
		if try > 1 {
			used = fmt.Sprintf("%.60s-%d", id, try)
			if err := f.carryFilter(ctx, f.to, id, used); err != nil {
				return "", "", err
			}
		}
		var answer struct {
			Wrap struct {
				Token string `json:"token"`
			} `json:"wrap_info"`
		}
		err = f.to.write(ctx, failoverStep, f.to.path("primary/secondary-token"), map[string]any{"id": used, "ttl": "10m"}, &answer)
		if err == nil {
			return answer.Wrap.Token, used, nil
		}
		var refused *client.APIError
		if !errors.As(err, &refused) || refused.Status != 400 {
			break
		}
	}
	return "", "", fmt.Errorf("ask %s for a token for %s: %w", f.to.api.Address, id, err)
}
