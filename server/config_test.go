package server_test

import (
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/server"
)

const minimal = `
storage "bbolt" { path = "/var/lib/lockstep" }
listener "tcp" { tls_disable = true }
`

func TestConfigTakesEverySetting(t *testing.T) {
	got, err := server.ParseConfig("full.hcl", []byte(`
api_addr         = "https://node.example:8200"
cluster_addr     = "https://node.example:8301"
cluster_name     = "eu"
log_level        = "debug"
log_format       = "json"
shutdown_timeout = "45s"
min_free         = "1GiB"
trash_keep       = 3600
storage "bbolt" {
  path = "/data"
}
listener "tcp" {
  address          = "0.0.0.0:8200"
  cluster_address  = "0.0.0.0:8301"
  tls_cert_file    = "/etc/cert.pem"
  tls_key_file     = "/etc/key.pem"
  tls_min_version  = "tls13"
  max_request_size = 1048576
}
replication {
  retain_bytes        = "8KiB"
  retain_age          = "100ms"
  checkpoint_bytes    = 65536
  checkpoint_interval = "50ms"
  segment_bytes       = "16KiB"
  segment_entries     = 1
  heartbeat_interval  = "200ms"
  certificate_ttl     = "12h"
  best_effort_wal_wait_duration = "3s"
  allow_forwarding_via_header   = true
}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &server.Config{
		File: "full.hcl", DataDir: "/data",
		Listener: server.Listener{Address: "0.0.0.0:8200", ClusterAddress: "0.0.0.0:8301", TLSCertFile: "/etc/cert.pem",
			TLSKeyFile: "/etc/key.pem", TLSMinVersion: tls.VersionTLS13, MaxRequestSize: 1 << 20,
			ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxConnections: 8192},
		APIAddr: "https://node.example:8200", ClusterAddr: "https://node.example:8301", ClusterName: "eu",
		LogLevel: "debug", LogFormat: "json", ShutdownTimeout: 45 * time.Second, MinFree: 1 << 30, TrashKeep: time.Hour,
		Replication: server.Replication{RetainBytes: 8 << 10, RetainAge: 100 * time.Millisecond, CheckpointBytes: 64 << 10,
			CheckpointInterval: 50 * time.Millisecond, SegmentBytes: 16 << 10, SegmentEntries: 1, HeartbeatInterval: 200 * time.Millisecond, CertificateTTL: 12 * time.Hour,
			WALWait: 3 * time.Second, ForwardByHeader: true},
	}
	if got.Reload != nil || got.Ready != nil || got.Logger != nil || got.Dev != nil {
		t.Error("a file sets what only the program may set")
	}
	got.Ready = nil
	if *toComparable(got) != *toComparable(want) {
		t.Errorf("got  %+v\nwant %+v", *got, *want)
	}
}

// comparable are the settings that a file can hold.
type comparableConfig struct {
	file, dir, api, cluster, name, level, format string
	listener                                     server.Listener
	shutdown, trash                              time.Duration
	free                                         int64
	replication                                  server.Replication
}

func toComparable(c *server.Config) *comparableConfig {
	return &comparableConfig{c.File, c.DataDir, c.APIAddr, c.ClusterAddr, c.ClusterName, c.LogLevel, c.LogFormat,
		c.Listener, c.ShutdownTimeout, c.TrashKeep, c.MinFree, c.Replication}
}

func TestConfigHasDefaults(t *testing.T) {
	got, err := server.ParseConfig("a.hcl", []byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	if got.Listener.Address != "127.0.0.1:8200" || got.ShutdownTimeout != 30*time.Second || got.MinFree != 512<<20 ||
		got.TrashKeep != 24*time.Hour || got.LogLevel != "info" || got.LogFormat != "standard" || got.Listener.TLSMinVersion != tls.VersionTLS12 {
		t.Errorf("got %+v", *got)
	}
}

func TestConfigTakesVaultsWaysOfWriting(t *testing.T) {
	for _, disabled := range []string{`true`, `1`, `"true"`, `"1"`} {
		text := `storage "bbolt" { path = "/d" }` + "\n" + `listener "tcp" { tls_disable = ` + disabled + ` }`
		got, err := server.ParseConfig("a.hcl", []byte(text))
		if err != nil || !got.Listener.TLSDisable {
			t.Errorf("tls_disable = %s: got %v, %v", disabled, got, err)
		}
	}
	got, err := server.ParseConfig("a.json", []byte(`{"storage":{"bbolt":{"path":"/d"}},"listener":{"tcp":{"tls_disable":1}},"shutdown_timeout":"90"}`))
	if err != nil || got.DataDir != "/d" || got.ShutdownTimeout != 90*time.Second {
		t.Errorf("JSON: got %+v, %v", got, err)
	}
}

func TestConfigNamesEveryMistakeWithItsLine(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string // beginnings, one a mistake, in order
	}{
		{"no syntax", "storage {", []string{`c.hcl:1: `}},
		{"nothing", "", []string{`c.hcl: no storage`, `c.hcl: no listener`}},
		{"unknown key", minimal + `log_levle = "info"`, []string{`c.hcl:4: Unsupported argument: An argument named "log_levle" is not expected here. Did you mean "log_level"?`}},
		{"unknown key in a block", "storage \"bbolt\" {\n path = \"/d\"\n cache = 1\n}\nlistener \"tcp\" { tls_disable = 1 }", []string{`c.hcl:3: Unsupported argument`}},
		{"unknown block", minimal + "audit \"file\" {\n}", []string{`c.hcl:4: Unsupported block type`}},
		{"Vault's own", minimal + "ui = true\ntelemetry {\n}", []string{
			`c.hcl:4: Unknown setting: "ui" is a setting of Vault that Lockstep does not have; remove it.`,
			`c.hcl:5: Unknown setting: "telemetry" is a setting of Vault`}},
		{"another storage", "storage \"raft\" {\n path = \"/d\"\n}\nlistener \"tcp\" { tls_disable = 1 }", []string{`c.hcl:1: storage "raft": only "bbolt" exists`}},
		{"no path", "storage \"bbolt\" {\n}\nlistener \"tcp\" { tls_disable = 1 }", []string{`c.hcl:1: storage has no path`}},
		{"an empty path", "storage \"bbolt\" {\n path = \"\"\n}\nlistener \"tcp\" { tls_disable = 1 }", []string{`c.hcl:2: path: must not be empty`}},
		{"two listeners", minimal + `listener "tcp" { tls_disable = 1 }`, []string{`c.hcl:4: a second listener: the first is on line 3`}},
		{"no certificate", "storage \"bbolt\" { path = \"/d\" }\nlistener \"tcp\" {\n}", []string{`c.hcl:2: listener has no certificate`}},
		{"half a certificate", "storage \"bbolt\" { path = \"/d\" }\nlistener \"tcp\" {\n tls_key_file = \"/k\"\n}", []string{`c.hcl:3: tls_key_file without tls_cert_file`}},
		{"everything at once", `
api_addr = "node.example"
log_level = "loud"
shutdown_timeout = "soon"
min_free = "much"
storage "bbolt" { path = 7 }
listener "tcp" {
  address = "8200"
  tls_disable = "maybe"
}
replication {
  segment_bytes = 1
  segment_entries = 0
  retain_age = -1
}`, []string{
			`c.hcl:2: api_addr: want an address with its scheme`,
			`c.hcl:3: log_level: want one of`,
			`c.hcl:4: shutdown_timeout: want a time`,
			`c.hcl:5: min_free: want a size`,
			`c.hcl:6: path: want a text in quotes`,
			`c.hcl:7: listener has no certificate`,
			`c.hcl:8: address "8200": want host:port`,
			`c.hcl:9: tls_disable: want true or false`,
			`c.hcl:12: segment_bytes: 1 is too little: at least 4096`,
			`c.hcl:13: segment_entries: want a whole number`,
			`c.hcl:14: retain_age: want a time`,
		}},
		{"listens everywhere", "storage \"bbolt\" { path = \"/d\" }\nlistener \"tcp\" {\n tls_disable = 1\n address = \":8200\"\n}", []string{`c.hcl:4: address :8200 names no host`}},
		{"a variable", minimal + "cluster_name = nobody", []string{`c.hcl:4: Variables not allowed`}},
		{"a huge number", minimal + "min_free = 1e300", []string{`c.hcl:4: min_free: want a size`}},
		{"a size beyond the type", minimal + "min_free = \"9999999999GiB\"", []string{`c.hcl:4: min_free: want a size`}},
		{"api_addr with more", minimal + "api_addr = \"https://u:p@h/x\"", []string{`c.hcl:4: api_addr: want scheme, host and port only`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := server.ParseConfig("c.hcl", []byte(c.text))
			var got server.Mistakes
			if !errors.As(err, &got) {
				t.Fatalf("got %v, want Mistakes", err)
			}
			if len(got) != len(c.want) {
				t.Fatalf("got %d mistakes, want %d:\n%v", len(got), len(c.want), err)
			}
			for i := range got {
				if !strings.HasPrefix(got[i].String(), c.want[i]) {
					t.Errorf("got  %s\nwant %s…", got[i], c.want[i])
				}
			}
		})
	}
}

func TestConfigFileIsNotReadWithoutLimit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "big.hcl")
	if err := os.WriteFile(file, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := server.ReadConfig(file); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v", err)
	}
	if _, err := server.ReadConfig(filepath.Join(t.TempDir(), "none.hcl")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want os.ErrNotExist", err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(`{"storage":{"bbolt":{"path":"/d"}}}`))
	f.Add([]byte(`listener "tcp" { address = "[::1]:0" }`))
	f.Add([]byte(`min_free = "1 KiB"` + "\n" + `trash_keep = 1e9`))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, name := range []string{"f.hcl", "f.json"} {
			cfg, err := server.ParseConfig(name, text)
			var mistakes server.Mistakes
			switch {
			case err == nil && (cfg.DataDir == "" || cfg.MinFree < 0 || cfg.ShutdownTimeout < 0 || cfg.Listener.MaxRequestSize < 0):
				t.Errorf("accepted: %+v", *cfg)
			case err != nil && (!errors.As(err, &mistakes) || len(mistakes) == 0):
				t.Errorf("got %v, want Mistakes", err)
			}
		}
	})
}
