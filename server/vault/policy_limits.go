package vault

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"
)

// limits narrow what a rule grants: which parameters a write may, must not and must carry, and how long its answer is to
// be wrapped. Names of parameters are in lower case.
type limits struct {
	allowed  map[string][]string // values as texts; an empty list: any value
	denied   map[string][]string
	required []string
	minWrap  time.Duration // 0: none
	maxWrap  time.Duration
}

func (l *limits) empty() bool {
	return len(l.allowed) == 0 && len(l.denied) == 0 && len(l.required) == 0 && l.minWrap == 0 && l.maxWrap == 0
}

// mergeLimits joins what two rules say of one pattern, as Vault does: lists grow, no list of values means any value, and
// of two times the more generous holds.
func mergeLimits(a, b *limits) *limits {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	out := &limits{
		allowed: mergeValues(a.allowed, b.allowed), denied: mergeValues(a.denied, b.denied),
		required: slices.Concat(a.required, b.required),
		minWrap:  a.minWrap, maxWrap: max(a.maxWrap, b.maxWrap),
	}
	if out.minWrap == 0 || b.minWrap > 0 && b.minWrap < out.minWrap {
		out.minWrap = b.minWrap
	}
	slices.Sort(out.required)
	out.required = slices.Compact(out.required)
	return out
}

func mergeValues(a, b map[string][]string) map[string][]string {
	out := map[string][]string{}
	for name, values := range a {
		out[name] = values
	}
	for name, values := range b {
		old, both := out[name]
		switch {
		case !both:
			out[name] = values
		case len(old) == 0 || len(values) == 0:
			out[name] = nil
		default:
			out[name] = slices.Concat(old, values)
		}
	}
	return out
}

// permit judges a request whose capabilities are granted.
func (l *limits) permit(r *request) error {
	if l.maxWrap > 0 && (r.wrapTTL == 0 || r.wrapTTL > l.maxWrap) || l.minWrap > 0 && r.wrapTTL < l.minWrap {
		return denied()
	}
	if r.op != opWrite && r.op != opPatch {
		return nil
	}
	f, err := r.fields()
	if err != nil {
		return err
	}
	if !l.permitFields(f) {
		return denied()
	}
	return nil
}

func (l *limits) permitFields(f fields) bool {
	names := map[string]json.RawMessage{}
	for name, raw := range f {
		low := strings.ToLower(name)
		if _, twice := names[low]; twice { // two spellings of one name: which of them counts is not for a guess
			return false
		}
		names[low] = raw
	}
	for _, name := range l.required {
		if _, ok := names[name]; !ok {
			return false
		}
	}
	for name, raw := range names {
		if !l.permitField(name, raw) {
			return false
		}
	}
	return true
}

func (l *limits) permitField(name string, raw json.RawMessage) bool {
	if _, all := l.denied["*"]; all {
		return false
	}
	if values, ok := l.denied[name]; ok && (len(values) == 0 || anyMatches(values, parts(raw))) {
		return false
	}
	if len(l.allowed) == 0 {
		return true
	}
	values, ok := l.allowed[name]
	if !ok {
		_, ok = l.allowed["*"]
		return ok
	}
	return len(values) == 0 || allMatch(values, raw)
}

// parts are all texts that a value could be taken for: itself, the items of a list, the parts between commas. The decoder
// of parameters takes "a,b" for a list, and a number for its text.
func parts(raw json.RawMessage) []string {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil {
		out := []string{}
		for _, item := range list {
			out = append(out, parts(item)...)
		}
		return out
	}
	text := plainText(raw)
	out := []string{text}
	for part := range strings.SplitSeq(text, ",") {
		out = append(out, strings.TrimSpace(part))
	}
	return out
}

// plainText is a string's text, and everything else's JSON.
func plainText(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

func anyMatches(patterns, texts []string) bool {
	return slices.ContainsFunc(texts, func(text string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return globMatch(p, text) })
	})
}

func allMatch(patterns []string, raw json.RawMessage) bool {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		list = []json.RawMessage{raw}
	}
	for _, item := range list {
		if !anyMatches(patterns, []string{plainText(item)}) {
			return false
		}
	}
	return true
}

