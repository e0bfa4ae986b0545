//go:build ignore

// Formats writes docs/formats.md: the sections on bytes of the packages'
// comments, so that each table is written once. With -check it compares.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/doc"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"log"
	"os"
	"path/filepath"
	"strings"
)

const page = "docs/formats.md"

const head = `# Formats

What is on disk and on the wire, byte by byte. This page is made from the packages' comments (` + "`make generate`" + `): the
table beside the code is the one that counts, and a test keeps this copy equal to it.

Every format has a version. A newer one is refused by name, never guessed. The conversation between clusters is
` + "[`proto/replication.proto`](../proto/replication.proto)" + `.
`

// sections are the packages, and the headings of their comments that are about bytes.
var sections = []struct {
	dir, title string
	headings   []string // all when empty
}{
	{"server", "Data directory", []string{"Data directory"}},
	{"internal/seal", "Seal", []string{"Keys", "Sealed value, version 1", "Seal file, version 1"}},
	{"server/snapshot", "Snapshot", []string{"File, version 1"}},
	{"server/engine", "Store", []string{"Files of a store", "Notes kept in the log's metadata", "Frames", "Numbered keyspaces"}},
	{"wal", "Log", nil},
	{"storage", "Entries and state", []string{"Entry, versions 1 and 2", "Totals, version 1", "State file, version 1", "Checkpoints"}},
	{"merkle", "Digests", []string{"Digests", "Leaves", "Root hash"}},
	{"server/archive", "Archives", []string{"Archives", "Archive's note, versions 1 and 2", "Archived item, version 1"}},
	{"server/vault", "Records", []string{"Records"}},
	{"server/opensearch", "Indices and security", []string{"Records"}},
	{"token", "Activation token", nil},
}

func main() {
	check := flag.Bool("check", false, "compare, write nothing")
	flag.Parse()
	log.SetFlags(0)
	b := bytes.NewBufferString(head)
	for _, s := range sections {
		if err := write(b, s.dir, s.title, s.headings); err != nil {
			log.Fatalf("%s: %v", s.dir, err)
		}
	}
	if !*check {
		if err := os.WriteFile(page, b.Bytes(), 0o644); err != nil {
			log.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(page)
	if err != nil || !bytes.Equal(have, b.Bytes()) {
		log.Fatalf("%s is not what the packages' comments say (%v): run 'make generate' and commit what it changes", page, err)
	}
}

// write adds one package's sections.
func write(b *bytes.Buffer, dir, title string, headings []string) error {
	text, err := packageComment(dir)
	if err != nil {
		return err
	}
	parsed := new(doc.Package).Parser().Parse(text)
	printer := &comment.Printer{HeadingLevel: 3, HeadingID: func(*comment.Heading) string { return "" },
		DocLinkURL: func(*comment.DocLink) string { return "" }}
	fmt.Fprintf(b, "\n## %s: `%s`\n", title, dir)
	keep, found := len(headings) == 0, 0
	for _, block := range parsed.Content {
		if h, ok := block.(*comment.Heading); ok && len(headings) > 0 {
			keep = wanted(h, headings)
			if keep {
				found++
			}
		}
		if keep {
			b.WriteByte('\n')
			b.Write(printer.Markdown(&comment.Doc{Content: []comment.Block{block}}))
		}
	}
	if found != len(headings) {
		return fmt.Errorf("has %d of the headings %q", found, headings)
	}
	return nil
}

func wanted(h *comment.Heading, headings []string) bool {
	text := ""
	for _, t := range h.Text {
		if plain, ok := t.(comment.Plain); ok {
			text += string(plain)
		}
	}
	for _, want := range headings {
		if text == want {
			return true
		}
	}
	return false
}

// packageComment returns the longest package comment of a directory's files.
func packageComment(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return "", err
	}
	longest := ""
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			return "", err
		}
		if text := commentOf(f); len(text) > len(longest) {
			longest = text
		}
	}
	if longest == "" {
		return "", fmt.Errorf("no package comment")
	}
	return longest, nil
}

func commentOf(f *ast.File) string {
	if f.Doc == nil {
		return ""
	}
	return f.Doc.Text()
}
