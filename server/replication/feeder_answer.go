package replication

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/lockstepdb/lockstep/proto/replicationpb"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/wal"
)

func (f *feeder) send(ctx context.Context) error {
	var h *hello
	timer := time.NewTimer(helloTime)
	defer timer.Stop()
	select {
	case h = <-f.hello:
	case <-timer.C:
		return status.Errorf(codes.DeadlineExceeded, "no hello within %v", helloTime)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if h.Kind != f.peer.Kind {
		return status.Errorf(codes.PermissionDenied, "a hello for a %s subscription with the certificate of a %s secondary", h.Kind, f.peer.Kind)
	}
	if err := f.n.keyCame(ctx, f.peer); err != nil {
		return err
	}
	f.from = originOf(f.peer, h)
	f.s.join(f)
	f.win = newWindow(h.Window)
	a, err := f.answer(h)
	if err != nil {
		return err
	}
	if err := f.stream.Send(&pb.FromPrimary{Message: &pb.FromPrimary_Answer{Answer: encodeAnswer(a)}}); err != nil {
		return err
	}
	kind := answerKind(a.Kind)
	f.log.Info("answered a secondary", "answer", kind.String(), "index", a.From.Index, "resume", a.Resume, "reason", a.Reason)
	f.n.peers.update(f.peer.Kind, f.peer.ID, func(ps *peerState) {
		ps.Resumes.count(kind)
		ps.Authority = h.Authority
		ps.APIAddr, ps.ClusterAddr = orElse(h.APIAddr, ps.APIAddr), orElse(h.ClusterAddr, ps.ClusterAddr)
	})
	if kind != Continue && kind != Repair && kind != Bootstrap {
		return f.linger(ctx, a)
	}
	f.at = a.From
	f.reader = f.n.engine.LogReader(a.From.Index + 1)
	return f.feed(ctx)
}

// linger leaves the secondary the time to read an answer that is no welcome and to hang up.
func (f *feeder) linger(ctx context.Context, a *answer) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(f.n.cfg.HeartbeatInterval):
		return status.Error(codes.FailedPrecondition, a.Reason)
	}
}

// answer decides by place and completes what it says.
func (f *feeder) answer(h *hello) (*answer, error) {
	set := f.n.set(f.peer.Kind)
	if set == nil {
		return nil, status.Error(codes.FailedPrecondition, "this cluster has left the set")
	}
	at, own := f.here(set)
	id := f.n.engine.Identity()
	a := &answer{head: f.head(at.End), History: at.History, ClusterID: id.ClusterID, ClusterName: id.ClusterName}
	f.forks = len(at.History)
	if err := f.coverNow(h, a); err != nil {
		return nil, err
	}
	at.First, at.Floor = f.n.engine.FirstIndex(), f.floor() // of what is covered now
	history, log, end := at.History, at.Log, at.End         // placed may look again; what is told is what coverNow belongs to
	d, err := f.placed(at, &callerPlace{
		Set: h.Set, Version: h.Software, Lineage: h.Lineage, Place: h.Position, Chain: h.Chain, History: h.Seen, Log: h.History,
		Identity: f.s.identity(f.peer, h.History),
	})
	if err != nil {
		return nil, err
	}
	if d, err = f.meet(h, d); err != nil {
		return nil, err
	}
	a.Reason = d.Reason
	f.sync(h, a, &d, log, end)
	a.Kind = wireAnswer(d.Kind)
	if d.Conflict { // the secondary is fine and asks again: an operator ends it here
		a.Kind = pb.Answer_KIND_I_AM_STALE
	}
	if d.Kind == Stale || d.Conflict {
		a.History = f.n.news(f.peer.Kind, history, h.Seen)
	}
	if err := f.begin(h, a, d, own, end); err != nil {
		return nil, err
	}
	f.welcome(a, d, history, log, end)
	return a, nil
}