// globMatch compares with a pattern that may begin or end, or both, with '*'.
func globMatch(pattern, text string) bool {
	inner, before := strings.CutPrefix(pattern, "*")
	inner, after := strings.CutSuffix(inner, "*")
	switch {
	case before && after:
		return strings.Contains(text, inner)
	case before:
		return strings.HasSuffix(text, inner)
	case after:
		return strings.HasPrefix(text, inner)
	}
	return pattern == text
}

// ---- reading them

// limitNames are the settings of a path that narrow it.
var limitNames = map[string]bool{
	"allowed_parameters": true, "denied_parameters": true, "required_parameters": true, "min_wrapping_ttl": true, "max_wrapping_ttl": true,
}

// setting is one of limitNames as HCL or JSON gives it.
type setting struct {
	values map[string][]string
	list   []string
	text   string
}

// set takes one setting over. The kind that is asked for is decided by the name.
func (s *pathStanza) set(name string, v setting) error {
	switch name {
	case "allowed_parameters":
		s.limits.allowed = lowerNames(v.values)
	case "denied_parameters":
		s.limits.denied = lowerNames(v.values)
	case "required_parameters":
		for _, n := range v.list {
			s.limits.required = append(s.limits.required, strings.ToLower(n))
		}
	case "min_wrapping_ttl", "max_wrapping_ttl":
		d, err := parseDuration(v.text)
		if err != nil || d < 0 {
			return fmt.Errorf("path %q: %s must be seconds or a duration like 5m", s.path, name)
		}
		if name == "min_wrapping_ttl" {
			s.limits.minWrap = d
		} else {
			s.limits.maxWrap = d
		}
	}
	return nil
}

func lowerNames(values map[string][]string) map[string][]string {
	out := map[string][]string{}
	for name, list := range values {
		out = mergeValues(out, map[string][]string{strings.ToLower(name): list})
	}
	return out
}

// hclSetting reads a setting of limitNames.
func hclSetting(name string, v cty.Value) (s setting, ok bool) {
	switch name {
	case "required_parameters":
		s.list, ok = textList(v)
	case "min_wrapping_ttl", "max_wrapping_ttl":
		s.text, ok = scalar(v)
	default:
		s.values, ok = valueLists(v)
	}
	return s, ok
}

func valueLists(v cty.Value) (map[string][]string, bool) {
	if v.IsNull() || !v.IsKnown() || !v.Type().IsObjectType() {
		return nil, false
	}
	out := map[string][]string{}
	for name, item := range v.AsValueMap() {
		if item.IsNull() || !item.IsKnown() || !item.Type().IsTupleType() {
			return nil, false
		}
		list := []string{}
		for _, x := range item.AsValueSlice() {
			text, ok := scalar(x)
			if !ok {
				return nil, false
			}
			list = append(list, text)
		}
		out[name] = list
	}
	return out, true
}

// scalar is the text of a string, a number or a boolean.
func scalar(v cty.Value) (string, bool) {
	if v.IsNull() || !v.IsKnown() {
		return "", false
	}
	switch v.Type() {
	case cty.String:
		return v.AsString(), true
	case cty.Bool:
		return strconv.FormatBool(v.True()), true
	case cty.Number:
		return v.AsBigFloat().Text('f', -1), true
	}
	return "", false
}

func jsonSetting(name string, raw json.RawMessage) (s setting, err error) {
	switch name {
	case "required_parameters":
		return s, json.Unmarshal(raw, &s.list)
	case "min_wrapping_ttl", "max_wrapping_ttl":
		s.text, err = textValue(raw)
		return s, err
	}
	var lists map[string][]json.RawMessage
	if err := json.Unmarshal(raw, &lists); err != nil {
		return s, err
	}
	s.values = map[string][]string{}
	for name, list := range lists {
		s.values[name] = []string{}
		for _, item := range list {
			text, err := textValue(item)
			if err != nil {
				return s, err
			}
			s.values[name] = append(s.values[name], text)
		}
	}
	return s, nil
}
