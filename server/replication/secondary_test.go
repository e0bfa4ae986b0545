package replication

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

func TestSecondariesFollowWritesAndStayEqual(t *testing.T) {
	t.Parallel()
	p, _ := newPrimary(t)
	p.write(shared, storage.Replicated, "before/", 300)
	p.write(local, storage.Local, "private/", 50)
	p.checkpoint()
	d := p.follow(DR, "d")
	s := p.follow(Performance, "s")
	p.write(shared, storage.Replicated, "during/", 300)
	p.caughtUp(DR, d)
	p.caughtUp(Performance, s)
	if got := len(enginetest.Content(t, s.e)[local]); got != 0 {
		t.Errorf("local records on the performance secondary: got %d, want none", got)
	}
	p.write(shared, storage.Replicated, "after/", 300)
	enginetest.MustDo(t, p.e, enginetest.Drop(local, storage.Local))
	p.caughtUp(DR, d)
	p.caughtUp(Performance, s)
}

// bothKinds runs a test for a DR and a performance secondary.
func bothKinds(t *testing.T, test func(t *testing.T, k Kind)) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			test(t, k)
		})
	}
}

// onlyContinued fails unless a secondary has only ever gone on from its place since it was filled: no range compared, no record sent again.
func onlyContinued(t *testing.T, s *cluster, k Kind, before linkState) {
	t.Helper()
	now := s.n.link[k].get()
	if now.Resumes.Repair != before.Resumes.Repair || now.Resumes.Bootstrap != before.Resumes.Bootstrap {
		t.Errorf("answers: got %+v, before the faults %+v: want no repair and no bootstrap", now.Resumes, before.Resumes)
	}
	if now.DiffBytes != before.DiffBytes || now.SyncBytes != before.SyncBytes {
		t.Errorf("bytes of diff and sync: got %d and %d more, want none", now.DiffBytes-before.DiffBytes, now.SyncBytes-before.SyncBytes)
	}
}

// errCut ends a stream on purpose.
var errCut = errors.New("cut by the test")

func TestDisconnectAtEveryMessageBoundaryResumesByPosition(t *testing.T) { // internals 5j.10
	bothKinds(t, func(t *testing.T, k Kind) {
		p, px := newPrimary(t)
		m := p.meddle(px)
		p.write(shared, storage.Replicated, "a/", 20)
		s := p.follow(k, "s")
		p.caughtUp(k, s)
		before := s.n.link[k].get()
		for boundary := range 6 { // answer, heartbeat, batches: the stream ends before and after each
			var once atomic.Bool
			m.set(func(m *meddler) {
				m.down = func(n int, msg *pb.FromPrimary) ([]*pb.FromPrimary, error) {
					if n == boundary && once.CompareAndSwap(false, true) {
						return nil, errCut
					}
					return []*pb.FromPrimary{msg}, nil
				}
			})
			px.cut()
			for i := 0; !once.Load() || i < 3; i++ {
				p.write(shared, storage.Replicated, fmt.Sprintf("b%d/%d/", boundary, i), 2)
				time.Sleep(10 * time.Millisecond)
			}
			p.caughtUp(k, s)
		}
		onlyContinued(t, s, k, before)
	})
}

func TestDisconnectInTheMiddleOfAFrameResumesByPosition(t *testing.T) { // internals 5j.10
	bothKinds(t, func(t *testing.T, k Kind) {
		p, px := newPrimary(t)
		p.write(shared, storage.Replicated, "a/", 20)
		s := p.follow(k, "s")
		p.caughtUp(k, s)
		before := s.n.link[k].get()
		large := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB: several parts and many packets
		for i, n := range []int64{1, 100, 5000, 300_000, 700_000, 1_000_000} {
			px.cutAfter(n)
			enginetest.MustDo(t, p.e, enginetest.Put(shared, storage.Replicated, fmt.Sprintf("large/%d", i), large))
			p.write(shared, storage.Replicated, fmt.Sprintf("c%d/", i), 5)
			p.caughtUp(k, s)
		}
		onlyContinued(t, s, k, before)
	})
}

