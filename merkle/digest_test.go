package merkle_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lockstepdb/lockstep/merkle"
)

var testKey = merkle.Key(sha256.Sum256([]byte("a key of the tests")))

// number is the slow twin of a digest: a big integer modulo 2^256.
func number(d merkle.Digest) *big.Int {
	slices.Reverse(d[:])
	return new(big.Int).SetBytes(d[:])
}

var modulus = new(big.Int).Lsh(big.NewInt(1), 256)

func randomDigest(rng *rand.Rand) (d merkle.Digest) {
	for i := range d {
		d[i] = byte(rng.Uint32())
		if rng.IntN(3) > 0 { // runs of ones carry far
			d[i] = 0xff
		}
	}
	return d
}

func TestAddAndSubAreThoseOfNumbersModulo2To256(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		a, b := randomDigest(rng), randomDigest(rng)
		sum, diff := a, a
		sum.Add(&b)
		diff.Sub(&b)
		wantSum := new(big.Int).Add(number(a), number(b))
		wantDiff := new(big.Int).Sub(number(a), number(b))
		if got := number(sum); got.Cmp(wantSum.Mod(wantSum, modulus)) != 0 {
			t.Fatalf("%x + %x: got %x, want %x", a, b, got, wantSum)
		}
		if got := number(diff); got.Cmp(wantDiff.Mod(wantDiff, modulus)) != 0 {
			t.Fatalf("%x - %x: got %x, want %x", a, b, got, wantDiff)
		}
	}
}

// recordTwin follows the words of the package's documentation.
func recordTwin(k merkle.Key, tag byte, parts ...[]byte) [32]byte {
	b := append(append(k[:len(k):len(k)], tag), make([]byte, 31)...)
	return sha256.Sum256(append(b, bytes.Join(parts, nil)...))
}

func TestRecordIsTheHashThatTheDocumentationNames(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, size := range []int{0, 1, 55, 56, 1900, 1976, 1977, 5000, 100_000} {
		key, value := make([]byte, 1+rng.IntN(100)), make([]byte, size)
		for i := range value {
			value[i] = byte(rng.Uint32())
		}
		got := testKey.Record(key, value)
		if want := recordTwin(testKey, 0, binary.BigEndian.AppendUint64(nil, uint64(len(key))), key, value); got != want {
			t.Errorf("value of %d bytes: got %x, want %x", size, got, want)
		}
	}
}

func TestRecordsThatOnlyMoveBytesBetweenKeyAndValueDiffer(t *testing.T) {
	if testKey.Record([]byte("ab"), []byte("c")) == testKey.Record([]byte("a"), []byte("bc")) {
		t.Error("(ab, c) and (a, bc) have one digest")
	}
	other := testKey
	other[31] ^= 1
	if testKey.Record([]byte("a"), nil) == other.Record([]byte("a"), nil) {
		t.Error("two keys give one digest")
	}
}

func TestLevelCountsTrailingZeroBitsOfAKeyedHash(t *testing.T) {
	var have [merkle.MaxLevel + 1]int
	const n = 200_000
	for i := range n {
		key := binary.BigEndian.AppendUint32([]byte("key"), uint32(i))
		sum := recordTwin(testKey, 1, key)
		zeros := new(big.Int).SetBytes(sum[24:]).TrailingZeroBits()
		want := 0
		for bits := uint(5); zeros >= bits; bits += 4 {
			want++
		}
		got := testKey.Level(key)
		if got != want {
			t.Fatalf("level of %q: got %d, want %d", key, got, want)
		}
		have[got]++
	}
	if least := n / 32 * 9 / 10; n-have[0] < least {
		t.Errorf("boundaries among %d keys: got %d, want about one in 32", n, n-have[0])
	}
	long := make([]byte, 16<<10)
	for range 200 { // past what is hashed on the stack
		long[0]++
		sum := recordTwin(testKey, 1, long)
		if zero := sum[31]&31 == 0; zero != (testKey.Level(long) > 0) {
			t.Fatalf("a long key starts a leaf: got %v, want %v", !zero, zero)
		}
	}
}

