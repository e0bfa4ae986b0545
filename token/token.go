package token

import (
	"crypto/ed25519"
	"time"
)

// Claims are what an activation token says. It holds no secret but the right to enrol once.
type Claims struct {
	ID                           string   // jti, 128 random bits in hex
	Set                          string   // issuer: id of the replication set
	Secondary                    string   // subject: id that the operator gave the secondary
	Kind                         string   // audience: "dr" or "performance"
	Addr                         string   // API address of the primary; may be empty
	CAHash                       [32]byte // SHA-256 of the set's CA certificate (DER)
	Epoch                        string   // fork of the epoch that signed it
	IssuedAt, NotBefore, Expires time.Time
}

// MaxSize is the longest token that Parse and Verify look at.
const MaxSize = 4 << 10

// Mint signs claims (EdDSA, type "wrapping").
func Mint(key ed25519.PrivateKey, c Claims) (Activation, error) { panic("token helper") }

// Activation is a minted token. It prints redacted; Reveal gives the text.
type Activation struct{ text string }

func (a Activation) String() string { return "[activation token]" }
func (a Activation) Reveal() string { return a.text }

// Verify accepts exactly what Mint made with the matching key for this set: algorithm, type, issuer, audience, times.
func Verify(text string, key ed25519.PublicKey, set, kind string, now time.Time) (Claims, error) {
	panic("token helper")
}

// Peek reads the claims without verifying anything: what a secondary needs before it can reach the primary.
func Peek(text string) (Claims, error) { panic("token helper") }
