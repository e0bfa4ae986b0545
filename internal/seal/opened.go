package seal

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Opened is a seal that was unsealed: the root key, the keyring, and the record they come from. It is safe for
// concurrent use. Its changes are in the file before anything uses them.
type Opened struct {
	keyring *Keyring
	root    Key

	mu     sync.Mutex // one change at a time; guards what is below
	dir    string     // empty: in no file yet
	record Record
}

// keyringText is a keyring as it is sealed under the root key, and as it travels to a secondary.
type keyringText struct {
	Format int        `json:"format"`
	Terms  []termText `json:"terms"`
}

type termText struct {
	ID      []byte    `json:"id"`
	Number  int       `json:"term"`
	Created time.Time `json:"created"`
	Key     []byte    `json:"key"`
}

const keyringWords = "lockstep keyring 1"

// rootWords bind a sealed root key to what opens it.
func rootWords(kind string, c Config) string {
	return fmt.Sprintf("lockstep root key 1 %s %d %d", kind, c.Shares, c.Threshold)
}

// Options are how a new seal is made.
type Options struct {
	Config
	Auto  *Auto // what opens it at starts; nil: shares alone
	Share *Key  // development only: the share key to take, instead of a fresh one
}

// New mints root key, keyring and shares. It is in no file until Save.
func New(o Options, now time.Time) (*Opened, [][]byte, error) {
	if err := o.Validate(); err != nil {
		return nil, nil, err
	}
	key := NewKey()
	if o.Share != nil {
		key = *o.Share
	}
	shares, err := split(key, o.Config)
	if err != nil {
		return nil, nil, err
	}
	k, err := newKeyring(newTerm(1, now))
	if err != nil {
		return nil, nil, err
	}
	op := &Opened{keyring: k, root: NewKey()}
	op.record = Record{
		Format: fileFormat, Type: Shamir, Shares: o.Shares, Threshold: o.Threshold,
		SealedRoot: key.lock(op.root[:], rootWords(Shamir, o.Config)),
		Keyring:    op.lockKeyring(k.Terms()),
	}
	if err := op.setAuto(o.Auto); err != nil {
		return nil, nil, err
	}
	return op, shares, op.record.validate()
}

func (o *Opened) setAuto(a *Auto) error {
	if a == nil {
		return nil
	}
	key, err := a.Key()
	if err != nil {
		return err
	}
	o.record.Type, o.record.Source = a.Type, a.source()
	o.record.AutoRoot = key.lock(o.root[:], rootWords(a.Type, Config{}))
	return nil
}

func (o *Opened) lockKeyring(terms []*Term) []byte {
	return o.root.lock(encodeTerms(terms), keyringWords)
}

func encodeTerms(terms []*Term) []byte {
	t := keyringText{Format: 1}
	for _, x := range terms {
		t.Terms = append(t.Terms, termText{ID: x.ID[:], Number: x.Number, Created: x.Created, Key: x.key[:]})
	}
	b, err := json.Marshal(t)
	if err != nil {
		panic("internal error: " + err.Error()) // our own type always marshals
	}
	return b
}

func decodeTerms(b []byte) ([]*Term, error) {
	var t keyringText
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, errors.New("the keyring is no JSON object")
	}
	if t.Format != 1 {
		return nil, fmt.Errorf("the keyring's format version is %d, this program reads 1: use a newer release", t.Format)
	}
	if len(t.Terms) == 0 || len(t.Terms) > maxTerms {
		return nil, fmt.Errorf("a keyring of %d terms", len(t.Terms))
	}
	out := make([]*Term, 0, len(t.Terms))
	for _, x := range t.Terms {
		if len(x.ID) != idSize || len(x.Key) != keySize || x.Number < 1 {
			return nil, errors.New("a term of the keyring is none")
		}
		out = append(out, &Term{ID: KeyID(x.ID), Number: x.Number, Created: x.Created, key: [keySize]byte(x.Key)})
	}
	return out, nil
}

// Unlock opens a seal with its share key. A wrong one is ErrWrongShares. dir is where later changes are written.
func (r *Record) Unlock(dir string, share Key) (*Opened, error) {
	root, err := r.openRoot(share)
	if err != nil {
		return nil, err
	}
	return r.open(dir, root)
}

