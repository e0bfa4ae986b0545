package opensearch

import (
	"bytes"
	"encoding/json"
	"strings"
)

// maxLines bounds the items of a bulk request.
const maxItems = 50_000

// bulkLine is one item of a bulk request as it was written.
type bulkLine struct {
	Action string
	Meta   bulkMeta
	Body   []byte // what follows the action; nil for a delete
}

// bulkMeta is what an action line says.
type bulkMeta struct {
	Index         *string         `json:"_index"`
	ID            *string         `json:"_id"`
	IfSeq         *uint64         `json:"if_seq_no"`
	IfTerm        *uint64         `json:"if_primary_term"`
	RequireAlias  bool            `json:"require_alias"`
	RetryConflict int             `json:"retry_on_conflict"`
	Source        json.RawMessage `json:"_source"`
}

// parseBulk reads a bulk request: for each item a line with its action, and, but for a delete, one with its document. The error is about the request as a whole.
func parseBulk(body []byte) ([]bulkLine, error) {
	if len(body) == 0 {
		return nil, bodyRequired()
	}
	if body[len(body)-1] != '\n' {
		return nil, illegal(`The bulk request must be terminated by a newline [\n]`)
	}
	var out []bulkLine
	for number := 1; len(body) > 0; number++ {
		var line []byte
		line, body, _ = bytes.Cut(body, []byte{'\n'})
		if line = bytes.Trim(line, " \t\r"); len(line) == 0 {
			continue
		}
		if len(out) == maxItems {
			return nil, illegal("a bulk request has more than %d items: send several", maxItems)
		}
		b, err := parseAction(line, number)
		if err != nil {
			return nil, err
		}
		if b.Action != "delete" {
			if len(body) == 0 {
				return nil, illegal("Malformed action/metadata line [%d], a document must follow it on the next line", number)
			}
			b.Body, body, _ = bytes.Cut(body, []byte{'\n'})
			b.Body = bytes.Trim(b.Body, " \t\r")
			number++
		}
		out = append(out, b)
	}
	if out == nil {
		return nil, illegal("The bulk request has no items: give at least one action")
	}
	return out, nil
}

func parseAction(line []byte, number int) (b bulkLine, err error) {
	var actions map[string]json.RawMessage
	if line[0] != '{' || json.Unmarshal(line, &actions) != nil {
		return b, illegal("Malformed action/metadata line [%d], expected one JSON object such as {\"index\":{\"_id\":\"1\"}}", number)
	}
	if len(actions) != 1 {
		return b, illegal("Malformed action/metadata line [%d], expected exactly one action and found %d", number, len(actions))
	}
	for name, raw := range actions {
		switch name {
		case "index", "create", "update", "delete":
		default:
			return b, illegal("Malformed action/metadata line [%d], expected field [create], [delete], [index] or [update] but found [%.64s]", number, name)
		}
		b.Action = name
		if len(raw) == 0 || raw[0] != '{' {
			return b, illegal("Malformed action/metadata line [%d], expected an object behind [%s]", number, name)
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&b.Meta); err != nil {
			return b, illegal("Malformed action/metadata line [%d]: %s; routing, pipeline and versions of one's own are not offered by this server", number, strings.TrimPrefix(err.Error(), "json: "))
		}
	}
	return b, nil
}
