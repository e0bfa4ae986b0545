package boltfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// Byte positions of bbolt's file format, version 2. Numbers are in the
// machine's byte order: bbolt maps them.
const (
	pageHeader  = 16 // id 8, flags 2, count 2, overflow 4
	elementSize = 16 // branch: pos 4, key size 4, page 8; leaf: flags 4, pos 4, key size 4, value size 4
	bucketSize  = 16 // root page 8, sequence 8

	metaSize     = 64
	metaFileID   = 0xED0CDAED
	metaVersion  = 2
	noFreelist   = ^uint64(0)
	minPageSize  = 512
	maxPageSize  = 64 << 10
	flagBranch   = 1
	flagLeaf     = 2
	flagFreelist = 16
	isBucket     = 1 // flag of a leaf element

	maxDepth = 64 // levels of a tree; a ring is found long before
	// leaves of larger files are not read at Open, only the pages above them
	smallFile = 16 << 20
)

// meta is what a meta page says.
type meta struct {
	pageSize uint32
	root     uint64
	freelist uint64
	pages    uint64 // pages in use are below
	txid     uint64
}

// inspector looks at the tree of pages through the descriptor, where nothing can fault.
type inspector struct {
	file   io.ReaderAt
	path   string
	size   int64
	meta   meta
	deep   bool   // read every leaf
	heads  bool   // read every leaf's header
	seen   []byte // a bit for each page reached
	leaves []byte // a bit for each leaf whose header was not read: it may go on in the pages behind it
}

// inspect refuses a file on which bbolt could go astray.
func (f *File) inspect(fd *os.File) error {
	info, err := fd.Stat()
	if err != nil {
		return err
	}
	in := &inspector{file: fd, path: f.path, size: info.Size()}
	if in.meta, err = in.metas(); err != nil {
		return err
	}
	in.seen, in.leaves = make([]byte, in.meta.pages/8+1), make([]byte, in.meta.pages/8+1)
	in.heads = in.size <= smallFile
	// Without a stored free list bbolt finds the free pages by walking the
	// whole tree, in a goroutine whose panic nobody can catch.
	in.deep = !f.opts.ReadOnly && in.meta.freelist == noFreelist
	if err := in.bucket(in.meta.root, true); err != nil {
		return err
	}
	return in.freelist()
}

func (in *inspector) corrupt(format string, args ...any) error {
	return &CorruptError{File: in.path, What: fmt.Sprintf(format, args...)}
}

// metas checks both meta pages and returns the newer.
func (in *inspector) metas() (newest meta, err error) {
	if in.size == 0 {
		return meta{}, in.corrupt("it is empty")
	}
	first, err := in.metaAt(0, 0)
	if err != nil {
		return meta{}, err
	}
	second, err := in.metaAt(1, int64(first.pageSize))
	if err != nil {
		return meta{}, err
	}
	if second.pageSize != first.pageSize {
		return meta{}, in.corrupt("its meta pages name page sizes %d and %d", first.pageSize, second.pageSize)
	}
	newest = first
	if second.txid > first.txid {
		newest = second
	}
	if need := int64(newest.pages) * int64(newest.pageSize); newest.pages < 3 || newest.pages > 1<<40 || need > in.size {
		return meta{}, in.corrupt("it is cut short: %d bytes, %d pages are in use", in.size, newest.pages)
	}
	return newest, nil
}

func (in *inspector) metaAt(page int, offset int64) (m meta, err error) {
	b := make([]byte, pageHeader+metaSize)
	if _, err := in.file.ReadAt(b, offset); err != nil {
		if errors.Is(err, io.EOF) {
			return m, in.corrupt("meta page %d is cut off", page)
		}
		return m, err
	}
	b = b[pageHeader:]
	n := binary.NativeEndian
	if n.Uint32(b) != metaFileID || n.Uint32(b[4:]) != metaVersion {
		return m, in.corrupt("meta page %d is not bbolt's, version %d", page, metaVersion)
	}
	h := fnv.New64a()
	h.Write(b[:metaSize-8])
	if h.Sum64() != n.Uint64(b[metaSize-8:]) {
		return m, in.corrupt("meta page %d does not match its checksum: the last commit may be lost", page)
	}
	m = meta{pageSize: n.Uint32(b[8:]), root: n.Uint64(b[16:]), freelist: n.Uint64(b[32:]), pages: n.Uint64(b[40:]), txid: n.Uint64(b[48:])}
	if m.pageSize < minPageSize || m.pageSize > maxPageSize || m.pageSize&(m.pageSize-1) != 0 {
		return m, in.corrupt("meta page %d names page size %d", page, m.pageSize)
	}
	return m, nil
}

// mark notes that a page was reached; each can be reached once.
func (in *inspector) mark(id uint64) error {
	if id < 2 || id >= in.meta.pages {
		return in.corrupt("page %d is referred to, and %d are in use", id, in.meta.pages)
	}
	if in.seen[id/8]&(1<<(id%8)) != 0 {
		return in.corrupt("page %d is referred to twice", id)
	}
	in.seen[id/8] |= 1 << (id % 8)
	return nil
}

