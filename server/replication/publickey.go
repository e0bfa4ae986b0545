package replication

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/storage"
	"github.com/lockstepdb/lockstep/token"
)

// A secondary that cannot reach its primary's API listener makes a key pair first and shows its public half; the primary certifies that key and
// encrypts the answer of the activation to it. The token is then the answer, and only the cluster port is needed.

const (
	keyTokenPrefix = "lkt1."
	keyTokenInfo   = "lockstep activation by public key/1"
	maxKeyToken    = 256 << 10
	maxPublicKey   = 1 << 10
)

// pendingKey is the key of generate-public-key until it is used (node scope).
type pendingKey struct {
	Key    string `json:"key"`
	Public string `json:"public"`
}

// GeneratePublicKey returns the public half of this cluster's next secondary key, base64. Repeated it returns the same until the key was used.
func (n *Node) GeneratePublicKey(k Kind) (string, error) {
	n.admin.Lock()
	defer n.admin.Unlock()
	if p, err := n.pendingKey(k); err != nil || p != nil {
		return p.public(), err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("making a key pair: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", fmt.Errorf("encoding a public key: %w", err)
	}
	p := &pendingKey{Key: string(keyPEM), Public: base64.StdEncoding.EncodeToString(der)}
	if err := n.engine.NodeSet(map[string][]byte{notePublicKey(k): mustJSON(p)}); err != nil {
		return "", fmt.Errorf("storing the new key pair: %w", err)
	}
	return p.Public, nil
}

func (p *pendingKey) public() string {
	if p == nil {
		return ""
	}
	return p.Public
}

func (n *Node) pendingKey(k Kind) (*pendingKey, error) {
	b := n.engine.NodeGet(notePublicKey(k))
	if b == nil {
		return nil, nil
	}
	var p pendingKey
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, errors.New("the stored key pair of generate-public-key does not decode")
	}
	return &p, nil
}

// parsePublicKey reads secondary_public_key.
func parsePublicKey(text string) (*ecdsa.PublicKey, *ecdh.PublicKey, error) {
	if len(text) > maxPublicKey {
		return nil, nil, fmt.Errorf("longer than %d bytes", maxPublicKey)
	}
	der, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil, nil, errors.New("not base64")
	}
	any, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, nil, errors.New("not a public key")
	}
	pub, ok := any.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, nil, errors.New("not a P-256 key")
	}
	dh, err := pub.ECDH()
	if err != nil {
		return nil, nil, errors.New("not a point of its curve")
	}
	return pub, dh, nil
}

// SecondaryTokenFor registers an id and answers its activation at once, encrypted to the public key that the secondary generated. The primary lets the
// secondary in if it comes before ttl has passed.
func (n *Node) SecondaryTokenFor(ctx context.Context, k Kind, id string, ttl time.Duration, publicKey string) (string, error) {
	n.admin.Lock()
	defer n.admin.Unlock()
	set, err := n.primarySet(k)
	if err != nil {
		return "", err
	}
	if ttl, err = checkEnrolment(id, ttl); err != nil {
		return "", err
	}
	pub, dh, err := parsePublicKey(publicKey)
	if err != nil {
		return "", refuse("secondary_public_key is %v: give what secondary/generate-public-key answered on the future secondary", err)
	}
	if len(n.clusterAddrs(k)) == 0 {
		return "", refuse("this cluster has no cluster_addr to tell: set it in the configuration, or give primary_cluster_addr to primary/enable")
	}
	claims, _, err := n.mint(k, set, id, ttl)
	if err != nil {
		return "", err
	}
	ca, err := n.authority(k, set)
	if err != nil {
		return "", err
	}
	now := n.now()
	der, err := ca.signSecondary(pub, peer{ID: id, Kind: k, Set: set.Set, JTI: claims.ID}, now)
	if err != nil {
		return "", err
	}
	certificate := encodeCertificate(der)
	if err := n.issue(ctx, k, set, claims); err != nil {
		return "", err
	}
	if err := n.awaitKey(ctx, k, claims, now.Add(ca.secondaryLife())); err != nil {
		return "", err
	}
	keys, err := n.keysFor(pub, claims)
	if err != nil {
		return "", err
	}
	answer := n.welcome(k, set, claims, certificate)
	if keys != nil {
		answer["keys"] = base64.StdEncoding.EncodeToString(keys)
	}
	text, err := sealKeyToken(dh, mustJSON(map[string]any{"jti": claims.ID, "ca_hash": claims.CAHash[:], "welcome": answer}))
	if err != nil {
		return "", err
	}
	n.log.Info("activation token issued for a public key", "set", string(k), "secondary", id, "ttl", ttl.String())
	return text, nil
}

// awaitKey marks a secondary as one that may come for the first time until its token's time is over, with a certificate that is good until another time.
func (n *Node) awaitKey(ctx context.Context, k Kind, c token.Claims, until time.Time) error {
	_, err := n.changeSecondary(ctx, k, c.Secondary, c.ID, func(r *secondaryRecord) { r.KeyUntil, r.CertificateUntil = c.Expires.Unix(), until.Unix() })
	return err
}

// changeSecondary changes the record of an enrolment in one transaction; it reports whether there was one.
func (n *Node) changeSecondary(ctx context.Context, k Kind, id, jti string, change func(*secondaryRecord)) (found bool, err error) {
	key := recordSecondary(k, id)
	_, err = n.engine.Do(ctx, &engine.Tx{
		Reads: []engine.Key{{Keyspace: storage.SystemLocal, Key: key}},
		Exec: func(r engine.Reader) ([]engine.Write, error) {
			rec, err := getSecondary(r, key)
			if err != nil || rec == nil || rec.JTI != jti || rec.State == secondaryRevoked {
				return nil, err
			}
			found = true
			change(rec)
			return []engine.Write{put(string(key), mustJSON(rec))}, nil
		},
	})
	if err != nil {
		return found, fmt.Errorf("changing the record of secondary %q: %w", id, err)
	}
	return found, nil
}

