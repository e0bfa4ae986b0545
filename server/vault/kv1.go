package vault

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/tidwall/gjson"

	"github.com/lockstepdb/lockstep/server/engine"
)

// kv1 answers a request below a mount of KV version 1.
func (c *Core) kv1(r *request) (*reply, error) {
	switch r.op {
	case opRead:
		return c.kv1Read(r)
	case opWrite:
		return nil, c.kv1Write(r)
	case opDelete:
		if r.rest == "" {
			return nil, refuse(errMethod, "unsupported operation")
		}
		return nil, c.commit(r, &engine.Tx{Writes: []engine.Write{r.mount.space().del(r.rest)}})
	case opList:
		return c.list(r, r.mount.space(), r.rest)
	}
	return nil, refuse(errMethod, "unsupported operation")
}

func (c *Core) kv1Read(r *request) (*reply, error) {
	value, ok, err := c.get(r.mount.space(), r.rest)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, missing()
	}
	value, _ = engine.Split(value)
	return &reply{data: json.RawMessage(value), lease: r.mount.lease(value)}, nil
}

// kv1Write keeps the object's bytes as they came, after one scan that accepts exactly what encoding/json does.
func (c *Core) kv1Write(r *request) error {
	if len(r.body) == 0 || r.rest == "" {
		return refuse(errInvalid, "missing data fields")
	}
	if r.body[0] != '{' || !validJSON(r.body) {
		_, err := parseObject(r.body)
		if err == nil {
			err = refuse(errInvalid, "error parsing JSON")
		}
		return err
	}
	if len(bytes.TrimSpace(r.body[1:])) == 1 {
		return refuse(errInvalid, "missing data fields")
	}
	s := r.mount.space()
	writes := []engine.Write{s.put(r.rest, r.body)}
	if r.only == 0 {
		return c.commit(r, &engine.Tx{Writes: writes})
	}
	return c.commit(r, &engine.Tx{
		Reads: []engine.Key{s.key(r.rest)},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			_, exists, err := read(rd, s, r.rest)
			if err != nil {
				return nil, err
			}
			return writes, r.permits(exists)
		},
	})
}

// deepJSON is how deep package encoding/json reads at most.
const deepJSON = 10_000

// validJSON is json.Valid, at a third of its time: what is stored will be read by encoding/json.
func validJSON(b []byte) bool {
	if bytes.Count(b, []byte{'{'})+bytes.Count(b, []byte{'['}) > deepJSON {
		return json.Valid(b) // may be nested too deep for it
	}
	return gjson.ValidBytes(b)
}

// lease is what a read shows as lease_duration: the mount's default, or what the value itself asks for under ttl or lease.
// KV has no leases; it is a hint to clients when to read again.
func (m *mount) lease(value []byte) int {
	if bytes.Contains(value, []byte(`"ttl"`)) || bytes.Contains(value, []byte(`"lease"`)) {
		var hint struct {
			TTL   json.RawMessage `json:"ttl"`
			Lease json.RawMessage `json:"lease"`
		}
		if json.Unmarshal(value, &hint) == nil {
			for _, raw := range []json.RawMessage{hint.TTL, hint.Lease} {
				if raw == nil || string(raw) == "null" {
					continue
				}
				if d, err := durationValue(raw); err == nil && d > 0 {
					return int(seconds(d))
				}
			}
		}
	}
	return int(orDefault(m.Config.DefaultLeaseTTL))
}

// firstName lies below every name that a path may have, and above the records that are about their keyspace.
const firstName = "\x01"

const maxListed = 1 << 20 // names of one answer; more are asked for with after and limit

// list answers LIST below a mount: the children of a folder, folders with their final '/'. after and limit page through it.
func (c *Core) list(r *request, s space, prefix string) (*reply, error) {
	limit := 0
	if text := r.query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, refuse(errInvalid, "limit must be a whole number")
		}
		limit = max(n, 0)
	}
	if limit == 0 || limit > maxListed {
		limit = maxListed
	}
	after := r.query.Get("after")
	if prefix == "" && after < firstName {
		after = firstName
	}
	view := c.engine.Snapshot()
	defer view.Release()
	names, more, err := view.List(s.id, prefix, after, limit)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, missing()
	}
	rep := &reply{data: map[string]any{"keys": names}}
	if more && limit == maxListed {
		rep.warn("only the first " + strconv.Itoa(maxListed) + " names are listed: page with after and limit")
	}
	return rep, nil
}
