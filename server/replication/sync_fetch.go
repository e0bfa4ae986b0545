package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// bulkClient asks the feeder for a sync's parts and counts what that costs on the wire.
type bulkClient struct {
	kind      Kind
	rpc       pb.ReplicationClient
	diffBytes atomic.Uint64 // digests and keys, both ways
	syncBytes atomic.Uint64 // records, both ways
}

func newBulkClient(k Kind, conn grpc.ClientConnInterface) *bulkClient {
	return &bulkClient{kind: k, rpc: pb.NewReplicationClient(conn)}
}

func size(m proto.Message) uint64 { return uint64(proto.Size(m)) }

// keyspaces lists what the feeder holds of the coverage, complete, in order of id.
func (c *bulkClient) keyspaces(ctx context.Context) ([]storage.KeyspaceTotal, wal.Position, error) {
	in := &pb.SplitRequest{Kind: string(c.kind)}
	out, err := c.rpc.Split(ctx, in)
	if err != nil {
		return nil, wal.Position{}, fmt.Errorf("listing the feeder's keyspaces: %w", err)
	}
	c.diffBytes.Add(size(in) + size(out))
	readAt, err := decodePosition(out.GetReadAt())
	if err != nil {
		return nil, readAt, err
	}
	var list []storage.KeyspaceTotal
	for _, k := range out.GetKeyspaces() {
		t, err := decodeKeyspace(c.kind, k)
		if err != nil {
			return nil, readAt, err
		}
		if n := len(list); n > 0 && bytes.Compare(list[n-1].ID[:], t.ID[:]) >= 0 {
			return nil, readAt, malformed("keyspaces out of order")
		}
		list = append(list, t)
	}
	return list, readAt, nil
}

func decodeKeyspace(k Kind, in *pb.Keyspace) (storage.KeyspaceTotal, error) {
	var t storage.KeyspaceTotal
	if err := decodeFixed(t.ID[:], in.GetId(), "keyspace"); err != nil {
		return t, err
	}
	if in.GetScope() != uint32(storage.Replicated) && in.GetScope() != uint32(storage.Local) {
		return t, malformed("keyspace %s of scope %d", t.ID, in.GetScope())
	}
	t.Scope = storage.Scope(in.GetScope())
	if !covers(k, t.Scope) {
		return t, malformed("keyspace %s, which a %s subscription does not cover", t.ID, k)
	}
	var err error
	t.Total, err = decodeTotal(in.GetCount(), in.GetSum())
	return t, err
}

func encodeSpans(spans []span) []*pb.Range {
	out := make([]*pb.Range, len(spans))
	for i := range spans {
		out[i] = encodeSpan(&spans[i])
	}
	return out
}

// split implements feederSide.
func (c *bulkClient) split(ctx context.Context, spans []span) ([][]storage.Child, wal.Position, error) {
	in := &pb.SplitRequest{Kind: string(c.kind), Ranges: encodeSpans(spans), Limit: splitLimit}
	out, err := c.rpc.Split(ctx, in)
	if err != nil {
		return nil, wal.Position{}, fmt.Errorf("comparing ranges: %w", err)
	}
	c.diffBytes.Add(size(in) + size(out))
	readAt, err := decodePosition(out.GetReadAt())
	if err != nil {
		return nil, readAt, err
	}
	parts := make([][]storage.Child, len(out.GetParts()))
	for i, p := range out.GetParts() {
		if parts[i], err = decodeChildren(p); err != nil {
			return nil, readAt, err
		}
	}
	return parts, readAt, nil
}

// decodeChildren returns nil for a keyspace that is gone.
func decodeChildren(p *pb.Parts) ([]storage.Child, error) {
	if p.GetGone() {
		return nil, nil
	}
	out := make([]storage.Child, len(p.GetChildren()))
	for i, c := range p.GetChildren() {
		t, err := decodeTotal(c.GetCount(), c.GetSum())
		if err != nil {
			return nil, err
		}
		if len(c.GetLow()) > storage.MaxKey {
			return nil, malformed("a range bound of more than %d bytes", storage.MaxKey)
		}
		out[i] = storage.Child{Low: c.GetLow(), Total: t}
	}
	return out, nil
}

// items implements feederSide.
func (c *bulkClient) items(ctx context.Context, spans []span, fn func(i int, key []byte, d shortDigest) error) (wal.Position, error) {
	var newest wal.Position
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in := &pb.ItemsRequest{Kind: string(c.kind), Ranges: encodeSpans(spans)}
	c.diffBytes.Add(size(in))
	stream, err := c.rpc.Items(ctx, in)
	if err != nil {
		return newest, fmt.Errorf("listing a range: %w", err)
	}
	check := itemOrder{spans: spans}
	for {
		out, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return newest, check.end()
		}
		if err != nil {
			return newest, fmt.Errorf("listing a range: %w", err)
		}
		c.diffBytes.Add(size(out))
		readAt, err := decodePosition(out.GetReadAt())
		if err != nil {
			return newest, err
		}
		newest = later(newest, readAt)
		if err := check.reply(out, fn); err != nil {
			return newest, err
		}
	}
}

