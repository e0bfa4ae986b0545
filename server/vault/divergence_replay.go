package vault

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"

	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// At most so many changes that were not written are listed in an answer, with keys of so many bytes; the rest is counted.
const (
	maxConflicts  = 10_000
	conflictBytes = 16 << 20
)

// replayed gathers what a replay came to.
type replayed struct {
	snap      *snapshot
	applied   int
	notLost   int
	conflicts []map[string]any
	bytes     int            // of the conflicts' keys
	unlisted  map[string]int // conflicts beyond those that are listed, by why
}

func (t *replayed) add(o *replication.Outcome) error {
	switch {
	case o.Applied:
		t.applied++
		return nil
	case o.Covered:
		t.notLost++
		return nil
	case len(t.conflicts) >= maxConflicts || t.bytes >= conflictBytes:
		if t.unlisted == nil {
			t.unlisted = map[string]int{}
		}
		t.unlisted[o.Why]++
		return nil
	}
	row := archivedRow(t.snap, o.Change.Keyspace, o.Change.Scope, &o.Change.Change, false)
	row["index"], row["why"] = o.Change.Index, o.Why
	t.conflicts = append(t.conflicts, row)
	t.bytes += len(o.Change.Key)
	return nil
}

func (t *replayed) reply() *reply {
	if t.conflicts == nil {
		t.conflicts = []map[string]any{}
	}
	data := map[string]any{"applied": t.applied, "conflicts": t.conflicts}
	if t.notLost > 0 {
		data["not_lost"] = t.notLost
	}
	if len(t.unlisted) > 0 {
		data["conflicts_not_listed"] = t.unlisted
	}
	return &reply{data: data}
}

// replaying is what both calls that replay begin with.
func (c *Core) replaying() (node, *replayed, error) {
	n, err := c.replicator()
	if err != nil {
		return nil, nil, err
	}
	snap, err := c.current()
	return n, &replayed{snap: snap}, err
}

func (c *Core) replayDivergence(r *request) (*reply, error) {
	n, t, err := c.replaying()
	if err != nil {
		return nil, err
	}
	if err := n.ReplayArchive(r.ctx, r.rest, t.add); err != nil {
		return nil, err
	}
	return t.reply(), nil
}

// replayParams are rows of an export, for a primary that does not hold the archive.
type replayParams struct {
	CommonIndex int64           `json:"common_index"`
	CommonFork  string          `json:"common_fork"`
	Changes     json.RawMessage `json:"changes"` // []replayRow
}

type replayRow struct {
	Index    uint64 `json:"index"`
	Op       string `json:"op"`
	Keyspace string `json:"keyspace"`
	Scope    string `json:"scope"`
	Key      string `json:"key_base64"`
	Value    string `json:"value_base64"`
}

// maxReplay bounds the changes of one call.
const maxReplay = 4096

func (c *Core) replayChanges(r *request, p *replayParams) (*reply, error) {
	in, err := p.decode()
	if err != nil {
		return nil, err
	}
	n, t, err := c.replaying()
	if err != nil {
		return nil, err
	}
	out, err := n.Replay(r.ctx, in)
	if err != nil {
		return nil, err
	}
	for i := range out {
		if err := t.add(&out[i]); err != nil {
			return nil, err
		}
	}
	return t.reply(), nil
}

func (p *replayParams) decode() (*replication.Replay, error) {
	out := &replication.Replay{Common: wal.Position{Index: uint64(p.CommonIndex)}}
	fork, err := hex.DecodeString(p.CommonFork)
	var rows []replayRow
	switch {
	case err != nil || len(fork) != len(out.Common.Fork) || p.CommonIndex < 0:
		return nil, refuse(errInvalid, "common_index and common_fork must be what the export says: an index, and %d hexadecimal digits", 2*len(out.Common.Fork))
	case len(p.Changes) == 0 || json.Unmarshal(p.Changes, &rows) != nil || len(rows) == 0 || len(rows) > maxReplay:
		return nil, refuse(errInvalid, "changes must be 1 to %d rows of an export", maxReplay)
	}
	copy(out.Common.Fork[:], fork)
	for i := range rows {
		c, err := rows[i].decode()
		if err != nil {
			return nil, refuse(errInvalid, "row %d of changes: %s", i, err)
		}
		out.Changes = append(out.Changes, *c)
	}
	return out, nil
}

func (row *replayRow) decode() (*replication.ReplayChange, error) {
	out := &replication.ReplayChange{Index: row.Index, Scope: storage.Replicated}
	id, err := uuid.Parse(row.Keyspace)
	if err != nil {
		return nil, fmt.Errorf("keyspace must be a uuid")
	}
	out.Keyspace = storage.KeyspaceID(id)
	switch row.Scope {
	case "replicated":
	case "local":
		out.Scope = storage.Local
	default:
		return nil, fmt.Errorf("scope must be replicated or local")
	}
	switch row.Op {
	case "put":
		out.Op = storage.Put
	case "delete":
		out.Op = storage.Delete
	default:
		return nil, fmt.Errorf("op must be put or delete")
	}
	if out.Key, err = base64.StdEncoding.DecodeString(row.Key); err != nil || len(out.Key) == 0 {
		return nil, fmt.Errorf("key_base64 must be a key in base64")
	}
	if out.Op == storage.Put {
		if out.Value, err = base64.StdEncoding.DecodeString(row.Value); err != nil {
			return nil, fmt.Errorf("value_base64 must be a value in base64")
		}
	}
	return out, nil
}
