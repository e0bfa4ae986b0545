// Package divergence writes rot into the files of a stopped secondary and
// demands that it is found, named and repaired, and never served.
package divergence

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

var records = flag.Int("records", 20_000, "records of TestDivergence")

const (
	valueBytes = 200
	wireLimit  = 100 << 10 // bytes that a repair may cost
)

// rot is one kind of damage: it says where the byte lies that is changed.
type rot struct {
	name  string
	place func(t *testing.T, n *cluster.Node, record int) (file string, at int64)
}

var rots = []rot{
	{name: "a record's value in the state file", place: valueByte},
	{name: "an entry in a log segment", place: entryByte},
	{name: "an index leaf", place: leafByte},
}

// TestDivergence changes one byte in a stopped secondary's files, of each kind
// on each kind of secondary. `lockstep check` finds it; then, on the running
// secondary, merkle-check finds it (performance) or the stream does at the
// next batch that touches the leaf (DR). It is named by keyspace and key and
// repaired with little traffic.
func TestDivergence(t *testing.T) {
	// Few heartbeats, for the wire is counted; checkpoints at once, for rot is looked for in files.
	tr := cluster.NewTrio(t, cluster.Options{Replication: []string{`checkpoint_interval = "500ms"`, `heartbeat_interval = "2s"`}})
	began := time.Now()
	cluster.Fill(t, tr.Primary, "kv/r", *records, valueBytes)
	t.Logf("%d records written in %s", *records, time.Since(began).Round(time.Millisecond))
	cluster.WaitConverged(t, 5*time.Minute, tr.Primary, tr.DR, cluster.DR)
	cluster.WaitConverged(t, 5*time.Minute, tr.Primary, tr.Performance, cluster.Performance)

	for i, r := range rots {
		for j, kind := range []cluster.Kind{cluster.DR, cluster.Performance} {
			// A record of its own for each case, well apart from the others' leaves.
			record := *records / 7 * (1 + i*2 + j)
			t.Run(fmt.Sprintf("%s of a %s secondary", r.name, kind), func(t *testing.T) { r.run(t, tr, kind, record) })
		}
	}
}

func (r rot) run(t *testing.T, tr *cluster.Trio, kind cluster.Kind, record int) {
	victim := tr.Secondary(kind)
	// The newest entry is this one: it lies in the log that is kept.
	value := cluster.Value(record, 1, valueBytes)
	if err := tr.Primary.Put(context.Background(), cluster.Key("kv/r", record), value); err != nil {
		t.Fatal(err)
	}
	tr.WaitConverged()
	victim.Stop() // a last checkpoint: the files hold all
	file, at := r.place(t, victim, record)
	cluster.FlipByte(t, file, at, 0x40)

	report, err := victim.Check()
	if err == nil {
		t.Fatalf("lockstep check finds nothing:\n%s", report)
	}
	t.Logf("lockstep check: %.600s", report)
	if !strings.Contains(report, filepath.Base(file)) {
		t.Errorf("the report does not name the file %s", filepath.Base(file))
	}
	demandNamed(t, "the report of lockstep check", report, record)

	from := len(victim.Log())
	victim.Start()
	if kind == cluster.Performance {
		answer := victim.MustDo("POST", "sys/replication/merkle-check", `{}`, 200)
		t.Logf("merkle-check: %.600s", answer.Body)
	}
	// The next batch touches the leaf: the record beside the damaged one.
	neighbour := cluster.Key("kv/r", record+1)
	if err := tr.Primary.Put(context.Background(), neighbour, cluster.Value(record+1, 2, valueBytes)); err != nil {
		t.Fatal(err)
	}
	tr.WaitConverged()
	cluster.Eventually(t, 20*time.Second, "the damage is named in the secondary's log", func() (bool, string) {
		return names(victim.Log()[from:], record), victim.LogTail(8)
	})
	tr.WaitConverged()
	s := victim.MustStatus(kind)
	sent := 0.0
	for _, field := range []string{"diff_bytes", "sync_bytes"} {
		n, known := s.Number(field)
		if !known {
			t.Errorf("the status has no field %s", field)
		}
		sent += n
	}
	if sent > wireLimit {
		t.Errorf("the repair cost %.0f bytes, want less than %d", sent, wireLimit)
	}
	t.Logf("repaired with %.0f bytes on the wire", sent)
	victim.Stop()
	victim.MustCheck()
	list := writeList(t, map[string]string{
		cluster.Key("kv/r", record):   value,
		neighbour:                     cluster.Value(record+1, 2, valueBytes),
		cluster.Key("kv/r", record+2): cluster.Value(record+2, 0, valueBytes),
	})
	victim.MustCheck("-against=" + list)
	victim.Start()
	tr.WaitConverged()
	if kind == cluster.Performance {
		if got, found, err := victim.Get(context.Background(), cluster.Key("kv/r", record)); err != nil || !found || got != value {
			t.Errorf("the repaired record: %.40q, %t, %v; want %.40q", got, found, err, value)
		}
	}
}

