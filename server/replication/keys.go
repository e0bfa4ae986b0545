package replication

import (
	"crypto/ecdsa"
	"crypto/hpke"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/lockstepdb/lockstep/token"
)

// Seal is a node's keys as far as enrolment needs them. A secondary's store is sealed with its primary's keys, so that the
// primary's shares unseal it.
type Seal interface {
	// Export returns what a new secondary is given: secret, for its eyes only.
	Export() ([]byte, error)
	// Import keeps a primary's Export for the store that the next Switch makes.
	Import(exported []byte) error
}

// keysFor encrypts this cluster's keys to the key of an enrolment; nil when stores here are not sealed.
func (n *Node) keysFor(enrolment any, c token.Claims) ([]byte, error) {
	if n.cfg.Seal == nil {
		return nil, nil
	}
	public, ok := enrolment.(*ecdsa.PublicKey)
	if !ok {
		return nil, refuse("the certificate request's key is not of ECDSA; the token was not used")
	}
	key, err := public.ECDH()
	if err != nil {
		return nil, refuse("the certificate request's key is of no known curve; the token was not used")
	}
	to, err := hpke.NewDHKEMPublicKey(key)
	if err != nil {
		return nil, refuse("nothing can be encrypted to the certificate request's key; the token was not used")
	}
	exported, err := n.cfg.Seal.Export()
	if err != nil {
		return nil, err
	}
	sealed, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), keysInfo(c), exported)
	if err != nil {
		return nil, fmt.Errorf("encrypting the keys for secondary %q: %w", c.Secondary, err)
	}
	return sealed, nil
}

// keysInfo binds the encrypted keys to one activation.
func keysInfo(c token.Claims) []byte {
	return fmt.Appendf(nil, "lockstep activation 1 %s %s %s", c.Set, c.Secondary, c.ID)
}

// importKeys decrypts what keysFor made, and keeps it for the switch.
func (n *Node) importKeys(w *welcome, c token.Claims, keyPEM []byte) error {
	if n.cfg.Seal == nil {
		return nil
	}
	if w.Keys == "" {
		return errors.New("it holds no keys: the primary's store is not sealed; upgrade the primary")
	}
	sealed, err := base64.StdEncoding.DecodeString(w.Keys)
	if err != nil {
		return errors.New("its keys are not base64")
	}
	signer, err := parseKey(keyPEM)
	if err != nil {
		return err
	}
	private, ok := signer.(*ecdsa.PrivateKey)
	if !ok {
		return errors.New("the key of this enrolment is not of ECDSA")
	}
	own, err := private.ECDH()
	if err != nil {
		return errors.New("the key of this enrolment is of no known curve")
	}
	key, err := hpke.NewDHKEMPrivateKey(own)
	if err != nil {
		return err
	}
	exported, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.AES256GCM(), keysInfo(c), sealed)
	if err != nil {
		return errors.New("its keys cannot be decrypted: they are for another activation")
	}
	return n.cfg.Seal.Import(exported)
}
