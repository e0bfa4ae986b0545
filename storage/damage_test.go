package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/storage"
)

// filled returns a state file with a few hundred pages, and its twin.
func filled(t testing.TB, seed uint64) (path string, w *twin) {
	path = statePath(t)
	s := open(t, storage.Options{Path: path})
	wr := newWriter(seed)
	wr.keys, wr.keyspaces, wr.dropOneIn = 3000, 4, int(seed%2)*3000
	for range 40 { // one checkpoint: few pages are free, and damage to those shows nowhere
		apply(s, wr.frame(40))
	}
	checkpoint(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path, wr.twin
}

// answersRightOrWithAnErrorThatNamesTheFile asks a state that may be damaged everything.
func answersRightOrWithAnErrorThatNamesTheFile(t *testing.T, path string, w *twin, what string) (refused int) {
	t.Helper()
	named := func(err error) bool {
		var c *boltfile.CorruptError
		var d *storage.Damage
		if !errors.As(err, &c) && !errors.As(err, &d) && !strings.Contains(err.Error(), path) {
			t.Fatalf("%s: the error does not name the file: %v", what, err)
		}
		refused++
		return true
	}
	s, err := storage.Open(storage.Options{Path: path, Key: keyOf, ReadOnly: true})
	if err != nil {
		named(err)
		return refused
	}
	defer s.Close()
	v := s.Finished()
	defer v.Release()
	for id := range w.recs {
		for _, key := range append(w.keys(id), "none", "dir1", "zzz") {
			got, err := s.Get(id, []byte(key))
			want, ok := w.recs[id][key]
			ok = ok && !w.detached[id]
			switch {
			case errors.Is(err, storage.ErrNotFound) && !ok:
			case errors.Is(err, storage.ErrNotFound):
				t.Fatalf("%s: keyspace %s, key %q is silently absent", what, id, key)
			case err != nil:
				named(err)
			case !ok || !bytes.Equal(got.Value, want.Value) || got.Index != want.Index:
				t.Fatalf("%s: keyspace %s, key %q: got %+v, want %+v", what, id, key, got, want)
			}
		}
		var keys []string
		err := v.Scan(id, nil, nil, func(r storage.Record) bool {
			if want := w.recs[id][string(r.Key)]; !bytes.Equal(r.Value, want.Value) || w.detached[id] {
				t.Fatalf("%s: scan of %s gives %+v, want %+v", what, id, r, want)
			}
			keys = append(keys, string(r.Key))
			return true
		})
		if err != nil {
			named(err)
		} else if want := w.keys(id); fmt.Sprint(keys) != fmt.Sprint(want) {
			t.Fatalf("%s: scan of %s gives %d records, want %d", what, id, len(keys), len(want))
		}
		names, _, err := v.List(id, "", "", 0)
		if err != nil {
			named(err)
		} else if want, _ := w.list(id, "", "", 0); fmt.Sprint(names) != fmt.Sprint(want) {
			t.Fatalf("%s: list of %s gives %q, want %q", what, id, names, want)
		}
	}
	if _, err := s.Check(context.Background(), nil); err != nil {
		named(err)
	}
	return refused
}

func TestRandomDamageNeverGivesAWrongAnswer(t *testing.T) {
	path, w := filled(t, 3)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rounds := 120
	if testing.Short() {
		rounds = 40
	}
	rng := rand.New(rand.NewPCG(17, 1))
	used := bytes.TrimRight(whole, "\x00")
	refused := 0
	bad := t.TempDir() + "/state.db"
	for round := range rounds {
		b := bytes.Clone(whole)
		what := fmt.Sprintf("round %d", round)
		switch {
		case round%25 == 24:
			b = b[:rng.IntN(len(used))]
			what += fmt.Sprintf(", cut to %d bytes", len(b))
		case round%5 == 4: // a page gone
			at := rng.IntN(len(used)/4096) * 4096
			clear(b[at : at+4096])
			what += fmt.Sprintf(", page at %d cleared", at)
		default:
			for range 1 + rng.IntN(4)*rng.IntN(4) {
				at := rng.IntN(len(used))
				if round%2 == 0 { // the structure of a page
					at = at/4096*4096 + rng.IntN(200)
				}
				old := b[at]
				b[at] ^= byte(1 + rng.IntN(255))
				what += fmt.Sprintf(", byte %d from %#x to %#x", at, old, b[at])
			}
		}
		if err := os.WriteFile(bad, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if answersRightOrWithAnErrorThatNamesTheFile(t, bad, w, what) > 0 {
			refused++
		}
	}
	if refused < rounds/4 {
		t.Errorf("%d of %d damaged files were noticed by readers: the damage hits nothing", refused, rounds)
	}
}

func FuzzStateFile(f *testing.F) {
	path, w := filled(f, 2)
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(5000), []byte{1, 2, 3})
	f.Add(uint32(4096*3), make([]byte, 4096))
	f.Fuzz(func(t *testing.T, at uint32, damage []byte) {
		b := bytes.Clone(whole)
		copy(b[int(at)%len(b):], damage)
		bad := t.TempDir() + "/state.db"
		if err := os.WriteFile(bad, b, 0o600); err != nil {
			t.Fatal(err)
		}
		answersRightOrWithAnErrorThatNamesTheFile(t, bad, w, "fuzz")
	})
}
