package seal

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

func TestMultiplyAgreesWithFIPS197AndLongMultiplication(t *testing.T) {
	t.Parallel()
	for _, v := range [][3]byte{{0x57, 0x83, 0xc1}, {0x57, 0x13, 0xfe}, {0x57, 0x02, 0xae}, {0x57, 0x04, 0x47}, {0x57, 0x08, 0x8e}, {0x57, 0x10, 0x07}} {
		if got := multiply(v[0], v[1]); got != v[2] {
			t.Errorf("multiply(%#x, %#x) = %#x, want %#x (FIPS 197, section 4.2)", v[0], v[1], got, v[2])
		}
	}
	for a := range 256 {
		for b := range 256 {
			if got, want := multiply(byte(a), byte(b)), longMultiply(a, b); got != want {
				t.Fatalf("multiply(%#x, %#x) = %#x, want %#x", a, b, got, want)
			}
		}
		if a > 0 && multiply(byte(a), inverse(byte(a))) != 1 {
			t.Errorf("inverse(%#x) = %#x is none", a, inverse(byte(a)))
		}
	}
}

// longMultiply multiplies polynomials and then divides by the field's.
func longMultiply(a, b int) byte {
	p := 0
	for i := range 8 {
		if b>>i&1 == 1 {
			p ^= a << i
		}
	}
	for i := 15; i >= 8; i-- {
		if p>>i&1 == 1 {
			p ^= 0x11b << (i - 8)
		}
	}
	return byte(p)
}

func TestCombineReadsSharesOfAnotherProgram(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/shares.txt")
	if err != nil {
		t.Fatal(err)
	}
	var shares [][]byte
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		s, err := hex.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		shares = append(shares, s)
	}
	want := make([]byte, 32)
	for i := range want {
		want[i] = byte(i)
	}
	eachSubset(len(shares), func(subset []int) {
		got, err := Combine(pick(shares, subset))
		if len(subset) < 2 {
			return
		}
		if err != nil || bytes.Equal(got, want) != (len(subset) >= 3) {
			t.Errorf("shares %v of 5, threshold 3: got %x, %v", subset, got, err)
		}
	})
}

func TestEveryThresholdOfSharesCombinesAndNoneBelow(t *testing.T) {
	t.Parallel()
	for shares := 2; shares <= 6; shares++ {
		for threshold := 2; threshold <= shares; threshold++ {
			secret := NewKey()
			all, err := Split(secret[:], shares, threshold)
			if err != nil {
				t.Fatal(err)
			}
			eachSubset(shares, func(subset []int) {
				if len(subset) < 2 {
					return
				}
				some := pick(all, subset)
				rand.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
				got, err := Combine(some)
				if err != nil || bytes.Equal(got, secret[:]) != (len(subset) >= threshold) {
					t.Errorf("%d of %d shares, threshold %d: equal %v, error %v", len(subset), shares, threshold, bytes.Equal(got, secret[:]), err)
				}
			})
		}
	}
}

func TestSharesHaveVaultsForm(t *testing.T) {
	t.Parallel()
	secret := NewKey()
	all, err := Split(secret[:], 255, 255)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range all {
		if len(s) != 33 || s[32] != byte(i+1) {
			t.Fatalf("share %d has %d bytes and ends in %d, want 33 bytes with the x coordinate at the end", i+1, len(s), s[len(s)-1])
		}
	}
	if got, err := Combine(all); err != nil || !bytes.Equal(got, secret[:]) {
		t.Errorf("255 of 255 shares do not combine: %v", err)
	}
}

func TestSplitAndCombineRefuse(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]int{{1, 1}, {5, 1}, {2, 3}, {256, 2}} {
		if _, err := Split([]byte("x"), c[0], c[1]); err == nil {
			t.Errorf("Split into %d, threshold %d: no error", c[0], c[1])
		}
	}
	for what, shares := range map[string][][]byte{
		"no share":                 nil,
		"one share":                {{1, 1}},
		"one number twice":         {{1, 1}, {2, 1}},
		"number 0":                 {{1, 0}, {2, 1}},
		"shares of unequal length": {{1, 1}, {2, 2, 2}},
		"shares without a value":   {{1}, {2}},
	} {
		if _, err := Combine(shares); err == nil {
			t.Errorf("Combine with %s: no error", what)
		}
	}
}

func eachSubset(n int, fn func(subset []int)) {
	for bits := 1; bits < 1<<n; bits++ {
		var subset []int
		for i := range n {
			if bits>>i&1 == 1 {
				subset = append(subset, i)
			}
		}
		fn(subset)
	}
}

func pick(all [][]byte, subset []int) (out [][]byte) {
	for _, i := range subset {
		out = append(out, all[i])
	}
	return out
}

func FuzzParseShare(f *testing.F) {
	f.Add("00")
	f.Add(strings.Repeat("ab", 33))
	f.Add("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
	f.Fuzz(func(t *testing.T, text string) {
		share, err := ParseShare(text)
		if err != nil {
			return
		}
		if len(share) != 32 && len(share) != 33 {
			t.Fatalf("ParseShare(%q) = %d bytes", text, len(share))
		}
		again, err := ParseShare(hex.EncodeToString(share))
		if err != nil || !bytes.Equal(again, share) {
			t.Fatalf("hex of %x reads as %x, %v", share, again, err)
		}
		c := NewCeremony(2)
		if _, ok, err := c.Add(share); ok || err != nil {
			t.Fatalf("one share of two: %v, %v", ok, err)
		}
		if _, ok, err := c.Add(share); ok || err != ErrRepeated {
			t.Fatalf("the same share again: %v, %v", ok, err)
		}
	})
}
