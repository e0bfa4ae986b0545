package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// feed sends what the log gets, until ctx ends: batches of about 256 KiB, or at once what there is; heartbeats in between.
func (f *feeder) feed(ctx context.Context) error {
	tick := time.NewTicker(f.n.cfg.HeartbeatInterval)
	defer tick.Stop()
	if err := f.heartbeat(); err != nil {
		return err
	}
	told := false
	for {
		last, ending := f.n.ending(f.peer.Kind)
		if last != nil && !told && f.at.Index >= last.Index {
			told = true
			if err := f.heartbeat(); err != nil {
				return err
			}
		}
		wake := f.n.engine.Wake() // before the log is asked: what comes after is not missed
		f.settle()
		sent := false
		if f.win.room() {
			b, err := f.gather()
			if err != nil {
				return f.gone(err)
			}
			if b != nil {
				if err := f.sendBatch(ctx, b, tick.C); err != nil {
					return err
				}
				if err := f.passMark(); err != nil {
					return err
				}
				sent = true
			}
		}
		var more <-chan struct{}
		if f.win.room() {
			more = wake
		}
		if sent {
			more = closed
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			if err := f.heartbeat(); err != nil {
				return err
			}
		case <-more:
		case <-f.shown:
		case <-ending:
		case <-f.acked:
		}
	}
}

// closed is ready at once.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// settle takes the newest acknowledgement into account: window, hold, lag.
func (f *feeder) settle() {
	a := f.newestAck()
	if a.Durable.Index > f.at.Index {
		a.Durable = f.at // it cannot have what it was not sent
	}
	f.win.ack(a.Durable.Index)
	if a.Durable.Index > 0 {
		f.hold(a.Durable.Index+1, true)
	}
	lag := time.Duration(0)
	if oldest := f.win.oldest(); !oldest.IsZero() {
		lag = max(0, f.n.now().Sub(oldest))
	}
	f.n.peers.update(f.peer.Kind, f.peer.ID, func(ps *peerState) {
		ps.CanaryAge = lag
		if a.Durable.Index > 0 {
			ps.Acked = a.Durable
		}
	})
}

func (f *feeder) gone(err error) error {
	if errors.Is(err, wal.ErrGone) {
		return status.Errorf(codes.OutOfRange, "this primary's log does not hold index %d any more: say hello again, what differs is repaired", f.at.Index+1)
	}
	return err
}

// outgoing is a batch to be sent.
type outgoing struct {
	follows, end   wal.Position
	ordinal        uint64
	frames         []*wal.Frame
	cut            []*pb.Cut
	totals         map[storage.KeyspaceID]storage.KeyspaceTotal
	coverage       *coverage // in force after the batch; nil: the one before
	bytes, entries int
	read           int // bytes taken from the log, covered or not
	written        time.Time
}

// gather takes whole frames from the log until a batch is full or the log has no more; nil when there is nothing.
func (f *feeder) gather() (*outgoing, error) {
	b := &outgoing{follows: f.at}
	f.shown = nil
	for b.coverage == nil && !f.marked() && b.bytes < batchBytes && b.read < 16*batchBytes && b.entries < windowEntries/4 {
		fr := f.pending
		f.pending = nil
		if fr == nil {
			var err error
			if fr, err = f.reader.TryNext(); err != nil {
				return nil, err
			}
		}
		if fr == nil {
			break
		}
		if b.read > 0 && b.read+int(fr.Length) > 16*batchBytes || !f.mayShow(fr) {
			f.pending = fr
			break
		}
		if err := f.add(b, fr); err != nil {
			return nil, err
		}
	}
	if b.end.IsZero() {
		return nil, nil
	}
	return b, nil
}

// mayShow reports whether a frame may be streamed: a performance secondary, which has readers, is sent nothing that a synchronous DR set has not confirmed. If it
// may not, f.shown is closed when that may be otherwise.
func (f *feeder) mayShow(fr *wal.Frame) bool {
	if f.peer.Kind != Performance {
		return true
	}
	index, gated, moved := f.n.confirmedIndex(DR)
	if !gated || fr.Last() <= index {
		return true
	}
	f.shown = moved
	return false
}