func TestTotalsAreIndifferentToOrderAndRemoveUndoesPut(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	var records []merkle.Digest
	var want merkle.Total
	for range 300 {
		d := randomDigest(rng)
		records = append(records, d)
		want.Replace(nil, &d)
	}
	for range 20 {
		rng.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
		var got, left, right merkle.Total
		for i := range records {
			other := randomDigest(rng)
			got.Replace(nil, &other)
			got.Replace(&other, &records[i])
			half := &left
			if i%3 == 0 {
				half = &right
			}
			half.Replace(nil, &records[i])
		}
		if got != want {
			t.Fatalf("total after overwriting each: got %v, want %v", got, want)
		}
		whole := left
		whole.Add(right)
		if whole != want {
			t.Fatalf("sum of two parts: got %v, want %v", whole, want)
		}
		whole.Sub(left)
		if whole != right {
			t.Fatalf("the whole without a part: got %v, want %v", whole, right)
		}
		for i := range records {
			got.Replace(&records[i], nil)
		}
		if got != (merkle.Total{}) {
			t.Fatalf("total after removing all: got %v, want nothing", got)
		}
	}
}

func TestRootIsIndifferentToOrderAndToKeyspacesWithoutRecords(t *testing.T) {
	a := merkle.Part{ID: [16]byte{1}, Total: merkle.Total{Count: 2, Sum: merkle.Digest{3}}}
	b := merkle.Part{ID: [16]byte{2}, Total: merkle.Total{Count: 1, Sum: merkle.Digest{4}}}
	empty := merkle.Part{ID: [16]byte{9}, Total: merkle.Total{Sum: merkle.Digest{}}}
	want := merkle.Root([]merkle.Part{a, b})
	for _, parts := range [][]merkle.Part{{b, a}, {empty, b, a}, {a, b, empty}} {
		if got := merkle.Root(parts); got != want {
			t.Errorf("root of %v: got %x, want %x", parts, got, want)
		}
	}
	for _, parts := range [][]merkle.Part{nil, {a}, {a, a}, {{ID: b.ID, Total: a.Total}, {ID: a.ID, Total: b.Total}}} {
		if got := merkle.Root(parts); got == want {
			t.Errorf("root of %v is that of other content", parts)
		}
	}
}

// TestDigestsStayWhatTheyWere pins the format: other values would make every cluster differ from every other.
func TestDigestsStayWhatTheyWere(t *testing.T) {
	key := merkle.Key{0: 1, 31: 2}
	record := key.Record([]byte("secret/a"), []byte("value"))
	root := merkle.Root([]merkle.Part{{ID: [16]byte{15: 1}, Total: merkle.Total{Count: 1, Sum: record}}})
	none := merkle.Root(nil)
	for _, c := range []struct{ what, got, want string }{
		{"record", hex.EncodeToString(record[:]), "3f18e892abb4d4046c0c4973847844a34b20900c8e531d60c6eaf3d662504d8f"},
		{"root", hex.EncodeToString(root[:]), "63260c082c0459032acb24fbb40e3011126f2da9"},
		{"root of nothing", hex.EncodeToString(none[:]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %s, want %s", c.what, c.got, c.want)
		}
	}
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	key, value := []byte("secret/data/some/path"), make([]byte, 1024)
	l := merkle.NewLeaves()
	for i := range 2000 {
		l.Split(string(binary.BigEndian.AppendUint32([]byte("k"), uint32(i))), 1, merkle.Total{})
	}
	var total merkle.Total
	d := testKey.Record(key, value)
	at := []byte("k\x00\x00\x01\x05x")
	for what, fn := range map[string]func(){
		"Record":         func() { d = testKey.Record(key, value) },
		"Level":          func() { testKey.Level(key) },
		"Total.Replace":  func() { total.Replace(nil, &d) },
		"Leaves.Replace": func() { l.Replace(at, nil, &d) },
		"Leaves.Find":    func() { l.Find(at) },
	} {
		if n := testing.AllocsPerRun(100, fn); n != 0 {
			t.Errorf("%s: got %v allocations, want none", what, n)
		}
	}
}

func BenchmarkRecord1KiB(b *testing.B) {
	key, value := []byte("secret/data/some/path"), make([]byte, 1024)
	b.ReportAllocs()
	b.SetBytes(int64(len(value)))
	for b.Loop() {
		testKey.Record(key, value)
	}
}

func BenchmarkTotalReplace(b *testing.B) {
	var t merkle.Total
	x, y := testKey.Record([]byte("a"), nil), testKey.Record([]byte("b"), nil)
	b.ReportAllocs()
	for b.Loop() {
		t.Replace(&x, &y)
	}
}
