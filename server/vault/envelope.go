package vault

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
)

// reply is what a handler answers; nil means 204.
type reply struct {
	status   int // 0 means 200
	data     any // marshalled under "data"; a json.RawMessage goes out as it is
	lease    int // lease_duration, seconds
	auth     *authBody
	wrap     *wrapBody
	warnings []string
	// inject repeats the fields of data at the top level, as Vault does for some old endpoints; top does so for chosen fields.
	inject bool
	top    map[string]any
	// bare is answered instead of the envelope (health, seal status, init, unwrapped answers).
	bare any
	// sent is the primary's answer to a forwarded request.
	sent *answer
	// quiet answers 204 although there are warnings: the legacy endpoints say nothing.
	quiet bool
}

// warned is the answer of a call that has nothing to say but a warning.
func warned(warnings ...string) *reply {
	r := &reply{}
	for _, w := range warnings {
		r.warn(w)
	}
	return r
}

func (r *reply) warn(text string) {
	if text != "" {
		r.warnings = append(r.warnings, text)
	}
}

type authBody struct {
	ClientToken    string            `json:"client_token"`
	Accessor       string            `json:"accessor"`
	Policies       []string          `json:"policies"`
	TokenPolicies  []string          `json:"token_policies"`
	IdentityPolicy []string          `json:"identity_policies"` // none: there are no entities
	Metadata       map[string]string `json:"metadata"`
	LeaseDuration  int64             `json:"lease_duration"`
	Renewable      bool              `json:"renewable"`
	EntityID       string            `json:"entity_id"`
	TokenType      string            `json:"token_type"`
	Orphan         bool              `json:"orphan"`
	MFARequirement any               `json:"mfa_requirement"`
	NumUses        int               `json:"num_uses"`
}

type wrapBody struct {
	Token        string `json:"token"`
	Accessor     string `json:"accessor"`
	TTL          int64  `json:"ttl"`
	CreationTime string `json:"creation_time"`
	CreationPath string `json:"creation_path"`

	WrappedAccessor string `json:"wrapped_accessor,omitempty"` // of the token inside, when an auth was wrapped
}

// envelopeKeys may not be overwritten by injected data.
var envelopeKeys = map[string]bool{
	"request_id": true, "lease_id": true, "renewable": true, "lease_duration": true,
	"data": true, "wrap_info": true, "warnings": true, "auth": true,
}

// encode returns the body of an answer. The envelope is written by hand so that a stored value is copied, not parsed again.
func (r *reply) encode(requestID string) ([]byte, error) {
	if r.bare != nil {
		return marshal(r.bare)
	}
	data, err := marshal(r.data)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, 256+len(data))
	b = append(b, `{"request_id":"`...)
	b = append(b, requestID...)
	b = append(b, `","lease_id":"","renewable":false,"lease_duration":`...)
	b = strconv.AppendInt(b, int64(r.lease), 10)
	b = append(append(b, `,"data":`...), data...)
	for _, field := range []struct {
		name  string
		empty bool
		value any
	}{{"wrap_info", r.wrap == nil, r.wrap}, {"warnings", r.warnings == nil, r.warnings}, {"auth", r.auth == nil, r.auth}} {
		value := []byte("null")
		if !field.empty {
			if value, err = marshal(field.value); err != nil {
				return nil, err
			}
		}
		b = append(append(append(append(b, `,"`...), field.name...), `":`...), value...)
	}
	b, err = r.appendTop(b, data)
	if err != nil {
		return nil, err
	}
	return append(b, "}\n"...), nil
}

