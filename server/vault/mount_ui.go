package vault

import (
	"strings"
)

func (c *Core) uiMounts(r *request) (*reply, error) {
	a := newACL(nil)
	if r.token != "" && c.authenticate(r) == nil {
		a = r.caller.acl
	}
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	secret, auth := map[string]any{}, map[string]any{}
	here, _, err := c.served(snap.mounts)
	if err != nil {
		return nil, err
	}
	for path, m := range here {
		if !a.reaches(path) && m.Config.ListingVisibility != "unauth" {
			continue
		}
		if m.auth() {
			auth[strings.TrimPrefix(path, authPrefix)] = m.describe()
		} else {
			secret[path] = m.describe()
		}
	}
	return &reply{data: map[string]any{"secret": secret, "auth": auth}}, nil
}

// uiMount answers the preflight of the kv commands: whose path is this, and which version. Nobody learns of a mount that
// they have no rights on, so an unknown one is refused in the same words.
func (c *Core) uiMount(r *request) (*reply, error) {
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	m, _ := snap.mounts.route(r.rest)
	if m == nil || !r.caller.acl.reaches(m.path) {
		return nil, refuse(errDenied, "preflight capability check returned 403, please ensure client's policies grant access to path %q", strings.TrimSuffix(r.rest, "/")+"/")
	}
	if err := c.holds(m); err != nil {
		return nil, err
	}
	data := m.describe()
	data["path"] = m.path
	return &reply{data: data}, nil
}

// resultantACL tells the UI what its token may do.
func (c *Core) resultantACL(r *request) (*reply, error) {
	a := r.caller.acl
	exact, glob := map[string]any{}, map[string]any{}
	for pattern, g := range a.exact {
		exact[pattern] = map[string]any{"capabilities": g.caps.names()}
	}
	for _, w := range a.wild {
		glob[strings.TrimSuffix(w.pattern, "*")] = map[string]any{"capabilities": w.caps.names()}
	}
	return &reply{data: map[string]any{"root": a.root, "exact_paths": exact, "glob_paths": glob}}, nil
}
