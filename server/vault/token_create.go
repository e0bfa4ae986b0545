package vault

import (
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
	case p.Type != "" && p.Type != typeService && p.Type != typeBatch && p.Type != "default":
		return refuse(errInvalid, "tokens of type %q do not exist: use service or batch", p.Type)
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
	case p.Period > maxPeriod:
		return refuse(errInvalid, "period is longer than ten years")
	}
	for k, v := range p.Meta {
		if len(k) > maxName || len(v) > maxName {
			return refuse(errInvalid, "a piece of meta is longer than %d bytes", maxName)
		}
	}
	return nil
}

func (c *Core) createToken(r *request, p *tokenParams) (*reply, error) {
	return c.makeToken(r, p, nil)
}

func (c *Core) createOrphan(r *request, p *tokenParams) (*reply, error) {
	return c.makeToken(r, p, &tokenRole{Orphan: true})
}

func (c *Core) createByRole(r *request, p *tokenParams) (*reply, error) {
	role, err := c.tokenRole(r.rest)
	if err != nil {
		return nil, err
	}
	if role == nil {
		return nil, refuse(errInvalid, "unknown role %s", r.rest)
	}
	return c.makeToken(r, p, role)
}

// makeToken answers auth/token/create. What goes beyond the parent's own rights needs a role that grants it, or sudo on the
// path, as in Vault.
func (c *Core) makeToken(r *request, p *tokenParams, role *tokenRole) (*reply, error) {
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
	privileged := parent.acl.on(r.path)&capSudo != 0
	switch {
	case parent.entry.batch:
		return nil, refuse(errInvalid, "batch tokens cannot create more tokens: use a service token")
	case parent.entry.NumUses > 0:
		return nil, refuse(errInvalid, "restricted use token cannot generate child tokens")
	case !privileged && (p.NoParent || p.Period > 0 || p.ID != ""):
		return nil, refuse(errInvalid, "root or sudo privileges required for no_parent, a period or a chosen id: leave them out, or use create-orphan or a role")
	}
	orphan := p.NoParent
	if role == nil {
		role = &tokenRole{}
	}
	policies, err := childPolicies(parent, p, role, privileged)
	if err != nil {
		return nil, err
	}
	rep := &reply{}
	entry, err := c.newToken(r, p, role, policies, orphan || role.Orphan, rep)
	if err != nil {
		return nil, err
	}
	rep.auth, err = c.issue(r, entry, p.ID)
	if err != nil {
		return nil, err
	}
	return rep, nil
}

// issue makes a token of an entry: a record, or for a batch token a signature.
func (c *Core) issue(r *request, t *tokenEntry, id string) (*authBody, error) {
	if t.batch {
		key, err := c.ensureBatchKey(r.ctx)
		if err != nil {
			return nil, err
		}
		text, err := key.sign(t)
		if err != nil {
			return nil, err
		}
		return authOf(text, t, t.left(t.Created)), nil
	}
	c.familyMu.RLock()
	defer c.familyMu.RUnlock()
	text := id
	if text == "" {
		text = servicePrefix + randomText(24)
	}
	hash, err := c.tokenHash(r, text)
	if err != nil {
		return nil, err
	}
	if err := c.store(r, hash, t); err != nil {
		return nil, err
	}
	return authOf(text, t, t.left(t.Created)), nil
}

