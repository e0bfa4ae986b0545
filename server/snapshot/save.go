package snapshot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// Source is a running store.
type Source struct {
	Engine    *engine.Engine
	Keys      *seal.Opened
	Version   string // of the program
	Secondary bool   // it follows a primary
	Now       func() time.Time
}

// Taking is a snapshot about to be written. End must be called.
type Taking struct {
	src    Source
	header Header
	record seal.Record
	keys   *seal.Keyring
	hold   string

	from   wal.Position
	chain  wal.Hash
	totals []storage.KeyspaceTotal
	log    *wal.Reader
	last   uint64 // index of the last frame written
	out    *archive

	pieces, entries uint64
	size            int64
	until           uint64 // highest place at which something was read
}

// Begin makes a checkpoint, at which the snapshot begins. A store that is not consistent is engine.ErrInconsistent.
func Begin(ctx context.Context, src Source) (*Taking, error) {
	if err := consistent(src.Engine); err != nil {
		return nil, err
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	t := &Taking{src: src, record: src.Keys.Record(), hold: "snapshot/" + hex.EncodeToString(id[:])}
	var err error
	if t.keys, err = src.Keys.OpenCopy(&t.record); err != nil {
		return nil, fmt.Errorf("take a snapshot: %w", err)
	}
	e := src.Engine
	e.Hold(t.hold, max(e.FirstIndex(), 1))
	if err := e.Checkpoint(ctx); err != nil {
		t.End()
		return nil, fmt.Errorf("take a snapshot: %w", err)
	}
	v := e.Finished()
	t.from, t.chain, t.totals = v.Position(), v.Chain(), v.Totals()
	v.Release()
	t.last, t.until = t.from.Index, t.from.Index
	e.Hold(t.hold, t.last+1)
	t.log = e.LogReader(t.last + 1)
	who := e.Identity()
	t.header = Header{
		Format: FormatVersion, ID: hex.EncodeToString(id[:]), Taken: src.Now().UTC().Truncate(time.Second), Version: src.Version,
		ClusterID: who.ClusterID, ClusterName: who.ClusterName, Log: e.Role().String(), Secondary: src.Secondary,
		From: t.from.Index, Records: count(t.totals),
	}
	return t, nil
}

func consistent(e *engine.Engine) error {
	if e.SyncState() != nil {
		return fmt.Errorf("take a snapshot: %w; wait until sys/replication/status shows stream-wals", engine.ErrInconsistent)
	}
	if reason := e.NeedsRepair(); reason != "" {
		return fmt.Errorf("take a snapshot: %w: %s; wait until it is repaired", engine.ErrInconsistent, reason)
	}
	return nil
}

func count(totals []storage.KeyspaceTotal) (n uint64) {
	for i := range totals {
		n += totals[i].Count
	}
	return n
}

// Header says what is being taken.
func (t *Taking) Header() Header { return t.header }

// End lets go of the log.
func (t *Taking) End() { t.src.Engine.Hold(t.hold, 0) }

// Write writes the snapshot. When it returns an error, what was written is no snapshot, and a reader says so.
func (t *Taking) Write(ctx context.Context, w io.Writer) error {
	if err := t.write(ctx, w); err != nil {
		return fmt.Errorf("take a snapshot: %w", err)
	}
	return nil
}

func (t *Taking) write(ctx context.Context, w io.Writer) error {
	t.out = newArchive(w, t.header, t.keys)
	if err := t.out.addJSON(nameHeader, &t.header); err != nil {
		return err
	}
	if err := t.out.add(nameSeal, t.record.Encode()); err != nil {
		return err
	}
	id := identity{Identity: t.src.Engine.Identity(), From: t.from, Chain: t.chain, Notes: t.src.Engine.NodeList("")}
	maps.DeleteFunc(id.Notes, func(key string, _ []byte) bool { return !kept(key) })
	if err := t.out.addSealed(nameIdentity, &id); err != nil {
		return err
	}
	for i := range t.totals {
		if err := t.keyspace(ctx, &t.totals[i]); err != nil {
			return err
		}
	}
	return t.finish(ctx)
}

// kept tells which node-scope records a snapshot holds: what this cluster is in its sets, not what was under way.
func kept(key string) bool {
	return !strings.HasPrefix(key, "replication/intent") && !strings.HasPrefix(key, "replication/pending/") && key != "replication/maintenance"
}

func (t *Taking) keyspace(ctx context.Context, of *storage.KeyspaceTotal) error {
	for low, done := []byte(nil), false; !done; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		r, err := t.read(of, low)
		if err != nil {
			return err
		}
		if err := t.piece(r.encode(make([]byte, 0, pieceBytes))); err != nil {
			return err
		}
		t.until = max(t.until, r.readAt.Index)
		// As much log as records, so that what waits in the log does not grow; what a faster writer adds comes at the end.
		if err := t.frames(ctx, t.src.Engine.Position().Index, pieceBytes); err != nil {
			return err
		}
		low, done = r.high, r.high == nil
	}
	return nil
}

