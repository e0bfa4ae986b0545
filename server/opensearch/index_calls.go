package opensearch

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/lockstepdb/lockstep/server/vault"
)

const (
	createParams = "timeout cluster_manager_timeout master_timeout wait_for_active_shards "
	changeParams = "timeout cluster_manager_timeout master_timeout " + indicesParams
	getIxParams  = "flat_settings include_defaults local cluster_manager_timeout master_timeout " + indicesParams
)

var (
	openOnly = options{open: true}
	anyState = options{open: true, closed: true}
)

// createBody is the body of a call that makes an index.
type createBody struct {
	Settings map[string]any   `json:"settings"`
	Mappings json.RawMessage  `json:"mappings"`
	Aliases  map[string]alias `json:"aliases"`
}

func (f *Face) createIndex(r *request) (*reply, error) {
	name := r.vars["index"]
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := f.may(r, actionCreate, name); err != nil {
		return nil, err
	}
	if err := r.activeShards(); err != nil {
		return nil, err
	}
	var b createBody
	if len(r.body) > 0 {
		if err := r.decode(&b); err != nil {
			return nil, err
		}
	}
	desc := &description{Aliases: b.Aliases}
	var err error
	if desc.Settings, err = indexSettings(b.Settings, true); err != nil {
		return nil, err
	}
	if desc.Mappings, err = checkMappings(b.Mappings); err != nil {
		return nil, err
	}
	for aliasName, a := range b.Aliases {
		if err := f.checkAlias(r, aliasName, a); err != nil {
			return nil, err
		}
	}
	if all, err := f.indices(r); err != nil {
		return nil, err
	} else if hasAlias(all, name) {
		return nil, &failure{status: http.StatusBadRequest, kind: "invalid_index_name_exception", reason: "Invalid index name [" + name + "], already exists as alias", index: name, uuid: "_na_"}
	}
	there, err := f.index(r, name)
	if err != nil {
		return nil, err
	}
	made := false
	if there == nil {
		if r.call.Taken(name + "/") {
			return nil, takenName(name)
		}
		if there, made, err = f.create(r, name, desc); err != nil {
			return nil, err
		}
	}
	if !made {
		return nil, &failure{
			status: http.StatusBadRequest, kind: "resource_already_exists_exception", reason: "index [" + name + "/" + there.uuid() + "] already exists", index: name, uuid: there.uuid(),
		}
	}
	return ok(map[string]any{"acknowledged": true, "shards_acknowledged": true, "index": name}), nil
}

func hasAlias(all []*index, name string) bool {
	for _, ix := range all {
		if _, has := ix.desc.Aliases[name]; has {
			return true
		}
	}
	return false
}

func (f *Face) deleteIndices(r *request) (*reply, error) {
	expression := r.vars["indices"]
	o, err := r.options(options{open: true, closed: true, noAliases: true})
	if err != nil {
		return nil, err
	}
	for word := range strings.SplitSeq(expression, ",") { // an alias is no index to delete
		if strings.ContainsAny(word, "*") || word == "_all" || badName(word) != "" {
			continue
		}
		all, err := f.indices(r)
		if err != nil {
			return nil, err
		}
		if f.may(r, actionDelete, word) == nil && hasAlias(all, word) {
			return nil, illegal("The provided expression [%s] matches an alias, specify the corresponding concrete indices instead.", word)
		}
	}
	list, err := f.resolve(r, expression, actionDelete, o)
	if err != nil {
		return nil, err
	}
	for _, ix := range list {
		if err := r.call.DropMount(ix.mount); err != nil {
			if status, _, _ := vault.Translate(err); status == http.StatusNotFound {
				return nil, noIndex(ix.name)
			}
			return nil, err
		}
	}
	return ok(acknowledged), nil
}

// settingsOf is what an index's settings are, flat.
func (f *Face) settingsOf(ix *index) map[string]any {
	out := map[string]any{
		"index.number_of_shards": "1", "index.number_of_replicas": "1", "index.uuid": ix.uuid(), "index.provided_name": ix.name,
		"index.creation_date": itoa64(ix.desc.Created), "index.version.created": versionID,
	}
	for name, v := range ix.desc.Settings {
		out[name] = v
	}
	if ix.desc.Closed {
		out["index.verified_before_close"] = "true"
	}
	return out
}

func (f *Face) shownSettings(r *request, ix *index, only []string) (map[string]any, error) {
	flat, err := r.boolean("flat_settings", false)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	for name, v := range f.settingsOf(ix) {
		if only == nil || anyWild(only, name) {
			out[name] = v
		}
	}
	if flat {
		return out, nil
	}
	return nested(out), nil
}

func mappingsOf(ix *index) json.RawMessage {
	if len(ix.desc.Mappings) == 0 {
		return json.RawMessage("{}")
	}
	return ix.desc.Mappings
}

// described finds the indices of a call that shows them.
func (f *Face) toDescribe(r *request, action string) ([]*index, error) {
	o, err := r.options(anyState)
	if err != nil {
		return nil, err
	}
	return f.resolve(r, r.vars["indices"], action, o)
}

