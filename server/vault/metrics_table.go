package vault

import (
	"errors"
	"time"

	"github.com/lockstepdb/lockstep/internal/meter"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
)

// metricTable is every metric: Vault's names where one of Vault's has a meaning here, ours below "lockstep.". docs/metrics.md
// says the same, and a test compares them.
var metricTable = append(append(append(append([]metric{}, coreMetrics...), logMetrics...), setMetrics...), callMetrics()...)

// one makes a reader of a metric without labels.
func one(value func(s *scrape) any) func(*scrape, put) {
	return func(s *scrape, put put) { put(value(s)) }
}

// observed makes a reader of a summary without labels.
func observed(of func(s *scrape) *meter.Summary) func(*scrape, put) {
	return func(s *scrape, put put) { put(of(s).Read()) }
}

// scrubbed makes a reader of what the scrub tells.
func scrubbed(value func(s *ScrubStatus) (any, bool)) func(*scrape, put) {
	return func(s *scrape, put put) {
		if s.scrub == nil {
			return
		}
		if v, ok := value(s.scrub); ok {
			put(v)
		}
	}
}

var coreMetrics = []metric{
	{"vault.core.active", gauge, "0 or 1", "Whether this node serves requests of its own: 0 on a DR secondary.", one(func(s *scrape) any {
		return !s.is(dr, replication.Secondary) && !s.is(dr, replication.Bootstrapping)
	})},
	{"vault.core.performance_standby", gauge, "0 or 1", "Always 0: a cluster is one node, and has no standbys.", one(func(*scrape) any { return 0 })},
	{"vault.core.replication.dr.primary", gauge, "0 or 1", "Whether this cluster is a DR primary.", role(dr, replication.Primary)},
	{"vault.core.replication.dr.secondary", gauge, "0 or 1", "Whether this cluster is a DR secondary.", role(dr, replication.Secondary)},
	{"vault.core.replication.performance.primary", gauge, "0 or 1", "Whether this cluster is a performance primary.", role(performance, replication.Primary)},
	{"vault.core.replication.performance.secondary", gauge, "0 or 1", "Whether this cluster is a performance secondary.", role(performance, replication.Secondary)},
	{"vault.core.replication.write_undo_logs", gauge, "0 or 1", "Always 0: a rewind needs no undo log here.", one(func(*scrape) any { return 0 })},
	{"vault.core.handle_request", summary, "ms", "Time from a request to its answer.", observed(func(s *scrape) *meter.Summary { return &s.core.meters.request })},
	{"vault.core.in_flight_requests", gauge, "requests", "Requests being answered now.", one(func(s *scrape) any { return s.core.running.count() })},
	{"lockstep.core.writable", gauge, "0 or 1", "Whether clients' writes are taken.", one(func(s *scrape) any { return s.core.engine.Writable() == nil })},
	{"lockstep.core.writes_refused", gauge, "0 or 1", "Why clients' writes are refused: 1 for the reason that holds.", refusedReasons},
	{"lockstep.core.uptime_seconds", gauge, "s", "Time since this store was opened.", one(func(s *scrape) any { return s.now.Sub(s.core.began).Seconds() })},
	{"lockstep.listener.connections", gauge, "connections", "Open connections of the API's listener.", one(func(s *scrape) any { return s.listen.Connections })},
	{"lockstep.listener.rate_limited_total", counter, "requests", "Requests refused by a rate limit.", one(func(s *scrape) any { return s.listen.Refused })},
	{"lockstep.listener.certificate_expires_in_seconds", gauge, "s", "Time left of the API listener's certificate.", func(s *scrape, put put) {
		if !s.listen.CertEnds.IsZero() {
			put(s.listen.CertEnds.Sub(s.now).Seconds())
		}
	}},
	{"vault.runtime.alloc_bytes", gauge, "bytes", "Memory in use by live and not yet collected objects.", one(func(s *scrape) any { return s.memory.Alloc })},
	{"vault.runtime.sys_bytes", gauge, "bytes", "Memory taken from the operating system.", one(func(s *scrape) any { return s.memory.Sys })},
	{"vault.runtime.total_gc_runs", gauge, "runs", "Collections of garbage since the start.", one(func(s *scrape) any { return s.memory.NumGC })},
}

