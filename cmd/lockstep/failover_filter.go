package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/lockstepdb/lockstep/internal/client"
)

// Paths filters are the performance primary's own and end with its part: whoever takes it over is told them anew, by id, before an id gets its token. A
// secondary that would follow without one would be sent what it must not have.

// pathsFilter is a secondary's filter as the primary knows it, or as the secondary feels it.
type pathsFilter struct {
	Mode  string   `json:"mode"`
	Paths []string `json:"paths"`
	felt  bool     // the primary could not be asked: it denies what the secondary leaves out now
}

func (p *pathsFilter) String() string {
	if len(p.Paths) == 0 {
		return p.Mode + " nothing"
	}
	return p.Mode + " " + strings.Join(p.Paths, ", ")
}

// readFilters learns the filters of the secondaries: from the primary as long as it is one, else from those that are named.
func (f *failover) readFilters(ctx context.Context, from, to *setStatus, siblings []*setStatus) error {
	f.filters = map[string]*pathsFilter{}
	if f.kind != "performance" {
		return nil
	}
	if from != nil && from.Mode == "primary" && from.State != "fenced" {
		for _, s := range from.Secondaries {
			p, err := f.from.filter(ctx, s.ID)
			if err != nil {
				return err
			}
			if p != nil && s.ID != to.ID {
				f.filters[s.ID] = p
			}
		}
		return nil
	}
	for i, s := range f.siblings {
		p, err := s.feels(ctx, siblings[i].ID)
		if err != nil {
			return err
		}
		if p != nil {
			f.filters[siblings[i].ID] = p
		}
	}
	return nil
}

// filter asks a primary for the filter of an id; nil: it has none.
func (m *member) filter(ctx context.Context, id string) (*pathsFilter, error) {
	var answer struct {
		Data pathsFilter `json:"data"`
	}
	err := m.get(ctx, m.path("primary/paths-filter/"+id), &answer)
	var refused *client.APIError
	switch {
	case errors.As(err, &refused) && refused.Status == http.StatusNotFound:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("ask %s for the paths filter of %s: %w", m.api.Address, id, err)
	}
	return &answer.Data, nil
}

// feels asks a secondary what it leaves out; nil: nothing.
func (m *member) feels(ctx context.Context, id string) (*pathsFilter, error) {
	var answer struct {
		Data struct {
			Mounts []string `json:"dynamic_filtered_mounts"`
		} `json:"data"`
	}
	if err := m.get(ctx, m.path("secondary/dynamic-filter/"+id), &answer); err != nil {
		return nil, fmt.Errorf("ask %s which mounts it leaves out: %w", m.api.Address, err)
	}
	if len(answer.Data.Mounts) == 0 {
		return nil, nil
	}
	return &pathsFilter{Mode: "deny", Paths: answer.Data.Mounts, felt: true}, nil
}

// planFilters shows what is carried over.
func (f *failover) planFilters() {
	for _, id := range slices.Sorted(maps.Keys(f.filters)) {
		p := f.filters[id]
		f.say("     filter   of secondary %s is carried over: %v", id, p)
		if p.felt {
			f.say("              the primary cannot be asked for it: this is what %s leaves out now. Mounts that are made later would reach it; set its filter anew if it is to allow only some", id)
		}
	}
}

// carryFilter gives a primary the filter of an id under which one is about to follow it, unless it has one for it.
func (f *failover) carryFilter(ctx context.Context, to *member, id, as string) error {
	p := f.filters[id]
	if p == nil {
		return nil
	}
	if have, err := to.filter(ctx, as); err != nil || have != nil {
		return err
	}
	if err := to.write(ctx, failoverStep, to.path("primary/paths-filter/"+as), p, nil); err != nil {
		return fmt.Errorf("give %s the paths filter of %s: %w", to.api.Address, as, err)
	}
	f.say("%s has the paths filter of %s: %v", to.name, as, p)
	return nil
}

// carryAll does so for all, under their ids.
func (f *failover) carryAll(ctx context.Context, to *member) error {
	for _, id := range slices.Sorted(maps.Keys(f.filters)) {
		if err := f.carryFilter(ctx, to, id, id); err != nil {
			return err
		}
	}
	return nil
}

func (f *failover) shownFilter(id string) string {
	if p := f.filters[id]; p != nil {
		return p.String()
	}
	return ""
}
