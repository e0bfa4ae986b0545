package vault

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// tokenSettings are the parameters, the same for all, of what gives out tokens: token roles and the accounts of auth methods.
type tokenSettings struct {
	Policies    []string      `json:"token_policies"`
	TTL         time.Duration `json:"token_ttl"`
	MaxTTL      time.Duration `json:"token_max_ttl"`
	ExplicitMax time.Duration `json:"token_explicit_max_ttl"`
	Period      time.Duration `json:"token_period"`
	CIDRs       []string      `json:"token_bound_cidrs"`
	NoDefault   bool          `json:"token_no_default_policy"`
	NumUses     int64         `json:"token_num_uses"`
	Type        string        `json:"token_type"`
}

const (
	maxCIDRs  = 64
	maxPeriod = 10 * 365 * day
)

func (s *tokenSettings) validate() error {
	s.Policies = cleanPolicies(s.Policies)
	switch {
	case len(s.Policies) > maxTokenPolicies:
		return refuse(errInvalid, "token_policies has more than %d names", maxTokenPolicies)
	case slices.Contains(s.Policies, rootPolicy):
		return refuse(errInvalid, "root tokens are not given out: leave root out of token_policies")
	case s.TTL < 0 || s.MaxTTL < 0 || s.ExplicitMax < 0 || s.Period < 0:
		return refuse(errInvalid, "token_ttl, token_max_ttl, token_explicit_max_ttl and token_period cannot be negative")
	case max(s.TTL, s.MaxTTL, s.ExplicitMax, s.Period) > maxPeriod:
		return refuse(errInvalid, "token_ttl, token_max_ttl, token_explicit_max_ttl or token_period is longer than ten years")
	case s.MaxTTL > 0 && s.TTL > s.MaxTTL:
		return refuse(errInvalid, "token_ttl is greater than token_max_ttl")
	case s.NumUses < 0 || s.NumUses > 1<<31-1:
		return refuse(errInvalid, "token_num_uses cannot be negative or above %d", 1<<31-1)
	}
	switch s.Type {
	case "", "default", typeService, typeBatch, "default-service", "default-batch":
	default:
		return refuse(errInvalid, "token_type must be service, batch, default-service, default-batch or default")
	}
	if s.Type == typeBatch && (s.Period > 0 || s.NumUses > 0 || s.ExplicitMax > 0) {
		return refuse(errInvalid, "batch tokens have no period, no number of uses and no explicit maximum: leave those out, or token_type batch")
	}
	var err error
	s.CIDRs, err = cleanCIDRs(s.CIDRs)
	return err
}

func (s *tokenSettings) describe() map[string]any {
	return map[string]any{
		"token_policies": orEmpty(s.Policies), "token_ttl": seconds(s.TTL), "token_max_ttl": seconds(s.MaxTTL),
		"token_explicit_max_ttl": seconds(s.ExplicitMax), "token_period": seconds(s.Period), "token_bound_cidrs": orEmpty(s.CIDRs),
		"token_no_default_policy": s.NoDefault, "token_num_uses": s.NumUses, "token_type": cmp.Or(s.Type, "default"),
	}
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// batch decides between the two types: what the settings fix, else what was asked for, else their default.
func (s *tokenSettings) batch(asked string) bool {
	switch s.Type {
	case typeService, typeBatch:
		return s.Type == typeBatch
	}
	if asked == typeService || asked == typeBatch {
		return asked == typeBatch
	}
	return s.Type == "default-batch"
}

// life decides how long a token lives; what it shortens it says in a warning. fallback is what it gets unasked.
type life struct {
	asked, fallback, limit, period, explicit time.Duration
}

func (l life) decide(rep *reply) time.Duration {
	ttl, limit := cmp.Or(l.asked, l.fallback), l.limit
	if l.period > 0 {
		ttl, limit = l.period, l.period
	}
	if l.explicit > 0 {
		limit = min(limit, l.explicit)
	}
	if ttl > limit {
		if l.asked > limit {
			rep.warn(fmt.Sprintf("TTL of %q exceeded the effective max_ttl of %q; TTL value is capped accordingly", l.asked, limit))
		}
		ttl = limit
	}
	return max(ttl, time.Second)
}

// cleanCIDRs gives networks one spelling; an address alone is a network of one.
func cleanCIDRs(list []string) ([]string, error) {
	if len(list) > maxCIDRs {
		return nil, refuse(errInvalid, "more than %d networks are named", maxCIDRs)
	}
	out := []string{}
	for _, text := range list {
		p, err := parseCIDR(strings.TrimSpace(text))
		if err != nil {
			return nil, refuse(errInvalid, "%q is no network: write it like 10.1.0.0/16", text)
		}
		out = append(out, p.Masked().String())
	}
	return out, nil
}

func parseCIDR(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		return netip.ParsePrefix(text)
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// withinCIDRs tells whether a client's address is in one of the networks; no networks bind nobody.
func withinCIDRs(remote string, cidrs []string) bool {
	if len(cidrs) == 0 {
		return true
	}
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(cidrs, func(text string) bool {
		p, err := parseCIDR(text)
		return err == nil && p.Contains(a)
	})
}
