package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// minRecords is how many records the data set must have.
const minRecords = 20_000

// Record is one exported identifier of the Go standard library: a function,
// type, constant, variable, method, field of a struct or method of an
// interface. Key is `<package>/<identifier>`, methods and fields as Type.Name.
type Record struct {
	Key   string
	Value Value
}

// Value is what the demo stores of an identifier.
type Value struct {
	Declaration string `json:"declaration"`
	Comment     string `json:"comment"`
}

// standardLibrary parses the sources of the Go installation: files for every
// operating system, each key once.
func standardLibrary(ctx context.Context) ([]Record, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("find the Go standard library: go env GOROOT: %w", err)
	}
	src := filepath.Join(strings.TrimSpace(string(out)), "src")
	set := &dataSet{files: token.NewFileSet(), seen: map[string]bool{}}
	if err := set.walk(ctx, os.DirFS(src)); err != nil {
		return nil, fmt.Errorf("parse the Go standard library in %s: %w", src, err)
	}
	if len(set.records) < minRecords {
		return nil, fmt.Errorf("the Go standard library in %s has %d exported identifiers, fewer than the %d that the demo needs: is the installation whole?",
			src, len(set.records), minRecords)
	}
	return set.records, nil
}

type dataSet struct {
	files   *token.FileSet
	seen    map[string]bool
	records []Record
}

func (s *dataSet) walk(ctx context.Context, src fs.FS) error {
	return fs.WalkDir(src, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case d.IsDir() && skipped(d.Name()):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := fs.ReadFile(src, name)
		if err != nil {
			return err
		}
		return s.file(name, text)
	})
}

func skipped(dir string) bool {
	return dir == "internal" || dir == "vendor" || dir == "cmd" || dir == "testdata"
}

func (s *dataSet) file(name string, text []byte) error {
	f, err := parser.ParseFile(s.files, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return errors.Join(errors.New("parse "+name), err)
	}
	if f.Name.Name == "main" {
		return nil
	}
	pkg := path.Dir(name)
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			s.function(pkg, d)
		case *ast.GenDecl:
			s.group(pkg, d)
		}
	}
	return nil
}

func (s *dataSet) add(pkg, name, declaration string, comments ...*ast.CommentGroup) {
	key := pkg + "/" + name
	if s.seen[key] {
		return
	}
	s.seen[key] = true
	comment := ""
	for _, c := range comments {
		if comment == "" {
			comment = strings.TrimSpace(c.Text())
		}
	}
	s.records = append(s.records, Record{key, Value{declaration, comment}})
}

func (s *dataSet) function(pkg string, f *ast.FuncDecl) {
	if !f.Name.IsExported() {
		return
	}
	name := f.Name.Name
	if f.Recv != nil {
		of, ok := receiver(f.Recv.List[0].Type)
		if !ok || !ast.IsExported(of) {
			return
		}
		name = of + "." + name
	}
	s.add(pkg, name, s.print(&ast.FuncDecl{Recv: f.Recv, Name: f.Name, Type: f.Type}), f.Doc)
}

// receiver returns the name of the type that a method belongs to.
func receiver(t ast.Expr) (string, bool) {
	switch t := t.(type) {
	case *ast.StarExpr:
		return receiver(t.X)
	case *ast.IndexExpr:
		return receiver(t.X)
	case *ast.IndexListExpr:
		return receiver(t.X)
	case *ast.Ident:
		return t.Name, true
	}
	return "", false
}

func (s *dataSet) group(pkg string, g *ast.GenDecl) {
	for _, spec := range g.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			s.typeSpec(pkg, g, spec)
		case *ast.ValueSpec:
			declaration := g.Tok.String() + " " + s.print(&ast.ValueSpec{Names: spec.Names, Type: spec.Type, Values: spec.Values})
			for _, name := range spec.Names {
				if name.IsExported() {
					s.add(pkg, name.Name, declaration, spec.Doc, spec.Comment, g.Doc)
				}
			}
		}
	}
}

func (s *dataSet) typeSpec(pkg string, g *ast.GenDecl, t *ast.TypeSpec) {
	if !t.Name.IsExported() {
		return
	}
	bare := *t
	bare.Doc, bare.Comment = nil, nil
	s.add(pkg, t.Name.Name, "type "+s.print(&bare), t.Doc, g.Doc, t.Comment)
	var members *ast.FieldList
	switch of := t.Type.(type) {
	case *ast.StructType:
		members = of.Fields
	case *ast.InterfaceType:
		members = of.Methods
	}
	if members == nil {
		return
	}
	for _, m := range members.List {
		for _, name := range m.Names {
			if name.IsExported() {
				s.add(pkg, t.Name.Name+"."+name.Name, s.member(name.Name, m.Type), m.Doc, m.Comment)
			}
		}
	}
}

// member returns a field or an interface's method as it stands in its type.
func (s *dataSet) member(name string, of ast.Expr) string {
	if f, ok := of.(*ast.FuncType); ok && f.Func == token.NoPos {
		return name + strings.TrimPrefix(s.print(f), "func")
	}
	return name + " " + s.print(of)
}

// gofmt is the printer's configuration that the gofmt command uses.
var gofmt = printer.Config{Mode: printer.UseSpaces | printer.TabIndent, Tabwidth: 8}

// print returns a node as gofmt would write it.
func (s *dataSet) print(node any) string {
	var b bytes.Buffer
	if err := gofmt.Fprint(&b, s.files, node); err != nil {
		return "" // the printer fails for no node that the parser made
	}
	return b.String()
}
