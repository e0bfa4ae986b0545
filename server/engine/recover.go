package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// Open recovers a store (ENGINE section 5) and starts nothing.
//
// It refuses, naming file and place: a log that is damaged, that ends before the state file does, or that begins after it; a
// state that the log's digests contradict. A Repairable store sets such a log aside, or keeps such a state, and NeedsRepair
// says why it must be synced.
func Open(cfg Config) (*Engine, Report, error) {
	began := time.Now()
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, Report{}, err
	}
	r := &recovery{cfg: cfg}
	if err := r.open(); err != nil {
		r.close()
		return nil, r.report, fmt.Errorf("open the store %s: %w", cfg.Dir, err)
	}
	r.report.Took = time.Since(began)
	return r.e, r.report, nil
}

// recovery is an Open under way.
type recovery struct {
	cfg    Config
	report Report
	e      *Engine
	wal    *wal.Log
	state  *storage.State
}

func (r *recovery) close() {
	if r.state != nil {
		_ = r.state.Close() // the error of opening is the one that counts
	}
	if r.wal != nil {
		_ = r.wal.Close()
	}
}

func (r *recovery) open() error {
	if _, err := os.Stat(r.cfg.Dir); err != nil {
		return err
	}
	if err := storage.RefuseNewer(filepath.Join(r.cfg.Dir, stateFile)); err != nil {
		return err
	}
	if r.cfg.MinFree > 0 {
		if err := giveUpReserve(r.cfg.Dir); err != nil {
			return err
		}
	}
	if err := finishSetAside(r.cfg.Dir); err != nil {
		return err
	}
	if err := r.openLog(); err != nil {
		return err
	}
	if err := r.openState(); err != nil {
		return err
	}
	if err := r.place(); err != nil {
		return err
	}
	if r.cfg.MinFree > 0 {
		if err := keepReserve(r.cfg.Dir); err != nil {
			r.cfg.Logger.Warn("the reserve file could not be made", "error", err)
		}
	}
	return nil
}

func walConfig(cfg Config) wal.Config {
	// The engine begins segments, so that their first frames can list all totals; the log's own limits lie beyond.
	return wal.Config{
		Dir:            filepath.Join(cfg.Dir, logDir),
		SegmentBytes:   2 * cfg.SegmentBytes,
		SegmentEntries: 2*cfg.SegmentEntries + groupEntries,
		Seam:           cfg.Seam,
		Sealer:         cfg.Sealer,
	}
}

// openLog opens the log; a damaged one of a Repairable store is set aside first.
func (r *recovery) openLog() error {
	wc := walConfig(r.cfg)
	if _, err := os.Stat(filepath.Join(wc.Dir, metaFile)); err != nil {
		return fmt.Errorf("the log's metadata: %w", err)
	}
	log, rep, err := wal.Open(wc)
	if reason := r.damage(err); reason != "" {
		if err := r.setAside(reason); err != nil {
			return err
		}
		log, rep, err = wal.Open(wc)
	}
	if err != nil {
		return err
	}
	r.wal, r.report.WAL = log, rep
	return nil
}

// damage says what is wrong with a log that may be set aside; "" when it may not. Metadata are not the log: identity and keys are in there.
func (r *recovery) damage(err error) string {
	var c *boltfile.CorruptError
	if !r.cfg.Repairable || !errors.As(err, &c) || filepath.Base(c.File) == metaFile {
		return ""
	}
	return err.Error()
}

func (r *recovery) openState() error {
	id, err := readIdentity(r.wal.Note(noteIdentity), filepath.Join(r.cfg.Dir, logDir))
	if err != nil {
		return err
	}
	r.e = newEngine(r.cfg, id, r.wal)
	if reason := r.wal.Note(noteRebuild); reason != nil && r.mayRebuild() {
		if err := r.rebuildState(string(reason)); err != nil {
			return err
		}
	}
	o := storage.Options{Path: r.e.path(stateFile), Key: r.e.keys.value, Seam: r.cfg.Seam, Sealer: r.cfg.Sealer, Found: r.e.damaged.found,
		Repairable: r.cfg.Repairable}
	r.state, err = storage.Open(o)
	if unreadable(err) && r.mayRebuild() {
		if err := r.rebuildState(err.Error()); err != nil {
			return err
		}
		r.state, err = storage.Open(o)
	}
	if err != nil {
		return err
	}
	r.e.state = r.state
	mark := r.state.Mark()
	r.report.ReindexNeeded, r.report.ReindexInterrupted = mark.ReindexNeeded, mark.Reindexing
	if interrupted := mark.Reindexing && !r.cfg.Repairable; mark.ReindexNeeded && !interrupted && len(r.e.damaged.ch) == 0 {
		// Not found now, with a place, but noted before: by a checkpoint, or, on a secondary, by a repair that was interrupted.
		r.e.damaged.found(storage.Damage{File: r.e.path(stateFile), What: "the range index does not add up to the digests and must be rebuilt: reindex"})
	}
	return nil
}

func newEngine(cfg Config, id *Identity, log *wal.Log) *Engine {
	e := &Engine{
		cfg:     cfg,
		log:     cfg.Logger.Named("engine"),
		keys:    &keyring{secret: id.DigestSecret},
		wal:     log,
		jobs:    make(chan *job),
		ready:   make(chan nextFrame),
		commits: make(chan *group),
		applied: make(chan *group, 4),
		asked:   make(chan chan error),
		full:    make(chan struct{}, 1),
		life:    lifecycle{failed: make(chan struct{}), ended: make(chan struct{})},
		disk:    newDiskGuard(cfg.Dir, cfg.MinFree),
		damaged: damages{ch: make(chan storage.Damage, keptDamage)},
	}
	e.role.Store(int32(cfg.Role))
	e.repairable.Store(cfg.Repairable)
	e.ident.Store(id)
	e.system.Store(1)
	return e
}

