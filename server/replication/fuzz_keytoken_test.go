package replication

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"testing"
)

// FuzzKeyToken reads any text as a public key and as a token for one: neither panics, and what was sealed is what is read.
func FuzzKeyToken(f *testing.F) {
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	good, err := sealKeyToken(key.PublicKey(), []byte("text"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE")
	f.Add(keyTokenPrefix)
	f.Fuzz(func(t *testing.T, text string) {
		_, _, _ = parsePublicKey(text)
		if out, err := unsealKeyToken(key, text); err == nil && !bytes.Equal(out, []byte("text")) {
			t.Errorf("a token that was never sealed opens as %q", out)
		}
		sealed, err := sealKeyToken(key.PublicKey(), []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if out, err := unsealKeyToken(key, sealed); len(sealed) <= maxKeyToken && (err != nil || string(out) != text) {
			t.Errorf("sealed and opened: %v", err)
		}
	})
}
