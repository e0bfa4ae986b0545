package vault

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func mustPolicy(t testing.TB, text string) *policy {
	t.Helper()
	p, err := parsePolicy(text)
	if err != nil {
		t.Fatalf("parsePolicy: %v", err)
	}
	return p
}

func TestACL(t *testing.T) {
	p := mustPolicy(t, `
		path "secret/*"       { capabilities = ["read"] }
		path "secret/app"     { capabilities = ["update"] }
		path "secret/app/*"   { capabilities = ["create", "update", "list"] }
		path "secret/+/team"  { capabilities = ["delete"] }
		path "secret/app/+/x" { capabilities = ["patch"] }
		path "secret/app/no*" { capabilities = ["read", "deny"] }
		path "/lead/slash"    { policy = "write" }
		path "star*mid/x"     { capabilities = ["read"] }
		path "dir"            { capabilities = ["list"] }
		path "deep/+/+/*"     { capabilities = ["read"] }
		path "up/sudo"        { capabilities = ["update", "sudo"] }`)
	a := newACL([]*policy{p})
	for _, c := range []struct {
		path string
		want string
	}{
		{"secret/x", "read"}, {"secret/", "read"}, {"secret", "deny"}, {"secret/app", "update"}, {"secret/app/", "create,list,update"},
		{"secret/app/y", "create,list,update"}, {"secret/b/team", "delete"}, {"secret/app/b/x", "patch"}, {"secret/app/team", "create,list,update"},
		{"secret/app/none", "deny"}, {"secret/app/no", "deny"}, {"lead/slash", "create,delete,list,read,update"}, {"/lead/slash", "deny"},
		{"star*mid/x", "read"}, {"starXmid/x", "deny"}, {"deep/a/b/c", "read"}, {"deep/a/b/", "read"}, {"deep/a/b", "deny"}, {"deep/a/b/c/d", "read"},
		{"up/sudo", "sudo,update"},
	} {
		if got := strings.Join(a.on(c.path).names(), ","); got != c.want {
			t.Errorf("%s: got %s, want %s", c.path, got, c.want)
		}
	}
	for _, c := range []struct {
		op   operation
		path string
		sudo bool
		want bool
	}{
		{opList, "dir/", false, true}, {opRead, "dir", false, false}, {opWrite, "up/sudo", true, true}, {opWrite, "secret/app", true, false},
		{opList, "secret/app/", false, false}, // the exact rule for the folder's name decides, and gives update only
		{opWrite, "secret/app/k", false, true}, {opPatch, "secret/app/b/x", false, true}, {opDelete, "secret/q/team", false, true}, {opHead, "secret/x", false, true},
	} {
		if got := a.allows(c.op, c.path, c.sudo); got != c.want {
			t.Errorf("allows(%d, %s, %v): got %v, want %v", c.op, c.path, c.sudo, got, c.want)
		}
	}
}

func TestACLMerges(t *testing.T) {
	a := newACL([]*policy{
		mustPolicy(t, `path "a" { capabilities = ["read"] } `+"\n"+`path "b" { capabilities = ["read"] }`),
		mustPolicy(t, `path "a" { capabilities = ["update"] }`+"\n"+`path "b" { capabilities = ["deny"] }`),
	})
	if got := strings.Join(a.on("a").names(), ","); got != "read,update" {
		t.Errorf("rights add up: got %s", got)
	}
	if got := strings.Join(a.on("b").names(), ","); got != "deny" {
		t.Errorf("deny wins: got %s", got)
	}
}

// slowOn is the twin of acl.on for wildcard rules: it makes every pattern a regular expression, lets all that match compete in
// pairs by Vault's five rules as they are documented, and takes the one that nobody beats.
func slowOn(rules map[string]capability, path string) capability {
	if caps, ok := rules[path]; ok && !strings.HasSuffix(path, "*") && !slices.Contains(strings.Split(path, "/"), "+") {
		return caps &^ capDeny
	}
	var best string
	any := false
	for pattern := range rules {
		if !slowWild(pattern) || !slowMatch(pattern, path) {
			continue
		}
		if !any || slowBeats(pattern, best) {
			best, any = pattern, true
		}
	}
	if !any {
		return 0
	}
	return rules[best] &^ capDeny
}

func slowWild(pattern string) bool {
	return strings.HasSuffix(pattern, "*") || slices.Contains(strings.Split(strings.TrimSuffix(pattern, "*"), "/"), "+")
}

func slowMatch(pattern, path string) bool {
	literal, glob := strings.CutSuffix(pattern, "*")
	parts := strings.Split(literal, "/")
	for i, p := range parts {
		if p == "+" {
			parts[i] = "[^/]*"
		} else {
			parts[i] = regexp.QuoteMeta(p)
		}
	}
	expr := "^" + strings.Join(parts, "/")
	if glob {
		return regexp.MustCompile("(?s)" + expr).MatchString(path)
	}
	return regexp.MustCompile("(?s)" + expr + "$").MatchString(path)
}

func slowBeats(a, b string) bool {
	first := func(p string) int {
		offset := 0
		for _, part := range strings.Split(strings.TrimSuffix(p, "*"), "/") {
			if part == "+" {
				return offset
			}
			offset += len(part) + 1
		}
		return len(strings.TrimSuffix(p, "*"))
	}
	plus := func(p string) int {
		n := 0
		for _, part := range strings.Split(strings.TrimSuffix(p, "*"), "/") {
			if part == "+" {
				n++
			}
		}
		return n
	}
	if x, y := first(a), first(b); x != y {
		return x > y
	}
	if x, y := strings.HasSuffix(a, "*"), strings.HasSuffix(b, "*"); x != y {
		return y
	}
	if x, y := plus(a), plus(b); x != y {
		return x < y
	}
	if len(a) != len(b) {
		return len(a) > len(b)
	}
	return a > b
}