var logMetrics = []metric{
	{"vault.wal.persistWALs", summary, "ms", "Making one group of entries durable: one transaction and its sync.", observed(func(s *scrape) *meter.Summary { return &s.meters.Persist })},
	{"vault.wal.deleteWALs", summary, "ms", "Removing segments that nothing needs any more.", observed(func(s *scrape) *meter.Summary { return &s.meters.DropLog })},
	{"vault.wal.gc.deleted", gauge, "entries", "Entries that the last removal of log let go.", one(func(s *scrape) any { return s.meters.Dropped.Load() })},
	{"vault.wal.gc.total", gauge, "entries", "Entries held in the log.", one(func(s *scrape) any { return s.stats.LogLast + 1 - s.stats.LogFirst })},
	{"vault.merkle.saveCheckpoint", summary, "ms", "One checkpoint: records, leaves and digests into the state file.", observed(func(s *scrape) *meter.Summary { return &s.meters.Checkpoint })},
	{"vault.merkle.saveCheckpoint.num_dirty", gauge, "bytes", "Bytes in memory that the last checkpoint began with; Vault counts pages.", one(func(s *scrape) any { return s.meters.Waiting.Load() })},
	{"vault.logshipper.buffer.length", gauge, "entries", "Newest entries kept in memory for streams.", one(func(s *scrape) any { return s.stats.RingEntries })},
	{"vault.logshipper.buffer.size", gauge, "bytes", "Memory that they take.", one(func(s *scrape) any { return s.stats.RingBytes })},
	{"vault.logshipper.buffer.max_size", gauge, "bytes", "Memory that they may take.", one(func(s *scrape) any { return s.stats.RingLimit })},
	{"vault.replication.wal.last_wal", gauge, "index", "Newest index of this cluster's log.", one(func(s *scrape) any { return s.stats.LogLast })},
	{"vault.replication.wal.last_dr_wal", gauge, "index", "Newest index that concerns a DR set: each one does.", one(func(s *scrape) any { return s.stats.LogLast })},
	{"vault.replication.wal.last_performance_wal", gauge, "index", "As sys/replication/performance/status shows it, on a primary.", field(performance, "last_performance_wal")},
	{"vault.replication.wal.gc", summary, "ms", "Letting go of log after a checkpoint, and of records of dropped mounts.", observed(func(s *scrape) *meter.Summary { return &s.meters.Retire })},
	{"vault.replication.merkle.commit_index", gauge, "index", "Index up to which the state file holds everything.", one(func(s *scrape) any { return s.stats.Checkpointed })},
	{"lockstep.commits_total", counter, "groups", "Groups made durable.", one(func(s *scrape) any { return s.stats.Commits })},
	{"lockstep.commit.entries_total", counter, "entries", "Entries made durable.", one(func(s *scrape) any { return s.stats.Entries })},
	{"lockstep.commit.bytes_total", counter, "bytes", "Bytes of entries made durable.", one(func(s *scrape) any { return s.stats.CommitBytes })},
	{"lockstep.commit.group_size", summary, "entries", "Entries of one group.", observed(func(s *scrape) *meter.Summary { return &s.meters.Group })},
	{"lockstep.commit.throttled_seconds_total", counter, "s", "Time that commits waited for a checkpoint that falls behind.", one(func(s *scrape) any { return s.stats.Throttled.Seconds() })},
	{"lockstep.checkpoints_total", counter, "checkpoints", "Checkpoints ended.", one(func(s *scrape) any { return s.stats.Checkpoints })},
	{"lockstep.checkpoint.waiting_bytes", gauge, "bytes", "Bytes in memory that wait for the next checkpoint.", one(func(s *scrape) any { return s.stats.WaitingBytes })},
	{"lockstep.scrub.found_total", counter, "places", "Places that the scrub found damaged.", scrubbed(func(s *ScrubStatus) (any, bool) { return s.Found, true })},
	{"lockstep.scrub.progress", gauge, "0 to 1", "How far the scrub under way is; none between two.", scrubbed(func(s *ScrubStatus) (any, bool) { return s.Progress, s.Running })},
	{"lockstep.scrub.last_found", gauge, "places", "Places that the last whole scrub found damaged.", scrubbed(func(s *ScrubStatus) (any, bool) {
		return s.LastFound, !s.LastEnded.IsZero()
	})},
	{"lockstep.scrub.last_ended_seconds", gauge, "s", "When the last whole scrub ended, in Unix time; none before the first.", scrubbed(func(s *ScrubStatus) (any, bool) {
		return s.LastEnded.Unix(), !s.LastEnded.IsZero()
	})},
	{"lockstep.log.first_index", gauge, "index", "Oldest index still in the log.", one(func(s *scrape) any { return s.stats.LogFirst })},
	{"lockstep.log.bytes", gauge, "bytes", "Size of the log.", one(func(s *scrape) any { return s.stats.LogBytes })},
	{"lockstep.log.poisoned", gauge, "0 or 1", "Whether a commit failed: no write is answered until the process has been restarted.", one(func(s *scrape) any { return s.core.engine.Poisoned() != nil })},
	{"lockstep.state.bytes", gauge, "bytes", "Size of the state file.", one(func(s *scrape) any { return s.stats.StateBytes })},
	{"lockstep.disk.free_bytes", gauge, "bytes", "Free disk of the data directory.", one(func(s *scrape) any { return s.stats.DiskFree })},
	{"lockstep.disk.min_free_bytes", gauge, "bytes", "Free disk below which writes are refused.", one(func(s *scrape) any { return s.core.engine.MinFree() })},
	{"lockstep.consistent", gauge, "0 or 1", "Whether the state is one index of its log: 0 while a sync lasts.", one(func(s *scrape) any { return s.core.engine.SyncState() == nil })},
	{"lockstep.repair_needed", gauge, "0 or 1", "Whether this secondary waits to be repaired from its primary.", one(func(s *scrape) any { return s.core.engine.NeedsRepair() != "" })},
}

