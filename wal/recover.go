package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/lockstepdb/lockstep/internal/boltfile"
)

// Report tells what Open found.
type Report struct {
	First, Last uint64 // Last == First-1: empty
	CutBytes    int64  // torn tail of an unacknowledged frame, cut
	CutFile     string
	Forks       []ForkStart // forks seen in the frames of the active (unsealed) segments, in order
}

// ForkStart is the birth of a fork as frames tell it.
type ForkStart struct {
	Ordinal uint64
	Fork    Fork
	First   uint64
}

// Open recovers the log of a directory. Of a torn tail it cuts what was never
// acknowledged and reports it; anything else that is damaged is a
// *boltfile.CorruptError naming file and place, and nothing is changed.
//
// Read-only it opens a log with damaged or missing segments too: Verify reports
// the damage, and what lies outside of it is read as ever. When such a segment no longer tells where it ended, the log ends
// with the last frame that can be read, and a reader that gets there is given the damage as its error.
func Open(cfg Config) (*Log, Report, error) {
	if err := cfg.fill(); err != nil {
		return nil, Report{}, err
	}
	if err := prepareDir(cfg); err != nil {
		return nil, Report{}, err
	}
	m, err := openMeta(filepath.Join(cfg.Dir, metaName), boltfile.Options{ReadOnly: cfg.ReadOnly, Seam: cfg.Seam}, cfg.Sealer)
	if err != nil {
		return nil, Report{}, err
	}
	l := newLog(cfg, m)
	report, err := l.recover()
	if err != nil {
		_ = l.Close()
		return nil, Report{}, err
	}
	return l, report, nil
}

func newLog(cfg Config, m *meta) *Log {
	l := &Log{
		cfg:     cfg,
		meta:    m,
		handles: newHandles(boltfile.Options{ReadOnly: true, Tie: true}),
		ring:    ring{limit: cfg.RingBytes},
		wake:    make(chan struct{}),
	}
	st := m.load()
	l.base, l.end = st.base, st.base
	for _, s := range st.segments {
		l.segments = append(l.segments, &s)
		l.end = s.end
	}
	return l
}

// prepareDir makes the directory, and refuses one that holds segments without their list:
// they would look like leftovers.
func prepareDir(cfg Config) error {
	if !cfg.ReadOnly {
		if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
			return fmt.Errorf("open log: %w", err)
		}
	}
	path := filepath.Join(cfg.Dir, metaName)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil // opening it tells what else is wrong
	}
	names, err := segmentFiles(cfg.Dir)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return &boltfile.CorruptError{File: path, What: fmt.Sprintf("it is missing, and there are segments (%s)", names[0])}
	}
	return nil
}

// segmentName is what segments, complete or not, are called; nothing else is ever removed.
var segmentName = regexp.MustCompile(`^[0-9]{20}-[0-9a-f]{16}\.wal(\.new)?$`)

