package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/internal/buildinfo"
	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/replication"
	"github.com/lockstepdb/lockstep/server/snapshot"
)

// maxTaken bounds how many snapshots are taken at a time: each reads everything.
const maxTaken = 2

var errRestoring = snapshot.Refuse("a snapshot is being restored: wait until that has ended")

// Take implements vault.Snapshots.
func (c *core) Take(ctx context.Context) (*snapshot.Taking, func(), error) {
	if c.taking.Add(1) > maxTaken {
		c.taking.Add(-1)
		return nil, nil, snapshot.Refuse("%d snapshots are being taken already: wait until one has ended", maxTaken)
	}
	t, err := snapshot.Begin(ctx, snapshot.Source{
		Engine: c.engine, Keys: c.keys, Version: buildinfo.Read().Version, Secondary: c.gen.Secondary, Now: time.Now,
	})
	if err != nil {
		c.taking.Add(-1)
		return nil, nil, err
	}
	return t, func() {
		t.End()
		c.taking.Add(-1)
	}, nil
}

// Restore implements vault.Snapshots: the store of a snapshot takes the place of the running one, which goes to the trash. Until CURRENT names
// the new one, nothing has changed.
func (c *core) Restore(ctx context.Context, body io.Reader, force bool) (*snapshot.Restored, error) {
	if !c.node.making.TryLock() {
		return nil, errRestoring
	}
	defer c.node.making.Unlock()
	r, err := c.openSnapshot(body)
	if err != nil {
		return nil, err
	}
	if !force {
		if err := r.Verify(func(int64) {}); err != nil {
			return nil, err
		}
		return nil, c.wouldReplace(r)
	}
	keys, err := c.keys.Fork()
	if err != nil {
		return nil, fmt.Errorf("restore a snapshot: %w", err)
	}
	before := c.standing()
	if before.notes["replication/intent"] != nil {
		return nil, snapshot.Refuse("this cluster's role is changing: repeat once that has ended")
	}
	c.log.Warn("restoring a snapshot", "snapshot", r.Header.ID, "taken", r.Header.Taken)
	began := time.Now()
	next, done, err := restoreInto(ctx, c.node.dir, r, keys, c.node.cfg, c.log, c.engine, nil)
	if err != nil {
		return nil, err
	}
	if err := c.adoptRestored(next, keys, before); err != nil {
		return nil, err
	}
	c.log.Warn("a snapshot was restored: what was written after it is in the trash with the store that it was in", "snapshot", r.Header.ID, "taken", r.Header.Taken,
		"index", done.Index, "epoch", done.Ordinal, "records", done.Records, "from", c.gen.Name, "to", next.Name, "took", time.Since(began).Round(time.Millisecond))
	return done, nil
}

// openSnapshot reads who a snapshot is of, and refuses what this cluster cannot become.
func (c *core) openSnapshot(body io.Reader) (*snapshot.Reader, error) {
	for _, k := range []replication.Kind{replication.DR, replication.Performance} {
		if m := c.replication.Mode(k); m != replication.Disabled && m != replication.Primary {
			return nil, snapshot.Refuse("this cluster is a %s secondary, whose data are its primary's: restore the primary, or disable replication here first", k)
		}
		if c.replication.Fenced(k) != nil {
			return nil, snapshot.Refuse("this cluster is fenced in its %s set, and what it holds is not what the set goes on from: demote it, let it follow the new primary, or say recover; then restore", k)
		}
	}
	r, err := snapshot.Open(body)
	if err != nil {
		return nil, err
	}
	h, own := &r.Header, c.engine.Identity()
	const elsewhere = "restore it into an empty data directory with lockstep snapshot restore"
	if h.ClusterID != own.ClusterID {
		return nil, snapshot.Refuse("the snapshot is of cluster %.64q (%.64s), this is %q (%s): %s", h.ClusterName, h.ClusterID, own.ClusterName, own.ClusterID, elsewhere)
	}
	if h.Secondary || h.Log != c.gen.Role.String() {
		return nil, snapshot.Refuse("the snapshot was taken while this cluster was a secondary, which it no longer is: %s", elsewhere)
	}
	keys, err := c.keys.OpenCopy(r.Seal)
	if errors.Is(err, seal.ErrOtherRoot) {
		return nil, snapshot.Refuse("the snapshot cannot be opened here: %v; %s, and its own shares", err, elsewhere)
	}
	if err != nil {
		return nil, snapshot.Refuse("the snapshot cannot be opened: %v", err)
	}
	r.Unseal(keys)
	return r, nil
}

// wouldReplace says what a restore does, and how it is done.
func (c *core) wouldReplace(r *snapshot.Reader) error {
	var records uint64
	totals, at := c.engine.Totals()
	for i := range totals {
		records += totals[i].Count
	}
	var after uint64
	if at.Index > r.Summary.Index {
		after = at.Index - r.Summary.Index
	}
	return snapshot.Refuse("nothing was changed. The snapshot is whole: taken at %s (%s ago), index %d, %d records. Restoring it replaces all of cluster %q, now at index %d "+
		"with %d records: its %d newest entries are lost, what was revoked since is valid again, and secondaries go back as well. Repeat with force to do it",
		r.Header.Taken.UTC().Format(time.RFC3339), r.Header.Age(time.Now()), r.Summary.Index, r.Summary.Records, c.engine.Identity().ClusterName, at.Index, records, after)
}

