package opensearch_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

func TestConventionsOfRequests(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.must(201, "PUT", "/i/_doc/1", `{"a":1}`)
	a := c.call("PUT", "/i/_doc/2", `{"a":1}`, "Content-Type", "text/plain")
	if a.status != 406 || a.text != `{"error":"Content-Type header [text/plain] is not supported","status":406}` {
		t.Errorf("a body that is no JSON: got %d %s", a.status, a.text)
	}
	a = c.call("GET", "/i/_nothing", "")
	if a.status != 400 || a.text != `{"error":"no handler found for uri [/i/_nothing] and method [GET]"}` {
		t.Errorf("a path that does not exist: got %d %s", a.status, a.text)
	}
	a = c.call("DELETE", "/_cluster/health", "")
	if a.status != 405 || a.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("a wrong method: got %d, Allow %q: %s", a.status, a.header.Get("Allow"), a.text)
	}
	c.want("two unknown parameters", c.must(400, "GET", "/i?b=1&a=1", ""), "error.reason", "request [/i] contains unrecognized parameters: [a], [b]", "error.root_cause.0.type", "illegal_argument_exception", "status", 400)
	if a := c.call("GET", "/_plugins/_replication/i/_status", ""); a.status != 400 || !strings.HasPrefix(a.text, `{"error":"no handler found for uri [`) {
		t.Errorf("replication, which is not built yet: got %d %s", a.status, a.text)
	}
	if a := c.must(200, "GET", "/i/_doc/1?filter_path=_source.a,_i*", ""); a.text != `{"_id":"1","_index":"i","_source":{"a":1}}` {
		t.Errorf("filter_path: got %s", a.text)
	}
	if a := c.must(200, "GET", "/i/_doc/1?filter_path=-_source,-_*o,-_v*", ""); a.text != `{"_id":"1","_index":"i","_primary_term":1,"found":true}` {
		t.Errorf("filter_path that takes away: got %s", a.text)
	}
	if a := c.must(200, "GET", "/i/_settings?filter_path=**.number_of_shards", ""); a.text != `{"i":{"settings":{"index":{"number_of_shards":"1"}}}}` {
		t.Errorf("filter_path at any depth: got %s", a.text)
	}
	if a := c.must(200, "GET", "/i/_doc/1?pretty", ""); !strings.Contains(a.text, "{\n  \"_id\"") || a.header.Get("Content-Type") != "application/json; charset=UTF-8" {
		t.Errorf("pretty: got %s", a.text)
	}
	if a := c.call("HEAD", "/i/_doc/none", ""); a.status != 404 || a.text != "" {
		t.Errorf("HEAD of a missing document: got %d %q", a.status, a.text)
	}
	if a := c.must(200, "GET", `/i/_search?source_content_type=application/json&source=%7B%22size%22%3A0%7D`, ""); fmt.Sprint(a.at("hits.hits")) != "[]" {
		t.Errorf("a body in the query: got %s", a.text)
	}
	c.must(400, "GET", "/i/_count?format=yaml", "")
}

func TestClusterCalls(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.want("root", c.must(200, "GET", "/", ""), "version.distribution", "opensearch", "tagline", "The OpenSearch Project: https://opensearch.org/")
	if a := c.call("HEAD", "/", ""); a.status != 200 || a.text != "" {
		t.Errorf("HEAD /: got %d %q", a.status, a.text)
	}
	c.must(201, "PUT", "/i/_doc/1", `{}`)
	c.want("health", c.must(200, "GET", "/_cluster/health?level=indices&wait_for_status=green", ""), "status", "green", "active_shards", 1, "indices.i.status", "green")
	c.want("health of what is not there", c.must(408, "GET", "/_cluster/health/none?timeout=1s", ""), "timed_out", true)
	c.must(408, "GET", "/_cluster/health?wait_for_nodes=2", "")
	c.want("indices", c.must(200, "GET", "/_cat/indices?format=json", ""), "0.index", "i", "0.docs/count", "1", "0.health", "green")
	c.want("shards", c.must(200, "GET", "/_cat/shards?format=json", ""), "0.index", "i", "0.state", "STARTED", "0.prirep", "p")
	c.want("nodes", c.must(200, "GET", "/_cat/nodes?format=json&h=name,cluster_manager", ""), "0.cluster_manager", "*")
	if a := c.must(200, "GET", "/_cat/indices?v&h=index,docs.count", ""); a.text != "index docs.count\ni              1\n" {
		t.Errorf("a table: got %q", a.text)
	}
	for _, path := range []string{"/_nodes/http", "/_nodes/_all/http", "/_nodes/_local/http,os,thread_pool", "/_nodes"} {
		a := c.must(200, "GET", path, "")
		c.want(path, a, "_nodes.successful", 1)
		for _, n := range a.at("nodes").(map[string]any) {
			if at := n.(map[string]any)["http"].(map[string]any)["publish_address"]; at != "127.0.0.1:9200" {
				t.Errorf("%s: publish_address is %v", path, at)
			}
		}
	}
	c.want("another node", c.must(200, "GET", "/_nodes/other/http", ""), "_nodes.total", 0)
	c.must(200, "GET", "/_nodes/plugins", "")
	c.want("tasks", c.must(200, "GET", "/_tasks?actions=*replication*&detailed", ""), "nodes", "map[]")
}

