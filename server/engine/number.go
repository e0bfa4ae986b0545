package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/lockstepdb/lockstep/storage"
)

// Number is what a numbered keyspace knows of the last write of one of its records, and of each operation.
type Number struct {
	Version uint64 // writes of this record since it was made, from 1 on; a delete counts
	Seq     uint64 // of the operation in its keyspace, gapless from 0 on
	Term    uint64 // the ordinal of the epoch that it was written in, never less than that of an earlier operation
}

// NumbersKey is the record that makes a keyspace numbered: it holds the number of the next operation. Whoever wants a keyspace numbered puts it, with any value;
// from then on the sequencer writes it, with every put and delete of a record, in the same entry. A keyspace never ceases to be numbered.
//
// The values of a numbered keyspace must be texts, or end otherwise than a number does: see Split.
var NumbersKey = []byte{reserved, 'n', 'u', 'm', 'b', 'e', 'r', 's'}

// reserved begins the keys of records that are about their keyspace. They have no number, and an entry that touches one of them, NumbersKey excepted, changes
// SystemVersion.
const reserved = 0

// Reserved tells whether a key is one of the records that are about their keyspace.
func Reserved(key []byte) bool { return len(key) > 0 && key[0] == reserved }

// A value of a numbered keyspace is what was put, then version, operation and term (8 bytes each, big endian) and the tag, which no text ends in.
// The value of NumbersKey is the number of the next operation, the newest term, and the tag.
const (
	numberTag  = 1
	numberSize = 3*8 + 1
	nextSize   = 2*8 + 1
)

// unnumbered is the number of a record from before its keyspace was numbered.
var unnumbered = Number{Version: 1, Seq: 0, Term: 1}

// Split takes a value apart into what was put and its number.
func Split(value []byte) (put []byte, n Number) {
	at := len(value) - numberSize
	if at < 0 || value[len(value)-1] != numberTag {
		return value, unnumbered
	}
	b := value[at:]
	return value[:at:at], Number{
		Version: binary.BigEndian.Uint64(b), Seq: binary.BigEndian.Uint64(b[8:]), Term: binary.BigEndian.Uint64(b[16:]),
	}
}

func appendNumber(b []byte, n Number) []byte {
	b = binary.BigEndian.AppendUint64(b, n.Version)
	b = binary.BigEndian.AppendUint64(b, n.Seq)
	b = binary.BigEndian.AppendUint64(b, n.Term)
	return append(b, numberTag)
}

// NextNumber reads the value of NumbersKey: the number that the next operation will have, and the newest term. The last operation has the number before it.
func NextNumber(value []byte) (next, term uint64, err error) {
	if len(value) != nextSize || value[nextSize-1] != numberTag {
		return 0, 0, fmt.Errorf("the record of operation numbers has %d bytes of a form that is not known here: use a newer lockstep", len(value))
	}
	return binary.BigEndian.Uint64(value), binary.BigEndian.Uint64(value[8:]), nil
}

func appendNext(b []byte, next, term uint64) []byte {
	b = binary.BigEndian.AppendUint64(b, next)
	b = binary.BigEndian.AppendUint64(b, term)
	return append(b, numberTag)
}

// numbering is a keyspace while the writes of one transaction are numbered.
type numbering struct {
	at         int // of the write of NumbersKey
	next, term uint64
	versions   map[string]uint64 // of the records that the transaction has written; 0: deleted
}

// number gives the writes of a transaction their numbers: out is nil when none of them is to a numbered keyspace. It is done here, where all writers of a
// keyspace are in one order, and the entry carries what came of it.
func (s *sequencer) number(r *txReader, writes []Write) (out []Write, numbers []Number, err error) {
	if !s.anyNumbered(writes) {
		return nil, nil, nil
	}
	spaces := map[storage.KeyspaceID]*numbering{}
	out = make([]Write, 0, len(writes)+1)
	numbers = make([]Number, len(writes))
	for i := range writes {
		w := writes[i]
		n, ok := spaces[w.Keyspace]
		if !ok {
			if n, err = s.numberingOf(r, writes, w.Keyspace); err != nil {
				return nil, nil, err
			}
			spaces[w.Keyspace] = n
			if n != nil {
				n.at = len(out)
				out = append(out, Write{Keyspace: w.Keyspace, Scope: w.Scope, Change: storage.Change{Op: storage.Put, Key: NumbersKey}})
			}
		}
		switch {
		case n != nil && slices.Equal(w.Key, NumbersKey): // it is there already, and the sequencer's
			continue
		case n != nil && !Reserved(w.Key):
			if w, numbers[i], err = n.give(r, w); err != nil {
				return nil, nil, err
			}
		}
		out = append(out, w)
	}
	found := false
	for _, n := range spaces {
		if n != nil {
			out[n.at].Value = appendNext(nil, n.next, n.term)
			found = true
		}
	}
	if !found {
		return nil, nil, nil
	}
	return out, numbers, nil
}

