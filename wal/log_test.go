package wal_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/wal"
)

func TestAppendedFramesAreReadBackFromMemoryAndFromDisk(t *testing.T) {
	for name, ring := range map[string]int64{"from disk": 1, "from memory": 64 << 20} {
		t.Run(name, func(t *testing.T) {
			cfg := wal.Config{Dir: t.TempDir(), SegmentEntries: 7, RingBytes: ring}
			l, _ := mustOpen(t, cfg)
			m := newMaker()
			for i := range 20 {
				mustAppend(t, l, m.frame(fmt.Sprint("a", i), "", fmt.Sprint("b", i)))
			}
			mustAppend(t, l, m.frame("x"), m.frame("y", "z"), m.frame("w"))
			holds(t, l, m.all)
			if f, err := l.Frame(63); err != nil || !same(f, m.all[22-1]) {
				t.Errorf("frame in the middle: got %v, %v", f, err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l, rep := mustOpen(t, cfg)
			if rep.First != 1 || rep.Last != 64 || rep.CutBytes != 0 {
				t.Errorf("report %+v", rep)
			}
			holds(t, l, m.all)
			mustAppend(t, l, m.frame("after"))
			holds(t, l, m.all)
			if at, chain := l.End(); at.Index != 65 || chain != m.chain || at.Fork != m.fork {
				t.Errorf("end: got %v", at)
			}
		})
	}
}

func TestAFrameOutOfPlaceIsRefusedAndChangesNothing(t *testing.T) {
	l, _ := mustOpen(t, wal.Config{Dir: t.TempDir()})
	m := newMaker()
	first := m.frame("a")
	mustAppend(t, l, first)
	other := newMaker()
	other.frame("b")
	gap := newMaker()
	gap.next, gap.chain = 5, m.chain
	changed := m.frame("good")
	changed.Entries[0][0] = 'f'
	for name, f := range map[string]*wal.Frame{
		"the same again":           first,
		"a gap":                    gap.frame("c"),
		"another past":             other.frame("c"),
		"changed after the seal":   changed,
		"a flag from the future":   {Header: wal.Header{Version: 1, Flags: 4, First: 2, Count: 1, Prev: first.Chain}, Entries: [][]byte{nil}},
		"without entries":          {Header: wal.Header{Version: 1, First: 2, Prev: first.Chain}},
		"of a version unheard of":  {Header: wal.Header{Version: 9, First: 2, Count: 1, Prev: first.Chain}, Entries: [][]byte{nil}},
		"with more than it counts": {Header: wal.Header{Version: 1, First: 2, Count: 1, Prev: first.Chain}, Entries: [][]byte{nil, nil}},
	} {
		if err := l.Append(f); err == nil {
			t.Errorf("%s: was appended", name)
		}
	}
	holds(t, l, []*wal.Frame{first})
}

func TestAReaderWaitsForTheNextFrameAndSeesItOnlyWhenItIsDurable(t *testing.T) {
	var inside func()
	l, _ := mustOpen(t, wal.Config{Dir: t.TempDir(), SegmentEntries: 3, Seam: func(_ string, commit func() error) error {
		err := commit()
		if inside != nil {
			inside()
		}
		return err
	}})
	m := newMaker()
	r := l.Reader(1)
	var wg sync.WaitGroup
	const frames = 50
	wg.Go(func() {
		for i := range frames {
			f, err := r.Next(context.Background())
			if err != nil || string(f.Entries[0]) != fmt.Sprint(i) {
				t.Errorf("frame %d: got %v, %v", i, f, err)
				return
			}
		}
	})
	peek := l.Reader(1)
	for i := range frames {
		inside = func() {
			if f, err := peek.TryNext(); f != nil || err != nil {
				t.Errorf("before the commit returned: got %v, %v", f, err)
			}
		}
		mustAppend(t, l, m.frame(fmt.Sprint(i)))
		if f, err := peek.TryNext(); f == nil || err != nil {
			t.Errorf("after the commit: got %v, %v", f, err)
		}
	}
	wg.Wait()
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errBoom)
	if _, err := r.Next(ctx); !errors.Is(err, errBoom) {
		t.Errorf("a wait that was ended: got %v, want its cause", err)
	}
	wg.Go(func() {
		if _, err := r.Next(context.Background()); !errors.Is(err, wal.ErrClosed) {
			t.Errorf("a wait over Close: got %v, want ErrClosed", err)
		}
	})
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if err := l.Append(m.frame("late")); !errors.Is(err, wal.ErrClosed) {
		t.Errorf("append after Close: got %v", err)
	}
}

func TestAReaderPinnedAcrossRotationAndTruncationReadsOnOrIsToldThatItsPlaceIsGone(t *testing.T) {
	l, _ := mustOpen(t, wal.Config{Dir: t.TempDir(), SegmentEntries: 4, RingBytes: 1})
	m := newMaker()
	for range 10 {
		mustAppend(t, l, m.frame("a", "b"))
	}
	slow, quick := l.Reader(1), l.Reader(1)
	for range 8 {
		if _, err := quick.TryNext(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := slow.TryNext(); err != nil {
		t.Fatal(err)
	}
	if n, err := l.Truncate(13); n != 3 || err != nil {
		t.Fatalf("truncate: got %d, %v, want 3 segments", n, err)
	}
	if got := l.First(); got != 13 {
		t.Errorf("first: got %d, want 13", got)
	}
	if _, err := slow.TryNext(); !errors.Is(err, wal.ErrGone) {
		t.Errorf("the overtaken reader: got %v, want ErrGone", err)
	}
	if _, err := l.Frame(12); !errors.Is(err, wal.ErrGone) {
		t.Errorf("a frame below: got %v, want ErrGone", err)
	}
	for _, want := range m.all[8:] {
		if f, err := quick.TryNext(); err != nil || !same(f, want) {
			t.Errorf("the other reader: got %v, %v", f, err)
		}
	}
	if n, err := l.Truncate(1 << 60); n != 1 || err != nil {
		t.Errorf("the active segment stays: got %d, %v, want 1 dropped", n, err)
	}
	holds(t, l, m.all[8:])
}

func TestWhenEverythingIsTruncatedTheEndIsStillKnown(t *testing.T) {
	cfg := wal.Config{Dir: t.TempDir()}
	l, _ := mustOpen(t, cfg)
	m := newMaker()
	mustAppend(t, l, m.frame("a", "b"))
	if err := l.Rotate(); err != nil {
		t.Fatal(err)
	}
	if n, err := l.Truncate(3); n != 1 || err != nil {
		t.Fatalf("truncate: got %d, %v", n, err)
	}
	_ = l.Close()
	l, rep := mustOpen(t, cfg)
	if rep.First != 3 || rep.Last != 2 {
		t.Errorf("report %+v, want an empty log after 2", rep)
	}
	mustAppend(t, l, m.frame("c"))
	holds(t, l, m.all[1:])
}

func TestResetBeginsAgainElsewhereTogetherWithItsNotes(t *testing.T) {
	cfg := wal.Config{Dir: t.TempDir(), SegmentEntries: 2}
	l, _ := mustOpen(t, cfg)
	m := newMaker()
	for range 5 {
		mustAppend(t, l, m.frame("a"))
	}
	r := l.Reader(1)
	if err := l.SetNotes(map[string][]byte{"old": []byte("1"), "kept": {}}); err != nil {
		t.Fatal(err)
	}
	after := wal.Position{Fork: wal.Fork{9}, Index: 700}
	if err := l.Reset(after, wal.Hash{5}, map[string][]byte{"old": nil, "new": []byte("2")}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.TryNext(); !errors.Is(err, wal.ErrGone) {
		t.Errorf("a reader of before: got %v, want ErrGone", err)
	}
	if left := segments(t, cfg.Dir); len(left) != 0 {
		t.Errorf("files left: %v", left)
	}
	check := func() {
		t.Helper()
		if at, chain := l.End(); at != after || chain != (wal.Hash{5}) || l.First() != 701 {
			t.Errorf("got end %v, first %d", at, l.First())
		}
		if l.Note("old") != nil || string(l.Note("new")) != "2" || l.Note("kept") == nil {
			t.Errorf("notes: got %q, %q, %q", l.Note("old"), l.Note("new"), l.Note("kept"))
		}
	}
	check()
	_ = l.Close()
	l, _ = mustOpen(t, cfg)
	check()
	if err := l.Append(newMaker().frame("x")); !errors.Is(err, wal.ErrNotNext) {
		t.Errorf("a frame of the old numbers: got %v", err)
	}
	n := &maker{next: 701, chain: wal.Hash{5}, fork: wal.Fork{9}}
	mustAppend(t, l, n.frame("x"))
	holds(t, l, n.all)
}

func TestNotesAreListedByPrefixAndSurvive(t *testing.T) {
	cfg := wal.Config{Dir: t.TempDir()}
	l, _ := mustOpen(t, cfg)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := l.SetNotes(map[string][]byte{fmt.Sprint("n/", i): {byte(i)}, "z": nil}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	_ = l.Close()
	l, _ = mustOpen(t, cfg)
	var got []string
	_ = l.Notes("n/", func(k string, v []byte) error { got = append(got, k+string('0'+rune(v[0]))); return nil })
	if want := "[n/00 n/11 n/22 n/33 n/44 n/55 n/66 n/77]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if err := l.Notes("n/", func(string, []byte) error { return errBoom }); err != errBoom {
		t.Errorf("an error of the function: got %v", err)
	}
	if err := l.SetNotes(map[string][]byte{"": {1}}); err == nil {
		t.Error("an empty key was taken")
	}
	if err := l.SetNotes(map[string][]byte{"fine": {1}}); err != nil {
		t.Errorf("after a refused note: %v", err)
	}
}

func TestReadOnlyChangesNothing(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, wal.Config{Dir: dir, SegmentEntries: 3})
	m := newMaker()
	for range 5 {
		mustAppend(t, l, m.frame("a", "b"))
	}
	if _, _, err := wal.Open(wal.Config{Dir: dir, ReadOnly: true}); !errors.Is(err, boltfile.ErrInUse) {
		t.Errorf("a log in use: got %v, want ErrInUse", err)
	}
	left := crash(t, dir)
	stray := filepath.Join(left, fmt.Sprintf("%020d-0123456789abcdef.wal", 99))
	if err := os.WriteFile(stray, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	list := func() (s []string) {
		entries, _ := os.ReadDir(left)
		for _, e := range entries {
			info, _ := e.Info()
			s = append(s, fmt.Sprint(e.Name(), info.Size(), info.ModTime()))
		}
		return s
	}
	before := list()
	ro, rep := mustOpen(t, wal.Config{Dir: left, ReadOnly: true})
	if rep.Last != 10 {
		t.Errorf("report %+v", rep)
	}
	holds(t, ro, m.all)
	for name, err := range map[string]error{
		"append": ro.Append(m.frame("x")), "notes": ro.SetNotes(map[string][]byte{"a": {1}}), "rotate": ro.Rotate(),
		"reset": ro.Reset(wal.Position{}, wal.Hash{}, nil), "truncate": func() error { _, err := ro.Truncate(5); return err }(),
	} {
		if !errors.Is(err, wal.ErrReadOnly) {
			t.Errorf("%s: got %v, want ErrReadOnly", name, err)
		}
	}
	_ = ro.Close()
	if after := list(); strings.Join(before, "\n") != strings.Join(after, "\n") {
		t.Errorf("files changed from\n%v to\n%v", before, after)
	}
	missing := filepath.Join(t.TempDir(), "missing")
	if _, _, err := wal.Open(wal.Config{Dir: missing, ReadOnly: true}); err == nil {
		t.Error("a missing log was opened")
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("a directory was made")
	}
}

func TestBytesShrinkTowardsTheEnd(t *testing.T) {
	for _, ring := range []int64{1, 1 << 30} {
		l, _ := mustOpen(t, wal.Config{Dir: t.TempDir(), SegmentEntries: 10, RingBytes: ring})
		m := newMaker()
		for range 20 {
			mustAppend(t, l, m.sized(3, 100))
		}
		last := l.Bytes(0)
		if last < 60*100 || last > 60*200 {
			t.Errorf("all: got %d bytes", last)
		}
		for i := uint64(1); i <= 61; i++ {
			n := l.Bytes(i)
			if n > last {
				t.Errorf("from %d: %d bytes, more than %d before it", i, n, last)
			}
			last = n
		}
		if last != 0 {
			t.Errorf("beyond the end: got %d bytes", last)
		}
	}
}

func TestTheReportNamesTheForksOfTheActiveSegment(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, wal.Config{Dir: dir})
	m := newMaker()
	mustAppend(t, l, m.frame("a", "b"))
	m.fork = wal.Fork{2}
	mustAppend(t, l, m.frame("c"), m.frame("d"))
	_, rep := mustOpen(t, wal.Config{Dir: crash(t, dir)})
	want := []wal.ForkStart{{Ordinal: 1, Fork: wal.Fork{1}, First: 1}, {Ordinal: 1, Fork: wal.Fork{2}, First: 3}}
	if fmt.Sprint(rep.Forks) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", rep.Forks, want)
	}
}
