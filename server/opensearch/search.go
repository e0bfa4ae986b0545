package opensearch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

const (
	maxSearches  = 4
	maxWindow    = 10_000   // from and size together
	maxAnswer    = 32 << 20 // bytes of the documents of an answer
	defaultHits  = 10
	searchTime   = 30 * time.Second
	chunkRecords = 2000 // that one view of the state is held for
	searchParams = "q df from size sort _source _source_includes _source_excludes seq_no_primary_term version track_total_hits timeout " + countParams
	countParams  = indicesParams + "preference ignore_throttled search_type batched_reduce_size request_cache ccs_minimize_roundtrips pre_filter_shard_size max_concurrent_shard_requests rest_total_hits_as_int typed_keys "
)

func tooMuch() *failure {
	return fail(http.StatusTooManyRequests, "circuit_breaking_exception", "[parent] Data too large: the documents of the answer take more than %d bytes: ask for fewer at once with size, or for less of them with _source", maxAnswer)
}

// search is what is asked for, of query and body together.
type search struct {
	query      query
	from, size int
	sort       []sortKey
	pick       *sourcePick
	numbers    bool // seq_no_primary_term
	version    bool
	total      bool // hits are counted, all of them
	timeout    time.Duration
	totalAsInt bool
}

// sortKey is one key that hits are ordered by.
type sortKey struct {
	field string
	desc  bool
}

// searchBody is the body of _search.
type searchBody struct {
	Query       json.RawMessage `json:"query"`
	From        *int            `json:"from"`
	Size        *int            `json:"size"`
	Sort        json.RawMessage `json:"sort"`
	Source      json.RawMessage `json:"_source"`
	Numbers     *bool           `json:"seq_no_primary_term"`
	Version     *bool           `json:"version"`
	Total       json.RawMessage `json:"track_total_hits"`
	Timeout     string          `json:"timeout"`
	TrackScores bool            `json:"track_scores"`
}

