package conformance

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// TestConformance walks every row of every table against real servers. Tables
// run beside each other; the rows of one run in order.
func TestConformance(t *testing.T) {
	tables := readTables(t)
	w := newWorld(t)
	t.Run("table", func(t *testing.T) {
		for _, tab := range tables {
			t.Run(tab.name, func(t *testing.T) {
				t.Parallel()
				walk(t, w, tab)
			})
		}
	})
	t.Run("typed calls of the stock clients", func(t *testing.T) { typedCalls(t, w) })
	t.Run("strangers", func(t *testing.T) { strangersAreRefused(t, w, tables) })
	w.tellSecrets()
	run.demandNoLeak(t, w.nodes)
}

// sectionOf returns the section of an id, or the page.
func sectionOf(id string) string {
	section, _, _ := strings.Cut(id, ":")
	return section
}

func referenceIDs(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("testdata/reference.ids")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for line := range strings.Lines(string(b)) {
		if id, _, _ := strings.Cut(strings.TrimSpace(line), " "); id != "" && id != "#" {
			ids = append(ids, id)
		}
	}
	return ids
}

// TestEveryLineOfTheReferenceHasARow counts rows per section against the list
// made from the reference, both ways.
func TestEveryLineOfTheReferenceHasARow(t *testing.T) {
	ids := referenceIDs(t)
	known, want, got, have := map[string]bool{}, map[string]int{}, map[string]int{}, map[string]bool{}
	for _, id := range ids {
		if known[id] {
			t.Errorf("testdata/reference.ids has %s twice", id)
		}
		known[id] = true
		want[sectionOf(id)]++
	}
	show := func(id, at string) {
		if id == "" || id == ours {
			return
		}
		if !known[id] {
			t.Errorf("%s: the reference has no %s", at, id)
		}
		if !have[id] {
			have[id] = true
			got[sectionOf(id)]++
		}
	}
	pending := 0
	for _, tab := range readTables(t) {
		for _, r := range tab.rows {
			if r.pending != "" {
				pending++
			}
			for _, id := range r.ids {
				show(id, r.at)
			}
			for _, s := range r.steps {
				for _, e := range s.expect {
					show(e.id, e.at)
				}
			}
		}
	}
	for _, id := range ids {
		if !have[id] {
			t.Errorf("%s has no row", id)
		}
	}
	for section, n := range want {
		if got[section] != n {
			t.Errorf("section %s: %d of %d lines have a row", section, got[section], n)
		}
	}
	t.Logf("%d lines of %d sections; %d rows are pending", len(ids), len(want), pending)
}

var (
	quoted   = regexp.MustCompile("`([^`]+)`")
	braces   = regexp.MustCompile(`^(.*)\{([^{}]*)\}(.*)$`)
	brackets = regexp.MustCompile(`^(.*)\[([^\[\]]*)\](.*)$`)
)

// expand gives every path that a name in the documentation stands for:
// KIND is either kind, {a,b} is a or b, [x,y] may be left out.
func expand(name string) []string {
	if m := braces.FindStringSubmatch(name); m != nil {
		var all []string
		for alt := range strings.SplitSeq(m[2], ",") {
			all = append(all, expand(m[1]+strings.TrimSpace(alt)+m[3])...)
		}
		return all
	}
	if m := brackets.FindStringSubmatch(name); m != nil {
		all := expand(m[1] + m[3])
		for alt := range strings.SplitSeq(m[2], ",") {
			all = append(all, expand(m[1]+strings.TrimSpace(alt)+m[3])...)
		}
		return all
	}
	if before, after, ok := strings.Cut(name, "KIND"); ok {
		return append(expand(before+"dr"+after), expand(before+"performance"+after)...)
	}
	return []string{name}
}

// documented returns patterns of the paths that docs/api.md names. In a line a
// name without a beginning of its own is beside the path before it:
// `auth/token/lookup`, `lookup-self`.
func documented(t *testing.T) []pattern {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(cluster.Root(), "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	var all []pattern
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue // only tables name calls
		}
		beside := ""
		for _, m := range quoted.FindAllStringSubmatch(cells[1], -1) {
			words := strings.Fields(m[1])
			word := words[len(words)-1]
			switch {
			case strings.HasPrefix(word, "sys/"), strings.HasPrefix(word, "auth/"):
				beside = word[:strings.LastIndex(strings.SplitN(word, "{", 2)[0], "/")+1]
			case beside != "" && word[0] >= 'a' && word[0] <= 'z':
				word = beside + word
			default:
				continue
			}
			for _, name := range expand(word) {
				all = append(all, patternOf(name))
			}
		}
	}
	return all
}

// pattern is a documented name, in which :x is any segments.
type pattern struct {
	name string
	form *regexp.Regexp
}

var anySegments = regexp.MustCompile(`:[a-z_]+|<[a-z_]+>`)

func patternOf(name string) pattern {
	return pattern{name, regexp.MustCompile(`^` + anySegments.ReplaceAllString(regexp.QuoteMeta(name), `.+`) + `$`)}
}

func (p pattern) standsFor(path string) bool { return p.form.MatchString(path) }

// TestDocsNameEveryEndpoint demands that docs/api.md names each endpoint below
// sys/ and auth/ that a row shows to be served.
func TestDocsNameEveryEndpoint(t *testing.T) {
	patterns := documented(t)
	if len(patterns) < 30 {
		t.Fatalf("docs/api.md names %d paths only: has its form changed?", len(patterns))
	}
	seen := map[string]bool{}
	for _, tab := range readTables(t) {
		for _, r := range tab.rows {
			for _, s := range r.steps {
				path, _, _ := strings.Cut(s.path, "?")
				path = strings.TrimSuffix(path, "/")
				served := slices.ContainsFunc(s.status, func(code int) bool { return code < 300 })
				if r.pending != "" || !served || seen[path] || !strings.HasPrefix(path, "sys/") && !strings.HasPrefix(path, "auth/") {
					continue
				}
				seen[path] = true
				if !slices.ContainsFunc(patterns, func(p pattern) bool { return p.standsFor(path) }) {
					t.Errorf("%s: docs/api.md does not name %s %s", s.at, s.method, path)
				}
			}
		}
	}
}

// TestEveryEndpointOfTheDocsHasARow is the other way round.
func TestEveryEndpointOfTheDocsHasARow(t *testing.T) {
	var paths []string
	for _, tab := range readTables(t) {
		for _, r := range tab.rows {
			for _, s := range r.steps {
				path, _, _ := strings.Cut(s.path, "?")
				paths = append(paths, strings.TrimSuffix(path, "/"))
			}
		}
	}
	for _, p := range documented(t) {
		if !slices.ContainsFunc(paths, p.standsFor) {
			t.Errorf("docs/api.md names %s, which no row asks for", p.name)
		}
	}
}
