package vault

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/storage"
)

const (
	secretPrefix         = "secretid/" // secretid/<role's own id>/<hash>
	secretAccessorPrefix = "accessor/" // accessor/<role's own id>/<accessor>: the hash
)

// secretID is a record under the keyed hash of a secret id; the secret itself is nowhere.
type secretID struct {
	Accessor string            `json:"accessor"`
	Created  time.Time         `json:"created"`
	Expires  time.Time         `json:"expires,omitzero"`
	NumUses  int64             `json:"num_uses"` // on each cluster; 0: any number
	CIDRs    []string          `json:"cidrs"`
	Token    []string          `json:"token_cidrs"`
	Meta     map[string]string `json:"meta"`
	TTL      time.Duration     `json:"ttl"`
}

func (s *secretID) expired(now time.Time) bool { return !s.Expires.IsZero() && !now.Before(s.Expires) }

// methodSpace is the keyspace of a replicated auth method; its scope does not matter to reading.
func methodSpace(id string) (space, error) {
	u, err := uuid.Parse(id)
	return space{storage.KeyspaceID(u), storage.Replicated}, err
}

// methodHash is the hash under which an auth method keeps a secret.
func (c *Core) methodHash(m *mount, text string) (string, error) {
	key, ok, err := c.get(m.space(), methodSecretKey)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", fmt.Errorf("auth method %s has no key: disable it and enable another", m.path)
	}
	return hashToken(key, text), nil
}

type secretIDParams struct {
	SecretID string         `json:"secret_id"`
	Accessor string         `json:"secret_id_accessor"`
	Metadata string         `json:"metadata"`
	CIDRs    []string       `json:"cidr_list"`
	Token    []string       `json:"token_bound_cidrs"`
	NumUses  *int64         `json:"num_uses"`
	TTL      *time.Duration `json:"ttl"`
}

func (c *Core) createSecretID(r *request, p *secretIDParams) (*reply, error) {
	p.SecretID = uuid.NewString()
	return c.storeSecretID(r, p)
}

func (c *Core) createCustomSecretID(r *request, p *secretIDParams) (*reply, error) {
	if p.SecretID == "" || len(p.SecretID) > maxTokenText {
		return nil, refuse(errInvalid, "secret_id has from 1 to %d bytes", maxTokenText)
	}
	return c.storeSecretID(r, p)
}

func (c *Core) storeSecretID(r *request, p *secretIDParams) (*reply, error) {
	a, err := c.mustAppRole(r)
	if err != nil {
		return nil, err
	}
	if !a.bound() {
		return nil, refuse(errInvalid, "bind_secret_id is not set on the role: its logins need no secret id")
	}
	rec, err := p.record(a, c.now().UTC())
	if err != nil {
		return nil, err
	}
	hash, err := c.methodHash(r.mount, p.SecretID)
	if err != nil {
		return nil, err
	}
	value, err := marshal(rec)
	if err != nil {
		return nil, err
	}
	s, role, key := r.mount.space(), appRolePrefix+r.rest, secretPrefix+a.ID+"/"+hash
	err = c.commit(r, &engine.Tx{
		Reads: []engine.Key{s.key(role), s.key(key)},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			if old, ok, err := read(rd, s, role); err != nil {
				return nil, err
			} else if !ok || !strings.Contains(string(old), a.ID) {
				return nil, refuse(errInvalid, "role %q does not exist any more", r.rest)
			}
			if _, ok, err := read(rd, s, key); err != nil {
				return nil, err
			} else if ok {
				return nil, refuse(errInvalid, "SecretID is already registered")
			}
			return []engine.Write{s.put(key, value), s.put(secretAccessorPrefix+a.ID+"/"+rec.Accessor, []byte(hash))}, nil
		},
	})
	if err != nil {
		return nil, err
	}
	return &reply{data: map[string]any{
		"secret_id": p.SecretID, "secret_id_accessor": rec.Accessor, "secret_id_ttl": seconds(rec.TTL), "secret_id_num_uses": rec.NumUses,
	}}, nil
}

