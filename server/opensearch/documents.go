package opensearch

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

const (
	maxID       = 512
	writeParams = "refresh timeout wait_for_active_shards if_seq_no if_primary_term require_alias " + neverParams
	// neverParams are known so that they can be refused by name.
	neverParams = "routing version version_type pipeline "
)

// checkID refuses ids that would be no path under /v1/, or another one.
func checkID(id string) error {
	if len(id) > maxID {
		return invalid("id [" + id[:32] + "…] is too long, must be no longer than 512 bytes but was: " + itoa(len(id)))
	}
	bad := !utf8.ValidString(id) || strings.HasPrefix(id, "/") || strings.HasSuffix(id, "/") || strings.Contains(id, "//")
	for _, c := range id {
		bad = bad || !unicode.IsPrint(c)
	}
	for part := range strings.SplitSeq(id, "/") {
		bad = bad || part == "." || part == ".."
	}
	if bad {
		return illegal("the id %q is none here: a document is a record under /v1/, too, so that its id has printable characters, and '/' only between names other than '.' and '..'", id)
	}
	return nil
}

// newID makes an id for a document that comes without one.
func newID() string {
	var b [15]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// never refuses parameters that would change what a call means.
func (r *request) never() error {
	for name := range strings.FieldsSeq(neverParams) {
		if _, given := r.query[name]; given {
			return notOffered("["+name+"]", "leave it out")
		}
	}
	return nil
}

// document checks the body of a document.
func document(body []byte) ([]byte, error) {
	body = bytes.Trim(body, " \t\r\n")
	if len(body) == 0 {
		return nil, bodyRequired()
	}
	if isObject(body) {
		return body, nil
	}
	cause := fail(http.StatusBadRequest, "not_x_content_exception", "the text is not one JSON object")
	return nil, &failure{status: http.StatusBadRequest, kind: "mapper_parsing_exception", reason: "failed to parse", cause: &failure{kind: "json_parse_exception", reason: cause.reason}}
}

// target finds the index that a document is written to, and makes it when there is none.
func (f *Face) target(r *request, name, action string, requireAlias, make bool) (*index, error) {
	ix, err := f.one(r, name, action, true)
	if err != nil && (!make || !isNoIndex(err)) {
		return nil, err
	}
	if requireAlias && (err != nil || ix.name == name) {
		return nil, &failure{status: http.StatusNotFound, kind: "index_not_found_exception", reason: "no such index [" + name + "] and [require_alias] request flag is [true] and [" + name + "] is not an alias", index: name, uuid: "_na_"}
	}
	if err == nil {
		return ix, ix.usable()
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := f.may(r, actionCreate, name); err != nil {
		return nil, err
	}
	if r.call.Taken(name + "/") {
		return nil, takenName(name)
	}
	ix, _, err = f.create(r, name, &description{})
	return ix, err
}

func takenName(name string) error {
	return &failure{
		status: http.StatusBadRequest, kind: "invalid_index_name_exception", index: name, uuid: "_na_",
		reason: "Invalid index name [" + name + "], a mount of another kind stands there on this server: take another name",
	}
}

func isNoIndex(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.kind == "index_not_found_exception"
}

// conditions reads what a write demands of the document as it is.
func (r *request) conditions(it *item) (err error) {
	if it.ifSeq, err = r.sequence("if_seq_no"); err != nil {
		return err
	}
	if it.ifTerm, err = r.sequence("if_primary_term"); err != nil {
		return err
	}
	return it.checkConditions()
}

func (it *item) checkConditions() error {
	switch {
	case it.ifSeq == nil && it.ifTerm == nil:
		return nil
	case it.ifSeq == nil:
		return invalid("ifSeqNo is unassigned, but primary term is [" + utoa(*it.ifTerm) + "]")
	case it.ifTerm == nil || *it.ifTerm == 0:
		return invalid("ifSeqNo is set, but primary term is [0]")
	case it.action == "create":
		return invalid("create operations do not support compare and set. use index instead")
	}
	return nil
}

// writeOne executes a call that writes one document.
func (f *Face) writeOne(r *request, it *item) (*reply, error) {
	if it.permit == nil {
		if err := f.permitWrite(r, it); err != nil {
			return nil, err
		}
	}
	if err := f.write(r.call, []*item{it}); err != nil {
		return nil, err
	}
	if it.failed != nil {
		return nil, it.failed
	}
	body, status := it.answer()
	if refresh := r.query["refresh"]; len(refresh) > 0 && refresh[0] != "false" && it.result != "noop" {
		body["forced_refresh"] = true
	}
	rep := &reply{status: status, body: body}
	if status == http.StatusCreated {
		rep.header = http.Header{"Location": {"/" + it.ix.name + "/_doc/" + pathEscape(it.id)}}
	}
	return rep, nil
}

// permitWrite asks whether the caller may do what an item does.
func (f *Face) permitWrite(r *request, it *item) (err error) {
	switch it.action {
	case "delete":
		return f.mayDelete(r, it.ix, it.id)
	case "update":
		if err := f.mayRead(r, it.ix, it.id, actionUpdateDoc); err != nil {
			return err
		}
		it.permit, err = f.mayWrite(r, it.ix, it.id, it.update.raw, actionUpdateDoc)
		return err
	}
	it.permit, err = f.mayWrite(r, it.ix, it.id, it.body, actionIndexDoc)
	return err
}

// writeParams checks what all writes have in their query.
func (r *request) checkWrite() error {
	if err := r.never(); err != nil {
		return err
	}
	if err := r.activeShards(); err != nil {
		return err
	}
	switch refresh := r.query.Get("refresh"); refresh {
	case "", "true", "false", "wait_for":
	default:
		return illegal("Unknown value for refresh: [%s].", refresh)
	}
	return r.timeouts("timeout")
}

func (f *Face) indexDocument(r *request) (*reply, error) {
	it := &item{action: "index", id: r.vars["id"], at: -1}
	switch kind := r.query.Get("op_type"); {
	case r.vars["id"] == "" && r.method == http.MethodPut:
		return nil, illegal("a document without an id is written by POST")
	case kind == "create" || kind == "" && r.vars["id"] == "" || r.query.Get("op_type") == "" && strings.Contains(r.path, "/_create/"):
		it.action = "create"
	case kind != "" && kind != "index":
		return nil, illegal("opType must be 'create' or 'index', found: [%s]", kind)
	}
	if it.id == "" {
		it.id = newID()
	}
	if err := r.checkWrite(); err != nil {
		return nil, err
	}
	if err := r.conditions(it); err != nil {
		return nil, err
	}
	if err := checkID(it.id); err != nil {
		return nil, err
	}
	var err error
	if it.body, err = document(r.body); err != nil {
		return nil, err
	}
	requireAlias, err := r.boolean("require_alias", false)
	if err != nil {
		return nil, err
	}
	if it.ix, err = f.target(r, r.vars["index"], actionIndexDoc, requireAlias, true); err != nil {
		return nil, err
	}
	return f.writeOne(r, it)
}

func (f *Face) deleteDocument(r *request) (*reply, error) {
	it := &item{action: "delete", id: r.vars["id"], at: -1}
	if err := r.checkWrite(); err != nil {
		return nil, err
	}
	if err := r.conditions(it); err != nil {
		return nil, err
	}
	if err := checkID(it.id); err != nil {
		return nil, err
	}
	var err error
	if it.ix, err = f.target(r, r.vars["index"], actionDeleteDoc, false, false); err != nil {
		return nil, err
	}
	return f.writeOne(r, it)
}

func (f *Face) updateDocument(r *request) (*reply, error) {
	it := &item{action: "update", id: r.vars["id"], at: -1}
	if err := r.checkWrite(); err != nil {
		return nil, err
	}
	if err := r.conditions(it); err != nil {
		return nil, err
	}
	if err := checkID(it.id); err != nil {
		return nil, err
	}
	if _, err := r.number("retry_on_conflict", 0); err != nil {
		return nil, err
	}
	pick, err := r.sourceFilter()
	if err != nil {
		return nil, err
	}
	if it.update, err = parseUpdate(r.body); err != nil {
		return nil, err
	}
	if it.update.Source != nil {
		if pick, err = parseSource(it.update.Source); err != nil {
			return nil, err
		}
	}
	if it.ifSeq != nil && (it.update.DocAsUpsert || it.update.Upsert != nil) {
		return nil, invalid("upsert requests don't support `if_seq_no` and `if_primary_term`")
	}
	upserts := it.update.DocAsUpsert || it.update.Upsert != nil
	if it.ix, err = f.target(r, r.vars["index"], actionUpdateDoc, false, upserts); err != nil {
		return nil, err
	}
	rep, err := f.writeOne(r, it)
	_, asked := r.query["_source"]
	if err != nil || !asked && it.update.Source == nil {
		return rep, err
	}
	got := map[string]any{"_seq_no": it.number.Seq, "_primary_term": it.number.Term, "found": true}
	if pick != nil {
		if got["_source"], err = pick.of(it.source); err != nil {
			return nil, err
		}
	}
	rep.body.(map[string]any)["get"] = got
	return rep, nil
}

// ---- reading

const getParams = "realtime refresh preference stored_fields _source _source_includes _source_excludes " + neverParams

// read returns a document; found is false when there is none, or a record that is no JSON object.
func (f *Face) read(ix *index, id string) (source []byte, n engine.Number, found bool, err error) {
	rec, err := f.engine.Get(ix.mount.ID, []byte(id))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, n, false, nil
	}
	if err != nil {
		return nil, n, false, err
	}
	source, n = engine.Split(rec.Value)
	return source, n, len(source) > 0 && source[0] == '{', nil
}

// readable finds the index of a call that reads a document.
func (f *Face) readable(r *request) (*index, error) {
	if err := r.never(); err != nil {
		return nil, err
	}
	if _, given := r.query["stored_fields"]; given {
		return nil, notOffered("[stored_fields]", "read _source")
	}
	for _, name := range []string{"realtime", "refresh"} {
		if _, err := r.boolean(name, false); err != nil {
			return nil, err
		}
	}
	ix, err := f.one(r, r.vars["index"], actionGet, false)
	if err != nil {
		return nil, err
	}
	if err := ix.usable(); err != nil {
		return nil, err
	}
	if err := checkID(r.vars["id"]); err != nil {
		return nil, err
	}
	return ix, f.mayRead(r, ix, r.vars["id"], actionGet)
}

func (f *Face) getDocument(r *request) (*reply, error) {
	pick, err := r.sourceFilter()
	if err != nil {
		return nil, err
	}
	ix, err := f.readable(r)
	if err != nil {
		return nil, err
	}
	body, found, err := f.document(ix, r.vars["id"], pick)
	if err != nil {
		return nil, err
	}
	if !found {
		return &reply{status: http.StatusNotFound, body: body}, nil
	}
	return ok(body), nil
}

// document is one document as _doc and _mget show it; pick nil: without its source.
func (f *Face) document(ix *index, id string, pick *sourcePick) (map[string]any, bool, error) {
	source, n, found, err := f.read(ix, id)
	if err != nil {
		return nil, false, err
	}
	body := map[string]any{"_index": ix.name, "_id": id, "found": found}
	if !found {
		return body, false, nil
	}
	body["_version"], body["_seq_no"], body["_primary_term"] = n.Version, n.Seq, n.Term
	if pick != nil {
		if body["_source"], err = pick.of(source); err != nil {
			return nil, false, err
		}
	}
	return body, true, nil
}

func (f *Face) getSource(r *request) (*reply, error) {
	pick, err := r.sourceFilter()
	if err != nil {
		return nil, err
	}
	if pick == nil {
		return nil, invalid("fetching source can not be disabled")
	}
	ix, err := f.readable(r)
	if err != nil {
		return nil, err
	}
	source, _, found, err := f.read(ix, r.vars["id"])
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fail(http.StatusNotFound, "resource_not_found_exception", "Document not found [%s]/[%s]", ix.name, r.vars["id"])
	}
	out, err := pick.of(source)
	return ok(out), err
}

