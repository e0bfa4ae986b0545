package vault

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// haStatus lists the nodes of this cluster: there is one, and it is active.
func (c *Core) haStatus(*request) (*reply, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("look up the host's name: %w", err)
	}
	body := map[string]any{"clock_skew_ms": int64(0), "echo_duration_ms": int64(0), "replication_primary_canary_age_ms": int64(0)}
	c.healthReplication(body)
	return &reply{inject: true, data: map[string]any{"nodes": []map[string]any{{
		"hostname": host, "api_address": c.cfg.APIAddr, "cluster_address": c.cfg.ClusterAddr, "active_node": true, "last_echo": nil,
		"echo_duration_ms": body["echo_duration_ms"], "clock_skew_ms": body["clock_skew_ms"], "replication_primary_canary_age_ms": body["replication_primary_canary_age_ms"],
		"version": c.cfg.Version, "upgrade_version": c.cfg.Version, "redundancy_zone": "",
	}}}}, nil
}

// hostInfo tells what the machine is and has, as far as the system says.
func (c *Core) hostInfo(*request) (*reply, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("look up the host's name: %w", err)
	}
	cpus := make([]map[string]any, runtime.NumCPU())
	for i := range cpus {
		cpus[i] = map[string]any{"cpu": i}
	}
	out := map[string]any{
		"timestamp": stamp(c.now().UTC()), "cpu": cpus,
		"host": map[string]any{"hostname": host, "os": runtime.GOOS, "kernelArch": runtime.GOARCH},
	}
	var st unix.Statfs_t
	if c.cfg.DataDir != "" && unix.Statfs(c.cfg.DataDir, &st) == nil {
		size := uint64(st.Bsize)
		out["disk"] = []map[string]any{{"path": c.cfg.DataDir, "total": st.Blocks * size, "free": st.Bavail * size, "used": (st.Blocks - st.Bfree) * size}}
	}
	if memory := memoryInfo(); memory != nil {
		out["memory"] = memory
	}
	return &reply{data: out}, nil
}

// memoryInfo reads /proc/meminfo; nil where there is none.
func memoryInfo() map[string]any {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	names := map[string]string{"MemTotal": "total", "MemAvailable": "available", "MemFree": "free"}
	out := map[string]any{}
	for s := bufio.NewScanner(f); s.Scan(); {
		name, rest, _ := strings.Cut(s.Text(), ":")
		n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if to := names[name]; to != "" && err == nil {
			out[to] = n << 10
		}
	}
	return out
}

// sanitized answers the configuration in use, without what is secret.
func (c *Core) sanitized(*request) (*reply, error) {
	if c.cfg.Sanitized == nil {
		return nil, refuse(errUnsupported, "unsupported path")
	}
	return &reply{data: c.cfg.Sanitized()}, nil
}

// licenseStatus says in Vault's words that nothing needs a license: automation looks for the two features before it sets up replication.
func (c *Core) licenseStatus(*request) (*reply, error) {
	return &reply{data: map[string]any{
		"autoloading_used": true, "persisted_autoload": nil,
		"autoloaded": map[string]any{
			"license_id": "open-source", "start_time": "2026-01-01T00:00:00Z", "expiration_time": "9999-12-31T23:59:59Z", "termination_time": "9999-12-31T23:59:59Z",
			"features": []string{"DR Replication", "Performance Replication"}, "performance_standby_count": 0,
		},
	}}, nil
}

const versionPrefix = "core/version/"

// versionRecord tells since when a version has run on this store.
type versionRecord struct {
	Installed time.Time `json:"installed"`
	BuildDate string    `json:"build_date,omitempty"`
}

// noteVersion records that this version has run here, once.
func (c *Core) noteVersion(ctx context.Context) error {
	snap, err := c.current()
	if err != nil || !snap.ready {
		return err
	}
	key := versionPrefix + c.cfg.Version
	if _, ok, err := c.get(private, key); err != nil || ok {
		return err
	}
	value, err := marshal(versionRecord{c.now().UTC(), c.cfg.BuildDate})
	if err != nil {
		return err
	}
	_, err = c.engine.Do(ctx, &engine.Tx{Writes: []engine.Write{private.put(key, value)}})
	return err
}

// versionHistory lists the versions that have run on this store, in the order in which they came.
func (c *Core) versionHistory(*request) (*reply, error) {
	type seen struct {
		version string
		versionRecord
	}
	var all []seen
	view := c.engine.Snapshot()
	defer view.Release()
	err := view.Scan(private.id, []byte(versionPrefix), prefixEnd(versionPrefix), func(rec storage.Record) bool {
		s := seen{version: strings.TrimPrefix(string(rec.Key), versionPrefix)}
		if err := json.Unmarshal(rec.Value, &s.versionRecord); err == nil {
			all = append(all, s)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, missing()
	}
	slices.SortFunc(all, func(a, b seen) int { return a.Installed.Compare(b.Installed) })
	keys, info := []string{}, map[string]any{}
	var before any
	for _, s := range all {
		keys = append(keys, s.version)
		info[s.version] = map[string]any{"previous_version": before, "timestamp_installed": stamp(s.Installed), "build_date": s.BuildDate}
		before = s.version
	}
	return &reply{data: map[string]any{"keys": keys, "key_info": info}}, nil
}

// NoteVersion records that this version has run here, where the store takes writes: before requests are served, and in each round of Run
// until it is done.
func (c *Core) NoteVersion(ctx context.Context) {
	if c.engine.Role() != engine.Writer || c.engine.Writable() != nil {
		return
	}
	if err := c.noteVersion(ctx); err != nil && ctx.Err() == nil {
		c.log.Warn("the version could not be recorded for sys/version-history; the next round tries again", "error", err)
	}
}
