package vault

import (
	"sync"

	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/storage"
)

// snapshot is what the core remembers of the system's records. It is good as long as no entry has touched them, which
// engine.SystemVersion tells; then the next request starts a new one.
type snapshot struct {
	version uint64
	ready   bool // sys/init has been done
	salt    []byte
	batch   *batchKey
	mounts  *mountTable
	audit   []*auditMount

	mu       sync.Mutex // guards what is filled as it is asked for
	policies map[string]*parsedPolicy
	earlier  map[string]*parsedPolicy // of the snapshot before: good where the record is still the same
	acls     map[string]*acl
	tokens   map[string]*credential
}

// maxRemembered bounds each of a snapshot's maps; a full one is started anew.
const maxRemembered = 20000

const initKey = "core/init"

// current returns the snapshot of now. The version is read first: what is loaded may be newer than it says, never older.
func (c *Core) current() (*snapshot, error) {
	version := c.engine.SystemVersion()
	last := c.snap.Load()
	if last != nil && last.version == version {
		return last, nil
	}
	s := &snapshot{version: version, policies: map[string]*parsedPolicy{}, acls: map[string]*acl{}, tokens: map[string]*credential{}}
	view := c.engine.Snapshot()
	defer view.Release()
	var err error
	if s.ready, err = has(view, shared, initKey); err != nil {
		return nil, err
	}
	rec, err := view.Get(storage.SystemLocal, []byte(saltKey))
	salt, _, err := found(rec, err)
	if err != nil {
		return nil, err
	}
	s.salt = salt
	if s.batch, err = loadBatchKey(view, last); err != nil {
		return nil, err
	}
	var known *mountTable
	if last != nil {
		known = last.mounts
		last.mu.Lock()
		s.earlier = last.policies
		last.mu.Unlock()
	}
	if s.mounts, err = loadMounts(view, known, c.log); err != nil {
		return nil, err
	}
	if s.audit, err = loadAudit(view); err != nil {
		return nil, err
	}
	c.snap.Store(s)
	return s, nil
}

func has(view *storage.View, s space, key string) (bool, error) {
	rec, err := view.Get(s.id, []byte(key))
	_, ok, err := found(rec, err)
	return ok, err
}

// initialised tells whether the cluster has a root token, or has had: its own or the one of the primary that it follows.
func (c *Core) initialised() (bool, error) {
	if c.mode(replication.DR) != replication.Disabled || c.mode(replication.Performance) != replication.Disabled {
		return true, nil
	}
	s, err := c.current()
	if err != nil {
		return false, err
	}
	return s.ready, nil
}

// remember puts into one of a snapshot's maps. The caller holds the snapshot's mutex.
func remember[V any](m map[string]V, key string, v V) {
	if len(m) >= maxRemembered {
		clear(m)
	}
	m[key] = v
}
