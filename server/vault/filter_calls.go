package vault

import (
	"context"
	"strings"

	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/storage"
)

// filters is what the core asks of replication.Node about paths filters.
type filters interface {
	SetPathsFilter(ctx context.Context, id string, f replication.PathsFilter) error
	PathsFilter(id string) (*replication.PathsFilter, error)
	DeletePathsFilter(ctx context.Context, id string) error
	DynamicFilter(id string) (paths []string, ok bool, err error)
	LeavesOut(id, mountPath string) (bool, error)
	Reveals(from, to string) (id string, err error)
	Lacks(id storage.KeyspaceID) (replication.Lack, error)
	Lacking() (filtered, filling []string, err error)
}

// MountTable is where replication finds the mounts.
var MountTable = &replication.MountTable{
	Prefix: mountPrefix,
	Decode: func(key, value []byte) (string, storage.KeyspaceID, bool) {
		m, err := decodeMount(string(key), value)
		if err != nil {
			return "", storage.KeyspaceID{}, false
		}
		return m.path, m.id, true
	},
	Grants: func(path string) bool { return strings.HasPrefix(path, authPrefix) },
}

type pathsFilterParams struct {
	Mode  string   `json:"mode"`
	Paths []string `json:"paths"`
}

func (c *Core) setPathsFilter(r *request, p *pathsFilterParams) (*reply, error) {
	n, err := c.replicator()
	if err != nil {
		return nil, err
	}
	return nil, n.SetPathsFilter(r.ctx, r.rest, replication.PathsFilter{Mode: p.Mode, Paths: p.Paths})
}

func (c *Core) readPathsFilter(r *request) (*reply, error) {
	n, err := c.replicator()
	if err != nil {
		return nil, err
	}
	f, err := n.PathsFilter(r.rest)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, missing()
	}
	return &reply{data: map[string]any{"mode": f.Mode, "paths": f.Paths}}, nil
}

func (c *Core) deletePathsFilter(r *request) (*reply, error) {
	n, err := c.replicator()
	if err != nil {
		return nil, err
	}
	return nil, n.DeletePathsFilter(r.ctx, r.rest)
}

// dynamicFilter lists the mounts that a secondary's filter leaves out, as the primary computes it.
func (c *Core) dynamicFilter(r *request) (*reply, error) {
	n, err := c.replicator()
	if err != nil {
		return nil, err
	}
	paths, ok, err := n.DynamicFilter(r.rest)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, missing()
	}
	return dynamic(paths), nil
}

// ownDynamicFilter lists the mounts that this secondary was told to leave out.
func (c *Core) ownDynamicFilter(r *request) (*reply, error) {
	n, err := c.replicator()
	if err != nil {
		return nil, err
	}
	if n.Mode(performance) != replication.Secondary {
		return nil, refuse(errInvalid, "this cluster is no performance secondary: ask performance/primary/dynamic-filter on the primary")
	}
	if own, _ := n.Status(performance)["secondary_id"].(string); own != r.rest {
		return nil, refuse(errInvalid, "this cluster is the secondary %q: it knows its own filter only", own)
	}
	filtered, _, err := n.Lacking()
	if err != nil {
		return nil, err
	}
	return dynamic(filtered), nil
}

func dynamic(paths []string) *reply {
	return &reply{data: map[string]any{"dynamic_filtered_mounts": paths, "dynamic_filtered_namespaces": []string{}}}
}

// mountFilter answers the calls that paths filters took the place of.
func (c *Core) mountFilter(r *request) (*reply, error) {
	return nil, refuse(errInvalid, "mount-filter was replaced by performance/primary/paths-filter/%s: its mode allow is whitelist, deny is blacklist", r.rest)
}

// holds refuses a request for a replicated mount whose data are not on this cluster: what is not here is never answered as if there were nothing.
func (c *Core) holds(m *mount) error {
	lack, err := c.lack(m)
	switch {
	case err != nil || lack == "":
		return err
	case lack == replication.LackFilling:
		return refuse(errUnavailable, "the mount %s was added to what this cluster may have and is still being received: "+
			"wait until sys/replication/performance/status lists it no longer in filling_mounts, then repeat", m.path)
	case c.mode(performance) == replication.Secondary:
		return refuse(errInvalid, "the mount %s is left out of this cluster by its paths filter: "+
			"ask the primary, or change sys/replication/performance/primary/paths-filter there", m.path)
	}
	return refuse(errUnavailable, "the data of the mount %s are not on this cluster: a paths filter left them out while it was a secondary, and it is none now", m.path)
}

// lack tells why a mount's data are not here; empty: they are.
func (c *Core) lack(m *mount) (replication.Lack, error) {
	n := c.node.Load()
	if n == nil || m == nil || m.Local {
		return "", nil
	}
	return n.Lacks(m.id)
}

// served returns the mounts whose data are here, by path, and a warning that names the others.
func (c *Core) served(t *mountTable) (mounts map[string]*mount, warnings []string, err error) {
	mounts = make(map[string]*mount, len(t.served))
	var lacking []string
	for _, m := range t.all() {
		if t.served[m.path] != m {
			continue
		}
		switch lack, err := c.lack(m); {
		case err != nil:
			return nil, nil, err
		case lack != "":
			lacking = append(lacking, m.path)
		default:
			mounts[m.path] = m
		}
	}
	if len(lacking) > 0 {
		warnings = append(warnings, "these mounts are left out of this cluster by its paths filter, or still being received: "+strings.Join(lacking, ", "))
	}
	return mounts, warnings, nil
}

// withinFilter refuses what a secondary forwards about a mount that its paths filter leaves out.
func (c *Core) withinFilter(r *request, mountPaths ...string) error {
	n, err := c.replicator()
	if err != nil {
		return err
	}
	for _, path := range mountPaths {
		out, err := n.LeavesOut(r.forwarded.Secondary, path)
		if err != nil {
			return err
		}
		if out {
			return refuse(errDenied, "the paths filter of secondary %q leaves out %s/: its requests do not reach it", r.forwarded.Secondary, strings.Trim(path, "/"))
		}
	}
	return nil
}

// mountPathsOf returns the mounts that a forwarded call of a route is about.
func (c *Core) mountPathsOf(r *request, rt *route) ([]string, error) {
	switch {
	case r.mount != nil: // a call below an auth method
		return []string{r.mount.path}, nil
	case strings.HasPrefix(rt.path, "sys/mounts/"):
		return []string{r.rest}, nil
	case strings.HasPrefix(rt.path, "sys/auth/"):
		return []string{"auth/" + r.rest}, nil
	case rt.path == "sys/remount":
		p, _, err := params[remountParams](r)
		if err != nil {
			return nil, err
		}
		return []string{p.From, p.To}, nil
	}
	return nil, nil
}
