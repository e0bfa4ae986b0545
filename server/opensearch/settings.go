package opensearch

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

func itoa64(n int64) string { return strconv.FormatInt(n, 10) }

// flatten gives settings their flat names; null stands for a removal, and is left out.
func flatten(prefix string, v any, into map[string]any) {
	object, is := v.(map[string]any)
	if !is {
		into[prefix] = v
		return
	}
	for name, x := range object {
		if prefix != "" {
			name = prefix + "." + name
		}
		flatten(name, x, into)
	}
}

// nested is the opposite of flatten. A name that is both a value and a prefix keeps its dots.
func nested(flat map[string]any) map[string]any {
	out := map[string]any{}
names:
	for _, name := range slices.Sorted(maps.Keys(flat)) {
		parts := strings.Split(name, ".")
		at := out
		for _, part := range parts[:len(parts)-1] {
			next, is := at[part].(map[string]any)
			if _, taken := at[part]; taken && !is {
				out[name] = flat[name]
				continue names
			}
			if !is {
				next = map[string]any{}
				at[part] = next
			}
			at = next
		}
		at[parts[len(parts)-1]] = flat[name]
	}
	return out
}

func unknownSetting(name string) *failure {
	return illegal("unknown setting [%s] please check that any required plugins are installed, or check the breaking changes documentation for removed settings", name)
}

// text is a setting's value as OpenSearch shows it: a text, or a list of them.
func settingText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// kept settings of an index: they are stored and shown, and mean nothing to an engine without segments and shards. true: only when the index is created.
var indexSettingNames = map[string]bool{
	"index.number_of_shards": true, "index.number_of_replicas": false, "index.auto_expand_replicas": false, "index.refresh_interval": false,
	"index.codec": true, "index.hidden": false, "index.max_result_window": false, "index.soft_deletes.enabled": true, "index.soft_deletes.retention_lease.period": false,
	"index.translog.durability": false, "index.translog.sync_interval": false, "index.translog.generation_threshold_size": false, "index.translog.flush_threshold_size": false,
	"index.mapping.total_fields.limit": false, "index.mapping.depth.limit": false, "index.gc_deletes": false, "index.priority": false,
	"index.routing.allocation.enable": false, "index.routing.rebalance.enable": false, "index.routing.allocation.total_shards_per_node": false,
	"index.write.wait_for_active_shards": false, "index.query.default_field": false,
	"index.plugins.replication.translog.retention_lease.pruning.enabled": false, "index.plugins.replication.translog.retention_size": false,
	"index.plugins.replication.follower.ops_batch_size": false,
}

// indexSettings checks the settings of an index, given flat or nested, with or without index. before their names.
func indexSettings(given map[string]any, creating bool) (map[string]string, error) {
	flat := map[string]any{}
	flatten("", map[string]any(given), flat)
	out := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(flat)) {
		full := name
		if !strings.HasPrefix(full, "index.") {
			full = "index." + full
		}
		final, known := indexSettingNames[full]
		switch {
		case strings.HasPrefix(full, "index.blocks."):
			return nil, notOffered("the setting ["+full+"]", "close the index, or take rights away")
		case strings.HasPrefix(full, "index.analysis.") || strings.HasPrefix(full, "index.sort."):
			return nil, notOffered("the setting ["+full+"]", "leave it out: there is no text index here")
		case !known:
			return nil, unknownSetting(full)
		case final && !creating:
			return nil, illegal("final %s setting [%s], not updateable", "index", full)
		case flat[name] == nil:
			continue
		}
		text, ok := settingText(flat[name])
		if !ok {
			return nil, illegal("Failed to parse value for setting [%s]: a text, a number, true or false is needed", full)
		}
		if err := checkIndexSetting(full, text); err != nil {
			return nil, err
		}
		out[full] = text
	}
	return out, nil
}

func checkIndexSetting(name, text string) error {
	least, most := 0, 0
	switch name {
	case "index.number_of_shards":
		least, most = 1, 1024
	case "index.number_of_replicas":
		least, most = 0, 1024
	default:
		return nil
	}
	n, err := strconv.Atoi(text)
	switch {
	case err != nil:
		return illegal("Failed to parse value [%s] for setting [%s]", text, name)
	case n < least:
		return illegal("Failed to parse value [%s] for setting [%s] must be >= %d", text, name, least)
	case n > most:
		return illegal("Failed to parse value [%s] for setting [%s] must be <= %d", text, name, most)
	}
	return nil
}

// nulls are the settings that are to be removed, with index. before their names.
func nulls(given map[string]any) (out []string) {
	flat := map[string]any{}
	flatten("", map[string]any(given), flat)
	for name, v := range flat {
		if v == nil {
			out = append(out, "index."+strings.TrimPrefix(name, "index."))
		}
	}
	return out
}

// ---- cluster settings

