package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// parted is a log that went on in two ways after x: on a (a former primary, now Verbatim) and on b, which was promoted there.
type parted struct {
	t       *testing.T
	a, b    *engine.Engine
	x       wal.Position
	touched map[storage.KeyspaceID]map[string]storage.Scope // by what only a has
	dropped storage.KeyspaceID                              // there
}

// part lets a write a tail that b does not have. mods are a's as it is opened again.
func part(t *testing.T, seed uint64, checkpointed bool, mods ...func(*engine.Config)) *parted {
	t.Helper()
	ctx := enginetest.Context(t)
	rng := rand.New(rand.NewPCG(seed, 1))
	p := &parted{t: t, touched: map[storage.KeyspaceID]map[string]storage.Scope{}, dropped: storage.KeyspaceID{0: 5, 1: byte(seed)}}
	p.a = enginetest.New(t, engine.Writer, small)
	p.a.Hold("b", 1)
	for i := range 60 {
		enginetest.MustDo(t, p.a, enginetest.Put(p.dropped, storage.Replicated, fmt.Sprintf("kept %03d", i), "v"))
	}
	randomWrites(t, p.a, rng, 80)
	b := enginetest.NewOf(t, enginetest.Secondary(p.a, engine.Verbatim), engine.Verbatim, small)
	if err := b.IngestFrames(ctx, frames(t, p.a, 1)); err != nil {
		t.Fatal(err)
	}
	if err := b.AdoptHistory(p.a.History()); err != nil {
		t.Fatal(err)
	}
	p.x = b.Position()

	randomWrites(t, p.a, rng, 25)
	enginetest.MustDo(t, p.a, enginetest.Put(p.dropped, storage.Replicated, "kept 003", "overwritten"))
	enginetest.MustDo(t, p.a, enginetest.Drop(p.dropped, storage.Replicated))
	enginetest.MustDo(t, p.a, enginetest.Put(storage.KeyspaceID{0: 6}, storage.Local, "only", "here"))
	if checkpointed {
		if err := p.a.Checkpoint(ctx); err != nil {
			t.Fatal(err)
		}
	}
	randomWrites(t, p.a, rng, 10)

	dirA, dirB := enginetest.Dir(t, p.a), enginetest.Dir(t, b)
	enginetest.Stop(t, p.a)
	enginetest.Stop(t, b)
	p.b = enginetest.Open(t, dirB, engine.Writer, small)
	p.b.Hold("a", 1)
	if _, err := p.b.BeginEpoch(ctx, 1, []engine.Write{enginetest.Put(shared, storage.Replicated, "promoted", "yes")}); err != nil {
		t.Fatal(err)
	}
	randomWrites(t, p.b, rng, 30)
	if err := p.b.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	randomWrites(t, p.b, rng, 5)
	p.a = enginetest.Open(t, dirA, engine.Verbatim, append(mods, small)...)
	p.a.Hold("b", 1)
	p.learn()
	return p
}

// learn notes what a's tail touched.
func (p *parted) learn() {
	for _, f := range frames(p.t, p.a, p.x.Index+1) {
		for _, b := range f.Entries {
			e, err := storage.DecodeEntry(b)
			if err != nil {
				p.t.Fatal(err)
			}
			for _, block := range e.Blocks {
				if p.touched[block.Keyspace] == nil {
					p.touched[block.Keyspace] = map[string]storage.Scope{}
				}
				for _, c := range block.Changes {
					if c.Op != storage.Drop {
						p.touched[block.Keyspace][string(c.Key)] = block.Scope
					}
				}
			}
		}
	}
}

