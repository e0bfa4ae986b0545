package replication

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/token"
	"github.com/lockstepdb/lockstep/wal"
)

// statusTypes are the JSON types of vault-api section 2: "string", "number", "bool", "array", "object". What clients decode strictly must not change.
var statusTypes = map[string]string{
	"mode": "string", "state": "string", "connection_state": "string", "cluster_id": "string", "secondary_id": "string", "primary_cluster_addr": "string",
	"known_primary_cluster_addrs": "array", "primaries": "array", "known_secondaries": "array", "secondaries": "array",
	"last_wal": "number", "last_dr_wal": "number", "last_performance_wal": "number", "last_remote_wal": "number", "ssct_generation_counter": "number",
	"merkle_root": "string", "synchronous": "string", "confirmed_index": "number", "write_lease_held": "bool", "synchronous_degraded_since": "string", "last_reindex_epoch": "string", "last_corruption_check_epoch": "string", "certificate_expires_in_seconds": "number", "ca_expires_in_seconds": "number", "ca_roll": "object", "since": "string", "waits_for": "array", "corrupted_merkle_tree": "bool", "last_start": "string",
	"merkle_sync_progress": "object", "sync_progress": "number", "sync_total_keys": "number",
	"reindex_in_progress": "bool", "reindex_stage": "string", "reindex_building_progress": "number", "reindex_building_total": "number",
	"node_id": "string", "api_address": "string", "cluster_address": "string", "connection_status": "string",
	"last_heartbeat": "string", "last_heartbeat_duration_ms": "string", "clock_skew_ms": "string", "replication_primary_canary_age_ms": "string",
	// ours
	"reason": "string", "consistent": "bool", "activated": "bool", "acked_index": "number", "lag_entries": "number", "lag_bytes": "number", "lag_ms": "number",
	"verified_index": "number", "verified_age_ms": "number", "retention_headroom_seconds": "number", "resumes": "object", "diff_bytes": "number",
	"sync_bytes": "number", "last_diff_reason": "string", "merkle_root_index": "number", "verified_merkle_root": "string", "filtered_mounts": "array", "filling_mounts": "array", "refused_activations": "array", "count": "number", "last": "string",
	"continue": "number", "repair": "number", "rewind": "number", "bootstrap": "number",
}

// decoded is a status as a client sees it, its types checked.
func decoded(t *testing.T, status map[string]any) map[string]any {
	t.Helper()
	b, err := json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	checkTypes(t, out)
	return out
}

func checkTypes(t *testing.T, m map[string]any) {
	t.Helper()
	for key, v := range m {
		got := ""
		switch v := v.(type) {
		case string:
			got = "string"
			if v == "" && key != "primary_cluster_addr" && key != "api_address" && key != "cluster_address" {
				t.Errorf("%s is empty: it is to be left out", key)
			}
		case float64:
			got = "number"
			if v < 0 {
				t.Errorf("%s is negative: typed clients fail on it", key)
			}
		case bool:
			got = "bool"
		case []any:
			got = "array"
			for _, e := range v {
				if m, ok := e.(map[string]any); ok {
					checkTypes(t, m)
				}
			}
		case map[string]any:
			got = "object"
			checkTypes(t, v)
		}
		if got != statusTypes[key] {
			t.Errorf("%s: got %s (%v), want %s", key, got, v, statusTypes[key])
		}
	}
	for _, key := range []string{"last_heartbeat", "last_start"} {
		if v, ok := m[key].(string); ok {
			if _, err := time.Parse(time.RFC3339, v); err != nil {
				t.Errorf("%s: %v", key, err)
			}
		}
	}
}

func want(t *testing.T, status map[string]any, fields map[string]any) {
	t.Helper()
	for key, v := range fields {
		if got, ok := status[key]; !ok || !reflect.DeepEqual(got, v) {
			t.Errorf("%s: got %v, want %v", key, got, v)
		}
	}
}

func TestStatusOfADisabledSetIsItsModeAlone(t *testing.T) {
	s := newStation(t)
	for _, k := range kinds {
		if got := s.Status(k); !reflect.DeepEqual(got, map[string]any{"mode": "disabled"}) {
			t.Errorf("%s: got %v", k, got)
		}
	}
}

