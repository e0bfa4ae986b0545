package storage_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/storage"
)

// Where things are in the file, as doc.go says.
const rowHeader = 4 + 1 + 8 + 32

func rowsBucket(id storage.KeyspaceID) []byte   { return append([]byte{'r'}, id[:]...) }
func leavesBucket(id storage.KeyspaceID) []byte { return append([]byte{'l'}, id[:]...) }

// tamper changes a closed state file behind the back of this package, pages staying whole.
func tamper(t testing.TB, path string, fn func(tx *bolt.Tx) error) {
	t.Helper()
	f, err := boltfile.Open(path, boltfile.Options{Tie: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Update(fn); err != nil {
		t.Fatal(err)
	}
}

// tampered puts a changed copy of a key's value back.
func tampered(b *bolt.Bucket, key []byte, fn func(v []byte) []byte) error {
	return b.Put(key, fn(bytes.Clone(b.Get(key))))
}

// middle returns a key with records on both sides that starts no leaf, and one that does.
func middle(w *twin, id storage.KeyspaceID) (plain, boundary string) {
	k := keyOf(id)
	keys := w.keys(id)
	for _, key := range keys[len(keys)/3:] {
		if k.Level([]byte(key)) > 0 {
			boundary = key
		} else {
			plain = key
		}
		if plain != "" && boundary != "" {
			break
		}
	}
	return plain, boundary
}

var damages = []struct {
	what   string
	tamper func(tx *bolt.Tx, id storage.KeyspaceID, plain, boundary []byte) error
	found  string // in what Check says
	wrong  uint64 // records that Reindex must rewrite
	absent bool   // the record is gone for good
}{
	{"a value", func(tx *bolt.Tx, id storage.KeyspaceID, plain, _ []byte) error {
		return tampered(tx.Bucket(rowsBucket(id)), plain, func(v []byte) []byte { return append(v, 'x') })
	}, "does not hash", 1, false},
	{"a stored digest", func(tx *bolt.Tx, id storage.KeyspaceID, plain, _ []byte) error {
		return tampered(tx.Bucket(rowsBucket(id)), plain, func(v []byte) []byte { v[20] ^= 1; return v })
	}, "cannot be read", 1, false},
	{"an index", func(tx *bolt.Tx, id storage.KeyspaceID, plain, _ []byte) error {
		return tampered(tx.Bucket(rowsBucket(id)), plain, func(v []byte) []byte { v[6] ^= 1; return v })
	}, "cannot be read", 1, false},
	{"a row cut short", func(tx *bolt.Tx, id storage.KeyspaceID, plain, _ []byte) error {
		return tampered(tx.Bucket(rowsBucket(id)), plain, func(v []byte) []byte { return v[:10] })
	}, "too short", 1, true},
	{"a record gone", func(tx *bolt.Tx, id storage.KeyspaceID, plain, _ []byte) error {
		return tx.Bucket(rowsBucket(id)).Delete(plain)
	}, "does not hold what it did", 0, true},
	{"a boundary record gone", func(tx *bolt.Tx, id storage.KeyspaceID, _, boundary []byte) error {
		return tx.Bucket(rowsBucket(id)).Delete(boundary)
	}, "does not hold what it did", 0, true},
	{"a leaf changed", func(tx *bolt.Tx, id storage.KeyspaceID, _, boundary []byte) error {
		return tampered(tx.Bucket(leavesBucket(id)), append([]byte{0}, boundary...), func(v []byte) []byte { v[30] ^= 1; return v })
	}, "cannot be read", 0, false},
	{"a leaf gone", func(tx *bolt.Tx, id storage.KeyspaceID, _, boundary []byte) error {
		return tx.Bucket(leavesBucket(id)).Delete(append([]byte{0}, boundary...))
	}, "should start a leaf", 0, false},
	{"all leaves gone", func(tx *bolt.Tx, id storage.KeyspaceID, _, _ []byte) error {
		return tx.DeleteBucket(leavesBucket(id))
	}, "leaves are missing", 0, false},
}

func TestCheckFindsEachKindOfDamageAndReindexTellsTheTruth(t *testing.T) {
	base, w := filled(t, 4)
	id := ksID(1)
	plain, boundary := middle(w, id)
	for _, d := range damages {
		t.Run(d.what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			copyFile(t, base, path)
			tamper(t, path, func(tx *bolt.Tx) error { return d.tamper(tx, id, []byte(plain), []byte(boundary)) })
			found := &finder{}
			s := open(t, storage.Options{Path: path, Found: found.Found})
			report, err := s.Check(context.Background(), nil)
			if err != nil || len(report.Damage) == 0 {
				t.Fatalf("check: got %v, %v, want damage", report.Damage, err)
			}
			if !slices.ContainsFunc(report.Damage, func(x storage.Damage) bool {
				return strings.Contains(x.What, d.found) && x.Keyspace == id && x.File == path
			}) {
				t.Errorf("check: got %v, want one that says %q", report.Damage, d.found)
			}
			if wrong, err := s.Reindex(context.Background(), nil); err != nil || wrong != d.wrong {
				t.Errorf("reindex: got %d, %v, want %d", wrong, err, d.wrong)
			}
			checkReindexed(t, s, path, len(w.recs[id]), d.absent)
		})
	}
}

// checkReindexed compares all digests with what is in the file, read without them.
func checkReindexed(t *testing.T, s *storage.State, path string, records int, absent bool) {
	t.Helper()
	checkWhole(t, s, nil)
	if s.Mark().ReindexNeeded {
		t.Error("the index is said to be broken after it was rebuilt")
	}
	totals := s.Totals()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	want := map[storage.KeyspaceID]*merkle.Total{}
	err := storage.ReadRaw(path, nil, func(ks storage.KeyspaceID, key, value []byte) error {
		if want[ks] == nil {
			want[ks] = &merkle.Total{}
		}
		k := keyOf(ks)
		d := k.Record(key, value)
		want[ks].Replace(nil, &d)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range totals {
		if got.Total != *want[got.ID] {
			t.Errorf("total of %s: got %v, want %v", got.ID, got.Total, *want[got.ID])
		}
		if n := records; got.ID == ksID(1) && got.Count != uint64(n) && (got.Count != uint64(n-1) || !absent) {
			t.Errorf("got %d records, want %d", got.Count, n)
		}
	}
	s = open(t, storage.Options{Path: path})
	if s.Mark().ReindexNeeded || !slices.Equal(s.Totals(), totals) {
		t.Error("after reopening totals differ, or the index is said to be broken")
	}
	checkWhole(t, s, nil)
}

func TestLeavesThatDoNotAddUpAreNoticedWhenTheFileIsOpened(t *testing.T) {
	path, w := filled(t, 4)
	_, boundary := middle(w, ksID(1))
	tamper(t, path, func(tx *bolt.Tx) error {
		return tx.Bucket(leavesBucket(ksID(1))).Delete(append([]byte{0}, boundary...))
	})
	found := &finder{}
	s := open(t, storage.Options{Path: path, Found: found.Found})
	if !s.Mark().ReindexNeeded {
		t.Error("got no word of it")
	}
	for _, key := range w.keys(ksID(1)) { // records that are there can be read
		if got, err := s.Get(ksID(1), []byte(key)); err != nil || !bytes.Equal(got.Value, w.recs[ksID(1)][key].Value) {
			t.Fatalf("get %q: got %v, %v", key, got, err)
		}
	}
}

// TestARecordThatVanishedIsFoundByTheReaderAndByTheCheckpoint covers what a lost page would do.
func TestARecordThatVanishedIsFoundByTheReaderAndByTheCheckpoint(t *testing.T) {
	path, w := filled(t, 4)
	plain, _ := middle(w, ksID(1))
	tamper(t, path, func(tx *bolt.Tx) error { return tx.Bucket(rowsBucket(ksID(1))).Delete([]byte(plain)) })
	found := &finder{}
	s := open(t, storage.Options{Path: path, Found: found.Found})
	var damage *storage.Damage
	if _, err := s.Get(ksID(1), []byte(plain)); !errors.As(err, &damage) || damage.File != path {
		t.Errorf("get: got %v, want damage that names the file", err)
	}
	if _, err := s.Old(ksID(1), []byte(plain)); !errors.As(err, &damage) {
		t.Errorf("old: got %v, want damage", err)
	}
	if _, err := s.Get(ksID(1), []byte(plain+"~")); !errors.As(err, &damage) {
		t.Errorf("get of a neighbour that never was: got %v, want damage", err)
	}
	before := len(found.all())
	// Written again over what is gone, its leaf counts it twice.
	e := &storage.Entry{Index: w.index + 1, Blocks: []storage.Block{{Keyspace: ksID(1), Scope: w.scope[ksID(1)], Changes: []storage.Change{
		{Op: storage.Put, Key: []byte(plain), Value: []byte("again")},
	}}}}
	applyOne(s, w, e)
	checkpoint(t, s)
	if len(found.all()) == before || !s.Mark().ReindexNeeded {
		t.Error("the checkpoint noticed nothing")
	}
	if got, err := s.Get(ksID(1), []byte(plain)); err != nil || string(got.Value) != "again" {
		t.Errorf("get: got %v, %v", got, err)
	}
	if _, err := s.Reindex(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	compare(t, s, w, nil)
	checkWhole(t, s, w)
}

func TestACheckpointHashesNeighboursOfWhatItWroteAgain(t *testing.T) {
	path, w := filled(t, 4)
	plain, _ := middle(w, ksID(1))
	tamper(t, path, func(tx *bolt.Tx) error {
		return tampered(tx.Bucket(rowsBucket(ksID(1))), []byte(plain), func(v []byte) []byte { return append(v[:rowHeader], "rot"...) })
	})
	found := &finder{}
	s := open(t, storage.Options{Path: path, Found: found.Found})
	applyOne(s, w, &storage.Entry{Index: w.index + 1, Blocks: []storage.Block{{Keyspace: ksID(1), Scope: w.scope[ksID(1)], Changes: []storage.Change{
		{Op: storage.Put, Key: []byte(plain + "\x00"), Value: []byte("v")},
	}}}})
	checkpoint(t, s)
	if got := found.all(); len(got) != 1 || string(got[0].Key) != plain {
		t.Errorf("found: got %v, want the record %q", got, plain)
	}
}

func TestReindexCountsWhatWaitsInTheTables(t *testing.T) {
	path, w := filled(t, 4)
	s := open(t, storage.Options{Path: path})
	wr := newWriter(5)
	wr.twin, wr.keys, wr.keyspaces = w, 3000, 4
	apply(s, wr.frame(50))
	if wrong, err := s.Reindex(context.Background(), nil); wrong != 0 || err != nil {
		t.Fatalf("got %d, %v", wrong, err)
	}
	compare(t, s, w, nil)
	checkpoint(t, s)
	checkWhole(t, s, w)
}

func TestAnInterruptedReindexSaysSoUntilItIsDone(t *testing.T) {
	base, w := filled(t, 4)
	plain, _ := middle(w, ksID(1))
	tamper(t, base, func(tx *bolt.Tx) error {
		return tampered(tx.Bucket(rowsBucket(ksID(1))), []byte(plain), func(v []byte) []byte { return append(v, 'x') })
	})
	for n, ended := 1, false; !ended; n++ {
		path := filepath.Join(t.TempDir(), "state.db")
		copyFile(t, base, path)
		fail := &failAt{n: n, after: n%2 == 0}
		o := storage.Options{Path: path, Seam: fail.seam, Found: func(storage.Damage) {}, ChunkRecords: 100}
		s := open(t, o)
		_, err := s.Reindex(context.Background(), nil)
		if ended = !fail.hit; ended != (err == nil) {
			t.Fatalf("commit %d: got %v", n, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, storage.Options{Path: path, Found: func(storage.Damage) {}})
		if s.Mark().Reindexing { // the start goes on, and asks for what may be absent, before the rebuild is taken up again
			for id := range w.recs {
				if _, err := s.Get(id, []byte("none")); !errors.Is(err, storage.ErrNotFound) {
					t.Fatalf("commit %d: asking keyspace %s for what it lacks: got %v, want ErrNotFound", n, id, err)
				}
			}
		}
		if !ended && n > 2 && !s.Mark().ReindexNeeded {
			if r, err := s.Check(context.Background(), nil); err != nil || len(r.Damage) > 0 {
				t.Fatalf("commit %d: not said to be needed, but %v %v", n, r.Damage, err)
			}
		}
		if _, err := s.Reindex(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		checkWhole(t, s, nil)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAStateFileThatIsNoneOrNewerIsRefusedByName(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing.db")
	if _, err := storage.Open(storage.Options{Path: missing, Key: keyOf}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: got %v", err)
	}
	path := statePath(t)
	if err := storage.Create(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("create over a file: got %v", err)
	}
	tamper(t, path, func(tx *bolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte{0, 2}) })
	if _, err := storage.Open(storage.Options{Path: path, Key: keyOf}); err == nil || !strings.Contains(err.Error(), "state file") || !strings.Contains(err.Error(), "2") {
		t.Errorf("newer: got %v, want a version error", err)
	}
	tamper(t, path, func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("meta")) })
	var corrupt *boltfile.CorruptError
	if _, err := storage.Open(storage.Options{Path: path, Key: keyOf}); !errors.As(err, &corrupt) {
		t.Errorf("another bbolt file: got %v, want it refused as damaged", err)
	}
}

func TestAFileOpenedForReadingIsNotChanged(t *testing.T) {
	path, w := filled(t, 4)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, storage.Options{Path: path, ReadOnly: true})
	compare(t, s, w, nil)
	checkWhole(t, s, w)
	wr := newWriter(5)
	wr.twin = w
	apply(s, wr.frame(3))
	compare(t, s, w, nil) // replay in memory works
	for name, err := range map[string]error{
		"Checkpoint": s.Checkpoint(context.Background()), "SetSync": s.SetSync(nil),
		"ReplaceRange": s.ReplaceRange(ksID(1), storage.Local, nil, nil, nil, nil),
	} {
		if !errors.Is(err, storage.ErrReadOnly) {
			t.Errorf("%s: got %v, want %v", name, err, storage.ErrReadOnly)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file changed (%v)", err)
	}
}
