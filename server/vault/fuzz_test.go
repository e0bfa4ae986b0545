package vault

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"
)

func FuzzPolicyParse(f *testing.F) {
	f.Add(builtinDefault)
	f.Add(`{"path":{"a/+/b*":{"capabilities":["read","deny"]}}}`)
	f.Add(`path "x" { policy = "write" }`)
	f.Add(`path "x" { capabilities = [[["read"]]] }`)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePolicy(text)
		if err != nil {
			return
		}
		a := newACL([]*policy{p})
		for _, r := range p.rules {
			path := strings.ReplaceAll(strings.TrimSuffix(r.pattern, "*"), "+", "x")
			caps := a.on(path)
			if caps&capDeny != 0 || caps&^allCaps != 0 {
				t.Fatalf("path %q has impossible rights %b", path, caps)
			}
		}
	})
}

// FuzzParams feeds the decoder of parameters: whatever comes, it answers or refuses, and what it took for an object, the
// standard library does too.
func FuzzParams(f *testing.F) {
	f.Add([]byte(`{"ttl":"1h","policies":["a"],"meta":{"a":"b"},"num_uses":3,"renewable":"true"}`))
	f.Add([]byte(`{"data":{"a":[1,2]},"options":{"cas":1}}`))
	f.Add([]byte(`{"versions":["1",2],"max_versions":"7","delete_version_after":86400}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := &request{op: opWrite, body: body}
		for _, decode := range []func() error{
			func() error { _, _, err := params[tokenParams](r); return err },
			func() error { _, _, err := params[mountParams](r); return err },
			func() error { _, _, err := params[kv2DataParams](r); return err },
			func() error { _, _, err := params[kv2MetaParams](r); return err },
			func() error { _, _, err := params[versionsParams](r); return err },
			func() error { _, _, err := params[capabilitiesParams](r); return err },
			func() error { _, _, err := params[secondaryTokenParams](r); return err },
		} {
			if err := decode(); err == nil && len(strings.TrimSpace(string(body))) > 0 && !json.Valid(body) {
				t.Fatalf("accepted what is no JSON: %q", body)
			}
		}
	})
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"", "30", "-1", "1h30m", "2d", "99999999999d", "0.5s", "1e9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parseDuration(s)
		if err != nil && d != 0 {
			t.Fatalf("%q: refused with %v", s, d)
		}
		if n := seconds(d); n > 0 != (d > 0) || time.Duration(n) > d/time.Second+1 {
			t.Fatalf("%q: %v is %d seconds", s, d, n)
		}
	})
}

// FuzzKVPath looks for two spellings of one key: what cleanPath accepts is taken as it is, and every key of KV version 2 can
// be taken apart again.
func FuzzKVPath(f *testing.F) {
	f.Add("secret/data/a/b", uint64(1))
	f.Add("secret/data/a/1", uint64(11))
	f.Add("sys/policies/acl/A", uint64(0))
	f.Fuzz(func(t *testing.T, path string, version uint64) {
		clean, err := cleanPath(path)
		if err != nil {
			return
		}
		if again, err := cleanPath(clean); err != nil || again != clean {
			t.Fatalf("%q is cleaned to %q and then to %q, %v", path, clean, again, err)
		}
		if strings.Contains(clean, "//") || strings.Contains("/"+clean+"/", "/../") || strings.Contains("/"+clean+"/", "/./") {
			t.Fatalf("%q has a second spelling", clean)
		}
		key := versionKey(clean, version)
		at := strings.LastIndexByte(key, '/')
		if key[:at] != "v/"+clean || strings.HasPrefix(key, metaKey("")) || len(key) > 16<<10 {
			t.Fatalf("the key %q of %q is ambiguous", key, clean)
		}
		table := &mountTable{served: map[string]*mount{"secret/": {path: "secret/"}, "secret/data/": {path: "secret/data/"}}}
		if m, rest := table.route(clean); m != nil && m.path+rest != clean && m.path != clean+"/" {
			t.Fatalf("%q is routed to %q and %q", clean, m.path, rest)
		}
		if _, err := url.Parse("/v1/" + url.PathEscape(clean)); err != nil {
			t.Fatalf("%q cannot be asked for", clean)
		}
	})
}

// FuzzMergePatch: the result is JSON, and patching with it again changes nothing.
func FuzzMergePatch(f *testing.F) {
	f.Add(`{"a":{"b":1.50},"c":[1]}`, `{"a":{"b":null},"c":{"d":2}}`)
	f.Fuzz(func(t *testing.T, target, patch string) {
		if !json.Valid([]byte(target)) || !json.Valid([]byte(patch)) {
			return
		}
		once, err := mergePatch([]byte(target), []byte(patch))
		if err != nil {
			return
		}
		twice, err := mergePatch(once, []byte(patch))
		if err != nil || string(twice) != string(once) {
			t.Fatalf("patch %s of %s: once %s, twice %s, %v", patch, target, once, twice, err)
		}
	})
}
