package storage

import (
	"bytes"
	"slices"
	"sort"
)

// fileCursor walks one keyspace of the file, leaf by leaf; each leaf's rows are added up before the first of them is
// shown, so that none is silently missing.
type fileCursor struct {
	v    *fileView
	ks   KeyspaceID
	rows []leafRow // of the present leaf; their keys are copies, their values alias pages
	low  string    // of the present leaf
	high string    // where it ends
	last bool
	at   int
	ok   bool
}

// key returns the present row's key; it stays valid.
func (c *fileCursor) key() []byte { return c.rows[c.at].key }

// seek goes to the first row whose key is not below key.
func (c *fileCursor) seek(key []byte) error {
	if c.v.keyspaces[c.ks] == nil {
		return nil
	}
	if c.rows == nil || string(key) < c.low || !c.last && string(key) >= c.high {
		if err := c.load(key); err != nil {
			return err
		}
	}
	c.at = sort.Search(len(c.rows), func(i int) bool { return bytes.Compare(c.rows[i].key, key) >= 0 })
	return c.pass()
}

func (c *fileCursor) next() error {
	c.at++
	return c.pass()
}

// pass goes on to the next leaf while the present one has no more rows.
func (c *fileCursor) pass() error {
	for c.at == len(c.rows) {
		if c.last {
			c.ok = false
			return nil
		}
		if err := c.load([]byte(c.high)); err != nil {
			return err
		}
		c.at = 0
	}
	c.ok = true
	return nil
}

// load reads the leaf that a key belongs to.
func (c *fileCursor) load(key []byte) error {
	c.ok = false
	leaf, high, last := c.v.keyspaces[c.ks].leaves.Find(key)
	return c.v.read(func() error {
		rows, err := c.v.leafRows(c.ks, key, c.rows)
		if err != nil {
			return err
		}
		size := 0
		for i := range rows {
			size += len(rows[i].key)
		}
		keys := make([]byte, 0, size)
		for i := range rows {
			at := len(keys)
			keys = append(keys, rows[i].key...)
			rows[i].key = slices.Clip(keys[at:])
		}
		c.rows, c.low, c.high, c.last = rows, leaf.Low, high, last
		return nil
	})
}

// record returns the present row as a record, its value copied and verified.
func (c *fileCursor) record() (Record, error) {
	row := &c.rows[c.at]
	r := Record{Key: row.key, Digest: row.digest, Index: row.index}
	err := c.v.read(func() (err error) {
		r.Value, err = c.v.value(c.ks, r.Key, &row.row)
		return err
	})
	if r.Value == nil {
		r.Value = []byte{}
	}
	if err != nil {
		return Record{}, err
	}
	if c.v.state.keys.key(c.ks).Record(r.Key, r.Value) != r.Digest {
		return Record{}, c.v.state.found(c.ks, r.Key, "the record does not hash to its digest")
	}
	return r, nil
}