func TestRepeatedBatchesAreAcknowledgedAndReorderedOnesRefused(t *testing.T) { // internals 5j.10
	bothKinds(t, func(t *testing.T, k Kind) {
		p, px := newPrimary(t)
		m := p.meddle(px)
		p.write(shared, storage.Replicated, "a/", 20)
		s := p.follow(k, "s")
		p.caughtUp(k, s)
		before := s.n.link[k].get()

		var sent atomic.Int64
		m.set(func(m *meddler) {
			m.down = func(n int, msg *pb.FromPrimary) ([]*pb.FromPrimary, error) {
				if msg.GetBatch() == nil {
					return []*pb.FromPrimary{msg}, nil
				}
				sent.Add(1)
				return []*pb.FromPrimary{msg, msg}, nil
			}
		})
		for i := range 10 {
			p.write(shared, storage.Replicated, fmt.Sprintf("twice/%d/", i), 3)
			time.Sleep(5 * time.Millisecond)
		}
		p.caughtUp(k, s)
		if got := s.n.link[k].get().Resumes.Continue; got != before.Resumes.Continue {
			t.Errorf("streams begun while batches came twice: got %d more, want none", got-before.Resumes.Continue)
		}
		if sent.Load() == 0 {
			t.Error("no batch was repeated")
		}

		var mu sync.Mutex
		var kept *pb.FromPrimary
		swapped := false
		m.set(func(m *meddler) {
			m.down = func(n int, msg *pb.FromPrimary) ([]*pb.FromPrimary, error) {
				mu.Lock()
				defer mu.Unlock()
				switch {
				case swapped || msg.GetBatch() == nil:
					return []*pb.FromPrimary{msg}, nil
				case kept == nil:
					kept = msg
					return nil, nil
				}
				swapped = true
				return []*pb.FromPrimary{msg, kept}, nil
			}
		})
		done := func() bool { mu.Lock(); defer mu.Unlock(); return swapped }
		for i := 0; !done(); i++ {
			p.write(shared, storage.Replicated, fmt.Sprintf("swapped/%d/", i), 3)
			time.Sleep(5 * time.Millisecond)
		}
		p.caughtUp(k, s)
		if !strings.Contains(s.logs.String(), "a batch that follows index") {
			t.Error("the log does not tell of a batch out of order")
		}
		onlyContinued(t, s, k, before)
	})
}

func TestHalfOpenConnectionIsNoticedByBothSides(t *testing.T) { // internals 5j.11
	t.Parallel()
	p, px := newPrimary(t)
	s := p.follow(DR, "s")
	p.caughtUp(DR, s)
	px.freeze()
	p.write(shared, storage.Replicated, "while frozen/", 10)
	s.until("the secondary has noticed", func() bool { return s.n.link[DR].get().Machine.Name == StateConnecting })
	p.until("the primary has noticed", func() bool { ps, _ := p.n.peers.get(DR, "s"); return ps.Streams == 0 })
	s.until("its log says why", func() bool { return strings.Contains(s.logs.String(), "nothing was heard from the primary") })
	px.cut()
	px.thaw()
	p.caughtUp(DR, s)
}

func TestLargestValueIsStreamedAndSynced(t *testing.T) { // internals 5j.14
	bothKinds(t, func(t *testing.T, k Kind) {
		p, _ := newPrimary(t)
		large := strings.Repeat("x", 32<<20)
		if raceEnabled {
			large = large[:3<<20]
		}
		enginetest.MustDo(t, p.e, enginetest.Put(shared, storage.Replicated, "synced", large))
		p.checkpoint()
		s := p.follow(k, "s")
		p.caughtUp(k, s)
		enginetest.MustDo(t, p.e, enginetest.Put(shared, storage.Replicated, "streamed", large))
		p.write(shared, storage.Replicated, "after/", 10)
		p.caughtUp(k, s)
	})
}

// tight makes segments and retention so small that a secondary soon falls behind.
func tight(c *engine.Config) {
	c.SegmentEntries = 50
	c.RetainBytes = 16 << 10
	c.CheckpointInterval = 50 * time.Millisecond
}

func TestASecondaryBehindRetentionIsRepairedNotFilledAnew(t *testing.T) { // internals 5j.16
	bothKinds(t, func(t *testing.T, k Kind) {
		p, _ := newPrimary(t, tight)
		p.load(shared, storage.Replicated, "base/", 5000, 100)
		p.checkpoint()
		s := p.follow(k, "s")
		p.caughtUp(k, s)
		filled := s.n.link[k].get()
		s.stop()
		at := s.n.engine.Position()
		if k == Performance {
			at = s.n.engine.Cursor(engine.Performance)
		}
		p.write(shared, storage.Replicated, "base/", 300)
		for i := 0; p.e.FirstIndex() <= at.Index+1; i++ {
			p.write(shared, storage.Replicated, fmt.Sprintf("more/%d/", i%3), 100)
			p.checkpoint()
		}
		s.restart()
		p.caughtUp(k, s)
		link := s.n.link[k].get()
		if link.Resumes.Repair != 1 || link.Resumes.Bootstrap != 0 {
			t.Errorf("answers: got %+v, want one repair and no bootstrap", link.Resumes)
		}
		if link.SyncBytes*4 > filled.SyncBytes {
			t.Errorf("records received by the repair: got %d bytes, filling took %d: want less than a quarter", link.SyncBytes, filled.SyncBytes)
		}
	})
}