// here is this cluster as place sees it, but for First and Floor, and its history as its own log has it.
func (f *feeder) here(set *setConfig) (at *feederPlace, own []engine.Reign) {
	e := f.n.engine
	end := e.Position()
	history, own := f.n.setHistory(f.peer.Kind, set, end.Index)
	at = &feederPlace{
		Kind: f.peer.Kind, Set: set.Set, Version: f.n.cfg.Version, History: history, Log: durable(e.History(), end.Index), End: end,
		Chain: func(index uint64) (wal.Hash, bool) {
			c, err := e.ChainAt(index)
			return c, err == nil
		},
	}
	at.After = func(p wal.Position) (uint64, bool) { return f.n.after(at.History, set, p) }
	return at, own
}

// sync makes a repair of going on when the secondary asks for one, or when the sync that it was in cannot be resumed here.
func (f *feeder) sync(h *hello, a *answer, d *Answer, log []engine.Reign, end wal.Position) {
	switch {
	case (d.Kind == Continue || d.Kind == Rewind) && h.Repair != "":
		d.Kind, a.Reason = Repair, h.Repair
	case d.Kind == Continue && h.Sync != nil:
		a.Resume = onHistory(log, end.Index, h.Sync.From) && onHistory(log, end.Index, h.Sync.Until)
		if !a.Resume {
			d.Kind, a.Reason = Repair, "the sync that was under way read from a history that is not this primary's"
		}
	}
}

// begin says from where the secondary is fed.
func (f *feeder) begin(h *hello, a *answer, d Answer, own []engine.Reign, end wal.Position) error {
	e := f.n.engine
	switch d.Kind {
	case Continue, Rewind:
		if h.Sync != nil && e.FinishedAt().Index < h.Sync.From.Index { // ranges are read from a checkpoint that is not before S
			if err := e.Checkpoint(f.stream.Context()); err != nil {
				return err
			}
		}
		a.From = d.At
		if c, err := e.ChainAt(d.At.Index); err == nil {
			a.Chain = c
		}
		if d.Kind == Rewind {
			a.Common = d.Common
		}
	case Repair, Bootstrap:
		if s := e.SyncState(); s != nil {
			return status.Error(codes.Unavailable, "this cluster is in a sync itself: ask again when it has ended")
		}
		if err := f.catchUp(h.Position, own, end.Index); err != nil {
			return err
		}
		v := e.Finished()
		a.From, a.Chain = v.Position(), v.Chain()
		v.Release()
		return f.coverNow(h, a) // as of an index that is not before S
	}
	return nil
}

// welcome notes where a secondary that is fed stands, and holds the log for it before the answer is given: its spool begins there, whatever it had
// acknowledged before.
func (f *feeder) welcome(a *answer, d Answer, history, log []engine.Reign, end wal.Position) {
	welcome := d.Kind == Continue || d.Kind == Repair || d.Kind == Bootstrap
	if welcome {
		if f.peer.Kind == Performance && !onHistory(history, end.Index, a.From) {
			a.Log = log
		}
		f.n.peers.update(f.peer.Kind, f.peer.ID, func(ps *peerState) {
			ps.Acked, ps.Placed = a.From, true
			if d.Kind != Continue || a.Resume { // what it acknowledges is not readable there: it confirms nothing
				ps.State = ""
			}
		})
	}
	f.hold(a.From.Index+1, welcome)
}

// placed is place, asked again when the secondary seems to have more than this cluster wrote: its end may be an instant behind what its streams have sent.
func (f *feeder) placed(at *feederPlace, caller *callerPlace) (Answer, error) {
	d := place(at, caller)
	if d.Kind != Restored {
		return d, nil
	}
	wait, stop := context.WithTimeout(f.stream.Context(), restoredWait)
	defer stop()
	if f.n.engine.Passed(wait, "", caller.Place.Index) == nil {
		set := f.n.set(at.Kind)
		if set == nil {
			return d, status.Error(codes.FailedPrecondition, "this cluster has left the set")
		}
		at.End = f.n.engine.Position()
		at.History, _ = f.n.setHistory(at.Kind, set, at.End.Index)
		at.Log = durable(f.n.engine.History(), at.End.Index)
	}
	return place(at, caller), nil
}