// anyNumbered is what a transaction of keyspaces that are not numbered costs: a lookup for each.
func (s *sequencer) anyNumbered(writes []Write) bool {
	var last storage.KeyspaceID
	for i := range writes {
		ks := writes[i].Keyspace
		if i > 0 && ks == last && !Reserved(writes[i].Key) {
			continue
		}
		last = ks
		if _, plain := s.ledger.plain[ks]; !plain || Reserved(writes[i].Key) {
			return true
		}
	}
	return false
}

// numberingOf returns where a keyspace is in its numbers, nil when it is not numbered and the transaction does not make it so, or drops it.
func (s *sequencer) numberingOf(r *txReader, writes []Write, ks storage.KeyspaceID) (*numbering, error) {
	begins := false
	for i := range writes {
		if writes[i].Keyspace != ks {
			continue
		}
		if writes[i].Op == storage.Drop {
			return nil, nil
		}
		begins = begins || slices.Equal(writes[i].Key, NumbersKey)
	}
	n := &numbering{versions: map[string]uint64{}, term: s.e.com.term.Load()}
	rec, err := r.Get(ks, NumbersKey)
	switch {
	case err == nil:
		s.e.numbered.add(ks)
		next, term, err := NextNumber(rec.Value)
		n.next, n.term = next, max(n.term, term)
		return n, err
	case !errors.Is(err, storage.ErrNotFound):
		return nil, err
	case !begins:
		s.ledger.notNumbered(ks)
		return nil, nil
	}
	if t, _ := s.ledger.total(ks); t.Count > 0 {
		n.next = 1 // records that are there already show number 0
	}
	return n, nil
}

// give numbers one write of a record.
func (n *numbering) give(r *txReader, w Write) (Write, Number, error) {
	before, ok := n.versions[string(w.Key)]
	if !ok {
		rec, err := r.Get(w.Keyspace, w.Key)
		switch {
		case err == nil:
			_, old := Split(rec.Value)
			before = old.Version
		case !errors.Is(err, storage.ErrNotFound):
			return w, Number{}, err
		}
	}
	got := Number{Version: before + 1, Seq: n.next, Term: n.term}
	n.next++
	n.versions[string(w.Key)] = got.Version
	if w.Op == storage.Delete {
		n.versions[string(w.Key)] = 0
		return w, got, nil
	}
	put, _ := Split(w.Value) // of an archive, say: it has the number that it had there
	w.Value = appendNumber(append(make([]byte, 0, len(put)+numberSize), put...), got)
	return w, got, nil
}

// numberedSpaces are keyspaces that were found numbered: who writes to one fetches the old records beforehand. To a store without any it costs nothing.
type numberedSpaces struct {
	any   atomic.Bool
	known sync.Map // KeyspaceID → struct{}
}

func (n *numberedSpaces) add(ks storage.KeyspaceID) {
	if !n.has(ks) {
		n.known.Store(ks, struct{}{})
		n.any.Store(true)
	}
}

func (n *numberedSpaces) has(ks storage.KeyspaceID) bool {
	if !n.any.Load() {
		return false
	}
	_, ok := n.known.Load(ks)
	return ok
}

// maxPlain bounds how many keyspaces are remembered as not numbered.
const maxPlain = 1 << 15

// notNumbered remembers that a keyspace has no numbers, so that its writers need not look.
func (l *ledger) notNumbered(ks storage.KeyspaceID) {
	if len(l.plain) >= maxPlain {
		clear(l.plain)
	}
	l.plain[ks] = struct{}{}
}

// describes tells whether an entry touches a record that is about its keyspace, NumbersKey excepted.
func describes(b *storage.Block) bool {
	for i := range b.Changes {
		if key := b.Changes[i].Key; Reserved(key) && !slices.Equal(key, NumbersKey) {
			return true
		}
	}
	return false
}