func TestLogThatExpiresDuringBootstrapCostsDigestsNotData(t *testing.T) { // internals 5j.17
	bothKinds(t, func(t *testing.T, k Kind) {
		p, px := newPrimary(t, tight)
		m := p.meddle(px)
		p.load(shared, storage.Replicated, "first/", 3000, 500)
		p.load(second, storage.Replicated, "second/", 3000, 500)
		p.checkpoint()
		var stop atomic.Bool
		stop.Store(true)
		m.set(func(m *meddler) {
			m.reply = func(reply any) {
				if r, ok := reply.(*pb.RecordsReply); ok && len(r.Records) > 0 && string(r.Records[0].Key) >= "second" && stop.Load() {
					px.block(true)
					px.cut()
				}
			}
		})
		s := p.follow(k, "s")
		s.until("the first keyspace has been received", func() bool {
			return s.n.link[k].get().SyncBytes > 1_000_000 && s.n.link[k].get().Machine.Name != StateMerkleSync
		})
		held := s.e.SpoolEnd()
		for i := 0; p.e.FirstIndex() <= held.Index+1; i++ {
			p.write(shared, storage.Replicated, fmt.Sprintf("more/%d/", i%3), 100)
			p.checkpoint()
		}
		stop.Store(false)
		before := s.n.link[k].get().SyncBytes
		px.block(false)
		p.caughtUp(k, s)
		link := s.n.link[k].get()
		if got := link.SyncBytes - before; got > 2_000_000 {
			t.Errorf("records received after the log had expired: got %d bytes, want little more than the second keyspace", got)
		}
		if link.Resumes.Repair == 0 {
			t.Errorf("answers: got %+v, want a repair after the log had expired", link.Resumes)
		}
	})
}

func TestCorruptBatchesOfABuggyPeerAreRefusedWhole(t *testing.T) { // internals 5j.18
	type fault struct {
		name   string
		kind   Kind
		change func(b *pb.Batch)
		says   string
	}
	faults := []fault{
		{"flipped byte in an entry", DR, func(b *pb.Batch) { e := b.Frames[0].Entries[0]; e[len(e)-1] ^= 1 }, "frame"},
		{"flipped byte in a header", DR, func(b *pb.Batch) { h := b.Frames[0].Header; h[len(h)-1] ^= 1 }, "frame"},
		{"missing entry", DR, func(b *pb.Batch) { b.Frames[0].Entries = b.Frames[0].Entries[1:] }, "entries"},
		{"gap", DR, func(b *pb.Batch) { b.Follows.Index++; b.Head.Position.Index += 2 }, "frame"},
		{"newer version", DR, func(b *pb.Batch) { b.Head.Version = 99 }, "99"},
		{"unknown flags", DR, func(b *pb.Batch) { b.Head.Flags = 1 }, "flags"},
		{"wrong length", DR, func(b *pb.Batch) { b.Head.Length++ }, "bytes"},
		{"flipped byte in a value", Performance, func(b *pb.Batch) { e := b.Entries[0].Entry; e[len(e)-1] ^= 1 }, "root"},
		{"wrong totals", Performance, func(b *pb.Batch) { b.Totals[len(b.Totals)-1] ^= 1 }, "root"},
		{"entry of the local scope", Performance, func(b *pb.Batch) {
			e, _ := storage.DecodeEntry(b.Entries[0].Entry)
			e.Blocks[0].Scope = storage.Local
			b.Entries[0].Entry = storage.EncodeEntry(nil, e)
		}, "does not cover"},
		{"entry beyond the end", Performance, func(b *pb.Batch) { b.Entries[0].At.Index += 1000 }, "outside its batch"},
		{"fork that nobody knows", Performance, func(b *pb.Batch) { b.Entries[0].At.Fork[0] ^= 1 }, "not on the primary's history"},
	}
	bothKinds(t, func(t *testing.T, k Kind) {
		p, px := newPrimary(t)
		m := p.meddle(px)
		p.write(shared, storage.Replicated, "a/", 20)
		s := p.follow(k, "s")
		p.caughtUp(k, s)
		for i, f := range faults {
			if f.kind != k || f.name == "newer version" {
				continue
			}
			var done, active atomic.Bool
			m.set(func(m *meddler) {
				m.down = func(n int, msg *pb.FromPrimary) ([]*pb.FromPrimary, error) {
					b := msg.GetBatch()
					if b == nil || k == Performance && len(b.Entries) == 0 || !done.CompareAndSwap(false, true) {
						return []*pb.FromPrimary{msg}, nil
					}
					active.Store(true)
					bad := proto.Clone(msg).(*pb.FromPrimary)
					f.change(bad.GetBatch())
					return []*pb.FromPrimary{bad}, nil
				}
			})
			mark := len(s.logs.String())
			p.write(shared, storage.Replicated, fmt.Sprintf("f%d/", i), 1)
			s.until("the secondary said what was wrong ("+f.name+")", func() bool { return strings.Contains(s.logs.String()[mark:], f.says) })
			if !active.Load() {
				t.Errorf("%s: no batch was changed", f.name)
			}
			p.caughtUp(k, s)
		}
	})
}
