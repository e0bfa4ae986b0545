package opensearch

import (
	"encoding/json"
)

const maxMultiGet = 10_000

// multiGet is the body of _mget.
type multiGet struct {
	Docs []multiGetDoc `json:"docs"`
	IDs  []string      `json:"ids"`
}

type multiGetDoc struct {
	Index  string          `json:"_index"`
	ID     string          `json:"_id"`
	Source json.RawMessage `json:"_source"`
}

// mget reads many documents; each has its own outcome.
func (f *Face) mget(r *request) (*reply, error) {
	if err := f.mayCluster(r, actionMultiGet); err != nil {
		return nil, err
	}
	if err := r.never(); err != nil {
		return nil, err
	}
	pick, err := r.sourceFilter()
	if err != nil {
		return nil, err
	}
	var in multiGet
	if err := r.decode(&in); err != nil {
		return nil, err
	}
	for _, id := range in.IDs {
		in.Docs = append(in.Docs, multiGetDoc{ID: id})
	}
	switch {
	case len(in.Docs) == 0:
		return nil, invalid("no documents to get")
	case len(in.Docs) > maxMultiGet:
		return nil, illegal("more than %d documents in one request", maxMultiGet)
	}
	out := make([]any, len(in.Docs))
	size := 0
	for i, d := range in.Docs {
		if d.Index == "" {
			d.Index = r.vars["index"]
		}
		if d.Index == "" {
			return nil, invalid("index is missing for doc " + itoa(i))
		}
		if d.ID == "" {
			return nil, invalid("id is missing for doc " + itoa(i))
		}
		own := pick
		if d.Source != nil {
			if own, err = parseSource(d.Source); err != nil {
				return nil, err
			}
		}
		if out[i], err = f.multiGetOne(r, d, own, &size); err != nil {
			return nil, err
		}
	}
	return ok(map[string]any{"docs": out}), nil
}

func (f *Face) multiGetOne(r *request, d multiGetDoc, pick *sourcePick, size *int) (any, error) {
	ix, err := f.one(r, d.Index, actionGet, false)
	if err == nil {
		err = ix.usable()
	}
	if err == nil {
		err = checkID(d.ID)
	}
	if err == nil {
		err = f.mayRead(r, ix, d.ID, actionGet)
	}
	var body map[string]any
	if err == nil {
		body, _, err = f.document(ix, d.ID, pick)
	}
	if err == nil {
		if raw, is := body["_source"].(json.RawMessage); is {
			if *size += len(raw); *size > maxAnswer {
				return nil, tooMuch()
			}
		}
		return body, nil
	}
	fl, known := asFailure(err, r.call.ID())
	if !known {
		return nil, err
	}
	return map[string]any{"_index": d.Index, "_id": d.ID, "error": fl.details()}, nil
}
