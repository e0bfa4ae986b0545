package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// quickScrub lets a pass follow the other.
func quickScrub(c *Config) {
	c.Scrub = Scrub{Interval: 600 * time.Millisecond, BytesPerSecond: 64 << 20}
	c.Replication.CheckpointInterval = 50 * time.Millisecond
	c.Replication.HeartbeatInterval = 100 * time.Millisecond
}

// scrubbed is what sys/storage/scrub answers.
func (m *member) scrubbed() map[string]any {
	m.t.Helper()
	r := m.do
	code, text := r("GET", "sys/storage/scrub", "")
	var out struct {
		Data map[string]any `json:"data"`
	}
	if code != 200 || json.Unmarshal([]byte(text), &out) != nil {
		return nil
	}
	return out.Data
}

// rot overwrites a part of every sealed copy of a record in a store at work; it reports whether there was one. It can be repeated: a checkpoint
// under way may write one more copy.
func rot(t *testing.T, dataDir, key string) bool {
	t.Helper()
	const sealedPart = 85 // behind a key's end
	files, err := filepath.Glob(filepath.Join(dataDir, "gen-*", "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		found := false
		for at := 0; ; at++ {
			i := bytes.Index(b[at:], []byte(key))
			if i < 0 {
				break
			}
			at += i
			// The key of a leaf is the same: of a row the flags, "sealed", and an index follow the checksum.
			if row := b[at+len(key):]; len(row) < 128 || !bytes.Equal(row[4:9], []byte{2, 0, 0, 0, 0}) {
				continue
			}
			place := at + len(key) + sealedPart
			if _, err := f.WriteAt(make([]byte, 8), int64(place)); err != nil {
				t.Fatal(err)
			}
			found = true
		}
		if found {
			return true
		}
	}
	return false
}

func TestRotOnASecondaryAtWorkIsFoundNamedAndMended(t *testing.T) {
	t.Parallel()
	const cold = "cold-record-of-the-test"
	a := runMember(t)
	b := &member{}
	cfg := testConfig(t)
	quickScrub(cfg)
	cfg.built = func(c *core) {
		if err := c.vault.SetDROperationToken(operationToken); err != nil {
			t.Error(err)
		}
	}
	b.running = runServer(t, cfg)
	a.must(200, "PUT", "sys/replication/dr/primary/enable", map[string]any{})
	a.must(204, "POST", "sys/mounts/kv", map[string]any{"type": "kv"})
	for i := range 30 {
		a.must(204, "PUT", fmt.Sprintf("kv/k%d", i), map[string]any{"v": strings.Repeat("x", 100)})
	}
	a.must(204, "PUT", "kv/"+cold, map[string]any{"v": "value-that-is-secret"})
	b.must(200, "PUT", "sys/replication/dr/secondary/enable", map[string]any{"token": a.token("dr", "b")})
	b.follows(a)
	waitFor(t, "the scrub to find what rots", func() bool {
		if strings.Contains(b.log.String(), "the scrub found damage") {
			return true
		}
		rot(t, cfg.DataDir, cold)
		return false
	})
	line := b.log.String()
	line = line[strings.Index(line, "the scrub found damage"):]
	line, _, _ = strings.Cut(line, "\n")
	if !strings.Contains(line, "keyspace=") || !strings.Contains(line, "from=") || !strings.Contains(line, "repaired from the primary") || strings.Contains(line, "value-that-is-secret") {
		t.Errorf("got the line %s", line)
	}
	waitFor(t, "the repair", func() bool {
		report, err := json.Marshal(b.must(200, "POST", "sys/replication/dr/secondary/merkle-check", map[string]any{"dr_operation_token": operationToken}))
		return err == nil && strings.Contains(string(report), `"corrupted_root":false`)
	})
	b.follows(a)
}

func TestAPrimaryTellsWhatToDoAboutRotAndGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	const cold = "cold-record-of-the-test"
	cfg := testConfig(t)
	quickScrub(cfg)
	a := &member{runServer(t, cfg)}
	a.must(204, "POST", "sys/mounts/kv", map[string]any{"type": "kv"})
	for i := range 30 { // a bucket of a few bytes would be read once for each checkpoint, and kept
		a.must(204, "PUT", fmt.Sprintf("kv/k%d", i), map[string]any{"v": strings.Repeat("x", 100)})
	}
	a.must(204, "PUT", "kv/"+cold, map[string]any{"v": strings.Repeat("x", 100)})
	waitFor(t, "a first pass", func() bool { s := a.scrubbed(); return s != nil && s["last_records"] != 0.0 && s["last_ended"] != "" })
	if s := a.scrubbed(); s["found"] != 0.0 || s["enabled"] != true {
		t.Errorf("a sound store: %v", s)
	}
	waitFor(t, "the scrub to find what rots", func() bool {
		if s := a.scrubbed(); s != nil && len(s["places"].([]any)) > 0 {
			return true
		}
		rot(t, cfg.DataDir, cold)
		return false
	})
	place := a.scrubbed()["places"].([]any)[0].(map[string]any)
	if place["keyspace"] == "" || !strings.Contains(place["to_do"].(string), "docs/runbooks/restore.md") {
		t.Errorf("got %v", place)
	}
	if _, text := a.do("GET", "sys/metrics?format=prometheus", ""); !strings.Contains(text, "lockstep_scrub_found_total") {
		t.Error("sys/metrics does not tell of the scrub")
	}
	a.restart()
	if s := a.scrubbed(); s["last_ended"] == "" {
		t.Errorf("what the last pass found is forgotten by a restart: %v", s)
	}
}
