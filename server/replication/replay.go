package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// Replay is what is to be written again, and where the history in which it was lost left this one.
type Replay struct {
	Common  wal.Position
	Changes []ReplayChange
}

// ReplayChange is the last change of a key in a lost tail.
type ReplayChange struct {
	Keyspace storage.KeyspaceID
	Scope    storage.Scope
	Index    uint64 // in the lost tail
	storage.Change
}

// Outcome is what became of one change.
type Outcome struct {
	Change  *ReplayChange
	Applied bool
	Covered bool   // it was never lost, so there is nothing to write
	Why     string // it was not applied
}

// Why a change is not applied.
const (
	whySystem    = "a record of the system's own, or of an auth method: repeat the call that made it"
	whyDrop      = "a whole keyspace was dropped: disable the mount again"
	whyKeyspace  = "its keyspace is not here: its mount was made in the lost tail, or is gone"
	whyChanged   = "the record was changed since"
	whyForgotten = "whether it was changed since is not known any more: the log does not reach back that far"
	whyForeign   = "the common point is not in this cluster's history"
)

// ReplayArchive writes an archive's changes again on this cluster, which must be writable for them: each only if nothing touched its record since the
// common point. report is told each outcome, in order of the archive.
func (n *Node) ReplayArchive(ctx context.Context, id string, report func(*Outcome) error) error {
	m, err := n.Archive(id)
	if err != nil {
		return err
	}
	if m.Source == archive.FromRepair {
		return refuse("archive %s is of a repair: it holds records as they were before they were overwritten or removed, once or, after a kill, twice, and not what they were based on; so whether one may be written again cannot be told: export it (sys/replication/divergence/%s/export), and write what is to be kept", id, id)
	}
	last, err := n.lastChanges(id)
	if err != nil {
		return err
	}
	d := newReplayDecision(m.Common, last)
	var batch []ReplayChange
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		out, err := n.replay(ctx, d, batch)
		if err != nil {
			return err
		}
		for i := range out {
			if err := report(&out[i]); err != nil {
				return err
			}
		}
		batch, size = nil, 0
		return nil
	}
	err = n.ReadArchive(id, 0, func(_ uint64, it *archive.Item) (bool, error) {
		for _, c := range changesOf(it) {
			if !it.Lost {
				if err := report(&Outcome{Change: &c, Covered: true}); err != nil {
					return false, err
				}
				continue
			}
			if c.Op != storage.Drop && c.Op != storage.Attach && last[c.name()] != c.Index {
				continue // a later change of the tail decides
			}
			batch = append(batch, c)
			if size += len(c.Key) + len(c.Value); len(batch) >= maxKeys || size >= chunkTarget {
				if err := flush(); err != nil {
					return false, err
				}
			}
		}
		return true, ctx.Err()
	})
	if err != nil {
		return err
	}
	return flush()
}

// name is the record that a change is about.
func (c *ReplayChange) name() string { return string(c.Keyspace[:]) + string(c.Key) }

func changesOf(it *archive.Item) []ReplayChange {
	if it.Kind == archive.Record {
		return []ReplayChange{{it.Keyspace, it.Scope, it.At.Index, storage.Change{Op: storage.Put, Key: it.Key, Value: it.Value}}}
	}
	var out []ReplayChange
	for i := range it.Entry.Blocks {
		b := &it.Entry.Blocks[i]
		for _, c := range b.Changes {
			out = append(out, ReplayChange{b.Keyspace, b.Scope, it.At.Index, c})
		}
	}
	return out
}

// lastChanges returns the index of each record's last change among the lost entries.
func (n *Node) lastChanges(id string) (map[string]uint64, error) {
	last := map[string]uint64{}
	size := 0
	err := n.ReadArchive(id, 0, func(_ uint64, it *archive.Item) (bool, error) {
		if it.Kind != archive.Entry || !it.Lost {
			return true, nil
		}
		for _, c := range changesOf(it) {
			name := c.name()
			if _, have := last[name]; !have {
				size += len(name)
			}
			last[name] = c.Index
		}
		if len(last) > tailKeys || size > tailBytes {
			return false, refuse("the archive holds changes of more than %d records, or keys of more than %d MiB: replay it with lockstep divergence replay -to=ADDR of this cluster, which writes it in parts", tailKeys, tailBytes>>20)
		}
		return true, nil
	})
	return last, err
}

// Replay writes changes of a lost tail again, each only if nothing touched its record since the common point.
func (n *Node) Replay(ctx context.Context, r *Replay) ([]Outcome, error) {
	asked := make(map[string]uint64, len(r.Changes))
	for i := range r.Changes {
		asked[r.Changes[i].name()] = r.Changes[i].Index
	}
	return n.replay(ctx, newReplayDecision(r.Common, asked), r.Changes)
}

// replay writes some of the changes that a decision is about.
func (n *Node) replay(ctx context.Context, d *replayDecision, changes []ReplayChange) ([]Outcome, error) {
	if err := n.engine.Writable(); err != nil {
		return nil, err
	}
	if n.streamsFrom(Performance) {
		return nil, refuse("this cluster is a performance secondary: export the archive, and replay it on the primary (lockstep divergence replay -to)")
	}
	if err := n.look(d); err != nil {
		return nil, err
	}
	out := make([]Outcome, len(changes))
	for i := range changes {
		c := &changes[i]
		out[i] = Outcome{Change: c, Why: d.refuses(c)}
		if out[i].Why != "" {
			continue
		}
		var err error
		if out[i].Why, err = n.replayOne(ctx, d, c); err != nil {
			return nil, fmt.Errorf("replaying the change at index %d: %w", c.Index, err)
		}
		out[i].Applied = out[i].Why == ""
	}
	return out, nil
}

