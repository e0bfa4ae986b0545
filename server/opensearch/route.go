package opensearch

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// handler answers one route.
type handler func(f *Face, r *request) (*reply, error)

// flags of a route.
const (
	writes   = 1 << iota // changes what is shared: a performance secondary sends it on
	lines                // its body is NDJSON
	anyBody              // a body of any kind is taken and not looked at
	plainCat             // its answer is a table of text unless JSON is asked for
)

// route is one line of the table. A path's {name} stands for one part; {index} and {indices} for one that does not begin with '_' ('_all' may be indices).
type route struct {
	methods string
	path    string
	action  string // the permission's name; empty: whoever has a credential
	flags   int
	params  string // query parameters that it knows, beside those that all do
	run     handler

	parts []string
}

// common are query parameters that all routes know.
var common = []string{"pretty", "human", "filter_path", "format", "error_trace", "source", "source_content_type"}

const maxParts = 16

// split takes a path apart into its decoded parts.
func split(escaped string) ([]string, error) {
	parts := strings.Split(strings.Trim(escaped, "/"), "/")
	if len(parts) > maxParts {
		return nil, illegal("the path has more than %d parts", maxParts)
	}
	for i, p := range parts {
		decoded, err := url.PathUnescape(p)
		if err != nil {
			return nil, illegal("the path [%.200s] is not well escaped", escaped)
		}
		parts[i] = decoded
	}
	if len(parts) == 1 && parts[0] == "" {
		return nil, nil
	}
	return parts, nil
}

// match tells whether a route is one of a path, and what its names stand for.
func (rt *route) match(parts []string) (vars map[string]string, ok bool) {
	if len(parts) != len(rt.parts) {
		return nil, false
	}
	for i, want := range rt.parts {
		name, variable := strings.CutPrefix(want, "{")
		switch {
		case !variable && want != parts[i]:
			return nil, false
		case !variable:
			continue
		case parts[i] == "":
			return nil, false
		}
		name = strings.TrimSuffix(name, "}")
		if strings.HasPrefix(parts[i], "_") && (name == "index" || name == "indices" && parts[i] != "_all") {
			return nil, false
		}
		if vars == nil {
			vars = map[string]string{}
		}
		vars[name] = parts[i]
	}
	return vars, true
}

// find returns the route of a request; of several that match the first counts.
func find(routes []route, method, escaped string) (rt *route, vars map[string]string, err error) {
	parts, err := split(escaped)
	if err != nil {
		return nil, nil, err
	}
	var allowed []string
	for i := range routes {
		vars, ok := routes[i].match(parts)
		if !ok {
			continue
		}
		methods := strings.Fields(routes[i].methods)
		if slices.Contains(methods, method) {
			return &routes[i], vars, nil
		}
		allowed = append(allowed, methods...)
	}
	if allowed == nil {
		return nil, nil, &failure{status: http.StatusBadRequest, reason: "no handler found for uri [" + escaped + "] and method [" + method + "]", plain: true, bare: true}
	}
	slices.Sort(allowed)
	list := strings.Join(slices.Compact(allowed), ", ")
	return nil, nil, &failure{
		status: http.StatusMethodNotAllowed, plain: true, allow: list,
		reason: "Incorrect HTTP method for uri [" + escaped + "] and method [" + method + "], allowed: [" + list + "]",
	}
}

// unknownParams refuses query parameters that a route does not know.
func (rt *route) unknownParams(path string, q url.Values) error {
	var unknown []string
	for name := range q {
		if !slices.Contains(common, name) && !slices.Contains(strings.Fields(rt.params), name) {
			unknown = append(unknown, "["+name+"]")
		}
	}
	if unknown == nil {
		return nil
	}
	slices.Sort(unknown)
	form := "parameter"
	if len(unknown) > 1 {
		form = "parameters"
	}
	return illegal("request [%s] contains unrecognized %s: %s", path, form, strings.Join(unknown, ", "))
}