func TestClusterSettings(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.must(200, "PUT", "/_cluster/settings", `{"persistent":{"plugins":{"replication":{"follower":{"bulk_batch_size":5}}}},"transient":{"plugins.replication.autofollow.fetch_poll_interval":"1m"}}`)
	c.want("set", a, "acknowledged", true, "persistent.plugins.replication.follower.bulk_batch_size", "5", "transient.plugins.replication.autofollow.fetch_poll_interval", "1m")
	c.want("read", c.must(200, "GET", "/_cluster/settings?flat_settings=true&include_defaults=true", ""), "persistent.plugins/replication/follower/bulk_batch_size", "5",
		"defaults.plugins/replication/follower/index/ops_batch_size", "50000")
	c.must(200, "PUT", "/_cluster/settings", `{"persistent":{"plugins.replication.follower.*":null}}`)
	c.want("removed", c.must(200, "GET", "/_cluster/settings", ""), "persistent", "map[]")
	for body, want := range map[string]string{
		`{"persistent":{"plugins.replication.follower.bulk_batch_size":0}}`:               "must be >= [1]",
		`{"persistent":{"plugins.replication.follower.bulk_batch_size":101}}`:             "must be <= [100]",
		`{"persistent":{"plugins.replication.follower.bulk_batch_size":"many"}}`:          "Failed to parse value [many]",
		`{"persistent":{"plugins.replication.autofollow.fetch_poll_interval":"1s"}}`:      "must be >= [30s]",
		`{"persistent":{"plugins.replication.autofollow.fetch_poll_interval":"1"}}`:       "as a time value",
		`{"persistent":{"plugins.replication.follower.index.recovery.chunk_size":"2gb"}}`: "must be <= [1gb]",
		`{"persistent":{"plugins.replication.follower.block.start":"yes"}}`:               "only [true] or [false] are allowed",
		`{"persistent":{"plugins.replication.leader.thread_pool.size":3}}`:                "not dynamically updateable",
		`{"persistent":{"cluster.remote.x.seeds":["a:1"]}}`:                               "unknown setting [cluster.remote.x.seeds]",
		`{"transient":{"some.thing":null}}`:                                               "unknown setting [some.thing]",
		`{"persistent":{}}`:                                                               "no settings to update",
		`{"other":{}}`:                                                                    "unknown field",
	} {
		if a := c.call("PUT", "/_cluster/settings", body); a.status != 400 || !strings.Contains(a.text, want) {
			t.Errorf("%s: got %d %s, want 400 with %q", body, a.status, a.text, want)
		}
	}
}

