package storage

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/wal"
)

func fullMark() *Mark {
	return &Mark{
		Applied: wal.Position{Fork: wal.Fork{1}, Index: 2}, Chain: wal.Hash{3}, ConsistentAt: 4, ReindexNeeded: true,
		Cursors: map[string]wal.Position{"performance": {Fork: wal.Fork{5}, Index: 6}, "index-a": {Index: 7}},
		Sync: &SyncState{
			Set: "dr", From: wal.Position{Index: 8}, FromChain: wal.Hash{9}, Until: wal.Position{Index: 10},
			Keyspace: KeyspaceID{11}, Done: []byte("dir/12"), Complete: true,
		},
	}
}

func TestMarkReadsBackAsItWasWritten(t *testing.T) {
	keyspaces := merkle.Total{Count: 2, Sum: merkle.Digest{1}}
	for _, want := range []*Mark{fullMark(), {Cursors: map[string]wal.Position{}}} {
		got, n, err := decodeMark(encodeMark(want, keyspaces))
		if err != nil || n != keyspaces || !reflect.DeepEqual(&got, want) {
			t.Errorf("got %+v, %v, %v, want %+v", got, n, err, want)
		}
	}
}

// TestEveryFlippedBitIsNoticed covers what readers trust without hashing a value.
func TestEveryFlippedBitIsNoticed(t *testing.T) {
	key, digest := []byte("dir/key"), merkle.Digest{1, 2, 3}
	leaf := merkle.Leaf{Low: "dir/key", Level: 2, Total: merkle.Total{Count: 3, Sum: digest}}
	low := leafKey(leaf.Low)
	id := KeyspaceID{9}
	known := info{scope: Local, detachedAt: 1, floor: 2, total: leaf.Total}
	for what, c := range map[string]struct {
		b      []byte
		decode func(b []byte) error
	}{
		"row":      {appendRow(nil, key, 5, &digest, nil), func(b []byte) error { _, err := decodeRow(key, b); return err }},
		"leaf":     {encodeLeaf(low, &leaf), func(b []byte) error { _, err := decodeLeaf(low, b); return err }},
		"keyspace": {encodeKeyspace(id, &known), func(b []byte) error { _, _, err := decodeKeyspace(id[:], b); return err }},
		"mark":     {encodeMark(fullMark(), leaf.Total), func(b []byte) error { _, _, err := decodeMark(b); return err }},
	} {
		if err := c.decode(c.b); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		for i := range len(c.b) * 8 {
			b := bytes.Clone(c.b)
			b[i/8] ^= 1 << (i % 8)
			if c.decode(b) == nil {
				t.Errorf("%s: bit %d flipped, and nobody noticed", what, i)
			}
		}
	}
	row := appendRow(nil, key, 5, &digest, nil)
	if _, err := decodeRow([]byte("dir/kez"), row); err == nil {
		t.Error("a row was taken for that of another key")
	}
}

func TestARowWithAFlagOfANewerProgramIsRefusedByName(t *testing.T) {
	for _, flag := range []byte{rowCompressed, 4} {
		key := []byte("k")
		b := appendRow(nil, key, 1, &merkle.Digest{}, []byte("v"))
		b[rowCRC] = flag
		crc := sum(key, b[rowCRC:rowHeader])
		b[0], b[1], b[2], b[3] = byte(crc>>24), byte(crc>>16), byte(crc>>8), byte(crc)
		var v *wal.VersionError
		if _, err := decodeRow(key, b); !errors.As(err, &v) {
			t.Errorf("flag %d: got %v, want a version error", flag, err)
		}
	}
}

func FuzzDecodeRow(f *testing.F) {
	f.Add([]byte("k"), appendRow(nil, []byte("k"), 1, &merkle.Digest{1}, []byte("v")))
	f.Fuzz(func(t *testing.T, key, b []byte) {
		r, err := decodeRow(key, b)
		if err == nil && !bytes.Equal(append(appendRowHeader(nil, key, r.flags, r.index, &r.digest), r.value...), b) {
			t.Fatalf("row %x reads as another: %+v", b, r)
		}
	})
}

func FuzzDecodeMark(f *testing.F) {
	f.Add(encodeMark(fullMark(), merkle.Total{Count: 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 4 { // else no change would pass the checksum
			crc := sum(keyMark, b[:len(b)-4])
			b = append(bytes.Clone(b[:len(b)-4]), byte(crc>>24), byte(crc>>16), byte(crc>>8), byte(crc))
		}
		m, keyspaces, err := decodeMark(b)
		if err != nil {
			return
		}
		again, n, err := decodeMark(encodeMark(&m, keyspaces))
		if err != nil || n != keyspaces || !reflect.DeepEqual(again, m) {
			t.Fatalf("got %+v, %v, want %+v", again, err, m)
		}
	})
}

func FuzzDecodeLeafAndKeyspace(f *testing.F) {
	leaf := merkle.Leaf{Low: "k", Level: 1}
	f.Add(leafKey("k"), encodeLeaf(leafKey("k"), &leaf))
	f.Add(make([]byte, 16), encodeKeyspace(KeyspaceID{}, &info{scope: Local}))
	f.Fuzz(func(t *testing.T, key, b []byte) {
		if leaf, err := decodeLeaf(key, b); err == nil && !bytes.Equal(encodeLeaf(key, &leaf), b) {
			t.Fatalf("leaf %x reads as another: %+v", b, leaf)
		}
		if id, k, err := decodeKeyspace(key, b); err == nil && !bytes.Equal(encodeKeyspace(id, &k), b) {
			t.Fatalf("keyspace %x reads as another: %+v", b, k)
		}
	})
}

func appendRow(b, key []byte, index uint64, digest *merkle.Digest, value []byte) []byte {
	return append(appendRowHeader(b, key, 0, index, digest), value...)
}
