package storage

import (
	"bytes"
	"slices"

	"github.com/lockstepdb/lockstep/merkle"
)

// ScrubCursor is where the next part of a scrub begins: the leaf of a keyspace that Low belongs to.
type ScrubCursor struct {
	Keyspace KeyspaceID
	Low      []byte // empty: the keyspace is begun
}

// Scrubbed is what one part of a scrub read and found.
type Scrubbed struct {
	Next    ScrubCursor
	Done    bool // there is nothing behind Next
	Records uint64
	Bytes   int64
	Damage  []RangeDamage
}

// RangeDamage is damage with the leaf that it was found in: [Low, High), an empty High to the end.
type RangeDamage struct {
	Damage
	Low, High []byte
}

// Scrub hashes again a part of what Check does: leaf after leaf from a cursor on, until about so many bytes were read. It reads the newest
// finished checkpoint, and holds it for this part only. A keyspace that came or went meanwhile is met by the next pass.
func (s *State) Scrub(from ScrubCursor, size int64) (Scrubbed, error) {
	v := s.Finished()
	defer v.Release()
	var out Scrubbed
	if v.file == nil {
		return out, ErrClosed
	}
	c := &checker{s: s}
	ids := v.file.ids()
	i, _ := slices.BinarySearchFunc(ids, from.Keyspace, func(a, b KeyspaceID) int { return bytes.Compare(a[:], b[:]) })
	for ; i < len(ids) && out.Bytes < size; i++ {
		low := from.Low
		if ids[i] != from.Keyspace {
			low = nil
		}
		if len(low) == 0 {
			c.begin(v.file, ids[i])
			out.take(c, nil, nil)
		}
		if next := out.leaves(c, v.file, ids[i], low, size); next != nil {
			out.Next = ScrubCursor{ids[i], next}
			out.Records = c.Records
			return out, nil
		}
	}
	out.Records, out.Done = c.Records, i == len(ids)
	if !out.Done {
		out.Next = ScrubCursor{Keyspace: ids[i]}
	}
	return out, nil
}

// leaves checks leaves from a key on; it returns where the next part begins, nil at the keyspace's end.
func (o *Scrubbed) leaves(c *checker, v *fileView, id KeyspaceID, low []byte, size int64) (next []byte) {
	v.keyspaces[id].leaves.Ascend(low, func(leaf merkle.Leaf, high string, last bool) bool {
		o.Bytes += c.leaf(v, id, leaf, high, last)
		o.take(c, []byte(leaf.Low), []byte(high))
		if o.Bytes < size || last {
			return true
		}
		next = []byte(high)
		return false
	})
	return next
}

// take moves what a checker found to a leaf.
func (o *Scrubbed) take(c *checker, low, high []byte) {
	for _, d := range c.Damage {
		if len(o.Damage) < maxDamage {
			o.Damage = append(o.Damage, RangeDamage{d, low, high})
		}
	}
	c.Damage = c.Damage[:0]
}
