package vault

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"time"
	"unicode/utf8"

	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/storage"
)

// sys/replication/divergence: what this cluster wrote, or held, and its primary does not have. On a DR secondary, which serves no tokens, the same calls stand
// below sys/replication/dr/secondary/divergence and are authorised as its others are.

// archives is the part of a node that these calls use.
type archives interface {
	Archives() []archive.Meta
	Archive(id string) (archive.Meta, error)
	ReadArchive(id string, from uint64, fn func(n uint64, it *archive.Item) (bool, error)) error
	DiscardArchive(id string) error
	ReplayArchive(ctx context.Context, id string, report func(*replication.Outcome) error) error
	Replay(ctx context.Context, r *replication.Replay) ([]replication.Outcome, error)
	LostIn(texts []string) string
}

const (
	defaultPage = 100
	maxPage     = 1000
	pageBytes   = 4 << 20 // of values and keys, after which a page ends
)

// pageParams choose a part of an archive's writes.
type pageParams struct {
	From       int64 `json:"from"`
	Limit      int64 `json:"limit"`
	ShowValues bool  `json:"show_values"`
}

func (p *pageParams) validate() error {
	switch {
	case p.Limit < 0 || p.Limit > maxPage:
		return refuse(errInvalid, "limit must be 1 to %d", maxPage)
	case p.From < 0:
		return refuse(errInvalid, "from must be the next that a page answered")
	}
	p.Limit = cmp.Or(p.Limit, defaultPage)
	return nil
}

func (c *Core) listDivergence(*request) (*reply, error) {
	n, err := c.replicator()
	if err != nil {
		return nil, err
	}
	keys, info := []string{}, map[string]any{}
	for _, m := range n.Archives() {
		keys = append(keys, m.ID)
		info[m.ID] = describeArchive(&m)
	}
	return &reply{data: map[string]any{"keys": keys, "key_info": info}}, nil
}

func describeArchive(m *archive.Meta) map[string]any {
	out := map[string]any{
		"id": m.ID, "source": m.Source, "set": m.Kind, "cluster_id": m.Set, "complete": m.Complete,
		"common_index": m.Common.Index, "common_fork": hex.EncodeToString(m.Common.Fork[:]),
		"end_index": m.End.Index, "end_fork": hex.EncodeToString(m.End.Fork[:]),
		"time": m.When.UTC().Format(time.RFC3339), "reason": m.Reason, "primary_cluster": m.Feeder, "primary_cluster_addr": m.FeederAddr,
		"entries": m.Counts.Entries, "lost_entries": m.Counts.Lost, "dropped_entries": m.Counts.Dropped,
		"writes": m.Counts.Writes, "records": m.Counts.Records, "keys": m.Counts.Keys, "bytes": m.Counts.Bytes,
	}
	if m.Problem != "" {
		out["problem"] = m.Problem
	}
	if len(m.Tightenings) > 0 {
		out["tightenings"], out["repeat"] = m.Tightenings, m.Repeat
	}
	if m.Unnamed > 0 {
		out["tightenings_not_listed"] = m.Unnamed
	}
	return out
}

// showDivergence answers an archive's description and a page of its writes; values are hidden unless asked for, which needs sudo.
func (c *Core) showDivergence(r *request, p *pageParams) (*reply, error) {
	if p.ShowValues {
		if err := r.authorise(true); err != nil {
			return nil, err
		}
	}
	return c.pageOf(r.rest, p)
}

// exportDivergence is showDivergence with all values.
func (c *Core) exportDivergence(r *request, p *pageParams) (*reply, error) {
	p.ShowValues = true
	return c.pageOf(r.rest, p)
}

