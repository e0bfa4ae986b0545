package opensearch

import (
	"encoding/json"
	"net/http"
)

// checkMappings takes the mappings of an index. They are kept and shown; of them only the types of fields matter here, to queries and sorting.
func checkMappings(raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var m mapping
	var all map[string]json.RawMessage
	if json.Unmarshal(raw, &all) != nil {
		return nil, fail(http.StatusBadRequest, "mapper_parsing_exception", "Failed to parse mapping: expected an object")
	}
	if inner, only := all["_doc"]; only && len(all) == 1 {
		return checkMappings(inner)
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fail(http.StatusBadRequest, "mapper_parsing_exception", "Failed to parse mapping: fields must be objects, and a type a text")
	}
	for _, setting := range []string{"_routing", "_source", "runtime"} {
		if _, given := all[setting]; given {
			return nil, notOffered("["+setting+"] in mappings", "leave it out")
		}
	}
	if d := string(all["dynamic"]); d != "" && d != "true" && d != `"true"` {
		return nil, notOffered("[dynamic] other than true in mappings", "leave it out: documents are not checked against mappings here")
	}
	if err := checkFields(m.Properties, "", 0); err != nil {
		return nil, err
	}
	return raw, nil
}

func checkFields(fields map[string]*mapping, prefix string, depth int) error {
	if depth > 20 {
		return illegal("Limit of mapping depth [20] has been exceeded")
	}
	for name, m := range fields {
		if m == nil {
			return fail(http.StatusBadRequest, "mapper_parsing_exception", "Expected map for property [fields] on field [%s%s]", prefix, name)
		}
		if m.Type == "" && m.Properties == nil {
			return fail(http.StatusBadRequest, "mapper_parsing_exception", "No type specified for field [%s%s]", prefix, name)
		}
		if err := checkFields(m.Properties, prefix+name+".", depth+1); err != nil {
			return err
		}
	}
	return nil
}

// mergeMappings adds fields to mappings. A field's type never changes.
func mergeMappings(have, given json.RawMessage) (json.RawMessage, error) {
	if len(have) == 0 {
		return given, nil
	}
	var a, b map[string]any
	if err := json.Unmarshal(have, &a); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(given, &b); err != nil {
		return nil, err
	}
	if err := sameTypes(a, b, ""); err != nil {
		return nil, err
	}
	mergeInto(a, b)
	return marshal(a)
}

func sameTypes(a, b map[string]any, path string) error {
	old, _ := a["properties"].(map[string]any)
	fresh, _ := b["properties"].(map[string]any)
	for name, v := range fresh {
		x, had := old[name].(map[string]any)
		y, is := v.(map[string]any)
		if !had || !is {
			continue
		}
		from, to := typeOf(x), typeOf(y)
		if from != to {
			return illegal("mapper [%s%s] cannot be changed from type [%s] to [%s]", path, name, from, to)
		}
		if err := sameTypes(x, y, path+name+"."); err != nil {
			return err
		}
	}
	return nil
}

func typeOf(field map[string]any) string {
	if t, is := field["type"].(string); is {
		return t
	}
	return "object"
}
