package seal

import (
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
)

// Key is 256 bits that seal other keys.
type Key [keySize]byte

// NewKey mints a key.
func NewKey() (k Key) {
	_, _ = rand.Read(k[:]) // never fails
	return k
}

// errWrongKey is the one answer to a key that does not open a box; callers say what to do.
var errWrongKey = errors.New("the key does not open it")

func (k *Key) aead() cipher.AEAD {
	a, err := newGCM(k[:])
	if err != nil {
		panic("internal error: " + err.Error()) // the size is a constant: it cannot fail
	}
	return a
}

// lock seals a few bytes: a fresh random nonce, then the ciphertext. Keys sealed so are few, so nonces do not meet.
func (k *Key) lock(plain []byte, what string) []byte {
	out := make([]byte, nonceSize, nonceSize+len(plain)+tagSize)
	_, _ = rand.Read(out) // never fails
	return k.aead().Seal(out, out, plain, []byte(what))
}

// unlock opens what lock sealed under the same words.
func (k *Key) unlock(box []byte, what string) ([]byte, error) {
	if len(box) < nonceSize+tagSize {
		return nil, errWrongKey
	}
	plain, err := k.aead().Open(nil, box[:nonceSize], box[nonceSize:], []byte(what))
	if err != nil {
		return nil, errWrongKey
	}
	return plain, nil
}

func keyOf(b []byte) (k Key, err error) {
	if len(b) != keySize {
		return k, fmt.Errorf("a key of %d bytes, %d are needed", len(b), keySize)
	}
	return Key(b), nil
}
