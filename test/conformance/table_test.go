package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// row is what one or more lines of the reference say, as requests and what must be answered.
type row struct {
	at      string // file and line
	ids     []string
	title   string
	differs string
	pending string // the part that brings it; empty when it is there
	marked  int    // line of that mark
	steps   []*step
}

// step is one request, or something done to a node.
type step struct {
	at      string
	node    string
	who     string
	run     string // not a request
	method  string
	path    string
	body    string
	headers [][2]string
	guard   string // "", "token" or "sudo"
	until   bool
	status  []int
	keep    [][2]string // name and place
	decode  [][3]string // name, place, and the name of the one-time password
	expect  []expectation
}

type expectation struct {
	at      string
	line    int
	id      string // empty when it is the row's
	place   string
	want    string
	pending string
}

// table is one file.
type table struct {
	name  string
	nodes []nodeOf // of its own
	rows  []*row
}

// nodeOf is a server of a table's own and what is special about it.
type nodeOf struct{ name, kind string }

// ours is the id of a row about what the reference's sections here do not list.
const ours = "ours"

var (
	idForm      = regexp.MustCompile(`^((os)?\d+(\.\d+)?:\d+|00[23]:[a-z-]+)$`)
	pendingForm = regexp.MustCompile(`^(.*\S)\s+\(pending ([a-z]+)\)$`)
	statusForm  = regexp.MustCompile(`^\d{3}(\|\d{3})*$`)
	methods     = map[string]bool{"GET": true, "HEAD": true, "POST": true, "PUT": true, "PATCH": true, "DELETE": true, "LIST": true}
	parts       = map[string]bool{"roles": true, "seal": true, "auth": true, "filters": true, "metrics": true}
	doings      = map[string]bool{"kill": true, "start": true, "stop": true, "mint": true, "rot": true, "launch": true}
	kinds       = map[string]bool{"": true, "shares": true, "unauthenticated": true}
)

func readTables(t *testing.T) []*table {
	t.Helper()
	files, err := filepath.Glob("testdata/*.table")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tables in testdata: %v", err)
	}
	var all []*table
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tab, err := parse(filepath.Base(file), string(text))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, tab)
	}
	return all
}

// parser holds what a line of a table refers to.
type parser struct {
	tab     *table
	row     *row
	step    *step // the last one
	node    string
	who     string
	headers [][2]string
	guard   string
	at      string
	number  int // of the line
}

func parse(name, text string) (*table, error) {
	p := &parser{tab: &table{name: strings.TrimSuffix(name, ".table")}}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		p.at, p.number = fmt.Sprintf("%s:%d", name, i+1), i+1
		if err := p.line(line); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", p.at, err, line)
		}
	}
	for _, r := range p.tab.rows {
		for _, s := range r.steps {
			if s.run == "" && len(s.status) == 0 {
				return nil, fmt.Errorf("%s: a request without a status", s.at)
			}
		}
	}
	return p.tab, nil
}

func (p *parser) line(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch {
	case word == "node":
		name, kind, _ := strings.Cut(rest, " ")
		if !kinds[kind] {
			return fmt.Errorf("%q is no kind of node", kind)
		}
		p.tab.nodes = append(p.tab.nodes, nodeOf{name, kind})
		return nil
	case word == "row":
		return p.begin(rest)
	case p.row == nil:
		return fmt.Errorf("before the first row")
	case word == "at":
		node, who, ok := strings.Cut(rest, " by ")
		if !ok {
			return fmt.Errorf("want at NODE by WHO")
		}
		p.node, p.who = node, who
	case word == "with":
		name, value, ok := strings.Cut(rest, ": ")
		if !ok {
			return fmt.Errorf("want with NAME: VALUE")
		}
		p.headers = append(p.headers, [2]string{name, value})
	case word == "guarded":
		p.guard = "token"
		if rest == "sudo" {
			p.guard = "sudo"
		}
	case word == "differs:":
		if rest == "" {
			return fmt.Errorf("want differs: WHY")
		}
		p.row.differs = rest
	case word == "pending":
		part, why, ok := strings.Cut(rest, ": ")
		if !ok || !parts[part] || why == "" {
			return fmt.Errorf("want pending PART: WHAT")
		}
		p.row.pending, p.row.marked = part, p.number
	case word == "run":
		if !doings[rest] {
			return fmt.Errorf("unknown doing")
		}
		p.add(&step{run: rest})
	case methods[word], word == "until":
		return p.request(line)
	default:
		return p.answer(line)
	}
	return nil
}

func (p *parser) begin(rest string) error {
	ids, title, ok := strings.Cut(rest, " -- ")
	if !ok {
		return fmt.Errorf("want row IDS -- TITLE")
	}
	p.row = &row{at: p.at, ids: strings.Fields(ids), title: title}
	for _, id := range p.row.ids {
		if id != ours && !idForm.MatchString(id) {
			return fmt.Errorf("%q is no id", id)
		}
	}
	p.tab.rows = append(p.tab.rows, p.row)
	p.step, p.node, p.who, p.headers, p.guard = nil, "", "", nil, ""
	return nil
}

func (p *parser) add(s *step) {
	s.at, s.node, s.who, s.headers, s.guard = p.at, p.node, p.who, p.headers, p.guard
	p.headers, p.guard = nil, ""
	p.row.steps = append(p.row.steps, s)
	p.step = s
}

func (p *parser) request(line string) error {
	s := &step{}
	line, s.until = strings.CutPrefix(line, "until ")
	words := strings.SplitN(line, " ", 3)
	if len(words) < 2 || !methods[words[0]] || p.node == "" {
		return fmt.Errorf("want METHOD PATH [BODY], below an at line")
	}
	s.method, s.path = words[0], words[1]
	if len(words) == 3 {
		s.body = strings.TrimSpace(words[2])
	}
	p.add(s)
	return nil
}

// answer is a line that says something of the last request's answer.
func (p *parser) answer(line string) error {
	if p.step == nil || p.step.run != "" {
		return fmt.Errorf("this says something of an answer, and there was no request")
	}
	if statusForm.MatchString(line) {
		for code := range strings.SplitSeq(line, "|") {
			n, _ := strconv.Atoi(code)
			p.step.status = append(p.step.status, n)
		}
		return nil
	}
	word, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	if word == "keep" {
		name, place, ok := strings.Cut(rest, " ")
		if !ok {
			return fmt.Errorf("want keep NAME PLACE")
		}
		p.step.keep = append(p.step.keep, [2]string{name, strings.TrimSpace(place)})
		return nil
	}
	if word == "decode" {
		words := strings.Fields(rest)
		if len(words) != 3 {
			return fmt.Errorf("want decode NAME PLACE OTP")
		}
		p.step.decode = append(p.step.decode, [3]string(words))
		return nil
	}
	e := expectation{at: p.at, line: p.number}
	if m := pendingForm.FindStringSubmatch(line); m != nil {
		if !parts[m[2]] {
			return fmt.Errorf("%q is no part", m[2])
		}
		line, e.pending = m[1], m[2]
	}
	word, rest, _ = strings.Cut(line, " ")
	if idForm.MatchString(word) {
		e.id = word
		word, rest, _ = strings.Cut(strings.TrimSpace(rest), " ")
	}
	e.place, e.want = word, strings.TrimSpace(rest)
	if e.want == "" && e.place != "empty" {
		return fmt.Errorf("want PLACE SHAPE")
	}
	p.step.expect = append(p.step.expect, e)
	return nil
}