// fetch gives a the records that its tail touched, as b has them.
func (p *parted) fetch(a *engine.Engine) error {
	ctx := enginetest.Context(p.t)
	st := a.SyncState()
	v := p.b.Finished()
	defer v.Release()
	ids := slices.SortedFunc(maps.Keys(p.touched), func(a, b storage.KeyspaceID) int { return bytes.Compare(a[:], b[:]) })
	for _, ks := range ids {
		if bytes.Compare(ks[:], st.Keyspace[:]) < 0 {
			continue
		}
		r := &engine.SyncRange{Keyspace: ks, Scope: storage.Replicated, Partial: true, ReadAt: v.Position()}
		if ks == st.Keyspace {
			r.Low = st.Done
		}
		for _, k := range slices.Sorted(maps.Keys(p.touched[ks])) {
			r.Scope = p.touched[ks][k]
			if k < string(r.Low) {
				continue
			}
			rec, err := v.Get(ks, []byte(k))
			switch {
			case errors.Is(err, storage.ErrNotFound):
				r.Gone = append(r.Gone, []byte(k))
			case err != nil:
				return err
			default:
				r.Records = append(r.Records, storage.Record{Key: []byte(k), Value: bytes.Clone(rec.Value)})
			}
		}
		if err := a.ApplyRange(ctx, r); err != nil {
			return fmt.Errorf("keyspace %s: %w", ks, err)
		}
	}
	return nil
}

// rewind takes a back to x from wherever it stands, and lets it follow b.
func (p *parted) rewind(a *engine.Engine) error {
	ctx := enginetest.Context(p.t)
	st := a.SyncState()
	if st == nil && a.Position().Index > p.x.Index && a.Position().Fork != p.b.Position().Fork {
		if err := a.BeginRewind(ctx, "dr", p.x, []string{"dr-1-0a0b0c0d"}); err != nil {
			return fmt.Errorf("beginning: %w", err)
		}
		st = a.SyncState()
	}
	s := &syncing{t: p.t, feeder: p.b, e: a}
	if st != nil {
		if !st.Complete && (a.Rewinding() == nil || a.Rewinding().To != p.x || !a.Rewinding().Cut) {
			return fmt.Errorf("the rewind under way is %+v", a.Rewinding())
		}
		if err := s.spool(ctx); err != nil {
			return fmt.Errorf("spooling: %w", err)
		}
		if !st.Complete {
			if err := p.fetch(a); err != nil {
				return fmt.Errorf("fetching: %w", err)
			}
		}
		if err := a.EndSync(ctx, nil); err != nil {
			return fmt.Errorf("ending: %w", err)
		}
	}
	if err := s.follow(); err != nil {
		return fmt.Errorf("following: %w", err)
	}
	s.mustEqual()
	got, want := frames(p.t, a, a.FirstIndex()), frames(p.t, p.b, a.FirstIndex())
	if len(got) != len(want) {
		return fmt.Errorf("its log has %d frames, the other %d", len(got), len(want))
	}
	for i := range got {
		if got[i].Chain != want[i].Chain {
			return fmt.Errorf("its log's frame at %d is another", got[i].First)
		}
	}
	if r := a.Rewinding(); r != nil {
		return fmt.Errorf("a rewind is under way: %+v", r)
	}
	return nil
}

func TestALogThatWentOnAloneIsTakenBackAtTheCostOfItsTail(t *testing.T) {
	t.Parallel()
	for _, checkpointed := range []bool{false, true} {
		t.Run(fmt.Sprintf("checkpointed %v", checkpointed), func(t *testing.T) {
			t.Parallel()
			p := part(t, 3, checkpointed)
			version := p.a.SystemVersion()
			if n, err := p.a.CanRewind(p.x); err != nil || n == 0 {
				t.Fatalf("can it be taken back: %d bytes, %v", n, err)
			}
			if err := p.rewind(p.a); err != nil {
				t.Fatal(err)
			}
			if p.a.SystemVersion() == version {
				t.Error("what is derived from the system's records is not told to begin anew")
			}
			if n := len(enginetest.Content(t, p.a)[p.dropped]); n != 60 {
				t.Errorf("the keyspace that the tail dropped has %d records, want 60", n)
			}
			if h := p.a.History(); h[len(h)-1].Fork != p.x.Fork {
				t.Errorf("the history ends with %+v, want fork %v, until the feeder's is adopted", h[len(h)-1], p.x.Fork)
			}
			if _, err := p.a.TotalsAt(p.x.Index); err != nil {
				t.Errorf("totals at %d: %v", p.x.Index, err)
			}
			enginetest.MustPut(t, p.b, shared, storage.Replicated, "later", "1")
			p.a = enginetest.Reopen(t, p.a)
			if err := p.rewind(p.a); err != nil {
				t.Errorf("after a restart: %v", err)
			}
		})
	}
}

