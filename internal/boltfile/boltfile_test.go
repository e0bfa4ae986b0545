package boltfile_test

import (
	"bytes"
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

	bolt "go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/internal/boltfile"
)

// build makes a file with several levels of pages, an inline bucket, free pages and long values.
func build(t testing.TB, path string, o boltfile.Options) {
	t.Helper()
	f, err := boltfile.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		err := f.Update(func(tx *bolt.Tx) error {
			for _, name := range []string{"big", "small", "long"} {
				if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
					return err
				}
			}
			if err := tx.Bucket([]byte("small")).Put([]byte("k"), []byte{byte(round)}); err != nil {
				return err
			}
			for i := range 150 {
				k := fmt.Appendf(nil, "%s/%d/%d", strings.Repeat("k", 60), i, round)
				if err := tx.Bucket([]byte("big")).Put(k, bytes.Repeat([]byte{1}, 50)); err != nil {
					return err
				}
			}
			return tx.Bucket([]byte("long")).Put([]byte{byte(round)}, make([]byte, 9000))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// walk opens a file and touches everything in it, and writes to it unless it is read-only.
func walk(path string, o boltfile.Options) error {
	f, err := boltfile.Open(path, o)
	if err != nil {
		return err
	}
	defer f.Close()
	visit := func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			sum := 0
			c := b.Cursor()
			for k, v := c.First(); k != nil; k, v = c.Next() {
				for _, x := range v {
					sum += int(x)
				}
				b.Get(k)
			}
			for k, _ := c.Last(); k != nil; k, _ = c.Prev() {
				sum += len(k)
			}
			return nil
		})
	}
	verr := f.View(visit)
	if o.ReadOnly {
		return verr
	}
	uerr := f.Update(func(tx *bolt.Tx) error {
		if err := visit(tx); err != nil {
			return err
		}
		for i := range 50 {
			b, err := tx.CreateBucketIfNotExists([]byte("big"))
			if err != nil {
				return err
			}
			if err := b.Put(fmt.Appendf(nil, "new%d", i), make([]byte, 100)); err != nil {
				return err
			}
			if err := b.Delete(fmt.Appendf(nil, "%s/%d/1", strings.Repeat("k", 60), i)); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(verr, uerr)
}

func TestARandomByteAnywhereGivesAnErrorOrNothingButNeverAPanic(t *testing.T) {
	rounds := 80
	if testing.Short() {
		rounds = 60
	}
	for _, o := range []boltfile.Options{{}, {ReadOnly: true}, {NoFreelistSync: true}, {NoFreelistSync: true, ReadOnly: true, Tie: true}} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			w := o
			w.ReadOnly = false
			build(t, path, w)
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := walk(path, o); err != nil {
				t.Fatalf("the whole file: %v", err)
			}
			rng := rand.New(rand.NewPCG(1, 2))
			refused := 0
			for i := range rounds {
				b := bytes.Clone(whole)
				at := damage(rng, i, &b)
				p := filepath.Join(dir, "damaged")
				if err := os.WriteFile(p, b, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := walk(p, o); err != nil {
					refused++
					if !strings.Contains(err.Error(), p) {
						t.Errorf("damage %s: the error does not name the file: %v", at, err)
					}
				}
			}
			if refused == 0 {
				t.Error("no damage was noticed at all")
			}
		})
	}
}

// damage changes a file: one byte, more often in the headers of pages, a page from elsewhere, or a cut.
func damage(rng *rand.Rand, round int, b *[]byte) string {
	const page = 4096
	pages := len(*b) / page
	switch round % 4 {
	case 0:
		i := rng.IntN(len(*b))
		(*b)[i] ^= byte(1 + rng.IntN(255))
		return fmt.Sprintf("byte %d", i)
	case 1, 2:
		i := rng.IntN(min(pages, 120))*page + rng.IntN(64)
		(*b)[i] ^= byte(1 + rng.IntN(255))
		return fmt.Sprintf("byte %d", i)
	}
	from, to := rng.IntN(pages), rng.IntN(pages)
	if rng.IntN(3) == 0 {
		*b = (*b)[:rng.IntN(len(*b))]
		return fmt.Sprintf("cut to %d", len(*b))
	}
	copy((*b)[to*page:(to+1)*page], (*b)[from*page:(from+1)*page])
	return fmt.Sprintf("page %d over page %d", from, to)
}