// sourcePick is what of documents is shown.
type sourcePick struct{ includes, excludes []string }

// of returns what of a document is to be shown; all of it goes out as it came.
func (p *sourcePick) of(source []byte) (any, error) {
	if len(p.includes)+len(p.excludes) == 0 {
		return json.RawMessage(source), nil
	}
	paths := p.includes
	for _, x := range p.excludes {
		paths = append(paths[:len(paths):len(paths)], "-"+x)
	}
	return filtered(json.RawMessage(source), paths)
}

// sourceFilter reads what of a document the query asks for; nil: nothing.
func (r *request) sourceFilter() (*sourcePick, error) {
	p := &sourcePick{includes: list(r.query.Get("_source_includes")), excludes: list(r.query.Get("_source_excludes"))}
	switch text := r.query.Get("_source"); text {
	case "", "true":
	case "false":
		return nil, nil
	default:
		p.includes = list(text)
	}
	return p, nil
}

// parseSource reads the same from a body.
func parseSource(raw json.RawMessage) (*sourcePick, error) {
	var on bool
	var one string
	var many []string
	var both struct {
		Includes []string `json:"includes"`
		Excludes []string `json:"excludes"`
	}
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return &sourcePick{}, nil
	case json.Unmarshal(raw, &on) == nil:
		if !on {
			return nil, nil
		}
		return &sourcePick{}, nil
	case json.Unmarshal(raw, &one) == nil:
		return &sourcePick{includes: []string{one}}, nil
	case json.Unmarshal(raw, &many) == nil:
		return &sourcePick{includes: many}, nil
	case raw[0] == '{' && decodeStrict(raw, &both) == nil:
		return &sourcePick{includes: both.Includes, excludes: both.Excludes}, nil
	}
	return nil, fail(http.StatusBadRequest, parsingFailed, "[_source] must be true, false, a name, names, or an object with includes and excludes")
}

func list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}
