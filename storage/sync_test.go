package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// records returns n records in order of key.
func records(n int, salt string) []storage.Record {
	recs := make([]storage.Record, n)
	for i := range recs {
		recs[i] = storage.Record{Key: fmt.Appendf(nil, "dir%d/%05d", i%3, i), Value: []byte(salt + fmt.Sprint(i)), Index: uint64(i + 1)}
	}
	slices.SortFunc(recs, func(a, b storage.Record) int { return bytes.Compare(a.Key, b.Key) })
	return recs
}

// replace does to a twin what ReplaceRange does.
func (w *twin) replace(id storage.KeyspaceID, low, high string, recs []storage.Record) {
	if w.recs[id] == nil || w.detached[id] {
		w.recs[id], w.scope[id] = map[string]storage.Record{}, storage.Replicated
		delete(w.detached, id)
	}
	for key := range w.recs[id] {
		if key >= low && (high == "" || key < high) {
			delete(w.recs[id], key)
		}
	}
	k := keyOf(id)
	for _, r := range recs {
		r.Digest = k.Record(r.Key, r.Value)
		w.recs[id][string(r.Key)] = r
	}
}

func TestReplaceRangeMakesARangeExactlyTheRecordsGiven(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 1))
	path := statePath(t)
	s := open(t, storage.Options{Path: path, ChunkRecords: 100, ChunkBytes: 4000})
	w := newTwin()
	sync := &storage.SyncState{Set: "dr", From: wal.Position{Fork: wal.Fork{9}, Index: 77}, Done: []byte("x"), Keyspace: ksID(2)}
	for round := range fewer(30, 12) {
		id := ksID(byte(round % 2))
		recs := records(rng.IntN(600), fmt.Sprint(rng.IntN(2)))
		low, high := "", ""
		if bounds := append(w.keys(id), "dir1/", "x"); round > 3 {
			low, high = bounds[rng.IntN(len(bounds))], bounds[rng.IntN(len(bounds))]
			if low >= high {
				high = ""
			}
			recs = slices.DeleteFunc(recs, func(r storage.Record) bool {
				return string(r.Key) < low || high != "" && string(r.Key) >= high
			})
		}
		if err := s.ReplaceRange(id, storage.Replicated, []byte(low), []byte(high), recs, sync); err != nil {
			t.Fatal(err)
		}
		for i := range recs { // equal records are not rewritten: they keep their index
			if old, ok := w.recs[id][string(recs[i].Key)]; ok && bytes.Equal(old.Value, recs[i].Value) {
				recs[i].Index = old.Index
			}
		}
		w.replace(id, low, high, recs)
		compare(t, s, w, nil)
		v := s.Finished()
		compareRanges(t, v, w, rng)
		v.Release()
		if got := s.Floor(id); got != 77 {
			t.Fatalf("floor after a sync from index 77: got %d", got)
		}
	}
	checkWhole(t, s, w)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, storage.Options{Path: path})
	compare(t, s, w, nil)
	if got := s.Mark().Sync; !reflect.DeepEqual(got, sync) {
		t.Errorf("state of the sync after reopening: got %+v, want %+v", got, sync)
	}
}

func TestReplaceRangeAttachesADetachedKeyspaceEmpty(t *testing.T) {
	s := open(t, storage.Options{ChunkRecords: 40})
	w := newTwin()
	put := &storage.Entry{Index: 1, Blocks: []storage.Block{{Keyspace: ksID(1), Scope: storage.Replicated}}}
	for _, r := range records(200, "old") {
		put.Blocks[0].Changes = append(put.Blocks[0].Changes, storage.Change{Op: storage.Put, Key: r.Key, Value: r.Value})
	}
	drop := &storage.Entry{Index: 2, Blocks: []storage.Block{{Keyspace: ksID(1), Scope: storage.Replicated, Changes: []storage.Change{{Op: storage.Drop}}}}}
	applyOne(s, w, put, drop)
	checkpoint(t, s)
	if at, ok := s.Detached(ksID(1)); at != 2 || !ok {
		t.Fatalf("detached: got %d, %v, want 2", at, ok)
	}
	recs := records(3, "new")
	if err := s.ReplaceRange(ksID(1), storage.Replicated, []byte("dir1"), nil, recs[1:], nil); err != nil {
		t.Fatal(err)
	}
	w.replace(ksID(1), "dir1", "", recs[1:])
	compare(t, s, w, nil)
	checkWhole(t, s, w)
	if _, ok := s.Detached(ksID(1)); ok {
		t.Error("still detached")
	}
}

