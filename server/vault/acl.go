package vault

import (
	"cmp"
	"slices"
	"strings"
)

// acl is what a list of policies allows together. It is never changed after it was made.
type acl struct {
	root  bool
	exact map[string]capability
	wild  []wildRule // best first: the first that matches decides
}

// wildRule is a rule whose pattern has a '+' segment or ends in '*'.
type wildRule struct {
	pattern string
	caps    capability
	literal string   // the pattern without its final '*'
	parts   []string // of literal, when it has '+' segments
	glob    bool
}

var rootACL = &acl{root: true}

const allCaps = capCreate | capRead | capUpdate | capDelete | capList | capPatch | capSudo

// newACL merges policies: on one pattern rights add up, and deny takes all of them away.
func newACL(policies []*policy) *acl {
	merged := map[string]capability{}
	for _, p := range policies {
		for _, r := range p.rules {
			merged[r.pattern] |= r.caps
		}
	}
	a := &acl{exact: map[string]capability{}}
	for pattern, caps := range merged {
		if caps&capDeny != 0 {
			caps = capDeny
		}
		w := newWildRule(pattern, caps)
		if w.glob || w.parts != nil {
			a.wild = append(a.wild, w)
		} else {
			a.exact[pattern] = caps
		}
	}
	slices.SortFunc(a.wild, func(x, y wildRule) int { return y.compare(x) })
	return a
}

func newWildRule(pattern string, caps capability) wildRule {
	w := wildRule{pattern: pattern, caps: caps}
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
func (a *acl) on(path string) capability {
	if a.root {
		return allCaps
	}
	if caps, ok := a.exact[path]; ok {
		return caps &^ capDeny
	}
	for i := range a.wild {
		if a.wild[i].matches(path) {
			return a.wild[i].caps &^ capDeny
		}
	}
	return 0
}

// allows tells whether an operation is permitted; of a write, whether create or update is.
func (a *acl) allows(op operation, path string, needSudo bool) bool {
	caps := a.on(path)
	if op == opList && !a.root {
		if exact, ok := a.exact[path]; ok {
			caps = exact
		} else if exact, ok := a.exact[strings.TrimSuffix(path, "/")]; ok {
			caps = exact
		}
	}
	if needSudo && caps&capSudo == 0 {
		return false
	}
	switch op {
	case opRead, opHead:
		return caps&capRead != 0
	case opList:
		return caps&capList != 0
	case opWrite:
		return caps&(capCreate|capUpdate) != 0
	case opPatch:
		return caps&capPatch != 0
	case opDelete:
		return caps&capDelete != 0
	}
	return false
}

// reaches tells whether any path below a mount could be permitted.
func (a *acl) reaches(mountPath string) bool {
	if a.root {
		return true
	}
	for pattern, caps := range a.exact {
		if caps != capDeny && (strings.HasPrefix(pattern, mountPath) || pattern+"/" == mountPath) {
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
