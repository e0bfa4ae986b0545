package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/lockstepdb/lockstep/wal"
)

// EntryVersion is the newest version of the entry format. EncodeEntry writes it only where an older program could not read what
// the entry says: one that attaches a keyspace. All others are of version 1.
const EntryVersion = 2

// TotalsVersion is the version of the format that EncodeTotals writes.
const TotalsVersion = 1

// Flags of an entry's header: which of the optional parts follow.
const (
	entryHousekeeping = 1 << iota
	entryRequestID
	entryUpstream
	entrySync
	entryKnownFlags = entryHousekeeping | entryRequestID | entryUpstream | entrySync
)

const blockHeader = 16 + 1 + 4 // keyspace, scope, length of the changes

// EncodeEntry appends the entry's bytes to b: a header (nothing secret, no key names
// but those of a sync mark) and one block per keyspace. The entry must be valid: see Validate.
func EncodeEntry(b []byte, e *Entry) []byte {
	var flags byte
	if e.Housekeeping {
		flags |= entryHousekeeping
	}
	if e.RequestID != "" {
		flags |= entryRequestID
	}
	if !e.Upstream.IsZero() {
		flags |= entryUpstream
	}
	if e.Sync != nil {
		flags |= entrySync
	}
	b = append(b, e.version(), flags)
	b = binary.BigEndian.AppendUint64(b, e.Index)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Time))
	if e.RequestID != "" {
		b = append(append(b, byte(len(e.RequestID))), e.RequestID...)
	}
	if !e.Upstream.IsZero() {
		b = appendPosition(b, e.Upstream)
	}
	if e.Sync != nil {
		b = appendSyncMark(b, e.Sync)
	}
	for i := range e.Blocks {
		b = appendBlock(b, &e.Blocks[i])
	}
	return b
}

// version is that of the bytes that an entry becomes.
func (e *Entry) version() byte {
	if e.Attaches() {
		return 2
	}
	return 1
}

// Attaches reports whether an entry attaches a keyspace.
func (e *Entry) Attaches() bool {
	for i := range e.Blocks {
		if c := e.Blocks[i].Changes; len(c) > 0 && c[0].Op == Attach { // the only change of its block
			return true
		}
	}
	return false
}

