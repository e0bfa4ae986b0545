package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// recordRestored tells, in the system's local keyspace, that this cluster was restored, when and from what. It is the first entry of
// the epoch that a restore begins.
const recordRestored = "core/restored"

// Restored says what a restore made.
type Restored struct {
	Index   uint64 `json:"index"` // of the last entry of the snapshot
	Records uint64 `json:"records"`
	Root    string `json:"merkle_root"`
	Ordinal uint64 `json:"epoch,omitempty"` // of the epoch that was begun; 0: none, the store is a secondary's
}

// Store is how the engine of a store that is being made is opened.
type Store struct {
	Config engine.Config // Dir is of a store that is new and empty; Role is the one that it is to have
	// Live, unless nil, is the store whose place the new one takes: it tells, when all records are here, what this node is in its sets
	// and which epochs there have been.
	Live *engine.Engine
	Now  func() time.Time
	// Progress is told how many bytes of pieces have been read; an error ends the restore. It may be nil.
	Progress func(bytes int64) error
}

// Identify reads who the store is that a snapshot makes: to be called once, after Unseal. The reader's Restore follows.
func (r *Reader) Identify() (*Identity, error) {
	if r.keys == nil {
		return nil, errors.New("internal error: a snapshot is restored without its keys")
	}
	id, err := r.identity()
	if err != nil {
		return nil, err
	}
	return &Identity{id}, nil
}

// Identity is who a snapshot's store is.
type Identity struct{ *identity }

// Engine returns what engine.CreateSealed needs.
func (id *Identity) Engine() engine.Identity { return id.identity.Identity }

// NodeNotes returns the node-scope records of the snapshot.
func (id *Identity) NodeNotes() map[string][]byte { return id.Notes }

// Restore fills a new, empty store with the rest of a snapshot, compares its digests with those that the cluster had, and begins an epoch
// in it: secondaries that hold more than the snapshot find that out. Whatever it returns, nothing outside the store's directory has changed.
func (r *Reader) Restore(ctx context.Context, id *Identity, s Store) (*Restored, error) {
	done, err := r.restore(ctx, id, s)
	if err != nil {
		return nil, fmt.Errorf("restore a snapshot: %w", err)
	}
	return done, nil
}

func (r *Reader) restore(ctx context.Context, id *Identity, s Store) (*Restored, error) {
	end, err := r.fill(ctx, id, s)
	if err != nil {
		return nil, err
	}
	out := &Restored{Index: end.At.Index, Records: r.Summary.Records, Root: r.Summary.Root}
	if s.Config.Role == engine.Verbatim {
		return out, nil
	}
	out.Ordinal, err = r.begin(ctx, end, s)
	return out, err
}

// fill does what a DR secondary does that is filled: it takes the ranges into the state, keeps the frames, and applies them.
func (r *Reader) fill(ctx context.Context, id *Identity, s Store) (end *footer, err error) {
	cfg := s.Config
	cfg.Role = engine.Verbatim
	err = running(ctx, cfg, func(ctx context.Context, e *engine.Engine) error {
		if _, err := e.BeginSync(ctx, "dr", id.From, id.Chain, id.identity.Identity.Lineage); err != nil {
			return err
		}
		end, err = r.data(func(p *piece) error {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if s.Progress != nil {
				if err := s.Progress(r.size); err != nil {
					return err
				}
			}
			return take(ctx, e, p)
		})
		if err != nil {
			return err
		}
		if err := e.EndSync(ctx, nil); err != nil {
			return wrong(err)
		}
		if err := same(e, end); err != nil {
			return err
		}
		if err := e.AdoptHistory(end.History); err != nil {
			return err
		}
		return nil
	})
	return end, err
}

func take(ctx context.Context, e *engine.Engine, p *piece) error {
	if p.records == nil {
		if err := e.SpoolFrames(ctx, p.frames); err != nil {
			return wrong(err)
		}
		return nil
	}
	x := p.records
	err := e.ApplyRange(ctx, &engine.SyncRange{Keyspace: x.keyspace, Scope: x.scope, Low: x.low, High: x.high, Records: x.recs, ReadAt: x.readAt})
	return wrong(err)
}

