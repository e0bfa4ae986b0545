package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// A DR secondary whose log has a tail that the primary does not have archives it, takes its log back to the common point, and connects again. The sync that it
// then names has that point as its S; its ranges are the records that the tail touched, told by the archives.

// rewind follows the answer REWIND. Nothing of it is cut short by a lost connection.
func (l *life) rewind() {
	s := l.session
	a := s.sub.answer
	s.closeSub() // the primary has said what it has to say
	s.wg.Go(func() {
		reason, err := l.takeBack(l.ctx, a)
		switch {
		case l.ctx.Err() != nil:
		case err != nil:
			l.tell(s.ctx, Event{Kind: Failed, Reason: "what only this cluster has was not taken back: " + plain(err)})
		default:
			l.tell(s.ctx, Event{Kind: Rewound, Reason: reason})
		}
	})
}

// takeBack archives the tail after the answer's place and takes the log back to it. why says that the log does not tell how.
func (l *life) takeBack(ctx context.Context, a *answer) (why string, err error) {
	if l.kind == Performance {
		return l.setBack(ctx, a)
	}
	if err := l.see(a.History); err != nil {
		return "", err
	}
	if _, err = l.e.CanRewind(a.From); err == nil {
		err = l.sameChain(a)
	}
	if err != nil && !errors.Is(err, engine.ErrCannotRewind) {
		return "", err
	}
	cannot := err
	ids, err := l.archiveTail(ctx, a)
	if err != nil {
		return "", err
	}
	if cannot != nil {
		return fmt.Sprintf("%v: ranges are compared", cannot), nil
	}
	l.log.Warn("entries that the primary does not have are taken back; they are archived", "from", a.From.Index+1, "to", l.e.Position().Index, "archives", ids)
	return "", l.e.BeginRewind(ctx, string(l.kind), a.From, ids)
}

// sameChain verifies the common point.
func (l *life) sameChain(a *answer) error {
	have, err := l.e.ChainAt(a.From.Index)
	if err == nil && a.Chain != (wal.Hash{}) && have != a.Chain {
		return fmt.Errorf("%w: the log's hash at index %d differs from the primary's", engine.ErrCannotRewind, a.From.Index)
	}
	return err
}

// archiveTail archives what the log holds after the answer's place, and returns the archives that hold it.
func (l *life) archiveTail(ctx context.Context, a *answer) ([]string, error) {
	if l.n.cfg.Archives == nil {
		return nil, errors.New("this node has no archive to keep it in")
	}
	end, from := l.e.Position(), max(a.From.Index+1, l.e.FirstIndex())
	w, err := l.n.cfg.Archives.Create(l.archiveMeta(a, archive.FromRewind, a.From, end), l.e.LogBytes(from))
	if err != nil {
		return nil, err
	}
	r, tight := l.e.LogReader(from), l.n.tightener()
	for at := from - 1; at < end.Index; {
		f, err := r.TryNext()
		if err == nil && f == nil {
			err = errors.New("the log ends too early")
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("archiving the log after index %d: %w", at, err), w.Abort())
		}
		if err := archiveFrame(w, tight, f); err != nil {
			return nil, errors.Join(err, w.Abort())
		}
		at = f.Last()
	}
	return w.Commit()
}

func archiveFrame(w *archive.Writer, tight *tightener, f *wal.Frame) error {
	for _, b := range f.Entries {
		e, err := storage.DecodeEntry(b)
		if err != nil {
			return fmt.Errorf("archiving the frame %d to %d: %w", f.First, f.Last(), err)
		}
		// What came from a performance primary is there; what a sync wrote came from there too.
		lost := e.Upstream.IsZero() && !e.Housekeeping
		if lost {
			tight.note(w, e, anyScope)
		}
		if err := w.AddEntry(wal.Position{Fork: f.Fork, Index: e.Index}, b, lost); err != nil {
			return err
		}
	}
	return nil
}

func (l *life) archiveMeta(a *answer, source string, common, end wal.Position) archive.Meta {
	m := archive.Meta{
		Source: source, Kind: string(l.kind), Lineage: a.Lineage, Common: common, End: end, When: l.n.now(), Reason: a.Reason,
		Feeder: a.ClusterID, FeederAddr: l.n.link[l.kind].get().Primary.ClusterAddr,
	}
	if set := l.n.set(l.kind); set != nil {
		m.Set = set.Set
	}
	if m.FeederAddr == "" {
		if set := l.n.set(l.kind); set != nil && len(set.Primaries) > 0 {
			m.FeederAddr = set.Primaries[0]
		}
	}
	for _, r := range l.e.History() {
		if r.Start > common.Index {
			m.Forks = append(m.Forks, archive.Fork{Ordinal: r.Ordinal, Fork: r.Fork, Start: r.Start, Parent: r.Parent, Who: r.Who, When: r.When})
		}
	}
	return m
}

