package replication

import (
	"fmt"
	"slices"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// A performance secondary numbers what it receives anew, and keeps with each entry its source: the place that it has in the primary's log. Sources only
// grow, so a place in a former primary's log is found in the log of its successor by bisection.

// after returns the index of the own log after which everything follows that lies beyond a place in a former primary's log. It looks at what this cluster
// received, or wrote as the primary, before its present reign. false: the log that is held does not tell.
func (n *Node) after(history []engine.Reign, set *setConfig, p wal.Position) (uint64, bool) {
	index, ok, err := afterIn(engineLog{n.engine}, n.engine.History(), history, set, p)
	if err != nil {
		n.log.Warn("the place of a secondary was not found in the own log; ranges are compared", "set", string(set.Kind), "error", err)
	}
	return index, ok
}

// sourceLog is a log whose entries tell their places in a feeder's log.
type sourceLog interface {
	// FirstIndex is the first that is held.
	FirstIndex() uint64
	// nextSource returns the first entry from an index on that has a place in the set's history, and that place: its source, or for one that was written here
	// for the set its own. None up to last: zero.
	nextSource(history []engine.Reign, from, last uint64) (uint64, wal.Position, error)
}

// afterIn is after for a log whose own history is own.
func afterIn(log sourceLog, own, history []engine.Reign, set *setConfig, p wal.Position) (uint64, bool, error) {
	i := slices.IndexFunc(own, func(r engine.Reign) bool { return set.Since > 0 && r.Ordinal >= set.Since })
	if i < 0 {
		return 0, false, nil
	}
	last := own[i].Start - 1
	s, err := searchSources(log, last, history, p)
	switch {
	case err != nil:
		return 0, false, err
	case s.before, s.whole:
		return s.first - 1, true, nil
	case s.first > last && p == set.From:
		return last, true, nil
	}
	return 0, false, nil
}

// sources is what a search has found.
type sources struct {
	first  uint64 // index of the first entry whose source lies beyond the place; one more than the last when there is none
	before bool   // an entry is held whose source does not
	whole  bool   // the log is held from its beginning
}

// searchSources looks for a place in a former primary's log among the sources of the own log's entries up to last.
func searchSources(log sourceLog, last uint64, history []engine.Reign, p wal.Position) (sources, error) {
	lo, hi := log.FirstIndex(), last
	s := sources{first: last + 1, whole: lo == 1}
	for lo <= hi {
		mid := lo + (hi-lo)/2
		at, source, err := log.nextSource(history, mid, hi)
		switch {
		case err != nil:
			return s, err
		case source.IsZero():
			hi = mid - 1
			continue
		}
		beyond, err := isBeyond(history, source, p)
		switch {
		case err != nil:
			return s, fmt.Errorf("entry %d of the own log: %w", at, err)
		case beyond:
			s.first, hi = at, mid-1
		default:
			s.before, lo = true, at+1
		}
	}
	return s, nil
}

// isBeyond says how two places of one history stand to each other.
func isBeyond(history []engine.Reign, q, p wal.Position) (bool, error) {
	at := func(f wal.Fork) int {
		return slices.IndexFunc(history, func(r engine.Reign) bool { return r.Fork == f })
	}
	i, j := at(q.Fork), at(p.Fork)
	if i < 0 || j < 0 {
		return false, fmt.Errorf("fork %v or %v is not in the history of the set", q.Fork, p.Fork)
	}
	return i > j || i == j && q.Index > p.Index, nil
}

// engineLog is the log of an engine.
type engineLog struct{ *engine.Engine }

func (e engineLog) nextSource(history []engine.Reign, from, last uint64) (uint64, wal.Position, error) {
	r := e.LogReader(from)
	for from <= last {
		f, err := r.TryNext()
		if err != nil || f == nil {
			return 0, wal.Position{}, err
		}
		for i := from - f.First; i < uint64(f.Count); i++ {
			entry, err := storage.DecodeEntry(f.Entries[i])
			if err != nil {
				return 0, wal.Position{}, fmt.Errorf("entry %d of the own log: %w", f.First+i, err)
			}
			p := sourceOf(entry)
			if own := (wal.Position{Fork: f.Fork, Index: entry.Index}); p.IsZero() && onHistory(history, last, own) {
				p = own // of a reign before this one: this cluster was the primary more than once
			}
			if !p.IsZero() && entry.Index <= last {
				return entry.Index, p, nil
			}
		}
		from = f.Last() + 1
	}
	return 0, wal.Position{}, nil
}

// sourceOf returns up to where the feeder's log is complete here with an entry: its own source, or what a sync brings. Its beginning counts: what lies before the
// place at which a sync began came with its ranges, and no entry after them tells it.
func sourceOf(e *storage.Entry) wal.Position {
	if e.Sync != nil {
		switch e.Sync.Kind {
		case storage.SyncBegin:
			return e.Sync.From
		case storage.SyncEnd:
			if e.Sync.From == e.Sync.Until { // nothing came with it: the place got another name, or the sync's beginning tells it
				return wal.Position{}
			}
			return e.Sync.Until
		}
	}
	return e.Upstream
}