// images copies a store at each of its commits, before and after the bytes are on disk, while taking is set.
type images struct {
	t      *testing.T
	dir    string
	store  string
	taking bool
	paths  []string
}

func newImages(t *testing.T) *images { return &images{t: t, dir: t.TempDir()} }

// of says which store it is.
func (im *images) of(c *engine.Config) {
	im.store, c.Seam = c.Dir, (&seam{before: im.take, after: im.take}).around
}

func (im *images) take(int, string) error {
	if im.taking {
		im.paths = append(im.paths, filepath.Join(im.dir, fmt.Sprint(len(im.paths))))
		copyStore(im.t, im.store, im.paths[len(im.paths)-1])
	}
	return nil
}

func TestARewindKilledAtAnyCommitGoesOn(t *testing.T) {
	t.Parallel()
	im := newImages(t)
	p := part(t, 4, true, im.of)
	im.taking = true
	if err := p.rewind(p.a); err != nil {
		t.Fatal(err)
	}
	im.taking = false
	if len(im.paths) < 12 {
		t.Fatalf("places looked at: got %d, want at least 12", len(im.paths))
	}
	for i, image := range im.paths {
		e := enginetest.Open(t, image, engine.Verbatim, small)
		before := e.SyncState()
		if err := p.rewind(e); err != nil {
			t.Errorf("killed at place %d of %d, going on from %+v: %v", i, len(im.paths), before, err)
		}
		enginetest.Stop(t, e)
	}
}

func TestAPlaceThatTheLogDoesNotTellIsRefused(t *testing.T) {
	t.Parallel()
	p := part(t, 5, false)
	ctx := enginetest.Context(t)
	for _, tt := range []struct {
		name string
		to   wal.Position
		want error
	}{
		{"another fork", wal.Position{Fork: wal.Fork{9}, Index: p.x.Index}, engine.ErrCannotRewind},
		{"its own end", p.a.Position(), engine.ErrCannotRewind},
		{"behind its end", wal.Position{Fork: p.x.Fork, Index: p.a.Position().Index + 5}, engine.ErrCannotRewind},
	} {
		if err := p.a.BeginRewind(ctx, "dr", tt.to, nil); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
	if err := p.b.BeginRewind(ctx, "dr", p.x, nil); !errors.Is(err, engine.ErrNotWritable) {
		t.Errorf("a writer: got %v, want ErrNotWritable", err)
	}
	if p.a.SyncState() != nil {
		t.Error("a refused rewind has begun a sync")
	}
}

// TestALogIsTakenBackInTheMiddleOfASync lets the feeder of a sync be succeeded by another one that has less of the log.
func TestALogIsTakenBackInTheMiddleOfASync(t *testing.T) {
	t.Parallel()
	p := part(t, 6, false)
	ctx := enginetest.Context(t)
	e := enginetest.NewOf(t, enginetest.Secondary(p.b, engine.Verbatim), engine.Verbatim, small)
	all := frames(t, p.a, 1)
	at := slices.IndexFunc(all, func(f *wal.Frame) bool { return f.Last() >= p.x.Index/2 })
	from := all[at].Position()
	if _, err := e.BeginSync(ctx, "dr", from, all[at].Chain, p.a.Identity().Lineage); err != nil {
		t.Fatal(err)
	}
	if err := e.SpoolFrames(ctx, all[at+1:]); err != nil {
		t.Fatal(err)
	}
	if err := e.BeginRewind(ctx, "dr", p.x, nil); err != nil {
		t.Fatal(err)
	}
	if r := e.Rewinding(); r == nil || !r.Compare || e.Position() != p.x {
		t.Fatalf("at %+v with %+v, want x and that ranges are to be compared", e.Position(), r)
	}
	e = enginetest.Reopen(t, e)
	s := &syncing{t: t, feeder: p.b, e: e}
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	if err := s.follow(); err != nil {
		t.Fatal(err)
	}
	s.mustEqual()
}
