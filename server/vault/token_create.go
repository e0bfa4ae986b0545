package vault

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// tokenParams are the parameters of auth/token/create.
type tokenParams struct {
	ID              string            `json:"id"`
	Policies        []string          `json:"policies"`
	Meta            map[string]string `json:"meta"`
	Metadata        map[string]string `json:"metadata"`
	TTL             time.Duration     `json:"ttl"`
	Lease           time.Duration     `json:"lease"`
	ExplicitMax     time.Duration     `json:"explicit_max_ttl"`
	Period          time.Duration     `json:"period"`
	NoParent        bool              `json:"no_parent"`
	NoDefaultPolicy bool              `json:"no_default_policy"`
	DisplayName     string            `json:"display_name"`
	NumUses         int64             `json:"num_uses"`
	Renewable       *bool             `json:"renewable"`
	Type            string            `json:"type"`
	EntityAlias     string            `json:"entity_alias"`
}

const (
	maxTokenPolicies = 200
	maxMeta          = 64
	maxName          = 512 // bytes of a name or of a piece of metadata
)

func (p *tokenParams) validate() error {
	switch {
	case p.Type != "" && p.Type != "service" && p.Type != "default":
		return refuse(errInvalid, "tokens of type %q are not supported: leave type out, or use service", p.Type)
	case p.EntityAlias != "":
		return refuse(errInvalid, "entity_alias is not supported: there are no entities here")
	case strings.HasPrefix(p.ID, servicePrefix) || strings.HasPrefix(p.ID, "s.") || strings.Contains(p.ID, "."):
		return refuse(errInvalid, "a custom token ID cannot contain '.'")
	case len(p.ID) > maxTokenText || len(p.DisplayName) > maxName || len(p.Policies) > maxTokenPolicies || len(p.Meta) > maxMeta:
		return refuse(errInvalid, "id, display_name, policies or meta is too long")
	case p.NumUses < 0 || p.NumUses > 1<<31-1:
		return refuse(errInvalid, "number of uses cannot be negative or above %d", 1<<31-1)
	case p.TTL < 0 || p.Lease < 0 || p.ExplicitMax < 0 || p.Period < 0:
		return refuse(errInvalid, "ttl, explicit_max_ttl and period cannot be negative")
	case p.Period > 10*365*day:
		return refuse(errInvalid, "period is longer than ten years")
	}
	for k, v := range p.Meta {
		if len(k) > maxName || len(v) > maxName {
			return refuse(errInvalid, "a piece of meta is longer than %d bytes", maxName)
		}
	}
	return nil
}

func (c *Core) createOrphan(r *request, p *tokenParams) (*reply, error) {
	p.NoParent = true
	return c.createToken(r, p)
}

// createToken answers auth/token/create. What goes beyond the parent's own rights needs sudo on the path, as in Vault.
func (c *Core) createToken(r *request, p *tokenParams) (*reply, error) {
	if p.Meta == nil {
		p.Meta = p.Metadata
	}
	if p.TTL == 0 {
		p.TTL = p.Lease
	}
	if err := p.validate(); err != nil {
		return nil, err
	}
	parent := r.caller
	if parent.entry.NumUses > 0 {
		return nil, refuse(errInvalid, "restricted use token cannot generate child tokens")
	}
	privileged := parent.acl.on(r.path)&capSudo != 0
	if !privileged && (p.NoParent || p.Period > 0 || p.ID != "") {
		return nil, refuse(errInvalid, "root or sudo privileges required for an orphan, a period or a chosen id")
	}
	policies, err := c.childPolicies(parent, p, privileged)
	if err != nil {
		return nil, err
	}
	rep := &reply{}
	entry, err := c.newToken(parent, p, policies, rep)
	if err != nil {
		return nil, err
	}
	c.familyMu.RLock()
	defer c.familyMu.RUnlock()
	text := p.ID
	if text == "" {
		text = servicePrefix + randomText(24)
	}
	hash, err := c.tokenHash(r, text)
	if err != nil {
		return nil, err
	}
	if err := c.store(r, hash, entry); err != nil {
		return nil, err
	}
	rep.auth = authOf(text, entry, entry.left(entry.Created))
	return rep, nil
}

