package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// CutBatch is what a performance (later: index) subscription receives: entries cut to its coverage.
type CutBatch struct {
	Subscription string // "performance"
	Entries      []CutEntry
	End          wal.Position            // the feeder's place at the end of the batch, entries not covered included
	Totals       []storage.KeyspaceTotal // the feeder's, of covered keyspaces touched in the batch, at End
}

// CutEntry is one entry of a CutBatch: its place in the feeder's log and its covered bytes (storage.CutEntry).
type CutEntry struct {
	At    wal.Position
	Bytes []byte
}

// maxBatch bounds the entries of one batch, and the frames of one call: outside input reaches both.
const maxBatch = 65_536

// IngestCut commits a batch under this cluster's own indexes, sources kept, through the same commit path as
// client writes. The digests it gives are compared with Totals before anything is committed: *Diverged. On return it is durable; the cursor is at b.End.
// Entries that the cursor has passed are skipped. During a sync it is refused with ErrInconsistent: SpoolCut takes batches then.
func (e *Engine) IngestCut(ctx context.Context, b *CutBatch) error {
	if e.SyncState() != nil {
		return ErrInconsistent
	}
	return e.ingestCut(ctx, b, true)
}

func (e *Engine) ingestCut(ctx context.Context, b *CutBatch, compare bool) error {
	if e.Role() != Writer {
		return fmt.Errorf("a cut batch: %w", ErrNotWritable)
	}
	if err := e.disk.streamable(); err != nil {
		return err
	}
	w, err := e.prepareCut(b)
	if err != nil {
		return err
	}
	w.compare, w.spooled = compare, e.SyncState() != nil
	_, err = e.submit(ctx, w)
	return err
}

// cutWork is a batch on its way through the sequencer.
type cutWork struct {
	batch   *CutBatch
	entries []cutPrepared
	compare bool
	spooled bool // given while a sync applies its spool
}

type cutPrepared struct {
	at wal.Position
	*prepared
}

// prepareCut decodes a batch and fetches what its sequencing needs.
func (e *Engine) prepareCut(b *CutBatch) (*cutWork, error) {
	if len(b.Entries) > maxBatch {
		return nil, fmt.Errorf("a batch of %d entries, at most %d: %w", len(b.Entries), maxBatch, ErrTooLarge)
	}
	if b.Subscription == "" || b.End.IsZero() {
		return nil, errors.New("a batch names no subscription, or no place at which it ends")
	}
	w := &cutWork{batch: b}
	passed := e.Cursor(b.Subscription).Index
	last := uint64(0)
	for _, c := range b.Entries {
		if c.At.Index <= last || c.At.Index > b.End.Index {
			return nil, fmt.Errorf("entry %d of the feeder is out of order in a batch that ends at %d", c.At.Index, b.End.Index)
		}
		last = c.At.Index
		if last <= passed {
			continue
		}
		p, err := e.prepareCutEntry(c)
		if err != nil {
			return nil, fmt.Errorf("entry %d of the feeder: %w", c.At.Index, err)
		}
		w.entries = append(w.entries, cutPrepared{c.At, p})
	}
	return w, nil
}

func (e *Engine) prepareCutEntry(c CutEntry) (*prepared, error) {
	p, err := decodeEntry(c.Bytes)
	if err != nil {
		return nil, err
	}
	if p.entry.Housekeeping || p.entry.Sync != nil {
		return nil, errors.New("a housekeeping entry never leaves its cluster for a performance secondary")
	}
	for i := range p.entry.Blocks {
		if b := &p.entry.Blocks[i]; b.Scope != storage.Replicated {
			return nil, fmt.Errorf("keyspace %s does not have the replicated scope", b.Keyspace)
		}
	}
	e.keys.digest(p)
	return p, e.lookup(p)
}

