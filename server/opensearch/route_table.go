package opensearch

import (
	"errors"
	"slices"
	"strings"

	"github.com/lockstepdb/lockstep/storage"
)

// Actions are the names of permissions.
const (
	actionIndexDoc           = "indices:data/write/index"
	actionDeleteDoc          = "indices:data/write/delete"
	actionUpdateDoc          = "indices:data/write/update"
	actionBulk               = "indices:data/write/bulk"
	actionGet                = "indices:data/read/get"
	actionMultiGet           = "indices:data/read/mget"
	actionSearch             = "indices:data/read/search"
	actionCount              = "indices:data/read/count"
	actionCreate             = "indices:admin/create"
	actionDelete             = "indices:admin/delete"
	actionGetIndex           = "indices:admin/get"
	actionGetSettings        = "indices:monitor/settings/get"
	actionPutSettings        = "indices:admin/settings/update"
	actionGetMapping         = "indices:admin/mappings/get"
	actionPutMapping         = "indices:admin/mapping/put"
	actionAliases            = "indices:admin/aliases"
	actionGetAliases         = "indices:admin/aliases/get"
	actionClose              = "indices:admin/close"
	actionOpen               = "indices:admin/open"
	actionRefresh            = "indices:admin/refresh"
	actionFlush              = "indices:admin/flush"
	actionForceMerge         = "indices:admin/forcemerge"
	actionMonitor            = "indices:monitor/stats"
	actionHealth             = "cluster:monitor/health"
	actionMain               = "cluster:monitor/main"
	actionState              = "cluster:monitor/state"
	actionNodes              = "cluster:monitor/nodes/info"
	actionTasks              = "cluster:monitor/tasks/lists"
	actionPutClusterSettings = "cluster:admin/settings/update"
	actionSecurity           = "restapi:admin/"
)

func isNotFound(err error) bool { return errors.Is(err, storage.ErrNotFound) }

// routeTable is everything that this face has; of the routes that match a path, the first counts.
func routeTable() []route {
	out := slices.Concat(documentRoutes(), indexRoutes(), clusterRoutes(), securityRoutes("/_plugins"), securityRoutes("/_opendistro"))
	for i := range out {
		if path := strings.Trim(out[i].path, "/"); path != "" {
			out[i].parts = strings.Split(path, "/")
		}
	}
	return out
}

func documentRoutes() []route {
	update := writeParams + "retry_on_conflict _source _source_includes _source_excludes "
	return []route{
		{"POST", "/{index}/_doc", "", writes, writeParams + "op_type", (*Face).indexDocument, nil},
		{"PUT POST", "/{index}/_doc/{id}", "", writes, writeParams + "op_type", (*Face).indexDocument, nil},
		{"GET HEAD", "/{index}/_doc/{id}", "", 0, getParams, (*Face).getDocument, nil},
		{"DELETE", "/{index}/_doc/{id}", "", writes, writeParams, (*Face).deleteDocument, nil},
		{"PUT POST", "/{index}/_create/{id}", "", writes, writeParams, (*Face).indexDocument, nil},
		{"GET HEAD", "/{index}/_source/{id}", "", 0, getParams, (*Face).getSource, nil},
		{"POST", "/{index}/_update/{id}", "", writes, update, (*Face).updateDocument, nil},
		{"POST PUT", "/_bulk", "", writes | lines, bulkParams, (*Face).bulk, nil},
		{"POST PUT", "/{index}/_bulk", "", writes | lines, bulkParams, (*Face).bulk, nil},
		{"GET POST", "/_mget", "", 0, getParams, (*Face).mget, nil},
		{"GET POST", "/{index}/_mget", "", 0, getParams, (*Face).mget, nil},
		{"GET POST", "/_search", "", 0, searchParams, (*Face).searchCall, nil},
		{"GET POST", "/{indices}/_search", "", 0, searchParams, (*Face).searchCall, nil},
		{"GET POST", "/_count", "", 0, "q df " + countParams, (*Face).countCall, nil},
		{"GET POST", "/{indices}/_count", "", 0, "q df " + countParams, (*Face).countCall, nil},
	}
}

