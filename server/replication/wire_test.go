package replication

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/lockstepdb/lockstep/merkle"
	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

var (
	testFork    = wal.Fork{1, 2, 3}
	testLineage = wal.Lineage{4, 5, 6}
	testPlace   = wal.Position{Fork: testFork, Index: 77}
	testRoot    = merkle.RootHash{9, 8, 7}
	testHistory = []engine.Reign{
		{Ordinal: 1, Lineage: testLineage, Fork: testFork, Start: 1, Who: "a", When: 5},
		{Ordinal: 2, Lineage: testLineage, Fork: wal.Fork{7}, Start: 50, Parent: testFork, Who: "b", When: 6, Overrides: []wal.Fork{{8}, {9}}},
	}
	testHead = head{Lineage: testLineage, Ordinal: 2, Fork: wal.Fork{7}, Position: testPlace}
)

func testHello() *hello {
	return &hello{
		head: testHead, Kind: DR, Set: "set", ClusterID: "id", ClusterName: "name", Software: "1.0.0", APIAddr: "http://a", ClusterAddr: "b:1",
		Chain: wal.Hash{1}, Root: &testRoot, History: testHistory, Seen: testHistory[:1],
		Sync:   &syncPlace{From: testPlace, Until: testPlace, SpoolEnd: wal.Position{}},
		Repair: "because", Window: limits{Bytes: 1000, Entries: 10}, Coverage: testCoverage(),
	}
}

func testAnswer() *answer {
	return &answer{
		head: testHead, Kind: pb.Answer_KIND_REPAIR, Reason: "why", From: testPlace, Chain: wal.Hash{3}, Resume: true, History: testHistory,
		ClusterID: "id", ClusterName: "name", Coverage: testCoverage(),
	}
}

func testCoverage() *coverage {
	one, two := storage.KeyspaceID{1}, storage.KeyspaceID{2}
	return &coverage{
		Number: 7, Since: testPlace, Ordinal: 2, Left: []storage.KeyspaceID{one, two}, Added: []storage.KeyspaceID{two}, Removed: []storage.KeyspaceID{one},
		Unavailable: []storage.KeyspaceID{{3}},
	}
}

func testHeartbeat() *heartbeat {
	return &heartbeat{head: testHead, Clock: 12, Root: &testRoot, Floor: 3, Confirmed: 4, Addresses: []string{"a:1", "b:2"}, APIAddr: "http://c"}
}

func testAck() *ack {
	return &ack{
		Durable: testPlace, Applied: testPlace, State: "stream-wals", Reason: "r", Root: &testRoot, APIAddr: "a", ClusterAddr: "b", Clock: 1, Heard: 2,
		Sync: syncFigures{1, 2, 3, 4}, Trust: &[32]byte{5}, Authority: &[32]byte{6},
	}
}

// testFrames returns two frames that follow each other.
func testFrames() []*wal.Frame {
	var out []*wal.Frame
	prev, index := wal.Hash{}, uint64(1)
	for range 2 {
		f := &wal.Frame{Header: wal.Header{Lineage: testLineage, Ordinal: 1, Fork: testFork, First: index, Count: 2, Time: 5}}
		for range 2 {
			f.Entries = append(f.Entries, storage.EncodeEntry(nil, &storage.Entry{Index: index, Time: 5, Blocks: []storage.Block{{
				Keyspace: shared, Scope: storage.Replicated, Changes: []storage.Change{{Op: storage.Put, Key: []byte("k"), Value: []byte("v")}},
			}}}))
			index++
		}
		f.Seal(prev)
		prev = f.Chain
		out = append(out, f)
	}
	return out
}

func testFrameBatch() *pb.Batch {
	frames := testFrames()
	b := &pb.Batch{Head: encodeHead(head{Lineage: testLineage, Ordinal: 1, Fork: testFork, Position: frames[1].Position()}), Follows: encodePosition(wal.Position{})}
	for _, f := range frames {
		b.Frames = append(b.Frames, encodeFrame(f))
		b.Head.Length += f.Length
	}
	return b
}

