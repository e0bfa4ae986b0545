package opensearch

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// aliasesOf is what an answer says of the aliases of an index.
func aliasesOf(ix *index) map[string]alias {
	if ix.desc.Aliases == nil {
		return map[string]alias{}
	}
	return ix.desc.Aliases
}

// checkAlias refuses an alias that could not be served as it says.
func (f *Face) checkAlias(r *request, name string, a alias) error {
	if bad := badName(name); bad != "" {
		return &failure{status: http.StatusBadRequest, kind: "invalid_alias_name_exception", reason: "Invalid alias name [" + name + "]: " + bad, index: name, uuid: "_na_"}
	}
	if a.Index != "" || a.Search != "" {
		return notOffered("routing of alias ["+name+"]", "leave it out: an index is one shard here")
	}
	if len(a.Filter) > 0 {
		if _, err := parseQuery(a.Filter); err != nil {
			return illegal("failed to parse filter for alias [%s]: %s", name, err.Error())
		}
	}
	there, err := f.index(r, name)
	if err == nil && (there != nil || r.call.Taken(name+"/")) {
		err = &failure{status: http.StatusBadRequest, kind: "invalid_alias_name_exception", reason: "Invalid alias name [" + name + "]: an index or data stream exists with the same name as the alias", index: name, uuid: "_na_"}
	}
	return err
}

func (f *Face) getAliases(r *request) (*reply, error) {
	expression := r.vars["indices"]
	if expression == "" {
		expression = "_all"
	}
	o, err := r.options(anyState)
	if err != nil {
		return nil, err
	}
	list, err := f.resolve(r, expression, actionGetAliases, o)
	if err != nil {
		return nil, err
	}
	var names []string
	if text := r.vars["name"]; text != "" && text != "_all" {
		names = strings.Split(text, ",")
	}
	out, found := map[string]any{}, map[string]bool{}
	for _, ix := range list {
		mine := map[string]alias{}
		for name, a := range ix.desc.Aliases {
			if names == nil || anyWild(names, name) {
				mine[name] = a
				found[name] = true
			}
		}
		if names == nil && r.vars["indices"] != "" || len(mine) > 0 || names == nil {
			out[ix.name] = map[string]any{"aliases": mine}
		}
	}
	var missing []string
	for _, name := range names {
		if !strings.Contains(name, "*") && !found[name] {
			missing = append(missing, name)
		}
	}
	if missing == nil {
		return ok(out), nil
	}
	slices.Sort(missing)
	form := "alias"
	if len(missing) > 1 {
		form = "aliases"
	}
	out["error"] = form + " [" + strings.Join(missing, ",") + "] missing"
	out["status"] = http.StatusNotFound
	return &reply{status: http.StatusNotFound, body: out}, nil
}

func (f *Face) aliasExists(r *request) (*reply, error) {
	rep, err := f.getAliases(r)
	if err != nil {
		return nil, err
	}
	status := rep.status
	if body, is := rep.body.(map[string]any); is && len(body) == 0 {
		status = http.StatusNotFound
	}
	return &reply{status: status}, nil
}

// oneAlias is the body of a call that makes one alias.
type oneAlias struct {
	Filter  json.RawMessage `json:"filter"`
	Routing string          `json:"routing"`
	Index   string          `json:"index_routing"`
	Search  string          `json:"search_routing"`
	Write   *bool           `json:"is_write_index"`
	Hidden  *bool           `json:"is_hidden"`
}

func (o *oneAlias) alias() alias {
	a := alias{Filter: o.Filter, Index: o.Index, Search: o.Search, Write: o.Write, Hidden: o.Hidden}
	if o.Routing != "" {
		a.Index, a.Search = o.Routing, o.Routing
	}
	return a
}

func (f *Face) putAlias(r *request) (*reply, error) {
	var b oneAlias
	if len(r.body) > 0 {
		if err := r.decode(&b); err != nil {
			return nil, err
		}
	}
	name := r.vars["name"]
	a := b.alias()
	if err := f.checkAlias(r, name, a); err != nil {
		return nil, err
	}
	list, err := f.toChange(r, actionAliases)
	if err != nil {
		return nil, err
	}
	return f.changeAll(r, list, func(d *description) error { d.Aliases[name] = a; return nil })
}

