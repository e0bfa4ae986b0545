package engine

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// bases are the places whose totals are noted: one before each segment. From there TotalsAt adds up the frames' own.
type bases struct {
	mu      sync.Mutex // guards what follows
	indexes []uint64   // ascending
	last    totalsAt   // the newest answer: the next question is often a little further
}

// totalsAt is the totals of all keyspaces after an index. The map is never changed once it is here.
type totalsAt struct {
	index  uint64
	totals map[storage.KeyspaceID]storage.KeyspaceTotal
}

func baseNote(index uint64) string { return fmt.Sprintf("%s%016x", noteTotals, index) }

func (b *bases) load(log *wal.Log, dir string) error {
	return log.Notes(noteTotals, func(key string, _ []byte) error {
		index, err := strconv.ParseUint(key[len(noteTotals):], 16, 64)
		if err != nil {
			return &boltfile.CorruptError{File: filepath.Join(dir, logDir, metaFile), What: fmt.Sprintf("note %q", key), Err: err}
		}
		b.indexes = append(b.indexes, index)
		return nil
	})
}

// add notes the totals after an index, before the segment that begins with the next one.
func (b *bases) add(log *wal.Log, index uint64, totals []storage.KeyspaceTotal) error {
	if err := log.SetNotes(map[string][]byte{baseNote(index): storage.EncodeTotals(totals)}); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if at, ok := slices.BinarySearch(b.indexes, index); !ok {
		b.indexes = slices.Insert(b.indexes, at, index)
	}
	return nil
}

// drop forgets the places below an index; all of them, with notes to be written by the caller, when below is 0.
func (b *bases) drop(log *wal.Log, below uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, _ := slices.BinarySearch(b.indexes, below)
	if n == 0 {
		return nil
	}
	notes := map[string][]byte{}
	for _, index := range b.indexes[:n] {
		notes[baseNote(index)] = nil
	}
	if err := log.SetNotes(notes); err != nil {
		return err
	}
	b.indexes = slices.Delete(b.indexes, 0, n)
	return nil
}

// clear forgets everything, because the log begins anew; the notes that it returns are to be written with that.
func (b *bases) clear() map[string][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	notes := map[string][]byte{}
	for _, index := range b.indexes {
		notes[baseNote(index)] = nil
	}
	b.indexes, b.last = nil, totalsAt{}
	return notes
}

// begin says that the totals after an index are noted, and no others.
func (b *bases) begin(index uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.indexes = []uint64{index}
}

// before returns the newest place at or before index whose totals are known.
func (b *bases) before(log *wal.Log, index uint64) (totalsAt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, found := slices.BinarySearch(b.indexes, index)
	if found {
		n++
	}
	if b.last.totals != nil && b.last.index <= index && (n == 0 || b.indexes[n-1] <= b.last.index) {
		return b.last, nil
	}
	if n == 0 {
		return totalsAt{}, wal.ErrGone
	}
	base := b.indexes[n-1]
	list, err := storage.DecodeTotals(log.Note(baseNote(base)))
	if err != nil {
		return totalsAt{}, fmt.Errorf("the note of the totals at %d: %w", base, err)
	}
	t := totalsAt{base, make(map[storage.KeyspaceID]storage.KeyspaceTotal, len(list))}
	for _, k := range list {
		t.totals[k.ID] = k
	}
	return t, nil
}

func (b *bases) keep(t totalsAt) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = t
}

// TotalsAt returns the totals of all keyspaces after the frame that ends at index, from the log's frames; wal.ErrGone below retention.
func (e *Engine) TotalsAt(index uint64) ([]storage.KeyspaceTotal, error) {
	if now, at := e.Totals(); at.Index == index && e.sync.spooling() == nil {
		return now, nil
	}
	from, err := e.bases.before(e.wal, index)
	if err != nil {
		return nil, fmt.Errorf("totals at %d: %w", index, err)
	}
	if from.index < index {
		if from, err = e.addUp(from, index); err != nil {
			return nil, fmt.Errorf("totals at %d: %w", index, err)
		}
		e.bases.keep(from)
	}
	out := slices.Collect(maps.Values(from.totals))
	sortTotals(out)
	return out, nil
}

// addUp follows the log's frames from a known place to index.
func (e *Engine) addUp(from totalsAt, index uint64) (totalsAt, error) {
	to := totalsAt{index, maps.Clone(from.totals)}
	r := e.wal.Reader(from.index + 1)
	for at := from.index; at < index; {
		f, err := r.TryNext()
		if err != nil {
			return to, err
		}
		if f == nil {
			return to, fmt.Errorf("the log ends at %d", at)
		}
		if f.First != at+1 {
			return to, wal.ErrGone
		}
		if at = f.Last(); at > index {
			return to, notAnEnd(index, f)
		}
		list, err := storage.DecodeTotals(f.Totals)
		if err != nil {
			return to, fmt.Errorf("frame %d to %d: %w", f.First, f.Last(), err)
		}
		for _, k := range list {
			to.totals[k.ID] = k
		}
	}
	return to, nil
}

func notAnEnd(index uint64, f *wal.Frame) error {
	return fmt.Errorf("index %d is within the frame %d to %d, not at its end", index, f.First, f.Last())
}
