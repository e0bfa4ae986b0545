package vault

import (
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/storage"
)

// status is one set's status; a core without a node has no sets.
func (c *Core) status(k replication.Kind) map[string]any {
	if n := c.node.Load(); n != nil {
		return n.Status(k)
	}
	return map[string]any{"mode": string(replication.Disabled)}
}

// statusAll answers sys/replication/status: both sets, and flat beside them, in data and at the top level, the fields that
// clients of the first releases read: those of the performance set, or of the DR set where there is no other.
func (c *Core) statusAll(r *request) (*reply, error) {
	drStatus, perfStatus := c.status(dr), c.status(performance)
	flat := perfStatus
	if flat["mode"] == string(replication.Disabled) {
		flat = drStatus
	}
	data := maps.Clone(flat)
	data["dr"], data["performance"] = drStatus, perfStatus
	return &reply{data: data, top: flat}, nil
}

func statusOf(k replication.Kind) handler {
	return func(c *Core, r *request) (*reply, error) { return &reply{data: c.status(k)}, nil }
}

type enablePrimaryParams struct {
	PrimaryClusterAddr string `json:"primary_cluster_addr"`
}

// setCall is a call about one replication set.
type setCall[P any] func(c *Core, r *request, p *P) (*reply, error)

func enablePrimary(k replication.Kind, legacy bool) setCall[enablePrimaryParams] {
	return func(c *Core, r *request, p *enablePrimaryParams) (*reply, error) {
		n, err := c.replicator()
		if err != nil {
			return nil, err
		}
		warning, err := n.EnablePrimary(r.ctx, k, p.PrimaryClusterAddr)
		return roleReply(warning, legacy, err)
	}
}

// roleReply answers 200 with a warning: automation takes an empty answer to these calls for a failure. The legacy paths answer 204.
func roleReply(warning string, legacy bool, err error) (*reply, error) {
	if err != nil {
		return nil, err
	}
	rep := warned(warning)
	rep.quiet = legacy
	return rep, nil
}

type secondaryTokenParams struct {
	ID        string         `json:"id"`
	TTL       *time.Duration `json:"ttl"`
	PublicKey string         `json:"secondary_public_key"`
}

func secondaryToken(k replication.Kind) setCall[secondaryTokenParams] {
	return func(c *Core, r *request, p *secondaryTokenParams) (*reply, error) {
		ttl, err := p.validate()
		if err != nil {
			return nil, err
		}
		n, err := c.replicator()
		if err != nil {
			return nil, err
		}
		if p.PublicKey != "" {
			token, err := n.SecondaryTokenFor(r.ctx, k, p.ID, ttl, p.PublicKey)
			if err != nil {
				return nil, err
			}
			return &reply{data: map[string]any{"token": token}}, nil
		}
		a, err := n.SecondaryToken(r.ctx, k, p.ID, ttl)
		if err != nil {
			return nil, err
		}
		rep := warned(a.Warning)
		rep.wrap = &wrapBody{
			Token: a.Token, Accessor: a.Accessor, TTL: seconds(a.TTL), CreationTime: stamp(a.CreationTime), CreationPath: a.CreationPath,
		}
		return rep, nil
	}
}

func (p *secondaryTokenParams) validate() (ttl time.Duration, err error) {
	switch {
	case p.ID == "":
		return 0, refuse(errInvalid, "missing id: choose an identifier for the secondary")
	case p.TTL == nil:
		return 0, nil
	case *p.TTL <= 0:
		return 0, refuse(errInvalid, "ttl must be longer than nothing")
	}
	return *p.TTL, nil
}

type idParam struct {
	ID string `json:"id"`
}

func revokeSecondary(k replication.Kind) setCall[idParam] {
	return func(c *Core, r *request, p *idParam) (*reply, error) {
		if p.ID == "" {
			return nil, refuse(errInvalid, "missing id: name the secondary to revoke")
		}
		n, err := c.replicator()
		if err != nil {
			return nil, err
		}
		return nil, n.RevokeSecondary(r.ctx, k, p.ID)
	}
}

type enableSecondaryParams struct {
	Token          string `json:"token"`
	PrimaryAPIAddr string `json:"primary_api_addr"`
	CAFile         string `json:"ca_file"`
	CAPath         string `json:"ca_path"`
}

func enableSecondary(k replication.Kind, legacy bool) setCall[enableSecondaryParams] {
	return func(c *Core, r *request, p *enableSecondaryParams) (*reply, error) {
		if p.Token == "" {
			return nil, refuse(errInvalid, "missing token: ask the primary for one with primary/secondary-token")
		}
		n, err := c.replicator()
		if err != nil {
			return nil, err
		}
		warning, err := n.EnableSecondary(r.ctx, k, replication.SecondaryEnable{
			Token: p.Token, PrimaryAPIAddr: p.PrimaryAPIAddr, CAFile: p.CAFile, CAPath: p.CAPath,
		})
		return roleReply(warning, legacy, err)
	}
}

