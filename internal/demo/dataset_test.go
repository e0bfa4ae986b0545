package demo

import (
	"context"
	"go/token"
	"reflect"
	"testing"
	"testing/fstest"
)

func TestTheDataSetIsEveryExportedIdentifierOnce(t *testing.T) {
	src := fstest.MapFS{
		"io/io.go": {Data: []byte(`package io

// EOF ends.
var EOF = errors.New("EOF")

// Seek values.
const (
	SeekStart, seekHidden = 0, 1
	SeekEnd = 2 // from the end
)

// Reader reads.
type Reader interface {
	// Read reads.
	Read(p []byte) (n int, err error)
	hidden()
}

// Pair is two.
type Pair[K any] struct {
	Key   K // first
	Value func() int
	inner int
	Reader
}

// Swap swaps.
func (p *Pair[K]) Swap() { return }

func (h hidden) Exported() {}

func unexported() {}

// Copy copies.
func Copy(dst Writer, src Reader) (int64, error) { return 0, nil }
`)},
		"io/io_windows.go":      {Data: []byte("package io\n\n// EOF is there twice.\nvar EOF = 7\n\nvar OnlyThere int\n")},
		"io/io_test.go":         {Data: []byte("package io\n\nfunc TestX() {}\n")},
		"io/internal/x/x.go":    {Data: []byte("package x\n\nvar X int\n")},
		"io/testdata/broken.go": {Data: []byte("not Go")},
		"cmd/go/main.go":        {Data: []byte("package main\n\nvar X int\n")},
		"tools/gen.go":          {Data: []byte("package main\n\nvar X int\n")},
		"vendor/a/a.go":         {Data: []byte("package a\n\nvar X int\n")},
	}
	set := &dataSet{files: token.NewFileSet(), seen: map[string]bool{}}
	if err := set.walk(context.Background(), src); err != nil {
		t.Fatal(err)
	}
	got := map[string]Value{}
	for _, r := range set.records {
		if _, twice := got[r.Key]; twice {
			t.Errorf("%s is there twice", r.Key)
		}
		got[r.Key] = r.Value
	}
	const pair = "type Pair[K any] struct {\n\tKey   K // first\n\tValue func() int\n\tinner int\n\tReader\n}"
	want := map[string]Value{
		"io/EOF":         {`var EOF = errors.New("EOF")`, "EOF ends."},
		"io/SeekStart":   {"const SeekStart, seekHidden = 0, 1", "Seek values."},
		"io/SeekEnd":     {"const SeekEnd = 2", "from the end"},
		"io/Reader":      {"type Reader interface {\n\t// Read reads.\n\tRead(p []byte) (n int, err error)\n\thidden()\n}", "Reader reads."},
		"io/Reader.Read": {"Read(p []byte) (n int, err error)", "Read reads."},
		"io/Pair":        {pair, "Pair is two."},
		"io/Pair.Key":    {"Key K", "first"},
		"io/Pair.Value":  {"Value func() int", ""},
		"io/Pair.Swap":   {"func (p *Pair[K]) Swap()", "Swap swaps."},
		"io/Copy":        {"func Copy(dst Writer, src Reader) (int64, error)", "Copy copies."},
		"io/OnlyThere":   {"var OnlyThere int", ""},
	}
	for key, v := range want {
		if got[key] != v {
			t.Errorf("%s:\ngot  %q\nwant %q", key, got[key], v)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d records, want %d: %v", len(got), len(want), reflect.ValueOf(got).MapKeys())
	}
}
