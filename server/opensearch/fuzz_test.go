package opensearch

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// FuzzBulkRequest demands that what is read of a request is what lies between its newlines, in order, and that nothing of it is lost.
func FuzzBulkRequest(f *testing.F) {
	f.Add([]byte("{\"index\":{\"_id\":\"1\"}}\n{\"a\":1}\n"))
	f.Add([]byte("{\"delete\":{\"_index\":\"i\",\"_id\":\"1\"}}\n\n{\"create\":{}}\r\n{}\r\n"))
	f.Add([]byte("{\"update\":{\"_id\":\"1\",\"if_seq_no\":3,\"if_primary_term\":1}}\n{\"doc\":{}}\n"))
	f.Add([]byte("{\"index\":{\"_id\":1}}\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		given := bytes.Clone(body)
		items, err := parseBulk(body)
		if !bytes.Equal(given, body) {
			t.Fatal("the body was changed")
		}
		if err != nil {
			return
		}
		rest := body
		for i, it := range items {
			if it.Action == "delete" {
				if it.Body != nil {
					t.Errorf("item %d is a delete with a body", i)
				}
				continue
			}
			at := bytes.Index(rest, it.Body)
			if at < 0 || bytes.IndexByte(it.Body, '\n') >= 0 {
				t.Errorf("item %d has a body that is no line of the request: %q", i, it.Body)
				continue
			}
			rest = rest[at+len(it.Body):]
		}
		if len(items) == 0 || len(items) > bytes.Count(body, []byte("\n")) {
			t.Errorf("%d items of %d lines", len(items), bytes.Count(body, []byte("\n")))
		}
	})
}

// FuzzQuery demands that a query that is accepted can be asked of any document without a panic, and that its negation is its opposite.
func FuzzQuery(f *testing.F) {
	doc := `{"a":1,"b":{"c":["x",2.50,true,null]},"d.e":"y"}`
	for _, q := range []string{
		`{"match_all":{}}`, `{"ids":{"values":["1"]}}`, `{"term":{"a":1}}`, `{"terms":{"b.c.keyword":["x"]}}`, `{"exists":{"field":"b.c"}}`,
		`{"bool":{"must":[{"term":{"a":1e3}}],"should":{"exists":{"field":"d.e"}},"minimum_should_match":0}}`,
	} {
		f.Add(q, doc)
	}
	f.Fuzz(func(t *testing.T, text, source string) {
		q, err := parseQuery(json.RawMessage(text))
		if err != nil || !isObject([]byte(source)) {
			return
		}
		ix := &index{name: "i", desc: &description{}}
		is, err := q.match(&candidate{ix: ix, id: "1", source: []byte(source)})
		if err != nil {
			return
		}
		not, err := matchBool{mustNot: []query{q}}.match(&candidate{ix: ix, id: "1", source: []byte(source)})
		if err != nil || not == is {
			t.Errorf("%s matches %s: %v; its negation: %v, %v", text, source, is, not, err)
		}
	})
}

// FuzzWildcard judges wildMatch by a slow obvious twin.
func FuzzWildcard(f *testing.F) {
	f.Add("a*b*c", "aXbYc")
	f.Add("*", "")
	f.Add("a*a", "a")
	var twin func(p, s string) bool
	twin = func(p, s string) bool {
		if p == "" {
			return s == ""
		}
		if p[0] != '*' {
			return s != "" && s[0] == p[0] && twin(p[1:], s[1:])
		}
		for i := 0; i <= len(s); i++ {
			if twin(p[1:], s[i:]) {
				return true
			}
		}
		return false
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 12 || len(name) > 16 || strings.Count(pattern, "*") > 4 {
			return
		}
		if got, want := wildMatch(pattern, name), twin(pattern, name); got != want {
			t.Errorf("%q matches %q: got %v, want %v", pattern, name, got, want)
		}
	})
}