// restoredWait is how long a secondary that has more than this primary waits for the answer that nobody wants to hear in error.
const restoredWait = time.Second

// meet fences this primary when a hello's histories demand it, durably before the hello is answered.
func (f *feeder) meet(h *hello, d Answer) (Answer, error) {
	from := teller{How: "secondary " + f.peer.ID, Cluster: h.ClusterID, APIAddr: h.APIAddr, ClusterAddr: h.ClusterAddr}
	switch {
	case d.Kind == Stale, d.Conflict:
		return f.n.meet(f.peer.Kind, h.Seen, from)
	case d.Kind == Restored:
		from.How += fmt.Sprintf(", at index %d", h.Position.Index)
		return d, f.n.fenceBy(f.peer.Kind, d, h.Seen, true, from)
	}
	return d, nil
}

// catchUp sees that a sync does not begin before this cluster's newest fork, and so not before it was promoted: a checkpoint from before may be of the sync that the
// promotion ended. Nor does it begin before the place of a performance secondary, which serves reads meanwhile: what was written since the newest checkpoint would
// vanish there until its spool is applied, mounts too.
func (f *feeder) catchUp(place wal.Position, own []engine.Reign, last uint64) error {
	e := f.n.engine
	at := e.FinishedAt().Index
	old := len(own) > 0 && at < own[len(own)-1].Start
	if !old && (f.peer.Kind != Performance || !onHistory(own, last, place) || place.Index <= at) {
		return nil
	}
	if err := e.Checkpoint(f.stream.Context()); err != nil {
		return fmt.Errorf("making a checkpoint for a sync: %w", err)
	}
	return nil
}

// durable leaves out of a history a fork none of whose frames is durable: a restart would forget it, and nobody may know of it before.
func durable(history []engine.Reign, last uint64) []engine.Reign {
	for len(history) > 0 && history[len(history)-1].Start > last {
		history = history[:len(history)-1]
	}
	return history
}

// floor returns the index from which the own log alone tells the story of what a performance subscription covers.
func (f *feeder) floor() uint64 {
	var floor uint64
	if f.peer.Kind != Performance {
		return 0
	}
	totals, _ := f.n.engine.Totals()
	for _, t := range totals {
		if f.takes()(t.ID, t.Scope) {
			floor = max(floor, f.n.engine.Floor(t.ID))
		}
	}
	return floor
}

// hold keeps the log from an index on for the secondary. It is also the first thing that an answer does.
func (f *feeder) hold(from uint64, on bool) {
	if on && from != f.held {
		f.held = from
		f.n.engine.Hold(f.peer.key(), from)
	}
}

var answerKinds = map[pb.Answer_Kind]AnswerKind{
	pb.Answer_KIND_CONTINUE:   Continue,
	pb.Answer_KIND_REPAIR:     Repair,
	pb.Answer_KIND_REWIND:     Rewind,
	pb.Answer_KIND_BOOTSTRAP:  Bootstrap,
	pb.Answer_KIND_REFUSED:    Refuse,
	pb.Answer_KIND_SUPERSEDED: Superseded,
	pb.Answer_KIND_I_AM_STALE: Stale,
	pb.Answer_KIND_RESTORED:   Restored,
}

// answerKind returns NoAnswer for one that this program does not know.
func answerKind(k pb.Answer_Kind) AnswerKind { return answerKinds[k] }

func wireAnswer(a AnswerKind) pb.Answer_Kind {
	for w, k := range answerKinds {
		if k == a {
			return w
		}
	}
	return pb.Answer_KIND_UNSPECIFIED
}

// head returns the head of a message: the epoch is the newest of the own log.
func (f *feeder) head(at wal.Position) head {
	h := head{Lineage: f.n.engine.Identity().Lineage, Position: at}
	if history := durable(f.n.engine.History(), at.Index); len(history) > 0 {
		r := history[len(history)-1]
		h.Ordinal, h.Fork = r.Ordinal, r.Fork
	}
	return h
}