func (f *Face) getIndices(r *request) (*reply, error) {
	list, err := f.toDescribe(r, actionGetIndex)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	for _, ix := range list {
		settings, err := f.shownSettings(r, ix, nil)
		if err != nil {
			return nil, err
		}
		out[ix.name] = map[string]any{"aliases": aliasesOf(ix), "mappings": mappingsOf(ix), "settings": settings}
	}
	return ok(out), nil
}

func (f *Face) indexExists(r *request) (*reply, error) {
	list, err := f.toDescribe(r, actionGetIndex)
	if err == nil && len(list) == 0 && !strings.Contains(r.vars["indices"], "*") {
		err = noIndex(r.vars["indices"])
	}
	if err != nil {
		return nil, err
	}
	return &reply{}, nil
}

func (f *Face) getSettings(r *request) (*reply, error) {
	list, err := f.toDescribe(r, actionGetSettings)
	if err != nil {
		return nil, err
	}
	var only []string
	if name := r.vars["name"]; name != "" && name != "_all" {
		only = strings.Split(name, ",")
	}
	out := map[string]any{}
	for _, ix := range list {
		settings, err := f.shownSettings(r, ix, only)
		if err != nil {
			return nil, err
		}
		out[ix.name] = map[string]any{"settings": settings}
	}
	return ok(out), nil
}

func (f *Face) putSettings(r *request) (*reply, error) {
	if len(r.body) == 0 {
		return nil, bodyRequired()
	}
	v, valid := decodeAny(r.body)
	body, is := v.(map[string]any)
	if !valid || !is {
		return nil, fail(http.StatusBadRequest, parseFailed, "the request's body must be a JSON object")
	}
	if inner, has := body["settings"].(map[string]any); has && len(body) == 1 {
		body = inner
	}
	preserve, err := r.boolean("preserve_existing", false)
	if err != nil {
		return nil, err
	}
	given, err := indexSettings(body, false)
	if err != nil {
		return nil, err
	}
	removed := nulls(body)
	list, err := f.toChange(r, actionPutSettings)
	if err != nil {
		return nil, err
	}
	return f.changeAll(r, list, func(d *description) error {
		for name, v := range given {
			if _, has := d.Settings[name]; !has || !preserve {
				d.Settings[name] = v
			}
		}
		for _, name := range removed {
			delete(d.Settings, name)
		}
		return nil
	})
}

// toChange finds the indices of a call that changes them.
func (f *Face) toChange(r *request, action string) ([]*index, error) {
	o, err := r.options(anyState)
	if err != nil {
		return nil, err
	}
	if err := r.timeouts("timeout", "cluster_manager_timeout", "master_timeout"); err != nil {
		return nil, err
	}
	return f.resolve(r, r.vars["indices"], action, o)
}

func (f *Face) changeAll(r *request, list []*index, fn func(d *description) error) (*reply, error) {
	changes := make([]indexChange, len(list))
	for i, ix := range list {
		changes[i] = indexChange{ix, fn}
	}
	return ok(acknowledged), f.change(r, changes)
}

func (f *Face) getMappings(r *request) (*reply, error) {
	list, err := f.toDescribe(r, actionGetMapping)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	for _, ix := range list {
		out[ix.name] = map[string]any{"mappings": mappingsOf(ix)}
	}
	return ok(out), nil
}

func (f *Face) putMapping(r *request) (*reply, error) {
	if len(r.body) == 0 {
		return nil, bodyRequired()
	}
	given, err := checkMappings(r.body)
	if err != nil {
		return nil, err
	}
	list, err := f.toChange(r, actionPutMapping)
	if err != nil {
		return nil, err
	}
	return f.changeAll(r, list, func(d *description) (err error) {
		d.Mappings, err = mergeMappings(d.Mappings, given)
		return err
	})
}

// setClosed closes or opens indices.
func setClosed(closed bool) handler {
	return func(f *Face, r *request) (*reply, error) {
		action := actionOpen
		if closed {
			action = actionClose
		}
		if err := r.activeShards(); err != nil {
			return nil, err
		}
		list, err := f.toChange(r, action)
		if err != nil {
			return nil, err
		}
		if _, err := f.changeAll(r, list, func(d *description) error { d.Closed = closed; return nil }); err != nil {
			return nil, err
		}
		body := map[string]any{"acknowledged": true, "shards_acknowledged": true}
		if closed {
			indices := map[string]any{}
			for _, ix := range list {
				indices[ix.name] = map[string]any{"closed": true}
			}
			body["indices"] = indices
		}
		return ok(body), nil
	}
}

// nothingToDo answers calls about segments and buffers, which an index has none of: what was written is read at once, and durable.
func (f *Face) nothingToDo(r *request) (*reply, error) {
	o, err := r.options(openOnly)
	if err != nil {
		return nil, err
	}
	list, err := f.resolve(r, r.vars["indices"], r.route.action, o)
	if err != nil {
		return nil, err
	}
	total := 0
	for _, ix := range list {
		if err := ix.usable(); err != nil {
			return nil, err
		}
		total += 1 + ix.replicas()
	}
	return ok(map[string]any{"_shards": map[string]int{"total": total, "successful": len(list), "failed": 0}}), nil
}