func TestWhatIsNoBboltFileIsRefusedByName(t *testing.T) {
	for name, content := range map[string][]byte{
		"empty":   {},
		"text":    []byte("hello"),
		"zeros":   make([]byte, 64<<10),
		"garbage": bytes.Repeat([]byte("garbage!"), 8<<10),
	} {
		for _, readOnly := range []bool{false, true} {
			path := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := boltfile.Open(path, boltfile.Options{ReadOnly: readOnly})
			var corrupt *boltfile.CorruptError
			if !errors.As(err, &corrupt) || corrupt.File != path {
				t.Errorf("%s, read-only %v: got %v, want a CorruptError that names it", name, readOnly, err)
			}
		}
	}
}

func TestAMissingFileIsMadeForWritingAndNotForReading(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if _, err := boltfile.Open(path, boltfile.Options{ReadOnly: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read-only: got %v, want that it does not exist", err)
	}
	if err := os.WriteFile(path+".new", []byte("left by a crash"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := boltfile.Open(path, boltfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", info.Mode(), err)
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("the directory holds %d files, want 1", len(names))
	}
	if _, err := boltfile.Open(path, boltfile.Options{}); !errors.Is(err, boltfile.ErrInUse) {
		t.Errorf("a second open: got %v, want ErrInUse", err)
	}
}

func put(f *boltfile.File, v string) error {
	return f.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("b"))
		if err != nil {
			return err
		}
		return b.Put([]byte("k"), []byte(v))
	})
}

