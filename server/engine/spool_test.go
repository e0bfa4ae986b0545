package engine

import (
	"reflect"
	"testing"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

func TestSpooledBatchReadsBackAsItWas(t *testing.T) {
	b := &CutBatch{
		Subscription: Performance,
		Entries: []CutEntry{
			{At: wal.Position{Fork: wal.Fork{1}, Index: 7}, Bytes: []byte("seven")},
			{At: wal.Position{Fork: wal.Fork{2}, Index: 9}, Bytes: []byte{}},
		},
		End:    wal.Position{Fork: wal.Fork{2}, Index: 11},
		Totals: []storage.KeyspaceTotal{{ID: storage.KeyspaceID{3}, Scope: storage.Replicated, Total: merkle.Total{Count: 4, Sum: merkle.Digest{5}}}},
	}
	got, err := decodeBatch(&wal.Frame{Entries: encodeBatch(b)})
	if err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("got %+v, %v, want %+v", got, err, b)
	}
}

func FuzzDecodeBatch(f *testing.F) {
	for _, e := range encodeBatch(&CutBatch{End: wal.Position{Index: 1}, Entries: []CutEntry{{Bytes: []byte("x")}}}) {
		f.Add(e, e)
	}
	f.Add([]byte{}, []byte{})
	f.Add([]byte{9}, []byte{9})
	f.Fuzz(func(t *testing.T, head, entry []byte) {
		b, err := decodeBatch(&wal.Frame{Entries: [][]byte{head, entry}})
		if err != nil {
			return
		}
		again, err := decodeBatch(&wal.Frame{Entries: encodeBatch(b)})
		if err != nil || !reflect.DeepEqual(encodeBatch(again), encodeBatch(b)) {
			t.Errorf("decoded, encoded and decoded: got %+v, %v, want %+v", again, err, b)
		}
	})
}