// page is one page with its overflow.
type page struct {
	id    uint64
	flags uint16
	count int
	data  []byte // header included
}

func (in *inspector) head(id uint64) (p page, overflow uint64, err error) {
	b := make([]byte, pageHeader)
	if _, err := in.file.ReadAt(b, int64(id)*int64(in.meta.pageSize)); err != nil {
		return p, 0, fmt.Errorf("%s: page %d: %w", in.path, id, err)
	}
	n := binary.NativeEndian
	p = page{id: id, flags: n.Uint16(b[8:]), count: int(n.Uint16(b[10:])), data: b}
	overflow = uint64(n.Uint32(b[12:]))
	if got := n.Uint64(b); got != id {
		return p, 0, in.corrupt("page %d says that it is page %d", id, got)
	}
	if id+overflow >= in.meta.pages {
		return p, 0, in.corrupt("page %d says that it has %d more, and %d are in use", id, overflow, in.meta.pages)
	}
	return p, overflow, nil
}

// read returns a whole page that was marked; overflow pages are marked here.
func (in *inspector) read(id uint64) (page, error) {
	p, overflow, err := in.head(id)
	if err != nil {
		return p, err
	}
	for i := range overflow {
		if err := in.mark(id + 1 + i); err != nil {
			return p, err
		}
	}
	p.data = make([]byte, (overflow+1)*uint64(in.meta.pageSize))
	if _, err := in.file.ReadAt(p.data, int64(id)*int64(in.meta.pageSize)); err != nil {
		return p, fmt.Errorf("%s: page %d: %w", in.path, id, err)
	}
	return p, nil
}

// bucket walks the tree below a root page. Of the root bucket every leaf is
// read, to find the buckets in it.
func (in *inspector) bucket(root uint64, outer bool) error {
	if err := in.mark(root); err != nil {
		return err
	}
	level, err := in.levels(root)
	if err != nil {
		return err
	}
	return in.tree(root, level, outer, bounds{})
}

// bounds are those that the branches above set to a page's keys; nil is none.
type bounds struct{ low, high []byte }

func (b bounds) hold(key []byte) bool {
	return bytes.Compare(b.low, key) <= 0 && (b.high == nil || bytes.Compare(key, b.high) < 0)
}

// levels counts the levels of branch pages along the left edge.
func (in *inspector) levels(id uint64) (n int, err error) {
	for ; n < maxDepth; n++ {
		p, _, err := in.head(id)
		if err != nil {
			return 0, err
		}
		switch p.flags {
		case flagLeaf:
			return n, nil
		case flagBranch:
		default:
			return 0, in.corrupt("page %d has flags %#x where the tree goes on", id, p.flags)
		}
		b := make([]byte, pageHeader+elementSize)
		if _, err := in.file.ReadAt(b, int64(id)*int64(in.meta.pageSize)); err != nil {
			return 0, fmt.Errorf("%s: page %d: %w", in.path, id, err)
		}
		if id = binary.NativeEndian.Uint64(b[pageHeader+8:]); id < 2 || id >= in.meta.pages {
			return 0, in.corrupt("page %d is referred to, and %d are in use", id, in.meta.pages)
		}
	}
	return 0, in.corrupt("the tree is deeper than %d levels", maxDepth)
}

// tree walks a page that was marked and has level levels of branches above its leaves.
func (in *inspector) tree(id uint64, level int, outer bool, b bounds) error {
	if level == 0 {
		return in.leafPage(id, outer, b)
	}
	p, err := in.read(id)
	if err != nil {
		return err
	}
	if p.flags != flagBranch || p.count == 0 {
		return in.corrupt("page %d has flags %#x and %d elements where a branch is expected", id, p.flags, p.count)
	}
	keys, children, err := in.branch(p, b)
	if err != nil {
		return err
	}
	for i, child := range children {
		if err := in.mark(child); err != nil {
			return err
		}
		below := bounds{low: keys[i], high: b.high}
		if i+1 < len(keys) {
			below.high = keys[i+1]
		}
		if err := in.tree(child, level-1, outer, below); err != nil {
			return err
		}
	}
	return nil
}

// branch returns the keys of a branch page, in order and within its bounds, and the pages below it.
func (in *inspector) branch(p page, b bounds) (keys [][]byte, children []uint64, err error) {
	n := binary.NativeEndian
	for i := range p.count {
		at := pageHeader + i*elementSize
		if at+elementSize > len(p.data) {
			return nil, nil, in.corrupt("page %d has %d elements, more than it has room for", p.id, p.count)
		}
		key, ok := slice(p.data, at, n.Uint32(p.data[at:]), n.Uint32(p.data[at+4:]))
		if !ok {
			return nil, nil, in.corrupt("key %d of page %d lies outside the page", i, p.id)
		}
		if !b.hold(key) || i > 0 && bytes.Compare(keys[i-1], key) >= 0 {
			return nil, nil, in.corrupt("key %d of page %d is out of order", i, p.id)
		}
		keys = append(keys, key)
		children = append(children, n.Uint64(p.data[at+8:]))
	}
	return keys, children, nil
}

