package vault

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
)

const (
	saltKey        = "token/salt"
	tokenPrefix    = "token/id/"
	accessorPrefix = "token/accessor/"
	parentPrefix   = "token/parent/"

	servicePrefix = "hvs."
	maxTokenText  = 512 // of a service token
	maxDepth      = 64  // of children of children
	rootPolicy    = "root"
	defaultPolicy = "default"

	// maxTTL is how long a token lives at most without being periodic, and by default; 32 days, as in Vault.
	maxTTL = 768 * time.Hour
)

// tokenEntry is a token's record. The token's text is not in it.
type tokenEntry struct {
	Accessor    string            `json:"accessor"`
	Parent      string            `json:"parent,omitempty"` // hash of the parent; empty: an orphan
	Depth       int               `json:"depth,omitempty"`
	Policies    []string          `json:"policies"`
	Path        string            `json:"path"`
	Meta        map[string]string `json:"meta,omitempty"`
	DisplayName string            `json:"display_name"`
	NumUses     int               `json:"num_uses,omitempty"` // uses left; 0: any number
	Created     time.Time         `json:"created"`
	Renewed     time.Time         `json:"renewed,omitzero"`
	TTL         time.Duration     `json:"ttl,omitempty"`    // as created; nanoseconds
	Expires     time.Time         `json:"expires,omitzero"` // zero: never
	ExplicitMax time.Duration     `json:"explicit_max_ttl,omitempty"`
	Period      time.Duration     `json:"period,omitempty"`
	Renewable   bool              `json:"renewable,omitempty"`
	MaxTTL      time.Duration     `json:"max_ttl,omitempty"` // 0: the system's
	Role        string            `json:"role,omitempty"`    // of auth/token/create/<role>
	Mount       string            `json:"mount,omitempty"`   // uuid of the auth method that gave it out; it dies with the method
	Account     string            `json:"account,omitempty"` // key of the account's record there; asked for at a renewal
	CIDRs       []string          `json:"bound_cidrs,omitempty"`
	batch       bool
}

func (t *tokenEntry) expired(now time.Time) bool {
	return !t.Expires.IsZero() && !now.Before(t.Expires)
}

func (t *tokenEntry) left(now time.Time) time.Duration {
	if t.Expires.IsZero() {
		return 0
	}
	return max(0, t.Expires.Sub(now))
}

// kind is the token's type as clients know it.
func (t *tokenEntry) kind() string {
	if t.batch {
		return typeBatch
	}
	return typeService
}

func (t *tokenEntry) renewable() bool { return t.Renewable && !t.batch && !t.Expires.IsZero() }

func (t *tokenEntry) root() bool { return slices.Contains(t.Policies, rootPolicy) }

// credential is a token that exists, with those that it dies with.
type credential struct {
	hash      string
	entry     *tokenEntry
	ancestors []*tokenEntry
	acl       atomic.Pointer[acl] // of the snapshot that it belongs to, once somebody asked
}

func (cr *credential) expired(now time.Time) bool {
	if cr.entry.expired(now) {
		return true
	}
	return slices.ContainsFunc(cr.ancestors, func(a *tokenEntry) bool { return a.expired(now) })
}

// caller is who makes a request, as far as it matters: what they may do.
type caller struct {
	hash        string      // empty: a batch token, the dev root token without a record, or a forwarded request
	entry       *tokenEntry // nil for a forwarded request
	policies    []string
	displayName string
	acl         *acl
}

// authenticate finds the caller by the request's token, and counts the use of a token that has a number of them.
func (c *Core) authenticate(r *request) error {
	cred, err := c.credential(r.token)
	if err != nil {
		return err
	}
	if cred == nil {
		return denied()
	}
	if !withinCIDRs(r.remote, cred.entry.CIDRs) {
		return denied()
	}
	snap, err := c.current()
	if err != nil && !c.isDevRoot(r.token) {
		return err
	}
	acl, err := c.aclOfCredential(snap, cred)
	if err != nil {
		return err
	}
	if cred.entry.NumUses > 0 {
		if err := c.use(r, cred.hash); err != nil {
			return err
		}
	}
	r.caller = &caller{cred.hash, cred.entry, cred.entry.Policies, cred.entry.DisplayName, acl}
	return nil
}

// aclOfCredential remembers what a credential's policies allow as long as the credential itself is remembered: one snapshot.
func (c *Core) aclOfCredential(snap *snapshot, cred *credential) (*acl, error) {
	if a := cred.acl.Load(); a != nil {
		return a, nil
	}
	a, err := c.aclOf(snap, cred.entry.Policies)
	if err == nil {
		cred.acl.Store(a)
	}
	return a, err
}