// sequence gives the batch's entries their own indexes and compares what they give with the feeder's totals.
func (w *cutWork) sequence(s *sequencer) verdict {
	b := w.batch
	if (s.syncing != nil) != w.spooled {
		return verdict{err: ErrInconsistent}
	}
	if s.cursors[b.Subscription].Index >= b.End.Index {
		return verdict{after: s.last}
	}
	fresh, err := w.draft(s)
	if err == nil && w.compare {
		err = s.ledger.compare(b.Totals, s.ledger.draft.totals, b.End)
	}
	if err != nil {
		s.ledger.forget()
		return verdict{err: err, after: s.last}
	}
	s.cursors[b.Subscription] = b.End
	if len(fresh) == 0 {
		return verdict{after: s.last, then: func() { s.e.moveCursor(b.Subscription, b.End) }}
	}
	s.ledger.accept(s.cur)
	for _, p := range fresh {
		s.place(p)
	}
	s.cursors[b.Subscription] = b.End
	s.cur.cursors[b.Subscription] = b.End
	return verdict{placed: true}
}

// draft drafts the entries that the cursor has not passed.
func (w *cutWork) draft(s *sequencer) ([]*prepared, error) {
	passed := s.cursors[w.batch.Subscription].Index
	fresh := make([]*prepared, 0, len(w.entries))
	for _, c := range w.entries {
		if c.at.Index <= passed {
			continue
		}
		own := *c.entry
		own.Index = s.last + 1 + uint64(len(fresh))
		own.Upstream = c.at
		p := &prepared{entry: &own, digests: c.digests, olds: c.olds}
		if err := w.add(s, p); err != nil {
			return nil, fmt.Errorf("entry %d of the feeder: %w", c.at.Index, err)
		}
		fresh = append(fresh, p)
	}
	return fresh, nil
}

func (w *cutWork) add(s *sequencer, p *prepared) error {
	for i := range p.entry.Blocks {
		if err := s.scope(&p.entry.Blocks[i]); err != nil {
			return err
		}
	}
	if err := p.encode(); err != nil {
		return err
	}
	return s.ledger.add(p.entry.Index, p)
}

// moveCursor records a cursor without an entry: two clusters that follow each other would otherwise write for ever.
// The next checkpoint keeps it.
func (e *Engine) moveCursor(sub string, at wal.Position) {
	e.state.SetCursor(sub, at)
	e.stats.cursorMoved.Store(true)
	e.place.setCursor(sub, at)
}

// IngestFrames commits frames of a DR primary verbatim (Verbatim only); each must follow the one before. Digests are compared
// with each frame's before the commit: *Diverged; then frames before the last that attaches a keyspace may be committed. Frames already held are skipped. During a sync it is refused with ErrInconsistent: SpoolFrames takes
// frames then.
func (e *Engine) IngestFrames(ctx context.Context, frames []*wal.Frame) error {
	if e.sync.spooling() != nil {
		return ErrInconsistent
	}
	if err := e.checkFrames(frames); err != nil || len(frames) == 0 {
		return err
	}
	for len(frames) > 0 {
		n, err := e.ingestSome(ctx, frames)
		if err != nil {
			return err
		}
		frames = frames[n:]
	}
	return nil
}

// ingestSome commits frames up to the first that attaches a keyspace, or that one alone, and says how many they were.
func (e *Engine) ingestSome(ctx context.Context, frames []*wal.Frame) (int, error) {
	w := &framesWork{}
	for i, f := range frames {
		entries, err := e.prepareFrame(f)
		if err != nil {
			return 0, fmt.Errorf("frame %d to %d: %w", f.First, f.Last(), err)
		}
		if attached := attachedBy(entries); len(attached) > 0 {
			if i == 0 {
				return 1, e.ingestAttaching(ctx, f, entries, attached)
			}
			break // what was looked up for it is to be looked up when the frames before it are applied
		}
		w.frames, w.entries = append(w.frames, f), append(w.entries, entries)
	}
	_, err := e.submit(ctx, w)
	return len(w.frames), err
}

