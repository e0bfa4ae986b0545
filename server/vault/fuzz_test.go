package vault

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
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
	f.Add("path \"x\" {\n allowed_parameters = { \"a\" = [\"b*\", 1, true], \"*\": [] }\n denied_parameters = { \"c\" = [] }\n required_parameters = [\"a\"]\n min_wrapping_ttl = \"1s\"\n max_wrapping_ttl = 60\n}")
	f.Add(`{"path":{"x":{"capabilities":["update"],"denied_parameters":{"a":["b",1]},"max_wrapping_ttl":5}}}`)
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
			if r.limits == nil {
				continue
			}
			for name, values := range r.limits.denied {
				for _, v := range append(values, "") { // whatever else it says, what is denied is not permitted
					if (len(values) == 0 || v != "") && r.limits.permitFields(fields{name: quoted(v)}) {
						t.Fatalf("path %q permits %q = %q, which it denies", path, name, v)
					}
				}
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
			func() error { _, _, err := params[secretIDParams](r); return err },
			func() error { _, _, err := params[approleLoginParams](r); return err },
			func() error { _, _, err := params[leaseParams](r); return err },
			func() error { f, err := appRoleParams(r); return decodeValid(f, err, &appRole{}) },
			func() error { f, err := r.fields(); return decodeValid(f, err, &tokenRole{}) },
		} {
			if err := decode(); err == nil && len(trimJSON(body)) > 0 && !json.Valid(body) {
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
// What is taken for JSON when it is written is what can be read as JSON.
func FuzzValidJSON(f *testing.F) {
	for _, seed := range []string{`{"a":1}`, `{"a":"b",}`, `[1,-0.5e+10,"\u12aF\n"]`, "\"\x7f\xff\"", "\"\t\"", `"\ud800"`, ` {} `, `01`, `-`, `1e`, "{}\v", "{}\x00", "\xef\xbb\xbf{}"} {
		f.Add([]byte(seed), uint16(0))
	}
	f.Add([]byte("1"), uint16(deepJSON))
	f.Add([]byte("1"), uint16(deepJSON+1))
	f.Fuzz(func(t *testing.T, b []byte, depth uint16) {
		b = append(append(bytes.Repeat([]byte{'['}, int(depth)), b...), bytes.Repeat([]byte{']'}, int(depth))...)
		if got, want := validJSON(b), json.Valid(b); got != want {
			t.Fatalf("%.200q in %d arrays: got %t, want %t", b, depth, got, want)
		}
	})
}

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

// decodeValid decodes an account or a role as its write does.
func decodeValid(f fields, err error, into interface{ validate() error }) error {
	if err != nil {
		return err
	}
	if _, err := f.decode(into); err != nil {
		return err
	}
	return into.validate()
}

// FuzzBatchToken feeds the verifier: it accepts what this cluster signed and nothing else, in no second spelling.
func FuzzBatchToken(f *testing.F) {
	key, err := newBatchKey([]byte("an ed25519 seed is 32 bytes long"))
	if err != nil {
		f.Fatal(err)
	}
	now := time.Unix(1_900_000_000, 0).UTC()
	entry := &tokenEntry{Policies: []string{"p"}, Path: "auth/token/create", Created: now, Expires: now.Add(time.Hour), TTL: time.Hour}
	good, err := key.sign(entry)
	if err != nil {
		f.Fatal(err)
	}
	if _, ok := key.verify(good, now); !ok {
		f.Fatal("what was signed is not accepted")
	}
	f.Add(good)
	f.Add(good + "=")
	f.Add(batchPrefix + "eyJhbGciOiJub25lIn0.e30.")
	f.Add(strings.Replace(good, ".", ".\n", 1))
	f.Fuzz(func(t *testing.T, text string) {
		if _, ok := key.verify(text, now); ok {
			body := text[len(batchPrefix):strings.LastIndexByte(text, '.')]
			if want := base64.RawURLEncoding.EncodeToString(ed25519.Sign(key.key, []byte(body))); text != batchPrefix+body+"."+want {
				t.Fatalf("accepted what was never signed: %q", text)
			}
		}
		if _, ok := key.verify(text, now.Add(2*time.Hour)); ok {
			t.Fatalf("accepted after its time: %q", text)
		}
	})
}

// FuzzCIDRs: a network has one spelling, which is accepted again, and holds its own address.
func FuzzCIDRs(f *testing.F) {
	for _, s := range []string{"10.1.2.3/16", "::1", "fe80::1%eth0", "0.0.0.0/0", "1.2.3.4/33", " 127.0.0.1 "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := cleanCIDRs([]string{text})
		if err != nil {
			return
		}
		if again, err := cleanCIDRs(list); err != nil || again[0] != list[0] {
			t.Fatalf("%q is cleaned to %q and then to %q, %v", text, list, again, err)
		}
		p, err := parseCIDR(list[0])
		if err != nil || !liesWithin(list[0], list) || !withinCIDRs("["+p.Addr().String()+"]:1", list) {
			t.Fatalf("%q, cleaned to %q, does not hold itself: %v", text, list, err)
		}
	})
}
