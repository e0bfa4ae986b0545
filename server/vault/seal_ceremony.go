package vault

import (
	"crypto/subtle"
	"errors"
	"sync"

	"github.com/lockstepdb/lockstep/internal/seal"
)

// ceremonies are the attempts in which share holders come together: at most one to generate a token, and one to rekey.
// They live in memory: an attempt ends with the core.
type ceremonies struct {
	mu       sync.Mutex // guards all
	generate *generateAttempt
	rekey    *rekeyAttempt
}

// seal returns the node's seal, or a refusal when there is none.
func (c *Core) seal() (*seal.Opened, error) {
	if c.cfg.Seal == nil {
		return nil, refuse(errInvalid, "this store is not protected by keys: there are no shares to ask for")
	}
	return c.cfg.Seal, nil
}

type shareParams struct {
	Key   string `json:"key"`
	Nonce string `json:"nonce"`
}

// take adds a share to an attempt; with the last one it checks the key that they make. ok is false while more are needed.
// check is whether the key is the right one.
func (p *shareParams) take(c *seal.Ceremony, check func(seal.Key) error) (ok bool, err error) {
	if p.Key == "" {
		return false, refuse(errInvalid, "'key' must be specified in request body as JSON")
	}
	share, err := seal.ParseShare(p.Key)
	if err != nil {
		return false, refuse(errInvalid, "%v", err)
	}
	if p.Nonce == "" {
		return false, refuse(errInvalid, "missing nonce: it must be the one of this attempt, %s", c.Nonce)
	}
	if subtle.ConstantTimeCompare([]byte(p.Nonce), []byte(c.Nonce)) != 1 {
		return false, refuse(errInvalid, "incorrect nonce supplied; nonce for this attempt is %s", c.Nonce)
	}
	key, ok, err := c.Add(share)
	if err == nil && ok {
		err = check(key)
	}
	if errors.Is(err, seal.ErrRepeated) || errors.Is(err, seal.ErrWrongShares) {
		return false, refuse(errInvalid, "%v", err)
	}
	return ok, err
}

// Operations that configuration opens to callers without a token.
const (
	OpGenerateRoot  = "generate-root"
	OpRekey         = "rekey"
	OpGenerateToken = "generate-operation-token"
)

// ceremonyPaths are the prefixes of their calls.
var ceremonyPaths = []struct{ prefix, operation string }{
	{"sys/generate-root/", OpGenerateRoot},
	{"sys/rekey/", OpRekey},
	{"sys/rekey-recovery-key/", OpRekey},
	{"sys/replication/dr/secondary/generate-operation-token/", OpGenerateToken},
}

// isOpen tells whether a route needs no token: always, or by configuration.
func (c *Core) isOpen(rt *route, path string) bool {
	if rt.flags&open != 0 {
		return true
	}
	if rt.flags&ceremony == 0 || c.cfg.Unauthenticated == nil {
		return false
	}
	for _, p := range ceremonyPaths {
		if len(path) >= len(p.prefix) && path[:len(p.prefix)] == p.prefix {
			return c.cfg.Unauthenticated(p.operation)
		}
	}
	return false
}
