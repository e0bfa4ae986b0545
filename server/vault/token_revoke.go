package vault

import (
	"errors"
	"strings"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// revoke removes a token and all that descend from it. The token goes first: from then on its descendants are void,
// whether their records are removed now or, after a crash, by the sweep.
func (c *Core) revoke(r *request, hash string) error {
	err := c.change(r, hash, func(*tokenEntry) (bool, error) { return false, nil })
	if err != nil && !errors.Is(err, errDenied) { // denied: it is gone already
		return err
	}
	if err := c.emptyCubbyhole(r, hash); err != nil {
		return err
	}
	for {
		children, err := c.children(hash, 256)
		if err != nil || len(children) == 0 {
			return err
		}
		for _, child := range children {
			if err := c.revoke(r, child); err != nil {
				return err
			}
		}
		if err := c.unlink(r, hash, children); err != nil {
			return err
		}
	}
}

// unlink removes the records that say whose child a token is: also of children whose own record was gone.
func (c *Core) unlink(r *request, parent string, children []string) error {
	tx := &engine.Tx{}
	for _, child := range children {
		tx.Writes = append(tx.Writes, private.del(parentPrefix+parent+"/"+child))
	}
	return c.commit(r, tx)
}

func (c *Core) children(hash string, limit int) ([]string, error) {
	view := c.engine.Snapshot()
	defer view.Release()
	prefix := parentPrefix + hash + "/"
	var out []string
	err := view.Scan(private.id, []byte(prefix), prefixEnd(prefix), func(rec storage.Record) bool {
		out = append(out, strings.TrimPrefix(string(rec.Key), prefix))
		return len(out) < limit
	})
	return out, err
}
