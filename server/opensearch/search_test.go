package opensearch_test

import (
	"fmt"
	"strings"
	"testing"
)

// ids are the ids of a search's hits, in order.
func ids(a answer) string {
	list, _ := a.at("hits.hits").([]any)
	var out []string
	for i := range list {
		out = append(out, fmt.Sprint(a.at(fmt.Sprintf("hits.hits.%d._id", i))))
	}
	return strings.Join(out, " ")
}

func TestSearch(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.must(200, "PUT", "/i", `{"mappings":{"properties":{"tag":{"type":"keyword"},"n":{"type":"long"},"text":{"type":"text","fields":{"raw":{"type":"keyword"}}},"when":{"type":"date"}}}}`)
	docs := []string{
		`{"tag":"red","n":3,"text":"Hello World","free":1,"name":"Ann","o":{"deep":[{"x":1},{"x":2}]},"on":true}`,
		`{"tag":"blue","n":10,"text":"Hello","free":2.5,"name":"Bob","on":false}`,
		`{"tag":["red","green"],"n":"7","text":"World","free":1.0,"name":"Cid"}`,
		`{"n":-1,"long":"` + strings.Repeat("x", 300) + `"}`,
	}
	for i, d := range docs {
		c.must(201, "PUT", fmt.Sprintf("/i/_doc/%d", i+1), d)
	}
	rows := []struct{ name, body, ids, total string }{
		{"everything", ``, "1 2 3 4", "4"},
		{"match_all", `{"query":{"match_all":{}}}`, "1 2 3 4", "4"},
		{"nothing", `{"query":{"match_none":{}}}`, "", "0"},
		{"a window", `{"from":1,"size":2}`, "2 3", "4"},
		{"a count alone", `{"size":0}`, "", "4"},
		{"ids, those that are not there left out", `{"query":{"ids":{"values":["3","9","1"]}}}`, "1 3", "2"},
		{"a keyword", `{"query":{"term":{"tag":"red"}}}`, "1 3", "2"},
		{"a keyword with its value in an object", `{"query":{"term":{"tag":{"value":"blue"}}}}`, "2", "1"},
		{"a mapped number written as a text", `{"query":{"term":{"n":7}}}`, "3", "1"},
		{"a number that is not mapped, equal in value", `{"query":{"term":{"free":1}}}`, "1 3", "2"},
		{"true", `{"query":{"term":{"on":true}}}`, "1", "1"},
		{"an element of an array of objects", `{"query":{"term":{"o.deep.x":2}}}`, "1", "1"},
		{"a text's keyword field", `{"query":{"term":{"text.raw":"Hello World"}}}`, "1", "1"},
		{"the keyword of an unmapped text", `{"query":{"term":{"name.keyword":"Bob"}}}`, "2", "1"},
		{"a text too long for its keyword", `{"query":{"term":{"long.keyword":"` + strings.Repeat("x", 300) + `"}}}`, "", "0"},
		{"terms", `{"query":{"terms":{"tag":["blue","green"]}}}`, "2 3", "2"},
		{"exists", `{"query":{"exists":{"field":"tag"}}}`, "1 2 3", "3"},
		{"bool", `{"query":{"bool":{"filter":[{"exists":{"field":"name"}}],"must_not":{"term":{"tag":"blue"}},"should":[{"term":{"n":3}}]}}}`, "1 3", "2"},
		{"bool with should alone", `{"query":{"bool":{"should":[{"term":{"n":3}},{"term":{"n":10}}]}}}`, "1 2", "2"},
		{"sorted by a number", `{"sort":[{"n":"desc"}]}`, "2 3 1 4", "4"},
		{"sorted, a window", `{"sort":[{"n":{"order":"asc"}}],"from":1,"size":2}`, "1 3", "4"},
		{"sorted by a keyword, missing last", `{"query":{"bool":{"must_not":{"term":{"tag":"green"}}}},"sort":[{"tag":"asc"}]}`, "2 1 4", "3"},
		{"sorted by operation", `{"sort":[{"_seq_no":"desc"}]}`, "4 3 2 1", "4"},
		{"without a total", `{"track_total_hits":false}`, "1 2 3 4", ""},
	}
	for _, r := range rows {
		a := c.call("POST", "/i/_search", r.body)
		total := fmt.Sprint(a.at("hits.total.value"))
		if a.at("hits.total") == nil {
			total = ""
		}
		if a.status != 200 || ids(a) != r.ids || total != r.total {
			t.Errorf("%s: got %d %q of %s, want %q of %s: %s", r.name, a.status, ids(a), total, r.ids, r.total, a.text)
		}
	}
	a := c.must(200, "POST", "/i/_search?seq_no_primary_term=true&version=true&_source_includes=n", `{"query":{"ids":{"values":["2"]}}}`)
	c.want("shown", a, "hits.hits.0._seq_no", 1, "hits.hits.0._version", 1, "hits.hits.0._primary_term", 1, "hits.hits.0._source", "map[n:10]", "hits.max_score", 1)
	a = c.must(200, "POST", "/i/_search", `{"sort":["n"],"_source":false,"size":1}`)
	c.want("sorted", a, "hits.hits.0.sort.0", -1, "hits.hits.0._source", nil, "hits.max_score", nil)
	c.want("q", c.must(200, "GET", "/i/_search?q=*:*&size=1", ""), "hits.total.value", 4)
	c.want("count by a query", c.must(200, "POST", "/i/_count", `{"query":{"term":{"tag":"red"}}}`), "count", 2)
}

func TestWhatASearchCannotAnswerIsRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.must(200, "PUT", "/i", `{"mappings":{"properties":{"text":{"type":"text"},"when":{"type":"date"}}}}`)
	c.must(201, "PUT", "/i/_doc/1", `{"text":"a","when":"2030-01-01","name":"Ann","list":[1,2]}`)
	for body, want := range map[string]string{
		`{"query":{"match":{"name":"ann"}}}`:                  "unknown query [match]",
		`{"query":{"term":{"name":"Ann"}}}`:                   "is not offered",
		`{"query":{"term":{"text":"a"}}}`:                     "is not offered",
		`{"query":{"term":{"when":"2030-01-01"}}}`:            "is not offered",
		`{"query":{"term":{"name":"Ann","list":1}}}`:          "multiple fields",
		`{"query":{"term":{"name":{"value":"a","x":1}}}}`:     "does not support [x]",
		`{"query":{"match_all":{"x":1}}}`:                     "unknown field [x]",
		`{"query":{"match_all":{},"term":{}}}`:                "expected one kind",
		`{"query":{}}`:                                        "empty clause",
		`{"query":[]}`:                                        "malformed",
		`{"aggs":{}}`:                                         "unknown field \\\"aggs\\\"",
		`{"sort":["name"]}`:                                   "is not offered",
		`{"sort":["list"]}`:                                   "several values",
		`{"sort":[{"list":{"order":"up"}}]}`:                  "Unknown SortOrder",
		`{"from":9999,"size":2}`:                              "Result window is too large",
		`{"size":-1}`:                                         "cannot be negative",
		`{"query":{"bool":{"minimum_should_match":"75%"}}}`:   "whole number",
		`{"query":{"terms":{"list":{"index":"x","id":"1"}}}}`: "requires a list",
		strings.Repeat(`{"query":{"bool":{"must":`, 1) + strings.Repeat(`{"bool":{"must":`, 30) + `{"match_all":{}}` + strings.Repeat(`}}`, 31) + `}`: "nested deeper",
	} {
		if a := c.call("POST", "/i/_search", body); a.status != 400 || !strings.Contains(a.text, want) {
			t.Errorf("%.80s: got %d %s, want 400 with %q", body, a.status, a.text, want)
		}
	}
	for _, path := range []string{"/i/_search?q=name:ann", "/i/_search?scroll=1m", "/i/_search?df=x", "/i/_doc/1?routing=x", "/i/_doc/1?version=3", "/i/_doc/1?stored_fields=a"} {
		if a := c.call("GET", path, ""); a.status != 400 {
			t.Errorf("GET %s: got %d %s, want 400", path, a.status, a.text)
		}
	}
}

func TestAliasesNameIndices(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.must(200, "PUT", "/a1", `{"aliases":{"all":{},"ones":{"filter":{"term":{"n":1}}}}}`)
	c.must(200, "PUT", "/a2", "")
	for _, ix := range []string{"a1", "a2"} {
		for n := 1; n <= 2; n++ {
			c.must(201, "PUT", fmt.Sprintf("/%s/_doc/%s-%d", ix, ix, n), fmt.Sprintf(`{"n":%d}`, n))
		}
	}
	if got := ids(c.must(200, "GET", "/ones/_search", "")); got != "a1-1" {
		t.Errorf("through an alias with a filter: got %q, want a1-1", got)
	}
	c.want("its count", c.must(200, "GET", "/ones/_count", ""), "count", 1)
	c.must(200, "POST", "/_aliases", `{"actions":[{"add":{"index":"a2","alias":"all"}},{"remove":{"index":"a1","alias":"ones"}}]}`)
	if got := ids(c.must(200, "GET", "/all/_search", "")); got != "a1-1 a1-2 a2-1 a2-2" {
		t.Errorf("through an alias of two: got %q", got)
	}
	c.must(404, "GET", "/ones/_search", "")
	c.want("a write through an alias of two", c.must(400, "PUT", "/all/_doc/1", `{}`), "error.type", "illegal_argument_exception")
	c.must(200, "PUT", "/a2/_alias/all", `{"is_write_index":true}`)
	c.want("with a write index", c.must(201, "PUT", "/all/_doc/x", `{}`), "_index", "a2")
	c.must(400, "PUT", "/all", "")
	c.must(400, "DELETE", "/all", "")
	c.must(400, "PUT", "/a1/_alias/a2", "")
	c.must(404, "DELETE", "/a1/_alias/none", "")
	c.must(200, "DELETE", "/a1/_alias/all", "")
	c.want("what is left", c.must(200, "GET", "/_alias/all", ""), "a2.aliases.all.is_write_index", true, "a1", nil)
	if a := c.call("HEAD", "/_alias/none", ""); a.status != 404 {
		t.Errorf("an alias that is not there: got %d, want 404", a.status)
	}
}

