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

	dir    string
	keys   *keyring
	sealer wal.Sealer
}

// Inspect opens a store read-only; damage that prevents it is a *boltfile.CorruptError. Damaged segments of the log do not:
// Check names them, and reading them fails.
func Inspect(dir string) (*Offline, error) { return InspectSealed(dir, nil) }

// InspectSealed is Inspect of a store that is sealed.
func InspectSealed(dir string, with wal.Sealer) (*Offline, error) {
	wc := walConfig(Config{Dir: dir, Sealer: with}.withDefaults())
	wc.ReadOnly = true
	log, _, err := wal.Open(wc)
	if err != nil {
		return nil, fmt.Errorf("inspect the store %s: %w", dir, err)
	}
	o := &Offline{Log: log, dir: dir, sealer: with}
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
	o.State, err = storage.Open(storage.Options{Path: filepath.Join(o.dir, stateFile), Key: o.keys.value, Sealer: o.sealer, ReadOnly: true})
	return err
}

// Close closes the files.
func (o *Offline) Close() error { return errors.Join(o.State.Close(), o.Log.Close()) }

// Check is Engine.Check on a stopped store, plus: log and state agree (replay of the log behind the checkpoint gives the digests of its frames),
// up to where the log is damaged.
func (o *Offline) Check(ctx context.Context, progress func(stage string, done, total uint64)) (CheckReport, error) {
	r, err := checkStore(ctx, o.State, o.Log, o.keys, progress)
	if err != nil {
		return r, err
	}
	at, err := o.agree(ctx, stage(progress, "replay"))
	var stop *unread
	if errors.As(err, &stop) && len(r.Log) > 0 { // the damage is listed already
		r.NotCompared = fmt.Sprintf("log and state were compared up to index %d only: %v", at, stop.err)
		return r, nil
	}
	d, err := asDamage(err)
	if d != nil {
		r.Damage = append(r.Damage, *d)
	}
	return r, err
}

// unread is an error of the log itself.
type unread struct{ err error }

func (u *unread) Error() string { return u.err.Error() }
func (u *unread) Unwrap() error { return u.err }

// agree replays the log behind the checkpoint in memory and compares with its frames' totals. It returns how far it came.
func (o *Offline) agree(ctx context.Context, progress func(done, total uint64)) (at uint64, err error) {
	mark := o.State.Mark()
	if mark.Sync != nil && mark.Sync.Set == setDR {
		return 0, nil // the log runs ahead of the state, and says so
	}
	at = mark.Applied.Index
	rec := &recovery{cfg: Config{Dir: o.dir}, wal: o.Log}
	if err := rec.fits(mark); err != nil {
		return at, &unread{err}
	}
	end, _ := o.Log.End()
	total := end.Index - mark.Applied.Index
	l := newLedger(o.State)
	l.inMemory = true
	touched := map[storage.KeyspaceID]storage.KeyspaceTotal{}
	rd := o.Log.Reader(mark.Applied.Index + 1)
	for {
		if err := ctx.Err(); err != nil {
			return at, err
		}
		f, err := rd.TryNext()
		switch {
		case err != nil:
			return at, &unread{err}
		case f == nil:
			return at, nil
		}
		if err := o.replay(l, f, touched, f.Last() >= mark.ConsistentAt); err != nil {
			return at, err
		}
		at = f.Last()
		progress(at-mark.Applied.Index, total)
	}
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
	if err == nil {
		return nil, nil
	}
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
