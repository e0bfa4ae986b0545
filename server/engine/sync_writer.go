package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// housekeepingBytes bounds the entries by which a sync alters records.
const housekeepingBytes = 4 << 20

// housekeep commits a housekeeping entry. Once it is handed over its end is waited for, whatever becomes of ctx: the next step of a sync, or its
// abandonment, must not begin beside an entry that may begin, advance or end that sync a moment later.
func (e *Engine) housekeep(ctx context.Context, writes []Write, mark *storage.SyncMark) error {
	w, err := e.housekeeping(writes, mark)
	if err != nil {
		return err
	}
	_, err = e.submitWhole(ctx, w)
	return err
}

func (e *Engine) housekeeping(writes []Write, mark *storage.SyncMark) (*txWork, error) {
	if err := e.disk.streamable(); err != nil {
		return nil, err
	}
	w := &txWork{tx: &Tx{Writes: writes}, meta: meta{housekeeping: true, mark: mark}}
	return w, e.prepareWrites(w)
}

// beginWriter commits the entry that begins a sync, then empties the spool. Killed between the two, the spool names another S
// and is emptied by who uses it next.
func (e *Engine) beginWriter(ctx context.Context, set string, from wal.Position) error {
	if set != setPerformance {
		return fmt.Errorf("internal error: a sync of set %q on a log that is written here", set)
	}
	w, err := e.housekeeping(nil, &storage.SyncMark{Kind: storage.SyncBegin, From: from, Until: from})
	if err != nil {
		return err
	}
	// Alone, so that no streamed entry of the same group moves the cursor beyond S.
	if _, err := e.submitWhole(ctx, &exclusive{ctx: ctx, then: w}); err != nil {
		return err
	}
	return e.withSpool(func(s *spool) error { return s.reset(from) })
}