// UnlockAuto opens a seal with its auto key.
func (r *Record) UnlockAuto(dir string, a *Auto) (*Opened, error) {
	if r.Type == Shamir {
		return nil, fmt.Errorf("the store in %s is sealed by shares and the configuration names a %s: remove the seal stanza and unseal it with shares", dir, a)
	}
	if r.Type != a.Type {
		return nil, fmt.Errorf("the store in %s is sealed with a key of type %q and the configuration names a %s: set the seal stanza that it was made with", dir, r.Type, a)
	}
	key, err := a.Key()
	if err != nil {
		return nil, err
	}
	b, err := key.unlock(r.AutoRoot, rootWords(r.Type, Config{}))
	if err != nil {
		return nil, fmt.Errorf("the key from %s does not open the seal of %s: give the key that it was made with; without that the recovery shares unseal it (sys/unseal)", a, dir)
	}
	root, err := keyOf(b)
	if err != nil {
		return nil, &Damaged{Path: dir, Why: "the root key in its seal file is none"}
	}
	return r.open(dir, root)
}

// openRoot gives the root key for a share key.
func (r *Record) openRoot(share Key) (Key, error) {
	b, err := share.unlock(r.SealedRoot, rootWords(Shamir, Config{r.Shares, r.Threshold}))
	if err != nil {
		return Key{}, ErrWrongShares
	}
	return keyOf(b)
}

func (r *Record) open(dir string, root Key) (*Opened, error) {
	b, err := root.unlock(r.Keyring, keyringWords)
	if err != nil {
		return nil, &Damaged{Path: dir, Why: "the keyring in its seal file was changed, or is another seal's"}
	}
	terms, err := decodeTerms(b)
	if err != nil {
		return nil, &Damaged{Path: dir, Why: err.Error()}
	}
	k, err := newKeyring(terms...)
	if err != nil {
		return nil, &Damaged{Path: dir, Why: err.Error()}
	}
	return &Opened{keyring: k, root: root, dir: dir, record: *r}, nil
}

// Keyring is what values are sealed with.
func (o *Opened) Keyring() *Keyring { return o.keyring }

// Record returns what the file holds now.
func (o *Opened) Record() Record {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.record
}

// Save writes the seal file of a directory; later changes go there too.
func (o *Opened) Save(dir string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.record.write(dir); err != nil {
		return err
	}
	o.dir = dir
	return nil
}

// MovedTo says that the directory of the file has another name now.
func (o *Opened) MovedTo(dir string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dir = dir
}

// changeLocked writes a changed record.
func (o *Opened) changeLocked(change func(r *Record)) error {
	next := o.record
	change(&next)
	if err := next.validate(); err != nil {
		return err
	}
	if o.dir != "" {
		if err := next.write(o.dir); err != nil {
			return err
		}
	}
	o.record = next
	return nil
}

// Verify tells whether a share key is this seal's.
func (o *Opened) Verify(share Key) error {
	r := o.Record()
	root, err := r.openRoot(share)
	if err != nil || subtle.ConstantTimeCompare(root[:], o.root[:]) != 1 {
		return ErrWrongShares
	}
	return nil
}

// Rotate adds a term, which seals what is written from now on.
func (o *Opened) Rotate(now time.Time) (*Term, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	terms := o.keyring.Terms()
	if len(terms) >= maxTerms {
		return nil, fmt.Errorf("the keyring has %d terms, and has room for no more", len(terms))
	}
	t := newTerm(terms[len(terms)-1].Number+1, now)
	if err := o.changeLocked(func(r *Record) { r.Keyring = o.lockKeyring(append(terms, t)) }); err != nil {
		return nil, err
	}
	return t, o.keyring.add([]*Term{t})
}

// Rekeyed are new shares that are not in force yet.
type Rekeyed struct {
	Config
	Shares [][]byte
	sealed []byte // the root key under the new share key
}

// Rekey makes new shares of a new share key. The root key stays, so nothing stored is sealed anew.
func (o *Opened) Rekey(c Config) (*Rekeyed, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	key := NewKey()
	shares, err := split(key, c)
	if err != nil {
		return nil, err
	}
	return &Rekeyed{Config: c, Shares: shares, sealed: key.lock(o.root[:], rootWords(Shamir, c))}, nil
}

// Check tells whether a share key is the one of the new shares.
func (n *Rekeyed) Check(share Key) error {
	r := Record{Shares: n.Config.Shares, Threshold: n.Threshold, SealedRoot: n.sealed}
	_, err := r.openRoot(share)
	return err
}

// Adopt puts new shares in force: from now on the old ones open nothing.
func (o *Opened) Adopt(n *Rekeyed) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changeLocked(func(r *Record) {
		r.Shares, r.Threshold, r.SealedRoot = n.Config.Shares, n.Threshold, n.sealed
	})
}

