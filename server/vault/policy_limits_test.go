package vault_test

import (
	"encoding/json"
	"testing"
)

// quote is a text as JSON.
func quote(t testing.TB, s string) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// policy writes an ACL policy.
func (c *cluster) policy(name, text string) {
	c.t.Helper()
	c.must(204, "PUT", "sys/policies/acl/"+name, `{"policy":`+quote(c.t, text)+`}`)
}

func TestParametersThatPoliciesAllow(t *testing.T) {
	c := ready(t)
	c.policy("limited", `
		path "kv/allowed"  {
			capabilities = ["create", "update", "read"]
			allowed_parameters = { "a" = ["x*", 1, true], "B" = [], }
		}
		path "kv/denied"   {
			capabilities = ["create", "update"]
			denied_parameters = { "a" = ["bad", 5], "gone" = [] }
		}
		path "kv/none"     {
			capabilities = ["create", "update"]
			denied_parameters = { "*": [] }
		}
		path "kv/mixed"    {
			capabilities = ["create", "update"]
			allowed_parameters = { "a" = ["1"], "*" = [] }
			required_parameters = ["Must"]
		}
		path "kv/wrapped"  {
			capabilities = ["read"]
			min_wrapping_ttl = "1m"
			max_wrapping_ttl = 600
		}
		path "secret/data/p" {
			capabilities = ["patch"]
			allowed_parameters = { "data" = [] }
		}`)
	c.policy("more", `{"path":{
		"kv/allowed":{"capabilities":["update"],"allowed_parameters":{"c":["z"],"a":["y"]}},
		"kv/wrapped":{"capabilities":["read"],"min_wrapping_ttl":"30s"}}}`)
	token := c.token(`{"policies":["limited"]}`)
	both := c.token(`{"policies":["limited","more"]}`)
	for _, path := range []string{"allowed", "denied", "mixed", "wrapped"} {
		c.must(204, "PUT", "kv/"+path, `{"v":1}`)
	}
	c.must(200, "PUT", "secret/data/p", `{"data":{"v":1}}`)
	c.story(t, []step{
		{"a value by glob", "PUT", "kv/allowed", `{"a":"xyz"}`, token, 204, nil},
		{"a number", "PUT", "kv/allowed", `{"a":1}`, token, 204, nil},
		{"a number as text, as the CLI sends it", "PUT", "kv/allowed", `{"a":"1"}`, token, 204, nil},
		{"any value", "PUT", "kv/allowed", `{"b":{"c":1}}`, token, 204, nil},
		{"another case", "PUT", "kv/allowed", `{"A":true}`, token, 204, nil},
		{"a list of allowed values", "PUT", "kv/allowed", `{"a":["x1","x2"]}`, token, 204, nil},
		{"a list with one that is not", "PUT", "kv/allowed", `{"a":["x1","q"]}`, token, 403, nil},
		{"another value", "PUT", "kv/allowed", `{"a":"q"}`, token, 403, nil},
		{"another parameter", "PUT", "kv/allowed", `{"a":1,"z":1}`, token, 403, nil},
		{"two spellings", "PUT", "kv/allowed", `{"a":1,"A":"q"}`, token, 403, nil},
		{"reading needs none", "GET", "kv/allowed", ``, token, 200, nil},
		{"a body that is no object", "PUT", "kv/allowed", `[1]`, token, 400, nil},
		{"allowed by the other policy", "PUT", "kv/allowed", `{"c":"z","a":"y"}`, both, 204, nil},
		{"denied by both", "PUT", "kv/allowed", `{"c":"y"}`, both, 403, nil},
		{"not denied", "PUT", "kv/denied", `{"a":"good"}`, token, 204, nil},
		{"denied value", "PUT", "kv/denied", `{"a":"bad"}`, token, 403, nil},
		{"denied value in a list", "PUT", "kv/denied", `{"a":["good","bad"]}`, token, 403, nil},
		{"denied value between commas", "PUT", "kv/denied", `{"a":"good, bad"}`, token, 403, nil},
		{"denied number as text", "PUT", "kv/denied", `{"a":"5"}`, token, 403, nil},
		{"denied parameter", "PUT", "kv/denied", `{"gone":null}`, token, 403, nil},
		{"all denied", "PUT", "kv/none", `{"a":1}`, token, 403, nil},
		{"the required one and any other", "PUT", "kv/mixed", `{"must":1,"other":2,"a":1}`, token, 204, nil},
		{"the required one missing", "PUT", "kv/mixed", `{"a":1}`, token, 403, nil},
		{"a limited value beside others", "PUT", "kv/mixed", `{"must":1,"a":2}`, token, 403, nil},
		{"patch of what is allowed", "PATCH", "secret/data/p", `{"data":{"w":2}}`, token, 200, nil},
		{"patch of what is not", "PATCH", "secret/data/p", `{"data":{"w":2},"options":{"cas":1}}`, token, 403, nil},
		{"not wrapped", "GET", "kv/wrapped", ``, token, 403, nil},
	})
	for ttl, want := range map[string]int{"59": 403, "60": 200, "600": 200, "601": 403} {
		if g := c.call("GET", "kv/wrapped", token, "", "X-Vault-Wrap-TTL", ttl); g.status != want {
			t.Errorf("wrapped for %s s: got %v, want %d", ttl, g, want)
		}
	}
	if g := c.call("GET", "kv/wrapped", both, "", "X-Vault-Wrap-TTL", "45"); g.status != 200 {
		t.Errorf("wrapped as the more generous policy says: %v", g)
	}
}