func (c *Core) isDevRoot(text string) bool {
	want := sha256.Sum256([]byte(c.cfg.DevRootToken))
	got := sha256.Sum256([]byte(text))
	return c.cfg.DevRootToken != "" && subtle.ConstantTimeCompare(want[:], got[:]) == 1
}

// credential returns what a token's text stands for, nil when it is unknown, revoked or expired.
func (c *Core) credential(text string) (*credential, error) {
	if strings.HasPrefix(text, batchPrefix) {
		return c.batchCredential(text)
	}
	if text == "" || len(text) > maxTokenText {
		return nil, nil
	}
	cred, err := c.storedCredential(text)
	if cred == nil && c.isDevRoot(text) {
		// Also when the store cannot be read: the way to recover must stay open.
		return &credential{entry: &tokenEntry{Policies: []string{rootPolicy}, Path: "auth/token/root", DisplayName: "root", Created: time.Unix(0, 0).UTC()}}, nil
	}
	return cred, err
}

func (c *Core) storedCredential(text string) (*credential, error) {
	snap, err := c.current()
	if err != nil || snap.salt == nil {
		return nil, err
	}
	return c.credentialByHash(snap, hashToken(snap.salt, text))
}

func (c *Core) credentialByHash(snap *snapshot, hash string) (*credential, error) {
	snap.mu.Lock()
	cred := snap.tokens[hash]
	snap.mu.Unlock()
	if cred == nil {
		var err error
		if cred, err = c.loadCredential(snap, hash); cred == nil {
			return nil, err
		}
		snap.mu.Lock()
		remember(snap.tokens, hash, cred)
		snap.mu.Unlock()
	}
	if cred.expired(c.now()) {
		return nil, nil
	}
	return cred, nil
}

// loadCredential reads a token and its ancestors; nil when one of them is gone.
func (c *Core) loadCredential(snap *snapshot, hash string) (*credential, error) {
	entry, err := c.loadToken(hash)
	if entry == nil {
		return nil, err
	}
	cred := &credential{hash: hash, entry: entry}
	return cred, c.loadAncestors(snap, &cred)
}

// loadAncestors completes a credential, or sets it to nil when what it depends on is gone.
func (c *Core) loadAncestors(snap *snapshot, cred **credential) error {
	for t := (*cred).entry; ; {
		if t.Mount != "" && snap.mounts.auth[t.Mount] == nil {
			*cred = nil
			return nil
		}
		if t.Parent == "" {
			return nil
		}
		p, err := c.loadToken(t.Parent)
		if p == nil || len((*cred).ancestors) > maxDepth {
			*cred = nil
			return err
		}
		(*cred).ancestors = append((*cred).ancestors, p)
		t = p
	}
}

func (c *Core) loadToken(hash string) (*tokenEntry, error) {
	value, ok, err := c.get(private, tokenPrefix+hash)
	if err != nil || !ok {
		return nil, err
	}
	return decodeToken(hash, value)
}

func decodeToken(hash string, value []byte) (*tokenEntry, error) {
	var t tokenEntry
	if err := json.Unmarshal(value, &t); err != nil {
		return nil, fmt.Errorf("token record %.8s: %w", hash, err)
	}
	return &t, nil
}

