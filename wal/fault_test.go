package wal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/wal"
)

const pageSize = 4096

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// changedPages compares two states of a file, the shorter one as if followed by zeros.
func changedPages(before, after []byte) (changed []int, b, a []byte) {
	size := max(len(before), len(after))
	b = append(bytes.Clone(before), make([]byte, size-len(before))...)
	a = append(bytes.Clone(after), make([]byte, size-len(after))...)
	for p := 0; p*pageSize < size; p++ {
		lo, hi := p*pageSize, min((p+1)*pageSize, size)
		if !bytes.Equal(b[lo:hi], a[lo:hi]) {
			changed = append(changed, p)
		}
	}
	return changed, b, a
}

// subsets calls fn with which of n pages were written: all subsets when there are few, else random ones.
func subsets(n int, fn func(written []bool)) {
	written := make([]bool, n)
	if n <= 10 {
		for bits := range 1 << n {
			for i := range written {
				written[i] = bits>>i&1 == 1
			}
			fn(written)
		}
		return
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		keep := rng.IntN(4) // often nearly all or nearly none
		for i := range written {
			written[i] = rng.IntN(4) <= keep
		}
		fn(written)
	}
}

// TestAnySubsetOfTheWrittenPagesGivesAllOfTheCommitOrNoneOrARefusal is a power
// cut over a disk that loses and reorders what it was told to keep.
func TestAnySubsetOfTheWrittenPagesGivesAllOfTheCommitOrNoneOrARefusal(t *testing.T) {
	commits := map[string]func(m *maker) []*wal.Frame{
		"one small frame":      func(m *maker) []*wal.Frame { return []*wal.Frame{m.frame("x")} },
		"one frame of 3 pages": func(m *maker) []*wal.Frame { return []*wal.Frame{m.sized(20, 500)} },
		"three frames":         func(m *maker) []*wal.Frame { return []*wal.Frame{m.frame("x"), m.sized(9, 400), m.frame("y", "z")} },
		"a long value":         func(m *maker) []*wal.Frame { return []*wal.Frame{m.sized(1, 3*pageSize)} },
		"many pages":           func(m *maker) []*wal.Frame { return []*wal.Frame{m.sized(120, 300)} },
	}
	for name, commit := range commits {
		for _, earlier := range []int{1, 6} {
			t.Run(fmt.Sprintf("%s after %d commits", name, earlier), func(t *testing.T) {
				dir := t.TempDir()
				cfg := wal.Config{Dir: dir, SegmentBytes: 256 << 10, RingBytes: 1}
				l, _ := mustOpen(t, cfg)
				m := newMaker()
				for i := range earlier {
					mustAppend(t, l, m.sized(1+i%3, 300))
				}
				old := len(m.all)
				frames := commit(m)
				path := segments(t, dir)[0]
				before := read(t, path)
				mustAppend(t, l, frames...)
				after := read(t, path)
				var none, all, refused, cut, tried int
				changed, b, a := changedPages(before, after)
				left := crash(t, dir)
				subsets(len(changed), func(written []bool) {
					file := bytes.Clone(b)
					for i, p := range changed {
						if written[i] {
							copy(file[p*pageSize:(p+1)*pageSize], a[p*pageSize:])
						}
					}
					to := left
					tried++
					readOnly := tried%8 != 0 // the others also carry out what they find, in a copy
					if !readOnly {
						to = crash(t, left)
					}
					write(t, filepath.Join(to, filepath.Base(path)), file)
					got, report, err := openAndRead(wal.Config{Dir: to, RingBytes: 1, ReadOnly: readOnly})
					switch {
					case err != nil:
						refused++
						if !strings.Contains(err.Error(), filepath.Base(path)) {
							t.Errorf("pages %v written: the refusal does not name the file: %v", written, err)
						}
					case len(got) == old:
						none++
						if report.CutBytes > 0 {
							cut++
						}
						if err := sameFrames(got, m.all[:old]); err != nil {
							t.Errorf("pages %v written: %v", written, err)
						}
					default:
						all++
						if err := sameFrames(got, m.all); err != nil {
							t.Errorf("pages %v written: neither all nor none: %v", written, err)
						}
					}
				})
				if none == 0 || all == 0 {
					t.Errorf("got %d times none of the commit, %d times all: want both", none, all)
				}
				t.Logf("%d pages: none %d (cut %d), all %d, refused %d", len(changed), none, cut, all, refused)
			})
		}
	}
}

