package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

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

// Tx is one transaction. Either Writes is set, or Exec decides what to write. At most 4096 writes, and no more bytes
// than storage's limits: else ErrTooLarge with the figures. Once Do has returned, the slices given are free again.
type Tx struct {
	Reads []Key // what Exec will read, fetched beforehand on the caller's goroutine
	// Exec is run once by the sequencer against the newest sequenced state, with every other transaction before or after it. It must be quick and do no I/O.
	// An error refuses the transaction; Do returns that very error, once everything that Exec read is durable.
	Exec      func(r Reader) ([]Write, error)
	Writes    []Write
	RequestID string // of a forwarded write; kept in the entry's header; at most 64 bytes

	// Numbers is set by Do: of each write, in their order, what a numbered keyspace calls it. Nil when none of them is to a numbered keyspace.
	Numbers []Number
}

// Committed is the answer to a transaction: it is durable and readable here.
type Committed struct {
	Position wal.Position // of the transaction's own entry; zero Index when Exec returned no writes
}

// Do commits a transaction. When ctx ends first the outcome is unknown and the error says so (ErrOutcomeUnknown).
func (e *Engine) Do(ctx context.Context, tx *Tx) (Committed, error) {
	if err := e.clientWritable(); err != nil {
		return Committed{}, err
	}
	w, err := e.prepareTx(tx)
	if err != nil {
		return Committed{}, err
	}
	a, err := e.submit(ctx, w)
	return Committed{Position: a}, err
}

// txWork is a transaction on its way through the sequencer.
type txWork struct {
	tx   *Tx
	meta meta
	free bool      // no fence holds for it
	pre  *prepared // Writes form
	read map[string]prefetched
}

// meta is what an entry says of itself beside its changes.
type meta struct {
	housekeeping bool
	mark         *storage.SyncMark
}

// prefetched is a record as read before the transaction was sequenced.
type prefetched struct {
	record storage.Record
	found  bool
	gen    uint64
}

func (e *Engine) prepareTx(tx *Tx) (*txWork, error) {
	if (tx.Exec == nil) == (tx.Writes == nil) {
		return nil, errors.New("internal error: a transaction has either Exec or Writes")
	}
	if len(tx.RequestID) > maxRequestID {
		return nil, fmt.Errorf("a request id of %d bytes, at most %d: %w", len(tx.RequestID), maxRequestID, ErrTooLarge)
	}
	w := &txWork{tx: tx}
	if tx.Exec != nil {
		return w, e.prefetch(w, tx.Reads)
	}
	return w, e.prepareWrites(w)
}

func (e *Engine) prepareWrites(w *txWork) error {
	if err := checkWrites(w.tx.Writes); err != nil {
		return err
	}
	w.pre = &prepared{entry: &storage.Entry{Blocks: blocks(w.tx.Writes)}}
	if reads := e.numberedReads(w.tx.Writes); reads != nil && !w.meta.housekeeping { // their values, and so their digests, are not known before they are sequenced
		return e.prefetch(w, reads)
	}
	e.keys.digest(w.pre)
	return e.lookup(w.pre)
}

// numberedReads are the records that numbering will ask for; nil when none of the writes is to a keyspace that is known to be numbered.
func (e *Engine) numberedReads(writes []Write) (out []Key) {
	for i := range writes {
		if e.numbered.has(writes[i].Keyspace) {
			out = append(out, Key{writes[i].Keyspace, writes[i].Key})
		}
	}
	return out
}

func (e *Engine) prefetch(w *txWork, reads []Key) error {
	if len(reads) == 0 {
		return nil
	}
	w.read = make(map[string]prefetched, len(reads))
	for _, k := range reads {
		p := prefetched{gen: e.state.Gen()}
		r, err := e.state.Get(k.Keyspace, k.Key)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		p.record, p.found = r, err == nil
		w.read[string(k.Keyspace[:])+string(k.Key)] = p
	}
	return nil
}

