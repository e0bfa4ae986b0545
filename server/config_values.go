package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"
)

// The functions below return what takes a value of a configuration file into
// a variable. They accept what Vault's own files hold: "30s" and 30, "true",
// 1 and true.

func text(to *string) func(cty.Value) error {
	return func(v cty.Value) error {
		s, ok := asString(v)
		if !ok {
			return errors.New("want a text in quotes")
		}
		if s == "" {
			return errors.New("must not be empty")
		}
		*to = s
		return nil
	}
}

func oneOf(to *string, allowed ...string) func(cty.Value) error {
	return func(v cty.Value) error {
		s, _ := asString(v)
		if !slices.Contains(allowed, s) {
			return fmt.Errorf("want one of %s", strings.Join(allowed, ", "))
		}
		*to = s
		return nil
	}
}

// someOf takes a list of words.
func someOf(to *[]string, allowed ...string) func(cty.Value) error {
	return func(v cty.Value) error {
		wrong := fmt.Errorf("want a list of %s", strings.Join(allowed, ", "))
		if v.IsNull() || !v.IsWhollyKnown() || !v.CanIterateElements() || v.Type().IsMapType() || v.Type().IsObjectType() {
			return wrong
		}
		words := []string{}
		for it := v.ElementIterator(); it.Next(); {
			_, e := it.Element()
			s, _ := asString(e)
			if !slices.Contains(allowed, s) {
				return wrong
			}
			words = append(words, s)
		}
		*to = words
		return nil
	}
}

func boolean(to *bool) func(cty.Value) error {
	return func(v cty.Value) error {
		if usable(v) && v.Type() == cty.Bool {
			*to = v.True()
			return nil
		}
		word, ok := asString(v)
		if n, isNumber := asInt(v); isNumber {
			word, ok = strconv.FormatInt(n, 10), true
		}
		b, err := strconv.ParseBool(word)
		if !ok || err != nil {
			return errors.New("want true or false")
		}
		*to = b
		return nil
	}
}

func duration(to *time.Duration) func(cty.Value) error {
	return func(v cty.Value) error {
		d, ok := asDuration(v)
		if !ok || d < 0 {
			return errors.New(`want a time such as "30s" or "24h", or a number of seconds`)
		}
		*to = d
		return nil
	}
}

func asDuration(v cty.Value) (time.Duration, bool) {
	n, ok := asInt(v)
	if s, isText := asString(v); isText {
		if d, err := time.ParseDuration(s); err == nil {
			return d, true
		}
		var err error
		n, err = strconv.ParseInt(s, 10, 64)
		ok = err == nil
	}
	const most = int64(math.MaxInt64 / time.Second)
	if !ok || n < 0 || n > most {
		return 0, false
	}
	return time.Duration(n) * time.Second, true
}

func size(to *int64) func(cty.Value) error {
	return func(v cty.Value) error {
		n, ok := asInt(v)
		if s, isText := asString(v); isText {
			n, ok = parseSize(s)
		}
		if !ok || n < 0 {
			return errors.New(`want a size such as "64MiB" or a number of bytes`)
		}
		*to = n
		return nil
	}
}

// units are what a size may end in; the longer ones first, for every one ends in B.
var units = []struct {
	suffix string
	bytes  int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

func parseSize(s string) (int64, bool) {
	factor := int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			s, factor = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return 0, false
	}
	return n * factor, true
}

func count(to *int) func(cty.Value) error {
	return func(v cty.Value) error {
		n, ok := asInt(v)
		if !ok || n < 1 || n > math.MaxInt32 {
			return errors.New("want a whole number, 1 or more")
		}
		*to = int(n)
		return nil
	}
}

// perSecond takes a rate: 0.5 is one every two seconds.
func perSecond(to *float64) func(cty.Value) error {
	return func(v cty.Value) error {
		bad := errors.New("want requests a second, from 0.01 to 1000000")
		text, ok := asString(v)
		if usable(v) && v.Type() == cty.Number {
			text, ok = v.AsBigFloat().Text('g', 12), true
		}
		n, err := strconv.ParseFloat(text, 64)
		if !ok || err != nil || !(n >= 0.01 && n <= 1e6) {
			return bad
		}
		*to = n
		return nil
	}
}

func tlsVersion(to *uint16) func(cty.Value) error {
	return func(v cty.Value) error {
		switch s, _ := asString(v); s {
		case "tls12":
			*to = tls.VersionTLS12
		case "tls13":
			*to = tls.VersionTLS13
		default:
			return errors.New(`want "tls12" or "tls13"`)
		}
		return nil
	}
}

func usable(v cty.Value) bool { return v.IsKnown() && !v.IsNull() && !v.IsMarked() }

func asString(v cty.Value) (string, bool) {
	if !usable(v) || v.Type() != cty.String {
		return "", false
	}
	return v.AsString(), true
}

func asInt(v cty.Value) (int64, bool) {
	if !usable(v) || v.Type() != cty.Number {
		return 0, false
	}
	n, accuracy := v.AsBigFloat().Int64()
	return n, accuracy == big.Exact
}
