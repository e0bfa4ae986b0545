package storage_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/merkle"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/wal"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

func fullEntry() *storage.Entry {
	return &storage.Entry{
		Version: 1, Index: 4711, Time: 1_790_000_000_123_456_789, RequestID: "a1b2c3", Housekeeping: true,
		Upstream: wal.Position{Fork: wal.Fork{1, 2, 3}, Index: 99},
		Sync: &storage.SyncMark{
			Kind: storage.SyncRange, From: wal.Position{Fork: wal.Fork{4}, Index: 5}, Until: wal.Position{Fork: wal.Fork{4}, Index: 6},
			Keyspace: storage.SystemLocal, Low: []byte("a"), High: []byte("b/c"),
		},
		Blocks: []storage.Block{
			{Keyspace: storage.SystemReplicated, Scope: storage.Replicated, Changes: []storage.Change{
				{Op: storage.Put, Key: []byte("mounts/secret"), Value: []byte("{}")},
				{Op: storage.Put, Key: []byte("empty"), Value: []byte{}},
				{Op: storage.Delete, Key: []byte("gone")},
			}},
			{Keyspace: ksID(9), Scope: storage.Local, Changes: []storage.Change{
				{Op: storage.Put, Key: []byte("long"), Value: bytes.Repeat([]byte("v"), 300)},
				{Op: storage.Drop},
			}},
		},
	}
}

func plainEntry() *storage.Entry {
	return &storage.Entry{Version: 1, Index: 1, Time: 2, Blocks: []storage.Block{
		{Keyspace: ksID(1), Scope: storage.Replicated, Changes: []storage.Change{{Op: storage.Put, Key: []byte("k"), Value: []byte("v")}}},
	}}
}

func attachingEntry() *storage.Entry {
	return &storage.Entry{Version: 2, Index: 8, Time: 9, Housekeeping: true, Blocks: []storage.Block{
		{Keyspace: ksID(1), Scope: storage.Replicated, Changes: []storage.Change{{Op: storage.Attach}}},
	}}
}

func sampleTotals() []storage.KeyspaceTotal {
	return []storage.KeyspaceTotal{
		{ID: storage.SystemReplicated, Scope: storage.Replicated, Total: merkle.Total{Count: 3, Sum: merkle.Digest{1, 2}}},
		{ID: ksID(9), Scope: storage.Local, Total: merkle.Total{Count: 1 << 40, Sum: merkle.Digest{31: 9}}},
	}
}

func TestGoldenFilesPinTheFormats(t *testing.T) {
	for name, b := range map[string][]byte{
		"entry-v1-full.hex":  storage.EncodeEntry(nil, fullEntry()),
		"entry-v1-plain.hex": storage.EncodeEntry(nil, plainEntry()),
		"entry-v2.hex":       storage.EncodeEntry(nil, attachingEntry()),
		"totals-v1.hex":      storage.EncodeTotals(sampleTotals()),
	} {
		path := filepath.Join("testdata", name)
		got := wrapHex(b)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: got\n%swant\n%s", name, got, want)
		}
	}
}

func wrapHex(b []byte) string {
	s := hex.EncodeToString(b)
	var lines strings.Builder
	for len(s) > 0 {
		n := min(64, len(s))
		lines.WriteString(s[:n] + "\n")
		s = s[n:]
	}
	return lines.String()
}

func TestDecodeEntryReadsWhatEncodeEntryWrote(t *testing.T) {
	header := *plainEntry()
	header.Blocks = nil
	bare := *fullEntry()
	bare.Sync.Low, bare.Sync.High = nil, nil
	for name, e := range map[string]*storage.Entry{"all parts": fullEntry(), "plain": plainEntry(), "no block": &header, "range without bounds": &bare, "attaching": attachingEntry()} {
		b := storage.EncodeEntry([]byte("before"), e)
		if !bytes.HasPrefix(b, []byte("before")) {
			t.Errorf("%s: what stood in the buffer is gone", name)
		}
		got, err := storage.DecodeEntry(b[len("before"):])
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, e)
		}
		if err := e.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEveryEntryCutShortIsRefused(t *testing.T) {
	for _, e := range []*storage.Entry{fullEntry(), plainEntry(), attachingEntry()} {
		whole := storage.EncodeEntry(nil, e)
		for n := range len(whole) {
			got, err := storage.DecodeEntry(whole[:n])
			if err == nil && !bytes.Equal(storage.EncodeEntry(nil, got), whole[:n]) {
				t.Fatalf("%d of %d bytes were read as another entry: %+v", n, len(whole), got)
			}
		}
	}
}

