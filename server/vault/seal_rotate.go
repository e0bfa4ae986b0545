package vault

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
)

// keyringKey is the record, in the system's replicated keyspace, by which the clusters of a set learn of a rotate or rekey:
// the keyring under the root key, and the root key under the shares (JSON, seal.Shared).
const keyringKey = "core/keyring"

// keysEvery is how often it is looked whether the primary's keys have changed.
const keysEvery = 500 * time.Millisecond

func (c *Core) rotate(r *request) (*reply, error) {
	s, err := c.seal()
	if err != nil {
		return nil, err
	}
	if c.follows() {
		return nil, refuse(errInvalid, "cannot rotate on a replication secondary")
	}
	term, err := s.Rotate(c.now())
	if err != nil {
		return nil, err
	}
	c.log.Info("rotated the key that seals what is written", "term", term.Number)
	c.announceKeys(r.ctx)
	return nil, nil
}

// announceKeys tells the other clusters of keys or shares that are in force here. What fails is tried again by FollowKeys:
// the caller must learn of the new shares all the same.
func (c *Core) announceKeys(ctx context.Context) {
	if err := c.publishKeys(ctx); err != nil {
		c.unpublished.Store(true)
		c.log.Error("new keys are in force here, and the other clusters could not be told; it is tried again", "error", err)
	}
}

func (c *Core) keyStatus(r *request) (*reply, error) {
	s, err := c.seal()
	if err != nil {
		return nil, err
	}
	k := s.Keyring()
	t := k.Newest()
	data := map[string]any{"term": t.Number, "install_time": stamp(t.Created), "encryptions": k.Sealed()}
	return &reply{data: data, inject: true}, nil
}

// publishKeys writes what the other clusters of the sets need to follow, unless it is written already.
func (c *Core) publishKeys(ctx context.Context) error {
	want := c.cfg.Seal.Share()
	have, ok, err := c.get(shared, keyringKey)
	if err != nil {
		return fmt.Errorf("read the record of the keyring: %w", err)
	}
	if ok && bytes.Equal(have, want) {
		return nil
	}
	if _, err := c.engine.Do(ctx, &engine.Tx{Writes: []engine.Write{shared.put(keyringKey, want)}}); err != nil {
		return fmt.Errorf("write the record of the keyring: %w", err)
	}
	return nil
}

// FollowKeys keeps keyring and shares those of the primary, and, on a primary, the record of them that of its file: a
// crash between the two is mended here. It ends with ctx; the caller waits for it.
func (c *Core) FollowKeys(ctx context.Context) error {
	if c.cfg.Seal == nil {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(keysEvery)
	defer tick.Stop()
	var seen uint64
	told := ""
	for {
		version := c.engine.SystemVersion()
		err := c.followKeys(ctx, seen != version || c.unpublished.Load())
		switch {
		case err == nil:
			seen, told = version, ""
		case ctx.Err() == nil && err.Error() != told:
			told = err.Error()
			c.log.Error("the keys of this cluster could not be brought up to date; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (c *Core) followKeys(ctx context.Context, changed bool) error {
	if !changed {
		return nil
	}
	record, ok, err := c.get(shared, keyringKey)
	if err != nil {
		return err
	}
	follows := c.follows()
	if ok {
		news, err := c.cfg.Seal.Follow(record, follows)
		if err != nil {
			return err
		}
		if news && follows {
			c.log.Info("took over the primary's new keys", "term", c.cfg.Seal.Keyring().Newest().Number)
		}
	}
	if follows || c.engine.Role() != engine.Writer || c.engine.Writable() != nil {
		return nil
	}
	if err := c.publishKeys(ctx); err != nil {
		return err
	}
	c.unpublished.Store(false)
	return nil
}