// itemOrder checks that replies of Items come range by range, each in key order and inside its bounds.
type itemOrder struct {
	spans []span
	at    int
	last  []byte
}

func (o *itemOrder) reply(out *pb.ItemsReply, fn func(i int, key []byte, d shortDigest) error) error {
	if o.at >= len(o.spans) || out.GetRange() != uint32(o.at) {
		return malformed("items of range %d, where range %d was to come", out.GetRange(), o.at)
	}
	for _, it := range out.GetItems() {
		if !o.spans[o.at].contains(it.GetKey()) || o.last != nil && bytes.Compare(o.last, it.GetKey()) >= 0 {
			return malformed("items out of order or outside their range")
		}
		var d shortDigest
		if err := decodeFixed(d[:], it.GetDigest(), "digest of an item"); err != nil {
			return err
		}
		o.last = it.GetKey()
		if o.last == nil {
			o.last = []byte{}
		}
		if err := fn(o.at, it.GetKey(), d); err != nil {
			return err
		}
	}
	if out.GetDone() {
		o.at++
		o.last = nil
	}
	return nil
}

func (o *itemOrder) end() error {
	if o.at != len(o.spans) {
		return malformed("items of %d ranges instead of %d", o.at, len(o.spans))
	}
	return nil
}

// chunk is one reply of Records: everything asked for below Next (the end of the range when Next is nil).
type chunk struct {
	Records []storage.Record
	Next    []byte
	ReadAt  wal.Position
}

// records fetches a range, or keys of it, chunk by chunk in key order.
func (c *bulkClient) records(ctx context.Context, r *span, keys [][]byte, fn func(*chunk) error) error {
	left := *r
	for {
		next, err := c.call(ctx, &left, keys, fn)
		if err != nil || next == nil {
			return err
		}
		left.Low = next
		for len(keys) > 0 && bytes.Compare(keys[0], next) < 0 {
			keys = keys[1:]
		}
	}
}

// call is one call of Records, which brings a bounded part of what it asks for; next is where to go on, nil at the end.
func (c *bulkClient) call(ctx context.Context, r *span, keys [][]byte, fn func(*chunk) error) (next []byte, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in := &pb.RecordsRequest{Kind: string(c.kind), Range: encodeSpan(r), Keys: keys, MaxBytes: callBytes}
	c.syncBytes.Add(size(in))
	stream, err := c.rpc.Records(ctx, in, grpc.MaxCallRecvMsgSize(maxReply))
	if err != nil {
		return nil, fmt.Errorf("fetching records: %w", err)
	}
	low := r.Low
	for {
		out, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if next == nil {
				return nil, malformed("records that end before they begin")
			}
			return next, nil
		}
		if err != nil {
			return nil, fmt.Errorf("fetching records: %w", err)
		}
		c.syncBytes.Add(size(out))
		ch, err := decodeChunk(r, low, out)
		if err != nil {
			return nil, err
		}
		if err := fn(ch); err != nil || ch.Next == nil {
			return nil, err
		}
		low, next = ch.Next, ch.Next
	}
}

// decodeChunk checks that a reply continues at low, stays inside its range and is in order.
func decodeChunk(r *span, low []byte, in *pb.RecordsReply) (*chunk, error) {
	out := &chunk{}
	var err error
	if out.ReadAt, err = decodePosition(in.GetReadAt()); err != nil {
		return nil, err
	}
	high := r.High
	if !in.GetDone() {
		out.Next = in.GetNext()
		if !r.contains(out.Next) || bytes.Compare(out.Next, low) <= 0 {
			return nil, malformed("a chunk of records that does not advance")
		}
		high = out.Next
	}
	inside := span{Low: low, High: high}
	for i, rec := range in.GetRecords() {
		if !inside.contains(rec.GetKey()) || i > 0 && bytes.Compare(out.Records[i-1].Key, rec.GetKey()) >= 0 {
			return nil, malformed("records out of order or outside their range")
		}
		if len(rec.GetKey()) > storage.MaxKey || len(rec.GetValue()) > storage.MaxValue {
			return nil, malformed("a record of %d and %d bytes", len(rec.GetKey()), len(rec.GetValue()))
		}
		out.Records = append(out.Records, storage.Record{Key: rec.GetKey(), Value: rec.GetValue()})
	}
	return out, nil
}

// later returns the place with the higher index: both are on one feeder's log.
func later(a, b wal.Position) wal.Position {
	if b.Index > a.Index {
		return b
	}
	return a
}
