package archive

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

const (
	frameItems = 4096
	frameBytes = 1 << 20
	// keysCounted bounds the memory of counting: keys beyond are taken for ones that were counted.
	keysCounted = 1 << 18
)

// Writer makes one archive. One goroutine uses it, and ends it with Commit or Abort.
type Writer struct {
	s    *Store
	meta Meta
	log  *wal.Log
	open bool // it is listed

	items  [][]byte
	size   int
	keys   map[[16]byte]struct{}
	held   []string                          // other archives that hold what was to be added
	others map[string]map[wal.Position]parts // what those with a sparse span hold
	failed error
}

// Create begins an archive; expect is about how many bytes it will hold. ID, Spans, Counts and Complete of m are filled in here.
// Without room it returns ErrNoRoom, with the figures and what to do.
func (s *Store) Create(m Meta, expect int64) (*Writer, error) {
	if m.Kind != "dr" && m.Kind != "performance" {
		return nil, fmt.Errorf("internal error: an archive of set kind %q", m.Kind)
	}
	m.ID, m.Spans, m.Counts, m.Complete, m.Problem = newID(m.Kind, m.Common.Index+1), nil, Counts{}, false, ""
	if err := s.room(expect); err != nil {
		return nil, err
	}
	if err := makeDirs(s.opts.Dir, s.path(m.ID)); err != nil {
		return nil, noRoom(fmt.Errorf("create archive %s: %w", m.ID, err))
	}
	l, _, err := wal.Open(wal.Config{Dir: s.path(m.ID), SegmentBytes: segment, RingBytes: 1, Sealer: s.opts.Sealer, Seam: s.opts.Seam})
	if err != nil {
		return nil, noRoom(fmt.Errorf("create archive %s: %w", m.ID, err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing[m.ID] = true
	return &Writer{s: s, meta: m, log: l, keys: map[[16]byte]struct{}{}, others: map[string]map[wal.Position]parts{}}, nil
}

func makeDirs(parent, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return errors.Join(boltfile.SyncDir(filepath.Dir(parent)), boltfile.SyncDir(parent))
}

// room says why so many bytes more are not taken.
func (s *Store) room(bytes int64) error {
	s.mu.Lock()
	n, have := len(s.metas), int64(0)
	for _, m := range s.metas {
		have += int64(m.Counts.Bytes)
	}
	s.mu.Unlock()
	const then = "export and discard archives (lockstep divergence), then recover"
	switch {
	case n >= s.opts.Archives:
		return fmt.Errorf("%w: %s holds %d archives, at most %d are kept: "+then, ErrNoRoom, s.opts.Dir, n, s.opts.Archives)
	case have+bytes > s.opts.Bytes:
		return fmt.Errorf("%w: %s holds %d MiB and %d MiB are to come, at most %d MiB are kept: "+then, ErrNoRoom, s.opts.Dir,
			have>>20, (bytes+1<<20-1)>>20, s.opts.Bytes>>20)
	}
	if s.opts.FreeDisk == nil || s.opts.MinFree < 0 {
		return nil
	}
	free, err := s.opts.FreeDisk()
	if err != nil {
		return fmt.Errorf("looking for room for an archive: %w", err)
	}
	if free-bytes < s.opts.MinFree {
		return fmt.Errorf("%w: the disk of %s has %d MiB free, %d MiB are to come and %d MiB must stay free: free some disk, then recover", ErrNoRoom,
			s.opts.Dir, free>>20, (bytes+1<<20-1)>>20, s.opts.MinFree>>20)
	}
	return nil
}

// noRoom tells a full disk from other errors.
func noRoom(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: the disk is full: free some, then recover: %w", ErrNoRoom, err)
	}
	return err
}

// AddEntry adds an entry of the tail; lost says that it has no source, or one beyond the set's common point. What of it an archive
// holds already is not added again: Commit names that archive.
func (w *Writer) AddEntry(at wal.Position, entry []byte, lost bool) error {
	e, err := storage.DecodeEntry(entry)
	if err != nil {
		return w.fail(fmt.Errorf("archiving the entry at index %d: %w", at.Index, err))
	}
	has := partsOf(e)
	held, err := w.holding(at, has)
	if err != nil {
		return w.fail(err)
	}
	spans := &w.meta.Spans
	switch missing := has &^ held; {
	case missing == 0:
		return nil
	case missing == otherPart && held != 0:
		rest, any, err := storage.CutEntry(entry, func(_ storage.KeyspaceID, s storage.Scope) bool { return s != storage.Replicated })
		if err != nil {
			return w.fail(fmt.Errorf("archiving the entry at index %d: %w", at.Index, err))
		}
		if any { // not of housekeeping: that is kept whole
			entry, spans = rest, &w.meta.Rest
			if e, err = storage.DecodeEntry(entry); err != nil {
				return w.fail(fmt.Errorf("archiving the entry at index %d: %w", at.Index, err))
			}
		}
	}
	c := &w.meta.Counts
	c.Entries++
	if lost {
		c.Lost++
	} else {
		c.Dropped++
	}
	for i := range e.Blocks {
		for j := range e.Blocks[i].Changes {
			c.Writes++
			w.count(e.Blocks[i].Keyspace, e.Blocks[i].Changes[j].Key)
		}
	}
	addSpan(spans, at)
	return w.add(&Item{Kind: Entry, At: at, Lost: lost, Bytes: entry})
}

// AddRecord adds a record that is about to be overwritten, or removed.
func (w *Writer) AddRecord(ks storage.KeyspaceID, scope storage.Scope, rec *storage.Record, removed bool) error {
	w.meta.Counts.Records++
	w.count(ks, rec.Key)
	return w.add(&Item{Kind: Record, At: wal.Position{Index: rec.Index}, Keyspace: ks, Scope: scope, Key: rec.Key, Value: rec.Value, Removed: removed})
}

func (w *Writer) count(ks storage.KeyspaceID, key []byte) {
	if len(w.keys) >= keysCounted {
		return
	}
	sum := sha256.Sum256(append(ks[:], key...))
	w.keys[[16]byte(sum[:])] = struct{}{}
	w.meta.Counts.Keys = uint64(len(w.keys))
}

func addSpan(spans *[]Span, at wal.Position) {
	n := len(*spans)
	if n > 0 {
		s := &(*spans)[n-1]
		if s.Sparse || s.Fork == at.Fork && s.To+1 == at.Index {
			s.To = at.Index
			return
		}
	}
	*spans = append(*spans, Span{at.Fork, at.Index, at.Index, n == maxSpans-1})
}

// holding says which of the parts of the entry at a position other archives hold, and keeps their ids. What those with a sparse span hold is read once, and only
// when the others do not hold all.
func (w *Writer) holding(at wal.Position, want parts) (all parts, err error) {
	held, unsure := w.s.listed(at)
	for id, of := range held {
		all |= w.alsoHeld(id, of&want)
	}
	for _, id := range unsure {
		if want&^all == 0 {
			break
		}
		known, read := w.others[id]
		if !read {
			if known, err = w.s.partsIn(id); err != nil {
				return 0, fmt.Errorf("looking whether archive %s holds the entry at index %d: %w", id, at.Index, err)
			}
			w.others[id] = known
		}
		all |= w.alsoHeld(id, known[at]&want)
	}
	return all, nil
}

// alsoHeld keeps the id of an archive that holds a part of what was to be added, and returns that.
func (w *Writer) alsoHeld(id string, of parts) parts {
	if of != 0 && !slices.Contains(w.held, id) {
		w.held = append(w.held, id)
	}
	return of
}

// partsIn reads which entries an archive holds, and what of them.
func (s *Store) partsIn(id string) (map[wal.Position]parts, error) {
	known := map[wal.Position]parts{}
	return known, s.Read(id, 0, func(_ uint64, it *Item) (bool, error) {
		if it.Kind == Entry {
			known[it.At] |= partsOf(it.Entry)
		}
		return true, nil
	})
}

func (w *Writer) add(it *Item) error {
	if w.failed != nil {
		return w.failed
	}
	b := EncodeItem(nil, it)
	if len(b) > wal.MaxEntryBytes {
		return w.fail(fmt.Errorf("archiving what stands at index %d: %d bytes, at most %d are possible", it.At.Index, len(b), wal.MaxEntryBytes))
	}
	w.items = append(w.items, b)
	w.size += len(b)
	w.meta.Counts.Bytes += uint64(len(b))
	if len(w.items) < frameItems && w.size < frameBytes {
		return nil
	}
	return w.write()
}

// write makes durable what was added, without listing it.
func (w *Writer) write() error {
	if w.failed != nil || len(w.items) == 0 {
		return w.failed
	}
	if err := w.s.room(int64(w.size)); err != nil {
		return w.fail(err)
	}
	end, chain := w.log.End()
	f := &wal.Frame{
		Header:  wal.Header{Lineage: w.meta.Lineage, Ordinal: 1, Fork: wal.Fork{1}, First: end.Index + 1},
		Entries: w.items,
	}
	f.Seal(chain)
	if err := w.log.Append(f); err != nil {
		return w.fail(noRoom(fmt.Errorf("writing archive %s: %w", w.meta.ID, err)))
	}
	w.items, w.size = nil, 0
	return nil
}

func (w *Writer) fail(err error) error {
	if w.failed == nil {
		w.failed = err
	}
	return w.failed
}

// Flush makes durable what was added so far, and lists it. Without anything added it does nothing.
func (w *Writer) Flush() error {
	if w.failed == nil && len(w.items) == 0 && (w.open || w.empty()) {
		return nil
	}
	return w.list()
}

func (w *Writer) empty() bool { return w.meta.Counts.Entries+w.meta.Counts.Records == 0 }

func (w *Writer) list() error {
	if err := w.write(); err != nil {
		return err
	}
	if err := w.log.SetNotes(map[string][]byte{noteMeta: encodeMeta(&w.meta)}); err != nil {
		return w.fail(noRoom(fmt.Errorf("listing archive %s: %w", w.meta.ID, err)))
	}
	w.open = true
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.s.metas[w.meta.ID] = w.meta
	return nil
}

// Tighten notes, in words, a revocation or redemption that is taken back, and the calls that do the same elsewhere. Beyond some it is only counted.
func (w *Writer) Tighten(what string, repeat ...string) {
	if len(w.meta.Tightenings) >= maxTightenings {
		w.meta.Unnamed++
		return
	}
	w.meta.Tightenings = append(w.meta.Tightenings, what)
	for _, call := range repeat {
		if !slices.Contains(w.meta.Repeat, call) {
			w.meta.Repeat = append(w.meta.Repeat, call)
		}
	}
}

// Commit makes the archive complete and closes it. It returns the ids of all archives that hold what was added, its own last; an
// archive to which nothing was added is none.
func (w *Writer) Commit() ([]string, error) {
	if w.empty() && w.failed == nil {
		return w.held, w.Abort()
	}
	w.meta.Complete = true
	if err := w.list(); err != nil {
		return nil, errors.Join(err, w.Abort())
	}
	if err := w.close(); err != nil {
		return nil, err
	}
	return append(w.held, w.meta.ID), nil
}

// Abort closes the archive as it is: what was flushed stays, an archive that was never listed is removed.
func (w *Writer) Abort() error {
	err := w.close()
	if w.open {
		return err
	}
	return errors.Join(err, w.s.remove(w.meta.ID))
}

func (w *Writer) close() error {
	w.s.mu.Lock()
	delete(w.s.writing, w.meta.ID)
	w.s.mu.Unlock()
	if err := w.log.Close(); err != nil {
		return fmt.Errorf("closing archive %s: %w", w.meta.ID, err)
	}
	return nil
}
