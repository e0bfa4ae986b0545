package wal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/wal"
)

// spoil changes every copy of a text in a file.
func spoil(t *testing.T, path, text string) {
	t.Helper()
	b := read(t, path)
	if !bytes.Contains(b, []byte(text)) {
		t.Fatalf("%q is not in %s", text, path)
	}
	write(t, path, bytes.ReplaceAll(b, []byte(text), []byte(strings.ToUpper(text))))
}

// frameHeader is what the header of the frame at an index begins with, in the file.
func frameHeader(m *maker, i int) string { return string(m.all[i].EncodeHeader()) }

func TestADamagedLogOpensForReadingAndTellsWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, wal.Config{Dir: dir})
	m := newMaker()
	for i := range 4 {
		mustAppend(t, l, m.frame(fmt.Sprintf("sealed value %c", 'a'+i), "second"))
	}
	if err := l.Rotate(); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		mustAppend(t, l, m.frame(fmt.Sprintf("active value %c", 'a'+i), "second"))
	}
	files := segments(t, dir)
	sealed, active := filepath.Base(files[0]), filepath.Base(files[1])
	header := func(t *testing.T, dir string) {
		path := filepath.Join(dir, active)
		b, h := read(t, path), frameHeader(m, 5)
		if !strings.Contains(string(b), h) {
			t.Fatal("the header is not in the file")
		}
		// the number of entries
		write(t, path, bytes.ReplaceAll(b, []byte(h), []byte(h[:56]+"\xff"+h[57:])))
	}
	for name, tc := range map[string]struct {
		spoil   func(t *testing.T, dir string)
		file    string
		index   uint64 // of the frame that is named
		entries string // what is decoded of it; "": nothing
		what    string
		refused bool // for writing
		until   uint64
		unknown bool // the log's end
	}{
		"a value in the middle of the active segment": {
			spoil: func(t *testing.T, dir string) { spoil(t, filepath.Join(dir, active), "active value b") },
			file:  active, index: 11, entries: "ACTIVE VALUE B second", what: "its checksum does not match what it holds", refused: true, until: 16,
		},
		"a value of the newest frame": {
			spoil: func(t *testing.T, dir string) { spoil(t, filepath.Join(dir, active), "active value d") },
			file:  active, index: 15, entries: "ACTIVE VALUE D second", what: "its checksum does not match what it holds", refused: true, until: 16,
		},
		"a frame's header": {
			spoil: header, file: active, index: 11, entries: "active value b second", what: wal.ErrLimits.Error(), refused: true, until: 16,
		},
		"a value of a sealed segment's last frame": {
			spoil: func(t *testing.T, dir string) { spoil(t, filepath.Join(dir, sealed), "sealed value d") },
			file:  sealed, index: 7, entries: "SEALED VALUE D second", what: "its checksum does not match what it holds", until: 16,
		},
		"a sealed segment's header record": {
			spoil: func(t *testing.T, dir string) {
				path := filepath.Join(dir, sealed)
				write(t, path, bytes.ReplaceAll(read(t, path), []byte("LSSEGMNT"), []byte("lssegmnt")))
			},
			file: sealed, index: 1, what: "segment header has a wrong magic", refused: true, until: 16,
		},
		"the active segment's header record": {
			spoil: func(t *testing.T, dir string) {
				path := filepath.Join(dir, active)
				write(t, path, bytes.ReplaceAll(read(t, path), []byte("LSSEGMNT"), []byte("lssegmnt")))
			},
			file: active, index: 9, what: "segment header has a wrong magic", refused: true, until: 8, unknown: true,
		},
		"the sealed segment cut short": {
			spoil: func(t *testing.T, dir string) { write(t, filepath.Join(dir, sealed), read(t, files[0])[:5000]) },
			file:  sealed, index: 1, what: "it is cut short", refused: true, until: 16,
		},
		"the active segment emptied": {
			spoil: func(t *testing.T, dir string) { write(t, filepath.Join(dir, active), nil) },
			file:  active, index: 9, what: "it is empty", refused: true, until: 8, unknown: true,
		},
		"the sealed segment removed": {
			spoil: func(t *testing.T, dir string) {
				if err := os.Remove(filepath.Join(dir, sealed)); err != nil {
					t.Fatal(err)
				}
			},
			file: sealed, index: 1, what: "it is missing", refused: true, until: 16,
		},
	} {
		t.Run(name, func(t *testing.T) {
			to := crash(t, dir)
			tc.spoil(t, to)
			ro, _ := mustOpen(t, wal.Config{Dir: to, ReadOnly: true, RingBytes: 1})
			var found []wal.Damage
			if err := ro.Verify(context.Background(), 0, 1<<62, func(d wal.Damage) error { found = append(found, d); return nil }); err != nil {
				t.Fatal(err)
			}
			if len(found) != 1 {
				t.Fatalf("verify found %+v, want one place", found)
			}
			d := found[0]
			if filepath.Base(d.File) != tc.file || d.Index != tc.index || !strings.Contains(d.What, tc.what) {
				t.Errorf("got %s, index %d: %q, want %s, index %d: %q", d.File, d.Index, d.What, tc.file, tc.index, tc.what)
			}
			if strings.Contains(d.What, d.File) || strings.Contains(d.What, "index") {
				t.Errorf("it names again what stands beside it: %q", d.What)
			}
			got := ""
			if d.Frame != nil {
				got = string(bytes.Join(d.Frame.Entries, []byte(" ")))
			}
			if got != tc.entries {
				t.Errorf("decoded entries: got %q, want %q", got, tc.entries)
			}
			readAround(t, ro, m, tc.file == sealed && tc.entries == "", tc.index)
			if end, _ := ro.End(); end.Index != tc.until {
				t.Errorf("its end: got %d, want %d", end.Index, tc.until)
			}
			_, err := ro.Frame(tc.until + 1)
			var corrupt *boltfile.CorruptError
			if errors.As(err, &corrupt) != tc.unknown || errors.Is(err, wal.ErrBeyondEnd) == tc.unknown {
				t.Errorf("behind the end: got %v", err)
			}
			if err := ro.Close(); err != nil {
				t.Fatal(err)
			}
			if tc.refused {
				refusedNaming(t, to, tc.file)
			}
		})
	}
}

// readAround reads each frame of a damaged log: those outside the damage are there.
func readAround(t *testing.T, l *wal.Log, m *maker, wholeFile bool, damaged uint64) {
	t.Helper()
	end, _ := l.End()
	for _, want := range m.all {
		if want.Last() > end.Index || wholeFile && want.First < 9 {
			continue
		}
		f, err := l.Frame(want.First)
		if want.First == damaged {
			var corrupt *boltfile.CorruptError
			if !errors.As(err, &corrupt) || strings.Count(err.Error(), "at index") != 1 {
				t.Errorf("the damaged frame: got %v, %v, want a CorruptError that names its index once", f, err)
			}
			continue
		}
		if err != nil || !same(f, want) {
			t.Errorf("frame %d: got %v, %v", want.First, f, err)
		}
	}
}
