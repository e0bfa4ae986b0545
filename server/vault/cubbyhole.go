package vault

import (
	"github.com/google/uuid"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// cubbyhole is the mount that every token sees as its own. Its keyspace has local scope; a key is the hash of the token and
// the path. It is no system keyspace: writing to it makes nobody forget mounts and policies.
var cubbyhole = func() *mount {
	id := storage.KeyspaceID{15: 16}
	return &mount{
		mountRecord: mountRecord{
			UUID: uuid.UUID(id).String(), Accessor: "cubbyhole_local", Type: "cubbyhole", Description: "per-token private secret storage", Local: true,
		},
		path: "cubbyhole/", id: id,
	}
}()

// devOwner stands for the hash of the dev root token where that has no record.
const devOwner = "dev"

// cubbyholeCall answers a request below cubbyhole/: it is one of KV version 1 in the token's own part.
func (c *Core) cubbyholeCall(r *request) (*reply, error) {
	if r.rest == "" && r.op != opList {
		return nil, refuse(errMethod, "unsupported operation")
	}
	owner, err := r.caller.cubbyhole()
	if err != nil {
		return nil, err
	}
	r.rest = owner + r.rest
	rep, err := c.kv1(r)
	if rep != nil {
		rep.lease = 0
	}
	return rep, err
}

// cubbyhole is what all keys of a token's own begin with.
func (ca *caller) cubbyhole() (string, error) {
	switch {
	case ca.entry == nil || ca.entry.batch:
		return "", refuse(errInvalid, `cubbyhole operations are only supported by "service" type tokens`)
	case ca.hash == "": // the dev root token
		return devOwner + "/", nil
	}
	return ca.hash + "/", nil
}

// emptyCubbyhole removes what a token that is gone has kept.
func (c *Core) emptyCubbyhole(r *request, hash string) error {
	for {
		keys, err := c.keysOf(cubbyhole.space(), hash+"/", sweepWrites)
		if err != nil || len(keys) == 0 {
			return err
		}
		if err := c.remove(r, cubbyhole.space(), keys); err != nil {
			return err
		}
	}
}

// keysOf returns the first keys that begin with a prefix.
func (c *Core) keysOf(s space, prefix string, limit int) (keys []string, err error) {
	view := c.engine.Snapshot()
	defer view.Release()
	err = view.Scan(s.id, []byte(prefix), prefixEnd(prefix), func(rec storage.Record) bool {
		keys = append(keys, string(rec.Key))
		return len(keys) < limit
	})
	return keys, err
}

// remove deletes records in one entry.
func (c *Core) remove(r *request, s space, keys []string) error {
	tx := &engine.Tx{}
	for _, key := range keys {
		tx.Writes = append(tx.Writes, s.del(key))
	}
	return c.commit(r, tx)
}