func testCutBatch() *pb.Batch {
	e := testFrames()[0].Entries[0]
	end := wal.Position{Fork: testFork, Index: 9}
	return &pb.Batch{
		Head:    encodeHead(head{Lineage: testLineage, Ordinal: 1, Fork: testFork, Position: end, Length: uint64(len(e))}),
		Follows: encodePosition(wal.Position{Fork: testFork, Index: 3}),
		Entries: []*pb.Cut{{At: encodePosition(wal.Position{Fork: testFork, Index: 5}), Entry: e}},
		Totals:  storage.EncodeTotals([]storage.KeyspaceTotal{{ID: shared, Scope: storage.Replicated, Total: merkle.Total{Count: 1}}}),
	}
}

func TestMessagesReadBackAsWritten(t *testing.T) {
	check := func(name string, got any, err error, want any) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
	h, err := decodeHello(encodeHello(testHello()))
	check("hello", h, err, testHello())
	a, err := decodeAnswer(encodeAnswer(testAnswer()))
	check("answer", a, err, testAnswer())
	b, err := decodeHeartbeat(encodeHeartbeat(testHeartbeat()))
	check("heartbeat", b, err, testHeartbeat())
	k, err := decodeAck(encodeAck(testAck()))
	check("ack", k, err, testAck())
	d, err := decodeBatch(DR, testFrameBatch())
	if err != nil || len(d.Frames) != 2 || d.End.Index != 4 || d.Entries != 4 {
		t.Errorf("frame batch: got %+v, %v", d, err)
	}
	c, err := decodeBatch(Performance, testCutBatch())
	if err != nil || len(c.Cut) != 1 || c.End.Index != 9 || c.Totals[0].ID != shared {
		t.Errorf("cut batch: got %+v, %v", c, err)
	}
}

func TestANewerVersionIsRefusedByNameAndUnknownFlagsToo(t *testing.T) {
	newer := func(h *pb.Head) { h.Version = 1<<16 + 2 }
	flags := func(h *pb.Head) { h.Flags = uint32(pb.Flags_FLAGS_COMPRESSED) }
	for _, change := range []func(*pb.Head){newer, flags} {
		hello, answer, beat, batch := encodeHello(testHello()), encodeAnswer(testAnswer()), encodeHeartbeat(testHeartbeat()), testFrameBatch()
		for what, m := range map[string]struct {
			head   *pb.Head
			decode func() error
		}{
			"hello":     {hello.Head, func() error { _, err := decodeHello(hello); return err }},
			"answer":    {answer.Head, func() error { _, err := decodeAnswer(answer); return err }},
			"heartbeat": {beat.Head, func() error { _, err := decodeHeartbeat(beat); return err }},
			"batch":     {batch.Head, func() error { _, err := decodeBatch(DR, batch); return err }},
		} {
			change(m.head)
			err := m.decode()
			var version *wal.VersionError
			if m.head.Version > WireVersion && (!errors.As(err, &version) || version.What != what) {
				t.Errorf("%s of version %d: got %v, want a *wal.VersionError that names it", what, m.head.Version, err)
			}
			if m.head.Flags != 0 && !errors.Is(err, errWire) {
				t.Errorf("%s with flags: got %v, want it refused", what, err)
			}
		}
	}
}

func TestPartsPutTogetherAreTheBatch(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for _, size := range []int{0, partBytes, 2 * partBytes, 2*partBytes + 1, 5*partBytes + 77} {
		b := testCutBatch()
		b.Entries[0].Entry = make([]byte, size)
		for i := range b.Entries[0].Entry {
			b.Entries[0].Entry[i] = byte(r.Uint32())
		}
		messages, err := splitBatch(b)
		if err != nil {
			t.Fatalf("splitting: %v", err)
		}
		got := messages[0].GetBatch()
		var a assembler
		for i, m := range messages {
			if n := proto.Size(m); n > 2*partBytes+100 {
				t.Errorf("message of %d bytes", n)
			}
			if m.GetPart() == nil {
				continue
			}
			if got, err = a.add(m.GetPart()); err != nil || (got != nil) != (i == len(messages)-1) {
				t.Fatalf("part %d of %d: %v, %v", i, len(messages), got != nil, err)
			}
		}
		if !proto.Equal(got, b) {
			t.Errorf("%d bytes in %d messages do not read back", size, len(messages))
		}
	}
}

