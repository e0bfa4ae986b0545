package replication

import (
	"testing"
	"time"

	"github.com/lockstepdb/lockstep/storage"
)

// BenchmarkCatchUp measures how fast a secondary that was away takes what it lacks: small entries as many clients write them.
func BenchmarkCatchUp(b *testing.B) {
	for _, k := range kinds {
		b.Run(string(k), func(b *testing.B) {
			const entries = 50_000
			p, _ := newPrimary(b)
			s := p.follow(k, "s")
			p.caughtUp(k, s)
			s.stop()
			p.write(shared, storage.Replicated, "k", entries)
			b.ResetTimer()
			begun := time.Now()
			s.run()
			s.until("the secondary has everything", func() bool { return s.n.reached(k) >= p.e.Position().Index-5 })
			b.ReportMetric(entries/time.Since(begun).Seconds(), "entries/s")
			b.StopTimer()
			p.caughtUp(k, s)
		})
	}
}

// reached returns the index of the feeder up to which a node is complete.
func (n *Node) reached(k Kind) uint64 {
	if k == DR {
		return n.engine.Position().Index
	}
	return n.engine.Cursor("performance").Index
}