// nearby is how far from a record the lowest key of its leaf may lie.
const nearby = 2000

// names reports whether a text names a keyspace by its id and the record, or
// the lowest key of the leaf that it is in.
func names(text string, record int) bool {
	if !keyspaceID.MatchString(text) {
		return false
	}
	for i := record; i >= max(0, record-nearby); i-- {
		if strings.Contains(text, fmt.Sprintf("r/%09d", i)) {
			return true
		}
	}
	return false
}

var keyspaceID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

func demandNamed(t *testing.T, what, text string, record int) {
	t.Helper()
	if !names(text, record) {
		t.Errorf("%s does not name keyspace and key of record %d", what, record)
	}
}

func valueByte(t *testing.T, n *cluster.Node, record int) (string, int64) {
	file := filepath.Join(n.Store(), "state.db")
	at, found := cluster.Offset(t, file, func(buckets []string, key, value []byte) int {
		if string(key) != fmt.Sprintf("r/%09d", record) {
			return -1
		}
		return len(value) - 50 // values are sealed, and far longer
	})
	if !found {
		t.Fatalf("%s does not hold record %d", file, record)
	}
	return file, at
}

// entryOf returns the index of the entry that wrote a record last: it stands in the record's row, behind checksum and flags.
func entryOf(t *testing.T, n *cluster.Node, record int) (index []byte) {
	cluster.Offset(t, filepath.Join(n.Store(), "state.db"), func(buckets []string, key, value []byte) int {
		if string(key) == fmt.Sprintf("r/%09d", record) {
			index = bytes.Clone(value[5:13])
		}
		return -1
	})
	return index
}

func entryByte(t *testing.T, n *cluster.Node, record int) (string, int64) {
	entry := append(entryOf(t, n, record), 1)
	for _, file := range n.Segments() {
		at, found := cluster.Offset(t, file, func(_ []string, key, value []byte) int {
			if !bytes.Equal(key, entry) {
				return -1
			}
			return len(value) - 50
		})
		if found {
			return file, at
		}
	}
	t.Fatalf("no segment holds the entry of record %d", record)
	return "", 0
}

// leafByte finds the leaf that a record is in: the one with the greatest low key not beyond it.
func leafByte(t *testing.T, n *cluster.Node, record int) (string, int64) {
	file := filepath.Join(n.Store(), "state.db")
	key := fmt.Sprintf("r/%09d", record)
	home := "" // the bucket of records that holds it: "r" + id; its leaves are in "l" + id
	cluster.Offset(t, file, func(buckets []string, k, _ []byte) int {
		if string(k) == key {
			home = strings.Join(buckets, "\x00")
		}
		return -1
	})
	leaves := "l" + strings.TrimPrefix(home, "r")
	low := []byte(nil)
	cluster.Offset(t, file, func(buckets []string, k, _ []byte) int {
		if strings.Join(buckets, "\x00") == leaves && len(k) > 0 && string(k[1:]) <= key {
			low = bytes.Clone(k)
		}
		return -1
	})
	at, found := cluster.Offset(t, file, func(buckets []string, k, _ []byte) int {
		if low != nil && strings.Join(buckets, "\x00") == leaves && bytes.Equal(k, low) {
			return 12 // in the sum: behind level and count
		}
		return -1
	})
	if !found {
		t.Fatalf("%s has no leaf for record %d (records in bucket %q)", file, record, home)
	}
	return file, at
}

// writeList writes records in the form that `lockstep check -against` reads.
func writeList(t *testing.T, want map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	for path, value := range want {
		line, err := json.Marshal(map[string]any{"path": path, "value": map[string]string{"value": value}})
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(line, '\n'))
	}
	file := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