func TestPartsThatDoNotFitTogetherAreRefused(t *testing.T) {
	for name, parts := range map[string][]*pb.Part{
		"one is missing":               {{Data: []byte("abc"), Left: 10}, {Data: []byte("abc"), Left: 5}},
		"empty":                        {{Left: 10}},
		"more than a batch may be":     {{Data: []byte("abc"), Left: maxBatch}},
		"overflowing announcement":     {{Data: []byte("abc"), Left: 1<<64 - 1}},
		"together they are no message": {{Data: []byte{0xff}, Left: 1}, {Data: []byte{0xff}}},
	} {
		var a assembler
		var err error
		for _, p := range parts {
			if _, err = a.add(p); err != nil {
				break
			}
		}
		if !errors.Is(err, errWire) {
			t.Errorf("%s: got %v, want it refused", name, err)
		}
	}
}

func TestPlacesOnAHistory(t *testing.T) {
	for _, c := range []struct {
		p    wal.Position
		want bool
	}{
		{wal.Position{}, true},
		{wal.Position{Fork: testFork, Index: 1}, true},
		{wal.Position{Fork: testFork, Index: 49}, true},
		{wal.Position{Fork: testFork, Index: 50}, false}, // the next fork begins there
		{wal.Position{Fork: wal.Fork{7}, Index: 49}, false},
		{wal.Position{Fork: wal.Fork{7}, Index: 50}, true},
		{wal.Position{Fork: wal.Fork{7}, Index: 100}, true},
		{wal.Position{Fork: wal.Fork{7}, Index: 101}, false}, // beyond the end
		{wal.Position{Fork: wal.Fork{66}, Index: 5}, false},
	} {
		if got := onHistory(testHistory, 100, c.p); got != c.want {
			t.Errorf("fork %v, index %d: got %v, want %v", c.p.Fork, c.p.Index, got, c.want)
		}
	}
}

