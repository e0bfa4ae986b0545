package vault

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

const policyPrefix = "policy/"

// builtinDefault is the policy named default until somebody writes another: what a token may do about itself.
const builtinDefault = `# What every token may do about itself.
path "auth/token/lookup-self" {
    capabilities = ["read"]
}
path "auth/token/renew-self" {
    capabilities = ["update"]
}
path "auth/token/revoke-self" {
    capabilities = ["update"]
}
path "sys/capabilities-self" {
    capabilities = ["update"]
}
path "sys/internal/ui/resultant-acl" {
    capabilities = ["read"]
}
# Leases are named by ids that only their holders know.
path "sys/renew" {
    capabilities = ["update"]
}
path "sys/leases/renew" {
    capabilities = ["update"]
}
path "sys/leases/lookup" {
    capabilities = ["update"]
}
# A token's own small store, which dies with it.
path "cubbyhole/*" {
    capabilities = ["create", "read", "update", "delete", "list"]
}
path "sys/wrapping/wrap" {
    capabilities = ["update"]
}
path "sys/wrapping/lookup" {
    capabilities = ["update"]
}
path "sys/wrapping/unwrap" {
    capabilities = ["update"]
}
`

// aclOf returns what a list of policies allows; names without a policy allow nothing.
func (c *Core) aclOf(snap *snapshot, names []string) (*acl, error) {
	if slices.Contains(names, rootPolicy) {
		return rootACL, nil
	}
	key := fmt.Sprintf("%q", names) // quoted: whatever a name contains, no other list has this key
	snap.mu.Lock()
	a := snap.acls[key]
	snap.mu.Unlock()
	if a != nil {
		return a, nil
	}
	var policies []*policy
	for _, name := range names {
		p, err := c.loadPolicy(snap, name)
		if err != nil {
			return nil, err
		}
		if p != nil {
			policies = append(policies, p)
		}
	}
	a = newACL(policies)
	snap.mu.Lock()
	remember(snap.acls, key, a)
	snap.mu.Unlock()
	return a, nil
}

// parsedPolicy is a policy with the digest of the record that it was parsed from.
type parsedPolicy struct {
	*policy
	digest merkle.Digest
}

func (c *Core) loadPolicy(snap *snapshot, name string) (*policy, error) {
	snap.mu.Lock()
	p, old := snap.policies[name], snap.earlier[name]
	snap.mu.Unlock()
	if p != nil {
		return p.policy, nil
	}
	rec, ok, err := c.policyRecord(name)
	if err != nil || !ok {
		return nil, err
	}
	if p = old; p == nil || p.digest != rec.Digest {
		p = &parsedPolicy{digest: rec.Digest}
		if p.policy, err = parsePolicy(string(rec.Value)); err != nil {
			// It was checked when it was written, here or on a primary that knows more than this version. Fail closed.
			c.log.Error("a stored policy cannot be read and grants nothing", "policy", name, "error", err)
			p.policy = &policy{rules: []rule{{pattern: "*", caps: capDeny}}}
		}
	}
	snap.mu.Lock()
	remember(snap.policies, name, p)
	snap.mu.Unlock()
	return p.policy, nil
}

func (c *Core) policyText(name string) (string, bool, error) {
	rec, ok, err := c.policyRecord(name)
	return string(rec.Value), ok, err
}

// policyRecord returns a policy as it was written, or the one that is built in.
func (c *Core) policyRecord(name string) (storage.Record, bool, error) {
	if len(name) > maxName {
		return storage.Record{}, false, nil
	}
	rec, err := c.engine.Get(shared.id, []byte(policyPrefix+name))
	_, ok, err := found(rec, err)
	if err == nil && !ok && name == defaultPolicy {
		return storage.Record{Value: []byte(builtinDefault)}, true, nil
	}
	return rec, ok, err
}

func (c *Core) policyNames() ([]string, error) {
	names := []string{defaultPolicy, rootPolicy}
	view := c.engine.Snapshot()
	defer view.Release()
	err := view.Scan(shared.id, []byte(policyPrefix), prefixEnd(policyPrefix), func(rec storage.Record) bool {
		names = append(names, strings.TrimPrefix(string(rec.Key), policyPrefix))
		return true
	})
	slices.Sort(names)
	return slices.Compact(names), err
}

func (c *Core) listPolicies(r *request) (*reply, error) {
	names, err := c.policyNames()
	if err != nil {
		return nil, err
	}
	return &reply{data: map[string]any{"keys": names}}, nil
}

