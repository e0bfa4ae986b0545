package seal

import (
	"crypto/rand"
	"errors"
	"fmt"
)

// maxShares is how many x coordinates the field leaves.
const maxShares = 255

// Split makes shares of a secret, of which any threshold give it back (Combine) and fewer tell nothing. A share is the
// secret's length and one byte more: its values, then its x coordinate.
func Split(secret []byte, shares, threshold int) ([][]byte, error) {
	switch {
	case len(secret) == 0:
		return nil, errors.New("split: there is no secret")
	case threshold < 2 || shares < threshold || shares > maxShares:
		return nil, fmt.Errorf("split: %d of %d shares: 2 to %d are possible, and no more than there are shares", threshold, shares, maxShares)
	}
	out := make([][]byte, shares)
	for i := range out {
		out[i] = make([]byte, len(secret)+1)
		out[i][len(secret)] = byte(i + 1)
	}
	polynomial := make([]byte, threshold)
	for at, b := range secret {
		_, _ = rand.Read(polynomial) // never fails
		polynomial[0] = b
		for i := range out {
			out[i][at] = evaluate(polynomial, byte(i+1))
		}
	}
	return out, nil
}

// Combine gives back what Split took apart. With wrong or too few shares it returns other bytes: only who can check
// the secret can tell.
func Combine(shares [][]byte) ([]byte, error) {
	if len(shares) < 2 {
		return nil, fmt.Errorf("combine: %d shares, at least 2 are needed", len(shares))
	}
	size := len(shares[0])
	if size < 2 {
		return nil, fmt.Errorf("combine: a share of %d bytes", size)
	}
	seen := map[byte]bool{}
	x := make([]byte, len(shares))
	for i, s := range shares {
		if len(s) != size {
			return nil, errors.New("combine: the shares are not of one length")
		}
		x[i] = s[size-1]
		if x[i] == 0 || seen[x[i]] {
			return nil, fmt.Errorf("combine: two shares have the number %d, or it is none", x[i])
		}
		seen[x[i]] = true
	}
	secret := make([]byte, size-1)
	for i, s := range shares {
		factor := atZero(x, i)
		for at := range secret {
			secret[at] ^= multiply(factor, s[at])
		}
	}
	return secret, nil
}

// atZero is the value at 0 of the Lagrange polynomial that is 1 at x[i] and 0 at all others.
func atZero(x []byte, i int) byte {
	numerator, denominator := byte(1), byte(1)
	for j := range x {
		if j != i {
			numerator = multiply(numerator, x[j])
			denominator = multiply(denominator, x[j]^x[i])
		}
	}
	return multiply(numerator, inverse(denominator))
}

func evaluate(polynomial []byte, x byte) byte {
	y := byte(0)
	for i := len(polynomial) - 1; i >= 0; i-- {
		y = multiply(y, x) ^ polynomial[i]
	}
	return y
}

// multiply multiplies in GF(2^8) modulo x^8+x^4+x^3+x+1, the field of AES, without tables and branches: its time
// tells nothing of the factors.
func multiply(a, b byte) byte {
	var product byte
	for range 8 {
		product ^= -(b & 1) & a
		a = a<<1 ^ -(a>>7)&0x1b
		b >>= 1
	}
	return product
}

// inverse is a^254, which is 1/a, and 0 for 0.
func inverse(a byte) byte {
	b := multiply(a, a) // a^2
	product := b
	for range 6 { // a^4 … a^128
		b = multiply(b, b)
		product = multiply(product, b)
	}
	return product
}
