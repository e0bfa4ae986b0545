package vault

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

const (
	sweepInterval = time.Minute
	sweepScan     = 20000 // records looked at in one round
	sweepWrites   = 256   // tokens removed by one entry
)

// Run removes expired tokens and wrapped answers until ctx ends. What has expired is void from its second on, whether it was
// removed or not; Run only gives the space back. It does nothing while the store takes no writes. The caller waits for it.
func (c *Core) Run(ctx context.Context) error {
	t := time.NewTicker(sweepInterval)
	defer t.Stop()
	var after string
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if c.engine.Role() != engine.Writer || c.engine.Writable() != nil {
			continue
		}
		var err error
		if after, err = c.sweep(ctx, after); err != nil && ctx.Err() == nil {
			c.log.Warn("expired tokens could not be removed; the next round tries again", "error", err)
		}
	}
}

// sweep looks at one round's records after a key and removes what is void; it returns where the next round goes on.
func (c *Core) sweep(ctx context.Context, after string) (next string, err error) {
	r := &request{ctx: ctx, id: "sweep"}
	tokens, answers, next, err := c.expired(after)
	if err != nil {
		return "", err
	}
	for batch := range slices.Chunk(tokens, sweepWrites) {
		if err := c.sweepTokens(r, batch); err != nil {
			return "", err
		}
	}
	for batch := range slices.Chunk(answers, sweepWrites) {
		tx := &engine.Tx{}
		for _, key := range batch {
			tx.Writes = append(tx.Writes, private.del(key))
		}
		if err := c.commit(r, tx); err != nil {
			return "", err
		}
	}
	return next, nil
}

// sweepTokens removes tokens that are still void when it is their turn: one may have been renewed in its last moment. Their
// children are void from then on, and are found by the next round.
func (c *Core) sweepTokens(r *request, hashes []string) error {
	now, tx := c.now(), &engine.Tx{}
	for _, hash := range hashes {
		tx.Reads = append(tx.Reads, private.key(tokenPrefix+hash))
	}
	tx.Exec = func(rd engine.Reader) ([]engine.Write, error) {
		var writes []engine.Write
		for _, hash := range hashes {
			value, ok, err := read(rd, private, tokenPrefix+hash)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			t, err := decodeToken(hash, value)
			if err != nil {
				return nil, err
			}
			lost := false
			if t.Parent != "" {
				_, ok, err := read(rd, private, tokenPrefix+t.Parent)
				if err != nil {
					return nil, err
				}
				lost = !ok
			}
			if lost || t.expired(now) {
				writes = append(writes, dropToken(hash, t)...)
			}
		}
		return writes, nil
	}
	return c.commit(r, tx)
}

// expired lists, from a bounded number of records, the hashes of tokens and the keys of wrapped answers that are void.
func (c *Core) expired(after string) (tokens, answers []string, next string, err error) {
	view := c.engine.Snapshot()
	defer view.Release()
	now, seen := c.now(), 0
	visit := func(rec storage.Record) bool {
		seen++
		key := string(rec.Key)
		if hash, ok := strings.CutPrefix(key, tokenPrefix); ok {
			if t, err := decodeToken(hash, rec.Value); err == nil && c.void(view, t, now) {
				tokens = append(tokens, hash)
			}
		} else {
			var w wrapped
			if json.Unmarshal(rec.Value, &w) == nil && w.expired(now) {
				answers = append(answers, key)
			}
		}
		next = key
		return seen < sweepScan
	}
	for _, prefix := range []string{tokenPrefix, wrappingPrefix} {
		low := prefix
		if after > low {
			low = after + "\x00"
		}
		if end := prefixEnd(prefix); seen < sweepScan && low < string(end) {
			if err := view.Scan(private.id, []byte(low), end, visit); err != nil {
				return nil, nil, "", err
			}
		}
	}
	if seen < sweepScan {
		next = "" // the end was reached: begin again
	}
	return tokens, answers, next, nil
}

// void tells whether a token has expired or lost its parent.
func (c *Core) void(view *storage.View, t *tokenEntry, now time.Time) bool {
	if t.expired(now) {
		return true
	}
	if t.Parent == "" {
		return false
	}
	ok, err := has(view, private, tokenPrefix+t.Parent)
	return err == nil && !ok
}
