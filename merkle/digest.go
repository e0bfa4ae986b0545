package merkle

// Key is a keyspace's secret: whoever lacks it cannot find two sets of records
// with one digest.
type Key [32]byte

// Digest is a 256-bit number, little endian: the keyed hash of one record, or the
// sum modulo 2^256 of many (MSet-Add-Hash, Clarke et al., 2003).
type Digest [32]byte

// Add sets d to d+x.
func (d *Digest) Add(x *Digest) { panic("storage helper") }

// Sub sets d to d−x.
func (d *Digest) Sub(x *Digest) { panic("storage helper") }

// Record returns the digest of one record: SHA-256 over a 64-byte block that
// holds the key, then length-prefixed record key, then value.
func (k *Key) Record(key, value []byte) Digest { panic("storage helper") }

// Level returns 0 when a record key starts no leaf, n ≥ 1 when it starts a
// range of the n-th level: 5 zero bits of its keyed hash for the first, 4 bits
// more for each further level. Keyed, so that nobody outside can choose
// leaves' sizes.
func (k *Key) Level(key []byte) int { panic("storage helper") }

// Total is the digest of a set of records, with their number.
type Total struct {
	Count uint64
	Sum   Digest
}

// Add and Sub combine totals of disjoint sets.
func (t *Total) Add(x Total) { panic("storage helper") }
func (t *Total) Sub(x Total) { panic("storage helper") }

// Replace takes the digest of a record's old value out and puts the new one in; nil
// means that there was, or is, none.
func (t *Total) Replace(old, new *Digest) { panic("storage helper") }

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
func Root(parts []Part) RootHash { panic("storage helper") }
