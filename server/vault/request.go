package vault

import (
	"bytes"
	"context"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/lockstepdb/lockstep/server/replication"
)

// operation is what a request wants, whatever verb it used.
type operation uint8

const (
	opRead operation = 1 << iota
	opList
	opWrite
	opPatch
	opDelete
	opHead
)

// maxPath keeps a path, with what a keyspace puts around it, below the longest key of a record.
const maxPath = 15 << 10

// request is one call, however it came: from a client of this cluster, or forwarded by a performance secondary.
type request struct {
	ctx     context.Context
	id      string
	remote  string
	op      operation
	method  string
	path    string // below /v1/; ends in '/' only when listing, or as the client wrote it below a mount
	query   url.Values
	header  http.Header
	token   string // secret
	wrapTTL time.Duration
	level   replication.Level // that its header asks for
	// beforeSent is done once the answer is complete, wrapped and audited, and only then: what must not happen when the caller learns nothing of it.
	beforeSent func() error

	rawBody  io.Reader // for routes that read it as it comes
	openBody func(limit int64) ([]byte, error)
	body     []byte // a JSON object, or empty
	caller   *caller
	opened   bool             // needs no token
	known    bool             // its token is one of this cluster, asked before a state is waited for
	admitted replication.Mode // the cluster's part in the performance set when the request was let in
	rest     string           // what a route's '*', or a mount, leaves of the path
	mount    *mount
	only     capability // capCreate or capUpdate, when the policies allow only that of a write; else 0

	contentType string  // of an answer that is no JSON
	out         *stream // instead of an answer's body
	audited     bool    // its answer is recorded on the audit devices

	forwarded *replication.Forwarded // set on the primary
	committed uint64                 // highest index that this request wrote
	written   *replication.Written   // of it, as it was when it was committed

	consistency consistency
	away        string // the index token with which the primary answered a forwarded write
	index       string // of the state that the request left
}

// parse takes from a request everything but its body.
func (r *request) parse(h *http.Request) error {
	r.method, r.header, r.query = h.Method, h.Header, h.URL.Query()
	path, err := cleanPath(strings.TrimPrefix(h.URL.Path, "/v1/"))
	if err != nil {
		return err
	}
	r.path = path
	if ns := strings.Trim(h.Header.Get("X-Vault-Namespace"), "/"); ns != "" && ns != "root" {
		return refuse(errInvalid, "there are no namespaces here: leave out X-Vault-Namespace")
	}
	if r.op, err = operationOf(h.Method, r.query); err != nil {
		return err
	}
	if r.op == opList && !strings.HasSuffix(r.path, "/") {
		r.path += "/"
	}
	r.token = bearer(h.Header)
	if err := r.parseSynchronous(h.Header); err != nil {
		return err
	}
	return r.parseWrapTTL(h.Header)
}

const wrapHeader = "X-Vault-Wrap-TTL"

func (r *request) parseWrapTTL(h http.Header) (err error) {
	text := h.Get(wrapHeader)
	if text == "" {
		return nil
	}
	if r.wrapTTL, err = parseDuration(text); err != nil || r.wrapTTL < 0 {
		return refuse(errInvalid, "X-Vault-Wrap-TTL must be seconds or a duration like 5m, and not negative")
	}
	return nil
}

func bearer(h http.Header) string {
	if t := h.Get("X-Vault-Token"); t != "" {
		return t
	}
	scheme, t, ok := strings.Cut(h.Get("Authorization"), " ")
	if ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(t)
	}
	return ""
}

func operationOf(method string, q url.Values) (operation, error) {
	switch method {
	case http.MethodGet:
		list := q.Get("list")
		if list == "" {
			return opRead, nil
		}
		want, err := strconv.ParseBool(list)
		if err != nil {
			return 0, refuse(errInvalid, "query parameter list must be true or false")
		}
		if want {
			return opList, nil
		}
		return opRead, nil
	case "LIST":
		return opList, nil
	case http.MethodPost, http.MethodPut:
		return opWrite, nil
	case http.MethodPatch:
		return opPatch, nil
	case http.MethodDelete:
		return opDelete, nil
	case http.MethodHead:
		return opHead, nil
	}
	return 0, refuse(errMethod, "unsupported operation")
}

