package storage

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/lockstepdb/lockstep/merkle"
)

// CheckReport is what Check found.
type CheckReport struct {
	Records uint64
	Leaves  uint64
	Totals  []KeyspaceTotal // of the records as they are
	Damage  []Damage        // at most 1000
}

const (
	maxDamage   = 1000
	checkLeaves = 512      // that one reading of the file checks
	checkBytes  = 64 << 20 // or bytes
)

// Check hashes every record of the file again and compares digests, leaves, totals and the order of keys, changing nothing.
// progress may be nil. It may run beside everything else: it reads a part of a finished checkpoint at a time.
func (s *State) Check(ctx context.Context, progress func(done, total uint64)) (CheckReport, error) {
	c := &checker{s: s, progress: progress}
	v := s.Finished()
	defer func() { v.Release() }()
	if v.file == nil {
		return c.CheckReport, ErrClosed
	}
	c.checkNames(v.file)
	ids := v.file.ids()
	for _, id := range ids {
		c.of += v.file.keyspaces[id].total.Count
	}
	for _, id := range ids {
		c.begin(v.file, id)
		for from, done := []byte(nil), false; !done; {
			if err := ctx.Err(); err != nil {
				return c.CheckReport, err
			}
			from, done = c.part(v.file, id, from)
			if gen := v.file.gen; s.Gen() != gen { // let old pages go
				v.Release()
				if v = s.Finished(); v.file == nil {
					return c.CheckReport, ErrClosed
				}
				c.moved = true
			}
		}
		c.end(v.file, id)
	}
	return c.CheckReport, nil
}

// ids returns all keyspaces of the file, detached ones too, in order.
func (v *fileView) ids() []KeyspaceID {
	ids := make([]KeyspaceID, 0, len(v.keyspaces))
	for id := range v.keyspaces {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b KeyspaceID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}

type checker struct {
	CheckReport
	s        *State
	progress func(done, total uint64)
	done, of uint64
	have     merkle.Total // the present keyspace's records as they are
	moved    bool         // it was read from more than one checkpoint
}

func (c *checker) damage(ks KeyspaceID, key []byte, format string, args ...any) {
	if len(c.Damage) < maxDamage {
		c.Damage = append(c.Damage, Damage{
			File: c.s.opts.Path, Keyspace: ks, Key: bytes.Clone(key[:min(len(key), MaxKey)]), What: fmt.Sprintf(format, args...),
		})
	}
}

// guard runs fn, which reads pages; a fault is damage.
func (c *checker) guard(ks KeyspaceID, key []byte, fn func() error) {
	if err := c.s.file.Guard(fn); err != nil {
		c.damage(ks, key, "%v", err)
	}
}

// checkNames reports buckets that belong to no keyspace.
func (c *checker) checkNames(v *fileView) {
	c.guard(KeyspaceID{}, nil, func() error {
		return v.tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
			if len(name) == 1+idSize && (name[0] == prefixRows || name[0] == prefixLeaves) {
				if id := KeyspaceID(name[1:]); v.keyspaces[id] == nil {
					c.damage(id, nil, "the file has records or leaves of a keyspace that it does not list")
				}
			}
			return nil
		})
	})
}

// begin compares what is known of a keyspace as a whole.
func (c *checker) begin(v *fileView, id KeyspaceID) {
	c.have, c.moved = merkle.Total{}, false
	k := v.keyspaces[id]
	if have := k.leaves.Total(); have != k.total {
		c.damage(id, nil, "its leaves add up to %d records of %d, or to another digest", have.Count, k.total.Count)
	}
	c.guard(id, nil, func() error {
		b := v.tx.Bucket(bucketName(prefixLeaves, id))
		if b == nil {
			if k.total.Count > 0 {
				c.damage(id, nil, "its leaves are missing")
			}
			return nil
		}
		n := 0
		cursor := b.Cursor()
		for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
			n++
			leaf, err := decodeLeaf(key, value)
			if err != nil {
				c.damage(id, key[min(1, len(key)):], "the leaf that starts here cannot be read: %v", err)
			} else if known, ok := k.leaves.At(leaf.Low); !ok || known != leaf {
				c.damage(id, key[1:], "the leaf that starts here is not the one in use")
			}
		}
		if n != k.leaves.Len() {
			c.damage(id, nil, "it has %d leaves in the file, %d in use", n, k.leaves.Len())
		}
		return nil
	})
}

// part checks some leaves of a keyspace from a key on; it returns where the rest begins.
func (c *checker) part(v *fileView, id KeyspaceID, from []byte) (rest []byte, done bool) {
	n, size := 0, int64(0)
	done = true
	v.keyspaces[id].leaves.Ascend(from, func(leaf merkle.Leaf, high string, last bool) bool {
		size += c.leaf(v, id, leaf, high, last)
		n++
		if n < checkLeaves && size < checkBytes || last {
			return true
		}
		rest, done = []byte(high), false
		return false
	})
	if c.progress != nil {
		c.progress(min(c.done, c.of), c.of)
	}
	return rest, done
}

// leaf checks the records of one leaf against it; it returns the bytes read.
func (c *checker) leaf(v *fileView, id KeyspaceID, leaf merkle.Leaf, high string, last bool) (size int64) {
	c.Leaves++
	var stored merkle.Total
	c.guard(id, []byte(leaf.Low), func() error {
		b := v.rows(id)
		if b == nil {
			return nil
		}
		var before []byte
		cursor := b.Cursor()
		for key, value := cursor.Seek([]byte(leaf.Low)); key != nil && (last || string(key) < high); key, value = cursor.Next() {
			if before != nil && bytes.Compare(before, key) >= 0 || string(key) < leaf.Low {
				c.damage(id, key, "the record is out of order")
				break // there may be no end to it
			}
			before = key
			stored.Replace(nil, c.row(id, &leaf, key, value))
			size += int64(len(key) + len(value))
		}
		return nil
	})
	if stored != leaf.Total {
		c.damage(id, []byte(leaf.Low), "the leaf that starts here does not hold what it did: %d records of %d, or others", stored.Count, leaf.Count)
	}
	return size
}

// row checks one record; it returns its stored digest.
func (c *checker) row(id KeyspaceID, leaf *merkle.Leaf, key, value []byte) *merkle.Digest {
	c.Records++
	c.done++
	r, err := decodeRow(key, value)
	if err != nil {
		c.damage(id, key, "the record cannot be read: %v", err)
	}
	k := c.s.keys.key(id)
	d := r.digest
	if value, unread := c.s.seal.value(id, key, &r); unread == nil {
		d = k.Record(key, value)
	} else if err == nil {
		c.damage(id, key, "the record cannot be read: %v", unread)
	}
	c.have.Replace(nil, &d)
	if err == nil && d != r.digest {
		c.damage(id, key, "the record does not hash to its digest")
	}
	level := k.Level(key)
	switch starts := leaf.Low == string(key); {
	case level > 0 && !starts:
		c.damage(id, key, "the record should start a leaf and does not")
	case starts && level != int(leaf.Level):
		c.damage(id, key, "the leaf that starts here has level %d, its key %d", leaf.Level, level)
	}
	return &r.digest
}

// end compares a keyspace's total and reports it.
func (c *checker) end(v *fileView, id KeyspaceID) {
	k := v.keyspaces[id]
	if c.moved {
		c.have = k.total
	}
	if c.have != k.total {
		c.damage(id, nil, "its records add up to %d of %d, or to another digest", c.have.Count, k.total.Count)
	}
	if k.detachedAt == 0 {
		c.Totals = append(c.Totals, KeyspaceTotal{ID: id, Scope: k.scope, Total: c.have})
	}
}
