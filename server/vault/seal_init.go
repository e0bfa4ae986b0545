package vault

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/server/engine"
)

// InitStore makes a new store an initialised one and returns its root token. Engine.Run must be running in the caller. keys are
// the store's; nil when it is not sealed.
func InitStore(ctx context.Context, e *engine.Engine, version string, keys *seal.Opened) (rootToken string, err error) {
	text := servicePrefix + randomText(24)
	if err := initStore(ctx, e, version, time.Now(), text, keysRecord(keys)); err != nil {
		return "", err
	}
	return text, nil
}

// keysRecord is the record of a store's keys that other clusters follow.
func keysRecord(keys *seal.Opened) []engine.Write {
	if keys == nil {
		return nil
	}
	return []engine.Write{shared.put(keyringKey, keys.Share())}
}

// initStore writes an initialised store's mark, a root token and what else is given, in one entry.
func initStore(ctx context.Context, e *engine.Engine, version string, now time.Time, rootToken string, more []engine.Write) error {
	salt, err := ensureSalt(ctx, e)
	if err != nil {
		return err
	}
	writes, err := putToken(hashToken(salt, rootToken), newRootToken(now))
	if err != nil {
		return err
	}
	mark, err := marshal(map[string]any{"time": now.UTC(), "version": version})
	if err != nil {
		return err
	}
	writes = append(append(writes, shared.put(initKey, mark)), more...)
	_, err = e.Do(ctx, &engine.Tx{
		Reads: []engine.Key{shared.key(initKey)},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			if _, ok, err := read(rd, shared, initKey); err != nil {
				return nil, err
			} else if ok {
				return nil, ErrInitialised
			}
			return writes, nil
		},
	})
	return err
}

// DevInit initialises an empty store with the given root token and a KV v2 mount at secret/; nothing when it is initialised.
// Call it after SetReplication: a secondary is initialised by its primary.
func (c *Core) DevInit(ctx context.Context, rootToken string) error {
	ready, err := c.initialised()
	if err != nil {
		return fmt.Errorf("initialise the dev store: %w", err)
	}
	if ready || c.engine.Role() != engine.Writer {
		return nil
	}
	value, err := marshal(mountRecord{
		UUID: uuid.NewString(), Accessor: "kv_" + randomHex(4), Type: "kv",
		Description: "key/value secret storage", Options: map[string]string{"version": "2"},
	})
	if err != nil {
		return err
	}
	w := shared.put(mountPrefix+"secret/", value)
	if err := initStore(ctx, c.engine, c.cfg.Version, c.now(), rootToken, append(keysRecord(c.cfg.Seal), w)); err != nil {
		return fmt.Errorf("initialise the dev store: %w", err)
	}
	return nil
}

// initAgain answers sys/init once a store is open: it is initialised already, by itself or by its primary.
func (c *Core) initAgain(r *request) (*reply, error) {
	ready, err := c.initialised()
	if err != nil {
		return nil, err
	}
	if !ready {
		return nil, refuse(errUnavailable, "the store of this cluster was never initialised to the end: begin again with an empty data directory")
	}
	return nil, ErrInitialised
}

func (c *Core) initStatus(r *request) (*reply, error) {
	ready, err := c.initialised()
	if err != nil {
		return nil, err
	}
	return &reply{bare: map[string]any{"initialized": ready}}, nil
}

func (c *Core) sealStatus(r *request) (*reply, error) {
	ready, err := c.initialised()
	if err != nil {
		return nil, err
	}
	s := stateOf(c.cfg.Seal)
	s.Initialized = ready
	body := s.body(c.cfg.Version, c.cfg.BuildDate)
	id := c.engine.Identity()
	body["cluster_name"], body["cluster_id"] = id.ClusterName, id.ClusterID
	return &reply{bare: body}, nil
}

// unsealed answers sys/unseal on a node that is: there is nothing to do.
func (c *Core) unsealed(r *request) (*reply, error) { return c.sealStatus(r) }

func (c *Core) sealNow(r *request) (*reply, error) {
	if c.cfg.SealNow == nil {
		return nil, refuse(errInvalid, "this store is not protected by keys and cannot be sealed")
	}
	return nil, c.cfg.SealNow()
}
