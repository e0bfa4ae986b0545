// Package audit records requests and their answers on audit devices, in the JSON that Vault writes: a line an entry. Every
// text that a client sent or received as data, and every token, is in it as an HMAC only, under a key of the device's own.
package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Entry is what happened: a request, or a request with its answer. Its texts are in the clear; what is written is not.
type Entry struct {
	Time     time.Time
	Auth     *Auth
	Request  Request
	Response *Response // nil: the entry is of the request
	Error    string
}

// Auth is who asks, or, in a response, what was given out.
type Auth struct {
	ClientToken      string            `json:"client_token,omitempty"` // hashed
	Accessor         string            `json:"accessor,omitempty"`     // hashed unless the device says otherwise
	DisplayName      string            `json:"display_name,omitempty"`
	Policies         []string          `json:"policies,omitempty"`
	TokenPolicies    []string          `json:"token_policies,omitempty"`
	IdentityPolicies []string          `json:"identity_policies,omitempty"`
	Metadata         map[string]string `json:"metadata,omitempty"`
	EntityID         string            `json:"entity_id,omitempty"`
	TokenType        string            `json:"token_type,omitempty"`
	TokenTTL         int64             `json:"token_ttl,omitempty"`
	NumUses          int               `json:"remaining_uses,omitempty"`
}

// Namespace is the only one there is.
type Namespace struct {
	ID string `json:"id"`
}

// Request is what was asked.
type Request struct {
	ID                 string    `json:"id"`
	Operation          string    `json:"operation"`
	MountPoint         string    `json:"mount_point,omitempty"`
	MountType          string    `json:"mount_type,omitempty"`
	MountAccessor      string    `json:"mount_accessor,omitempty"`
	ClientToken        string    `json:"client_token,omitempty"`          // hashed
	Accessor           string    `json:"client_token_accessor,omitempty"` // hashed unless the device says otherwise
	Namespace          Namespace `json:"namespace"`
	Path               string    `json:"path"`
	Data               any       `json:"data,omitempty"` // its texts are hashed, its names are not
	RemoteAddress      string    `json:"remote_address,omitempty"`
	RemotePort         int       `json:"remote_port,omitempty"`
	WrapTTL            int64     `json:"wrap_ttl,omitempty"`
	ReplicationCluster string    `json:"replication_cluster,omitempty"` // the secondary that forwarded it
}

// Response is what was answered.
type Response struct {
	Auth          *Auth     `json:"auth,omitempty"`
	Data          any       `json:"data,omitempty"`
	MountPoint    string    `json:"mount_point,omitempty"`
	MountType     string    `json:"mount_type,omitempty"`
	MountAccessor string    `json:"mount_accessor,omitempty"`
	Warnings      []string  `json:"warnings,omitempty"`
	WrapInfo      *WrapInfo `json:"wrap_info,omitempty"`
}

// WrapInfo is what stands for a wrapped answer.
type WrapInfo struct {
	Token        string `json:"token"`              // hashed
	Accessor     string `json:"accessor,omitempty"` // hashed unless the device says otherwise
	TTL          int64  `json:"ttl"`
	CreationTime string `json:"creation_time"`
	CreationPath string `json:"creation_path"`
}

// line is the form of an entry in a file. The time stands first: by that a device knows its own files.
type line struct {
	Time     string    `json:"time"`
	Type     string    `json:"type"`
	Auth     *Auth     `json:"auth,omitempty"`
	Request  Request   `json:"request"`
	Response *Response `json:"response,omitempty"`
	Error    string    `json:"error,omitempty"`
}

// lineStart is how every line begins.
const lineStart = `{"time":"`

// Hash returns the form in which a device shows a text.
func Hash(salt []byte, text string) string {
	mac := hmac.New(sha256.New, salt)
	mac.Write([]byte(text))
	return "hmac-sha256:" + hex.EncodeToString(mac.Sum(nil))
}

// encode returns an entry as one line.
func (o *Options) encode(salt []byte, e *Entry) ([]byte, error) {
	l := line{Time: e.Time.UTC().Format(time.RFC3339Nano), Type: "request", Auth: o.auth(salt, e.Auth), Request: e.Request, Error: e.Error}
	l.Request.ClientToken = hashed(salt, e.Request.ClientToken)
	l.Request.Accessor = o.accessor(salt, e.Request.Accessor)
	l.Request.Data = hashTexts(salt, e.Request.Data)
	if r := e.Response; r != nil {
		l.Type = "response"
		out := *r
		out.Auth = o.auth(salt, r.Auth)
		out.Data = hashTexts(salt, o.elide(e.Request.Operation, r.Data))
		if r.WrapInfo != nil {
			w := *r.WrapInfo
			w.Token, w.Accessor = hashed(salt, w.Token), o.accessor(salt, w.Accessor)
			out.WrapInfo = &w
		}
		l.Response = &out
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(l); err != nil {
		return nil, fmt.Errorf("encode an audit entry: %w", err)
	}
	return b.Bytes(), nil
}

func (o *Options) auth(salt []byte, a *Auth) *Auth {
	if a == nil {
		return nil
	}
	out := *a
	out.ClientToken, out.Accessor = hashed(salt, a.ClientToken), o.accessor(salt, a.Accessor)
	return &out
}

func (o *Options) accessor(salt []byte, text string) string {
	if !o.HashAccessor {
		return text
	}
	return hashed(salt, text)
}

// hashed is Hash of a text that is there.
func hashed(salt []byte, text string) string {
	if text == "" {
		return ""
	}
	return Hash(salt, text)
}

// elide puts the number of a list's names in their place.
func (o *Options) elide(operation string, data any) any {
	fields, ok := data.(map[string]any)
	if !o.ElideLists || operation != "list" || !ok {
		return data
	}
	out := make(map[string]any, len(fields))
	for name, v := range fields {
		switch list := v.(type) {
		case []any:
			out[name] = len(list)
		case map[string]any:
			out[name] = len(list)
		default:
			out[name] = v
		}
	}
	return out
}

// hashTexts replaces each text in a decoded JSON value. Numbers, booleans and the names of fields stay, as in Vault.
func hashTexts(salt []byte, v any) any {
	switch x := v.(type) {
	case string:
		return Hash(salt, x)
	case []any:
		out := make([]any, len(x))
		for i := range x {
			out[i] = hashTexts(salt, x[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(x))
		for name := range x {
			out[name] = hashTexts(salt, x[name])
		}
		return out
	}
	return v
}
