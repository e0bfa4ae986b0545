package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// syncing drives a sync as the replication layer does, from wherever it stands.
type syncing struct {
	t       *testing.T
	feeder  *engine.Engine
	e       *engine.Engine
	meddle  func() // called between two steps: the feeder goes on writing
	partial bool
}

const rangeRecords = 17

func (s *syncing) dr() bool { return s.e.Role() == engine.Verbatim }

func (s *syncing) covers(_ storage.KeyspaceID, scope storage.Scope) bool {
	return s.dr() || scope == storage.Replicated
}

func (s *syncing) run() error {
	ctx := enginetest.Context(s.t)
	st := s.e.SyncState()
	if st == nil {
		set := "performance"
		if s.dr() {
			set = "dr"
		}
		v := s.feeder.Finished()
		begun, err := s.e.BeginSync(ctx, set, v.Position(), v.Chain(), s.feeder.Identity().Lineage)
		v.Release()
		if err != nil {
			return fmt.Errorf("beginning: %w", err)
		}
		st = &begun
	}
	if !st.Complete {
		if err := s.ranges(ctx, st); err != nil {
			return fmt.Errorf("ranges: %w", err)
		}
	}
	if err := s.spool(ctx); err != nil {
		return fmt.Errorf("spooling: %w", err)
	}
	if err := s.e.EndSync(ctx, nil); err != nil {
		return fmt.Errorf("ending: %w", err)
	}
	return nil
}

// spool takes what the feeder has written.
func (s *syncing) spool(ctx context.Context) error {
	fs := frames(s.t, s.feeder, s.e.SpoolEnd().Index+1)
	if len(fs) == 0 {
		return nil
	}
	if s.dr() {
		return s.e.SpoolFrames(ctx, fs)
	}
	return s.e.SpoolCut(ctx, cut(s.t, fs))
}