func TestStatusOfAPrimary(t *testing.T) {
	s := newStation(t)
	for _, k := range kinds {
		s.mustEnable(k)
		got := decoded(t, s.Status(k))
		want(t, got, map[string]any{
			"mode": "primary", "state": "running", "cluster_id": s.set(k).Set, "known_secondaries": []any{}, "secondaries": []any{},
			"primary_cluster_addr": "", "last_reindex_epoch": "0", "corrupted_merkle_tree": false, "last_corruption_check_epoch": "-62135596800",
			"ssct_generation_counter": 0.0, "last_" + string(k) + "_wal": float64(s.e.Position().Index), "last_wal": float64(s.e.Position().Index),
		})
		if root, _ := got["merkle_root"].(string); len(root) != 40 {
			t.Errorf("%s: merkle_root: got %q, want 40 letters", k, root)
		}
		s.mustToken(k, "never-connected")
		got = decoded(t, s.Status(k))
		want(t, got, map[string]any{"known_secondaries": []any{"never-connected"}})
		secondary := got["secondaries"].([]any)[0].(map[string]any)
		want(t, secondary, map[string]any{"node_id": "never-connected", "connection_status": "disconnected", "activated": false})
		if _, ok := secondary["last_heartbeat"]; ok {
			t.Errorf("%s: a heartbeat that never was: %v", k, secondary)
		}
	}
}

func TestStatusTellsOfEachSecondary(t *testing.T) {
	s := newStation(t)
	s.mustEnable(DR)
	s.mustToken(DR, "eu")
	at := enginetest.MustPut(t, s.e, storage.KeyspaceID{9}, storage.Replicated, "k", "v").Position
	enginetest.MustPut(t, s.e, storage.KeyspaceID{9}, storage.Replicated, "k", "w")
	s.peers.update(DR, "eu", func(p *peerState) {
		p.Streams, p.State, p.LastHeartbeat, p.RoundTrip, p.ClockSkew = 1, "stream-wals", s.now(), 3*time.Millisecond, -time.Millisecond
		p.APIAddr, p.ClusterAddr, p.Acked, p.CanaryAge, p.RootIndex = "https://10.2.0.7:8200", "10.2.0.7:8201", at, 410*time.Millisecond, at.Index
		p.Root[0] = 0xab
		p.Resumes.count(Bootstrap)
		p.Resumes.count(Continue)
		p.Resumes.count(Continue)
		p.DiffBytes, p.SyncBytes = 7, 8
	})
	got := decoded(t, s.Status(DR))["secondaries"].([]any)[0].(map[string]any)
	want(t, got, map[string]any{
		"node_id": "eu", "connection_status": "connected", "state": "stream-wals", "api_address": "https://10.2.0.7:8200",
		"cluster_address": "https://10.2.0.7:8201", "last_heartbeat_duration_ms": "3", "clock_skew_ms": "-1", "replication_primary_canary_age_ms": "410",
		"acked_index": float64(at.Index), "lag_entries": 1.0, "lag_ms": 410.0, "verified_merkle_root": "ab" + strings.Repeat("0", 38),
		"merkle_root_index": float64(at.Index), "diff_bytes": 7.0, "sync_bytes": 8.0,
		"resumes": map[string]any{"continue": 2.0, "repair": 0.0, "rewind": 0.0, "bootstrap": 1.0},
	})
	s.clock.advance(time.Minute)
	got = decoded(t, s.Status(DR))["secondaries"].([]any)[0].(map[string]any)
	want(t, got, map[string]any{"connection_status": "disconnected"})
}

func TestRootsCoverWhatTheSetDoes(t *testing.T) {
	s := newStation(t)
	s.mustEnable(DR)
	s.mustEnable(Performance)
	roots := func() (dr, performance string) {
		return s.Status(DR)["merkle_root"].(string), s.Status(Performance)["merkle_root"].(string)
	}
	dr1, perf1 := roots()
	enginetest.MustPut(t, s.e, storage.KeyspaceID{8}, storage.Local, "k", "v")
	dr2, perf2 := roots()
	enginetest.MustPut(t, s.e, storage.KeyspaceID{9}, storage.Replicated, "k", "v")
	dr3, perf3 := roots()
	if dr1 == dr2 || perf1 != perf2 {
		t.Error("a local record is in the root of the performance set, or not in that of the DR set")
	}
	if dr2 == dr3 || perf2 == perf3 {
		t.Error("a replicated record is not in both roots")
	}
}

