package archive

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// ItemVersion is the version of an archived item's bytes.
const ItemVersion = 1

// Kind says what an item is.
type Kind byte

// Kinds of items.
const (
	Entry  Kind = 1 // an entry of the tail
	Record Kind = 2 // a record that a repair overwrote or deleted
)

const (
	flagLost    = 1
	flagRemoved = 2

	itemHeader   = 1 + 1 + 1 + 16 + 8
	recordHeader = 16 + 1
)

// Item is one thing that was taken back.
type Item struct {
	Kind  Kind
	At    wal.Position   // of the entry in the own log; of a record only the index of its last change here
	Lost  bool           // the entry has no source, or one beyond the set's common point; otherwise it was only dropped
	Bytes []byte         // the entry as the log held it
	Entry *storage.Entry // Bytes, decoded

	// Of a record.
	Keyspace   storage.KeyspaceID
	Scope      storage.Scope
	Key, Value []byte
	Removed    bool // it was deleted, not overwritten
}

// errItem says that bytes are no archived item.
var errItem = errors.New("not an archived item")

// EncodeItem appends an item's bytes.
func EncodeItem(b []byte, it *Item) []byte {
	var flags byte
	if it.Lost {
		flags |= flagLost
	}
	if it.Removed {
		flags |= flagRemoved
	}
	b = append(b, ItemVersion, byte(it.Kind), flags)
	b = append(b, it.At.Fork[:]...)
	b = binary.BigEndian.AppendUint64(b, it.At.Index)
	if it.Kind == Entry {
		return append(b, it.Bytes...)
	}
	b = append(append(b, it.Keyspace[:]...), byte(it.Scope))
	b = binary.AppendUvarint(b, uint64(len(it.Key)))
	return append(append(b, it.Key...), it.Value...)
}

// DecodeItem reads what EncodeItem wrote; the result shares nothing with b.
func DecodeItem(b []byte) (*Item, error) {
	if len(b) < itemHeader {
		return nil, fmt.Errorf("%w: %d bytes are too few", errItem, len(b))
	}
	if b[0] != ItemVersion {
		return nil, &wal.VersionError{What: "archived item", Got: uint16(b[0]), Have: ItemVersion}
	}
	if b[2]&^(flagLost|flagRemoved) != 0 {
		return nil, fmt.Errorf("%w: flags %#x are unknown", errItem, b[2])
	}
	it := &Item{Kind: Kind(b[1]), Lost: b[2]&flagLost != 0, Removed: b[2]&flagRemoved != 0}
	copy(it.At.Fork[:], b[3:])
	it.At.Index = binary.BigEndian.Uint64(b[19:])
	b = slices.Clone(b[itemHeader:])
	switch it.Kind {
	case Entry:
		e, err := storage.DecodeEntry(b)
		if err != nil {
			return nil, fmt.Errorf("the entry at index %d: %w", it.At.Index, err)
		}
		it.Bytes, it.Entry = b, e
		return it, nil
	case Record:
		return it, it.decodeRecord(b)
	}
	return nil, fmt.Errorf("%w: kind %d is unknown", errItem, it.Kind)
}

func (it *Item) decodeRecord(b []byte) error {
	if len(b) < recordHeader {
		return fmt.Errorf("%w: a record of %d bytes", errItem, len(b))
	}
	copy(it.Keyspace[:], b)
	it.Scope = storage.Scope(b[16])
	if it.Scope != storage.Replicated && it.Scope != storage.Local {
		return fmt.Errorf("%w: scope %d is unknown", errItem, it.Scope)
	}
	n, used := binary.Uvarint(b[recordHeader:])
	rest := b[min(len(b), recordHeader+max(used, 0)):]
	if used <= 0 || n == 0 || n > storage.MaxKey || n > uint64(len(rest)) || len(rest)-int(n) > storage.MaxValue {
		return fmt.Errorf("%w: a record with a key of %d bytes in %d", errItem, n, len(rest))
	}
	it.Key, it.Value = rest[:n:n], rest[n:]
	return nil
}
