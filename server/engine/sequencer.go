package engine

import (
	"context"
	"fmt"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// sequencer puts all work in one order. Its goroutine alone touches it (and Open, before Run).
type sequencer struct {
	e       *Engine
	ledger  *ledger
	last    uint64                  // newest index given
	chain   wal.Hash                // Verbatim: of the newest frame taken
	cursors map[string]wal.Position // as sequenced
	syncing *storage.SyncState      // as sequenced

	cur      *group // being gathered
	inflight []*group
	waiting  []waiter
	alone    *job // exclusive work that waits for what is under way
}

// waiter is an answer that waits until an index is durable.
type waiter struct {
	job     *job
	verdict verdict
}

// group is the entries of one commit.
type group struct {
	entries []storage.Applying
	encoded [][]byte
	frames  []*wal.Frame // Verbatim: as they came
	last    uint64
	bytes   int64
	touched map[storage.KeyspaceID]struct{}
	totals  []storage.KeyspaceTotal // Writer: for the frame's header; Verbatim: of what was touched
	refs    []pendingRef
	drops   []storage.KeyspaceID

	attached []storage.KeyspaceID

	cursors map[string]wal.Position
	jobs    []*job
	system  bool // touches a system keyspace
	marks   bool // moves a sync
	syncing *storage.SyncState
}

func newGroup() *group {
	return &group{touched: map[storage.KeyspaceID]struct{}{}, cursors: map[string]wal.Position{}}
}

// nextFrame is the committer's request for a group: all says that the frame begins a segment.
type nextFrame struct{ all bool }

// run sequences until stop, then lets everything under way end.
func (s *sequencer) run(ctx context.Context) {
	draining := false
	stop := ctx.Done()
	for {
		if s.idle() {
			if s.alone != nil {
				s.runAlone(ctx)
			}
			if draining {
				return
			}
		}
		var jobs <-chan *job
		if s.room() && !draining {
			jobs = s.e.jobs
		}
		var ready <-chan nextFrame
		if len(s.cur.entries) > 0 {
			ready = s.e.ready
		}
		select {
		case j := <-jobs:
			s.take(j)
		case r := <-ready:
			s.handOver(r)
		case g := <-s.e.applied:
			s.retire(g)
		case <-s.e.life.failed:
			s.fail()
			return
		case <-stop:
			draining, stop = true, nil
		}
	}
}

func (s *sequencer) idle() bool { return len(s.cur.entries) == 0 && len(s.inflight) == 0 }

func (s *sequencer) room() bool {
	return s.alone == nil && len(s.cur.entries) < groupEntries && s.cur.bytes < groupBytes && len(s.cur.touched) < groupKeyspaces
}

func (s *sequencer) take(j *job) {
	if _, ok := j.work.(*exclusive); ok {
		j.taken.Unlock()
		s.alone = j
		return
	}
	v := j.work.sequence(s)
	j.taken.Unlock()
	s.settle(j, v)
}

// settle lets a job be answered when its verdict says.
func (s *sequencer) settle(j *job, v verdict) {
	switch {
	case v.placed:
		j.index = s.last
		s.cur.jobs = append(s.cur.jobs, j)
	case v.after > s.durable():
		s.waiting = append(s.waiting, waiter{j, v})
	default:
		v.give(j)
	}
}

func (v *verdict) give(j *job) {
	if v.then != nil {
		v.then()
	}
	j.answer(wal.Position{}, v.err)
}

// durable is the newest index whose commit the sequencer has heard of.
func (s *sequencer) durable() uint64 {
	if len(s.inflight) > 0 {
		return s.inflight[0].first() - 1
	}
	return s.last - uint64(len(s.cur.entries))
}

func (g *group) first() uint64 { return g.last + 1 - uint64(len(g.entries)) }

// stamp gives an entry first written here its index and header.
func (s *sequencer) stamp(e *storage.Entry, requestID string, m meta) {
	e.Version = entryVersion
	e.Index = s.last + 1
	e.Time = s.e.cfg.Now().UnixNano()
	e.RequestID = requestID
	e.Housekeeping = m.housekeeping
	e.Sync = m.mark
}

// allowed refuses client writes that the state of a sync forbids, and a keyspace in a scope that is not its own.
func (s *sequencer) allowed(e *storage.Entry, m meta) error {
	for i := range e.Blocks {
		b := &e.Blocks[i]
		if s.syncing != nil && !m.housekeeping && b.Scope == storage.Replicated {
			return ErrInconsistent
		}
		if err := s.scope(b); err != nil {
			return err
		}
	}
	return nil
}

func (s *sequencer) scope(b *storage.Block) error {
	if t, ok := s.ledger.total(b.Keyspace); ok && t.Scope != b.Scope {
		return fmt.Errorf("keyspace %s has scope %d, not %d: a scope never changes", b.Keyspace, t.Scope, b.Scope)
	}
	return nil
}

// accept adds a drafted entry to the group.
func (s *sequencer) accept(p *prepared) {
	s.ledger.accept(s.cur)
	s.place(p)
}

// place adds an entry whose draft is accepted.
func (s *sequencer) place(p *prepared) {
	g := s.cur
	s.last = p.entry.Index
	g.last = s.last
	g.entries = append(g.entries, p.applying())
	g.encoded = append(g.encoded, p.encoded)
	g.bytes += int64(len(p.encoded))
	g.system = g.system || touchesSystem(p.entry)
	if e := effectOf(p.entry); e != nil {
		s.syncing = e.apply(s.syncing, s.cursors)
		e.apply(nil, g.cursors)
		if e.mark != nil {
			g.marks, g.syncing = true, s.syncing
		}
	}
}

// touchesSystem tells whether an entry changes what caches hold: records of the system, or about a keyspace.
func touchesSystem(e *storage.Entry) bool {
	for i := range e.Blocks {
		if ks := e.Blocks[i].Keyspace; ks == storage.SystemReplicated || ks == storage.SystemLocal || describes(&e.Blocks[i]) {
			return true
		}
	}
	return false
}

// handOver gives the gathered group to the committer, which waits for it.
func (s *sequencer) handOver(r nextFrame) {
	g := s.cur
	g.totals = s.ledger.list(g.touched, r.all && s.e.Role() == Writer)
	s.cur = newGroup()
	s.inflight = append(s.inflight, g)
	s.e.commits <- g
}

// retire takes a durable group out of what is pending, and gives the answers that waited for it.
func (s *sequencer) retire(g *group) {
	s.inflight = s.inflight[1:]
	s.ledger.retire(g)
	durable := s.durable()
	rest := s.waiting[:0]
	for _, w := range s.waiting {
		if w.verdict.after <= durable {
			w.verdict.give(w.job)
		} else {
			rest = append(rest, w)
		}
	}
	clear(s.waiting[len(rest):])
	s.waiting = rest
}

// runAlone runs exclusive work: nothing is gathered or under way, and no checkpoint runs.
func (s *sequencer) runAlone(run context.Context) {
	j := s.alone
	s.alone = nil
	x := j.work.(*exclusive)
	ctx, cancel := context.WithCancelCause(x.ctx)
	defer cancel(nil)
	defer context.AfterFunc(run, func() { cancel(ErrStopped) })()
	var err error
	if x.run != nil {
		s.e.fileMu.Lock()
		err = x.run(ctx)
		s.e.fileMu.Unlock()
	}
	if err != nil || x.then == nil {
		j.answer(wal.Position{}, err)
		return
	}
	s.settle(j, x.then.sequence(s))
}

// fail answers everybody whose work is not durable; what was only pending is gone.
func (s *sequencer) fail() {
	err := s.e.life.refusal()
	handedOver := fmt.Errorf("%w: %w", ErrOutcomeUnknown, err) // the commit that failed may have become durable
	for _, g := range s.inflight {
		for _, j := range g.jobs {
			j.answer(wal.Position{}, handedOver)
		}
	}
	for _, j := range s.cur.jobs {
		j.answer(wal.Position{}, err)
	}
	for _, w := range s.waiting {
		w.job.answer(wal.Position{}, err)
	}
	if s.alone != nil {
		s.alone.answer(wal.Position{}, err)
	}
}
