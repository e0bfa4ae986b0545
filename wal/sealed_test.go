package wal_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/internal/seal/sealtest"
	"github.com/lockstepdb/lockstep/wal"
)

// sealedLog is a log of two segments with planted entries and a note.
func sealedLog(t testing.TB, keys *seal.Opened) (dir string, m *maker) {
	t.Helper()
	dir = t.TempDir()
	l, _ := mustOpen(t, wal.Config{Dir: dir, Sealer: keys.Keyring()})
	m = newMaker()
	mustAppend(t, l, m.frame("planted one", "planted two"), m.frame("planted three"))
	if err := l.SetNotes(map[string][]byte{"name/of/note": []byte("planted note"), "empty": {}}); err != nil {
		t.Fatal(err)
	}
	if err := l.Rotate(); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, m.frame("planted four", ""), m.frame("planted six"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, m
}

func TestASealedLogShowsNothingAndReadsAsWritten(t *testing.T) {
	t.Parallel()
	keys := sealtest.New(t)
	dir, m := sealedLog(t, keys)
	for _, path := range append(segments(t, dir), filepath.Join(dir, "meta.db")) {
		b := read(t, path)
		if bytes.Contains(b, []byte("planted")) {
			t.Errorf("%s shows what was written", path)
		}
		for _, f := range m.all {
			if bytes.Contains(b, f.Chain[:]) {
				t.Errorf("%s shows the chain hash of the frame at %d", path, f.First)
			}
		}
	}
	if _, err := keys.Rotate(time.Now()); err != nil {
		t.Fatal(err)
	}
	l, _ := mustOpen(t, wal.Config{Dir: dir, Sealer: keys.Keyring(), RingBytes: 1})
	mustAppend(t, l, m.frame("planted after the rotation"))
	holds(t, l, m.all)
	if got := l.Note("name/of/note"); string(got) != "planted note" {
		t.Errorf("note: %q", got)
	}
	if got := l.Note("empty"); got == nil || len(got) != 0 {
		t.Errorf("empty note: %v", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	notes, err := wal.ReadNotes(dir, keys.Keyring())
	if err != nil || string(notes["name/of/note"]) != "planted note" {
		t.Errorf("ReadNotes: %q, %v", notes, err)
	}
}

func TestALogIsNotOpenedWithWrongKeysOrNone(t *testing.T) {
	t.Parallel()
	keys := sealtest.New(t)
	dir, _ := sealedLog(t, keys)
	if _, _, err := wal.Open(wal.Config{Dir: dir}); !errors.Is(err, wal.ErrSealing) {
		t.Errorf("without keys: %v, want ErrSealing", err)
	}
	if _, _, err := wal.Open(wal.Config{Dir: dir, Sealer: sealtest.New(t).Keyring()}); !errors.Is(err, seal.ErrNoKey) {
		t.Errorf("with other keys: %v, want ErrNoKey", err)
	}
	plain := t.TempDir()
	l, _ := mustOpen(t, wal.Config{Dir: plain})
	mustAppend(t, l, newMaker().frame("x"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := wal.Open(wal.Config{Dir: plain, Sealer: keys.Keyring()}); !errors.Is(err, wal.ErrSealing) {
		t.Errorf("a plain log with keys, as somebody without them could put there: %v, want ErrSealing", err)
	}
}

// change alters a value of a bbolt file as somebody who can write the file would.
func change(t *testing.T, path, bucket string, fn func(b *bolt.Bucket) error) {
	t.Helper()
	f, err := boltfile.Open(path, boltfile.Options{Tie: true, NoFreelistSync: strings.HasSuffix(path, ".wal")})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Update(func(tx *bolt.Tx) error { return fn(tx.Bucket([]byte(bucket))) }); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func entryKey(index uint64) []byte { return append(binary.BigEndian.AppendUint64(nil, index), 1) }

func TestTamperingWithASealedLogIsNamed(t *testing.T) {
	t.Parallel()
	keys := sealtest.New(t)
	whole, _ := sealedLog(t, keys)
	first, second := filepath.Base(segments(t, whole)[0]), filepath.Base(segments(t, whole)[1])
	put := func(key []byte, value func(b *bolt.Bucket) []byte) func(b *bolt.Bucket) error {
		return func(b *bolt.Bucket) error { return b.Put(key, bytes.Clone(value(b))) }
	}
	flip := func(key []byte, at int) func(b *bolt.Bucket) error {
		return put(key, func(b *bolt.Bucket) []byte {
			v := bytes.Clone(b.Get(key))
			v[(at+len(v))%len(v)] ^= 1
			return v
		})
	}
	var foreign []byte
	change(t, filepath.Join(crash(t, whole), second), "frames", func(b *bolt.Bucket) error {
		foreign = bytes.Clone(b.Get(entryKey(6)))
		return nil
	})
	for _, tc := range []struct {
		name, file, bucket string
		fn                 func(b *bolt.Bucket) error
		want               string // in the error or damage
	}{
		{"a bit of an entry", first, "frames", flip(entryKey(2), -20), "entry 2"},
		{"a bit of an entry's head", first, "frames", flip(entryKey(2), 3), "entry 2"},
		{"two entries of a frame changed places", first, "frames", func(b *bolt.Bucket) error {
			one, two := bytes.Clone(b.Get(entryKey(1))), bytes.Clone(b.Get(entryKey(2)))
			return errors.Join(b.Put(entryKey(1), two), b.Put(entryKey(2), one))
		}, "entry 1"},
		{"an entry of another segment", first, "frames", put(entryKey(3), func(*bolt.Bucket) []byte { return foreign }), "entry 3"},
		{"an entry that is not sealed", first, "frames", put(entryKey(3), func(*bolt.Bucket) []byte { return bytes.Repeat([]byte("planted"), 20) }), "entry 3"},
		{"a bit of a header", first, "frames", flip(append(binary.BigEndian.AppendUint64(nil, 3), 0), -1), "index 3"},
		{"the tail record", second, "segment", flip([]byte("tail"), -1), "tail record"},
		{"a note", "meta.db", "notes", flip([]byte("name/of/note"), -1), "name/of/note"},
		{"a note under another key", "meta.db", "notes", put([]byte("empty"), func(b *bolt.Bucket) []byte { return b.Get([]byte("name/of/note")) }), "empty"},
		{"the place before the log", "meta.db", "log", flip([]byte("base"), -1), "base"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := crash(t, whole)
			change(t, filepath.Join(dir, tc.file), tc.bucket, tc.fn)
			err := openAndVerify(dir, keys.Keyring())
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.file) {
				t.Errorf("got %v, want an error that names %s and %s", err, tc.file, tc.want)
			}
		})
	}
	if err := openAndVerify(crash(t, whole), keys.Keyring()); err != nil {
		t.Errorf("untouched: %v", err)
	}
}

func openAndVerify(dir string, s wal.Sealer) error {
	l, _, err := wal.Open(wal.Config{Dir: dir, Sealer: s})
	if err != nil {
		return err
	}
	err = l.Verify(context.Background(), 0, 1<<62, func(d wal.Damage) error {
		return fmt.Errorf("%s: index %d: %s", d.File, d.Index, d.What)
	})
	return errors.Join(err, l.Close())
}

func TestASealedLogSurvivesAKillAtEachCommit(t *testing.T) {
	t.Parallel()
	keys := sealtest.New(t)
	dir := t.TempDir()
	l, _ := mustOpen(t, wal.Config{Dir: dir, Sealer: keys.Keyring(), SegmentEntries: 4})
	m := newMaker()
	for i := range 10 {
		mustAppend(t, l, m.frame(fmt.Sprintf("planted %d", i), "more"))
		if i == 5 {
			if _, err := keys.Rotate(time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		again, _ := mustOpen(t, wal.Config{Dir: crash(t, dir), Sealer: keys.Keyring()})
		holds(t, again, m.all)
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkAppendSealed(b *testing.B) {
	for name, s := range map[string]wal.Sealer{"plain": nil, "sealed": sealtest.New(b).Keyring()} {
		b.Run(name, func(b *testing.B) {
			dir, err := os.MkdirTemp(b.TempDir(), "log")
			if err != nil {
				b.Fatal(err)
			}
			l, _ := mustOpen(b, wal.Config{Dir: dir, Sealer: s, RingBytes: 1 << 20})
			m := newMaker()
			b.ReportAllocs()
			b.SetBytes(18 * 1024)
			for b.Loop() {
				f := m.sized(18, 1024) // a group of 64 clients
				m.all = nil
				mustAppend(b, l, f)
			}
		})
	}
}
