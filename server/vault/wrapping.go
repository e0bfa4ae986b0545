package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/storage"
)

const maxWrapTTL = maxTTL

// answers is where wrapped answers wait, under the hash of their token. Like cubbyhole it is no system keyspace.
var answers = space{storage.KeyspaceID{15: 17}, storage.Local}

// wrapped is an answer that waits for the one who holds its token. It dies with the first unwrap or with its time.
type wrapped struct {
	Created  time.Time       `json:"created"`
	TTL      time.Duration   `json:"ttl"`
	Path     string          `json:"path"`
	Accessor string          `json:"accessor"`
	Answer   json.RawMessage `json:"answer"`
}

func (w *wrapped) expired(now time.Time) bool { return !now.Before(w.Created.Add(w.TTL)) }

func badWrapping() error {
	return refuse(errInvalid, "wrapping token is not valid or does not exist")
}

// wrapAnswer keeps an answer back and gives out a single-use token for it instead.
func (c *Core) wrapAnswer(r *request, rep *reply, a answer) answer {
	kept, err := c.keepWrapped(r, r.path, min(r.wrapTTL, maxWrapTTL), a.body)
	if err == nil && rep.auth != nil {
		kept.wrap.WrappedAccessor = rep.auth.Accessor
	}
	return c.encodeReply(r, kept, err)
}

// wraps tells whether an answer is to be wrapped: only for a caller who showed a token, or has just got one. A wrapped
// answer is an entry in the log, and strangers write none.
func (r *request) wraps(rep *reply, a answer) bool {
	if r.wrapTTL == 0 || rep == nil || rep.wrap != nil || a.status >= 300 || a.status == http.StatusNoContent {
		return false
	}
	return r.caller != nil || rep.auth != nil
}

// dropWrapped removes a wrapped answer that nobody is to have any more.
func (c *Core) dropWrapped(r *request, text string) error {
	hash, err := c.wrappingHash(text)
	if errors.Is(err, errInvalid) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, ok, err := c.get(answers, hash); err != nil || !ok {
		return err
	}
	return c.commit(r, &engine.Tx{Writes: []engine.Write{answers.del(hash)}})
}

func (c *Core) keepWrapped(r *request, path string, ttl time.Duration, body []byte) (*reply, error) {
	text := servicePrefix + randomText(24)
	hash, err := c.tokenHash(r, text)
	if err != nil {
		return nil, err
	}
	w := wrapped{Created: c.now().UTC(), TTL: ttl, Path: path, Accessor: randomText(24), Answer: body}
	value, err := marshal(w)
	if err != nil {
		return nil, err
	}
	if err := c.commit(r, &engine.Tx{Writes: []engine.Write{answers.put(hash, value)}}); err != nil {
		return nil, err
	}
	return &reply{wrap: &wrapBody{
		Token: text, Accessor: w.Accessor, TTL: seconds(ttl), CreationTime: stamp(w.Created), CreationPath: path,
	}}, nil
}

// wrap wraps the caller's own parameters.
func (c *Core) wrap(r *request) (*reply, error) {
	if r.wrapTTL == 0 {
		return nil, refuse(errInvalid, "endpoint requires response wrapping to be used: send X-Vault-Wrap-TTL")
	}
	f, err := r.fields()
	if err != nil {
		return nil, err
	}
	return &reply{data: f}, nil
}

type unwrapParams struct {
	Token string `json:"token"`
	CSR   string `json:"csr"` // PEM; with an activation token: the key that the secondary wants certified
}

// wrapping returns the token that a call is about: the one named, else the one it came with.
func (p *unwrapParams) wrapping(r *request) string {
	if p.Token != "" {
		return p.Token
	}
	return r.token
}

// wrappingHash returns the record that a wrapping token names.
func (c *Core) wrappingHash(text string) (string, error) {
	if text == "" || len(text) > maxTokenText {
		return "", badWrapping()
	}
	snap, err := c.current()
	if err != nil {
		return "", err
	}
	if snap.salt == nil {
		return "", badWrapping()
	}
	return hashToken(snap.salt, text), nil
}

func (c *Core) wrapLookup(r *request, p *unwrapParams) (*reply, error) {
	text := p.wrapping(r)
	if replication.IsActivation(text) {
		n, err := c.replicator()
		if err != nil {
			return nil, err
		}
		a, err := n.LookupActivation(text)
		if err != nil {
			return nil, err
		}
		data := lookupData(a.CreationTime, a.TTL, a.CreationPath)
		maps.Copy(data, a.Lookup) // what a secondary checks before it spends the token
		return &reply{data: data}, nil
	}
	hash, err := c.wrappingHash(text)
	if err != nil {
		return nil, err
	}
	value, ok, err := c.get(answers, hash)
	if err != nil {
		return nil, err
	}
	w, err := decodeWrapped(value, ok, c.now())
	if err != nil {
		return nil, err
	}
	return &reply{data: lookupData(w.Created, w.TTL, w.Path)}, nil
}

func lookupData(created time.Time, ttl time.Duration, path string) map[string]any {
	return map[string]any{"creation_time": stamp(created), "creation_ttl": seconds(ttl), "creation_path": path}
}

func decodeWrapped(value []byte, ok bool, now time.Time) (*wrapped, error) {
	if !ok {
		return nil, badWrapping()
	}
	var w wrapped
	if err := json.Unmarshal(value, &w); err != nil {
		return nil, fmt.Errorf("wrapping record: %w", err)
	}
	if w.expired(now) {
		return nil, badWrapping()
	}
	return &w, nil
}

// unwrap gives out a wrapped answer, once; or redeems an activation token.
func (c *Core) unwrap(r *request, p *unwrapParams) (*reply, error) {
	text := p.wrapping(r)
	if replication.IsActivation(text) {
		return c.redeem(r, text, p.CSR)
	}
	w, err := c.takeWrapped(r, text)
	if err != nil {
		return nil, err
	}
	return &reply{bare: w.Answer}, nil
}

func (c *Core) redeem(r *request, text, csr string) (*reply, error) {
	n, err := c.replicator()
	if err != nil {
		return nil, err
	}
	data, err := n.Redeem(r.ctx, text, csr, r.remote)
	if err != nil {
		return nil, err
	}
	return &reply{data: data}, nil
}

// takeWrapped reads and removes a wrapped answer in one transaction: of two who unwrap, one gets it.
func (c *Core) takeWrapped(r *request, text string) (w *wrapped, err error) {
	hash, err := c.wrappingHash(text)
	if err != nil {
		return nil, err
	}
	now := c.now()
	err = c.commit(r, &engine.Tx{
		Reads: []engine.Key{answers.key(hash)},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			value, ok, err := read(rd, answers, hash)
			if err != nil {
				return nil, err
			}
			if w, err = decodeWrapped(value, ok, now); err != nil {
				return nil, err
			}
			return []engine.Write{answers.del(hash)}, nil
		},
	})
	return w, err
}

// rewrap moves a wrapped answer to a new token with the same time to live.
func (c *Core) rewrap(r *request, p *unwrapParams) (*reply, error) {
	text := p.wrapping(r)
	if replication.IsActivation(text) {
		return nil, refuse(errInvalid, "an activation token cannot be rewrapped: ask for another secondary-token")
	}
	w, err := c.takeWrapped(r, text)
	if err != nil {
		return nil, err
	}
	rep, err := c.keepWrapped(r, w.Path, w.TTL, w.Answer)
	if err != nil {
		return nil, errors.Join(errors.New("the old wrapping token is spent and no new one could be made"), err)
	}
	rep.status = http.StatusOK
	return rep, nil
}
