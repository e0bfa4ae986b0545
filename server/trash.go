package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// trashTime is how the time stands in a name of the trash: when it came there.
const trashTime = "20060102T150405.000Z"

// discard moves a generation that is no longer live to the trash.
func (d *DataDir) discard(name string) error {
	trash := filepath.Join(d.Path, trashName)
	if err := os.MkdirAll(trash, 0o700); err != nil {
		return err
	}
	d.at("discard")
	to := filepath.Join(trash, time.Now().UTC().Format(trashTime)+"-"+name)
	if err := renameSynced(filepath.Join(d.Path, name), to); err != nil {
		return err
	}
	d.at("discarded")
	return nil
}

// SweepTrash removes what came to the trash before a time, and returns how
// many stores that were.
func (d *DataDir) SweepTrash(before time.Time) (int, error) {
	trash := filepath.Join(d.Path, trashName)
	entries, err := os.ReadDir(trash)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("sweep trash: %w", err)
	}
	removed := 0
	for _, e := range entries {
		at, ok := trashedAt(e.Name())
		if !ok || at.After(before) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(trash, e.Name())); err != nil {
			return removed, fmt.Errorf("sweep trash: %w", err)
		}
		removed++
	}
	return removed, nil
}

// trashedAt reads the time out of a name. What has none was not put there by
// a server and is not removed by it.
func trashedAt(name string) (time.Time, bool) {
	if len(name) < len(trashTime) {
		return time.Time{}, false
	}
	at, err := time.Parse(trashTime, name[:len(trashTime)])
	return at, err == nil
}