// read reads a piece from the newest finished checkpoint. The records are verified by their digests.
func (t *Taking) read(of *storage.KeyspaceTotal, low []byte) (*records, error) {
	v := t.src.Engine.Finished()
	defer v.Release()
	r := &records{keyspace: of.ID, scope: of.Scope, low: low, readAt: v.Position()}
	size := 0
	err := v.Scan(of.ID, low, nil, func(rec storage.Record) bool {
		n := len(rec.Key) + len(rec.Value) + 8
		if len(r.recs) > 0 && size+n > pieceBytes {
			r.high = rec.Key
			return false
		}
		size += n
		r.recs = append(r.recs, rec)
		return true
	})
	return r, err
}

// frames writes the log behind what is written already up to an index, at most about limit bytes (0: all).
func (t *Taking) frames(ctx context.Context, upTo uint64, limit int) error {
	for wrote := 0; t.last < upTo && (limit == 0 || wrote < limit); {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		b := []byte{kindFrames}
		for t.last < upTo && len(b) < pieceBytes {
			f, err := t.log.TryNext()
			if errors.Is(err, wal.ErrGone) {
				return fmt.Errorf("the log behind index %d was let go before it was read: the reader of the snapshot is too slow for retain_bytes; take it again, faster or while less is written: %w", t.last, err)
			}
			if err != nil {
				return fmt.Errorf("reading the log behind index %d: %w", t.last, err)
			}
			if f == nil {
				return fmt.Errorf("internal error: the log ends at index %d, before %d", t.last, upTo)
			}
			if err := f.Verify(); err != nil {
				return fmt.Errorf("frame %d to %d: %w", f.First, f.Last(), err)
			}
			b = appendFrame(b, f)
			t.last = f.Last()
			t.entries += uint64(f.Count)
		}
		if err := t.piece(b); err != nil {
			return err
		}
		wrote += len(b)
		t.src.Engine.Hold(t.hold, t.last+1)
	}
	return nil
}

func (t *Taking) piece(plain []byte) error {
	if t.pieces >= maxPieces {
		return fmt.Errorf("more than %d pieces", maxPieces)
	}
	t.pieces++
	name := dataName(t.pieces)
	sealed := t.out.seal(name, plain)
	t.size += int64(len(sealed))
	return t.out.add(name, sealed)
}

// finish writes the log up to now, which is where the snapshot ends.
func (t *Taking) finish(ctx context.Context) error {
	e := t.src.Engine
	if err := consistent(e); err != nil {
		return err
	}
	f := footer{Cursors: map[string]wal.Position{}}
	if at := e.Cursor(engine.Performance); !at.IsZero() { // before the place: what it says is complete is then in the log below
		f.Cursors[engine.Performance] = at
	}
	totals, at := e.Totals()
	if at.Index < t.until || at.Index < t.from.Index {
		return fmt.Errorf("the log went back from index %d to %d while the snapshot was taken: take it again", max(t.until, t.from.Index), at.Index)
	}
	var err error
	f.At = at
	if f.Chain, err = e.ChainAt(at.Index); err != nil {
		return err
	}
	if err := t.frames(ctx, at.Index, 0); err != nil {
		return err
	}
	f.Totals, f.Entries, f.Pieces = storage.EncodeTotals(totals), t.entries, t.pieces
	f.History = slices.DeleteFunc(e.History(), func(r engine.Reign) bool { return r.Start > at.Index })
	if err := t.out.addSealed(nameFooter, &f); err != nil {
		return err
	}
	sum := Summary{
		Index: at.Index, Finished: t.src.Now().UTC().Truncate(time.Second), Keyspaces: len(totals), Records: count(totals), Root: rootOf(totals),
		Entries: t.entries, Pieces: t.pieces, Bytes: t.size,
	}
	if err := t.out.addJSON(nameSummary, &sum); err != nil {
		return err
	}
	return t.out.close()
}

func rootOf(totals []storage.KeyspaceTotal) string {
	parts := make([]merkle.Part, len(totals))
	for i := range totals {
		parts[i] = merkle.Part{ID: totals[i].ID, Total: totals[i].Total}
	}
	root := merkle.Root(parts)
	return hex.EncodeToString(root[:])
}