// add puts a frame into a batch: whole for a DR subscription, what is covered for a performance one. A cursor may lie within a
// frame: after a restart the secondary knows the last entry it took, not the end of the frame whose later entries it does not cover.
func (f *feeder) add(b *outgoing, fr *wal.Frame) error {
	next := f.at.Index + 1
	if fr.First > next || fr.Last() < next || fr.First != next && f.peer.Kind == DR {
		return fmt.Errorf("the log gave entries %d to %d where %d follows", fr.First, fr.Last(), next)
	}
	if f.peer.Kind == DR {
		b.frames = append(b.frames, fr)
		b.bytes += int(fr.Length)
		b.entries += int(fr.Count)
	} else if err := f.cut(b, fr); err != nil {
		return err
	}
	if b.written.IsZero() {
		b.written = time.Unix(0, fr.Time)
	}
	b.read += int(fr.Length)
	b.end, b.ordinal = fr.Position(), fr.Ordinal
	f.at, f.chain = b.end, fr.Chain
	return nil
}

func (f *feeder) cut(b *outgoing, fr *wal.Frame) error {
	totals, err := storage.DecodeTotals(fr.Totals)
	if err != nil {
		return fmt.Errorf("totals of the own log's frame at %d: %w", fr.First, err)
	}
	takes, told, err := f.follow(fr, totals)
	if err != nil {
		return err
	}
	b.coverage = told
	for i, e := range fr.Entries {
		if fr.First+uint64(i) <= f.at.Index {
			continue
		}
		cut, any, err := f.cutEntry(e, takes)
		if err != nil {
			return fmt.Errorf("entry %d of the own log: %w", fr.First+uint64(i), err)
		}
		if !any {
			continue
		}
		at := wal.Position{Fork: fr.Fork, Index: fr.First + uint64(i)}
		b.cut = append(b.cut, &pb.Cut{At: encodePosition(at), Entry: cut})
		b.bytes += len(cut)
		b.entries++
	}
	for _, t := range totals {
		if takes(t.ID, t.Scope) {
			if b.totals == nil {
				b.totals = map[storage.KeyspaceID]storage.KeyspaceTotal{}
			}
			b.totals[t.ID] = t
		}
	}
	return nil
}

// sendBatch sends a batch, in parts when it is large, with heartbeats between the parts.
func (f *feeder) sendBatch(ctx context.Context, b *outgoing, tick <-chan time.Time) error {
	messages, err := splitBatch(f.encode(b))
	if err != nil {
		return err
	}
	f.win.add(b.end.Index, b.bytes, b.entries, b.written)
	for _, m := range messages {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := f.stream.Send(m); err != nil {
			return err
		}
		select {
		case <-tick:
			if err := f.heartbeat(); err != nil {
				return err
			}
		default:
		}
	}
	return nil
}

func (f *feeder) encode(b *outgoing) *pb.Batch {
	h := f.head(b.end)
	h.Ordinal, h.Fork, h.Length = b.ordinal, b.end.Fork, uint64(b.bytes)
	out := &pb.Batch{Head: encodeHead(h), Follows: encodePosition(b.follows), Entries: b.cut, Coverage: encodeCoverage(b.coverage)}
	for _, fr := range b.frames {
		out.Frames = append(out.Frames, encodeFrame(fr))
	}
	if len(b.totals) > 0 {
		list := make([]storage.KeyspaceTotal, 0, len(b.totals))
		for _, t := range b.totals {
			list = append(list, t)
		}
		out.Totals = storage.EncodeTotals(list)
	}
	// A fork is in the history before its first frame is durable, so a history read now has every fork of this batch.
	// It ends where the log does, as the answer's: a shorter one would be older than what the secondary has seen.
	if history, _ := f.n.setHistory(f.peer.Kind, f.n.set(f.peer.Kind), max(b.end.Index, f.n.engine.Position().Index)); len(history) != f.forks {
		f.forks = len(history)
		out.History = encodeHistory(history)
	}
	return out
}