func (e *Engine) path(name string) string { return filepath.Join(e.cfg.Dir, name) }

// place brings log, state and the structures in memory to one place.
func (r *recovery) place() error {
	e := r.e
	mark := e.state.Mark()
	spooling := e.Role() == Verbatim && mark.Sync != nil && mark.Sync.Set == setDR
	if err := e.bases.load(e.wal, e.cfg.Dir); err != nil {
		return err
	}
	if spooling {
		if err := r.resumeSync(mark.Sync); err != nil {
			return err
		}
	} else if err := r.join(mark); err != nil {
		return err
	}
	if err := e.hist.load(e.wal, e.cfg.Dir, e.Role(), r.report.WAL, e.ident.Load()); err != nil {
		return fmt.Errorf("the log's history: %w", err)
	}
	at, chain := e.wal.End()
	e.com = &committer{e: e}
	e.com.begin(at, chain)
	e.seq = &sequencer{
		e: e, ledger: newLedger(e.state), last: at.Index, chain: chain,
		cursors: e.cursors(), cur: newGroup(),
	}
	if !spooling {
		e.seq.syncing = e.sync.get()
	}
	e.place.begin(at, chain, e.seq.cursors)
	return nil
}

// join checks that log and state fit each other and replays what the state lacks. In a Repairable store a log that does not
// fit is set aside.
func (r *recovery) join(mark storage.Mark) error {
	if err := r.fits(mark); err != nil {
		if r.damage(err) == "" {
			return err
		}
		if err := r.replaceLog(err.Error()); err != nil {
			return err
		}
	}
	end, _ := r.wal.End()
	if end.Index > mark.Applied.Index {
		if f, err := r.wal.Frame(end.Index); err == nil {
			r.report.OutcomeUnknown = uint64(f.Count)
		}
	}
	err := r.replay(context.Background())
	var c *boltfile.CorruptError
	if errors.As(err, &c) && r.damage(err) != "" && filepath.Dir(c.File) == filepath.Join(r.cfg.Dir, logDir) {
		// A segment that was sealed is damaged where the replay needs it.
		if err := r.replaceLog(err.Error()); err != nil {
			return err
		}
		r.e.sync.begin(r.e.state.Mark().Sync, false)
		return nil
	}
	return err
}

// fits says why the log cannot continue the state.
func (r *recovery) fits(mark storage.Mark) error {
	end, endChain := r.wal.End()
	first := r.wal.First()
	needed := max(mark.Applied.Index, mark.ConsistentAt)
	corrupt := func(format string, args ...any) error {
		return &boltfile.CorruptError{File: filepath.Join(r.cfg.Dir, logDir), What: fmt.Sprintf(format, args...)}
	}
	switch {
	case end.Index < needed:
		return corrupt("the log is shorter than the state: it ends at index %d, %s holds entries up to %d: acknowledged writes are missing; "+
			"bring back the log's files, or restore a backup", end.Index, stateFile, needed)
	case first > mark.Applied.Index+1:
		return corrupt("there is a gap between state and log: %s ends at index %d, the log begins at %d", stateFile, mark.Applied.Index, first)
	}
	chain, err := r.chainAfter(mark.Applied.Index, endChain)
	if err != nil {
		return err
	}
	if chain != mark.Chain {
		return corrupt("the log is not the one that the state was made from: the chain hash at index %d differs", mark.Applied.Index)
	}
	return nil
}

// chainAfter returns the chain hash of the frame that ends at index, which may be the one before the log's first.
func (r *recovery) chainAfter(index uint64, endChain wal.Hash) (wal.Hash, error) {
	if end, _ := r.wal.End(); end.Index == index {
		return endChain, nil
	}
	f, err := r.wal.Frame(index + 1)
	if err != nil {
		return wal.Hash{}, fmt.Errorf("reading the frame after the checkpoint, at index %d: %w", index+1, err)
	}
	if f.First != index+1 {
		return wal.Hash{}, &boltfile.CorruptError{
			File: filepath.Join(r.cfg.Dir, logDir),
			What: fmt.Sprintf("the state ends at index %d, within the frame %d to %d", index, f.First, f.Last()),
		}
	}
	return f.Prev, nil
}

// resumeSync takes up a Verbatim store's sync: its log begins after S, or was taken back to it, and runs ahead of the state. Nothing is replayed before EndSync.
func (r *recovery) resumeSync(s *storage.SyncState) error {
	e := r.e
	rewinding, err := r.resumeRewind(s)
	if err != nil {
		return err
	}
	begins := e.wal.First() == s.From.Index+1
	if begins && !rewinding {
		at, chain := e.wal.End()
		if at.Index > s.From.Index {
			f, err := e.wal.Frame(s.From.Index + 1)
			if err != nil {
				return err
			}
			chain = f.Prev
		}
		begins = chain == s.FromChain
	}
	if !begins && !rewinding {
		if s.Complete {
			return &boltfile.CorruptError{
				File: filepath.Join(r.cfg.Dir, logDir),
				What: fmt.Sprintf("a sync is being ended, whose log begins after %d, but this one begins at %d", s.From.Index, e.wal.First()),
			}
		}
		if err := e.resetLog(s.From, s.FromChain); err != nil {
			return err
		}
	}
	e.sync.begin(s, true)
	return nil
}