// applyOne applies entries as one frame.
func applyOne(s *storage.State, w *twin, entries ...*storage.Entry) {
	f := &frame{entries: entries}
	for _, e := range entries {
		w.apply(e)
		f.end.Index = e.Index
	}
	f.totals = w.totals()
	apply(s, f)
}

func TestReplaceRangeRefusesRecordsThatDoNotBelong(t *testing.T) {
	s := open(t, storage.Options{})
	r := func(keys ...string) (recs []storage.Record) {
		for _, key := range keys {
			recs = append(recs, storage.Record{Key: []byte(key)})
		}
		return recs
	}
	for name, recs := range map[string][]storage.Record{
		"out of order": r("c", "b"), "twice": r("b", "b"), "below": r("a"), "above": r("d"), "empty": r(""),
		"too long": {{Key: append([]byte("c"), make([]byte, storage.MaxKey)...)}},
	} {
		var bad *storage.Malformed
		if err := s.ReplaceRange(ksID(1), storage.Local, []byte("b"), []byte("d"), recs, nil); !errors.As(err, &bad) {
			t.Errorf("%s: got %v, want it refused", name, err)
		}
	}
	if err := s.ReplaceRange(ksID(1), storage.Local, []byte("b"), []byte("d"), r("b", "c"), nil); err != nil {
		t.Errorf("after refusals: %v", err)
	}
}

func TestBulkChangesWaitUntilTheTablesAreEmpty(t *testing.T) {
	s := open(t, storage.Options{})
	w := newWriter(1)
	apply(s, w.frame(1))
	for name, err := range map[string]error{
		"ReplaceRange": s.ReplaceRange(ksID(1), storage.Local, nil, nil, nil, nil),
		"SetSync":      s.SetSync(nil),
		"StartAfter":   s.StartAfter(wal.Position{}, wal.Hash{}, nil),
	} {
		if !errors.Is(err, storage.ErrTablesNotEmpty) {
			t.Errorf("%s: got %v, want %v", name, err, storage.ErrTablesNotEmpty)
		}
	}
	checkpoint(t, s)
	if err := s.SetSync(&storage.SyncState{Set: "dr"}); err != nil {
		t.Error(err)
	}
}

