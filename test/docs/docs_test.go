// Package docs holds what the documentation says against the tree.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

var (
	testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`")
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9]+)\(`)
	link     = regexp.MustCompile(`\]\(([^)#][^)]*)\)`)
)

// TestTestsThatAreNamedExist keeps docs/testing.md true when a test is renamed.
func TestTestsThatAreNamedExist(t *testing.T) {
	root := cluster.Root()
	have := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range testFunc.FindAllSubmatch(text, -1) {
			have[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "testing.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := testName.FindAllSubmatch(page, -1)
	if len(named) < 20 {
		t.Errorf("docs/testing.md names %d tests only: has its form changed?", len(named))
	}
	for _, m := range named {
		if !have[string(m[1])] {
			t.Errorf("docs/testing.md names %s, which does not exist", m[1])
		}
	}
}

// TestLinksLeadSomewhere follows the relative links of all pages.
func TestLinksLeadSomewhere(t *testing.T) {
	root := cluster.Root()
	pages, _ := filepath.Glob(filepath.Join(root, "*.md"))
	for _, dir := range []string{"docs", "docs/decisions", "docs/runbooks"} {
		more, _ := filepath.Glob(filepath.Join(root, dir, "*.md"))
		pages = append(pages, more...)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllSubmatch(text, -1) {
			to, _, _ := strings.Cut(string(m[1]), "#")
			if strings.Contains(to, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), to)); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", filepath.Base(page), to)
			}
		}
	}
}