func indexRoutes() []route {
	settings := changeParams + "preserve_existing flat_settings"
	return []route{
		{"GET POST", "/_refresh", actionRefresh, 0, indicesParams, (*Face).nothingToDo, nil},
		{"GET POST", "/{indices}/_refresh", actionRefresh, 0, indicesParams, (*Face).nothingToDo, nil},
		{"GET POST", "/_flush", actionFlush, 0, indicesParams + "force wait_if_ongoing", (*Face).nothingToDo, nil},
		{"GET POST", "/{indices}/_flush", actionFlush, 0, indicesParams + "force wait_if_ongoing", (*Face).nothingToDo, nil},
		{"POST", "/_forcemerge", actionForceMerge, 0, indicesParams + "max_num_segments only_expunge_deletes flush", (*Face).nothingToDo, nil},
		{"POST", "/{indices}/_forcemerge", actionForceMerge, 0, indicesParams + "max_num_segments only_expunge_deletes flush", (*Face).nothingToDo, nil},
		{"POST", "/{indices}/_close", "", writes, changeParams + "wait_for_active_shards", setClosed(true), nil},
		{"POST", "/{indices}/_open", "", writes, changeParams + "wait_for_active_shards", setClosed(false), nil},
		{"GET", "/_settings", "", 0, getIxParams, (*Face).getSettings, nil},
		{"GET", "/{indices}/_settings", "", 0, getIxParams, (*Face).getSettings, nil},
		{"GET", "/{indices}/_settings/{name}", "", 0, getIxParams, (*Face).getSettings, nil},
		{"PUT", "/_settings", "", writes, settings, (*Face).putSettings, nil},
		{"PUT", "/{indices}/_settings", "", writes, settings, (*Face).putSettings, nil},
		{"GET", "/_mapping", "", 0, getIxParams, (*Face).getMappings, nil},
		{"GET", "/{indices}/_mapping", "", 0, getIxParams, (*Face).getMappings, nil},
		{"PUT POST", "/{indices}/_mapping", "", writes, changeParams + "write_index_only", (*Face).putMapping, nil},
		{"GET", "/_alias", "", 0, getIxParams, (*Face).getAliases, nil},
		{"GET", "/_aliases", "", 0, getIxParams, (*Face).getAliases, nil},
		{"POST", "/_aliases", "", writes, changeParams, (*Face).updateAliases, nil},
		{"GET", "/_alias/{name}", "", 0, getIxParams, (*Face).getAliases, nil},
		{"HEAD", "/_alias/{name}", "", 0, getIxParams, (*Face).aliasExists, nil},
		{"GET", "/{indices}/_alias", "", 0, getIxParams, (*Face).getAliases, nil},
		{"GET", "/{indices}/_alias/{name}", "", 0, getIxParams, (*Face).getAliases, nil},
		{"HEAD", "/{indices}/_alias/{name}", "", 0, getIxParams, (*Face).aliasExists, nil},
		{"PUT POST", "/{indices}/_alias/{name}", "", writes, changeParams, (*Face).putAlias, nil},
		{"PUT POST", "/{indices}/_aliases/{name}", "", writes, changeParams, (*Face).putAlias, nil},
		{"DELETE", "/{indices}/_alias/{name}", "", writes, changeParams, (*Face).deleteAlias, nil},
		{"DELETE", "/{indices}/_aliases/{name}", "", writes, changeParams, (*Face).deleteAlias, nil},
		{"PUT", "/{index}", "", writes, createParams, (*Face).createIndex, nil},
		{"GET", "/{indices}", "", 0, getIxParams, (*Face).getIndices, nil},
		{"HEAD", "/{indices}", "", 0, getIxParams, (*Face).indexExists, nil},
		{"DELETE", "/{indices}", "", writes, changeParams, (*Face).deleteIndices, nil},
	}
}

func clusterRoutes() []route {
	health := "wait_for_status timeout local wait_for_no_initializing_shards wait_for_no_relocating_shards wait_for_active_shards wait_for_nodes wait_for_events level cluster_manager_timeout master_timeout " + indicesParams
	cat := "v h s help local bytes time health pri include_unloaded_segments cluster_manager_timeout master_timeout " + indicesParams
	nodes := "timeout flat_settings"
	settings := "flat_settings include_defaults local timeout cluster_manager_timeout master_timeout"
	return []route{
		{"GET HEAD", "/", actionMain, 0, "", (*Face).root, nil},
		{"GET HEAD", "/_cluster/health", actionHealth, 0, health, (*Face).health, nil},
		{"GET HEAD", "/_cluster/health/{indices}", "", 0, health, (*Face).health, nil},
		{"GET", "/_cluster/settings", actionState, 0, settings, (*Face).getClusterSettings, nil},
		{"PUT", "/_cluster/settings", actionPutClusterSettings, writes, settings, (*Face).putClusterSettings, nil},
		{"GET", "/_cat/indices", "", plainCat, cat, (*Face).catIndices, nil},
		{"GET", "/_cat/indices/{indices}", "", plainCat, cat, (*Face).catIndices, nil},
		{"GET", "/_cat/shards", "", plainCat, cat, (*Face).catShards, nil},
		{"GET", "/_cat/shards/{indices}", "", plainCat, cat, (*Face).catShards, nil},
		{"GET", "/_cat/nodes", actionNodes, plainCat, cat + "full_id", (*Face).catNodes, nil},
		{"GET", "/_nodes", actionNodes, 0, nodes, (*Face).nodes, nil},
		{"GET", "/_nodes/{a}", actionNodes, 0, nodes, (*Face).nodes, nil},
		{"GET", "/_nodes/{a}/{b}", actionNodes, 0, nodes, (*Face).nodes, nil},
		{"GET", "/_tasks", actionTasks, 0, "actions detailed group_by nodes parent_task_id timeout wait_for_completion", (*Face).tasks, nil},
	}
}

// securityRoutes are those of users, roles and mappings, under the present and the former prefix.
func securityRoutes(prefix string) []route {
	api := prefix + "/_security/api/"
	out := []route{{"GET", api + "account", "", 0, "", (*Face).account, nil}}
	for _, kind := range []string{userKind, roleKind, mappingKind} {
		action := actionSecurity + kind
		out = append(out,
			route{"GET", api + kind, action, 0, "", getSecured(kind), nil},
			route{"GET", api + kind + "/{name}", action, 0, "", getSecured(kind), nil},
			route{"PUT", api + kind + "/{name}", action, writes, "", putSecured(kind), nil},
			route{"PATCH", api + kind + "/{name}", action, writes, "", patchSecured(kind), nil},
			route{"DELETE", api + kind + "/{name}", action, writes, "", deleteSecured(kind), nil},
		)
	}
	return out
}