// reopen opens a log as after a crash and reads all of it.
func reopen(dir string) ([]*wal.Frame, wal.Report, error) {
	return openAndRead(wal.Config{Dir: dir, RingBytes: 1})
}

func openAndRead(cfg wal.Config) ([]*wal.Frame, wal.Report, error) {
	l, report, err := wal.Open(cfg)
	if err != nil {
		return nil, report, err
	}
	defer l.Close()
	frames, err := readAll(l)
	return frames, report, err
}

func TestAFailedCommitPoisonsTheLogAndIsAbsentOrWholeAfterReopening(t *testing.T) {
	for name, tc := range map[string]struct {
		seam boltfile.Seam
		kept bool
	}{
		"before the bytes are durable": {func(string, func() error) error { return errBoom }, false},
		"after the bytes are durable":  {func(_ string, commit func() error) error { return errors.Join(commit(), errBoom) }, true},
	} {
		for _, target := range []string{".wal", "meta.db"} {
			t.Run(name+", "+target, func(t *testing.T) {
				armed := false
				dir := t.TempDir()
				l, _ := mustOpen(t, wal.Config{Dir: dir, SegmentEntries: 4, Seam: func(file string, commit func() error) error {
					if armed && strings.HasSuffix(file, target) {
						armed = false
						return tc.seam(file, commit)
					}
					return commit()
				}})
				m := newMaker()
				mustAppend(t, l, m.frame("a", "b"), m.frame("c", "d"))
				r := l.Reader(5)
				armed = true
				err := l.Append(m.frame("e")) // opens a segment: commits to meta.db, then to the segment
				if !errors.Is(err, wal.ErrPoisoned) || !errors.Is(err, errBoom) || !strings.Contains(err.Error(), target) {
					t.Errorf("got %v, want ErrPoisoned with the cause, naming the file", err)
				}
				if f, err := r.TryNext(); f != nil || !errors.Is(err, wal.ErrPoisoned) {
					t.Errorf("a reader: got %v, %v, want nothing and ErrPoisoned", f, err)
				}
				if f, err := l.Reader(1).TryNext(); f == nil || err != nil {
					t.Errorf("what was durable before: got %v, %v", f, err)
				}
				for what, err := range map[string]error{
					"append": l.Append(m.all[2]), "notes": l.SetNotes(map[string][]byte{"n": {1}}), "rotate": l.Rotate(),
				} {
					if !errors.Is(err, wal.ErrPoisoned) {
						t.Errorf("%s afterwards: got %v, want ErrPoisoned", what, err)
					}
				}
				if at, _ := l.End(); at.Index != 4 {
					t.Errorf("end: got %d, want 4", at.Index)
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				want := m.all[:2]
				if tc.kept && target == ".wal" {
					want = m.all
				}
				got, _, err := reopen(dir)
				if err == nil {
					err = sameFrames(got, want)
				}
				if err != nil {
					t.Errorf("after reopening: %v", err)
				}
			})
		}
	}
}

func TestACrashAtAnyCommitOfAnyFileLeavesAPrefixWithEverythingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	m := newMaker()
	acknowledged, first := 0, 0 // frames appended, frames truncated away for certain
	firstMax := 0               // or perhaps
	look := func(when string) {
		t.Helper()
		got, _, err := reopen(crash(t, dir))
		if err != nil {
			t.Fatalf("%s, %d acknowledged: %v", when, acknowledged, err)
		}
		for lo := first; lo <= firstMax; lo++ {
			for hi := acknowledged; hi <= len(m.all); hi++ {
				if hi >= lo && sameFrames(got, m.all[lo:hi]) == nil {
					return
				}
			}
		}
		t.Fatalf("%s: got %d frames, acknowledged are %d to %d", when, len(got), first, acknowledged)
	}
	l, _ := mustOpen(t, wal.Config{Dir: dir, SegmentEntries: 3, Seam: func(file string, commit func() error) error {
		look("before the commit of " + filepath.Base(file))
		err := commit()
		look("after the commit of " + filepath.Base(file))
		return err
	}})
	for i := range 8 {
		mustAppend(t, l, m.frame("a", fmt.Sprint(i)))
		acknowledged++
		look("after an append")
		if i == 5 {
			firstMax = acknowledged
			if _, err := l.Truncate(9); err != nil {
				t.Fatal(err)
			}
			first = 4
			firstMax = 4
			look("after a truncation")
		}
	}
}

