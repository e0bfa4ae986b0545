package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// A damaged log is set aside in four steps, so that a kill at any of them loses no notes (identity, node-scope records):
//
//	1 a new log is built in log.new: the old one's notes, beginning after the state's mark, with the reason for a repair
//	2 log is renamed to log-damaged-T
//	3 log.new is renamed to log
//	4 the directory is synced
//
// Open finds "no log, but a log.new" after a kill between 2 and 3, and goes on with 3; a log.new beside a log is removed.

func finishSetAside(dir string) error {
	next := filepath.Join(dir, newLogDir)
	if _, err := os.Stat(next); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, logDir)); err == nil {
		return os.RemoveAll(next)
	}
	if err := os.Rename(next, filepath.Join(dir, logDir)); err != nil {
		return err
	}
	return syncDirs(dir)
}

// setAside puts a new log in the place of the damaged one, which is not open.
func (r *recovery) setAside(reason string) error {
	dir := r.cfg.Dir
	r.report.LogDamage = damageIn(dir, r.cfg.Sealer)
	notes, err := wal.ReadNotes(filepath.Join(dir, logDir), r.cfg.Sealer)
	if err != nil {
		return fmt.Errorf("the log is damaged (%s) and its notes cannot be read: %w", reason, err)
	}
	mark, err := r.readMark(notes)
	if err != nil {
		return fmt.Errorf("the log is damaged (%s) and the state cannot be read: %w", reason, err)
	}
	return r.replaceWith(notes, mark, reason)
}

// damageIn names what is wrong in the log of a store that is not open; none when it cannot even be read.
func damageIn(dir string, with wal.Sealer) []LogDamage {
	o, err := InspectSealed(dir, with)
	if err != nil {
		return nil
	}
	damage := nameDamage(o.Log, o.State, o.keys)
	_ = o.Close() // opened for reading only
	return damage
}

// nameDamage returns what could be told of a damaged log, all of it or not: it is for people.
func nameDamage(log *wal.Log, state *storage.State, keys *keyring) []LogDamage {
	damage, _ := checkLog(context.Background(), log, func(d wal.Damage) LogDamage { return suspects(d, state, keys) }, stage(nil, "log"))
	return damage
}

// readMark reads the state's mark before the state is opened for good.
func (r *recovery) readMark(notes map[string][]byte) (storage.Mark, error) {
	id, err := readIdentity(notes[noteIdentity], filepath.Join(r.cfg.Dir, logDir))
	if err != nil {
		return storage.Mark{}, err
	}
	keys := &keyring{secret: id.DigestSecret}
	s, err := storage.Open(storage.Options{Path: filepath.Join(r.cfg.Dir, stateFile), Key: keys.value, Sealer: r.cfg.Sealer, ReadOnly: true})
	if err != nil {
		return storage.Mark{}, err
	}
	return s.Mark(), s.Close()
}

// replaceLog is setAside for a log that is open, with the state open too.
func (r *recovery) replaceLog(reason string) error {
	r.report.LogDamage = nameDamage(r.wal, r.state, r.e.keys)
	notes := map[string][]byte{}
	err := r.wal.Notes("", func(k string, v []byte) error {
		notes[k] = append([]byte{}, v...)
		return nil
	})
	if err := errors.Join(err, r.wal.Close()); err != nil {
		return err
	}
	// What was replayed before the damage is kept: it is in the state's tables and goes into the file here.
	if err := r.e.flushLocked(context.Background()); err != nil {
		return err
	}
	if err := r.replaceWith(notes, r.state.Mark(), reason); err != nil {
		return err
	}
	log, rep, err := wal.Open(walConfig(r.cfg))
	if err != nil {
		return err
	}
	r.wal, r.e.wal, r.report.WAL = log, log, rep
	r.e.bases.clear()
	return nil
}

func (r *recovery) replaceWith(notes map[string][]byte, mark storage.Mark, reason string) error {
	dir := r.cfg.Dir
	next := filepath.Join(dir, newLogDir)
	if err := os.RemoveAll(next); err != nil {
		return err
	}
	for k := range notes {
		if len(k) >= len(noteTotals) && k[:len(noteTotals)] == noteTotals {
			delete(notes, k)
		}
	}
	notes[noteRepair] = []byte("the log was damaged and set aside: " + reason)
	if err := createLog(next, r.cfg.Sealer, func(l *wal.Log) error { return l.Reset(mark.Applied, mark.Chain, notes) }); err != nil {
		return fmt.Errorf("making a log in the place of the damaged one: %w", err)
	}
	aside := filepath.Join(dir, setAsideName+r.cfg.Now().UTC().Format(asideTime))
	if err := errors.Join(os.Rename(filepath.Join(dir, logDir), aside), os.Rename(next, filepath.Join(dir, logDir)), syncDirs(dir)); err != nil {
		return fmt.Errorf("setting the damaged log aside: %w", err)
	}
	r.report.LogSetAside = aside
	return nil
}

// mayRebuild reports whether the state may begin empty: a primary holds all of it, and nothing else was ever written here.
func (r *recovery) mayRebuild() bool { return r.cfg.Repairable && r.cfg.Role == Verbatim }

// unreadable reports whether a state file cannot be opened for what is in it, or because it is missing.
func unreadable(err error) bool {
	var c *boltfile.CorruptError
	return errors.As(err, &c) || errors.Is(err, fs.ErrNotExist)
}

// rebuildState sets the state file aside and begins an empty one, and the log with it: a sync fills both. The reason is noted first, so
// that a kill at any step is followed by another attempt.
func (r *recovery) rebuildState(reason string) error {
	if err := r.wal.SetNotes(map[string][]byte{noteRebuild: []byte(reason)}); err != nil {
		return err
	}
	path := r.e.path(stateFile)
	if _, err := os.Stat(path); err == nil {
		aside := r.e.path(stateAside + r.cfg.Now().UTC().Format(asideTime))
		if err := os.Rename(path, aside); err != nil {
			return fmt.Errorf("setting the unreadable state aside: %w", err)
		}
		r.report.StateSetAside = aside
	}
	if err := storage.CreateSealed(path, r.cfg.Sealer); err != nil {
		return err
	}
	notes := map[string][]byte{noteRebuild: nil, noteRepair: []byte("the state could not be read and was set aside: " + reason)}
	err := r.wal.Notes(noteTotals, func(k string, _ []byte) error {
		notes[k] = nil
		return nil
	})
	if err != nil {
		return err
	}
	if err := r.wal.Reset(wal.Position{}, wal.Hash{}, notes); err != nil {
		return fmt.Errorf("beginning the log again: %w", err)
	}
	r.report.WAL = wal.Report{First: 1}
	return syncDirs(r.cfg.Dir)
}

// noteUnreadable lets the next Open of a DR secondary begin its state anew, if it is damaged where no digest can mend it.
func (e *Engine) noteUnreadable(err error) {
	var c *boltfile.CorruptError
	if !e.Repairable() || e.Role() != Verbatim || !errors.As(err, &c) || filepath.Base(c.File) != stateFile {
		return
	}
	if err := e.wal.SetNotes(map[string][]byte{noteRebuild: []byte(err.Error())}); err != nil {
		e.log.Error("that the state must be rebuilt could not be noted", "error", err)
	}
}

const asideTime = "20060102T150405.000000000Z"

// needRepair records why the store must be synced.
func (r *recovery) needRepair(reason string) error {
	return r.wal.SetNotes(map[string][]byte{noteRepair: []byte(reason)})
}