// keyCame makes a secondary that comes by its certificate for the first time an active one.
func (n *Node) keyCame(ctx context.Context, p peer) error {
	rec, err := n.readSecondary(p.Kind, p.ID)
	if err != nil || rec == nil || rec.KeyUntil == 0 || rec.JTI != p.JTI {
		return err
	}
	_, err = n.changeSecondary(ctx, p.Kind, p.ID, p.JTI, func(r *secondaryRecord) { r.State, r.KeyUntil, r.Changed = secondaryActive, 0, n.now().Unix() })
	return err
}

func isKeyToken(text string) bool { return strings.HasPrefix(text, keyTokenPrefix) }

// sealKeyToken encrypts to a public key: an ephemeral key agrees with it on a secret that seals the text once.
func sealKeyToken(to *ecdh.PublicKey, text []byte) (string, error) {
	one, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return "", fmt.Errorf("making an ephemeral key: %w", err)
	}
	aead, nonce, err := keyTokenCipher(one, to, one.PublicKey(), to)
	if err != nil {
		return "", err
	}
	public := one.PublicKey().Bytes()
	return keyTokenPrefix + base64.RawURLEncoding.EncodeToString(append(public, aead.Seal(nil, nonce, text, public)...)), nil
}

func keyTokenCipher(mine *ecdh.PrivateKey, theirs, ephemeral, recipient *ecdh.PublicKey) (cipher.AEAD, []byte, error) {
	secret, err := mine.ECDH(theirs)
	if err != nil {
		return nil, nil, errors.New("the keys do not agree")
	}
	okm, err := hkdf.Key(sha256.New, secret, append(ephemeral.Bytes(), recipient.Bytes()...), keyTokenInfo, 32+12)
	if err != nil {
		return nil, nil, fmt.Errorf("deriving a key: %w", err)
	}
	block, err := aes.NewCipher(okm[:32])
	if err != nil {
		return nil, nil, fmt.Errorf("deriving a key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	return aead, okm[32:], err
}

// unsealKeyToken reads what sealKeyToken wrote. Its errors never quote the token.
func unsealKeyToken(key *ecdh.PrivateKey, text string) ([]byte, error) {
	if len(text) > maxKeyToken {
		return nil, fmt.Errorf("longer than %d bytes", maxKeyToken)
	}
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(text, keyTokenPrefix))
	const size = 65 // of an uncompressed point
	if err != nil || len(b) < size {
		return nil, errors.New("not a token")
	}
	public, err := ecdh.P256().NewPublicKey(b[:size])
	if err != nil {
		return nil, errors.New("not a token")
	}
	aead, nonce, err := keyTokenCipher(key, public, public, key.PublicKey())
	if err != nil {
		return nil, err
	}
	out, err := aead.Open(nil, nonce, b[size:], b[:size])
	if err != nil {
		return nil, errors.New("not made for the key that this cluster generated last")
	}
	return out, nil
}

// openKeyToken reads an activation that was made for this cluster's public key.
func (n *Node) openKeyToken(k Kind, text string) (*welcome, token.Claims, []byte, error) {
	var c token.Claims
	p, err := n.pendingKey(k)
	if err != nil {
		return nil, c, nil, err
	}
	if p == nil {
		return nil, c, nil, refuse("the token was made for a public key, and this cluster has generated none: call %s/secondary/generate-public-key, and ask the primary for a token for it", k)
	}
	signer, err := parseKey([]byte(p.Key))
	if err != nil {
		return nil, c, nil, fmt.Errorf("the stored key pair of generate-public-key: %w", err)
	}
	own, ok := signer.(*ecdsa.PrivateKey)
	if !ok {
		return nil, c, nil, errors.New("the stored key pair of generate-public-key is of another kind")
	}
	dh, err := own.ECDH()
	if err != nil {
		return nil, c, nil, fmt.Errorf("the stored key pair of generate-public-key: %w", err)
	}
	b, err := unsealKeyToken(dh, text)
	if err != nil {
		return nil, c, nil, refuse("token: %v: ask the primary for one with the key that %s/secondary/generate-public-key answers", err, k)
	}
	var in struct {
		JTI     string  `json:"jti"`
		CAHash  []byte  `json:"ca_hash"`
		Welcome welcome `json:"welcome"`
	}
	if err := json.Unmarshal(b, &in); err != nil || len(in.CAHash) != 32 || in.JTI == "" {
		return nil, c, nil, refuse("token: its content does not decode: ask the primary for another")
	}
	w := &in.Welcome
	c = token.Claims{ID: in.JTI, Set: w.Set, Secondary: w.Secondary, Kind: string(w.Kind), CAHash: [32]byte(in.CAHash)}
	if w.Kind != k {
		return nil, c, nil, refuse("the token is for a %s secondary", w.Kind)
	}
	if err := w.check(k, c, []byte(p.Key), n.now()); err != nil {
		return nil, c, nil, refuse("token: %v: ask the primary for another", err)
	}
	if err := n.importKeys(w, c, []byte(p.Key)); err != nil {
		return nil, c, nil, refuse("token: %v: ask the primary for another", err)
	}
	return w, c, []byte(p.Key), nil
}