func (f *Face) deleteAlias(r *request) (*reply, error) {
	list, err := f.toChange(r, actionAliases)
	if err != nil {
		return nil, err
	}
	names := strings.Split(r.vars["name"], ",")
	return f.removeAliases(r, list, names)
}

func aliasesMissing(names []string) error {
	return &failure{
		status: http.StatusNotFound, kind: "aliases_not_found_exception", reason: "aliases [" + strings.Join(names, ",") + "] missing", resKind: "aliases", resID: strings.Join(names, ","),
	}
}

func (f *Face) removeAliases(r *request, list []*index, names []string) (*reply, error) {
	any := false
	for _, ix := range list {
		for name := range ix.desc.Aliases {
			any = any || names[0] == "_all" || anyWild(names, name)
		}
	}
	if !any {
		return nil, aliasesMissing(names)
	}
	return f.changeAll(r, list, func(d *description) error {
		for name := range d.Aliases {
			if names[0] == "_all" || anyWild(names, name) {
				delete(d.Aliases, name)
			}
		}
		return nil
	})
}

// aliasAction is one of the actions of POST _aliases.
type aliasAction struct {
	oneAlias
	One       string   `json:"index"`
	Many      []string `json:"indices"`
	Alias     string   `json:"alias"`
	Aliases   []string `json:"aliases"`
	MustExist *bool    `json:"must_exist"`
}

// updateAliases executes a list of actions: all of them or none, in one entry.
func (f *Face) updateAliases(r *request) (*reply, error) {
	var b struct {
		Actions []map[string]aliasAction `json:"actions"`
	}
	if err := r.decode(&b); err != nil {
		return nil, err
	}
	if len(b.Actions) == 0 {
		return nil, illegal("No action specified")
	}
	var changes []indexChange
	for _, actions := range b.Actions {
		if len(actions) != 1 {
			return nil, illegal("an action on aliases is an object with one name, add or remove")
		}
		for kind, a := range actions {
			more, err := f.aliasChanges(r, kind, a)
			if err != nil {
				return nil, err
			}
			changes = append(changes, more...)
		}
	}
	return ok(acknowledged), f.change(r, changes)
}

func (f *Face) aliasChanges(r *request, kind string, a aliasAction) (out []indexChange, err error) {
	if kind != "add" && kind != "remove" {
		return nil, notOffered("the action ["+kind+"] on aliases", "add and remove are")
	}
	if a.One != "" {
		a.Many = append(a.Many, a.One)
	}
	if a.Alias != "" {
		a.Aliases = append(a.Aliases, a.Alias)
	}
	switch {
	case len(a.Many) == 0:
		return nil, illegal("One of [index] or [indices] is required")
	case len(a.Aliases) == 0:
		return nil, illegal("One of [alias] or [aliases] is required")
	}
	list, err := f.resolve(r, strings.Join(a.Many, ","), actionAliases, anyState)
	if err != nil {
		return nil, err
	}
	change := func(d *description) error {
		for name := range d.Aliases {
			if anyWild(a.Aliases, name) {
				delete(d.Aliases, name)
			}
		}
		return nil
	}
	if kind == "remove" {
		found := false
		for _, ix := range list {
			for name := range ix.desc.Aliases {
				found = found || anyWild(a.Aliases, name)
			}
		}
		if !found && (a.MustExist == nil || *a.MustExist) {
			return nil, aliasesMissing(a.Aliases)
		}
	} else {
		made := a.alias()
		for _, name := range a.Aliases {
			if err := f.checkAlias(r, name, made); err != nil {
				return nil, err
			}
		}
		change = func(d *description) error {
			for _, name := range a.Aliases {
				d.Aliases[name] = made
			}
			return nil
		}
	}
	for _, ix := range list {
		out = append(out, indexChange{ix, change})
	}
	return out, nil
}