func TestACrashInTheMiddleOfABulkChangeLeavesWholeLeaves(t *testing.T) {
	before, after := records(900, "before"), records(1100, "after")
	base := statePath(t)
	s := open(t, storage.Options{Path: base})
	if err := s.ReplaceRange(ksID(1), storage.Replicated, nil, nil, before, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for n, ended := 1, false; !ended; n++ {
		path := t.TempDir() + "/state.db"
		copyFile(t, base, path)
		fail := &failAt{n: n, after: n%2 == 0}
		s := open(t, storage.Options{Path: path, ChunkRecords: 250, Seam: fail.seam})
		err := s.ReplaceRange(ksID(1), storage.Replicated, []byte("dir1/"), nil, tail(after, "dir1/"), &storage.SyncState{Set: "dr", Done: []byte("z")})
		if ended = !fail.hit; ended != (err == nil) {
			t.Fatalf("commit %d: got %v", n, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, storage.Options{Path: path, ChunkRecords: 250})
		if m := s.Mark(); m.ReindexNeeded || ended && m.Sync == nil || n == 1 && m.Sync != nil {
			t.Fatalf("commit %d: mark after a crash: %+v", n, m)
		}
		checkWhole(t, s, nil)
		if err := s.ReplaceRange(ksID(1), storage.Replicated, []byte("dir1/"), nil, tail(after, "dir1/"), nil); err != nil {
			t.Fatal(err)
		}
		w := newTwin()
		w.replace(ksID(1), "", "", before)
		w.replace(ksID(1), "dir1/", "", tail(after, "dir1/"))
		compare(t, s, w, nil)
		checkWhole(t, s, w)
	}
}

func tail(recs []storage.Record, low string) []storage.Record {
	return slices.DeleteFunc(slices.Clone(recs), func(r storage.Record) bool { return string(r.Key) < low })
}

func TestADRSyncTakesRangesOfTheFutureAndEndsInTheFeedersState(t *testing.T) {
	w := newWriter(31)
	w.dropOneIn, w.keyspaces = 200, 4
	var log []*frame
	var at []*twin // after each frame
	for range 60 {
		log = append(log, w.frame(6))
		at = append(at, w.twin.clone())
	}
	path := statePath(t)
	s := open(t, storage.Options{Path: path, ChunkRecords: 64})
	for _, f := range log[:5] { // it held something older, and then lost its place
		apply(s, f)
	}
	checkpoint(t, s)
	from := log[20].end
	sync := &storage.SyncState{Set: "dr", From: from, FromChain: log[20].chain}
	if err := s.SetSync(sync); err != nil {
		t.Fatal(err)
	}
	for id := range w.keyspaces { // each range read at another moment
		for i, bounds := range [][2]string{{"", "dir3"}, {"dir3", "key2"}, {"key2", ""}} {
			feeder := at[20+(id*3+i)*3]
			sync.Until = log[20+(id*3+i)*3].end
			if feeder.detached[ksID(byte(id))] {
				continue
			}
			recs := feeder.inRange(ksID(byte(id)), bounds[0], bounds[1])
			scope := storage.Scope(1 + id%2)
			if err := s.ReplaceRange(ksID(byte(id)), scope, []byte(bounds[0]), []byte(bounds[1]), recs, sync); err != nil {
				t.Fatal(err)
			}
		}
	}
	sync.Complete = true
	if err := s.StartAfter(from, log[20].chain, sync); err != nil {
		t.Fatal(err)
	}
	if got := s.Floor(ksID(1)); got != from.Index {
		t.Errorf("floor: got %d, want %d", got, from.Index)
	}
	for i, f := range log[21:] {
		apply(s, f)
		if i%10 == 0 {
			checkpoint(t, s)
		}
	}
	checkpoint(t, s)
	if err := s.SetSync(nil); err != nil {
		t.Fatal(err)
	}
	compare(t, s, w.twin, nil)
	checkWhole(t, s, w.twin)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, storage.Options{Path: path})
	compare(t, s, w.twin, nil)
	if m := s.Mark(); m.Sync != nil || m.Applied != log[59].end || m.Chain != log[59].chain {
		t.Errorf("mark after the sync: %+v", m)
	}
}

func (w *twin) inRange(id storage.KeyspaceID, low, high string) (recs []storage.Record) {
	for _, key := range w.keys(id) {
		if key >= low && (high == "" || key < high) {
			recs = append(recs, w.recs[id][key])
		}
	}
	return recs
}

func TestSweepRemovesDetachedRecordsInBoundedSteps(t *testing.T) {
	path := statePath(t)
	s := open(t, storage.Options{Path: path, ChunkRecords: 30})
	w := newTwin()
	var entries []*storage.Entry
	for id := range byte(3) {
		e := &storage.Entry{Index: uint64(id) + 1, Blocks: []storage.Block{{Keyspace: ksID(id), Scope: storage.Replicated}}}
		for _, r := range records(100, "v") {
			e.Blocks[0].Changes = append(e.Blocks[0].Changes, storage.Change{Op: storage.Put, Key: r.Key, Value: r.Value})
		}
		entries = append(entries, e)
	}
	for id := range byte(2) {
		entries = append(entries, &storage.Entry{Index: 10 * (uint64(id) + 1), Blocks: []storage.Block{
			{Keyspace: ksID(id), Scope: storage.Replicated, Changes: []storage.Change{{Op: storage.Drop}}},
		}})
	}
	applyOne(s, w, entries...)
	checkpoint(t, s)
	ctx := context.Background()
	if left, err := s.Sweep(ctx, 10, 1000); left != 0 || err != nil {
		t.Fatalf("below the first drop: got %d, %v, want nothing to do", left, err)
	}
	for _, want := range []int{155, 110, 65, 20, 0, 0} {
		left, err := s.Sweep(ctx, 100, 45)
		if err != nil || left != want {
			t.Fatalf("got %d left, %v, want %d", left, err, want)
		}
		checkWhole(t, s, w)
	}
	compare(t, s, w, nil)
	// A late change to a dropped keyspace is kept with it, and shown to nobody.
	applyOne(s, w, &storage.Entry{Index: 21, Blocks: []storage.Block{
		{Keyspace: ksID(0), Scope: storage.Replicated, Changes: []storage.Change{{Op: storage.Put, Key: []byte("late"), Value: []byte("v")}}},
	}})
	compare(t, s, w, []string{"late"})
	checkpoint(t, s)
	compare(t, s, w, []string{"late"})
	if left, err := s.Sweep(ctx, 100, 45); left != 0 || err != nil {
		t.Fatalf("got %d left, %v", left, err)
	}
	checkpoint(t, s)
	checkWhole(t, s, w)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	n := 0
	err := storage.ReadRaw(path, nil, func(ks storage.KeyspaceID, key, value []byte) error {
		if want := w.recs[ks][string(key)]; ks != ksID(2) || !bytes.Equal(want.Value, value) {
			t.Errorf("raw record %s %q: got %q, want %q", ks, key, value, want.Value)
		}
		n++
		return nil
	})
	if err != nil || n != 100 {
		t.Errorf("raw records: got %d, %v, want 100", n, err)
	}
	s = open(t, storage.Options{Path: path})
	compare(t, s, w, []string{"late"})
	if at, ok := s.Detached(ksID(0)); !ok || at != 10 {
		t.Errorf("a swept keyspace was forgotten: got %d, %v", at, ok)
	}
}

func TestEntriesMoveCursorsFloorsAndTheStateOfASync(t *testing.T) {
	path := statePath(t)
	s := open(t, storage.Options{Path: path})
	w := newTwin()
	pos := func(i uint64) wal.Position { return wal.Position{Fork: wal.Fork{3}, Index: i} }
	block := func(id byte) []storage.Block {
		return []storage.Block{{Keyspace: ksID(id), Scope: storage.Replicated, Changes: []storage.Change{{Op: storage.Delete, Key: []byte("k")}}}}
	}
	applyOne(s, w,
		&storage.Entry{Index: 1, Upstream: pos(50), Blocks: block(1)},
		&storage.Entry{Index: 2, Housekeeping: true, Blocks: block(2), Sync: &storage.SyncMark{Kind: storage.SyncBegin, From: pos(40), Until: pos(40)}},
		&storage.Entry{Index: 3, Housekeeping: true, Sync: &storage.SyncMark{Kind: storage.SyncRange, Until: pos(61), Keyspace: ksID(1), Low: []byte("a"), High: []byte("m")}},
	)
	if got := s.Cursor(storage.PerformanceSub); got != pos(40) {
		t.Errorf("cursor where a sync began: got %v, want %v, behind an entry of the same group", got, pos(40))
	}
	s.SetCursor("index-1", pos(7))
	checkpoint(t, s)
	want := &storage.SyncState{Set: "performance", From: pos(40), Until: pos(61), Keyspace: ksID(1), Done: []byte("m")}
	m := s.Mark()
	if !reflect.DeepEqual(m.Sync, want) {
		t.Errorf("sync: got %+v, want %+v", m.Sync, want)
	}
	if m.Cursors[storage.PerformanceSub] != pos(40) || m.Cursors["index-1"] != pos(7) {
		t.Errorf("cursors of the mark: got %v", m.Cursors)
	}
	if got1, got2 := s.Floor(ksID(1)), s.Floor(ksID(2)); got1 != 0 || got2 != 2 {
		t.Errorf("floors: got %d, %d, want 0, 2", got1, got2)
	}
	applyOne(s, w, &storage.Entry{Index: 4, Housekeeping: true, Sync: &storage.SyncMark{Kind: storage.SyncRange, Until: pos(62), Keyspace: ksID(1), Low: []byte("m")}})
	checkpoint(t, s)
	if got := s.Mark().Sync; got == nil || got.Keyspace != ksID(2) || got.Done != nil || got.Until != pos(62) || got.From != pos(40) {
		t.Errorf("sync after a keyspace's last range: got %+v", got)
	}
	s.SetCursor("index-1", pos(8))
	applyOne(s, w, &storage.Entry{Index: 5, Housekeeping: true, Sync: &storage.SyncMark{Kind: storage.SyncEnd, Until: pos(62)}})
	checkpoint(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, storage.Options{Path: path})
	if got := s.Mark().Sync; got != nil {
		t.Errorf("sync after its end: got %+v", got)
	}
	if got := s.Cursor(storage.PerformanceSub); got != pos(62) {
		t.Errorf("cursor after a sync: got %v, want %v", got, pos(62))
	}
	if got := s.Cursor("index-1"); got != pos(8) {
		t.Errorf("cursor after reopening: got %v, want %v", got, pos(8))
	}
	if got := s.Floor(ksID(2)); got != 2 {
		t.Errorf("floor after reopening: got %d, want 2", got)
	}
}
