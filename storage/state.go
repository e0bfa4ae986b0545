package storage

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"

	"github.com/tidwall/btree"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/wal"
)

// Options say how a state file is opened.
type Options struct {
	Path string
	// Key gives the secret digest key of any keyspace id (engine derives it
	// from the set's digest secret, so that applying never needs a mount table).
	Key          func(KeyspaceID) merkle.Key
	Seam         boltfile.Seam
	Sealer       wal.Sealer // seals values and mark; nil: nothing is sealed
	ReadOnly     bool
	ChunkRecords int   // records of one checkpoint transaction; 16,384
	ChunkBytes   int64 // 16 MiB
	// Repairable says that another cluster holds what this state holds: a record sealed with a key that is not there is
	// then damage like any other, and Reindex drops it. Without it such a record is refused, and kept: the key may come back.
	Repairable bool
	// VerifyLeaves is how many of the leaves a checkpoint touches it re-reads and hashes again, so
	// that rot beside a fresh write is found at once; 256, negative: none. Damage goes to Found.
	VerifyLeaves int
	// Found is told of damage as it is met, by readers too: it must be quick, safe for concurrent use, and not call the State.
	Found func(Damage)
}

// Defaults of Options.
const (
	defaultChunkRecords = 16384
	defaultChunkBytes   = 16 << 20
	defaultVerifyLeaves = 256
)

const (
	minMmapSize = 64 << 30 // address space: growing the map would make readers wait for seconds
	allocSize   = 16 << 20
)

// Errors that a caller acts on.
var (
	ErrReadOnly = errors.New("the state file was opened for reading only")
	// ErrClosed means that the state was closed.
	ErrClosed = errors.New("the state is closed")
	// ErrTablesNotEmpty means that a bulk change of the file was asked for while applied entries wait for a checkpoint.
	ErrTablesNotEmpty = errors.New("applied entries wait for a checkpoint")
)

// State is what a cluster holds: ordered tables in memory over one bbolt
// file, with the range index. One goroutine applies, one runs checkpoints, any number read.
type State struct {
	opts Options
	file *boltfile.File
	keys keyring
	seal sealing

	repairable atomic.Bool // Options.Repairable, as it is now

	mu      sync.RWMutex             // guards all until the next blank line
	active  *table                   // takes what is applied
	frozen  *table                   // being written by a checkpoint; nil between two
	view    *fileView                // newest finished checkpoint
	gen     uint64                   // of view
	live    btree.Map[string, *info] // keyspaces as of the newest applied entry
	dropped map[KeyspaceID]uint64    // those of live that are detached; replaced, never changed
	pos     wal.Position             // newest applied entry
	chain   wal.Hash                 // of its frame
	cursors map[string]wal.Position  // per subscription
	sync    *SyncState               // as told by SetSync and by entries; replaced, never changed
	mark    Mark                     // of the newest finished checkpoint
	changed bool                     // something waits for a checkpoint

	work    sync.Mutex               // one checkpointer at a time; guards the rest
	disk    map[KeyspaceID]*diskInfo // the file as it is
	kspace  merkle.Total             // summary of the bucket keyspaces
	written Mark                     // in the file: ahead of mark while a checkpoint is under way
	pending *frozenState             // a checkpoint that ctx ended in the middle; nil: none
	stale   map[KeyspaceID]struct{}  // changed in the file since view was opened
	failed  error                    // a change of the file failed: no further one
	spared  map[KeyspaceID]uint64    // detached ones that Sweep leaves alone, by the index of their drop: they are being attached
}

// SetRepairable changes Options.Repairable, when the part of the cluster in its replication sets changes.
func (s *State) SetRepairable(on bool) { s.repairable.Store(on) }

// Create makes an empty state file that is not sealed. It refuses when the file exists.
func Create(path string) error { return CreateSealed(path, nil) }

// CreateSealed is Create for a file whose values a Sealer seals.
func CreateSealed(path string, with wal.Sealer) error {
	s := sealing{with}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("create %s: %w", path, os.ErrExist)
	}
	f, err := boltfile.Open(path, boltfile.Options{AllocSize: allocSize, Tie: true})
	if err != nil {
		return fmt.Errorf("create state file: %w", err)
	}
	err = f.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucket(bucketMeta)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucket(bucketKeyspaces); err != nil {
			return err
		}
		if err := s.putFormat(meta); err != nil {
			return err
		}
		return meta.Put(keyMark, s.sealMark(encodeMark(&Mark{}, merkle.Total{})))
	})
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("create state file %s: %w", path, err)
	}
	return nil
}

// Open reads format, mark, totals and leaves. Damage of pages is a *boltfile.CorruptError.
func Open(o Options) (*State, error) {
	if o.Path == "" || o.Key == nil {
		return nil, errors.New("internal error: a state needs a path and digest keys")
	}
	if o.ChunkRecords <= 0 {
		o.ChunkRecords = defaultChunkRecords
	}
	if o.ChunkBytes <= 0 {
		o.ChunkBytes = defaultChunkBytes
	}
	if o.VerifyLeaves == 0 {
		o.VerifyLeaves = defaultVerifyLeaves
	}
	if o.Found == nil {
		o.Found = func(Damage) {}
	}
	f, err := openFile(&o)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	s := &State{opts: o, file: f, active: newTable(), keys: keyring{of: o.Key}, seal: sealing{o.Sealer}}
	s.repairable.Store(o.Repairable)
	if err := s.load(); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open state: %w", err)
	}
	for id, d := range s.disk {
		if d.suspect && !s.written.Reindexing { // a rebuild that was interrupted leaves such leaves
			s.found(id, d.unread, "its leaves hold %d records of %d, or others: the range index must be rebuilt", d.leaves.Total().Count, d.total.Count)
		}
	}
	return s, nil
}