func hashToken(salt []byte, text string) string {
	mac := hmac.New(sha256.New, salt)
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

// tokenHash returns the hash under which a token's text is kept, making the store's salt when there is none yet.
func (c *Core) tokenHash(r *request, text string) (string, error) {
	salt, err := ensureSalt(r.ctx, c.engine)
	if err != nil {
		return "", err
	}
	return hashToken(salt, text), nil
}

func ensureSalt(ctx context.Context, e *engine.Engine) ([]byte, error) {
	return ensureSecret(ctx, e, saltKey)
}

// ensureSecret returns the 32 random bytes of a record of local scope, which the first who asks for them makes.
func ensureSecret(ctx context.Context, e *engine.Engine, key string) ([]byte, error) {
	rec, err := e.Get(private.id, []byte(key))
	secret, ok, err := found(rec, err)
	if err != nil || ok {
		return secret, err
	}
	fresh := make([]byte, 32)
	_, _ = rand.Read(fresh) // never fails
	_, err = e.Do(ctx, &engine.Tx{
		Reads: []engine.Key{private.key(key)},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			var ok bool
			var err error
			if secret, ok, err = read(rd, private, key); err != nil || ok {
				return nil, err
			}
			secret = fresh
			return []engine.Write{private.put(key, fresh)}, nil
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make the secret %s of the token store: %w", key, err)
	}
	return secret, nil
}

// putToken is the records of a new token.
func putToken(hash string, t *tokenEntry) ([]engine.Write, error) {
	value, err := marshal(t)
	if err != nil {
		return nil, err
	}
	w := []engine.Write{private.put(tokenPrefix+hash, value), private.put(accessorPrefix+t.Accessor, []byte(hash))}
	if t.Parent != "" {
		w = append(w, private.put(parentPrefix+t.Parent+"/"+hash, []byte("1")))
	}
	return w, nil
}

// dropToken removes the records of a token.
func dropToken(hash string, t *tokenEntry) []engine.Write {
	w := []engine.Write{private.del(tokenPrefix + hash), private.del(accessorPrefix + t.Accessor)}
	if t.Parent != "" {
		w = append(w, private.del(parentPrefix+t.Parent+"/"+hash))
	}
	return w
}

// store commits a new token, unless its text is in use or its parent is gone by now.
func (c *Core) store(r *request, hash string, t *tokenEntry) error {
	writes, err := putToken(hash, t)
	if err != nil {
		return err
	}
	tx := &engine.Tx{Reads: []engine.Key{private.key(tokenPrefix + hash)}}
	if t.Parent != "" {
		tx.Reads = append(tx.Reads, private.key(tokenPrefix+t.Parent))
	}
	tx.Exec = func(rd engine.Reader) ([]engine.Write, error) {
		if _, taken, err := read(rd, private, tokenPrefix+hash); err != nil {
			return nil, err
		} else if taken {
			return nil, refuse(errInvalid, "cannot create a token with a duplicate ID")
		}
		if t.Parent != "" {
			if _, ok, err := read(rd, private, tokenPrefix+t.Parent); err != nil {
				return nil, err
			} else if !ok {
				return nil, denied()
			}
		}
		return writes, nil
	}
	return c.commit(r, tx)
}

// change rewrites a token's record. fn returns false when the token is to go.
func (c *Core) change(r *request, hash string, fn func(t *tokenEntry) (keep bool, err error)) error {
	key := tokenPrefix + hash
	return c.commit(r, &engine.Tx{
		Reads: []engine.Key{private.key(key)},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			value, ok, err := read(rd, private, key)
			if err != nil {
				return nil, err
			}
			if !ok {
				return nil, denied()
			}
			t, err := decodeToken(hash, value)
			if err != nil {
				return nil, err
			}
			keep, err := fn(t)
			if err != nil {
				return nil, err
			}
			if !keep {
				return dropToken(hash, t), nil
			}
			if value, err = marshal(t); err != nil {
				return nil, err
			}
			return []engine.Write{private.put(key, value)}, nil
		},
	})
}

// use counts one use of a token and removes it with the last.
func (c *Core) use(r *request, hash string) error {
	return c.change(r, hash, func(t *tokenEntry) (bool, error) {
		last := t.NumUses == 1
		if t.NumUses > 0 {
			t.NumUses--
		}
		return !last, nil
	})
}

// newRootToken makes the entry of a root token that never expires.
func newRootToken(now time.Time) *tokenEntry {
	return &tokenEntry{Accessor: randomText(24), Policies: []string{rootPolicy}, Path: "auth/token/root", DisplayName: "root", Created: now.UTC()}
}

// MintRoot writes a new root token into a store that no server runs (Engine.Run must be running in the calling command) and returns it.
// A store that was never initialised is refused; secondary says that it is filled from a primary, so that it is not to be initialised.
func MintRoot(ctx context.Context, e *engine.Engine, secondary bool) (token string, err error) {
	_, ready, err := found(e.Get(shared.id, []byte(initKey)))
	if err != nil {
		return "", fmt.Errorf("read whether the cluster is initialised: %w", err)
	}
	if !ready && !secondary {
		return "", errors.New("the cluster is not initialised: start the server and call PUT /v1/sys/init (vault operator init), which answers with a root token")
	}
	salt, err := ensureSalt(ctx, e)
	if err != nil {
		return "", err
	}
	text := servicePrefix + randomText(24)
	writes, err := putToken(hashToken(salt, text), newRootToken(time.Now()))
	if err != nil {
		return "", err
	}
	if _, err := e.Do(ctx, &engine.Tx{Writes: writes}); err != nil {
		return "", fmt.Errorf("write the new root token: %w", err)
	}
	return text, nil
}
