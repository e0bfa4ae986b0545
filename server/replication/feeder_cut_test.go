package replication

import (
	"testing"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// A performance secondary that was killed finds its cursor again in the last entry it took; the later entries of that frame may be
// such as it does not cover, so the cursor lies within a frame of its feeder.
func TestACursorWithinAFrameGetsTheRestOfTheFrame(t *testing.T) {
	entry := func(scope storage.Scope, index uint64) []byte {
		return storage.EncodeEntry(nil, &storage.Entry{
			Version: 1, Index: index,
			Blocks: []storage.Block{{Keyspace: storage.KeyspaceID{9, byte(scope)}, Scope: scope, Changes: []storage.Change{{Op: storage.Put, Key: []byte("k"), Value: []byte("v")}}}},
		})
	}
	fr := &wal.Frame{
		Header:  wal.Header{Fork: wal.Fork{1}, First: 10},
		Entries: [][]byte{entry(storage.Replicated, 10), entry(storage.Replicated, 11), entry(storage.Local, 12), entry(storage.Replicated, 13)},
	}
	fr.Seal(wal.Hash{})
	for _, c := range []struct {
		name string
		kind Kind
		at   uint64 // the cursor
		want []uint64
		fail bool
	}{
		{"before the frame: all that is covered", Performance, 9, []uint64{10, 11, 13}, false},
		{"within it: the rest", Performance, 10, []uint64{11, 13}, false},
		{"within it, on an entry before one not covered", Performance, 11, []uint64{13}, false},
		{"at its end: it is not the frame that follows", Performance, 13, nil, true},
		{"with a gap before it", Performance, 8, nil, true},
		{"a DR secondary stands at ends of frames only", DR, 10, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &feeder{peer: peer{Kind: c.kind}, at: wal.Position{Fork: wal.Fork{1}, Index: c.at}, coverer: &coverer{now: &cover{whole: true}}}
			b := &outgoing{follows: f.at}
			err := f.add(b, fr)
			if (err != nil) != c.fail {
				t.Fatalf("add: got %v, want an error: %v", err, c.fail)
			}
			var got []uint64
			for _, e := range b.cut {
				got = append(got, e.At.Index)
			}
			if len(got) != len(c.want) {
				t.Fatalf("entries: got %v, want %v", got, c.want)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Fatalf("entries: got %v, want %v", got, c.want)
				}
			}
			if !c.fail && f.at != fr.Position() {
				t.Errorf("the batch ends at %v, want the frame's end %v", f.at, fr.Position())
			}
		})
	}
}