// childPolicies returns the policies of a new token: those asked for, or the role's, or its parent's.
func childPolicies(parent *caller, p *tokenParams, role *tokenRole, privileged bool) ([]string, error) {
	isRoot := slices.Contains(parent.policies, rootPolicy)
	asked := cleanPolicies(p.Policies)
	withDefault := !p.NoDefaultPolicy && (privileged || slices.Contains(parent.policies, defaultPolicy))
	switch {
	case role.decides():
		withDefault = !p.NoDefaultPolicy && role.allowsDefault()
		if len(asked) == 0 {
			asked = cleanPolicies(role.Allowed)
		}
		if err := role.permits(asked); err != nil {
			return nil, err
		}
	case len(asked) == 0:
		asked = slices.Clone(parent.policies)
		if p.NoDefaultPolicy {
			asked = slices.DeleteFunc(asked, func(s string) bool { return s == defaultPolicy })
		}
		withDefault = withDefault && !isRoot
	case !privileged && !isRoot:
		for _, name := range asked {
			if !slices.Contains(parent.policies, name) && name != rootPolicy {
				return nil, refuse(errInvalid, "child policies must be subset of parent")
			}
		}
	}
	if slices.Contains(asked, rootPolicy) && !isRoot {
		return nil, refuse(errInvalid, "root tokens may not be created without parent token being root")
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

// cleanNames is cleanPolicies for lists in which root is a name like others.
func cleanNames(names []string) []string {
	out := make([]string, 0, len(names))
	for _, n := range names {
		if n = strings.ToLower(strings.TrimSpace(n)); n != "" {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// newToken decides all about a token once; what it shortens it says in a warning.
func (c *Core) newToken(r *request, p *tokenParams, role *tokenRole, policies []string, orphan bool, rep *reply) (*tokenEntry, error) {
	now := c.now().UTC()
	t := &tokenEntry{
		Accessor: randomText(24), Policies: policies, Path: r.path, Meta: p.Meta, Created: now, DisplayName: "token",
		NumUses: int(p.NumUses), ExplicitMax: shorter(p.ExplicitMax, role.ExplicitMax), Period: shorter(p.Period, role.Period),
		Renewable: role.renewable() && (p.Renewable == nil || *p.Renewable), CIDRs: role.CIDRs, batch: role.batch(p.Type),
	}
	if role.NumUses > 0 && (t.NumUses == 0 || int(role.NumUses) < t.NumUses) {
		t.NumUses = int(role.NumUses)
	}
	if p.DisplayName != "" {
		t.DisplayName = "token-" + displayName(p.DisplayName)
	}
	if r.rest != "" {
		t.Role, t.Path = r.rest, role.path(r.rest)
	}
	if err := t.setParent(r.caller, orphan); err != nil {
		return nil, err
	}
	if t.batch {
		if err := t.makeBatch(p); err != nil {
			return nil, err
		}
	}
	if t.root() && p.TTL == 0 && t.Period == 0 && t.ExplicitMax == 0 {
		if !r.caller.entry.Expires.IsZero() {
			return nil, refuse(errInvalid, "expiring root tokens cannot create non-expiring root tokens")
		}
		t.Renewable = false
		return t, nil
	}
	t.TTL = role.life(p).decide(rep)
	t.Expires = now.Add(t.TTL)
	return t, nil
}

// setParent binds a token to the one that made it.
func (t *tokenEntry) setParent(parent *caller, orphan bool) error {
	if orphan || parent.hash == "" { // the dev root token has no record to depend on
		return nil
	}
	t.Parent, t.Depth = parent.hash, parent.entry.Depth+1
	if t.Depth > maxDepth {
		return refuse(errInvalid, "tokens may not have descendants beyond %d generations: create an orphan", maxDepth)
	}
	return nil
}

// makeBatch refuses what a batch token cannot have.
func (t *tokenEntry) makeBatch(p *tokenParams) error {
	switch {
	case p.ID != "":
		return refuse(errInvalid, "batch tokens cannot have a chosen id: leave id out")
	case t.NumUses > 0 || t.Period > 0 || t.ExplicitMax > 0:
		return refuse(errInvalid, "batch tokens have no num_uses, no period and no explicit_max_ttl: leave them out")
	case t.root():
		return refuse(errInvalid, "batch tokens cannot be root tokens: name other policies")
	}
	t.Accessor, t.Renewable = "", false
	return nil
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
		LeaseDuration: seconds(ttl), Renewable: t.renewable(), TokenType: t.kind(),
		Orphan: t.Parent == "", NumUses: t.NumUses, IdentityPolicy: []string{},
	}
}

// seconds rounds up, so that a token that lives is never shown with 0.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
