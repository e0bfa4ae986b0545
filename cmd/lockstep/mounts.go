package main

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/google/uuid"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// mountTable names the mounts of a store: what an operator knows a keyspace by.
type mountTable map[storage.KeyspaceID]mount

// mount is what the commands need of a mount table entry (server/vault's doc.go describes the record).
type mount struct {
	Path    string
	Type    string            `json:"type"`
	UUID    string            `json:"uuid"`
	Options map[string]string `json:"options"`
}

const mountPrefix = "mounts/"

// version2 reports whether it is a KV version 2 mount.
func (m mount) version2() bool { return m.Options["version"] == "2" }

// add takes one record of a system keyspace into the table; others than
// mounts, and what cannot be read, are left out.
func (t mountTable) add(key, value []byte) {
	path, ok := strings.CutPrefix(string(key), mountPrefix)
	if !ok {
		return
	}
	var m mount
	if json.Unmarshal(value, &m) != nil {
		return
	}
	id, err := uuid.Parse(m.UUID)
	if err != nil {
		return
	}
	m.Path = path
	t[storage.KeyspaceID(id)] = m
}

// name returns what to call a keyspace.
func (t mountTable) name(id storage.KeyspaceID) string {
	switch id {
	case storage.SystemReplicated:
		return "system (replicated)"
	case storage.SystemLocal:
		return "system (local)"
	case storage.KeyspaceID{15: 16}:
		return "cubbyholes"
	case storage.KeyspaceID{15: 17}:
		return "wrapped answers"
	case storage.KeyspaceID{15: 18}:
		return "counters of logins"
	}
	if m, ok := t[id]; ok {
		return m.Path
	}
	return ""
}

// describe returns a keyspace's id with the name, where there is one.
func (t mountTable) describe(id storage.KeyspaceID) string {
	if name := t.name(id); name != "" {
		return id.String() + " (" + name + ")"
	}
	return id.String()
}

// errEnough ends a reading early.
var errEnough = errors.New("enough was read")

// readMounts reads the table of a state file as far as it can be read: it only
// names things, and the check itself tells what is damaged. The system's
// keyspaces have the lowest ids and come first.
func readMounts(file string, keys wal.Sealer) mountTable {
	t := mountTable{}
	_ = storage.ReadRaw(file, keys, func(ks storage.KeyspaceID, key, value []byte) error {
		if ks != storage.SystemReplicated && ks != storage.SystemLocal {
			return errEnough
		}
		t.add(key, value)
		return nil
	})
	return t
}
