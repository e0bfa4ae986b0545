package vault_test

import (
	"strings"
	"testing"
	"time"
)

func TestKV1(t *testing.T) {
	c := ready(t)
	c.story(t, []step{
		{"a key that is not there", "GET", "kv/app", "", "", 404, map[string]string{"errors": `[]`}},
		{"a write answers nothing", "PUT", "kv/app", `{"b":1, "a":"x"}`, "", 204, nil},
		{"POST is PUT", "POST", "kv/dir/x", `{"n":1}`, "", 204, nil},
		{"a read", "GET", "kv/app", "", "", 200, map[string]string{"data": `{"b":1,"a":"x"}`, "lease_duration": `2764800`, "warnings": `null`, "auth": `null`, "wrap_info": `null`, "lease_id": `""`, "renewable": `false`}},
		{"a list by verb", "LIST", "kv", "", "", 200, map[string]string{"data.keys": `["app","dir/"]`}},
		{"a list by query, without the final slash", "GET", "kv/dir?list=true", "", "", 200, map[string]string{"data.keys": `["x"]`}},
		{"a list by query, with it", "GET", "kv/dir/?list=1", "", "", 200, map[string]string{"data.keys": `["x"]`}},
		{"a list that is none", "GET", "kv/app?list=false", "", "", 200, map[string]string{"data.a": `"x"`}},
		{"a list that is no boolean", "GET", "kv/app?list=maybe", "", "", 400, nil},
		{"a list of nothing", "LIST", "kv/none", "", "", 404, map[string]string{"errors": `[]`}},
		{"a first page", "LIST", "kv?limit=1", "", "", 200, map[string]string{"data.keys": `["app"]`}},
		{"the next page", "LIST", "kv?limit=1&after=app", "", "", 200, map[string]string{"data.keys": `["dir/"]`}},
		{"behind the last page", "LIST", "kv?limit=1&after=dir/", "", "", 404, nil},
		{"a folder is no key", "PUT", "kv/dir/", `{"a":1}`, "", 400, map[string]string{"errors": `["cannot write to a path ending in '/'"]`}},
		{"nothing to write", "PUT", "kv/app", `{}`, "", 400, map[string]string{"errors": `["missing data fields"]`}},
		{"null is nothing", "PUT", "kv/app", `null`, "", 400, nil},
		{"no body is nothing", "PUT", "kv/app", ``, "", 400, nil},
		{"PATCH is not for version 1", "PATCH", "kv/app", `{"a":1}`, "", 405, nil},
		{"a delete", "DELETE", "kv/app", "", "", 204, nil},
		{"a delete of nothing", "DELETE", "kv/app", "", "", 204, nil},
		{"gone", "GET", "kv/app", "", "", 404, nil},
		{"a value may ask for a lease", "PUT", "kv/l", `{"ttl":"30s","v":1}`, "", 204, nil},
		{"and gets it", "GET", "kv/l", "", "", 200, map[string]string{"lease_duration": `30`}},
		{"no mount", "GET", "nowhere/x", "", "", 404, nil},
		{"the path of another", "GET", "kvx", "", "", 404, nil},
	})
}

func TestKV1KeepsBytes(t *testing.T) {
	c := ready(t)
	value := `{"z":1.000,"a":  "<é\u00e9>", "z":2, "big":123456789012345678901234567890}`
	c.must(204, "PUT", "kv/bytes", "\n "+value+"  ")
	g := c.must(200, "GET", "kv/bytes", "")
	if !strings.Contains(string(g.raw), `"data":`+value+`,`) {
		t.Errorf("the value was changed: %s", g.raw)
	}
}

