package engine

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// LogDamage is a damaged place in the log. Its Frame is given up for what it tells: Entries.
type LogDamage struct {
	wal.Damage
	// Entries are those of the damaged frame that may be what is wrong in it: those that do not decode or that the state contradicts (Wrong);
	// when there are none, all that the state cannot vouch for, because it does not reach them or a later entry replaced what they wrote.
	// At most 1000 keys are listed.
	Entries []SuspectEntry
}

// SuspectEntry is an entry of a damaged frame, as far as it can still be decoded.
type SuspectEntry struct {
	Index uint64
	Wrong string       // why this is the wrong one; "": not known to be
	Keys  []SuspectKey // what it changes; where the state contradicts it, only that
}

// SuspectKey is a record that an entry changes.
type SuspectKey struct {
	Keyspace storage.KeyspaceID
	Key      []byte
}

// maxSuspectKeys bounds what is listed of one frame.
const maxSuspectKeys = 1000

// suspects turns a damaged frame into the entries of it that may be wrong.
func suspects(d wal.Damage, state *storage.State, keys *keyring) LogDamage {
	out := LogDamage{Damage: d}
	f := d.Frame
	out.Frame = nil
	if f == nil {
		return out
	}
	var open []SuspectEntry
	left := maxSuspectKeys
	for i, raw := range f.Entries {
		s, cleared := judge(f.First+uint64(i), raw, state, keys)
		if cleared || left <= 0 {
			continue
		}
		s.Keys = s.Keys[:min(len(s.Keys), left)]
		left -= len(s.Keys)
		if s.Wrong != "" {
			out.Entries = append(out.Entries, s)
		} else {
			open = append(open, s)
		}
	}
	nameUnread(out.Entries, state)
	if len(out.Entries) == 0 {
		out.Entries = open
	}
	if len(out.Entries) == 0 && len(f.Entries) > 0 {
		out.What += "; its entries are those that the state was made from, so its header is what is damaged"
	}
	return out
}

// nameUnread names the records that entries wrote which cannot be read themselves: those that the state has of them.
func nameUnread(entries []SuspectEntry, state *storage.State) {
	unread := map[uint64]*SuspectEntry{}
	for i := range entries {
		if len(entries[i].Keys) == 0 {
			unread[entries[i].Index] = &entries[i]
		}
	}
	if len(unread) == 0 {
		return
	}
	view := state.Snapshot()
	defer view.Release()
	left := maxSuspectKeys
	for _, ks := range view.Totals() {
		scanWhole(view, ks.ID, func(rec storage.Record) bool {
			if e := unread[rec.Index]; e != nil {
				e.Keys = append(e.Keys, SuspectKey{ks.ID, bytes.Clone(rec.Key)})
				left--
			}
			return left > 0
		})
	}
}

// scanWhole scans a keyspace past the records that cannot be read: those are told by the check of the state.
func scanWhole(view *storage.View, ks storage.KeyspaceID, fn func(storage.Record) bool) {
	var low []byte
	for {
		err := view.Scan(ks, low, nil, fn)
		var d *storage.Damage
		if !errors.As(err, &d) || bytes.Compare(d.Key, low) < 0 {
			return
		}
		low = append(bytes.Clone(d.Key), 0)
	}
}

// judge compares what an entry wrote with what the state says that this entry wrote. It is cleared when the state vouches for all of it.
func judge(index uint64, raw []byte, state *storage.State, keys *keyring) (s SuspectEntry, cleared bool) {
	s.Index = index
	p, err := decodeEntry(raw)
	if err != nil {
		s.Wrong = err.Error()
		return s, false
	}
	if p.entry.Index != index {
		s.Wrong = fmt.Sprintf("it says that it is entry %d", p.entry.Index)
	}
	keys.digest(p)
	vouched, changes := 0, 0
	var contradicted []SuspectKey
	for i, b := range p.entry.Blocks {
		for j, c := range b.Changes {
			changes++
			s.Keys = append(s.Keys, SuspectKey{b.Keyspace, bytes.Clone(c.Key)})
			if c.Op != storage.Put || rewritten(b.Changes[j+1:], c.Key) {
				continue
			}
			old, err := state.Old(b.Keyspace, c.Key)
			switch {
			case err != nil || !old.Present || old.Index != index:
			case old.Digest == p.digests[i][j]:
				vouched++
			default:
				contradicted = append(contradicted, SuspectKey{b.Keyspace, bytes.Clone(c.Key)})
			}
		}
	}
	if len(contradicted) > 0 {
		s.Keys = contradicted
		if s.Wrong == "" {
			s.Wrong = "the state has another value from it"
		}
	}
	return s, s.Wrong == "" && vouched == changes && changes > 0
}

// rewritten reports whether a later change of the same entry writes the key again.
func rewritten(later []storage.Change, key []byte) bool {
	for i := range later {
		if bytes.Equal(later[i].Key, key) {
			return true
		}
	}
	return false
}