// sequence executes the transaction, gives it its index and drafts it.
func (w *txWork) sequence(s *sequencer) verdict {
	fence := &s.e.fence
	fence.mu.RLock() // until it is sequenced: SetFence returns with nothing between check and place
	defer fence.mu.RUnlock()
	if err := fence.now.whole(); err != nil && !w.free {
		return verdict{err: err}
	}
	p, seen, err := w.decide(s)
	if err == nil && p == nil && !w.free {
		err = fence.now.nothing(w.tx, s.ledger)
	}
	if err != nil || p == nil {
		return verdict{err: err, after: seen}
	}
	if err := fence.now.entry(p.entry); err != nil && !w.free {
		return verdict{err: err, after: seen}
	}
	if err := s.allowed(p.entry, w.meta); err != nil {
		return verdict{err: err, after: seen}
	}
	s.stamp(p.entry, w.tx.RequestID, w.meta)
	if err := p.encode(); err != nil {
		return verdict{err: err, after: seen}
	}
	if p.digests == nil {
		s.e.keys.digest(p)
	}
	if err := s.ledger.add(p.entry.Index, p); err != nil {
		s.ledger.forget()
		return verdict{err: err, after: seen}
	}
	s.accept(p)
	return verdict{placed: true}
}

// decide runs Exec, when there is one. A nil result without an error is a transaction without writes.
func (w *txWork) decide(s *sequencer) (p *prepared, seen uint64, err error) {
	r := &txReader{s: s, read: w.read}
	writes := w.tx.Writes
	if w.tx.Exec != nil {
		writes, err = w.tx.Exec(r)
		if err != nil || len(writes) == 0 {
			return nil, r.seen, err
		}
		if err := checkWrites(writes); err != nil {
			return nil, r.seen, err
		}
	}
	var numbered []Write
	if !w.meta.housekeeping { // which sets records to what they are elsewhere, numbers included
		if numbered, w.tx.Numbers, err = s.number(r, writes); err != nil {
			return nil, r.seen, err
		}
	}
	if numbered != nil {
		writes = numbered
	} else if w.pre != nil && w.pre.digests != nil {
		return w.pre, 0, nil
	}
	p = &prepared{entry: &storage.Entry{Blocks: blocks(writes)}}
	p.olds = r.hints(p.entry)
	return p, r.seen, nil
}

// txReader reads the newest sequenced state for Exec.
type txReader struct {
	s    *sequencer
	read map[string]prefetched
	seen uint64 // newest pending index that was read
}

// Get implements Reader.
func (r *txReader) Get(ks storage.KeyspaceID, key []byte) (storage.Record, error) {
	l := r.s.ledger
	if h, since, known := l.find(ks, key); known {
		r.seen = max(r.seen, since)
		if h == nil || !h.present {
			return storage.Record{}, storage.ErrNotFound
		}
		return storage.Record{Key: key, Value: h.value, Digest: h.digest, Index: h.index}, nil
	}
	if _, inMemory := l.state.OldInMemory(ks, key); !inMemory {
		if p, ok := r.read[string(l.name(ks, key))]; ok && p.gen == l.state.Gen() {
			if !p.found {
				return storage.Record{}, storage.ErrNotFound
			}
			return p.record, nil
		}
	}
	rec, err := l.state.Get(ks, key)
	return rec, err
}

// hints returns what the prefetched reads tell of the records that an entry replaces.
func (r *txReader) hints(entry *storage.Entry) [][]storage.Old {
	out := make([][]storage.Old, len(entry.Blocks))
	for i, b := range entry.Blocks {
		out[i] = make([]storage.Old, len(b.Changes))
		for j, c := range b.Changes {
			p, ok := r.read[string(r.s.ledger.name(b.Keyspace, c.Key))]
			switch {
			case !ok:
				out[i][j].Gen = noGen
			case p.found:
				out[i][j] = storage.Old{Digest: p.record.Digest, Present: true, Index: p.record.Index, Gen: p.gen}
			default:
				out[i][j].Gen = p.gen
			}
		}
	}
	return out
}

// noGen is no file generation: a hint that never counts.
const noGen = ^uint64(0)
