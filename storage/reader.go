package storage

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/lockstepdb/lockstep/wal"
)

// reader takes fields from bytes that may be anything. After the first error it
// returns zero values only.
type reader struct {
	b    []byte
	at   int
	what string // for the error
	err  error  // a *Malformed
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = &Malformed{What: r.what, Why: fmt.Sprintf(format, args...)}
	}
}

// done reports whether nothing is left to read, or an error was met.
func (r *reader) done() bool { return r.err != nil || r.at == len(r.b) }

func (r *reader) take(n int) []byte {
	if r.err == nil && (n < 0 || n > len(r.b)-r.at) {
		r.fail("cut short at byte %d: %d more are needed", r.at, n)
	}
	if r.err != nil {
		return nil
	}
	b := r.b[r.at : r.at+n : r.at+n]
	r.at += n
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// length reads an unsigned varint of at most limit, in its shortest form: one
// entry has one encoding.
func (r *reader) length(limit int, of string) int {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b[r.at:])
	switch {
	case n <= 0:
		r.fail("length of %s at byte %d is cut short or too large", of, r.at)
	case n != lengthSize(int(v)):
		r.fail("length of %s at byte %d is not in its shortest form", of, r.at)
	case v > uint64(limit):
		r.fail("%s of %d bytes; at most %d are allowed", of, v, limit)
	default:
		r.at += n
		return int(v)
	}
	return 0
}

func (r *reader) bytes(limit int, of string) []byte { return r.take(r.length(limit, of)) }

func (r *reader) position() (p wal.Position) {
	copy(p.Fork[:], r.take(len(p.Fork)))
	p.Index = r.uint64()
	return p
}

func (r *reader) keyspace() (id KeyspaceID) {
	copy(id[:], r.take(len(id)))
	return id
}

func (r *reader) scope() Scope {
	s := Scope(r.byte())
	if s != Replicated && s != Local {
		r.fail("unknown scope %d", s)
	}
	return s
}

func (r *reader) syncMark() *SyncMark {
	m := &SyncMark{Kind: SyncKind(r.byte())}
	if m.Kind < SyncBegin || m.Kind > SyncEnd {
		r.fail("unknown kind %d of sync mark", m.Kind)
	}
	m.From = r.position()
	m.Until = r.position()
	m.Keyspace = r.keyspace()
	m.Low = orNil(r.bytes(MaxKey, "bound"))
	m.High = orNil(r.bytes(MaxKey, "bound"))
	return m
}

// blockHeader reads a block's header and steps over its changes.
func (r *reader) blockHeader() (id KeyspaceID, scope Scope, changes []byte) {
	id = r.keyspace()
	scope = r.scope()
	return id, scope, r.take(int(r.uint32()))
}

// block reads a block; left is how many more changes the entry may have.
func (r *reader) block(left *int) (block Block) {
	var changes []byte
	block.Keyspace, block.Scope, changes = r.blockHeader()
	c := &reader{b: changes, what: r.what}
	for !c.done() && r.err == nil {
		if *left--; *left < 0 {
			c.fail("more than %d changes", MaxChanges)
			break
		}
		block.Changes = append(block.Changes, c.change())
	}
	if r.err == nil && c.err != nil {
		r.err = c.err
	}
	return block
}

func (r *reader) change() (c Change) {
	c.Op = Op(r.byte())
	if c.Op == Put || c.Op == Delete {
		c.Key = r.bytes(MaxKey, "key")
	}
	if c.Op == Put {
		c.Value = r.bytes(MaxValue, "value")
	}
	if why := c.invalid(); why != "" {
		r.fail("%s", why)
	}
	return c
}

func orNil(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

func appendPosition(b []byte, p wal.Position) []byte {
	return binary.BigEndian.AppendUint64(append(b, p.Fork[:]...), p.Index)
}

func appendBytes(b, x []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(x))), x...)
}

// lengthSize returns how many bytes a length takes.
func lengthSize(n int) int { return max(1, (bits.Len64(uint64(n))+6)/7) }