// refusedReasons are the reasons for which an engine refuses writes. What is none of the named is "other".
func refusedReasons(s *scrape, put put) {
	err := s.core.engine.Writable()
	other := err != nil
	for _, reason := range []struct {
		name string
		is   error
	}{{"disk_full", engine.ErrDiskFull}, {"log_poisoned", engine.ErrPoisoned}, {"sync", engine.ErrInconsistent}, {"role", engine.ErrNotWritable}, {"fenced", engine.ErrFenced}, {"stopped", engine.ErrStopped}} {
		holds := errors.Is(err, reason.is)
		other = other && !holds
		put(holds, "reason", reason.name)
	}
	put(other, "reason", "other")
}

func role(k replication.Kind, mode replication.Mode) func(*scrape, put) {
	return one(func(s *scrape) any { return s.is(k, mode) })
}

func (s *scrape) is(k replication.Kind, mode replication.Mode) bool {
	text, _ := s.sets[k]["mode"].(string)
	return text == string(mode)
}

// field makes a reader of a number in one set's status; nothing where status has none.
func field(k replication.Kind, name string) func(*scrape, put) {
	return func(s *scrape, put put) {
		if v, ok := s.sets[k][name]; ok {
			put(v)
		}
	}
}

// each makes a reader of a value of each set that this cluster is a part of; ok false leaves it out.
func each(value func(s *scrape, status map[string]any) (v any, ok bool)) func(*scrape, put) {
	return func(s *scrape, put put) {
		for _, k := range []replication.Kind{dr, performance} {
			if v, ok := value(s, s.sets[k]); ok {
				put(v, "set", string(k))
			}
		}
	}
}

// shown makes a reader of a number in each set's status.
func shown(name string, scale float64) func(*scrape, put) {
	return each(func(_ *scrape, status map[string]any) (any, bool) {
		v, ok := status[name]
		return number(v) * scale, ok
	})
}

// peers makes a reader of a value of each secondary that a primary knows.
func peers(value func(s *scrape, peer map[string]any) (v any, ok bool)) func(*scrape, put) {
	return func(s *scrape, put put) {
		for _, k := range []replication.Kind{dr, performance} {
			list, _ := s.sets[k]["secondaries"].([]map[string]any)
			for _, p := range list {
				id, _ := p["node_id"].(string)
				if v, ok := value(s, p); ok {
					put(v, "set", string(k), "secondary", id)
				}
			}
		}
	}
}

func peerShown(name string, scale float64) func(*scrape, put) {
	return peers(func(_ *scrape, p map[string]any) (any, bool) {
		v, ok := p[name]
		return number(v) * scale, ok
	})
}

// heartbeatAge is the time since a peer's last heartbeat.
func heartbeatAge(s *scrape, peer map[string]any) (any, bool) {
	text, _ := peer["last_heartbeat"].(string)
	at, err := time.Parse(time.RFC3339, text)
	return max(s.now.Sub(at).Seconds(), 0), err == nil
}

func primaryHeartbeat(s *scrape, status map[string]any) (any, bool) {
	list, _ := status["primaries"].([]map[string]any)
	if len(list) == 0 {
		return nil, false
	}
	return heartbeatAge(s, list[0])
}

// connected tells whether a peer counts as connected.
func connected(_ *scrape, peer map[string]any) (any, bool) {
	return peer["connection_status"] == "connected", true
}

