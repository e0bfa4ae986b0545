package replication

import (
	"errors"
	"fmt"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// apply takes batches and commits them, from the answer's place on. After a sync they are being taken already.
func (sub *subscription) apply() { sub.begin(sub.answer.From, false) }

// begin starts the applying goroutine after a place.
func (sub *subscription) begin(at wal.Position, spool bool) {
	if sub.begun {
		return
	}
	sub.begun = true
	sub.at = at
	sub.wg.Go(func() {
		err := sub.applying(spool)
		if err == nil || sub.ctx.Err() != nil {
			return
		}
		var d *engine.Diverged
		if errors.As(err, &d) {
			sub.l.log.Error("a batch was refused: applied here it would give another root than the primary's", "keyspace", d.Keyspace.String(),
				"index", d.At.Index, "root", fmt.Sprintf("%x", d.Got[:]), "primary_root", fmt.Sprintf("%x", d.Want[:]))
			sub.tell(Event{Kind: Diverged, Reason: d.Error()})
			return
		}
		sub.tell(failure(err))
	})
}

// applying commits batches as they come; while spooling it makes them durable, and ends the sync once all ranges are here.
func (sub *subscription) applying(spool bool) error {
	seen, err := sub.l.n.seen(sub.l.kind)
	if err != nil {
		return err
	}
	sub.history = seen
	for {
		if spool {
			ended, err := sub.endSync()
			if err != nil {
				return err
			}
			if ended {
				spool = false
				continue
			}
		} else {
			sub.compareAt(sub.at) // what was heard before batches were taken
		}
		batches, err := sub.in.take(sub.ctx)
		if err != nil {
			return nil
		}
		// What is right before a wrong batch is committed nevertheless: the next stream begins after it.
		good, wrong := sub.check(batches)
		if len(good) > 0 {
			resync, err := sub.commitAll(good, spool)
			if err != nil {
				return err
			}
			if resync { // this stream goes on under a coverage that only a sync completes: another takes its place
				sub.tell(Event{Kind: CoverageChanged, Reason: coverageCause})
				return nil
			}
		}
		if wrong != nil {
			return wrong
		}
	}
}

// check holds batches against what came before them: they follow each other without a gap, on the history that was accepted. One
// that is here already is only acknowledged again. It returns what is right before the first that is wrong.
func (sub *subscription) check(batches []*batch) (good []*batch, wrong error) {
	at := sub.at
	for _, b := range batches {
		if len(b.History) > 0 {
			if err := sub.l.acceptHistory(b.History); err != nil {
				return good, err
			}
			sub.history = b.History
		}
		if b.End.Index <= at.Index && sub.held(b, good) {
			sub.wakeAcks()
			continue
		}
		if b.Follows != at {
			return good, malformed("a batch that follows index %d (fork %v), where index %d (fork %v) was reached", b.Follows.Index, b.Follows.Fork, at.Index, at.Fork)
		}
		if err := sub.checkForks(b); err != nil {
			return good, err
		}
		at = b.End
		good = append(good, b)
	}
	return good, nil
}

// held reports whether a batch is a repetition of what is durable here or about to be.
func (sub *subscription) held(b *batch, good []*batch) bool {
	for _, g := range good {
		if g.End == b.End {
			return sub.l.kind != DR || lastChain(g) == lastChain(b)
		}
	}
	if sub.l.kind != DR {
		return sub.on(sub.at.Index, b.End)
	}
	chain, err := sub.l.e.ChainAt(b.End.Index)
	return err == nil && chain == lastChain(b)
}

func lastChain(b *batch) wal.Hash { return b.Frames[len(b.Frames)-1].Chain }

// checkForks refuses entries that are not on the accepted history.
func (sub *subscription) checkForks(b *batch) error {
	for _, f := range b.Frames {
		if !onHistory(sub.history, f.Last(), f.Position()) || !onHistory(sub.history, f.Last(), wal.Position{Fork: f.Fork, Index: f.First}) {
			return malformed("the frame at index %d is of fork %v, which is not on the primary's history there", f.First, f.Fork)
		}
		if r := reignOf(sub.history, f.Fork); r.Ordinal != f.Ordinal || r.Lineage != f.Lineage {
			return malformed("the frame at index %d is of ordinal %d, its fork of ordinal %d", f.First, f.Ordinal, r.Ordinal)
		}
	}
	for _, c := range b.Cut {
		if !sub.on(b.End.Index, c.At) {
			return malformed("the entry at index %d is of fork %v, which is not on the primary's history there", c.At.Index, c.At.Fork)
		}
	}
	if !sub.on(b.End.Index, b.End) {
		return malformed("a batch ends at index %d of fork %v, which is not on the primary's history there", b.End.Index, b.End.Fork)
	}
	return nil
}

// on reports whether a place of the feeder's, whose log ends at last, is on the accepted history, or in its log from before its reign.
func (sub *subscription) on(last uint64, p wal.Position) bool {
	return onHistory(sub.history, last, p) || onHistory(sub.answer.Log, last, p)
}

func reignOf(h []engine.Reign, fork wal.Fork) engine.Reign {
	for i := range h {
		if h[i].Fork == fork {
			return h[i]
		}
	}
	return engine.Reign{}
}

// commit makes batches durable: applied, or spooled. It is not cut short by a lost connection, so that the place of the next hello is exact.
func (sub *subscription) commit(batches []*batch, spool bool) error {
	ctx, e := sub.l.ctx, sub.l.e
	if sub.l.kind == DR {
		var frames []*wal.Frame
		for _, b := range batches {
			frames = append(frames, b.Frames...)
		}
		if spool {
			return e.SpoolFrames(ctx, frames)
		}
		return e.IngestFrames(ctx, frames)
	}
	b := merge(batches)
	if spool {
		return e.SpoolCut(ctx, b)
	}
	return e.IngestCut(ctx, b)
}

// merge makes one batch of several that follow each other: one commit, with the digests at its end.
func merge(batches []*batch) *engine.CutBatch {
	out := &engine.CutBatch{Subscription: engine.Performance, End: batches[len(batches)-1].End}
	totals := map[storage.KeyspaceID]storage.KeyspaceTotal{}
	for _, b := range batches {
		out.Entries = append(out.Entries, b.Cut...)
		for _, t := range b.Totals {
			totals[t.ID] = t
		}
	}
	for _, t := range totals {
		out.Totals = append(out.Totals, t)
	}
	return out
}

// took notes what was committed and has it acknowledged.
func (sub *subscription) took(batches []*batch) {
	last := batches[len(batches)-1]
	sub.at = last.End
	if t := last.time(); !t.IsZero() {
		sub.written = t
	}
	sub.l.progress.Store(true)
	sub.wakeAcks()
	sub.mu.Lock()
	newest, clock := sub.newest, time.Unix(0, sub.clock)
	if sub.clock == 0 { // no heartbeat yet on this connection
		clock = sub.l.n.now()
	}
	sub.mu.Unlock()
	sub.l.n.link[sub.l.kind].update(func(s *linkState) {
		s.LastRemote = last.End.Index
		s.LagEntries = newest.Index - min(newest.Index, last.End.Index)
		s.LagTime = 0
		if s.LagEntries > 0 && !sub.written.IsZero() {
			s.LagTime = max(0, clock.Sub(sub.written))
		}
		s.Primary.CanaryAge = s.LagTime
	})
}

// time returns when the batch's last entry was committed, on the primary's clock; zero when it tells none.
func (b *batch) time() time.Time {
	if n := len(b.Frames); n > 0 {
		return time.Unix(0, b.Frames[n-1].Time)
	}
	return b.Newest
}