func (s *syncing) ranges(ctx context.Context, st *storage.SyncState) error {
	v := s.feeder.Finished()
	totals, at := v.Totals(), v.Position()
	v.Release()
	held := map[storage.KeyspaceID]bool{}
	for _, k := range totals {
		held[k.ID] = true
		if !s.covers(k.ID, k.Scope) || string(k.ID[:]) < string(st.Keyspace[:]) {
			continue
		}
		low := []byte(nil)
		if k.ID == st.Keyspace {
			low = st.Done
		}
		if err := s.keyspace(ctx, k.ID, k.Scope, low); err != nil {
			return err
		}
		if err := s.spool(ctx); err != nil {
			return err
		}
	}
	ours, _ := s.e.Totals()
	for _, k := range ours { // what the feeder lacks is received as an empty range
		if s.covers(k.ID, k.Scope) && !held[k.ID] {
			if err := s.e.ApplyRange(ctx, &engine.SyncRange{Keyspace: k.ID, Scope: k.Scope, ReadAt: at}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *syncing) keyspace(ctx context.Context, ks storage.KeyspaceID, scope storage.Scope, low []byte) error {
	for {
		if s.meddle != nil {
			s.meddle()
		}
		r := s.read(ks, scope, low)
		if s.partial {
			s.makePartial(r)
		}
		if err := s.e.ApplyRange(ctx, r); err != nil {
			return err
		}
		if len(r.High) == 0 {
			return nil
		}
		low = r.High
	}
}

// read reads a range from the feeder's newest checkpoint.
func (s *syncing) read(ks storage.KeyspaceID, scope storage.Scope, low []byte) *engine.SyncRange {
	v := s.feeder.Finished()
	defer v.Release()
	r := &engine.SyncRange{Keyspace: ks, Scope: scope, Low: low, ReadAt: v.Position()}
	err := v.Scan(ks, low, nil, func(rec storage.Record) bool {
		key := append([]byte(nil), rec.Key...)
		if len(r.Records) == rangeRecords {
			r.High = key
			return false
		}
		rec.Key, rec.Value = key, append([]byte(nil), rec.Value...)
		r.Records = append(r.Records, rec)
		return true
	})
	if err != nil {
		s.t.Fatalf("reading a range: %v", err)
	}
	return r
}

// makePartial leaves in a range only what differs on the secondary.
func (s *syncing) makePartial(r *engine.SyncRange) {
	v := s.e.Snapshot()
	defer v.Release()
	have := map[string]string{}
	err := v.Scan(r.Keyspace, r.Low, r.High, func(rec storage.Record) bool {
		have[string(rec.Key)] = string(rec.Value)
		return true
	})
	if err != nil {
		s.t.Fatalf("reading a range: %v", err)
	}
	var differ []storage.Record
	for _, rec := range r.Records {
		if value, ok := have[string(rec.Key)]; !ok || value != string(rec.Value) {
			differ = append(differ, rec)
		}
		delete(have, string(rec.Key))
	}
	for k := range have {
		r.Gone = append(r.Gone, []byte(k))
	}
	r.Partial, r.Records = true, differ
}

// mustEqual compares what the secondary is to hold with what the feeder holds.
func (s *syncing) mustEqual() {
	s.t.Helper()
	scope := storage.Replicated
	if s.dr() {
		scope = 0
	}
	if got, want := root(s.e, scope), root(s.feeder, scope); got != want {
		s.t.Errorf("root: got %x, want %x", got, want)
	}
	got, want := enginetest.Content(s.t, s.e), enginetest.Content(s.t, s.feeder)
	for ks, records := range want {
		if ks != local || s.dr() {
			if !reflect.DeepEqual(got[ks], records) {
				s.t.Errorf("keyspace %s: got %d records, want %d, or others", ks, len(got[ks]), len(records))
			}
		}
	}
	if s.e.SyncState() != nil {
		s.t.Errorf("a sync is still under way: %+v", s.e.SyncState())
	}
}

// follow streams what the feeder has written since.
func (s *syncing) follow() error {
	if s.dr() {
		return s.e.IngestFrames(enginetest.Context(s.t), frames(s.t, s.feeder, s.e.Position().Index+1))
	}
	fs := frames(s.t, s.feeder, s.e.Cursor(engine.Performance).Index+1)
	if len(fs) == 0 {
		return nil
	}
	return s.e.IngestCut(enginetest.Context(s.t), cut(s.t, fs))
}

// fill makes a feeder with records, some of them behind a checkpoint.
func fill(t *testing.T, rng *rand.Rand) *engine.Engine {
	t.Helper()
	p := enginetest.New(t, engine.Writer, small)
	p.Hold("secondary", 1)
	randomWrites(t, p, rng, 150)
	if err := p.Checkpoint(enginetest.Context(t)); err != nil {
		t.Fatal(err)
	}
	randomWrites(t, p, rng, 20)
	return p
}

var bothRoles = map[string]engine.Role{"dr": engine.Verbatim, "performance": engine.Writer}

func TestFuzzySyncConvergesWhileTheFeederWrites(t *testing.T) {
	t.Parallel()
	for name, role := range bothRoles {
		for _, partial := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, partial %v", name, partial), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(5, 6))
				p := fill(t, rng)
				e := enginetest.NewOf(t, enginetest.Secondary(p, role), role, small)
				s := &syncing{t: t, feeder: p, e: e, partial: partial, meddle: func() {
					randomWrites(t, p, rng, 5)
					if err := p.Checkpoint(enginetest.Context(t)); err != nil {
						t.Error(err)
					}
				}}
				for round := range fewer(3, 2) {
					if err := s.run(); err != nil {
						t.Fatalf("round %d: %v", round, err)
					}
					s.mustEqual()
					randomWrites(t, p, rng, 30)
					if err := s.follow(); err != nil {
						t.Fatalf("streaming after the sync: %v", err)
					}
					s.mustEqual()
					s.e = enginetest.Reopen(t, s.e)
					s.mustEqual()
				}
			})
		}
	}
}

func TestSyncKilledAtAnyCommitContinues(t *testing.T) {
	t.Parallel()
	for name, role := range bothRoles {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(7, 8))
			p := fill(t, rng)
			dir, source := t.TempDir(), ""
			var images []string
			sm := &seam{}
			taking := false
			take := func(n int) error {
				if taking && n%fewer(3, 5) == 0 && len(images) < 60 {
					images = append(images, filepath.Join(dir, fmt.Sprint(len(images))))
					copyStore(t, source, images[len(images)-1])
				}
				return nil
			}
			sm.before = func(n int, _ string) error { return take(n) }
			sm.after = func(n int, _ string) error { return take(n + 1) }
			e := enginetest.NewOf(t, enginetest.Secondary(p, role), role, small, func(c *engine.Config) {
				c.Seam, source = sm.around, c.Dir
			})
			// Something to begin with, part of which is wrong by the time of the sync.
			s := &syncing{t: t, feeder: p, e: e}
			if err := s.run(); err != nil {
				t.Fatal(err)
			}
			if role == engine.Writer {
				enginetest.MustPut(t, e, storage.KeyspaceID{0: 200}, storage.Local, "mine", "1")
			}
			randomWrites(t, p, rng, 60)
			s.meddle = func() {
				randomWrites(t, p, rng, 3)
				if err := p.Checkpoint(enginetest.Context(t)); err != nil {
					t.Error(err)
				}
			}
			taking = true
			if err := s.run(); err != nil {
				t.Fatal(err)
			}
			taking = false
			s.mustEqual()
			if len(images) < 10 {
				t.Fatalf("places looked at: got %d, want at least 10", len(images))
			}
			for i, image := range images {
				t.Run(fmt.Sprintf("image %d", i), func(t *testing.T) {
					e := enginetest.Open(t, image, role, small)
					again := &syncing{t: t, feeder: p, e: e}
					before := e.SyncState()
					if before != nil {
						if err := again.run(); err != nil {
							t.Fatalf("continuing from %+v: %v", before, err)
						}
					}
					if err := again.follow(); err != nil {
						t.Fatalf("streaming: %v", err)
					}
					again.mustEqual()
					if role == engine.Writer {
						if got := enginetest.Content(t, e)[storage.KeyspaceID{0: 200}]["mine"]; got != "1" {
							t.Errorf("local record: got %q, want %q", got, "1")
						}
					}
				})
			}
		})
	}
}