// record decides all about a new secret id. It may be narrower than its role says, not wider.
func (p *secretIDParams) record(a *appRole, now time.Time) (*secretID, error) {
	rec := &secretID{Accessor: uuid.NewString(), Created: now, NumUses: a.SecretIDUses, TTL: a.SecretIDTTL, Meta: map[string]string{}}
	if p.NumUses != nil {
		if *p.NumUses < 0 || a.SecretIDUses > 0 && (*p.NumUses == 0 || *p.NumUses > a.SecretIDUses) {
			return nil, refuse(errInvalid, "num_uses cannot be negative or more than the role's secret_id_num_uses")
		}
		rec.NumUses = *p.NumUses
	}
	if p.TTL != nil {
		if *p.TTL < 0 || *p.TTL > maxPeriod || a.SecretIDTTL > 0 && (*p.TTL == 0 || *p.TTL > a.SecretIDTTL) {
			return nil, refuse(errInvalid, "ttl cannot be negative or longer than the role's secret_id_ttl")
		}
		rec.TTL = *p.TTL
	}
	if rec.TTL > 0 {
		rec.Expires = now.Add(rec.TTL)
	}
	if p.Metadata != "" {
		meta, err := mapValue(json.RawMessage(strings.TrimSpace(p.Metadata) + " "))
		if err != nil || len(meta) > maxMeta || len(p.Metadata) > maxMeta*maxName {
			return nil, refuse(errInvalid, "metadata must be the text of a JSON object of strings, of at most %d of them", maxMeta)
		}
		rec.Meta = meta
	}
	var err error
	if rec.CIDRs, err = narrower(p.CIDRs, a.SecretIDCIDRs, "cidr_list"); err != nil {
		return nil, err
	}
	rec.Token, err = narrower(p.Token, a.CIDRs, "token_bound_cidrs")
	return rec, err
}

// narrower checks that networks lie within others.
func narrower(list, within []string, name string) ([]string, error) {
	list, err := cleanCIDRs(list)
	if err != nil {
		return nil, err
	}
	for _, text := range list {
		if len(within) > 0 && !liesWithin(text, within) {
			return nil, refuse(errInvalid, "%s: %s is not within the networks of the role", name, text)
		}
	}
	return list, nil
}

func liesWithin(text string, within []string) bool {
	inner, err := parseCIDR(text)
	if err != nil {
		return false
	}
	for _, w := range within {
		if outer, err := parseCIDR(w); err == nil && outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr()) {
			return true
		}
	}
	return false
}

// findSecretID finds a secret id of a role, by itself or by its accessor; nil when there is none.
func (c *Core) findSecretID(m *mount, a *appRole, p *secretIDParams) (hash string, rec *secretID, err error) {
	switch {
	case p.SecretID != "":
		hash, err = c.methodHash(m, p.SecretID)
	case p.Accessor != "" && len(p.Accessor) <= maxName:
		var value []byte
		value, _, err = c.get(m.space(), secretAccessorPrefix+a.ID+"/"+p.Accessor)
		hash = string(value)
	default:
		return "", nil, refuse(errInvalid, "missing secret_id or secret_id_accessor")
	}
	if err != nil || hash == "" {
		return "", nil, err
	}
	value, ok, err := c.get(m.space(), secretPrefix+a.ID+"/"+hash)
	if err != nil || !ok {
		return "", nil, err
	}
	rec = &secretID{}
	if err := json.Unmarshal(value, rec); err != nil {
		return "", nil, fmt.Errorf("secret id of %s: %w", m.path, err)
	}
	return hash, rec, nil
}