// Shared is what a cluster tells the others of its sets after a rotate or rekey. It is safe to store: everything in it is
// sealed under the root key or the share key.
type Shared struct {
	Format     int    `json:"format"`
	Shares     int    `json:"shares"`
	Threshold  int    `json:"threshold"`
	SealedRoot []byte `json:"sealed_root"`
	Keyring    []byte `json:"keyring"`
}

// Share returns what the others need to follow.
func (o *Opened) Share() []byte {
	r := o.Record()
	return mustJSON(Shared{fileFormat, r.Shares, r.Threshold, r.SealedRoot, r.Keyring})
}

// Follow takes over another cluster's keyring, as Share gave it, and a secondary its primary's shares as well: terms are
// added and never removed. changed is false when there was nothing new.
func (o *Opened) Follow(shared []byte, shares bool) (changed bool, err error) {
	s, terms, err := o.openShared(shared)
	if err != nil {
		return false, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	all, more := o.with(terms)
	rekeyed := shares && string(s.SealedRoot) != string(o.record.SealedRoot)
	if !more && !rekeyed {
		return false, nil
	}
	err = o.changeLocked(func(r *Record) {
		if rekeyed {
			r.Shares, r.Threshold, r.SealedRoot = s.Shares, s.Threshold, s.SealedRoot
		}
		switch {
		case more && len(all) == len(terms):
			r.Keyring = s.Keyring
		case more:
			r.Keyring = o.lockKeyring(all)
		}
	})
	if err != nil {
		return false, err
	}
	return true, o.keyring.add(terms)
}

func (o *Opened) openShared(b []byte) (*Shared, []*Term, error) {
	s := new(Shared)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, nil, errors.New("the primary's keyring is no JSON object")
	}
	if s.Format != fileFormat {
		return nil, nil, fmt.Errorf("the primary's keyring has format version %d, this program reads %d: upgrade this cluster first", s.Format, fileFormat)
	}
	if err := (Config{s.Shares, s.Threshold}).Validate(); err != nil {
		return nil, nil, err
	}
	text, err := o.root.unlock(s.Keyring, keyringWords)
	if err != nil {
		return nil, nil, errors.New("the primary's keyring is sealed under another root key than this cluster's: enrol this cluster again")
	}
	terms, err := decodeTerms(text)
	return s, terms, err
}

// with returns the terms of the keyring and further ones; more is false when there are none.
func (o *Opened) with(terms []*Term) (all []*Term, more bool) {
	all = o.keyring.Terms()
	known := map[KeyID]bool{}
	for _, t := range all {
		known[t.ID] = true
	}
	for _, t := range terms {
		if !known[t.ID] {
			all, more = append(all, t), true
		}
	}
	return all, more
}

// bundle is what a new secondary receives: secret, to be encrypted to its key.
type bundle struct {
	Format int    `json:"format"`
	Root   []byte `json:"root"`
	Shared []byte `json:"shared"`
}

// Export returns root key, keyring and sealed shares for a new secondary. It is secret.
func (o *Opened) Export() []byte { return mustJSON(bundle{fileFormat, o.root[:], o.Share()}) }

// Import makes the seal of a new secondary's store of its primary's Export: the primary's shares open it. An own auto key,
// when there is one, goes on opening it at starts. It is in no file until Save.
func Import(exported []byte, auto *Auto) (*Opened, error) {
	var b bundle
	if err := json.Unmarshal(exported, &b); err != nil {
		return nil, errors.New("the primary's keys are no JSON object")
	}
	if b.Format != fileFormat {
		return nil, fmt.Errorf("the primary's keys have format version %d, this program reads %d: upgrade this cluster first", b.Format, fileFormat)
	}
	root, err := keyOf(b.Root)
	if err != nil {
		return nil, err
	}
	o := &Opened{root: root}
	s, terms, err := o.openShared(b.Shared)
	if err != nil {
		return nil, err
	}
	if o.keyring, err = newKeyring(terms...); err != nil {
		return nil, err
	}
	o.record = Record{
		Format: fileFormat, Type: Shamir, Shares: s.Shares, Threshold: s.Threshold, SealedRoot: s.SealedRoot, Keyring: s.Keyring,
	}
	if err := o.setAuto(auto); err != nil {
		return nil, err
	}
	return o, o.record.validate()
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("internal error: " + err.Error()) // our own types always marshal
	}
	return b
}
