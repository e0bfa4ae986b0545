package engine

import (
	"bytes"
	"fmt"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

const (
	maxWrites    = 4096 // of a transaction
	maxRequestID = 64
	entryVersion = 1

	groupEntries = 1024
	groupBytes   = 4 << 20
	// A frame's header has room for the totals of about 18,000 keyspaces. A group takes no more once it touches groupKeyspaces: the last
	// transaction may add maxWrites. A frame lists all keyspaces only up to frameKeyspaces.
	groupKeyspaces = 8192
	frameKeyspaces = 8192
)

// prepared is an entry with what its sequencing needs: digests of new values, and what was known of the old ones beforehand.
type prepared struct {
	entry   *storage.Entry
	encoded []byte
	digests [][]merkle.Digest
	olds    [][]storage.Old // nil: not looked up beforehand
}

func (p *prepared) hint(block, change int) *storage.Old {
	if p.olds == nil {
		return nil
	}
	return &p.olds[block][change]
}

// digest hashes the new values of an entry.
func (k *keyring) digest(p *prepared) {
	p.digests = make([][]merkle.Digest, len(p.entry.Blocks))
	for i, b := range p.entry.Blocks {
		key := k.key(b.Keyspace)
		p.digests[i] = make([]merkle.Digest, len(b.Changes))
		for j, c := range b.Changes {
			if c.Op == storage.Put {
				p.digests[i][j] = key.Record(c.Key, c.Value)
			}
		}
	}
}

// lookup fetches the old records of an entry, which may touch the disk: never on the sequencer.
func (e *Engine) lookup(p *prepared) error { return p.lookup(e.state.Old) }

func (p *prepared) lookup(find func(storage.KeyspaceID, []byte) (storage.Old, error)) error {
	p.olds = make([][]storage.Old, len(p.entry.Blocks))
	for i, b := range p.entry.Blocks {
		p.olds[i] = make([]storage.Old, len(b.Changes))
		for j, c := range b.Changes {
			if c.Op != storage.Put && c.Op != storage.Delete {
				continue
			}
			o, err := find(b.Keyspace, c.Key)
			if err != nil {
				return err
			}
			p.olds[i][j] = o
		}
	}
	return nil
}

// encode gives the entry its bytes and lets its keys and values alias them: one copy serves table, ring and wire,
// and the caller's buffers are free again.
func (p *prepared) encode() error {
	size := 256
	for _, b := range p.entry.Blocks {
		size += 64
		for _, c := range b.Changes {
			size += 16 + len(c.Key) + len(c.Value)
		}
	}
	p.encoded = storage.EncodeEntry(make([]byte, 0, size), p.entry)
	if len(p.encoded) > storage.MaxEntry {
		return fmt.Errorf("an entry of %d bytes, at most %d: %w", len(p.encoded), storage.MaxEntry, ErrTooLarge)
	}
	decoded, err := storage.DecodeEntry(p.encoded)
	if err != nil {
		return fmt.Errorf("internal error: entry %d does not decode after it was encoded: %w", p.entry.Index, err)
	}
	p.entry = decoded
	return nil
}

func (p *prepared) applying() storage.Applying {
	return storage.Applying{Entry: p.entry, Digests: p.digests}
}

// decodeEntry reads one entry of a frame or batch.
func decodeEntry(b []byte) (*prepared, error) {
	if len(b) > storage.MaxEntry {
		return nil, fmt.Errorf("an entry of %d bytes, at most %d: %w", len(b), storage.MaxEntry, ErrTooLarge)
	}
	e, err := storage.DecodeEntry(b)
	if err != nil {
		return nil, err
	}
	return &prepared{entry: e, encoded: b}, nil
}

// decodeFrame reads the entries of a frame and checks that their indexes are the frame's.
func decodeFrame(f *wal.Frame) ([]*prepared, error) {
	out := make([]*prepared, len(f.Entries))
	for i, b := range f.Entries {
		p, err := decodeEntry(b)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", f.First+uint64(i), err)
		}
		if p.entry.Index != f.First+uint64(i) {
			return nil, fmt.Errorf("entry %d of a frame says that it is %d", f.First+uint64(i), p.entry.Index)
		}
		out[i] = p
	}
	return out, nil
}

// blocks groups writes by keyspace, in order of first appearance; one keyspace is one block.
func blocks(writes []Write) []storage.Block {
	var out []storage.Block
next:
	for i := range writes {
		w := &writes[i]
		for j := range out {
			if out[j].Keyspace == w.Keyspace {
				out[j].Changes = append(out[j].Changes, w.Change)
				continue next
			}
		}
		out = append(out, storage.Block{Keyspace: w.Keyspace, Scope: w.Scope, Changes: []storage.Change{w.Change}})
	}
	return out
}

// checkWrites says what is wrong with a transaction's writes.
func checkWrites(writes []Write) error {
	if len(writes) > maxWrites {
		return fmt.Errorf("a transaction of %d writes, at most %d: %w", len(writes), maxWrites, ErrTooLarge)
	}
	size := 0
	for i := range writes {
		w := &writes[i]
		switch {
		case len(w.Key) > storage.MaxKey:
			return fmt.Errorf("a key of %d bytes, at most %d: %w", len(w.Key), storage.MaxKey, ErrTooLarge)
		case len(w.Value) > storage.MaxValue:
			return fmt.Errorf("a value of %d bytes, at most %d: %w", len(w.Value), storage.MaxValue, ErrTooLarge)
		case w.Scope != storage.Replicated && w.Scope != storage.Local:
			return fmt.Errorf("internal error: write to keyspace %s has scope %d", w.Keyspace, w.Scope)
		case w.Op != storage.Put && w.Op != storage.Delete && w.Op != storage.Drop:
			return fmt.Errorf("internal error: write to keyspace %s has operation %d", w.Keyspace, w.Op)
		case w.Op == storage.Drop && (len(w.Key) > 0 || len(w.Value) > 0):
			return fmt.Errorf("internal error: drop of keyspace %s names a key", w.Keyspace)
		case w.Op != storage.Drop && len(w.Key) == 0:
			return fmt.Errorf("internal error: write to keyspace %s has no key", w.Keyspace)
		case w.Op == storage.Delete && len(w.Value) > 0:
			return fmt.Errorf("internal error: delete in keyspace %s has a value", w.Keyspace)
		}
		size += len(w.Key) + len(w.Value)
	}
	if size > storage.MaxEntry {
		return fmt.Errorf("a transaction of %d bytes, at most %d: %w", size, storage.MaxEntry, ErrTooLarge)
	}
	return nil
}

func compareIDs(a, b storage.KeyspaceID) int { return bytes.Compare(a[:], b[:]) }
