package replication

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lockstepdb/lockstep/merkle"
	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// Limits on one call of a sync.
const (
	maxRanges    = 64       // ranges of a request
	maxKeys      = 4096     // keys of a request
	maxKeyBytes  = 2 << 20  // and their bytes
	replyTarget  = 1 << 20  // a reply of Split or Items is not filled further
	chunkTarget  = 1 << 20  // a reply of Records is not filled further; one large record goes alone
	chunkRecords = 16 << 10 // records of a reply
	callBytes    = 4 << 20  // of records in one call, after which the secondary asks again
	maxBulkCalls = 4        // at once, of one secondary
)

// LostAtMost is how many bytes of records a lost connection, or a kill of either side, has a sync receive again at most:
// those of the one call under way, of which the last reply may pass the limit. What was applied before is durable.
const LostAtMost = callBytes + chunkTarget

// covers reports whether a subscription of a kind takes a keyspace of a scope.
func covers(k Kind, s storage.Scope) bool { return k == DR || s == storage.Replicated }

// bulkCalls bounds how many calls of a sync a secondary has under way.
type bulkCalls struct {
	mu  sync.Mutex // guards now
	now map[string]int
}

// enter returns a function that ends the call, or an error when the secondary has too many.
func (b *bulkCalls) enter(p peer) (leave func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.now == nil {
		b.now = map[string]int{}
	}
	key := p.key()
	if b.now[key] >= maxBulkCalls {
		return nil, status.Errorf(codes.ResourceExhausted, "secondary %q has %d calls of a sync under way already", p.ID, maxBulkCalls)
	}
	b.now[key]++
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.now[key]--; b.now[key] == 0 {
			delete(b.now, key)
		}
	}, nil
}

// bulk opens a call of a sync: who asks, whether it may, and that a revocation ends it.
func (s *service) bulk(ctx context.Context, kind string) (_ context.Context, p peer, done func(), err error) {
	p, err = s.n.caller(ctx)
	if err != nil {
		return nil, p, nil, err
	}
	if string(p.Kind) != kind || p.Purpose != purposeBulk {
		return nil, p, nil, status.Errorf(codes.PermissionDenied, "a call of a %.20q sync on a connection for %s, %s", kind, p.Kind, p.Purpose)
	}
	leave, err := s.calls.enter(p)
	if err != nil {
		return nil, p, nil, err
	}
	ctx, untrack := s.n.track(ctx, p)
	return ctx, p, func() { untrack(); leave() }, nil
}

// held finds a keyspace that the coverage of a secondary's subscription takes; found is false when the feeder holds none of that id.
func (s *service) held(v *storage.View, p peer, id storage.KeyspaceID) (found bool, err error) {
	for _, t := range v.Totals() {
		if t.ID != id {
			continue
		}
		return true, s.mayAsk(p, id, t.Scope)
	}
	return false, nil
}

// Split implements pb.ReplicationServer.
func (s *service) Split(ctx context.Context, in *pb.SplitRequest) (*pb.SplitReply, error) {
	ctx, p, done, err := s.bulk(ctx, in.GetKind())
	if err != nil {
		return nil, err
	}
	defer done()
	if len(in.GetRanges()) > maxRanges {
		return nil, status.Errorf(codes.InvalidArgument, "%d ranges, more than %d", len(in.GetRanges()), maxRanges)
	}
	v := s.n.engine.Finished()
	defer v.Release()
	out := &pb.SplitReply{ReadAt: encodePosition(v.Position())}
	if len(in.GetRanges()) == 0 {
		if out.Keyspaces, err = s.listKeyspaces(v, p); err != nil {
			return nil, s.failed(p, err)
		}
		s.count(p, out, nil)
		return out, nil
	}
	limit := int(min(in.GetLimit(), splitLimit))
	size := 0
	for _, r := range in.GetRanges() {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		parts, err := s.splitOne(v, p, r, limit)
		if err != nil {
			return nil, s.failed(p, err)
		}
		out.Parts = append(out.Parts, parts)
		for _, c := range parts.Children {
			size += len(c.Low) + 48
		}
		if size >= replyTarget {
			break
		}
	}
	s.count(p, out, nil)
	return out, nil
}

