package replication

import (
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/server/archive"
	"github.com/lockstepdb/lockstep/wal"
)

// ErrNoArchives is given by a node without archives.
var ErrNoArchives = errors.New("this node keeps no archives")

// Archives lists what rewinds and repairs took back here, by position.
func (n *Node) Archives() []archive.Meta {
	if n.cfg.Archives == nil {
		return nil
	}
	return n.cfg.Archives.List()
}

// Archive returns what an archive is; archive.ErrNotFound when there is none of that id.
func (n *Node) Archive(id string) (archive.Meta, error) {
	if n.cfg.Archives == nil {
		return archive.Meta{}, fmt.Errorf("%w: %w", archive.ErrNotFound, ErrNoArchives)
	}
	return n.cfg.Archives.Get(id)
}

// ReadArchive calls fn for an archive's items from the from-th on, until it returns false.
func (n *Node) ReadArchive(id string, from uint64, fn func(n uint64, it *archive.Item) (bool, error)) error {
	if _, err := n.Archive(id); err != nil {
		return err
	}
	return n.cfg.Archives.Read(id, from, fn)
}

// DiscardArchive removes an archive for good.
func (n *Node) DiscardArchive(id string) error {
	m, err := n.Archive(id)
	if err != nil {
		return err
	}
	if err := n.cfg.Archives.Discard(id); err != nil {
		return err
	}
	n.log.Warn("an archive of lost writes was discarded", "archive", id, "entries", m.Counts.Entries, "records", m.Counts.Records)
	return nil
}

// LostIn returns the archive here that holds one of the states that index tokens name; "" when none does.
func (n *Node) LostIn(texts []string) string {
	if n.cfg.Archives == nil {
		return ""
	}
	for _, text := range texts[:min(len(texts), maxIndexTexts)] {
		t, err := decodeIndexToken(text, n.indexKey())
		if err != nil {
			continue
		}
		for _, p := range []wal.Position{t.shared, t.local} {
			if id := n.cfg.Archives.Holding(p); id != "" {
				return id
			}
		}
	}
	return ""
}

// archivedIndex reports whether an archive here holds the entry at a place that the own history does not know.
func (n *Node) archivedIndex(p wal.Position) bool {
	return n.cfg.Archives != nil && n.cfg.Archives.Holding(p) != ""
}
