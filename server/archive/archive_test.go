package archive_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/internal/seal/sealtest"
	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var (
	fork = wal.Fork{7}
	ks   = storage.KeyspaceID{1, 15: 2}
)

func entry(index uint64, key, value string) []byte {
	return storage.EncodeEntry(nil, &storage.Entry{Index: index, Time: 1, Blocks: []storage.Block{
		{Keyspace: ks, Scope: storage.Replicated, Changes: []storage.Change{{Op: storage.Put, Key: []byte(key), Value: []byte(value)}}},
	}})
}

func meta(common, end uint64) archive.Meta {
	return archive.Meta{Source: archive.FromRewind, Kind: "dr", Set: "set", Common: wal.Position{Fork: fork, Index: common},
		End: wal.Position{Fork: fork, Index: end}, Reason: "a test", Feeder: "b"}
}

func mustOpen(t testing.TB, o archive.Options) *archive.Store {
	t.Helper()
	o.MinFree = -1
	s, err := archive.Open(o)
	if err != nil {
		t.Fatalf("opening the archives: %v", err)
	}
	return s
}

// fill archives the entries after common up to end.
func fill(s *archive.Store, common, end uint64) ([]string, error) {
	w, err := s.Create(meta(common, end), 0)
	if err != nil {
		return nil, err
	}
	for i := common + 1; i <= end; i++ {
		if err := w.AddEntry(wal.Position{Fork: fork, Index: i}, entry(i, fmt.Sprintf("planted key %d", i), "planted value"), i%2 == 0); err != nil {
			return nil, errors.Join(err, w.Abort())
		}
	}
	return w.Commit()
}

func mustFill(t testing.TB, s *archive.Store, common, end uint64) []string {
	t.Helper()
	ids, err := fill(s, common, end)
	if err != nil {
		t.Fatalf("archiving: %v", err)
	}
	return ids
}

func indexes(t testing.TB, s *archive.Store, id string, from uint64) (out []uint64) {
	t.Helper()
	err := s.Read(id, from, func(_ uint64, it *archive.Item) (bool, error) {
		out = append(out, it.At.Index)
		return true, nil
	})
	if err != nil {
		t.Fatalf("reading %s: %v", id, err)
	}
	return out
}

func TestATailIsReadBackAsItWasAndDiscardedWhenAsked(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "archive")
	s := mustOpen(t, archive.Options{Dir: dir})
	id := mustFill(t, s, 90, 98)[0]
	s = mustOpen(t, archive.Options{Dir: dir})
	m, err := s.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	if want := (archive.Counts{Entries: 8, Writes: 8, Keys: 8, Lost: 4, Dropped: 4, Bytes: m.Counts.Bytes}); m.Counts != want || !m.Complete || m.Problem != "" {
		t.Errorf("got %+v (complete: %v, %s), want %+v", m.Counts, m.Complete, m.Problem, want)
	}
	if got, want := fmt.Sprint(indexes(t, s, id, 0), indexes(t, s, id, 5)), "[91 92 93 94 95 96 97 98] [96 97 98]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := s.Holding(wal.Position{Fork: fork, Index: 98}); got != id {
		t.Errorf("got %q for a position that it holds", got)
	}
	if got := s.Holding(wal.Position{Fork: wal.Fork{8}, Index: 98}); got != "" {
		t.Errorf("got %q for the same number under another fork", got)
	}
	if err := s.Discard(id); err != nil {
		t.Fatal(err)
	}
	if got := s.List(); len(got) != 0 || len(mustOpen(t, archive.Options{Dir: dir}).List()) != 0 {
		t.Errorf("discarded, and still listed: %v", got)
	}
	if err := s.Discard(id); !errors.Is(err, archive.ErrNotFound) {
		t.Errorf("discarding it again: got %v, want ErrNotFound", err)
	}
}

