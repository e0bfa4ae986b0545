package storage

import (
	"bytes"

	"github.com/tidwall/btree"
)

// merge walks a keyspace's records in key order over tables and file; the newest source that
// knows a key decides.
type merge struct {
	ks     KeyspaceID
	tables []tableCursor
	file   fileCursor
	ok     bool   // key is a record's
	key    []byte // not to be changed; valid for as long as anyone wants
	rec    *rec   // nil: the record is in the file
}

func (v *View) merge(ks KeyspaceID) *merge {
	m := &merge{ks: ks, file: fileCursor{v: v.file, ks: ks}}
	for _, t := range v.tables {
		m.tables = append(m.tables, tableCursor{it: t.Iter(), ks: ks})
	}
	return m
}

// seek goes to the first record whose key is not below key.
func (m *merge) seek(key []byte) error {
	for i := range m.tables {
		m.tables[i].seek(key)
	}
	if err := m.file.seek(key); err != nil {
		return err
	}
	return m.settle()
}

// next goes to the record that follows.
func (m *merge) next() error {
	if err := m.step(); err != nil {
		return err
	}
	return m.settle()
}

// step moves every source that stands at the present key.
func (m *merge) step() error {
	for i := range m.tables {
		if t := &m.tables[i]; t.ok && string(m.key) == t.key {
			t.next()
		}
	}
	if m.file.ok && bytes.Equal(m.file.key(), m.key) {
		return m.file.next()
	}
	return nil
}

// settle finds the lowest key of all sources, past keys that were deleted.
func (m *merge) settle() error {
	for {
		m.ok, m.rec = false, nil
		if m.file.ok {
			m.ok, m.key = true, m.file.key()
		}
		for i := len(m.tables) - 1; i >= 0; i-- {
			if t := &m.tables[i]; t.ok && (!m.ok || t.key <= string(m.key)) {
				m.ok, m.key, m.rec = true, []byte(t.key), t.it.Value()
			}
		}
		if !m.ok || m.rec == nil || !m.rec.deleted {
			return nil
		}
		if err := m.step(); err != nil {
			return err
		}
	}
}

// record returns the present record, its value verified.
func (m *merge) record() (Record, error) {
	if m.rec != nil {
		return m.rec.record(m.key)
	}
	return m.file.record()
}

// tableCursor walks one keyspace of a table.
type tableCursor struct {
	it  btree.MapIter[string, *rec]
	ks  KeyspaceID
	ok  bool
	key string
}

func (c *tableCursor) seek(key []byte) {
	c.set(c.it.Seek(string(appendTableKey(nil, c.ks, key))))
}

func (c *tableCursor) next() { c.set(c.it.Next()) }

func (c *tableCursor) set(ok bool) {
	if c.ok = ok && c.it.Key()[:idSize] == string(c.ks[:]); c.ok {
		c.key = c.it.Key()[idSize:]
	}
}