// childPolicies returns the policies of a new token: those asked for, or its parent's.
func (c *Core) childPolicies(parent *caller, p *tokenParams, privileged bool) ([]string, error) {
	isRoot := slices.Contains(parent.policies, rootPolicy)
	asked := cleanPolicies(p.Policies)
	withDefault := !p.NoDefaultPolicy && (privileged || slices.Contains(parent.policies, defaultPolicy))
	switch {
	case len(asked) == 0:
		asked = slices.Clone(parent.policies)
		if p.NoDefaultPolicy {
			asked = slices.DeleteFunc(asked, func(s string) bool { return s == defaultPolicy })
		}
		withDefault = withDefault && !isRoot
	case slices.Contains(asked, rootPolicy) && !isRoot:
		return nil, refuse(errInvalid, "root tokens may not be created without parent token being root")
	case !privileged:
		for _, name := range asked {
			if !slices.Contains(parent.policies, name) {
				return nil, refuse(errInvalid, "child policies must be subset of parent")
			}
		}
	}
	if withDefault {
		asked = append(asked, defaultPolicy)
	}
	return cleanPolicies(asked), nil
}

// cleanPolicies lower-cases, sorts and dedupes names; root stands alone.
func cleanPolicies(names []string) []string {
	out := make([]string, 0, len(names))
	for _, n := range names {
		n = strings.ToLower(strings.TrimSpace(n))
		if n == rootPolicy {
			return []string{rootPolicy}
		}
		if n != "" {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// newToken decides the life of a token once; what it shortens it says in a warning.
func (c *Core) newToken(parent *caller, p *tokenParams, policies []string, rep *reply) (*tokenEntry, error) {
	now := c.now().UTC()
	t := &tokenEntry{
		Accessor: randomText(24), Policies: policies, Path: "auth/token/create", Meta: p.Meta, Created: now,
		NumUses: int(p.NumUses), ExplicitMax: p.ExplicitMax, Period: p.Period, DisplayName: "token",
		Renewable: p.Renewable == nil || *p.Renewable,
	}
	if p.DisplayName != "" {
		t.DisplayName = "token-" + displayName(p.DisplayName)
	}
	if !p.NoParent {
		t.Parent, t.Depth = parent.hash, parent.entry.Depth+1
		if t.Depth > maxDepth {
			return nil, refuse(errInvalid, "tokens may not have descendants beyond %d generations: create an orphan", maxDepth)
		}
	}
	if p.NoParent {
		t.Path = "auth/token/create-orphan"
	}
	if t.root() && p.TTL == 0 && p.Period == 0 && p.ExplicitMax == 0 {
		if !parent.entry.Expires.IsZero() {
			return nil, refuse(errInvalid, "expiring root tokens cannot create non-expiring root tokens")
		}
		t.Renewable = false
		return t, nil
	}
	t.TTL = lifetime(p, rep)
	t.Expires = now.Add(t.TTL)
	return t, nil
}

func lifetime(p *tokenParams, rep *reply) time.Duration {
	ttl, limit := p.TTL, maxTTL
	if p.Period > 0 {
		ttl, limit = p.Period, p.Period
	}
	if ttl == 0 {
		ttl = maxTTL
	}
	if p.ExplicitMax > 0 && (p.Period > 0 || p.ExplicitMax < limit) {
		limit = min(limit, p.ExplicitMax)
	}
	if ttl > limit {
		if p.TTL > limit {
			rep.warn(fmt.Sprintf("TTL of %q exceeded the effective max_ttl of %q; TTL value is capped accordingly", p.TTL, limit))
		}
		ttl = limit
	}
	return max(ttl, time.Second)
}

// displayName keeps of a name what is safe to show anywhere.
func displayName(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			return c
		}
		return '-'
	}, s)
}

func authOf(text string, t *tokenEntry, ttl time.Duration) *authBody {
	return &authBody{
		ClientToken: text, Accessor: t.Accessor, Policies: t.Policies, TokenPolicies: t.Policies, Metadata: t.Meta,
		LeaseDuration: seconds(ttl), Renewable: t.Renewable && !t.Expires.IsZero(), TokenType: "service",
		Orphan: t.Parent == "", NumUses: t.NumUses,
	}
}

// seconds rounds up, so that a token that lives is never shown with 0.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