// resumed sums up how subscriptions went on, over the secondaries of both sets.
func resumed(names ...string) func(*scrape, put) {
	return one(func(s *scrape) any {
		var n uint64
		for _, status := range s.sets {
			list, _ := status["secondaries"].([]map[string]any)
			for _, p := range list {
				counts, _ := p["resumes"].(map[string]uint64)
				for _, name := range names {
					n += counts[name]
				}
			}
		}
		return n
	})
}

// upstream is the newest index of the primary that this secondary has heard of.
func upstream(s *scrape, put put) {
	for _, k := range []replication.Kind{dr, performance} {
		if have, ok := s.sets[k]["last_remote_wal"]; ok {
			put(number(have)+number(s.sets[k]["lag_entries"]), "set", string(k))
		}
	}
}

func epoch(s *scrape, put put) {
	for _, k := range []replication.Kind{dr, performance} {
		list, _ := s.sets[k]["secondaries"].([]map[string]any)
		for _, p := range list {
			text, _ := p["last_heartbeat"].(string)
			id, _ := p["node_id"].(string)
			if at, err := time.Parse(time.RFC3339, text); err == nil {
				put(at.Unix(), "set", string(k), "secondary", id)
			}
		}
	}
}

// reindexing reads a number of a reindex under way, 0 when there is none; the same in each set.
func reindexing(value func(status map[string]any) float64) func(*scrape, put) {
	return one(func(s *scrape) any { return max(value(s.sets[dr]), value(s.sets[performance])) })
}

var reindexStages = map[string]float64{"scanning": 1, "building": 2, "replaying": 3, "committing": 4}

var setMetrics = []metric{
	{"vault.replication.fsm.last_remote_wal", gauge, "index", "The primary's index up to which this secondary is complete.", shown("last_remote_wal", 1)},
	{"vault.replication.fsm.last_upstream_remote_wal", gauge, "index", "The primary's newest index that this secondary has heard of.", upstream},
	{"vault.replication.rpc.server.last_heartbeat", gauge, "s since 1970", "When a primary last heard from a secondary.", epoch},
	{"vault.logshipper.streamWALs.guard_found", counter, "subscriptions", "Subscriptions that went on where they were.", resumed("continue")},
	{"vault.logshipper.streamWALs.missing_guard", counter, "subscriptions", "Subscriptions that had to compare first.", resumed("repair", "rewind", "bootstrap")},
	{"vault.core.replication.reindex_stage", gauge, "stage", "0: no reindex; 1 scanning, 2 building, 3 replaying, 4 committing.", reindexing(func(status map[string]any) float64 {
		stage, _ := status["reindex_stage"].(string)
		if on, _ := status["reindex_in_progress"].(bool); on && reindexStages[stage] == 0 {
			return 1
		}
		return reindexStages[stage]
	})},
	{"vault.core.replication.build_progress", gauge, "records", "Records that a reindex under way has done.", reindexing(func(status map[string]any) float64 { return number(status["reindex_building_progress"]) })},
	{"vault.core.replication.build_total", gauge, "records", "Records that it has to do.", reindexing(func(status map[string]any) float64 { return number(status["reindex_building_total"]) })},
	{"lockstep.replication.streaming", gauge, "0 or 1", "Whether this secondary is in stream-wals and its link is ready.", each(func(_ *scrape, st map[string]any) (any, bool) {
		_, secondary := st["last_remote_wal"]
		return st["state"] == "stream-wals" && st["connection_state"] == "ready", secondary
	})},
	{"lockstep.replication.lag_entries", gauge, "entries", "Entries of the primary that this secondary lacks, as far as it has heard.", shown("lag_entries", 1)},
	{"lockstep.replication.lag_bytes", gauge, "bytes", "Their size.", shown("lag_bytes", 1)},
	{"lockstep.replication.lag_seconds", gauge, "s", "How old what this secondary shows is; grows while the link is down.", shown("lag_ms", 0.001)},
	{"lockstep.replication.verified_index", gauge, "index", "The primary's index at which digests were last found equal.", shown("verified_index", 1)},
	{"lockstep.replication.verified_age_seconds", gauge, "s", "Time since then.", shown("verified_age_ms", 0.001)},
	{"lockstep.replication.heartbeat_age_seconds", gauge, "s", "Time since the primary's last heartbeat.", each(primaryHeartbeat)},
	{"lockstep.replication.resumes_total", counter, "subscriptions", "How this secondary's subscriptions went on, by the primary's answer.", func(s *scrape, put put) {
		for _, k := range []replication.Kind{dr, performance} {
			counts, _ := s.sets[k]["resumes"].(map[string]uint64)
			for _, answer := range []string{"continue", "repair", "rewind", "bootstrap"} {
				if n, ok := counts[answer]; ok {
					put(n, "set", string(k), "answer", answer)
				}
			}
		}
	}},
	{"lockstep.replication.diff_bytes_total", counter, "bytes", "What comparing with the primary cost.", shown("diff_bytes", 1)},
	{"lockstep.replication.sync_bytes_total", counter, "bytes", "What fetching what differs cost.", shown("sync_bytes", 1)},
	{"lockstep.replication.certificate_expires_in_seconds", gauge, "s", "Time left of this cluster's certificate of the cluster port.", shown("certificate_expires_in_seconds", 1)},
	{"lockstep.replication.corrupted", gauge, "0 or 1", "Whether the last merkle-check found damage.", shown("corrupted_merkle_tree", 1)},
	{"lockstep.replication.fenced", gauge, "0 or 1", "Whether this primary is fenced: it has learned of another, and takes no writes.", each(func(_ *scrape, st map[string]any) (any, bool) {
		return st["state"] == "fenced", st["mode"] == string(replication.Primary)
	})},
	{"lockstep.replication.write_lease_held", gauge, "0 or 1", "Whether the write lease of a set lasts; none without one.", shown("write_lease_held", 1)},
	{"lockstep.secondary.connected", gauge, "0 or 1", "Whether a secondary that this primary knows is connected.", peers(connected)},
	{"lockstep.secondary.acked_index", gauge, "index", "Index that the secondary has made durable.", peerShown("acked_index", 1)},
	{"lockstep.secondary.lag_entries", gauge, "entries", "Entries that it lacks.", peerShown("lag_entries", 1)},
	{"lockstep.secondary.lag_bytes", gauge, "bytes", "Their size.", peerShown("lag_bytes", 1)},
	{"lockstep.secondary.lag_seconds", gauge, "s", "How old what it shows is.", peerShown("lag_ms", 0.001)},
	{"lockstep.secondary.heartbeat_age_seconds", gauge, "s", "Time since its last heartbeat.", peers(heartbeatAge)},
	{"lockstep.secondary.retention_headroom_seconds", gauge, "s", "How long the log that it still needs stays, at the present write rate.", peerShown("retention_headroom_seconds", 1)},
}