func (c *Core) recoverSet(r *request) (*reply, error) {
	n, err := c.replicator()
	if err != nil {
		return nil, err
	}
	warning, err := n.Recover(r.ctx)
	return roleReply(warning, false, err)
}

// reindexParams are Vault's.
type reindexParams struct {
	Diff      bool `json:"diff"`
	Force     bool `json:"force"`
	SkipFlush bool `json:"skip_flush"`
}

func (c *Core) reindex(r *request, p *reindexParams) (*reply, error) {
	n, err := c.replicator()
	if err != nil {
		return nil, err
	}
	warning, err := n.Reindex(r.ctx, replication.ReindexOptions{Diff: p.Diff, Force: p.Force, SkipFlush: p.SkipFlush})
	return roleReply(warning, false, err)
}

func (c *Core) merkleCheck(r *request) (*reply, error) {
	n, err := c.replicator()
	if err != nil {
		return nil, err
	}
	report, err := n.MerkleCheck(r.ctx)
	if err != nil {
		return nil, err
	}
	return &reply{data: map[string]any{"merkle_corruption_report": c.corruption(report)}}, nil
}

// corruption prints a check's result in Vault's shape. Vault's trees have 256 pages of 256 subpages by a hash of the key; ours
// have not, so a damaged record is shown at the page that it would have there, and by name in damage.
func (c *Core) corruption(report *replication.CorruptionReport) map[string]any {
	trees := map[storage.Scope]*corruptTree{storage.Replicated: {name: "replicated"}, storage.Local: {name: "local"}}
	scopes := map[storage.KeyspaceID]storage.Scope{}
	for _, t := range report.Totals {
		scopes[t.ID] = t.Scope
		if tree := trees[t.Scope]; tree != nil {
			tree.parts = append(tree.parts, merkle.Part{ID: t.ID, Total: t.Total})
		}
	}
	damage := []map[string]any{}
	for _, d := range report.Report.Damage {
		damage = append(damage, map[string]any{
			"keyspace": d.Keyspace.String(), "mount": c.mountName(d.Keyspace), "key": string(d.Key), "file": d.File, "what": d.What,
		})
		if tree := trees[scopes[d.Keyspace]]; tree != nil {
			tree.mark(d.Key)
		}
	}
	log := []map[string]any{}
	for _, d := range report.Report.Log {
		log = append(log, map[string]any{"file": d.File, "index": d.Index, "what": d.What, "entries": c.suspects(d.Entries)})
	}
	return map[string]any{
		"corrupted_root": len(damage)+len(log) > 0,
		"corrupted_tree_map": map[string]any{
			"1": trees[storage.Replicated].describe(), "2": trees[storage.Local].describe(),
		},
		"last_corruption_check_epoch": report.At.Format(time.RFC3339Nano),
		"damage":                      damage,
		"log_damage":                  log,
		"records_checked":             report.Report.Records,
	}
}

// suspects lists what the entries of a damaged frame change.
func (c *Core) suspects(entries []engine.SuspectEntry) []map[string]any {
	out := []map[string]any{}
	for _, e := range entries {
		keys := []map[string]any{}
		for _, k := range e.Keys {
			keys = append(keys, map[string]any{"keyspace": k.Keyspace.String(), "mount": c.mountName(k.Keyspace), "key": string(k.Key)})
		}
		out = append(out, map[string]any{"index": e.Index, "wrong": e.Wrong, "changes": keys})
	}
	return out
}

// mountName is the path of a keyspace's mount, for people; empty for the system's own and for what is mounted no more.
func (c *Core) mountName(id storage.KeyspaceID) string {
	if snap, err := c.current(); err == nil {
		if m := snap.mounts.byID(id); m != nil {
			return m.path
		}
	}
	return ""
}

type corruptTree struct {
	name  string
	parts []merkle.Part
	pages map[byte][]int
}

func (t *corruptTree) mark(key []byte) {
	if t.pages == nil {
		t.pages = map[byte][]int{}
	}
	h := sha256.Sum256(key)
	if sub := int(h[1]); !slices.Contains(t.pages[h[0]], sub) {
		t.pages[h[0]] = append(t.pages[h[0]], sub)
	}
}

func (t *corruptTree) describe() map[string]any {
	root := merkle.Root(t.parts)
	var pages map[string]any // null when clean
	for page, subpages := range t.pages {
		if pages == nil {
			pages = map[string]any{}
		}
		slices.Sort(subpages)
		pages[strconv.Itoa(int(page))] = map[string]any{"corrupted": false, "subpages": subpages}
	}
	return map[string]any{
		"tree_type": t.name, "root_hash": base64.StdEncoding.EncodeToString(root[:]),
		"corrupted_subtree_root": len(t.pages) > 0, "corrupted_index_tuples_map": pages,
	}
}
