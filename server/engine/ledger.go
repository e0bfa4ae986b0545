package engine

import (
	"fmt"
	"slices"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// ledger is the newest sequenced state: what is applied, and over it what is
// pending. One goroutine owns it. Changes are drafted first, entry by entry;
// then the draft is accepted, or forgotten without a trace.
type ledger struct {
	state    *storage.State
	pending  map[string]*held // by keyspace id and key
	drops    map[storage.KeyspaceID]uint64
	detached func(storage.KeyspaceID) bool // applied drops
	totals   map[storage.KeyspaceID]storage.KeyspaceTotal
	draft    draft
	buf      []byte

	attached   map[storage.KeyspaceID]struct{}     // by entries that are accepted and not applied
	attachable map[storage.KeyspaceID]merkle.Total // what those hold that the next entries attach
	inMemory   bool                                // no checkpoint can be made: what is attached is not followed from there on
	unknown    map[storage.KeyspaceID]struct{}     // such keyspaces

	plain map[storage.KeyspaceID]struct{} // keyspaces that were found not to be numbered
}

// held is a record that is sequenced and not yet applied; not present when it was deleted.
type held struct {
	value   []byte
	digest  merkle.Digest
	index   uint64
	present bool
}

// draft is what one job would change.
type draft struct {
	records map[string]*held
	drops   map[storage.KeyspaceID]uint64
	totals  map[storage.KeyspaceID]storage.KeyspaceTotal

	attached map[storage.KeyspaceID]struct{}
}

// pendingRef names a pending record, so that it is taken out once it is applied and only if it is still that very one.
type pendingRef struct {
	key  string
	held *held
}

func newLedger(state *storage.State) *ledger {
	l := &ledger{
		state:    state,
		pending:  map[string]*held{},
		drops:    map[storage.KeyspaceID]uint64{},
		detached: func(ks storage.KeyspaceID) bool { _, gone := state.Detached(ks); return gone },
		draft: draft{
			records: map[string]*held{},
			drops:   map[storage.KeyspaceID]uint64{},
			totals:  map[storage.KeyspaceID]storage.KeyspaceTotal{},

			attached: map[storage.KeyspaceID]struct{}{},
		},
		attached: map[storage.KeyspaceID]struct{}{},
		unknown:  map[storage.KeyspaceID]struct{}{},
		plain:    map[storage.KeyspaceID]struct{}{},
	}
	l.reload()
	return l
}

// reload takes the totals of what is applied for the truth; nothing may be pending.
func (l *ledger) reload() {
	l.totals = map[storage.KeyspaceID]storage.KeyspaceTotal{}
	clear(l.plain)
	for _, t := range l.state.Totals() {
		l.totals[t.ID] = t
	}
}

func (l *ledger) name(ks storage.KeyspaceID, key []byte) []byte {
	l.buf = append(append(l.buf[:0], ks[:]...), key...)
	return l.buf
}

// find looks a record up in what is drafted and pending. known is false when only the applied state can tell;
// since is the index of the pending change that decided.
func (l *ledger) find(ks storage.KeyspaceID, key []byte) (h *held, since uint64, known bool) {
	name := l.name(ks, key)
	if h := l.draft.records[string(name)]; h != nil {
		return h, h.index, true
	}
	if at, ok := l.draft.drops[ks]; ok {
		return nil, at, true
	}
	if h := l.pending[string(name)]; h != nil {
		return h, h.index, true
	}
	if at, ok := l.drops[ks]; ok {
		return nil, at, true
	}
	return nil, 0, false
}

// gone reports whether a keyspace has been dropped: what is written to it then is applied and shown to nobody.
func (l *ledger) gone(ks storage.KeyspaceID) bool {
	if _, ok := l.draft.drops[ks]; ok {
		return true
	}
	if _, ok := l.drops[ks]; ok {
		return true
	}
	return l.detached(ks)
}

// old returns what a write to key replaces. hint was read beforehand, on another goroutine; it counts if the file is
// still the one that it was read from.
func (l *ledger) old(ks storage.KeyspaceID, key []byte, hint *storage.Old) (storage.Old, error) {
	if h, _, known := l.find(ks, key); known {
		if h == nil || !h.present {
			return storage.Old{}, nil
		}
		return storage.Old{Digest: h.digest, Present: true, Index: h.index}, nil
	}
	if o, ok := l.state.OldInMemory(ks, key); ok {
		return o, nil
	}
	if hint != nil && hint.Gen == l.state.Gen() {
		return *hint, nil
	}
	return l.state.Old(ks, key)
}

// total returns a keyspace's total as drafted.
func (l *ledger) total(ks storage.KeyspaceID) (storage.KeyspaceTotal, bool) {
	if t, ok := l.draft.totals[ks]; ok {
		return t, true
	}
	t, ok := l.totals[ks]
	return t, ok
}

// forget drops the draft.
func (l *ledger) forget() {
	clear(l.draft.records)
	clear(l.draft.drops)
	clear(l.draft.totals)
	clear(l.draft.attached)
}

// add drafts one entry under an index.
func (l *ledger) add(index uint64, p *prepared) error {
	for bi := range p.entry.Blocks {
		b := &p.entry.Blocks[bi]
		for ci := range b.Changes {
			if err := l.change(index, b, ci, &p.digests[bi][ci], p.hint(bi, ci)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *ledger) change(index uint64, b *storage.Block, ci int, digest *merkle.Digest, hint *storage.Old) error {
	c := &b.Changes[ci]
	if _, unknown := l.unknown[b.Keyspace]; unknown {
		return nil
	}
	if c.Op == storage.Attach || Reserved(c.Key) {
		delete(l.plain, b.Keyspace)
	}
	switch {
	case c.Op == storage.Attach:
		return l.attach(b)
	case l.attaching(b.Keyspace):
		return fmt.Errorf("keyspace %s is changed before the entry that attaches it is applied", b.Keyspace)
	case c.Op == storage.Drop:
		l.drop(index, b)
		return nil
	}
	if l.gone(b.Keyspace) {
		return nil
	}
	old, err := l.old(b.Keyspace, c.Key, hint)
	if err != nil {
		return err
	}
	t, ok := l.total(b.Keyspace)
	if !ok {
		t = storage.KeyspaceTotal{ID: b.Keyspace, Scope: b.Scope}
	}
	h := &held{index: index}
	var before, after *merkle.Digest
	if old.Present {
		before = &old.Digest
	}
	if c.Op == storage.Put {
		h.value, h.digest, h.present = c.Value, *digest, true
		after = &h.digest
	}
	t.Replace(before, after)
	l.draft.totals[b.Keyspace] = t
	l.draft.records[string(l.name(b.Keyspace, c.Key))] = h
	return nil
}

func (l *ledger) drop(index uint64, b *storage.Block) {
	for name := range l.draft.records {
		if name[:len(b.Keyspace)] == string(b.Keyspace[:]) {
			delete(l.draft.records, name)
		}
	}
	if l.gone(b.Keyspace) {
		return
	}
	l.draft.drops[b.Keyspace] = index
	l.draft.totals[b.Keyspace] = storage.KeyspaceTotal{ID: b.Keyspace, Scope: b.Scope}
}

// compare judges the draft by a feeder's totals: each that it names must be equal, and those touched that it does not name must be empty.
func (l *ledger) compare(want []storage.KeyspaceTotal, touched map[storage.KeyspaceID]storage.KeyspaceTotal, at wal.Position) error {
	named := make(map[storage.KeyspaceID]bool, len(want))
	for _, w := range want {
		named[w.ID] = true
		if _, unknown := l.unknown[w.ID]; unknown {
			continue
		}
		got, _ := l.total(w.ID)
		if got.Total != w.Total {
			return diverged(w.ID, at, w.Total, got.Total)
		}
	}
	for ks, got := range touched {
		if _, unknown := l.unknown[ks]; !named[ks] && !unknown && got.Total != (merkle.Total{}) {
			return diverged(ks, at, merkle.Total{}, got.Total)
		}
	}
	return nil
}

func diverged(ks storage.KeyspaceID, at wal.Position, want, got merkle.Total) *Diverged {
	return &Diverged{Keyspace: ks, At: at, Want: rootOf(ks, want), Got: rootOf(ks, got)}
}

func rootOf(ks storage.KeyspaceID, t merkle.Total) merkle.RootHash {
	return merkle.Root([]merkle.Part{{ID: ks, Total: t}})
}

// accept makes the draft pending, as part of g.
func (l *ledger) accept(g *group) {
	for ks, at := range l.draft.drops {
		l.drops[ks] = at
		g.drops = append(g.drops, ks)
		for name := range l.pending {
			if name[:len(ks)] == string(ks[:]) {
				delete(l.pending, name)
			}
		}
	}
	for name, h := range l.draft.records {
		l.pending[name] = h
		g.refs = append(g.refs, pendingRef{name, h})
	}
	for ks, t := range l.draft.totals {
		l.totals[ks] = t
		g.touched[ks] = struct{}{}
	}
	for ks := range l.draft.attached {
		l.attached[ks] = struct{}{}
		g.attached = append(g.attached, ks)
	}
	l.forget()
}

// retire takes a group's records out of pending: the applied state answers for them now.
func (l *ledger) retire(g *group) {
	for _, r := range g.refs {
		if l.pending[r.key] == r.held {
			delete(l.pending, r.key)
		}
	}
	for _, ks := range g.attached {
		delete(l.attached, ks)
	}
	for _, ks := range g.drops {
		if l.drops[ks] <= g.last {
			delete(l.drops, ks)
			delete(l.totals, ks)
		}
	}
}

// list returns the totals that a group's frame carries, in order of id: of what it touched, or of all keyspaces, unless those are too many for
// a frame's header; the note before each segment has them in any case.
func (l *ledger) list(touched map[storage.KeyspaceID]struct{}, all bool) []storage.KeyspaceTotal {
	var out []storage.KeyspaceTotal
	if all && len(l.totals) <= frameKeyspaces {
		out = make([]storage.KeyspaceTotal, 0, len(l.totals))
		for _, t := range l.totals {
			out = append(out, t)
		}
	} else {
		out = make([]storage.KeyspaceTotal, 0, len(touched))
		for ks := range touched {
			out = append(out, l.totals[ks])
		}
	}
	sortTotals(out)
	return out
}

func sortTotals(t []storage.KeyspaceTotal) {
	slices.SortFunc(t, func(a, b storage.KeyspaceTotal) int { return compareIDs(a.ID, b.ID) })
}