// callMetrics are the calls on the cluster port. Vault's names are given where one of its calls does the same.
func callMetrics() []metric {
	served := []struct{ call, name, help string }{
		{"Stream", "vault.replication.rpc.server.stream_wals_request", "Life of a subscription that this primary fed."},
		{"Split", "vault.replication.rpc.server.sub_page_hashes_request", "Answering with the digests of ranges."},
		{"Items", "vault.replication.rpc.server.conflicting_pages_request", "Answering with the digests of records."},
		{"Records", "vault.replication.rpc.server.fetch_keys_request", "Answering with records."},
		{"Forward", "vault.replication.rpc.server.forwarding_request", "Executing a request that a performance secondary forwarded."},
		{"Renew", "lockstep.replication.rpc.server.renew_request", "Certifying a secondary's new key."},
	}
	called := []struct{ call, name, help string }{
		{"Stream", "vault.replication.rpc.client.stream_wals", "Life of a subscription of this secondary."},
		{"Split", "vault.replication.rpc.client.sub_page_hashes", "Asking for the digests of ranges."},
		{"Items", "vault.replication.rpc.client.conflicting_pages", "Asking for the digests of records."},
		{"Records", "vault.replication.rpc.client.fetch_keys", "Asking for records."},
		{"Forward", "vault.replication.rpc.client.forward", "Forwarding a request to the primary."},
		{"Renew", "lockstep.replication.rpc.client.renew", "Having a new key certified."},
	}
	out := []metric{{"vault.replication.merkleDiff", summary, "ms", "Comparing with the primary, and fetching what differs beside it.", func(s *scrape, put put) {
		if s.cluster != nil {
			put(s.cluster.Diff.Read())
		}
	}}}
	for _, x := range served {
		out = append(out, metric{x.name, summary, "ms", x.help, call(func(m *replication.Meters) *meter.Summary { return m.Served[x.call] })})
	}
	for _, x := range called {
		out = append(out, metric{x.name, summary, "ms", x.help, call(func(m *replication.Meters) *meter.Summary { return m.Called[x.call] })})
	}
	return append(out, auditMetrics...)
}

func call(of func(*replication.Meters) *meter.Summary) func(*scrape, put) {
	return func(s *scrape, put put) {
		if s.cluster != nil {
			put(of(s.cluster).Read())
		}
	}
}