func openFile(o *Options) (*boltfile.File, error) {
	st, err := os.Stat(o.Path)
	if err != nil {
		return nil, err
	}
	bo := boltfile.Options{ReadOnly: o.ReadOnly, AllocSize: allocSize, Tie: true, Seam: o.Seam}
	if !o.ReadOnly {
		bo.MmapSize = max(minMmapSize, 4*int(st.Size()))
	}
	return boltfile.Open(o.Path, bo)
}

// load fills a new State from its file.
func (s *State) load() error {
	l, err := loadFile(s.file, s.seal)
	if err != nil {
		return err
	}
	s.disk, s.kspace, s.mark, s.written = l.keyspaces, l.summary, l.mark, l.mark.clone()
	s.pos, s.chain, s.sync = l.mark.Applied, l.mark.Chain, l.mark.Sync
	s.cursors, s.stale, s.spared = maps.Clone(l.mark.Cursors), map[KeyspaceID]struct{}{}, map[KeyspaceID]uint64{}
	s.dropped = map[KeyspaceID]uint64{}
	for id, d := range s.disk {
		k := d.info
		s.live.Set(string(id[:]), &k)
		if k.detachedAt != 0 {
			s.dropped[id] = k.detachedAt
		}
	}
	view, err := s.newView(&s.mark)
	if err != nil {
		return err
	}
	s.view, s.gen = view, view.gen
	return nil
}

// Close closes the file; it waits until every View is released. What waits for a checkpoint is
// left to the log.
func (s *State) Close() error {
	s.work.Lock()
	defer s.work.Unlock()
	s.failed = ErrClosed
	s.mu.Lock()
	view := s.view
	s.view = nil
	s.mu.Unlock()
	if view != nil {
		view.unref()
	}
	if err := s.file.Close(); err != nil {
		return fmt.Errorf("close state: %w", err)
	}
	return nil
}

// Mark returns what the newest finished checkpoint says.
func (s *State) Mark() Mark {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mark.clone()
}

func (m *Mark) clone() Mark {
	c := *m
	c.Cursors = maps.Clone(m.Cursors)
	c.Sync = m.Sync.clone()
	return c
}

// Applied returns the index of the last entry applied in memory.
func (s *State) Applied() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.pos.Index
}

// Totals returns the totals of all keyspaces as of the newest applied entry, detached ones left out, ordered by id.
func (s *State) Totals() []KeyspaceTotal {
	s.mu.Lock()
	live := s.live.Copy()
	s.mu.Unlock()
	return totalsOf(live)
}

func totalsOf(live *btree.Map[string, *info]) []KeyspaceTotal {
	t := make([]KeyspaceTotal, 0, live.Len())
	live.Scan(func(id string, k *info) bool {
		if k.detachedAt == 0 {
			t = append(t, KeyspaceTotal{ID: KeyspaceID([]byte(id)), Scope: k.scope, Total: k.total})
		}
		return true
	})
	return t
}

// Floor returns the own index from which this log alone tells a keyspace's story: raised by each
// housekeeping entry that touched it, and to S by a sync of a DR secondary. Kept beside the keyspace's total.
func (s *State) Floor(ks KeyspaceID) uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if k, ok := s.live.Get(string(ks[:])); ok {
		return k.floor
	}
	return 0
}

// Detached returns the own index at which a keyspace was dropped; ok is false
// for one that is attached or unknown.
func (s *State) Detached(ks KeyspaceID) (at uint64, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	at, ok = s.dropped[ks]
	return at, ok
}

// SetCursor records how far a subscription is complete without an entry; the next checkpoint keeps it.
func (s *State) SetCursor(sub string, p wal.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setCursorLocked(sub, p)
}

func (s *State) setCursorLocked(sub string, p wal.Position) {
	if s.cursors[sub] != p {
		s.cursors[sub] = p
		s.changed = true
	}
}

// Cursor returns how far a subscription is complete, as of the newest applied entry and SetCursor.
func (s *State) Cursor(sub string) wal.Position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.cursors[sub]
}

// TableBytes returns the bytes in the active table, and whether a checkpoint of the frozen one is under way.
// Overwritten values count: they hold the memory of their frames until the table goes.
func (s *State) TableBytes() (active int64, checkpointing bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.active.bytes, s.frozen != nil
}

// Gen returns the file's present generation.
func (s *State) Gen() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.gen
}

// found passes damage on and returns it as an error.
func (s *State) found(ks KeyspaceID, key []byte, format string, args ...any) *Damage {
	d := &Damage{File: s.opts.Path, Keyspace: ks, Key: bytes.Clone(key[:min(len(key), MaxKey)]), What: fmt.Sprintf(format, args...)}
	s.opts.Found(*d)
	return d
}

// keyring keeps the digest keys of keyspaces: deriving one costs two hashes.
type keyring struct {
	of   func(KeyspaceID) merkle.Key
	keys sync.Map // KeyspaceID → *merkle.Key
}

func (r *keyring) key(id KeyspaceID) *merkle.Key {
	if k, ok := r.keys.Load(id); ok {
		return k.(*merkle.Key)
	}
	k := r.of(id)
	r.keys.Store(id, &k)
	return &k
}

func (s *SyncState) clone() *SyncState {
	if s == nil {
		return nil
	}
	c := *s
	c.Done = append([]byte(nil), s.Done...)
	return &c
}