func (r *request) search() (*search, error) {
	s := &search{query: matchAll{}, size: defaultHits, total: true, timeout: searchTime}
	var b searchBody
	if len(r.body) > 0 {
		if err := decodeStrict(r.body, &b); err != nil {
			return nil, malformedQuery("%s; of a search query, from, size, sort, _source, seq_no_primary_term, version, track_total_hits and timeout are offered by this server", err.Error())
		}
	}
	for _, step := range []func(*search, *searchBody) error{r.searchQuery, r.searchWindow, r.searchSort, r.searchShown, r.searchTotal} {
		if err := step(s, &b); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (r *request) searchQuery(s *search, b *searchBody) (err error) {
	if b.Query != nil {
		if s.query, err = parseQuery(b.Query); err != nil {
			return err
		}
	}
	if q, given := r.query["q"]; given {
		if s.query, err = simpleQuery(q[0]); err != nil {
			return err
		}
	}
	if _, given := r.query["df"]; given {
		return notOffered("[df]", "leave it out")
	}
	if kind := r.query.Get("search_type"); kind != "" && kind != "query_then_fetch" && kind != "dfs_query_then_fetch" {
		return illegal("No search type for [%.64s]", kind)
	}
	return nil
}

// simpleQuery reads q: everything, or one id.
func simpleQuery(text string) (query, error) {
	switch text = strings.TrimSpace(text); {
	case text == "*:*" || text == "*":
		return matchAll{}, nil
	case strings.HasPrefix(text, "_id:") && !strings.ContainsAny(text[4:], " *?()[]{}\"\\:^~"):
		return matchIDs{map[string]bool{text[4:]: true}}, nil
	}
	return nil, notOffered("[q=…] other than *:* and _id:…", "send a query as the body")
}

func (r *request) searchWindow(s *search, b *searchBody) (err error) {
	if b.From != nil {
		s.from = *b.From
	}
	if b.Size != nil {
		s.size = *b.Size
	}
	if s.from, err = r.number("from", s.from); err != nil {
		return err
	}
	if s.size, err = r.number("size", s.size); err != nil {
		return err
	}
	switch {
	case s.from < 0:
		return illegal("[from] parameter cannot be negative but was [%d]", s.from)
	case s.size < 0:
		return illegal("[size] parameter cannot be negative, found [%d]", s.size)
	case s.from > maxWindow || s.size > maxWindow || s.from+s.size > maxWindow:
		return illegal("Result window is too large, from + size must be less than or equal to: [%d] but was [%d]. Split the answer by a query, for scrolls are not offered by this server", maxWindow, s.from+s.size)
	}
	text := r.query.Get("timeout")
	if text == "" {
		text = b.Timeout
	}
	if text != "" {
		d, err := duration("timeout", text)
		if err != nil {
			return err
		}
		if d > 0 {
			s.timeout = min(d, searchTime)
		}
	}
	return nil
}

func (r *request) searchSort(s *search, b *searchBody) error {
	if text := r.query.Get("sort"); text != "" {
		for part := range strings.SplitSeq(text, ",") {
			field, order, _ := strings.Cut(part, ":")
			if err := s.addSort(field, order); err != nil {
				return err
			}
		}
		return nil
	}
	if b.Sort == nil {
		return nil
	}
	v, _ := decodeAny(b.Sort)
	keys, isList := v.([]any)
	if !isList {
		keys = []any{v}
	}
	for _, k := range keys {
		if err := s.sortBy(k); err != nil {
			return err
		}
	}
	return nil
}

func (s *search) sortBy(key any) error {
	switch key := key.(type) {
	case string:
		return s.addSort(key, "")
	case map[string]any:
		for field, how := range key {
			order, isText := how.(string)
			options, isObject := how.(map[string]any)
			if isObject {
				for name, v := range options {
					if name == "order" {
						order, isText = v.(string)
					} else if name != "unmapped_type" && (name != "missing" || v != "_last") {
						return notOffered("["+name+"] of a sort", "leave it out")
					}
				}
				isText = isText || len(options) == 0
			}
			if !isText && !isObject || len(key) != 1 {
				return malformedQuery("[sort] malformed: give names, or objects such as {\"field\":\"desc\"}")
			}
			return s.addSort(field, order)
		}
	}
	return malformedQuery("[sort] malformed: give names, or objects such as {\"field\":\"desc\"}")
}

const maxSortKeys = 8

func (s *search) addSort(field, order string) error {
	if order == "" && field == "_score" {
		order = "desc"
	}
	switch {
	case order != "" && order != "asc" && order != "desc":
		return illegal("Unknown SortOrder [%.64s]", order)
	case len(s.sort) == maxSortKeys:
		return illegal("more than %d keys to sort by", maxSortKeys)
	case field == "":
		return malformedQuery("[sort] has an empty name")
	}
	s.sort = append(s.sort, sortKey{field, order == "desc"})
	return nil
}

func (r *request) searchShown(s *search, b *searchBody) (err error) {
	if s.pick, err = r.sourceFilter(); err != nil {
		return err
	}
	if b.Source != nil {
		if s.pick, err = parseSource(b.Source); err != nil {
			return err
		}
	}
	s.numbers = b.Numbers != nil && *b.Numbers
	if s.numbers, err = r.boolean("seq_no_primary_term", s.numbers); err != nil {
		return err
	}
	s.version = b.Version != nil && *b.Version
	s.version, err = r.boolean("version", s.version)
	return err
}

func (r *request) searchTotal(s *search, b *searchBody) (err error) {
	text := r.query.Get("track_total_hits")
	if text == "" {
		text = string(b.Total)
	}
	s.total = text != "false"
	s.totalAsInt, err = r.boolean("rest_total_hits_as_int", false)
	return err
}

// ---- execution

// hit is a document that matches, with what it is sorted by.
type hit struct {
	candidate
	keys []any // string, *big.Rat, bool, or nil
}

// run is a search while it is executed.
type searching struct {
	f       *Face
	r       *request
	s       *search
	action  string
	hits    []hit
	held    int // bytes of the hits' documents
	total   uint64
	until   time.Time
	expired bool
}

// acquire waits for one of the slots that bound how many searches run at once.
func (f *Face) acquire(ctx context.Context) (release func(), err error) {
	select {
	case f.searches <- struct{}{}:
		return func() { <-f.searches }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (f *Face) runSearch(r *request, s *search, list []*index, expression, action string) (*searching, error) {
	release, err := f.acquire(r.ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	x := &searching{f: f, r: r, s: s, action: action, until: time.Now().Add(s.timeout)}
	for _, ix := range list {
		if err := ix.usable(); err != nil {
			return nil, err
		}
		q, err := ix.through(expression, s.query)
		if err != nil {
			return nil, err
		}
		if err := x.index(ix, q); err != nil {
			return nil, err
		}
		if x.expired {
			break
		}
	}
	x.trim(true)
	return x, nil
}

// through adds the filters of the aliases by which an index was named; one that was named itself is seen whole.
func (ix *index) through(expression string, q query) (query, error) {
	var filters []query
	for word := range strings.SplitSeq(expression, ",") {
		if word == "_all" || word == "" || !strings.HasPrefix(word, "-") && wildMatch(word, ix.name) {
			return q, nil
		}
		for name, a := range ix.desc.Aliases {
			if !wildMatch(word, name) {
				continue
			}
			if len(a.Filter) == 0 {
				return q, nil
			}
			only, err := parseQuery(a.Filter)
			if err != nil {
				return nil, err
			}
			filters = append(filters, only)
		}
	}
	if filters == nil {
		return q, nil
	}
	return matchBool{must: []query{q}, should: filters, least: 1}, nil
}

// index searches one index. A view of the state is held for a piece of it only: a search of a large index sees writes that are made meanwhile.
func (x *searching) index(ix *index, q query) error {
	if all, is := q.(matchAll); is && (all.none || len(x.s.sort) == 0 && (x.action == actionCount || x.f.allReadable(x.r))) {
		return x.everything(ix, all)
	}
	if ids, is := q.(matchIDs); is {
		return x.byID(ix, ids)
	}
	return x.scan(ix, func(c *candidate) (bool, error) {
		if err := x.f.mayRead(x.r, ix, c.id, x.action); err != nil {
			return false, err
		}
		is, err := q.match(c)
		if !is || err != nil {
			return true, err
		}
		x.total++
		return true, x.take(c)
	})
}

func (f *Face) allReadable(r *request) bool { return r.who != nil || r.call.Unlimited() }

// everything counts without looking, and reads what the window shows.
func (x *searching) everything(ix *index, all matchAll) error {
	if all.none {
		return nil
	}
	view := x.f.engine.Snapshot()
	n, err := documents(view, ix)
	view.Release()
	if err != nil {
		return err
	}
	x.total += n
	want := x.s.from + x.s.size
	if len(x.hits) >= want {
		return nil
	}
	return x.scan(ix, func(c *candidate) (bool, error) {
		err := x.take(c)
		return len(x.hits) < want, err
	})
}

// byID reads what is named.
func (x *searching) byID(ix *index, q matchIDs) error {
	ids := make([]string, 0, len(q.ids))
	for id := range q.ids {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		if checkID(id) != nil || id == "" {
			continue
		}
		if err := x.f.mayRead(x.r, ix, id, x.action); err != nil {
			return err
		}
		source, n, found, err := x.f.read(ix, id)
		if err != nil {
			return err
		}
		if found {
			x.total++
			if err := x.take(&candidate{ix: ix, id: id, source: source, number: n}); err != nil {
				return err
			}
		}
	}
	return nil
}

// firstKey lies below the key of every document.
var firstKey = []byte{1}

// scan calls fn for each document of an index until it says false.
func (x *searching) scan(ix *index, fn func(c *candidate) (more bool, err error)) error {
	for from := firstKey; from != nil; {
		if err := x.r.ctx.Err(); err != nil {
			return context.Cause(x.r.ctx)
		}
		if time.Now().After(x.until) {
			x.expired = true
			return nil
		}
		next, err := x.piece(ix, from, fn)
		if err != nil {
			return err
		}
		from = next
	}
	return nil
}

// piece scans so many records; next is where to go on, nil at the end.
func (x *searching) piece(ix *index, from []byte, fn func(c *candidate) (more bool, err error)) (next []byte, err error) {
	view := x.f.engine.Snapshot()
	defer view.Release()
	n := 0
	var failed error
	err = view.Scan(ix.mount.ID, from, nil, func(rec storage.Record) bool {
		if n++; n > chunkRecords {
			next = bytes.Clone(rec.Key)
			return false
		}
		source, number := engine.Split(rec.Value)
		if len(source) == 0 || source[0] != '{' {
			return true
		}
		var more bool
		more, failed = fn(&candidate{ix: ix, id: string(rec.Key), source: source, number: number})
		return more && failed == nil
	})
	if err == nil {
		err = failed
	}
	return next, err
}

// take keeps a hit, as long as the window may show it.
func (x *searching) take(c *candidate) error {
	want := x.s.from + x.s.size
	if want == 0 || len(x.s.sort) == 0 && len(x.hits) >= want {
		return nil
	}
	h := hit{candidate: *c}
	for _, k := range x.s.sort {
		v, err := sortValue(c, k.field)
		if err != nil {
			return err
		}
		h.keys = append(h.keys, v)
	}
	h.parsed = nil
	if x.s.pick == nil {
		h.source = nil
	}
	x.hits = append(x.hits, h)
	x.held += len(h.source)
	if x.held > maxAnswer || len(x.s.sort) > 0 && len(x.hits) >= 2*want+100 {
		x.trim(false)
	}
	if x.held > maxAnswer && len(x.hits) > 1 {
		return tooMuch()
	}
	return nil
}

// trim keeps of the hits those that the window shows, or may show.
func (x *searching) trim(final bool) {
	if len(x.s.sort) > 0 {
		slices.SortStableFunc(x.hits, func(a, b hit) int { return x.compare(&a, &b) })
	}
	if want := x.s.from + x.s.size; len(x.hits) > want {
		clear(x.hits[want:])
		x.hits = x.hits[:want]
	}
	x.held = 0
	for i := range x.hits {
		x.held += len(x.hits[i].source)
	}
	if final {
		x.hits = x.hits[min(x.s.from, len(x.hits)):]
	}
}

func (x *searching) compare(a, b *hit) int {
	for i, k := range x.s.sort {
		switch {
		case a.keys[i] == nil && b.keys[i] == nil:
			continue
		case a.keys[i] == nil: // last, whatever the order
			return 1
		case b.keys[i] == nil:
			return -1
		}
		c := compareKeys(a.keys[i], b.keys[i])
		if k.desc {
			c = -c
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

func compareKeys(a, b any) int {
	if x, is := a.(*big.Rat); is {
		if y, is := b.(*big.Rat); is {
			return x.Cmp(y)
		}
		return -1
	}
	if x, is := a.(string); is {
		if y, is := b.(string); is {
			return cmp.Compare(x, y)
		}
	}
	return 1
}

// sortValue is what a document is sorted by: the first value of a field, nil when there is none.
func sortValue(c *candidate, field string) (any, error) {
	switch field {
	case "_doc", "_score":
		return nil, nil // all are equal: the order of ids
	case "_id":
		return c.id, nil
	case "_index":
		return c.ix.name, nil
	case "_seq_no":
		return new(big.Rat).SetUint64(c.number.Seq), nil
	}
	path, kind, err := c.ix.field(field)
	if err != nil {
		return nil, err
	}
	fields, err := c.fields()
	if err != nil {
		return nil, err
	}
	var values []any
	valuesAt(fields, path, func(v any) { values = append(values, v) })
	switch {
	case len(values) == 0:
		return nil, nil
	case len(values) > 1:
		return nil, notOffered("sorting by field ["+field+"], of which a document has several values,", "sort by another")
	}
	text, isText := values[0].(string)
	switch {
	case kind == kindKeyword || kind == kindDynamic && isText:
		text, _ = keywordOf(values[0])
		return text, nil
	case isText && kind == kindUnknown:
		return nil, notOffered("sorting by the text of field ["+field+"]", "sort by ["+field+".keyword]")
	case isText && kind == kindNumber:
		if n, ok := rational(text); ok {
			return n, nil
		}
	}
	switch v := values[0].(type) {
	case json.Number:
		if n, ok := rational(v); ok {
			return n, nil
		}
	case bool:
		if v {
			return "T", nil
		}
		return "F", nil
	}
	return nil, notOffered("sorting by the values of field ["+field+"]", "sort by a number or a keyword")
}

// ---- answers

func shardsOf(n int) map[string]int {
	return map[string]int{"total": n, "successful": n, "skipped": 0, "failed": 0}
}

func (f *Face) searchCall(r *request) (*reply, error) {
	s, err := r.search()
	if err != nil {
		return nil, err
	}
	list, expression, err := f.searched(r, actionSearch)
	if err != nil {
		return nil, err
	}
	x, err := f.runSearch(r, s, list, expression, actionSearch)
	if err != nil {
		return nil, err
	}
	hits := make([]map[string]any, len(x.hits))
	for i := range x.hits {
		if hits[i], err = x.show(&x.hits[i]); err != nil {
			return nil, err
		}
	}
	outer := map[string]any{"max_score": nil, "hits": hits}
	if len(hits) > 0 && len(s.sort) == 0 {
		outer["max_score"] = 1.0
	}
	switch {
	case s.total && s.totalAsInt:
		outer["total"] = x.total
	case s.total:
		outer["total"] = map[string]any{"value": x.total, "relation": "eq"}
	}
	return ok(map[string]any{"took": r.took(f), "timed_out": x.expired, "_shards": shardsOf(len(list)), "hits": outer}), nil
}

// searched finds the indices of a search.
func (f *Face) searched(r *request, action string) ([]*index, string, error) {
	o, err := r.options(options{open: true})
	if err != nil {
		return nil, "", err
	}
	expression := r.vars["indices"]
	list, err := f.resolve(r, expression, action, o)
	return list, expression, err
}

// show is a hit as an answer has it.
func (x *searching) show(h *hit) (map[string]any, error) {
	out := map[string]any{"_index": h.ix.name, "_id": h.id, "_score": 1.0}
	if len(x.s.sort) > 0 {
		out["_score"] = nil
		keys := make([]any, len(h.keys))
		for i, k := range h.keys {
			keys[i] = shownKey(k)
			if x.s.sort[i].field == "_score" {
				keys[i], out["_score"] = 1.0, 1.0
			}
		}
		out["sort"] = keys
	}
	if x.s.numbers {
		out["_seq_no"], out["_primary_term"] = h.number.Seq, h.number.Term
	}
	if x.s.version {
		out["_version"] = h.number.Version
	}
	if x.s.pick == nil {
		return out, nil
	}
	source, err := x.s.pick.of(h.source)
	out["_source"] = source
	return out, err
}

func shownKey(k any) any {
	if n, is := k.(*big.Rat); is {
		if n.IsInt() {
			return json.Number(n.Num().String())
		}
		f, _ := n.Float64()
		return f
	}
	return k
}

func (f *Face) countCall(r *request) (*reply, error) {
	s := &search{query: matchAll{}, total: true, timeout: searchTime}
	if len(r.body) > 0 {
		var b struct {
			Query json.RawMessage `json:"query"`
		}
		if err := decodeStrict(r.body, &b); err != nil {
			return nil, malformedQuery("request does not support more than [query]: %s", err.Error())
		}
		if err := r.searchQuery(s, &searchBody{Query: b.Query}); err != nil {
			return nil, err
		}
	} else if err := r.searchQuery(s, &searchBody{}); err != nil {
		return nil, err
	}
	list, expression, err := f.searched(r, actionCount)
	if err != nil {
		return nil, err
	}
	x, err := f.runSearch(r, s, list, expression, actionCount)
	if err != nil {
		return nil, err
	}
	if x.expired {
		return nil, fail(http.StatusServiceUnavailable, "status_exception", "counting took longer than %s and was given up: count less at once", searchTime)
	}
	return ok(map[string]any{"count": x.total, "_shards": shardsOf(len(list))}), nil
}
