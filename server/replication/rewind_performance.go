package replication

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// A performance secondary's log is never cut: its own writes lie between those that it received, or, of a former primary, wrote for the set. It archives what is
// shared of its tail and begins a sync at the common point; that sync's ranges are the keys that the tail touched, and they come as housekeeping entries.

// noteRewound is the rewind that the sync under way belongs to (node scope).
const noteRewound = "replication/performance/rewind"

// rewound is that rewind as stored (JSON).
type rewound struct {
	From     wal.Position `json:"from"`  // of the sync
	After    wal.Position `json:"after"` // the tail begins after it, in the own log
	End      wal.Position `json:"end"`
	Archives []string     `json:"archives"`
}

// rewinding returns the rewind that the sync under way belongs to, nil when there is none.
func (l *life) rewinding() *engine.Rewind {
	if l.kind == DR {
		return l.e.Rewinding()
	}
	s, b := l.e.SyncState(), l.e.NodeGet(noteRewound)
	if s == nil || b == nil {
		return nil
	}
	var r rewound
	if err := json.Unmarshal(b, &r); err != nil || r.From != s.From {
		return nil // ranges are compared
	}
	return &engine.Rewind{To: r.After, End: r.End, Archives: r.Archives}
}

// setBack archives what is shared of the tail beyond the common point and begins the sync that mends the records. A tail without any only gives the place its
// name in the primary's log. why says that the keys of the tail are not all that may differ: ranges are compared.
func (l *life) setBack(ctx context.Context, a *answer) (why string, err error) {
	seen, err := l.n.seen(Performance)
	if err != nil {
		return "", err
	}
	if err := l.newest(seen, a.History); err != nil {
		return "", err
	}
	after, err := l.tailAfter(seen, a.Common)
	if err != nil {
		return fmt.Sprintf("%v: ranges are compared", err), nil // the cursor has not moved: see below
	}
	t, err := l.archiveShared(ctx, a, after)
	if err != nil {
		return "", err
	}
	switch {
	case t.odd != "":
		return t.odd + ": ranges are compared", nil
	case len(t.archives) == 0:
		err = l.replace(l.e.Cursor(engine.Performance), a.From)
	default:
		note := mustJSON(rewound{From: a.From, After: after, End: l.e.Position(), Archives: t.archives})
		if err := l.e.NodeSet(map[string][]byte{noteRewound: note}); err != nil {
			return "", fmt.Errorf("storing what is taken back: %w", err)
		}
		l.log.Warn("entries that the primary does not have are taken back; they are archived", "after", after.Index, "entries", t.entries, "archives", t.archives)
		_, err = l.e.BeginSync(ctx, string(Performance), a.From, wal.Hash{}, a.Lineage)
	}
	if err != nil {
		return "", err
	}
	return "", l.see(a.History) // last: until the cursor has moved, the history before is the one that it lies on
}

// tailAfter returns the place in the own log after which everything lies that the set does not have.
func (l *life) tailAfter(seen []engine.Reign, common wal.Position) (wal.Position, error) {
	own, end := l.e.History(), l.e.Position()
	if hasFork(own, common.Fork) { // written here, as the primary
		if common.Index+1 < l.e.FirstIndex() {
			return wal.Position{}, fmt.Errorf("the log begins at index %d", l.e.FirstIndex())
		}
		return common, nil
	}
	s, err := searchSources(engineLog{l.e}, end.Index, seen, common)
	switch {
	case err != nil:
		return wal.Position{}, err
	case !s.before && !s.whole:
		return wal.Position{}, errors.New("the log does not hold the common point any more")
	}
	return wal.Position{Fork: reignAt(own, s.first-1).Fork, Index: s.first - 1}, nil
}

// sharedTail is what was found in the log after the common point.
type sharedTail struct {
	archives []string
	entries  int
	odd      string // why its keys are not all that may differ
}

// archiveShared archives what entries after a place of the own log changed of the replicated scope.
func (l *life) archiveShared(ctx context.Context, a *answer, after wal.Position) (t sharedTail, err error) {
	if l.n.cfg.Archives == nil {
		return t, errors.New("this node has no archive to keep it in")
	}
	var w *archive.Writer
	defer func() {
		if w != nil && err != nil {
			err = errors.Join(err, w.Abort())
		}
	}()
	end := l.e.Position()
	r, tight := l.e.LogReader(after.Index+1), l.n.tightener()
	for at := after.Index; at < end.Index; {
		f, err := r.TryNext()
		if err == nil && f == nil {
			err = errors.New("the log ends too early")
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return t, fmt.Errorf("archiving the log after index %d: %w", at, err)
		}
		for i, b := range f.Entries {
			index := f.First + uint64(i)
			if index <= after.Index {
				continue
			}
			shared, any, err := storage.CutEntry(b, func(_ storage.KeyspaceID, s storage.Scope) bool { return s == storage.Replicated })
			if err != nil {
				return t, fmt.Errorf("archiving entry %d: %w", index, err)
			}
			e, err := storage.DecodeEntry(b)
			if err != nil {
				return t, fmt.Errorf("archiving entry %d: %w", index, err)
			}
			if e.Sync != nil && !(e.Sync.Kind == storage.SyncEnd && e.Sync.From == e.Sync.Until) {
				t.odd = "a sync lies in what is taken back"
			}
			if !any {
				continue
			}
			if w == nil {
				if w, err = l.n.cfg.Archives.Create(l.archiveMeta(a, archive.FromRewind, after, end), l.e.LogBytes(index)); err != nil {
					return t, err
				}
			}
			t.entries++
			tight.note(w, e, isShared)
			if err := w.AddEntry(wal.Position{Fork: f.Fork, Index: index}, shared, !e.Housekeeping); err != nil {
				return t, err
			}
		}
		at = f.Last()
	}
	if w != nil {
		t.archives, err = w.Commit()
		w = nil
	}
	return t, err
}
