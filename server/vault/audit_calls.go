package vault

import (
	"crypto/rand"
	"errors"
	"strings"

	"github.com/lockstepdb/lockstep/server/audit"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
)

// maxAuditDevices bounds how often each request is written.
const maxAuditDevices = 16

func (m *auditMount) describe() map[string]any {
	options := m.Options
	if options == nil {
		options = map[string]string{}
	}
	return map[string]any{
		"type": m.Type, "description": m.Description, "options": options, "local": m.Local, "path": m.path, "accessor": m.Accessor,
	}
}

func (c *Core) listAudit(*request) (*reply, error) {
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	for _, m := range snap.audit {
		if _, taken := out[m.path]; !taken { // of two the replicated one comes first; both record
			out[m.path] = m.describe()
		}
	}
	return &reply{data: out, inject: true}, nil
}

type enableAuditParams struct {
	Type        string            `json:"type"`
	Description string            `json:"description"`
	Options     map[string]string `json:"options"`
	Local       bool              `json:"local"`
}

// auditAt returns the device at a path: of two the replicated one, or, if it is asked for, this cluster's own.
func (s *snapshot) auditAt(path string, preferLocal bool) *auditMount {
	var found *auditMount
	for _, m := range s.audit {
		if m.path == strings.TrimSuffix(path, "/")+"/" && (found == nil || preferLocal && m.Local) {
			found = m
		}
	}
	return found
}

func (c *Core) enableAudit(r *request, p *enableAuditParams) (*reply, error) {
	if p.Type != "file" {
		return nil, refuse(errInvalid, `audit devices of type %.64q do not exist here: take type "file", with file_path an absolute path or "stdout"`, p.Type)
	}
	if !p.Local && c.mode(performance) == replication.Secondary {
		return nil, refuse(errInvalid, "enable replicated audit devices on the primary, or pass local=true for one of this cluster alone")
	}
	o, err := audit.ParseOptions(p.Options)
	if err == nil {
		err = c.forbidden(o)
	}
	if err != nil {
		return nil, refuse(errInvalid, "%s", err)
	}
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	path := strings.Trim(r.rest, "/") + "/"
	for _, m := range snap.audit {
		if strings.HasPrefix(m.path, path) || strings.HasPrefix(path, m.path) {
			return nil, refuse(errInvalid, "path is already in use at %s: disable that device first, or take another path", m.path)
		}
	}
	if len(snap.audit) >= maxAuditDevices {
		return nil, refuse(errInvalid, "there are %d audit devices already, which is the most: disable one first", maxAuditDevices)
	}
	salt := make([]byte, 32)
	_, _ = rand.Read(salt) // never fails
	probe := audit.NewDevice(o, salt, c.stdout())
	first := &audit.Entry{Time: c.now(), Request: audit.Request{ID: r.id, Operation: "update", Namespace: audit.Namespace{ID: "root"}, Path: "sys/audit/test"}}
	if err := errors.Join(probe.Try(first), probe.Close()); err != nil {
		return nil, refuse(errInvalid, "the device was not enabled, as its first entry could not be recorded: %s", err)
	}
	m := &auditMount{path: path, auditRecord: auditRecord{
		Type: p.Type, Description: p.Description, Options: p.Options, Local: p.Local, Accessor: "audit_file_" + randomHex(4), Salt: salt,
	}}
	return nil, c.putAudit(r, m)
}

// putAudit stores a new device, unless one of that path has come meanwhile.
func (c *Core) putAudit(r *request, m *auditMount) error {
	value, err := marshal(m.auditRecord)
	if err != nil {
		return err
	}
	key := auditPrefix + m.path
	tx := &engine.Tx{Reads: []engine.Key{shared.key(key), private.key(key)}}
	tx.Exec = func(rd engine.Reader) ([]engine.Write, error) {
		for _, s := range []space{shared, private} {
			if _, taken, err := read(rd, s, key); err != nil {
				return nil, err
			} else if taken {
				return nil, refuse(errInvalid, "path is already in use at %s", m.path)
			}
		}
		return []engine.Write{m.home().put(key, value)}, nil
	}
	return c.commit(r, tx)
}

func (c *Core) disableAudit(r *request) (*reply, error) {
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	secondary := c.mode(performance) == replication.Secondary
	m := snap.auditAt(r.rest, secondary)
	if m == nil {
		return nil, nil // as in Vault: it is not there, which was asked for
	}
	if secondary && !m.Local {
		return nil, refuse(errInvalid, "the audit device %s is replicated: disable it on the primary", m.path)
	}
	return nil, c.commit(r, &engine.Tx{Writes: []engine.Write{m.home().del(auditPrefix + m.path)}})
}

type auditHashParams struct {
	Input string `json:"input"`
}

// auditHash answers with the form in which a device shows a text, so that an operator can look for it.
func (c *Core) auditHash(r *request, p *auditHashParams) (*reply, error) {
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	m := snap.auditAt(r.rest, false)
	switch {
	case m == nil:
		return nil, refuse(errInvalid, "there is no audit device at %q: sys/audit lists them", r.rest)
	case p.Input == "":
		return nil, refuse(errInvalid, "the parameter input is missing")
	}
	return &reply{data: map[string]any{"hash": audit.Hash(m.Salt, p.Input)}, inject: true}, nil
}
