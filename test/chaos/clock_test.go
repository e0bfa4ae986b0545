package chaos

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/test/cluster"
)

// TestOnlyTheBuildForThisTestHasAClockThatJumps looks for the name of the variable in the binaries, and at a clock.
func TestOnlyTheBuildForThisTestHasAClockThatJumps(t *testing.T) {
	if os.Getenv("LOCKSTEP_TEST_BINARY") != "" {
		t.Skip("LOCKSTEP_TEST_BINARY names the one binary for all tests")
	}
	release, err := os.ReadFile(cluster.Binary(t, false))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(release, []byte("LOCKSTEP_CHAOS_CLOCK")) {
		t.Error("the binary as it is released reads an offset of its clock")
	}
	file := t.TempDir() + "/clock"
	n := cluster.New(t, "jumps", cluster.Options{Clock: file})
	n.Start()
	n.Init()
	if err := os.WriteFile(file, []byte("1h\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, cluster.Deadline, "the server's clock is an hour ahead", func() (bool, string) {
		at := n.MustDo("GET", "sys/health", "", 200)
		date := clockOf(at.Body)
		return time.Until(date) > 50*time.Minute, date.String()
	})
}

func clockOf(health []byte) time.Time {
	var body struct {
		Seconds int64 `json:"server_time_utc"`
	}
	if err := json.Unmarshal(health, &body); err != nil {
		return time.Time{}
	}
	return time.Unix(body.Seconds, 0)
}
