package opensearch

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/vault"
)

// failure is an answer that says why not, in OpenSearch's form.
type failure struct {
	status         int
	kind           string // type
	reason         string
	index          string
	uuid           string
	shard          string // of a document's failure
	resKind, resID string
	cause          *failure // caused_by, and the root cause

	plain bool   // {"error": reason, "status": status}; without status when that is 0 in the body
	bare  bool   // of plain: without status
	allow string // header Allow
}

func (f *failure) Error() string { return f.reason }

func fail(status int, kind, format string, args ...any) *failure {
	return &failure{status: status, kind: kind, reason: fmt.Sprintf(format, args...)}
}

const (
	illegalArgument = "illegal_argument_exception"
	parseFailed     = "parse_exception"
	parsingFailed   = "parsing_exception"
)

func illegal(format string, args ...any) *failure {
	return fail(http.StatusBadRequest, illegalArgument, format, args...)
}

// invalid is a request check's refusal, its messages numbered.
func invalid(messages ...string) *failure {
	text := "Validation Failed: "
	for i, m := range messages {
		text += fmt.Sprintf("%d: %s;", i+1, m)
	}
	return fail(http.StatusBadRequest, "action_request_validation_exception", "%s", text)
}

// notOffered refuses what OpenSearch has and this server has not.
func notOffered(what string, instead string) *failure {
	return illegal("%s is not offered by this server: %s", what, instead)
}

func noIndex(name string) *failure {
	return &failure{
		status: http.StatusNotFound, kind: "index_not_found_exception", reason: "no such index [" + name + "]",
		index: name, uuid: "_na_", resKind: "index_or_alias", resID: name,
	}
}

func bodyRequired() *failure {
	return fail(http.StatusBadRequest, parseFailed, "request body is required")
}

// details is a failure as a body shows it.
type details struct {
	Kind    string   `json:"type"`
	Reason  string   `json:"reason"`
	Index   string   `json:"index,omitempty"`
	Shard   string   `json:"shard,omitempty"`
	ResKind string   `json:"resource.type,omitempty"`
	ResID   string   `json:"resource.id,omitempty"`
	UUID    string   `json:"index_uuid,omitempty"`
	Cause   *details `json:"caused_by,omitempty"`
}

func (f *failure) details() *details {
	d := &details{Kind: f.kind, Reason: f.reason, Index: f.index, UUID: f.uuid, Shard: f.shard, ResKind: f.resKind, ResID: f.resID}
	if f.cause != nil {
		d.Cause = f.cause.details()
	}
	return d
}

// body is what an answer carries.
func (f *failure) body() any {
	if f.plain {
		if f.bare {
			return map[string]any{"error": f.reason}
		}
		return map[string]any{"error": f.reason, "status": f.status}
	}
	root := f
	for root.cause != nil && root.cause.kind != "json_parse_exception" {
		root = root.cause
	}
	bare := *root
	bare.cause = nil
	type envelope struct {
		RootCause []*details `json:"root_cause"`
		*details
	}
	return struct {
		Error  envelope `json:"error"`
		Status int      `json:"status"`
	}{envelope{[]*details{bare.details()}, f.details()}, f.status}
}

// asFailure turns any error into an answer; known is false when its text is not for clients.
func asFailure(err error, id string) (f *failure, known bool) {
	if errors.As(err, &f) {
		return f, true
	}
	status, text, known := vault.Translate(err)
	if !known {
		return fail(http.StatusInternalServerError, "exception", "internal error; the server's log tells more under request_id %s", id), false
	}
	kind := "status_exception"
	switch {
	case status == http.StatusForbidden:
		kind = "security_exception"
	case status == http.StatusBadRequest:
		kind = illegalArgument
	case errors.Is(err, engine.ErrTooLarge):
		kind = "circuit_breaking_exception"
	}
	if text == "" {
		text = http.StatusText(status)
	}
	return fail(status, kind, "%s", text), true
}
