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
	sweepScan     = 20000 // records of each kind looked at in one round
	sweepWrites   = 256   // records, or tokens, removed by one entry
)

// sweeper knows where the next round goes on with each kind of record.
type sweeper struct {
	tokens, answers, cubbyholes, counters string
	secrets                               map[string]string // by the uuid of an approle method
}

// Run removes expired tokens, wrapped answers and what belonged to them until ctx ends. What has expired is void from its second
// on, whether it was removed or not; Run only gives the space back. It also keeps lockouts. It does nothing while the store
// takes no writes. The caller waits for it.
func (c *Core) Run(ctx context.Context) error {
	defer c.closeAudit()
	t := time.NewTicker(sweepInterval)
	defer t.Stop()
	var s sweeper
	c.NoteVersion(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-c.wake:
		}
		if c.engine.Role() != engine.Writer || c.engine.Writable() != nil {
			continue
		}
		c.NoteVersion(ctx)
		r := &request{ctx: ctx, id: "sweep"}
		if err := c.keepLockouts(r); err != nil && ctx.Err() == nil {
			c.log.Warn("lockouts could not be kept; the next round tries again", "error", err)
		}
		if err := c.sweep(r, &s); err != nil && ctx.Err() == nil {
			c.log.Warn("expired tokens could not be removed; the next round tries again", "error", err)
		}
	}
}

// wakeRun lets Run do its round now.
func (c *Core) wakeRun() {
	select {
	case c.wake <- struct{}{}:
	default: // it will, already
	}
}

// sweep looks at one round's records of each kind and removes what is void.
func (c *Core) sweep(r *request, s *sweeper) error {
	tokens, next, err := c.expiredTokens(s.tokens)
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(tokens, sweepWrites) {
		if err := c.sweepTokens(r, batch); err != nil {
			return err
		}
	}
	s.tokens = next
	for _, part := range []struct {
		space space
		next  *string
		void  func(view *storage.View, now time.Time) func(rec storage.Record) (bool, error)
	}{
		{answers, &s.answers, voidAnswers}, {cubbyhole.space(), &s.cubbyholes, lostCubbyholes}, {counters, &s.counters, c.voidCounters},
	} {
		if err := c.sweepPart(r, part.space, part.next, part.void); err != nil {
			return err
		}
	}
	return c.sweepSecretIDs(r, s)
}

// sweepPart removes what is void of a bounded number of records.
func (c *Core) sweepPart(r *request, s space, next *string, judge func(*storage.View, time.Time) func(storage.Record) (bool, error)) error {
	keys, after, err := c.voidKeys(s, *next, judge)
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(keys, sweepWrites) {
		if err := c.remove(r, s, batch); err != nil {
			return err
		}
	}
	*next = after
	return nil
}

func (c *Core) voidKeys(s space, after string, judge func(*storage.View, time.Time) func(storage.Record) (bool, error)) (keys []string, next string, err error) {
	view := c.engine.Snapshot()
	defer view.Release()
	void := judge(view, c.now())
	seen := 0
	var bad error
	err = view.Scan(s.id, []byte(after), nil, func(rec storage.Record) bool {
		var gone bool
		if gone, bad = void(rec); bad != nil {
			return false
		}
		if gone {
			keys = append(keys, string(rec.Key))
		}
		seen++
		next = string(rec.Key) + "\x00"
		return seen < sweepScan
	})
	if err == nil {
		err = bad
	}
	if seen < sweepScan {
		next = "" // the end was reached: begin again
	}
	return keys, next, err
}

func voidAnswers(_ *storage.View, now time.Time) func(storage.Record) (bool, error) {
	return func(rec storage.Record) (bool, error) {
		var w wrapped
		return json.Unmarshal(rec.Value, &w) == nil && w.expired(now), nil
	}
}

// lostCubbyholes finds what a token has kept that expired, or whose revocation was cut short.
func lostCubbyholes(view *storage.View, _ time.Time) func(storage.Record) (bool, error) {
	owner, lost := devOwner, false
	return func(rec storage.Record) (bool, error) {
		hash, _, _ := strings.Cut(string(rec.Key), "/")
		if hash == owner {
			return lost, nil
		}
		there, err := has(view, private, tokenPrefix+hash)
		owner, lost = hash, !there && hash != devOwner
		return lost, err
	}
}

// sweepTokens removes tokens that are still void when it is their turn: one may have been renewed in its last moment. Their
// children are void from then on, and are found by the next round.
func (c *Core) sweepTokens(r *request, hashes []string) error {
	snap, err := c.current()
	if err != nil {
		return err
	}
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
			void, err := t.void(snap, now, func(key string) (bool, error) {
				_, ok, err := read(rd, private, key)
				return ok, err
			})
			if err != nil {
				return nil, err
			}
			if void {
				writes = append(writes, dropToken(hash, t)...)
			}
		}
		return writes, nil
	}
	return c.commit(r, tx)
}

// expiredTokens lists, from a bounded number of records, the hashes of tokens that are void.
func (c *Core) expiredTokens(after string) (hashes []string, next string, err error) {
	view := c.engine.Snapshot()
	defer view.Release()
	snap, err := c.current() // after the view: it knows every auth method that a token in the view may come from
	if err != nil {
		return nil, "", err
	}
	now, seen := c.now(), 0
	low := max(after, tokenPrefix)
	err = view.Scan(private.id, []byte(low), prefixEnd(tokenPrefix), func(rec storage.Record) bool {
		seen++
		next = string(rec.Key) + "\x00"
		hash := strings.TrimPrefix(string(rec.Key), tokenPrefix)
		t, err := decodeToken(hash, rec.Value)
		if err != nil {
			return true
		}
		if void, err := t.void(snap, now, func(key string) (bool, error) { return has(view, private, key) }); err == nil && void {
			hashes = append(hashes, hash)
		}
		return seen < sweepScan
	})
	if seen < sweepScan {
		next = ""
	}
	return hashes, next, err
}

// void tells whether a token has expired, or has lost its parent or the auth method that gave it out.
func (t *tokenEntry) void(snap *snapshot, now time.Time, exists func(key string) (bool, error)) (bool, error) {
	if t.expired(now) || t.Mount != "" && snap.mounts.auth[t.Mount] == nil {
		return true, nil
	}
	if t.Parent == "" {
		return false, nil
	}
	ok, err := exists(tokenPrefix + t.Parent)
	return !ok, err
}
