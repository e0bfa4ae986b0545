package opensearch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

const (
	jsonType = "application/json; charset=UTF-8"
	textType = "text/plain; charset=UTF-8"
)

// encoded is an answer as it goes out.
type encoded struct {
	status int
	kind   string // content type
	body   []byte
	header http.Header
}

// encode turns what a handler returned into an answer.
func (out *encoded) encode(r *request, rep *reply) error {
	if rep.sent != nil {
		out.status, out.kind, out.body = rep.sent.Status, rep.sent.Type, rep.sent.Body
		return nil
	}
	out.header = rep.header
	if out.status = rep.status; out.status == 0 {
		out.status = http.StatusOK
	}
	if rep.table != nil {
		return out.encodeTable(r, rep.table)
	}
	if rep.body == nil {
		out.kind, out.body = textType, []byte(rep.text)
		return nil
	}
	if format := r.query.Get("format"); format != "" && format != "json" {
		return illegal("format [%s] is not offered by this server: leave it out, or take json", format)
	}
	return out.encodeJSON(r, rep.body)
}

func (out *encoded) encodeJSON(r *request, body any) (err error) {
	out.kind = jsonType
	if paths := r.query.Get("filter_path"); paths != "" {
		if body, err = filtered(body, strings.Split(paths, ",")); err != nil {
			return err
		}
	}
	if out.body, err = marshal(body); err != nil {
		return err
	}
	if pretty, given := r.query["pretty"]; given && pretty[0] != "false" {
		var b bytes.Buffer
		if err := json.Indent(&b, out.body, "", "  "); err != nil {
			return err
		}
		out.body = append(b.Bytes(), '\n')
	}
	return nil
}

// marshal is json.Marshal without escaping of HTML.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// encodeError makes an answer of an error; one that clients are not shown is logged.
func (f *Face) encodeError(out *encoded, r *request, err error) {
	id := ""
	if r.call != nil {
		id = r.call.ID()
	}
	fl, known := asFailure(err, id)
	if !known {
		if r.call != nil {
			r.call.Log(err)
		} else {
			f.log.Error("request failed", "path", r.path, "error", err)
		}
	}
	out.status, out.header = fl.status, http.Header{}
	switch {
	case fl.allow != "":
		out.header.Set("Allow", fl.allow)
	case fl.status == http.StatusUnauthorized:
		out.header.Set("WWW-Authenticate", `Basic realm="OpenSearch Security"`)
		out.kind, out.body = textType, []byte(fl.reason)
		return
	case fl.status == http.StatusServiceUnavailable:
		out.header.Set("Retry-After", "1")
	}
	out.kind = jsonType
	if bad := out.encodeJSON(r, fl.body()); bad != nil {
		out.body = []byte(`{"error":"internal error"}`)
	}
}

func (out *encoded) write(w http.ResponseWriter, method string) {
	h := w.Header()
	for name, values := range out.header {
		h[name] = values
	}
	h.Set("Content-Type", out.kind)
	h.Set("Content-Length", strconv.Itoa(len(out.body)))
	w.WriteHeader(out.status)
	if method != http.MethodHead {
		_, _ = w.Write(out.body) // the client is gone: nobody is left to tell
	}
}

// quoted makes a text a quoted string of a header.
func quoted(text string) string {
	clean := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return ' '
		}
		return c
	}, text)
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(clean) + `"`
}

// maxPrepared is how much memory is taken on a client's word that so much will come.
const maxPrepared = 256 << 10

func (f *Face) readBody(w http.ResponseWriter, h *http.Request) ([]byte, error) {
	tooLarge := fail(http.StatusRequestEntityTooLarge, "circuit_breaking_exception", "the request's body is larger than %d bytes: send less at once", f.cfg.MaxBody)
	if h.ContentLength > f.cfg.MaxBody {
		return nil, tooLarge
	}
	var b bytes.Buffer
	if h.ContentLength > 0 {
		b.Grow(int(min(h.ContentLength, maxPrepared)) + bytes.MinRead)
	}
	if _, err := b.ReadFrom(http.MaxBytesReader(w, h.Body, f.cfg.MaxBody)); err != nil {
		if _, is := err.(*http.MaxBytesError); is {
			return nil, tooLarge
		}
		if err == io.ErrUnexpectedEOF || h.Context().Err() != nil {
			return nil, illegal("the request ended before its body was complete")
		}
		return nil, illegal("the request's body cannot be read")
	}
	return b.Bytes(), nil
}

