package replication

import (
	"encoding/hex"
	"strconv"
	"time"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/storage"
)

// neverEpoch is the zero time in Unix seconds: Vault's way of saying never.
const neverEpoch = "-62135596800"

// Status is one set's status: the keys and types of sys/replication/<kind>/status data, ours added.
func (n *Node) Status(k Kind) map[string]any {
	set := n.set(k)
	if set == nil {
		return map[string]any{"mode": string(Disabled)}
	}
	out := map[string]any{
		"mode":                    string(n.Mode(k)),
		"cluster_id":              set.Set,
		"primary_cluster_addr":    clusterURL(set.ClusterAddr),
		"ssct_generation_counter": max(lastOrdinal(n.engine.History()), 1) - 1, // a promotion makes indexes of before no longer comparable
	}
	n.maintenance(out)
	n.expiry(k, out)
	if set.Mode == Primary {
		n.primaryStatus(k, out)
	} else {
		n.secondaryStatus(k, set, out)
	}
	return out
}

// maintenance adds when the index was last rebuilt and checked, and the progress of a rebuild.
func (n *Node) maintenance(out map[string]any) {
	n.mu.Lock()
	c, r := n.checked, n.reindex
	n.mu.Unlock()
	out["last_reindex_epoch"] = strconv.FormatInt(c.Reindexed, 10)
	out["corrupted_merkle_tree"] = c.Corrupted
	out["last_corruption_check_epoch"] = neverEpoch
	if c.Checked != 0 {
		out["last_corruption_check_epoch"] = strconv.FormatInt(c.Checked, 10)
	}
	if r.Diff != nil {
		out["last_reindex_diff"] = map[string]any{"time": stamp(r.Diff.At), "keys": r.Diff.Keys, "total": r.Diff.Total}
	}
	if r.Running {
		out["reindex_in_progress"] = true
		out["reindex_stage"] = r.Stage
		out["reindex_building_progress"] = r.Done
		out["reindex_building_total"] = r.Total
	}
}

// rootOf returns the root over a set's coverage, the place in the own log at which it is so, and the cursor there.
func (n *Node) rootOf(k Kind) (root merkle.RootHash, last, cursor uint64) {
	for range 4 { // totals and cursor are read one after the other: again when the cursor moved between
		before := n.cursor(k)
		totals, at := n.engine.Totals()
		root, last, cursor = Root(k, n.compared(k, totals)), at.Index, n.cursor(k)
		if k == DR {
			return root, last, last
		}
		if before == cursor {
			break
		}
	}
	return root, last, cursor
}

// cursor returns up to where a performance secondary is complete, on its primary's log.
func (n *Node) cursor(k Kind) uint64 {
	if k == DR {
		return 0
	}
	return n.engine.Cursor(string(Performance)).Index
}

// Root is the merkle_root of a set: of all keyspaces for DR, of the replicated ones for performance.
func Root(k Kind, totals []storage.KeyspaceTotal) merkle.RootHash {
	parts := make([]merkle.Part, 0, len(totals))
	for _, t := range totals {
		if k == DR || t.Scope == storage.Replicated {
			parts = append(parts, merkle.Part{ID: t.ID, Total: t.Total})
		}
	}
	return merkle.Root(parts)
}

func (n *Node) primaryStatus(k Kind, out map[string]any) {
	root, last, _ := n.rootOf(k)
	out["state"] = "running"
	if err := n.engine.Writable(); err != nil {
		out["reason"] = err.Error()
	}
	if f := n.fenceOf(k); f != nil {
		out["state"], out["reason"], out["fenced"] = "fenced", f.sentence(k), f.describe()
	}
	out["last_wal"] = last
	out["last_"+string(k)+"_wal"] = last
	out["merkle_root"] = hex.EncodeToString(root[:])

	n.synchronousStatus(k, out)
	ids, secondaries, refused := []string{}, []map[string]any{}, []map[string]any{}
	known, err := n.secondaries(k, false)
	if err != nil {
		n.log.Error("status cannot list the secondaries", "set", string(k), "error", err)
		out["state"], out["reason"] = string(StateIdle), "the records of the secondaries cannot be read"
	}
	for _, rec := range known {
		ids = append(ids, rec.ID)
		one := n.secondaryOf(k, rec, last)
		n.coverageStatus(k, rec.ID, one)
		secondaries = append(secondaries, one)
		if r := rec.Refused; r != nil {
			refused = append(refused, map[string]any{"node_id": rec.ID, "count": r.Count, "last": stamp(time.Unix(r.At, 0))})
		}
	}
	out["known_secondaries"], out["secondaries"] = ids, secondaries
	out["refused_activations"] = refused
	n.rollStatus(k, out)
}