func TestRecordsOfARepairAreListedBeforeItHasEnded(t *testing.T) {
	t.Parallel()
	o := archive.Options{Dir: filepath.Join(t.TempDir(), "archive")}
	s := mustOpen(t, o)
	m := meta(4, 9)
	m.Source, m.Kind = archive.FromRepair, "performance"
	w, err := s.Create(m, 0)
	if err != nil {
		t.Fatal(err)
	}
	add := func(key string, removed bool) {
		t.Helper()
		rec := &storage.Record{Key: []byte(key), Value: []byte("v of " + key), Index: 7}
		if err := errors.Join(w.AddRecord(ks, storage.Replicated, rec, removed), w.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	add("a", false)
	id := s.List()[0].ID
	if err := s.Read(id, 0, nil); !errors.Is(err, archive.ErrInUse) {
		t.Errorf("reading it while it is written: got %v, want ErrInUse", err)
	}
	add("b", true)
	if err := w.Abort(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, o)
	var got []string
	err = s.Read(id, 0, func(n uint64, it *archive.Item) (bool, error) {
		got = append(got, fmt.Sprintf("%d %v %s %s %d %v", n, it.Keyspace == ks, it.Key, it.Value, it.At.Index, it.Removed))
		return true, nil
	})
	if want := []string{"0 true a v of a 7 false", "1 true b v of b 7 true"}; err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if m, _ := s.Get(id); m.Complete || m.Counts.Records != 2 {
		t.Errorf("got %+v, want two records and that it was interrupted", m)
	}
}

func TestOneWriteStandsInOneArchive(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, archive.Options{Dir: filepath.Join(t.TempDir(), "archive")})
	first := mustFill(t, s, 90, 95)
	ids := mustFill(t, s, 88, 98)
	if len(ids) != 2 || ids[0] != first[0] {
		t.Fatalf("got %q, want the first archive and another", ids)
	}
	if got, want := fmt.Sprint(indexes(t, s, ids[1], 0)), "[89 90 96 97 98]"; got != want {
		t.Errorf("the second holds %s, want %s", got, want)
	}
	if again := mustFill(t, s, 90, 95); len(again) != 1 || again[0] != first[0] || len(s.List()) != 2 {
		t.Errorf("the same tail again: got %q, want the first archive alone", again)
	}
}

// mixed is an entry that changes what is shared and what is local.
func mixed(index uint64) []byte {
	change := []storage.Change{{Op: storage.Put, Key: fmt.Appendf(nil, "k%d", index), Value: []byte("v")}}
	return storage.EncodeEntry(nil, &storage.Entry{Index: index, Time: 1, Blocks: []storage.Block{
		{Keyspace: ks, Scope: storage.Replicated, Changes: change}, {Keyspace: storage.KeyspaceID{2, 15: 2}, Scope: storage.Local, Changes: change},
	}})
}

// TestAnArchiveOfWhatIsSharedLeavesTheRestToTheNext: the rewind of a performance cluster keeps what is shared of an entry; when DR takes the same entry back the rest of
// it is kept, once, and all of it when the first archive was discarded.
func TestAnArchiveOfWhatIsSharedLeavesTheRestToTheNext(t *testing.T) {
	t.Parallel()
	o := archive.Options{Dir: filepath.Join(t.TempDir(), "archive")}
	s := mustOpen(t, o)
	keep := func(kind string, first, last uint64) []string {
		t.Helper()
		m := meta(first-1, last)
		m.Kind = kind
		w, err := s.Create(m, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := first; i <= last; i++ {
			e := mixed(i)
			if kind == "performance" {
				if e, _, err = storage.CutEntry(e, func(_ storage.KeyspaceID, s storage.Scope) bool { return s == storage.Replicated }); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.AddEntry(wal.Position{Fork: fork, Index: i}, e, true); err != nil {
				t.Fatal(err)
			}
		}
		ids, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	scopes := func(id string) (out string) {
		t.Helper()
		err := s.Read(id, 0, func(_ uint64, it *archive.Item) (bool, error) {
			out += fmt.Sprintf(" %d:", it.At.Index)
			for i := range it.Entry.Blocks {
				out += string("-rl"[it.Entry.Blocks[i].Scope])
			}
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	shared := keep("performance", 92, 94)
	all := keep("dr", 91, 95)
	if len(all) != 2 || all[0] != shared[0] {
		t.Fatalf("the tail is in %q, want in %q and another", all, shared)
	}
	if got, want := scopes(all[1]), " 91:rl 92:l 93:l 94:l 95:rl"; got != want {
		t.Errorf("the second archive holds%s, want%s", got, want)
	}
	s = mustOpen(t, o)
	for _, again := range [][]string{keep("dr", 91, 95), keep("dr", 92, 94)} {
		slices.Sort(again)
		if want := slices.Sorted(slices.Values(all)); !slices.Equal(again, want) {
			t.Errorf("the same tail again is in %q, want in %q alone", again, want)
		}
	}
	if err := s.Discard(shared[0]); err != nil {
		t.Fatal(err)
	}
	if last := keep("performance", 92, 94); len(last) != 1 || scopes(last[0]) != " 92:r 93:r 94:r" {
		t.Errorf("what is shared, when nothing holds it any more, is in %q", last)
	}
}

func TestAnArchiveIsWholeOrNotThereWhenItIsKilledAtAnyCommit(t *testing.T) {
	t.Parallel()
	killed := errors.New("killed here")
	for n, through := 1, false; !through; n++ {
		dir := filepath.Join(t.TempDir(), "archive")
		left, after := (n+1)/2, n%2 == 0
		s := mustOpen(t, archive.Options{Dir: dir, Seam: func(_ string, commit func() error) error {
			if left--; left > 0 {
				return commit()
			}
			if left == 0 && after {
				_ = commit()
			}
			return killed
		}})
		_, err := fill(s, 10, 14)
		through = err == nil
		s = mustOpen(t, archive.Options{Dir: dir})
		list := s.List()
		if len(list) > 0 && (!list[0].Complete || len(indexes(t, s, list[0].ID, 0)) != 4) || through && len(list) != 1 {
			t.Fatalf("killed at commit %d: %+v", n, list)
		}
		if len(list) > 0 {
			continue
		}
		if names, _ := os.ReadDir(dir); len(names) > 0 {
			t.Fatalf("killed at commit %d: %v is left over", n, names)
		}
	}
}

func TestWhatDoesNotFitIsRefusedWithWhatToDo(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		o    archive.Options
	}{
		{"too many archives", archive.Options{Archives: 1}},
		{"too many bytes", archive.Options{Bytes: 300}},
	} {
		tt.o.Dir = filepath.Join(t.TempDir(), "archive")
		s := mustOpen(t, tt.o)
		mustFill(t, s, 1, 3)
		_, err := fill(s, 10, 20)
		if !errors.Is(err, archive.ErrNoRoom) || !strings.Contains(err.Error(), "discard") {
			t.Errorf("%s: got %v, want ErrNoRoom and what to do", tt.name, err)
		}
		if n := len(s.List()); n != 1 {
			t.Errorf("%s: %d archives are listed, want the first alone", tt.name, n)
		}
	}
	s, err := archive.Open(archive.Options{Dir: t.TempDir(), MinFree: 100, FreeDisk: func() (int64, error) { return 120, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(meta(1, 2), 50); !errors.Is(err, archive.ErrNoRoom) {
		t.Errorf("a full disk: got %v, want ErrNoRoom", err)
	}
}

func TestDamageIsNamedAndNothingIsLeftOutInSilence(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "archive")
	keys := sealtest.New(t)
	o := archive.Options{Dir: dir, Sealer: keys.Keyring()}
	id := mustFill(t, mustOpen(t, o), 90, 98)[0]
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if b, err := os.ReadFile(path); err != nil || bytes.Contains(b, []byte("planted")) {
			t.Errorf("%s shows what was archived (%v)", path, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	other := sealtest.New(t)
	foreign := mustOpen(t, archive.Options{Dir: dir, Sealer: other.Keyring()})
	if m, err := foreign.Get(id); err != nil || m.Problem == "" {
		t.Errorf("with other keys: got %+v, %v, want it listed with its problem", m, err)
	}
	if err := foreign.Read(id, 0, nil); err == nil {
		t.Error("with other keys it can be read")
	}
	segments, err := filepath.Glob(filepath.Join(dir, id, "*.wal"))
	if err != nil || len(segments) != 1 {
		t.Fatalf("segments: %q, %v", segments, err)
	}
	if err := os.Remove(segments[0]); err != nil {
		t.Fatal(err)
	}
	if err := mustOpen(t, o).Read(id, 0, func(uint64, *archive.Item) (bool, error) { return true, nil }); err == nil {
		t.Error("an archive without its segment reads as empty")
	}
}

var _ wal.Sealer = (*seal.Keyring)(nil)

func TestTheBytesOfItemsAreThoseOfVersionOne(t *testing.T) {
	items := []*archive.Item{
		{Kind: archive.Entry, At: wal.Position{Fork: fork, Index: 41}, Lost: true, Bytes: entry(41, "key", "value")},
		{Kind: archive.Record, At: wal.Position{Index: 40}, Keyspace: ks, Scope: storage.Local, Key: []byte("key"), Value: []byte("value"), Removed: true},
	}
	var got string
	for _, it := range items {
		b := archive.EncodeItem(nil, it)
		got += hex.Dump(b)
		back, err := archive.DecodeItem(b)
		if err != nil || !bytes.Equal(archive.EncodeItem(nil, back), b) {
			t.Errorf("read back: %+v, %v", back, err)
		}
	}
	path := filepath.Join("testdata", "items-v1.hex")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || got != string(want) {
		t.Errorf("got\n%swant\n%s(%v)", got, want, err)
	}
	newer := archive.EncodeItem(nil, items[0])
	newer[0]++
	var v *wal.VersionError
	if _, err := archive.DecodeItem(newer); !errors.As(err, &v) {
		t.Errorf("a newer version: got %v, want a *wal.VersionError", err)
	}
}

func FuzzDecodeItem(f *testing.F) {
	f.Add(archive.EncodeItem(nil, &archive.Item{Kind: archive.Entry, At: wal.Position{Fork: fork, Index: 1}, Bytes: entry(1, "k", "v")}))
	f.Add(archive.EncodeItem(nil, &archive.Item{Kind: archive.Record, Scope: storage.Replicated, Key: []byte("k"), Value: []byte("v")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		it, err := archive.DecodeItem(b)
		if err != nil {
			return
		}
		again, err := archive.DecodeItem(archive.EncodeItem(nil, it))
		if err != nil || again.At != it.At || !bytes.Equal(again.Key, it.Key) || !bytes.Equal(again.Value, it.Value) || !bytes.Equal(again.Bytes, it.Bytes) {
			t.Errorf("%x decodes to %+v, and that to %+v, %v", b, it, again, err)
		}
	})
}
