package engine

import (
	"fmt"
	"slices"
	"strings"
)

// NodeGet returns a node-scope record, nil when there is none. Node-scope records never leave this node and never enter the log.
func (e *Engine) NodeGet(key string) []byte { return slices.Clone(e.wal.Note(noteNode + key)) }

// NodeSet writes node-scope records straight to the metadata file, synced, in one transaction; nil deletes.
// A failed one ends the engine.
func (e *Engine) NodeSet(kv map[string][]byte) error {
	notes := make(map[string][]byte, len(kv))
	for k, v := range kv {
		if v != nil && len(v) == 0 {
			v = []byte{}
		}
		notes[noteNode+k] = v
	}
	return e.setNotes(notes)
}

// NodeList returns the node-scope records whose keys begin with prefix.
func (e *Engine) NodeList(prefix string) map[string][]byte {
	out := map[string][]byte{}
	_ = e.wal.Notes(noteNode+prefix, func(key string, value []byte) error {
		out[strings.TrimPrefix(key, noteNode)] = slices.Clone(value)
		return nil
	}) // only fn could fail
	return out
}

// setNotes writes notes; when their commit fails the engine ends.
func (e *Engine) setNotes(notes map[string][]byte) error {
	if err := e.life.failure(); err != nil {
		return e.life.refusal()
	}
	if err := e.wal.SetNotes(notes); err != nil {
		if isCommit(err) {
			e.life.fail(fmt.Errorf("writing to the log's metadata: %w", err))
			return e.life.refusal()
		}
		return err
	}
	return nil
}
