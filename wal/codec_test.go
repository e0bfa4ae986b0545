package wal_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/wal"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func goldenFrame() *wal.Frame {
	f := &wal.Frame{
		Header: wal.Header{
			Lineage: wal.Lineage{0x10, 15: 0x1f}, Ordinal: 3, Fork: wal.Fork{0x20, 15: 0x2f},
			First: 41, Time: 1_700_000_000_000_000_001, Totals: []byte("totals"),
		},
		Entries: [][]byte{[]byte("first"), {}, []byte("third")},
	}
	f.Seal(wal.Hash{0x30, 31: 0x3f})
	return f
}

func TestTheBytesOfAFrameHeaderAreThoseOfVersionOne(t *testing.T) {
	path := filepath.Join("testdata", "frame-v1.hex")
	got := hex.Dump(goldenFrame().EncodeHeader())
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := string(read(t, path)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// The directory holds a log as version 1 wrote it, with a sealed segment, an active one and a note.
func TestALogOfVersionOneIsRead(t *testing.T) {
	golden := filepath.Join("testdata", "log-v1")
	m := newMaker()
	frames := []*wal.Frame{m.frame("a", "", "b"), m.frame("c"), m.frame(strings.Repeat("long ", 100))}
	if *update {
		dir := t.TempDir()
		l, _ := mustOpen(t, wal.Config{Dir: dir, SegmentBytes: 16 << 10, SegmentEntries: 4})
		for _, f := range frames {
			mustAppend(t, l, f)
		}
		if err := l.SetNotes(map[string][]byte{"note": []byte("kept")}); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(golden); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(golden, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
	}
	l, rep := mustOpen(t, wal.Config{Dir: crash(t, golden), RingBytes: 1})
	holds(t, l, frames)
	if string(l.Note("note")) != "kept" || rep.Last != 5 || len(segments(t, golden)) != 2 {
		t.Errorf("got note %q, report %+v", l.Note("note"), rep)
	}
}

func TestAHeaderIsDecodedAsItWasEncoded(t *testing.T) {
	want := goldenFrame()
	h, err := wal.DecodeHeader(want.EncodeHeader())
	if err != nil {
		t.Fatal(err)
	}
	got := &wal.Frame{Header: h, Entries: want.Entries}
	if !same(got, want) || got.Last() != 43 || got.Position() != (wal.Position{Fork: want.Fork, Index: 43}) {
		t.Errorf("got %+v, want %+v", h, want.Header)
	}
	if err := got.Verify(); err != nil {
		t.Error(err)
	}
}

func TestEachThingWrongWithAHeaderHasItsError(t *testing.T) {
	whole := goldenFrame().EncodeHeader()
	set := func(at int, b ...byte) []byte {
		c := bytes.Clone(whole)
		copy(c[at:], b)
		return c
	}
	var version *wal.VersionError
	for name, tc := range map[string]struct {
		b    []byte
		want error
	}{
		"nothing":             {nil, wal.ErrHeaderSize},
		"another magic":       {set(0, 'X'), wal.ErrNoFrame},
		"flags":               {set(6, 0x80), wal.ErrFlags},
		"the compressed flag": {set(7, 1), wal.ErrFlags},
		"cut":                 {whole[:len(whole)-1], wal.ErrHeaderSize},
		"cut before totals":   {whole[:100], wal.ErrHeaderSize},
		"too long":            {append(bytes.Clone(whole), 0), wal.ErrHeaderSize},
		"huge totals":         {set(108, 0xff, 0xff, 0xff, 0xff), wal.ErrLimits},
		"index 0":             {set(48, 0, 0, 0, 0, 0, 0, 0, 0), wal.ErrLimits},
		"the last index":      {set(48, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), wal.ErrLimits},
		"no entries":          {set(56, 0, 0, 0, 0), wal.ErrLimits},
		"too many entries":    {set(56, 0, 1, 0, 1), wal.ErrLimits},
		"too many bytes":      {set(68, 0x7f), wal.ErrLimits},
	} {
		if _, err := wal.DecodeHeader(tc.b); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
	// A newer header may be longer or shorter: its version is looked at first.
	for _, b := range [][]byte{set(4, 0, 2), set(4, 0, 2)[:9], append(set(4, 9, 9), 1, 2, 3)} {
		if _, err := wal.DecodeHeader(b); !errors.As(err, &version) || version.What != "frame" || version.Have != 1 {
			t.Errorf("a newer version: got %v, want a VersionError", err)
		}
	}
}

func TestVerifyNoticesAChangeOfAnyPart(t *testing.T) {
	for name, change := range map[string]func(f *wal.Frame){
		"entry":    func(f *wal.Frame) { f.Entries[0][0]++ },
		"cut":      func(f *wal.Frame) { f.Entries[0], f.Entries[1] = []byte("fir"), []byte("st") },
		"order":    func(f *wal.Frame) { f.Entries[0], f.Entries[2] = f.Entries[2], f.Entries[0] },
		"missing":  func(f *wal.Frame) { f.Entries = f.Entries[:2] },
		"totals":   func(f *wal.Frame) { f.Totals[0]++ },
		"time":     func(f *wal.Frame) { f.Time++ },
		"first":    func(f *wal.Frame) { f.First++ },
		"fork":     func(f *wal.Frame) { f.Fork[3]++ },
		"lineage":  func(f *wal.Frame) { f.Lineage[3]++ },
		"ordinal":  func(f *wal.Frame) { f.Ordinal++ },
		"prev":     func(f *wal.Frame) { f.Prev[3]++ },
		"chain":    func(f *wal.Frame) { f.Chain[3]++ },
		"checksum": func(f *wal.Frame) { f.Sum++ },
	} {
		f := goldenFrame()
		change(f)
		if err := f.Verify(); err == nil {
			t.Errorf("%s: was not noticed", name)
		}
	}
}

func FuzzDecodeHeader(f *testing.F) {
	f.Add(goldenFrame().EncodeHeader())
	f.Add([]byte("LSF\n\x00\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := wal.DecodeHeader(b)
		if err != nil {
			return
		}
		if again := (&wal.Frame{Header: h}).EncodeHeader(); !bytes.Equal(again, b) {
			t.Errorf("%x decodes and encodes to %x", b, again)
		}
	})
}

// FuzzOpenSegment patches the active segment of a log and opens it: what is
// returned is what was written, or an error.
func FuzzOpenSegment(f *testing.F) {
	dir := f.TempDir()
	l, _ := mustOpen(f, wal.Config{Dir: dir, SegmentBytes: 32 << 10})
	m := newMaker()
	for range 8 {
		mustAppend(f, l, m.sized(3, 200))
	}
	left := crash(f, dir)
	path := segments(f, left)[0]
	whole := read(f, path)
	f.Add(uint32(3*pageSize+8), []byte{0xff, 0xff})
	f.Add(uint32(pageSize+40), []byte{1})
	for i := range whole {
		if i%pageSize == 16 {
			f.Add(uint32(i), []byte{2, 0, 0, 0, 7})
		}
	}
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		b := bytes.Clone(whole)
		copy(b[int(at)%len(b):], patch)
		to := crash(t, left)
		write(t, filepath.Join(to, filepath.Base(path)), b)
		got, _, err := reopen(to)
		if err != nil && !strings.Contains(err.Error(), filepath.Base(path)) {
			t.Errorf("the error does not name the file: %v", err)
		}
		if len(got) > len(m.all) {
			t.Fatalf("%d frames, of %d", len(got), len(m.all))
		}
		if err := sameFrames(got, m.all[:len(got)]); err != nil {
			t.Error(err)
		}
	})
}
