package replication

import (
	"errors"
	"slices"

	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
)

// keeps notes whether what a sync overwrites or deletes is archived first: on a cluster that ever wrote this set's data. What a rewind fetches anew is in its
// archive already.
func (l *life) keeps(a *answer) {
	if r := l.rewinding(); answerKind(a.Kind) == Continue && r != nil && !r.Compare {
		l.keeping.Store(false)
		return
	}
	me := l.e.Identity().ClusterID
	wrote := func(r engine.Reign) bool { return r.Who == me }
	l.keeping.Store(slices.ContainsFunc(a.History, wrote) || l.kind == DR && slices.ContainsFunc(l.e.History(), wrote))
}

// keep archives a record that a range is about to overwrite or delete.
func (y *syncer) keep(r *engine.SyncRange, rec *storage.Record, removed bool) error {
	l := y.l
	if l.n.cfg.Archives == nil {
		return errors.New("this node has no archive to keep in what a repair overwrites")
	}
	if rw := y.l.rewinding(); rw != nil && rec.Index > rw.To.Index && rec.Index <= rw.End.Index {
		return nil // of the tail
	}
	if y.kept == nil {
		m := l.archiveMeta(y.sub.answer, archive.FromRepair, y.from, l.place())
		var err error
		if y.kept, err = l.n.cfg.Archives.Create(m, 0); err != nil {
			return err
		}
	}
	return y.kept.AddRecord(r.Keyspace, r.Scope, rec, removed)
}

// endKeeping closes the archive of a sync; complete says that all ranges are here.
func (y *syncer) endKeeping(complete bool) error {
	w := y.kept
	if w == nil {
		return nil
	}
	y.kept = nil
	if !complete {
		return w.Abort()
	}
	ids, err := w.Commit()
	if err == nil {
		y.l.log.Warn("records of this cluster were overwritten or removed; they are archived", "archives", ids)
	}
	return err
}
