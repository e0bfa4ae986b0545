package merkle

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
)

// Key is a keyspace's secret: whoever lacks it cannot find two sets of records
// with one digest.
type Key [32]byte

// Digest is a 256-bit number, little endian: the keyed hash of one record, or the
// sum modulo 2^256 of many (MSet-Add-Hash, Clarke et al., 2003).
type Digest [32]byte

// Tags keep the two uses of a key apart; they stand behind it in the first block.
const (
	tagRecord = 0
	tagLevel  = 1
)

const (
	blockSize  = 64 // of SHA-256: the key fills the first
	firstBits  = 5  // zero bits that make a key a boundary of level 1
	levelBits  = 4  // and that each further level takes
	stackBytes = 2048
)

// MaxLevel is the highest level that Level returns.
const MaxLevel = 1 + (64-firstBits)/levelBits

// Add sets d to d+x.
func (d *Digest) Add(x *Digest) {
	var c uint64
	for i := 0; i < 32; i += 8 {
		var s uint64
		s, c = bits.Add64(binary.LittleEndian.Uint64(d[i:]), binary.LittleEndian.Uint64(x[i:]), c)
		binary.LittleEndian.PutUint64(d[i:], s)
	}
}

// Sub sets d to d−x.
func (d *Digest) Sub(x *Digest) {
	var c uint64
	for i := 0; i < 32; i += 8 {
		var s uint64
		s, c = bits.Sub64(binary.LittleEndian.Uint64(d[i:]), binary.LittleEndian.Uint64(x[i:]), c)
		binary.LittleEndian.PutUint64(d[i:], s)
	}
}

// Record returns the digest of one record: SHA-256 over a 64-byte block that
// holds the key, then length-prefixed record key, then value.
func (k *Key) Record(key, value []byte) Digest {
	var head [blockSize + 8]byte
	copy(head[:], k[:])
	head[len(k)] = tagRecord
	binary.BigEndian.PutUint64(head[blockSize:], uint64(len(key)))
	if n := len(head) + len(key) + len(value); n <= stackBytes {
		var buf [stackBytes]byte
		b := append(append(append(buf[:0], head[:]...), key...), value...)
		return sha256.Sum256(b)
	}
	h := sha256.New()
	h.Write(head[:])
	h.Write(key)
	h.Write(value)
	var d Digest
	h.Sum(d[:0])
	return d
}

// Level returns 0 when a record key starts no leaf, n ≥ 1 when it starts a
// range of the n-th level: 5 zero bits of its keyed hash for the first, 4 bits
// more for each further level. Keyed, so that nobody outside can choose
// leaves' sizes.
func (k *Key) Level(key []byte) int {
	var head [blockSize]byte
	copy(head[:], k[:])
	head[len(k)] = tagLevel
	var sum [32]byte
	if len(head)+len(key) <= stackBytes {
		var buf [stackBytes]byte
		sum = sha256.Sum256(append(append(buf[:0], head[:]...), key...))
	} else {
		h := sha256.New()
		h.Write(head[:])
		h.Write(key)
		h.Sum(sum[:0])
	}
	zeros := bits.TrailingZeros64(binary.BigEndian.Uint64(sum[24:]))
	if zeros < firstBits {
		return 0
	}
	return 1 + (zeros-firstBits)/levelBits
}

// Total is the digest of a set of records, with their number.
type Total struct {
	Count uint64
	Sum   Digest
}

// Add and Sub combine totals of disjoint sets.
func (t *Total) Add(x Total) {
	t.Count += x.Count
	t.Sum.Add(&x.Sum)
}

// Sub takes x, a part of t, out of it.
func (t *Total) Sub(x Total) {
	t.Count -= x.Count
	t.Sum.Sub(&x.Sum)
}

// Replace takes the digest of a record's old value out and puts the new one in; nil
// means that there was, or is, none.
func (t *Total) Replace(old, new *Digest) {
	if old != nil {
		t.Count--
		t.Sum.Sub(old)
	}
	if new != nil {
		t.Count++
		t.Sum.Add(new)
	}
}
