package replication

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// A frame is read by feeders when it is durable, and is in the totals a moment later.
func TestAHeartbeatBetweenAFramesAppendAndItsPublicationStopsNoBatch(t *testing.T) {
	for _, tt := range []struct {
		name   string
		end    uint64 // that is published; 5 was sent
		marked bool   // once 8 was sent
	}{
		{"behind what was sent", 4, false},
		{"what was sent", 5, false},
		{"still to be sent", 8, true},
	} {
		f := &feeder{at: wal.Position{Index: 5}}
		if f.markEnd(wal.Position{Index: tt.end}, nil); f.marked() {
			t.Errorf("%s: no batch begins any more", tt.name)
		}
		f.at.Index = 8
		if f.marked() != tt.marked {
			t.Errorf("%s: once 8 was sent: marked %t, want %t", tt.name, f.marked(), tt.marked)
		}
	}
}

// TestRootsAreComparedUnderLoad never lets the log's end stand still: a secondary is compared where the feeder ends a batch for it, with about each heartbeat.
func TestRootsAreComparedUnderLoad(t *testing.T) {
	t.Parallel()
	p := newCapablePrimary(t, DR, Performance)
	members := map[Kind]*cluster{DR: p.follow(DR, "standby"), Performance: p.follow(Performance, "eu")}
	for k, s := range members {
		p.caughtUp(k, s)
	}
	ctx, stop := context.WithCancel(enginetest.Context(t))
	defer stop()
	var load sync.WaitGroup
	for w := range 4 {
		load.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				write := enginetest.Put(shared, storage.Replicated, fmt.Sprintf("%d of %d", i%100, w), "v")
				if _, err := p.e.Do(ctx, &engine.Tx{Writes: []engine.Write{write}}); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	const beats = 20
	for k, s := range members {
		seen, compared := s.n.link[k].get(), 0
		for heard := 0; heard < beats; {
			var now linkState
			s.until("a heartbeat comes", func() bool {
				now = s.n.link[k].get()
				return now.Primary.LastHeartbeat.After(seen.Primary.LastHeartbeat)
			})
			heard++
			if now.Verified > seen.Verified {
				compared++
			}
			seen = now
		}
		if compared < beats/2 {
			t.Errorf("the %s secondary was compared %d times while %d heartbeats came", k, compared, beats)
		}
	}
	stop()
	load.Wait()
}