func (c *Core) pageOf(id string, p *pageParams) (*reply, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	n, err := c.replicator()
	if err != nil {
		return nil, err
	}
	m, err := n.Archive(id)
	if err != nil {
		return nil, err
	}
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	data := describeArchive(&m)
	if m.Problem != "" {
		return &reply{data: data}, nil
	}
	rows, size, next := []map[string]any{}, 0, uint64(0)
	err = n.ReadArchive(id, uint64(p.From), func(at uint64, it *archive.Item) (bool, error) {
		if int64(len(rows)) >= p.Limit || size >= pageBytes {
			next = at
			return false, nil
		}
		rows = append(rows, archivedRows(snap, at, it, p.ShowValues)...)
		size += len(it.Bytes) + len(it.Key) + len(it.Value)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	data["items"] = rows
	if next > 0 {
		data["next"] = next
	}
	return &reply{data: data}, nil
}

var opNames = map[storage.Op]string{storage.Put: "put", storage.Delete: "delete", storage.Drop: "drop", storage.Attach: "attach"}

// archivedRows describes an item: one row for each of an entry's writes.
func archivedRows(snap *snapshot, at uint64, it *archive.Item, values bool) []map[string]any {
	if it.Kind == archive.Record {
		row := archivedRow(snap, it.Keyspace, it.Scope, &storage.Change{Op: storage.Put, Key: it.Key, Value: it.Value}, values)
		row["item"], row["kind"], row["index"], row["removed"] = at, "record", it.At.Index, it.Removed
		return []map[string]any{row}
	}
	var out []map[string]any
	for i := range it.Entry.Blocks {
		b := &it.Entry.Blocks[i]
		for j := range b.Changes {
			row := archivedRow(snap, b.Keyspace, b.Scope, &b.Changes[j], values)
			row["item"], row["kind"], row["lost"] = at, "entry", it.Lost
			row["index"], row["fork"] = it.At.Index, hex.EncodeToString(it.At.Fork[:])
			row["time"] = time.Unix(0, it.Entry.Time).UTC().Format(time.RFC3339Nano)
			out = append(out, row)
		}
	}
	return out
}

func archivedRow(snap *snapshot, ks storage.KeyspaceID, scope storage.Scope, ch *storage.Change, values bool) map[string]any {
	row := map[string]any{"op": opNames[ch.Op], "keyspace": ks.String(), "scope": "replicated", "mount": mountOf(snap, ks)}
	if scope == storage.Local {
		row["scope"] = "local"
	}
	if ch.Op != storage.Put && ch.Op != storage.Delete {
		return row
	}
	if row["key_base64"] = base64.StdEncoding.EncodeToString(ch.Key); utf8.Valid(ch.Key) {
		row["key"] = string(ch.Key)
	}
	if ch.Op == storage.Put && values && !secretive(snap, ks) {
		value, _ := engine.Split(ch.Value)
		row["value_base64"] = base64.StdEncoding.EncodeToString(value)
	}
	return row
}

// secretive tells whether values of a keyspace are shown to nobody: keys that sign, hashes of passwords, what belongs to the holder of one token alone.
func secretive(snap *snapshot, ks storage.KeyspaceID) bool {
	switch ks {
	case storage.SystemReplicated, storage.SystemLocal, cubbyhole.id, answers.id, counters.id:
		return true
	}
	m := snap.mounts.byID(ks)
	return m != nil && m.auth()
}

// mountOf names a keyspace as an operator knows it; "" when nothing is mounted there.
func mountOf(snap *snapshot, ks storage.KeyspaceID) string {
	switch ks {
	case storage.SystemReplicated, storage.SystemLocal:
		return "sys/"
	}
	if m := snap.mounts.byID(ks); m != nil {
		return m.path
	}
	return ""
}

type discardParams struct {
	Confirm bool `json:"confirm"`
}

func (c *Core) discardDivergence(r *request, p *discardParams) (*reply, error) {
	if !p.Confirm {
		return nil, refuse(errInvalid, "discarding archive %s loses what it holds for good: export it first, then repeat with confirm=true", r.rest)
	}
	n, err := c.replicator()
	if err != nil {
		return nil, err
	}
	return nil, n.DiscardArchive(r.rest)
}

// ---- on a DR secondary

func (c *Core) listDivergenceDR(r *request, _ *drToken) (*reply, error) { return c.listDivergence(r) }

type drPageParams struct {
	Token      string `json:"dr_operation_token"`
	From       int64  `json:"from"`
	Limit      int64  `json:"limit"`
	ShowValues bool   `json:"show_values"`
}

func (p *drPageParams) operationToken() string { return p.Token }

func (p *drPageParams) page() *pageParams { return &pageParams{p.From, p.Limit, p.ShowValues} }

// The operation token grants what sudo grants elsewhere.
func (c *Core) showDivergenceDR(r *request, p *drPageParams) (*reply, error) {
	return c.pageOf(r.rest, p.page())
}

func (c *Core) exportDivergenceDR(r *request, p *drPageParams) (*reply, error) {
	return c.exportDivergence(r, p.page())
}

type drDiscardParams struct {
	Token   string `json:"dr_operation_token"`
	Confirm bool   `json:"confirm"`
}

func (p *drDiscardParams) operationToken() string { return p.Token }

func (c *Core) discardDivergenceDR(r *request, p *drDiscardParams) (*reply, error) {
	return c.discardDivergence(r, &discardParams{p.Confirm})
}
