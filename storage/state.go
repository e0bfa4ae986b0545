package storage

import (
	"context"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/wal"
)

// FormatVersion is the version of the state file's format.
const FormatVersion = 1

// Options say how a state file is opened.
type Options struct {
	Path string
	// Key gives the secret digest key of any keyspace id (engine derives it
	// from the set's digest secret, so that applying never needs a mount table).
	Key          func(KeyspaceID) merkle.Key
	Seam         boltfile.Seam
	ReadOnly     bool
	ChunkRecords int   // records of one checkpoint transaction; 16,384
	ChunkBytes   int64 // 16 MiB
	// VerifyLeaves is how many of the leaves a checkpoint touches it re-reads and hashes again, so
	// that rot beside a fresh write is found at once; 256. Damage goes to Found.
	VerifyLeaves int
	Found        func(Damage)
}

// Mark is what a finished checkpoint says of itself.
type Mark struct {
	Applied       wal.Position            // replay starts after it
	Chain         wal.Hash                // of the frame at Applied
	ConsistentAt  uint64                  // until replay has passed it nothing is served, streamed or verified; 0 when the last checkpoint finished
	Cursors       map[string]wal.Position // per subscription, as of Applied
	Sync          *SyncState              // a sync that has not ended
	ReindexNeeded bool                    // leaves do not add up to the totals: records are to be hashed anew
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

// State is what a cluster holds: ordered tables in memory over one bbolt
// file, with the range index. One goroutine applies, one runs checkpoints, any number read.
type State struct{ _ int }

// Create makes an empty state file.
func Create(path string) error { panic("storage helper") }

// Open reads format, mark, totals and leaves. Damage of pages is a *boltfile.CorruptError.
func Open(o Options) (*State, error) { panic("storage helper") }
func (s *State) Close() error        { panic("storage helper") }

// Mark returns what the newest finished checkpoint says.
func (s *State) Mark() Mark { panic("storage helper") }

// Applied returns the index of the last entry applied in memory.
func (s *State) Applied() uint64 { panic("storage helper") }

// Get returns a record as of the newest applied entry: ErrNotFound when there
// is none, *Damage when what the file holds does not hash to its digest (a wrong
// value is never returned). The value is the caller's only to read.
func (s *State) Get(ks KeyspaceID, key []byte) (Record, error) { panic("storage helper") }

// Old is what a writer must know of the record it replaces.
type Old struct {
	Digest  merkle.Digest
	Present bool
	Index   uint64
	Gen     uint64 // file generation it was read under; memory answers are always current
}

// Old finds the digest and index of the newest applied record: handlers call it before they
// enter the sequencer (it may touch the disk).
func (s *State) Old(ks KeyspaceID, key []byte) (Old, error) { panic("storage helper") }

// OldInMemory is Old from the tables alone; ok is false when they do not know the key and
// the file must be asked. Gen returns the file's present generation.
func (s *State) OldInMemory(ks KeyspaceID, key []byte) (o Old, ok bool) { panic("storage helper") }
func (s *State) Gen() uint64                                            { panic("storage helper") }

// Totals returns the totals of all keyspaces as of the newest applied entry, detached ones left out, ordered by id.
func (s *State) Totals() []KeyspaceTotal { panic("storage helper") }

// Applying is one entry with the digests that its sequencer computed.
type Applying struct {
	Entry   *Entry
	Digests [][]merkle.Digest // of each block's puts, in order of Changes; zero for deletes
}

// Apply makes entries readable, in order. totals are those of the touched keyspaces after the
// last one, as in the frame's header. cursor, when not zero, sets Cursors[sub]. It never fails for what a record means.
func (s *State) Apply(entries []Applying, totals []KeyspaceTotal, end wal.Position, chain wal.Hash) {
	panic("storage helper")
}

// SetCursor records how far a subscription is complete without an entry; the next checkpoint keeps it.
func (s *State) SetCursor(sub string, p wal.Position) { panic("storage helper") }
func (s *State) Cursor(sub string) wal.Position       { panic("storage helper") }

// TableBytes returns the bytes in the active table, and whether a checkpoint of the frozen one is under way.
func (s *State) TableBytes() (active int64, checkpointing bool) { panic("storage helper") }

// Checkpoint freezes the active table and flushes it (ENGINE section 2 and 4): sorted, coalesced, in
// bounded synced transactions, each with leaves and totals of exactly what the file then holds. On any
// failure of a commit the state is to be closed and recovered.
func (s *State) Checkpoint(ctx context.Context) error { panic("storage helper") }

// SetSync stores the state of a sync in the file (nil: ended), synced. Only while no table content waits; callers checkpoint first.
func (s *State) SetSync(sync *SyncState) error { panic("storage helper") }

// ReplaceRange makes the file's records of [low, high) of a keyspace exactly recs, sorted by key (those that differ
// are rewritten, others removed), with leaves, totals and the sync state, in bounded synced transactions.
// The tables must be empty. high nil means to the end.
func (s *State) ReplaceRange(ks KeyspaceID, scope Scope, low, high []byte, recs []Record, sync *SyncState) error {
	panic("storage helper")
}

// StartAfter makes the file's applied place p, e.g. when a sync of a DR secondary has its ranges and replays its log from S+1.
func (s *State) StartAfter(p wal.Position, chain wal.Hash, sync *SyncState) error {
	panic("storage helper")
}

// Floor returns the own index from which this log alone tells a keyspace's story: raised by each
// housekeeping entry that touched it, and to S by a sync of a DR secondary. Kept beside the keyspace's total.
func (s *State) Floor(ks KeyspaceID) uint64 { panic("storage helper") }

// Sweep removes the records of keyspaces detached by entries below index (the retained log no longer
// holds their drop), at most limit records a call, as the checkpointer; it returns how many are left to remove, at least.
func (s *State) Sweep(ctx context.Context, below uint64, limit int) (left int, err error) {
	panic("storage helper")
}

// Snapshot returns an immutable view of the newest applied state (tables and file). Release it soon.
func (s *State) Snapshot() *View { panic("storage helper") }

// Finished returns a view of the newest finished checkpoint alone, whose leaves describe exactly that. Release it soon:
// a view must not outlive two checkpoints.
func (s *State) Finished() *View { panic("storage helper") }

// View is a consistent, immutable reading of the state.
type View struct{ _ int }

func (v *View) Release()                                      { panic("storage helper") }
func (v *View) Position() wal.Position                        { panic("storage helper") }
func (v *View) Chain() wal.Hash                               { panic("storage helper") }
func (v *View) Totals() []KeyspaceTotal                       { panic("storage helper") }
func (v *View) Get(ks KeyspaceID, key []byte) (Record, error) { panic("storage helper") }

// Scan calls fn for records of [low, high) in key order until it returns false. Values are verified.
func (v *View) Scan(ks KeyspaceID, low, high []byte, fn func(Record) bool) error {
	panic("storage helper")
}

// List returns, in order, the distinct children below prefix after the name after ("" from the start): names up to and
// including the next '/', at most limit (0: no limit). more is false at the end. It seeks past each child: a root with a million records
// below one folder costs one step.
func (v *View) List(ks KeyspaceID, prefix, after string, limit int) (names []string, more bool, err error) {
	panic("storage helper")
}

// RangeTotal returns the exact digest of [low, high) from leaves and, at the edges, stored digests. Only on views from Finished.
func (v *View) RangeTotal(ks KeyspaceID, low, high []byte) (merkle.Total, error) {
	panic("storage helper")
}

// Child is one part of a split range.
type Child struct {
	Low []byte
	merkle.Total
}

// Split cuts [low, high) at its boundary keys of the coarsest level that gives at least two parts and returns them in order (the first
// has Low == low); one part when the range is a single leaf. At most limit parts: a longer answer is cut by raising the level. Only on views from Finished.
func (v *View) Split(ks KeyspaceID, low, high []byte, limit int) ([]Child, error) {
	panic("storage helper")
}

// Items calls fn for key and stored digest of each record in [low, high), values untouched.
func (v *View) Items(ks KeyspaceID, low, high []byte, fn func(key []byte, d merkle.Digest) bool) error {
	panic("storage helper")
}

// CheckReport is what Check found.
type CheckReport struct {
	Records uint64
	Leaves  uint64
	Totals  []KeyspaceTotal
	Damage  []Damage // at most 1000
}

// Check hashes every record of the file again and compares digests, leaves, totals and the order of keys, changing nothing.
// progress may be nil.
func (s *State) Check(ctx context.Context, progress func(done, total uint64)) (CheckReport, error) {
	panic("storage helper")
}

// Reindex hashes every record anew, rewrites stored digests that do not match, and rebuilds leaves and totals
// from them: the digests then tell the truth about the records, so that a diff finds what is wrong. It returns how many records' stored digests were wrong.
func (s *State) Reindex(ctx context.Context, progress func(done, total uint64)) (uint64, error) {
	panic("storage helper")
}

// ReadRaw calls fn for each record of a state file, using no digest and no index: what is there, is there. For checks that must not
// trust what they check.
func ReadRaw(path string, fn func(ks KeyspaceID, key, value []byte) error) error {
	panic("storage helper")
}
