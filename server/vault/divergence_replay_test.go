package vault

import (
	"fmt"
	"testing"

	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/storage"
)

// TestAReplaysAnswerIsBounded: what a long archive's replay did not write is listed up to a limit, and counted beyond; what was never lost is counted alone.
func TestAReplaysAnswerIsBounded(t *testing.T) {
	t.Parallel()
	add := func(r *replayed, n, keyBytes int, o replication.Outcome) {
		t.Helper()
		for i := range n {
			o.Change = &replication.ReplayChange{Index: uint64(i), Change: storage.Change{Op: storage.Put, Key: fmt.Appendf(nil, "%0*d", keyBytes, i)}}
			if err := r.add(&o); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name             string
		n, key           int
		listed, unlisted int
	}{
		{"as many as are listed", maxConflicts, 8, maxConflicts, 0},
		{"more", maxConflicts + 7, 8, maxConflicts, 7},
		{"long keys", 40, conflictBytes / 32, 32, 8},
	} {
		r := &replayed{snap: &snapshot{mounts: &mountTable{}}}
		add(r, tt.n, tt.key, replication.Outcome{Why: "one"})
		add(r, 3, 8, replication.Outcome{Covered: true, Why: "it has it"})
		add(r, 2, 8, replication.Outcome{Applied: true})
		data := r.reply().data.(map[string]any)
		unlisted, _ := data["conflicts_not_listed"].(map[string]int)
		if got := len(data["conflicts"].([]map[string]any)); got != tt.listed || unlisted["one"] != tt.unlisted || data["not_lost"] != 3 || data["applied"] != 2 {
			t.Errorf("%s: %d listed, %v not, %v not lost, %v applied; want %d, %d, 3, 2", tt.name, got, unlisted, data["not_lost"], data["applied"], tt.listed, tt.unlisted)
		}
	}
}