func TestChunksOfRecordsOutsideTheirRangeAreRefused(t *testing.T) {
	r := &span{Keyspace: shared, Low: []byte("b"), High: []byte("m")}
	rec := func(keys ...string) (out []*pb.Record) {
		for _, k := range keys {
			out = append(out, &pb.Record{Key: []byte(k)})
		}
		return out
	}
	for _, c := range []struct {
		name string
		in   *pb.RecordsReply
		ok   bool
	}{
		{"all of it", &pb.RecordsReply{Records: rec("b", "c"), Done: true}, true},
		{"a part", &pb.RecordsReply{Records: rec("b", "c"), Next: []byte("d")}, true},
		{"nothing", &pb.RecordsReply{Done: true}, true},
		{"below", &pb.RecordsReply{Records: rec("a"), Done: true}, false},
		{"above", &pb.RecordsReply{Records: rec("m"), Done: true}, false},
		{"out of order", &pb.RecordsReply{Records: rec("d", "c"), Done: true}, false},
		{"beyond where it says to go on", &pb.RecordsReply{Records: rec("b", "e"), Next: []byte("d")}, false},
		{"no advance", &pb.RecordsReply{Next: []byte("b")}, false},
		{"advance past the end", &pb.RecordsReply{Next: []byte("z")}, false},
	} {
		if _, err := decodeChunk(r, []byte("b"), c.in); (err == nil) != c.ok {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
}

// ---- fuzz: whatever the bytes, no decoder panics, and what it accepts it writes again

// fuzzMessage seeds a fuzz target with an encoded message and runs decode on what the fuzzer makes of it.
func fuzzMessage[M proto.Message](f *testing.F, fresh func() M, decode func(t *testing.T, m M), seeds ...proto.Message) {
	for _, s := range seeds {
		b, err := proto.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := fresh()
		if proto.Unmarshal(b, m) == nil {
			decode(t, m)
		}
	})
}

// again fails when what was decoded does not read back the same.
func again[T any](t *testing.T, v T, err error, read func(T) (T, error)) {
	if err != nil {
		return
	}
	w, err := read(v)
	if err != nil || !reflect.DeepEqual(v, w) {
		t.Errorf("got %+v, %v; want %+v", w, err, v)
	}
}

func FuzzHello(f *testing.F) {
	fuzzMessage(f, func() *pb.Hello { return new(pb.Hello) }, func(t *testing.T, m *pb.Hello) {
		h, err := decodeHello(m)
		again(t, h, err, func(h *hello) (*hello, error) { return decodeHello(encodeHello(h)) })
	}, encodeHello(testHello()))
}

func FuzzAnswer(f *testing.F) {
	fuzzMessage(f, func() *pb.Answer { return new(pb.Answer) }, func(t *testing.T, m *pb.Answer) {
		a, err := decodeAnswer(m)
		again(t, a, err, func(a *answer) (*answer, error) { return decodeAnswer(encodeAnswer(a)) })
	}, encodeAnswer(testAnswer()))
}

func FuzzHeartbeat(f *testing.F) {
	fuzzMessage(f, func() *pb.Heartbeat { return new(pb.Heartbeat) }, func(t *testing.T, m *pb.Heartbeat) {
		h, err := decodeHeartbeat(m)
		again(t, h, err, func(h *heartbeat) (*heartbeat, error) { return decodeHeartbeat(encodeHeartbeat(h)) })
	}, encodeHeartbeat(testHeartbeat()))
}

func FuzzAck(f *testing.F) {
	fuzzMessage(f, func() *pb.Ack { return new(pb.Ack) }, func(t *testing.T, m *pb.Ack) {
		a, err := decodeAck(m)
		again(t, a, err, func(a *ack) (*ack, error) { return decodeAck(encodeAck(a)) })
	}, encodeAck(testAck()))
}

func FuzzFrameBatch(f *testing.F) {
	fuzzMessage(f, func() *pb.Batch { return new(pb.Batch) }, func(t *testing.T, m *pb.Batch) {
		b, err := decodeBatch(DR, m)
		if err != nil {
			return
		}
		at := b.Follows.Index
		for _, fr := range b.Frames {
			if fr.First != at+1 || fr.Verify() != nil {
				t.Errorf("a frame at %d after %d was accepted", fr.First, at)
			}
			at = fr.Last()
		}
	}, testFrameBatch())
}

func FuzzCutBatch(f *testing.F) {
	fuzzMessage(f, func() *pb.Batch { return new(pb.Batch) }, func(t *testing.T, m *pb.Batch) {
		b, err := decodeBatch(Performance, m)
		if err != nil {
			return
		}
		for _, c := range b.Cut {
			e, err := storage.DecodeEntry(c.Bytes)
			if err != nil || e.Housekeeping {
				t.Errorf("an entry was accepted that must not be: %v", err)
			}
			for _, bl := range e.Blocks {
				if bl.Scope != storage.Replicated {
					t.Error("an entry of a scope that is not covered was accepted")
				}
			}
		}
	}, testCutBatch())
}

func FuzzParts(f *testing.F) {
	whole, _ := proto.Marshal(testFrameBatch())
	f.Add(whole[:10], uint64(len(whole)-10), whole[10:], uint64(0))
	f.Fuzz(func(t *testing.T, first []byte, left uint64, rest []byte, end uint64) {
		var a assembler
		b, err := a.add(&pb.Part{Data: first, Left: left})
		if err != nil || b != nil {
			return
		}
		if b, err = a.add(&pb.Part{Data: rest, Left: end}); err == nil && b != nil && left != uint64(len(rest)) {
			t.Error("parts that do not fit together were accepted")
		}
	})
}

func FuzzSplitReply(f *testing.F) {
	sum := bytes.Repeat([]byte{1}, 32)
	seed := &pb.SplitReply{
		ReadAt: encodePosition(testPlace), Parts: []*pb.Parts{{Children: []*pb.Child{{Low: []byte("a"), Count: 3, Sum: sum}}}, {Gone: true}},
		Keyspaces: []*pb.Keyspace{{Id: shared[:], Scope: 1, Count: 3, Sum: sum}},
	}
	fuzzMessage(f, func() *pb.SplitReply { return new(pb.SplitReply) }, func(t *testing.T, m *pb.SplitReply) {
		for _, k := range m.GetKeyspaces() {
			if total, err := decodeKeyspace(Performance, k); err == nil && total.Scope != storage.Replicated {
				t.Error("a keyspace that is not covered was accepted")
			}
		}
		for _, p := range m.GetParts() {
			if cut, err := decodeChildren(p); err == nil && cut != nil {
				checkChildren(&part{}, cut)
			}
		}
	}, seed)
}

func FuzzItemsReply(f *testing.F) {
	seed := &pb.ItemsReply{Range: 0, Items: []*pb.Item{{Key: []byte("c"), Digest: make([]byte, 16)}, {Key: []byte("d"), Digest: make([]byte, 16)}}, Done: true}
	fuzzMessage(f, func() *pb.ItemsReply { return new(pb.ItemsReply) }, func(t *testing.T, m *pb.ItemsReply) {
		o := itemOrder{spans: []span{{Low: []byte("b"), High: []byte("m")}}}
		var last []byte
		err := o.reply(m, func(_ int, key []byte, _ shortDigest) error {
			if !o.spans[0].contains(key) || last != nil && bytes.Compare(last, key) >= 0 {
				t.Errorf("key %q after %q was accepted", key, last)
			}
			last = key
			return nil
		})
		if err == nil {
			o.end()
		}
	}, seed)
}

func FuzzRecordsReply(f *testing.F) {
	seed := &pb.RecordsReply{ReadAt: encodePosition(testPlace), Records: []*pb.Record{{Key: []byte("c"), Value: []byte("v")}}, Next: []byte("d")}
	fuzzMessage(f, func() *pb.RecordsReply { return new(pb.RecordsReply) }, func(t *testing.T, m *pb.RecordsReply) {
		r := &span{Low: []byte("b"), High: []byte("m")}
		ch, err := decodeChunk(r, []byte("b"), m)
		if err != nil {
			return
		}
		for i, rec := range ch.Records {
			if !r.contains(rec.Key) || i > 0 && bytes.Compare(ch.Records[i-1].Key, rec.Key) >= 0 {
				t.Errorf("key %q was accepted", rec.Key)
			}
		}
	}, seed)
}

func FuzzForwardRequest(f *testing.F) {
	seed := encodeForwarded(&Forwarded{Method: "PUT", Path: "secret/a", Body: []byte("{}"), RequestID: "r", Policies: []string{"p"}, Header: map[string][]string{"X-A": {"b"}}})
	fuzzMessage(f, func() *pb.ForwardRequest { return new(pb.ForwardRequest) }, func(t *testing.T, m *pb.ForwardRequest) {
		if out, err := decodeForwarded(m, peer{ID: "s"}); err == nil && out.Secondary != "s" {
			t.Error("a request says itself who it comes from")
		}
	}, seed)
}

func FuzzRange(f *testing.F) {
	fuzzMessage(f, func() *pb.Range { return new(pb.Range) }, func(t *testing.T, m *pb.Range) {
		s, err := decodeSpan(m)
		if err == nil && len(s.High) > 0 && strings.Compare(string(s.Low), string(s.High)) >= 0 {
			t.Error("a range that ends before it begins was accepted")
		}
	}, encodeSpan(&span{Keyspace: shared, Low: []byte("a"), High: []byte("b")}))
}
