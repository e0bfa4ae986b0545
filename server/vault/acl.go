package vault

import (
	"cmp"
	"slices"
	"strings"
)

// acl is what a list of policies allows together. It is never changed after it was made.
type acl struct {
	root  bool
	exact map[string]grant
	wild  []wildRule // best first: the first that matches decides
}

// grant is what holds on one path.
type grant struct {
	caps   capability
	limits *limits // nil: none
}

// wildRule is a rule whose pattern has a '+' segment or ends in '*'.
type wildRule struct {
	pattern string
	grant
	literal string   // the pattern without its final '*'
	parts   []string // of literal, when it has '+' segments
	glob    bool
}

var rootACL = &acl{root: true}

const allCaps = capCreate | capRead | capUpdate | capDelete | capList | capPatch | capSudo

// newACL merges policies: on one pattern rights add up, and deny takes all of them away.
func newACL(policies []*policy) *acl {
	merged := map[string]grant{}
	for _, p := range policies {
		for _, r := range p.rules {
			g := merged[r.pattern]
			merged[r.pattern] = grant{g.caps | r.caps, mergeLimits(g.limits, r.limits)}
		}
	}
	a := &acl{exact: map[string]grant{}}
	for pattern, g := range merged {
		if g.caps&capDeny != 0 {
			g = grant{caps: capDeny}
		}
		w := newWildRule(pattern, g)
		if w.glob || w.parts != nil {
			a.wild = append(a.wild, w)
		} else {
			a.exact[pattern] = g
		}
	}
	slices.SortFunc(a.wild, func(x, y wildRule) int { return y.compare(x) })
	return a
}

func newWildRule(pattern string, g grant) wildRule {
	w := wildRule{pattern: pattern, grant: g}
	w.literal, w.glob = strings.CutSuffix(pattern, "*")
	if parts := strings.Split(w.literal, "/"); slices.Contains(parts, "+") {
		w.parts = parts
	}
	return w
}

// compare orders wildcard rules as Vault documents it: more important is the one whose first wildcard comes later, then the one
// that does not end in '*', then the one with fewer '+', then the longer one, then the one that sorts later.
func (w wildRule) compare(o wildRule) int {
	return cmp.Or(
		cmp.Compare(w.firstWildcard(), o.firstWildcard()),
		-compareBool(w.glob, o.glob),
		-cmp.Compare(w.plusses(), o.plusses()),
		cmp.Compare(len(w.pattern), len(o.pattern)),
		cmp.Compare(w.pattern, o.pattern),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// firstWildcard is the offset of the first '+' segment or of the final '*'.
func (w wildRule) firstWildcard() int {
	at := 0
	for _, part := range w.parts {
		if part == "+" {
			return at
		}
		at += len(part) + 1
	}
	return len(w.literal)
}

func (w wildRule) plusses() int {
	n := 0
	for _, part := range w.parts {
		if part == "+" {
			n++
		}
	}
	return n
}

func (w wildRule) matches(path string) bool {
	if w.parts == nil {
		return strings.HasPrefix(path, w.literal)
	}
	last := len(w.parts) - 1
	for i, want := range w.parts {
		got, rest, more := strings.Cut(path, "/")
		switch {
		case i == last && w.glob:
			return want == "+" || strings.HasPrefix(path, want)
		case want != "+" && want != got:
			return false
		case i == last:
			return !more
		case !more:
			return false
		}
		path = rest
	}
	return false
}

// on returns the capabilities on a path. A path that is only listed may be named with or without its final '/'.
func (a *acl) on(path string) capability { return a.find(path).caps }

// find returns what the policies say of a path.
func (a *acl) find(path string) grant {
	if a.root {
		return grant{caps: allCaps}
	}
	if g, ok := a.exact[path]; ok {
		g.caps &^= capDeny
		return g
	}
	for i := range a.wild {
		if a.wild[i].matches(path) {
			g := a.wild[i].grant
			g.caps &^= capDeny
			return g
		}
	}
	return grant{}
}

// findFor is find for an operation: the rule for a folder may be written without its final '/'.
func (a *acl) findFor(op operation, path string) grant {
	if op == opList && !a.root {
		for _, name := range []string{path, strings.TrimSuffix(path, "/")} {
			if g, ok := a.exact[name]; ok {
				g.caps &^= capDeny
				return g
			}
		}
	}
	return a.find(path)
}

// allows tells whether an operation is permitted, whatever its parameters; of a write, whether create or update is.
func (a *acl) allows(op operation, path string, needSudo bool) bool {
	return a.findFor(op, path).caps.permits(op, needSudo)
}

func (c capability) permits(op operation, needSudo bool) bool {
	if needSudo && c&capSudo == 0 {
		return false
	}
	switch op {
	case opRead, opHead:
		return c&capRead != 0
	case opList:
		return c&capList != 0
	case opWrite:
		return c&(capCreate|capUpdate) != 0
	case opPatch:
		return c&capPatch != 0
	case opDelete:
		return c&capDelete != 0
	}
	return false
}

// authorise judges a request by its caller's policies: path, operation, parameters, wrapping.
func (r *request) authorise(needSudo bool) error {
	g := r.caller.acl.findFor(r.op, r.path)
	if !g.caps.permits(r.op, needSudo) {
		return denied()
	}
	if g.limits == nil {
		return nil
	}
	return g.limits.permit(r)
}

// reaches tells whether any path below a mount could be permitted.
func (a *acl) reaches(mountPath string) bool {
	if a.root {
		return true
	}
	for pattern, g := range a.exact {
		if g.caps != capDeny && (strings.HasPrefix(pattern, mountPath) || pattern+"/" == mountPath) {
			return true
		}
	}
	for i := range a.wild {
		if a.wild[i].caps != capDeny && a.wild[i].overlaps(mountPath) {
			return true
		}
	}
	return false
}

// overlaps tells whether the pattern matches some path that begins with prefix, which ends in '/'.
func (w wildRule) overlaps(prefix string) bool {
	want := strings.Split(w.literal, "/")
	have := strings.Split(strings.TrimSuffix(prefix, "/"), "/")
	for i, name := range have {
		switch {
		case i >= len(want):
			return false
		case i == len(want)-1 && w.glob:
			return want[i] == "+" || strings.HasPrefix(name, want[i])
		case want[i] != "+" && want[i] != name:
			return false
		}
	}
	return true
}
