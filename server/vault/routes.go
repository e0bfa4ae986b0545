package vault

import (
	"strings"

	"github.com/lockstepdb/lockstep/server/replication"
)

// handler answers one route. A nil reply without an error is 204.
type handler func(c *Core, r *request) (*reply, error)

// flags of a route.
const (
	open      = 1 << iota // needs no token: nothing is told that it should not, or the handler authorises by itself
	anyToken              // a valid token suffices, whatever its policies say: the handler looks at them
	sudo                  // needs the sudo capability too
	onDR                  // served on a DR secondary
	onRevoked             // served on a secondary that its primary revoked
	early                 // served before the cluster is initialised and while it is filled
	ceremony              // needs no token where the configuration says so: the shares authorise
	toShared              // writes replicated scope: a performance secondary forwards it
	rawBody               // its body is no JSON, and is read as it comes
	drHeader              // on a DR secondary X-Vault-Token is a DR operation token
	onDemoted             // on a DR secondary, which knows no token of a client, it tells, without one, what the same call did before, and does nothing
)

// route is one line of the table. The path's '*' stands for one or more whole segments.
type route struct {
	methods string
	path    string
	flags   int
	run     handler
	stays   func(c *Core, r *request) (bool, error) // of toShared: whether this one writes local scope
}

// kind is the set that a replication route is about.
func (rt *route) kind() replication.Kind {
	if strings.HasPrefix(rt.path, "sys/replication/dr/") {
		return dr
	}
	return performance
}

const metricsPath = "sys/metrics"

// openMetrics lets sys/metrics be read without a token.
func openMetrics(routes []route) {
	for i := range routes {
		if routes[i].path == metricsPath {
			routes[i].flags |= open
		}
	}
}

// in makes a handler of a function that takes typed parameters. Parameters that it does not know are named in a warning.
func in[P any](run func(c *Core, r *request, p *P) (*reply, error)) handler {
	return func(c *Core, r *request) (*reply, error) {
		p, unknown, err := params[P](r)
		if err != nil {
			return nil, err
		}
		rep, err := run(c, r, p)
		if rep != nil && len(unknown) > 0 && (r.op == opWrite || r.op == opPatch) {
			rep.warn("these parameters are not known here and were ignored: " + strings.Join(unknown, ", "))
		}
		return rep, err
	}
}

func params[P any](r *request) (p *P, unknown []string, err error) {
	f, err := r.fields()
	if err != nil {
		return nil, nil, err
	}
	p = new(P)
	unknown, err = f.decode(p)
	return p, unknown, err
}

// ownPath tells whether a path is the API's own, not one below a mount.
func ownPath(path string) bool {
	return strings.HasPrefix(path, "sys/") || strings.HasPrefix(path, "auth/")
}

// findRoute returns the route of a path and what its '*' stands for. known says that the path exists, if only for other methods.
// Paths of mounts are not looked for in the table.
func (c *Core) findRoute(op operation, path string) (rt *route, rest string, known bool) {
	if !ownPath(path) {
		return nil, "", false
	}
	path = strings.TrimSuffix(path, "/")
	for i := range c.routes {
		rest, ok := matchRoute(c.routes[i].path, path)
		if !ok {
			continue
		}
		known = true
		if c.routes[i].accepts(op) {
			return &c.routes[i], rest, true
		}
	}
	return nil, "", known
}

func (rt *route) accepts(op operation) bool {
	for method := range strings.FieldsSeq(rt.methods) {
		if methodOps[method] == op {
			return true
		}
	}
	return false
}

var methodOps = map[string]operation{"GET": opRead, "LIST": opList, "POST": opWrite, "DELETE": opDelete, "PATCH": opPatch}

func matchRoute(pattern, path string) (rest string, ok bool) {
	before, after, wild := strings.Cut(pattern, "*")
	if !wild {
		return "", pattern == path
	}
	rest, ok = strings.CutPrefix(path, before)
	if !ok {
		return "", false
	}
	rest, ok = strings.CutSuffix(rest, after)
	return rest, ok && rest != ""
}