// clusterSetting is one that there is, with its range.
type clusterSetting struct {
	def         string
	kind        string // int, bool, time, bytes
	least, most int64  // in ms for times
	static      bool
}

const (
	second = int64(1000)
	minute = 60 * second
	hour   = 60 * minute
	mb     = int64(1 << 20)
)

const manyOf = int64(1<<31 - 1)

var clusterSettings = map[string]clusterSetting{
	"plugins.replication.follower.index.ops_batch_size":                       {"50000", "int", 16, manyOf, false},
	"plugins.replication.follower.concurrent_readers_per_shard":               {"2", "int", 1, manyOf, false},
	"plugins.replication.follower.concurrent_writers_per_shard":               {"2", "int", 1, manyOf, false},
	"plugins.replication.follower.poll_interval":                              {"50ms", "time", 1, second, false},
	"plugins.replication.follower.metadata_sync_interval":                     {"60s", "time", 5 * second, 365 * 24 * hour, false},
	"plugins.replication.follower.retention_lease_max_failure_duration":       {"1h", "time", second, 12 * hour, false},
	"plugins.replication.follower.index.recovery.chunk_size":                  {"10mb", "bytes", mb, 1 << 30, false},
	"plugins.replication.follower.index.recovery.max_concurrent_file_chunks":  {"5", "int", 1, manyOf, false},
	"plugins.replication.follower.block.start":                                {"false", "bool", 0, 0, false},
	"plugins.replication.follower.bulk_batch_size":                            {"10", "int", 1, 100, false},
	"plugins.replication.follower.bulk_poll_timeout":                          {"15", "int", 1, 30, false},
	"plugins.replication.autofollow.fetch_poll_interval":                      {"30s", "time", 30 * second, hour, false},
	"plugins.replication.autofollow.retry_poll_interval":                      {"1h", "time", minute, 4 * hour, false},
	"plugins.replication.autofollow.concurrent_replication_jobs_trigger_size": {"3", "int", 1, 100, false},
	"plugins.replication.replicate.delete_index":                              {"false", "bool", 0, 0, false},
	"plugins.replication.leader.thread_pool.size":                             {"0", "int", 0, manyOf, true},
	"plugins.replication.leader.thread_pool.queue_size":                       {"1000", "int", 0, manyOf, true},
}

// checkClusterSetting gives a value its form, or says what is wrong with it.
func checkClusterSetting(name string, v any) (string, error) {
	s, known := clusterSettings[name]
	switch {
	case !known:
		return "", unknownSetting(name)
	case s.static:
		return "", illegal("persistent setting [%s], not dynamically updateable", name)
	}
	text, ok := settingText(v)
	if !ok {
		return "", illegal("Failed to parse value for setting [%s]: a text, a number, true or false is needed", name)
	}
	var n int64
	var err error
	switch s.kind {
	case "bool":
		if text != "true" && text != "false" {
			return "", illegal("Failed to parse value [%s] as only [true] or [false] are allowed.", text)
		}
		return text, nil
	case "int":
		if n, err = strconv.ParseInt(text, 10, 64); err != nil {
			return "", illegal("Failed to parse value [%s] for setting [%s]", text, name)
		}
	case "time":
		var d time.Duration
		if d, err = duration(name, text); err != nil {
			return "", err
		}
		n = d.Milliseconds()
	case "bytes":
		if n, err = bytesOf(text); err != nil {
			return "", illegal("failed to parse setting [%s] with value [%s] as a size in bytes: unit is missing or unrecognized", name, text)
		}
	}
	switch {
	case n < s.least:
		return "", illegal("Failed to parse value [%s] for setting [%s] must be >= [%s]", text, name, s.show(s.least))
	case n > s.most:
		return "", illegal("Failed to parse value [%s] for setting [%s] must be <= [%s]", text, name, s.show(s.most))
	}
	return text, nil
}

func (s *clusterSetting) show(n int64) string {
	switch {
	case s.kind == "time" && n%hour == 0:
		return itoa64(n/hour) + "h"
	case s.kind == "time" && n%minute == 0:
		return itoa64(n/minute) + "m"
	case s.kind == "time" && n%second == 0:
		return itoa64(n/second) + "s"
	case s.kind == "time":
		return itoa64(n) + "ms"
	case s.kind == "bytes" && n >= 1<<30:
		return itoa64(n>>30) + "gb"
	case s.kind == "bytes":
		return itoa64(n>>20) + "mb"
	}
	return itoa64(n)
}

var errUnit = errors.New("no unit")

func bytesOf(text string) (int64, error) {
	for _, u := range []struct {
		suffix string
		shift  int
	}{{"kb", 10}, {"mb", 20}, {"gb", 30}, {"b", 0}} {
		if digits, ok := strings.CutSuffix(strings.ToLower(text), u.suffix); ok {
			n, err := strconv.ParseInt(digits, 10, 64)
			if err != nil || n < 0 || n > 1<<40>>u.shift {
				return 0, errUnit
			}
			return n << u.shift, nil
		}
	}
	return 0, errUnit
}

