package seal

import (
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	keySize   = 32
	idSize    = 8
	saltSize  = 16
	valueVers = 1
	headSize  = 1 + idSize + saltSize // what the values of one derived key share
	nonceSize = 12
	tagSize   = 16

	// Overhead is how much longer a sealed value is than a plain one.
	Overhead = headSize + 8 + tagSize

	// valuesPerKey is how many values are sealed with one derived key.
	valuesPerKey = 1 << 30
	// maxDerived bounds how many derived keys are kept ready for opening.
	maxDerived = 1024
	// maxTerms bounds a keyring.
	maxTerms = 1 << 14
)

// Errors of opening a value.
var (
	ErrTampered = errors.New("it does not open at its place: it was changed, or belongs elsewhere")
	ErrNoKey    = error(keyMissing("it is sealed with a key that is not in this keyring"))
	ErrFormat   = errors.New("it is no sealed value")
)

// keyMissing is an error that says of itself that no data are damaged.
type keyMissing string

func (e keyMissing) Error() string { return string(e) }

// KeyMissing tells those who hold data from damage.
func (e keyMissing) KeyMissing() bool { return true }

// KeyID names a term's key.
type KeyID [idSize]byte

func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// Term is one key of a keyring.
type Term struct {
	ID      KeyID
	Number  int // orders terms; two clusters may have minted the same one apart
	Created time.Time
	key     [keySize]byte
}

// newer orders terms: of two with one number the later one is the newer, then the one with the greater id.
func newer(a, b *Term) int {
	return cmp.Or(cmp.Compare(a.Number, b.Number), a.Created.Compare(b.Created), slices.Compare(a.ID[:], b.ID[:]))
}

// Keyring seals values with its newest term and opens those of all. It is safe for concurrent use.
type Keyring struct {
	mu      sync.RWMutex
	terms   map[KeyID]*Term
	derived map[[headSize]byte]cipher.AEAD // by the head of their values

	renewing sync.Mutex
	now      atomic.Pointer[session]
}

// session is one derived key and the count of its values.
type session struct {
	term *Term
	head [headSize]byte
	aead cipher.AEAD
	used atomic.Uint64
}

func newTerm(number int, now time.Time) *Term {
	t := &Term{Number: number, Created: now.UTC().Truncate(time.Second)}
	_, _ = rand.Read(t.ID[:]) // never fails
	_, _ = rand.Read(t.key[:])
	return t
}

func newKeyring(terms ...*Term) (*Keyring, error) {
	k := &Keyring{terms: map[KeyID]*Term{}, derived: map[[headSize]byte]cipher.AEAD{}}
	return k, k.add(terms)
}

// add takes further terms in, and seals with the newest from now on.
func (k *Keyring) add(terms []*Term) error {
	k.mu.Lock()
	for _, t := range terms {
		if k.terms[t.ID] == nil {
			k.terms[t.ID] = t
		}
	}
	k.mu.Unlock()
	newest := k.Newest()
	if newest == nil {
		return errors.New("a keyring without keys")
	}
	if s := k.now.Load(); s != nil && s.term.ID == newest.ID {
		return nil
	}
	return k.renew(k.now.Load())
}

// Newest returns the term that seals.
func (k *Keyring) Newest() *Term {
	if all := k.Terms(); len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

// Terms returns all terms, the newest last.
func (k *Keyring) Terms() []*Term {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return slices.SortedFunc(maps.Values(k.terms), newer)
}

// Sealed tells how many values the newest term has sealed since this keyring was opened or that term began.
func (k *Keyring) Sealed() uint64 { return min(k.now.Load().used.Load(), valuesPerKey) }

// renew puts a fresh derived key of the newest term in the place of old.
func (k *Keyring) renew(old *session) error {
	newest := k.Newest()
	k.renewing.Lock()
	defer k.renewing.Unlock()
	if k.now.Load() != old {
		return nil // another has done it
	}
	s := &session{term: newest}
	s.head[0] = valueVers
	copy(s.head[1:], newest.ID[:])
	_, _ = rand.Read(s.head[1+idSize:]) // never fails
	var err error
	if s.aead, err = derive(newest, s.head[1+idSize:]); err != nil {
		return err
	}
	k.keep(s.head, s.aead)
	k.now.Store(s)
	return nil
}

func derive(t *Term, salt []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, t.key[:], salt, "lockstep sealed values 1", keySize)
	if err != nil {
		return nil, err
	}
	return newGCM(key)
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (k *Keyring) keep(head [headSize]byte, a cipher.AEAD) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.derived) >= maxDerived {
		clear(k.derived)
	}
	k.derived[head] = a
}

// Seal appends plain to dst, sealed for its place.
func (k *Keyring) Seal(dst, place, plain []byte) []byte {
	s := k.now.Load()
	n := s.used.Add(1)
	for n > valuesPerKey {
		if err := k.renew(s); err != nil {
			panic("internal error: deriving a key failed: " + err.Error()) // the sizes are constants: it cannot
		}
		s = k.now.Load()
		n = s.used.Add(1)
	}
	dst = slices.Grow(dst, Overhead+len(plain))
	dst = append(dst, s.head[:]...)
	dst = binary.BigEndian.AppendUint64(dst, n)
	return s.aead.Seal(dst, dst[len(dst)-nonceSize:], plain, place)
}

// Open appends to dst what was sealed for a place. A value that was changed or belongs to another place is ErrTampered.
func (k *Keyring) Open(dst, place, sealed []byte) ([]byte, error) {
	switch {
	case len(sealed) > 0 && sealed[0] > valueVers:
		return nil, fmt.Errorf("it is sealed in format %d, newer than this program's, %d: use the release that wrote it, or a newer one", sealed[0], valueVers)
	case len(sealed) < Overhead || sealed[0] != valueVers:
		return nil, ErrFormat
	}
	head := [headSize]byte(sealed[:headSize])
	k.mu.RLock()
	aead := k.derived[head]
	term := k.terms[KeyID(head[1:1+idSize])]
	k.mu.RUnlock()
	if term == nil {
		return nil, fmt.Errorf("%w (%s)", ErrNoKey, KeyID(head[1:1+idSize]))
	}
	known := aead != nil
	if !known {
		var err error
		if aead, err = derive(term, head[1+idSize:]); err != nil {
			return nil, err
		}
	}
	at := headSize + 8
	out, err := aead.Open(dst, sealed[at-nonceSize:at], sealed[at:], place)
	if err != nil {
		return nil, ErrTampered
	}
	if !known { // only what opened: a damaged file must not fill the memory with keys
		k.keep(head, aead)
	}
	return out, nil
}

// Overhead is how much longer a sealed value is.
func (k *Keyring) Overhead() int { return Overhead }