func TestKV1FormBody(t *testing.T) {
	c := ready(t)
	g := c.call("PUT", "kv/form", c.root, "a=1&b=x&b=y", "Content-Type", "application/x-www-form-urlencoded")
	if g.status != 204 {
		t.Fatalf("write: %v", g)
	}
	if g := c.must(200, "GET", "kv/form", ""); !same(g.at("data"), `{"a":"1","b":["x","y"]}`) {
		t.Errorf("read: %v", g)
	}
	g = c.call("PUT", "kv/form", c.root, ` {"a":2}`, "Content-Type", "application/x-www-form-urlencoded")
	if g.status != 204 {
		t.Fatalf("write of JSON that calls itself a form: %v", g)
	}
	if g := c.must(200, "GET", "kv/form", ""); !same(g.at("data"), `{"a":2}`) {
		t.Errorf("read: %v", g)
	}
}

func TestKV2Story(t *testing.T) {
	c := ready(t)
	now := c.clock.Now().Format(time.RFC3339Nano)
	c.story(t, []step{
		{"no key", "GET", "secret/data/app", "", "", 404, map[string]string{"errors": `[]`}},
		{"cas 0 of a new key", "PUT", "secret/data/app", `{"data":{"a":1},"options":{"cas":0}}`, "", 200, map[string]string{
			"data": `{"version":1,"created_time":"` + now + `","deletion_time":"","destroyed":false,"custom_metadata":null}`}},
		{"cas 0 of an old one", "PUT", "secret/data/app", `{"data":{"a":2},"options":{"cas":0}}`, "", 400, map[string]string{
			"errors": `["check-and-set parameter did not match the current version"]`}},
		{"cas of the current version", "PUT", "secret/data/app", `{"data":{"a":2,"b":{"c":[1,2.50]}},"options":{"cas":"1"}}`, "", 200, map[string]string{"data.version": `2`}},
		{"the newest", "GET", "secret/data/app", "", "", 200, map[string]string{"data.data": `{"a":2,"b":{"c":[1,2.50]}}`, "data.metadata.version": `2`}},
		{"an older one", "GET", "secret/data/app?version=1", "", "", 200, map[string]string{"data.data": `{"a":1}`, "data.metadata.version": `1`}},
		{"one that never was", "GET", "secret/data/app?version=7", "", "", 404, map[string]string{"errors": `[]`}},
		{"no number", "GET", "secret/data/app?version=x", "", "", 400, nil},
		{"subkeys", "GET", "secret/subkeys/app", "", "", 200, map[string]string{"data.subkeys": `{"a":null,"b":{"c":null}}`}},
		{"subkeys of one level", "GET", "secret/subkeys/app?depth=1", "", "", 200, map[string]string{"data.subkeys": `{"a":null,"b":null}`}},

		{"a patch", "PATCH", "secret/data/app", `{"data":{"a":null,"b":{"d":"x"}},"options":{"cas":2}}`, "", 200, map[string]string{"data.version": `3`}},
		{"is merged", "GET", "secret/data/app", "", "", 200, map[string]string{"data.data": `{"b":{"c":[1,2.50],"d":"x"}}`}},
		{"a patch of a stale version", "PATCH", "secret/data/app", `{"data":{"a":1},"options":{"cas":2}}`, "", 400, nil},
		{"a patch of nothing", "PATCH", "secret/data/none", `{"data":{"a":1}}`, "", 404, nil},

		{"delete the newest", "DELETE", "secret/data/app", "", "", 204, nil},
		{"a deleted version has a body", "GET", "secret/data/app", "", "", 404, map[string]string{
			"data.data": `null`, "data.metadata.version": `3`, "data.metadata.deletion_time": `"` + now + `"`, "data.metadata.destroyed": `false`}},
		{"a patch of a deleted version", "PATCH", "secret/data/app", `{"data":{"a":1}}`, "", 404, nil},
		{"undelete", "PUT", "secret/undelete/app", `{"versions":[3]}`, "", 204, nil},
		{"is back", "GET", "secret/data/app", "", "", 200, map[string]string{"data.metadata.deletion_time": `""`}},
		{"delete two", "PUT", "secret/delete/app", `{"versions":["1","2"]}`, "", 204, nil},
		{"one of them", "GET", "secret/data/app?version=1", "", "", 404, map[string]string{"data.data": `null`}},
		{"destroy", "PUT", "secret/destroy/app", `{"versions":"2"}`, "", 204, nil},
		{"destroyed", "GET", "secret/data/app?version=2", "", "", 404, map[string]string{"data.metadata.destroyed": `true`}},
		{"undelete does not bring back", "PUT", "secret/undelete/app", `{"versions":[1,2]}`, "", 204, nil},
		{"the destroyed one", "GET", "secret/data/app?version=2", "", "", 404, nil},
		{"but the deleted one", "GET", "secret/data/app?version=1", "", "", 200, map[string]string{"data.data": `{"a":1}`}},
		{"no versions named", "PUT", "secret/delete/app", `{}`, "", 400, nil},
		{"versions that are none", "PUT", "secret/destroy/app", `{"versions":["x"]}`, "", 400, nil},

		{"metadata", "GET", "secret/metadata/app", "", "", 200, map[string]string{
			"data.current_version": `3`, "data.oldest_version": `1`, "data.max_versions": `0`, "data.cas_required": `false`,
			"data.delete_version_after": `"0s"`, "data.custom_metadata": `null`, "data.versions.2.destroyed": `true`}},
		{"custom metadata", "PUT", "secret/metadata/app", `{"custom_metadata":{"owner":"me","x":"y"},"max_versions":2}`, "", 204, nil},
		{"shows", "GET", "secret/data/app", "", "", 200, map[string]string{"data.metadata.custom_metadata": `{"owner":"me","x":"y"}`}},
		{"patched", "PATCH", "secret/metadata/app", `{"custom_metadata":{"x":null,"z":"w"}}`, "", 204, nil},
		{"shows again", "GET", "secret/metadata/app", "", "", 200, map[string]string{"data.custom_metadata": `{"owner":"me","z":"w"}`, "data.max_versions": `2`}},
		{"a patch of no metadata", "PATCH", "secret/metadata/none", `{"max_versions":1}`, "", 404, nil},
		{"custom metadata that is none", "PUT", "secret/metadata/app", `{"custom_metadata":{"a":{}}}`, "", 400, nil},

		{"max_versions is kept", "PUT", "secret/data/app", `{"data":{"a":4}}`, "", 200, map[string]string{"data.version": `4`}},
		{"the first is gone", "GET", "secret/data/app?version=1", "", "", 404, map[string]string{"errors": `[]`}},
		{"the oldest moved", "GET", "secret/metadata/app", "", "", 200, map[string]string{"data.oldest_version": `3`, "data.current_version": `4`}},

		{"metadata alone", "PUT", "secret/metadata/dir/m", `{"cas_required":true}`, "", 204, nil},
		{"has no data", "GET", "secret/data/dir/m", "", "", 404, map[string]string{"errors": `[]`}},
		{"cas is required", "PUT", "secret/data/dir/m", `{"data":{"a":1}}`, "", 400, map[string]string{"errors": `["check-and-set parameter required for this call"]`}},
		{"with cas", "PUT", "secret/data/dir/m", `{"data":{},"options":{"cas":0}}`, "", 200, nil},
		{"list", "LIST", "secret/metadata", "", "", 200, map[string]string{"data.keys": `["app","dir/"]`}},
		{"list a folder", "GET", "secret/metadata/dir?list=true", "", "", 200, map[string]string{"data.keys": `["m"]`}},
		{"forget a key", "DELETE", "secret/metadata/app", "", "", 204, nil},
		{"forgotten", "GET", "secret/metadata/app", "", "", 404, nil},
		{"with its data", "GET", "secret/data/app?version=4", "", "", 404, nil},
		{"counts from one again", "PUT", "secret/data/app", `{"data":{"a":1}}`, "", 200, map[string]string{"data.version": `1`}},

		{"no data", "PUT", "secret/data/x", `{"a":1}`, "", 400, map[string]string{"errors": `["no data provided"]`}},
		{"data that is no object", "PUT", "secret/data/x", `{"data":"x"}`, "", 400, nil},
		{"a path without its part", "PUT", "secret/app", `{"a":1}`, "", 404, nil},
		{"no key", "GET", "secret/data", "", "", 400, nil},
		{"not that way", "PUT", "secret/subkeys/x", `{}`, "", 405, nil},

		{"configuration", "GET", "secret/config", "", "", 200, map[string]string{"data": `{"max_versions":0,"cas_required":false,"delete_version_after":"0s"}`}},
		{"set", "PUT", "secret/config", `{"max_versions":1,"delete_version_after":"1h"}`, "", 204, nil},
		{"read back", "GET", "secret/config", "", "", 200, map[string]string{"data": `{"max_versions":1,"cas_required":false,"delete_version_after":"1h0m0s"}`}},
		{"out of bounds", "PUT", "secret/config", `{"max_versions":1000000}`, "", 400, nil},
		{"a version that will die", "PUT", "secret/data/t", `{"data":{"a":1}}`, "", 200, map[string]string{
			"data.deletion_time": `"` + c.clock.Now().Add(time.Hour).Format(time.RFC3339Nano) + `"`}},
		{"lives", "GET", "secret/data/t", "", "", 200, nil},
		{"one version is kept", "PUT", "secret/data/app", `{"data":{"a":2}}`, "", 200, map[string]string{"data.version": `2`}},
		{"not two", "GET", "secret/data/app?version=1", "", "", 404, nil},
	})
	c.clock.pass(time.Hour)
	if g := c.must(404, "GET", "secret/data/t", ""); g.at("data.data") != nil || g.text("data.metadata.deletion_time") == "" {
		t.Errorf("an hour later: %v", g)
	}
}