// synchronousStatus adds the level that answers wait for.
func (n *Node) synchronousStatus(k Kind, out map[string]any) {
	l, err := n.Synchronous(k)
	if err != nil {
		n.log.Error("status cannot tell the level of replication", "set", string(k), "error", err)
		return
	}
	out["synchronous"] = l.String()
	if l.Secondaries == 0 {
		return
	}
	if l.Lease > 0 {
		out["write_lease_held"] = n.Leased(k) == nil
	}
	if index, gated, _ := n.confirmedIndex(k); gated {
		out["confirmed_index"] = index
	}
	if since := n.Degraded(k); !since.IsZero() {
		out["synchronous_degraded_since"] = stamp(since)
	}
}

// secondaryOf is one element of secondaries.
func (n *Node) secondaryOf(k Kind, rec *secondaryRecord, last uint64) map[string]any {
	p, seen := n.peers.get(k, rec.ID)
	acked := n.acked(k, rec)
	s := map[string]any{
		"node_id":                    rec.ID,
		"connection_status":          "disconnected",
		"activated":                  rec.State == secondaryActive,
		"retention_headroom_seconds": uint64(n.engine.Headroom(acked + 1).Seconds()),
	}
	if !seen {
		return s
	}
	if n.recent(p.LastHeartbeat) && p.Streams > 0 {
		s["connection_status"] = "connected"
	}
	s["api_address"], s["cluster_address"] = p.APIAddr, clusterURL(p.ClusterAddr)
	if !p.LastHeartbeat.IsZero() {
		s["last_heartbeat"] = stamp(p.LastHeartbeat)
		s["last_heartbeat_duration_ms"] = millis(p.RoundTrip)
		s["clock_skew_ms"] = millis(p.ClockSkew)
		s["replication_primary_canary_age_ms"] = millis(p.CanaryAge)
	}
	if reason := n.clones(&p); reason != "" {
		s["conflict"] = reason
	}
	if p.State != "" {
		s["state"] = p.State
	}
	s["acked_index"] = p.Acked.Index
	s["lag_entries"] = sub(last, p.Acked.Index)
	s["lag_bytes"] = uint64(max(n.engine.LogBytes(p.Acked.Index+1), 0))
	s["lag_ms"] = uint64(max(p.CanaryAge.Milliseconds(), 0))
	if p.RootIndex > 0 {
		s["verified_merkle_root"], s["merkle_root_index"] = hex.EncodeToString(p.Root[:]), p.RootIndex
	}
	s["resumes"] = p.Resumes.status()
	s["diff_bytes"], s["sync_bytes"] = p.DiffBytes, p.SyncBytes
	return s
}

func (r resumes) status() map[string]uint64 {
	return map[string]uint64{"continue": r.Continue, "repair": r.Repair, "rewind": r.Rewind, "bootstrap": r.Bootstrap}
}

// recent reports whether a heartbeat is young enough for its peer to count as connected.
func (n *Node) recent(at time.Time) bool {
	return !at.IsZero() && n.now().Sub(at) < max(connectedFor*n.cfg.HeartbeatInterval, 5*time.Second)
}

