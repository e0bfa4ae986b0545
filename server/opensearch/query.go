package opensearch

import (
	"bytes"
	"encoding/json"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/lockstepdb/lockstep/server/engine"
)

// document under a query: its text is parsed when a matcher first asks.
type candidate struct {
	ix     *index
	id     string
	source []byte
	number engine.Number
	parsed map[string]any
}

func (c *candidate) fields() (map[string]any, error) {
	if c.parsed == nil {
		d := json.NewDecoder(bytes.NewReader(c.source))
		d.UseNumber()
		if err := d.Decode(&c.parsed); err != nil {
			return nil, err
		}
	}
	return c.parsed, nil
}

// query tells whether a document matches.
type query interface {
	match(c *candidate) (bool, error)
}

type (
	matchAll  struct{ none bool }
	matchIDs  struct{ ids map[string]bool }
	matchTerm struct {
		field  string
		values []any // string, json.Number or bool
	}
	matchExists struct{ field string }
	matchBool   struct {
		must, mustNot, should []query
		least                 int
	}
)

func (q matchAll) match(*candidate) (bool, error) { return !q.none, nil }

func (q matchIDs) match(c *candidate) (bool, error) { return q.ids[c.id], nil }

func (q matchBool) match(c *candidate) (bool, error) {
	for _, part := range q.must {
		if is, err := part.match(c); err != nil || !is {
			return false, err
		}
	}
	for _, part := range q.mustNot {
		if is, err := part.match(c); err != nil || is {
			return false, err
		}
	}
	n := 0
	for _, part := range q.should {
		is, err := part.match(c)
		if err != nil {
			return false, err
		}
		if is {
			n++
		}
	}
	return n >= q.least, nil
}

const (
	maxDepth   = 16
	maxClauses = 1024
	maxTerms   = 65_536
)

// parser reads one query, counting what it is made of.
type parser struct{ clauses int }

func parseQuery(raw json.RawMessage) (query, error) {
	p := &parser{}
	return p.query(raw, 0)
}

func malformedQuery(format string, args ...any) *failure {
	return fail(http.StatusBadRequest, parsingFailed, format, args...)
}

// offered are the queries that there are, notOfferedQueries others that OpenSearch has.
const offered = "match_all, match_none, ids, term, terms, exists and bool are"

func (p *parser) query(raw json.RawMessage, depth int) (query, error) {
	var parts map[string]json.RawMessage
	if json.Unmarshal(raw, &parts) != nil || parts == nil {
		return nil, malformedQuery("[query] malformed query, expected an object")
	}
	if p.clauses++; depth > maxDepth || p.clauses > maxClauses {
		return nil, malformedQuery("[query] has more than %d clauses, or is nested deeper than %d", maxClauses, maxDepth)
	}
	if len(parts) == 0 {
		return nil, illegal("query malformed, empty clause found")
	}
	if len(parts) > 1 {
		return nil, malformedQuery("[query] malformed query, expected one kind of query and found %d", len(parts))
	}
	for kind, body := range parts {
		switch kind {
		case "match_all":
			return matchAll{}, p.nothing(kind, body)
		case "match_none":
			return matchAll{none: true}, p.nothing(kind, body)
		case "ids":
			return p.ids(body)
		case "term", "terms":
			return p.term(kind, body)
		case "exists":
			return p.exists(body)
		case "bool":
			return p.boolean(body, depth)
		}
		return nil, malformedQuery("unknown query [%.64s]: of queries %s offered by this server, whose engine has no text index", kind, offered)
	}
	return nil, nil
}

// scores are keys that only change scores, which are all 1 here.
var scores = []string{"boost", "_name"}

func (p *parser) nothing(kind string, body json.RawMessage) error {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return malformedQuery("[%s] expected an object", kind)
	}
	for name := range fields {
		if !slices.Contains(scores, name) {
			return malformedQuery("[%s] unknown field [%.64s]", kind, name)
		}
	}
	return nil
}

func (p *parser) ids(body json.RawMessage) (query, error) {
	var in struct {
		Values []string        `json:"values"`
		Boost  json.RawMessage `json:"boost"`
		Name   json.RawMessage `json:"_name"`
	}
	if err := decodeStrict(body, &in); err != nil {
		return nil, malformedQuery("[ids] needs [values], a list of ids")
	}
	if len(in.Values) > maxTerms {
		return nil, malformedQuery("[ids] has more than %d values", maxTerms)
	}
	q := matchIDs{map[string]bool{}}
	for _, id := range in.Values {
		q.ids[id] = true
	}
	return q, nil
}

func decodeAny(raw json.RawMessage) (v any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return v, d.Decode(&v) == nil
}

