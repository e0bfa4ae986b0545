package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// Kinds of pieces.
const (
	kindRecords = 1
	kindFrames  = 2
)

func appendBytes(b, x []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(x))), x...)
}

func (r *records) encode(b []byte) []byte {
	b = append(b, kindRecords)
	b = append(b, r.keyspace[:]...)
	b = append(b, byte(r.scope))
	b = appendBytes(appendBytes(b, r.low), r.high)
	b = append(b, r.readAt.Fork[:]...)
	b = binary.BigEndian.AppendUint64(b, r.readAt.Index)
	for i := range r.recs {
		b = appendBytes(appendBytes(b, r.recs[i].Key), r.recs[i].Value)
	}
	return b
}

func appendFrame(b []byte, f *wal.Frame) []byte {
	b = appendBytes(b, f.EncodeHeader())
	for _, e := range f.Entries {
		b = appendBytes(b, e)
	}
	return b
}

// piece is one member of the data: either records or frames.
type piece struct {
	records *records
	frames  []*wal.Frame
}

// decodePiece reads what encode and appendFrame wrote; what it returns shares b's memory.
func decodePiece(b []byte) (*piece, error) {
	c := &cut{b: b}
	var p piece
	switch kind := c.take(1); {
	case c.err != nil:
		return nil, errors.New("it is empty")
	case kind[0] == kindRecords:
		p.records = c.records()
	case kind[0] == kindFrames:
		p.frames = c.frames()
	default:
		return nil, fmt.Errorf("pieces of kind %d are not known to this program: use a newer lockstep", kind[0])
	}
	return &p, c.err
}

// cut takes bytes off a slice; after the first failure it gives none.
type cut struct {
	b   []byte
	err error
}

func (c *cut) take(n int) []byte {
	if c.err == nil && n > len(c.b) {
		c.err = errors.New("it ends within a field")
	}
	if c.err != nil {
		return nil
	}
	x := c.b[:n:n]
	c.b = c.b[n:]
	return x
}

func (c *cut) bytes(limit int) []byte {
	n := c.take(4)
	if c.err != nil {
		return nil
	}
	size := binary.BigEndian.Uint32(n)
	if int64(size) > int64(limit) {
		c.err = fmt.Errorf("a field of %d bytes, more than %d", size, limit)
		return nil
	}
	return c.take(int(size))
}

func (c *cut) records() *records {
	r := new(records)
	copy(r.keyspace[:], c.take(len(r.keyspace)))
	if s := c.take(1); c.err == nil {
		r.scope = storage.Scope(s[0])
	}
	r.low, r.high = c.bytes(storage.MaxKey), c.bytes(storage.MaxKey)
	copy(r.readAt.Fork[:], c.take(len(r.readAt.Fork)))
	if n := c.take(8); c.err == nil {
		r.readAt.Index = binary.BigEndian.Uint64(n)
	}
	for c.err == nil && len(c.b) > 0 {
		rec := storage.Record{Key: c.bytes(storage.MaxKey), Value: c.bytes(storage.MaxValue)}
		r.recs = append(r.recs, rec)
	}
	return r
}

func (c *cut) frames() (out []*wal.Frame) {
	for c.err == nil && len(c.b) > 0 {
		head := c.bytes(maxPiece)
		if c.err != nil {
			break
		}
		h, err := wal.DecodeHeader(head)
		if err != nil {
			c.err = err
			break
		}
		f := &wal.Frame{Header: h}
		for range h.Count {
			f.Entries = append(f.Entries, c.bytes(wal.MaxEntryBytes))
			if c.err != nil {
				return out
			}
		}
		if err := f.Verify(); err != nil {
			c.err = fmt.Errorf("frame %d to %d: %w", f.First, f.Last(), err)
			break
		}
		out = append(out, f)
	}
	return out
}
