package storage

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/wal"
)

// KeyspaceID is a keyspace's uuid. It is never used twice.
type KeyspaceID [16]byte

// String prints it as a uuid.
func (id KeyspaceID) String() string {
	var b [36]byte
	hex.Encode(b[0:8], id[0:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:36], id[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// The system's own data are two keyspaces that travel, one a scope, with fixed ids;
// node-scope records never enter the log: see engine.Engine.NodePut.
var (
	SystemReplicated = KeyspaceID{15: 1}
	SystemLocal      = KeyspaceID{15: 2}
)

// Scope says how far a keyspace travels. It is part of every block of an
// entry and never changes, so that applying needs no mount table.
type Scope uint8

const (
	Replicated Scope = 1 // to performance and DR secondaries
	Local      Scope = 2 // to DR secondaries only
)

// Limits on what a record may be; writers are refused above them.
const (
	MaxKey       = 16 << 10 // bytes of a key, at least 1; bbolt's own limit is 32 KiB
	MaxValue     = 34 << 20 // bytes of a value: a request body of 32 MiB and its envelope
	MaxEntry     = 36 << 20 // bytes of an encoded entry
	MaxChanges   = 1 << 18  // changes of an entry
	MaxRequestID = 64       // bytes
)

// Record is one key and value of a keyspace, as read. Its slices must not be changed.
type Record struct {
	Key, Value []byte
	Digest     merkle.Digest
	Index      uint64 // this cluster's index of the last write
}

// Op is what a change does.
type Op uint8

const (
	Put    Op = 1
	Delete Op = 2
	Drop   Op = 3 // detaches the whole keyspace; Key and Value are empty
	// Attach shows a dropped keyspace again, with the records that it still has; nothing of one that is not dropped. Key and Value are empty. It is the only
	// change of its block, in a housekeeping entry. Before it is applied the tables must be in the file, and its total asked for: Attachable.
	Attach Op = 4
)

// Change is put or delete of one record, or drop or attachment of its keyspace.
type Change struct {
	Op         Op
	Key, Value []byte
}

// Block is the changes of one entry in one keyspace: self-contained bytes on
// the wire, so that an entry is cut to a coverage without re-encoding.
type Block struct {
	Keyspace KeyspaceID
	Scope    Scope
	Changes  []Change
}

// Entry is the atomic unit of the log. It carries effects, never conditions.
type Entry struct {
	Version      uint8
	Index        uint64       // this cluster's own
	Time         int64        // Unix nanoseconds of the cluster that first wrote it
	RequestID    string       // of a forwarded write, kept for ever; at most 64 bytes
	Housekeeping bool         // written by sync or a coverage change: for this cluster's DR secondaries only
	Upstream     wal.Position // source: its place in the performance primary's log; zero when first written here
	Sync         *SyncMark    // housekeeping of a sync: begin, range complete, end
	Blocks       []Block
}

// SyncMark is what a housekeeping entry tells about the sync it belongs to.
type SyncMark struct {
	Kind      SyncKind
	From      wal.Position // S: where the spool starts
	Until     wal.Position // M: the last place at which a range was read, so far
	Keyspace  KeyspaceID   // SyncRange: the range complete with this entry, [Low, High); High empty means to the end
	Low, High []byte
}

// SyncKind is the kind of a SyncMark.
type SyncKind uint8

const (
	SyncBegin SyncKind = 1
	SyncRange SyncKind = 2
	SyncEnd   SyncKind = 3 // the spool was applied up to Until: consistent again
)

// KeyspaceTotal is the digest of a whole keyspace.
type KeyspaceTotal struct {
	ID    KeyspaceID
	Scope Scope
	merkle.Total
}

// ErrNotFound means that the keyspace holds no record of that key.
var ErrNotFound = errors.New("no such record")

// Damage is a record, leaf or total that does not hash to what was stored with it.
type Damage struct {
	File     string
	Keyspace KeyspaceID
	Key      []byte // record, or low key of the leaf
	What     string
}

func (d *Damage) Error() string {
	return fmt.Sprintf("%s: keyspace %s, key %q: %s", d.File, d.Keyspace, d.Key, d.What)
}

// Malformed says why bytes are no entry or totals of this format, or why an
// entry cannot be written: always the fault of who made them.
type Malformed struct {
	What string // "entry", "totals", …
	Why  string
}

func (m *Malformed) Error() string { return fmt.Sprintf("malformed %s: %s", m.What, m.Why) }
