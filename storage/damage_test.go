package storage_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/storage"
)

// filled returns a state file with a few hundred pages, and its twin.
func filled(t testing.TB, seed uint64) (path string, w *twin) { return filledWith(t, seed, 3000, 40) }

// filledWith returns a state file of so many frames about so many keys, and its twin.
func filledWith(t testing.TB, seed uint64, keys, frames int) (path string, w *twin) {
	path = statePath(t)
	s := open(t, storage.Options{Path: path})
	wr := newWriter(seed)
	wr.keys, wr.keyspaces, wr.dropOneIn = keys, 4, int(seed%2)*3000
	for range frames { // one checkpoint: few pages are free, and damage to those shows nowhere
		apply(s, wr.frame(40))
	}
	checkpoint(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path, wr.twin
}

// judge compares answers of a state that may be damaged: each is right, or an error that names the file.
type judge struct {
	t       *testing.T
	path    string
	w       *twin
	what    string // was done to the file
	refused int
}

func (j *judge) named(err error) {
	j.t.Helper()
	var c *boltfile.CorruptError
	var d *storage.Damage
	if !errors.As(err, &c) && !errors.As(err, &d) && !strings.Contains(err.Error(), j.path) {
		j.t.Fatalf("%s: the error does not name the file: %v", j.what, err)
	}
	j.refused++
}

func (j *judge) state(s *storage.State) {
	j.t.Helper()
	v := s.Snapshot()
	defer v.Release()
	for id := range j.w.recs {
		for _, key := range j.w.keys(id) { // what is absent first: a leaf that was found whole is not walked again
			got, err := s.Get(id, []byte(key+"\x00"))
			j.get(id, key+"\x00", got, err)
		}
		for _, key := range append(j.w.keys(id), "none", "dir1", "zzz") {
			got, err := s.Get(id, []byte(key))
			j.get(id, key, got, err)
		}
		j.walks(v, id)
	}
	if _, err := s.Check(context.Background(), nil); err != nil {
		j.named(err)
	}
}

func (j *judge) get(id storage.KeyspaceID, key string, got storage.Record, err error) {
	j.t.Helper()
	want, ok := j.w.recs[id][key]
	ok = ok && !j.w.detached[id]
	switch {
	case errors.Is(err, storage.ErrNotFound) && !ok:
	case errors.Is(err, storage.ErrNotFound):
		j.t.Fatalf("%s: keyspace %s, key %q is silently absent", j.what, id, key)
	case err != nil:
		j.named(err)
	case !ok || !bytes.Equal(got.Value, want.Value) || got.Index != want.Index:
		j.t.Fatalf("%s: keyspace %s, key %q: got %+v, want %+v", j.what, id, key, got, want)
	}
}

func (j *judge) walks(v *storage.View, id storage.KeyspaceID) {
	j.t.Helper()
	var keys []string
	err := v.Scan(id, nil, nil, func(r storage.Record) bool {
		if want := j.w.recs[id][string(r.Key)]; !bytes.Equal(r.Value, want.Value) || j.w.detached[id] {
			j.t.Fatalf("%s: scan of %s gives %+v, want %+v", j.what, id, r, want)
		}
		keys = append(keys, string(r.Key))
		return true
	})
	if err != nil {
		j.named(err)
	} else if want := j.w.keys(id); !slices.Equal(keys, want) {
		j.t.Fatalf("%s: scan of %s gives %d records, want %d", j.what, id, len(keys), len(want))
	}
	names, _, err := v.List(id, "", "", 0)
	if err != nil {
		j.named(err)
	} else if want, _ := j.w.list(id, "", "", 0); !slices.Equal(names, want) {
		j.t.Fatalf("%s: list of %s gives %q, want %q", j.what, id, names, want)
	}
}

// answersRightOrWithAnErrorThatNamesTheFile asks a state that may be damaged everything.
func answersRightOrWithAnErrorThatNamesTheFile(t *testing.T, path string, w *twin, what string) (refused int) {
	t.Helper()
	j := &judge{t: t, path: path, w: w, what: what}
	s, err := storage.Open(storage.Options{Path: path, Key: keyOf, ReadOnly: true})
	if err != nil {
		j.named(err)
		return j.refused
	}
	defer s.Close()
	j.state(s)
	return j.refused
}

// damaged returns a copy of a file's bytes with one kind of damage or another, and what it was.
func damaged(rng *rand.Rand, whole []byte, round int) (b []byte, what string) {
	b = bytes.Clone(whole)
	used := len(b)
	what = fmt.Sprintf("round %d", round)
	switch {
	case round%25 == 24:
		b = b[:rng.IntN(used)]
		what += fmt.Sprintf(", cut to %d bytes", len(b))
	case round%5 == 4: // a page gone
		at := rng.IntN(used/4096) * 4096
		clear(b[at : at+4096])
		what += fmt.Sprintf(", page at %d cleared", at)
	default:
		for range 1 + rng.IntN(4)*rng.IntN(4) {
			at := rng.IntN(used)
			if round%2 == 0 { // the structure of a page
				at = at/4096*4096 + rng.IntN(200)
			}
			old := b[at]
			b[at] ^= byte(1 + rng.IntN(255))
			what += fmt.Sprintf(", byte %d from %#x to %#x", at, old, b[at])
		}
	}
	return b, what
}

func TestRandomDamageNeverGivesAWrongAnswer(t *testing.T) {
	path, w := filled(t, 3)
	whole := readUsed(t, path)
	rounds := fewer(50, 25)
	rng := rand.New(rand.NewPCG(17, 1))
	refused := 0
	bad := t.TempDir() + "/state.db"
	for round := range rounds {
		b, what := damaged(rng, whole, round)
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

// A search that a page above leads astray finds nothing. Its leaf, walked before for the sake of another key, was whole, and proves nothing of this one.
func TestASearchThatIsLedAstrayIsNotTakenForAnAbsence(t *testing.T) {
	path, w := filled(t, 2)
	whole := readUsed(t, path)
	const page, header, element = 4096, 16, 16 // an element of a branch: where its key stands from here, key's size, page
	n := binary.NativeEndian
	bad := t.TempDir() + "/state.db"
	tried, refused := 0, 0
	for at := 0; at < len(whole); at += page {
		if n.Uint16(whole[at+8:]) != 1 { // no branch
			continue
		}
		count := int(n.Uint16(whole[at+10:]))
		for i := 1; i < count; i += 1 + count/fewer(12, 4) {
			b := bytes.Clone(whole)
			e := at + header + i*element
			last := e + int(n.Uint32(b[e:])) + int(n.Uint32(b[e+4:])) - 1
			b[last] = '~' // above what the keys end in: those between are sought in the page before
			if err := os.WriteFile(bad, b, 0o600); err != nil {
				t.Fatal(err)
			}
			tried++
			if answersRightOrWithAnErrorThatNamesTheFile(t, bad, w, fmt.Sprintf("branch at %d, element %d", at, i)) > 0 {
				refused++
			}
		}
	}
	if tried == 0 || refused == 0 {
		t.Errorf("%d of %d damaged files were noticed: the damage hits nothing", refused, tried)
	}
}

// lengthen makes the length that the page of a record gives for its row 1 GiB.
func lengthen(t *testing.T, b []byte, r storage.Record) {
	t.Helper()
	const page, header, element = 4096, 16, 16 // an element: flags, where its key stands from here, key's size, value's size
	n := binary.NativeEndian
	for at := 0; at < len(b); at += page {
		if n.Uint16(b[at+8:]) != 2 { // no leaf
			continue
		}
		for i := range int(n.Uint16(b[at+10:])) {
			e := at + header + i*element
			key := e + int(n.Uint32(b[e+4:]))
			row := key + int(n.Uint32(b[e+8:]))
			if end := row + rowHeader; end <= len(b) && string(b[key:row]) == string(r.Key) && string(b[end-32:end]) == string(r.Digest[:]) {
				n.PutUint32(b[e+12:], 1<<30)
				return
			}
		}
	}
	t.Fatalf("no row of key %q", r.Key)
}

// A rotten length must not be believed: what lies behind it is not the file's, and is gigabytes.
func TestARowWithALengthThatNoneHasIsNamedAndNotRead(t *testing.T) {
	path, w := filledWith(t, 2, 300, 5)
	b := readUsed(t, path)
	key, _ := middle(w, ksID(0))
	lengthen(t, b, w.recs[ksID(0)][key])
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, storage.Options{Path: path, Found: func(storage.Damage) {}})
	var d *storage.Damage
	if _, err := s.Get(ksID(0), []byte(key)); !errors.As(err, &d) || string(d.Key) != key || !strings.Contains(d.What, "longer than any") {
		t.Errorf("reading it: got %v, want damage with its key and that it is too long", err)
	}
	v := s.Snapshot()
	err := v.Scan(ksID(0), nil, nil, func(storage.Record) bool { return true })
	v.Release()
	if !errors.As(err, &d) || string(d.Key) != key {
		t.Errorf("scanning over it: got %v, want damage with its key", err)
	}
	r, err := s.Check(context.Background(), nil)
	if err != nil || !slices.ContainsFunc(r.Damage, func(d storage.Damage) bool { return string(d.Key) == key }) {
		t.Errorf("check: got %v, %v, want damage with its key", r.Damage, err)
	}
	if _, err := s.Reindex(context.Background(), nil); err != nil {
		t.Fatalf("reindex: %v", err)
	}
	if _, err := s.Get(ksID(0), []byte(key)); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("after a reindex: got %v, want it dropped", err)
	}
	checkWhole(t, s, nil)
}

func TestWritingIntoADamagedFileNeverGivesAWrongAnswer(t *testing.T) {
	path, w := filled(t, 3)
	whole := readUsed(t, path)
	rng := rand.New(rand.NewPCG(19, 1))
	for round := range fewer(15, 6) {
		b, what := damaged(rng, whole, round)
		bad := t.TempDir() + "/state.db"
		if err := os.WriteFile(bad, b, 0o600); err != nil {
			t.Fatal(err)
		}
		wr := newWriter(uint64(round))
		wr.twin, wr.keys, wr.keyspaces = w.clone(), 3000, 4
		j := &judge{t: t, path: bad, w: wr.twin, what: what}
		s, err := storage.Open(storage.Options{Path: bad, Key: keyOf, ChunkRecords: 40})
		if err != nil {
			j.named(err)
			continue
		}
		for range 3 { // pages are given back and used again
			apply(s, wr.frame(15))
			if err := s.Checkpoint(context.Background()); err != nil {
				j.named(err)
				break
			}
		}
		j.state(s)
		if err := s.Close(); err != nil {
			j.named(err)
		}
	}
}

func FuzzStateFile(f *testing.F) {
	path, w := filledWith(f, 2, 300, 5) // every kind of page, in a file that is read in a millisecond
	whole := readUsed(f, path)
	bad := filepath.Join(f.TempDir(), "state.db")
	f.Add(uint32(5000), []byte{1, 2, 3})
	f.Add(uint32(4096*3), make([]byte, 4096))
	f.Fuzz(func(t *testing.T, at uint32, damage []byte) {
		b := bytes.Clone(whole)
		copy(b[int(at)%len(b):], damage)
		// A file system may write out at once what is cut and written again.
		if err := os.Remove(bad); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.WriteFile(bad, b, 0o600); err != nil {
			t.Fatal(err)
		}
		answersRightOrWithAnErrorThatNamesTheFile(t, bad, w, "fuzz")
	})
}