func (n *Node) secondaryStatus(k Kind, set *setConfig, out map[string]any) {
	l := n.link[k].get()
	root, last, cursor := n.rootOf(k)
	out["state"] = l.Machine.Shown()
	out["secondary_id"] = set.Secondary
	out["connection_state"] = l.shownConnection()
	out["known_primary_cluster_addrs"] = urls(set.Primaries)
	out["last_remote_wal"] = cursor
	out["last_wal"] = last
	out["merkle_root"] = hex.EncodeToString(root[:])
	if !l.Started.IsZero() {
		out["last_start"] = stamp(l.Started)
	}
	out["primaries"] = n.primariesOf(&l)
	if reason := l.reason(); reason != "" {
		out["reason"] = reason
	}
	n.lackStatus(k, out)
	n.lag(k, &l, cursor, out)
	if l.Machine.Name == StateMerkleSync || l.Machine.Name == StateMerkleDiff {
		out["merkle_sync_progress"] = map[string]any{"sync_progress": l.SyncDone, "sync_total_keys": l.SyncTotal}
	}
}

// shownConnection is the state of the connection: before the primary has answered the hello on it, it is not ready for anything.
func (l *linkState) shownConnection() string {
	if name := l.Machine.Name; l.Connection == "ready" && (name == StateConnecting || name == StateBootstrapping) {
		return "connecting"
	}
	return l.Connection
}

// reason says why this secondary does not stream, empty when it does or when nothing is known to be wrong.
func (l *linkState) reason() string {
	switch l.Machine.Name {
	case StateIdle:
		return l.Machine.Reason
	case StateConnecting, StateBootstrapping:
		return orElse(l.DialError, l.LastRefusal)
	}
	return ""
}

// lag adds our own fields: how far this secondary is behind, how sure that is, and what its resumes cost.
func (n *Node) lag(k Kind, l *linkState, cursor uint64, out map[string]any) {
	out["lag_entries"] = sub(l.RemoteEnd.Index, cursor)
	out["lag_bytes"] = l.LagBytes
	lag := l.LagTime
	if l.Connection != "ready" && !l.Primary.LastHeartbeat.IsZero() { // what the primary has written since cannot be known: all of that time counts
		lag += n.now().Sub(l.Primary.LastHeartbeat)
	} else if l.Primary.LastHeartbeat.IsZero() {
		lag += n.sinceContact(k)
	}
	out["lag_ms"] = uint64(max(lag.Milliseconds(), 0))
	out["verified_index"] = l.Verified
	if !l.VerifiedAt.IsZero() {
		out["verified_age_ms"] = uint64(max(n.now().Sub(l.VerifiedAt).Milliseconds(), 0))
	}
	out["consistent"] = n.engine.SyncState() == nil && l.Machine.Consistent()
	out["resumes"] = l.Resumes.status()
	out["diff_bytes"], out["sync_bytes"] = l.DiffBytes, l.SyncBytes
	if l.DiffReason != "" {
		out["last_diff_reason"] = l.DiffReason
	}
}

// sinceContact is how long ago the primary was heard of, before the start.
func (n *Node) sinceContact(k Kind) time.Duration {
	c, err := n.contact(k)
	if err != nil || c == nil {
		return 0
	}
	return max(0, n.now().Sub(time.Unix(c.At, 0)))
}

func (n *Node) primariesOf(l *linkState) []map[string]any {
	p := l.Primary
	if p.LastHeartbeat.IsZero() {
		return []map[string]any{}
	}
	s := map[string]any{
		"api_address":                       p.APIAddr,
		"cluster_address":                   clusterURL(p.ClusterAddr),
		"connection_status":                 "disconnected",
		"last_heartbeat":                    stamp(p.LastHeartbeat),
		"last_heartbeat_duration_ms":        millis(p.RoundTrip),
		"clock_skew_ms":                     millis(p.ClockSkew),
		"replication_primary_canary_age_ms": millis(p.CanaryAge),
	}
	if n.recent(p.LastHeartbeat) && l.Connection == "ready" {
		s["connection_status"] = "connected"
	}
	return []map[string]any{s}
}

func urls(addrs []string) []string {
	out := make([]string, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, clusterURL(a))
	}
	return out
}

func stamp(t time.Time) string      { return t.UTC().Format(time.RFC3339) }
func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
func sub(a, b uint64) uint64 {
	if a < b {
		return 0
	}
	return a - b
}
