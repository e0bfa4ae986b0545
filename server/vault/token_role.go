package vault

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

const rolePrefix = "token/role/"

// tokenRole is a record of replicated scope: what auth/token/create/<name> may make.
type tokenRole struct {
	tokenSettings
	Allowed        []string `json:"allowed_policies"`
	Disallowed     []string `json:"disallowed_policies"`
	AllowedGlob    []string `json:"allowed_policies_glob"`
	DisallowedGlob []string `json:"disallowed_policies_glob"`
	EntityAliases  []string `json:"allowed_entity_aliases"`
	Orphan         bool     `json:"orphan"`
	Renewable      *bool    `json:"renewable"`
	PathSuffix     string   `json:"path_suffix"`
}

func (ro *tokenRole) renewable() bool { return ro.Renewable == nil || *ro.Renewable }

func (ro *tokenRole) validate() error {
	ro.Allowed, ro.Disallowed = cleanNames(ro.Allowed), cleanNames(ro.Disallowed)
	ro.AllowedGlob, ro.DisallowedGlob = cleanNames(ro.AllowedGlob), cleanNames(ro.DisallowedGlob) // names of policies are lower case
	for _, list := range [][]string{ro.Allowed, ro.Disallowed, ro.AllowedGlob, ro.DisallowedGlob, ro.EntityAliases} {
		if len(list) > maxTokenPolicies {
			return refuse(errInvalid, "a list of the role has more than %d names", maxTokenPolicies)
		}
	}
	if len(ro.Policies) > 0 || ro.TTL > 0 || ro.MaxTTL > 0 {
		return refuse(errInvalid, "a token role has allowed_policies, token_period and token_explicit_max_ttl: leave token_policies, token_ttl and token_max_ttl out")
	}
	if len(ro.PathSuffix) > maxName || strings.Contains(ro.PathSuffix, "..") || ro.PathSuffix != "" && !plainName(ro.PathSuffix) {
		return refuse(errInvalid, "path_suffix has letters, digits, '-', '_' and '.' only")
	}
	if err := ro.tokenSettings.validate(); err != nil {
		return err
	}
	if ro.Type == typeBatch && (!ro.Orphan || ro.renewable()) {
		return refuse(errInvalid, "a role of token_type batch needs orphan true and renewable false")
	}
	return nil
}

// plainName tells whether a name is made of letters, digits, '-', '_' and '.' only.
func plainName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return c != '-' && c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
	})
}

func (ro *tokenRole) describe(name string) map[string]any {
	data := ro.tokenSettings.describe()
	for _, unused := range []string{"token_policies", "token_ttl", "token_max_ttl"} {
		delete(data, unused)
	}
	data["name"], data["orphan"], data["renewable"], data["path_suffix"] = name, ro.Orphan, ro.renewable(), ro.PathSuffix
	data["allowed_policies"], data["disallowed_policies"] = orEmpty(ro.Allowed), orEmpty(ro.Disallowed)
	data["allowed_policies_glob"], data["disallowed_policies_glob"] = orEmpty(ro.AllowedGlob), orEmpty(ro.DisallowedGlob)
	data["allowed_entity_aliases"] = orEmpty(ro.EntityAliases)
	data["period"], data["explicit_max_ttl"] = seconds(ro.Period), seconds(ro.ExplicitMax) // the old names
	data["token_type"] = cmp.Or(ro.Type, "default-service")
	return data
}

// permits judges the policies that somebody asks of the role.
func (ro *tokenRole) permits(asked []string) error {
	for _, name := range asked {
		if name == defaultPolicy && ro.allowsDefault() {
			continue
		}
		if slices.Contains(ro.Disallowed, name) || anyMatches(ro.DisallowedGlob, []string{name}) {
			return refuse(errInvalid, "token policy %q is disallowed by this role", name)
		}
		if len(ro.Allowed)+len(ro.AllowedGlob) > 0 && !slices.Contains(ro.Allowed, name) && !anyMatches(ro.AllowedGlob, []string{name}) {
			return refuse(errInvalid, "token policies (%q) must be subset of the role's allowed policies (%q) or glob policies (%q)", asked, ro.Allowed, ro.AllowedGlob)
		}
	}
	return nil
}

// decides tells whether the role, and not the parent, decides about policies.
func (ro *tokenRole) decides() bool {
	return len(ro.Allowed)+len(ro.Disallowed)+len(ro.AllowedGlob)+len(ro.DisallowedGlob) > 0
}

