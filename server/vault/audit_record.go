package vault

import (
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/server/audit"
)

// What an audit entry says of a request and of its answer.

var operationNames = map[operation]string{opRead: "read", opList: "list", opWrite: "update", opPatch: "patch", opDelete: "delete", opHead: "read"}

func (r *request) auditAuth() *audit.Auth {
	if r.caller == nil {
		if r.token == "" {
			return nil
		}
		return &audit.Auth{ClientToken: r.token}
	}
	a := &audit.Auth{ClientToken: r.token, DisplayName: r.caller.displayName, Policies: r.caller.policies, TokenPolicies: r.caller.policies}
	if t := r.caller.entry; t != nil {
		a.Accessor, a.Metadata, a.TokenType, a.TokenTTL, a.NumUses = t.Accessor, t.Meta, "service", int64(t.TTL/time.Second), t.NumUses
		if t.batch {
			a.TokenType = "batch"
		}
	}
	return a
}

func (c *Core) auditedRequest(r *request) audit.Request {
	q := audit.Request{
		ID: r.id, Operation: operationNames[r.op], ClientToken: r.token, Namespace: audit.Namespace{ID: "root"}, Path: r.path,
		WrapTTL: int64(r.wrapTTL / time.Second),
	}
	q.Data, q.Text = r.auditedData()
	if host, port, err := net.SplitHostPort(r.remote); err == nil {
		q.RemoteAddress = host
		q.RemotePort, _ = strconv.Atoi(port) // a listener's addresses have numbers
	}
	if r.caller != nil && r.caller.entry != nil {
		q.Accessor = r.caller.entry.Accessor
	}
	if r.mount != nil {
		q.MountPoint, q.MountType, q.MountAccessor = r.mount.path, r.mount.Type, r.mount.Accessor
	}
	if r.forwarded != nil {
		q.ReplicationCluster = r.forwarded.Secondary
	}
	return q
}

// auditedData returns what a client sent, and of a body its text.
func (r *request) auditedData() (any, string) {
	if r.op == opWrite || r.op == opPatch {
		if len(r.body) == 0 {
			return nil, ""
		}
		return decoded(r.body), string(r.body)
	}
	if len(r.query) == 0 {
		return nil, ""
	}
	out := map[string]any{}
	for name, values := range r.query {
		list := make([]any, len(values))
		for i := range values {
			list[i] = values[i]
		}
		out[name] = list
	}
	return out, ""
}

// decoded is a JSON value, numbers as they are written; of what is none, its text.
func decoded(raw []byte) any {
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil || d.More() {
		return map[string]any{"http_raw_body": string(raw)}
	}
	return v
}

// describeAnswer fills in what a client will read.
func describeAnswer(e *audit.Entry, a answer) {
	if len(a.body) == 0 {
		return
	}
	fields, _ := decoded(a.body).(map[string]any)
	if _, enveloped := fields["request_id"]; !enveloped && fields["errors"] == nil {
		e.Response.Data = fields
		return
	}
	if list, ok := fields["errors"].([]any); ok {
		e.Error = strings.Join(texts(list), "; ")
		if e.Error == "" {
			e.Error = strings.ToLower(http.StatusText(a.status))
		}
	}
	if list, ok := fields["warnings"].([]any); ok {
		e.Response.Warnings = texts(list)
	}
	e.Response.Data = fields["data"]
	if auth, ok := fields["auth"].(map[string]any); ok {
		e.Response.Auth = givenAuth(auth)
	}
	if w, ok := fields["wrap_info"].(map[string]any); ok {
		e.Response.WrapInfo = givenWrap(w)
	}
}

func givenAuth(f map[string]any) *audit.Auth {
	a := &audit.Auth{}
	a.ClientToken, _ = f["client_token"].(string)
	a.Accessor, _ = f["accessor"].(string)
	a.TokenType, _ = f["token_type"].(string)
	a.EntityID, _ = f["entity_id"].(string)
	a.TokenTTL = whole(f["lease_duration"])
	for to, name := range map[*[]string]string{&a.Policies: "policies", &a.TokenPolicies: "token_policies", &a.IdentityPolicies: "identity_policies"} {
		if list, ok := f[name].([]any); ok {
			*to = texts(list)
		}
	}
	if meta, ok := f["metadata"].(map[string]any); ok {
		a.Metadata = map[string]string{}
		for name, v := range meta {
			a.Metadata[name], _ = v.(string)
		}
	}
	return a
}

func givenWrap(f map[string]any) *audit.WrapInfo {
	w := &audit.WrapInfo{TTL: whole(f["ttl"])}
	w.Token, _ = f["token"].(string)
	w.Accessor, _ = f["accessor"].(string)
	w.CreationTime, _ = f["creation_time"].(string)
	w.CreationPath, _ = f["creation_path"].(string)
	return w
}

func whole(v any) int64 {
	n, ok := v.(json.Number)
	if !ok {
		return 0
	}
	i, _ := n.Int64() // our own answers have whole numbers here
	return i
}

func texts(list []any) []string {
	out := make([]string, 0, len(list))
	for _, v := range list {
		if s, ok := v.(string); ok {
			out = append(out, s)
		}
	}
	return out
}