func TestACrashBetweenTheListAndTheUnlinkLeavesNothingBehindAndLosesNothing(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, wal.Config{Dir: dir, SegmentEntries: 2})
	m := newMaker()
	for range 6 {
		mustAppend(t, l, m.frame("a"))
	}
	oldest := segments(t, dir)[0]
	content := read(t, oldest)
	listed := read(t, filepath.Join(dir, "meta.db"))
	if _, err := l.Truncate(3); err != nil {
		t.Fatal(err)
	}
	left := crash(t, dir)

	t.Run("the list was written and the file not unlinked", func(t *testing.T) {
		to := crash(t, left)
		back := filepath.Join(to, filepath.Base(oldest))
		write(t, back, content)
		got, _, err := reopen(to)
		if err == nil {
			err = sameFrames(got, m.all[2:])
		}
		if err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(back); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the dropped file: got %v, want that it was removed", err)
		}
	})
	t.Run("the file was unlinked and the list not written", func(t *testing.T) {
		to := crash(t, left)
		write(t, filepath.Join(to, "meta.db"), listed)
		refusedNaming(t, to, filepath.Base(oldest))
	})
	t.Run("a file that is not ours stays", func(t *testing.T) {
		to := crash(t, left)
		other := filepath.Join(to, "notes.wal")
		write(t, other, []byte("mine"))
		if _, _, err := reopen(to); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(other); err != nil {
			t.Error(err)
		}
	})
}

// refusedNaming fails the test unless Open refuses dir with a CorruptError
// that names the file, and changes nothing.
func refusedNaming(t *testing.T, dir, file string) {
	t.Helper()
	before, _ := os.ReadDir(dir)
	_, _, err := reopen(dir)
	var corrupt *boltfile.CorruptError
	if !errors.As(err, &corrupt) || filepath.Base(corrupt.File) != file {
		t.Errorf("got %v, want a CorruptError that names %s", err, file)
	}
	if after, _ := os.ReadDir(dir); len(after) != len(before) {
		t.Errorf("the directory held %d files, now %d", len(before), len(after))
	}
}

func TestASegmentDeletedByHandIsRefusedByName(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, wal.Config{Dir: dir, SegmentEntries: 2})
	m := newMaker()
	for range 6 {
		mustAppend(t, l, m.frame("a"))
	}
	for _, path := range segments(t, dir) {
		to := crash(t, dir)
		if err := os.Remove(filepath.Join(to, filepath.Base(path))); err != nil {
			t.Fatal(err)
		}
		refusedNaming(t, to, filepath.Base(path))
	}
	to := crash(t, dir)
	if err := os.Remove(filepath.Join(to, "meta.db")); err != nil {
		t.Fatal(err)
	}
	refusedNaming(t, to, "meta.db")
}

