package opensearch

import (
	"net/http"
)

const bulkParams = "refresh timeout wait_for_active_shards require_alias _source _source_includes _source_excludes " + neverParams

// targets remembers, within one bulk request, which index a name stands for.
type targets map[string]target

type target struct {
	ix  *index
	err error
}

// bulk executes many writes. Each has its own outcome; those that come after one another in the request are made in that order.
func (f *Face) bulk(r *request) (*reply, error) {
	if err := f.mayCluster(r, actionBulk); err != nil {
		return nil, err
	}
	if err := r.checkWrite(); err != nil {
		return nil, err
	}
	for _, name := range []string{"_source", "_source_includes", "_source_excludes"} {
		if v := r.query.Get(name); v != "" && v != "true" && v != "false" {
			return nil, notOffered("["+name+"] of a bulk request", "leave it out")
		}
	}
	requireAlias, err := r.boolean("require_alias", false)
	if err != nil {
		return nil, err
	}
	lines, err := parseBulk(r.body)
	if err != nil {
		return nil, err
	}
	for i := range lines {
		if lines[i].Meta.Index == nil && r.vars["index"] == "" {
			return nil, invalid("index is missing")
		}
	}
	items := make([]*item, len(lines))
	known := targets{}
	for i := range lines {
		items[i] = f.bulkItem(r, &lines[i], requireAlias, known)
	}
	if err := f.write(r.call, items); err != nil {
		return nil, err
	}
	return f.bulkReply(r, items)
}

// bulkItem makes an item of a line; what is wrong with it is the item's own failure.
func (f *Face) bulkItem(r *request, line *bulkLine, requireAlias bool, known targets) *item {
	it := &item{action: line.Action, name: r.vars["index"], ifSeq: line.Meta.IfSeq, ifTerm: line.Meta.IfTerm, at: -1}
	if line.Meta.Index != nil {
		it.name = *line.Meta.Index
	}
	if line.Meta.ID != nil {
		it.id = *line.Meta.ID
	}
	it.failed = f.prepareItem(r, it, line, requireAlias || line.Meta.RequireAlias, known)
	return it
}

func (f *Face) prepareItem(r *request, it *item, line *bulkLine, requireAlias bool, known targets) (err error) {
	switch {
	case it.id != "":
	case it.action == "index" || it.action == "create":
		it.id = newID()
	default:
		return invalid("id is missing")
	}
	if err := checkID(it.id); err != nil {
		return err
	}
	if err := it.checkConditions(); err != nil {
		return err
	}
	makes := true
	switch it.action {
	case "index", "create":
		if it.body, err = document(line.Body); err != nil {
			return err
		}
	case "update":
		if it.update, err = parseUpdate(line.Body); err != nil {
			return err
		}
		if line.Meta.Source != nil || it.update.Source != nil {
			return notOffered("[_source] of an update in a bulk request", "read the document")
		}
		makes = it.update.DocAsUpsert || it.update.Upsert != nil
	case "delete":
		makes = false
	}
	if it.ix, err = f.bulkTarget(r, it, requireAlias, makes, known); err != nil {
		return err
	}
	return f.permitWrite(r, it)
}

var writeActions = map[string]string{"index": actionIndexDoc, "create": actionIndexDoc, "update": actionUpdateDoc, "delete": actionDeleteDoc}

func (f *Face) bulkTarget(r *request, it *item, requireAlias, makes bool, known targets) (*index, error) {
	key := it.action + " " + it.name
	if makes {
		key += " made"
	}
	if requireAlias {
		key += " alias"
	}
	t, ok := known[key]
	if !ok {
		t.ix, t.err = f.target(r, it.name, writeActions[it.action], requireAlias, makes)
		known[key] = t
		if t.err == nil && makes {
			clear(known) // what was missing for a delete may be there now
			known[key] = t
		}
	}
	return t.ix, t.err
}

func (f *Face) bulkReply(r *request, items []*item) (*reply, error) {
	failed := false
	out := make([]map[string]any, len(items))
	for i, it := range items {
		var body map[string]any
		if it.failed != nil {
			failed = true
			fl, known := asFailure(it.failed, r.call.ID())
			if !known {
				r.call.Log(it.failed)
			}
			name := it.name
			if it.ix != nil {
				name = it.ix.name
			}
			body = map[string]any{"_index": name, "_id": it.id, "status": fl.status, "error": fl.details()}
		} else {
			var status int
			body, status = it.answer()
			body["status"] = status
			if refresh := r.query["refresh"]; len(refresh) > 0 && refresh[0] == "true" && it.result != "noop" {
				body["forced_refresh"] = true
			}
		}
		out[i] = map[string]any{it.action: body}
	}
	return &reply{status: http.StatusOK, body: map[string]any{"took": r.took(f), "errors": failed, "items": out}}, nil
}

// took is how long a call has taken, in ms.
func (r *request) took(f *Face) int64 { return f.now().Sub(r.began).Milliseconds() }
