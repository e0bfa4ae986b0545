package seal

import "errors"

// ErrOtherRoot says that a seal file was made under another root key: it is another cluster's.
var ErrOtherRoot = errors.New("it is sealed under another root key than this cluster's")

// OpenCopy opens an older copy of this seal's file, or one of another cluster of its sets: both have the root key that is open here.
func (o *Opened) OpenCopy(r *Record) (*Keyring, error) {
	b, err := o.root.unlock(r.Keyring, keyringWords)
	if err != nil {
		return nil, ErrOtherRoot
	}
	terms, err := decodeTerms(b)
	if err != nil {
		return nil, err
	}
	return newKeyring(terms...)
}

// Fork returns the same seal for another store that this node makes: the keys and shares that are in force now, in no file until Save.
func (o *Opened) Fork() (*Opened, error) {
	r := o.Record()
	keys, err := newKeyring(o.keyring.Terms()...)
	if err != nil {
		return nil, err
	}
	return &Opened{keyring: keys, root: o.root, record: r}, nil
}
