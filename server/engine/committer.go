package engine

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// maxThrottle is how long a commit waits at most for a checkpoint that falls behind, as long as the table is not full.
const maxThrottle = 20 * time.Millisecond

// committer makes groups durable, then readable, then answers. Its goroutine
// alone appends to the log (and exclusive work, while it rests).
type committer struct {
	e *Engine

	mu      sync.Mutex // guards what follows: exclusive work changes it while the committer rests
	fork    wal.Fork   // of this opening; zero until the first own frame
	ordinal uint64
	epoch   bool   // the next fork begins an epoch, with what follows
	above   uint64 // whose ordinal is above this one

	overrides []wal.Fork // and that wins against these forks of others

	term atomic.Uint64 // the ordinal that the next entry will have

	chain wal.Hash
	last  wal.Position

	fresh   bool            // the next frame begins a segment
	entries int             // in the active segment
	forks   []wal.ForkStart // Verbatim: that the frames taken since Open began
	bytes   int64
}

// run commits until the sequencer has ended and nothing is left.
func (c *committer) run(sequenced <-chan struct{}) {
	for {
		runtime.Gosched() // whoever was just answered may have more for the next group: each group costs two syncs
		select {
		case c.e.ready <- nextFrame{all: c.wantsAll()}:
		case <-sequenced:
			return
		case <-c.e.life.failed:
			return
		}
		g := <-c.e.commits
		if err := c.commit(g); err != nil {
			c.e.life.fail(err)
			return
		}
		c.e.applied <- g
		c.throttle()
	}
}

// commit appends a group: the commit point of everything. Then it makes the group readable and wakes who waits.
func (c *committer) commit(g *group) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	frames := g.frames
	if c.e.Role() == Writer {
		f, err := c.seal(g)
		if err != nil {
			return err
		}
		frames = []*wal.Frame{f}
	}
	began := time.Now()
	if err := c.append(frames); err != nil {
		return err
	}
	c.e.meters.Persist.Since(began)
	c.e.meters.Group.Observe(uint64(len(g.entries)))
	c.publish(g)
	c.e.stats.commit(g)
	for _, j := range g.jobs {
		j.answer(wal.Position{Fork: c.last.Fork, Index: j.index}, nil)
	}
	return nil
}

// seal makes the frame of a writer's group.
func (c *committer) seal(g *group) (*wal.Frame, error) {
	if c.fork == (wal.Fork{}) {
		if err := c.mint(g.first()); err != nil {
			return nil, err
		}
	}
	f := &wal.Frame{
		Header: wal.Header{
			Lineage: c.e.Identity().Lineage,
			Ordinal: c.ordinal,
			Fork:    c.fork,
			First:   g.first(),
			Count:   uint32(len(g.encoded)),
			Time:    c.e.cfg.Now().UnixNano(),
			Totals:  storage.EncodeTotals(g.totals),
		},
		Entries: g.encoded,
	}
	f.Seal(c.chain)
	return f, nil
}

// mint begins a fork: no two openings of a log for writing share one, so no two entries in the world share a position. It is in
// the history before its first frame is durable; a fork without a frame is forgotten at the next open.
func (c *committer) mint(first uint64) error {
	fork, err := newFork()
	if err != nil {
		return err
	}
	reign := c.e.hist.next(fork, first, c.e.Identity(), c.e.cfg.Now())
	if c.epoch {
		reign.Ordinal = max(reign.Ordinal, c.above) + 1
		reign.Overrides = c.overrides
	}
	if err := c.e.hist.add(c.e.wal, reign); err != nil {
		return fmt.Errorf("noting a new fork: %w", err)
	}
	c.fork, c.ordinal, c.epoch = fork, reign.Ordinal, false
	c.term.Store(reign.Ordinal)
	return nil
}

func (c *committer) wantsAll() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.beginsSegment()
}

func (c *committer) beginsSegment() bool {
	return c.fresh || c.entries >= c.e.cfg.SegmentEntries || c.bytes >= c.e.cfg.SegmentBytes
}

