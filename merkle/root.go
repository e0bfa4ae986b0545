package merkle

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// Part is a keyspace in a root.
type Part struct {
	ID [16]byte
	Total
}

// RootHash is what the API shows, in hex, as merkle_root: the first 20 bytes
// of SHA-256 over the parts (id, count, sum) in order of id. Parts without
// records add nothing. Equal content gives equal roots whatever the history.
type RootHash [20]byte

// Root returns the root hash of a set of keyspaces, given in any order.
func Root(parts []Part) RootHash {
	byID := func(a, b Part) int { return bytes.Compare(a.ID[:], b.ID[:]) }
	if !slices.IsSortedFunc(parts, byID) {
		parts = slices.Clone(parts)
		slices.SortFunc(parts, byID)
	}
	h := sha256.New()
	var b [16 + 8 + 32]byte
	for _, p := range parts {
		if p.Count == 0 {
			continue
		}
		copy(b[:], p.ID[:])
		binary.BigEndian.PutUint64(b[16:], p.Count)
		copy(b[24:], p.Sum[:])
		h.Write(b[:])
	}
	var sum [32]byte
	h.Sum(sum[:0])
	return RootHash(sum[:20])
}