func (n *Node) replayOne(ctx context.Context, d *replayDecision, c *ReplayChange) (why string, err error) {
	key := engine.Key{Keyspace: c.Keyspace, Key: c.Key}
	_, err = n.engine.Do(ctx, &engine.Tx{
		Reads: []engine.Key{key},
		Exec: func(r engine.Reader) ([]engine.Write, error) {
			rec, err := r.Get(key.Keyspace, key.Key)
			present := err == nil
			if err != nil && !errors.Is(err, storage.ErrNotFound) {
				return nil, err
			}
			if why = d.judge(c, present, rec.Index); why != "" {
				return nil, nil
			}
			return []engine.Write{{Keyspace: c.Keyspace, Scope: c.Scope, Change: c.Change}}, nil
		},
	})
	return why, err
}

// replayDecision is what a replay is judged by: what the own log says since the common point.
type replayDecision struct {
	common  wal.Position
	asked   map[string]uint64           // the records that the replay is about
	grants  map[storage.KeyspaceID]bool // whose records say who may do what
	foreign bool
	scopes  map[storage.KeyspaceID]storage.Scope
	floors  map[storage.KeyspaceID]uint64
	log     bool   // the log holds everything since the common point
	upTo    uint64 // and was looked through up to here
	touched map[string]struct{}
}

func newReplayDecision(common wal.Position, asked map[string]uint64) *replayDecision {
	return &replayDecision{common: common, asked: asked, log: true, upTo: common.Index, touched: map[string]struct{}{}}
}

// look brings a decision up to date: it goes on in the log where the look before ended.
func (n *Node) look(d *replayDecision) error {
	e := n.engine
	end := e.Position()
	d.foreign = !onHistory(e.History(), end.Index, d.common)
	mounted, grants, err := n.mounted()
	if err != nil {
		return err
	}
	d.grants, d.scopes, d.floors = grants, map[storage.KeyspaceID]storage.Scope{}, map[storage.KeyspaceID]uint64{}
	totals, _ := e.Totals()
	for _, t := range totals {
		if mounted == nil || mounted[t.ID] {
			d.scopes[t.ID], d.floors[t.ID] = t.Scope, e.Floor(t.ID)
		}
	}
	d.log = d.log && !d.foreign && e.FirstIndex() <= d.upTo+1
	if !d.log {
		return nil
	}
	rd := e.LogReader(d.upTo + 1)
	for d.upTo < end.Index {
		f, err := rd.TryNext()
		if errors.Is(err, wal.ErrGone) {
			d.log = false
			return nil
		}
		if err != nil || f == nil {
			return fmt.Errorf("looking through the log after index %d: %w", d.upTo, err)
		}
		if err := d.pass(f); err != nil {
			return err
		}
		d.upTo = f.Last()
	}
	return nil
}

// mounted returns the keyspaces of all mounts; nil where no mount table is known.
func (n *Node) mounted() (all, grants map[storage.KeyspaceID]bool, err error) {
	table := n.cfg.Mounts
	if table == nil {
		return nil, nil, nil
	}
	v := n.engine.Snapshot()
	defer v.Release()
	all, grants = map[storage.KeyspaceID]bool{}, map[storage.KeyspaceID]bool{}
	for _, ks := range []storage.KeyspaceID{storage.SystemReplicated, storage.SystemLocal} {
		err := v.Scan(ks, []byte(table.Prefix), prefixEnd(table.Prefix), func(rec storage.Record) bool {
			if path, id, ok := table.Decode(rec.Key, rec.Value); ok {
				all[id] = true
				grants[id] = table.Grants != nil && table.Grants(path)
			}
			return true
		})
		if err != nil {
			return nil, nil, fmt.Errorf("reading the mount table: %w", err)
		}
	}
	return all, grants, nil
}

func (d *replayDecision) pass(f *wal.Frame) error {
	for _, b := range f.Entries {
		e, err := storage.DecodeEntry(b)
		if err != nil {
			return fmt.Errorf("looking through the frame %d to %d: %w", f.First, f.Last(), err)
		}
		for i := range e.Blocks {
			ks := e.Blocks[i].Keyspace
			for _, c := range e.Blocks[i].Changes {
				name := string(ks[:]) + string(c.Key)
				if _, ok := d.asked[name]; ok {
					d.touched[name] = struct{}{}
				}
			}
		}
	}
	return nil
}

// refuses says why a change is not even tried.
func (d *replayDecision) refuses(c *ReplayChange) string {
	scope, here := d.scopes[c.Keyspace]
	switch {
	case d.foreign:
		return whyForeign
	case c.Keyspace == storage.SystemLocal || c.Keyspace == storage.SystemReplicated || d.grants[c.Keyspace]:
		return whySystem
	case c.Op == storage.Drop, c.Op == storage.Attach:
		return whyDrop
	case !here || scope != c.Scope:
		return whyKeyspace
	}
	return ""
}

// judge decides about one record as it is now.
func (d *replayDecision) judge(c *ReplayChange, present bool, index uint64) string {
	if d.log && d.floors[c.Keyspace] <= d.common.Index {
		_, touched := d.touched[c.name()]
		if touched || present && index > d.upTo {
			return whyChanged
		}
		return ""
	}
	switch {
	case present && index > d.common.Index:
		return whyChanged
	case present && index > 0 && d.floors[c.Keyspace] <= d.common.Index:
		return ""
	}
	return whyForgotten
}
