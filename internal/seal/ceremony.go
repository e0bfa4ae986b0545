package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
)

// ErrRepeated means that a share was given twice in one ceremony.
var ErrRepeated = errors.New("this key has already been provided during this ceremony: give another one")

// ErrWrongShares means that as many shares as are needed came together and do not make the key.
var ErrWrongShares = errors.New("the keys given do not open the seal: one of them at least is not of this seal; the progress is reset, begin again")

// Ceremony collects shares until there are enough. It is not safe for concurrent use.
type Ceremony struct {
	Nonce     string // names the attempt, so that operators contribute to one and the same
	Threshold int
	shares    [][]byte
}

// NewCeremony begins to collect.
func NewCeremony(threshold int) *Ceremony {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return &Ceremony{Nonce: h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], Threshold: threshold}
}

// Progress is how many shares were given.
func (c *Ceremony) Progress() int { return len(c.shares) }

// Add takes a share. With the last one it returns the share key and forgets all shares: right or wrong, the ceremony is
// over. ok is false while more are needed.
func (c *Ceremony) Add(share []byte) (key Key, ok bool, err error) {
	for _, have := range c.shares {
		if bytes.Equal(have, share) {
			return key, false, ErrRepeated
		}
	}
	c.shares = append(c.shares, bytes.Clone(share))
	if len(c.shares) < c.Threshold {
		return key, false, nil
	}
	defer c.Reset()
	key, err = shareKey(c.shares)
	return key, err == nil, err
}

// Reset forgets the shares given.
func (c *Ceremony) Reset() {
	for _, s := range c.shares {
		clear(s)
	}
	c.shares = nil
}

// shareKey puts shares together; one is the key itself.
func shareKey(shares [][]byte) (Key, error) {
	secret := shares[0]
	if len(shares) > 1 {
		var err error
		if secret, err = Combine(shares); err != nil {
			return Key{}, ErrWrongShares
		}
	}
	key, err := keyOf(secret)
	if err != nil {
		return Key{}, ErrWrongShares
	}
	return key, nil
}

// split makes the shares of a share key.
func split(key Key, c Config) ([][]byte, error) {
	if c.Shares == 1 {
		return [][]byte{bytes.Clone(key[:])}, nil
	}
	return Split(key[:], c.Shares, c.Threshold)
}