func TestDuringASyncTheStateSaysSoAndRefusesWhatItMust(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(9, 10))
	p := fill(t, rng)
	v := p.Finished()
	from, chain := v.Position(), v.Chain()
	v.Release()
	ctx := enginetest.Context(t)
	for name, role := range bothRoles {
		t.Run(name, func(t *testing.T) {
			e := enginetest.NewOf(t, enginetest.Secondary(p, role), role, small)
			if _, err := e.BeginSync(ctx, name, from, chain, p.Identity().Lineage); err != nil {
				t.Fatal(err)
			}
			fs := frames(t, p, from.Index+1)
			if role == engine.Verbatim {
				if err := e.IngestFrames(ctx, fs); !errors.Is(err, engine.ErrInconsistent) {
					t.Errorf("frames: got %v, want ErrInconsistent", err)
				}
			} else {
				if err := e.IngestCut(ctx, cut(t, fs)); !errors.Is(err, engine.ErrInconsistent) {
					t.Errorf("a batch: got %v, want ErrInconsistent", err)
				}
				if _, err := e.Do(ctx, &engine.Tx{Writes: []engine.Write{put("a", "b")}}); !errors.Is(err, engine.ErrInconsistent) {
					t.Errorf("a write to the replicated scope: got %v, want ErrInconsistent", err)
				}
				enginetest.MustPut(t, e, storage.KeyspaceID{0: 200}, storage.Local, "a", "b")
			}
			if err := e.Writable(); err == nil {
				t.Error("Writable: got nil")
			}
			until := p.Position()
			if err := e.ApplyRange(ctx, &engine.SyncRange{Keyspace: shared, Scope: storage.Replicated, ReadAt: until}); err != nil {
				t.Fatal(err)
			}
			if err := e.EndSync(ctx, nil); err == nil {
				t.Error("EndSync before the spool has reached Until: got nil")
			}
			e = enginetest.Reopen(t, e)
			st := e.SyncState()
			if st == nil || st.From != from || st.Until != until || st.Set != name {
				t.Errorf("sync after reopening: got %+v, want from %v until %v", st, from, until)
			}
			again, err := e.BeginSync(ctx, name, from, chain, p.Identity().Lineage)
			if err != nil || again.Until != until {
				t.Errorf("beginning the same sync again: got %+v, %v, want it to continue", again, err)
			}
		})
	}
}

func TestSyncThatMissedSomethingEndsDiverged(t *testing.T) {
	t.Parallel()
	for name, role := range bothRoles {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(11, 12))
			p := fill(t, rng)
			enginetest.MustDo(t, p, put("zzz", "1"))
			e := enginetest.NewOf(t, enginetest.Secondary(p, role), role, small)
			ctx := enginetest.Context(t)
			v := p.Finished()
			from, chain := v.Position(), v.Chain()
			v.Release()
			if _, err := e.BeginSync(ctx, name, from, chain, p.Identity().Lineage); err != nil {
				t.Fatal(err)
			}
			s := &syncing{t: t, feeder: p, e: e}
			// Read late, so that a part of the spool is applied before anything is compared.
			if err := e.ApplyRange(ctx, &engine.SyncRange{
				Keyspace: other, Scope: storage.Replicated, Partial: true, ReadAt: wal.Position{Fork: from.Fork, Index: from.Index + 10},
			}); err != nil {
				t.Fatal(err)
			}
			if err := s.spool(ctx); err != nil {
				t.Fatal(err)
			}
			var diverged *engine.Diverged
			if err := e.EndSync(ctx, nil); !errors.As(err, &diverged) {
				t.Errorf("got %v, want *Diverged", err)
			}
			if st := e.SyncState(); st == nil || !st.Complete {
				t.Errorf("sync: got %+v, want one that is under way and has all its ranges", st)
			}
			if err := p.Checkpoint(ctx); err != nil {
				t.Fatal(err)
			}
			v = p.Finished()
			from, chain = v.Position(), v.Chain()
			v.Release()
			if _, err := e.BeginSync(ctx, name, from, chain, p.Identity().Lineage); err != nil {
				t.Fatal(err)
			}
			if err := s.run(); err != nil {
				t.Fatalf("the next sync: %v", err)
			}
			s.mustEqual()
		})
	}
}