func (c *Core) lookupSecretID(r *request, p *secretIDParams) (*reply, error) {
	a, err := c.mustAppRole(r)
	if err != nil {
		return nil, err
	}
	hash, rec, err := c.findSecretID(r.mount, a, p)
	if err != nil {
		return nil, err
	}
	if rec == nil || rec.expired(c.now()) {
		if p.SecretID == "" {
			return nil, refuse(errNotFound, "failed to find accessor entry for secret_id_accessor")
		}
		return nil, nil // as Vault: 204
	}
	used, err := c.secretIDUsed(r.mount, a, hash)
	if err != nil {
		return nil, err
	}
	left := rec.NumUses
	if left > 0 {
		left = max(0, left-used)
	}
	data := map[string]any{
		"secret_id_accessor": rec.Accessor, "secret_id_num_uses": left, "secret_id_ttl": seconds(rec.TTL), "cidr_list": orEmpty(rec.CIDRs),
		"token_bound_cidrs": orEmpty(rec.Token), "metadata": rec.Meta, "creation_time": stamp(rec.Created), "last_updated_time": stamp(rec.Created),
		"expiration_time": stamp(rec.Expires),
	}
	return &reply{data: data}, nil
}

func (c *Core) destroySecretID(r *request, p *secretIDParams) (*reply, error) {
	a, err := c.mustAppRole(r)
	if err != nil {
		return nil, err
	}
	hash, rec, err := c.findSecretID(r.mount, a, p)
	if err != nil || rec == nil {
		return nil, err // what is not there is destroyed
	}
	return nil, c.commit(r, &engine.Tx{Writes: a.dropSecretID(r.mount.space(), hash, rec)})
}

func (a *appRole) dropSecretID(s space, hash string, rec *secretID) []engine.Write {
	return []engine.Write{s.del(secretPrefix + a.ID + "/" + hash), s.del(secretAccessorPrefix + a.ID + "/" + rec.Accessor)}
}

func (c *Core) listSecretIDs(r *request) (*reply, error) {
	a, err := c.mustAppRole(r)
	if err != nil {
		return nil, err
	}
	return c.listNames(r.mount.space(), secretAccessorPrefix+a.ID+"/")
}

// sweepSecretIDs removes secret ids that have expired, and what is left of roles that are gone, where this cluster may write them.
func (c *Core) sweepSecretIDs(r *request, s *sweeper) error {
	snap, err := c.current()
	if err != nil {
		return err
	}
	next := map[string]string{}
	for id, m := range snap.mounts.auth {
		if m.Type != "approle" || !m.Local && c.mode(performance) == replication.Secondary {
			continue
		}
		keys, after, err := c.voidSecretIDs(m, s.secrets[id])
		if err != nil {
			return err
		}
		for batch := range slices.Chunk(keys, sweepWrites) {
			if err := c.remove(r, m.space(), batch); err != nil {
				return err
			}
		}
		if after != "" {
			next[id] = after
		}
	}
	s.secrets = next
	return nil
}

// voidSecretIDs looks at a bounded number of a method's records after a key.
func (c *Core) voidSecretIDs(m *mount, after string) (keys []string, next string, err error) {
	view := c.engine.Snapshot()
	defer view.Release()
	roles := map[string]bool{}
	err = view.Scan(m.id, []byte(appRolePrefix), prefixEnd(appRolePrefix), func(rec storage.Record) bool {
		if a, err := decodeAppRole(m, rec.Value); err == nil {
			roles[a.ID] = true
		}
		return true
	})
	if err != nil {
		return nil, "", err
	}
	seen, now := 0, c.now()
	for _, prefix := range []string{secretAccessorPrefix, secretPrefix} { // as they are ordered
		if low := max(after, prefix); low < string(prefixEnd(prefix)) && seen < sweepScan {
			err := view.Scan(m.id, []byte(low), prefixEnd(prefix), func(rec storage.Record) bool {
				seen++
				next = string(rec.Key) + "\x00"
				role, _, _ := strings.Cut(strings.TrimPrefix(string(rec.Key), prefix), "/")
				var secret secretID
				if !roles[role] {
					keys = append(keys, string(rec.Key))
				} else if prefix == secretPrefix && json.Unmarshal(rec.Value, &secret) == nil && secret.expired(now) {
					keys = append(keys, string(rec.Key), secretAccessorPrefix+role+"/"+secret.Accessor)
				}
				return seen < sweepScan
			})
			if err != nil {
				return nil, "", err
			}
		}
	}
	if seen < sweepScan {
		next = ""
	}
	return keys, next, nil
}