// append makes frames durable. A segment begins with a note of the totals before it, so that TotalsAt need not look back further.
func (c *committer) append(frames []*wal.Frame) error {
	if c.beginsSegment() {
		if err := c.rotate(); err != nil {
			return err
		}
	}
	if err := c.e.wal.Append(frames...); err != nil {
		return fmt.Errorf("committing entries %d to %d: %w", frames[0].First, frames[len(frames)-1].Last(), err)
	}
	for _, f := range frames {
		if f.Fork != c.last.Fork && c.e.Role() == Verbatim {
			c.forks = append(c.forks, wal.ForkStart{Ordinal: f.Ordinal, Fork: f.Fork, First: f.First})
		}
		c.last = f.Position()
		c.entries += int(f.Count)
		c.bytes += int64(f.Length)
	}
	c.chain = frames[len(frames)-1].Chain
	return nil
}

func (c *committer) rotate() error {
	if c.e.sync.spooling() == nil {
		if err := c.e.bases.add(c.e.wal, c.last.Index, c.e.state.Totals()); err != nil {
			return fmt.Errorf("noting the totals before a new segment: %w", err)
		}
	}
	if err := c.e.wal.Rotate(); err != nil {
		return fmt.Errorf("beginning a new segment after %d: %w", c.last.Index, err)
	}
	c.fresh, c.entries, c.bytes = false, 0, 0
	return nil
}

// publish makes a durable group readable: table and totals first, then the place. What entries say of a cursor moves with them; what is known
// beyond that, the end of a batch, is recorded after them: a checkpoint between the two lacks only that nothing more of the feeder's log is covered.
func (c *committer) publish(g *group) {
	e := c.e
	e.applyMu.Lock()
	e.state.Apply(g.entries, g.totals, c.last, c.chain)
	for sub, p := range g.cursors {
		e.state.SetCursor(sub, p)
	}
	if g.marks {
		e.sync.set(g.syncing)
	}
	if g.system {
		e.system.Add(1)
	}
	e.place.move(c.last, c.chain, g.cursors)
	e.applyMu.Unlock()
	e.askIfFull()
}

// throttle slows commits down gradually while a checkpoint falls behind, and stops them when the table is full.
func (c *committer) throttle() {
	limit := c.e.cfg.CheckpointBytes
	active, running := c.e.state.TableBytes()
	if active <= limit/2 || !running && active < 2*limit {
		return
	}
	began := time.Now()
	if active < limit {
		share := float64(active-limit/2) / float64(limit-limit/2)
		c.pause(time.Duration(share * float64(maxThrottle)))
	} else {
		c.awaitCheckpoint(limit)
	}
	c.e.stats.throttled.Add(int64(time.Since(began)))
}

func (c *committer) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.e.life.failed:
	}
}

// awaitCheckpoint waits until the table has room again.
func (c *committer) awaitCheckpoint(limit int64) {
	for {
		finished := c.e.stats.nextCheckpoint()
		c.e.askIfFull() // the group that filled the table came while a checkpoint ran, and asked for none
		if active, running := c.e.state.TableBytes(); active < limit || !running && active < 2*limit {
			return
		}
		select {
		case <-finished:
		case <-c.e.life.failed:
			return
		}
	}
}

// begin takes up the log where Open, or a step of a sync, left it.
func (c *committer) begin(at wal.Position, chain wal.Hash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.chain, c.fresh = at, chain, true
	c.forks = slices.DeleteFunc(c.forks, func(f wal.ForkStart) bool { return f.First > at.Index }) // the log was taken back
	c.term.Store(c.e.hist.ordinal())
}

// turn lets the log go on in another role after the place where it is.
func (c *committer) turn(role Role) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.e.hist.fit(c.e.wal, role, c.last.Index, c.forks, c.e.ident.Load()); err != nil {
		return fmt.Errorf("the log's history: %w", err)
	}
	c.fork, c.forks = wal.Fork{}, nil
	c.term.Store(c.e.hist.ordinal())
	return nil
}

// abandon ends the engine because of err: a commit failed, or what was to be written could not be. Only an end by ctx is none.
func (e *Engine) abandon(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil && !isCommit(err) {
		return err
	}
	e.life.fail(err)
	return e.life.refusal()
}