// segmentFiles lists the names of all segments, complete or not.
func segmentFiles(dir string) ([]string, error) {
	all, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	var names []string
	for _, e := range all {
		if segmentName.MatchString(e.Name()) && e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// recover checks the listed segments and ends the last one, so that nothing is
// ever appended behind a tail that a crash left.
func (l *Log) recover() (Report, error) {
	if err := l.checkListed(); err != nil {
		return Report{}, err
	}
	for _, s := range l.segments {
		if s.sealed {
			if err := l.pass(s, l.checkSealed(s)); err != nil {
				return Report{}, err
			}
		}
	}
	report := Report{}
	if s := l.lastLocked(); s != nil && !s.sealed {
		if err := l.recoverActive(s, &report); err != nil {
			return Report{}, err
		}
	}
	report.First, report.Last = l.base.Index+1, l.end.Index
	if l.cfg.ReadOnly {
		return report, nil
	}
	return report, l.removeUnlisted()
}

// pass lets damage of a segment be when the log was opened read-only: Verify tells it.
func (l *Log) pass(s *segment, err error) error {
	var corrupt *boltfile.CorruptError
	if !l.cfg.ReadOnly || !errors.As(err, &corrupt) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.damage = err
	return nil
}

// checkListed refuses a log of which a segment is missing.
func (l *Log) checkListed() error {
	if l.cfg.ReadOnly {
		return nil // opening it tells
	}
	for _, s := range l.segments {
		path := s.path(l.cfg.Dir)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return &boltfile.CorruptError{File: path, What: fmt.Sprintf("the segment list names it, and it is missing: it held the log from index %d on", s.first)}
		} else if err != nil {
			return fmt.Errorf("open log: %w", err)
		}
	}
	return nil
}

// checkSealed compares the end of a sealed segment with the list. What lies
// before it is checked when it is read.
func (l *Log) checkSealed(s *segment) error {
	path := s.path(l.cfg.Dir)
	return l.handles.with(path, func(f *boltfile.File) error {
		t, ok, err := readTail(f, s.id, l.cfg.Sealer)
		if err != nil {
			return err
		}
		if s.cut {
			return checkCut(f, s, l.cfg.Sealer)
		}
		if !ok || t.last != s.end.Index || t.chain != s.end.Chain {
			return &boltfile.CorruptError{File: path, What: fmt.Sprintf("it ends at index %d, and the segment list says %d", t.last, s.end.Index)}
		}
		return nil
	})
}

func checkCut(f *boltfile.File, s *segment, with Sealer) error {
	fr, err := readFrame(f, s.end.Index, with)
	if err == nil && (fr.Last() != s.end.Index || fr.Chain != s.end.Chain) {
		err = &boltfile.CorruptError{File: f.Path(), What: fmt.Sprintf("the frame at index %d is not the one that the segment list names", s.end.Index)}
	}
	return err
}

// recoverActive verifies every frame of the segment that was taking frames,
// and seals it at the last good one.
func (l *Log) recoverActive(s *segment, report *Report) error {
	found := *s
	path := s.path(l.cfg.Dir)
	known := false
	err := l.handles.with(path, func(f *boltfile.File) error {
		sc := scan{file: f, segment: &found, report: report, with: l.cfg.Sealer}
		if !l.cfg.ReadOnly {
			sc.keep = l.ring.add // whoever replays them need not read them again
		}
		err := sc.run()
		if err != nil && l.cfg.ReadOnly {
			known = sc.salvage()
		}
		return err
	})
	if err := l.pass(&found, err); err != nil {
		return err
	}
	if err != nil && !known {
		l.failed = err
	}
	if report.CutBytes > 0 {
		report.CutFile = path
	}
	l.end = found.end
	l.ring.cut(found.end.Index)
	if l.cfg.ReadOnly {
		*s = found
		return nil
	}
	return l.sealRecovered(s, found)
}

// sealRecovered puts what was found into the list; an empty segment leaves it.
func (l *Log) sealRecovered(s *segment, found segment) error {
	found.sealed = true
	err := l.updateMeta(func(st *metaState) error {
		if found.empty() {
			st.segments = st.segments[:len(st.segments)-1]
		} else {
			*st.find(s.id) = found
		}
		return nil
	})
	if err != nil {
		return err
	}
	*s = found
	if found.empty() {
		l.segments = l.segments[:len(l.segments)-1]
		return l.unlink([]*segment{s})
	}
	return nil
}

// removeUnlisted removes what a crash left between a file and the list.
func (l *Log) removeUnlisted() error {
	names, err := segmentFiles(l.cfg.Dir)
	if err != nil {
		return err
	}
	listed := map[string]bool{}
	for _, s := range l.segments {
		listed[s.name()] = true
	}
	removed := false
	for _, name := range names {
		if listed[name] {
			continue
		}
		if err := os.Remove(filepath.Join(l.cfg.Dir, name)); err != nil {
			return fmt.Errorf("remove a segment that the list does not name: %w", err)
		}
		removed = true
	}
	if !removed {
		return nil
	}
	return boltfile.SyncDir(l.cfg.Dir)
}

// scan verifies a segment from front to back.
type scan struct {
	file    *boltfile.File
	segment *segment // in: as listed; out: what is in the file
	report  *Report
	with    Sealer
	keep    func(*Frame) // takes what is verified; may be nil

	tail  *tail // nil: not read, or wrong
	at    place // end of the last good frame
	bytes int64
	// what the last commit began after
	beforeTx      place
	bytesBeforeTx int64
	forksBeforeTx int
}

func (sc *scan) run() error {
	sc.at = sc.segment.end
	t, committed, err := readTail(sc.file, sc.segment.id, sc.with)
	if err != nil {
		return err
	}
	if !committed {
		return nil
	}
	if t.txFirst < sc.segment.first || t.txFirst > t.last {
		return sc.corrupt("its tail record names entries %d to %d", t.txFirst, t.last)
	}
	sc.tail = &t
	for sc.at.Index < t.last {
		next := sc.at.Index + 1
		if next == t.txFirst {
			sc.beforeTx, sc.bytesBeforeTx, sc.forksBeforeTx = sc.at, sc.bytes, len(sc.report.Forks)
		}
		if err := sc.frame(next); err != nil {
			if next < t.txFirst || !sc.torn(next, err) {
				return err
			}
			sc.cut(t)
			return nil
		}
	}
	if sc.at.Index != t.last || sc.at.Chain != t.chain {
		return sc.corrupt("its frames end at index %d, and its tail record says %d", sc.at.Index, t.last)
	}
	if after, more, err := nextHeader(sc.file, t.last); err != nil || more {
		return sc.corrupt("a frame at index %d stands behind its end %d", after, t.last)
	}
	sc.segment.end, sc.segment.bytes = sc.at, sc.bytes
	return nil
}

// salvage gives a damaged segment the end that its tail record tells, which is true: known. Without one it ends with the last good frame.
func (sc *scan) salvage() (known bool) {
	sc.segment.end, sc.segment.bytes = sc.at, sc.bytes
	if known = sc.tail != nil; known {
		sc.segment.end = place{Position{sc.tail.fork, sc.tail.last}, sc.tail.chain}
		sc.segment.bytes = int64(sc.tail.bytes)
	}
	return known
}

// frame verifies the frame that must begin at index.
func (sc *scan) frame(index uint64) error {
	f, err := readFrame(sc.file, index, sc.with)
	switch {
	case err != nil:
		return err
	case f.First != index:
		return sc.corrupt("a frame from %d to %d stands where index %d should begin", f.First, f.Last(), index)
	case f.Prev != sc.at.Chain:
		return sc.corrupt("the frame at index %d does not follow the one before it", index)
	}
	if n := len(sc.report.Forks); n == 0 || sc.report.Forks[n-1].Fork != f.Fork {
		sc.report.Forks = append(sc.report.Forks, ForkStart{f.Ordinal, f.Fork, f.First})
	}
	sc.at = place{f.Position(), f.Chain}
	sc.bytes += storedBytes(f)
	if sc.keep != nil {
		sc.keep(f)
	}
	return nil
}

// torn reports whether damage at index is a hole with nothing behind it.
func (sc *scan) torn(index uint64, err error) bool {
	if !errors.Is(err, errMissing) {
		return false
	}
	_, more, err := nextHeader(sc.file, index)
	return err == nil && !more
}

// cut ends the segment before its last commit.
func (sc *scan) cut(t tail) {
	sc.segment.end, sc.segment.bytes = sc.beforeTx, sc.bytesBeforeTx
	sc.segment.cut = true
	sc.report.Forks = sc.report.Forks[:sc.forksBeforeTx]
	sc.report.CutBytes = int64(t.txBytes)
}

func (sc *scan) corrupt(format string, args ...any) error {
	return &boltfile.CorruptError{File: sc.file.Path(), What: fmt.Sprintf(format, args...)}
}
