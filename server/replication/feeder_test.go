package replication

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
	"github.com/lockstepdb/lockstep/storage"
)

func TestLocalScopeIsNeverOnTheWireToAPerformanceSecondary(t *testing.T) { // internals 5j.38
	t.Parallel()
	p, px := newPrimary(t)
	m := p.meddle(px)
	var mu sync.Mutex
	var wrong []string
	seenEntries, secret := 0, "a local value that stays at home"
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		wrong = append(wrong, fmt.Sprintf(format, args...))
	}
	m.set(func(m *meddler) {
		m.down = func(_ int, msg *pb.FromPrimary) ([]*pb.FromPrimary, error) {
			if strings.Contains(msg.String(), "stays at home") {
				note("a message holds a local value")
			}
			for _, c := range msg.GetBatch().GetEntries() {
				mu.Lock()
				seenEntries++
				mu.Unlock()
				e, err := storage.DecodeEntry(c.Entry)
				if err != nil {
					note("an entry does not decode: %v", err)
					continue
				}
				for _, b := range e.Blocks {
					if b.Scope != storage.Replicated || b.Keyspace == local || b.Keyspace == storage.SystemLocal {
						note("an entry has a block of keyspace %s", b.Keyspace)
					}
				}
			}
			totals, err := storage.DecodeTotals(msg.GetBatch().GetTotals())
			if err != nil {
				note("totals do not decode: %v", err)
			}
			for _, total := range totals {
				if total.Scope != storage.Replicated {
					note("a batch tells the total of keyspace %s", total.ID)
				}
			}
			if len(msg.GetBatch().GetFrames()) > 0 {
				note("a whole frame was sent")
			}
			return []*pb.FromPrimary{msg}, nil
		}
		m.reply = func(r any) {
			if strings.Contains(fmt.Sprint(r), "stays at home") {
				note("a reply of a sync holds a local value")
			}
			if s, ok := r.(*pb.SplitReply); ok {
				for _, k := range s.Keyspaces {
					if k.Scope != uint32(storage.Replicated) {
						note("a local keyspace is listed")
					}
				}
			}
		}
	})
	mixed := func(i int) {
		enginetest.MustDo(t, p.e, enginetest.Put(shared, storage.Replicated, fmt.Sprintf("k%d", i), "v"),
			enginetest.Put(local, storage.Local, fmt.Sprintf("k%d", i), secret))
	}
	for i := range 50 {
		mixed(i)
	}
	p.checkpoint()
	s := p.enrol(Performance, "s")
	enginetest.MustDo(t, s.e, enginetest.Put(local, storage.Local, "own", "untouched"))
	s.run()
	for i := range 50 {
		mixed(100 + i)
		enginetest.MustDo(t, p.e, enginetest.Put(local, storage.Local, "alone", secret))
	}
	p.caughtUp(Performance, s)
	enginetest.MustDo(t, p.e, enginetest.Drop(local, storage.Local))
	mixed(1000)
	p.caughtUp(Performance, s)
	got := enginetest.Content(t, s.e)[local]
	if len(got) != 1 || got["own"] != "untouched" {
		t.Errorf("local records of the secondary: got %v, want only its own", got)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, w := range wrong {
		t.Error(w)
	}
	if seenEntries == 0 {
		t.Error("no entry was inspected")
	}
}

func TestRevocationCutsTheStreamAndStopsTheSecondary(t *testing.T) {
	bothKinds(t, func(t *testing.T, k Kind) {
		p, _ := newPrimary(t)
		s := p.follow(k, "s")
		p.caughtUp(k, s)
		if err := p.n.RevokeSecondary(enginetest.Context(t), k, "s"); err != nil {
			t.Fatalf("revoking: %v", err)
		}
		s.until("the secondary has stopped and says why", func() bool {
			m := s.n.link[k].get().Machine
			return m.Name == StateIdle && strings.Contains(m.Reason, "revoked")
		})
		p.write(shared, storage.Replicated, "after/", 10)
		s.restart()
		s.until("after a restart the certificate is refused: it stops again", func() bool {
			m := s.n.link[k].get().Machine
			return m.Name == StateIdle && strings.Contains(m.Reason, "revoked")
		})
		if got := len(enginetest.Content(t, s.e)[shared]); got != 0 {
			t.Errorf("records written after the revocation: got %d, want none", got)
		}
	})
}

