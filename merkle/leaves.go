package merkle

import (
	"slices"
	"sort"
)

// blockLeaves is how many leaves a block holds at most: summing a block's rest
// then costs microseconds, and copying one before a change is cheap.
const blockLeaves = 512

// Leaf is one contiguous range of a keyspace, from Low to the next leaf's.
type Leaf struct {
	Low   string
	Level uint8 // of Low; 0 for the first leaf, which starts at the empty key
	Total
}

// Leaves is the ordered set of a keyspace's leaves. It is not safe for
// concurrent use, but a Clone may be read by anyone who does not change it.
type Leaves struct {
	blocks []*block
	owner  *byte // blocks of another owner are copied before they change
	total  Total
	n      int
}

type block struct {
	owner  *byte
	leaves []Leaf // never empty
	sum    Total
	max    uint8 // highest level in it
}

// NewLeaves returns the index of a keyspace without records: one empty leaf.
func NewLeaves() *Leaves {
	l := &Leaves{owner: new(byte), n: 1}
	l.blocks = []*block{{owner: l.owner, leaves: []Leaf{{}}}}
	return l
}

// LoadLeaves returns the index made of leaves in order, the first of which has
// the empty key. ok is false when they are not in order, or not complete at the
// start: what is out of place is then left out.
func LoadLeaves(next func() (Leaf, bool)) (l *Leaves, ok bool) {
	l = NewLeaves()
	ok = true
	last, first := "", true
	for leaf, more := next(); more; leaf, more = next() {
		switch {
		case first && leaf.Low == "":
			b := l.blocks[0]
			b.leaves[0] = leaf
			b.refresh()
			l.total = leaf.Total
		case leaf.Low <= last:
			ok = false
			continue
		default:
			ok = ok && !first
			l.push(leaf)
			last = leaf.Low
		}
		first = false
	}
	return l, ok && !first
}

// push appends a leaf behind all others.
func (l *Leaves) push(leaf Leaf) {
	b := l.blocks[len(l.blocks)-1]
	if len(b.leaves) >= blockLeaves*3/4 {
		b = &block{owner: l.owner}
		l.blocks = append(l.blocks, b)
	}
	b.leaves = append(b.leaves, leaf)
	b.sum.Add(leaf.Total)
	b.max = max(b.max, leaf.Level)
	l.total.Add(leaf.Total)
	l.n++
}

// Clone returns a copy that later changes of l do not touch, nor the other way round;
// blocks are shared until one of the two changes them.
func (l *Leaves) Clone() *Leaves {
	l.owner = new(byte)
	return &Leaves{blocks: slices.Clone(l.blocks), owner: new(byte), total: l.total, n: l.n}
}

// Len returns the number of leaves, at least 1.
func (l *Leaves) Len() int { return l.n }

// Total returns the sum of all leaves.
func (l *Leaves) Total() Total { return l.total }

// Find returns the leaf that a key belongs to and where that leaf ends: last
// is true, and high empty, when it is the last one.
func (l *Leaves) Find(key []byte) (leaf Leaf, high string, last bool) {
	i, j := l.find(string(key))
	high, last = l.after(i, j)
	return l.blocks[i].leaves[j], high, last
}

// Slot numbers the leaf that a key belongs to, from 0 to below Slots: each leaf another, until l changes.
func (l *Leaves) Slot(key []byte) int {
	i, j := l.find(string(key))
	return i*blockLeaves + j
}

// Slots is above every Slot.
func (l *Leaves) Slots() int {
	last := len(l.blocks) - 1
	return last*blockLeaves + len(l.blocks[last].leaves)
}

// At returns the leaf that starts exactly at low; ok is false when none does.
func (l *Leaves) At(low string) (leaf Leaf, ok bool) {
	i, j := l.find(low)
	leaf = l.blocks[i].leaves[j]
	return leaf, leaf.Low == low
}

// Replace takes a record's old digest out of the leaf of its key and puts the
// new one in (nil: there was, or is, none). It returns that leaf's low key.
func (l *Leaves) Replace(key []byte, old, new *Digest) (low string) {
	i, j := l.find(string(key))
	b := l.own(i)
	b.leaves[j].Replace(old, new)
	b.sum.Replace(old, new)
	l.total.Replace(old, new)
	return b.leaves[j].Low
}

// Split makes a key the start of a leaf of its own: right is the total of the
// records from key to the end of the leaf that it lay in. A key that starts a
// leaf already only gets the level.
func (l *Leaves) Split(key string, level int, right Total) {
	i, j := l.find(key)
	b := l.own(i)
	if b.leaves[j].Low == key {
		if key != "" {
			b.leaves[j].Level = uint8(level)
			b.max = max(b.max, uint8(level))
		}
		return
	}
	b.leaves[j].Sub(right)
	b.leaves = slices.Insert(b.leaves, j+1, Leaf{Low: key, Level: uint8(level), Total: right})
	b.max = max(b.max, uint8(level))
	l.n++
	if len(b.leaves) > blockLeaves {
		l.halve(i)
	}
}