func TestANewerVersionIsRefusedByName(t *testing.T) {
	entry := storage.EncodeEntry(nil, plainEntry())
	entry[0] = 3
	totals := storage.EncodeTotals(sampleTotals())
	totals[0] = 7
	_, _, cut := storage.CutEntry(entry, func(storage.KeyspaceID, storage.Scope) bool { return true })
	_, decoded := storage.DecodeEntry(entry)
	_, digests := storage.DecodeTotals(totals)
	for _, c := range []struct {
		err  error
		what string
		got  uint16
		have uint16
	}{{cut, "entry", 3, 2}, {decoded, "entry", 3, 2}, {digests, "totals", 7, 1}} {
		var v *wal.VersionError
		if !errors.As(c.err, &v) || v.What != c.what || v.Got != c.got || v.Have != c.have {
			t.Errorf("got %v, want a version error about %s %d", c.err, c.what, c.got)
		}
	}
}

func TestEntriesBeyondTheLimitsAreNeitherWrittenNorRead(t *testing.T) {
	with := func(fn func(*storage.Entry)) *storage.Entry {
		e := plainEntry()
		fn(e)
		return e
	}
	change := func(c storage.Change) *storage.Entry {
		return with(func(e *storage.Entry) { e.Blocks[0].Changes = append(e.Blocks[0].Changes, c) })
	}
	for name, e := range map[string]*storage.Entry{
		"empty key":             change(storage.Change{Op: storage.Put, Value: []byte("v")}),
		"long key":              change(storage.Change{Op: storage.Delete, Key: make([]byte, storage.MaxKey+1)}),
		"long value":            change(storage.Change{Op: storage.Put, Key: []byte("k"), Value: make([]byte, storage.MaxValue+1)}),
		"unknown operation":     change(storage.Change{Op: 5, Key: []byte("k")}),
		"an attachment beside":  change(storage.Change{Op: storage.Attach}),
		"a client's attachment": with(func(e *storage.Entry) { e.Blocks[0].Changes = []storage.Change{{Op: storage.Attach}} }),
		"unknown scope":         with(func(e *storage.Entry) { e.Blocks[0].Scope = 3 }),
		"no scope":              with(func(e *storage.Entry) { e.Blocks[0].Scope = 0 }),
		"long request id":       with(func(e *storage.Entry) { e.RequestID = strings.Repeat("x", 65) }),
		"unknown sync mark":     with(func(e *storage.Entry) { e.Sync = &storage.SyncMark{Kind: 4} }),
		"long bound":            with(func(e *storage.Entry) { e.Sync = &storage.SyncMark{Kind: 2, High: make([]byte, storage.MaxKey+1)} }),
		"too many changes":      with(func(e *storage.Entry) { e.Blocks[0].Changes = manyDeletes(storage.MaxChanges + 1) }),
		"larger than allowed":   with(func(e *storage.Entry) { e.Blocks[0].Changes = twoLarge() }),
	} {
		var bad *storage.Malformed
		if err := e.Validate(); !errors.As(err, &bad) {
			t.Errorf("%s, to be written: got %v, want it refused", name, err)
		}
		if _, err := storage.DecodeEntry(storage.EncodeEntry(nil, e)); !errors.As(err, &bad) {
			t.Errorf("%s, to be read: got %v, want it refused", name, err)
		}
	}
	for name, e := range map[string]*storage.Entry{
		"delete with a value": change(storage.Change{Op: storage.Delete, Key: []byte("k"), Value: []byte("v")}),
		"drop with a key":     change(storage.Change{Op: storage.Drop, Key: []byte("k")}),
	} {
		if err := e.Validate(); err == nil {
			t.Errorf("%s, which the format cannot express, is accepted", name)
		}
	}
}

func TestAnAttachmentHasTheVersionThatSaysSo(t *testing.T) {
	for name, b := range map[string][]byte{
		"an attachment of version 1": storage.EncodeEntry(nil, attachingEntry()), "another entry of version 2": storage.EncodeEntry(nil, plainEntry()),
	} {
		b[0] = 3 - b[0]
		var bad *storage.Malformed
		if _, err := storage.DecodeEntry(b); !errors.As(err, &bad) {
			t.Errorf("%s: got %v, want it refused", name, err)
		}
	}
}

func manyDeletes(n int) []storage.Change {
	changes := make([]storage.Change, n)
	for i := range changes {
		changes[i] = storage.Change{Op: storage.Delete, Key: []byte("k")}
	}
	return changes
}

func twoLarge() []storage.Change {
	v := make([]byte, storage.MaxEntry/2)
	return []storage.Change{{Op: storage.Put, Key: []byte("a"), Value: v}, {Op: storage.Put, Key: []byte("b"), Value: v}}
}