// raw is a connection of an enrolled secondary without the secondary.
func (c *cluster) raw(k Kind, purpose string) pb.ReplicationClient {
	c.t.Helper()
	n, err := New(Config{Engine: c.e, Logger: c.logger(), Version: "0.1.0"})
	if err != nil {
		c.t.Fatalf("making a node: %v", err)
	}
	conn, err := n.dial(enginetest.Context(c.t), k, purpose)
	if err != nil {
		c.t.Fatalf("dialling: %v", err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return pb.NewReplicationClient(conn)
}

func TestCallsOfASyncAreBoundToTheirCoverageAndTheirLimits(t *testing.T) {
	p, _ := newPrimary(t)
	p.write(shared, storage.Replicated, "k", 100)
	p.write(local, storage.Local, "k", 100)
	p.checkpoint()
	s := p.enrol(Performance, "s")
	bulk, stream := s.raw(Performance, purposeBulk), s.raw(Performance, purposeStream)
	ctx := enginetest.Context(t)
	of := func(ks storage.KeyspaceID) *pb.Range { return &pb.Range{Keyspace: ks[:]} }
	many := make([]*pb.Range, maxRanges+1)
	for i := range many {
		many[i] = of(shared)
	}
	split := func(c pb.ReplicationClient, kind string, r ...*pb.Range) error {
		_, err := c.Split(ctx, &pb.SplitRequest{Kind: kind, Ranges: r, Limit: 1 << 31})
		return err
	}
	items := func(r ...*pb.Range) error {
		st, err := bulk.Items(ctx, &pb.ItemsRequest{Kind: "performance", Ranges: r})
		if err == nil {
			_, err = st.Recv()
		}
		return err
	}
	records := func(r *pb.Range, keys ...string) error {
		in := &pb.RecordsRequest{Kind: "performance", Range: r}
		for _, k := range keys {
			in.Keys = append(in.Keys, []byte(k))
		}
		st, err := bulk.Records(ctx, in)
		if err == nil {
			_, err = st.Recv()
		}
		return err
	}
	backwards := &pb.Range{Keyspace: shared[:], Low: []byte("m"), High: []byte("a")}
	for _, c := range []struct {
		name string
		err  error
		want codes.Code
	}{
		{"its own keyspace", split(bulk, "performance", of(shared)), codes.OK},
		{"a local keyspace, split", split(bulk, "performance", of(local)), codes.PermissionDenied},
		{"a local keyspace, items", items(of(local)), codes.PermissionDenied},
		{"a local keyspace, records", records(of(local)), codes.PermissionDenied},
		{"the enrolment records", records(of(storage.SystemLocal)), codes.PermissionDenied},
		{"as if it were a DR secondary", split(bulk, "dr", of(local)), codes.PermissionDenied},
		{"on the stream's connection", split(stream, "performance", of(shared)), codes.PermissionDenied},
		{"too many ranges, split", split(bulk, "performance", many...), codes.InvalidArgument},
		{"too many ranges, items", items(many...), codes.InvalidArgument},
		{"a range that ends before it begins", records(backwards), codes.InvalidArgument},
		{"keys out of order", records(of(shared), "k2", "k1"), codes.InvalidArgument},
		{"a keyspace id of the wrong length", split(bulk, "performance", &pb.Range{Keyspace: []byte("short")}), codes.InvalidArgument},
	} {
		if got := status.Code(c.err); got != c.want {
			t.Errorf("%s: got %v (%v), want %v", c.name, got, c.err, c.want)
		}
	}
}

func TestASecondaryThatDoesNotAcknowledgeHasABoundedAmountInFlight(t *testing.T) {
	t.Parallel()
	p, px := newPrimary(t)
	m := p.meddle(px)
	var sent, largest atomic.Int64
	m.set(func(m *meddler) {
		m.down = func(_ int, msg *pb.FromPrimary) ([]*pb.FromPrimary, error) {
			n := int64(msg.GetBatch().GetHead().GetLength())
			sent.Add(n)
			largest.Store(max(largest.Load(), n))
			return []*pb.FromPrimary{msg}, nil
		}
	})
	s := p.enrol(DR, "s")
	stream, err := s.raw(DR, purposeStream).Stream(enginetest.Context(t))
	if err != nil {
		t.Fatalf("opening a stream: %v", err)
	}
	n, err := New(Config{Engine: s.e, Logger: s.logger(), Version: "0.1.0"})
	if err != nil {
		t.Fatal(err)
	}
	l := &life{n: n, e: s.e, kind: DR}
	h, err := l.hello("", false)
	if err != nil {
		t.Fatal(err)
	}
	h.Window = limits{Bytes: 100_000, Entries: 1000}
	if err := stream.Send(&pb.FromSecondary{Message: &pb.FromSecondary_Hello{Hello: encodeHello(h)}}); err != nil {
		t.Fatalf("saying hello: %v", err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	p.load(shared, storage.Replicated, "k", scaled(20_000), 100)
	for range 20 { // messages come while nothing is acknowledged
		if _, err := stream.Recv(); err != nil {
			break
		}
	}
	if got, limit := sent.Load(), 100_000+largest.Load(); got > limit {
		t.Errorf("sent without an acknowledgement: got %d bytes, want at most %d", got, limit)
	}
}

func TestANewStreamOfASecondaryEndsTheOneBefore(t *testing.T) {
	t.Parallel()
	p, px := newPrimary(t)
	s := p.follow(DR, "s")
	p.caughtUp(DR, s)
	px.freeze() // the secondary gives up, the primary does not know yet
	s.until("the secondary has given up", func() bool { return s.n.link[DR].get().Machine.Name == StateConnecting })
	px.thaw()
	p.caughtUp(DR, s)
	p.until("one stream is left", func() bool { ps, _ := p.n.peers.get(DR, "s"); return ps.Streams == 1 })
}

// TestABacklogFromBeforeTheLastStartIsStreamedInMoreThanOneBatch lets a secondary come back to a primary that was restarted meanwhile: what it lacks is of the fork
// before, and more than a batch holds. The history that comes with a batch must not be shorter than that of the answer.
func TestABacklogFromBeforeTheLastStartIsStreamedInMoreThanOneBatch(t *testing.T) {
	bothKinds(t, func(t *testing.T, k Kind) {
		p, _ := newPrimary(t)
		s := p.follow(k, "s")
		p.caughtUp(k, s)
		s.stop()
		p.load(shared, storage.Replicated, "while it was away/", 3000, 1024)
		p.restart()
		p.write(shared, storage.Replicated, "of the next fork ", 3)
		s.e = enginetest.Reopen(t, s.e)
		s.run()
		p.caughtUp(k, s)
		if got := s.n.link[k].get().Resumes; got != (resumes{Continue: 1}) {
			t.Errorf("streams since it is back: %+v, want one that continues", got)
		}
	})
}

// TestASyncFromAPromotedClusterBeginsInItsReign: no checkpoint is made on the way of a promotion, and one from before may be of a sync that the promotion ended.
func TestASyncFromAPromotedClusterBeginsInItsReign(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		a := newCapablePrimary(t, k)
		b := a.enrol(k, "b", func(c *engine.Config) { c.CheckpointInterval = time.Hour }).capable()
		b.run()
		a.write(shared, storage.Replicated, "k", 20)
		a.caughtUp(k, b)
		b.promote(k, true)
		history := b.e.History()
		reign := history[len(history)-1].Start
		if at := b.e.FinishedAt().Index; k == Performance && at >= reign {
			t.Errorf("%s: the newest checkpoint is at %d, want one from before the reign, which begins at %d", k, at, reign)
		}
		c := b.follow(k, "c")
		b.caughtUp(k, c)
		if at := b.e.FinishedAt().Index; at < reign {
			t.Errorf("%s: a sync was served from a checkpoint at %d; the reign begins at %d", k, at, reign)
		}
	}
}
