package opensearch

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"strings"
	"sync"

	"github.com/lockstepdb/lockstep/server/vault"
)

// Who may do what. A caller with a token is judged by policies on the paths that the same thing has under /v1/; an internal user by the actions that roles allow.

func unauthorized() *failure {
	return &failure{status: http.StatusUnauthorized, kind: "security_exception", reason: "Unauthorized"}
}

// incoming is a client's request as the core takes it: with a token, as an internal user, or as whoever needs no credential here.
func (f *Face) incoming(h *http.Request, r *request) (*vault.Incoming, error) {
	in := &vault.Incoming{
		Context: h.Context(), Method: h.Method, Path: strings.TrimPrefix(r.path, "/"), Query: r.query, Header: h.Header, Remote: h.RemoteAddr,
		Anonymous: f.anonymous(h),
	}
	if in.Token = h.Header.Get("X-Vault-Token"); in.Token != "" {
		return in, nil
	}
	scheme, text, _ := strings.Cut(h.Header.Get("Authorization"), " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		if in.Token = strings.TrimSpace(text); in.Token == "" {
			return nil, unauthorized()
		}
	case strings.EqualFold(scheme, "Basic"):
		name, password, ok := h.BasicAuth()
		if !ok {
			return nil, unauthorized()
		}
		who, err := f.logIn(h.Context(), h.RemoteAddr, name, password)
		if err != nil {
			return nil, err
		}
		r.who, in.Principal = who, &vault.Principal{Name: who.name}
	case scheme != "":
		return nil, unauthorized()
	}
	return in, nil
}

// identity is an internal user with what their roles say.
type identity struct {
	name    string
	backend []string
	roles   []string // names
	sec     *security
}

func (id *identity) encode() string { return id.name }

// identityOf finds the user of a request that a performance secondary sent on, which has authenticated them.
func (f *Face) identityOf(name string) (*identity, error) {
	sec, err := f.security()
	if err != nil {
		return nil, err
	}
	u := sec.users[name]
	if u == nil {
		return nil, unauthorized()
	}
	return sec.identity(name, u), nil
}

// logIn finds the user whom name and password stand for.
func (f *Face) logIn(ctx context.Context, remote, name, password string) (*identity, error) {
	sec, err := f.security()
	if err != nil {
		return nil, err
	}
	u := sec.users[name]
	var hash []byte
	if u != nil {
		hash = []byte(u.Hash)
		if f.verified.has(name, password, hash) {
			return sec.identity(name, u), nil
		}
	}
	right, err := f.cfg.Core.CheckPassword(ctx, remote, name, hash, password)
	if err != nil {
		if status, _, _ := vault.Translate(err); status == http.StatusForbidden {
			return nil, unauthorized()
		}
		return nil, err
	}
	if !right {
		return nil, unauthorized()
	}
	f.verified.add(name, password, hash)
	return sec.identity(name, u), nil
}

// verified remembers passwords that were right, as keyed hashes: bcrypt takes too long for every request. A changed password is not found.
type verified struct {
	key [32]byte
	mu  sync.Mutex // guards known
	sum map[[32]byte]struct{}
}

const maxVerified = 4096

func (v *verified) init() {
	_, _ = rand.Read(v.key[:]) // never fails
	v.sum = map[[32]byte]struct{}{}
}

func (v *verified) of(name, password string, hash []byte) (out [32]byte) {
	mac := hmac.New(sha256.New, v.key[:])
	for _, part := range []string{name, password, string(hash)} {
		mac.Write([]byte(itoa(len(part)) + ":" + part))
	}
	mac.Sum(out[:0])
	return out
}

func (v *verified) has(name, password string, hash []byte) bool {
	sum := v.of(name, password, hash)
	v.mu.Lock()
	defer v.mu.Unlock()
	_, ok := v.sum[sum]
	return ok
}

func (v *verified) add(name, password string, hash []byte) {
	sum := v.of(name, password, hash)
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.sum) >= maxVerified {
		clear(v.sum)
	}
	v.sum[sum] = struct{}{}
}

// ---- rights

// refused is the answer to who lacks a permission.
func (r *request) refused(action string) *failure {
	name, backend := r.call.Name(), ""
	if r.who != nil {
		backend = strings.Join(r.who.backend, ", ")
	}
	return fail(http.StatusForbidden, "security_exception", "no permissions for [%s] and User [name=%s, backend_roles=[%s], requestedTenant=null]", action, name, backend)
}

// may judges an action on an index. What is about a single document is judged again, by its path: see mayRead, mayDelete and mayWrite.
func (f *Face) may(r *request, action, index string) error {
	allowed := false
	if r.who != nil {
		allowed = r.who.may(action, index)
	} else {
		allowed = r.policiesAllow(action, index)
	}
	if !allowed {
		return r.refused(action)
	}
	return nil
}

// adminActions change what an index is, which policies know as calls below sys/mounts.
var adminActions = map[string]struct{ operation, suffix string }{
	actionCreate:      {"update", ""},
	actionDelete:      {"delete", ""},
	actionPutSettings: {"update", "/tune"},
	actionPutMapping:  {"update", "/tune"},
	actionAliases:     {"update", "/tune"},
	actionClose:       {"update", "/tune"},
	actionOpen:        {"update", "/tune"},
}

func (r *request) policiesAllow(action, index string) bool {
	if a, ok := adminActions[action]; ok {
		return r.call.May(a.operation, "sys/mounts/"+index+a.suffix, nil) == nil
	}
	if action == actionSearch || action == actionCount {
		return r.call.May("list", index+"/", nil) == nil
	}
	return r.call.Reaches(index + "/")
}

// mayCluster judges an action on the whole cluster.
func (f *Face) mayCluster(r *request, action string) error {
	allowed := false
	switch {
	case r.who != nil:
		allowed = r.who.mayCluster(action)
	case action == actionPutClusterSettings:
		allowed = r.call.MaySudo("sys/opensearch/settings") == nil
	case strings.HasPrefix(action, actionSecurity):
		allowed = r.call.MaySudo("sys/opensearch/security/"+strings.TrimPrefix(action, actionSecurity)) == nil
	default: // whoever has a credential; what is about an index is judged there
		allowed = true
	}
	if !allowed {
		return r.refused(action)
	}
	return nil
}

// mayRead judges the reading of one document by policies.
func (f *Face) mayRead(r *request, ix *index, id, action string) error {
	if r.who == nil && !r.call.Unlimited() && r.call.May("read", ix.mount.Path+id, nil) != nil {
		return r.refused(action)
	}
	return nil
}

func (f *Face) mayDelete(r *request, ix *index, id string) error {
	if r.who == nil && r.call.May("delete", ix.mount.Path+id, nil) != nil {
		return r.refused(actionDeleteDoc)
	}
	return nil
}

// mayWrite judges a write of one document; what it returns judges once more when it is known whether the document exists.
func (f *Face) mayWrite(r *request, ix *index, id string, body []byte, action string) (func(exists bool) error, error) {
	if r.who != nil || r.call.Unlimited() {
		return func(bool) error { return nil }, nil
	}
	permits, err := r.call.Writes(ix.mount.Path+id, body)
	if err != nil {
		return nil, r.refused(action)
	}
	refused := r.refused(action)
	return func(exists bool) error {
		if permits(exists) != nil {
			return refused
		}
		return nil
	}, nil
}