// standing is what a restore keeps, and what must not change while one is made: this node's part in its sets, and its shares.
type standing struct {
	notes map[string][]byte
	seal  seal.Record
}

func (c *core) standing() standing {
	notes := c.engine.NodeList("replication/")
	maps.DeleteFunc(notes, func(key string, _ []byte) bool {
		return strings.HasSuffix(key, "/seen") || key == "replication/maintenance" // these change by themselves
	})
	return standing{notes, c.keys.Record()}
}

// adoptRestored makes a restored generation the live one.
func (c *core) adoptRestored(next *Generation, keys *seal.Opened, before standing) error {
	c.switching.Lock()
	defer c.switching.Unlock()
	discard := func(err error) error { return errors.Join(err, os.RemoveAll(next.Dir)) }
	if c.ending() {
		return discard(errChanging)
	}
	g := &c.node.gate
	why := waiting{reason: "a snapshot was restored, and its store is being opened: try again in a moment"}
	s := g.shut(why)
	if !reflect.DeepEqual(c.standing(), before) {
		g.reopen(s)
		return discard(snapshot.Refuse("this cluster's role, sets or unseal shares changed while the snapshot was restored, and nothing was replaced: repeat it"))
	}
	err := c.node.dir.Adopt(next)
	if err != nil && !c.node.dir.names(next) {
		g.reopen(s)
		return discard(err)
	}
	c.node.sealing.switched(keys)
	if err != nil { // the new name stands in CURRENT and may be gone after a crash: only a start can tell
		c.undecided = err
	}
	c.node.lingering, c.becoming = s, why
	close(c.switched)
	return err
}

// restoreInto makes a new generation of a snapshot, complete and verified. live is the store whose place it takes, nil in an empty directory.
func restoreInto(ctx context.Context, d *DataDir, r *snapshot.Reader, keys *seal.Opened, cfg *Config, log hclog.Logger, live *engine.Engine,
	progress func(bytes int64),
) (*Generation, *snapshot.Restored, error) {
	role, err := r.Header.Role()
	if err != nil {
		return nil, nil, err
	}
	id, err := r.Identify()
	if err != nil {
		return nil, nil, err
	}
	var done *snapshot.Restored
	gen, err := d.Prepare(id.Engine(), role, r.Header.Secondary, id.NodeNotes(), keys, func(dir string) (err error) {
		d.at("fill")
		ec := engineConfig(cfg, &Generation{Dir: dir, Role: role}, keys, log.Named("restore"))
		ec.Repairable = false // what does not fit is the snapshot's fault, and is refused
		done, err = r.Restore(ctx, id, snapshot.Store{Config: ec, Live: live, Now: time.Now, Progress: func(n int64) error {
			if progress != nil {
				progress(n)
			}
			return d.room(cfg.MinFree)
		}})
		d.at("filled")
		return err
	})
	return gen, done, err
}

// room refuses when less disk is free than writes are to leave.
func (d *DataDir) room(least int64) error {
	free, err := d.FreeDisk()
	if err != nil {
		return fmt.Errorf("look at the free disk: %w", err)
	}
	if free < least {
		return snapshot.Refuse("the disk of %s has %d bytes left, and %d must stay free: nothing was changed; make room for a second copy of the data and repeat", d.Path, free, least)
	}
	return nil
}

// RestoreStopped makes a data directory's first store of a snapshot. The directory must hold none.
func RestoreStopped(ctx context.Context, cfg *Config, r *snapshot.Reader, u Unsealer, log hclog.Logger, progress func(bytes int64)) (_ *snapshot.Restored, err error) {
	d, err := OpenDataDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.Tidy(); err != nil {
		return nil, err
	}
	if live, err := d.Current(); err == nil {
		return nil, fmt.Errorf("%s holds a store already (%s): name an empty directory, or restore over it while its server runs (POST sys/storage/snapshot)", cfg.DataDir, live.Name)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	keys, err := u.openSnapshot(r, cfg.DataDir)
	if err != nil {
		return nil, err
	}
	gen, done, err := restoreInto(ctx, d, r, keys, cfg, log, nil, progress)
	if err != nil {
		return nil, err
	}
	return done, d.Adopt(gen)
}

// OpenSnapshot opens the seal of a snapshot, so that what follows is opened too; file names it in errors.
func (u Unsealer) OpenSnapshot(r *snapshot.Reader, file string) error {
	_, err := u.openSnapshot(r, file)
	return err
}

func (u Unsealer) openSnapshot(r *snapshot.Reader, where string) (*seal.Opened, error) {
	keys, err := u.open(r.Seal, where)
	if err != nil {
		return nil, err
	}
	opened, err := keys.OpenCopy(r.Seal)
	if err != nil {
		return nil, err
	}
	r.Unseal(opened)
	return keys, nil
}