const settingsKey = recordsPrefix + "settings"

// persistent returns the stored cluster settings, flat.
func persistentOf(rec storage.Record, err error) (map[string]any, error) {
	out := map[string]any{}
	if errors.Is(err, storage.ErrNotFound) {
		return out, nil
	}
	if err == nil {
		err = json.Unmarshal(rec.Value, &out)
	}
	return out, err
}

func (f *Face) getClusterSettings(r *request) (*reply, error) {
	flat, err := r.boolean("flat_settings", false)
	if err != nil {
		return nil, err
	}
	defaults, err := r.boolean("include_defaults", false)
	if err != nil {
		return nil, err
	}
	persistent, err := persistentOf(f.engine.Get(storage.SystemReplicated, []byte(settingsKey)))
	if err != nil {
		return nil, err
	}
	f.transientMu.Lock()
	transient := maps.Clone(f.transient)
	f.transientMu.Unlock()
	body := map[string]any{"persistent": shaped(persistent, flat), "transient": shaped(transient, flat)}
	if defaults {
		rest := map[string]any{}
		for name, s := range clusterSettings {
			_, p := persistent[name]
			if _, t := transient[name]; !p && !t {
				rest[name] = s.def
			}
		}
		body["defaults"] = shaped(rest, flat)
	}
	return ok(body), nil
}

func shaped(settings map[string]any, flat bool) map[string]any {
	if flat {
		return settings
	}
	return nested(settings)
}

// changes are cluster settings to be set, and names, or patterns, to be removed.
type changes struct {
	set    map[string]any
	remove []string
}

func settingChanges(given map[string]any) (*changes, error) {
	flat := map[string]any{}
	flatten("", given, flat)
	c := &changes{set: map[string]any{}}
	for _, name := range slices.Sorted(maps.Keys(flat)) {
		if flat[name] == nil {
			if _, known := clusterSettings[name]; !known && !strings.Contains(name, "*") {
				return nil, unknownSetting(name)
			}
			c.remove = append(c.remove, name)
			continue
		}
		text, err := checkClusterSetting(name, flat[name])
		if err != nil {
			return nil, err
		}
		c.set[name] = text
	}
	return c, nil
}

func (c *changes) apply(to map[string]any) {
	for name := range to {
		if anyWild(c.remove, name) {
			delete(to, name)
		}
	}
	maps.Copy(to, c.set)
}

func (f *Face) putClusterSettings(r *request) (*reply, error) {
	var b struct {
		Persistent map[string]any `json:"persistent"`
		Transient  map[string]any `json:"transient"`
	}
	if err := r.decode(&b); err != nil {
		return nil, err
	}
	if len(b.Persistent)+len(b.Transient) == 0 {
		return nil, invalid("no settings to update")
	}
	flat, err := r.boolean("flat_settings", false)
	if err != nil {
		return nil, err
	}
	persistent, err := settingChanges(b.Persistent)
	if err != nil {
		return nil, err
	}
	transient, err := settingChanges(b.Transient)
	if err != nil {
		return nil, err
	}
	if len(b.Transient) > 0 && r.call.Forwarded() {
		return nil, fail(http.StatusBadRequest, illegalArgument, "transient settings are one cluster's own and are not sent to the primary: set them there, or make them persistent")
	}
	if len(b.Persistent) > 0 {
		if err := f.storeSettings(r, persistent); err != nil {
			return nil, err
		}
	}
	f.transientMu.Lock()
	transient.apply(f.transient)
	f.transientMu.Unlock()
	return ok(map[string]any{"acknowledged": true, "persistent": shaped(persistent.set, flat), "transient": shaped(transient.set, flat)}), nil
}

func (f *Face) storeSettings(r *request, c *changes) error {
	key := engine.Key{Keyspace: storage.SystemReplicated, Key: []byte(settingsKey)}
	return r.call.Commit(&engine.Tx{
		Reads: []engine.Key{key},
		Exec: func(rd engine.Reader) ([]engine.Write, error) {
			now, err := persistentOf(rd.Get(key.Keyspace, key.Key))
			if err != nil {
				return nil, err
			}
			c.apply(now)
			value, err := marshal(now)
			if err != nil {
				return nil, err
			}
			return []engine.Write{systemPut(settingsKey, value)}, nil
		},
	})
}

func systemPut(key string, value []byte) engine.Write {
	return engine.Write{Keyspace: storage.SystemReplicated, Scope: storage.Replicated, Change: storage.Change{Op: storage.Put, Key: []byte(key), Value: value}}
}

func systemDelete(key string) engine.Write {
	return engine.Write{Keyspace: storage.SystemReplicated, Scope: storage.Replicated, Change: storage.Change{Op: storage.Delete, Key: []byte(key)}}
}
