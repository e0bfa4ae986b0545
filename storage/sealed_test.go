package storage_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/internal/seal/sealtest"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

func sealedPath(t testing.TB, with wal.Sealer) string {
	t.Helper()
	path := t.TempDir() + "/state.db"
	if err := storage.CreateSealed(path, with); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestASealedStateShowsNoValueAndAnswersLikeItsTwin(t *testing.T) {
	t.Parallel()
	keys := sealtest.New(t)
	path := sealedPath(t, keys.Keyring())
	o := storage.Options{Path: path, Sealer: keys.Keyring()}
	wr := newWriter(5)
	s := open(t, o)
	for round := range 4 {
		for range 10 {
			apply(s, wr.frame(20))
		}
		checkpoint(t, s)
		if _, err := keys.Rotate(time.Now()); err != nil {
			t.Fatal(err)
		}
		compare(t, s, wr.twin, nil)
		checkWhole(t, s, wr.twin)
		if round == 1 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, o)
		}
	}
	if r, err := s.Check(context.Background(), nil); err != nil || len(r.Damage) > 0 {
		t.Errorf("check: %+v, %v", r.Damage, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	for _, recs := range wr.twin.recs {
		for key, r := range recs {
			if len(r.Value) >= 12 {
				looked++
				if bytes.Contains(file, r.Value) {
					t.Fatalf("the value of %q stands in the file", key)
				}
			}
		}
	}
	if looked == 0 {
		t.Fatal("no value was looked for")
	}
}

func TestAStateIsNotOpenedWithWrongKeysOrNone(t *testing.T) {
	t.Parallel()
	keys := sealtest.New(t)
	key := keyOf
	path := sealedPath(t, keys.Keyring())
	if _, err := storage.Open(storage.Options{Path: path, Key: key}); !errors.Is(err, wal.ErrSealing) {
		t.Errorf("without keys: %v, want ErrSealing", err)
	}
	if _, err := storage.Open(storage.Options{Path: path, Key: key, Sealer: sealtest.New(t).Keyring()}); !errors.Is(err, seal.ErrNoKey) {
		t.Errorf("with other keys: %v, want ErrNoKey", err)
	}
	if _, err := storage.Open(storage.Options{Path: statePath(t), Key: key, Sealer: keys.Keyring()}); !errors.Is(err, wal.ErrSealing) {
		t.Errorf("a plain file with keys: %v, want ErrSealing", err)
	}
}

func TestTamperingWithASealedRecordIsNamedAndNeverAnswered(t *testing.T) {
	t.Parallel()
	const one, two = "dir/one", "dir/two"
	id := ksID(1)
	for _, tc := range []struct {
		name string
		fn   func(rows *bolt.Bucket) error
	}{
		{"a bit of the value", func(b *bolt.Bucket) error {
			return tampered(b, []byte(one), func(v []byte) []byte { v[len(v)-1] ^= 1; return v })
		}},
		{"the value of another key", func(b *bolt.Bucket) error {
			other := bytes.Clone(b.Get([]byte(two))[rowHeader:])
			return tampered(b, []byte(one), func(v []byte) []byte { return append(v[:rowHeader], other...) })
		}},
		{"the row of another key", func(b *bolt.Bucket) error { return b.Put([]byte(one), bytes.Clone(b.Get([]byte(two)))) }},
		{"a value that is not sealed", func(b *bolt.Bucket) error {
			return tampered(b, []byte(one), func(v []byte) []byte { return append(v[:rowHeader], "planted"...) })
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			keys := sealtest.New(t)
			path := sealedPath(t, keys.Keyring())
			o := storage.Options{Path: path, Sealer: keys.Keyring()}
			s := open(t, o)
			applyPuts(s, id, map[string]string{one: "first value", two: "other value"})
			checkpoint(t, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			tamper(t, path, func(tx *bolt.Tx) error { return tc.fn(tx.Bucket(rowsBucket(id))) })
			o.Key = keyOf
			s, err := storage.Open(o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			_, err = s.Get(id, []byte(one))
			var d *storage.Damage
			if !errors.As(err, &d) || string(d.Key) != one || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want damage that names %s and %s", err, path, one)
			}
			if r, err := s.Get(id, []byte(two)); err != nil || string(r.Value) != "other value" {
				t.Errorf("the record beside it: %q, %v", r.Value, err)
			}
			if r, err := s.Check(context.Background(), nil); err != nil || len(r.Damage) == 0 {
				t.Errorf("check finds nothing: %v", err)
			}
		})
	}
}

func TestARecordThatNamesAnUnknownKeyIsDroppedOnlyWhereAnotherClusterHoldsIt(t *testing.T) {
	t.Parallel()
	const one, two = "dir/one", "dir/two"
	id := ksID(1)
	for _, tt := range []struct{ opened, repairable bool }{{true, true}, {false, false}, {true, false}, {false, true}} { // a role may change while it is open
		repairable := tt.repairable
		keys := sealtest.New(t)
		path := sealedPath(t, keys.Keyring())
		found := &finder{}
		o := storage.Options{Path: path, Sealer: keys.Keyring(), Key: keyOf, Found: found.Found, Repairable: tt.opened}
		s := open(t, o)
		applyPuts(s, id, map[string]string{one: "first value", two: "other value"})
		checkpoint(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		tamper(t, path, func(tx *bolt.Tx) error { // the first byte tells the format, the key's id follows
			return tampered(tx.Bucket(rowsBucket(id)), []byte(one), func(v []byte) []byte { v[rowHeader+1] ^= 1; return v })
		})
		s, err := storage.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if tt.opened != repairable {
			s.SetRepairable(repairable)
		}
		var d *storage.Damage
		if _, err := s.Get(id, []byte(one)); errors.As(err, &d) != repairable || !repairable && !errors.Is(err, seal.ErrNoKey) {
			t.Errorf("repairable %v: a read: got %v", repairable, err)
		}
		if got := len(found.all()); (got == 1) != repairable {
			t.Errorf("repairable %v: damage found by a read: got %d", repairable, got)
		}
		wrong, err := s.Reindex(context.Background(), nil)
		if _, readErr := s.Get(id, []byte(two)); readErr != nil {
			t.Errorf("repairable %v: the record beside it: %v", repairable, readErr)
		}
		if !repairable {
			if !errors.Is(err, seal.ErrNoKey) || !strings.Contains(err.Error(), one) {
				t.Errorf("reindex on a primary: got %v, want ErrNoKey with the record's key", err)
			}
			if _, err := s.Get(id, []byte(one)); !errors.Is(err, seal.ErrNoKey) {
				t.Errorf("after the refusal: got %v, want the record kept", err)
			}
			continue
		}
		if err != nil || wrong != 1 {
			t.Errorf("reindex: got %d wrong and %v, want 1", wrong, err)
		}
		if _, err := s.Get(id, []byte(one)); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("after the reindex: got %v, want ErrNotFound", err)
		}
		if r, err := s.Check(context.Background(), nil); err != nil || len(r.Damage) > 0 {
			t.Errorf("check after the reindex: %+v, %v", r.Damage, err)
		}
	}
}

// applyPuts applies one entry of puts.
func applyPuts(s *storage.State, id storage.KeyspaceID, puts map[string]string) {
	w := newTwin()
	e := &storage.Entry{Version: 1, Index: 1, Blocks: []storage.Block{{Keyspace: id, Scope: storage.Replicated}}}
	for _, k := range []string{"dir/one", "dir/two"} {
		e.Blocks[0].Changes = append(e.Blocks[0].Changes, storage.Change{Op: storage.Put, Key: []byte(k), Value: []byte(puts[k])})
	}
	w.apply(e)
	f := &frame{entries: []*storage.Entry{e}, totals: w.totals(), end: wal.Position{Fork: wal.Fork{1}, Index: 1}}
	apply(s, f)
}
