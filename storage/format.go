package storage

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/wal"
)

// FormatVersion is the version of the state file's format.
const FormatVersion = 1

var (
	bucketMeta      = []byte("meta")
	bucketKeyspaces = []byte("keyspaces")
	keyFormat       = []byte("format")
	keyMark         = []byte("mark")
)

const (
	prefixRows   = 'r'
	prefixLeaves = 'l'
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum is the check of a value: over the key it lies under, and itself.
func sum(key, value []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, key), castagnoli, value)
}

var errChecksum = errors.New("its checksum does not match")

// ---- rows

// Flags of a row. A compressed one is reserved: no program writes it yet.
const (
	rowCompressed = 1 << iota
	rowSealed
)

const (
	rowCRC    = 4
	rowHeader = rowCRC + 1 + 8 + 32 // crc, flags, index, digest
)

// row is a record as the file holds it; value aliases the file's page and may be sealed: see sealing.value.
type row struct {
	flags  byte
	index  uint64
	digest merkle.Digest
	value  []byte
}

// appendRowHeader appends a row's bytes before its value.
func appendRowHeader(b, key []byte, flags byte, index uint64, digest *merkle.Digest) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0, flags)
	b = binary.BigEndian.AppendUint64(b, index)
	b = append(b, digest[:]...)
	binary.BigEndian.PutUint32(b[at:], sum(key, b[at+rowCRC:at+rowHeader]))
	return b
}

// decodeRow reads a row; its value is not compared with its digest. The row is
// filled as far as it goes even when it is not what was written.
func decodeRow(key, b []byte) (r row, err error) {
	if len(b) < rowHeader {
		return r, fmt.Errorf("its row of %d bytes is too short", len(b))
	}
	r.flags = b[rowCRC]
	r.index = binary.BigEndian.Uint64(b[rowCRC+1:])
	copy(r.digest[:], b[rowCRC+9:])
	r.value = b[rowHeader:]
	if len(key) > MaxKey {
		return r, fmt.Errorf("its key of %d bytes is longer than any", len(key))
	}
	if binary.BigEndian.Uint32(b) != sum(key, b[rowCRC:rowHeader]) {
		return r, errChecksum
	}
	if r.flags&^rowSealed != 0 {
		return r, &wal.VersionError{What: fmt.Sprintf("record with flags %#x", r.flags), Got: FormatVersion + 1, Have: FormatVersion}
	}
	return r, nil
}

// ---- leaves

const leafSize = 1 + 8 + 32 + 4

// leafKey is the key of a leaf in its bucket: one byte before the low key, because
// bbolt takes no empty keys.
func leafKey(low string) []byte { return append([]byte{0}, low...) }

func encodeLeaf(key []byte, leaf *merkle.Leaf) []byte {
	b := make([]byte, 0, leafSize)
	b = append(b, leaf.Level)
	b = binary.BigEndian.AppendUint64(b, leaf.Count)
	b = append(b, leaf.Sum[:]...)
	return binary.BigEndian.AppendUint32(b, sum(key, b))
}

func decodeLeaf(key, b []byte) (leaf merkle.Leaf, err error) {
	if len(key) == 0 || key[0] != 0 || len(b) != leafSize {
		return leaf, fmt.Errorf("a leaf of %d bytes is none", len(b))
	}
	body := b[:leafSize-4]
	if binary.BigEndian.Uint32(b[len(body):]) != sum(key, body) {
		return leaf, errChecksum
	}
	leaf.Low = string(key[1:])
	leaf.Level = body[0]
	leaf.Count = binary.BigEndian.Uint64(body[1:])
	copy(leaf.Sum[:], body[9:])
	return leaf, nil
}

// ---- keyspaces

const keyspaceSize = 1 + 8 + 8 + 8 + 32 + 4

// info is what is known of a keyspace as of some place. Values are not
// changed once others can see them.
type info struct {
	scope      Scope
	detachedAt uint64 // own index of its drop; 0: attached
	floor      uint64
	total      merkle.Total
}

func encodeKeyspace(id KeyspaceID, k *info) []byte {
	b := make([]byte, 0, keyspaceSize)
	b = append(b, byte(k.scope))
	b = binary.BigEndian.AppendUint64(b, k.detachedAt)
	b = binary.BigEndian.AppendUint64(b, k.floor)
	b = binary.BigEndian.AppendUint64(b, k.total.Count)
	b = append(b, k.total.Sum[:]...)
	return binary.BigEndian.AppendUint32(b, sum(id[:], b))
}