func TestStatusOfASecondary(t *testing.T) {
	for _, k := range kinds {
		p, s := pair(t, k)
		got := decoded(t, s.Status(k))
		want(t, got, map[string]any{
			"mode": "bootstrapping", "cluster_id": p.set(k).Set, "secondary_id": "eu", "primary_cluster_addr": "https://" + p.cfg.ClusterAddr,
			"known_primary_cluster_addrs": []any{"https://" + p.cfg.ClusterAddr}, "primaries": []any{}, "connection_state": "idle",
		})
		if k == DR && s.Mode(Performance) != Disabled {
			t.Error("a DR secondary has a performance mode")
		}
		if err := s.joined(k); err != nil {
			t.Fatal(err)
		}
		s.link[k].update(func(l *linkState) {
			l.Machine, l.Connection, l.Started = State{Name: StateMerkleSync, Syncing: true}, "ready", s.now()
			l.Primary = primaryPeer{APIAddr: "https://10.1.0.5:8200", ClusterAddr: "https://10.1.0.5:8201", LastHeartbeat: s.now(), RoundTrip: 21 * time.Millisecond}
			l.RemoteEnd, l.SyncDone, l.SyncTotal = wal.Position{Index: s.e.Position().Index + 100}, 5, 10
			l.Verified, l.VerifiedAt, l.DiffReason = 7, s.now(), "the secondary is empty"
		})
		got = decoded(t, s.Status(k))
		want(t, got, map[string]any{
			"mode": "secondary", "state": "merkle-sync", "connection_state": "ready", "consistent": false, "verified_index": 7.0,
			"merkle_sync_progress": map[string]any{"sync_progress": 5.0, "sync_total_keys": 10.0}, "last_diff_reason": "the secondary is empty",
		})
		want(t, got["primaries"].([]any)[0].(map[string]any), map[string]any{
			"connection_status": "connected", "last_heartbeat_duration_ms": "21", "clock_skew_ms": "0", "api_address": "https://10.1.0.5:8200",
		})
		s.link[k].update(func(l *linkState) {
			l.Connection, l.Primary.LastHeartbeat = "transient_failure", s.now().Add(-time.Hour)
		})
		if lag := decoded(t, s.Status(k))["lag_ms"].(float64); lag < 3_600_000 {
			t.Errorf("%s: lag an hour after the last heartbeat: got %v ms, want all of it", k, lag)
		}
		s.reload()
		if s.Mode(k) != Secondary {
			t.Errorf("%s: mode after a restart: got %s, want %s", k, s.Mode(k), Secondary)
		}
		_, err := s.SecondaryToken(enginetest.Context(t), k, "x", 0)
		wantRefused(t, err, "call the primary")
		_, err = s.EnablePrimary(enginetest.Context(t), k, "")
		wantRefused(t, err, "promote it")
		if _, err = s.EnablePrimary(enginetest.Context(t), DR, ""); k == DR {
			wantRefused(t, err, "promote it")
		}
	}
}

func TestADRSecondaryTakesNoOtherPart(t *testing.T) {
	_, s := pair(t, DR)
	_, err := s.EnablePrimary(enginetest.Context(t), Performance, "")
	wantRefused(t, err, "DR secondary")
}

func TestReindexShowsItsProgressAndEnd(t *testing.T) {
	s := newStation(t)
	s.mustEnable(DR)
	ctx := enginetest.Context(t)
	if warning, err := s.Reindex(ctx, ReindexOptions{}); err != nil || warning == "" {
		t.Fatalf("got %q, %v", warning, err)
	}
	got := decoded(t, s.Status(DR))
	want(t, got, map[string]any{"reindex_in_progress": true, "reindex_stage": "building"})
	if warning, err := s.Reindex(ctx, ReindexOptions{}); err != nil || !strings.Contains(warning, "already") {
		t.Errorf("repeated: got %q, %v", warning, err)
	}
	s.run()
	eventually(t, "the reindex ends", func() bool { _, on := s.Status(DR)["reindex_in_progress"]; return !on })
	if got := s.Status(DR)["last_reindex_epoch"]; got == "0" {
		t.Error("last_reindex_epoch is still 0")
	}
	before := s.Status(DR)["last_reindex_epoch"]
	s.stop()
	s.reload()
	if got := s.Status(DR)["last_reindex_epoch"]; got != before {
		t.Errorf("after a restart: got %v, want %v", got, before)
	}
}

