package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// Offline is a store opened by a command while no server runs: nothing is changed.
type Offline struct {
	Identity Identity
	Log      *wal.Log
	State    *storage.State
	History  []Reign

	dir  string
	keys *keyring
}

// Inspect opens a store read-only; damage that prevents it is a *boltfile.CorruptError.
func Inspect(dir string) (*Offline, error) {
	wc := walConfig(Config{Dir: dir}.withDefaults())
	wc.ReadOnly = true
	log, _, err := wal.Open(wc)
	if err != nil {
		return nil, fmt.Errorf("inspect the store %s: %w", dir, err)
	}
	o := &Offline{Log: log, dir: dir}
	if err := o.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("inspect the store %s: %w", dir, err), log.Close())
	}
	return o, nil
}

func (o *Offline) open() error {
	id, err := readIdentity(o.Log.Note(noteIdentity), filepath.Join(o.dir, logDir))
	if err != nil {
		return err
	}
	if o.History, err = readHistory(o.Log, o.dir); err != nil {
		return err
	}
	o.Identity, o.keys = *id, &keyring{secret: id.DigestSecret}
	o.State, err = storage.Open(storage.Options{Path: filepath.Join(o.dir, stateFile), Key: o.keys.value, ReadOnly: true})
	return err
}

// Close closes the files.
func (o *Offline) Close() error { return errors.Join(o.State.Close(), o.Log.Close()) }

// Check is Engine.Check on a stopped store, plus: log and state agree (replay of the log behind the checkpoint gives the digests of its frames).
func (o *Offline) Check(ctx context.Context, progress func(stage string, done, total uint64)) (CheckReport, error) {
	r, err := checkStore(ctx, o.State, o.Log, progress)
	if err != nil {
		return r, err
	}
	d, err := o.agree(ctx, stage(progress, "replay"))
	if d != nil {
		r.Damage = append(r.Damage, *d)
	}
	return r, err
}

// agree replays the log behind the checkpoint in memory and compares with its frames' totals.
func (o *Offline) agree(ctx context.Context, progress func(done, total uint64)) (*storage.Damage, error) {
	mark := o.State.Mark()
	if mark.Sync != nil && mark.Sync.Set == setDR {
		return nil, nil // the log runs ahead of the state, and says so
	}
	rec := &recovery{cfg: Config{Dir: o.dir}, wal: o.Log}
	if err := rec.fits(mark); err != nil {
		return asDamage(err)
	}
	end, _ := o.Log.End()
	total := end.Index - mark.Applied.Index
	l := newLedger(o.State)
	touched := map[storage.KeyspaceID]storage.KeyspaceTotal{}
	rd := o.Log.Reader(mark.Applied.Index + 1)
	for at := mark.Applied.Index; at < end.Index; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f, err := rd.TryNext()
		if err != nil || f == nil {
			return asDamage(fmt.Errorf("replaying the log after %d: %w", at, orEOF(err)))
		}
		if err := o.replay(l, f, touched, f.Last() >= mark.ConsistentAt); err != nil {
			return asDamage(err)
		}
		at = f.Last()
		progress(at-mark.Applied.Index, total)
	}
	return nil, nil
}

func (o *Offline) replay(l *ledger, f *wal.Frame, touched map[storage.KeyspaceID]storage.KeyspaceTotal, compare bool) error {
	entries, err := decodeFrame(f)
	if err != nil {
		return &boltfile.CorruptError{File: filepath.Join(o.dir, logDir), What: fmt.Sprintf("frame %d to %d", f.First, f.Last()), Err: err}
	}
	for _, p := range entries {
		o.keys.digest(p)
	}
	if compare {
		err = l.addFrame(f, entries, touched)
	} else {
		err = l.addEntries(entries, touched)
	}
	if err != nil {
		return err
	}
	l.accept(newGroup())
	for _, h := range l.pending {
		h.value = nil // digests are all that is needed
	}
	return nil
}

// asDamage turns what a check finds into a report, and leaves other errors what they are.
func asDamage(err error) (*storage.Damage, error) {
	var d *storage.Damage
	if errors.As(err, &d) {
		return d, nil
	}
	var div *Diverged
	if errors.As(err, &div) {
		return &storage.Damage{File: stateFile, Keyspace: div.Keyspace, What: "replaying the log gives another digest than the log says: " + err.Error()}, nil
	}
	var c *boltfile.CorruptError
	if errors.As(err, &c) {
		return &storage.Damage{File: c.File, What: err.Error()}, nil
	}
	return nil, err
}