// termValue takes what a field can be compared with.
func termValue(v any) (any, bool) {
	switch v.(type) {
	case string, json.Number, bool:
		return v, true
	}
	return nil, false
}

func (p *parser) term(kind string, body json.RawMessage) (query, error) {
	v, _ := decodeAny(body)
	fields, ok := v.(map[string]any)
	if !ok {
		return nil, malformedQuery("[%s] query malformed, no field", kind)
	}
	q := matchTerm{}
	for name, v := range fields {
		if slices.Contains(scores, name) {
			continue
		}
		if q.field != "" {
			return nil, malformedQuery("[%s] query doesn't support multiple fields, found [%.64s] and [%.64s]", kind, q.field, name)
		}
		q.field = name
		values, isList := v.([]any)
		inner, isObject := v.(map[string]any)
		switch {
		case kind == "terms" && isList:
		case kind == "terms":
			return nil, malformedQuery("[terms] query requires a list of values for [%.64s]; lookups in another index are not offered by this server", name)
		case isObject:
			for key := range inner {
				if key != "value" && !slices.Contains(scores, key) {
					return nil, malformedQuery("[term] query does not support [%.64s] on this server", key)
				}
			}
			values = []any{inner["value"]}
		default:
			values = []any{v}
		}
		if len(values) > maxTerms {
			return nil, malformedQuery("[terms] has more than %d values", maxTerms)
		}
		for _, x := range values {
			value, ok := termValue(x)
			if !ok {
				return nil, malformedQuery("[%s] the value for [%.64s] must be a text, a number, true or false", kind, name)
			}
			q.values = append(q.values, value)
		}
	}
	if q.field == "" {
		return nil, malformedQuery("[%s] query malformed, no field", kind)
	}
	return q, nil
}

func (p *parser) exists(body json.RawMessage) (query, error) {
	var in struct {
		Field string          `json:"field"`
		Boost json.RawMessage `json:"boost"`
		Name  json.RawMessage `json:"_name"`
	}
	if err := decodeStrict(body, &in); err != nil || in.Field == "" {
		return nil, malformedQuery("[exists] must be provided with a [field]")
	}
	return matchExists{in.Field}, nil
}

func (p *parser) boolean(body json.RawMessage, depth int) (query, error) {
	var parts map[string]json.RawMessage
	if json.Unmarshal(body, &parts) != nil {
		return nil, malformedQuery("[bool] expected an object")
	}
	q := matchBool{}
	least := -1
	for name, raw := range parts {
		var err error
		switch name {
		case "must", "filter":
			var more []query
			more, err = p.clausesOf(raw, depth)
			q.must = append(q.must, more...)
		case "must_not":
			q.mustNot, err = p.clausesOf(raw, depth)
		case "should":
			q.should, err = p.clausesOf(raw, depth)
		case "minimum_should_match":
			if json.Unmarshal(raw, &least) != nil || least < 0 {
				err = malformedQuery("[bool] minimum_should_match must be a whole number on this server")
			}
		case "boost", "_name", "adjust_pure_negative":
		default:
			err = malformedQuery("[bool] query does not support [%.64s]", name)
		}
		if err != nil {
			return nil, err
		}
	}
	if q.least = least; least < 0 {
		q.least = 0
		if len(q.must) == 0 && len(q.should) > 0 {
			q.least = 1
		}
	}
	return q, nil
}

func (p *parser) clausesOf(raw json.RawMessage, depth int) ([]query, error) {
	var many []json.RawMessage
	if json.Unmarshal(raw, &many) != nil {
		many = []json.RawMessage{raw}
	}
	out := make([]query, 0, min(len(many), maxClauses))
	for _, one := range many {
		q, err := p.query(one, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, q)
	}
	return out, nil
}

// ---- fields

// valuesAt calls fn for each value that a document has under a field's dotted name, elements of arrays one by one.
func valuesAt(v any, path []string, fn func(any)) {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			valuesAt(x, path, fn)
		}
		return
	case map[string]any:
		if len(path) == 0 {
			fn(v)
			return
		}
		for n := 1; n <= len(path); n++ { // a name may have dots itself
			if x, ok := v[strings.Join(path[:n], ".")]; ok {
				valuesAt(x, path[n:], fn)
			}
		}
		return
	}
	if len(path) == 0 && v != nil {
		fn(v)
	}
}

func (q matchExists) match(c *candidate) (bool, error) {
	fields, err := c.fields()
	if err != nil {
		return false, err
	}
	path, _, err := c.ix.field(q.field)
	if err != nil {
		return false, err
	}
	found := false
	valuesAt(fields, path, func(any) { found = true })
	return found, nil
}

// fieldKind is how values of a field are compared.
type fieldKind int