func TestMerkleCheckReportsAndRemembers(t *testing.T) {
	s := newStation(t)
	s.mustEnable(DR)
	s.mustToken(DR, "eu")
	report, err := s.MerkleCheck(enginetest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Totals) == 0 || len(report.Report.Damage) != 0 {
		t.Errorf("got %+v", report)
	}
	s.reload()
	got := decoded(t, s.Status(DR))
	if got["last_corruption_check_epoch"] == neverEpoch || got["corrupted_merkle_tree"] != false {
		t.Errorf("got %v, %v", got["last_corruption_check_epoch"], got["corrupted_merkle_tree"])
	}
}

func TestRecoverOnAPrimaryIsHarmless(t *testing.T) {
	s := newStation(t)
	s.mustEnable(DR)
	if warning, err := s.Recover(enginetest.Context(t)); err != nil || warning == "" {
		t.Errorf("got %q, %v", warning, err)
	}
}

func TestHoldsFollowWhatSecondariesAcknowledged(t *testing.T) {
	s := newStation(t)
	s.mustEnable(DR)
	enginetest.MustPut(t, s.e, storage.KeyspaceID{9}, storage.Replicated, "k", "v")
	s.mustToken(DR, "eu")
	ctx := enginetest.Context(t)
	acked := func() uint64 {
		rec, err := s.readSecondary(DR, "eu")
		if err != nil {
			t.Fatal(err)
		}
		return s.acked(DR, rec)
	}
	issued := acked()
	if issued == 0 {
		t.Error("a secondary that never connected holds nothing")
	}
	s.peers.update(DR, "eu", func(p *peerState) { p.Acked.Index = issued + 5 })
	before := s.e.Position()
	if err := s.hold(ctx, DR); err != nil {
		t.Fatal(err)
	}
	if s.e.Position() != before {
		t.Error("a small step of an acknowledged position was written: that is acknowledged, too, and never ends")
	}
	s.peers.update(DR, "eu", func(p *peerState) { p.Acked.Index = issued + ackedEvery })
	for range 3 {
		if err := s.hold(ctx, DR); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.e.Position().Index - before.Index; got != 1 {
		t.Errorf("got %d entries for a large step, want 1", got)
	}
	s.reload()
	if got := acked(); got != issued+ackedEvery {
		t.Errorf("after a restart: got %d, want %d", got, issued+ackedEvery)
	}
}

func TestTheLogIsHeldForKnownSecondariesBeforeTheFirstCheckpointAfterARestart(t *testing.T) {
	s := newStation(t)
	s.mustEnable(DR)
	s.mustToken(DR, "eu")
	rec, err := s.readSecondary(DR, "eu")
	if err != nil {
		t.Fatal(err)
	}
	enginetest.MustPut(t, s.e, storage.KeyspaceID{9}, storage.Replicated, "k", "v")
	dir := enginetest.Dir(t, s.e)
	enginetest.Stop(t, s.e)
	cfg := engine.Config{Dir: dir, MinFree: -1}
	if s.e, _, err = engine.Open(cfg); err != nil {
		t.Fatal(err)
	}
	s.cfg.Engine = s.e
	s.reload()
	enginetest.Run(t, s.e, cfg)
	first := func() uint64 {
		enginetest.MustPut(t, s.e, storage.KeyspaceID{9}, storage.Replicated, "k", "w")
		if err := s.e.Checkpoint(enginetest.Context(t)); err != nil {
			t.Fatal(err)
		}
		return s.e.Stats().LogFirst
	}
	if got := first(); got > rec.IssuedAt+1 {
		t.Errorf("the log begins at %d: a known secondary needs it from %d", got, rec.IssuedAt+1)
	}
	if err := s.RevokeSecondary(enginetest.Context(t), DR, "eu"); err != nil {
		t.Fatal(err)
	}
	if got := first(); got <= rec.IssuedAt+1 {
		t.Errorf("the log begins at %d though nobody needs it from there any more", got)
	}
}

func TestAnswersWaitForConnectedDRSecondaries(t *testing.T) {
	s := newStation(t)
	s.mustEnable(DR)
	s.mustToken(DR, "eu")
	s.peers.update(DR, "eu", func(p *peerState) { p.Streams = 1 })
	ctx, cancel := context.WithCancel(enginetest.Context(t))
	index := s.e.Position().Index
	waited := make(chan struct{})
	go func() { defer close(waited); s.awaitDR(ctx, index, "test") }()
	select {
	case <-waited:
		t.Error("it did not wait")
	default:
	}
	s.peers.update(DR, "eu", func(p *peerState) { p.Acked.Index = index })
	<-waited
	const warning = "before every DR secondary has it"
	if strings.Contains(s.logged.String(), warning) {
		t.Error("an acknowledgement did not end the wait")
	}
	cancel()
	s.awaitDR(ctx, index+1, "test") // the caller has gone: returns at once, with a warning
	if !strings.Contains(s.logged.String(), warning) {
		t.Error("no warning")
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"a:1": "a:1", "https://a:1": "a:1", "http://a:1/": "a:1", "[::1]:8201": "[::1]:8201",
		"": "", "a": "", ":1": "", "a:": "", "ftp://a:1": "", "https://a:1/x": "", "https://a": "",
	} {
		if got, ok := hostPort(in); got != want || ok != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", in, got, ok, want)
		}
	}
	if got := cleanAddrs([]string{"a:1", "a:1", "bad", "b:2", strings.Repeat("x", 600) + ":1"}); !reflect.DeepEqual(got, []string{"a:1", "b:2"}) {
		t.Errorf("got %v", got)
	}
}