// source takes the body from the query where it is given there.
func (r *request) source() error {
	text, given := r.query["source"]
	if !given || len(r.body) > 0 || r.route.flags&lines != 0 {
		return nil
	}
	kind := r.query.Get("source_content_type")
	if kind == "" {
		return illegal("request parameter [source_content_type] is required when [source] is given")
	}
	r.body = []byte(text[0])
	r.header = r.header.Clone()
	r.header.Set("Content-Type", kind)
	return nil
}

// contentType refuses a body that is not said to be JSON.
func (r *request) contentType() error {
	if len(r.body) == 0 {
		r.body = nil
		return nil
	}
	if r.route.flags&anyBody != 0 {
		return nil
	}
	given := r.header.Get("Content-Type")
	media, params, err := mime.ParseMediaType(given)
	switch {
	case err != nil:
	case params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8"):
	case media == "application/json", media == "application/x-ndjson" && r.route.flags&lines != 0:
		if r.route.flags&lines == 0 {
			r.body = bytes.Trim(r.body, " \t\r\n")
		}
		return nil
	}
	return &failure{status: http.StatusNotAcceptable, plain: true, reason: "Content-Type header [" + given + "] is not supported"}
}

// ---- filter_path

// filtered keeps of a body what the paths name: parts joined by dots, '*' for one part or what is missing of one, '**' for any number; '-' before a path takes
// away.
func filtered(body any, paths []string) (any, error) {
	text, err := marshal(body)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	var keep, drop [][]string
	for _, p := range paths {
		p = strings.TrimSpace(p)
		if len(p) > 1<<10 {
			return nil, illegal("a filter_path is longer than 1024 bytes")
		}
		if rest, not := strings.CutPrefix(p, "-"); not {
			drop = append(drop, strings.Split(rest, "."))
		} else if p != "" {
			keep = append(keep, strings.Split(p, "."))
		}
	}
	if len(keep)+len(drop) > 64 {
		return nil, illegal("there are more than 64 filter paths")
	}
	if keep != nil {
		if tree = kept(tree, keep); tree == nil {
			tree = map[string]any{}
		}
	}
	if drop != nil {
		tree = dropped(tree, drop)
	}
	return tree, nil
}

// step takes one name off the paths: what remains to be found below it, and whether it is named whole.
func step(paths [][]string, name string) (below [][]string, whole bool) {
	for _, p := range paths {
		switch {
		case p[0] == "**":
			below = append(below, p)
			if len(p) > 1 {
				more, all := step([][]string{p[1:]}, name)
				below, whole = append(below, more...), whole || all
			} else {
				whole = true
			}
		case !wildMatch(p[0], name):
		case len(p) == 1:
			whole = true
		default:
			below = append(below, p[1:])
		}
	}
	return below, whole
}

func kept(v any, paths [][]string) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, x := range v {
			below, whole := step(paths, name)
			if whole {
				out[name] = x
			} else if y := kept(x, below); below != nil && y != nil {
				out[name] = y
			}
		}
		if len(out) > 0 {
			return out
		}
	case []any:
		var out []any
		for _, x := range v {
			if y := kept(x, paths); y != nil {
				out = append(out, y)
			}
		}
		if out != nil {
			return out
		}
	}
	return nil
}

func dropped(v any, paths [][]string) any {
	switch v := v.(type) {
	case map[string]any:
		for name, x := range v {
			below, whole := step(paths, name)
			if whole {
				delete(v, name)
			} else if below != nil {
				v[name] = dropped(x, below)
			}
		}
	case []any:
		for i := range v {
			v[i] = dropped(v[i], paths)
		}
	}
	return v
}

// wildMatch matches a name against a pattern in which '*' stands for any number of characters.
func wildMatch(pattern, name string) bool {
	first, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == name
	}
	name, found := strings.CutPrefix(name, first)
	if !found {
		return false
	}
	for {
		var next string
		next, rest, wild = strings.Cut(rest, "*")
		if !wild {
			return strings.HasSuffix(name, next)
		}
		at := strings.Index(name, next)
		if at < 0 {
			return false
		}
		name = name[at+len(next):]
	}
}