const (
	kindUnknown fieldKind = iota // not mapped: numbers and booleans only, texts of unmapped fields are analysed
	kindKeyword
	kindDynamic // the keyword field that an unmapped text has
	kindNumber
	kindBool
)

var kinds = map[string]fieldKind{
	"keyword": kindKeyword, "boolean": kindBool, "long": kindNumber, "integer": kindNumber, "short": kindNumber, "byte": kindNumber,
	"double": kindNumber, "float": kindNumber, "half_float": kindNumber, "unsigned_long": kindNumber,
}

// dynamicKeyword is how long a text may be that is found under the keyword field which an unmapped text has.
const dynamicKeyword = 256

// mapping is one field of an index's mappings.
type mapping struct {
	Type       string              `json:"type"`
	Properties map[string]*mapping `json:"properties"`
	Fields     map[string]*mapping `json:"fields"`
}

// field finds where the values of a field are in a document, and how they are compared. A field whose values OpenSearch would analyse, or that is of a type whose
// values have several forms, cannot be asked for.
func (ix *index) field(name string) (path []string, kind fieldKind, err error) {
	parts := strings.Split(name, ".")
	root := &mapping{}
	if len(ix.desc.Mappings) > 0 {
		if err := json.Unmarshal(ix.desc.Mappings, root); err != nil {
			return nil, 0, illegal("the mappings of index [%s] cannot be read", ix.name)
		}
	}
	at := root
	for i, part := range parts {
		next := at.Properties[part]
		if next == nil && i > 0 && i == len(parts)-1 && at.Fields[part] != nil {
			kind, err := exactKind(name, at.Fields[part].Type)
			return parts[:i], kind, err
		}
		if next == nil {
			if i > 0 && i == len(parts)-1 && part == "keyword" && at.Type == "" && at.Properties == nil {
				return parts[:i], kindDynamic, nil
			}
			at = nil
			break
		}
		at = next
	}
	if at == nil {
		if n := len(parts) - 1; n > 0 && parts[n] == "keyword" {
			return parts[:n], kindDynamic, nil
		}
		return parts, kindUnknown, nil
	}
	if at.Type == "" {
		return parts, kindUnknown, nil
	}
	kind, err = exactKind(name, at.Type)
	return parts, kind, err
}

func exactKind(name, kind string) (fieldKind, error) {
	if k, ok := kinds[kind]; ok {
		return k, nil
	}
	return 0, notOffered("a query on field ["+name+"] of type ["+kind+"]", "ask for fields of type keyword, boolean or a number, or for [field].keyword")
}

func (q matchTerm) match(c *candidate) (bool, error) {
	if q.field == "_id" {
		return slices.Contains(q.values, any(c.id)), nil
	}
	if q.field == "_index" {
		return slices.Contains(q.values, any(c.ix.name)), nil
	}
	path, kind, err := c.ix.field(q.field)
	if err != nil {
		return false, err
	}
	fields, err := c.fields()
	if err != nil {
		return false, err
	}
	found := false
	valuesAt(fields, path, func(v any) {
		if found || err != nil {
			return
		}
		found, err = equalAs(kind, q, v)
	})
	return found, err
}

func equalAs(kind fieldKind, q matchTerm, v any) (bool, error) {
	text, isText := v.(string)
	if kind == kindUnknown && (isText || slices.ContainsFunc(q.values, func(x any) bool { _, is := x.(string); return is })) {
		return false, notOffered("a query on the text of field ["+q.field+"]", "ask for ["+q.field+".keyword], or map the field as keyword when the index is created")
	}
	if kind == kindDynamic && (!isText || utf8.RuneCountInString(text) > dynamicKeyword) {
		return false, nil // numbers have no such field, nor have longer texts
	}
	return slices.ContainsFunc(q.values, func(want any) bool { return equal(kind, want, v) }), nil
}

func equal(kind fieldKind, want, got any) bool {
	switch kind {
	case kindKeyword, kindDynamic, kindBool:
		a, okA := keywordOf(want)
		b, okB := keywordOf(got)
		return okA && okB && a == b
	}
	x, okX := rational(want)
	y, okY := rational(got)
	if okX && okY {
		return x.Cmp(y) == 0
	}
	return want == got
}

func keywordOf(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		if v {
			return "true", true
		}
		return "false", true
	}
	return "", false
}

// rational is a number's exact value; one with an exponent that would take long is none.
func rational(v any) (*big.Rat, bool) {
	var text string
	switch v := v.(type) {
	case json.Number:
		text = v.String()
	case string:
		text = v
	default:
		return nil, false
	}
	if len(text) > 64 {
		return nil, false
	}
	if at := strings.IndexAny(text, "eE"); at >= 0 && len(text)-at > 5 {
		return nil, false
	}
	return new(big.Rat).SetString(text)
}