// TestKV2KeysAreUnambiguous writes a key whose path looks like another key's version.
func TestKV2KeysAreUnambiguous(t *testing.T) {
	c := ready(t)
	c.must(200, "PUT", "secret/data/a", `{"data":{"k":"a v1"}}`)
	c.must(200, "PUT", "secret/data/a/1", `{"data":{"k":"a/1 v1"}}`)
	c.must(200, "PUT", "secret/data/a/1/1", `{"data":{"k":"a/1/1 v1"}}`)
	for path, want := range map[string]string{"a": `{"k":"a v1"}`, "a/1": `{"k":"a/1 v1"}`, "a/1/1": `{"k":"a/1/1 v1"}`} {
		if g := c.must(200, "GET", "secret/data/"+path, ""); !same(g.at("data.data"), want) {
			t.Errorf("%s: got %v, want %s", path, g, want)
		}
	}
}

func TestKV2CompareAndSetHasOneWinner(t *testing.T) {
	c := ready(t)
	const writers = 16
	wins := make(chan bool, writers)
	for range writers {
		go func() {
			wins <- c.call("PUT", "secret/data/race", c.root, `{"data":{"a":1},"options":{"cas":0}}`).status == 200
		}()
	}
	n := 0
	for range writers {
		if <-wins {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d writers won, want 1", n)
	}
}

// TestADeletedVersionStaysDeletedWhateverTheClockSays sets the clock back after a delete, as that of a secondary may be behind its primary's.
func TestADeletedVersionStaysDeletedWhateverTheClockSays(t *testing.T) {
	c := ready(t)
	for _, tt := range []struct{ path, method, call, body string }{
		{"secret/data/latest", "DELETE", "secret/data/latest", ""},
		{"secret/data/named", "PUT", "secret/delete/named", `{"versions":[1]}`},
	} {
		c.must(200, "PUT", tt.path, `{"data":{"a":"1"}}`)
		c.must(204, tt.method, tt.call, tt.body)
		c.clock.pass(-time.Hour)
		c.must(404, "GET", tt.path, "")
		c.must(204, "PUT", strings.Replace(tt.path, "data", "undelete", 1), `{"versions":[1]}`)
		c.must(200, "GET", tt.path, "")
		c.clock.pass(2 * time.Hour)
		c.must(200, "GET", tt.path, "")
	}
}