func (ro *tokenRole) allowsDefault() bool {
	return !ro.NoDefault && !slices.Contains(ro.Disallowed, defaultPolicy) && !anyMatches(ro.DisallowedGlob, []string{defaultPolicy})
}

// path is what a token of the role shows as its origin.
func (ro *tokenRole) path(name string) string {
	path := "auth/token/create/" + name
	if ro.PathSuffix != "" {
		path += "/" + ro.PathSuffix
	}
	return path
}

func (c *Core) tokenRole(name string) (*tokenRole, error) {
	if len(name) > maxName {
		return nil, nil
	}
	value, ok, err := c.get(shared, rolePrefix+name)
	if err != nil || !ok {
		return nil, err
	}
	var ro tokenRole
	if err := json.Unmarshal(value, &ro); err != nil {
		return nil, fmt.Errorf("token role %s: %w", name, err)
	}
	return &ro, nil
}

func (c *Core) readTokenRole(r *request) (*reply, error) {
	ro, err := c.tokenRole(r.rest)
	if err != nil {
		return nil, err
	}
	if ro == nil {
		return nil, missing()
	}
	return &reply{data: ro.describe(r.rest)}, nil
}

// writeTokenRole makes a role or changes what is given of one.
func (c *Core) writeTokenRole(r *request) (*reply, error) {
	if !plainName(r.rest) || len(r.rest) > maxName {
		return nil, refuse(errInvalid, "a role's name has letters, digits, '-', '_' and '.' only")
	}
	f, err := r.fields()
	if err != nil {
		return nil, err
	}
	f.alias("period", "token_period")
	f.alias("explicit_max_ttl", "token_explicit_max_ttl")
	f.alias("bound_cidrs", "token_bound_cidrs")
	var ro tokenRole
	return c.update(r, shared, rolePrefix+r.rest, f, &ro, ro.validate, nil)
}

// update changes what is given of a JSON record, in one transaction; a record that is not there yet begins empty. into is
// filled with the result. first, when not nil, judges a new record and may complete it.
func (c *Core) update(r *request, s space, key string, f fields, into any, validate func() error, first func() error) (*reply, error) {
	var unknown []string
	err := c.commit(r, &engine.Tx{
		Reads: []engine.Key{s.key(key)},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			value, ok, err := read(rd, s, key)
			if err != nil {
				return nil, err
			}
			if err := r.permits(ok); err != nil {
				return nil, err
			}
			if ok {
				if err := json.Unmarshal(value, into); err != nil {
					return nil, fmt.Errorf("record %s: %w", key, err)
				}
			}
			if unknown, err = f.decode(into); err != nil {
				return nil, err
			}
			if !ok && first != nil {
				if err := first(); err != nil {
					return nil, err
				}
			}
			if err := validate(); err != nil {
				return nil, err
			}
			if value, err = marshal(into); err != nil {
				return nil, err
			}
			return []engine.Write{s.put(key, value)}, nil
		},
	})
	if err != nil || len(unknown) == 0 {
		return nil, err
	}
	return warned(ignored(unknown)), nil
}

func ignored(unknown []string) string {
	return "these parameters are not known here and were ignored: " + strings.Join(unknown, ", ")
}

func (c *Core) deleteTokenRole(r *request) (*reply, error) {
	if len(r.rest) > maxName {
		return nil, nil
	}
	return nil, c.commit(r, &engine.Tx{Writes: []engine.Write{shared.del(rolePrefix + r.rest)}})
}

func (c *Core) listTokenRoles(r *request) (*reply, error) { return c.listNames(shared, rolePrefix) }

// listNames lists what follows a prefix in the keys of a keyspace.
func (c *Core) listNames(s space, prefix string) (*reply, error) {
	view := c.engine.Snapshot()
	defer view.Release()
	keys := []string{}
	err := view.Scan(s.id, []byte(prefix), prefixEnd(prefix), func(rec storage.Record) bool {
		keys = append(keys, strings.TrimPrefix(string(rec.Key), prefix))
		return len(keys) < maxListed
	})
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, missing()
	}
	return &reply{data: map[string]any{"keys": keys}}, nil
}

// life is how long a token of the role lives.
func (ro *tokenRole) life(p *tokenParams) life {
	l := life{asked: p.TTL, fallback: maxTTL, limit: maxTTL, period: p.Period, explicit: p.ExplicitMax}
	l.period = shorter(l.period, ro.Period)
	l.explicit = shorter(l.explicit, ro.ExplicitMax)
	return l
}

// shorter returns the shorter of two times, of which 0 means none.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}
