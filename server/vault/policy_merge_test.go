package vault

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// slowPermits is the twin of limits.permitFields for several policies on one path: it never merges, but asks of each parameter
// every policy that says something, by Vault's rules as they are documented. Values here are single words.
func slowPermits(all []*limits, params map[string]string) bool {
	listed := func(pick func(*limits) map[string][]string, name string) (values []string, any, found bool) {
		for _, l := range all {
			if v, ok := pick(l)[name]; ok {
				found = true
				any = any || len(v) == 0
				values = append(values, v...)
			}
		}
		return values, any, found
	}
	denied := func(l *limits) map[string][]string { return l.denied }
	allowed := func(l *limits) map[string][]string { return l.allowed }
	for _, l := range all {
		for _, name := range l.required {
			if _, ok := params[name]; !ok {
				return false
			}
		}
	}
	restricted := slices.ContainsFunc(all, func(l *limits) bool { return len(l.allowed) > 0 })
	for name, value := range params {
		if _, _, found := listed(denied, "*"); found {
			return false
		}
		if values, any, found := listed(denied, name); found && (any || slices.ContainsFunc(values, func(p string) bool { return slowGlob(p, value) })) {
			return false
		}
		if !restricted {
			continue
		}
		values, any, found := listed(allowed, name)
		if !found {
			_, _, found = listed(allowed, "*")
			if !found {
				return false
			}
			continue
		}
		if !any && !slices.ContainsFunc(values, func(p string) bool { return slowGlob(p, value) }) {
			return false
		}
	}
	return true
}

func slowGlob(pattern, text string) bool {
	word := strings.Trim(pattern, "*")
	switch {
	case pattern == word:
		return text == word
	case pattern == word+"*":
		return strings.HasPrefix(text, word)
	case pattern == "*"+word:
		return strings.HasSuffix(text, word)
	}
	return strings.Contains(text, word)
}

func TestLimitsAgainstSlowTwin(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	names := []string{"a", "b", "*"}
	words := []string{"x", "y", "xy", "x*", "*y", "*x*"}
	values := func() map[string][]string {
		out := map[string][]string{}
		for range rnd.IntN(3) {
			list := []string{}
			for range rnd.IntN(3) {
				list = append(list, words[rnd.IntN(len(words))])
			}
			out[names[rnd.IntN(len(names))]] = list
		}
		return out
	}
	permitted := 0
	for range 20000 {
		var all []*limits
		var merged *limits
		for range 1 + rnd.IntN(3) {
			l := &limits{allowed: values()}
			if rnd.IntN(3) == 0 {
				l.denied = values()
			}
			if rnd.IntN(4) == 0 {
				l.required = []string{names[rnd.IntN(2)]}
			}
			all = append(all, l)
			merged = mergeLimits(merged, l)
		}
		params, f := map[string]string{}, fields{}
		for range rnd.IntN(3) {
			name, value := []string{"a", "b", "c"}[rnd.IntN(3)], words[rnd.IntN(3)]
			params[name], f[name] = value, json.RawMessage(`"`+value+`"`)
		}
		got, want := merged.permitFields(f), slowPermits(all, params)
		if got != want {
			t.Fatalf("%s of %v: got %v, want %v", params, describeLimits(all), got, want)
		}
		if got {
			permitted++
		}
	}
	if permitted < 2000 || permitted > 18000 {
		t.Errorf("%d of 20000 cases were permitted: the cases are one-sided", permitted)
	}
}

func describeLimits(all []*limits) string {
	var out []string
	for _, l := range all {
		out = append(out, fmt.Sprintf("%+v", *l))
	}
	return strings.Join(out, " and ")
}

func TestWrappingTimesMerge(t *testing.T) {
	for _, c := range []struct{ a, b, want limits }{
		{limits{minWrap: 5}, limits{minWrap: 3}, limits{minWrap: 3}},
		{limits{minWrap: 5}, limits{}, limits{minWrap: 5}},
		{limits{}, limits{minWrap: 3, maxWrap: 9}, limits{minWrap: 3, maxWrap: 9}},
		{limits{maxWrap: time.Second}, limits{maxWrap: time.Minute}, limits{maxWrap: time.Minute}},
	} {
		for _, got := range []*limits{mergeLimits(&c.a, &c.b), mergeLimits(&c.b, &c.a)} {
			if got.minWrap != c.want.minWrap || got.maxWrap != c.want.maxWrap {
				t.Errorf("%v and %v: got %v to %v, want %v to %v", c.a, c.b, got.minWrap, got.maxWrap, c.want.minWrap, c.want.maxWrap)
			}
		}
	}
}