// TestACLAgainstSlowTwin tries random policies on random paths of few letters, so that they meet often.
func TestACLAgainstSlowTwin(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	word := func() string { return []string{"a", "b", "ab", "+", ""}[rnd.IntN(5)] }
	for range 3000 {
		merged := map[string]capability{}
		p := &policy{}
		for range 1 + rnd.IntN(6) {
			var parts []string
			for range 1 + rnd.IntN(4) {
				parts = append(parts, word())
			}
			pattern := strings.Join(parts, "/")
			if rnd.IntN(2) == 0 && !strings.HasSuffix(pattern, "+") {
				pattern += "*"
			}
			r := rule{pattern: pattern, caps: 1 << rnd.IntN(8)}
			p.rules = append(p.rules, r)
			if merged[pattern] |= r.caps; merged[pattern]&capDeny != 0 {
				merged[pattern] = capDeny
			}
		}
		a := newACL([]*policy{p})
		for range 10 {
			var parts []string
			for range 1 + rnd.IntN(4) {
				parts = append(parts, strings.ReplaceAll(word(), "+", "c"))
			}
			path := strings.Join(parts, "/")
			if got, want := a.on(path), slowOn(merged, path); got != want {
				t.Fatalf("policy %v, path %q: got %v, want %v", p.rules, path, got.names(), want.names())
			}
		}
	}
}

// TestACLReaches compares reaches with the rights on paths below a mount.
func TestACLReaches(t *testing.T) {
	for _, c := range []struct {
		pattern, mount string
		want           bool
	}{
		{"kv/a", "kv/", true}, {"kv/*", "kv/", true}, {"k*", "kv/", true}, {"*", "kv/", true}, {"kvx/*", "kv/", false}, {"+/a", "kv/", true},
		{"kv/+/x", "kv/", true}, {"a/+/x", "kv/", false}, {"team/+/data/*", "team/a/", true}, {"team/b/*", "team/a/", false}, {"team/*", "team/a/", true}, {"x/y", "x/", true}, {"other", "x/", false},
	} {
		a := newACL([]*policy{{rules: []rule{{pattern: c.pattern, caps: capRead}}}})
		if got := a.reaches(c.mount); got != c.want {
			t.Errorf("%s reaches %s: got %v, want %v", c.pattern, c.mount, got, c.want)
		}
	}
	if newACL([]*policy{{rules: []rule{{pattern: "kv/*", caps: capDeny}}}}).reaches("kv/") {
		t.Error("a denied mount is reached")
	}
}

func TestParsePolicyRefuses(t *testing.T) {
	for what, text := range map[string]string{
		"nothing":                    " \n ",
		"words":                      "read everything",
		"another block":              `rule "x" { capabilities = ["read"] }`,
		"two labels":                 `path "x" "y" { capabilities = ["read"] }`,
		"an unknown setting":         `path "x" { capability = ["read"] }`,
		"an unknown top-level key":   `version = 2`,
		"a capability":               `path "x" { capabilities = ["reed"] }`,
		"a shorthand":                `path "x" { policy = "reed" }`,
		"a number for a list":        `path "x" { capabilities = 1 }`,
		"a number in a list":         `path "x" { capabilities = [1] }`,
		"a null":                     `path "x" { capabilities = null }`,
		"an unknown word":            `path "x" { capabilities = [read] }`,
		"plus and star":              `path "x/+*" { capabilities = ["read"] }`,
		"an identity template":       `path "x/{{identity.entity.id}}" { capabilities = ["read"] }`,
		"a string template":          `path "x" { policy = "${a}" }`,
		"a heredoc":                  "path \"x\" { policy = <<E\nread\nE\n}",
		"an open block":              `path "x" {`,
		"a required parameter":       `path "x" { required_parameters = "a" }`,
		"a list of parameters":       `path "x" { allowed_parameters = ["a"] }`,
		"a parameter's text":         `path "x" { denied_parameters = { "a" = "b" } }`,
		"a control group":            "path \"x\" {\n control_group {\n }\n}",
		"a wrapping time":            `path "x" { min_wrapping_ttl = "soon" }`,
		"wrapping times crossed":     "path \"x\" {\n min_wrapping_ttl = \"2s\"\n max_wrapping_ttl = 1\n}",
		"JSON of another shape":      `{"paths":{}}`,
		"JSON and more":              `{"path":{}} x`,
		"JSON with a capability":     `{"path":{"x":{"capabilities":["reed"]}}}`,
		"JSON with a parameter":      `{"path":{"x":{"allowed_parameters":[]}}}`,
		"JSON with a list for a map": `{"path":["x"]}`,
	} {
		if _, err := parsePolicy(text); err == nil {
			t.Errorf("%s: accepted %s", what, text)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the refusal has more than one line: %q", what, err)
		}
	}
}

func TestParsePolicyAccepts(t *testing.T) {
	for _, text := range []string{
		"# comment\nname = \"x\"\n// another\n/* and one */\npath \"a\" { capabilities = [\"read\", \"list\",] }\n",
		"path \"a\" {\n  capabilities = [\n    \"read\",\n    \"list\"\n  ]\n  description = \"why\"\n}",
		`{"path":{"a":{"capabilities":["read","list"]}}}`,
		`path "a" { policy = "read" }`,
	} {
		p, err := parsePolicy(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if want := fmt.Sprint([]rule{{pattern: "a", caps: capRead | capList}}); fmt.Sprint(p.rules) != want {
			t.Errorf("%s: got %v, want %s", text, p.rules, want)
		}
	}
	if _, err := parsePolicy(builtinDefault); err != nil {
		t.Errorf("the built-in default policy: %v", err)
	}
}