func TestCutEntryKeepsCoveredBlocksAndTheHeader(t *testing.T) {
	e := fullEntry()
	e.Housekeeping, e.Sync = false, nil
	whole := storage.EncodeEntry(nil, e)
	for name, c := range map[string]struct {
		covers func(storage.KeyspaceID, storage.Scope) bool
		want   []storage.Block
	}{
		"everything":      {func(storage.KeyspaceID, storage.Scope) bool { return true }, e.Blocks},
		"replicated only": {func(_ storage.KeyspaceID, s storage.Scope) bool { return s == storage.Replicated }, e.Blocks[:1]},
		"one keyspace":    {func(id storage.KeyspaceID, _ storage.Scope) bool { return id == ksID(9) }, e.Blocks[1:]},
		"nothing":         {func(storage.KeyspaceID, storage.Scope) bool { return false }, nil},
	} {
		b, any, err := storage.CutEntry(whole, c.covers)
		if err != nil || any != (c.want != nil) {
			t.Errorf("%s: got %v, %v, want %v", name, any, err, c.want != nil)
			continue
		}
		if !any {
			continue
		}
		got, err := storage.DecodeEntry(b)
		want := *e
		want.Blocks = c.want
		if err != nil || !reflect.DeepEqual(got, &want) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, want)
		}
	}
	housekeeping := storage.EncodeEntry(nil, fullEntry())
	if _, any, err := storage.CutEntry(housekeeping, func(storage.KeyspaceID, storage.Scope) bool { return true }); any || err != nil {
		t.Errorf("housekeeping: got %v, %v, want nothing of it", any, err)
	}
}

func TestTotalsAreWrittenInOrderOfIDAndReadStrictly(t *testing.T) {
	want := sampleTotals()
	for _, in := range [][]storage.KeyspaceTotal{{want[0], want[1]}, {want[1], want[0]}} {
		first := in[0]
		got, err := storage.DecodeTotals(storage.EncodeTotals(in))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
		if in[0] != first {
			t.Error("the caller's slice was reordered")
		}
	}
	if got, err := storage.DecodeTotals(nil); got != nil || err != nil {
		t.Errorf("no bytes: got %v, %v, want nothing", got, err)
	}
	whole := storage.EncodeTotals(want)
	twice := append(bytes.Clone(whole), whole[len(whole)/2+1:]...)
	if _, err := storage.DecodeTotals(twice); err == nil {
		t.Error("a keyspace that comes twice was accepted")
	}
	for n := 2; n < len(whole); n++ {
		if _, err := storage.DecodeTotals(whole[:n]); err == nil && (n-1)%57 != 0 {
			t.Errorf("%d of %d bytes were accepted", n, len(whole))
		}
	}
}

func TestKeyspaceIDPrintsAsUUID(t *testing.T) {
	id := storage.KeyspaceID{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}
	if got, want := id.String(), "01234567-89ab-cdef-0123-456789abcdef"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add(storage.EncodeEntry(nil, fullEntry()))
	f.Add(storage.EncodeEntry(nil, plainEntry()))
	f.Add(storage.EncodeEntry(nil, attachingEntry()))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := storage.DecodeEntry(b)
		if err != nil {
			return
		}
		if got := storage.EncodeEntry(nil, e); !bytes.Equal(got, b) {
			t.Fatalf("decoded and encoded: got %x, want %x", got, b)
		}
		if err := e.Validate(); err != nil {
			t.Fatalf("an entry that was read may not be written: %v", err)
		}
	})
}

func FuzzCutEntry(f *testing.F) {
	e := fullEntry()
	e.Housekeeping = false
	f.Add(storage.EncodeEntry(nil, e), byte(1))
	f.Add(storage.EncodeEntry(nil, plainEntry()), byte(3))
	f.Fuzz(func(t *testing.T, b []byte, mask byte) {
		covers := func(id storage.KeyspaceID, _ storage.Scope) bool { return mask>>(id[15]%8)&1 == 1 }
		cut, any, err := storage.CutEntry(b, covers)
		whole, whyNot := storage.DecodeEntry(b)
		if whyNot != nil {
			return // CutEntry does not look into changes
		}
		if err != nil {
			t.Fatalf("an entry that can be read cannot be cut: %v", err)
		}
		want := *whole
		want.Blocks = nil
		for _, block := range whole.Blocks {
			if !whole.Housekeeping && covers(block.Keyspace, block.Scope) {
				want.Blocks = append(want.Blocks, block)
			}
		}
		if any != (want.Blocks != nil) {
			t.Fatalf("got %v, want %v", any, want.Blocks != nil)
		}
		if any && !bytes.Equal(cut, storage.EncodeEntry(nil, &want)) {
			t.Fatalf("got %x, want %x", cut, storage.EncodeEntry(nil, &want))
		}
	})
}

func FuzzDecodeTotals(f *testing.F) {
	f.Add(storage.EncodeTotals(sampleTotals()))
	f.Fuzz(func(t *testing.T, b []byte) {
		totals, err := storage.DecodeTotals(b)
		if err == nil && len(b) > 0 && !bytes.Equal(storage.EncodeTotals(totals), b) {
			t.Fatalf("decoded and encoded: got %x, want %x", storage.EncodeTotals(totals), b)
		}
	})
}