// cleanPath refuses what could make two spellings of one path: what a policy is matched against must be what is read or written.
func cleanPath(p string) (string, error) {
	if len(p) > maxPath {
		return "", refuse(errInvalid, "the path is longer than %d bytes", maxPath)
	}
	if !utf8.ValidString(p) {
		return "", refuse(errInvalid, "the path is not UTF-8")
	}
	for _, c := range p {
		if !unicode.IsPrint(c) {
			return "", refuse(errInvalid, "the path contains a character that cannot be printed")
		}
	}
	for i, part := range strings.Split(p, "/") {
		if part == ".." || part == "." {
			return "", refuse(errInvalid, "relative paths are not supported")
		}
		if part == "" && i < strings.Count(p, "/") {
			return "", refuse(errInvalid, "the path has an empty part: write one '/' between names")
		}
	}
	if own := strings.TrimSuffix(p, "/"); ownPath(p) {
		p = own
		if strings.HasPrefix(p, "sys/policy/") || strings.HasPrefix(p, "sys/policies/acl/") {
			p = strings.ToLower(p) // names of policies have no case
		}
	}
	return p, nil
}

const (
	// maxPrepared is how much memory is taken on a client's word that so much will come.
	maxPrepared = 256 << 10
	// maxOpenBody bounds the body of a request that needs no token: decoding takes many times a body's size. An activation
	// token with a certificate request fits several times.
	maxOpenBody = 64 << 10
)

// readBody returns a request's body as a JSON object, or nothing.
func readBody(w http.ResponseWriter, h *http.Request, limit int64) ([]byte, error) {
	media, _, err := mime.ParseMediaType(h.Header.Get("Content-Type"))
	if err != nil {
		media = "" // bodies are JSON whatever the header says
	}
	if h.Method == http.MethodPatch && media != "application/merge-patch+json" {
		return nil, refuse(errMediaType, "PATCH needs Content-Type: application/merge-patch+json")
	}
	if h.ContentLength > limit {
		return nil, refuse(errBodyTooBig, "request body too large: at most %d bytes", limit)
	}
	var b bytes.Buffer
	if h.ContentLength > 0 {
		b.Grow(int(min(h.ContentLength, maxPrepared)) + bytes.MinRead)
	}
	if _, err := b.ReadFrom(http.MaxBytesReader(w, h.Body, limit)); err != nil {
		if as[*http.MaxBytesError](err) {
			return nil, refuse(errBodyTooBig, "request body too large: at most %d bytes", limit)
		}
		if err == io.ErrUnexpectedEOF || h.Context().Err() != nil {
			return nil, refuse(errInvalid, "the request ended before its body was complete")
		}
		return nil, refuse(errInvalid, "the request's body cannot be read")
	}
	body := trimJSON(b.Bytes())
	if len(body) == 0 || string(body) == "null" {
		return nil, nil
	}
	if media == "application/x-www-form-urlencoded" && body[0] != '{' && body[0] != '[' {
		return formObject(body)
	}
	return body, nil
}

// fields are the request's parameters: the body's of a write, the query's of the others.
func (r *request) fields() (fields, error) {
	if r.op == opWrite || r.op == opPatch {
		return parseObject(r.body)
	}
	return queryFields(r.query), nil
}

// parseForwarded takes over a request that a secondary has read from its client.
func (r *request) parseForwarded(f *replication.Forwarded, maxBody int64) (err error) {
	if len(f.RequestID) > maxRequestID || !plainID(f.RequestID) {
		r.id = ""
		return refuse(errInvalid, "a forwarded request needs an id of at most %d letters, digits and dashes", maxRequestID)
	}
	if int64(len(f.Body)) > maxBody {
		return refuse(errBodyTooBig, "request body too large: at most %d bytes", maxBody)
	}
	if r.query, err = url.ParseQuery(f.Query); err != nil {
		return refuse(errInvalid, "error parsing the query")
	}
	if r.path, err = cleanPath(f.Path); err != nil {
		return err
	}
	if r.op, err = operationOf(f.Method, r.query); err != nil {
		return err
	}
	if r.op == opHead {
		return notShared()
	}
	if r.op == opList && !strings.HasSuffix(r.path, "/") {
		r.path += "/"
	}
	r.body = trimJSON(f.Body)
	if err := r.parseSynchronous(f.Header); err != nil {
		return err
	}
	return r.parseWrapTTL(f.Header)
}

// maxRequestID is the longest id that an entry keeps.
const maxRequestID = 64

func plainID(id string) bool {
	for _, c := range id {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return id != ""
}