func basic(name, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

func TestUsersRolesAndMappings(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	const api = "/_plugins/_security/api/"
	c.must(201, "PUT", "/orders-1/_doc/1", `{"a":1}`)
	c.must(201, "PUT", "/other/_doc/1", `{"a":1}`)
	if a := c.must(201, "PUT", api+"internalusers/ann", `{"password":"a long password","backend_roles":["staff"]}`); a.text != `{"message":"'ann' created.","status":"CREATED"}` {
		t.Errorf("a new user: got %s", a.text)
	}
	c.must(200, "PUT", api+"internalusers/ann", `{"backend_roles":["staff"],"attributes":{"x":"y"}}`)
	c.must(201, "PUT", api+"roles/reader", `{"cluster_permissions":["cluster_composite_ops","cluster_monitor"],"index_permissions":[{"index_patterns":["orders-*"],"allowed_actions":["read","indices:data/write/index","indices:admin/create"]}]}`)
	c.must(201, "PUT", "/_opendistro/_security/api/rolesmapping/reader", `{"backend_roles":["staff"]}`)
	ann := []string{"Authorization", basic("ann", "a long password")}
	rows := []struct {
		method, path, body string
		want               int
		action             string
	}{
		{"GET", "/", "", 200, ""},
		{"GET", "/orders-1/_doc/1", "", 200, ""},
		{"GET", "/orders-1/_search", "", 200, ""},
		{"PUT", "/orders-1/_doc/2", `{"a":1}`, 201, ""},
		{"PUT", "/orders-2/_doc/2", `{"a":1}`, 201, ""},
		{"DELETE", "/orders-1/_doc/2", "", 403, "indices:data/write/delete"},
		{"POST", "/orders-1/_update/2", `{"doc":{}}`, 403, "indices:data/write/update"},
		{"GET", "/other/_doc/1", "", 403, "indices:data/read/get"},
		{"GET", "/other/_search", "", 403, "indices:data/read/search"},
		{"PUT", "/other/_doc/2", `{}`, 403, "indices:data/write/index"},
		{"DELETE", "/orders-1", "", 403, "indices:admin/delete"},
		{"PUT", "/_cluster/settings", `{"persistent":{"plugins.replication.follower.bulk_batch_size":5}}`, 403, "cluster:admin/settings/update"},
		{"GET", api + "roles", "", 403, "restapi:admin/roles"},
		{"GET", api + "account", "", 200, ""},
	}
	for _, r := range rows {
		a := c.send(c.srv, r.method, r.path, r.body, ann...)
		if a.status != r.want {
			t.Errorf("%s %s as ann: got %d %s, want %d", r.method, r.path, a.status, a.text, r.want)
		}
		if want := "no permissions for [" + r.action + "] and User [name=ann, backend_roles=[staff], requestedTenant=null]"; r.want == 403 && a.at("error.reason") != want {
			t.Errorf("%s %s as ann: got %s, want %s", r.method, r.path, a.text, want)
		}
	}
	if a := c.send(c.srv, "GET", "/", "", "Authorization", basic("ann", "another")); a.status != 401 {
		t.Errorf("a wrong password: got %d, want 401", a.status)
	}
	if a := c.send(c.srv, "GET", "/v1/orders-1/1", "", ann...); a.status != 403 {
		t.Errorf("an internal user under /v1/: got %d %s, want 403", a.status, a.text)
	}
	c.want("account", c.send(c.srv, "GET", api+"account", "", ann...), "user_name", "ann", "roles.0", "reader")
	c.must(200, "PUT", api+"internalusers/ann", `{"password":"another password"}`)
	if a := c.send(c.srv, "GET", "/", "", ann...); a.status != 401 {
		t.Errorf("a password that was changed: got %d, want 401", a.status)
	}
	ann[1] = basic("ann", "another password")
	if a := c.send(c.srv, "GET", "/orders-1/_doc/1", "", ann...); a.status != 403 {
		t.Errorf("after the backend role was taken away: got %d, want 403", a.status)
	}
	c.must(200, "PATCH", api+"rolesmapping/reader", `[{"op":"add","path":"/users","value":["ann"]}]`)
	if a := c.send(c.srv, "GET", "/orders-1/_doc/1", "", ann...); a.status != 200 {
		t.Errorf("after mapping the user: got %d, want 200", a.status)
	}
	refused := []struct {
		method, path, body string
		want               int
		text               string
	}{
		{"PUT", "roles/all_access", `{}`, 403, `"message":"Resource 'all_access' is reserved."`},
		{"DELETE", "roles/all_access", "", 403, "is reserved."},
		{"DELETE", "internalusers/none", "", 404, `"message":"user 'none' not found.","status":"NOT_FOUND"`},
		{"GET", "roles/none", "", 404, "role 'none' not found."},
		{"PUT", "internalusers/x", `{"password":"short"}`, 400, "Weak password"},
		{"PUT", "internalusers/x", `{"foo":1}`, 400, `"invalid_keys":{"keys":"foo"}`},
		{"PUT", "internalusers/x", `{"password":5}`, 400, "Wrong datatype"},
		{"PUT", "internalusers/x", `{`, 400, "Could not parse content of request."},
		{"PUT", "internalusers/x", `{}`, 400, "Please specify either"},
		{"PUT", "roles/x", `{"index_permissions":[{"index_patterns":["a"],"allowed_actions":["read"],"dls":"{}"}]}`, 400, "not offered"},
	}
	for _, r := range refused {
		if a := c.call(r.method, api+r.path, r.body); a.status != r.want || !strings.Contains(a.text, r.text) {
			t.Errorf("%s %s: got %d %s, want %d %s", r.method, r.path, a.status, a.text, r.want, r.text)
		}
	}
	a := c.must(200, "GET", api+"internalusers", "")
	if strings.Contains(a.text, "$2") || a.at("ann.hash") != "" {
		t.Errorf("users as listed: got %s, want no hash", a.text)
	}
	c.must(200, "DELETE", api+"internalusers/ann", "")
	if a := c.send(c.srv, "GET", "/", "", ann...); a.status != 401 {
		t.Errorf("a user that was deleted: got %d, want 401", a.status)
	}
}

func TestRepeatedWrongPasswordsLockAnAccount(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	const api = "/_plugins/_security/api/internalusers/"
	c.must(201, "PUT", api+"ann", `{"password":"a long password","opendistro_security_roles":["all_access"]}`)
	c.must(201, "PUT", api+"bob", `{"password":"a long password","opendistro_security_roles":["all_access"]}`)
	try := func(name, password string) int {
		return c.send(c.srv, "GET", "/", "", "Authorization", basic(name, password)).status
	}
	if got := try("ann", "a long password"); got != 200 {
		t.Fatalf("the right password: got %d", got)
	}
	for range 5 {
		try("ann", "wrong")
		try("bob", "wrong")
	}
	if got := try("bob", "a long password"); got != 401 {
		t.Errorf("the right password after five wrong ones: got %d, want 401", got)
	}
	if got := try("ann", "a long password"); got != 200 {
		t.Errorf("who was known before: got %d, want 200", got)
	}
}