func TestNamesOfIndices(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for _, name := range []string{"a-1", "a-2", "b"} {
		c.must(200, "PUT", "/"+name, "")
	}
	list := func(expression string) string {
		a := c.call("GET", "/_cat/indices/"+expression+"?h=index", "")
		return fmt.Sprint(a.status, " ", strings.Join(strings.Fields(a.text), " "))
	}
	for expression, want := range map[string]string{
		"_all": "200 a-1 a-2 b", "*": "200 a-1 a-2 b", "a-*": "200 a-1 a-2", "a-*,-a-1": "200 a-2", "a-1,b": "200 a-1 b", "*-2": "200 a-2", "x*": "200 ", "b,b": "200 b",
	} {
		if got := list(expression); got != want {
			t.Errorf("%s: got %q, want %q", expression, got, want)
		}
	}
	c.must(404, "GET", "/a-1,none", "")
	c.must(200, "GET", "/a-1,none?ignore_unavailable=true", "")
	c.must(404, "GET", "/x*?allow_no_indices=false", "")
	for _, name := range []string{"Upper", "_under", "-dash", "+plus", "a%20b", "a%2Fb", "a%5Cb", "%2E%2E", "a%23b", "a:b", "v1", "ui", "sys", "a,b", strings.Repeat("x", 256)} {
		if name == "v1" { // the other face's
			continue
		}
		a := c.call("PUT", "/"+name, "")
		if a.status != 400 && a.status != 405 {
			t.Errorf("making index %s: got %d %s, want it refused", name, a.status, a.text)
		}
	}
	c.must(200, "POST", "/b/_close", "")
	c.want("a closed index", c.must(400, "GET", "/b/_search", ""), "error.type", "index_closed_exception")
	c.must(400, "PUT", "/b/_doc/1", `{}`)
	c.must(200, "GET", "/b", "")
	c.must(200, "POST", "/b/_open", "")
	c.must(201, "PUT", "/b/_doc/1", `{}`)
	c.must(400, "PUT", "/b", "")
	c.must(200, "DELETE", "/a-*", "")
	if got := list("_all"); got != "200 b" {
		t.Errorf("after a delete by pattern: got %q", got)
	}
}

func TestSettingsAndMappings(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.must(200, "PUT", "/i", `{"settings":{"index":{"number_of_shards":4,"refresh_interval":"5s"}}}`)
	c.want("settings", c.must(200, "GET", "/i/_settings", ""), "i.settings.index.number_of_shards", "4", "i.settings.index.refresh_interval", "5s", "i.settings.index.number_of_replicas", "1")
	c.must(200, "PUT", "/i/_settings", `{"index.number_of_replicas":2,"refresh_interval":null}`)
	a := c.must(200, "GET", "/i/_settings?flat_settings=true", "")
	c.want("changed", a, "i.settings.index/number_of_replicas", "2", "i.settings.index/refresh_interval", nil)
	for _, body := range []string{`{"index.foo":1}`, `{"index.number_of_shards":2}`, `{"index.number_of_replicas":-1}`, `{"index.blocks.write":true}`, `{"index.number_of_replicas":[1]}`, `[]`} {
		c.must(400, "PUT", "/i/_settings", body)
	}
	c.must(200, "PUT", "/i/_mapping", `{"properties":{"a":{"type":"keyword"}}}`)
	c.must(200, "PUT", "/i/_mapping", `{"properties":{"b":{"type":"long"}}}`)
	c.want("mappings", c.must(200, "GET", "/i/_mapping", ""), "i.mappings.properties.a.type", "keyword", "i.mappings.properties.b.type", "long")
	c.want("another type", c.must(400, "PUT", "/i/_mapping", `{"properties":{"a":{"type":"long"}}}`), "error.reason", "mapper [a] cannot be changed from type [keyword] to [long]")
	c.must(400, "PUT", "/i/_mapping", `{"properties":{"c":{}}}`)
	c.must(400, "PUT", "/i/_mapping", `{"dynamic":"strict"}`)
	c.want("refresh", c.must(200, "POST", "/i/_refresh", ""), "_shards.total", 3, "_shards.successful", 1)
}