func decodeKeyspace(key, b []byte) (id KeyspaceID, k info, err error) {
	if len(key) != len(id) || len(b) != keyspaceSize {
		return id, k, fmt.Errorf("entry of a keyspace has %d bytes", len(b))
	}
	copy(id[:], key)
	r := &reader{b: b, what: "keyspace"}
	k.scope = r.scope()
	k.detachedAt = r.uint64()
	k.floor = r.uint64()
	k.total.Count = r.uint64()
	copy(k.total.Sum[:], r.take(32))
	if r.uint32() != sum(key, b[:keyspaceSize-4]) {
		return id, k, errChecksum
	}
	return id, k, r.err
}

// summary is the number and sum of the hashes of all keyspaces' entries.
func summaryOf(id KeyspaceID, entry []byte) merkle.Digest {
	return sha256.Sum256(append(append(make([]byte, 0, len(id)+keyspaceSize), id[:]...), entry...))
}

// ---- mark

const (
	markSync = 1 << iota
	markReindex
	markReindexing
)

// Limits on what a mark may hold.
const (
	maxCursors = 1 << 16
	maxName    = 256
)

// Mark is what a finished checkpoint says of itself.
type Mark struct {
	Applied       wal.Position            // replay starts after it
	Chain         wal.Hash                // of the frame at Applied
	ConsistentAt  uint64                  // until replay has passed it nothing is served, streamed or verified; 0 when the last checkpoint finished
	Cursors       map[string]wal.Position // per subscription, as of Applied
	Sync          *SyncState              // a sync that has not ended
	ReindexNeeded bool                    // leaves do not add up to the totals: records are to be hashed anew
	Reindexing    bool                    // a reindex has begun and has not ended: why leaves may not add up
}

// SyncState is how far a sync has come; it survives restarts.
type SyncState struct {
	Set       string       // "dr" or "performance"
	From      wal.Position // S, on the feeder's history
	FromChain wal.Hash     // dr: chain hash at S
	Until     wal.Position // M so far
	Keyspace  KeyspaceID   // keyspaces are synced in order of id, the system's first; those before it are complete
	Done      []byte       // and of this one everything below Done
	Complete  bool         // all ranges received: only the spool is left
}

func encodeMark(m *Mark, keyspaces merkle.Total) []byte {
	var flags byte
	if m.Sync != nil {
		flags |= markSync
	}
	if m.ReindexNeeded {
		flags |= markReindex
	}
	if m.Reindexing {
		flags |= markReindexing
	}
	b := appendPosition([]byte{flags}, m.Applied)
	b = append(b, m.Chain[:]...)
	b = binary.BigEndian.AppendUint64(b, m.ConsistentAt)
	names := make([]string, 0, len(m.Cursors))
	for name := range m.Cursors {
		names = append(names, name)
	}
	slices.Sort(names)
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, name := range names {
		b = appendPosition(appendBytes(b, []byte(name)), m.Cursors[name])
	}
	if s := m.Sync; s != nil {
		b = appendPosition(appendBytes(b, []byte(s.Set)), s.From)
		b = append(b, s.FromChain[:]...)
		b = appendPosition(b, s.Until)
		b = appendBytes(append(b, s.Keyspace[:]...), s.Done)
		b = append(b, boolByte(s.Complete))
	}
	b = binary.BigEndian.AppendUint64(b, keyspaces.Count)
	b = append(b, keyspaces.Sum[:]...)
	return binary.BigEndian.AppendUint32(b, sum(keyMark, b))
}

func decodeMark(b []byte) (m Mark, keyspaces merkle.Total, err error) {
	if len(b) < 4 || binary.BigEndian.Uint32(b[len(b)-4:]) != sum(keyMark, b[:len(b)-4]) {
		return m, keyspaces, errChecksum
	}
	r := &reader{b: b[:len(b)-4], what: "mark"}
	flags := r.byte()
	m.ReindexNeeded = flags&markReindex != 0
	m.Reindexing = flags&markReindexing != 0
	m.Applied = r.position()
	copy(m.Chain[:], r.take(32))
	m.ConsistentAt = r.uint64()
	m.Cursors = map[string]wal.Position{}
	for n := r.length(maxCursors, "cursors"); n > 0 && r.err == nil; n-- {
		name := string(r.bytes(maxName, "name"))
		m.Cursors[name] = r.position()
	}
	if flags&markSync != 0 {
		s := &SyncState{Set: string(r.bytes(maxName, "name")), From: r.position()}
		copy(s.FromChain[:], r.take(32))
		s.Until = r.position()
		s.Keyspace = r.keyspace()
		s.Done = orNil(slices.Clone(r.bytes(MaxKey, "done")))
		s.Complete = r.byte() != 0
		m.Sync = s
	}
	keyspaces.Count = r.uint64()
	copy(keyspaces.Sum[:], r.take(32))
	if r.err == nil && r.at != len(r.b) {
		r.fail("%d bytes too many", len(r.b)-r.at)
	}
	return m, keyspaces, r.err
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}
