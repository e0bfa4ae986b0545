package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// Errors that callers act on.
var (
	ErrPoisoned     = errors.New("a commit failed: the node answers no further write and must be restarted")
	ErrNotWritable  = errors.New("this log takes entries only from its primary")
	ErrDiskFull     = errors.New("not enough free disk to take writes") // wrapped with the figures
	ErrInconsistent = errors.New("the state is not consistent: a sync has not ended")
	ErrTooLarge     = errors.New("larger than an entry may be")
)

// Diverged says that a batch, applied here, would not give the digests that its feeder has: nothing of it was committed.
type Diverged struct {
	Keyspace  storage.KeyspaceID
	At        wal.Position    // the feeder's
	Want, Got merkle.RootHash // hashes of the keyspace's total, never the sums themselves
}

func (d *Diverged) Error() string {
	return fmt.Sprintf("keyspace %s differs at index %d: the feeder has root %x, this cluster %x", d.Keyspace, d.At.Index, d.Want, d.Got)
}

// Identity is who a cluster is. It is minted by Create, kept in the log's notes, and never changes.
type Identity struct {
	ClusterID    string      `json:"cluster_id"` // of this cluster, not of a set
	ClusterName  string      `json:"cluster_name"`
	Lineage      wal.Lineage `json:"lineage"`
	DigestSecret []byte      `json:"digest_secret"` // 32 bytes; a secondary takes its primary's, so that digests can be compared. Keyspace keys are derived from it
}

// Role says who may write to this log.
type Role int

const (
	Writer   Role = iota // client writes and ingested batches, own indexes: primaries and performance secondaries
	Verbatim             // frames of a DR primary only, copied as they are
)

// Config says how an engine runs. Zero fields mean the defaults named.
type Config struct {
	Dir    string
	Role   Role
	Logger hclog.Logger

	CheckpointBytes    int64         // active table; 64 MiB
	CheckpointInterval time.Duration // 5 s
	SegmentBytes       int64         // wal's default
	SegmentEntries     int
	RetainBytes        int64         // log kept for known secondaries at most; 4 GiB
	RetainAge          time.Duration // 24 h
	MinFree            int64         // bytes of free disk below which writes are refused; 512 MiB, the reserve file included; negative: off
	Seam               boltfile.Seam
	Now                func() time.Time
}

// Report tells what Open found and did.
type Report struct {
	WAL            wal.Report
	Replayed       uint64 // entries
	OutcomeUnknown uint64 // verified entries beyond the last known acknowledgement, kept
	ReindexNeeded  bool
	LogSetAside    string // a damaged log of a secondary that was moved aside (path): its place is found again by sync
	Took           time.Duration
}

// Engine is one cluster's log and state: the one commit path of client
// writes, streamed entries and restart.
type Engine struct{ _ int }

// Create makes a new, empty store in dir (which must be empty or missing). A zero Lineage in id for a Writer
// mints one; a Verbatim store takes its primary's with Begin.
func Create(dir string, id Identity, notes map[string][]byte) error { panic("engine helper") }

// Open recovers a store (ENGINE section 5) and starts nothing.
func Open(cfg Config) (*Engine, Report, error) { panic("engine helper") }

// Run runs sequencer, committer and checkpointer until ctx ends, then drains and makes a last
// checkpoint; a failed commit ends it at once with an error that names the file. Everything else here may be called before and during Run.
func (e *Engine) Run(ctx context.Context) error { panic("engine helper") }

// Close closes the files; call it after Run has returned.
func (e *Engine) Close() error { panic("engine helper") }

func (e *Engine) Identity() Identity { panic("engine helper") }
func (e *Engine) Role() Role         { panic("engine helper") }

// ---- writing

// Key names a record.
type Key struct {
	Keyspace storage.KeyspaceID
	Key      []byte
}

// Reader is what a transaction's function sees: the newest sequenced state, writes not yet durable included.
type Reader interface {
	// Get returns storage.ErrNotFound when there is no record. Reading keys named in Tx.Reads costs no disk access.
	Get(ks storage.KeyspaceID, key []byte) (storage.Record, error)
}

// Write is one change of a transaction.
type Write struct {
	Keyspace storage.KeyspaceID
	Scope    storage.Scope
	storage.Change
}

// Tx is one transaction. Either Writes is set, or Exec decides what to write.
type Tx struct {
	Reads []Key // what Exec will read, fetched beforehand on the caller's goroutine
	// Exec is run once by the sequencer against the newest sequenced state, with every other transaction before or after it. It must be quick and do no I/O.
	// An error refuses the transaction; Do returns that very error, once everything that Exec read is durable.
	Exec      func(r Reader) ([]Write, error)
	Writes    []Write
	RequestID string // of a forwarded write; kept in the entry's header
}

// Committed is the answer to a transaction: it is durable and readable here.
type Committed struct {
	Position wal.Position // zero Index when Exec returned no writes
}

// Do commits a transaction. When ctx ends first the outcome is unknown and the error says so.
func (e *Engine) Do(ctx context.Context, tx *Tx) (Committed, error) { panic("engine helper") }

