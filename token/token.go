package token

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Errors that callers tell apart. None quotes the token.
var (
	ErrMalformed = errors.New("not an activation token")
	ErrInvalid   = errors.New("the activation token is not valid here") // forged, of another set or kind
	ErrExpired   = errors.New("the activation token has expired")
	ErrNotYet    = errors.New("the activation token is not valid yet: the clocks differ")
)

// MaxSize is the longest token, in bytes, that Peek and Verify look at.
const MaxSize = 4 << 10

// tokenType is the claim by which Vault's clients know what to do with a token.
const tokenType = "wrapping"

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

// payload is the JSON of Claims.
type payload struct {
	jwt.RegisteredClaims
	Type     string `json:"type"`
	Addr     string `json:"addr"`
	Accessor string `json:"accessor"`
	CA       string `json:"ca"`
	Epoch    string `json:"epoch,omitempty"`
}

// Mint signs claims (EdDSA, type "wrapping"). Times are cut to seconds. Claims that Verify would not accept are refused.
func Mint(key ed25519.PrivateKey, c Claims) (Activation, error) {
	if len(key) != ed25519.PrivateKeySize {
		return Activation{}, fmt.Errorf("minting an activation token: the key has %d bytes", len(key))
	}
	p := payload{
		RegisteredClaims: jwt.RegisteredClaims{
			ID: c.ID, Issuer: c.Set, Subject: c.Secondary, Audience: jwt.ClaimStrings{c.Kind},
			IssuedAt: jwt.NewNumericDate(c.IssuedAt), NotBefore: jwt.NewNumericDate(c.NotBefore), ExpiresAt: jwt.NewNumericDate(c.Expires),
		},
		Type: tokenType, Addr: c.Addr, CA: hex.EncodeToString(c.CAHash[:]), Epoch: c.Epoch,
	}
	if _, err := p.claims(); err != nil {
		return Activation{}, fmt.Errorf("minting an activation token: %w", err)
	}
	text, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, p).SignedString(key)
	if err != nil {
		return Activation{}, fmt.Errorf("minting an activation token: %w", err)
	}
	if len(text) > MaxSize {
		return Activation{}, fmt.Errorf("minting an activation token: it would have %d bytes, more than %d", len(text), MaxSize)
	}
	return Activation{text}, nil
}

// Activation is a minted token. It prints redacted; Reveal gives the text.
type Activation struct{ text string }

func (a Activation) String() string   { return "[activation token]" }
func (a Activation) GoString() string { return a.String() }

// Reveal returns the token itself: for the answer to whoever asked for it, and nothing else.
func (a Activation) Reveal() string { return a.text }

// Verify accepts exactly what Mint made with the matching key for this set: algorithm, type, issuer, audience, times.
// Its errors wrap ErrMalformed, ErrInvalid, ErrExpired or ErrNotYet.
func Verify(text string, key ed25519.PublicKey, set, kind string, now time.Time) (Claims, error) {
	if set == "" || kind == "" || len(key) != ed25519.PublicKeySize {
		return Claims{}, fmt.Errorf("%w: no set to verify it for", ErrInvalid)
	}
	if err := checkShape(text); err != nil {
		return Claims{}, err
	}
	p := payload{}
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithIssuer(set), jwt.WithAudience(kind),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithTimeFunc(func() time.Time { return now }),
		jwt.WithStrictDecoding(),
	)
	t, err := parser.ParseWithClaims(text, &p, func(*jwt.Token) (any, error) { return key, nil })
	if err != nil {
		return Claims{}, translate(err)
	}
	if err := checkHeader(t.Header); err != nil {
		return Claims{}, err
	}
	c, err := p.claims()
	if err != nil {
		return Claims{}, err
	}
	return c, nil
}

// Peek reads the claims without verifying anything: what a secondary needs before it can reach the primary. Its error is ErrMalformed.
func Peek(text string) (Claims, error) {
	if err := checkShape(text); err != nil {
		return Claims{}, err
	}
	p := payload{}
	t, _, err := jwt.NewParser(jwt.WithStrictDecoding()).ParseUnverified(text, &p)
	if err != nil {
		return Claims{}, fmt.Errorf("%w: it does not decode", ErrMalformed)
	}
	if err := checkHeader(t.Header); err != nil {
		return Claims{}, err
	}
	return p.claims()
}

// checkShape looks at length and parts before anything is decoded.
func checkShape(text string) error {
	if len(text) > MaxSize {
		return fmt.Errorf("%w: it is longer than %d bytes", ErrMalformed, MaxSize)
	}
	if strings.Count(text, ".") != 2 {
		return fmt.Errorf("%w: it has not three parts", ErrMalformed)
	}
	// The decoder of base64 skips line ends: two texts would be one token.
	if strings.ContainsFunc(text, func(r rune) bool { return !strings.ContainsRune(alphabet, r) }) {
		return fmt.Errorf("%w: it holds a character that no token has", ErrMalformed)
	}
	return nil
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

// checkHeader accepts the header that Mint writes and no other.
func checkHeader(h map[string]any) error {
	if len(h) != 2 || h["alg"] != jwt.SigningMethodEdDSA.Alg() || h["typ"] != "JWT" {
		return fmt.Errorf("%w: its header is of another kind of token", ErrMalformed)
	}
	return nil
}

// claims checks what every token has, verified or not.
func (p *payload) claims() (Claims, error) {
	id, err := hex.DecodeString(p.ID)
	ca, err2 := hex.DecodeString(p.CA)
	switch {
	case p.Type != tokenType:
		return Claims{}, fmt.Errorf("%w: its type is not %q", ErrMalformed, tokenType)
	case err != nil || len(id) != 16:
		return Claims{}, fmt.Errorf("%w: its id is not of 128 bits", ErrMalformed)
	case err2 != nil || len(ca) != 32:
		return Claims{}, fmt.Errorf("%w: its CA fingerprint is not of 256 bits", ErrMalformed)
	case p.Issuer == "" || p.Subject == "" || len(p.Audience) != 1 || p.Audience[0] == "":
		return Claims{}, fmt.Errorf("%w: issuer, subject or audience is missing", ErrMalformed)
	case p.IssuedAt == nil || p.NotBefore == nil || p.ExpiresAt == nil:
		return Claims{}, fmt.Errorf("%w: a time is missing", ErrMalformed)
	}
	c := Claims{
		ID: p.ID, Set: p.Issuer, Secondary: p.Subject, Kind: p.Audience[0], Addr: p.Addr, Epoch: p.Epoch,
		IssuedAt: p.IssuedAt.UTC(), NotBefore: p.NotBefore.UTC(), Expires: p.ExpiresAt.UTC(),
	}
	copy(c.CAHash[:], ca)
	return c, nil
}

// translate names what is wrong without any text of the token.
func translate(err error) error {
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed):
		return fmt.Errorf("%w: it does not decode", ErrMalformed)
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		return fmt.Errorf("%w: its signature is not this set's", ErrInvalid)
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return fmt.Errorf("%w: a claim is missing", ErrMalformed)
	case errors.Is(err, jwt.ErrTokenInvalidIssuer), errors.Is(err, jwt.ErrTokenInvalidAudience):
		return fmt.Errorf("%w: it was made for another set", ErrInvalid)
	case errors.Is(err, jwt.ErrTokenExpired):
		return ErrExpired
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return ErrNotYet
	}
	return ErrInvalid
}

// MarshalJSON keeps tokens out of logs and audit records.
func (a Activation) MarshalJSON() ([]byte, error) { return json.Marshal(a.String()) }