// SpoolCut makes a batch durable beside the log (Writer, during a sync). What is already spooled is skipped.
func (e *Engine) SpoolCut(ctx context.Context, b *CutBatch) error {
	if e.Role() != Writer {
		return fmt.Errorf("a cut batch: %w", ErrNotWritable)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := e.disk.streamable(); err != nil {
		return err
	}
	if _, err := e.prepareCut(b); err != nil { // what cannot be applied is refused now
		return err
	}
	return e.withSpool(func(s *spool) error {
		state := e.sync.get()
		if state == nil {
			return errNoSync
		}
		if err := s.follow(state.From); err != nil || b.End.Index <= s.end.Index {
			return err
		}
		fresh := *b
		fresh.Entries = nil
		for _, c := range b.Entries {
			if c.At.Index > s.end.Index {
				fresh.Entries = append(fresh.Entries, c)
			}
		}
		return s.add(&fresh, e.Identity().Lineage)
	})
}

// follow empties a spool that was for another sync.
func (s *spool) follow(from wal.Position) error {
	if s.from == from {
		return nil
	}
	return s.reset(from)
}

// rangeWriter brings a range into the log as housekeeping entries: the last one says that it is complete.
func (e *Engine) rangeWriter(ctx context.Context, s *storage.SyncState, r *SyncRange) error {
	if r.Scope != storage.Replicated {
		return fmt.Errorf("a range of keyspace %s: only the replicated scope is synced here", r.Keyspace)
	}
	writes, err := e.differences(ctx, r)
	if err != nil {
		return err
	}
	until := s.Until
	if r.ReadAt.Index > until.Index {
		until = r.ReadAt
	}
	for _, chunk := range chunks(writes) {
		if err := e.housekeep(ctx, chunk, nil); err != nil {
			return err
		}
	}
	return e.housekeep(ctx, nil, &storage.SyncMark{
		Kind: storage.SyncRange, From: s.From, Until: until, Keyspace: r.Keyspace, Low: r.Low, High: r.High,
	})
}

// differences returns the writes that make a range here what it is on the feeder.
func (e *Engine) differences(ctx context.Context, r *SyncRange) ([]Write, error) {
	put := func(rec *storage.Record) Write {
		return Write{r.Keyspace, r.Scope, storage.Change{Op: storage.Put, Key: rec.Key, Value: rec.Value}}
	}
	del := func(key []byte) Write {
		return Write{r.Keyspace, r.Scope, storage.Change{Op: storage.Delete, Key: bytes.Clone(key)}}
	}
	key := e.keys.key(r.Keyspace)
	var writes []Write
	if r.Partial {
		for i := range r.Records {
			writes = append(writes, put(&r.Records[i]))
		}
		for _, k := range r.Gone {
			writes = append(writes, del(k))
		}
		return writes, nil
	}
	i := 0
	err := e.digests(ctx, r, func(have []byte, d merkle.Digest) {
		for ; i < len(r.Records) && bytes.Compare(r.Records[i].Key, have) < 0; i++ {
			writes = append(writes, put(&r.Records[i]))
		}
		if i == len(r.Records) || !bytes.Equal(r.Records[i].Key, have) {
			writes = append(writes, del(have))
			return
		}
		if key.Record(have, r.Records[i].Value) != d {
			writes = append(writes, put(&r.Records[i]))
		}
		i++
	})
	if err != nil {
		return nil, err
	}
	for ; i < len(r.Records); i++ {
		writes = append(writes, put(&r.Records[i]))
	}
	return writes, nil
}

// digests calls fn for keys and digests of the records that a range holds here. Nothing else writes there during a sync.
func (e *Engine) digests(ctx context.Context, r *SyncRange, fn func(key []byte, d merkle.Digest)) error {
	type item struct {
		key []byte
		d   merkle.Digest
	}
	var items []item
	v := e.state.Snapshot()
	err := v.Scan(r.Keyspace, r.Low, nilIfEmpty(r.High), func(rec storage.Record) bool {
		items = append(items, item{bytes.Clone(rec.Key), rec.Digest})
		return true
	})
	v.Release()
	var damage *storage.Damage
	if errors.As(err, &damage) {
		// A record there is what the sync is to repair. Only a checkpoint lists records that cannot be read.
		if err := e.Checkpoint(ctx); err != nil {
			return err
		}
		items = nil
		v := e.state.Finished()
		err = v.Items(r.Keyspace, r.Low, nilIfEmpty(r.High), func(key []byte, d merkle.Digest) bool {
			if _, err := v.Get(r.Keyspace, key); err != nil {
				d = merkle.Digest{} // it differs, whatever its stored digest says
			}
			items = append(items, item{bytes.Clone(key), d})
			return true
		})
		v.Release()
	}
	for _, it := range items {
		fn(it.key, it.d)
	}
	return err
}

// chunks cuts writes into transactions of bounded size.
func chunks(writes []Write) [][]Write {
	var out [][]Write
	begin, size := 0, 0
	for i := range writes {
		n := len(writes[i].Key) + len(writes[i].Value)
		if i > begin && (size+n > housekeepingBytes || i-begin == maxWrites) {
			out = append(out, writes[begin:i])
			begin, size = i, 0
		}
		size += n
	}
	if begin < len(writes) {
		out = append(out, writes[begin:])
	}
	return out
}

// endWriter applies the spool through the path that streamed batches take; the cursor tells where it goes on after a kill.
func (e *Engine) endWriter(ctx context.Context, s *storage.SyncState, progress func(done, total uint64)) error {
	if !s.Complete { // in memory only: after a restart the ranges' own marks tell as much
		complete := *s
		complete.Complete = true
		e.sync.set(&complete)
	}
	next := uint64(1)
	for ended := false; !ended; {
		if err := e.unspool(ctx, s, &next, progress); err != nil {
			return err
		}
		err := e.withSpool(func(sp *spool) error {
			if sp.last >= next {
				return nil // batches came meanwhile
			}
			ended = true
			return e.closeSync(ctx, s, sp)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// closeSync commits the end of a sync whose spool has been applied.
func (e *Engine) closeSync(ctx context.Context, s *storage.SyncState, sp *spool) error {
	end := e.Cursor(Performance)
	if end.Index < s.From.Index {
		end = s.From
	}
	if err := e.housekeep(ctx, nil, &storage.SyncMark{Kind: storage.SyncEnd, From: s.From, Until: end}); err != nil {
		return err
	}
	return sp.reset(wal.Position{})
}

// unspool applies the batches spooled so far, from next on.
func (e *Engine) unspool(ctx context.Context, s *storage.SyncState, next *uint64, progress func(done, total uint64)) error {
	var last uint64
	var log *wal.Log
	err := e.withSpool(func(sp *spool) error {
		err := sp.follow(s.From)
		last, log = sp.last, sp.log
		return err
	})
	if err != nil || *next > last {
		return err
	}
	r := log.Reader(*next)
	for *next <= last {
		f, err := r.TryNext()
		if err == nil && f == nil {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("reading the spool: %w", err)
		}
		b, err := decodeBatch(f)
		if err != nil {
			return err
		}
		if err := e.ingestCut(ctx, b, b.End.Index >= s.Until.Index); err != nil {
			return fmt.Errorf("applying the spool: %w", err)
		}
		*next = f.Last() + 1
		progress(*next-1, last)
	}
	return nil
}
