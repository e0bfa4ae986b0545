// Package merkle is the arithmetic of comparing two sets of records: keyed
// digests, their sums, and the range index that finds where two sets differ.
// It does no I/O, starts nothing, locks nothing and imports nothing of ours.
//
// # Digests
//
// A record's digest is SHA-256 over
//
//	64 bytes  keyspace's secret key (32), tag 0 (1), zeros (31)
//	 8 bytes  length of the record's key, big endian
//	          the record's key
//	          the record's value
//
// read as a 256-bit little-endian number. The digest of a set is the sum of
// its records' digests modulo 2^256, together with their number (Total). So a
// write changes a total in constant time, the order of writes does not matter,
// and the totals of disjoint sets add up to that of their union. Whoever lacks
// the key cannot find two sets of one digest; whoever has it can. The value's
// length needs no prefix: it is what remains.
//
// # Leaves
//
// A keyspace's records, in key order, are cut into leaves at boundary keys. A
// key's level is taken from the trailing zero bits of SHA-256 over the same
// block with tag 1 and the key: 5 of them give level 1, each 4 more one level
// more. A record whose key has a level of 1 or more starts a leaf. The first
// leaf starts at the empty key and may be empty; no other leaf is. So the shape
// depends on the content alone, and two clusters with the same records have the
// same leaves: 32 records on average. A range of level n is what lies between
// two boundaries of level n or more.
//
// # Root hash
//
// SHA-256 over the parts that hold records, in order of id, each as id (16),
// count (8, big endian) and sum (32); of it the first 20 bytes. No part at all
// gives the hash of nothing.
//
// Not promised: that a Leaves is right about records it was not told of. Its
// keeper adds and takes out each record once, splits where a boundary key
// appears and joins where one goes.
package merkle
