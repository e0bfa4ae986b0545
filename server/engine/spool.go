package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// spool keeps a performance secondary's batches during a sync: durable, beside the log, one frame a batch. Its log's
// end after a Reset is the place on the feeder after which it begins.
type spool struct {
	log  *wal.Log
	from wal.Position // S: the spool begins after it
	end  wal.Position // the feeder's, of the newest batch
	last uint64       // own index of the newest entry
}

const noteSpool = "from" // S of the sync that the spool is for

func openSpool(cfg Config) (*spool, error) {
	l, _, err := wal.Open(wal.Config{Dir: filepath.Join(cfg.Dir, spoolDir), SegmentBytes: cfg.SegmentBytes, RingBytes: 1, Seam: cfg.Seam, Sealer: cfg.Sealer})
	if err != nil {
		return nil, fmt.Errorf("open the spool: %w", err)
	}
	s := &spool{log: l}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the spool: %w", err), l.Close())
	}
	return s, nil
}

func (s *spool) load() error {
	if b := s.log.Note(noteSpool); b != nil {
		p, _, err := takePosition(b)
		if err != nil {
			return err
		}
		s.from = p
	}
	s.end = s.from
	at, _ := s.log.End()
	s.last = at.Index
	if s.log.First() > s.last {
		return nil
	}
	f, err := s.log.Frame(s.last)
	if err != nil {
		return err
	}
	b, err := decodeBatch(f)
	if err != nil {
		return err
	}
	s.end = b.End
	return nil
}

// reset empties the spool; it begins after from on the feeder.
func (s *spool) reset(from wal.Position) error {
	note := map[string][]byte{noteSpool: appendPosition(nil, from)}
	if err := s.log.Reset(wal.Position{}, wal.Hash{}, note); err != nil {
		return fmt.Errorf("emptying the spool: %w", err)
	}
	s.from, s.end, s.last = from, from, 0
	return nil
}

// add makes a batch durable.
func (s *spool) add(b *CutBatch, lineage wal.Lineage) error {
	_, chain := s.log.End()
	entries := encodeBatch(b)
	f := &wal.Frame{
		Header:  wal.Header{Lineage: lineage, Ordinal: 1, Fork: wal.Fork{1}, First: s.last + 1, Count: uint32(len(entries))},
		Entries: entries,
	}
	f.Seal(chain)
	if err := s.log.Append(f); err != nil {
		return fmt.Errorf("spooling a batch that ends at %d: %w", b.End.Index, err)
	}
	s.last, s.end = f.Last(), b.End
	return nil
}

// encodeBatch gives a batch the bytes of a spool's entries. The first: version (1), end (24), totals (storage's bytes); each
// further one: place (24), the entry's bytes.
func encodeBatch(b *CutBatch) [][]byte {
	head := appendPosition([]byte{batchVersion}, b.End)
	out := [][]byte{append(head, storage.EncodeTotals(b.Totals)...)}
	for _, e := range b.Entries {
		out = append(out, append(appendPosition(make([]byte, 0, positionSize+len(e.Bytes)), e.At), e.Bytes...))
	}
	return out
}

const (
	batchVersion = 1
	positionSize = 16 + 8
)

func decodeBatch(f *wal.Frame) (*CutBatch, error) {
	head := f.Entries[0]
	if len(head) < 1 {
		return nil, errors.New("a spooled batch has an empty header")
	}
	if head[0] != batchVersion {
		return nil, &wal.VersionError{What: "spooled batch", Got: uint16(head[0]), Have: batchVersion}
	}
	b := &CutBatch{Subscription: Performance}
	var err error
	if b.End, head, err = takePosition(head[1:]); err != nil {
		return nil, err
	}
	if b.Totals, err = storage.DecodeTotals(head); err != nil {
		return nil, fmt.Errorf("a spooled batch's totals: %w", err)
	}
	for _, e := range f.Entries[1:] {
		at, bytes, err := takePosition(e)
		if err != nil {
			return nil, err
		}
		b.Entries = append(b.Entries, CutEntry{At: at, Bytes: bytes})
	}
	return b, nil
}

func appendPosition(b []byte, p wal.Position) []byte {
	return binary.BigEndian.AppendUint64(append(b, p.Fork[:]...), p.Index)
}

func takePosition(b []byte) (p wal.Position, rest []byte, err error) {
	if len(b) < positionSize {
		return p, nil, fmt.Errorf("%d bytes are too short for a place in a log", len(b))
	}
	copy(p.Fork[:], b)
	p.Index = binary.BigEndian.Uint64(b[len(p.Fork):])
	return p, b[positionSize:], nil
}

// withSpool runs fn on the spool, opening it when needed.
func (e *Engine) withSpool(fn func(s *spool) error) error {
	e.sync.spoolMu.Lock()
	defer e.sync.spoolMu.Unlock()
	if e.sync.spool == nil {
		s, err := openSpool(e.cfg)
		if err != nil {
			return err
		}
		e.sync.spool = s
	}
	err := fn(e.sync.spool)
	if err != nil && isCommit(err) {
		e.life.fail(err)
		return e.life.refusal()
	}
	return err
}

func (s *syncs) closeSpool() error {
	s.spoolMu.Lock()
	defer s.spoolMu.Unlock()
	if s.spool == nil {
		return nil
	}
	spool := s.spool
	s.spool = nil
	return spool.log.Close()
}