// CutBatch is what a performance (later: index) subscription receives: entries cut to its coverage.
type CutBatch struct {
	Subscription string // "performance"
	Entries      []CutEntry
	End          wal.Position            // the feeder's place at the end of the batch, entries not covered included
	Totals       []storage.KeyspaceTotal // the feeder's, of covered keyspaces touched in the batch, at End
}

// CutEntry is one entry of a CutBatch: its place in the feeder's log and its covered bytes (storage.CutEntry).
type CutEntry struct {
	At    wal.Position
	Bytes []byte
}

// IngestCut commits a batch under this cluster's own indexes, sources kept, through the same commit path as
// client writes. The digests it gives are compared with Totals before anything is committed: *Diverged. On return it is durable; the cursor is at b.End.
func (e *Engine) IngestCut(ctx context.Context, b *CutBatch) error { panic("engine helper") }

// IngestFrames commits frames of a DR primary verbatim (Verbatim only); each must follow the one before. Digests are compared
// with each frame's before the commit: *Diverged.
func (e *Engine) IngestFrames(ctx context.Context, frames []*wal.Frame) error { panic("engine helper") }

// ---- sync

// BeginSync (both roles) records that a sync from S has begun: the state is not consistent until EndSync. For Verbatim the log is reset to begin after S
// and frames then given to SpoolFrames are kept, not applied; lineage of the log becomes that of the feeder. For a Writer it commits a housekeeping entry.
// Calling it while a sync of the same S is under way continues that one.
func (e *Engine) BeginSync(ctx context.Context, set string, s wal.Position, chain wal.Hash, lineage wal.Lineage) (storage.SyncState, error) {
	panic("engine helper")
}

// SyncState returns the sync under way, nil when the state is consistent.
func (e *Engine) SyncState() *storage.SyncState { panic("engine helper") }

// SpoolFrames makes frames durable without applying them (Verbatim, during a sync). IngestFrames continues where it ended after EndSync.
func (e *Engine) SpoolFrames(ctx context.Context, frames []*wal.Frame) error { panic("engine helper") }

// SpoolCut makes a batch durable beside the log (Writer, during a sync).
func (e *Engine) SpoolCut(ctx context.Context, b *CutBatch) error { panic("engine helper") }

// SpoolEnd returns up to where the feeder's entries are spooled: the stream continues after it.
func (e *Engine) SpoolEnd() wal.Position { panic("engine helper") }

// SyncRange is a part of a keyspace as the feeder holds it, complete: what is here and not in Records is deleted.
type SyncRange struct {
	Keyspace  storage.KeyspaceID
	Scope     storage.Scope
	Low, High []byte           // [Low, High); High empty: to the end
	Records   []storage.Record // in key order; only Key and Value are used
	ReadAt    wal.Position     // the feeder's place at which it was read
	// Partial says that Records are only those that differ and Gone the keys to delete; what else is in the range was compared equal.
	Partial bool
	Gone    [][]byte
}

// ApplyRange makes a range durable here: a Verbatim store takes it straight into its state, a Writer as housekeeping entries. It advances SyncState.
func (e *Engine) ApplyRange(ctx context.Context, r *SyncRange) error { panic("engine helper") }

// DropAbsent removes keyspaces of the coverage that the feeder does not hold (part of a sync).
func (e *Engine) DropAbsent(ctx context.Context, covers func(storage.KeyspaceID, storage.Scope) bool, held []storage.KeyspaceID) error {
	panic("engine helper")
}

// EndSync applies the spool from S+1 up to SpoolEnd, which must have reached Until; progress may be nil. Then the state is consistent.
func (e *Engine) EndSync(ctx context.Context, progress func(done, total uint64)) error {
	panic("engine helper")
}

// ---- reading

func (e *Engine) Get(ks storage.KeyspaceID, key []byte) (storage.Record, error) {
	panic("engine helper")
}
func (e *Engine) Snapshot() *storage.View { panic("engine helper") }

// Finished returns the newest finished checkpoint: what a sync reads on the feeder's side and compares on the secondary's.
func (e *Engine) Finished() *storage.View { panic("engine helper") }

// Checkpoint waits for a checkpoint that holds everything applied now.
func (e *Engine) Checkpoint(ctx context.Context) error { panic("engine helper") }

// Position returns the newest durable, applied place of the own log.
func (e *Engine) Position() wal.Position { panic("engine helper") }
func (e *Engine) Chain() wal.Hash        { panic("engine helper") }

// Cursor returns the feeder's place up to which a subscription is complete here, as of the newest applied entry.
func (e *Engine) Cursor(sub string) wal.Position { panic("engine helper") }

// Passed waits until the subscription's cursor (or, for "", the own log) has passed index.
func (e *Engine) Passed(ctx context.Context, sub string, index uint64) error { panic("engine helper") }

// Totals of all keyspaces at the newest applied entry, together with that place.
func (e *Engine) Totals() ([]storage.KeyspaceTotal, wal.Position) { panic("engine helper") }

