package opensearch

import (
	"net"
	"net/http"
	"runtime"
	"strings"
)

// What this face calls itself: the version of OpenSearch whose API it has, and that version as a number.
const (
	apiVersion = "3.8.0"
	versionID  = "137297827"
	tagline    = "The OpenSearch Project: https://opensearch.org/"
)

func (f *Face) root(r *request) (*reply, error) {
	id := f.engine.Identity()
	return ok(map[string]any{
		"name": f.nodeName(), "cluster_name": f.clusterName(), "cluster_uuid": id.ClusterID,
		"version": map[string]any{
			"distribution": "opensearch", "number": apiVersion, "build_type": "lockstep", "build_hash": f.cfg.Version, "build_date": "", "build_snapshot": false,
			"lucene_version": "none", "minimum_wire_compatibility_version": "2.19.0", "minimum_index_compatibility_version": "2.0.0",
		},
		"tagline": tagline,
	}), nil
}

func (f *Face) clusterName() string {
	if name := f.engine.Identity().ClusterName; name != "" {
		return name
	}
	return "lockstep"
}

// nodeName is the one node's: a cluster has one.
func (f *Face) nodeName() string { return f.clusterName() }

// nodeID is the one node's.
func (f *Face) nodeID() string {
	return strings.ReplaceAll(f.engine.Identity().ClusterID, "-", "")[:22]
}

func (f *Face) health(r *request) (*reply, error) {
	if err := r.timeouts("timeout", "cluster_manager_timeout", "master_timeout"); err != nil {
		return nil, err
	}
	switch status := r.query.Get("wait_for_status"); status {
	case "", "green", "yellow", "red":
	default:
		return nil, illegal("unknown cluster health status [%.64s]", status)
	}
	level := r.query.Get("level")
	switch level {
	case "", "cluster", "indices":
	default:
		return nil, notOffered("[level="+level+"]", "cluster and indices are")
	}
	expression := r.vars["indices"]
	list, err := f.healthOf(r, expression)
	missing := isNoIndex(err)
	if err != nil && !missing {
		return nil, err
	}
	shards := 0
	indices := map[string]any{}
	for _, ix := range list {
		if !ix.desc.Closed {
			shards++
		}
		indices[ix.name] = map[string]any{
			"status": "green", "number_of_shards": 1, "number_of_replicas": ix.replicas(), "active_primary_shards": 1, "active_shards": 1,
			"relocating_shards": 0, "initializing_shards": 0, "unassigned_shards": 0,
		}
	}
	body := map[string]any{
		"cluster_name": f.clusterName(), "status": "green", "timed_out": false, "number_of_nodes": 1, "number_of_data_nodes": 1, "discovered_master": true,
		"discovered_cluster_manager": true, "active_primary_shards": shards, "active_shards": shards, "relocating_shards": 0, "initializing_shards": 0,
		"unassigned_shards": 0, "delayed_unassigned_shards": 0, "number_of_pending_tasks": 0, "number_of_in_flight_fetch": 0,
		"task_max_waiting_in_queue_millis": 0, "active_shards_percent_as_number": 100.0,
	}
	if level == "indices" {
		body["indices"] = indices
	}
	if missing || !oneNode(r.query.Get("wait_for_nodes")) { // neither would change by waiting for this node
		body["timed_out"] = true
		if missing {
			body["status"] = "red"
		}
		return &reply{status: http.StatusRequestTimeout, body: body}, nil
	}
	return ok(body), nil
}

func (f *Face) healthOf(r *request, expression string) ([]*index, error) {
	if expression == "" {
		expression = "_all"
	}
	o, err := r.options(anyState)
	if err != nil {
		return nil, err
	}
	return f.resolve(r, expression, actionHealth, o)
}

// oneNode tells whether a cluster of one node is what is waited for.
func oneNode(text string) bool {
	switch text {
	case "", "1", ">=1", "<=1", "ge(1)", "le(1)", ">0", "gt(0)", ">=0", "ge(0)":
		return true
	}
	return strings.HasPrefix(text, "<") && text != "<1" && text != "<0" && text != "<=0" || strings.HasPrefix(text, "l")
}

func (f *Face) catIndices(r *request) (*reply, error) {
	if err := r.catUnits(); err != nil {
		return nil, err
	}
	list, err := f.cat(r)
	if err != nil {
		return nil, err
	}
	t := &table{columns: []column{
		{name: "health"}, {name: "status"}, {name: "index"}, {name: "uuid"}, {name: "pri", right: true}, {name: "rep", right: true},
		{name: "docs.count", right: true}, {name: "docs.deleted", right: true}, {name: "store.size", right: true}, {name: "pri.store.size", right: true},
		{name: "creation.date", hidden: true},
	}}
	view := f.engine.Snapshot()
	defer view.Release()
	for _, ix := range list {
		n, err := documents(view, ix)
		if err != nil {
			return nil, err
		}
		status, count, deleted := "open", utoa(n), "0"
		if ix.desc.Closed {
			status, count, deleted = "close", "", ""
		}
		t.rows = append(t.rows, []string{"green", status, ix.name, ix.uuid(), "1", itoa(ix.replicas()), count, deleted, "", "", itoa64(ix.desc.Created)})
	}
	return &reply{table: t}, nil
}

// catUnits checks how sizes are to be shown, which are not known of an index.
func (r *request) catUnits() error {
	if health := r.query.Get("health"); health != "" && health != "green" {
		return notOffered("[health] other than green", "leave it out: what is served is green")
	}
	return nil
}

func (f *Face) cat(r *request) ([]*index, error) {
	expression := r.vars["indices"]
	if expression == "" {
		expression = "_all"
	}
	o, err := r.options(anyState)
	if err != nil {
		return nil, err
	}
	return f.resolve(r, expression, actionMonitor, o)
}