// Limits on what is remembered of a tail. Above them ranges are compared, which finds the same.
const (
	tailKeys  = 1 << 20
	tailBytes = 64 << 20
)

// touchedKeys are the keys of one keyspace that a tail touched.
type touchedKeys struct {
	scope storage.Scope
	keys  map[string]struct{}
}

var errLongTail = errors.New("the tail touched too many keys to remember them")

// touched returns what the tail of a rewind touched, from its archives.
func (n *Node) touched(r *engine.Rewind) (map[storage.KeyspaceID]*touchedKeys, error) {
	if n.cfg.Archives == nil {
		return nil, errors.New("this node has no archives")
	}
	out := map[storage.KeyspaceID]*touchedKeys{}
	count, size := 0, 0
	for _, id := range r.Archives {
		err := n.cfg.Archives.Read(id, 0, func(_ uint64, it *archive.Item) (bool, error) {
			if it.Kind != archive.Entry || it.At.Index <= r.To.Index {
				return true, nil
			}
			for i := range it.Entry.Blocks {
				b := &it.Entry.Blocks[i]
				t := out[b.Keyspace]
				if t == nil {
					t = &touchedKeys{b.Scope, map[string]struct{}{}}
					out[b.Keyspace] = t
				}
				for j := range b.Changes {
					if key := string(b.Changes[j].Key); b.Changes[j].Op == storage.Put || b.Changes[j].Op == storage.Delete {
						if _, have := t.keys[key]; !have {
							t.keys[key] = struct{}{}
							count, size = count+1, size+len(key)
						}
					}
				}
			}
			if count > tailKeys || size > tailBytes {
				return false, errLongTail
			}
			return true, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// tail receives the records that a rewind's tail touched, from where the sync stands; false: ranges are to be compared instead.
func (y *syncer) tail(ctx context.Context, state *storage.SyncState, theirs []storage.KeyspaceTotal, readAt wal.Position) (bool, error) {
	r := y.l.rewinding()
	if r == nil || r.Compare || len(r.Archives) == 0 {
		return false, nil
	}
	touched, err := y.l.n.touched(r)
	if err != nil {
		y.l.log.Warn("what was taken back cannot be read from the archives; ranges are compared", "error", err)
		return false, nil
	}
	held := map[storage.KeyspaceID]storage.KeyspaceTotal{}
	for _, t := range theirs {
		held[t.ID] = t
	}
	ids := slices.SortedFunc(maps.Keys(touched), func(a, b storage.KeyspaceID) int { return bytes.Compare(a[:], b[:]) })
	for _, ks := range ids {
		if bytes.Compare(ks[:], state.Keyspace[:]) < 0 {
			continue
		}
		var low []byte
		if ks == state.Keyspace {
			low = state.Done
		}
		t, ok := held[ks]
		if !ok && y.e.Detached(ks) {
			continue // on both sides
		}
		if !ok {
			t = storage.KeyspaceTotal{ID: ks, Scope: touched[ks].scope}
		}
		if err := y.tailOf(ctx, t, touched[ks], low, readAt); err != nil {
			return false, fmt.Errorf("keyspace %s: %w", ks, err)
		}
	}
	return true, nil
}

// tailOf receives one keyspace's records from low on.
func (y *syncer) tailOf(ctx context.Context, theirs storage.KeyspaceTotal, touched *touchedKeys, low []byte, readAt wal.Position) error {
	y.ks = theirs
	y.differ()
	keys := make([][]byte, 0, len(touched.keys))
	for _, k := range slices.Sorted(maps.Keys(touched.keys)) {
		if k >= string(low) {
			keys = append(keys, []byte(k))
		}
	}
	y.fix, y.open = difference{Low: low, ReadAt: readAt}, true
	if theirs.Count == 0 { // also one that the feeder does not hold: there is nothing to ask it for
		y.fix.Gone = keys
	} else {
		y.fix.Keys = keys
	}
	return y.flush(ctx)
}