func FuzzParseRequest(f *testing.F) {
	_, request := mustRequest(f)
	f.Add([]byte(request))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseRequest(b); err == nil && (r.PublicKey == nil || len(b) > maxPEM) {
			t.Errorf("accepted %q", b)
		}
	})
}

func FuzzParseCertificates(f *testing.F) {
	ca, err := newAuthority(DR, "set", time.Now(), caLife)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(encodeCertificate(ca.cert.Raw)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if certs, err := parseCertificates(b); (err == nil) != (len(certs) > 0) {
			t.Errorf("%q: %d certificates, %v", b, len(certs), err)
		}
	})
}

func FuzzProtocolAndMemberNames(f *testing.F) {
	f.Add(protocolName(DR, purposeStream), "repl", "set", "/dr/eu")
	f.Fuzz(func(t *testing.T, protocol, scheme, host, path string) {
		if k, purpose, ok := parseProtocol(protocol); ok && protocolName(k, purpose) != protocol {
			t.Errorf("%q is read as %s %s", protocol, k, purpose)
		}
		u := memberURI("", DR, "")
		u.Scheme, u.Host, u.Path = scheme, host, path
		set, k, id, err := parseMember(u)
		if err == nil && (set != host || !k.valid() || (id != "" && !validID(id)) || "/"+string(k)+"/"+id != path && string(k)+"/"+id != path) {
			t.Errorf("%q is read as %q %q %q", u, set, k, id)
		}
	})
}

func FuzzWelcome(f *testing.F) {
	f.Add([]byte(`{"cluster_id":"x","history":[{"ordinal":1}],"digest_secret":"` + hex.EncodeToString(make([]byte, 32)) + `"}`))
	key, _ := mustRequest(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		var w welcome
		if json.Unmarshal(b, &w) != nil {
			return
		}
		if w.check(DR, token.Claims{}, []byte(key), time.Now()) == nil {
			t.Errorf("accepted %q", b)
		}
	})
}

// TestAConnectionIsReadyOnceThePrimaryHasAnswered: a secondary that was given another primary shows what it will go on with, and must not seem to do it already.
func TestAConnectionIsReadyOnceThePrimaryHasAnswered(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		channel string
		machine StateName
		want    string
	}{
		{"ready", StateConnecting, "connecting"}, {"ready", StateBootstrapping, "connecting"}, {"ready", StateStreamWALs, "ready"}, {"ready", StateMerkleSync, "ready"},
		{"transient_failure", StateConnecting, "transient_failure"}, {"idle", StateIdle, "idle"},
	} {
		l := linkState{Connection: tt.channel, Machine: State{Name: tt.machine}}
		if got := l.shownConnection(); got != tt.want {
			t.Errorf("the channel is %s and the machine %s: shown as %s, want %s", tt.channel, tt.machine, got, tt.want)
		}
	}
}
