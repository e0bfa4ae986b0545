package storage

import (
	"unsafe"

	"github.com/tidwall/btree"

	"github.com/lockstepdb/lockstep/merkle"
)

// rec is a record, or that there is none any more, in a table. It is never
// changed: an overwrite replaces the pointer.
type rec struct {
	value   []byte // aliases the frame's buffer
	digest  merkle.Digest
	index   uint64
	deleted bool
}

// table is the newest changes, ordered by keyspace and key.
type table struct {
	recs    btree.Map[string, *rec] // by tableKey
	bytes   int64                   // of keys and values put since it began
	touched map[KeyspaceID]struct{} // keyspaces that its entries named
}

func newTable() *table {
	return &table{touched: map[KeyspaceID]struct{}{}}
}

// idSize is the length of the keyspace's id before the key in a table's keys.
const idSize = len(KeyspaceID{})

func appendTableKey(b []byte, ks KeyspaceID, key []byte) []byte {
	return append(append(b, ks[:]...), key...)
}

func splitTableKey(k string) (ks KeyspaceID, key string) {
	copy(ks[:], k[:idSize])
	return ks, k[idSize:]
}

// get finds a record by the bytes of its table key.
func (t *table) get(key []byte) (*rec, bool) {
	if t == nil || t.recs.Len() == 0 {
		return nil, false
	}
	return t.recs.Get(unsafe.String(unsafe.SliceData(key), len(key)))
}
