package vault

import (
	"strings"

	"github.com/google/uuid"

	"github.com/lockstepdb/lockstep/server/engine"
)

type remountParams struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// moved is a remount that was done: it takes one entry, so it is never seen in progress.
type moved struct{ id, from, to string }

const maxMoves = 64

// remountable finds what a remount is to move: a mount by its path, or a hidden one by its accessor.
func (t *mountTable) remountable(from string) *mount {
	if m := t.byPath(strings.Trim(from, "/")); m != nil {
		return m
	}
	for _, m := range t.hidden {
		if m.Accessor == from {
			return m
		}
	}
	return nil
}

// newPath checks where a mount is to move: a secrets engine stays one, and an auth method too.
func (m *mount) newPath(to string) (string, error) {
	below, auth := strings.CutPrefix(strings.TrimPrefix(to, "/"), authPrefix)
	switch {
	case m.auth() && !auth:
		return "", refuse(errInvalid, "an auth method stays below auth/: write to as auth/%s", strings.Trim(to, "/"))
	case m.auth():
		return authPath(below)
	}
	return mountPath(to)
}

// remount gives a mount another path. Its keyspace stays the same, so nothing is copied.
func (c *Core) remount(r *request, p *remountParams) (*reply, error) {
	c.mountsMu.Lock()
	defer c.mountsMu.Unlock()
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	m := snap.mounts.remountable(p.From)
	if m == nil || m == cubbyhole {
		return nil, noMount(strings.Trim(p.From, "/"))
	}
	to, err := m.newPath(p.To)
	if err != nil {
		return nil, err
	}
	if taken := snap.mounts.conflict(to); taken != "" {
		return nil, refuse(errInvalid, "path is already in use at %s", taken)
	}
	if err := c.mayMove(m, to); err != nil {
		return nil, err
	}
	value, err := m.encode()
	if err != nil {
		return nil, err
	}
	err = c.commit(r, &engine.Tx{Writes: []engine.Write{m.home().del(mountPrefix + m.path), m.home().put(mountPrefix+to, value)}})
	if err != nil {
		return nil, err
	}
	id := uuid.NewString()
	c.movesMu.Lock()
	defer c.movesMu.Unlock()
	c.moves = append(c.moves[max(0, len(c.moves)-maxMoves+1):], moved{id, m.path, to})
	return &reply{data: map[string]any{"migration_id": id}, inject: true}, nil
}

func (c *Core) remountStatus(r *request) (*reply, error) {
	c.movesMu.Lock()
	defer c.movesMu.Unlock()
	for _, m := range c.moves {
		if m.id == r.rest {
			info := map[string]any{"source_mount": m.from, "target_mount": m.to, "status": "success"}
			return &reply{data: map[string]any{"migration_id": m.id, "migration_info": info}}, nil
		}
	}
	return nil, missing()
}

// mayMove refuses a move that would show a secondary what its paths filter, which goes by paths, keeps from it.
func (c *Core) mayMove(m *mount, to string) error {
	n, err := c.replicator()
	if err != nil || m.Local {
		return nil // no part in any set, or a mount that no secondary has
	}
	id, err := n.Reveals(m.path, to)
	if err != nil {
		return err
	}
	if id != "" {
		return refuse(errInvalid, "%s is left out by the paths filter of secondary %q, and %s is not: moving it would show it there; change the filter first (sys/replication/performance/primary/paths-filter/%s)", m.path, id, to, id)
	}
	return nil
}
