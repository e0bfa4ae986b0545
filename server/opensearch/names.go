package opensearch

import (
	"net/http"
	"slices"
	"strings"
)

// reservedNames can be no index: the paths of the other face, and of the system's mounts.
var reservedNames = []string{"v1", "ui", "sys", "auth", "cubbyhole", "identity", "audit"}

// badName says what is wrong with the name of an index; empty: nothing.
func badName(name string) string {
	switch {
	case name == "":
		return "must not be empty"
	case strings.ContainsAny(name, " \"*\\<|,>/?"):
		return `must not contain the following characters [ , ", *, \, <, |, ,, >, /, ?]`
	case strings.ContainsAny(name, "#"):
		return "must not contain '#'"
	case strings.ContainsAny(name, ":"):
		return "must not contain ':'"
	case strings.ContainsRune("_-+", rune(name[0])):
		return "must not start with '_', '-', or '+'"
	case strings.ToLower(name) != name:
		return "must be lowercase"
	case len(name) > 255:
		return "index name is too long, (" + itoa(len(name)) + " > 255)"
	case name == "." || name == "..":
		return "must not be '.' or '..'"
	case slices.Contains(reservedNames, name):
		return "is reserved on this server: take another name"
	}
	for _, c := range name {
		if c < ' ' || c == 0x7f || c == 0xfffd {
			return "must not contain characters that cannot be printed"
		}
	}
	return ""
}

func checkName(name string) error {
	if bad := badName(name); bad != "" {
		return &failure{
			status: http.StatusBadRequest, kind: "invalid_index_name_exception", reason: "Invalid index name [" + name + "], " + bad, index: name, uuid: "_na_",
		}
	}
	return nil
}

// options are what the query says of names that match nothing, or too much.
type options struct {
	ignoreMissing bool // ignore_unavailable
	noneIsError   bool // allow_no_indices=false
	open, closed  bool // expand_wildcards
	noAliases     bool
}

const indicesParams = "ignore_unavailable allow_no_indices expand_wildcards "

func (r *request) options(byDefault options) (options, error) {
	o := byDefault
	var err error
	if o.ignoreMissing, err = r.boolean("ignore_unavailable", o.ignoreMissing); err != nil {
		return o, err
	}
	allow, err := r.boolean("allow_no_indices", !o.noneIsError)
	if err != nil {
		return o, err
	}
	o.noneIsError = !allow
	text := r.query.Get("expand_wildcards")
	if text == "" {
		return o, nil
	}
	o.open, o.closed = false, false
	for word := range strings.SplitSeq(text, ",") {
		switch word {
		case "open":
			o.open = true
		case "closed":
			o.closed = true
		case "all":
			o.open, o.closed = true, true
		case "hidden", "none":
		default:
			return o, illegal("No valid expand wildcard value [%s]", word)
		}
	}
	return o, nil
}

const maxNames = 1000 // of one expression

// resolve returns the indices that an expression names, each once, by name: names and aliases, '*' in them, '-' before one to leave it out. A caller who may not do
// action on what is named is refused before it is told whether that exists; what a '*' finds is only what the caller may reach.
func (f *Face) resolve(r *request, expression, action string, o options) ([]*index, error) {
	words := strings.Split(expression, ",")
	if len(words) > maxNames {
		return nil, illegal("more than %d names in one request", maxNames)
	}
	found := map[string]*index{}
	for at, word := range words {
		word = strings.TrimSpace(word)
		without, negative := strings.CutPrefix(word, "-")
		switch {
		case negative && at > 0:
			for name := range found {
				if wildMatch(without, name) {
					delete(found, name)
				}
			}
		case word == "_all" || word == "" && len(words) == 1 || strings.Contains(word, "*"):
			if word == "_all" || word == "" {
				word = "*"
			}
			if err := f.matching(r, word, action, o, found); err != nil {
				return nil, err
			}
		default:
			list, err := f.named(r, word, action, o)
			if err != nil {
				return nil, err
			}
			for _, ix := range list {
				found[ix.name] = ix
			}
		}
	}
	out := make([]*index, 0, len(found))
	for _, ix := range found {
		out = append(out, ix)
	}
	slices.SortFunc(out, func(a, b *index) int { return strings.Compare(a.name, b.name) })
	if len(out) == 0 && o.noneIsError {
		return nil, noIndex(expression)
	}
	return out, nil
}

// matching adds what a pattern finds.
func (f *Face) matching(r *request, pattern, action string, o options, found map[string]*index) error {
	all, err := f.indices(r)
	if err != nil {
		return err
	}
	for _, ix := range all {
		if ix.desc.Closed && !o.closed || !ix.desc.Closed && !o.open {
			continue
		}
		names := []string{ix.name}
		if !o.noAliases {
			for alias := range ix.desc.Aliases {
				names = append(names, alias)
			}
		}
		matches := slices.ContainsFunc(names, func(name string) bool { return wildMatch(pattern, name) })
		if matches && f.may(r, action, ix.name) == nil {
			found[ix.name] = ix
		}
	}
	return nil
}

// named returns the index of a name, or those of an alias.
func (f *Face) named(r *request, name, action string, o options) ([]*index, error) {
	if strings.Contains(name, ":") {
		return nil, illegal("[%s]: indices of remote clusters cannot be searched: search there", name)
	}
	if ix, err := f.index(r, name); err != nil {
		return nil, err
	} else if ix != nil {
		return []*index{ix}, f.may(r, action, name)
	}
	var out []*index
	if !o.noAliases {
		all, err := f.indices(r)
		if err != nil {
			return nil, err
		}
		for _, ix := range all {
			if _, has := ix.desc.Aliases[name]; has {
				if err := f.may(r, action, ix.name); err != nil {
					return nil, err
				}
				out = append(out, ix)
			}
		}
	}
	if out == nil {
		if err := f.may(r, action, name); err != nil {
			return nil, err
		}
		if !o.ignoreMissing {
			return nil, noIndex(name)
		}
	}
	return out, nil
}

// one returns the index that a document's call is about: an alias must stand for exactly one, or have a write index.
func (f *Face) one(r *request, name, action string, write bool) (*index, error) {
	if strings.ContainsAny(name, "*,") {
		return nil, noIndexOrBad(name)
	}
	list, err := f.named(r, name, action, options{})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	if list[0].name == name {
		return list[0], nil
	}
	if write {
		for _, ix := range list {
			if w := ix.desc.Aliases[name].Write; w != nil && *w {
				return ix, nil
			}
		}
		if len(list) == 1 && list[0].desc.Aliases[name].Write != nil {
			return nil, illegal("no write index is defined for alias [%s]. The write index may be explicitly disabled using is_write_index=false or the alias points to multiple indices without one being designated as a write index", name)
		}
	}
	if len(list) > 1 {
		names := make([]string, len(list))
		for i := range list {
			names[i] = list[i].name
		}
		return nil, illegal("alias [%s] has more than one index associated with it [%s], can't execute a single index op", name, strings.Join(names, ", "))
	}
	return list[0], nil
}

func noIndexOrBad(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return noIndex(name)
}