func (s *service) listKeyspaces(v *storage.View, p peer) ([]*pb.Keyspace, error) {
	takes, err := s.takes(p)
	if err != nil {
		return nil, err
	}
	var out []*pb.Keyspace
	for _, t := range v.Totals() {
		if takes(t.ID, t.Scope) {
			out = append(out, &pb.Keyspace{Id: t.ID[:], Scope: uint32(t.Scope), Count: t.Count, Sum: t.Sum[:]})
		}
	}
	return out, nil
}

func (s *service) splitOne(v *storage.View, p peer, in *pb.Range, limit int) (*pb.Parts, error) {
	r, err := decodeSpan(in)
	if err != nil {
		return nil, err
	}
	found, err := s.held(v, p, r.Keyspace)
	if err != nil {
		return nil, err
	}
	if !found {
		return &pb.Parts{Gone: true}, nil
	}
	children, err := v.Split(r.Keyspace, r.Low, r.High, max(limit, 2))
	if err != nil {
		return nil, err
	}
	out := &pb.Parts{}
	for i := range children {
		c := &children[i]
		out.Children = append(out.Children, &pb.Child{Low: c.Low, Count: c.Count, Sum: c.Sum[:]})
	}
	return out, nil
}

// Items implements pb.ReplicationServer.
func (s *service) Items(in *pb.ItemsRequest, stream grpc.ServerStreamingServer[pb.ItemsReply]) error {
	ctx, p, done, err := s.bulk(stream.Context(), in.GetKind())
	if err != nil {
		return err
	}
	defer done()
	if len(in.GetRanges()) > maxRanges {
		return status.Errorf(codes.InvalidArgument, "%d ranges, more than %d", len(in.GetRanges()), maxRanges)
	}
	for i, r := range in.GetRanges() {
		sp, err := decodeSpan(r)
		if err != nil {
			return s.failed(p, err)
		}
		if err := s.sendItems(ctx, p, uint32(i), sp, stream); err != nil {
			return s.failed(p, err)
		}
	}
	return nil
}

// sendItems lists a range by replies of bounded size, each read from the newest finished checkpoint: none is held while a reply is on its way.
func (s *service) sendItems(ctx context.Context, p peer, i uint32, r span, stream grpc.ServerStreamingServer[pb.ItemsReply]) error {
	low := r.Low
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		out, next, err := s.readItems(p, i, r, low)
		if err != nil {
			return err
		}
		s.count(p, out, nil)
		if err := stream.Send(out); err != nil || out.Done {
			return err
		}
		low = next
	}
}

func (s *service) readItems(p peer, i uint32, r span, low []byte) (out *pb.ItemsReply, next []byte, err error) {
	v := s.n.engine.Finished()
	defer v.Release()
	found, err := s.held(v, p, r.Keyspace)
	if err != nil {
		return nil, nil, err
	}
	out = &pb.ItemsReply{ReadAt: encodePosition(v.Position()), Range: i, Done: true}
	if !found {
		return out, nil, nil
	}
	size := 0
	err = v.Items(r.Keyspace, low, r.High, func(key []byte, d merkle.Digest) bool {
		if size >= replyTarget/4 {
			out.Done, next = false, key
			return false
		}
		out.Items = append(out.Items, &pb.Item{Key: key, Digest: slices.Clone(d[:16])})
		size += len(key) + 24
		return true
	})
	return out, next, err
}

// Records implements pb.ReplicationServer.
func (s *service) Records(in *pb.RecordsRequest, stream grpc.ServerStreamingServer[pb.RecordsReply]) error {
	ctx, p, done, err := s.bulk(stream.Context(), in.GetKind())
	if err != nil {
		return err
	}
	defer done()
	r, err := decodeSpan(in.GetRange())
	if err != nil {
		return s.failed(p, err)
	}
	if err := checkKeys(&r, in.GetKeys()); err != nil {
		return s.failed(p, err)
	}
	read := func(v *storage.View, low []byte) (*pb.RecordsReply, error) { return readRange(v, &r, low) }
	if len(in.GetKeys()) > 0 {
		keys := in.GetKeys()
		read = func(v *storage.View, _ []byte) (*pb.RecordsReply, error) {
			out, left, err := readKeys(v, &r, keys)
			keys = left
			return out, err
		}
	}
	low, left := r.Low, callBytes
	if n := in.GetMaxBytes(); n > 0 && n < callBytes {
		left = int(n)
	}
	for left > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		out, err := s.readChunk(p, &r, low, read)
		if err != nil {
			return s.failed(p, err)
		}
		s.count(p, nil, out)
		if err := stream.Send(out); err != nil || out.Done {
			return err
		}
		low = out.Next
		left -= proto.Size(out)
	}
	return nil
}