// Join adds the leaf that starts at key to the one before it, because its boundary
// record is gone. It does nothing for the first leaf or when none starts there.
func (l *Leaves) Join(key string) {
	i, j := l.find(key)
	leaf := l.blocks[i].leaves[j]
	if leaf.Low != key || key == "" {
		return
	}
	b := l.own(i)
	b.leaves = slices.Delete(b.leaves, j, j+1)
	l.n--
	if j > 0 {
		b.leaves[j-1].Add(leaf.Total)
		b.refreshMax()
		return
	}
	before := l.own(i - 1)
	before.leaves[len(before.leaves)-1].Add(leaf.Total)
	before.sum.Add(leaf.Total)
	if len(b.leaves) == 0 {
		l.blocks = slices.Delete(l.blocks, i, i+1)
		return
	}
	b.sum.Sub(leaf.Total)
	b.refreshMax()
}

// Before returns the exact total of all leaves that lie below the leaf of key,
// and that leaf.
func (l *Leaves) Before(key []byte) (below Total, leaf Leaf) {
	i, j := l.find(string(key))
	for _, b := range l.blocks[:i] {
		below.Add(b.sum)
	}
	b := l.blocks[i]
	for _, x := range b.leaves[:j] {
		below.Add(x.Total)
	}
	return below, b.leaves[j]
}

// Ascend calls fn for each leaf, starting with the one that key belongs to,
// until it returns false. The leaves must not change meanwhile.
func (l *Leaves) Ascend(key []byte, fn func(leaf Leaf, high string, last bool) bool) {
	i, j := l.find(string(key))
	for ; i < len(l.blocks); i, j = i+1, 0 {
		for ; j < len(l.blocks[i].leaves); j++ {
			high, last := l.after(i, j)
			if !fn(l.blocks[i].leaves[j], high, last) {
				return
			}
		}
	}
}

// Top returns the highest level of a boundary strictly between low and high (nil:
// the end), and how many boundaries of that level lie there; 0, 0 when none does.
func (l *Leaves) Top(low, high []byte) (level, count int) {
	l.between(low, high, func() int { return level }, func(x *Leaf) {
		if int(x.Level) > level {
			level, count = int(x.Level), 0
		}
		count++
	})
	return level, count
}

// Cuts returns the boundaries of a level or more strictly between low and high
// (nil: the end), in order: the parts of that range at that level are what
// lies between them.
func (l *Leaves) Cuts(low, high []byte, level int) []string {
	var cuts []string
	l.between(low, high, func() int { return level }, func(x *Leaf) { cuts = append(cuts, x.Low) })
	return cuts
}

// between calls fn for each leaf of at least the level that floor gives at that moment whose
// low key lies strictly between low and high; blocks without one are passed over.
func (l *Leaves) between(low, high []byte, floor func() int, fn func(*Leaf)) {
	from, to := string(low), string(high)
	i, j := l.find(from)
	for ; i < len(l.blocks); i, j = i+1, 0 {
		b := l.blocks[i]
		if high != nil && b.leaves[0].Low >= to {
			return
		}
		if int(b.max) < floor() || b.max == 0 {
			continue
		}
		for ; j < len(b.leaves); j++ {
			x := &b.leaves[j]
			if high != nil && x.Low >= to {
				return
			}
			if x.Low > from && x.Level > 0 && int(x.Level) >= floor() {
				fn(x)
			}
		}
	}
}

// find returns block and place of the last leaf whose low key is not above key.
func (l *Leaves) find(key string) (i, j int) {
	i = sort.Search(len(l.blocks), func(i int) bool { return l.blocks[i].leaves[0].Low > key }) - 1
	leaves := l.blocks[i].leaves
	j = sort.Search(len(leaves), func(j int) bool { return leaves[j].Low > key }) - 1
	return i, j
}

// after returns the low key of the leaf that follows.
func (l *Leaves) after(i, j int) (high string, last bool) {
	if j+1 < len(l.blocks[i].leaves) {
		return l.blocks[i].leaves[j+1].Low, false
	}
	if i+1 < len(l.blocks) {
		return l.blocks[i+1].leaves[0].Low, false
	}
	return "", true
}

// own returns a block that only l holds.
func (l *Leaves) own(i int) *block {
	b := l.blocks[i]
	if b.owner != l.owner {
		c := *b
		c.owner = l.owner
		c.leaves = append(make([]Leaf, 0, len(b.leaves)+8), b.leaves...)
		b = &c
		l.blocks[i] = b
	}
	return b
}

// halve splits an owned block in two.
func (l *Leaves) halve(i int) {
	b := l.blocks[i]
	half := len(b.leaves) / 2
	right := &block{owner: l.owner, leaves: append(make([]Leaf, 0, blockLeaves), b.leaves[half:]...)}
	clear(b.leaves[half:])
	b.leaves = b.leaves[:half]
	b.refresh()
	right.refresh()
	l.blocks = slices.Insert(l.blocks, i+1, right)
}

func (b *block) refresh() {
	b.sum = Total{}
	for i := range b.leaves {
		b.sum.Add(b.leaves[i].Total)
	}
	b.refreshMax()
}

func (b *block) refreshMax() {
	b.max = 0
	for i := range b.leaves {
		b.max = max(b.max, b.leaves[i].Level)
	}
}