func get(t *testing.T, path string) (v string) {
	t.Helper()
	f, err := boltfile.Open(path, boltfile.Options{ReadOnly: true, Tie: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = f.View(func(tx *bolt.Tx) error { v = string(tx.Bucket([]byte("b")).Get([]byte("k"))); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAFailedCommitIsReportedAndEndsWriting(t *testing.T) {
	boom := errors.New("boom")
	for name, tc := range map[string]struct {
		seam boltfile.Seam
		want string
	}{
		"before the bytes are durable": {func(string, func() error) error { return boom }, "old"},
		"after the bytes are durable":  {func(_ string, commit func() error) error { return errors.Join(commit(), boom) }, "new"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			fail := false
			f, err := boltfile.Open(path, boltfile.Options{Tie: true, Seam: func(file string, commit func() error) error {
				if fail {
					fail = false
					return tc.seam(file, commit)
				}
				return commit()
			}})
			if err != nil {
				t.Fatal(err)
			}
			if err := put(f, "old"); err != nil {
				t.Fatal(err)
			}
			fail = true
			var failed *boltfile.CommitError
			if err := put(f, "new"); !errors.As(err, &failed) || failed.File != path || !errors.Is(err, boom) {
				t.Errorf("got %v, want a CommitError with its cause", err)
			}
			if err := put(f, "newer"); !errors.Is(err, boom) {
				t.Errorf("after it: got %v, want the same refusal", err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if got := get(t, path); got != tc.want {
				t.Errorf("after opening again: got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestAPanicInATransactionIsAnErrorAndHoldsNoLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f, err := boltfile.Open(path, boltfile.Options{Tie: true})
	if err != nil {
		t.Fatal(err)
	}
	var corrupt *boltfile.CorruptError
	err = f.Update(func(*bolt.Tx) error { panic("page 7 is odd") })
	if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), "page 7 is odd") || !strings.Contains(err.Error(), path) {
		t.Errorf("update: got %v, want a CorruptError with the panic's text", err)
	}
	if err := f.View(func(*bolt.Tx) error { panic("page 8 is odd") }); !errors.As(err, &corrupt) {
		t.Errorf("view: got %v, want a CorruptError", err)
	}
	if err := put(f, "v"); err != nil {
		t.Errorf("the next update: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestAFileCutShortWhileItIsOpenFaultsAsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	build(t, path, boltfile.Options{})
	f, err := boltfile.Open(path, boltfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	visit := func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error { return nil })
		})
	}
	var corrupt *boltfile.CorruptError
	if err := f.View(visit); !errors.As(err, &corrupt) {
		t.Errorf("view: got %v, want a CorruptError", err)
	}
	if err := f.Update(visit); !errors.As(err, &corrupt) {
		t.Errorf("update: got %v, want a CorruptError", err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestALostRootPageIsNoticedByTheTie(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f, err := boltfile.Open(path, boltfile.Options{Tie: true})
	if err != nil {
		t.Fatal(err)
	}
	var copies [][]byte
	for i := range 6 {
		if err := put(f, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		copies = append(copies, b)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	const metas = 2 * 4096
	lost := append(bytes.Clone(copies[5][:metas]), copies[4][metas:]...)
	if err := os.WriteFile(path, lost, 0o600); err != nil {
		t.Fatal(err)
	}
	var corrupt *boltfile.CorruptError
	if f, err := boltfile.Open(path, boltfile.Options{Tie: true}); !errors.As(err, &corrupt) {
		if err == nil {
			_ = f.Close()
		}
		t.Errorf("new meta page over old pages: got %v, want a CorruptError", err)
	}
}

func FuzzOpen(f *testing.F) {
	path := filepath.Join(f.TempDir(), "f")
	build(f, path, boltfile.Options{})
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(4096*3), []byte{1, 2, 3}, false)
	f.Add(uint32(8), []byte{0xff}, true)
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, readOnly bool) {
		b := bytes.Clone(whole)
		copy(b[int(at)%len(b):], patch)
		p := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = walk(p, boltfile.Options{ReadOnly: readOnly})
	})
}

// pagesOf returns the places in a file's bytes of its free list's numbers, and the number of a page in which a leaf goes on.
func pagesOf(t *testing.T, b []byte) (list []byte, goesOn uint64) {
	t.Helper()
	const page = 4096
	n := binary.NativeEndian
	newest := b[16:]
	if n.Uint64(b[page+16+48:]) > n.Uint64(newest[48:]) {
		newest = b[page+16:]
	}
	used := n.Uint64(newest[40:])
	at := n.Uint64(newest[32:]) * page
	list = b[at+16:][:8*int(n.Uint16(b[at+10:]))]
	free := map[uint64]bool{}
	for i := 0; i < len(list); i += 8 {
		free[n.Uint64(list[i:])] = true
	}
	for id := uint64(2); id < used; id++ {
		p := b[id*page:]
		if n.Uint64(p) == id && n.Uint16(p[8:]) == 2 && n.Uint32(p[12:]) > 1 && !free[id] && !free[id+2] {
			return list, id + 2
		}
	}
	t.Fatal("no leaf has more than two pages")
	return nil, 0
}

func TestAFreeListThatNamesPagesInUseIsRefused(t *testing.T) {
	for name, values := range map[string]int{"small: every leaf's header is read": 40, "large: only those beside free pages": 4000} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			f, err := boltfile.Open(path, boltfile.Options{})
			if err != nil {
				t.Fatal(err)
			}
			for round := range 3 { // what a round replaces is free after the next
				err := f.Update(func(tx *bolt.Tx) error {
					b, err := tx.CreateBucketIfNotExists([]byte("b"))
					for i := 0; i < values && err == nil; i += round*values/20 + 1 {
						err = b.Put(fmt.Appendf(nil, "key %06d", i), make([]byte, 9000+round))
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := walk(path, boltfile.Options{}); err != nil {
				t.Fatalf("the whole file: %v", err)
			}
			_, goesOn := pagesOf(t, whole)
			for i := 0; ; i++ {
				b := bytes.Clone(whole)
				list, _ := pagesOf(t, b)
				if i == min(len(list)/8, 8) {
					break
				}
				ids := make([]uint64, len(list)/8)
				for j := range ids {
					ids[j] = binary.NativeEndian.Uint64(list[8*j:])
				}
				ids[i] = goesOn
				slices.Sort(ids)
				for j, id := range ids {
					binary.NativeEndian.PutUint64(list[8*j:], id)
				}
				p := filepath.Join(dir, "damaged")
				if err := os.WriteFile(p, b, 0o600); err != nil {
					t.Fatal(err)
				}
				var corrupt *boltfile.CorruptError
				if _, err := boltfile.Open(p, boltfile.Options{}); !errors.As(err, &corrupt) || corrupt.File != p {
					t.Errorf("number %d names page %d, which is in use: got %v, want a CorruptError", i, goesOn, err)
				}
			}
		})
	}
}