// appendTop adds the fields that are repeated at the top level.
func (r *reply) appendTop(b, data []byte) ([]byte, error) {
	if !r.inject && r.top == nil {
		return b, nil
	}
	top := map[string]any{}
	if r.inject {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(data, &fields); err != nil {
			return nil, fmt.Errorf("repeat data at the top level: %w", err)
		}
		for k, v := range fields {
			top[k] = v
		}
	}
	maps.Copy(top, r.top)
	for _, k := range slices.Sorted(maps.Keys(top)) {
		if envelopeKeys[k] {
			continue
		}
		name, err := marshal(k)
		if err != nil {
			return nil, err
		}
		value, err := marshal(top[k])
		if err != nil {
			return nil, err
		}
		b = append(append(append(append(b, ','), name...), ':'), value...)
	}
	return b, nil
}

// marshal is json.Marshal without escaping of HTML and without touching raw messages.
func marshal(v any) ([]byte, error) {
	if raw, ok := v.(json.RawMessage); ok && raw != nil {
		return raw, nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// warnSent adds a warning to an answer that came encoded from the primary; to one that failed there is nothing to add.
func (r *reply) warnSent(text string) error {
	switch {
	case r.sent.status == http.StatusNoContent:
		*r = *warned(text)
		return nil
	case r.sent.status >= 300:
		return nil
	}
	var envelope map[string]json.RawMessage
	if err := json.Unmarshal(r.sent.body, &envelope); err != nil {
		return fmt.Errorf("the primary's answer is no JSON: %w", err)
	}
	var warnings []string
	if err := json.Unmarshal(envelope["warnings"], &warnings); err != nil {
		return fmt.Errorf("the primary's answer has no warnings: %w", err)
	}
	raw, err := marshal(append(warnings, text))
	if err != nil {
		return err
	}
	envelope["warnings"] = raw
	r.sent.body, err = marshal(envelope)
	return err
}

// answer is an encoded reply: what goes to the socket, to a wrapping token or back to a secondary.
type answer struct {
	status int
	body   []byte
	wait   bool // it says to come again in a few seconds
}

// encodeReply turns what a handler returned into an answer.
func (c *Core) encodeReply(r *request, rep *reply, err error) answer {
	if err != nil {
		return c.encodeError(r, err)
	}
	if rep == nil || rep.quiet {
		return answer{status: http.StatusNoContent}
	}
	if rep.sent != nil {
		return *rep.sent
	}
	id := r.id
	if rep.wrap != nil {
		id = "" // as in Vault: who holds the wrapped answer finds its id inside
	}
	body, err := rep.encode(id)
	if err != nil {
		return c.encodeError(r, err)
	}
	if rep.status == 0 {
		return answer{status: http.StatusOK, body: body}
	}
	return answer{status: rep.status, body: body}
}

func (c *Core) encodeError(r *request, err error) answer {
	status, texts, unknown := translate(err)
	if unknown {
		c.log.Error("request failed", "path", r.path, "request_id", r.id, "error", err)
		texts = []string{"internal error; the server's log tells more under request_id " + r.id}
	}
	var warnings []string
	if none := (*refusal)(nil); errors.As(err, &none) {
		warnings = none.warnings
	}
	return answer{status: status, body: errorBody(texts, warnings...), wait: errors.Is(err, errBusy)}
}

// errorBody is the body of an answer that says why not; clients look for warnings beside a 404.
func errorBody(texts []string, warnings ...string) []byte {
	if texts == nil {
		texts = []string{}
	}
	fields := map[string][]string{"errors": texts}
	if len(warnings) > 0 {
		fields["warnings"] = warnings
	}
	body, err := marshal(fields)
	if err != nil {
		return []byte(`{"errors":[]}`)
	}
	return append(body, '\n')
}

func (a answer) write(w http.ResponseWriter) { a.writeAs(w, "") }

// writeAs writes an answer that is no JSON; errors always are.
func (a answer) writeAs(w http.ResponseWriter, contentType string) {
	if contentType == "" || a.status >= 300 {
		contentType = "application/json"
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", contentType)
	if a.wait {
		h.Set("Retry-After", busyWait)
	}
	if a.status == http.StatusNoContent {
		w.WriteHeader(a.status)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the client is gone: nobody is left to tell
}
