package vault

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/lockstepdb/lockstep/storage"
)

const (
	typeService = "service"
	typeBatch   = "batch"

	batchPrefix  = "hvb."
	batchSeedKey = "token/batch-seed"
	batchIssuer  = "lockstep"
	maxBatchText = 8 << 10
)

// batchKey signs and verifies the batch tokens of this cluster. It has local scope: a DR secondary verifies with it what
// its primary gave out, a performance secondary has its own.
type batchKey struct {
	seed []byte
	key  ed25519.PrivateKey
}

func newBatchKey(seed []byte) (*batchKey, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("the signing key of batch tokens has %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	return &batchKey{seed, ed25519.NewKeyFromSeed(seed)}, nil
}

// loadBatchKey returns the key, nil when no batch token was ever made.
func loadBatchKey(view *storage.View, last *snapshot) (*batchKey, error) {
	seed, ok, err := found(view.Get(private.id, []byte(batchSeedKey)))
	if err != nil || !ok {
		return nil, err
	}
	if last != nil && last.batch != nil && bytes.Equal(last.batch.seed, seed) {
		return last.batch, nil
	}
	return newBatchKey(seed)
}

func (c *Core) ensureBatchKey(ctx context.Context) (*batchKey, error) {
	seed, err := ensureSecret(ctx, c.engine, batchSeedKey)
	if err != nil {
		return nil, err
	}
	return newBatchKey(seed)
}

// batchClaims are what a batch token says: all that a service token's record does. Who holds it can read it.
type batchClaims struct {
	jwt.RegisteredClaims
	Type  string      `json:"type"`
	Entry *tokenEntry `json:"tok"`
}

// sign makes the text of a batch token.
func (k *batchKey) sign(t *tokenEntry) (string, error) {
	claims := batchClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			ID: randomText(24), Issuer: batchIssuer, IssuedAt: jwt.NewNumericDate(t.Created),
			ExpiresAt: jwt.NewNumericDate(t.Expires.Add(time.Second)), // to the second; the entry's own time is exact
		},
		Type: typeBatch, Entry: t,
	}
	text, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims).SignedString(k.key)
	if err != nil {
		return "", fmt.Errorf("sign a batch token: %w", err)
	}
	if len(text)+len(batchPrefix) > maxBatchText {
		return "", refuse(errInvalid, "the batch token would be longer than %d bytes: give it fewer policies and less meta, or make a service token", maxBatchText)
	}
	return batchPrefix + text, nil
}

// verify returns what a batch token says; ok is false for one that this cluster did not sign, or that has expired.
func (k *batchKey) verify(text string, now time.Time) (t *tokenEntry, ok bool) {
	body, ok := strings.CutPrefix(text, batchPrefix)
	if k == nil || !ok || len(text) > maxBatchText {
		return nil, false
	}
	var claims batchClaims
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithIssuer(batchIssuer), jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(func() time.Time { return now }), jwt.WithStrictDecoding(),
	)
	if strings.ContainsAny(body, "\r\n") { // skipped by the decoder: two texts would be one token
		return nil, false
	}
	_, err := parser.ParseWithClaims(body, &claims, func(*jwt.Token) (any, error) { return k.key.Public(), nil })
	if err != nil || claims.Type != typeBatch || claims.Entry == nil || claims.Entry.Expires.IsZero() {
		return nil, false
	}
	claims.Entry.batch = true
	return claims.Entry, true
}

// batchCredential returns what a batch token's text stands for, nil when it is void.
func (c *Core) batchCredential(text string) (*credential, error) {
	snap, err := c.current()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(text))
	key := batchPrefix + string(sum[:])
	snap.mu.Lock()
	cred := snap.tokens[key]
	snap.mu.Unlock()
	if cred == nil {
		entry, ok := snap.batch.verify(text, c.now())
		if !ok {
			return nil, nil
		}
		cred = &credential{entry: entry}
		if err := c.loadAncestors(snap, &cred); cred == nil || err != nil {
			return nil, err
		}
		snap.mu.Lock()
		remember(snap.tokens, key, cred)
		snap.mu.Unlock()
	}
	if cred.expired(c.now()) {
		return nil, nil
	}
	return cred, nil
}

// batchAllows tells whether a text is a batch token of this cluster, or of the primary that it mirrors, whose policies grant
// update on a path: what authorises a call on a DR secondary. Where it comes from is not known there, so a token that is
// bound to addresses, or whose right depends on parameters, authorises nothing.
func (c *Core) batchAllows(text, path string) (bool, error) {
	if !strings.HasPrefix(text, batchPrefix) {
		return false, nil
	}
	cred, err := c.batchCredential(text)
	if cred == nil || err != nil || len(cred.entry.CIDRs) > 0 {
		return false, err
	}
	snap, err := c.current()
	if err != nil {
		return false, err
	}
	a, err := c.aclOf(snap, cred.entry.Policies)
	if err != nil {
		return false, err
	}
	g := a.find(path)
	return g.caps&capUpdate != 0 && g.limits == nil, nil
}
