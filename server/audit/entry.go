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
	"strings"
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
	Text               string    `json:"-"`              // of which Data was decoded, if it is known
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
	var err error
	if l.Request.Data, err = hashData(salt, e.Request.Data, e.Request.Text); err != nil {
		return nil, err
	}
	if r := e.Response; r != nil {
		l.Type = "response"
		out := *r
		out.Auth = o.auth(salt, r.Auth)
		if out.Data, err = hashData(salt, o.elide(e.Request.Operation, r.Data), ""); err != nil {
			return nil, err
		}
		if r.WrapInfo != nil {
			w := *r.WrapInfo
			w.Token, w.Accessor = hashed(salt, w.Token), o.accessor(salt, w.Accessor)
			out.WrapInfo = &w
		}
		l.Response = &out
	}
	return encodeJSON(l)
}

func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
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

// maxValues bounds what one body adds to a file: each text of it becomes a hash, which is far longer than a short text.
const maxValues = 512

// hashData is hashTexts of what has few values, and else one hash of all of it: of its text, or, where that is not known, of its
// JSON without spaces, names in order.
func hashData(salt []byte, v any, text string) (any, error) {
	if left := maxValues + 1; few(v, &left) { // the value itself is not one of those in it
		return hashTexts(salt, v), nil
	}
	if text == "" {
		b, err := encodeJSON(v)
		if err != nil {
			return nil, err
		}
		text = strings.TrimSuffix(string(b), "\n")
	}
	return map[string]any{"hashed": Hash(salt, text)}, nil
}

// few counts a value and all in it down from left, and reports whether that sufficed.
func few(v any, left *int) bool {
	if *left--; *left < 0 {
		return false
	}
	switch x := v.(type) {
	case []any:
		for i := range x {
			if !few(x[i], left) {
				return false
			}
		}
	case map[string]any:
		for name := range x {
			if !few(x[name], left) {
				return false
			}
		}
	}
	return true
}

// hashTexts replaces each text in a decoded JSON value, unless it is empty. Numbers, booleans and the names of fields stay, as in Vault.
func hashTexts(salt []byte, v any) any {
	switch x := v.(type) {
	case string:
		return hashed(salt, x)
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
