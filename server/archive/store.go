package archive

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/lockstepdb/lockstep/internal/boltfile"
	"github.com/lockstepdb/lockstep/wal"
)

// Errors that a caller acts on.
var (
	ErrNoRoom   = errors.New("there is no room for an archive of what would be taken back")
	ErrNotFound = errors.New("no archive has this id")
	ErrInUse    = errors.New("the archive is being written: ask again when the sync has ended")
)

// Options say how archives are kept. Zero fields mean the defaults named.
type Options struct {
	Dir      string     // made when the first archive is
	Sealer   wal.Sealer // seals everything but ids; nil: nothing is sealed
	Archives int        // at most; 1,000
	Bytes    int64      // of all archives, at most; 16 GiB
	MinFree  int64      // bytes of disk that stay free; 256 MiB, negative: off
	FreeDisk func() (int64, error)
	Seam     boltfile.Seam
}

// Store is the archives of a data directory.
type Store struct {
	opts Options

	mu      sync.Mutex // guards what follows
	metas   map[string]Meta
	writing map[string]bool
}

const (
	noteMeta   = "archive"
	goneSuffix = ".gone"
	segment    = 4 << 20
)

var idPattern = regexp.MustCompile(`^(dr|performance)-[0-9]{1,20}-[0-9a-f]{8}$`)

// Open reads what archives there are. What a crash left of one that never was complete, or was being discarded, is removed.
func Open(o Options) (*Store, error) {
	setDefault(&o.Archives, 1000)
	setDefault(&o.Bytes, 16<<30)
	setDefault(&o.MinFree, 256<<20)
	s := &Store{opts: o, metas: map[string]Meta{}, writing: map[string]bool{}}
	names, err := os.ReadDir(o.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the archives: %w", err)
	}
	for _, n := range names {
		if err := s.find(n.Name()); err != nil {
			return nil, fmt.Errorf("open the archives: %w", err)
		}
	}
	return s, nil
}

func setDefault[T int | int64](v *T, value T) {
	if *v == 0 {
		*v = value
	}
}

// find takes up what lies under a name.
func (s *Store) find(name string) error {
	id := strings.TrimSuffix(name, goneSuffix)
	if !idPattern.MatchString(id) {
		return nil // not ours: let be
	}
	if id != name {
		return s.remove(name)
	}
	m, err := s.readMeta(id)
	switch {
	case errors.Is(err, errUnfinished):
		return s.remove(id)
	case err != nil:
		kind, _, _ := strings.Cut(id, "-")
		m = Meta{ID: id, Kind: kind, Problem: err.Error()}
	}
	s.metas[id] = m
	return nil
}

// errUnfinished says that an archive never was complete.
var errUnfinished = errors.New("the archive was never complete")

func (s *Store) readMeta(id string) (m Meta, err error) {
	if _, err := os.Stat(filepath.Join(s.path(id), "meta.db")); errors.Is(err, fs.ErrNotExist) {
		return m, errUnfinished
	}
	l, err := s.openLog(id)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	b := l.Note(noteMeta)
	if b == nil {
		return m, errUnfinished
	}
	if m, err = decodeMeta(b); err == nil && m.ID != id {
		err = fmt.Errorf("%s says that it is archive %q", s.path(id), m.ID)
	}
	return m, err
}

func (s *Store) path(id string) string { return filepath.Join(s.opts.Dir, id) }

// openLog opens an archive for reading.
func (s *Store) openLog(id string) (*wal.Log, error) {
	l, _, err := wal.Open(wal.Config{Dir: s.path(id), SegmentBytes: segment, RingBytes: 1, Sealer: s.opts.Sealer, ReadOnly: true})
	return l, err
}

func (s *Store) remove(name string) error {
	if err := os.RemoveAll(filepath.Join(s.opts.Dir, name)); err != nil {
		return err
	}
	return boltfile.SyncDir(s.opts.Dir)
}

