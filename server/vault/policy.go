package vault

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// capability is a set of rights on a path.
type capability uint16

const (
	capDeny capability = 1 << iota
	capCreate
	capRead
	capUpdate
	capDelete
	capList
	capPatch
	capSudo
)

var capabilityNames = map[string]capability{
	"deny": capDeny, "create": capCreate, "read": capRead, "update": capUpdate,
	"delete": capDelete, "list": capList, "patch": capPatch, "sudo": capSudo,
}

// shorthand is the old way to write capabilities: policy = "read".
var shorthand = map[string]capability{
	"deny":  capDeny,
	"read":  capRead | capList,
	"write": capCreate | capRead | capUpdate | capDelete | capList,
	"sudo":  capCreate | capRead | capUpdate | capDelete | capList | capSudo,
}

// names returns the capabilities in order; an empty set is deny.
func (c capability) names() []string {
	out := []string{}
	for name, bit := range capabilityNames {
		if c&bit != 0 {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return []string{"deny"}
	}
	slices.Sort(out)
	return out
}

// rule grants capabilities on the paths that a pattern matches: '+' stands for one segment, '*' at the end for anything.
type rule struct {
	pattern string
	caps    capability
	limits  *limits // nil: none
}

// policy is one parsed ACL policy.
type policy struct {
	rules []rule
}

const (
	maxPolicyText  = 512 << 10
	maxPolicyRules = 20000
	maxPolicyNest  = 16
)

// parsePolicy reads HCL or JSON. What it does not understand it refuses: a policy that is silently half understood grants
// or denies something else than its author thinks.
func parsePolicy(text string) (*policy, error) {
	if len(text) > maxPolicyText {
		return nil, fmt.Errorf("the policy is longer than %d bytes", maxPolicyText)
	}
	trimmed := strings.TrimSpace(text)
	if trimmed == "" {
		return nil, fmt.Errorf("the policy is empty")
	}
	var p *policy
	var err error
	if trimmed[0] == '{' {
		p, err = parsePolicyJSON(trimmed)
	} else {
		p, err = parsePolicyHCL(text)
	}
	if err != nil {
		return nil, err
	}
	if len(p.rules) > maxPolicyRules {
		return nil, fmt.Errorf("the policy has more than %d paths", maxPolicyRules)
	}
	return p, nil
}

// pathStanza is one path block, however it was written.
type pathStanza struct {
	path         string
	capabilities []string
	policy       string
	limits       limits
}

func (s pathStanza) rule() (rule, error) {
	r := rule{pattern: strings.TrimPrefix(s.path, "/")}
	if strings.Contains(r.pattern, "+*") {
		return r, fmt.Errorf("path %q: invalid use of wildcards ('+*' is forbidden)", s.path)
	}
	if strings.Contains(r.pattern, "{{") {
		return r, fmt.Errorf("path %q: templates are not supported, there are no identities here", s.path)
	}
	if s.policy != "" {
		caps, ok := shorthand[s.policy]
		if !ok {
			return r, fmt.Errorf("path %q: invalid policy %q", s.path, s.policy)
		}
		r.caps = caps
	}
	for _, name := range s.capabilities {
		bit, ok := capabilityNames[name]
		if !ok {
			return r, fmt.Errorf("path %q: invalid capability %q", s.path, name)
		}
		r.caps |= bit
	}
	if r.caps&capDeny != 0 {
		r.caps = capDeny
	}
	if l := s.limits; l.maxWrap > 0 && l.maxWrap < l.minWrap {
		return r, fmt.Errorf("path %q: max_wrapping_ttl is less than min_wrapping_ttl", s.path)
	}
	if !s.limits.empty() {
		r.limits = &s.limits
	}
	return r, nil
}

// unsupported are settings of a path that Vault knows and that would be dangerous to ignore.
var unsupported = map[string]bool{
	"control_group": true, "mfa_methods": true, "allowed_response_fields": true,
	"subscribe_event_types": true, "pagination_limit": true, "list_scan_response_keys_filter_path": true,
	"response_keys_filter_path": true, "expiration": true,
}

func unknownSetting(path, name string) error {
	if unsupported[name] {
		return fmt.Errorf("path %q: %s is not supported yet, and ignoring it would grant more than was meant", path, name)
	}
	return fmt.Errorf("path %q: invalid key %q", path, name)
}

// ---- HCL

var noRange = hcl.Pos{Line: 1, Column: 1}

func parsePolicyHCL(text string) (*policy, error) {
	if err := checkTokens([]byte(text)); err != nil {
		return nil, err
	}
	file, diags := hclsyntax.ParseConfig([]byte(text), "policy", noRange)
	if diags.HasErrors() {
		return nil, diagError(diags)
	}
	body, ok := file.Body.(*hclsyntax.Body)
	if !ok {
		return nil, fmt.Errorf("failed to parse policy")
	}
	for name := range body.Attributes {
		if name != "name" {
			return nil, fmt.Errorf("failed to parse policy: invalid key %q", name)
		}
	}
	p := &policy{}
	for _, block := range body.Blocks {
		stanza, err := pathBlock(block)
		if err != nil {
			return nil, err
		}
		r, err := stanza.rule()
		if err != nil {
			return nil, err
		}
		p.rules = append(p.rules, r)
	}
	return p, nil
}

func pathBlock(b *hclsyntax.Block) (pathStanza, error) {
	if b.Type != "path" || len(b.Labels) != 1 {
		return pathStanza{}, fmt.Errorf("line %d: only blocks of the form path \"...\" { ... } are known", b.TypeRange.Start.Line)
	}
	s := pathStanza{path: b.Labels[0]}
	for _, sub := range b.Body.Blocks {
		return s, unknownSetting(s.path, sub.Type)
	}
	for name, attr := range b.Body.Attributes {
		value, diags := attr.Expr.Value(nil)
		if diags.HasErrors() {
			return s, diagError(diags)
		}
		ok := true
		switch name {
		case "capabilities":
			s.capabilities, ok = textList(value)
		case "policy":
			s.policy, ok = text(value)
		case "description", "comment":
		default:
			if !limitNames[name] {
				return s, unknownSetting(s.path, name)
			}
			var v setting
			if v, ok = hclSetting(name, value); ok {
				if err := s.set(name, v); err != nil {
					return s, err
				}
			}
		}
		if !ok {
			return s, fmt.Errorf("path %q: %s has the wrong type", s.path, name)
		}
	}
	return s, nil
}

func text(v cty.Value) (string, bool) {
	if v.IsNull() || !v.IsKnown() || v.Type() != cty.String {
		return "", false
	}
	return v.AsString(), true
}

func textList(v cty.Value) ([]string, bool) {
	if v.IsNull() || !v.IsKnown() || !v.Type().IsTupleType() {
		return nil, false
	}
	var out []string
	for _, item := range v.AsValueSlice() {
		s, ok := text(item)
		if !ok {
			return nil, false
		}
		out = append(out, s)
	}
	return out, true
}

// policyTokens are the words a policy is made of. Others (operators, functions, templates, heredocs) have no meaning in
// one, and the parser would recurse into them as deep as their author likes.
var policyTokens = map[hclsyntax.TokenType]bool{
	hclsyntax.TokenOBrace: true, hclsyntax.TokenCBrace: true, hclsyntax.TokenOBrack: true, hclsyntax.TokenCBrack: true,
	hclsyntax.TokenOQuote: true, hclsyntax.TokenCQuote: true, hclsyntax.TokenQuotedLit: true, hclsyntax.TokenIdent: true,
	hclsyntax.TokenComma: true, hclsyntax.TokenEqual: true, hclsyntax.TokenNewline: true, hclsyntax.TokenComment: true,
	hclsyntax.TokenNumberLit: true, hclsyntax.TokenColon: true, hclsyntax.TokenEOF: true,
}

func checkTokens(text []byte) error {
	tokens, diags := hclsyntax.LexConfig(text, "policy", noRange)
	if diags.HasErrors() {
		return diagError(diags)
	}
	depth := 0
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack:
			depth++
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack:
			depth--
		}
		if !policyTokens[t.Type] || depth > maxPolicyNest {
			return fmt.Errorf("failed to parse policy: line %d, column %d: this has no meaning in a policy", t.Range.Start.Line, t.Range.Start.Column)
		}
	}
	return nil
}