func (in *inspector) leafPage(id uint64, outer bool, b bounds) error {
	if !outer && !in.deep {
		if !in.heads {
			in.leaves[id/8] |= 1 << (id % 8)
			return nil
		}
		return in.leafHead(id)
	}
	p, err := in.read(id)
	if err != nil {
		return err
	}
	if p.flags != flagLeaf {
		return in.corrupt("page %d has flags %#x where a leaf is expected", id, p.flags)
	}
	return in.leaf(p, b, outer || in.deep)
}

// leafHead looks at a leaf's header alone, and marks the pages in which the leaf goes on.
func (in *inspector) leafHead(id uint64) error {
	p, overflow, err := in.head(id)
	if err != nil {
		return err
	}
	if p.flags != flagLeaf {
		return in.corrupt("page %d has flags %#x where a leaf is expected", id, p.flags)
	}
	for i := range overflow {
		if err := in.mark(id + 1 + i); err != nil {
			return err
		}
	}
	return nil
}

// leaf checks that all elements lie inside the page, in order, and follows
// those that are buckets.
func (in *inspector) leaf(p page, b bounds, follow bool) error {
	var last []byte
	for i := range p.count {
		at := pageHeader + i*elementSize
		if at+elementSize > len(p.data) {
			return in.corrupt("page %d has %d elements, more than it has room for", p.id, p.count)
		}
		n := binary.NativeEndian
		flags, pos, ksize, vsize := n.Uint32(p.data[at:]), n.Uint32(p.data[at+4:]), n.Uint32(p.data[at+8:]), n.Uint32(p.data[at+12:])
		key, ok := slice(p.data, at, pos, ksize)
		value, vok := slice(p.data, at, pos+ksize, vsize)
		if !ok || !vok || pos+ksize < pos {
			return in.corrupt("element %d of page %d lies outside the page", i, p.id)
		}
		if !b.hold(key) || i > 0 && bytes.Compare(last, key) >= 0 {
			return in.corrupt("key %d of page %d is out of order", i, p.id)
		}
		last = key
		if flags&isBucket != 0 && follow {
			if err := in.child(p.id, i, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// child checks a bucket that a leaf element holds.
func (in *inspector) child(id uint64, i int, value []byte) error {
	if len(value) < bucketSize {
		return in.corrupt("bucket %d of page %d has %d bytes", i, id, len(value))
	}
	n := binary.NativeEndian
	if root := n.Uint64(value); root != 0 {
		return in.bucket(root, false)
	}
	inline := value[bucketSize:]
	if len(inline) < pageHeader || n.Uint16(inline[8:]) != flagLeaf {
		return in.corrupt("bucket %d of page %d holds no leaf", i, id)
	}
	return in.leaf(page{id: id, count: int(n.Uint16(inline[10:])), data: inline}, bounds{}, false)
}

// slice returns size bytes at from+pos when they lie inside b.
func slice(b []byte, from int, pos, size uint32) ([]byte, bool) {
	start := uint64(from) + uint64(pos)
	end := start + uint64(size)
	if end > uint64(len(b)) {
		return nil, false
	}
	return b[start:end], true
}

// freelist checks the stored list of free pages: that it fits its page, and
// that no page is free and in use. Of the leaves whose headers were not read, those that may go on in a free page are read now.
func (in *inspector) freelist() error {
	id := in.meta.freelist
	if id == noFreelist {
		return nil
	}
	if err := in.mark(id); err != nil {
		return err
	}
	p, err := in.read(id)
	if err != nil {
		return err
	}
	if p.flags != flagFreelist {
		return in.corrupt("page %d has flags %#x where the free list is expected", id, p.flags)
	}
	list := p.data[pageHeader:]
	count := uint64(p.count)
	if count == 0xFFFF { // too many for the header: the first number says how many
		count = binary.NativeEndian.Uint64(list)
		list = list[8:]
	}
	if count > uint64(len(list)/8) {
		return in.corrupt("the free list in page %d names %d pages, more than it has room for", id, count)
	}
	last := uint64(0)
	for i := range count {
		free := binary.NativeEndian.Uint64(list[8*i:])
		if free <= last {
			return in.corrupt("the free list in page %d is out of order", id)
		}
		last = free
		err := in.leafBefore(free)
		if err == nil {
			err = in.mark(free)
		}
		if err != nil {
			return fmt.Errorf("free list: %w", err)
		}
	}
	return nil
}

// leafBefore reads the header of the leaf that a page may belong to: that of the nearest page before it that was reached. For pages
// in order that are marked one by one, all calls together go through the file's pages once.
func (in *inspector) leafBefore(id uint64) error {
	if id < 2 || id >= in.meta.pages {
		return nil // mark refuses it
	}
	for id--; id >= 2; id-- {
		bit := byte(1) << (id % 8)
		if in.seen[id/8]&bit == 0 {
			continue
		}
		if in.leaves[id/8]&bit == 0 {
			return nil
		}
		in.leaves[id/8] &^= bit
		return in.leafHead(id)
	}
	return nil
}