// List returns what archives there are, by the place at which they begin, then by time.
func (s *Store) List() []Meta {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Meta, 0, len(s.metas))
	for _, m := range s.metas {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Meta) int {
		return cmp.Or(cmp.Compare(a.Common.Index, b.Common.Index), a.When.Compare(b.When), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// Get returns what an archive is.
func (s *Store) Get(id string) (Meta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.metas[id]
	if !ok {
		return m, fmt.Errorf("%w: %q", ErrNotFound, id)
	}
	return m, nil
}

// Holding returns the id of the archive that holds the entry at a position; "" when none does, or one that might cannot be read.
func (s *Store) Holding(p wal.Position) string {
	held, unsure := s.listed(p)
	for id := range held {
		return id
	}
	for _, id := range unsure {
		if held, err := s.search(id, p); err == nil && held {
			return id
		}
	}
	return ""
}

// listed returns the archives whose notes say that they hold the entry at a position, and which parts of it; unsure are those whose items would tell.
func (s *Store) listed(p wal.Position) (held map[string]parts, unsure []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, m := range s.metas {
		of, maybe := m.has(p)
		if of != 0 {
			if held == nil {
				held = map[string]parts{}
			}
			held[id] = of
		}
		if maybe && !s.writing[id] {
			unsure = append(unsure, id)
		}
	}
	return held, unsure
}

// search looks a position up among an archive's entries, which stand in order of their indexes.
func (s *Store) search(id string, p wal.Position) (bool, error) {
	m, err := s.Get(id)
	if err != nil {
		return false, err
	}
	var found error
	at := sort.Search(int(m.Counts.Entries), func(n int) bool {
		reached := true
		err := s.Read(id, uint64(n), func(_ uint64, it *Item) (bool, error) {
			reached = it.At.Index >= p.Index
			return false, nil
		})
		found = cmp.Or(found, err)
		return reached
	})
	held := false
	if found == nil && at < int(m.Counts.Entries) {
		found = s.Read(id, uint64(at), func(_ uint64, it *Item) (bool, error) {
			held = it.At == p
			return false, nil
		})
	}
	return held, found
}

// Read calls fn for each item of an archive from the from-th on (the first is 0), in the order in which they were added, until fn
// returns false. The error names damage; what fn was given before it was right.
func (s *Store) Read(id string, from uint64, fn func(n uint64, it *Item) (bool, error)) (err error) {
	s.mu.Lock()
	m, ok := s.metas[id]
	writing := s.writing[id]
	s.mu.Unlock()
	switch {
	case !ok:
		return fmt.Errorf("%w: %q", ErrNotFound, id)
	case writing:
		return fmt.Errorf("archive %s: %w", id, ErrInUse)
	case m.Problem != "":
		return fmt.Errorf("archive %s cannot be read: %s", id, m.Problem)
	}
	l, err := s.openLog(id)
	if err != nil {
		return fmt.Errorf("archive %s: %w", id, err)
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	end, _ := l.End()
	if want := m.Counts.Entries + m.Counts.Records; end.Index < want {
		return fmt.Errorf("archive %s holds %d items and should hold %d: bring back its files", id, end.Index, want)
	}
	r := l.Reader(from + 1)
	for at := from; at < end.Index; {
		f, err := r.TryNext()
		if err != nil {
			return fmt.Errorf("archive %s, item %d: %w", id, at, err)
		}
		if f == nil {
			return fmt.Errorf("archive %s ends at item %d of %d", id, at, end.Index)
		}
		for i, b := range f.Entries {
			n := f.First + uint64(i) - 1
			if n < from {
				continue
			}
			it, err := DecodeItem(b)
			if err != nil {
				return fmt.Errorf("archive %s, item %d: %w", id, n, err)
			}
			if more, err := fn(n, it); err != nil || !more {
				return err
			}
		}
		at = f.Last()
	}
	return nil
}

// Discard removes an archive for good.
func (s *Store) Discard(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.metas[id]; !ok {
		return fmt.Errorf("%w: %q", ErrNotFound, id)
	}
	if s.writing[id] {
		return fmt.Errorf("archive %s: %w", id, ErrInUse)
	}
	if err := os.Rename(s.path(id), s.path(id)+goneSuffix); err != nil {
		return fmt.Errorf("discard archive %s: %w", id, err)
	}
	delete(s.metas, id)
	if err := errors.Join(boltfile.SyncDir(s.opts.Dir), s.remove(id+goneSuffix)); err != nil {
		return fmt.Errorf("discard archive %s: %w", id, err)
	}
	return nil
}

func newID(kind string, index uint64) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%s-%d-%s", kind, index, hex.EncodeToString(b[:]))
}
