package engine

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// Errors that callers act on.
var (
	ErrPoisoned       = errors.New("a commit failed: the node answers no further write and must be restarted")
	ErrNotWritable    = errors.New("this log takes entries only from its primary")
	ErrDiskFull       = errors.New("not enough free disk to take writes") // wrapped with the figures
	ErrInconsistent   = errors.New("the state is not consistent: a sync has not ended")
	ErrTooLarge       = errors.New("larger than an entry may be")
	ErrStopped        = errors.New("the engine has stopped: nothing of this was committed")
	ErrOutcomeUnknown = errors.New("the outcome is unknown: the transaction may have been committed")
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

func (r Role) String() string {
	if r == Verbatim {
		return "verbatim"
	}
	return "writer"
}

// Performance is the subscription whose place entries keep as their upstream.
const Performance = "performance"

// Config says how an engine runs. Zero fields mean the defaults named.
type Config struct {
	Dir    string
	Role   Role         // SetRole changes it while the store is open
	Logger hclog.Logger // nil: nothing is logged

	CheckpointBytes    int64         // active table; 64 MiB
	CheckpointInterval time.Duration // 5 s
	SegmentBytes       int64         // a log segment is full at this size; 64 MiB
	SegmentEntries     int           // or at this many entries; 262,144
	RetainBytes        int64         // log kept for known secondaries at most; 4 GiB
	RetainAge          time.Duration // 24 h
	MinFree            int64         // bytes of free disk below which writes are refused; 512 MiB, the reserve file included; negative: off
	Seam               boltfile.Seam
	Sealer             wal.Sealer // seals log, state, spool and notes; nil: nothing is sealed
	Now                func() time.Time

	// Repairable says that a primary holds what this store holds (DR and performance secondaries): a damaged log is
	// set aside instead of refused, and NeedsRepair then asks for a sync. Entries of local scope that were only in the damaged part
	// of a performance secondary's log are then in the log set aside and nowhere else. A DR secondary's state file that cannot be
	// read is set aside too, and begins empty. A record that names a key which is not in the keyring is damaged; a primary refuses
	// to reindex over it. SetRepairable changes it while the store is open.
	Repairable bool
}

func (c Config) withDefaults() Config {
	setDefault(&c.CheckpointBytes, 64<<20)
	setDefault(&c.CheckpointInterval, 5*time.Second)
	setDefault(&c.SegmentBytes, 64<<20)
	setDefault(&c.SegmentEntries, 262_144)
	setDefault(&c.RetainBytes, 4<<30)
	setDefault(&c.RetainAge, 24*time.Hour)
	setDefault(&c.MinFree, 512<<20)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	return c
}

func setDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

func (c Config) validate() error {
	switch {
	case c.Dir == "":
		return errors.New("engine: no directory given")
	case c.Role != Writer && c.Role != Verbatim:
		return fmt.Errorf("engine: unknown role %d", int(c.Role))
	case c.CheckpointBytes < 0 || c.CheckpointInterval < 0 || c.SegmentBytes < 0 || c.SegmentEntries < 0 ||
		c.RetainBytes < 0 || c.RetainAge < 0:
		return errors.New("engine: a negative limit")
	}
	return nil
}

// Report tells what Open found and did.
type Report struct {
	WAL                wal.Report
	Replayed           uint64 // entries
	OutcomeUnknown     uint64 // verified entries of the last frame, which nobody may have been told of; kept
	ReindexNeeded      bool
	ReindexInterrupted bool        // a reindex had begun: it is to be done again
	LogSetAside        string      // a damaged log of a secondary that was moved aside (path): its place is found again by sync
	LogDamage          []LogDamage // what was wrong in it, as far as that can be told
	StateSetAside      string      // a state file of a DR secondary that cannot be read, moved aside (path): it is filled again by sync
	Took               time.Duration
}

// Engine is one cluster's log and state: the one commit path of client
// writes, streamed entries and restart.
type Engine struct {
	cfg   Config
	log   hclog.Logger
	ident atomic.Pointer[Identity]
	keys  *keyring
	wal   *wal.Log
	state *storage.State
	seq   *sequencer
	com   *committer

	jobs    chan *job       // unbuffered: a job taken is sequenced at once
	ready   chan nextFrame  // the committer asks for a group
	commits chan *group     // and gets it
	applied chan *group     // groups that are durable and readable, back to the sequencer
	asked   chan chan error // requests for a checkpoint
	full    chan struct{}   // one slot: the active table wants a checkpoint

	life lifecycle

	// applyMu is held for writing while a group becomes readable, so that totals and place are read together.
	applyMu sync.RWMutex
	// fileMu is held by whoever writes the state file: the checkpointer, or an exclusive step of a sync.
	fileMu sync.Mutex

	place      place
	sync       syncs
	system     atomic.Uint64
	numbered   numberedSpaces
	hist       history
	bases      bases
	holds      holds
	disk       *diskGuard
	damaged    damages
	fence      fenceHolder
	role       atomic.Int32 // Config.Role, as it is now
	repairable atomic.Bool  // Config.Repairable, as it is now
	badLog     atomic.Bool  // a check found the log of a Repairable store damaged
	stats      counters
	meters     Meters

	closeOnce sync.Once
	closeErr  error
}

// Identity returns who this cluster is.
func (e *Engine) Identity() Identity { return *e.ident.Load() }

// Role returns who may write to this log.
func (e *Engine) Role() Role { return Role(e.role.Load()) }