// wrong tells what the snapshot is to blame for from what this node is: a disk, or its end.
func wrong(err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, engine.ErrPoisoned), errors.Is(err, engine.ErrStopped),
		errors.Is(err, engine.ErrDiskFull), errors.Is(err, engine.ErrOutcomeUnknown):
		return err
	}
	return &Invalid{Why: "what it holds does not fit together: " + err.Error()}
}

// same compares the store with what the cluster had at that index.
func same(e *engine.Engine, end *footer) error {
	totals, at := e.Totals()
	chain, err := e.ChainAt(at.Index)
	if err != nil {
		return err
	}
	switch {
	case at != end.At || chain != end.Chain:
		return invalid(nameFooter, "the log ends at index %d, it should at %d", at.Index, end.At.Index)
	case !bytes.Equal(storage.EncodeTotals(totals), end.Totals):
		return invalid(nameFooter, "the records have root %s, the cluster had another: take the snapshot anew", rootOf(totals))
	}
	return nil
}

func setCursor(ctx context.Context, e *engine.Engine, end *footer) error {
	at, ok := end.Cursors[engine.Performance]
	if !ok || e.SyncState() != nil || e.Cursor(engine.Performance) == at {
		return nil
	}
	return e.SetCursor(ctx, at)
}

// begin mints an epoch at the restored index.
func (r *Reader) begin(ctx context.Context, end *footer, s Store) (ordinal uint64, err error) {
	err = running(ctx, s.Config, func(ctx context.Context, e *engine.Engine) error {
		var live []engine.Reign
		notes := e.NodeList("")
		if s.Live != nil {
			live, notes = s.Live.History(), s.Live.NodeList("")
			if err := e.NodeSet(replaced(e.NodeList(""), notes)); err != nil {
				return err
			}
		}
		seen, err := seenOf(notes)
		if err != nil {
			return err
		}
		known := append(seen, end.History, live)
		what := mustJSON(map[string]any{"snapshot": r.Header.ID, "taken": r.Header.Taken, "index": end.At.Index, "restored": s.Now().UTC().Truncate(time.Second)})
		reign, err := e.BeginEpoch(ctx, highest(known), []engine.Write{{
			Keyspace: storage.SystemLocal, Scope: storage.Local, Change: storage.Change{Op: storage.Put, Key: []byte(recordRestored), Value: what},
		}}, lost(live, end.History)...)
		ordinal = reign.Ordinal
		if err != nil {
			return err
		}
		return setCursor(ctx, e, end)
	})
	return ordinal, err
}

// replaced is what makes one set of node-scope records another.
func replaced(have, want map[string][]byte) map[string][]byte {
	out := map[string][]byte{}
	for k := range have {
		out[k] = nil
	}
	maps.Copy(out, want)
	return out
}

// seenOf reads the newest histories that this node has seen of its sets.
func seenOf(notes map[string][]byte) (out [][]engine.Reign, err error) {
	for key, b := range notes {
		if !strings.HasPrefix(key, "replication/") || !strings.HasSuffix(key, "/seen") {
			continue
		}
		var h []engine.Reign
		if err := json.Unmarshal(b, &h); err != nil {
			return nil, fmt.Errorf("the stored history %s does not decode: %w", key, err)
		}
		out = append(out, h)
	}
	return out, nil
}

func highest(known [][]engine.Reign) (ordinal uint64) {
	for _, h := range known {
		for i := range h {
			ordinal = max(ordinal, h[i].Ordinal)
		}
	}
	return ordinal
}

// lost returns the forks of the log as it was that are not in it any more: the new epoch takes their place.
func lost(live, kept []engine.Reign) (out []wal.Fork) {
	for i := range live {
		if !slices.ContainsFunc(kept, func(r engine.Reign) bool { return r.Fork == live[i].Fork }) {
			out = append(out, live[i].Fork)
		}
	}
	return out
}

// running opens a store, runs its engine while fn works, and closes it with everything checkpointed.
func running(ctx context.Context, cfg engine.Config, fn func(context.Context, *engine.Engine) error) error {
	e, _, err := engine.Open(cfg)
	if err != nil {
		return err
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- e.Run(life) }()
	err = fn(ctx, e)
	cancel()
	return errors.Join(err, <-ended, e.Close())
}