func diagError(diags hcl.Diagnostics) error {
	for _, d := range diags {
		if d.Severity == hcl.DiagError && d.Subject != nil {
			return fmt.Errorf("failed to parse policy: line %d, column %d: %s", d.Subject.Start.Line, d.Subject.Start.Column, d.Summary)
		}
	}
	return fmt.Errorf("failed to parse policy")
}

// ---- JSON

func parsePolicyJSON(text string) (*policy, error) {
	var top struct {
		Name string                                `json:"name"`
		Path map[string]map[string]json.RawMessage `json:"path"`
	}
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&top); err != nil {
		return nil, fmt.Errorf("failed to parse policy: want {\"path\": {\"...\": {\"capabilities\": [...]}}}")
	}
	if d.More() {
		return nil, fmt.Errorf("failed to parse policy: something follows the JSON object")
	}
	p := &policy{}
	for path, settings := range top.Path {
		s := pathStanza{path: path}
		for name, raw := range settings {
			var err error
			switch name {
			case "capabilities":
				err = json.Unmarshal(raw, &s.capabilities)
			case "policy":
				err = json.Unmarshal(raw, &s.policy)
			case "description", "comment":
			default:
				if !limitNames[name] {
					return nil, unknownSetting(path, name)
				}
				var v setting
				if v, err = jsonSetting(name, raw); err == nil {
					if err := s.set(name, v); err != nil {
						return nil, err
					}
				}
			}
			if err != nil {
				return nil, fmt.Errorf("path %q: %s has the wrong type", path, name)
			}
		}
		r, err := s.rule()
		if err != nil {
			return nil, err
		}
		p.rules = append(p.rules, r)
	}
	slices.SortFunc(p.rules, func(a, b rule) int { return strings.Compare(a.pattern, b.pattern) })
	return p, nil
}
