package snapshot

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

// FuzzPiece feeds the decoder of an opened piece: what it takes encodes to the same bytes again.
func FuzzPiece(f *testing.F) {
	r := records{keyspace: storage.KeyspaceID{1}, scope: storage.Replicated, low: []byte("a"), high: []byte("z"), readAt: wal.Position{Fork: wal.Fork{2}, Index: 3},
		recs: []storage.Record{{Key: []byte("b"), Value: []byte("1")}, {Key: []byte("c"), Value: []byte{}}}}
	f.Add(r.encode(nil))
	frame := &wal.Frame{Header: wal.Header{Ordinal: 1, First: 1}, Entries: [][]byte{[]byte("one"), []byte("two")}}
	frame.Seal(wal.Hash{})
	f.Add(appendFrame([]byte{kindFrames}, frame))
	f.Add([]byte{})
	f.Add([]byte{9})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePiece(b)
		if err != nil {
			return
		}
		var again []byte
		if p.records != nil {
			again = p.records.encode(nil)
		} else {
			again = []byte{kindFrames}
			for _, frame := range p.frames {
				again = appendFrame(again, frame)
			}
		}
		if !bytes.Equal(again, b) {
			t.Errorf("encoded again: %x, was %x", again, b)
		}
		if q, err := decodePiece(again); err != nil || !reflect.DeepEqual(p, q) {
			t.Errorf("decoded again: %+v, %v", q, err)
		}
	})
}

// FuzzOpen feeds the reader of a file: whatever comes, it ends, with an *Invalid or a whole snapshot.
func FuzzOpen(f *testing.F) {
	var b bytes.Buffer
	a := newArchive(&b, Header{}, nil)
	if err := a.addJSON(nameHeader, &Header{Format: 1, ID: "00000000000000000000000000000000", ClusterID: "c", Log: "writer"}); err != nil {
		f.Fatal(err)
	}
	if err := a.tar.Close(); err != nil {
		f.Fatal(err)
	}
	if err := a.gzip.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte("\x1f\x8b\x08\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Open(bytes.NewReader(b))
		if err == nil {
			err = r.Verify(func(int64) {})
		}
		if err != nil && !isInvalid(err) {
			t.Errorf("got %v, want an *Invalid", err)
		}
	})
}