func checkKeys(r *span, keys [][]byte) error {
	if len(keys) > maxKeys {
		return status.Errorf(codes.InvalidArgument, "%d keys, more than %d", len(keys), maxKeys)
	}
	size := 0
	for i, k := range keys {
		size += len(k)
		if !r.contains(k) || i > 0 && bytes.Compare(keys[i-1], k) >= 0 {
			return status.Error(codes.InvalidArgument, "keys out of order or outside their range")
		}
	}
	if size > maxKeyBytes {
		return status.Errorf(codes.InvalidArgument, "keys of %d bytes, more than %d", size, maxKeyBytes)
	}
	return nil
}

// readChunk reads one reply from the newest finished checkpoint.
func (s *service) readChunk(p peer, r *span, low []byte, read func(*storage.View, []byte) (*pb.RecordsReply, error)) (*pb.RecordsReply, error) {
	v := s.n.engine.Finished()
	defer v.Release()
	found, err := s.held(v, p, r.Keyspace)
	if err != nil {
		return nil, err
	}
	out := &pb.RecordsReply{Done: true}
	if found {
		if out, err = read(v, low); err != nil {
			return nil, err
		}
	}
	out.ReadAt = encodePosition(v.Position())
	return out, nil
}

func readRange(v *storage.View, r *span, low []byte) (*pb.RecordsReply, error) {
	out := &pb.RecordsReply{Done: true}
	size := 0
	err := v.Scan(r.Keyspace, low, r.High, func(rec storage.Record) bool {
		if full(size, len(out.Records), &rec) {
			out.Done, out.Next = false, rec.Key
			return false
		}
		out.Records = append(out.Records, &pb.Record{Key: rec.Key, Value: rec.Value})
		size += len(rec.Key) + len(rec.Value)
		return true
	})
	return out, err
}

// full says that a reply takes no further record; it always takes one.
func full(size, records int, next *storage.Record) bool {
	return records > 0 && (records >= chunkRecords || size+len(next.Key)+len(next.Value) > chunkTarget)
}

// readKeys reads the first of the keys, as many as a reply takes; one that is not there any more is left out.
func readKeys(v *storage.View, r *span, keys [][]byte) (out *pb.RecordsReply, left [][]byte, err error) {
	out = &pb.RecordsReply{}
	size := 0
	for i, k := range keys {
		rec, err := v.Get(r.Keyspace, k)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if full(size, len(out.Records), &rec) {
			out.Next = k
			return out, keys[i:], nil
		}
		out.Records = append(out.Records, &pb.Record{Key: k, Value: rec.Value})
		size += len(rec.Key) + len(rec.Value)
	}
	out.Done = true
	return out, nil, nil
}

// failed turns an error of a call into what the caller is told; what is wrong here is logged here and told without details.
func (s *service) failed(p peer, err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	switch {
	case errors.Is(err, errWire):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, wal.ErrGone):
		return status.Error(codes.OutOfRange, "the log does not reach back that far any more: ask again")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	s.log.Error("a call of a secondary failed", "secondary", p.ID, "set", string(p.Kind), "error", err)
	return status.Error(codes.Internal, "the feeder could not read its own data; its log says why")
}

// count adds what a reply costs on the wire to the figures of a secondary.
func (s *service) count(p peer, diff, sync proto.Message) {
	s.n.peers.update(p.Kind, p.ID, func(ps *peerState) {
		if diff != nil {
			ps.DiffBytes += uint64(proto.Size(diff))
		}
		if sync != nil {
			ps.SyncBytes += uint64(proto.Size(sync))
		}
	})
}