func (c *Core) listPoliciesLegacy(r *request) (*reply, error) {
	names, err := c.policyNames()
	if err != nil {
		return nil, err
	}
	return &reply{data: map[string]any{"keys": names, "policies": names}, inject: true}, nil
}

func (c *Core) readPolicy(r *request) (*reply, error) {
	text, ok, err := c.policyText(r.rest)
	if err != nil {
		return nil, err
	}
	if !ok && r.rest != rootPolicy {
		return nil, missing()
	}
	return &reply{data: map[string]any{"name": r.rest, "policy": text}}, nil
}

func (c *Core) readPolicyLegacy(r *request) (*reply, error) {
	text, ok, err := c.policyText(r.rest)
	if err != nil {
		return nil, err
	}
	if !ok && r.rest != rootPolicy {
		return nil, missing()
	}
	return &reply{data: map[string]any{"name": r.rest, "rules": text}, inject: true}, nil
}

type policyParams struct {
	Policy string `json:"policy"`
	Rules  string `json:"rules"`
}

func (c *Core) writePolicy(r *request, p *policyParams) (*reply, error) {
	name, text := r.rest, p.Policy
	if text == "" {
		text = p.Rules
	}
	if err := checkPolicyName(name); err != nil {
		return nil, err
	}
	if text == "" {
		return nil, refuse(errInvalid, "'policy' parameter not supplied or empty")
	}
	if plain, err := base64.StdEncoding.DecodeString(text); err == nil {
		text = string(plain) // some clients send policies in base64, and no policy is base64
	}
	if _, err := parsePolicy(text); err != nil {
		return nil, refuse(errInvalid, "%s", err)
	}
	return nil, c.commit(r, &engine.Tx{Writes: []engine.Write{shared.put(policyPrefix+name, []byte(text))}})
}

func checkPolicyName(name string) error {
	if name == rootPolicy || name == "response-wrapping" {
		return refuse(errInvalid, "cannot update %q policy", name)
	}
	if len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || r == ',' }) {
		return refuse(errInvalid, "a policy's name has no spaces and commas and at most %d bytes", maxName)
	}
	return nil
}

func (c *Core) deletePolicy(r *request) (*reply, error) {
	if r.rest == rootPolicy || r.rest == defaultPolicy || r.rest == "response-wrapping" {
		return nil, refuse(errInvalid, "cannot delete %q policy", r.rest)
	}
	if len(r.rest) > maxName {
		return nil, nil
	}
	return nil, c.commit(r, &engine.Tx{Writes: []engine.Write{shared.del(policyPrefix + r.rest)}})
}

// ---- capabilities

type capabilitiesParams struct {
	Path     []string `json:"path"`
	Paths    []string `json:"paths"`
	Token    string   `json:"token"`
	Accessor string   `json:"accessor"`
}

func (c *Core) capabilitiesSelf(r *request, p *capabilitiesParams) (*reply, error) {
	return p.answer(r.caller.acl)
}

func (c *Core) capabilities(r *request, p *capabilitiesParams) (*reply, error) {
	cred, err := c.named(p.Token)
	if errors.Is(err, errDenied) {
		return nil, refuse(errInvalid, "invalid token")
	}
	if err != nil {
		return nil, err
	}
	return c.capabilitiesOf(cred, p)
}

func (c *Core) capabilitiesAccessor(r *request, p *capabilitiesParams) (*reply, error) {
	cred, err := c.byAccessor(p.Accessor)
	if err != nil {
		return nil, err
	}
	return c.capabilitiesOf(cred, p)
}

func (c *Core) capabilitiesOf(cred *credential, p *capabilitiesParams) (*reply, error) {
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	a, err := c.aclOf(snap, cred.entry.Policies)
	if err != nil {
		return nil, err
	}
	return p.answer(a)
}

func (p *capabilitiesParams) answer(a *acl) (*reply, error) {
	paths := p.Paths
	if len(paths) == 0 {
		paths = p.Path
	}
	if len(paths) == 0 {
		return nil, refuse(errInvalid, "paths must be supplied")
	}
	data := map[string]any{}
	for _, path := range paths {
		names := []string{"root"}
		if !a.root {
			names = a.on(strings.TrimPrefix(path, "/")).names()
		}
		data[path] = names
		if len(paths) == 1 {
			data["capabilities"] = names
		}
	}
	return &reply{data: data, inject: true}, nil
}