// checkFrames says what is wrong with frames given to a Verbatim store, whatever its place.
func (e *Engine) checkFrames(frames []*wal.Frame) error {
	if e.Role() != Verbatim {
		return errors.New("internal error: frames were given to a log that is written here")
	}
	if len(frames) > maxBatch {
		return fmt.Errorf("%d frames at once, at most %d: %w", len(frames), maxBatch, ErrTooLarge)
	}
	if err := e.disk.streamable(); err != nil {
		return err
	}
	lineage := e.Identity().Lineage
	for i, f := range frames {
		if err := f.Verify(); err != nil {
			return fmt.Errorf("frame %d to %d: %w", f.First, f.Last(), err)
		}
		if f.Lineage != lineage {
			return fmt.Errorf("frame %d to %d is of lineage %s, this log of %s", f.First, f.Last(), f.Lineage, lineage)
		}
		if i > 0 && (f.First != frames[i-1].Last()+1 || f.Prev != frames[i-1].Chain) {
			return fmt.Errorf("frame %d to %d does not follow the one before it, which ends at %d", f.First, f.Last(), frames[i-1].Last())
		}
	}
	return nil
}

func (e *Engine) prepareFrame(f *wal.Frame) ([]*prepared, error) {
	entries, err := decodeFrame(f)
	if err != nil {
		return nil, err
	}
	for _, p := range entries {
		e.keys.digest(p)
		if err := e.lookup(p); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// framesWork is frames on their way through the sequencer.
type framesWork struct {
	frames  []*wal.Frame
	entries [][]*prepared
}

func (w *framesWork) sequence(s *sequencer) verdict {
	if s.e.sync.spooling() != nil {
		return verdict{err: ErrInconsistent}
	}
	first := 0
	for first < len(w.frames) && w.frames[first].Last() <= s.last {
		first++
	}
	frames, entries := w.frames[first:], w.entries[first:]
	if len(frames) == 0 {
		return verdict{after: s.last}
	}
	if err := follows(frames[0], s.last, s.chain); err != nil {
		return verdict{err: err, after: s.last}
	}
	touched := map[storage.KeyspaceID]storage.KeyspaceTotal{}
	for i, f := range frames {
		if err := s.ledger.addFrame(f, entries[i], touched); err != nil {
			s.ledger.forget()
			return verdict{err: err, after: s.last}
		}
	}
	s.ledger.accept(s.cur)
	for i, f := range frames {
		s.cur.frames = append(s.cur.frames, f)
		s.chain = f.Chain
		for _, p := range entries[i] {
			s.place(p)
		}
	}
	return verdict{placed: true}
}

// follows says why a frame is not the next one.
func follows(f *wal.Frame, last uint64, chain wal.Hash) error {
	if f.First != last+1 {
		return fmt.Errorf("frame %d to %d does not follow index %d", f.First, f.Last(), last)
	}
	if f.Prev != chain {
		return fmt.Errorf("frame %d to %d does not continue this log: its predecessor has chain hash %x, here it is %x", f.First, f.Last(), f.Prev[:8], chain[:8])
	}
	return nil
}

// addFrame drafts a frame and compares what it gives with the totals in its header.
func (l *ledger) addFrame(f *wal.Frame, entries []*prepared, touched map[storage.KeyspaceID]storage.KeyspaceTotal) error {
	if err := l.addEntries(entries, touched); err != nil {
		return err
	}
	want, err := storage.DecodeTotals(f.Totals)
	if err != nil {
		return fmt.Errorf("totals of frame %d to %d: %w", f.First, f.Last(), err)
	}
	return l.compare(want, touched, f.Position())
}

// addEntries drafts entries; touched are the totals of the keyspaces that these entries touch, and no others.
func (l *ledger) addEntries(entries []*prepared, touched map[storage.KeyspaceID]storage.KeyspaceTotal) error {
	clear(touched)
	for _, p := range entries {
		if err := l.add(p.entry.Index, p); err != nil {
			return err
		}
		for i := range p.entry.Blocks {
			touched[p.entry.Blocks[i].Keyspace] = storage.KeyspaceTotal{}
		}
	}
	for ks := range touched {
		touched[ks], _ = l.total(ks)
	}
	return nil
}