func (f *Face) catShards(r *request) (*reply, error) {
	list, err := f.cat(r)
	if err != nil {
		return nil, err
	}
	host, _ := f.address()
	t := &table{columns: []column{
		{name: "index"}, {name: "shard", right: true}, {name: "prirep"}, {name: "state"}, {name: "docs", right: true}, {name: "store", right: true}, {name: "ip"}, {name: "node"},
		{name: "id", hidden: true},
	}}
	view := f.engine.Snapshot()
	defer view.Release()
	for _, ix := range list {
		n, err := documents(view, ix)
		if err != nil {
			return nil, err
		}
		t.rows = append(t.rows, []string{ix.name, "0", "p", "STARTED", utoa(n), "", host, f.nodeName(), f.nodeID()})
	}
	return &reply{table: t}, nil
}

func (f *Face) catNodes(r *request) (*reply, error) {
	host, _ := f.address()
	t := &table{columns: []column{
		{name: "ip"}, {name: "heap.percent", right: true}, {name: "ram.percent", right: true}, {name: "cpu", right: true}, {name: "load_1m", right: true},
		{name: "load_5m", right: true}, {name: "load_15m", right: true}, {name: "node.role"}, {name: "node.roles"}, {name: "cluster_manager"}, {name: "name"},
		{name: "id", hidden: true}, {name: "version", hidden: true},
	}}
	t.rows = append(t.rows, []string{host, "", "", "", "", "", "", "dmr", "cluster_manager,data,remote_cluster_client", "*", f.nodeName(), f.nodeID(), apiVersion})
	return &reply{table: t}, nil
}

// address is where clients reach this face.
func (f *Face) address() (host, whole string) {
	host, _, err := net.SplitHostPort(f.cfg.Address)
	if err != nil {
		return f.cfg.Address, f.cfg.Address
	}
	return host, f.cfg.Address
}

// nodeMetrics are the parts of a node's description.
var nodeMetrics = map[string]func(f *Face) any{
	"http": func(f *Face) any {
		_, at := f.address()
		return map[string]any{"bound_address": []string{at}, "publish_address": at, "max_content_length_in_bytes": f.cfg.MaxBody}
	},
	"plugins": func(*Face) any { return []any{} },
	"modules": func(*Face) any { return []any{} },
	"os": func(*Face) any {
		return map[string]any{"name": runtime.GOOS, "arch": runtime.GOARCH, "available_processors": runtime.NumCPU(), "allocated_processors": runtime.GOMAXPROCS(0)}
	},
	"process":  func(*Face) any { return map[string]any{} },
	"settings": func(f *Face) any { return map[string]any{"cluster": map[string]any{"name": f.clusterName()}} },
	"thread_pool": func(*Face) any {
		return map[string]any{"search": map[string]any{"type": "fixed", "size": maxSearches, "queue_size": -1}}
	},
}

// otherMetrics are asked for by name and have nothing to show here.
var otherMetrics = map[string]bool{"jvm": true, "transport": true, "ingest": true, "aggregations": true, "indices": true, "search_pipelines": true}

// nodes describes the one node. Two names behind _nodes: which nodes, and which parts; of one it depends on what it is.
func (f *Face) nodes(r *request) (*reply, error) {
	which, parts := r.vars["a"], r.vars["b"]
	if parts == "" && which != "" {
		for name := range strings.SplitSeq(which, ",") {
			if nodeMetrics[name] != nil || otherMetrics[name] {
				which, parts = "", which
				break
			}
		}
	}
	host, at := f.address()
	out := map[string]any{}
	if f.isThisNode(which) {
		node := map[string]any{
			"name": f.nodeName(), "transport_address": at, "host": host, "ip": host, "version": apiVersion, "build_type": "lockstep", "build_hash": f.cfg.Version,
			"roles": []string{"cluster_manager", "data", "remote_cluster_client"}, "attributes": map[string]string{},
		}
		for name, part := range nodeMetrics {
			if parts == "" || parts == "_all" || anyPart(parts, name) {
				node[name] = part(f)
			}
		}
		for name := range strings.SplitSeq(parts, ",") {
			if parts != "" && parts != "_all" && nodeMetrics[name] == nil && !otherMetrics[name] {
				return nil, illegal("request [%s] contains unrecognized metric: [%.64s]", r.path, name)
			}
		}
		out[f.nodeID()] = node
	}
	return ok(map[string]any{
		"_nodes": map[string]int{"total": len(out), "successful": len(out), "failed": 0}, "cluster_name": f.clusterName(), "nodes": out,
	}), nil
}

func anyPart(parts, name string) bool {
	for part := range strings.SplitSeq(parts, ",") {
		if part == name {
			return true
		}
	}
	return false
}

func (f *Face) isThisNode(which string) bool {
	if which == "" {
		return true
	}
	for name := range strings.SplitSeq(which, ",") {
		switch name {
		case "_all", "_local", "_cluster_manager", "_master", f.nodeName(), f.nodeID():
			return true
		}
		if strings.Contains(name, "*") && (wildMatch(name, f.nodeName()) || wildMatch(name, f.nodeID())) {
			return true
		}
	}
	return false
}

// tasks lists what lasts longer than a request: there is nothing of that kind yet.
func (f *Face) tasks(r *request) (*reply, error) {
	if r.query.Get("group_by") == "parents" || r.query.Get("group_by") == "none" {
		return ok(map[string]any{"tasks": map[string]any{}}), nil
	}
	return ok(map[string]any{"nodes": map[string]any{}}), nil
}
