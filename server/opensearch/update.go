package opensearch

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// update is the body of an update.
type update struct {
	Doc            map[string]any  `json:"doc"`
	Upsert         json.RawMessage `json:"upsert"`
	DocAsUpsert    bool            `json:"doc_as_upsert"`
	DetectNoop     *bool           `json:"detect_noop"`
	Source         json.RawMessage `json:"_source"`
	Script         json.RawMessage `json:"script"`
	ScriptedUpsert json.RawMessage `json:"scripted_upsert"`

	size int
	raw  []byte // of doc, as it came
}

func parseUpdate(text []byte) (*update, error) {
	u := &update{size: len(text)}
	if len(text) == 0 {
		return nil, bodyRequired()
	}
	if err := decodeStrict(text, u); err != nil {
		return nil, err
	}
	var raw struct {
		Doc json.RawMessage `json:"doc"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, fail(http.StatusBadRequest, parseFailed, "the body of an update cannot be read")
	}
	u.raw = raw.Doc
	switch {
	case u.Script != nil || u.ScriptedUpsert != nil:
		return nil, notOffered("[script]", "send [doc], or read the document, change it, and write it with if_seq_no and if_primary_term")
	case u.Doc == nil:
		return nil, invalid("script or doc is missing")
	case u.Upsert != nil && !isObject(u.Upsert):
		return nil, fail(http.StatusBadRequest, parseFailed, "[upsert] must be an object")
	}
	return u, nil
}

// merged is what an update comes to on one state of its document.
type merged struct {
	of     state
	result string
	source []byte
	failed error
}

func (m *merged) fits(s state) bool {
	return m != nil && m.of.exists == s.exists && m.of.digest == s.digest
}

// merge prepares an update on the document as it is now, off the sequencer; the transaction does it again if another write comes in between.
func (f *Face) merge(it *item) error {
	rec, err := f.engine.Get(it.ix.mount.ID, []byte(it.id))
	var s state
	switch {
	case err == nil:
		s.exists, s.digest = true, rec.Digest
		s.source, s.number = engine.Split(rec.Value)
	case !errors.Is(err, storage.ErrNotFound):
		return err
	}
	it.ready = it.update.apply(it, s)
	return nil
}

// apply executes an update on a state of its document.
func (u *update) apply(it *item, s state) *merged {
	m := &merged{of: s}
	if !s.exists {
		switch {
		case u.DocAsUpsert:
			m.result, m.source = "created", u.raw
		case u.Upsert != nil:
			m.result, m.source = "created", u.Upsert
		default:
			m.failed = it.fail(http.StatusNotFound, "document_missing_exception", "["+it.id+"]: document missing")
		}
		return m
	}
	var doc map[string]any
	d := json.NewDecoder(bytes.NewReader(s.source))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		m.failed = it.fail(http.StatusBadRequest, "mapper_parsing_exception", "the record is not a JSON object, and so no document: write it anew")
		return m
	}
	changed := mergeInto(doc, u.Doc)
	if !changed && (u.DetectNoop == nil || *u.DetectNoop) {
		m.result, m.source = "noop", s.source
		return m
	}
	m.result = "updated"
	m.source, m.failed = marshal(doc)
	return m
}

// mergeInto changes doc as patch says: objects are merged, all else is replaced. changed is false when everything was so already.
func mergeInto(doc, patch map[string]any) (changed bool) {
	for name, v := range patch {
		old, had := doc[name]
		below, isObject := v.(map[string]any)
		into, wasObject := old.(map[string]any)
		if isObject && wasObject {
			changed = mergeInto(into, below) || changed
			continue
		}
		if !had || !reflect.DeepEqual(old, v) {
			changed = true
		}
		doc[name] = v
	}
	return changed
}

// isObject tells whether a text is one JSON object.
func isObject(text []byte) bool {
	text = bytes.Trim(text, " \t\r\n")
	return len(text) > 0 && text[0] == '{' && json.Valid(text)
}