// LogReader reads the own log's frames from an index on.
func (e *Engine) LogReader(from uint64) *wal.Reader { panic("engine helper") }

// TotalsAt returns the totals of all keyspaces after the frame that ends at index, from the log's frames; wal.ErrGone below retention.
func (e *Engine) TotalsAt(index uint64) ([]storage.KeyspaceTotal, error) { panic("engine helper") }

// ChainAt returns the chain hash of the frame that ends at index; wal.ErrGone when it is not held.
func (e *Engine) ChainAt(index uint64) (wal.Hash, error) { panic("engine helper") }
func (e *Engine) FirstIndex() uint64                     { panic("engine helper") }
func (e *Engine) LogBytes(from uint64) int64             { panic("engine helper") }

// Wake returns a channel that is closed at the next change of Position.
func (e *Engine) Wake() <-chan struct{} { panic("engine helper") }

// ---- histories

// Reign is one fork in a log's history: a path in the tree of forks.
type Reign struct {
	Ordinal   uint64      `json:"ordinal"`
	Lineage   wal.Lineage `json:"lineage"`
	Fork      wal.Fork    `json:"fork"`
	Start     uint64      `json:"start"` // index of its first entry
	Parent    wal.Fork    `json:"parent"`
	Who       string      `json:"who"` // cluster id
	When      int64       `json:"when"`
	Overrides []wal.Fork  `json:"overrides,omitempty"`
}

// History returns the reigns of the own log, oldest first, kept for ever. A writer's new fork is in it with its first frame.
func (e *Engine) History() []Reign { panic("engine helper") }

// AdoptHistory replaces the history of a Verbatim log by its feeder's (durable before it returns).
func (e *Engine) AdoptHistory(h []Reign) error { panic("engine helper") }

// ---- node scope: records that never leave this node and never enter the log, written straight to the metadata file, synced.

func (e *Engine) NodeGet(key string) []byte                { panic("engine helper") }
func (e *Engine) NodeSet(kv map[string][]byte) error       { panic("engine helper") } // nil deletes; one transaction
func (e *Engine) NodeList(prefix string) map[string][]byte { panic("engine helper") }

// ---- retention

// Hold keeps the log from an index on for a known secondary, within the limits; 0 releases it.
func (e *Engine) Hold(secondary string, from uint64) { panic("engine helper") }

// Headroom returns for how long the log from an index on stays held at the present write rate.
func (e *Engine) Headroom(from uint64) time.Duration { panic("engine helper") }

// ---- health

// Damaged returns a channel that receives what recovery, reads, checkpoints or checks found to be wrong (bounded; newest kept). A secondary repairs it from its primary.
func (e *Engine) Damaged() <-chan storage.Damage { panic("engine helper") }

// Writable returns nil, or why writes are refused at present (ErrDiskFull with the figures, ErrNotWritable, ErrInconsistent, ErrPoisoned).
func (e *Engine) Writable() error { panic("engine helper") }

// Check hashes everything again: records, leaves, totals, log. Progress may be nil.
func (e *Engine) Check(ctx context.Context, progress func(stage string, done, total uint64)) (CheckReport, error) {
	panic("engine helper")
}

// CheckReport is what Check found.
type CheckReport struct {
	storage.CheckReport
	Log []wal.Damage
}

// Reindex rebuilds leaves, stored digests and totals from the records. When the truth differs from what the log's frames say, the totals of this engine are the truth from then on.
func (e *Engine) Reindex(ctx context.Context, progress func(stage string, done, total uint64)) (wrong uint64, err error) {
	panic("engine helper")
}

// Stats are counters for status and metrics.
type Stats struct {
	Commits, Entries, CommitBytes uint64
	Checkpoints                   uint64
	LastCheckpoint                time.Time
	WaitingBytes                  int64         // active table
	Throttled                     time.Duration // total time commits waited for a checkpoint
	LogFirst                      uint64
	LogBytes                      int64
	StateBytes, DiskFree          int64
}

func (e *Engine) Stats() Stats { panic("engine helper") }

// SystemVersion returns a number that changes with every applied entry that touched a system keyspace (and with every
// sync of one): caches of mounts, policies and the like are valid as long as it stays the same.
func (e *Engine) SystemVersion() uint64 { panic("engine helper") }

// Offline is a store opened by a command while no server runs: nothing is changed.
type Offline struct {
	Identity Identity
	Log      *wal.Log
	State    *storage.State
	History  []Reign
}

// Inspect opens a store read-only; damage that prevents it is a *boltfile.CorruptError.
func Inspect(dir string) (*Offline, error) { panic("engine helper") }
func (o *Offline) Close() error            { panic("engine helper") }

// Check is Engine.Check on a stopped store, plus: log and state agree (replay of the log behind the checkpoint gives the digests of its frames).
func (o *Offline) Check(ctx context.Context, progress func(stage string, done, total uint64)) (CheckReport, error) {
	panic("engine helper")
}