func appendBlock(b []byte, block *Block) []byte {
	b = append(append(b, block.Keyspace[:]...), byte(block.Scope))
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	for i := range block.Changes {
		c := &block.Changes[i]
		b = append(b, byte(c.Op))
		if c.keyed() {
			b = appendBytes(b, c.Key)
		}
		if c.Op == Put {
			b = appendBytes(b, c.Value)
		}
	}
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

func appendSyncMark(b []byte, m *SyncMark) []byte {
	b = append(b, byte(m.Kind))
	b = appendPosition(b, m.From)
	b = appendPosition(b, m.Until)
	b = append(b, m.Keyspace[:]...)
	b = appendBytes(b, m.Low)
	return appendBytes(b, m.High)
}

// Validate reports, as a *Malformed, what keeps an entry from being written and
// read again: the limits of this package, and what the format cannot express.
func (e *Entry) Validate() error {
	malformed := func(format string, args ...any) error {
		return &Malformed{What: "entry", Why: fmt.Sprintf(format, args...)}
	}
	if len(e.RequestID) > MaxRequestID {
		return malformed("request id of %d bytes; at most %d are allowed", len(e.RequestID), MaxRequestID)
	}
	if e.Sync != nil && (len(e.Sync.Low) > MaxKey || len(e.Sync.High) > MaxKey) {
		return malformed("bound of a synced range is longer than %d bytes", MaxKey)
	}
	if e.Sync != nil && (e.Sync.Kind < SyncBegin || e.Sync.Kind > SyncEnd) {
		return malformed("kind %d of sync mark is unknown", e.Sync.Kind)
	}
	changes, size := 0, len(EncodeEntry(nil, &Entry{RequestID: e.RequestID, Upstream: e.Upstream, Sync: e.Sync}))
	for i := range e.Blocks {
		block := &e.Blocks[i]
		if block.Scope != Replicated && block.Scope != Local {
			return malformed("keyspace %s has the unknown scope %d", block.Keyspace, block.Scope)
		}
		changes += len(block.Changes)
		for j := range block.Changes {
			c := &block.Changes[j]
			if why := c.invalid(); why != "" {
				return malformed("keyspace %s, change %d: %s", block.Keyspace, j, why)
			}
			if c.Op == Attach && (len(block.Changes) > 1 || !e.Housekeeping) {
				return malformed("keyspace %s: %s", block.Keyspace, attachesAlone)
			}
			size += c.size()
		}
		size += blockHeader
	}
	if changes > MaxChanges {
		return malformed("%d changes; at most %d are allowed", changes, MaxChanges)
	}
	if size > MaxEntry {
		return malformed("%d bytes; at most %d are allowed", size, MaxEntry)
	}
	return nil
}

const attachesAlone = "attaching it is the only change of its block, and housekeeping"

// keyed reports whether a change is one of a record.
func (c *Change) keyed() bool { return c.Op == Put || c.Op == Delete }

// size returns the bytes of a change in an entry.
func (c *Change) size() int {
	n := 1
	if c.keyed() {
		n += lengthSize(len(c.Key)) + len(c.Key)
	}
	if c.Op == Put {
		n += lengthSize(len(c.Value)) + len(c.Value)
	}
	return n
}

func (c *Change) invalid() string {
	switch c.Op {
	case Put, Delete:
		if len(c.Key) == 0 || len(c.Key) > MaxKey {
			return fmt.Sprintf("key of %d bytes; 1 to %d are allowed", len(c.Key), MaxKey)
		}
		if len(c.Value) > MaxValue {
			return fmt.Sprintf("value of %d bytes; at most %d are allowed", len(c.Value), MaxValue)
		}
		if c.Op == Delete && len(c.Value) > 0 {
			return "a delete has no value"
		}
	case Drop:
		if len(c.Key) > 0 || len(c.Value) > 0 {
			return "a drop has neither key nor value"
		}
	case Attach:
		if len(c.Key) > 0 || len(c.Value) > 0 {
			return "an attachment has neither key nor value"
		}
	default:
		return fmt.Sprintf("unknown operation %d", c.Op)
	}
	return ""
}

// DecodeEntry reads what EncodeEntry wrote; keys and values alias b. Bytes that break the format
// or a limit are a *Malformed, a newer version is a *wal.VersionError.
func DecodeEntry(b []byte) (*Entry, error) {
	e, r, err := decodeEntryHeader(b)
	if err != nil {
		return nil, err
	}
	left := MaxChanges
	for !r.done() {
		block := r.block(&left)
		if c := block.Changes; slices.ContainsFunc(c, func(c Change) bool { return c.Op == Attach }) && (len(c) > 1 || !e.Housekeeping || e.Version < 2) {
			r.fail("keyspace %s: %s", block.Keyspace, attachesAlone)
		}
		if r.err == nil {
			e.Blocks = append(e.Blocks, block)
		}
	}
	if r.err == nil && e.Version != e.version() {
		r.fail("it attaches no keyspace, and says that it has version %d", e.Version)
	}
	if r.err != nil {
		return nil, r.err
	}
	return e, nil
}

func decodeEntryHeader(b []byte) (*Entry, *reader, error) {
	r := &reader{b: b, what: "entry"}
	if len(b) > MaxEntry {
		r.fail("%d bytes; at most %d are allowed", len(b), MaxEntry)
		return nil, r, r.err
	}
	e := &Entry{Version: r.byte()}
	if r.err == nil && (e.Version == 0 || e.Version > EntryVersion) {
		return nil, r, &wal.VersionError{What: "entry", Got: uint16(e.Version), Have: EntryVersion}
	}
	flags := r.byte()
	if flags&^entryKnownFlags != 0 {
		r.fail("unknown flags %#x", flags)
	}
	e.Housekeeping = flags&entryHousekeeping != 0
	e.Index = r.uint64()
	e.Time = int64(r.uint64())
	if flags&entryRequestID != 0 {
		n := int(r.byte())
		if n == 0 || n > MaxRequestID {
			r.fail("request id of %d bytes; 1 to %d are allowed", n, MaxRequestID)
		}
		e.RequestID = string(r.take(n))
	}
	if flags&entryUpstream != 0 {
		if e.Upstream = r.position(); e.Upstream.IsZero() {
			r.fail("empty source")
		}
	}
	if flags&entrySync != 0 {
		e.Sync = r.syncMark()
	}
	return e, r, r.err
}

// CutEntry returns the entry with only the blocks that covers accepts,
// encoded, without decoding their changes; any is false when none is left, and
// for housekeeping, which only this cluster's DR secondaries may see.
func CutEntry(b []byte, covers func(KeyspaceID, Scope) bool) (cut []byte, any bool, err error) {
	e, r, err := decodeEntryHeader(b)
	if err != nil {
		return nil, false, err
	}
	header := r.at
	for !r.done() {
		from := r.at
		id, scope, _ := r.blockHeader()
		if r.err != nil {
			return nil, false, r.err
		}
		if !e.Housekeeping && covers(id, scope) {
			if !any {
				cut, any = append(make([]byte, 0, len(b)), b[:header]...), true
			}
			cut = append(cut, b[from:r.at]...)
		}
	}
	return cut, any, nil
}

// EncodeTotals returns the bytes of a frame header's Totals, in order of id.
func EncodeTotals(t []KeyspaceTotal) []byte {
	byID := func(a, b KeyspaceTotal) int { return bytes.Compare(a.ID[:], b.ID[:]) }
	if !slices.IsSortedFunc(t, byID) {
		t = slices.Clone(t)
		slices.SortFunc(t, byID)
	}
	b := make([]byte, 1, 1+len(t)*(16+1+8+32))
	b[0] = TotalsVersion
	for i := range t {
		b = append(append(b, t[i].ID[:]...), byte(t[i].Scope))
		b = binary.BigEndian.AppendUint64(b, t[i].Count)
		b = append(b, t[i].Sum[:]...)
	}
	return b
}

// DecodeTotals reads what EncodeTotals wrote; no bytes at all are no totals. Bytes that break the format are a
// *Malformed, a newer version is a *wal.VersionError.
func DecodeTotals(b []byte) ([]KeyspaceTotal, error) {
	if len(b) == 0 {
		return nil, nil
	}
	r := &reader{b: b, what: "totals"}
	if v := r.byte(); v != TotalsVersion {
		return nil, &wal.VersionError{What: "totals", Got: uint16(v), Have: TotalsVersion}
	}
	t := make([]KeyspaceTotal, 0, len(b)/(16+1+8+32))
	for !r.done() {
		var k KeyspaceTotal
		copy(k.ID[:], r.take(16))
		k.Scope = r.scope()
		k.Count = r.uint64()
		copy(k.Sum[:], r.take(32))
		if n := len(t); n > 0 && bytes.Compare(t[n-1].ID[:], k.ID[:]) >= 0 {
			r.fail("keyspaces are not in order")
		}
		t = append(t, k)
	}
	if r.err != nil {
		return nil, r.err
	}
	return t, nil
}