func TestABitFlipIsNamedAndNeverReturned(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, wal.Config{Dir: dir, SegmentEntries: 40, SegmentBytes: 256 << 10})
	m := newMaker()
	for i := range 6 {
		mustAppend(t, l, m.frame(strings.Repeat("value ", 40)+fmt.Sprint(i), "second"))
	}
	if err := l.Rotate(); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, m.frame("in the active segment: the first"), m.frame("in the active segment: the last"))
	files := segments(t, dir)
	flip := func(t *testing.T, file, text string) string {
		to := crash(t, dir)
		path := filepath.Join(to, filepath.Base(file))
		b := read(t, path)
		at := bytes.LastIndex(b, []byte(text))
		if at < 0 {
			t.Fatalf("%q is not in %s", text, file)
		}
		for ; at >= 0; at = bytes.LastIndex(b, []byte(text)) { // older copies of the page as well
			b[at] ^= 4
		}
		write(t, path, b)
		return to
	}
	t.Run("in a sealed segment", func(t *testing.T) {
		l, _ := mustOpen(t, wal.Config{Dir: flip(t, files[0], "value 3"), RingBytes: 1})
		var corrupt *boltfile.CorruptError
		if f, err := l.Frame(7); f != nil || !errors.As(err, &corrupt) || !strings.Contains(err.Error(), "index 7") {
			t.Errorf("got %v, %v, want a CorruptError that names index 7", f, err)
		}
		for _, index := range []uint64{5, 9} {
			if _, err := l.Frame(index); err != nil {
				t.Errorf("its neighbour %d: %v", index, err)
			}
		}
		var found []wal.Damage
		if err := l.Verify(context.Background(), 1, 100, func(d wal.Damage) error { found = append(found, d); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(found) != 1 || found[0].Index != 7 || found[0].Frame == nil || len(found[0].Frame.Entries) != 2 || !strings.Contains(found[0].File, filepath.Base(files[0])) {
			t.Errorf("verify found %+v, want frame 7 with what can be decoded of it", found)
		}
		if err := l.Verify(context.Background(), 1, 100, func(wal.Damage) error { return errBoom }); err != errBoom {
			t.Errorf("an error of the function: got %v", err)
		}
	})
	t.Run("in the middle of the active segment", func(t *testing.T) {
		refusedNaming(t, flip(t, files[1], "segment: the first"), filepath.Base(files[1]))
	})
	t.Run("in the last frame: it may have been acknowledged, so it is no torn tail", func(t *testing.T) {
		refusedNaming(t, flip(t, files[1], "segment: the last"), filepath.Base(files[1]))
	})
}

func TestARandomByteAnywhereIsRefusedOrHarmlessAndNeverAWrongFrame(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, wal.Config{Dir: dir, SegmentBytes: 64 << 10})
	m := newMaker()
	for range 60 {
		mustAppend(t, l, m.sized(5, 400))
	}
	if err := l.SetNotes(map[string][]byte{"a": []byte("first"), "b": make([]byte, 500)}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	files := append(segments(t, dir), filepath.Join(dir, "meta.db"))
	originals := map[string][]byte{}
	for _, f := range files {
		originals[f] = read(t, f)
	}
	rng := rand.New(rand.NewPCG(5, 6))
	refused, cut := 0, 0
	rounds := fewer(300, 80)
	if testing.Short() {
		rounds = 50
	}
	for round := range rounds {
		path := files[rng.IntN(len(files))]
		b := bytes.Clone(originals[path])
		at := rng.IntN(min(len(b), 20*pageSize))
		if round%2 == 0 {
			at = at/pageSize*pageSize + at%200
		}
		b[at] ^= byte(1 + rng.IntN(255))
		to := crash(t, dir)
		write(t, filepath.Join(to, filepath.Base(path)), b)
		ro, report, err := wal.Open(wal.Config{Dir: to, RingBytes: 1, ReadOnly: round%3 == 0})
		if err != nil {
			refused++
			if !strings.Contains(err.Error(), filepath.Base(path)) {
				t.Errorf("byte %d of %s: the refusal does not name it: %v", at, path, err)
			}
			continue
		}
		got, err := readAll(ro)
		if err != nil {
			refused++
		}
		want := m.all
		if report.CutBytes > 0 {
			cut++
		} else if err == nil && len(got) != len(want) {
			t.Errorf("byte %d of %s: %d frames are gone without a word", at, path, len(want)-len(got))
		}
		if err := sameFrames(got, want[:len(got)]); err != nil {
			t.Errorf("byte %d of %s: %v", at, path, err)
		}
		if string(ro.Note("a")) != "first" {
			t.Errorf("byte %d of %s: note %q", at, path, ro.Note("a"))
		}
		_ = ro.Verify(context.Background(), 0, 1<<62, func(wal.Damage) error { return nil })
		_ = ro.Close()
	}
	if refused == 0 {
		t.Error("nothing was ever noticed")
	}
	t.Logf("refused %d of %d, cut %d", refused, rounds, cut)
}

func TestANewerFormatIsRefusedByName(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, wal.Config{Dir: dir})
	m := newMaker()
	mustAppend(t, l, m.frame("a"))
	segment := segments(t, dir)[0]
	for what, tc := range map[string]struct{ file, magic string }{
		"segment":      {segment, "LSSEGMNT\x00\x01"},
		"log metadata": {filepath.Join(dir, "meta.db"), "LSLOGMET\x00\x01"},
		"frame":        {segment, "LSF\n\x00\x01"},
	} {
		to := crash(t, dir)
		path := filepath.Join(to, filepath.Base(tc.file))
		b := bytes.ReplaceAll(read(t, path), []byte(tc.magic), []byte(tc.magic[:len(tc.magic)-1]+"\x02"))
		write(t, path, b)
		_, _, err := reopen(to)
		var version *wal.VersionError
		if !errors.As(err, &version) || version.What != what || version.Got != 2 || !strings.Contains(err.Error(), filepath.Base(path)) {
			t.Errorf("%s: got %v, want a VersionError that names the file", what, err)
		}
	}
}
